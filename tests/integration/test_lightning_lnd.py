"""Money over real channels, with an lnd on both sides: the publisher's node is Alice's, the agent's Bob's or Carol's.

The money is counted where it is, in the channel balances of all three nodes. Every macaroon is baked for its purpose.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from rail402 import Budget, Gate, Payer
from rail402.client.services import RESERVE_LEASE
from rail402.clock import system_clock
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import (
    BudgetExceeded,
    ConfigurationError,
    OfferRefused,
    PaymentFailed,
    PaymentOutcomeUnknown,
    PaymentRejected,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.dialect import Dialect
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import NotPaid, Paid, Settled, Terms, Verified
from rail402.protocol.receipt import ReceiptKeys
from rail402_lightning import LightningRail, LightningWallet, LndReceiver, LndSender, bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.lnd_macaroon import PAY, RECEIVE, Rights, permissions
from rail402_lightning.wire import invoice_of
from tests.services import install_root, installed
from tests.services.lightning import RegtestNetwork, routing_fee
from tests.services.lnd import LndNode
from tests.services.processes import free_ports, running, wait_for

URL = "http://shop.test"
PRICE = 21_000
ORDER = Order(method="GET", url=f"{URL}/article/1", route="GET /article/{id}")
SECRET = "a secret that only this test knows, of 32 bytes and more"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ledger:
    """What the nodes hold in their channels, millisatoshis."""

    network: RegtestNetwork

    def balances(self) -> list[int]:
        return [node.channel_balance() for node in self.network.nodes]

    def expect(self, before: list[int], *moved: int) -> None:
        """Wait until each node's balance has changed by exactly that; what is not given has not changed."""
        changes = [*moved, 0, 0, 0][:3]
        wanted = [balance + change for balance, change in zip(before, changes, strict=True)]
        wait_for(f"{changes} msat in the channels", lambda: self.balances() == wanted, 10)


class Counting(httpx.AsyncHTTPTransport):
    """Sends everything, remembers what was answered, and loses the answers to payments if told to."""

    def __init__(self, node: LndNode, *, loses_answers: bool = False) -> None:
        super().__init__(verify=ssl.create_default_context(cafile=node.tls_cert_path))
        self.loses_answers = loses_answers
        self.payments: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.url.path == "/v2/router/send":
            self.payments.append(response.status_code)
            if self.loses_answers:
                raise httpx.ReadTimeout("the answer was lost", request=request)
        return response


def bake(node: LndNode, *held: str, root_key: int = 0) -> str:
    asked = [dict(zip(("entity", "action"), each.split(":", 1), strict=True)) for each in held]
    body = {"permissions": asked, "root_key_id": str(root_key)}
    return str(node.post("/v1/macaroon", body)["macaroon"])


def receiver(node: LndNode, held: Rights = RECEIVE) -> LndReceiver:
    return LndReceiver(node.rest_url, bake(node, *held.methods), tls_cert=node.tls_cert_path, network="regtest")


def sender(node: LndNode, **options: Any) -> LndSender:
    options = {"tls_cert": node.tls_cert_path, "network": "regtest"} | options
    return LndSender(node.rest_url, bake(node, *PAY.methods), **options)


def wallet_of(node: LndNode, **options: Any) -> LightningWallet:
    held = bake(node, *PAY.methods)
    return LightningWallet.lnd(node.rest_url, held, "regtest", tls_cert=node.tls_cert_path, **options)


@pytest.fixture
def ledger(regtest: RegtestNetwork) -> Ledger:
    return Ledger(regtest)


@pytest.fixture
async def rail(regtest: RegtestNetwork) -> AsyncIterator[LightningRail]:
    alice = regtest.alice
    held = bake(alice, *RECEIVE.methods)
    rail = LightningRail.lnd(alice.rest_url, held, "regtest", tls_cert=alice.tls_cert_path)
    await rail.start()
    yield rail
    await rail.close()


@pytest.fixture
async def wallet(regtest: RegtestNetwork) -> AsyncIterator[LightningWallet]:
    wallet = wallet_of(regtest.bob)
    await wallet.start()
    yield wallet
    await wallet.close()


class Shop:
    """An article for 21 sat."""

    def __init__(self, rail: LightningRail, folder: Path, url: str = URL) -> None:
        self.runs: list[str] = []
        self.app = FastAPI()
        self.gate = Gate(
            rails=[rail],
            public_url=url,
            store=f"sqlite:///{folder / 'charges.db'}",
            secret=SECRET,
            receipt_key=ReceiptKeys.generate()[1],
        )
        self.gate.install(self.app)

        @self.app.get("/article/{name}")
        @self.gate.paid("21 sat")
        async def article(name: str) -> dict[str, str]:
            self.runs.append(name)
            return {"article": name}


@pytest.fixture
def shop(rail: LightningRail, tmp_path: Path) -> Shop:
    return Shop(rail, tmp_path)


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
    shop: Shop, wallet: LightningWallet, ledger: Ledger, tmp_path: Path, dialect: Dialect
) -> None:
    credentials: list[dict[str, str]] = []
    before = ledger.balances()
    payer = Payer([wallet], journal=f"sqlite:///{tmp_path / 'journal.db'}", dialects=[dialect])
    transport = payer.transport(_Watched(httpx.ASGITransport(shop.app), credentials, dialect))
    async with shop.gate, payer, httpx.AsyncClient(transport=transport, base_url=URL) as client:
        response = await client.get("/article/402")
        ledger.expect(before, PRICE, -PRICE)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shop.app), base_url=URL) as plain:
            replay = await plain.get("/article/402", headers=credentials[-1])
            elsewhere = await plain.get("/article/403", headers=credentials[-1])

    bought = response.extensions["rail402"]
    assert (response.status_code, response.json(), shop.runs) == (200, {"article": "402"}, ["402"])
    assert (bought.outcome, bought.price, bought.fee) == ("paid", Money.parse("21 sat"), Money.parse("0 sat"))
    assert (bought.receipt.sandbox, bought.receipt.payee) == (False, ledger.network.alice.pubkey)
    assert (replay.status_code, replay.content) == (200, response.content)
    assert replay.headers["idempotent-replayed"] == "true"
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (402, "resource_mismatch")
    ledger.expect(before, PRICE, -PRICE)


async def test_who_forwards_is_paid_by_the_agent_and_within_its_limits(
    shop: Shop, ledger: Ledger, tmp_path: Path
) -> None:
    fee, before = routing_fee(PRICE), ledger.balances()
    wallet = wallet_of(ledger.network.carol)
    payer = Payer([wallet], Budget(per_request=("23 sat",)), journal=f"sqlite:///{tmp_path / 'journal.db'}")
    transport = payer.transport(httpx.ASGITransport(shop.app))
    async with shop.gate, payer, httpx.AsyncClient(transport=transport, base_url=URL) as client:
        response = await client.get("/article/402")

    bought = response.extensions["rail402"]
    assert (bought.price, bought.fee) == (Money.parse("21 sat"), Money.from_atomic(fee, 11, "BTC"))
    ledger.expect(before, PRICE, fee, -PRICE - fee)


async def test_a_fee_that_the_budget_does_not_cover_is_refused_before_anything_is_sent(
    shop: Shop, ledger: Ledger, tmp_path: Path
) -> None:
    before = ledger.balances()
    wallet = wallet_of(ledger.network.carol)  # it may spend 2 sat on fees
    payer = Payer([wallet], Budget(per_request=("22 sat",)), journal=f"sqlite:///{tmp_path / 'journal.db'}")
    transport = payer.transport(httpx.ASGITransport(shop.app))
    async with shop.gate, payer, httpx.AsyncClient(transport=transport, base_url=URL) as client:
        with pytest.raises(BudgetExceeded):
            await client.get("/article/402")

    ledger.expect(before)


async def test_a_fee_above_the_wallet_s_limit_is_not_paid(rail: LightningRail, ledger: Ledger) -> None:
    before, made = ledger.balances(), await offer(rail)
    assert routing_fee(PRICE) == 1002
    stingy = wallet_of(ledger.network.carol, max_fee_sat=1, max_fee_ppm=0)

    with pytest.raises(PaymentFailed, match="no route to the payee within the fee limit"):
        await stingy.pay(made, record_id="r", now=system_clock())
    assert await stingy.resume(made, None, record_id="r", now=system_clock()) == NotPaid()
    ledger.expect(before)

    # That failure is no obstacle for a second try with more to spend.
    generous = wallet_of(ledger.network.carol, max_fee_sat=2)
    paid = await generous.pay(made, record_id="r", now=system_clock())
    assert paid.fee == Money.from_atomic(1002, 11, "BTC")
    ledger.expect(before, PRICE, 1002, -PRICE - 1002)
    await stingy.close()
    await generous.close()


KILLED = """
import asyncio, os, ssl, sys
from pathlib import Path
import httpx
from rail402 import Payer
from rail402_lightning import LightningWallet, LndSender

class Dies(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        response = await super().handle_async_request(request)
        if request.url.path == "/v2/router/send":
            os._exit(9)  # it is paid, and nobody here has read that
        return response

async def main(shop, folder, node, macaroon, certificate):
    transport = Dies(verify=ssl.create_default_context(cafile=certificate))
    wallet = LightningWallet(LndSender(node, macaroon, transport=transport), network="regtest")
    payer = Payer([wallet], journal=f"sqlite:///{folder}/journal.db")
    async with payer, httpx.AsyncClient(transport=payer.transport()) as client:
        await client.get(shop)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_agent_that_is_killed_while_it_pays_gets_what_it_paid_for(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger, tmp_path: Path
) -> None:
    before, bob = ledger.balances(), ledger.network.bob
    (port,) = free_ports(1)
    shop = Shop(rail, tmp_path, f"http://127.0.0.1:{port}")
    async with _serving(shop.app, port):
        url = f"http://127.0.0.1:{port}/article/402"
        arguments = [url, str(tmp_path), bob.rest_url, bake(bob, *PAY.methods), str(bob.tls_cert_path)]
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, *arguments), cwd=ROOT, stderr=subprocess.PIPE
        )
        _, errors = await child.communicate()
        assert child.returncode == 9, errors
        ledger.expect(before, PRICE, -PRICE)

        # The next process begins when the lease of the one that died is over.
        payer = Payer(
            [wallet], journal=f"sqlite:///{tmp_path / 'journal.db'}", clock=lambda: system_clock() + RESERVE_LEASE
        )
        async with payer, httpx.AsyncClient(transport=payer.transport()) as client:
            response = await client.get(url)

    assert (response.status_code, response.json(), shop.runs) == (200, {"article": "402"}, ["402"])
    assert response.extensions["rail402"].outcome == "paid"
    ledger.expect(before, PRICE, -PRICE)


# The publisher's side.


async def test_an_offer_is_what_an_agent_looks_for(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger
) -> None:
    made = (await offer(rail)).model_copy(update={"dialect": "x402-v2"})

    wallet.spec.check_offer(made, ORDER, now=system_clock())
    assert made.payee == ledger.network.alice.pubkey
    assert invoice_of(made).text.startswith("lnbcrt210n1")
    cost = await wallet.can_pay(made)
    assert cost is not None
    assert cost.fee_ceiling == Money.parse("2 sat")


async def test_an_unpaid_invoice_settles_nothing(rail: LightningRail) -> None:
    made, unpaid = await offer(rail), payment("ab" * 32)

    with pytest.raises(PaymentRejected) as caught:
        await rail.verify(made, unpaid, Verified(keys=frozenset()), now=system_clock())

    assert (caught.value.code, caught.value.retryable) == ("not_settled", True)
    assert await rail.settle(charge(made), unpaid) == NotPaid()
    assert await rail.lookup(charge(made), Operation.SETTLE) == NotPaid()
    assert await rail.receiver.status(secrets.token_bytes(32)) is None


async def test_the_preimage_that_lnd_tells_of_an_open_invoice_proves_nothing(
    rail: LightningRail, shop: Shop, wallet: LightningWallet, ledger: Ledger
) -> None:
    alice, before = ledger.network.alice, ledger.balances()
    async with shop.gate, httpx.AsyncClient(transport=httpx.ASGITransport(shop.app), base_url=URL) as client:
        asked = await client.get("/article/402")
        text = asked.json()["payment"]["invoice"]
        told = alice.get(f"/v1/invoice/{bolt11.decode(text).payment_hash.hex()}")
        preimage = base64.b64decode(told["r_preimage"])
        early = await client.get("/article/402", headers={"X-Receipt": preimage.hex()})
        assert shop.runs == []
        await wallet.sender.pay(text, max_fee_msat=0)
        paid = await client.get("/article/402", headers={"X-Receipt": preimage.hex()})

    assert told["state"] == "OPEN"
    assert hashlib.sha256(preimage).digest() == bolt11.decode(text).payment_hash
    assert (early.status_code, early.json()["code"]) == (402, "not_settled")
    assert (paid.status_code, shop.runs) == (200, ["402"])
    ledger.expect(before, PRICE, -PRICE)


async def test_an_invoice_that_expired_is_canceled_and_cannot_be_paid(rail: LightningRail, ledger: Ledger) -> None:
    made, before = await offer(rail, seconds=1), ledger.balances()
    payment_hash = invoice_of(made).payment_hash
    # Watched by the node's stream.
    async with asyncio.timeout(20):
        await rail.receiver.wait(payment_hash, seconds=60)
    assert await rail.receiver.status(payment_hash) == InvoiceStatus(state="canceled")

    paying = sender(ledger.network.bob)
    refused = await paying.pay(invoice_of(made).text, max_fee_msat=0)
    assert (refused.state, "invoice expired" in refused.detail) == ("failed", True)
    assert await paying.lookup(payment_hash) is None
    ledger.expect(before)
    await paying.close()


async def test_a_paid_invoice_is_settled_when_it_was_paid_and_that_is_seen_at_once(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger
) -> None:
    made, before = await offer(rail), ledger.balances()
    payment_hash = invoice_of(made).payment_hash
    watching = asyncio.create_task(rail.receiver.wait(payment_hash, seconds=60))
    await asyncio.sleep(0.2)
    assert not watching.done()
    paid = await wallet.pay(made, record_id="r", now=system_clock())
    async with asyncio.timeout(10):
        await watching
    shown = payment(str(paid.payload["preimage"]))

    verified = await rail.verify(made, shown, rail.spec.authenticate(made, shown), now=system_clock())
    settled = await rail.settle(charge(made).model_copy(update={"rail_state": verified.state}), shown)

    assert isinstance(settled, Settled)
    assert settled.transaction == hashlib.sha256(bytes.fromhex(str(paid.payload["preimage"]))).hexdigest()
    assert settled.at is not None
    assert abs(settled.at - system_clock()) < 30
    ledger.expect(before, PRICE, -PRICE)


# The agent's side.


async def test_a_payment_whose_answer_is_lost_is_found_and_made_once(rail: LightningRail, ledger: Ledger) -> None:
    made, before, bob = await offer(rail), ledger.balances(), ledger.network.bob
    transport = Counting(bob, loses_answers=True)
    wallet = LightningWallet(sender(bob, transport=transport), network="regtest")

    paid = await wallet.pay(made, record_id="r", now=system_clock())

    assert transport.payments == [200]
    assert rail.spec.authenticate(made, payment(str(paid.payload["preimage"])))
    ledger.expect(before, PRICE, -PRICE)
    await wallet.close()


async def test_one_invoice_is_paid_once_however_often_it_is_tried(rail: LightningRail, ledger: Ledger) -> None:
    made, before, bob = await offer(rail), ledger.balances(), ledger.network.bob
    transport = Counting(bob)
    wallet = LightningWallet(sender(bob, transport=transport), network="regtest")

    tries = await asyncio.gather(*(wallet.pay(made, record_id=str(n), now=system_clock()) for n in range(4)))
    again = await wallet.pay(made, record_id="again", now=system_clock())

    assert {str(paid.payload["preimage"]) for paid in tries} == {str(again.payload["preimage"])}
    assert sorted(transport.payments) == [200, 409, 409, 409]  # AlreadyExists, tracked; the last one was not even sent
    ledger.expect(before, PRICE, -PRICE)
    await wallet.close()


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
    made = _offer_of(bolt11.encode(nowhere, secrets.token_bytes(32)))

    with pytest.raises(PaymentFailed, match="no route"):
        await wallet.pay(made, record_id="r", now=now)

    assert await wallet.resume(made, None, record_id="r", now=now) == NotPaid()
    ledger.expect(before)


async def test_more_than_the_channel_can_carry_is_not_begun(
    rail: LightningRail, wallet: LightningWallet, ledger: Ledger
) -> None:
    bob = ledger.network.bob
    spendable = await wallet.sender.balance()
    sat = spendable // 1000 * 1000

    assert 0 < spendable < bob.channel_balance()  # what a channel keeps in reserve is nobody's to spend
    with pytest.raises(OfferRefused, match=r"can spend .* now, and this may take .*: fund it"):
        await wallet.can_pay(await offer(rail, amount=sat + 1000))
    assert await wallet.can_pay(await offer(rail, amount=sat // 2000 * 1000)) is not None


async def test_a_payment_to_the_node_itself_is_refused_unless_asked_for(rail: LightningRail, ledger: Ledger) -> None:
    made, before = await offer(rail), ledger.balances()
    wallet = LightningWallet(sender(ledger.network.alice), network="regtest")

    with pytest.raises(PaymentFailed, match="self-payments not allowed"):
        await wallet.pay(made, record_id="r", now=system_clock())

    ledger.expect(before)
    await wallet.close()


@pytest.mark.parametrize("ending", ["settled", "canceled"])
async def test_a_payment_that_is_held_is_unknown_until_it_ends(
    rail: LightningRail, ledger: Ledger, ending: str
) -> None:
    preimage, alice, before = secrets.token_bytes(32), ledger.network.alice, ledger.balances()
    payment_hash = hashlib.sha256(preimage).digest()
    hold = {"hash": _base64(payment_hash), "value_msat": str(PRICE), "expiry": "600"}
    made = _offer_of(str(alice.post("/v2/invoices/hodl", hold)["payment_request"]))
    wallet = LightningWallet(sender(ledger.network.bob, deadline=2), network="regtest")

    with pytest.raises(PaymentOutcomeUnknown, match="has not ended in 2 s"):
        await wallet.pay(made, record_id="r", now=system_clock())
    # Its money has arrived as far as amt_paid_msat is concerned, and the invoice is not settled.
    assert alice.get(f"/v1/invoice/{payment_hash.hex()}")["amt_paid_msat"] == str(PRICE)
    assert await rail.receiver.status(payment_hash) == InvoiceStatus(state="open")
    in_flight = SentPayment(state="unknown", detail="the payment is in flight")
    assert await wallet.sender.lookup(payment_hash) == in_flight
    with pytest.raises(PaymentOutcomeUnknown):  # and it is not sent a second time
        await wallet.pay(made, record_id="r", now=system_clock())

    watching = asyncio.create_task(rail.receiver.wait(payment_hash, seconds=60))
    await asyncio.sleep(0.2)
    assert not watching.done()
    if ending == "settled":
        alice.post("/v2/invoices/settle", {"preimage": _base64(preimage)})
        ledger.expect(before, PRICE, -PRICE)
    else:
        alice.post("/v2/invoices/cancel", {"payment_hash": _base64(payment_hash)})
        ledger.expect(before)
    async with asyncio.timeout(10):
        await watching
    wait_for("the end at Bob's", lambda: _has_ended(ledger.network.bob, payment_hash), 10)
    found = await wallet.resume(made, None, record_id="r", now=system_clock())

    if ending == "settled":
        assert found == Paid(payload={"preimage": preimage.hex()}, fee=Money.parse("0 sat"), moved=True)
    else:
        assert found == NotPaid()
    await wallet.close()


async def test_a_payment_that_ends_while_it_is_tracked_is_told(ledger: Ledger) -> None:
    preimage, alice, before = secrets.token_bytes(32), ledger.network.alice, ledger.balances()
    payment_hash = hashlib.sha256(preimage).digest()
    hold = {"hash": _base64(payment_hash), "value_msat": str(PRICE), "expiry": "600"}
    text = str(alice.post("/v2/invoices/hodl", hold)["payment_request"])
    paying = sender(ledger.network.bob)

    first = asyncio.create_task(paying.pay(text, max_fee_msat=0))
    await asyncio.to_thread(wait_for, "the money", lambda: _state(alice, payment_hash) == "ACCEPTED", 10)
    second = asyncio.create_task(paying.pay(text, max_fee_msat=0))
    alice.post("/v2/invoices/settle", {"preimage": _base64(preimage)})

    paid = SentPayment(state="paid", preimage=preimage.hex(), fee_msat=0)
    assert await asyncio.gather(first, second) == [paid, paid]
    ledger.expect(before, PRICE, -PRICE)
    await paying.close()


# The start.


async def test_what_a_macaroon_says_is_what_the_node_lets_it_do(regtest: RegtestNetwork) -> None:
    alice = regtest.alice
    everything = permissions(bytes.fromhex(alice.macaroon_hex))
    assert everything is not None
    assert RECEIVE.missing(everything) == PAY.missing(everything) == []
    methods = [f"uri:{method}" for methods in RECEIVE.methods.values() for method in methods]

    for held in (list(RECEIVE.methods), list(PAY.methods), methods, ["onchain:write"]):
        made = bytes.fromhex(bake(alice, *held))
        assert permissions(made) == set(held)
        for permission in everything:
            assert _allows(alice, made, permission) is (permission in held), permission


async def test_the_single_methods_are_enough_to_receive_and_to_pay(regtest: RegtestNetwork, ledger: Ledger) -> None:
    before = ledger.balances()
    narrow = [
        bake(node, *(f"uri:{method}" for methods in rights.methods.values() for method in methods))
        for node, rights in ((regtest.alice, RECEIVE), (regtest.bob, PAY))
    ]
    receiving = LndReceiver(regtest.alice.rest_url, narrow[0], tls_cert=regtest.alice.tls_cert_path, network="regtest")
    paying = LndSender(regtest.bob.rest_url, narrow[1], tls_cert=regtest.bob.tls_cert_path, network="regtest")
    await receiving.start()
    await paying.start()

    text = await receiving.create_invoice(PRICE, expiry_seconds=600, hashed_description=b"")
    paid = await paying.pay(text, max_fee_msat=0)
    payment_hash = bolt11.decode(text).payment_hash
    await receiving.wait(payment_hash, seconds=30)

    assert paid.state == "paid"
    assert await paying.lookup(payment_hash) == paid
    assert await receiving.status(payment_hash) is not None
    ledger.expect(before, PRICE, -PRICE)
    await receiving.close()
    await paying.close()


async def test_a_macaroon_that_can_spend_is_too_much_for_a_rail(
    regtest: RegtestNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    await _started(receiver(regtest.alice))
    assert caplog.text == ""

    alice = regtest.alice
    await _started(LndReceiver(alice.rest_url, alice.macaroon_hex, tls_cert=alice.tls_cert_path))
    assert "macaroon:generate" in caplog.text
    assert RECEIVE.bake in caplog.text


async def test_a_macaroon_that_is_not_enough_is_named_with_the_command_that_makes_one(
    regtest: RegtestNetwork,
) -> None:
    alice, bob = regtest.alice, regtest.bob
    revoked = bake(alice, *RECEIVE.methods, root_key=7)
    with alice.client() as client:
        client.delete("/v1/macaroon/7").raise_for_status()
    expired = _restricted(bake(alice, *RECEIVE.methods), "time-before 2020-01-01T00:00:00Z")
    wrong = {
        bake(alice, "info:read", "invoices:read"): "lacks invoices:write; make one",
        bake(bob, *RECEIVE.methods): "refuses the macaroon: verification failed",
        revoked: "refuses the macaroon: .*cannot get macaroon",
        expired: "refuses the macaroon: .* has expired",
    }

    for held, why in wrong.items():
        with pytest.raises(ConfigurationError, match=why) as caught:
            await _started(LightningRail.lnd(alice.rest_url, held, "regtest", tls_cert=alice.tls_cert_path))
        assert RECEIVE.bake in str(caught.value)
    held = bake(bob, *RECEIVE.methods)
    with pytest.raises(ConfigurationError, match="lacks offchain:read, offchain:write"):
        await _started(LightningWallet.lnd(bob.rest_url, held, "regtest", tls_cert=bob.tls_cert_path))


async def test_a_wrong_network_certificate_or_address_is_named_at_the_start(regtest: RegtestNetwork) -> None:
    alice, bob = regtest.alice, regtest.bob
    held = bake(alice, *RECEIVE.methods)

    with pytest.raises(ConfigurationError, match="is on regtest, and network='mainnet'"):
        await _started(LightningRail.lnd(alice.rest_url, held, "mainnet", tls_cert=alice.tls_cert_path))
    rail = LightningRail.lnd(alice.rest_url, held, "regtest", tls_cert=alice.tls_cert_path, node_id="02" + "11" * 32)
    with pytest.raises(ConfigurationError, match="node_id"):
        await _started(rail)
    with pytest.raises(ConfigurationError, match=r"not the one in tls_cert: copy the node's tls\.cert again"):
        await _started(LightningRail.lnd(alice.rest_url, held, "regtest", tls_cert=bob.tls_cert_path))
    with pytest.raises(ConfigurationError, match="signed by itself: set tls_cert"):
        await _started(LightningRail.lnd(alice.rest_url, held, "regtest"))
    (port,) = free_ports(1)
    with pytest.raises(RailUnavailable, match="cannot be reached"):
        await _started(LightningRail.lnd(f"https://127.0.0.1:{port}", held, "regtest", tls_cert=alice.tls_cert_path))


async def test_the_health_of_a_node_that_is_well_and_sees_its_channels(regtest: RegtestNetwork) -> None:
    alice = regtest.alice
    held = bake(alice, *RECEIVE.methods, "offchain:read")
    receiving = LndReceiver(alice.rest_url, held, tls_cert=alice.tls_cert_path, network="regtest")

    await receiving.start()
    await receiving.health()
    await receiving.close()


@pytest.mark.skipif(installed("lightning") is None, reason="needs an lnd to start, stop and lock")
async def test_a_node_that_is_locked_syncing_or_without_a_channel_says_so(
    regtest: RegtestNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ports, password = free_ports(3), {"wallet_password": _base64(b"password1")}
    url, certificate, chain = f"https://127.0.0.1:{ports[2]}", tmp_path / "tls.cert", regtest.chain
    command = [
        str(install_root() / "lightning" / "lnd"),
        f"--lnddir={tmp_path}",
        *(f"--{name}=127.0.0.1:{at}" for name, at in zip(("listen", "rpclisten", "restlisten"), ports, strict=True)),
        "--tlsdisableautofill",
        "--nobootstrap",
        "--bitcoin.regtest",
        *chain.lnd_flags(),
    ]
    held = bake(regtest.alice, *RECEIVE.methods)  # of another node: it is not looked at before the wallet is open

    def ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        context = ssl.create_default_context(cafile=certificate)
        with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=120) as client:
            return client.request(method, path, json=body).raise_for_status().json()

    def is_in(*states: str) -> bool:
        return certificate.exists() and ask("GET", "/v1/state")["state"] in states

    with running("locked", command, tmp_path) as process:
        process.wait_until("its API", lambda: is_in("NON_EXISTING"))
        with pytest.raises(RailUnavailable, match="wallet not created"):
            await _started(LndReceiver(url, held, tls_cert=certificate))
        words = ask("GET", "/v1/genseed")["cipher_seed_mnemonic"]
        admin = base64.b64decode(
            ask("POST", "/v1/initwallet", password | {"cipher_seed_mnemonic": words})["admin_macaroon"]
        )
        process.wait_until("its wallet", lambda: is_in("RPC_ACTIVE", "SERVER_ACTIVE"))
    with running("locked", command, tmp_path) as process:
        process.wait_until("its API", lambda: is_in("LOCKED"))
        with pytest.raises(RailUnavailable, match=r"wallet locked, .*lncli unlock"):
            await _started(LightningRail.lnd(url, held, "regtest", tls_cert=certificate))
        ask("POST", "/v1/unlockwallet", password)
        rail = LightningRail.lnd(url, admin, "regtest", tls_cert=certificate)
        said = await _said_until("no active channel", rail)
        # For a moment it is starting, then it has not caught up with the chain.
        assert all("starting up" in each or "caught up" in each for each in said)
        wallet = LightningWallet.lnd(url, admin, "regtest", tls_cert=certificate)
        await wallet.start()
        assert "cannot pay: open or fill one" in caplog.text
        assert await wallet.sender.balance() == 0
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


@asynccontextmanager
async def _serving(app: FastAPI, port: int) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.to_thread(wait_for, "the shop", lambda: server.started, 10)
        yield
    finally:
        server.should_exit = True
        await serving


async def _started(opened: LightningRail | LightningWallet | LndReceiver) -> None:
    try:
        await opened.start()
    finally:
        await opened.close()


async def _said_until(words: str, rail: LightningRail) -> list[str]:
    """Start a rail again and again; returns why it could not before it said these words."""
    said: list[str] = []
    for _ in range(200):
        with pytest.raises(RailUnavailable) as caught:
            await _started(rail)
        if words in caught.value.detail:
            return said
        said.append(caught.value.detail)
        await asyncio.sleep(0.1)
    pytest.fail(f"it never said {words!r}, but {set(said)}")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _state(node: LndNode, payment_hash: bytes) -> str:
    return str(node.get(f"/v1/invoice/{payment_hash.hex()}")["state"])


def _has_ended(node: LndNode, payment_hash: bytes) -> bool:
    payments = node.get("/v1/payments?include_incomplete=true&reversed=true&max_payments=20")["payments"]
    return any(
        each["payment_hash"] == payment_hash.hex() and each["status"] in ("SUCCEEDED", "FAILED") for each in payments
    )


def _allows(node: LndNode, macaroon: bytes, permission: str) -> bool:
    entity, _, action = permission.partition(":")
    body = {"macaroon": _base64(macaroon), "permissions": [{"entity": entity, "action": action}]}
    with node.client() as client:
        return client.post("/v1/macaroon/checkpermissions", json=body).is_success


def _restricted(macaroon: str, caveat: str) -> str:
    """A macaroon with one more caveat, which anybody can add: the signature is the key of the next one."""
    data, text = bytes.fromhex(macaroon), caveat.encode()
    signed = hmac.new(data[-32:], text, "sha256").digest()
    return (data[:-35] + b"\x02" + bytes([len(text)]) + text + b"\x00" + data[-35:-32] + signed).hex()


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
