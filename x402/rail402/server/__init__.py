"""The server's end: a gate in front of the routes that cost something. `rail402` has its public names.

Nothing is imported here: tools that read a store need no web framework.
"""
