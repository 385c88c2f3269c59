"""USDC on a real EVM through a facilitator of ours, which is a process that dies as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rail402.clock import Clock
from rail402.facilitator.app import facilitator_app
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import Facilitator
from rail402.protocol.rail import PaymentRail
from rail402_base import BaseRail
from rail402_base.tokens import BASE_SEPOLIA_USDC
from tests.crashes.banks import Anvil
from tests.crashes.processes import RECONCILE, bound, listen
from tests.crashes.steps import Steps, watch_shop
from tests.services.processes import free_ports

if TYPE_CHECKING:
    from tests.crashes.world import World

__all__ = ["Facilitated", "facilitate"]


class Facilitated(Anvil):
    """The shop asks the facilitator, and looks at the chain itself."""

    def __init__(self, path: Path, where: Mapping[str, Any]) -> None:
        super().__init__(path, where)
        self.claim = bound(free_ports(1)[0])
        self.port: int = self.claim.getsockname()[1]

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        address, payee = f"http://127.0.0.1:{self.port}", self.payee.address
        return BaseRail.facilitator(address, self.evm.url, pay_to=payee, token=BASE_SEPOLIA_USDC, clock=clock)

    def relaying(self, clock: Clock) -> PaymentRail:
        """What the facilitator takes."""
        return super().rail(clock, refunds=False)


def facilitate(world: World, kill_at: int) -> None:
    """Live as the facilitator until killed, at the latest at step `kill_at`."""
    steps, bank = Steps(world.path / "facilitator.steps", kill_at), world.bank
    assert isinstance(bank, Facilitated)
    rail = bank.relaying(world.clock)
    watch_shop(steps, rail)
    settings = FacilitatorSettings(pay_to=(bank.payee.address,), reconcile_seconds=0, wait_seconds=5)
    store = f"sqlite:///{world.path / 'facilitator.db'}"
    facilitator = Facilitator([rail], store=store, settings=settings, clock=world.clock)
    app = facilitator_app(facilitator)

    async def reconcile(request: Request) -> Response:
        return JSONResponse({"closed": await facilitator.reconcile()})

    app.router.routes.append(Route(RECONCILE, reconcile, methods=["POST"]))
    listen(app, bank.port, steps, {"/verify", "/settle"})
