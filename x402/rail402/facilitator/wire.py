"""What a facilitator is asked and what it answers, in both versions of x402 (core specification, section 7). Pure.

A body that cannot be read is `MalformedInput`. One that can, and asks for what is not done here or carries a payment
that cannot be used, is `PaymentRejected`: x402 answers that with HTTP 200 and a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from rail402.errors import MalformedInput, PaymentRejected, Rail402Error
from rail402.protocol.base import Json, parse_json
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Binding, RailSpec, Registry

__all__ = [
    "Call",
    "Kind",
    "Presented",
    "Question",
    "failed_settlement",
    "kinds_of",
    "read_payment",
    "read_question",
    "refused_verdict",
    "settled",
    "supported",
    "valid_verdict",
]

Call = Literal["verify", "settle"]

_DIALECTS: Final[Mapping[int, str]] = {2: "x402-v2", 1: "x402-v1"}
_SECONDS: Final = 300  # for which an offer of no stated length counts
_DAY: Final = 86_400  # for which one counts at most: as long as a payment is valid, it may have to be looked up
_FLOWS: Final = (Flow.AUTHORIZATION, Flow.UPFRONT)

_TERMS: Final[Mapping[str, str]] = {
    "network": "network_mismatch",
    "asset": "asset_mismatch",
    "amount": "amount_mismatch",
    "payee": "payee_mismatch",
    "mechanism": "offer_unknown",
    "flow": "offer_unknown",
    "extra": "offer_unknown",
}
"""What the accepted terms must have in common with those that are asked for, and the reason where they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The body of `/verify` and `/settle`, whose payment nobody has looked at yet."""

    version: int
    payload: Json
    requirements: Json

    @property
    def network(self) -> str:
        """The network as the caller writes it, which is how the answer writes it too."""
        network = self.requirements.get("network")
        return network if isinstance(network, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A payment, and the terms that it is presented for."""

    offer: Offer
    payment: Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of payment that is taken, by x402's words."""

    version: int
    scheme: str
    network: str


def read_question(body: bytes, *, max_bytes: int) -> Question:
    """Read the body of `/verify` and `/settle`.

    Raises:
        MalformedInput: it is no JSON object of that kind; `malformed_request`.
    """
    try:
        message = parse_json(body, field="body", max_bytes=max_bytes)
    except MalformedInput as error:
        raise MalformedInput("body", error.detail.removeprefix("body: "), code="malformed_request") from error
    payload, requirements = (_object(message, name) for name in ("paymentPayload", "paymentRequirements"))
    version = message.get("x402Version", payload.get("x402Version"))
    if type(version) is not int or version not in _DIALECTS:
        raise _unreadable("x402Version", "must be 1 or 2")
    inner = payload.get("x402Version", version)
    if type(inner) is not int or inner != version:
        raise _unreadable("paymentPayload.x402Version", f"must be {version}, as beside it")
    return Question(version=version, payload=payload, requirements=requirements)


def read_payment(question: Question, specs: Registry, kinds: Iterable[Kind], *, now: int) -> Presented:
    """Return the payment of a question.

    Raises:
        PaymentRejected: no rail here takes it, or it is not one for what is required.
    """
    dialect = _DIALECTS[question.version]
    for spec, binding in specs.speaking(dialect):
        offer = _offer(binding, question.requirements, "paymentRequirements", now=now)
        if offer is None:
            continue
        if offer.flow not in _FLOWS:
            raise PaymentRejected(f"paymentFlow {offer.flow} is not taken here", code="method_not_offered")
        proof = _accepted(question, binding, offer, now=now)
        try:
            payload = binding.decode_proof(proof)
        except MalformedInput as error:
            raise PaymentRejected(error.detail, code="payload_invalid") from error
        if payload is None:
            raise PaymentRejected("the payload is not one of that method's", code="payload_invalid")
        return Presented(offer=offer, payment=Payment(dialect=dialect, rail=spec.name, payload=payload, offer=offer))
    raise _not_taken(question, kinds)


def _offer(binding: Binding, requirements: Json, field: str, *, now: int) -> Offer | None:
    known = _without_nulls(requirements)
    known.setdefault("extra", {})
    seconds = known.get("maxTimeoutSeconds")
    expires_at = now + (min(seconds, _DAY) if type(seconds) is int and seconds > 0 else _SECONDS)
    try:
        return binding.decode_offer(known, expires_at=expires_at)
    except MalformedInput as error:
        raise PaymentRejected(f"{field}.{error.detail}", code="offer_unknown") from error


def _accepted(question: Question, binding: Binding, offer: Offer, *, now: int) -> Json:
    """Return the proof as its binding reads it, once it is known to be for the terms of `offer`."""
    payload = question.payload
    proof = payload.get("payload")
    if not isinstance(proof, dict):
        raise PaymentRejected("paymentPayload.payload: must be an object", code="payload_invalid")
    if question.version == 1:
        named = {name: payload.get(name) for name in ("scheme", "network")}
        if named != {name: question.requirements.get(name) for name in named}:
            raise PaymentRejected("it is for another scheme or network than is required", code="network_mismatch")
        return {**named, "payload": _without_nulls(proof)}
    accepted = payload.get("accepted")
    if not isinstance(accepted, dict):
        raise PaymentRejected("paymentPayload.accepted: must be an object", code="payload_invalid")
    chosen = _offer(binding, accepted, "paymentPayload.accepted", now=now)
    for term, code in _TERMS.items():
        if chosen is None or getattr(chosen, term) != getattr(offer, term):
            raise PaymentRejected(f"the {term} that was accepted is not the one that is required", code=code)
    return _without_nulls(proof)


def _not_taken(question: Question, kinds: Iterable[Kind]) -> PaymentRejected:
    mine = [kind for kind in kinds if kind.version == question.version]
    if question.requirements.get("scheme") not in [kind.scheme for kind in mine]:  # it may be anything
        return PaymentRejected("that scheme is not taken here", code="method_not_offered")
    networks = {kind.network for kind in mine}
    if question.network not in networks:
        return PaymentRejected(f"taken here: {', '.join(sorted(networks))}", code="network_mismatch")
    detail = "that asset, or that way to move it, is not taken here, or extra says something else about the asset"
    return PaymentRejected(detail, code="offer_unknown")


# --- what is said


def kinds_of(spec: RailSpec) -> Iterator[tuple[Mechanism, Kind]]:
    """Yield what a rail takes here, as x402 calls it: the mechanisms in which a payer signs and another hands in.

    Where a payer moves the money itself (an invoice, a transfer), only its seller's own books can say that it came,
    and there is nothing that a facilitator could do about it.
    """
    for version, dialect in _DIALECTS.items():
        binding = spec.bindings.get(dialect)
        for mechanism in spec.mechanisms if binding is not None else ():
            assert binding is not None
            wire = binding.encode_offer(_sample(spec, mechanism)) if Flow.AUTHORIZATION in mechanism.flows else None
            if wire is not None:
                yield mechanism, Kind(version=version, scheme=wire["scheme"], network=wire["network"])


def _sample(spec: RailSpec, mechanism: Mechanism) -> Offer:
    return mechanism.offer(
        spec.name, payee="", amount=mechanism.step, expires_at=0, timeout_seconds=_SECONDS, flow=Flow.AUTHORIZATION
    )


def supported(kinds: Iterable[Kind], signers: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Return the answer of `/supported`; `signers` are the addresses that hand payments in, by network."""
    return {
        "kinds": [{"x402Version": kind.version, "scheme": kind.scheme, "network": kind.network} for kind in kinds],
        "extensions": [],
        "signers": {network: list(addresses) for network, addresses in signers.items()},
    }


def valid_verdict(payer: str | None) -> dict[str, Any]:
    """Return the VerifyResponse of a payment that is good."""
    return {"isValid": True} | _payer(payer)


def refused_verdict(error: Rail402Error, payer: str | None = None) -> dict[str, Any]:
    """Return the VerifyResponse of a payment that is not."""
    return {"isValid": False, "invalidReason": error.reason.x402, "invalidMessage": str(error)} | _payer(payer)


def settled(question: Question, *, transaction: str, amount: int, payer: str | None) -> dict[str, Any]:
    """Return the SettleResponse of a settlement; `amount` in atomic units."""
    found = {"success": True, "transaction": transaction, "network": question.network, "amount": str(amount)}
    return found | _payer(payer)


def failed_settlement(
    question: Question | None, error: Rail402Error, *, transaction: str | None = None, payer: str | None = None
) -> dict[str, Any]:
    """Return the SettleResponse of a settlement that did not succeed, or not yet; `transaction` where there is one."""
    reason = error.reason.x402
    return {
        "success": False,
        "errorReason": "unexpected_settle_error" if reason == "unexpected_verify_error" else reason,
        "errorMessage": str(error),
        "transaction": transaction or "",
        "network": "" if question is None else question.network,
    } | _payer(payer)


def _payer(payer: str | None) -> dict[str, str]:
    return {} if payer is None else {"payer": payer}


def _object(message: Json, name: str) -> dict[str, Any]:
    value = message.get(name)
    if not isinstance(value, dict):
        raise _unreadable(name, "must be an object")
    return value


def _without_nulls(members: Json) -> dict[str, Any]:
    """Return an object without its nulls, which some libraries write for what is left out, two levels deep."""
    return {
        name: {inner: each for inner, each in value.items() if each is not None} if isinstance(value, dict) else value
        for name, value in members.items()
        if value is not None
    }


def _unreadable(field: str, detail: str) -> MalformedInput:
    return MalformedInput(field, detail, code="malformed_request")
