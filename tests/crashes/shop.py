"""The server's process: one paid route, or one paid tool, behind a real gate and a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rail402 import Gate, Receipts
from rail402.protocol.charge import Delivery, PaymentState
from rail402_lightning.refunds import REFUND_PATH
from tests.crashes.processes import RECONCILE, listen
from tests.crashes.scenarios import PASS_VALID, PRICES
from tests.crashes.steps import Steps, watch_shop
from tests.crashes.tools import app_with_tool, run_of
from tests.crashes.world import TOOLS, World

__all__ = ["GRANT", "REFUND", "serve"]

GRANT: Final = "/-/grant"
"""POSTed to, the seller refunds what was paid for nothing."""

REFUND: Final = f"/.well-known/rail402/{REFUND_PATH}"

_KEY: Final = {"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}
_KEY_X: Final = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"  # RFC 8037, appendix A


def serve(world: World, kill_at: int) -> None:
    """Live until killed, at the latest at step `kill_at`."""
    steps = Steps(world.path / "server.steps", kill_at)
    scenario = world.scenario
    rail = world.bank.rail(world.clock, refunds=scenario.never_serves)
    watch_shop(steps, rail)
    gate = Gate(
        rails=[rail],
        store=world.store,
        public_url=world.origin,
        secret="of this test, 32 bytes and a few more",
        receipt_key=_KEY | {"x": _KEY_X, "kid": "test"},
        clock=world.clock,
        reconcile_seconds=0,
        wait_seconds=0,
        documents=False,
    )
    app = FastAPI() if scenario.via == "http" else app_with_tool(world, gate, steps)
    gate.install(app)

    @app.get("/goods")
    @gate.paid(
        PRICES[scenario.bank],
        flow=scenario.flow,
        receipt=Receipts(PASS_VALID, scenario.uses) if scenario.uses > 1 else None,
    )
    async def goods(request: Request) -> Response:
        with run_of(world, gate.charge(request), steps) as (ending, text):
            return _end(ending, text)

    @app.post(RECONCILE)
    async def reconcile() -> dict[str, int]:
        return {"closed": await gate.reconcile()}

    @app.post(GRANT)
    async def grant() -> dict[str, int]:
        charges = await gate.services().store.recent(limit=100)
        paid = [each for each in charges if each.payment is PaymentState.SETTLED]
        owed = [each.id for each in paid if each.delivery is Delivery.FAILED]
        return {"granted": len([await gate.refund(charge) for charge in owed])}

    listen(app, world.port, steps, {"/goods", TOOLS, REFUND})


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
