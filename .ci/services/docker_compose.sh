# docker-compose as Debian 12 has it, which reads a Compose file without Docker. In an environment of its own, without
# looking at what it asks for: that is the PyYAML of its time, which does not compile any more. Debian's runs with 6 too.

docker_compose_version() {
    local python
    python=$(find_python 10 13)
    printf '%s %s' "$python" "$(fingerprint .ci/docker-compose/requirements.txt .ci/services/docker_compose.sh)"
}

docker_compose_install() {
    local python
    python=$(find_python 10 13)
    quietly "$python" -m venv "$1"
    quietly "$1/bin/python" -m pip install --no-deps --requirement .ci/docker-compose/requirements.txt
    quietly "$1/bin/docker-compose" --file docker-compose.lightning.yml config
}
