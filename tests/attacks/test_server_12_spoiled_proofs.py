"""12: while nobody says what became of a payment, its proof comes again with something else of it spoiled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate
from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS, dialect_by_name
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.outcome import Unknown
from rail402.protocol.payment import Payment
from rail402.protocol.rail import PaymentRail, Registry, Wallet
from rail402.testing.fakes import FakeClock
from rail402_base import BaseRail, BaseTransferWallet, BaseWallet, Transfers
from rail402_lightning import LightningRail, LightningWallet
from rail402_stripe import CustomerSecretWallet, SavedCustomer, StripeRail, StripeWallet
from tests.attacks.cases import Observe
from tests.unit.server.spoiled import BESIDE, WAYS, Lines

URL = "http://testserver"
SECRET = "customer-secret-0123456789"
PRICES = {
    "base": "0.003 USD",
    "transfer": "0.003 USD",
    "lightning": "21 sat",
    "stripe": "0.50 USD",
    "customer": "0.50 USD",
}
PAID = [
    *(("base", name) for name in ("x402-v2", "mpp", "x402-v1", "x-payment")),
    *(("transfer", name) for name in ("x-receipt", "x-price", "payment-uri")),
    *(("lightning", name) for name in ("x402-v2", "mpp", "l402", "x-receipt", "payment-uri")),
    *(("stripe", name) for name in ("mpp", "x-receipt")),
]
OFFERS = ("payment-required", "www-authenticate", "x-payment", "x-price", "link")


async def customer(secret: str) -> SavedCustomer | None:
    return SavedCustomer("cus_1", "pm_1") if secret == SECRET else None


def pair(kind: str, directory: Path, clock: FakeClock) -> tuple[PaymentRail, Wallet]:
    """Return who takes the money and who pays it, on one sandbox."""
    match kind:
        case "customer":
            rail = StripeRail.sandbox(directory, clock=clock, customers=customer)
            return rail, CustomerSecretWallet.sandbox(SECRET, URL)
        case "base":
            return BaseRail.sandbox(directory, clock=clock), BaseWallet.sandbox(directory, clock=clock)
        case "transfer":
            taking = BaseRail.sandbox(directory, transfers=Transfers(), clock=clock)
            return taking, BaseTransferWallet.sandbox(directory, clock=clock)
        case "lightning":
            return LightningRail.sandbox(directory, clock=clock), LightningWallet.sandbox(directory, clock=clock)
        case _:
            return StripeRail.sandbox(directory, clock=clock), StripeWallet.sandbox(directory, clock=clock)


class Stall:
    """A publisher on a sandbox that takes the money of its first sale, and does not hear that it did."""

    def __init__(self, kind: str, dialect: str, directory: Path) -> None:
        self.clock, self.dialect, self.runs, self.settled = FakeClock(), dialect_by_name(dialect), 0, 0
        self.rail, self.wallet = pair(kind, directory, self.clock)
        self._settle = self.rail.settle
        self.rail.settle = self._lose  # type: ignore[method-assign]
        self.gate = Gate(
            rails=[self.rail],
            dialects=[*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS],
            public_url=URL,
            store="memory://",
            clock=self.clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.api_route("/page/{name}", methods=["GET", "POST"])
        @self.gate.paid(PRICES[kind], flow="upfront")
        async def page(name: str) -> dict[str, int]:
            self.runs += 1
            return {"run": self.runs}

    async def _lose(self, charge: Charge, payment: Payment | None) -> Any:
        self.settled += 1
        await self._settle(charge, payment)
        return Unknown(detail="the answer was lost")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        await self.wallet.start()
        async with self.gate, httpx.AsyncClient(transport=transport, base_url=URL) as http:
            yield http
        await self.wallet.close()

    async def pay(self, http: httpx.AsyncClient) -> dict[str, str]:
        """Pay, and return the fields that show it."""
        answer = await http.get("/page/one")
        context = Context(specs=Registry([self.wallet.spec]), now=self.clock())
        offers = self.dialect.offers(Fields(answer.headers.multi_items()), answer.content, context)
        payable = [offer for offer in offers if await self.wallet.can_pay(offer) is not None]
        paid = await self.wallet.pay(payable[0], record_id="rec_1", now=self.clock())
        return dict(self.dialect.credential(payable[0], dict(paid.payload), context))


def spoiled(dialect: str, fields: dict[str, str]) -> dict[str, Lines]:
    """Return everything that may come in the place of those fields, by what was done to it."""
    shown = list(fields.items())
    ways = {name: spoil(fields) for name, spoil in WAYS[dialect].items()}
    taken = {name.lower() for name in fields}
    beside = {name: [*shown, other] for name, other in BESIDE.items() if other[0].lower() not in taken}
    return ways | beside | {"as it was": shown}


def asks_to_pay(answer: httpx.Response) -> bool:
    said = answer.json()
    return any(name in answer.headers for name in OFFERS) or any(name in said for name in ("offers", "payment"))


@pytest.mark.parametrize(("kind", "dialect"), PAID)
async def test_nobody_is_asked_to_pay_again(kind: str, dialect: str, tmp_path: Path, observed: Observe) -> None:
    stall = Stall(kind, dialect, tmp_path)
    async with stall.open() as http:
        fields = await stall.pay(http)
        lost = await http.get("/page/one", headers=fields)
        assert (lost.status_code, lost.json()["code"]) == (503, "outcome_unknown"), lost.text
        for how, lines in spoiled(dialect, fields).items():
            for path in ("/page/one", "/page/two", "/page/one?page=2"):
                answer = await http.get(path, headers=lines)
                assert answer.status_code in (400, 409, 503), (how, path, answer.text)
                assert not asks_to_pay(answer), (how, path, answer.text)
        charges = await stall.gate.services().store.recent(limit=9)
        assert [charge.payment for charge in charges] == [PaymentState.UNKNOWN]
        assert (stall.runs, stall.settled) == (0, 1)
        for _ in range(3):
            stall.clock.advance(30)
            await stall.gate.reconcile()
        served = await http.get("/page/one", headers=fields)
        replays = dialect != "x402-v1"  # its proof is public, and it has no token to tell its payer by
        assert (served.status_code, stall.runs, stall.settled) == ((200, 1, 1) if replays else (409, 0, 1))
    observed(
        "the proof with a garbled token, an altered offer, macaroon or challenge, a broken credential beside it, or at"
        " another address: 400, 409 or 503, and never an offer; on Base, Lightning and Stripe, in every dialect"
    )


@pytest.mark.parametrize(
    ("dialect", "ways"),
    [
        ("x-receipt", ["token cut", "token longer", "token another key's", "token another expiry"]),
        ("mpp", ["token cut", "token longer", "another id", "another realm", "another amount", "no expiry"]),
    ],
)
async def test_nor_is_a_customer(dialect: str, ways: list[str], tmp_path: Path) -> None:
    """Its secret pays many offers. Which one, it says by the token's nonce, whatever else of that is left."""
    stall = Stall("customer", dialect, tmp_path)
    async with stall.open() as http:
        fields = await stall.pay(http)
        lost = await http.get("/page/one", headers=fields)
        assert (lost.status_code, lost.json()["code"]) == (503, "outcome_unknown"), lost.text
        for way in ways:
            answer = await http.get("/page/one", headers=WAYS[dialect][way](fields))
            assert answer.status_code in (409, 503), (way, answer.text)
            assert not asks_to_pay(answer), (way, answer.text)


@pytest.mark.parametrize(("kind", "dialect"), [("base", "x-payment"), ("stripe", "x-receipt"), ("base", "x402-v2")])
async def test_a_garbled_token_gets_no_goods(kind: str, dialect: str, tmp_path: Path, observed: Observe) -> None:
    stall = Stall(kind, dialect, tmp_path)
    stall.rail.settle = stall._settle  # type: ignore[method-assign]
    async with stall.open() as http:
        fields = await stall.pay(http)
        assert (await http.get("/page/one", headers=fields)).json() == {"run": 1}
        for token in ("another nonce", "junk", "cut", "longer", "without its full stops"):
            answer = await http.get("/page/one", headers=WAYS[dialect][f"token {token}"](fields))
            assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven"), token
        assert (await http.get("/page/one", headers=fields)).json() == {"run": 1}
        assert stall.runs == 1
    observed("once it is settled, a public proof with a garbled token is 409 `replay_not_proven`, as with a wrong one")
