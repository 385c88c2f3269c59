"""What `gate.install` puts around an app: start and stop, and the discovery addresses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rail402.errors import Rail402Error
from rail402.server.paywall import App
from rail402.server.request import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from rail402.server.gate import Gate

__all__ = ["DISCOVERY", "GateMiddleware"]

DISCOVERY = "/.well-known/rail402/"

_OVER = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class GateMiddleware:
    """Starts and stops the gate with the app, and answers its discovery addresses. Other requests pass untouched."""

    def __init__(self, app: App, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if not self._gate.started:
            await self._gate.start()
        if scope["type"] == "http" and scope["path"].startswith(DISCOVERY):
            await self._discovery(scope, send)
        else:
            await self._app(scope, receive, send)

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

    async def _discovery(self, scope: Scope, send: Send) -> None:
        found = scope["path"] == DISCOVERY + "jwks.json" and scope["method"] in ("GET", "HEAD")
        jwks = self._gate.services().receipt_keys.jwks if found else {"error": "not found"}
        content = json.dumps(jwks).encode()
        headers = [
            (b"content-type", b"application/jwk-set+json" if found else b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"public, max-age=300" if found else b"no-store"),
            (b"access-control-allow-origin", b"*"),
        ]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": content})
