"""What Stripe's errors mean: the one seam to those of the `stripe` library.

Stripe's own messages never get further than this module: they may name a token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import stripe

from rail402.errors import OutcomeUnknown, PaymentRejected, Rail402Error, RailUnavailable
from rail402.upstream import NEVER_SENT
from rail402_stripe.declines import decline

__all__ = ["Declined", "KeyUsed", "Refused", "no_answer", "translated"]

logger = logging.getLogger("rail402.stripe")

Check = Callable[[str], object]

_is_code = re.compile(r"[a-z0-9_]{1,80}", re.ASCII).fullmatch
_is_param = re.compile(r"[a-z0-9_\[\]]{1,120}", re.ASCII).fullmatch


class Refused(PaymentRejected):
    """Stripe refused a request, definitively: it did nothing (HTTP 400 or 404).

    Attributes:
        stripe_code: Stripe's error code (docs.stripe.com/error-codes), where it gave one. There are none for the limits
            of a shared payment token.
        param: the parameter that it is about.
    """

    default_code = "payment_declined"

    def __init__(self, stripe_code: str | None, param: str | None) -> None:
        self.stripe_code, self.param = stripe_code, param
        about = f" about {param}" if param else ""
        super().__init__(f"Stripe refused it ({stripe_code or 'without a code'}{about})")


class Declined(PaymentRejected):
    """The payment method was declined, definitively (HTTP 402). `code` is our reason code for it.

    Attributes:
        may_pass: the same payment method may be charged again, a little later.
    """

    def __init__(self, stripe_code: str | None, decline_code: str | None) -> None:
        found = decline(stripe_code, decline_code)
        self.may_pass = found.may_pass
        super().__init__(f"declined: {found.shown}", code=found.code)


class KeyUsed(OutcomeUnknown):
    """The idempotency key was used before, for another request, which has ended: Stripe does nothing with this one."""


def translated(error: stripe.StripeError, *, asks_only: bool) -> Rail402Error:
    """Return our error for one of the library's; `asks_only`: the request changes nothing, whatever became of it."""
    code = _detail(error, "code", _is_code)
    kind = _detail(error, "type", _is_code)
    is_stripes_own = kind in ("card_error", "invalid_request_error")
    # Anything else with such a status may come from a proxy, which may have passed the request on.
    is_no = asks_only or kind not in (None, "api_error")
    match error:
        case stripe.CardError() if is_stripes_own:
            return Declined(code, _detail(error, "decline_code", _is_code))
        case stripe.InvalidRequestError() if is_stripes_own:
            return Refused(code, _detail(error, "param", _is_param))
        case stripe.RateLimitError() if is_no:
            return RailUnavailable("Stripe asks for fewer requests", retry_after=2)
        case stripe.AuthenticationError() | stripe.PermissionError() if is_no:
            logger.error("Stripe does not accept the secret key for this (HTTP %s, %s)", error.http_status, code)
            return RailUnavailable("Stripe does not accept the publisher's key")
        case stripe.APIError() if error.http_status == 409 and code == "lock_timeout":
            return RailUnavailable("another request holds the same object at Stripe", retry_after=2)
        case stripe.IdempotencyError() if error.http_status == 400 and not asks_only:
            return KeyUsed("the idempotency key was used for another request")
        case stripe.APIConnectionError() if isinstance(error.__cause__, NEVER_SENT):
            return RailUnavailable("Stripe cannot be reached")
        case _:
            return no_answer(f"is not there (HTTP {error.http_status}, {code})", asks_only=asks_only)


def _detail(error: stripe.StripeError, name: str, has_its_form: Check) -> str | None:
    """Return a member of Stripe's error where it has the form that it should have, so that it can be repeated."""
    value = getattr(error.error, name, None)
    return value if isinstance(value, str) and has_its_form(value) else None


def no_answer(what: str, *, asks_only: bool) -> Rail402Error:
    kind = RailUnavailable if asks_only else OutcomeUnknown
    return kind(f"an answer of Stripe that can be believed {what}")
