"""Refunds on Lightning, which go to an invoice that the payer presents: the wires to what pays them are spoilt.

All is well when the thing is bought. Then its seller grants the refund, and its payer asks until it has the money; it
presents the same invoice until that has expired. However often it asks, it is paid once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import httpx

from rail402.errors import RailUnavailable
from rail402.protocol.charge import PaymentState
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail
from rail402_lightning import LightningRail
from rail402_lightning.backends import Sender
from rail402_lightning.backends.lnd import LndReceiver, LndSender
from rail402_lightning.backends.phoenixd import PhoenixdSender
from rail402_lightning.refunds import REFUND_DEADLINE, REFUND_PATH, Refunding
from tests.faults.lightning_services import LndService
from tests.faults.playing import NOT_PAID, SETTLED, UNKNOWN_SETTLED, Cell, Played
from tests.faults.world import ONE_IN, Books
from tests.faults.worlds import Lightning
from tests.unit.rail402_lightning.backends import fake_phoenixd
from tests.unit.rail402_lightning.backends.fake_lnd import PAYING, RECEIVING
from tests.unit.rail402_lightning.backends.fake_phoenixd import FakePhoenixd

__all__ = ["REFUNDS"]

_PRICE: Final = 21_000
_TRIES: Final = 40
_INVOICE_SECONDS: Final = 600


class LndRefunds(Lightning):
    """An lnd pays them."""

    row = "Lightning, refunds by lnd"
    sampled = ONE_IN
    _was_unknown = False

    def make_rail(self) -> PaymentRail:
        self.open_node()
        self.secrets += [RECEIVING.hex(), PAYING.hex()]
        receiver = LndReceiver("https://lnd.example:8080", RECEIVING, transport=LndService(self.node))
        rail = LightningRail(receiver, network="regtest")
        return rail.with_refunds(Refunding(self.sender(), max_fee_sat=7, clock=self.clock))

    def sender(self) -> Sender:
        wire = self.wire(LndService(self.node))
        url = "https://lnd.example:8080"
        return LndSender(url, PAYING, network="regtest", deadline=REFUND_DEADLINE, transport=wire)

    async def buy(self, cell: Cell, played: Played) -> None:
        """Buy, and have the money given back, whatever goes wrong then."""
        if cell.fault is not None:
            self.faults.on(cell.fault, nth=cell.nth, times=None if cell.is_lasting else 1)
        await self.open()
        (offer, *_) = self.offers(await self.ask())
        payload = await self.pay(offer)
        self.secrets.append(str(payload["preimage"]))
        assert (await self.show(offer, payload)).status_code == 200
        (charge,) = await self.charges()
        await self.gate.refund(charge.id)
        answers = await self._fetch(offer, payload, played)
        if answers[-1] != 200:
            played.problems.append(f"never paid back: {answers}")
        played.outcome = SETTLED if answers[0] == 200 else UNKNOWN_SETTLED if self._was_unknown else NOT_PAID
        # The payer's invoices are the node's own: to pay one back is to pay it once more.
        if (books := await self.books()) != Books(2 * _PRICE, 2 * _PRICE):
            played.problems.append(f"{books}, and {_PRICE} were to be paid back once")
        with suppress(RailUnavailable):
            await self.rail.health()

    async def _fetch(self, offer: Offer, payload: Mapping[str, Any], played: Played) -> list[int]:
        """Ask for the money until it is there; return the answers."""
        answers: list[int] = []
        text, until = "", 0
        for number in range(_TRIES):
            if number == 2:
                played.shown = len(self.calls)
                self.heal()
            if self.right() >= until:
                text, until = await self.node.create_invoice(_PRICE, expiry_seconds=_INVOICE_SECONDS), self.right()
                until += _INVOICE_SECONDS
            response = await self._ask_back(offer, {"preimage": payload["preimage"], "invoice": text})
            answers.append(response.status_code)
            if any(secret in response.text for secret in self.secrets):
                played.problems.append("a secret is in an answer")
            # While the rail's clock is ahead, an invoice looks as if it had expired.
            if response.status_code not in (200, 402, 409, 503, 400 if self.is_wrong else 503):
                played.problems.append(f"answered {response.status_code}: {response.text[:200]}")
            if response.status_code == 200:
                break
            await asyncio.sleep(61)
            self._was_unknown |= (await self.charges())[0].payment is PaymentState.UNKNOWN
            await self.gate.reconcile()
        played.shown = played.until = played.shown or len(self.calls)
        return answers

    async def _ask_back(self, offer: Offer, asked: Mapping[str, Any]) -> httpx.Response:
        headers = self.proof(offer, {"preimage": asked["preimage"]}) | {"Content-Type": "application/json"}
        return await self.http.post(f"/.well-known/rail402/{REFUND_PATH}", content=json.dumps(asked), headers=headers)


class PhoenixdRefunds(LndRefunds):
    """A phoenixd pays them."""

    row = "Lightning, refunds by phoenixd"

    def sender(self) -> Sender:
        self.secrets.append(fake_phoenixd.FULL)
        fake = FakePhoenixd(self.directory, clock=self.right)
        fake.ledger = self.node
        wire = self.wire(fake.transport)
        return PhoenixdSender(fake_phoenixd.URL, fake_phoenixd.FULL, deadline=REFUND_DEADLINE, transport=wire)


REFUNDS: Final = (LndRefunds, PhoenixdRefunds)
