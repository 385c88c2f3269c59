"""The rules of x402's scheme `exact` on `lnbtc`, each with the scheme's own word for a breach. Pure.

`check_challenge` is what a client checks before it pays, `check_settlement` what whoever settles checks before it
records the payment hash (specs/schemes/exact/scheme_exact_lnbtc.md, "Client Payment Construction" and "Facilitator
Validation"). Both take the objects as they are on the wire. Single use is left to the caller: it must record
`Settlement.key` durably, at most once, and keep it until `Settlement.retain_until`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from coincurve import PublicKey

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.base import Json, canonical_json
from rail402_lightning import bolt11
from rail402_lightning.networks import find_network
from rail402_lightning.request_binding import check_parameters

__all__ = ["REASONS", "SKEW", "SchemeRefusal", "Settlement", "check_challenge", "check_settlement"]

SKEW: Final = 60
"""Seconds by which clocks may differ, and for which a payment may be presented after its invoice has expired."""

_RETENTION: Final = 3600
_PREFIX: Final = "invalid_exact_lnbtc_"
_BINDING: Final = ("requestHash", "requestBindingProfile", "requestBindingParams")
_KNOWN: Final = frozenset({*_BINDING, "invoice", "assetTransferMethod", "paymentFlow"})

_TERMS: Final = (
    ("scheme", "unsupported_scheme"),
    ("network", "network_mismatch"),
    ("amount", _PREFIX + "amount_mismatch"),
    ("asset", _PREFIX + "asset"),
    ("payTo", _PREFIX + "pay_to_mismatch"),
    ("maxTimeoutSeconds", _PREFIX + "max_timeout_mismatch"),
)

_is_hash = re.compile(r"[0-9a-f]{64}", re.ASCII).fullmatch
_is_hex = re.compile(r"[0-9a-f]*", re.ASCII).fullmatch
_is_amount = re.compile(r"[0-9]{1,30}", re.ASCII).fullmatch
_is_public_key = re.compile(r"0[23][0-9a-f]{64}", re.ASCII).fullmatch

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "amount_mismatch": _PREFIX + "invoice_amount_mismatch",
        "payee_mismatch": _PREFIX + "invoice_payee_mismatch",
        "network_mismatch": _PREFIX + "invoice_currency_mismatch",
        "resource_mismatch": _PREFIX + "request_mismatch",
        "offer_expired": _PREFIX + "invoice_expired",
        "offer_unknown": _PREFIX + "extra_mismatch",  # the token, which is an `extra` member of ours
        "payload_invalid": _PREFIX + "preimage_missing",
        "preimage_invalid": _PREFIX + "preimage_hash_mismatch",
    }
)
"""The scheme's words for reason codes of the gate; the others have x402's general ones."""


class SchemeRefusal(PaymentRejected):
    """A rule of the scheme is broken.

    Attributes:
        word: the scheme's own for it, such as `invalid_exact_lnbtc_preimage_missing`.
        step: the number of the settlement check that failed.
    """

    def __init__(self, word: str, detail: str, *, step: int) -> None:
        self.word, self.step = word, step
        super().__init__(detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A payment that may be recorded as used.

    Attributes:
        network: its network's id; payment_hash: 64 hexadecimal digits, SettleResponse's `transaction`.
        retain_until: Unix seconds until which the record must be kept at least.
    """

    network: str
    payment_hash: str
    retain_until: int

    @property
    def key(self) -> str:
        """The canonical consumption key."""
        return f"{self.network}:{self.payment_hash}"


def check_settlement(requirements: Json, payload: Json, *, now: int, skew: int = SKEW) -> Settlement:
    """Check a PaymentPayload against the PaymentRequirements that the server made from the request that it serves.

    Args:
        now: Unix seconds; `skew` see `SKEW`.

    Raises:
        SchemeRefusal: the first rule that is broken, in the scheme's order.
    """
    accepted = _object(payload, "accepted")
    for name, reason in _TERMS:
        if not _same(accepted.get(name), requirements.get(name)):
            raise SchemeRefusal(reason, f"accepted.{name} is not what the server requires", step=1)
    _check_terms(requirements, step=2)
    ours, theirs = _object(requirements, "extra"), _object(accepted, "extra")
    _check_extra(ours, theirs)
    for extra in (ours, theirs):
        _check_present(extra)
    invoice = _check_invoice(theirs["invoice"], requirements, ours["requestHash"], now=now, skew=skew)
    _check_preimage(_object(payload, "payload").get("preimage"), invoice.payment_hash)
    if now > invoice.expires_at + skew:
        raise SchemeRefusal(_PREFIX + "invoice_expired", "the invoice has expired", step=7)
    return Settlement(
        network=requirements["network"],
        payment_hash=invoice.payment_hash.hex(),
        retain_until=invoice.expires_at + skew + _RETENTION,
    )


def check_challenge(
    requirements: Json, *, profile: str, request_hash: bytes, now: int, skew: int = SKEW
) -> bolt11.Invoice:
    """Check PaymentRequirements before they are paid, and return their invoice.

    Args:
        profile: the one that fits the intended request.
        request_hash: the hash of that request, computed here with the challenge's own `requestBindingParams`.
        now: Unix seconds; `skew` see `SKEW`.

    Raises:
        SchemeRefusal: the first rule that is broken.
    """
    _check_terms(requirements, step=2)
    extra = _object(requirements, "extra")
    _check_method(extra)
    _check_binding(extra)
    if (extra["requestBindingProfile"], extra["requestHash"]) != (profile, request_hash.hex()):
        raise SchemeRefusal(_PREFIX + "request_mismatch", "the offer was made for another request", step=3)
    _check_present(extra)
    invoice = _check_invoice(extra["invoice"], requirements, extra["requestHash"], now=now, skew=skew)
    if now >= invoice.expires_at:
        raise SchemeRefusal(_PREFIX + "invoice_expired", "the invoice has expired", step=7)
    return invoice


def _check_terms(terms: Json, *, step: int) -> None:
    if terms.get("scheme") != "exact":
        raise SchemeRefusal("unsupported_scheme", "the scheme must be exact", step=step)
    _network_prefix(terms.get("network"), step=step)
    if terms.get("asset") != "BTC":
        raise SchemeRefusal(_PREFIX + "asset", "the asset must be BTC", step=step)
    amount, seconds, payee = terms.get("amount"), terms.get("maxTimeoutSeconds"), terms.get("payTo")
    if not isinstance(amount, str) or not _is_amount(amount) or int(amount) == 0:
        raise SchemeRefusal(_PREFIX + "amount", "the amount must be a whole number of millisatoshis", step=step)
    if type(seconds) is not int or seconds <= 0:
        raise SchemeRefusal(_PREFIX + "max_timeout", "maxTimeoutSeconds must be a whole number above zero", step=step)
    if not isinstance(payee, str) or not _is_node(payee):
        detail = "payTo must be the public key of a node, 66 lower-case hexadecimal digits"
        raise SchemeRefusal(_PREFIX + "pay_to_malformed", detail, step=step)


def _network_prefix(network: object, *, step: int) -> str:
    try:
        found = find_network(network if isinstance(network, str) else "")
    except ConfigurationError as error:
        raise SchemeRefusal("unsupported_network", "the network is not known", step=step) from error
    if found.id != network:
        raise SchemeRefusal("unsupported_network", "the network must be named by its id", step=step)
    return found.prefix


def _is_node(payee: str) -> bool:
    try:
        return bool(_is_public_key(payee) and PublicKey(bytes.fromhex(payee)))
    except ValueError:  # no such point
        return False


def _check_extra(ours: Json, theirs: Json) -> None:
    """Step 3: how the asset moves and when, and what the payment is bound to, on both sides and equal."""
    for extra in (ours, theirs):
        _check_method(extra)
    for extra in (ours, theirs):
        _check_binding(extra)
    for name in _BINDING:
        if ours[name] != theirs[name]:
            reason = _PREFIX + "request_mismatch"
            raise SchemeRefusal(reason, f"accepted.extra.{name} is not the one of this request", step=3)
    for name in ours.keys() - _KNOWN:
        if name not in theirs or not _same(ours[name], theirs[name]):
            raise SchemeRefusal(_PREFIX + "extra_mismatch", f"accepted.extra.{name} was altered or left out", step=3)


def _check_method(extra: Json) -> None:
    if extra.get("assetTransferMethod", "bolt11") != "bolt11":
        raise SchemeRefusal(_PREFIX + "asset_transfer_method", "assetTransferMethod must be bolt11", step=3)
    if extra.get("paymentFlow") != "upfront":
        raise SchemeRefusal(_PREFIX + "payment_flow", "paymentFlow must be upfront", step=3)


def _check_binding(extra: Json) -> None:
    reason, said = _PREFIX + "request_binding", extra.get("requestHash")
    if not isinstance(said, str) or not _is_hash(said):
        raise SchemeRefusal(reason, "requestHash must be 64 lower-case hexadecimal digits", step=3)
    try:
        check_parameters(extra.get("requestBindingProfile"), extra.get("requestBindingParams"))
    except MalformedInput as error:
        raise SchemeRefusal(reason, error.detail, step=3) from error


def _check_present(extra: Json) -> None:
    if not isinstance(extra.get("invoice"), str) or not extra["invoice"]:
        raise SchemeRefusal(_PREFIX + "invoice_missing", "extra.invoice is missing", step=4)


def _check_invoice(text: str, terms: Json, request_hash: str, *, now: int, skew: int) -> bolt11.Invoice:
    """Step 5: the invoice is signed by the payee, for this request, on these terms."""
    invoice = _decoded(text)
    found = {
        "invoice_request_mismatch": ((invoice.description_hash or b"").hex(), request_hash),
        "invoice_payee_mismatch": (invoice.payee.hex(), terms["payTo"]),
        "invoice_currency_mismatch": (invoice.prefix, _network_prefix(terms["network"], step=5)),
        "invoice_amount_mismatch": (invoice.amount_msat, int(terms["amount"])),
        "invoice_expiry_mismatch": (invoice.expiry, terms["maxTimeoutSeconds"]),
    }
    for reason, (said, wanted) in found.items():
        if said != wanted:
            raise SchemeRefusal(_PREFIX + reason, _DETAILS[reason], step=5)
    if invoice.created_at > now + skew:
        ahead = invoice.created_at - now
        detail = f"the invoice was made {ahead} s in the future; is the clock right?"
        raise SchemeRefusal(_PREFIX + "invoice_created_in_future", detail, step=5)
    return invoice


_DETAILS: Final = {
    "invoice_request_mismatch": "the invoice was made for another request",
    "invoice_payee_mismatch": "the invoice is for another payee than the offer says",
    "invoice_currency_mismatch": "the invoice is for another network than the offer says",
    "invoice_amount_mismatch": "the invoice is for another amount than the offer says",
    "invoice_expiry_mismatch": "maxTimeoutSeconds is not the invoice's expiry",
}


def _decoded(text: str) -> bolt11.Invoice:
    try:
        invoice = bolt11.decode(text)
    except MalformedInput as error:
        described = error.field in ("invoice.description", "invoice.description_hash")
        reason = "invoice_description" if described else "invoice_decode_failed"
        raise SchemeRefusal(_PREFIX + reason, error.detail, step=5) from error
    if text not in (invoice.text, invoice.text.upper()):  # a URI scheme in front, say
        raise SchemeRefusal(_PREFIX + "invoice_decode_failed", "the invoice must stand by itself", step=5)
    if invoice.description_hash is None:
        raise SchemeRefusal(_PREFIX + "invoice_description", "the invoice binds no request", step=5)
    return invoice


def _check_preimage(preimage: object, payment_hash: bytes) -> None:
    if not isinstance(preimage, str):
        raise SchemeRefusal(_PREFIX + "preimage_missing", "payload.preimage is missing", step=6)
    if not _is_hex(preimage):
        detail = "payload.preimage must be lower-case hexadecimal digits"
        raise SchemeRefusal(_PREFIX + "preimage_malformed", detail, step=6)
    if len(preimage) != 64:
        raise SchemeRefusal(_PREFIX + "preimage_length", "payload.preimage must be 32 bytes", step=6)
    if hashlib.sha256(bytes.fromhex(preimage)).digest() != payment_hash:
        detail = "payload.preimage is not that of the invoice"
        raise SchemeRefusal(_PREFIX + "preimage_hash_mismatch", detail, step=6)


def _object(message: Json, name: str) -> Json:
    value = message.get(name)
    return value if isinstance(value, Mapping) else {}


def _same(one: Any, other: Any) -> bool:
    """Say whether two JSON values are the same, by their canonical form: 1 is not true."""
    try:
        return canonical_json(one) == canonical_json(other)
    except (ValueError, RecursionError):  # what canonical JSON cannot say is nothing that a server requires
        return False
