"""A Redis that keeps nothing on the disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services import install_root, installed
from tests.services.processes import free_ports, running

__all__ = ["RedisServer", "missing", "redis_server"]


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running server; tests tell their keys apart by prefixes of their own."""

    url: str


def missing() -> str | None:
    """Why there is none and what to do about it; None if there is one."""
    if os.environ.get("RAIL402_TEST_REDIS_URL") or (installed("redis") and _program().exists()):
        return None
    return "Redis is not installed: run .ci/run install"


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    """The server at `RAIL402_TEST_REDIS_URL`, or one of our own on a free loopback port, its log in `directory`."""
    url = os.environ.get("RAIL402_TEST_REDIS_URL")
    if url:
        yield RedisServer(url)
        return
    (port,) = free_ports(1)
    command = [str(_program()), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with running("redis", command, directory) as process:
        process.wait_until("PONG", lambda: _answers(port))
        yield RedisServer(f"redis://127.0.0.1:{port}/0")


def _program() -> Path:
    return install_root() / "redis" / "redis-server"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
