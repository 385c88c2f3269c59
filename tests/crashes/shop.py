"""The server's process: one paid route behind a real gate and a real port."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rail402 import Gate
from tests.crashes.scenarios import PRICES
from tests.crashes.steps import Steps, watch_shop
from tests.crashes.world import World, bound, lines, note

__all__ = ["RECONCILE", "serve"]

RECONCILE: Final = "/-/reconcile"
"""POSTed to, the reconciler runs once."""

_KEY: Final = {"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}
_KEY_X: Final = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"  # RFC 8037, appendix A

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


def serve(world: World, kill_at: int) -> None:
    """Live until killed, at the latest at step `kill_at`."""
    steps = Steps(world.path / "server.steps", kill_at)
    rail = world.bank.rail(world.clock)
    watch_shop(steps, rail)
    gate = Gate(
        rails=[rail],
        store=f"sqlite:///{world.store}",
        public_url=world.origin,
        secret="of this test, 32 bytes and a few more",
        receipt_key=_KEY | {"x": _KEY_X, "kid": "test"},
        clock=world.clock,
        reconcile_seconds=0,
        wait_seconds=0,
        documents=False,
    )
    app = FastAPI()
    gate.install(app)

    @app.get("/goods")
    @gate.paid(PRICES[world.scenario.bank], flow=world.scenario.flow)
    async def goods(request: Request) -> Response:
        charge = gate.charge(request)
        assert charge is not None
        note(world.runs, charge.id)
        steps("the handler has begun")
        run = len(lines(world.runs))
        endings = world.scenario.handler
        try:
            return _end(endings[min(run, len(endings)) - 1], f"run {run} of {charge.id}")
        finally:
            steps("the handler has ended")

    @app.post(RECONCILE)
    async def reconcile() -> dict[str, int]:
        return {"closed": await gate.reconcile()}

    async def watched(scope: Message, receive: Any, send: Send) -> None:
        async def sending(message: Message) -> None:
            what = f"{message['type']} {message.get('status', '')}".strip()
            steps(f"before {what}")
            await send(message)
            steps(f"after {what}")

        await app(scope, receive, sending if scope.get("path") == "/goods" else send)

    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config = uvicorn.Config(watched, log_level="warning", access_log=False, loop="asyncio")
    uvicorn.Server(config).run(sockets=[bound(world.port)])


def _end(ending: str, text: str) -> Response:
    match ending:
        case "fails":
            return JSONResponse({"error": "out of goods"}, 500)
        case "raises":
            raise RuntimeError("the handler is broken")
        case "stream":
            return StreamingResponse(_pieces(text))
        case _:
            return Response(text)


async def _pieces(text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        yield word if word.startswith("ch_") else f"{word} "
