"""Money over a real channel: a publisher's LNbits on one lnd, an agent's on the other, the gate and the payer between.

The money is counted where it is, in the channel balances of both nodes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate, Payer
from rail402.clock import system_clock
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import ConfigurationError, PaymentFailed, PaymentOutcomeUnknown, PaymentRejected
from rail402.money import Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.dialect import Dialect
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import NotPaid, Paid, Settled, Terms, Verified
from rail402.protocol.receipt import ReceiptKeys
from rail402_lightning import LightningRail, LightningWallet, LnbitsReceiver, LnbitsSender, bolt11
from rail402_lightning.wire import invoice_of
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair
from tests.services.processes import wait_for

URL = "http://shop.test"
PRICE = 21_000
ORDER = Order(method="GET", url=f"{URL}/article/1", route="GET /article/{id}")
SECRET = "a secret that only this test knows, of 32 bytes and more"


@dataclass(frozen=True)
class Ledger:
    """What the nodes hold in their channel, millisatoshis."""

    network: RegtestNetwork

    def balances(self) -> tuple[int, int]:
        return self.network.alice.channel_balance(), self.network.bob.channel_balance()

    def expect(self, before: tuple[int, int], moved: int) -> None:
        """Wait until exactly `moved` has gone from the agent's node to the publisher's since `before`."""
        wanted = before[0] + moved, before[1] - moved
        wait_for(f"{moved} msat in the channel", lambda: self.balances() == wanted, 10)


class LosesAnswers(httpx.AsyncHTTPTransport):
    """Sends everything, and loses the answers to payments."""

    def __init__(self) -> None:
        super().__init__()
        self.payments = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.method == "POST":
            self.payments += 1
            await response.aread()
            raise httpx.ReadTimeout("the answer was lost", request=request)
        return response


@pytest.fixture
def ledger(regtest: RegtestNetwork) -> Ledger:
    return Ledger(regtest)


@pytest.fixture
async def rail(lnbits_pair: LnbitsPair) -> AsyncIterator[LightningRail]:
    publisher = lnbits_pair.publisher
    rail = LightningRail.lnbits(publisher.url, publisher.invoice_key, "regtest")
    await rail.start()
    yield rail
    await rail.close()


@pytest.fixture
async def wallet(lnbits_pair: LnbitsPair) -> AsyncIterator[LightningWallet]:
    wallet = LightningWallet.lnbits(lnbits_pair.payer.url, lnbits_pair.payer.admin_key, "regtest")
    await wallet.start()
    yield wallet
    await wallet.close()


async def offer(rail: LightningRail, seconds: int = 600, amount: int = PRICE) -> Offer:
    now = system_clock()
    asked = Terms(amount=amount, flow=Flow.UPFRONT, now=now, expires_at=now + seconds, timeout_seconds=180)
    made = await rail.offer(ORDER, rail.spec.mechanisms[0], asked)
    assert made is not None
    return made


def payment(preimage: str) -> Payment:
    return Payment(dialect="x-receipt", rail="lightning", payload={"preimage": preimage})


def charge(made: Offer) -> Charge:
    return Charge(
        id="ch_1",
        order=ORDER,
        offer=made,
        price=made.price,
        dialect="x-receipt",
        keys=(),
        created_at=system_clock(),
        lease_until=system_clock() + 60,
        rail_state={"payment_hash": invoice_of(made).payment_hash.hex()},
        window=600,
    )


# The whole way.


@pytest.mark.parametrize("dialect", [X402V2(), Mpp(), XReceipt()], ids=lambda dialect: dialect.name)
async def test_a_purchase_moves_the_price_once_and_a_replay_moves_nothing(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger, tmp_path: Path, dialect: Dialect
) -> None:
    gate = Gate(
        rails=[rail],
        public_url=URL,
        store=f"sqlite:///{tmp_path / 'charges.db'}",
        secret=SECRET,
        receipt_key=ReceiptKeys.generate()[1],
    )
    app = FastAPI()
    runs: list[str] = []
    credentials: list[dict[str, str]] = []
    gate.install(app)

    @app.get("/article/{name}")
    @gate.paid("21 sat")
    async def article(name: str) -> dict[str, str]:
        runs.append(name)
        return {"article": name}

    inner = _Watched(httpx.ASGITransport(app), credentials, dialect)
    before = ledger.balances()
    payer = Payer([wallet], journal=f"sqlite:///{tmp_path / 'journal.db'}", dialects=[dialect])
    async with gate, payer, httpx.AsyncClient(transport=payer.transport(inner), base_url=URL) as client:
        response = await client.get("/article/402")
        ledger.expect(before, PRICE)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as plain:
            replay = await plain.get("/article/402", headers=credentials[-1])
            elsewhere = await plain.get("/article/403", headers=credentials[-1])

    bought = response.extensions["rail402"]
    assert (response.status_code, response.json(), runs) == (200, {"article": "402"}, ["402"])
    assert (bought.outcome, bought.price, bought.fee) == ("paid", Money.parse("21 sat"), Money.parse("0 sat"))
    assert (bought.receipt.sandbox, bought.receipt.payee) == (False, ledger.network.alice.pubkey)
    assert (replay.status_code, replay.content) == (200, response.content)
    assert replay.headers["idempotent-replayed"] == "true"
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (402, "resource_mismatch")
    ledger.expect(before, PRICE)


# The publisher's side.


async def test_an_offer_is_what_an_agent_looks_for(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger
) -> None:
    made = (await offer(rail)).model_copy(update={"dialect": "x402-v2"})

    wallet.spec.check_offer(made, ORDER, now=system_clock())
    assert made.payee == ledger.network.alice.pubkey
    assert invoice_of(made).text.startswith("lnbcrt210n1")
    assert await wallet.can_pay(made) is not None


async def test_an_unpaid_invoice_settles_nothing(rail: LightningRail) -> None:
    made, unpaid = await offer(rail), payment("ab" * 32)

    with pytest.raises(PaymentRejected) as caught:
        await rail.verify(made, unpaid, Verified(keys=frozenset()), now=system_clock())

    assert (caught.value.code, caught.value.retryable) == ("not_settled", True)
    assert await rail.settle(charge(made), unpaid) == NotPaid()
    assert await rail.lookup(charge(made), Operation.SETTLE) == NotPaid()


async def test_an_invoice_that_expired_unpaid_asks_for_a_new_one(rail: LightningRail) -> None:
    made = await offer(rail, seconds=1)
    shown = Payment(dialect="x402-v2", rail="lightning", payload={"invoice": made.extra["invoice"]}, offer=made)
    await asyncio.sleep(max(0.0, made.expires_at + 1.1 - time.time()))

    with pytest.raises(PaymentRejected) as caught:
        await rail.verify(made, shown, Verified(keys=frozenset()), now=system_clock())

    assert caught.value.code == "offer_expired"


async def test_a_paid_invoice_is_settled_and_lnbits_does_not_know_when(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger
) -> None:
    made, before = await offer(rail), ledger.balances()
    paid = await wallet.pay(made, record_id="r", now=system_clock())
    shown = payment(str(paid.payload["preimage"]))

    verified = await rail.verify(made, shown, rail.spec.authenticate(made, shown), now=system_clock())
    settled = await rail.settle(charge(made).model_copy(update={"rail_state": verified.state}), shown)

    assert isinstance(settled, Settled)
    assert settled.transaction == hashlib.sha256(bytes.fromhex(str(paid.payload["preimage"]))).hexdigest()
    assert settled.at is None  # what LNbits says is when it booked the payment
    ledger.expect(before, PRICE)


async def test_a_wrong_key_or_network_is_named_at_the_start(lnbits_pair: LnbitsPair) -> None:
    publisher = lnbits_pair.publisher

    with pytest.raises(ConfigurationError, match="Wallet not found"):
        await _started(LightningRail.lnbits(publisher.url, "f" * 32, "regtest"))
    with pytest.raises(ConfigurationError, match="is on regtest"):
        await _started(LightningRail.lnbits(publisher.url, publisher.invoice_key, "mainnet"))
    with pytest.raises(ConfigurationError, match="node_id"):
        await _started(LightningRail.lnbits(publisher.url, publisher.invoice_key, "regtest", node_id="02" + "11" * 32))
    with pytest.raises(ConfigurationError, match="admin key"):
        await _started(LightningWallet.lnbits(publisher.url, publisher.invoice_key, "regtest"))


async def test_an_invoice_of_another_wallet_on_the_same_server_is_none_of_ours(
    rail: LightningRail, lnbits_pair: LnbitsPair
) -> None:
    publisher = lnbits_pair.publisher
    async with httpx.AsyncClient(base_url=publisher.url, trust_env=False) as client:
        other = (await client.post("/api/v1/account", json={"name": "neighbour"})).json()
    neighbour = LnbitsReceiver(publisher.url, other["inkey"])
    text = await neighbour.create_invoice(PRICE, expiry_seconds=600, hashed_description=b"theirs")
    await neighbour.close()

    assert await rail.receiver.status(bolt11.decode(text).payment_hash) is None


# The agent's side.


async def test_a_payment_whose_answer_is_lost_is_found_and_made_once(
    rail: LightningRail, lnbits_pair: LnbitsPair, ledger: Ledger
) -> None:
    made, before, transport = await offer(rail), ledger.balances(), LosesAnswers()
    sender = LnbitsSender(lnbits_pair.payer.url, lnbits_pair.payer.admin_key, transport=transport)
    wallet = LightningWallet(sender, network="regtest")

    paid = await wallet.pay(made, record_id="r", now=system_clock())

    assert transport.payments == 1
    assert rail.spec.authenticate(made, payment(str(paid.payload["preimage"])))
    ledger.expect(before, PRICE)
    await wallet.close()


async def test_one_invoice_is_paid_once_however_often_it_is_tried(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger
) -> None:
    made, before = await offer(rail), ledger.balances()

    tries = await asyncio.gather(*(wallet.pay(made, record_id=str(n), now=system_clock()) for n in range(4)))

    assert len({str(paid.payload["preimage"]) for paid in tries}) == 1
    ledger.expect(before, PRICE)


async def test_a_payment_without_a_route_fails_for_good(wallet: LightningWallet, ledger: Ledger) -> None:
    now, before = system_clock(), ledger.balances()
    nowhere = bolt11.UnsignedInvoice(
        prefix="bcrt",
        amount_msat=PRICE,
        created_at=now,
        payment_hash=secrets.token_bytes(32),
        payment_secret=secrets.token_bytes(32),
        description="nowhere",
        features=frozenset({8, 14}),
    )
    key = secrets.token_bytes(32)
    text = bolt11.encode(nowhere, key)
    made = _offer_of(text)

    with pytest.raises(PaymentFailed, match="could not pay"):
        await wallet.pay(made, record_id="r", now=now)

    assert await wallet.resume(made, None, record_id="r", now=now) == NotPaid()
    ledger.expect(before, 0)


@pytest.mark.parametrize("ending", ["settled", "canceled"])
async def test_a_payment_that_is_held_is_unknown_until_it_ends(
    lnbits_pair: LnbitsPair, ledger: Ledger, ending: str
) -> None:
    preimage, alice, before = secrets.token_bytes(32), ledger.network.alice, ledger.balances()
    payment_hash = base64.b64encode(hashlib.sha256(preimage).digest()).decode()
    hold = {"hash": payment_hash, "value_msat": str(PRICE), "expiry": "600"}
    made = _offer_of(str(alice.post("/v2/invoices/hodl", hold)["payment_request"]))
    sender = LnbitsSender(lnbits_pair.payer.url, lnbits_pair.payer.admin_key, deadline=7)
    wallet = LightningWallet(sender, network="regtest")

    with pytest.raises(PaymentOutcomeUnknown):
        await wallet.pay(made, record_id="r", now=system_clock())
    if ending == "settled":
        alice.post("/v2/invoices/settle", {"preimage": base64.b64encode(preimage).decode()})
    else:
        alice.post("/v2/invoices/cancel", {"payment_hash": payment_hash})
    ledger.expect(before, PRICE if ending == "settled" else 0)
    found = await wallet.resume(made, None, record_id="r", now=system_clock())

    if ending == "settled":
        assert found == Paid(payload={"preimage": preimage.hex()}, fee=Money.parse("0 sat"), moved=True)
    else:
        assert found == NotPaid()
    await wallet.close()


# Helpers.


class _Watched(httpx.AsyncBaseTransport):
    """Remembers the payment of the requests that carry one."""

    def __init__(self, inner: httpx.AsyncBaseTransport, seen: list[dict[str, str]], dialect: Dialect) -> None:
        self._inner, self._seen, self._dialect = inner, seen, dialect

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        found = {name: request.headers[name] for name in self._dialect.request_fields if name in request.headers}
        if found:
            self._seen.append(found)
        return await self._inner.handle_async_request(request)


async def _started(opened: LightningRail | LightningWallet) -> None:
    try:
        await opened.start()
    finally:
        await opened.close()


def _offer_of(text: str) -> Offer:
    invoice = bolt11.decode(text)
    return Offer(
        rail="lightning",
        mechanism="bolt11",
        network="lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328",
        asset="BTC",
        amount=invoice.amount_msat or 0,
        currency="BTC",
        exponent=11,
        payee=invoice.payee.hex(),
        expires_at=invoice.expires_at,
        timeout_seconds=invoice.expiry,
        flow=Flow.UPFRONT,
        extra={"invoice": text},
    )
