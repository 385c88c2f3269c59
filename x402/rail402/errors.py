"""Every error of rail402, and the one table of reason codes.

The tree, by who has to act::

    Rail402Error
    ├── ConfigurationError            you: a setting, a key, a file, the wiring
    │   └── GateNotInstalled              a paid endpoint was reached without its gate
    ├── MalformedInput                the peer's bytes: names the field and the fix; never a 500
    ├── PaymentRejected               the payer's payment does not pay for this order (carries a reason code)
    ├── RateLimited                   a client, or all of them together, ask for more than the limits let through
    ├── RailUnavailable               a backend is down or answered nonsense; nothing happened, nothing is burnt
    ├── OutcomeUnknown                a backend may or may not have moved money; only a lookup may decide
    ├── StoreError                    the store is down
    │   ├── StaleCharge                   another worker moved the charge on first
    │   └── KeyTaken                      another charge holds one of the consumption keys
    └── ClientError                   an agent's purchase did not go through; `outcome` says what became of the money
        ├── PaymentRefused                our own policy said no; nothing was signed
        │   ├── BudgetExceeded                a limit would be passed
        │   ├── OfferRefused                  the offer is not what it claims to be
        │   ├── NoUsableOffer                 no wallet can pay any offer
        │   ├── AdministrativePaymentRequired a 402 without terms: a billing matter, not a price
        │   └── StreamingBodyRefused          the request body cannot be sent twice
        ├── PaymentFailed                 the wallet says definitively: nothing was paid
        ├── PaymentActionRequired         a person has to act first: approve it, or pay at a link
        └── PaymentOutcomeUnknown         paid or perhaps paid, and not served: resume it, never pay again

An error carries a stable `code`, an HTTP status and whether trying the same thing again can help. The code is one of
`REASONS`; dialects translate it into their own word through the same table, so there is one place that knows them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rail402.protocol.payment import Payment

__all__ = [
    "REASONS",
    "AdministrativePaymentRequired",
    "BudgetExceeded",
    "ClientError",
    "ConfigurationError",
    "GateNotInstalled",
    "KeyTaken",
    "MalformedInput",
    "NoUsableOffer",
    "OfferRefused",
    "Outcome",
    "OutcomeUnknown",
    "PaymentActionRequired",
    "PaymentFailed",
    "PaymentOutcomeUnknown",
    "PaymentRefused",
    "PaymentRejected",
    "Rail402Error",
    "RailUnavailable",
    "RateLimited",
    "Reason",
    "StaleCharge",
    "StoreError",
    "StreamingBodyRefused",
]

Fault = Literal["caller", "payer", "peer", "rail", "store", "unknown"]
Outcome = Literal["paid", "not_paid", "unknown"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One row of the table: a stable code and what each dialect calls it.

    `status` is the HTTP status of the answer, `retryable` says whether the same payment may be sent again later,
    `x402` is the x402 reason code (core specification, section 9) and `mpp` the slug of MPP's problem.
    """

    code: str
    status: int
    retryable: bool
    fault: Fault
    title: str
    x402: str
    mpp: str

    def problem(self, detail: str, *, status: int) -> dict[str, Any]:
        """Return what went wrong as a problem of MPP (RFC 9457, section 3.1)."""
        kind = f"https://paymentauth.org/problems/{self.mpp}"
        return {"type": kind, "title": self.title, "status": status, "detail": detail}


def _table(*rows: Reason) -> dict[str, Reason]:
    return {row.code: row for row in rows}


# fmt: off
REASONS = _table(
    # Nothing paid yet.
    Reason("payment_required", 402, False, "payer", "Payment is required", "payment_required", "payment-required"),
    # The peer's bytes.
    Reason("malformed_payment", 400, False, "peer", "The payment cannot be read", "invalid_payload", "malformed-credential"),
    Reason("malformed_credential", 402, False, "peer", "The credential cannot be read", "invalid_payload", "malformed-credential"),
    Reason("malformed_request", 400, False, "peer", "The request cannot be read", "invalid_payload", "bad-request"),
    Reason("receipt_invalid", 400, False, "peer", "The receipt does not verify", "invalid_payload", "bad-request"),
    Reason("several_payments", 400, False, "peer", "The request carries two different payments", "invalid_payload", "bad-request"),
    Reason("payload_invalid", 402, False, "payer", "The payment's payload has the wrong shape", "invalid_payload", "invalid-payload"),
    Reason("body_too_large", 413, False, "peer", "The request body is larger than this route accepts", "invalid_payload", "bad-request"),
    Reason("rate_limited", 429, True, "peer", "Too many requests: come back later", "too_many_requests", "bad-request"),
    # The payment does not fit the offer or the order.
    Reason("method_not_offered", 402, False, "payer", "This route does not offer that payment method", "unsupported_scheme", "method-unsupported"),
    Reason("offer_unknown", 402, False, "payer", "The offer was not made by this server, or was altered", "invalid_payment_requirements", "invalid-challenge"),
    Reason("offer_expired", 402, False, "payer", "The offer has expired", "invalid_exact_evm_payload_authorization_valid_before", "payment-expired"),
    Reason("extension_mismatch", 402, False, "payer", "An extension of the offer came back altered", "extension_echo_mismatch", "invalid-challenge"),
    Reason("resource_mismatch", 402, False, "payer", "The payment was made for another request", "invalid_payment_requirements", "invalid-challenge"),
    Reason("amount_mismatch", 402, False, "payer", "The payment is for another amount", "invalid_exact_evm_payload_authorization_value_mismatch", "payment-insufficient"),
    Reason("payee_mismatch", 402, False, "payer", "The payment goes to another payee", "invalid_exact_evm_payload_recipient_mismatch", "verification-failed"),
    Reason("network_mismatch", 402, False, "payer", "The payment is on another network", "invalid_network", "verification-failed"),
    Reason("asset_mismatch", 402, False, "payer", "The payment is in another asset", "invalid_payment_requirements", "verification-failed"),
    # The proof itself.
    Reason("signature_invalid", 402, False, "payer", "The signature does not verify", "invalid_exact_evm_payload_signature", "verification-failed"),
    Reason("wallet_undeployed", 402, False, "payer", "The payer's wallet is not deployed yet", "invalid_exact_evm_payload_undeployed_smart_wallet", "verification-failed"),
    Reason("not_yet_valid", 402, True, "payer", "The payment is not valid yet", "invalid_exact_evm_payload_authorization_valid_after", "verification-failed"),
    Reason("authorization_expired", 402, False, "payer", "The payment's validity has passed, or is too short or too long", "invalid_exact_evm_payload_authorization_valid_before", "payment-expired"),
    Reason("preimage_invalid", 402, False, "payer", "The preimage does not hash to the payment hash", "invalid_exact_lnbtc_preimage_hash_mismatch", "verification-failed"),
    Reason("not_settled", 402, True, "payer", "The payment has not arrived yet: send the same proof again", "invalid_transaction_state", "verification-failed"),
    Reason("insufficient_funds", 402, False, "payer", "The payer cannot cover the amount", "insufficient_funds", "payment-insufficient"),
    Reason("proof_already_used", 402, False, "payer", "The payment has been used", "duplicate_settlement", "invalid-challenge"),
    Reason("receipt_expired", 402, False, "payer", "The payment's replay window has passed", "duplicate_settlement", "invalid-challenge"),
    Reason("uses_exhausted", 402, False, "payer", "The pass has no uses left", "duplicate_settlement", "invalid-challenge"),
    Reason("payment_declined", 402, False, "payer", "The payment was declined", "invalid_transaction_state", "verification-failed"),
    Reason("action_required", 402, False, "payer", "The payment needs a person's action", "invalid_transaction_state", "payment-action-required"),
    Reason("refunded", 402, False, "payer", "The payment was refunded", "invalid_transaction_state", "invalid-challenge"),
    # Known payment, but not this way or not now.
    Reason("payment_in_progress", 409, True, "payer", "The same payment is being processed", "duplicate_settlement", "invalid-challenge"),
    Reason("replay_not_proven", 409, False, "payer", "The payment is public: a replay needs the secret it came with", "duplicate_settlement", "invalid-challenge"),
    Reason("identifier_conflict", 409, False, "payer", "The payment's id was used with another payment", "duplicate_settlement", "invalid-challenge"),
    Reason("refund_not_due", 409, False, "payer", "There is no refund to fetch for this payment", "invalid_transaction_state", "invalid-challenge"),
    Reason("store_conflict", 409, True, "store", "Another worker changed the charge first", "duplicate_settlement", "invalid-challenge"),
    # Fail closed.
    Reason("rail_unavailable", 503, True, "rail", "The payment rail cannot be reached", "unexpected_verify_error", "internal-payment-error"),
    Reason("outcome_unknown", 503, True, "unknown", "Whether the payment went through is being looked up", "settlement_pending", "internal-payment-error"),
    Reason("store_unavailable", 503, True, "store", "The payment store cannot be reached", "unexpected_verify_error", "internal-payment-error"),
    Reason("handler_failed", 500, True, "caller", "The paid handler failed", "unexpected_settle_error", "internal-payment-error"),
    # Our own side.
    Reason("configuration_invalid", 500, False, "caller", "The configuration is not valid", "unexpected_verify_error", "internal-payment-error"),
    Reason("gate_not_installed", 500, False, "caller", "A paid endpoint was reached without its gate", "unexpected_verify_error", "internal-payment-error"),
    # The client's own verdicts; they never travel.
    Reason("budget_exceeded", 402, False, "caller", "Your own budget does not allow this payment", "", ""),
    Reason("limits_loosened", 402, False, "caller", "Your configuration has looser limits than were confirmed", "", ""),
    Reason("not_allowed", 402, False, "caller", "Your own lists do not allow this payment", "", ""),
    Reason("not_approved", 402, False, "caller", "Nobody has approved this payment", "", ""),
    Reason("address_not_public", 402, False, "caller", "Only public addresses are asked here", "", ""),
    Reason("offer_refused", 402, False, "peer", "The offer is not what it claims to be", "", ""),
    Reason("terms_changed", 402, False, "peer", "A known host asks for another payee or a higher price", "", ""),
    Reason("no_usable_offer", 402, False, "caller", "No wallet can pay any of the offers", "", ""),
    Reason("administrative_402", 402, False, "peer", "A 402 without payment terms", "", ""),
    Reason("streaming_body", 402, False, "caller", "The request body cannot be sent twice", "", ""),
    Reason("payment_failed", 402, True, "rail", "The wallet could not pay", "", ""),
    Reason("payment_outcome_unknown", 402, True, "unknown", "The payment may have gone through", "", ""),
)
# fmt: on


class Rail402Error(Exception):
    """The root of the tree. `code` is a key of `REASONS`; `detail` says what was wrong and what to do.

    Attributes:
        code: a stable machine-readable code.
        detail: one or two sentences for a person; never holds a secret.
        retry_after: seconds after which the same thing may be tried again, where that is known.
        rail: the rail of the payment that it is about, where that is known: it may have a word of its own for `code`.
        shown: the payments that the proofs in a refused request may be, unchecked. None of them is accepted; but whose
            outcome is not known yet must not be asked to pay again.
    """

    default_code = "configuration_invalid"
    rail: str = ""
    shown: Sequence[Payment] = ()

    def __init__(self, detail: str = "", *, code: str | None = None, retry_after: int | None = None) -> None:
        self.code = code or self.default_code
        if self.code not in REASONS:
            raise ConfigurationError(f"{self.code!r} is no reason code: docs/errors.md has the table of them")
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(str(self))

    @property
    def reason(self) -> Reason:
        """The table's row for this error's code."""
        return REASONS[self.code]

    @property
    def status(self) -> int:
        """The HTTP status that an answer about this error has."""
        return self.reason.status

    @property
    def retryable(self) -> bool:
        """Whether the same request or payment may succeed later."""
        return self.reason.retryable

    def __str__(self) -> str:
        title = self.reason.title
        return f"{title}: {self.detail}" if self.detail else title


class ConfigurationError(Rail402Error):
    """A setting, key, file or wiring of yours is wrong; the message names it and the fix."""


class GateNotInstalled(ConfigurationError):
    """A paid endpoint was reached without the gate in front of it; it refuses to serve for nothing."""

    default_code = "gate_not_installed"


class MalformedInput(Rail402Error):
    """A peer's bytes cannot be read.

    Args:
        field: where: a header, a member path such as `accepted.amount`, an invoice tag.
        detail: what is wrong with it and what is expected.
        code: a reason code; `malformed_payment` unless told.
    """

    default_code = "malformed_payment"

    def __init__(self, field: str, detail: str, *, code: str | None = None) -> None:
        self.field = field
        super().__init__(f"{field}: {detail}", code=code)


class PaymentRejected(Rail402Error):
    """A payment that does not pay for this order. The code says why; a 402 answers it."""

    default_code = "payload_invalid"


class RateLimited(Rail402Error):
    """More was asked for than the limits let through; `retry_after` says when to come back. Nothing was used up."""

    default_code = "rate_limited"


class RailUnavailable(Rail402Error):
    """A rail's backend cannot be reached or answered nonsense **before** money could move."""

    default_code = "rail_unavailable"


class OutcomeUnknown(Rail402Error):
    """A call that moves money ended without an answer that can be believed. Only a lookup may decide."""

    default_code = "outcome_unknown"


class StoreError(Rail402Error):
    """The store cannot be reached or read."""

    default_code = "store_unavailable"


class StaleCharge(StoreError):
    """The charge was changed by another worker after it was read; read it again."""

    default_code = "store_conflict"


class KeyTaken(StoreError):
    """One of the consumption keys belongs to another charge."""

    default_code = "store_conflict"


class ClientError(Rail402Error):
    """A purchase did not go through.

    Attributes:
        outcome: `paid`, `not_paid` or `unknown`: what became of the money.
        record_id: the journal's record of the attempt, if one was written.
        proof: set by a wallet that cannot say yet whether this is a payment; the journal takes it, and gives it to
            `resume`. Secret: no error that is raised to a caller has one.
    """

    default_code = "payment_failed"
    default_outcome: Outcome = "not_paid"

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        retry_after: int | None = None,
        outcome: Outcome | None = None,
        record_id: str | None = None,
        proof: Mapping[str, Any] | None = None,
    ) -> None:
        self.outcome: Outcome = outcome or self.default_outcome
        self.record_id, self.proof = record_id, proof
        super().__init__(detail, code=code, retry_after=retry_after)


class PaymentRefused(ClientError):
    """Our own policy refused before anything was signed or sent."""

    default_code = "offer_refused"


class BudgetExceeded(PaymentRefused):
    """A spending limit would be passed; the message names the limit and what is left of it."""

    default_code = "budget_exceeded"


class OfferRefused(PaymentRefused):
    """An offer is not what it claims to be: another amount, payee, network, or an unknown asset."""

    default_code = "offer_refused"


class NoUsableOffer(PaymentRefused):
    """No wallet can pay any of the offers; the message lists each offer with why not."""

    default_code = "no_usable_offer"


class AdministrativePaymentRequired(PaymentRefused):
    """A 402 that carries no payment terms: a billing matter between people, never paid."""

    default_code = "administrative_402"


class StreamingBodyRefused(PaymentRefused):
    """The request body is a stream: it cannot be sent again with the payment, so nothing is paid."""

    default_code = "streaming_body"


class PaymentFailed(ClientError):
    """The wallet's rail says definitively that nothing was paid."""

    default_code = "payment_failed"


class PaymentOutcomeUnknown(ClientError):
    """The payment may have gone through, or went through and was not served.

    The amount stays reserved in the budget. Making the same request again resumes this payment and never starts a
    second one.
    """

    default_code = "payment_outcome_unknown"
    default_outcome: Outcome = "unknown"


class PaymentActionRequired(ClientError):
    """A person has to act before this is paid: approve it at their bank, or pay at a link.

    With the outcome `unknown` the amount stays reserved, since money moves when the person acts, and making the same
    request again goes on with this payment. With `not_paid` nothing is left that could be taken.

    Attributes:
        url: where the person acts; None where that is not known, or on a host that is not trusted with it. It is for
            showing: nothing here opens it.
    """

    default_code = "action_required"
    default_outcome: Outcome = "unknown"

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        url: str | None = None,
        retry_after: int | None = None,
        outcome: Outcome | None = None,
        record_id: str | None = None,
        proof: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = url
        super().__init__(detail, code=code, retry_after=retry_after, outcome=outcome, record_id=record_id, proof=proof)
