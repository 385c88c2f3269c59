"""What commands have in common that serve until they are told to stop."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import typer

from rail402.cli.exit_codes import ExitCode

__all__ = ["listening", "serve", "set_logging", "url_of"]


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address; where that cannot be, say so and end the command."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.create_server((host, port), family=family)
    except OSError as error:
        typer.echo(f"rail402: cannot listen at {host}:{port}: {error.strerror or error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    with found:
        # asyncio does not see that a socket of this origin is TCP, and would let an answer's second half wait 40 ms.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield found


def url_of(found: socket.socket) -> str:
    """Return the address of a listening socket."""
    host, port, *_ = found.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    app: Any,
    found: socket.socket,
    *,
    opened: AbstractAsyncContextManager[Any],
    announce: Callable[[], None],
    **settings: Any,
) -> None:
    """Serve an ASGI app until the process is told to stop (SIGTERM, Ctrl-C); then finish what is under way.

    Args:
        opened: what the app needs, open while it serves.
        announce: called once it is, to say where.
        settings: of `uvicorn.Config`.
    """
    import uvicorn  # which other commands do not need

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Leave signals to us: uvicorn would raise them again, before the app is closed."""
            yield

    quiet: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False}
    server = Server(uvicorn.Config(app, timeout_graceful_shutdown=30, **quiet, **settings))

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    async with opened:
        announce()
        await server.serve(sockets=[found])


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def set_logging(*, as_json: bool) -> None:
    """Log to standard error, in text or one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    for name, level in (("rail402", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
