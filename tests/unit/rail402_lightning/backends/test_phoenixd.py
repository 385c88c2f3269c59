"""phoenixd as receiver and as sender, over a fake whose money is play money, with every way in which it misleads."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.server import Request, ServerConnection, serve

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import LightningRail, LightningWallet, PhoenixdReceiver, PhoenixdSender, bolt11
from rail402_lightning.backends import InvoiceStatus
from tests.unit.rail402_lightning.backends.fake_phoenixd import FULL, LIMITED, URL, FakePhoenixd, text
from tests.unit.rail402_lightning.invoices import HASH, invoice

PAY, SENT, RECEIVED = "/payinvoice", "/payments/outgoingbyhash", "/payments/incoming"
FEES = 10_000


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakePhoenixd]:
    made = FakePhoenixd(tmp_path)
    yield made
    await made.ledger.close()


def sender(fake: FakePhoenixd, *, deadline: float = 30, password: str = FULL, **options: Any) -> PhoenixdSender:
    return PhoenixdSender(URL, password, deadline=deadline, sleep=no_pause, transport=fake.transport, **options)


def receiver(fake: FakePhoenixd, *, password: str = LIMITED, **options: Any) -> PhoenixdReceiver:
    return PhoenixdReceiver(URL, password, transport=fake.transport, **options)


# Paying.


async def test_it_pays_and_tells_the_exact_fee(fake: FakePhoenixd) -> None:
    made = await fake.invoice(1234)

    sent = await sender(fake).pay(made, max_fee_msat=FEES)

    assert sent.state == "paid"
    assert hashlib.sha256(bytes.fromhex(sent.preimage or "")).digest() == bolt11.decode(made).payment_hash
    assert sent.fee_msat == 1234  # its own answer says whole sats: 1
    assert await fake.spent() == 1_234_000 + 1234


@pytest.mark.parametrize("paid_before", [True, False])
async def test_an_invoice_is_paid_once_however_often_it_is_told_to(fake: FakePhoenixd, paid_before: bool) -> None:
    made, paying = await fake.invoice(), sender(fake)
    if paid_before:
        await paying.pay(made, max_fee_msat=FEES)
        assert (await paying.pay(made, max_fee_msat=FEES)).state == "paid"
        assert fake.calls.count(PAY) == 1
    else:
        both = await asyncio.gather(*(sender(fake).pay(made, max_fee_msat=FEES) for _ in range(4)))
        assert {each.state for each in both} == {"paid"}

    assert await fake.spent() == 1_001_000


async def test_that_it_was_paid_before_is_not_taken_for_a_failure(fake: FakePhoenixd) -> None:
    made = await fake.invoice()
    await sender(fake).pay(made, max_fee_msat=FEES)
    fake.fail(SENT, text(404, "Not found"))  # so that it is told to pay once more

    assert (await sender(fake).pay(made, max_fee_msat=FEES)).state == "paid"
    assert await fake.spent() == 1_001_000


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.Response(200, text='{"paymentHash": "'),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=["paid"]),
        httpx.Response(200, json={"paymentHash": "00" * 32, "reason": "another payment"}),
        httpx.Response(502, text="<html>Bad gateway"),
        httpx.Response(500, text="timeout"),
        httpx.Response(200, content=b"x" * (1 << 20) + b"x"),
        httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b""),
    ],
)
@pytest.mark.parametrize("done", [True, False])
async def test_an_answer_that_is_lost_is_looked_up(fake: FakePhoenixd, lost: Any, done: bool) -> None:
    made, paying = await fake.invoice(), sender(fake, deadline=0.2)
    fake.fail(PAY, lost, done=done)

    sent = await paying.pay(made, max_fee_msat=FEES)

    assert sent.state == ("paid" if done else "unknown")
    assert await fake.spent() == (1_001_000 if done else 0)
    assert fake.calls.count(PAY) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 429])
async def test_a_proxy_s_no_is_believed_only_where_phoenixd_knows_of_no_payment(
    fake: FakePhoenixd, status: int
) -> None:
    made, paying = await fake.invoice(), sender(fake, deadline=0.2)
    page = text(status, "<html>")
    await fake.ledger.script("next", "fail")
    await sender(fake).pay(made, max_fee_msat=FEES)
    fake.fail(PAY, page)
    with pytest.raises(RailUnavailable, match=f"{status}"):  # there is a row, and it is that of the try before
        await paying.pay(made, max_fee_msat=FEES)

    await fake.ledger.script("next", "pending-then-settle")
    fake.fail(PAY, page, done=True)
    assert (await paying.pay(made, max_fee_msat=FEES)).state == "unknown"
    await fake.ledger.release(bolt11.decode(made).payment_hash)
    second = await fake.invoice()
    fake.fail(PAY, page, done=True)

    assert (await paying.pay(second, max_fee_msat=FEES)).state == "paid"
    assert await fake.spent() == 2_002_000


async def test_a_no_that_cannot_be_looked_up_is_no_answer(fake: FakePhoenixd) -> None:
    made, not_found = await fake.invoice(), text(404, "Not found")
    fake.fail(PAY, text(429, "slow down"), done=True)
    fake.fail(SENT, not_found)  # before it is told to pay
    fake.fail(SENT, text(429, "slow down"), times=1000)

    assert (await sender(fake, deadline=0.2).pay(made, max_fee_msat=FEES)).state == "unknown"


async def test_what_was_surely_not_sent_is_an_outage(fake: FakePhoenixd) -> None:
    made, paying = await fake.invoice(), sender(fake)
    for refused in (httpx.ConnectError("x"), httpx.PoolTimeout("x"), text(400, "no"), text(401, "no"), text(429, "")):
        fake.fail(PAY, refused)
        with pytest.raises(RailUnavailable):
            await paying.pay(made, max_fee_msat=FEES)
    fake.fail(SENT, httpx.ReadTimeout("x"))
    with pytest.raises(RailUnavailable):
        await paying.pay(made, max_fee_msat=FEES)

    assert fake.calls.count(PAY) == 5  # not when it is not known whether it was paid before
    assert await fake.spent() == 0


async def test_a_payment_that_failed_is_told_with_status_200(fake: FakePhoenixd) -> None:
    made = await fake.invoice()
    await fake.ledger.script("next", "fail", reason="the ab" + "cd" * 32 + " is gone")

    sent = await sender(fake).pay(made, max_fee_msat=FEES)

    assert sent.state == "failed"
    assert "cdcd" not in sent.detail
    assert (await sender(fake).lookup(bolt11.decode(made).payment_hash)) is not None
    assert (await sender(fake).pay(made, max_fee_msat=FEES)).state == "paid"  # a second try may do


async def test_a_failure_without_a_row_counts_and_an_earlier_row_does_not(fake: FakePhoenixd) -> None:
    foreign = invoice(amount_msat=1_000_000, payment_hash=bytes(32))
    body = {"paymentHash": bytes(32).hex(), "reason": "invoice contains features that are not supported"}
    fake.fail(PAY, httpx.Response(200, json=body))
    assert (await sender(fake).pay(foreign, max_fee_msat=FEES)).state == "failed"

    made = await fake.invoice()
    await fake.ledger.script("next", "fail")
    await sender(fake).pay(made, max_fee_msat=FEES)
    fake.fail(PAY, httpx.ReadTimeout("x"))
    # The row that there is may be that of the try before: the new one can still be on its way.
    assert (await sender(fake, deadline=0.1).pay(made, max_fee_msat=FEES)).state == "unknown"


async def test_a_payment_in_flight_is_unknown_until_it_ends(fake: FakePhoenixd) -> None:
    made = await fake.invoice()
    payment_hash = bolt11.decode(made).payment_hash
    await fake.ledger.script("next", "pending-then-settle")

    assert (await sender(fake, deadline=0.1).pay(made, max_fee_msat=FEES)).state == "unknown"
    found = await sender(fake).lookup(payment_hash)
    assert found is not None
    assert found.state == "unknown"
    await fake.ledger.release(payment_hash)
    assert (await sender(fake).pay(made, max_fee_msat=FEES)).state == "paid"
    assert fake.calls.count(PAY) == 1


async def test_its_fee_is_fixed_so_a_lower_limit_is_refused_before_paying(fake: FakePhoenixd) -> None:
    made, paying = await fake.invoice(1000), sender(fake)

    assert await paying.fee_ceiling(made, max_fee_msat=0) == 8000
    assert (await paying.pay(made, max_fee_msat=7999)).state == "failed"
    assert PAY not in fake.calls
    assert (await paying.pay(made, max_fee_msat=8000)).state == "paid"


@pytest.mark.parametrize(
    "row",
    [
        {"isPaid": True, "fees": "1"},
        {"isPaid": True, "fees": -1},
        {"isPaid": "true", "fees": 1},
        {"isPaid": False, "completedAt": "now"},
        {},
        {"isPaid": True, "fees": 1, "paymentHash": "00" * 32},
    ],
)
async def test_a_row_that_cannot_be_believed_says_nothing(fake: FakePhoenixd, row: dict[str, Any]) -> None:
    fake.fail(SENT, httpx.Response(200, json={"paymentHash": HASH.hex()} | row))

    with pytest.raises(RailUnavailable):
        await sender(fake).lookup(HASH)


async def test_what_it_never_heard_of_is_none_and_an_unknown_path_is_no_answer(fake: FakePhoenixd) -> None:
    assert await sender(fake).lookup(HASH) is None
    assert await receiver(fake).status(HASH) is None
    fake.fail(SENT, text(404, "Unknown endpoint (check api doc)"))

    with pytest.raises(RailUnavailable):
        await sender(fake).lookup(HASH)


async def test_the_wallet_takes_no_other_preimage(fake: FakePhoenixd) -> None:
    made = await fake.invoice()
    await sender(fake).pay(made, max_fee_msat=FEES)
    row = {"paymentHash": bolt11.decode(made).payment_hash.hex(), "isPaid": True, "fees": 0, "preimage": "cd" * 32}
    fake.fail(SENT, httpx.Response(200, json=row))

    found = await sender(fake).lookup(bolt11.decode(made).payment_hash)

    assert found is not None
    assert (found.state, found.preimage) == ("paid", "cd" * 32)  # which `LightningWallet` checks, as of any sender
    assert "cdcd" not in repr(found)


async def test_the_balance_is_in_millisatoshis(fake: FakePhoenixd) -> None:
    assert await sender(fake).balance() == 1_000_000_000


# Receiving.


async def test_an_invoice_is_made_over_whole_sats_with_the_hash_of_its_description(fake: FakePhoenixd) -> None:
    made = await receiver(fake).create_invoice(21_000, expiry_seconds=600, hashed_description=b"GET /article")

    found = bolt11.decode(made)
    assert (found.amount_msat, found.expiry) == (21_000, 600)
    assert found.description_hash == hashlib.sha256(b"GET /article").digest()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout("x"),
        httpx.ConnectError("x"),
        text(400, "bad"),
        text(500, "<html>"),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"serialized": 7}),
        httpx.Response(200, text="lnbc"),
    ],
)
async def test_an_invoice_that_is_not_made_is_an_outage(fake: FakePhoenixd, answer: Any) -> None:
    fake.fail("/createinvoice", answer)

    with pytest.raises(RailUnavailable):
        await receiver(fake).create_invoice(21_000, expiry_seconds=600, hashed_description=b"")


async def test_paid_is_what_counts_in_full_and_never_a_preimage(fake: FakePhoenixd) -> None:
    receiving = receiver(fake)
    made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    payment_hash = bolt11.decode(made).payment_hash
    assert await receiving.status(payment_hash) == InvoiceStatus(state="open")

    await fake.ledger.pay_invoice(made, wallet="agent", max_fee_msat=1000)
    fake.bought_channel_for = 20
    settled_at = fake.clock()
    assert await receiving.status(payment_hash) == InvoiceStatus(
        state="settled", received_msat=21_000, settled_at=settled_at
    )


async def test_an_invoice_that_has_expired_says_so(fake: FakePhoenixd) -> None:
    receiving = receiver(fake)
    made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    fake.clock.advance(601)

    assert await receiving.status(bolt11.decode(made).payment_hash) == InvoiceStatus(state="expired")


@pytest.mark.parametrize(
    "row",
    [
        {"isPaid": True, "completedAt": 1},
        {"isPaid": True, "requestedSat": 21, "completedAt": None},
        {"isPaid": "true", "isExpired": False},
        {"isPaid": False},
        {"isPaid": False, "isExpired": False, "paymentHash": "00" * 32},
    ],
)
async def test_an_answer_that_cannot_be_believed_settles_nothing(fake: FakePhoenixd, row: dict[str, Any]) -> None:
    fake.fail(RECEIVED, httpx.Response(200, json={"paymentHash": HASH.hex()} | row))

    with pytest.raises(RailUnavailable):
        await receiver(fake).status(HASH)


# Starting.


async def test_the_start_checks_password_and_network_and_names_the_fix(fake: FakePhoenixd) -> None:
    await receiver(fake, network="regtest").start()
    await receiver(fake).health()
    await sender(fake, network="regtest").start()
    wrong: list[tuple[PhoenixdReceiver | PhoenixdSender, str]] = [
        (receiver(fake, password="other"), "http-password in its phoenix.conf"),
        (sender(fake, password=LIMITED), "give it http-password"),
        (receiver(fake, network="mainnet"), "phoenixd is on regtest"),
    ]
    for made, fix in wrong:
        with pytest.raises(ConfigurationError, match=fix) as caught:
            await made.start()
        assert "5ec2e7" not in str(caught.value)
    assert await fake.spent() == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (text(404, "<html>"), ConfigurationError),
        (httpx.Response(200, json={"version": "1"}), ConfigurationError),
        (text(503, ""), RailUnavailable),
        (httpx.Response(200, text="<html>"), RailUnavailable),
        (httpx.ConnectError("x"), RailUnavailable),
    ],
)
async def test_what_is_no_phoenixd_is_said_at_the_start(fake: FakePhoenixd, answer: Any, kind: type[Exception]) -> None:
    fake.fail("/getinfo", answer)

    with pytest.raises(kind):
        await sender(fake).start()


async def test_testnet_has_two_chains(fake: FakePhoenixd) -> None:
    for fake.chain in ("testnet3", "testnet4"):
        await receiver(fake, network="testnet").start()


async def test_a_publisher_needs_no_password_that_can_spend(
    fake: FakePhoenixd, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rail402.lightning"):
        await receiver(fake).start()
        assert "can spend" not in caplog.text
        await receiver(fake, password=FULL).start()

    assert "give it http-password-limited-access instead" in caplog.text
    assert FULL not in caplog.text


@pytest.mark.parametrize("made", [PhoenixdReceiver, PhoenixdSender])
def test_addresses_and_passwords_are_checked(made: Callable[..., Any]) -> None:
    for url, password in (
        ("http://phoenixd.example.com", FULL),
        ("ftp://127.0.0.1", FULL),
        (f"http://:{FULL}@127.0.0.1:9740", FULL),
        (URL, ""),
        (URL, "a\nb"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            made(url, password)
        assert password == "" or password not in str(caught.value)
    with pytest.raises(ConfigurationError):
        made(URL, FULL, network="bitcoin")
    assert FULL not in repr(made("https://phoenixd.example.com", FULL)._api)


async def test_rail_and_wallet_start_on_it(fake: FakePhoenixd) -> None:
    rail = LightningRail(receiver(fake), network="regtest")
    wallet = LightningWallet(sender(fake), network="regtest", max_fee_sat=7)

    await rail.start()
    await wallet.start()
    await wallet.close()
    await rail.close()


# Waiting.


async def waits(fake: FakePhoenixd, *messages: str, made: str | None = None) -> tuple[float, list[Request]]:
    """Wait for an invoice while phoenixd says these things; how long that took, and what was asked."""
    asked: list[Request] = []

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append(connection.request)
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    text_of = made or await fake.ledger.create_invoice(21_000, expiry_seconds=600)
    async with serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        waiting = PhoenixdReceiver(f"http://127.0.0.1:{port}", LIMITED, transport=fake.transport)
        begun = asyncio.get_running_loop().time()
        await waiting.wait(bolt11.decode(text_of).payment_hash, seconds=0.4)
        return asyncio.get_running_loop().time() - begun, asked


async def test_it_listens_with_its_password_for_its_own_invoice(fake: FakePhoenixd) -> None:
    made = await fake.ledger.create_invoice(21_000, expiry_seconds=600)
    event = {"type": "payment_received", "paymentHash": bolt11.decode(made).payment_hash.hex(), "amountSat": 21}

    took, (request,) = await waits(
        fake, "not JSON", json.dumps({"paymentHash": "00" * 32}), json.dumps(event), made=made
    )

    assert took < 0.35
    assert request.path == "/websocket"
    assert request.headers["Authorization"].startswith("Basic ")


async def test_other_payments_and_silence_end_with_the_time(fake: FakePhoenixd) -> None:
    assert (await waits(fake))[0] >= 0.39
    assert (await waits(fake, json.dumps({"paymentHash": "00" * 32})))[0] >= 0.39


async def test_what_was_paid_before_is_not_waited_for(fake: FakePhoenixd) -> None:
    made = await fake.ledger.create_invoice(21_000, expiry_seconds=600)
    await fake.ledger.pay_invoice(made, wallet="agent", max_fee_msat=1000)

    assert (await waits(fake, made=made))[0] < 0.35


async def test_without_a_websocket_it_is_a_slow_poll(fake: FakePhoenixd) -> None:
    begun = asyncio.get_running_loop().time()
    await PhoenixdReceiver("http://127.0.0.1:1", LIMITED, transport=fake.transport).wait(HASH, seconds=0.2)

    assert asyncio.get_running_loop().time() - begun >= 0.19
