"""The test cards: payment methods that anybody may name and that always behave the same (docs.stripe.com/testing)."""

from __future__ import annotations

from dataclasses import dataclass

from rail402_stripe.sandbox.call import Call
from rail402_stripe.sandbox.errors import JsonObject, no_such

__all__ = ["TEST_CARDS", "TestCard", "card_of", "payment_method"]


@dataclass(frozen=True, slots=True)
class TestCard:
    """One card.

    Attributes:
        last4: its last four digits.
        decline_code: why the issuer declines every charge; None if it approves.
        decline_message: the sentence for the cardholder.
        authentication: whether the issuer wants the cardholder to authenticate first.
        error_code: the error's own code where the issuer declines.
        refund: the status that a refund to the card begins with, and the one that it ends with.
    """

    __test__ = False  # the name is Stripe's; pytest should not collect it

    last4: str
    decline_code: str | None = None
    decline_message: str = ""
    authentication: bool = False
    error_code: str = "card_declined"
    refund: tuple[str, str] = ("succeeded", "succeeded")


TEST_CARDS = {
    "pm_card_visa": TestCard("4242"),
    "pm_card_visa_chargeDeclined": TestCard("0002", "generic_decline", "Your card was declined."),
    "pm_card_visa_chargeDeclinedInsufficientFunds": TestCard(
        "9995", "insufficient_funds", "Your card has insufficient funds."
    ),
    "pm_card_visa_chargeDeclinedLostCard": TestCard("9987", "lost_card", "Your card was declined."),
    "pm_card_visa_chargeDeclinedStolenCard": TestCard("9979", "stolen_card", "Your card was declined."),
    "pm_card_chargeDeclinedFraudulent": TestCard("0019", "fraudulent", "Your card was declined."),
    "pm_card_chargeDeclinedExpiredCard": TestCard(
        "0069", "expired_card", "Your card has expired.", error_code="expired_card"
    ),
    "pm_card_chargeDeclinedProcessingError": TestCard(
        "0119",
        "processing_error",
        "An error occurred while processing your card. Try again in a little bit.",
        error_code="processing_error",
    ),
    "pm_card_authenticationRequired": TestCard("3184", authentication=True),
    "pm_card_pendingRefund": TestCard("7726", refund=("pending", "succeeded")),
    "pm_card_refundFail": TestCard("5126", refund=("succeeded", "failed")),
}


def payment_method(call: Call, name: str, *, param: str) -> JsonObject:
    """Return the payment method of that id; a test card's name makes a new one, as it does at Stripe.

    Raises:
        ApiError: 400; there is none.
    """
    known = call.books.find("payment_method", name)
    if known is not None:
        return known
    if name not in TEST_CARDS:
        raise no_such("PaymentMethod", name, param=param)
    document: JsonObject = {
        "id": call.new_id("pm"),
        "object": "payment_method",
        "card": {"brand": "visa", "country": "US", "funding": "credit", "last4": TEST_CARDS[name].last4},
        "created": call.now,
        "customer": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_test_card": name,
    }
    return call.books.insert(document)


def card_of(method: JsonObject) -> TestCard:
    """Return the card behind a payment method."""
    return TEST_CARDS[method["_test_card"]]
