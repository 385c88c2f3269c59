"""What an x402 facilitator is sent and what it answers, in both versions of x402. Pure.

Core specification, section 7 (`/verify`, `/settle`, `/supported`). What a facilitator says is read here and believed
nowhere: see `facilitator`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rail402.protocol.base import Json
from rail402_base.eip3009 import Authorization
from rail402_base.tokens import Network, Token
from rail402_base.wire import payload_of

__all__ = [
    "VERSIONS",
    "Settlement",
    "SignedTransfer",
    "Verdict",
    "parse_settlement",
    "parse_verdict",
    "request_body",
    "spoken_version",
    "taken_networks",
]

VERSIONS: Final = (2, 1)
"""The versions of x402 that are spoken here, the preferred one first."""

_SCHEME: Final = "exact"
_ANY_EVM: Final = "eip155:*"
_LONGEST_VALIDITY: Final = 3600
# Version 1 asks what is sold. A facilitator has no use for it, and it is none of its business.
_UNTOLD: Final = "https://resource.invalid/"

_is_reason = re.compile(r"[A-Za-z0-9_:.-]{1,100}").fullmatch
_is_transaction = re.compile(r"0x[0-9a-fA-F]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class SignedTransfer:
    """An authorization of a token, and its payer's signature."""

    token: Token
    authorization: Authorization
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `/verify` says; `reason` where it is not valid, `payer` where it says whose payment it looked at."""

    is_valid: bool
    reason: str
    payer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What `/settle` says.

    Attributes:
        reason: why it did not succeed.
        transaction: a hash in lower case; None where it gives none, or one that is none.
        payer, network, amount: None where it leaves them out.
    """

    success: bool
    reason: str
    transaction: str | None
    payer: str | None
    network: str | None
    amount: str | None


def spoken_version(supported: Json, network: Network) -> int | None:
    """Return the version of x402 in which a facilitator takes `exact` on a network, given its `/supported`.

    None where it takes it in none.
    """
    kinds = _kinds(supported)
    names = {2: {network.caip2, _ANY_EVM}, 1: {network.v1_name}}
    return next((version for version in VERSIONS if any((version, each) in kinds for each in names[version])), None)


def taken_networks(supported: Json) -> list[str]:
    """Return the networks on which a facilitator takes `exact`, as it calls them."""
    return sorted({network for _, network in _kinds(supported)})


def request_body(version: int, payment: SignedTransfer, *, now: int) -> Json:
    """Return the body for `/verify` and `/settle`: the payment, and what it must pay."""
    token, authorization = payment.token, payment.authorization
    left = authorization.valid_before - now
    network = token.network.caip2 if version > 1 else token.network.v1_name
    requirements: dict[str, Any] = {
        "scheme": _SCHEME,
        "network": network,
        "amount": str(authorization.value),
        "asset": token.address,
        "payTo": authorization.to,
        # A payer may sign for the end of time, and not every JSON parser has such numbers.
        "maxTimeoutSeconds": min(max(left, 1), _LONGEST_VALIDITY),
        "extra": {"name": token.name, "version": token.version},
    }
    chosen: dict[str, Any] = {"accepted": requirements}
    if version == 1:
        requirements["maxAmountRequired"] = requirements.pop("amount")
        requirements |= {"resource": _UNTOLD, "description": "", "mimeType": ""}
        chosen = {"scheme": _SCHEME, "network": network}
    payload = payload_of(authorization, payment.signature)
    return {
        "x402Version": version,
        "paymentPayload": {"x402Version": version, "payload": payload, **chosen},
        "paymentRequirements": requirements,
    }


def parse_verdict(body: Json) -> Verdict | None:
    """Read an answer of `/verify`; None where it is none."""
    is_valid = body.get("isValid")
    if not isinstance(is_valid, bool):
        return None
    return Verdict(is_valid=is_valid, reason=_reason(body, "invalidReason"), payer=_text(body, "payer"))


def parse_settlement(body: Json) -> Settlement | None:
    """Read an answer of `/settle`; None where it is none."""
    success, transaction = body.get("success"), _text(body, "transaction")
    if not isinstance(success, bool):
        return None
    return Settlement(
        success=success,
        reason=_reason(body, "errorReason"),
        transaction=transaction.lower() if transaction and _is_transaction(transaction) else None,
        payer=_text(body, "payer"),
        network=_text(body, "network"),
        amount=_text(body, "amount"),
    )


def _kinds(supported: Json) -> set[tuple[int, str]]:
    """Return version and network of each kind of payment with our scheme."""
    kinds = supported.get("kinds")
    found = set()
    for kind in kinds if isinstance(kinds, Iterable) else ():
        if isinstance(kind, Mapping) and kind.get("scheme") == _SCHEME:
            version, network = kind.get("x402Version"), kind.get("network")
            if type(version) is int and isinstance(network, str):
                found.add((version, network))
    return found


def _text(body: Json, name: str) -> str | None:
    """Read a text; None where it is left out or empty. What is no text is not left out: it has to fit as well."""
    value = body.get(name)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else repr(value)[:100]


def _reason(body: Json, name: str) -> str:
    """Read a reason code; the messages beside it may quote addresses with keys, and are not read."""
    value = body.get(name)
    return value if isinstance(value, str) and _is_reason(value) else "no reason given"
