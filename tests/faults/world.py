"""What every cell of the matrix has: a gate before one priced handler, a rail on faulty wires, and virtual time.

Two clocks go by with the event loop's time: the services' is always right, and that of the end whose wires are spoilt
is set wrong by faults.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx
from fastapi import FastAPI, HTTPException

from rail402 import Gate, Receipts
from rail402.dialects import Mpp
from rail402.errors import Rail402Error
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail, Registry
from rail402.protocol.receipt import ReceiptKeys
from rail402.rates import RateSource
from rail402.testing.faults import Call, Faults, FaultyTransport, clock_jump, named_by_path
from rail402.testing.virtual_time import VirtualClock

__all__ = ["HOST", "ONE_IN", "PATH", "URL", "Books", "World"]

HOST: Final = "shop.example"
URL: Final = f"https://{HOST}"
PATH: Final = "/thing"
ONE_IN: Final = 17
"""`World.sampled` of the worlds that have much in common with others: each fault meets other calls."""

_STARTS: Final = 4
_RECEIPT_KEY: Final = ReceiptKeys.generate()[1]
_OPEN: Final = {
    PaymentState.CLAIMED,
    PaymentState.HOLDING,
    PaymentState.HELD,
    PaymentState.SETTLING,
    PaymentState.RELEASING,
    PaymentState.REFUNDING,
    PaymentState.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Books:
    """What the rail's own books say, in atomic units: what left the payer, and what the publisher has."""

    paid: int
    received: int


class World(ABC):
    """One rail on faulty wires.

    Attributes:
        row: its row in the table.
        is_variant: another flow of a rail that has a world already.
        has_lookups: False where they are those of another world.
        buy: where the world is an agent's, what it does; see `Agent.buy`.
        known: patterns of calls that another world spoils already.
        dialect: what the payer by hand speaks.
        paid_before: the payer moves the money itself, before it shows the proof.
        sampled: of how many cells one is played, unless all are asked for.
        secrets: what no answer and no log may hold.
        calls: every call to a service, in order.
        fails: how often the handler fails first. runs: how often it succeeded.
    """

    row: ClassVar[str]
    paid_before: ClassVar[bool] = False
    sampled: ClassVar[int] = 1
    is_variant: ClassVar[bool] = False
    has_lookups: ClassVar[bool] = True
    buy: ClassVar[Any] = None
    known: ClassVar[tuple[str, ...]] = ()
    dialect: ClassVar[Dialect] = Mpp()
    price: ClassVar[str] = "0.50 USD"
    flow: ClassVar[str | None] = None
    now: ClassVar[int] = 1_800_000_000

    def __init__(self, directory: Path, faults: Faults) -> None:
        self.directory = directory
        self.right, self.clock = VirtualClock(self.now), VirtualClock(self.now)
        self.faults, self.calls = faults, list[Call]()
        self.secrets: list[str] = []
        self.fails = self.runs = 0
        self._numbers = itertools.count(1)
        self._jumped = 0
        self.rail = self.make_rail()
        self.gate = Gate(
            rails=[self.rail],
            public_url=URL,
            store="memory://",
            secret="s" * 32,
            receipt_key=_RECEIPT_KEY,
            rates=self.rates(),
            clock=self.clock if self.buy is None else self.right,
            reconcile_seconds=0,
            wait_seconds=1,
            documents=False,
        )
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.get(PATH)
        @self.gate.paid(self.price, flow=self.flow, receipt=Receipts(valid="1d"))
        async def thing() -> dict[str, int]:
            if self.fails:
                self.fails -= 1
                raise HTTPException(500, "the handler failed")
            self.runs += 1
            return {"run": self.runs}

        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=URL)

    # --- what a rail's world says

    @abstractmethod
    def make_rail(self) -> PaymentRail:
        """Make the rail, on wires of `wire`."""

    @abstractmethod
    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        """Return a proof as an honest payer makes it, whose own wires are sound."""

    @abstractmethod
    async def books(self) -> Books:
        """Count the money."""

    def rates(self) -> RateSource | None:
        """Where rates come from."""
        return None

    async def tick(self) -> None:
        """Let the services notice that time has passed."""

    async def nudge(self) -> None:
        """Tell the gate what happened, as services do that call back; nothing may come of it that would not anyway."""

    async def leftovers(self) -> Sequence[str]:
        """Say what a service still has when all is over, and should not."""
        return ()

    async def close(self) -> None:
        """Close what `make_rail` opened besides the rail."""

    # --- wires and clocks

    def wire(self, inner: httpx.AsyncBaseTransport, **options: Any) -> FaultyTransport:
        """Put faults before a service."""
        options = {"named": named_by_path, "jump": self.jump} | options
        made = FaultyTransport(inner, self.faults, **options)
        made.calls = self.calls
        return made

    def jump(self, seconds: int) -> None:
        """Set the clock wrong."""
        self._jumped += seconds
        self.clock.jump(seconds)

    @property
    def is_wrong(self) -> bool:
        """Whether the clock was set wrong."""
        return self._jumped != 0

    def heal(self) -> None:
        """Let nothing go wrong any more, and set the clock right."""
        self.faults.clear()
        self.jump(-self._jumped)

    async def open(self) -> None:
        """Open the gate, as often as it takes."""
        for _ in range(_STARTS):
            try:
                await self.gate.start()
            except Rail402Error:
                await asyncio.sleep(61)
            else:
                return
        self.heal()
        await self.gate.start()

    # --- a payer by hand

    def context(self) -> Context:
        return Context(specs=Registry([self.rail.spec]), now=self.right(), realm=HOST)

    async def ask(self) -> httpx.Response:
        return await self.http.get(PATH)

    def offers(self, response: httpx.Response) -> Sequence[Offer]:
        return self.dialect.offers(Fields(response.headers.multi_items()), response.content, self.context())

    async def show(self, offer: Offer, payload: Mapping[str, Any]) -> httpx.Response:
        return await self.http.get(PATH, headers=self.proof(offer, payload))

    def proof(self, offer: Offer, payload: Mapping[str, Any]) -> dict[str, str]:
        return dict(self.dialect.credential(offer, dict(payload), self.context()))

    def record_id(self) -> str:
        return f"rec_{next(self._numbers)}"

    # --- what the gate knows

    async def charges(self) -> list[Charge]:
        return list(await self.gate.services().store.recent(limit=20))

    async def open_charges(self) -> list[Charge]:
        return [each for each in await self.charges() if each.payment in _OPEN or each.delivery is Delivery.RUNNING]


JUMPS: Final = tuple(clock_jump(seconds) for seconds in (90, -90, 7200, -7200))
