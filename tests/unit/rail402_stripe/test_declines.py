"""Decline codes: what each means here, and which are never repeated to a payer."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rail402.errors import REASONS
from rail402.protocol.charge import Operation
from rail402.protocol.rail import Failed, NotPaid
from rail402_stripe import StripeApi
from rail402_stripe.api import Declined
from rail402_stripe.declines import GENERIC_DECLINE, Decline, decline
from tests.unit.rail402_stripe.account import Account

# docs.stripe.com/declines/codes, "Card decline codes".
DOCUMENTED = (
    "authentication_required approve_with_id call_issuer card_not_supported card_velocity_exceeded "
    "currency_not_supported do_not_honor do_not_try_again duplicate_transaction expired_card fraudulent "
    "generic_decline incorrect_number incorrect_cvc incorrect_pin incorrect_zip insufficient_funds "
    "invalid_account invalid_amount invalid_cvc invalid_expiry_month invalid_expiry_year invalid_number "
    "invalid_pin issuer_not_available lost_card merchant_blacklist new_account_information_available "
    "no_action_taken not_permitted offline_pin_required online_or_offline_pin_required pickup_card "
    "pin_try_exceeded processing_error reenter_transaction restricted_card revocation_of_all_authorizations "
    "revocation_of_authorization security_violation service_not_allowed stolen_card stop_payment_order "
    "testmode_decline transaction_not_allowed try_again_later withdrawal_count_limit_exceeded"
)

HIDDEN = ["fraudulent", "lost_card", "stolen_card", "merchant_blacklist", "pickup_card", "restricted_card"]
HIDDEN_CARDS = [
    "pm_card_visa_chargeDeclinedLostCard",
    "pm_card_visa_chargeDeclinedStolenCard",
    "pm_card_chargeDeclinedFraudulent",
]


@pytest.mark.parametrize(
    ("code", "decline_code", "reason"),
    [
        ("card_declined", "insufficient_funds", "insufficient_funds"),
        ("card_declined", "card_velocity_exceeded", "insufficient_funds"),
        ("card_declined", "withdrawal_count_limit_exceeded", "insufficient_funds"),
        ("card_declined", "generic_decline", "payment_declined"),
        ("card_declined", "authentication_not_handled", "action_required"),
        ("authentication_required", "authentication_required", "action_required"),
        ("authentication_required", None, "action_required"),
        ("payment_intent_authentication_failure", None, "action_required"),
        ("payment_intent_payment_attempt_expired", None, "authorization_expired"),
        ("charge_expired_for_capture", None, "authorization_expired"),
        ("expired_card", None, "payment_declined"),
        ("expired_card", "expired_card", "payment_declined"),
        ("card_declined", "a_code_of_next_year", "payment_declined"),
        ("insufficient_funds", "a_code_of_next_year", "insufficient_funds"),
        ("", "", "payment_declined"),
        (None, None, "payment_declined"),
    ],
)
def test_declines_become_our_reasons(code: str | None, decline_code: str | None, reason: str) -> None:
    assert decline(code, decline_code).code == reason


@pytest.mark.parametrize("name", DOCUMENTED.split())
def test_every_documented_code_has_a_reason(name: str) -> None:
    found = decline("card_declined", name)
    assert found.code in REASONS
    assert REASONS[found.code].status == 402
    is_hidden = name in HIDDEN or name in ("security_violation", "generic_decline")
    assert found.shown == (GENERIC_DECLINE if is_hidden else name)


@pytest.mark.parametrize("name", [*HIDDEN, "security_violation"])
@pytest.mark.parametrize("code", ["card_declined", "expired_card", None])
def test_what_hints_at_fraud_looks_like_any_other_decline(code: str | None, name: str) -> None:
    assert decline(code, name) == decline("card_declined", "generic_decline") == Decline()
    assert name not in str(Declined(code, name))


def test_a_code_that_nobody_knows_is_not_repeated() -> None:
    assert decline(None, "high_risk_of_2030").shown == GENERIC_DECLINE


def test_only_what_says_that_it_is_passing_may_be_tried_again() -> None:
    passing = {name for name in DOCUMENTED.split() if decline("card_declined", name).may_pass}
    assert passing == {
        *("approve_with_id", "issuer_not_available", "processing_error", "reenter_transaction", "try_again_later"),
    }
    assert Declined("processing_error", None).may_pass


# --- through the rail


@pytest.mark.parametrize("card", HIDDEN_CARDS)
async def test_a_stolen_card_is_a_plain_decline(account: Account, card: str) -> None:
    answers = []
    for each in (card, "pm_card_visa_chargeDeclined"):
        charge, payment = await account.claimed(wallet=account.wallet_with(each))
        answers.append(await account.rail.hold(charge, payment))
        found = await account.rail.lookup(charge, Operation.HOLD)
        assert isinstance(found, Failed)
        assert found.code == "payment_declined"
    assert answers[0] == answers[1] == Failed(code="payment_declined", detail="declined: generic_decline")


async def test_a_passing_decline_burns_the_payment_only_after_some_attempts(account: Account) -> None:
    charge, payment = await account.claimed(wallet=account.wallet_with("pm_card_chargeDeclinedProcessingError"))
    for attempt, wanted in ((1, NotPaid()), (2, NotPaid())):
        again = charge.model_copy(update={"attempt": attempt})
        assert await account.rail.hold(again, payment) == wanted
        assert await account.rail.lookup(again, Operation.HOLD) == wanted
    last = await account.rail.hold(charge.model_copy(update={"attempt": 3}), payment)
    assert last == Failed(code="payment_declined", detail="declined: processing_error")
    assert await account.statuses() == ["requires_payment_method"] * 3
    assert await account.balance() == 0


@pytest.mark.parametrize("error", [{"code": "<script>", "decline_code": "x" * 99}, {"code": 7, "decline_code": ["a"]}])
async def test_a_decline_of_an_odd_form_is_a_plain_decline(error: dict[str, Any]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(402, json={"error": {"type": "card_error", "message": "no"} | error})

    api = StripeApi("sk_test_1", transport=httpx.MockTransport(answer))
    with pytest.raises(Declined) as caught:
        await api.create_intent("spt_1", "key", amount=50, currency="usd")
    assert (caught.value.code, caught.value.detail) == ("payment_declined", "declined: generic_decline")
    await api.close()
