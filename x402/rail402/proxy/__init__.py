"""A gate in front of any HTTP service: a reverse proxy whose routes stand in `rail402.toml`.

`paths` says what a request costs, `fields` which header fields go up and down, `forwarder` asks the upstream, `app`
puts them behind a `Gate`, and `toml` reads the file.
"""
