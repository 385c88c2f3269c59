"""The server side against the sandbox, through the real library: what each operation does, and what lost answers leave.

Money is counted by the account's balance.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, PaymentRejected, RailUnavailable
from rail402.money import Money
from rail402.protocol.charge import Charge, Operation, PaymentEvent, PaymentState
from rail402.protocol.offer import Flow
from rail402.protocol.payment import Payment
from rail402.protocol.rail import (
    Failed,
    Held,
    Holds,
    NotPaid,
    Pending,
    Refunded,
    Refunds,
    Released,
    Settled,
    Terms,
    Unknown,
)
from rail402_stripe import StripeApi, StripeRail
from rail402_stripe.intents import metadata_of
from rail402_stripe.on_demand import MOST_OFFER_SECONDS
from rail402_stripe.sandbox.idempotency import KEPT_SECONDS
from rail402_stripe.wire import SANDBOX_PROFILE, payload_of, token_key
from tests.unit.rail402_stripe.account import (
    CANCEL,
    CAPTURE,
    CREATE,
    INTENT,
    ORDER,
    PRICE,
    REFUND,
    TOKEN,
    Account,
    present,
    step,
)

DECLINED = "pm_card_visa_chargeDeclined"
NO_FUNDS = "pm_card_visa_chargeDeclinedInsufficientFunds"
WANTS_PERSON = "pm_card_authenticationRequired"

DATED = {"date": "Fri, 15 Jan 2027 08:00:00 GMT"}

LOST = [("timeout", False), ("timeout", True), ("server_error", False), ("server_error", True), ("html", False)]
LOST += [("html", True), ("truncated", True)]
"""Answers that say nothing about whether the request was carried out."""


def make_rail(key: Any = "sk_test_1", **options: Any) -> StripeRail:
    return StripeRail(key, **({"profile_id": "profile_test_1"} | options))


# --- making a rail


async def test_a_sandbox_rail_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))
    rail = StripeRail.sandbox()
    await rail.start()
    await rail.health()
    assert await rail.received() == Money.parse("0 USD")
    assert rail.is_sandbox is True
    assert rail.profile_id == SANDBOX_PROFILE
    assert [mechanism.network for mechanism in rail.spec.mechanisms] == ["stripe:sandbox"]
    assert isinstance(rail, Holds)
    assert isinstance(rail, Refunds)
    await rail.close()
    assert (tmp_path / "play" / "stripe.sqlite3").exists()


@pytest.mark.parametrize(("key", "network"), [("sk_test_1", "stripe:test"), ("rk_live_1", "stripe:live")])
async def test_a_real_rail_is_no_sandbox_and_hides_its_key(key: str, network: str) -> None:
    rail = make_rail(key, profile_id="profile_1", currency=["usd", "eur"])
    assert rail.is_sandbox is False
    assert [(mechanism.network, mechanism.asset) for mechanism in rail.spec.mechanisms] == [
        (network, "usd"),
        (network, "eur"),
    ]
    assert key not in repr(rail)
    await rail.close()


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("pk_test_1", {}),
        ("", {}),
        ("sk_live_1", {}),
        ("sk_live_1", {"profile_id": "internal"}),
        ("sk_test_1", {"profile_id": SANDBOX_PROFILE}),
        ("sk_test_1", {"profile_id": ""}),
        ("sk_test_1", {"currency": "zzz"}),
        ("sk_test_1", {"currency": []}),
        ("sk_test_1", {"payment_method_types": []}),
        ("sk_test_1", {"payment_method_types": "card"}),
    ],
)
def test_settings_that_do_not_fit_are_refused(key: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        make_rail(key, **options)


def test_the_sandbox_takes_no_key() -> None:
    with pytest.raises(TypeError):
        StripeRail.sandbox(secret_key="sk_live_1")  # type: ignore[call-arg]


@pytest.mark.parametrize("status", [401, 500])
async def test_starting_checks_the_key_but_does_not_need_stripe(status: int, caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"error": {"type": "api_error"}})

    rail = make_rail(StripeApi("sk_test_1", transport=httpx.MockTransport(answer)))
    if status == 401:
        with pytest.raises(ConfigurationError, match="key"):
            await rail.start()
    else:
        await rail.start()
        assert "could not be checked" in caplog.text
    with pytest.raises(RailUnavailable):
        await rail.health()
    await rail.close()


# --- offers


async def test_an_offer_says_who_is_paid_and_how(account: Account) -> None:
    offer = await account.offer(Flow.UPFRONT)
    assert (offer.rail, offer.mechanism, offer.network, offer.asset) == ("stripe", "spt", "stripe:sandbox", "usd")
    assert (offer.amount, offer.payee, offer.flow) == (PRICE, SANDBOX_PROFILE, Flow.UPFRONT)
    assert offer.extra == {
        "payment_method_types": ["card", "link"],
        "payment_intent": {
            "url": "https://shop.example/.well-known/rail402/stripe",
            "publishable_key": "pk_test_sandbox",
        },
        "checkout": {"url": "https://shop.example/.well-known/rail402/stripe"},
    }
    assert await account.intents() == []


@pytest.mark.parametrize(
    ("currency", "amount", "is_offered"),
    [
        ("usd", 49, False),
        ("usd", 50, True),
        ("usd", 99_999_999, True),
        ("usd", 100_000_000, False),
        ("gbp", 29, False),
        ("gbp", 30, True),
        ("isk", 550, False),
        ("isk", 500, True),
        ("kwd", 1001, False),
        ("kwd", 1010, True),
        ("vnd", 1, True),  # no minimum is published
    ],
)
async def test_what_stripe_cannot_charge_is_not_offered(
    tmp_path: Path, currency: str, amount: int, is_offered: bool
) -> None:
    rail = StripeRail.sandbox(tmp_path, currency=currency)
    terms = Terms(amount=amount, flow=Flow.ESCROW, now=0, expires_at=600, timeout_seconds=180)
    offer = await rail.offer(ORDER, rail.spec.mechanisms[0], terms)
    assert (offer is not None) is is_offered
    await rail.close()


# --- verifying


async def verify(account: Account, spt: str, flow: Flow = Flow.ESCROW, later: int = 0) -> Any:
    offer, payment = await account.offer(flow), present(payload_of(spt, None))
    account.clock.advance(later)
    verified = account.rail.spec.authenticate(offer, payment)
    return await account.rail.verify(offer, payment, verified, now=account.clock())


async def test_a_good_token_is_verified_without_using_it(account: Account) -> None:
    spt = await account.token()
    verified = await verify(account, spt)
    assert verified.keys == {token_key(spt)}
    assert verified.payer == "profile_test_sandbox_agent"
    assert verified.state == {"verified_at": account.clock(), "stripe_time": account.clock()}
    assert await account.intents() == []


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_amount": PRICE - 1}, "amount_mismatch"),
        ({"currency": "eur"}, "asset_mismatch"),
        ({"expires_at": 1_800_000_010}, "authorization_expired"),
    ],
)
async def test_a_token_that_is_too_small_is_refused(account: Account, limits: dict[str, Any], code: str) -> None:
    spt = await account.token(**limits)
    with pytest.raises(PaymentRejected) as caught:
        await verify(account, spt, later=20)
    assert caught.value.code == code
    assert spt not in str(caught.value)


async def test_a_larger_token_is_good(account: Account) -> None:
    await verify(account, await account.token(max_amount=PRICE + 1))


async def test_a_used_token_is_refused(account: Account) -> None:
    offer = await account.offer(Flow.UPFRONT)
    payment = await account.pay(offer)
    charge = await charge_for(account, payment, Flow.UPFRONT)
    assert isinstance(await account.rail.settle(charge, payment), Settled)
    with pytest.raises(PaymentRejected) as caught:
        await verify(account, payment.payload["spt"])
    assert caught.value.code == "proof_already_used"


async def test_a_revoked_token_is_refused(account: Account) -> None:
    spt = await account.token()
    await account.api._post(f"/v1/test_helpers/shared_payment/granted_tokens/{spt}/revoke", "revoke")
    with pytest.raises(PaymentRejected) as caught:
        await verify(account, spt)
    assert caught.value.code == "payment_declined"


async def test_a_token_that_stripe_does_not_know_is_refused(account: Account) -> None:
    with pytest.raises(PaymentRejected) as caught:
        await verify(account, "spt_invented")
    assert caught.value.code == "payment_declined"
    assert "invented" not in str(caught.value)


async def test_an_expired_offer_is_refused_before_stripe_is_asked(account: Account) -> None:
    spt = await account.token(expires_at=account.clock() + 10_000)
    account.spoil(TOKEN, "server_error")
    with pytest.raises(PaymentRejected) as caught:
        await verify(account, spt, later=601)
    assert caught.value.code == "offer_expired"


@pytest.mark.parametrize("answer", ["timeout", "server_error", "rate_limited", "html"])
async def test_nothing_is_burnt_where_the_token_cannot_be_looked_at(account: Account, answer: Any) -> None:
    spt = await account.token()
    account.spoil(TOKEN, answer)
    with pytest.raises(RailUnavailable):
        await verify(account, spt)
    await verify(account, spt)


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ({"livemode": True}, "network_mismatch"),
        ({}, "network_mismatch"),
        ({"livemode": False, "deactivated_at": 1, "deactivated_reason": ["x"]}, "payment_declined"),
        ({"livemode": False, "deactivated_at": 1, "deactivated_reason": "resolved"}, "payment_declined"),
        (
            {
                "livemode": False,
                "usage_limits": {"currency": "usd", "max_amount": 80},
                "usage_details": {"amount_captured": {"value": 31}},
            },
            "amount_mismatch",
        ),
        ({"livemode": False, "usage_limits": {"expires_at": 0}}, "authorization_expired"),
        ({"livemode": False, "usage_limits": "x", "usage_details": [], "agent_details": 7}, None),
    ],
)
async def test_tokens_of_other_forms(token: dict[str, Any], code: str | None) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=token, headers=DATED))
    rail = make_rail(StripeApi("sk_test_1", transport=transport))
    terms = Terms(amount=PRICE, flow=Flow.ESCROW, now=0, expires_at=600, timeout_seconds=180)
    offer = await rail.offer(ORDER, rail.spec.mechanisms[0], terms)
    assert offer is not None
    payment = present({"spt": "spt_1"})
    verified = rail.spec.authenticate(offer, payment)
    if code is None:
        assert (await rail.verify(offer, payment, verified, now=0)).payer is None
    else:
        with pytest.raises(PaymentRejected) as caught:
            await rail.verify(offer, payment, verified, now=0)
        assert caught.value.code == code
    await rail.close()


# --- the money, when all goes well


async def test_escrow_reserves_and_then_takes(account: Account) -> None:
    charge, payment = await account.claimed()
    held = await account.rail.hold(charge, payment)
    assert isinstance(held, Held)
    assert await account.statuses() == ["requires_capture"]
    assert await account.balance() == 0
    charge = step(step(charge, PaymentEvent.HELD, held.state), PaymentEvent.SETTLE)
    settled = await account.rail.settle(charge, None)
    assert isinstance(settled, Settled)
    assert settled.transaction == held.state["payment_intent"]
    assert held.keys < settled.keys
    assert await account.statuses() == ["succeeded"]
    assert await account.balance() == PRICE
    assert await account.rail.received() == Money.parse("0.50 USD")


async def test_upfront_takes_at_once(account: Account) -> None:
    charge, payment = await account.claimed(Flow.UPFRONT)
    assert isinstance(await account.rail.settle(charge, payment), Settled)
    assert await account.balance() == PRICE


async def test_what_was_held_is_released(account: Account) -> None:
    charge, payment = await account.held()
    assert await account.rail.release(step(charge, PaymentEvent.RELEASE)) == Released()
    assert await account.statuses() == ["canceled"]
    assert await account.balance() == 0
    again = await charge_for(account, payment, attempt=2)
    assert isinstance(await account.rail.hold(again, payment), Held)  # the token is free


async def test_what_was_taken_is_refunded(account: Account) -> None:
    charge = await account.settled()
    assert isinstance(await account.rail.refund(step(charge, PaymentEvent.REFUND)), Refunded)
    assert await account.balance() == 0


async def test_the_payment_intent_is_marked_and_not_for_people(account: Account) -> None:
    charge, _ = await account.held()
    (intent,) = await account.intents()
    assert intent["metadata"] == metadata_of(charge)
    assert intent["capture_method"] == "manual"
    assert intent["automatic_payment_methods"] == {"enabled": True, "allow_redirects": "never"}
    assert ORDER.url not in json.dumps(intent)


async def charge_for(
    account: Account, payment: Payment, flow: Flow = Flow.ESCROW, attempt: int = 1, name: str = "ch_again"
) -> Charge:
    """Return a charge that is about to ask for the money."""
    offer = await account.offer(flow)
    verified = await account.rail.verify(
        offer, payment, account.rail.spec.authenticate(offer, payment), now=account.clock()
    )
    charge = Charge(
        id=name,
        order=ORDER,
        offer=offer,
        price=offer.price,
        window=600,
        dialect="mpp",
        keys=tuple(verified.keys),
        attempt=attempt,
        created_at=account.clock(),
        lease_until=account.clock() + 120,
        rail_state=verified.state,
    )
    return charge.on(PaymentEvent.HOLD if flow is Flow.ESCROW else PaymentEvent.SETTLE, lease_until=charge.lease_until)


# --- definitive refusals


@pytest.mark.parametrize("flow", [Flow.ESCROW, Flow.UPFRONT])
@pytest.mark.parametrize(
    ("card", "code"),
    [(DECLINED, "payment_declined"), (NO_FUNDS, "insufficient_funds"), (WANTS_PERSON, "action_required")],
)
async def test_a_declined_card_fails_for_good(account: Account, flow: Flow, card: str, code: str) -> None:
    charge, payment = await account.claimed(flow, account.wallet_with(card))
    if flow is Flow.ESCROW:
        answer, operation = await account.rail.hold(charge, payment), Operation.HOLD
    else:
        answer, operation = await account.rail.settle(charge, payment), Operation.SETTLE
    assert isinstance(answer, Failed)
    assert answer.code == code
    assert payment.payload["spt"] not in answer.detail
    looked_up = await account.rail.lookup(charge, operation)
    assert isinstance(looked_up, Failed)
    assert looked_up.code == code
    assert await account.statuses() == ["requires_payment_method"]
    assert await account.balance() == 0


@pytest.mark.parametrize("how", ["in use", "used", "revoked", "another seller's"])
async def test_a_token_that_stripe_refuses_fails_for_good(account: Account, how: str) -> None:
    charge, payment = await account.claimed()
    if how == "in use":
        assert isinstance(await account.rail.hold(charge, payment), Held)
        charge = charge.model_copy(update={"id": "ch_other"})
    elif how == "used":
        first = charge.model_copy(update={"offer": await account.offer(Flow.UPFRONT)})
        assert isinstance(await account.rail.settle(first, payment), Settled)
    elif how == "revoked":
        await account.api._post(
            f"/v1/test_helpers/shared_payment/granted_tokens/{payment.payload['spt']}/revoke", "revoke"
        )
    else:
        account.sandbox._profile_id = "profile_else"
        limits = {"currency": "usd", "max_amount": PRICE}
        token = await account.api.grant_token(
            "else",
            payment_method="pm_card_visa",
            usage_limits=limits,
            seller_details={"network_id": "profile_else"},
        )
        payment = present({"spt": token["id"]})
    before = await account.balance()
    answer = await account.rail.hold(charge, payment)
    assert isinstance(answer, Failed)
    assert answer.code == "payment_declined"
    assert await account.balance() == before


async def test_a_version_that_does_not_know_the_spelling_burns_nothing(caplog: pytest.LogCaptureFixture) -> None:
    error = {"type": "invalid_request_error", "code": "parameter_unknown", "param": "payment_method_data[x]"}
    api = StripeApi("sk_test_1", transport=httpx.MockTransport(lambda _: httpx.Response(400, json={"error": error})))
    rail = make_rail(api)
    with pytest.raises(RailUnavailable):
        await rail.hold(await _unasked_charge(rail), present({"spt": "spt_1"}))
    assert "spt_parameter" in caplog.text
    await rail.close()


async def _unasked_charge(rail: StripeRail) -> Charge:
    terms = Terms(amount=PRICE, flow=Flow.ESCROW, now=0, expires_at=600, timeout_seconds=180)
    offer = await rail.offer(ORDER, rail.spec.mechanisms[0], terms)
    assert offer is not None
    facts: Any = {"order": ORDER, "offer": offer, "price": offer.price, "window": 600, "dialect": "mpp"}
    charge = Charge(
        id="ch_1", keys=("k",), created_at=0, lease_until=9, rail_state={"verified_at": rail._clock()}, **facts
    )
    return charge.on(PaymentEvent.HOLD, lease_until=9)


@pytest.mark.parametrize("change", [{"amount": 49}, {"currency": "eur"}, {"livemode": True}, {"metadata": {}}])
async def test_an_answer_about_something_else_is_not_believed(change: dict[str, Any]) -> None:
    intent: dict[str, Any] = {}
    rail = make_rail(StripeApi("sk_test_1", transport=httpx.MockTransport(lambda _: httpx.Response(200, json=intent))))
    charge = await _unasked_charge(rail)
    intent |= {
        "id": "pi_1",
        "status": "requires_capture",
        "amount": PRICE,
        "amount_capturable": PRICE,
        "currency": "usd",
        "livemode": False,
        "metadata": metadata_of(charge),
    }
    payment = present({"spt": "spt_1"})
    assert isinstance(await rail.hold(charge, payment), Held)
    intent |= change
    assert isinstance(await rail.hold(charge, payment), Unknown)
    held = step(charge, PaymentEvent.HELD, {"payment_intent": "pi_1"})
    assert isinstance(await rail.settle(step(held, PaymentEvent.SETTLE), None), Unknown)
    assert isinstance(await rail.release(step(held, PaymentEvent.RELEASE)), Unknown)
    assert isinstance(await rail.lookup(held, Operation.RELEASE), Unknown)
    await rail.close()


# --- answers that say that nothing happened


@pytest.mark.parametrize("answer", ["rate_limited", "conflict"])
async def test_a_busy_stripe_did_nothing(account: Account, answer: Any) -> None:
    charge, payment = await account.claimed()
    account.spoil(CREATE, answer)
    with pytest.raises(RailUnavailable):
        await account.rail.hold(charge, payment)
    assert await account.intents() == []
    held, _ = await account.held()
    for path, call in (
        (CAPTURE, lambda: account.rail.settle(step(held, PaymentEvent.SETTLE), None)),
        (CANCEL, lambda: account.rail.release(step(held, PaymentEvent.RELEASE))),
    ):
        account.spoil(path, answer)
        with pytest.raises(RailUnavailable):
            await call()
    assert await account.statuses() == ["requires_capture"]
    settled = await account.settled()
    account.spoil(REFUND, answer)
    with pytest.raises(RailUnavailable):
        await account.rail.refund(step(settled, PaymentEvent.REFUND))
    assert await account.balance() == PRICE


# --- lost answers


@pytest.mark.parametrize(("answer", "applied"), LOST)
@pytest.mark.parametrize("flow", [Flow.ESCROW, Flow.UPFRONT])
async def test_a_lost_creation_is_found_or_waited_out(account: Account, flow: Flow, answer: Any, applied: bool) -> None:
    charge, payment = await account.claimed(flow)
    account.spoil(CREATE, answer, applied=applied)
    operation = Operation.HOLD if flow is Flow.ESCROW else Operation.SETTLE
    asked = account.rail.hold if flow is Flow.ESCROW else account.rail.settle
    assert isinstance(await asked(charge, payment), Unknown)
    early = await account.rail.lookup(charge, operation)
    if applied:
        assert isinstance(early, Held if flow is Flow.ESCROW else Settled)
        assert await account.balance() == (0 if flow is Flow.ESCROW else PRICE)
        return
    assert early == Pending(retry_after=120)  # it may still land
    account.clock.advance(119)
    assert await account.rail.lookup(charge, operation) == Pending(retry_after=1)
    account.clock.advance(1)
    assert await account.rail.lookup(charge, operation) == NotPaid()
    assert await account.balance() == 0
    again = await charge_for(account, payment, flow, attempt=2, name=charge.id)
    assert isinstance(await asked(again, payment), Held | Settled)
    used_up = [] if answer == "server_error" else ["canceled"]  # Stripe keeps an error under the key by itself
    assert await account.statuses() == ["requires_capture" if flow is Flow.ESCROW else "succeeded", *used_up]


async def test_what_lands_late_is_found(account: Account) -> None:
    charge, payment = await account.claimed()
    account.spoil(CREATE, "timeout")
    await account.rail.hold(charge, payment)
    account.clock.advance(90)
    assert isinstance(await account.rail.lookup(charge, Operation.HOLD), Pending)
    checked_now = charge.model_copy(update={"rail_state": {**charge.rail_state, "verified_at": account.clock()}})
    assert isinstance(await account.rail.hold(checked_now, payment), Held)  # as if the first request arrived only now
    account.clock.advance(90)
    assert isinstance(await account.rail.lookup(charge, Operation.HOLD), Held)


async def test_what_was_checked_long_ago_is_not_charged(account: Account) -> None:
    """The lookup calls it undone two minutes after the check: by then nothing may be sent any more."""
    charge, payment = await account.claimed()
    account.clock.advance(31)
    with pytest.raises(RailUnavailable, match="too long ago"):
        await account.rail.hold(charge, payment)
    assert await account.statuses() == []


async def test_without_stripe_s_time_nothing_is_called_undone(account: Account) -> None:
    charge, _ = await account.claimed()
    state = {name: value for name, value in charge.rail_state.items() if name != "stripe_time"}
    account.clock.advance(1000)
    undated = charge.model_copy(update={"rail_state": state})
    assert isinstance(await account.rail.lookup(undated, Operation.HOLD), Unknown)


async def test_what_others_create_does_not_hide_a_charge(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    charge, payment = await account.claimed()
    account.spoil(CREATE, "timeout", applied=True)
    await account.rail.hold(charge, payment)
    for n in range(15):  # newer ones come first in Stripe's lists
        account.clock.advance(1)
        await account.api.intent_of_key(f"flood:{n}", amount=PRICE, currency="usd")
    monkeypatch.setattr("rail402_stripe.api._PAGE", 1)
    pages, get = 0, account.rail._api._get

    async def counted(path: str, **params: Any) -> Any:
        nonlocal pages
        pages += 1
        return await get(path, **params)

    monkeypatch.setattr(account.rail._api, "_get", counted)
    assert isinstance(await account.rail.lookup(charge, Operation.HOLD), Held)
    assert pages == 3  # those of the first two seconds after the check


async def test_without_a_date_no_token_is_verified() -> None:
    token = httpx.MockTransport(lambda _: httpx.Response(200, json={"livemode": False}))
    rail = make_rail(StripeApi("sk_test_1", transport=token))
    terms = Terms(amount=PRICE, flow=Flow.ESCROW, now=0, expires_at=600, timeout_seconds=180)
    offer, payment = await rail.offer(ORDER, rail.spec.mechanisms[0], terms), present({"spt": "spt_1"})
    assert offer is not None
    with pytest.raises(RailUnavailable, match="what time it is"):
        await rail.verify(offer, payment, rail.spec.authenticate(offer, payment), now=0)
    await rail.close()


async def test_no_offer_outlives_what_stripe_remembers(account: Account) -> None:
    tokens_alone = make_rail()
    assert (tokens_alone.max_offer_seconds, account.rail.max_offer_seconds) == (None, MOST_OFFER_SECONDS)
    await tokens_alone.close()


async def test_a_refund_that_the_gate_cuts_off_may_still_land(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = step(await account.settled(), PaymentEvent.REFUND).model_copy(update={"asked_at": account.clock()})
    sent = asyncio.Event()

    async def hangs(*_: Any) -> None:
        sent.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(account.rail._api, "refund", hangs)
    refunding = asyncio.create_task(account.rail.refund(charge))
    await sent.wait()
    refunding.cancel()
    await asyncio.gather(refunding, return_exceptions=True)
    account.clock.advance(20)
    assert await account.rail.lookup(charge, Operation.REFUND) == Pending(retry_after=100)
    account.clock.advance(100)
    assert isinstance(await account.rail.lookup(charge, Operation.REFUND), Settled)


async def test_the_same_try_never_charges_twice(account: Account) -> None:
    charge, payment = await account.claimed(Flow.UPFRONT)
    first = await account.rail.settle(charge, payment)
    assert isinstance(first, Settled)
    assert await account.rail.settle(charge, payment) == first
    assert await account.balance() == PRICE


async def test_an_earlier_attempt_is_not_mistaken_for_this_one(account: Account) -> None:
    charge, payment = await account.held()
    await account.rail.release(step(charge, PaymentEvent.RELEASE))
    again = await charge_for(account, payment, attempt=2, name=charge.id)
    account.spoil(CREATE, "timeout")
    assert isinstance(await account.rail.hold(again, payment), Unknown)
    account.clock.advance(121)
    assert await account.rail.lookup(again, Operation.HOLD) == NotPaid()


@pytest.mark.parametrize(("answer", "applied"), LOST)
async def test_a_lost_capture(account: Account, answer: Any, applied: bool) -> None:
    charge, _ = await account.held()
    charge = step(charge, PaymentEvent.SETTLE)
    account.spoil(CAPTURE, answer, applied=applied)
    assert isinstance(await account.rail.settle(charge, None), Unknown)
    found = await account.rail.lookup(charge, Operation.SETTLE)
    assert isinstance(found, Settled if applied else Held)
    assert await account.balance() == (PRICE if applied else 0)
    again = await account.rail.settle(charge.model_copy(update={"tries": 3}), None)
    assert isinstance(again, Settled)
    assert await account.balance() == PRICE


@pytest.mark.parametrize(("answer", "applied"), LOST)
async def test_a_lost_cancellation(account: Account, answer: Any, applied: bool) -> None:
    charge, _ = await account.held()
    charge = step(charge, PaymentEvent.RELEASE)
    account.spoil(CANCEL, answer, applied=applied)
    assert isinstance(await account.rail.release(charge), Unknown)
    found = await account.rail.lookup(charge, Operation.RELEASE)
    assert isinstance(found, Released if applied else Held)
    assert await account.rail.release(charge.model_copy(update={"tries": 3})) == Released()
    assert await account.statuses() == ["canceled"]


@pytest.mark.parametrize(("answer", "applied"), LOST)
async def test_a_lost_refund(account: Account, answer: Any, applied: bool) -> None:
    charge = step(await account.settled(), PaymentEvent.REFUND)
    account.spoil(REFUND, answer, applied=applied)
    assert isinstance(await account.rail.refund(charge), Unknown)
    found = await account.rail.lookup(charge, Operation.REFUND)
    assert isinstance(found, Refunded if applied else Settled)
    assert await account.balance() == (0 if applied else PRICE)
    assert isinstance(await account.rail.refund(charge.model_copy(update={"tries": 3})), Refunded)
    assert await account.balance() == 0


@pytest.mark.parametrize("operation", list(Operation))
async def test_a_lookup_that_is_not_answered_says_so(account: Account, operation: Operation) -> None:
    charge, _ = await account.held()
    account.spoil(INTENT, "server_error")
    with pytest.raises(RailUnavailable):
        await account.rail.lookup(charge, operation)


# --- what somebody else did


async def test_a_capture_after_the_cancellation_takes_nothing(account: Account) -> None:
    charge, _ = await account.held()
    await account.api.cancel(charge.rail_state["payment_intent"], "dashboard")
    settling = step(charge, PaymentEvent.SETTLE)
    assert isinstance(await account.rail.settle(settling, None), Unknown)
    assert await account.rail.lookup(settling, Operation.SETTLE) == Released()
    assert await account.rail.release(step(charge, PaymentEvent.RELEASE)) == Released()
    assert await account.balance() == 0


async def test_a_release_after_the_capture_says_settled(account: Account) -> None:
    charge, _ = await account.held()
    await account.api.capture(charge.rail_state["payment_intent"], "dashboard", PRICE)
    answer = await account.rail.release(step(charge, PaymentEvent.RELEASE))
    assert isinstance(answer, Settled)
    assert isinstance(await account.rail.settle(step(charge, PaymentEvent.SETTLE), None), Settled)
    assert await account.balance() == PRICE


async def test_an_authorization_that_ran_out_is_released(account: Account) -> None:
    charge, _ = await account.held()
    account.clock.advance(8 * 24 * 3600)
    assert await account.rail.lookup(step(charge, PaymentEvent.SETTLE), Operation.SETTLE) == Released()


async def test_a_refund_by_hand_counts(account: Account) -> None:
    charge = await account.settled()
    await account.api.refund(charge.rail_state["payment_intent"], "dashboard", {})
    found = await account.rail.refund(step(charge, PaymentEvent.REFUND))
    assert isinstance(found, Refunded)
    assert found.transaction is not None
    assert found.transaction.startswith("re_")
    assert await account.balance() == 0


async def test_a_refund_that_stripe_refuses_leaves_the_money(account: Account) -> None:
    charge = step(await account.settled(), PaymentEvent.REFUND)
    real, pi = account.rail._cashier._api, charge.rail_state["payment_intent"]

    class Refusing:
        async def refund(self, *_: Any) -> Any:
            return await real._post("/v1/refunds", "bad", payment_intent=pi, amount=PRICE + 1)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    account.rail._cashier._api = Refusing()  # type: ignore[assignment]
    answer = await account.rail.refund(charge)
    account.rail._cashier._api = real
    assert isinstance(answer, Failed)
    assert await account.balance() == PRICE


@pytest.mark.parametrize(
    ("status", "kind"), [("succeeded", Refunded), ("pending", Unknown), ("failed", Failed), ("canceled", Failed)]
)
async def test_a_refund_is_done_when_stripe_says_so(account: Account, status: str, kind: type) -> None:
    charge = step(await account.settled(), PaymentEvent.REFUND)
    real = account.rail._cashier._api
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"id": "re_1", "status": status}))
    account.rail._cashier._api = StripeApi("sk_test_1", transport=transport)
    answer = await account.rail.refund(charge)
    await account.rail._cashier._api.close()
    account.rail._cashier._api = real
    assert isinstance(answer, kind)


async def test_a_refund_under_way_is_waited_for(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    charge = step(await account.settled(), PaymentEvent.REFUND)

    async def refunds(pi: str) -> list[Any]:
        return [{"id": "re_1", "status": "pending"}]

    monkeypatch.setattr(account.rail._cashier._api, "refunds", refunds)
    assert isinstance(await account.rail.lookup(charge, Operation.REFUND), Pending)


async def test_a_charge_of_another_mode_is_left_alone(account: Account) -> None:
    charge, _ = await account.held()
    offer = charge.offer.model_copy(update={"network": "stripe:live"})
    answer = await account.rail.lookup(charge.model_copy(update={"offer": offer}), Operation.SETTLE)
    assert isinstance(answer, Unknown)
    assert "stripe:live" in answer.detail


async def test_a_payment_intent_that_stripe_does_not_know_stays_unknown(account: Account) -> None:
    charge, _ = await account.held()
    charge = charge.model_copy(update={"rail_state": {"payment_intent": "pi_else"}})
    assert isinstance(await account.rail.lookup(charge, Operation.SETTLE), Unknown)
    assert isinstance(await account.rail.settle(step(charge, PaymentEvent.SETTLE), None), Unknown)
    assert isinstance(await account.rail.release(step(charge, PaymentEvent.RELEASE)), Unknown)


# --- secrets


async def test_the_token_is_nowhere_but_in_the_payment(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    charge, payment = await account.held()
    spt = payment.payload["spt"]
    settling = step(charge, PaymentEvent.SETTLE)
    settled = await account.rail.settle(settling, payment)
    again = await account.rail.hold(charge.model_copy(update={"id": "ch_2"}), payment)
    found = [charge, settled, again, await account.rail.lookup(settling, Operation.SETTLE), account.rail]
    for text in (*map(repr, found), charge.model_dump_json(), caplog.text, repr(payment)):
        assert spt not in text
        assert "_secret_" not in text.replace("_secret_…", "")


async def test_what_is_asked_again_after_stripe_has_forgotten_the_key_happens_once(account: Account) -> None:
    charge = await account.settled(Flow.ESCROW)
    account.clock.advance(2 * KEPT_SECONDS)
    asked = charge.model_copy(update={"payment": PaymentState.SETTLING})
    assert isinstance(await account.rail.settle(asked, None), Settled)
    assert await account.balance() == PRICE
    refunding = step(charge, PaymentEvent.REFUND)
    for _ in range(2):
        assert isinstance(await account.rail.refund(refunding), Refunded)
        account.clock.advance(2 * KEPT_SECONDS)
    assert await account.balance() == 0
    (intent,) = await account.intents()
    assert len(await account.api.refunds(intent["id"])) == 1
