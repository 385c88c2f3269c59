"""The demo's publisher: a FastAPI app that sells one route on each rail, served over real HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from rail402.server.gate import Gate
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail

__all__ = ["Publisher"]


class Publisher:
    """The app and the server it runs in; all its play money is in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.app = _app(directory, self.url)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve until the block ends."""
        config = uvicorn.Config(self.app, log_level="warning", lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [self._socket]}, name="publisher")
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
            self._socket.close()


def _app(directory: Path, url: str) -> FastAPI:
    gate = Gate(
        rails=[BaseRail.sandbox(directory), LightningRail.sandbox(directory), StripeRail.sandbox(directory)],
        store=f"sqlite:///{directory}/charges.db",
        public_url=url,
    )
    app = FastAPI()
    gate.install(app)

    @app.get("/article/402")
    @gate.paid("0.003 USD", rails=["base"], description="One article")
    async def article() -> dict[str, str]:
        return {"title": "Payment Required", "text": "The status code that waited thirty years."}

    @app.get("/weather")
    @gate.paid("21 sat", rails=["lightning"], description="The weather now")
    async def weather() -> dict[str, str]:
        return {"sky": "clear", "air": "11 °C"}

    @app.get("/report")
    @gate.paid("0.50 USD", rails=["stripe"], description="A market report")
    async def report() -> dict[str, str]:
        return {"title": "The market", "text": "It went up, and it went down."}

    @app.get("/archive")
    @gate.paid("25 USD", rails=["base", "stripe"], description="The whole archive")
    async def archive() -> dict[str, str]:
        return {"text": "Everything."}

    return app
