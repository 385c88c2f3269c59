"""One purchase while something goes wrong, played to its end, and all that must hold then.

The steps are the same in every cell: open the gate, ask, pay, show the payment, show it again at once, let time pass
and the reconciler run until nothing is open, show it again, and count.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import httpx

from rail402.errors import PaymentFailed, RailUnavailable
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.offer import Offer
from rail402.stores.connections import ConnectionThreads
from rail402.testing.faults import ANSWER_LOST, Call, Fault, Faults
from rail402.testing.virtual_time import VirtualTimeLoop
from tests.faults.world import Books, World

__all__ = ["NOT_PAID", "OUTCOMES", "SETTLED", "UNKNOWN_NOT_PAID", "UNKNOWN_SETTLED", "Cell", "Played", "play"]

SETTLED, NOT_PAID = "settled", "not paid"
UNKNOWN_SETTLED, UNKNOWN_NOT_PAID = "unknown → settled", "unknown → not paid"
OUTCOMES: Final = (SETTLED, NOT_PAID, UNKNOWN_SETTLED, UNKNOWN_NOT_PAID)

_ROUNDS: Final = 60
_FIELDS: Final = ("www-authenticate", "payment-required")
_TRIES: Final = 4
_LONGEST: Final = 500_000
_MOST_WRONG: Final = 7300


@dataclass(frozen=True, slots=True)
class Cell:
    """What goes wrong.

    Attributes:
        fault: spoils the `nth` call; where `is_lasting`, all from that one on until the payment was shown twice.
        handler_fails: the handler fails at first.
        is_second: something was bought before, when all was well; `nth` counts from there.
        outage: from which call on every answer is lost until the payment was shown twice; `nth` counts from there.
        seed, rate, among: what goes wrong at random until the end; see `Faults`.
    """

    fault: Fault | None = None
    nth: int = 1
    is_lasting: bool = False
    handler_fails: bool = False
    is_second: bool = False
    outage: int | None = None
    seed: int = 0
    rate: float = 0.0
    among: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        story = "failing handler, " if self.handler_fails else ""
        story = f"second {story}" if self.is_second else story
        outage = f"after an outage from call {self.outage} on, " if self.outage else ""
        lasting = " and all after it" if self.is_lasting else ""
        return f"{story}{outage}call {self.nth}{lasting}: {self.fault}"


@dataclass(slots=True)
class Played:
    """What came of it, and what does not hold.

    Attributes:
        calls: those that were made; `asked` of them until there was an offer, `shown` until the payment was shown
            twice, `until` all is healed; `before` of them before what the cell says goes wrong.
    """

    outcome: str = NOT_PAID
    calls: list[Call] = field(default_factory=list)
    asked: int = 0
    shown: int = 0
    until: int = 0
    before: int = 0
    problems: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def play(make: Callable[[Path, Faults], World], directory: Path, cell: Cell) -> Played:
    """Play a cell."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_play(make, directory, cell))


async def _play(make: Callable[[Path, Faults], World], directory: Path, cell: Cell) -> Played:
    # Where an answer repeats what was sent, all that anybody would ever log is looked through.
    with _logged(with_debug=cell.fault is None or "page" in cell.fault.name or "500" in cell.fault.name) as log:
        world = make(directory, Faults(seed=cell.seed, rate=cell.rate, among=cell.among))
        played = Played(calls=world.calls)
        try:
            async with asyncio.timeout(_LONGEST):
                await (_Sale(world, cell, played).run() if world.buy is None else world.buy(cell, played))
        finally:
            await world.gate.close()
            await world.http.aclose()
            await world.close()
    played.log = log
    for secret in world.secrets:
        if said := [line for line in log if secret in line]:
            played.problems.append(f"a secret is in the log: {secret[:4]}…: {said[0][:300]}")
    return played


class _Sale:
    """What the publisher sees."""

    def __init__(self, world: World, cell: Cell, played: Played) -> None:
        self.world, self.cell, self.played = world, cell, played
        self.goods: list[bytes] = []
        self._price = 0
        self._had, self._known = Books(0, 0), set[str]()
        self.was_unknown = False
        self.told_to_pay_again = False

    def problem(self, text: str) -> None:
        self.played.problems.append(text)

    async def run(self) -> None:
        world, cell = self.world, self.cell
        if cell.is_second:
            await self._buy_before()
        if cell.outage is not None:
            world.faults.on(ANSWER_LOST, nth=cell.outage, times=None)
        else:
            self._spoil()
        await world.open()
        world.fails = int(self.cell.handler_fails)
        found = await self._buy()
        if found is None:
            self.problem("nobody could ever pay")
            return
        offer, payload = found
        self._price = offer.amount
        self.world.secrets += [str(value) for name, value in payload.items() if name in ("preimage", "spt")]
        first = await self._show(offer, payload)
        await world.nudge()
        await self._show(offer, payload)
        self.played.outcome = SETTLED if first.status_code == 200 else NOT_PAID
        self.played.shown = len(self.played.calls)
        if cell.is_lasting or cell.outage is not None:
            world.heal()
        if cell.outage is not None:
            self.played.before = self.played.shown
            self._spoil()
        await self._pass_time()
        with suppress(RailUnavailable):
            await world.rail.health()
        await self._show(offer, payload)
        self.played.until = len(self.played.calls)
        world.heal()
        await self._pass_time()
        if left := await world.open_charges():
            self.problem(f"still open: {[(each.payment, each.delivery) for each in left]}")
        if first.status_code != 200 and self.was_unknown:
            taken = any(each.payment is PaymentState.SETTLED for each in await self._charges())
            self.played.outcome = UNKNOWN_SETTLED if taken else UNKNOWN_NOT_PAID
        last = await self._show(offer, payload)
        if last.status_code in (409, 503):  # leases and offers of a clock that was two hours ahead
            await asyncio.sleep(_MOST_WRONG)
        last = await self._show(offer, payload)
        await self._count(last)

    async def _buy_before(self) -> None:
        await self.world.open()
        found = await self._buy()
        assert found is not None
        assert (await self.world.show(*found)).status_code == 200
        self._had, self._known = await self.world.books(), {each.id for each in await self.world.charges()}
        self.world.runs, self.played.before = 0, len(self.played.calls)

    async def _books(self) -> Books:
        books = await self.world.books()
        return Books(books.paid - self._had.paid, books.received - self._had.received)

    async def _charges(self) -> list[Charge]:
        return [each for each in await self.world.charges() if each.id not in self._known]

    def _spoil(self) -> None:
        if self.cell.fault is not None:
            times = None if self.cell.is_lasting else 1
            self.world.faults.on(self.cell.fault, nth=self.cell.nth, times=times)

    async def _buy(self) -> tuple[Offer, Mapping[str, Any]] | None:
        """Ask for an offer and pay it; an honest payer does not pay one that has expired by its own clock."""
        for number in range(2 * _TRIES):
            if number == _TRIES:
                self.world.heal()
            response = await self.world.ask()
            self._check(response)
            if response.status_code == 402 and (offers := self.world.offers(response)):
                self.played.asked = len(self.played.calls)
                with suppress(PaymentFailed):
                    return offers[0], await self.world.pay(offers[0])
            await asyncio.sleep(61)
        return None

    async def _show(self, offer: Offer, payload: Any) -> httpx.Response:
        response = await self.world.show(offer, payload)
        charges = await self._charges()
        self.was_unknown |= any(each.payment is PaymentState.UNKNOWN for each in charges)
        self._check(response)
        given_up = {each.payment for each in charges} <= {PaymentState.RELEASED, PaymentState.REJECTED}
        if given_up and not self.world.paid_before and (await self._books()).received:
            self.problem("the money is there, and no charge would find it unless its payer comes again")
        if response.status_code == 200:
            self.goods.append(response.content)
            if (await self._books()).received != self._price:
                self.problem("it was served, and the money is not there")
        elif response.status_code == 402 and any(name in response.headers for name in _FIELDS):
            self.told_to_pay_again = True
            if open_ones := [each.payment for each in charges if each.payment is PaymentState.UNKNOWN]:
                self.problem(f"a fresh challenge, while it is {open_ones}")
            if (await self._books()).paid and not self.world.is_wrong:
                self.problem("a fresh challenge for what is paid")
        return response

    def _check(self, response: httpx.Response) -> None:
        may_fail = self.cell.handler_fails and b"handler failed" in response.content
        if response.status_code not in (200, 402, 409, 503) and not (response.status_code == 500 and may_fail):
            self.problem(f"answered {response.status_code}: {response.text[:200]}")
        if response.status_code == 503 and "retry-after" not in response.headers:
            self.problem(f"503 without Retry-After: {response.text[:200]}")
        said = response.text + str(response.headers)
        for secret in self.world.secrets:
            if secret in said:
                self.problem(f"a secret is in an answer: {secret[:4]}…")

    async def _pass_time(self) -> None:
        """Run the reconciler until nothing is open."""
        for _ in range(_ROUNDS):
            await self.world.tick()
            await self.world.nudge()
            await self.world.gate.reconcile()
            self.was_unknown |= any(each.payment is PaymentState.UNKNOWN for each in await self._charges())
            if not await self.world.open_charges():
                return
            await asyncio.sleep(61)

    async def _count(self, last: httpx.Response) -> None:
        world, books = self.world, await self._books()
        if len(set(self.goods)) > 1:
            self.problem(f"served differently: {set(self.goods)}")
        served = self._price if self.goods else 0
        if world.paid_before and books.paid and not self.goods:
            self.problem(f"paid and never served: {last.status_code} {last.text[:200]}")
        if books != Books(served, served):
            self.problem(f"{books}, and served for {served}")
        for left in await world.leftovers():
            self.problem(left)
        if self.goods and last.status_code != 200:
            self.problem(f"served once, and then answered {last.status_code}: {last.text[:200]}")
        attempts = sum(each.attempt + each.reruns for each in await self._charges())
        if world.runs > attempts:
            self.problem(f"the handler succeeded {world.runs} times in {attempts} attempts")


@contextmanager
def _logged(*, with_debug: bool) -> Iterator[list[str]]:
    """Collect all that is logged, tracebacks included, and let the time stand still while threads work."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    run = ConnectionThreads.run

    async def held(self: ConnectionThreads, operation: Any) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.held():
            return await run(self, operation)

    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    root.handlers = [Lines()]
    root.setLevel(logging.DEBUG if with_debug else logging.INFO)
    try:
        # No wire here is encrypted, and loading all certificates takes longer than a purchase.
        with mock.patch.object(ConnectionThreads, "run", held), mock.patch("ssl.create_default_context", _no_tls):
            yield lines
    finally:
        root.handlers = handlers
        root.setLevel(level)


def _no_tls(*_: object, **__: object) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
