"""Core Lightning as receiver and as sender, over a fake whose money is play money, with its misleading answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import ClnReceiver, ClnSender, LightningRail, LightningWallet, bolt11
from rail402_lightning.backends import InvoiceStatus
from tests.unit.rail402_lightning.backends.certificates import Certificate
from tests.unit.rail402_lightning.backends.fake_cln import PAY, RECEIVE, URL, FakeCln, done, error
from tests.unit.rail402_lightning.invoices import HASH, PREIMAGE

FEES = 10_000


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeCln]:
    made = FakeCln(tmp_path)
    yield made
    await made.ledger.close()


def sender(fake: FakeCln, *, deadline: float = 30, rune: str = PAY, **options: Any) -> ClnSender:
    transport = fake.transport
    return ClnSender(URL, rune, deadline=deadline, clock=fake.clock, sleep=no_pause, transport=transport, **options)


def receiver(fake: FakeCln, *, rune: str = RECEIVE, **options: Any) -> ClnReceiver:
    return ClnReceiver(URL, rune, transport=fake.transport, **options)


def row(status: str, **changes: Any) -> dict[str, Any]:
    return {"payment_hash": HASH.hex(), "status": status, "created_at": 0, "amount_sent_msat": 21_021} | changes


# Paying.


async def test_it_pays_within_the_limit_and_tells_the_fee(fake: FakeCln) -> None:
    made = await fake.invoice(1000)

    sent = await sender(fake).pay(made, max_fee_msat=FEES)

    assert (sent.state, sent.fee_msat) == ("paid", 1000)
    assert hashlib.sha256(bytes.fromhex(sent.preimage or "")).digest() == bolt11.decode(made).payment_hash
    assert await fake.spent() == 1_001_000
    assert fake.bodies[-1] == {"method": "xpay", "invstring": made, "maxfee": FEES, "retry_for": 15}


async def test_a_version_without_xpay_pays_by_pay(fake: FakeCln) -> None:
    fake.unknown = {"xpay"}
    made = await fake.invoice(1000)

    assert (await sender(fake).pay(made, max_fee_msat=FEES)).state == "paid"
    assert fake.bodies[-1] == {"method": "pay", "bolt11": made, "maxfee": FEES, "retry_for": 15}
    fake.unknown = {"xpay", "pay"}
    with pytest.raises(RailUnavailable):
        await sender(fake).pay(await fake.invoice(), max_fee_msat=FEES)


async def test_an_invoice_is_paid_once_however_often_it_is_told_to(fake: FakeCln) -> None:
    made = await fake.invoice()

    told = await asyncio.gather(*(sender(fake).pay(made, max_fee_msat=FEES) for _ in range(4)))
    again = await sender(fake).pay(made, max_fee_msat=FEES)

    assert {each.state for each in [*told, again]} == {"paid"}
    assert await fake.spent() == 1_001_000
    assert fake.calls.count("xpay") <= 4


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.Response(201, text='{"payment_preimage": "'),
        httpx.Response(200, text="<html>"),
        done({"status": "pending", "payment_preimage": PREIMAGE}),
        done({"payment_preimage": PREIMAGE, "amount_msat": 1_000_000, "amount_sent_msat": 1_000_000}),  # another one
        done({}),
        httpx.Response(502, text="<html>Bad gateway"),
        httpx.Response(500, json={"detail": "oops"}),
        error(None, "Could not connect to lightning-rpc"),
        error(-1, "catchall"),
        error(201, "Already paid"),
        error(219, "Already paid"),
        error(-4, "plugin terminated"),
    ],
)
@pytest.mark.parametrize("is_done", [True, False])
async def test_an_answer_that_proves_nothing_is_looked_up(fake: FakeCln, lost: Any, is_done: bool) -> None:
    made = await fake.invoice()
    fake.fail("xpay", lost, done=is_done)

    sent = await sender(fake, deadline=0.3).pay(made, max_fee_msat=FEES)

    assert sent.state == ("paid" if is_done else "unknown")
    assert await fake.spent() == (1_001_000 if is_done else 0)
    assert fake.calls.count("xpay") == 1
    if is_done:
        assert (sent.preimage, sent.fee_msat) != (PREIMAGE, 0)


async def test_what_was_surely_not_sent_is_an_outage(fake: FakeCln) -> None:
    made = await fake.invoice()
    refusals = [httpx.ConnectError("x"), error(1502, "no", status=401), error(1501, "no", status=403)]
    for refused in refusals:
        fake.fail("xpay", refused)
        with pytest.raises(RailUnavailable):
            await sender(fake).pay(made, max_fee_msat=FEES)
    fake.fail("listpays", httpx.ReadTimeout("x"))
    with pytest.raises(RailUnavailable):
        await sender(fake).pay(made, max_fee_msat=FEES)

    assert fake.calls.count("xpay") == len(refusals)  # not when it is not known whether it was paid before
    assert await fake.spent() == 0


@pytest.mark.parametrize("status", [401, 403])
async def test_a_proxy_s_no_is_believed_only_where_the_node_knows_of_no_payment(fake: FakeCln, status: int) -> None:
    made = await fake.invoice()
    fake.fail("xpay", httpx.Response(status, json={"message": "Forbidden"}), done=True)

    assert (await sender(fake).pay(made, max_fee_msat=FEES)).state == "paid"
    assert await fake.spent() == 1_001_000


@pytest.mark.parametrize("code", [203, 205, 206, 207, 209, 210, -32602])
async def test_a_refusal_counts_once_nothing_is_in_flight(fake: FakeCln, code: int) -> None:
    made = await fake.invoice()
    fake.fail("xpay", error(code, "no route for " + "cd" * 32))

    sent = await sender(fake).pay(made, max_fee_msat=FEES)

    assert sent.state == "failed"
    assert "cdcd" not in sent.detail

    await fake.ledger.script("next", "pending-then-settle")
    in_flight = await sender(fake, deadline=0.2).pay(made, max_fee_msat=FEES)  # 209, with parts still pending
    assert in_flight.state == "unknown"
    await fake.ledger.release(bolt11.decode(made).payment_hash)
    assert (await sender(fake).pay(made, max_fee_msat=FEES)).state == "paid"
    assert fake.calls.count("xpay") == 2


async def test_between_two_attempts_a_payment_has_not_failed(fake: FakeCln) -> None:
    made = await fake.invoice()
    payment_hash = bolt11.decode(made).payment_hash
    await fake.ledger.script("next", "fail")
    fake.fail("xpay", httpx.ReadTimeout("x"), done=True)
    paying = sender(fake, deadline=0.3)

    assert (await paying.pay(made, max_fee_msat=FEES)).state == "unknown"
    fake.clock.advance(60)
    found = await paying.lookup(payment_hash)
    assert found is not None
    assert found.state == "unknown"
    # Nor is it tried once more beside the first.
    assert (await paying.pay(made, max_fee_msat=FEES)).state == "unknown"
    assert fake.calls.count("xpay") == 1

    fake.clock.advance(1)
    found = await paying.lookup(payment_hash)
    assert found is not None
    assert found.state == "failed"
    assert (await paying.pay(made, max_fee_msat=FEES)).state == "paid"


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ([row("failed"), row("complete", preimage=PREIMAGE, amount_msat=21_000)], "paid"),
        ([row("complete", preimage=PREIMAGE, amount_msat="21000msat", amount_sent_msat="21021msat")], "paid"),
        ([row("failed"), row("pending")], "unknown"),
        ([row("failed"), row("failed")], "failed"),
        ([], None),
    ],
)
async def test_of_several_tries_the_best_one_counts(fake: FakeCln, rows: Any, state: str | None) -> None:
    fake.fail("listpays", done({"pays": rows}))

    found = await sender(fake).lookup(HASH)

    assert (None if found is None else found.state) == state
    if found is not None and state == "paid":
        assert (found.preimage, found.fee_msat) == (PREIMAGE, 21)
        assert PREIMAGE not in repr(found)


@pytest.mark.parametrize(
    "rows",
    [
        [row("complete", payment_hash="00" * 32)],
        [row("done")],
        [row("complete", preimage=PREIMAGE)],  # over what?
        [row("complete", preimage=PREIMAGE, amount_msat=21_000, amount_sent_msat="21 sat")],
        [row("failed", created_at=None)],
        ["complete"],
        {"status": "complete"},
    ],
)
async def test_rows_that_cannot_be_believed_say_nothing(fake: FakeCln, rows: Any) -> None:
    fake.fail("listpays", done({"pays": rows}))

    with pytest.raises(RailUnavailable):
        await sender(fake).lookup(HASH)


async def test_a_row_without_its_amount_has_it_in_its_invoice(fake: FakeCln) -> None:
    made = await fake.invoice(20)
    paid = row("complete", preimage=PREIMAGE, bolt11=made)
    fake.fail("listpays", done({"pays": [paid]}))

    found = await sender(fake).lookup(HASH)

    assert found is not None
    assert found.fee_msat == 1021


async def test_only_channels_whose_peer_is_there_can_be_spent_from(fake: FakeCln) -> None:
    fake.channels = [
        {"state": "CHANNELD_NORMAL", "peer_connected": True, "spendable_msat": 5},
        {"state": "CHANNELD_NORMAL", "peer_connected": True, "spendable_msat": "7msat"},
        {"state": "CHANNELD_NORMAL", "peer_connected": False, "spendable_msat": 100},
        {"state": "ONCHAIN", "peer_connected": True, "spendable_msat": 100},
    ]

    assert await sender(fake).balance() == 12
    assert await sender(fake).fee_ceiling("", max_fee_msat=3) == 3


# Receiving.


async def test_an_invoice_is_made_with_a_label_of_its_own(fake: FakeCln) -> None:
    receiving = receiver(fake, private=True)

    first = await receiving.create_invoice(21_500, expiry_seconds=600, hashed_description="Käse".encode())
    await receiving.create_invoice(21_500, expiry_seconds=600, hashed_description=b"")

    found = bolt11.decode(first)
    assert (found.amount_msat, found.expiry) == (21_500, 600)
    assert found.description_hash == hashlib.sha256("Käse".encode()).digest()
    assert len(set(fake.labels.values())) == 2
    assert fake.bodies[0]["exposeprivatechannels"] is True


@pytest.mark.parametrize("lost", [httpx.ReadTimeout("x"), httpx.Response(502, text="<html>"), error(900, "Duplicate")])
@pytest.mark.parametrize("is_done", [True, False])
async def test_an_invoice_whose_making_was_not_answered_is_found_by_its_label(
    fake: FakeCln, lost: Any, is_done: bool
) -> None:
    fake.fail("invoice", lost, done=is_done)
    receiving = receiver(fake)

    if is_done:
        made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"x")
        assert list(fake.made.values()) == [made]
    else:
        with pytest.raises(RailUnavailable):
            await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"x")


@pytest.mark.parametrize(
    "answer",
    [httpx.ConnectError("x"), error(-1, "no"), done({}), done({"bolt11": 7}), error(1502, "no", status=401)],
)
async def test_an_invoice_that_is_not_made_is_an_outage(fake: FakeCln, answer: Any) -> None:
    fake.fail("invoice", answer)

    with pytest.raises(RailUnavailable):
        await receiver(fake).create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    with pytest.raises(RailUnavailable):
        await receiver(fake).create_invoice(21_000, expiry_seconds=600, hashed_description=b"\xff")


async def test_paid_is_what_counts(fake: FakeCln) -> None:
    receiving = receiver(fake)
    made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    payment_hash = bolt11.decode(made).payment_hash
    assert await receiving.status(payment_hash) == InvoiceStatus(state="open")
    assert await receiving.status(HASH) is None

    await fake.ledger.pay_invoice(made, wallet="agent", max_fee_msat=1000)
    paid = InvoiceStatus(state="settled", received_msat=21_000, settled_at=fake.clock())
    assert await receiving.status(payment_hash) == paid


async def test_an_invoice_that_has_expired_says_so(fake: FakeCln) -> None:
    receiving = receiver(fake)
    made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    fake.clock.advance(601)

    assert await receiving.status(bolt11.decode(made).payment_hash) == InvoiceStatus(state="expired")


@pytest.mark.parametrize(
    "rows",
    [
        [{"payment_hash": "00" * 32, "status": "paid"}],
        [{"payment_hash": HASH.hex(), "status": "paid"}],
        [{"payment_hash": HASH.hex(), "status": "settled"}],
        [{"payment_hash": HASH.hex(), "status": "unpaid"}] * 2,
        None,
    ],
)
async def test_an_answer_that_cannot_be_believed_settles_nothing(fake: FakeCln, rows: Any) -> None:
    fake.fail("listinvoices", done({"invoices": rows}))

    with pytest.raises(RailUnavailable):
        await receiver(fake).status(HASH)


async def test_it_waits_until_the_node_says_so(fake: FakeCln) -> None:
    receiving, now = receiver(fake), asyncio.get_running_loop().time
    made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    payment_hash = bolt11.decode(made).payment_hash

    begun = now()
    await receiving.wait(payment_hash, seconds=0.2)
    assert 0.19 <= now() - begun < 1
    waiting = asyncio.create_task(receiving.wait(payment_hash, seconds=10))
    await fake.ledger.pay_invoice(made, wallet="agent", max_fee_msat=1000)
    await waiting
    assert now() - begun < 5
    await receiving.wait(payment_hash, seconds=10)  # paid already
    assert now() - begun < 5


@pytest.mark.parametrize(
    "answer", [httpx.ConnectError("x"), httpx.ReadTimeout("x"), error(-1, "gone"), error(1502, "no", status=401)]
)
async def test_a_wait_that_cannot_be_had_is_a_slow_poll(fake: FakeCln, answer: Any) -> None:
    receiving, now = receiver(fake), asyncio.get_running_loop().time
    made = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
    fake.fail("waitinvoice", answer)

    begun = now()
    await receiving.wait(bolt11.decode(made).payment_hash, seconds=0.2)
    assert now() - begun >= 0.19


# Starting.


async def test_the_start_checks_rune_and_network_and_names_the_fix(fake: FakeCln) -> None:
    await receiver(fake, network="regtest").start()
    await receiver(fake).health()
    await sender(fake, network="regtest").start()
    wrong: list[tuple[ClnReceiver | ClnSender, str]] = [
        (receiver(fake, rune="other"), "createrune"),
        (receiver(fake, rune=PAY), "listinvoices"),
        (sender(fake, rune=RECEIVE), "listpays"),
        (sender(fake, network="mainnet"), "is on regtest"),
    ]
    for made, fix in wrong:
        with pytest.raises(ConfigurationError, match=fix) as caught:
            await made.start()
        assert "5ec2e7" not in str(caught.value)
    assert await fake.spent() == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(-32601, "Path not found", status=404), ConfigurationError),
        (done({"id": "02"}), ConfigurationError),
        (httpx.Response(200, text="<html>"), RailUnavailable),
        (error(-1, "starting"), RailUnavailable),
        (httpx.ConnectError("x"), RailUnavailable),
        (done({"network": "regtest", "warning_bitcoind_sync": "behind", "num_active_channels": 1}), RailUnavailable),
        (done({"network": "regtest", "num_active_channels": 0}), RailUnavailable),
        (done({"network": "regtest"}), RailUnavailable),
    ],
)
async def test_what_cannot_be_used_is_said_at_the_start(fake: FakeCln, answer: Any, kind: type[Exception]) -> None:
    fake.fail("getinfo", answer)

    with pytest.raises(kind):
        await receiver(fake).start()


async def test_mainnet_is_called_bitcoin(fake: FakeCln) -> None:
    fake.info = {"network": "bitcoin"}
    await receiver(fake, network="mainnet").start()


async def test_a_publisher_needs_no_rune_that_can_spend(
    fake: FakeCln, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, "rail402.lightning"):
        await receiver(fake).start()
        assert "can spend" not in caplog.text
        monkeypatch.setitem(
            __import__("tests.unit.rail402_lightning.backends.fake_cln", fromlist=["METHODS"]).METHODS,
            "rune-all",
            {"getinfo", "listinvoices", "pay"},
        )
        await receiver(fake, rune="rune-all").start()

    assert "can spend" in caplog.text
    assert "rune-all" not in caplog.text


async def test_a_node_with_nothing_to_spend_starts_and_says_so(fake: FakeCln, caplog: pytest.LogCaptureFixture) -> None:
    fake.channels = []
    with caplog.at_level(logging.WARNING, "rail402.lightning"):
        await sender(fake).start()

    assert "cannot pay" in caplog.text


@pytest.mark.parametrize("made", [ClnReceiver, ClnSender])
def test_addresses_runes_and_certificates_are_checked(made: Callable[..., Any], tmp_path: Path) -> None:
    for url, rune, tls_cert in (
        ("http://cln.example.com", PAY, None),
        ("https://cln.example.com/?rune=1", PAY, None),
        (URL, "", None),
        (URL, "a b", None),
        (URL, "a\nb", None),
        (URL, PAY, tmp_path / "none.pem"),
        (URL, PAY, "not a file"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            made(url, rune, tls_cert=tls_cert)
        assert rune == "" or rune not in str(caught.value)
    with pytest.raises(ConfigurationError):
        made(URL, PAY, network="bitcoin")
    pem = Certificate(tmp_path / "node").path
    assert PAY not in repr(made(URL, PAY, tls_cert=pem)._api)
    assert made(URL, PAY, tls_cert=pem.read_text())


async def test_a_certificate_that_is_not_the_node_s_is_refused(tmp_path: Path, fake: FakeCln) -> None:
    shown, pinned = Certificate(tmp_path / "shown"), Certificate(tmp_path / "pinned")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=shown.context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for tls_cert, fix in ((pinned.path, "copy the certificate"), (None, "set tls_cert")):
            with pytest.raises(ConfigurationError, match=fix):
                await ClnSender(url, PAY, tls_cert=tls_cert).start()


async def test_rail_and_wallet_start_on_it(fake: FakeCln) -> None:
    rail = LightningRail(receiver(fake), network="regtest")
    wallet = LightningWallet(sender(fake), network="regtest")

    await rail.start()
    await wallet.start()
    await wallet.close()
    await rail.close()
