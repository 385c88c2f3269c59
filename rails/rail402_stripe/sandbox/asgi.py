"""The ASGI face: any server can serve a sandbox over a port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rail402_stripe.sandbox.exchange import MAX_BODY, AnswerLost, Request, joined_headers
from rail402_stripe.sandbox.exchange import Response as Answer

__all__ = ["Receive", "Scope", "Send", "serve_http", "serve_lifespan"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def serve_http(
    handle: Callable[[Request], Awaitable[Answer]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer one request. A client whose answer is lost hears nothing until it gives up."""
    body = await _read_body(receive)
    if body is None:
        return
    request = Request(scope["method"], scope["path"], scope["query_string"], joined_headers(scope["headers"]), body)
    try:
        answer = await handle(request)
    except AnswerLost:
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, cut once it is too long; None if the client left before it was complete."""
    body = bytearray()
    while len(body) <= MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


async def serve_lifespan(
    receive: Receive, send: Send, *, startup: Callable[[], None], shutdown: Callable[[], None]
) -> None:
    """Run `startup` and `shutdown` when the server says so."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            startup()
            await send({"type": "lifespan.startup.complete"})
        else:
            shutdown()
            await send({"type": "lifespan.shutdown.complete"})
            return
