"""Nostr Wallet Connect as receiver and as sender: a relay on a loopback port, a wallet behind it, and what fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import LightningRail, LightningWallet, NwcReceiver, NwcSender, bolt11
from rail402_lightning.backends import InvoiceStatus
from rail402_lightning.backends.nwc_relay import NwcRelays, _Open
from rail402_lightning.backends.nwc_wire import NOTIFICATION, REPLY, parse_connection
from tests.unit.rail402_lightning.backends.fake_nwc import CLIENT, STRANGER, FakeNwc, address, public
from tests.unit.rail402_lightning.invoices import HASH, invoice

FEES = 10_000


async def short(_: float) -> None:
    await asyncio.sleep(0.01)


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeNwc]:
    made = FakeNwc(tmp_path)
    yield made
    await made.ledger.close()


@asynccontextmanager
async def paying(fake: FakeNwc, *, deadline: float = 20, relays: int = 1, **options: Any) -> AsyncIterator[NwcSender]:
    async with fake.running(relays) as connection:
        sender = NwcSender(connection, deadline=deadline, clock=fake.clock, sleep=short, **options)
        try:
            yield sender
        finally:
            await sender.close()


@asynccontextmanager
async def receiving(fake: FakeNwc, **options: Any) -> AsyncIterator[NwcReceiver]:
    async with fake.running() as connection:
        receiver = NwcReceiver(connection, clock=fake.clock, sleep=short, **options)
        try:
            yield receiver
        finally:
            await receiver.close()


def pays(fake: FakeNwc) -> int:
    return [method for _, method in fake.seen].count("pay_invoice")


# Paying.


@pytest.mark.parametrize("encryption", ["nip44_v2", "nip04 nip44_v2", "nip04", None])
async def test_it_pays_in_whatever_encryption_the_wallet_has(fake: FakeNwc, encryption: str | None) -> None:
    fake.encryption = encryption
    made = await fake.invoice(1234)
    async with paying(fake) as sender:
        sent = await sender.pay(made, max_fee_msat=12_340)

    assert (sent.state, sent.fee_msat) == ("paid", 1234)
    assert hashlib.sha256(bytes.fromhex(sent.preimage or "")).digest() == bolt11.decode(made).payment_hash
    assert await fake.spent() == 1_234_000 + 1234
    modern = encryption is not None and "nip44_v2" in encryption
    assert {event.tag("encryption") for event in fake.events} == ({"nip44_v2"} if modern else {None})


async def test_an_encryption_that_nobody_knows_is_no_reason_to_fall_back(fake: FakeNwc) -> None:
    fake.encryption = "nip99"
    async with paying(fake) as sender:
        with pytest.raises(ConfigurationError, match="encryption"):
            await sender.start()

    assert fake.events == []


async def test_every_request_is_the_wallet_s_alone_and_expires(fake: FakeNwc) -> None:
    async with paying(fake) as sender:
        await sender.balance()

    (event,) = fake.events
    assert event.tag("expiration") == str(fake.clock() + 16)
    assert "get_balance" not in event.content


@pytest.mark.parametrize("doors", ["shut", "slow"])
@pytest.mark.parametrize("relays", [1, 3])
async def test_a_relay_that_wants_to_know_who_asks_is_told(fake: FakeNwc, doors: str, relays: int) -> None:
    fake.doors = doors
    made = await fake.invoice()
    async with paying(fake, relays=relays) as sender:
        await sender.start()
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "paid"
        for socket in list(fake.sockets):  # who comes again is asked again
            await socket.close()
        assert await sender.balance() > 0

    assert await fake.spent() == 1_001_000
    assert CLIENT.hex() not in str(fake.events)


async def test_a_request_on_a_relay_that_asks_late_is_made_again(fake: FakeNwc) -> None:
    async with paying(fake) as sender:
        await sender.start()
        fake.doors = "slow"
        assert await sender.balance() > 0
        assert [method for _, method in fake.seen] == ["get_info", "get_balance"]


async def test_a_relay_that_lets_nobody_in_is_an_outage_that_says_so(
    fake: FakeNwc, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rail402_lightning.backends.nwc_client._TIMEOUT", 0.3)
    fake.doors = "locked"
    async with paying(fake) as sender:
        with pytest.raises(RailUnavailable, match=r"lets the connection's key in \(NIP-42\)"):
            await sender.start()
        assert "does not let the connection's key in" in caplog.text
        fake.doors = "open"
        for socket in list(fake.sockets):
            await socket.close()
        await sender.start()
        fake.doors, fake.known = "locked", set()
        with pytest.raises(RailUnavailable, match="no relay lets the connection's key in"):
            await sender.balance()


@pytest.mark.parametrize("challenge", [7, None, {}, "x" * 1025])
async def test_what_is_no_challenge_is_not_answered(fake: FakeNwc, challenge: object) -> None:
    relays, socket = NwcRelays(parse_connection(address("ws://127.0.0.1:1")), fake.event), _Socket()
    await relays._hear("ws://127.0.0.1:1", socket, json.dumps(["AUTH", challenge]))
    assert socket.said == []


@pytest.mark.parametrize("relays", [1, 3])
async def test_an_invoice_is_paid_once_however_often_it_is_told_to(fake: FakeNwc, relays: int) -> None:
    made = await fake.invoice()
    async with paying(fake, relays=relays) as sender:
        told = await asyncio.gather(*(sender.pay(made, max_fee_msat=FEES) for _ in range(4)))
        again = await sender.pay(made, max_fee_msat=FEES)

    assert {each.state for each in [*told, again]} == {"paid"}
    assert await fake.spent() == 1_001_000


async def test_a_wallet_that_takes_each_relay_s_copy_for_a_request_pays_once(fake: FakeNwc) -> None:
    fake.dedupes = False
    made = await fake.invoice()
    async with paying(fake, relays=3) as sender:
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "paid"

    assert await fake.spent() == 1_001_000


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("lost", "paid"),
        ("torn", "paid"),
        ("other", "paid"),
        ("forged", "paid"),
        ("twice", "paid"),
        ("ignored", "unknown"),
        ("PAYMENT_FAILED", "unknown"),
        ("INTERNAL", "unknown"),
        ("OTHER", "unknown"),
        ("INSUFFICIENT_BALANCE", "failed"),
        ("QUOTA_EXCEEDED", "failed"),
        ("RATE_LIMITED", "failed"),
    ],
)
async def test_what_an_answer_proves(fake: FakeNwc, told: str, state: str) -> None:
    fake.replies.append(told)
    made = await fake.invoice()
    async with paying(fake, deadline=1) as sender:
        sent = await sender.pay(made, max_fee_msat=FEES)

    assert sent.state == state
    assert sent.preimage != "cd" * 32
    assert "cdcd" not in sent.detail
    assert await fake.spent() == (1_001_000 if state == "paid" else 0)
    assert pays(fake) == 1


async def test_a_refusal_of_what_is_in_flight_is_none(fake: FakeNwc) -> None:
    first = await fake.invoice()
    await fake.ledger.script("next", "pending-then-settle")
    fake.replies.append("late INSUFFICIENT_BALANCE")  # for the second copy of a request, say
    async with paying(fake, deadline=0.5) as sender:
        assert (await sender.pay(first, max_fee_msat=FEES)).state == "unknown"


async def test_a_failure_of_what_is_in_flight_is_none(fake: FakeNwc) -> None:
    made = await fake.invoice()
    await fake.ledger.script("next", "pending-then-settle")
    async with paying(fake, deadline=0.5) as sender:
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "unknown"  # PAYMENT_FAILED, after a while
        await fake.ledger.release(bolt11.decode(made).payment_hash)
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "paid"

    assert pays(fake) == 1


async def test_a_payment_that_failed_says_so_and_an_earlier_one_proves_nothing(fake: FakeNwc) -> None:
    made = await fake.invoice()
    await fake.ledger.script("next", "fail")
    async with paying(fake, deadline=0.5) as sender:
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "failed"
        fake.replies.append("ignored")
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "unknown"
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "paid"


async def test_an_invoice_that_has_expired_may_have_been_paid(fake: FakeNwc) -> None:
    made = await fake.invoice()
    await fake.ledger.script("next", "pending-forever")
    async with paying(fake, deadline=0.3) as sender:
        await sender.pay(made, max_fee_msat=FEES)
        fake.clock.advance(601)
        found = await sender.lookup(bolt11.decode(made).payment_hash)

    assert found is not None
    assert found.state == "unknown"


async def test_older_wallets_have_no_word_for_states(fake: FakeNwc) -> None:
    fake.old = True
    made = await fake.invoice()
    async with paying(fake) as sender:
        await sender.pay(made, max_fee_msat=FEES)
        found = await sender.lookup(bolt11.decode(made).payment_hash)
        assert await sender.lookup(HASH) is None

    assert found is not None
    assert (found.state, found.fee_msat) == ("paid", 1000)


async def test_a_limit_below_what_the_wallet_may_spend_is_refused_before_paying(fake: FakeNwc) -> None:
    async with paying(fake) as sender:
        assert await sender.fee_ceiling(invoice(amount_msat=21_000), max_fee_msat=0) == 10_000
        assert await sender.fee_ceiling(invoice(amount_msat=2_000_000), max_fee_msat=0) == 20_000
        assert (await sender.pay(await fake.invoice(), max_fee_msat=9_999)).state == "failed"

    assert fake.events == []


async def test_an_invoice_of_the_wallet_s_own_is_not_paid(fake: FakeNwc) -> None:
    made = await fake.invoice()
    fake.own.add(bolt11.decode(made).payment_hash.hex())
    async with paying(fake) as sender:
        with pytest.raises(RailUnavailable, match="very wallet"):
            await sender.pay(made, max_fee_msat=FEES)

    assert pays(fake) == 0


# Relays.


async def test_what_no_relay_was_sent_is_an_outage(fake: FakeNwc) -> None:
    sender = NwcSender(address("ws://127.0.0.1:1"), clock=fake.clock, sleep=short)
    sender._client._modern = True  # as if it had been there before
    begun = asyncio.get_running_loop().time()
    with pytest.raises(RailUnavailable, match=r"no relay.*127.0.0.1"):
        await asyncio.wait_for(sender._client._relays.request(_event(fake), seconds=0.3), 5)
    await sender.close()

    assert asyncio.get_running_loop().time() - begun < 3


def _event(fake: FakeNwc) -> Any:
    return fake.event(23194, "x", secret=CLIENT)


async def test_one_relay_of_several_is_enough(fake: FakeNwc) -> None:
    made = await fake.invoice()
    async with fake.running(2):
        connection = address("ws://127.0.0.1:1", *fake.urls)
        sender = NwcSender(connection, clock=fake.clock, sleep=short)
        await sender.start()
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "paid"
        await sender.close()


@pytest.mark.parametrize("before", ["hang up", "refuse and pass on"])
async def test_a_relay_s_own_word_proves_nothing(fake: FakeNwc, before: str) -> None:
    made = await fake.invoice()
    async with paying(fake, deadline=10) as sender:
        await sender.start()
        fake.before.extend(["", before])  # after the look whether it was paid before
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "paid"

    assert await fake.spent() == 1_001_000


async def test_a_relay_that_refuses_leaves_it_unknown(fake: FakeNwc) -> None:
    made = await fake.invoice()
    async with paying(fake, deadline=0.6) as sender:
        await sender.start()
        fake.before.extend(["", *["refuse"] * 50])
        assert (await sender.pay(made, max_fee_msat=FEES)).state == "unknown"

    assert await fake.spent() == 0


async def test_relays_are_opened_again_when_they_were_lost(fake: FakeNwc) -> None:
    async with paying(fake) as sender:
        assert await sender.balance() == 1_000_000_000
        for socket in list(fake.sockets):
            await socket.close()
        assert await sender.balance() == 1_000_000_000
        for socket in list(fake.sockets):
            socket.transport.abort()
        assert await sender.balance() == 1_000_000_000


async def test_a_wallet_that_no_relay_knows_is_an_outage(fake: FakeNwc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rail402_lightning.backends.nwc_client._TIMEOUT", 0.2)
    fake.has_info = False
    async with paying(fake) as sender:
        with pytest.raises(RailUnavailable, match="knows it"):
            await sender.start()
        fake.has_info = True
        await sender.start()  # by the same websocket


# Receiving.


async def test_an_invoice_is_made_and_its_state_told(fake: FakeNwc) -> None:
    async with receiving(fake) as receiver:
        made = await receiver.create_invoice(21_000, expiry_seconds=600, hashed_description=b"GET /article")
        found = bolt11.decode(made)
        assert (found.amount_msat, found.expiry) == (21_000, 600)
        assert found.description_hash == hashlib.sha256(b"GET /article").digest()
        assert await receiver.status(found.payment_hash) is None  # not of this connection
        fake.own.add(found.payment_hash.hex())
        for fake.old in (False, True):
            assert await receiver.status(found.payment_hash) == InvoiceStatus(state="open")

        await fake.ledger.pay_invoice(made, wallet="another", max_fee_msat=1000)
        paid = InvoiceStatus(state="settled", received_msat=21_000, settled_at=fake.clock())
        for fake.old in (False, True):
            assert await receiver.status(found.payment_hash) == paid


async def test_an_invoice_that_has_expired_says_so(fake: FakeNwc) -> None:
    async with receiving(fake) as receiver:
        made = await receiver.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
        payment_hash = bolt11.decode(made).payment_hash
        fake.own.add(payment_hash.hex())
        fake.clock.advance(601)
        for fake.old in (False, True):
            assert await receiver.status(payment_hash) == InvoiceStatus(state="expired")


async def test_a_wallet_that_pays_itself_settles_nothing(fake: FakeNwc) -> None:
    async with receiving(fake) as receiver:
        made = await receiver.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")
        await fake.ledger.pay_invoice(made, wallet="agent", max_fee_msat=1000)
        with pytest.raises(RailUnavailable, match="use another one"):
            await receiver.status(bolt11.decode(made).payment_hash)


@pytest.mark.parametrize("told", ["ignored", "torn", "other", "INTERNAL"])
async def test_an_invoice_that_is_not_made_is_an_outage(
    fake: FakeNwc, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rail402_lightning.backends.nwc_client.NwcClient.do.__kwdefaults__", {"seconds": 0.3})
    fake.replies.append(told)
    async with receiving(fake) as receiver:
        with pytest.raises(RailUnavailable):
            await receiver.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")


async def test_it_waits_for_the_notification_of_its_own_invoice(fake: FakeNwc) -> None:
    fake.notifications, now = "payment_received payment_sent", asyncio.get_running_loop().time
    note = {"notification_type": "payment_received", "notification": {"payment_hash": HASH.hex()}}
    other = {**note, "notification": {"payment_hash": "00" * 32}}
    async with receiving(fake) as receiver:
        await receiver.start()
        waiting = asyncio.create_task(receiver.wait(HASH, seconds=5))
        begun = now()
        await asyncio.sleep(0.05)
        await fake.send(fake.event(NOTIFICATION, fake.hide(note), secret=STRANGER))
        await fake.send(fake.event(NOTIFICATION, fake.hide(other)))
        await fake.send(fake.event(NOTIFICATION, "torn"))
        await fake.send(fake.event(NOTIFICATION, fake.hide(note), ("p", public(STRANGER))))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await fake.send(fake.event(NOTIFICATION, fake.hide(note), ("p", public(CLIENT))))
        await waiting
        assert now() - begun < 2
        begun = now()
        await receiver.wait(HASH, seconds=0.2)
        assert 0.19 <= now() - begun < 1


async def test_without_notifications_it_is_a_slow_poll(fake: FakeNwc) -> None:
    async with receiving(fake) as receiver:
        await receiver.start()
        begun = asyncio.get_running_loop().time()
        await receiver.wait(HASH, seconds=0.1)

    assert asyncio.get_running_loop().time() - begun >= 0.09


# Starting.


async def test_the_start_checks_what_the_connection_may_do(fake: FakeNwc, caplog: pytest.LogCaptureFixture) -> None:
    async with paying(fake, network="regtest") as sender:
        await sender.start()
    fake.granted = ("get_info", "lookup_invoice", "pay_invoice")
    async with paying(fake) as sender:
        with pytest.raises(ConfigurationError, match="get_balance"):
            await sender.start()
    async with receiving(fake) as receiver:
        with pytest.raises(ConfigurationError, match="make_invoice"):
            await receiver.start()
    fake.granted = ("lookup_invoice",)
    async with paying(fake) as sender:
        with pytest.raises(ConfigurationError, match="new connection"):
            await sender.start()
    fake.granted = ("get_info", "lookup_invoice", "make_invoice")
    async with receiving(fake) as receiver:
        with caplog.at_level(logging.WARNING, "rail402.lightning"):
            await receiver.start()
            await receiver.health()
            assert "can spend" not in caplog.text
            fake.granted = (*fake.granted, "pay_invoice")
            await receiver.start()
            assert "can spend" in caplog.text
    assert CLIENT.hex() not in caplog.text


@pytest.mark.parametrize("network", ["mainnet", "regtest"])
async def test_another_network_is_refused_where_the_wallet_tells_it(fake: FakeNwc, network: str) -> None:
    fake.said_network = "bitcoin" if network == "regtest" else "signet"
    async with paying(fake, network=network) as sender:
        with pytest.raises(ConfigurationError, match="the wallet is on"):
            await sender.start()
    fake.said_network = ""
    async with paying(fake, network=network) as sender:
        await sender.start()


@pytest.mark.parametrize("made", [NwcReceiver, NwcSender])
def test_the_secret_is_in_no_repr_and_addresses_are_checked(made: Callable[..., Any]) -> None:
    for text in ("", "nostr+walletconnect://x"):
        with pytest.raises(ConfigurationError):
            made(text)
    with pytest.raises(ConfigurationError):
        made(address("wss://r.example.com"), network="bitcoin")
    assert CLIENT.hex() not in repr(made(address("wss://r.example.com"))._client)


async def test_rail_and_wallet_start_on_it(fake: FakeNwc) -> None:
    async with fake.running(2) as connection:
        rail = LightningRail(NwcReceiver(connection, clock=fake.clock, sleep=short), network="regtest")
        wallet = LightningWallet(NwcSender(connection, clock=fake.clock), network="regtest", max_fee_sat=10)
        fake.own = _Everything()
        await rail.start()
        await wallet.start()
        await wallet.close()
        await rail.close()


class _Everything(set[str]):
    def __contains__(self, item: object) -> bool:
        return True


class _Socket:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def send(self, text: str) -> None:
        self.said.append(text)


async def test_what_was_given_up_is_not_sent_any_more(fake: FakeNwc) -> None:
    relays, socket = NwcRelays(parse_connection(address("ws://127.0.0.1:1")), fake.event), _Socket()
    waiting = _Open(_event(fake), asyncio.get_running_loop().create_future())

    await relays._publish("ws://127.0.0.1:1", socket, waiting)  # of a relay that was opened just too late
    assert [text[:6] for text in socket.said] == ['["REQ"']
    assert waiting.sent_to == set()
    relays._open[waiting.event.id] = waiting
    await relays._publish("ws://127.0.0.1:1", socket, waiting)
    assert socket.said[-1].startswith('["EVENT"')
    assert waiting.sent_to == {"ws://127.0.0.1:1"}


async def test_the_first_answer_counts_and_each_relay_delivers_it(fake: FakeNwc) -> None:
    relays = NwcRelays(parse_connection(address("ws://127.0.0.1:1")), fake.event)
    waiting = _Open(_event(fake), asyncio.get_running_loop().create_future())
    relays._open[waiting.event.id] = waiting
    first, second = (fake.event(REPLY, text, ("e", waiting.event.id)) for text in ("first", "second"))

    for event in (first, first, second):
        await relays._hear("ws://127.0.0.1:1", _Socket(), json.dumps(["EVENT", "any", event.wire()]))

    assert waiting.answer.result() == first
