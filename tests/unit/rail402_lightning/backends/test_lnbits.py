"""LNbits as receiver and sender, with every way in which its answers mislead."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.lnbits import LnbitsReceiver, LnbitsSender
from rail402_lightning.rail import LightningRail
from rail402_lightning.request_binding import bound_request, request_hash
from tests.unit.rail402_lightning.backends.fake_lnbits import (
    ADMIN_KEY,
    INVOICE_KEY,
    URL,
    FakeLnbits,
    Step,
    error,
    found,
    outgoing,
    row,
)
from tests.unit.rail402_lightning.invoices import HASH, MECHANISM, NOW, ORDER, PREIMAGE, SPEC, invoice, terms

PAID = SentPayment(state="paid", preimage=PREIMAGE, fee_msat=21)


def receiver(key: str = INVOICE_KEY, **scripts: list[Step]) -> tuple[LnbitsReceiver, FakeLnbits]:
    fake = FakeLnbits(**{name: deque(steps) for name, steps in scripts.items()})
    return LnbitsReceiver(URL, key, transport=fake.transport), fake


def sender(
    key: str = ADMIN_KEY, *, deadline: float = 30, network: str | None = None, **scripts: list[Step]
) -> tuple[LnbitsSender, FakeLnbits]:
    fake = FakeLnbits(**{name: deque(steps) for name, steps in scripts.items()})

    async def no_pause(_: float) -> None:
        await asyncio.sleep(0)

    transport = fake.transport
    return LnbitsSender(URL, key, network=network, deadline=deadline, sleep=no_pause, transport=transport), fake


async def pay(**scripts: list[Step]) -> SentPayment:
    paying, _ = sender(**scripts)
    return await paying.pay(invoice(), max_fee_msat=2000)


async def left_open(**scripts: list[Step]) -> SentPayment:
    """Pay, and wait only shortly for an end that will not come."""
    paying, _ = sender(deadline=0.05, **scripts)
    return await paying.pay(invoice(), max_fee_msat=2000)


# Receiving.


async def test_an_invoice_is_asked_for_explicitly_and_in_whole_sats() -> None:
    receiving, fake = receiver()

    text = await receiving.create_invoice(21_000, expiry_seconds=600, hashed_description=bound_request(ORDER))

    assert fake.sent() == [
        {
            "out": False,
            "unit": "sat",
            "amount": 21,
            "memo": "",
            "description_hash": request_hash(ORDER).hex(),
            "unhashed_description": bound_request(ORDER).hex(),
            "expiry": 600,
        }
    ]
    assert (bolt11.decode(text).amount_msat, bolt11.decode(text).expiry) == (21_000, 600)


@pytest.mark.parametrize(
    "answer",
    [
        error(520, "VoidWallet cannot create invoices.", status="pending"),
        error(520, "Invoice amount 9 sats is too high. Max allowed: 1 sats.", status="failed"),
        error(404, "Wallet not found."),
        error(429, "slow down"),
        httpx.Response(201, json={}),
        httpx.Response(201, json={"bolt11": 7}),
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
        (found(None), None),
        (found(row("pending")), InvoiceStatus(state="open")),
        # LNbits tells the preimage of an open invoice.
        (found(row("pending"), preimage=PREIMAGE), InvoiceStatus(state="open")),
        # It could not ask its node.
        (httpx.Response(200, json={"paid": False, "details": row("pending")}), InvoiceStatus(state="open")),
        (found(row("failed", labels=["expired"])), InvoiceStatus(state="expired")),
        (found(row("failed")), InvoiceStatus(state="canceled")),
        (found(row("failed", labels=7)), InvoiceStatus(state="canceled")),
        # When it was paid is not told: `updated_at` is when LNbits came to book it.
        (found(row("success")), InvoiceStatus(state="settled", received_msat=21_000)),
        (found(row("success", updated_at=None)), InvoiceStatus(state="settled", received_msat=21_000)),
    ],
)
async def test_paid_is_what_counts_and_never_a_preimage(answer: httpx.Response, status: Any) -> None:
    receiving, _ = receiver(look=[answer])

    assert await receiving.status(HASH) == status


@pytest.mark.parametrize(
    "answer",
    [
        # A paid payment looked at with a key that LNbits does not know: it tells anybody.
        httpx.Response(200, json={"paid": True, "preimage": PREIMAGE}),
        httpx.Response(200, json={"paid": True, "details": row("pending")}),
        httpx.Response(200, json={"paid": False, "details": row("success")}),
        httpx.Response(200, json={"paid": "true", "details": row("success")}),
        found(row("success", payment_hash="00" * 32)),
        found(row("success", amount="21000")),
        found(row("success", amount=21_000.5)),
        found(row("success", amount=-21_000)),
        httpx.Response(200, json={"paid": True, "details": [1]}),
        httpx.Response(200, json={"paid": True, "details": {"payment_hash": HASH.hex()}}),
        error(404, "Wallet not found."),
        error(404, "Not Found"),
        error(500, "Unexpected error!"),
        httpx.Response(200, text="<html>"),
        httpx.ReadTimeout("x"),
    ],
)
async def test_an_answer_that_cannot_be_believed_settles_nothing(answer: Step) -> None:
    receiving, _ = receiver(look=[answer])

    with pytest.raises(RailUnavailable):
        await receiving.status(HASH)


async def test_the_start_checks_the_key_and_names_the_fix() -> None:
    receiving, _ = receiver()
    await receiving.start()
    await receiving.health()
    stranger, _ = receiver(key="f" * 32)

    with pytest.raises(ConfigurationError, match="copy it from the wallet's page"):
        await stranger.start()
    with pytest.raises(RailUnavailable, match="copy it from the wallet's page"):
        await stranger.health()


async def test_a_publisher_needs_no_key_that_can_spend(caplog: pytest.LogCaptureFixture) -> None:
    receiving, _ = receiver(key=ADMIN_KEY)

    with caplog.at_level(logging.WARNING, "rail402.lightning"):
        await receiving.start()

    assert "give it the wallet's invoice key instead" in caplog.text
    assert ADMIN_KEY not in caplog.text


async def test_an_lnbits_without_a_node_behind_it_does_not_start() -> None:
    receiving, fake = receiver(create=[error(520, "VoidWallet cannot create invoices.", status="pending")])

    with pytest.raises(RailUnavailable, match="VoidWallet"):
        await LightningRail(receiving, network="regtest").start()

    assert [body["amount"] for body in fake.sent()] == [1]


async def test_a_fall_back_to_void_wallet_says_what_to_do() -> None:
    void = error(520, "VoidWallet cannot create invoices.", status="pending")

    with pytest.raises(RailUnavailable, match=r"fell back to VoidWallet.*restart LNbits"):
        await LightningRail(receiver(create=[void])[0], network="regtest").start()
    with pytest.raises(RailUnavailable, match=r"fell back to VoidWallet.*restart LNbits"):
        await sender(network="regtest", create=[void])[0].start()


@pytest.mark.parametrize(
    "said", ["unexpected error: wallet locked, unlock it to enable full RPC access", "server is still starting"]
)
async def test_a_node_that_is_locked_or_syncing_behind_lnbits_is_named(said: str) -> None:
    locked = error(520, said, status="pending")

    with pytest.raises(RailUnavailable, match=f"behind LNbits made no invoice .*locked or syncing.*{said}"):
        await LightningRail(receiver(create=[locked])[0], network="regtest").start()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (error(404, "Not Found"), "there is no LNbits at https://lnbits.example.com; url is its address alone"),
        (error(405, "Method Not Allowed"), "url is its address alone"),
        (httpx.Response(200, json={"name": "something else"}), "not the LNbits that is known here, version 1.x"),
    ],
)
async def test_an_address_of_something_else_is_refused_at_the_start(answer: httpx.Response, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        await receiver(wallet=[answer])[0].start()
    with pytest.raises(ConfigurationError, match=why):
        await sender(wallet=[answer])[0].start()


def version_0(status: bool) -> httpx.Response:
    """What LNbits answered before 1.0: no status, and the amount in another place."""
    details = {name: value for name, value in row("success").items() if name != "status"} | {"pending": not status}
    return httpx.Response(200, json={"paid": status, "preimage": PREIMAGE, "details": details})


@pytest.mark.parametrize(
    "look",
    [
        version_0(status=False),
        version_0(status=True),
        httpx.Response(200, json={"paid": False, "status": "pending", "payment": row("pending")}),
        httpx.Response(200, json={"paid": False, "details": row("pending") | {"status": {"name": "pending"}}}),
        httpx.Response(200, json={"paid": False, "details": row("pending", amount="21 sat")}),
    ],
)
async def test_a_version_that_answers_otherwise_is_found_at_the_start_and_settles_nothing(look: httpx.Response) -> None:
    receiving, _ = receiver(look=[look])

    with pytest.raises(RailUnavailable):
        await LightningRail(receiving, network="regtest").start()
    with pytest.raises(RailUnavailable):
        await receiving.status(HASH)


async def test_an_invoice_of_an_older_version_is_found_in_its_place() -> None:
    receiving, _ = receiver(create=[httpx.Response(201, json={"payment_hash": "x", "payment_request": "lnbcrt1"})])

    assert await receiving.create_invoice(1000, expiry_seconds=60, hashed_description=b"") == "lnbcrt1"


async def test_a_rail_asks_lnbits_for_whole_sats_only() -> None:
    receiving, _ = receiver()
    rail = LightningRail(receiving, network="regtest")
    await rail.start()

    with pytest.raises(RailUnavailable, match="another amount"):  # LNbits would drop the half
        await rail.offer(ORDER, MECHANISM, terms(amount=21_500))
    assert MECHANISM.step == 1000


async def test_a_rail_on_lnbits_offers_what_lnbits_makes() -> None:
    receiving, _ = receiver()
    rail = LightningRail(receiving, network="regtest")
    await rail.start()

    made = await rail.offer(ORDER, MECHANISM, terms())

    assert made is not None
    SPEC.check_offer(made.model_copy(update={"dialect": "x402-v2"}), ORDER, now=NOW)
    await rail.close()


@pytest.mark.parametrize(
    "answer", [httpx.ConnectError("x"), httpx.Response(307, headers={"Location": "/first_install"})]
)
async def test_an_lnbits_that_is_not_up_is_an_outage_and_not_a_wrong_key(answer: Step) -> None:
    receiving, _ = receiver(wallet=[answer])

    with pytest.raises(RailUnavailable):
        await receiving.start()


# Paying.


async def test_a_payment_is_sent_once_and_its_row_is_believed() -> None:
    paying, fake = sender(pay=[httpx.Response(201, json=outgoing("success"))], look=[found(outgoing("success"))])

    assert await paying.pay(invoice(), max_fee_msat=2000) == PAID
    assert fake.sent() == [{"out": True, "bolt11": invoice()}]


async def test_a_payment_that_is_pending_at_first_is_waited_for() -> None:
    pending = found(outgoing("pending"))

    sent = await pay(
        pay=[httpx.Response(201, json=outgoing("pending"))],
        look=[pending, pending, found(outgoing("success"))],
    )

    assert sent == PAID


@pytest.mark.parametrize(
    "answer",
    [
        error(520, "Payment already paid.", status="success"),
        error(520, "Payment is still pending.", status="pending"),
        error(520, "Internal invoice already paid.", status="failed"),  # says failed, and the money went
        error(520, "Payment failed: timeout", status="failed"),
        error(500, "Unexpected error! ID: x"),
        error(400, "Daily withdrawal limit of 1 sats reached."),
        error(401, "No Api Key provided."),  # or a proxy's, which has passed the request on
        error(403, "Forbidden"),
        error(404, "Not Found"),
        error(422, "value error"),
        error(429, "slow down"),
        error(503, "maintenance"),
        httpx.Response(504, text="<html>gateway time-out</html>"),
        httpx.Response(201, text="<html>"),
        httpx.Response(201, json=[]),
        httpx.Response(201, content=b" " * (1 << 21)),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.WriteError("x"),
    ],
)
async def test_whatever_the_answer_says_the_row_decides(answer: Step) -> None:
    assert await pay(pay=[answer], look=[found(outgoing("success"))]) == PAID
    assert (await pay(pay=[answer], look=[found(outgoing("failed"))])).state == "failed"
    assert (await left_open(pay=[answer], look=[found(outgoing("pending"))])).state == "unknown"


@pytest.mark.parametrize(
    "answer",
    [
        error(520, "Insufficient balance.", status="failed"),
        error(520, "You must reserve at least (2 sat) to cover potential routing fees.", status="failed"),
        error(520, "Internal invoice already paid.", status="failed"),  # by somebody else
        error(400, "It is not allowed to spend funds from this server."),
    ],
)
async def test_what_lnbits_refused_and_did_not_write_down_was_not_paid(answer: httpx.Response) -> None:
    sent = await pay(pay=[answer], look=[found(None)])

    assert (sent.state, sent.detail) == ("failed", answer.json()["detail"])


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(201, json=outgoing("success")),  # and then it does not know it
        error(520, "Payment is still pending.", status="pending"),
        error(520, "a proxy's own 520", status=520),
        error(500, "Unexpected error!"),
        httpx.Response(520, text="<html>"),
        httpx.ReadTimeout("x"),
    ],
)
async def test_without_a_row_and_without_a_plain_no_it_stays_unknown(answer: Step) -> None:
    assert (await left_open(pay=[answer], look=[found(None)])).state == "unknown"


async def test_a_look_that_fails_is_tried_again() -> None:
    sent = await pay(
        pay=[httpx.ReadTimeout("x")],
        look=[httpx.ReadTimeout("x"), error(500, "x"), found(None), found(outgoing("success"))],
    )

    assert sent == PAID


@pytest.mark.parametrize("answer", [httpx.ReadTimeout("x"), error(429, "slow down"), error(404, "Wallet not found.")])
async def test_a_payment_that_cannot_be_looked_up_is_unknown(answer: Step) -> None:
    for said in (httpx.ReadTimeout("x"), error(403, "Forbidden")):
        assert (await left_open(pay=[said], look=[answer])).state == "unknown"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("x"),
        httpx.ConnectTimeout("x"),
        httpx.PoolTimeout("x"),
        error(403, "Invoice (or Admin) key required."),
        error(404, "Wallet not found."),
        error(401, "No Api Key provided."),
        error(422, "value error"),
        httpx.Response(429, json={"error": "Rate limit exceeded"}, headers={"Retry-After": "9"}),
    ],
)
async def test_what_was_refused_at_the_door_was_not_sent(answer: Step) -> None:
    paying, fake = sender(pay=[answer], look=[httpx.ReadTimeout("x"), found(None)])

    with pytest.raises(RailUnavailable):
        await paying.pay(invoice(), max_fee_msat=2000)

    assert sum(request.method == "POST" for request in fake.requests) == 1


async def test_a_reserve_above_the_limit_is_not_paid() -> None:
    paying, fake = sender(reserve=[httpx.Response(200, json={"fee_reserve": 2001})])

    sent = await paying.pay(invoice(), max_fee_msat=2000)

    assert (sent.state, sent.detail) == ("failed", "LNbits may spend 2001 msat on fees, over the limit")
    assert fake.sent() == []


@pytest.mark.parametrize(
    "answer", [error(400, "x"), httpx.Response(200, json={"fee_reserve": "2000"}), httpx.ReadTimeout("x")]
)
async def test_without_a_reserve_nothing_is_sent(answer: Step) -> None:
    paying, fake = sender(reserve=[answer])

    with pytest.raises(RailUnavailable):
        await paying.pay(invoice(), max_fee_msat=2000)

    assert fake.sent() == []


async def test_a_payment_that_hangs_is_given_up_as_unknown() -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("fee-reserve"):
            return httpx.Response(200, json={"fee_reserve": 2000})
        await asyncio.Event().wait()
        raise AssertionError

    paying = LnbitsSender(URL, ADMIN_KEY, deadline=0.05, transport=httpx.MockTransport(hang))

    assert (await paying.pay(invoice(), max_fee_msat=2000)).state == "unknown"


@pytest.mark.parametrize("preimage", [None, 7, ""])
async def test_a_success_without_a_preimage_is_told_as_it_is(preimage: object) -> None:
    sent = await pay(pay=[httpx.ReadTimeout("x")], look=[found(outgoing("success", preimage=preimage))])

    assert (sent.state, sent.preimage or None) == ("paid", None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (found(None), None),
        (found(row("success")), None),  # an invoice of the wallet's own, paid by somebody
        (found(outgoing("success")), PAID),
        (found(outgoing("failed")), SentPayment(state="failed", detail="the node behind LNbits could not pay")),
        (found(outgoing("pending")), SentPayment(state="unknown", detail="the payment is in flight")),
    ],
)
async def test_a_payment_is_found_again_by_its_hash(answer: httpx.Response, expected: Any) -> None:
    paying, _ = sender(look=[answer])

    assert await paying.lookup(HASH) == expected


@pytest.mark.parametrize("answer", [found(outgoing("success", fee=None)), httpx.Response(200, json={"paid": True})])
async def test_a_lookup_that_cannot_be_believed_is_an_outage(answer: Step) -> None:
    paying, _ = sender(look=[answer])

    with pytest.raises(RailUnavailable):
        await paying.lookup(HASH)


async def test_the_balance_is_in_millisatoshis() -> None:
    paying, _ = sender()
    broke, _ = sender(wallet=[httpx.Response(200, json={"name": "shop", "balance": 12.5})])

    assert await paying.balance() == 123_456
    with pytest.raises(RailUnavailable, match="balance"):
        await broke.balance()


async def test_the_start_checks_that_the_key_can_pay() -> None:
    paying, _ = sender()
    await paying.start()
    await paying.close()

    with pytest.raises(ConfigurationError, match="give it the wallet's admin key"):
        await sender(key=INVOICE_KEY)[0].start()
    with pytest.raises(ConfigurationError, match="copy it"):
        await sender(key="f" * 32)[0].start()


def rows(*of: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"data": list(of), "total": len(of)})


async def test_the_start_learns_the_network_from_the_last_invoice_and_leaves_none_behind() -> None:
    paying, fake = sender(network="regtest", rows=[rows(row("success", bolt11=invoice()))])
    await paying.start()

    assert fake.sent() == []
    assert dict(fake.requests[-1].url.params)["amount[gt]"] == "0"
    with pytest.raises(ConfigurationError, match="is on regtest, and network='mainnet' is set"):
        await sender(network="mainnet", rows=[rows(row("success", bolt11=invoice()))])[0].start()


@pytest.mark.parametrize(
    "answer",
    [
        rows(),
        rows(outgoing("failed", bolt11=invoice(prefix="bc"))),  # somebody else's invoice
        rows(row("success", bolt11="")),  # paid in fiat
        rows(row("success", bolt11="lnbc1")),
        rows(row("success", bolt11=None)),
        rows({}),
        httpx.Response(200, json={"data": {"bolt11": invoice(prefix="bc")}}),
        error(500, "Unexpected error!"),
    ],
)
async def test_where_there_is_no_invoice_yet_one_is_made(answer: httpx.Response) -> None:
    paying, fake = sender(network="regtest", rows=[answer])
    await paying.start()

    (asked,) = fake.sent()
    assert (asked["out"], asked["amount"], asked["expiry"]) == (False, 1, 60)


async def test_a_wallet_s_lnbits_on_made_up_money_is_refused() -> None:
    fake_invoice = invoice(prefix="bc", features=frozenset())

    with pytest.raises(ConfigurationError, match="FakeWallet"):
        await sender(network="mainnet", rows=[rows(row("success", bolt11=fake_invoice))])[0].start()


async def test_a_wallet_s_network_is_one_that_there_is() -> None:
    with pytest.raises(ConfigurationError, match="not a Lightning network"):
        sender(network="bitcoin")


async def test_a_payment_is_looked_at_less_and_less_often() -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            await asyncio.Event().wait()

    fake = FakeLnbits(pay=deque([httpx.ReadTimeout("x")]), look=deque([found(outgoing("pending"))]))
    paying = LnbitsSender(URL, ADMIN_KEY, deadline=0.2, sleep=pause, transport=fake.transport)

    assert (await paying.pay(invoice(), max_fee_msat=2000)).state == "unknown"
    assert pauses == [0.25, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0]
    assert {request.url.path for request in fake.requests[2:]} == {f"/api/v1/payments/{HASH.hex()}"}


async def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "rail402"):
        await pay(
            pay=[error(500, f"preimage {PREIMAGE} of key {ADMIN_KEY}")],
            look=[error(500, f"preimage {PREIMAGE}"), found(outgoing("success"))],
        )

    assert "looked up" in caplog.text
    assert PREIMAGE not in caplog.text
    assert ADMIN_KEY not in caplog.text
