"""lnd as receiver and as sender, with every way in which its answers mislead."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, Receiver, Sender, SentPayment, lnd
from rail402_lightning.backends.lnd import LndReceiver, LndSender
from rail402_lightning.rail import LightningRail
from tests.unit.rail402_lightning.backends.fake_lnd import (
    LOCKED,
    NO_INVOICE,
    NO_PAYMENT,
    PAYING,
    RECEIVING,
    STARTING,
    URL,
    FakeLnd,
    Step,
    booked,
    channel,
    channels,
    error,
    info,
    macaroon,
    made,
    open_stream,
    sent,
    stream,
    stream_error,
)
from tests.unit.rail402_lightning.invoices import (
    HASH,
    MECHANISM,
    NOW,
    ORDER,
    PREIMAGE,
    SPEC,
    invoice,
    offer,
    payment,
    terms,
)

PAID = SentPayment(state="paid", preimage=PREIMAGE, fee_msat=1021)
NO_ROUTE = SentPayment(state="failed", detail="there is no route to the payee within the fee limit")
IN_FLIGHT = SentPayment(state="unknown", detail="the payment is in flight")

LOST: list[Step] = [
    httpx.ReadTimeout("x"),
    httpx.ReadError("x"),
    httpx.WriteError("x"),
    httpx.RemoteProtocolError("x"),
    httpx.Response(502, text="<html>bad gateway</html>"),
    httpx.Response(200, text=""),
    stream(sent("IN_FLIGHT")),
    stream(sent("SUCCEEDED", payment_hash="00" * 32)),
    stream(sent("SUCCEEDED", fee_msat="much")),
    stream_error("transport is closing", 14, 503),
    stream_error("context canceled", 1, 408),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lnd, "_PAUSES", (0, 0.001))


def receiver(
    held: bytes = RECEIVING, *, network: str | None = "regtest", private: bool = False, **scripts: list[Step]
) -> tuple[LndReceiver, FakeLnd]:
    fake = FakeLnd(**{name: deque(steps) for name, steps in scripts.items()})
    return LndReceiver(URL, held, network=network, private=private, transport=fake.transport), fake


def sender(held: bytes = PAYING, *, deadline: float = 30, **scripts: list[Step]) -> tuple[LndSender, FakeLnd]:
    fake = FakeLnd(**{name: deque(steps) for name, steps in scripts.items()})
    return LndSender(URL, held, network="regtest", deadline=deadline, transport=fake.transport), fake


async def pay(**scripts: list[Step]) -> SentPayment:
    paying, _ = sender(**scripts)
    return await paying.pay(invoice(), max_fee_msat=2000)


async def left_open(**scripts: list[Step]) -> SentPayment:
    """Pay, and wait only shortly for an end that will not come."""
    paying, _ = sender(deadline=0.05, **scripts)
    return await paying.pay(invoice(), max_fee_msat=2000)


def test_they_are_what_rail_and_wallet_take() -> None:
    receiving: Receiver = receiver()[0]
    paying: Sender = sender()[0]

    assert (receiving.sandbox, paying.sandbox) == (False, False)


# Receiving.


async def test_an_invoice_is_bound_by_the_base64_of_its_hash_and_priced_in_millisatoshis() -> None:
    receiving, fake = receiver()

    text = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"what is hashed")

    assert text == invoice()
    assert fake.bodies() == [
        {
            "value_msat": "21000",
            "description_hash": "U8wz/kBFipkoQQW14B/EQj9n0/dR1biIngFxLW8ZLac=",
            "expiry": "600",
            "private": False,
        }
    ]


async def test_private_channels_are_hinted_at_if_asked() -> None:
    receiving, fake = receiver(private=True)

    await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")

    assert fake.bodies()[0]["private"] is True


@pytest.mark.parametrize(
    "answer",
    [
        error("permission denied"),
        error(LOCKED),
        made(payment_request=None),
        httpx.Response(502, text="<html>"),
        httpx.ReadTimeout("x"),
        httpx.ConnectError("x"),
    ],
)
async def test_an_invoice_that_is_not_made_is_an_outage(answer: Step) -> None:
    receiving, _ = receiver(create=[answer])

    with pytest.raises(RailUnavailable):
        await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=b"")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (NO_INVOICE, None),
        (error("there are no existing invoices", 5, 404), None),
        # The preimage of an open invoice is told; it proves nothing.
        (booked("OPEN"), InvoiceStatus(state="open")),
        # What a hold invoice holds counts as arrived in amt_paid_msat, and may go back.
        (booked("ACCEPTED"), InvoiceStatus(state="open")),
        (booked("CANCELED"), InvoiceStatus(state="canceled")),
        (booked("SETTLED"), InvoiceStatus(state="settled", received_msat=21_000, settled_at=NOW + 5)),
        (
            booked("SETTLED", amt_paid_msat="42000"),
            InvoiceStatus(state="settled", received_msat=42_000, settled_at=NOW + 5),
        ),
        (
            booked("SETTLED", amt_paid_msat="20999", amt_paid_sat="21", value_msat="21000"),
            InvoiceStatus(state="settled", received_msat=20_999, settled_at=NOW + 5),
        ),
        (booked("SETTLED", settle_date="0"), InvoiceStatus(state="settled", received_msat=21_000)),
    ],
)
async def test_the_state_is_what_counts_and_the_amount_that_came(answer: Any, status: Any) -> None:
    receiving, _ = receiver(
        invoice=[answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)]
    )

    assert await receiving.status(HASH) == status


@pytest.mark.parametrize(
    "answer",
    [
        error("Not Found", 5, 404),  # there is no such path: this is no lnd, or not all of one
        error("permission denied"),
        error(STARTING),
        httpx.Response(404, text="not found"),
        httpx.Response(200, json=booked("SETTLED", r_hash=HASH.hex())),
        httpx.Response(200, json=booked("SETTLED", r_hash=None)),
        httpx.Response(200, json=booked("SETTLED", amt_paid_msat=None)),
        httpx.Response(200, json=booked("SETTLED", amt_paid_msat="-21000")),
        httpx.Response(200, json=booked("SETTLED", amt_paid_msat=21_000.0)),
        httpx.Response(200, json=booked("SETTLED", amt_paid_msat="9" * 20)),
        httpx.Response(200, json=booked("SETTLED", settle_date="yesterday")),
        httpx.Response(200, json=booked("PAID")),
        httpx.Response(200, json={"r_hash": booked("OPEN")["r_hash"], "settled": True}),
        httpx.ReadTimeout("x"),
    ],
)
async def test_a_status_that_cannot_be_believed_is_an_outage(answer: Step) -> None:
    receiving, _ = receiver(invoice=[answer])

    with pytest.raises(RailUnavailable):
        await receiving.status(HASH)


# Waiting.


async def test_waiting_ends_when_the_invoice_does() -> None:
    for state in ("SETTLED", "CANCELED"):
        receiving, fake = receiver(watch=[open_stream(booked("OPEN"), booked("ACCEPTED"), booked(state))])
        async with asyncio.timeout(5):
            await receiving.wait(HASH, seconds=60)
        assert len(fake.requests) == 1


async def test_waiting_ends_with_the_time_and_a_payment_that_is_held_is_no_end() -> None:
    receiving, fake = receiver(watch=[open_stream(booked("OPEN"), booked("ACCEPTED"))])

    await receiving.wait(HASH, seconds=0.05)

    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "lost",
    [
        stream(booked("OPEN")),
        httpx.ReadError("x"),
        httpx.ConnectError("x"),
        stream_error(STARTING),
        error("x", 14, 503),
    ],
)
async def test_a_stream_that_is_lost_is_opened_again(lost: Step) -> None:
    receiving, fake = receiver(watch=[lost, lost, open_stream(booked("SETTLED"))])

    async with asyncio.timeout(5):
        await receiving.wait(HASH, seconds=60)

    assert len(fake.requests) == 3


async def test_a_node_that_is_gone_is_waited_for_no_longer_than_asked() -> None:
    receiving, _ = receiver(watch=[httpx.ConnectError("x")])

    await receiving.wait(HASH, seconds=0.02)
    await receiving.wait(HASH, seconds=0)


# The start.


async def test_a_node_that_is_well_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    receiving, _ = receiver()
    paying, _ = sender()
    await receiving.start()
    await paying.start()
    await receiving.health()

    assert caplog.text == ""
    await receiving.close()
    await paying.close()


@pytest.mark.parametrize(
    ("held", "answer", "why"),
    [
        (macaroon("info:read"), None, "lacks invoices:read, invoices:write; make one .*lncli bakemacaroon"),
        (macaroon("invoices:read", "invoices:write"), None, "lacks info:read"),
        (RECEIVING, error("permission denied"), "refuses the macaroon: permission denied; make a new one: lncli"),
        (RECEIVING, error("verification failed: signature mismatch after caveat verification"), "signature mismatch"),
        (
            RECEIVING,
            info(chains=[{"chain": "bitcoin", "network": "mainnet"}]),
            "lnd is on mainnet, and network='regtest'",
        ),
        (RECEIVING, info(chains=[{"chain": "bitcoin", "network": "simnet"}]), "lnd is on simnet"),
    ],
)
async def test_a_wrong_setting_is_named_at_the_start(held: bytes, answer: Step | None, why: str) -> None:
    receiving, _ = receiver(held, info=[] if answer is None else [answer])

    with pytest.raises(ConfigurationError, match=why):
        await receiving.start()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (error(LOCKED), "wallet locked, .*lncli unlock"),
        (error(STARTING), "in the process of starting up"),
        (info(synced_to_chain=False), "has not caught up with the chain"),
        (info(synced_to_chain="true"), "has not caught up with the chain"),
        (info(chains=[]), "which network"),
        (info(chains=["bitcoin"]), "which network"),
        (info(num_active_channels="many"), "num_active_channels"),
        (error("Not Found", 5, 404), "Not Found"),
        (httpx.Response(307, headers={"Location": "https://elsewhere.example"}), "not in JSON"),
        (httpx.ConnectError("x"), "cannot be reached at https://lnd.example.com:8080"),
    ],
)
async def test_a_node_that_is_not_ready_is_an_outage(answer: Step, why: str) -> None:
    receiving, _ = receiver(info=[answer])
    paying, _ = sender(info=[answer])

    with pytest.raises(RailUnavailable, match=why):
        await receiving.start()
    if "num_active" not in why:
        with pytest.raises(RailUnavailable, match=why):
            await paying.start()


async def test_a_network_that_is_not_given_is_not_checked() -> None:
    await receiver(network=None, info=[info(chains=[{"network": "signet"}])])[0].start()


async def test_a_macaroon_that_can_spend_is_too_much_for_receiving(caplog: pytest.LogCaptureFixture) -> None:
    held = macaroon(*receiving_and("offchain:write", "onchain:write", "address:read"))

    await receiver(held)[0].start()

    assert "may do more than it needs to (offchain:write, onchain:write)" in caplog.text
    assert "lncli bakemacaroon --save_to rail402-receive.macaroon info:read invoices:read invoices:write" in caplog.text


async def test_a_macaroon_that_lnd_did_not_write_is_for_the_node_to_judge() -> None:
    await receiver(b"\x02 of another make")[0].start()

    with pytest.raises(ConfigurationError, match="permission denied"):
        await sender(b"\x02 of another make", info=[error("permission denied")])[0].start()


@pytest.mark.parametrize(
    ("held", "scripts", "why"),
    [
        ((), {"info": [info(num_active_channels=0)]}, "no active channel"),
        (("offchain:read",), {"channels": [channels(channel(remote_balance="10000"))]}, "inbound"),
        (("offchain:read",), {"channels": [channels()]}, "inbound"),
        (("offchain:read",), {"channels": [channels(channel(private=True))]}, "set private"),
    ],
)
async def test_a_node_that_nobody_can_pay_says_so(
    held: tuple[str, ...], scripts: dict[str, list[Step]], why: str
) -> None:
    receiving, _ = receiver(macaroon(*receiving_and(*held)), **scripts)

    for check in (receiving.start, receiving.health):
        with pytest.raises(RailUnavailable, match=why):
            await check()


async def test_who_has_paid_a_node_is_served_when_nobody_can_pay_it_any_more() -> None:
    held = macaroon(*receiving_and("offchain:read"))
    full = channels(channel(remote_balance="10000"))
    settled = httpx.Response(200, json=booked("SETTLED"))
    rail = LightningRail(receiver(held, channels=[full], invoice=[settled])[0], network="regtest")
    with pytest.raises(RailUnavailable, match="inbound"):  # the gate logs it and goes on
        await rail.start()

    with pytest.raises(RailUnavailable, match="inbound"):
        await rail.offer(ORDER, MECHANISM, terms())
    shown = payment()
    verified = SPEC.authenticate(offer(), shown)
    assert await rail.verify(offer(), shown, verified, now=NOW) == verified


async def test_private_channels_are_enough_with_hints() -> None:
    held = macaroon(*receiving_and("offchain:read"))

    await receiver(held, private=True, channels=[channels(channel(private=True))])[0].health()
    await receiver(held, channels=[channels(channel(private=True), channel())])[0].health()


async def test_health_asks_the_node() -> None:
    for answer in (info(synced_to_chain=False), error(LOCKED), httpx.ConnectError("x")):
        with pytest.raises(RailUnavailable):
            await receiver(info=[answer])[0].health()


async def test_a_sender_needs_its_own_rights_and_says_when_it_is_broke(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="lacks offchain:read, offchain:write"):
        await sender(RECEIVING)[0].start()

    await sender(channels=[channels()])[0].start()  # what was paid before must be found out nevertheless
    assert "cannot pay: open or fill one" in caplog.text


@pytest.mark.parametrize("wrong", [{"deadline": 0}, {"deadline": -1}, {"max_parts": 0}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be positive"):
        LndSender(URL, PAYING, **wrong)


# What can be spent.


@pytest.mark.parametrize(
    ("found", "max_parts", "msat"),
    [
        ([], 16, 0),
        ([channel()], 16, 590_000_000),  # without the reserve
        ([channel(initiator=True)], 16, 587_190_000),  # and without the fee of the closing transaction
        ([channel(local_balance="5000")], 16, 0),
        ([channel(), channel(local_balance="60000"), channel(local_balance="5000")], 16, 640_000_000),
        ([channel(), channel(local_balance="60000"), channel(local_balance="5000")], 1, 590_000_000),
    ],
)
async def test_the_balance_is_what_payments_can_use(found: list[dict[str, Any]], max_parts: int, msat: int) -> None:
    fake = FakeLnd(channels=deque([channels(*found)]))

    assert await LndSender(URL, PAYING, max_parts=max_parts, transport=fake.transport).balance() == msat


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={}),
        httpx.Response(200, json={"channels": [7]}),
        channels(channel(local_balance=None)),
        channels(channel(local_constraints=None)),
        channels(channel(initiator=True, commit_fee="x")),
        error("permission denied"),
    ],
)
async def test_a_balance_that_cannot_be_read_is_an_outage(answer: Step) -> None:
    with pytest.raises(RailUnavailable):
        await sender(channels=[answer])[0].balance()


# Paying.


async def test_a_payment_is_sent_once_with_its_limits() -> None:
    paying, fake = sender(deadline=60, pay=[stream(sent("SUCCEEDED"))])

    assert await paying.pay(invoice(), max_fee_msat=2000) == PAID
    assert fake.bodies() == [
        {
            "payment_request": invoice(),
            "fee_limit_msat": "2000",
            "timeout_seconds": 30,
            "max_parts": 16,
            "amp": False,
            "allow_self_payment": False,
            "no_inflight_updates": True,
        }
    ]


async def test_a_fee_limit_of_nothing_is_sent_too() -> None:
    paying, fake = sender(pay=[stream(sent("SUCCEEDED"))])

    await paying.pay(invoice(), max_fee_msat=0)

    assert fake.bodies()[0]["fee_limit_msat"] == "0"
    assert await paying.fee_ceiling(invoice(), max_fee_msat=7) == 7


async def test_parts_and_payments_to_oneself_are_as_asked() -> None:
    fake = FakeLnd(pay=deque([stream(sent("SUCCEEDED"))]))
    paying = LndSender(URL, PAYING, max_parts=1, allow_self_payment=True, deadline=1, transport=fake.transport)

    await paying.pay(invoice(), max_fee_msat=0)

    body = fake.bodies()[0]
    assert (body["max_parts"], body["allow_self_payment"], body["timeout_seconds"]) == (1, True, 1)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("FAILURE_REASON_TIMEOUT", "in the time"),
        ("FAILURE_REASON_NO_ROUTE", "no route"),
        ("FAILURE_REASON_ERROR", "internal error"),
        ("FAILURE_REASON_INCORRECT_PAYMENT_DETAILS", "does not know the invoice"),
        ("FAILURE_REASON_INSUFFICIENT_BALANCE", "hold too little"),
        ("FAILURE_REASON_CANCELED", "canceled"),
        ("FAILURE_REASON_OF_TOMORROW", "does not say why"),
    ],
)
async def test_a_payment_that_failed_says_why(reason: str, words: str) -> None:
    found = await pay(pay=[stream(sent("FAILED", failure_reason=reason))])

    assert found.state == "failed"
    assert words in found.detail


@pytest.mark.parametrize("answer", LOST)
async def test_an_answer_that_is_lost_is_no_failure(answer: Step) -> None:
    assert await pay(pay=[answer], track=[stream(sent("SUCCEEDED"))]) == PAID
    assert await pay(pay=[answer], track=[stream(sent("FAILED"))]) == NO_ROUTE
    # It may be on its way to lnd still.
    assert (await left_open(pay=[answer], track=[NO_PAYMENT])).state == "unknown"
    assert (await left_open(pay=[answer], track=[open_stream()])).state == "unknown"
    assert (await left_open(pay=[answer], track=[httpx.ConnectError("x")])).state == "unknown"


async def test_a_payment_that_hangs_is_given_up_as_unknown_and_not_as_failed() -> None:
    found = await left_open(pay=[open_stream()])

    assert found == SentPayment(state="unknown", detail="the payment has not ended in 0.05 s")


async def test_a_reason_to_fail_is_no_failure_while_parts_are_in_flight() -> None:
    pending = sent("IN_FLIGHT", failure_reason="FAILURE_REASON_TIMEOUT")

    found = await pay(pay=[httpx.ReadTimeout("x")], track=[stream(pending), stream(pending, sent("SUCCEEDED"))])

    assert found == PAID


@pytest.mark.parametrize("message", ["payment is in transition", "invoice is already paid", "payment already exists"])
async def test_what_lnd_has_already_is_tracked(message: str) -> None:
    exists = stream_error(message, 6, 409)

    assert await pay(pay=[exists], track=[stream(sent("SUCCEEDED"))]) == PAID
    assert await pay(pay=[exists], track=[stream(sent("FAILED"))]) == NO_ROUTE
    assert (await left_open(pay=[exists], track=[open_stream()])).state == "unknown"
    assert (await left_open(pay=[exists], track=[NO_PAYMENT])).state == "unknown"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("invoice expired. Valid until 2026-11-21 06:37:48 +0000 UTC", 2),
        ("invoice not for current active network 'regtest'", 2),
        ("self-payments not allowed", 2),
        ("proto: invalid value for int64 type", 3),
    ],
)
async def test_what_lnd_refuses_and_does_not_know_was_not_paid(message: str, code: int) -> None:
    found = await pay(pay=[stream_error(message, code)], track=[NO_PAYMENT])

    assert (found.state, message in found.detail) == ("failed", True)
    # It refused this request; another one may have been under way.
    assert await pay(pay=[stream_error(message, code)], track=[stream(sent("SUCCEEDED"))]) == PAID
    assert (await left_open(pay=[stream_error(message, code)], track=[error("Not Found", 5, 404)])).state == "unknown"


@pytest.mark.parametrize(
    "answer",
    [
        stream_error("permission denied"),
        stream_error(LOCKED),
        stream_error(STARTING),
        httpx.ConnectError("x"),
        httpx.ConnectTimeout("x"),
        httpx.PoolTimeout("x"),
    ],
)
async def test_what_was_refused_at_the_door_was_not_sent(answer: Step) -> None:
    paying, fake = sender(pay=[answer])

    with pytest.raises(RailUnavailable):
        await paying.pay(invoice(), max_fee_msat=2000)

    assert len(fake.bodies()) == 1


async def test_what_stands_before_lnd_may_refuse_what_it_has_passed_on() -> None:
    refusal = error("Forbidden", 7, 403)

    assert await pay(pay=[refusal], track=[stream(sent("SUCCEEDED"))]) == PAID
    assert (await left_open(pay=[refusal], track=[open_stream()])).state == "unknown"


@pytest.mark.parametrize("answer", [httpx.ReadTimeout("x"), error(LOCKED), httpx.Response(502, text="x")])
async def test_nothing_is_sent_while_lnd_does_not_say_whether_it_was(answer: Step) -> None:
    paying, fake = sender(look=[answer])

    with pytest.raises(RailUnavailable):
        await paying.pay(invoice(), max_fee_msat=2000)

    assert fake.bodies() == []


@pytest.mark.parametrize("known", ["SUCCEEDED", "IN_FLIGHT", "INITIATED"])
async def test_what_was_sent_before_is_not_sent_again(known: str) -> None:
    paying, fake = sender(look=[stream(sent(known))], track=[stream(sent("SUCCEEDED"))])

    assert await paying.pay(invoice(), max_fee_msat=2000) == PAID
    assert fake.bodies() == []


async def test_a_try_that_failed_may_be_followed_by_another() -> None:
    failed = stream(sent("FAILED", payment_index="6"))

    assert await pay(look=[failed], pay=[stream(sent("SUCCEEDED"))]) == PAID
    assert await pay(look=[failed], pay=[stream(sent("FAILED"))]) == NO_ROUTE


async def test_an_earlier_try_s_failure_is_not_taken_for_this_one_s() -> None:
    failed = stream(sent("FAILED", payment_index="6"))

    assert await pay(look=[failed], pay=[httpx.ReadError("x")], track=[failed, stream(sent("SUCCEEDED"))]) == PAID
    assert (await left_open(look=[failed], pay=[httpx.ReadError("x")], track=[failed])).state == "unknown"
    refused = await pay(look=[failed], pay=[stream_error("invoice expired")], track=[failed])
    assert (refused.state, "invoice expired" in refused.detail) == ("failed", True)


# Looking up.


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (NO_PAYMENT, None),
        (open_stream(sent("SUCCEEDED")), PAID),
        (open_stream(sent("FAILED")), NO_ROUTE),
        (open_stream(sent("IN_FLIGHT")), IN_FLIGHT),
        (open_stream(sent("INITIATED")), IN_FLIGHT),
        (open_stream(sent("SUCCEEDED", payment_preimage=None)), SentPayment(state="paid", fee_msat=1021)),
    ],
)
async def test_a_payment_is_found_again_by_its_hash_and_not_waited_for(answer: Step, expected: Any) -> None:
    paying, _ = sender(look=[answer])

    assert await paying.lookup(HASH) == expected


@pytest.mark.parametrize(
    "answer",
    [
        error("Not Found", 5, 404),
        stream_error("permission denied"),
        stream(),
        stream(sent("SUCCEEDED", payment_hash="00" * 32)),
        stream(sent("SUCCEEDED", fee_msat=None)),
        stream(sent("UNKNOWN")),
        httpx.ReadTimeout("x"),
        httpx.ConnectError("x"),
    ],
)
async def test_a_lookup_that_cannot_be_believed_is_an_outage(answer: Step) -> None:
    paying, _ = sender(look=[answer])

    with pytest.raises(RailUnavailable):
        await paying.lookup(HASH)


async def test_a_lookup_without_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lnd, "_LOOK_TIMEOUT", 0.02)
    paying, _ = sender(look=[open_stream()])

    with pytest.raises(RailUnavailable, match="no answer"):
        await paying.lookup(HASH)


async def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "rail402"):
        await pay(
            pay=[stream_error(f"preimage {PREIMAGE} and {PAYING.hex()}", 14)],
            track=[error(f"preimage {PREIMAGE}", 14), stream(sent("SUCCEEDED"))],
        )

    assert "looked up" in caplog.text
    assert PREIMAGE not in caplog.text
    assert PAYING.hex() not in caplog.text


def receiving_and(*more: str) -> tuple[str, ...]:
    return "info:read", "invoices:read", "invoices:write", *more


def test_the_fakes_are_about_one_invoice() -> None:
    assert bolt11.decode(invoice()).payment_hash == HASH
