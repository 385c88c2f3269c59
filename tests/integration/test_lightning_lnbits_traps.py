"""Where LNbits misleads: each of its traps on a real one, and that the rail and the wallet do not step into it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate, Payer
from rail402.clock import system_clock
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import ConfigurationError, PaymentRejected, RailUnavailable
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Terms, Verified
from rail402.protocol.receipt import ReceiptKeys
from rail402_lightning import LightningRail, LightningWallet, LnbitsReceiver, LnbitsSender, bolt11
from rail402_lightning.wire import invoice_of
from tests.services import install_root, lnbits, require
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsInstance, LnbitsPair
from tests.services.processes import free_ports, running, wait_for

URL = "http://shop.test"
PRICE = 21_000
ORDER = Order(method="GET", url=f"{URL}/article/1", route="GET /article/{id}")
SECRET = "a secret that only this test knows, of 32 bytes and more"
NOTHING = Verified(keys=frozenset())


class Counting(httpx.AsyncHTTPTransport):
    """Sends everything, and remembers what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.url.path}")
        return await super().handle_async_request(request)


@pytest.fixture
def rest() -> Counting:
    return Counting()


@pytest.fixture
async def rail(lnbits_pair: LnbitsPair, rest: Counting) -> AsyncIterator[LightningRail]:
    publisher = lnbits_pair.publisher
    receiver = LnbitsReceiver(publisher.url, publisher.invoice_key, transport=rest)
    rail = LightningRail(receiver, network="regtest", wait_seconds=3)
    await rail.start()
    yield rail
    await rail.close()


async def offer(rail: LightningRail) -> Offer:
    now = system_clock()
    asked = Terms(amount=PRICE, flow=Flow.UPFRONT, now=now, expires_at=now + 600, timeout_seconds=180)
    made = await rail.offer(ORDER, rail.spec.mechanisms[0], asked)
    assert made is not None
    return made


def by_invoice(made: Offer) -> Payment:
    payload = {"invoice": made.extra["invoice"]}
    return Payment(dialect="x402-v2", rail="lightning", payload=payload, offer=made.model_copy(update={"token": "t"}))


def by_preimage(preimage: str) -> Payment:
    return Payment(dialect="x-receipt", rail="lightning", payload={"preimage": preimage})


# Waiting.


async def test_a_payment_under_way_is_waited_for_by_the_stream(
    rail: LightningRail, rest: Counting, regtest: RegtestNetwork
) -> None:
    made = await offer(rail)
    loop, before = asyncio.get_running_loop(), len(rest.calls)

    waiting = asyncio.create_task(rail.verify(made, by_invoice(made), NOTHING, now=system_clock()))
    await asyncio.sleep(1)
    assert not waiting.done()
    await asyncio.to_thread(regtest.bob.pay, invoice_of(made).text)
    paid = loop.time()
    await waiting

    assert loop.time() - paid < 0.5  # some milliseconds, in fact
    assert len(rest.calls) - before == 3  # at first, when the stream is open, and when it says something


async def test_waiting_for_a_payment_that_does_not_come_takes_three_calls(rail: LightningRail, rest: Counting) -> None:
    made = await offer(rail)
    loop, before = asyncio.get_running_loop(), len(rest.calls)
    begun = loop.time()

    with pytest.raises(PaymentRejected) as caught:
        await rail.verify(made, by_invoice(made), NOTHING, now=system_clock())

    assert (caught.value.code, caught.value.retry_after) == ("not_settled", 2)
    assert 2.9 < loop.time() - begun < 4
    assert len(rest.calls) - before == 3


async def test_what_anybody_can_say_on_the_websocket_settles_nothing(
    rail: LightningRail, rest: Counting, lnbits_pair: LnbitsPair
) -> None:
    made, url = await offer(rail), lnbits_pair.publisher.url
    topic = f"/api/v1/ws/{invoice_of(made).payment_hash.hex()}"
    lie = json.dumps({"pending": False, "status": "success"})
    before = len(rest.calls)

    waiting = asyncio.create_task(rail.verify(made, by_invoice(made), NOTHING, now=system_clock()))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as stranger:
        sent = 0
        while not waiting.done():
            sent += (await stranger.post(topic, params={"data": lie})).json()["sent"] is True
            await asyncio.sleep(0.02)

    with pytest.raises(PaymentRejected, match="the invoice is open"):
        await waiting
    assert sent > 20
    assert len(rest.calls) - before <= 14  # a storm of lies is none of questions


# What a preimage proves, and to whom it is known.


async def test_the_preimage_of_an_invoice_that_is_not_settled_proves_nothing(
    rail: LightningRail, lnbits_pair: LnbitsPair, regtest: RegtestNetwork
) -> None:
    preimage, publisher = secrets.token_hex(32), lnbits_pair.publisher
    payment_hash = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
    held = {"out": False, "unit": "sat", "amount": PRICE // 1000, "memo": "held", "payment_hash": payment_hash}
    with publisher.client(publisher.admin_key) as client:
        text = client.post("/api/v1/payments", json=held).raise_for_status().json()["bolt11"]
        made = offer_of(text)
        paying = asyncio.create_task(asyncio.to_thread(regtest.bob.pay, text))

        def accepted() -> bool:
            return bool(regtest.alice.get(f"/v1/invoice/{payment_hash}")["state"] == "ACCEPTED")

        await asyncio.to_thread(wait_for, "the payment that is held", accepted, 10)

        with pytest.raises(PaymentRejected) as caught:
            await rail.verify(made, by_preimage(preimage), NOTHING, now=system_clock())
        client.post("/api/v1/payments/settle", json={"preimage": preimage}).raise_for_status()

    assert caught.value.code == "not_settled"
    assert await paying == preimage
    await rail.verify(made, by_preimage(preimage), NOTHING, now=system_clock())


async def test_a_preimage_that_lnbits_tells_to_anybody_replays_no_purchase_with_a_token(
    rail: LightningRail, lnbits_pair: LnbitsPair, tmp_path: Path
) -> None:
    gate = Gate(
        rails=[rail],
        public_url=URL,
        store=f"sqlite:///{tmp_path / 'charges.db'}",
        secret=SECRET,
        receipt_key=ReceiptKeys.generate()[1],
        dialects=[X402V2(), XReceipt()],
    )
    app = FastAPI()
    gate.install(app)

    @app.get("/article/{name}")
    @gate.paid("21 sat")
    async def article(name: str) -> dict[str, str]:
        return {"article": name}

    wallet = LightningWallet.lnbits(lnbits_pair.payer.url, lnbits_pair.payer.admin_key, "regtest")
    payer = Payer([wallet], journal=f"sqlite:///{tmp_path / 'journal.db'}", dialects=[X402V2()])
    inner = httpx.ASGITransport(app)
    async with gate, payer, httpx.AsyncClient(transport=payer.transport(inner), base_url=URL) as client:
        bought = await client.get("/article/402")
        payment_hash = bought.extensions["rail402"].receipt.transaction
        async with httpx.AsyncClient(base_url=lnbits_pair.publisher.url, trust_env=False) as stranger:
            told = (await stranger.get(f"/api/v1/payments/{payment_hash}")).json()
        async with httpx.AsyncClient(transport=inner, base_url=URL) as stranger:
            answer = await stranger.get("/article/402", headers={"X-Receipt": told["preimage"]})

    assert hashlib.sha256(bytes.fromhex(told["preimage"])).hexdigest() == payment_hash
    assert "details" not in told
    assert (bought.status_code, answer.status_code, answer.json()["code"]) == (200, 409, "replay_not_proven")


# The start.


async def test_a_key_that_can_spend_is_named_at_the_start(
    lnbits_pair: LnbitsPair, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = lnbits_pair.publisher

    with caplog.at_level(logging.WARNING, "rail402.lightning"):
        await _start(LightningRail.lnbits(publisher.url, publisher.invoice_key, "regtest"))
        assert caplog.text == ""
        await _start(LightningRail.lnbits(publisher.url, publisher.admin_key, "regtest"))

    assert "give it the wallet's invoice key instead" in caplog.text
    assert publisher.admin_key not in caplog.text


async def test_a_wallet_on_another_network_is_named_at_the_start(lnbits_pair: LnbitsPair) -> None:
    payer = lnbits_pair.payer

    with pytest.raises(ConfigurationError, match="is on regtest, and network='mainnet' is set"):
        await _start(LightningWallet.lnbits(payer.url, payer.admin_key))


async def test_the_start_of_a_wallet_leaves_at_most_one_invoice_behind(lnbits_pair: LnbitsPair) -> None:
    async with httpx.AsyncClient(base_url=lnbits_pair.payer.url, trust_env=False) as client:
        fresh = (await client.post("/api/v1/account", json={"name": "fresh"})).json()
    rest = Counting()

    for _ in range(3):
        await _start_sender(LnbitsSender(lnbits_pair.payer.url, fresh["adminkey"], network="regtest", transport=rest))

    assert [call for call in rest.calls if call.startswith("POST")] == ["POST /api/v1/payments"]


@pytest.mark.parametrize("path", ["/wallet", "/api/v1", "/nowhere"])
async def test_an_address_with_a_path_that_is_not_lnbits_is_named_at_the_start(
    lnbits_pair: LnbitsPair, path: str
) -> None:
    publisher = lnbits_pair.publisher

    with pytest.raises(ConfigurationError, match="url is its address alone"):
        await _start(LightningRail.lnbits(publisher.url + path, publisher.invoice_key, "regtest"))


LnbitsWith = Callable[[dict[str, str]], LnbitsInstance]


@pytest.fixture
def lnbits_with(tmp_path: Path) -> Iterator[LnbitsWith]:
    """Starts an LNbits with these settings, and no node of ours behind it."""
    if reason := lnbits.missing():
        require("lnbits", reason)
    if not (install_root() / "lnbits").exists():
        pytest.skip("LNbits runs elsewhere, and these tests need one of their own")
    (site_packages,) = (install_root() / "lnbits").glob("lib/python3.*/site-packages")
    with ExitStack() as services:

        def start(settings: dict[str, str]) -> LnbitsInstance:
            (port,) = free_ports(1)
            url = f"http://127.0.0.1:{port}"
            common = {
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "LNBITS_ADMIN_UI": "false",
                "LNBITS_DATA_FOLDER": str(tmp_path / "data"),
                "LNBITS_EXTENSIONS_PATH": str(tmp_path / "extensions"),
                "LNBITS_EXTENSIONS_MANIFESTS": "[]",
                "LNBITS_WASM_EXTENSIONS_MANIFESTS": "[]",
                "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
                "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
                "ENABLE_LOG_TO_FILE": "false",
                "ALL_PROXY": "http://127.0.0.1:9",
                "NO_PROXY": "127.0.0.1",
            }
            command = [str(install_root() / "lnbits" / "bin" / "lnbits")]
            process = services.enter_context(
                running("lnbits", command, tmp_path, env=common | settings, cwd=site_packages)
            )
            process.wait_until("HTTP", lambda: httpx.get(f"{url}/api/v1/health", trust_env=False).is_success)
            account = httpx.post(f"{url}/api/v1/account", json={"name": "tests"}, trust_env=False).json()
            return LnbitsInstance(url, account["adminkey"], account["inkey"], account["id"])

        yield start


@pytest.mark.service("lightning")
@pytest.mark.xdist_group("lightning")
async def test_an_lnbits_that_fell_back_to_void_wallet_is_found_at_the_start(
    lnbits_with: LnbitsWith, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fallen = lnbits_with(
        {
            "LNBITS_BACKEND_WALLET_CLASS": "LndRestWallet",
            "LND_REST_ENDPOINT": "https://127.0.0.1:9",
            "LND_REST_MACAROON": str(tmp_path / "no-such.macaroon"),
            "FUNDING_SOURCE_MAX_RETRIES": "0",
        }
    )

    # The wallet answers as if all were well.
    with fallen.client(fallen.invoice_key) as client:
        assert client.get("/api/v1/wallet").json()["balance"] == 0
    rail = LightningRail.lnbits(fallen.url, fallen.invoice_key, "regtest")
    with pytest.raises(RailUnavailable, match="fell back to VoidWallet"):
        await _start(rail)
    with pytest.raises(RailUnavailable, match="fell back to VoidWallet"):
        await _start(LightningWallet.lnbits(fallen.url, fallen.admin_key, "regtest"))

    # The app starts without it, says so, and asks for no payment that could not be made.
    gate = Gate(rails=[rail], public_url=URL, store="memory://", secret=SECRET, receipt_key=ReceiptKeys.generate()[1])
    app = FastAPI()
    gate.install(app)

    @app.get("/article")
    @gate.paid("21 sat")
    async def article() -> str:
        return "article"

    async with gate, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        answer = await client.get("/article")
    assert (answer.status_code, answer.json()["code"]) == (503, "rail_unavailable")
    assert "rail lightning cannot be reached yet" in caplog.text


@pytest.mark.service("lightning")
@pytest.mark.xdist_group("lightning")
@pytest.mark.parametrize("secret", ["ToTheMoon1", "another"])
async def test_an_lnbits_on_made_up_money_does_not_start(lnbits_with: LnbitsWith, secret: str) -> None:
    fake = lnbits_with({"LNBITS_BACKEND_WALLET_CLASS": "FakeWallet", "FAKE_WALLET_SECRET": secret})

    for network in ("mainnet", "regtest"):
        with pytest.raises(ConfigurationError, match="FakeWallet"):
            await _start(LightningRail.lnbits(fake.url, fake.invoice_key, network))
        with pytest.raises(ConfigurationError, match="FakeWallet"):
            await _start(LightningWallet.lnbits(fake.url, fake.admin_key, network))


# Helpers.


async def _start(opened: LightningRail | LightningWallet) -> None:
    try:
        await opened.start()
    finally:
        await opened.close()


async def _start_sender(sender: LnbitsSender) -> None:
    try:
        await sender.start()
    finally:
        await sender.close()


def offer_of(text: str) -> Offer:
    invoice = bolt11.decode(text)
    terms: dict[str, Any] = {
        "rail": "lightning",
        "mechanism": "bolt11",
        "network": "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328",
        "asset": "BTC",
        "amount": invoice.amount_msat,
        "currency": "BTC",
        "exponent": 11,
        "payee": invoice.payee.hex(),
        "expires_at": invoice.expires_at,
        "timeout_seconds": invoice.expiry,
        "flow": Flow.UPFRONT,
        "extra": {"invoice": text},
    }
    return Offer(**terms)
