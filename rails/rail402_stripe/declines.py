"""What a declined payment means: one table from Stripe's codes to ours. Pure.

Codes from docs.stripe.com/declines/codes and docs.stripe.com/error-codes. Two rules hold for all of them:

* A payer never learns that a card counts as stolen, lost or fraudulent: Stripe asks that these be presented like any
  other decline, since it is not sure that the payer is the cardholder. A code that is not in the table is not repeated
  either, for nobody here knows what it tells.
* Only a decline that says of itself that it is passing may be tried again with the same payment method. Card networks
  count retries of the others against the seller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["GENERIC_DECLINE", "Decline", "decline"]

GENERIC_DECLINE: Final = "generic_decline"
"""How a decline is called whose reason is not for the payer."""


@dataclass(frozen=True, slots=True)
class Decline:
    """What to make of a decline.

    Attributes:
        code: our reason code.
        shown: Stripe's code, as far as a payer may see it.
        may_pass: the same payment method may be charged again, a little later.
    """

    code: str = "payment_declined"
    shown: str = GENERIC_DECLINE
    may_pass: bool = False


_UNSPECIFIC: Final = Decline()

# The issuer says no, and why is the payer's to know.
_PLAIN = (
    "call_issuer card_not_supported currency_not_supported do_not_honor do_not_try_again duplicate_transaction "
    "expired_card incorrect_address incorrect_cvc incorrect_number incorrect_pin incorrect_zip invalid_account "
    "invalid_amount invalid_cvc invalid_expiry_month invalid_expiry_year invalid_number invalid_pin "
    "new_account_information_available no_action_taken not_permitted pin_try_exceeded "
    "revocation_of_all_authorizations revocation_of_authorization service_not_allowed stop_payment_order "
    "testmode_decline transaction_not_allowed"
)
# The issuer could not say yes just now.
_PASSING = "approve_with_id issuer_not_available processing_error reenter_transaction try_again_later"
_FUNDS = "card_velocity_exceeded insufficient_funds withdrawal_count_limit_exceeded"
_PERSON = (
    "authentication_required authentication_not_handled mobile_device_authentication_required offline_pin_required "
    "online_or_offline_pin_required payment_intent_authentication_failure"
)
_EXPIRED = "charge_expired_for_capture payment_intent_payment_attempt_expired"
# What hints at fraud, and what it is presented as.
_HIDDEN = (
    "fraudulent lost_card merchant_blacklist pickup_card restricted_card security_violation stolen_card "
    "generic_decline card_declined"
)


def _table() -> dict[str, Decline]:
    groups = (
        (_PLAIN, "payment_declined", False),
        (_PASSING, "payment_declined", True),
        (_FUNDS, "insufficient_funds", False),
        (_PERSON, "action_required", False),
        (_EXPIRED, "authorization_expired", False),
    )
    shown = {name: Decline(code, name, may_pass) for names, code, may_pass in groups for name in names.split()}
    return shown | dict.fromkeys(_HIDDEN.split(), _UNSPECIFIC)


_DECLINES: Final = _table()


def decline(code: str | None, decline_code: str | None) -> Decline:
    """Return what a decline means.

    Args:
        code: the error's `code`; decline_code: the issuer's, which is more exact where it is there.
    """
    found = _DECLINES.get(decline_code or "") or _DECLINES.get(code or "")
    return found or _UNSPECIFIC
