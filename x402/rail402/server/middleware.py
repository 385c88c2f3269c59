"""What `gate.install` puts around an app: start and stop, the discovery addresses and documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rail402.errors import Rail402Error
from rail402.protocol.endpoint import DISCOVERY
from rail402.protocol.offer_receipt import DID_DOCUMENT
from rail402.server.paywall import App
from rail402.server.request import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from rail402.server.gate import Gate

__all__ = ["GateMiddleware"]

_OVER = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class GateMiddleware:
    """Starts and stops the gate with the app, and answers its discovery addresses, and its documents where the app has
    none. Other requests pass untouched."""

    def __init__(self, app: App, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if not self._gate.started:
            await self._gate.start()
        if scope["type"] == "http" and self._is_discovery(scope["path"]):
            await self._gate.discovery(scope, receive, send)
        elif scope["type"] == "http" and self._gate.documents is not None and scope["path"] in self._gate.documents:
            await self._gate.documents.serve(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_discovery(self, path: str) -> bool:
        return path.startswith(DISCOVERY) or (path == DID_DOCUMENT and self._gate.services().did is not None)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def starting() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start(send)
            return message

        async def stopping(message: Message) -> None:
            if message["type"] in _OVER:
                await self._gate.close()
            await send(message)

        await self._app(scope, starting, stopping)

    async def _start(self, send: Send) -> None:
        try:
            await self._gate.start()
        except Rail402Error as error:  # without this word, servers take it that there is no lifespan, and go on
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
