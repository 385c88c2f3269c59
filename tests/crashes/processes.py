"""Forks of this process: a child with everything imported lives within milliseconds."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from fastapi import FastAPI
from mcp.client import Client
from mcp.server import MCPServer

__all__ = ["RECONCILE", "Child", "bound", "listen", "start_log", "warm_up"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Any, Send], Awaitable[None]]

RECONCILE: Final = "/-/reconcile"
"""POSTed to, the reconciler of a server runs once."""

_LONGEST: Final = 60
"""Seconds of real time after which a child that should have ended hangs."""


class Child:
    """A forked process that runs `work`, then ends.

    Args:
        log: what it prints is added there.
    """

    def __init__(self, work: Callable[[], None], log: Path) -> None:
        self._status: int | None = None
        self._began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(work, log)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    @property
    def was_killed(self) -> bool:
        """Whether it died at its step."""
        return self.ended and self._status is not None and os.WIFSIGNALED(self._status)

    @property
    def has_failed(self) -> bool:
        """Whether it ended by an error of its own, or does not end."""
        if not self.ended:
            return time.monotonic() - self._began > _LONGEST
        return not self.was_killed and self._status != 0

    def kill(self) -> None:
        """End it now."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            _, self._status = os.waitpid(self.pid, 0)


def bound(port: int) -> socket.socket:
    """A socket at that port, which does not listen yet; the port may have several of them."""
    claim = socket.socket()
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    claim.bind(("127.0.0.1", port))
    return claim


def listen(app: App, port: int, step: Callable[[str], None], paths: Collection[str]) -> None:
    """Serve an app until killed; each message that leaves from one of these paths is a step."""

    async def watched(scope: Message, receive: Any, send: Send) -> None:
        async def sending(message: Message) -> None:
            what = f"{message['type']} {message.get('status', '')}".strip()
            step(f"before {what}")
            await send(message)
            step(f"after {what}")

        await app(scope, receive, sending if scope.get("path") in paths else send)

    start_log()
    config = uvicorn.Config(watched, log_level="warning", access_log=False, loop="asyncio")
    uvicorn.Server(config).run(sockets=[bound(port)])


def start_log() -> None:
    """Have a process say what it does, on what its standard error is."""
    form = "%(name)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, force=True)  # the SDK of MCP has set its own
    for quiet in ("httpx", "httpx2", "mcp"):
        logging.getLogger(quiet).setLevel(logging.WARNING)


def warm_up() -> None:
    """Import what libraries import when they are first used, so that no child does it again."""
    app = FastAPI()

    server = MCPServer("warm", log_level="ERROR")

    @app.get("/")
    @server.tool()
    async def nothing() -> None: ...

    uvicorn.Config(app, lifespan="on").load()

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://warm.test") as client:
            await client.get("/")
        await httpx.AsyncHTTPTransport().aclose()
        async with Client(server) as client:
            await client.call_tool("nothing")
        # Nothing listens there: connections and their errors are loaded too.
        async with httpx.AsyncClient(trust_env=False) as client:
            with suppress(httpx.TransportError):
                await client.get("http://127.0.0.1:9/")

    asyncio.run(ask())


def _become(work: Callable[[], None], log: Path) -> None:
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a child must never go on with its parent's work
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
