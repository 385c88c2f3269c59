"""Payments that are spoiled on their way: all that may come beside a proof, with the proof left as it is.

For each dialect a table of ways to spoil its request fields, by name. They know the wire formats and no rail.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from rail402.dialects.macaroon import parse

__all__ = ["BESIDE", "TOKENS", "WAYS", "Lines"]

Lines = list[tuple[str, str]]
Way = Callable[[Mapping[str, str]], Lines]

_DROP: Final = object()

_NONCE: Final = "AAECAwQFBgcICQoLDA0ODw"
_STRANGE: Final = f"k9.1795295614.{_NONCE}.{'A' * 43}"

TOKENS: Final[Mapping[str, Callable[[str], str]]] = {
    "junk": lambda token: "x",
    "cut": lambda token: token[:-1],
    "longer": lambda token: token + "A",
    "another key's": lambda token: "k9." + token.partition(".")[2],
    "another expiry": lambda token: token.replace(".1", ".2", 1),
    "another nonce": lambda token: ".".join([*token.split(".")[:2], _NONCE, token.split(".")[3]]),
    "another code": lambda token: token.rpartition(".")[0] + "." + "A" * 43,
    "of nobody": lambda token: _STRANGE,
    "without its full stops": lambda token: token.replace(".", ""),
}
"""Ways to spoil an offer's token."""


def _encoded(message: object) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


def _decoded(text: str) -> Any:
    return json.loads(base64.b64decode(text.replace("-", "+").replace("_", "/") + "==="))


def _edited(message: Any, path: str, value: Any) -> Any:
    """Return a JSON object with a member changed, made, or dropped; a function makes the new value of the old one."""
    edited = copy.deepcopy(message)
    *parents, last = path.split(".")
    members = edited
    for name in parents:
        members = members.setdefault(name, {})
    if value is _DROP:
        members.pop(last, None)
    else:
        members[last] = value(members.get(last)) if callable(value) else value
    return edited


def _in_json(field: str, prefix: str, path: str, value: Any) -> Way:
    """Spoil a member of the JSON object that a field has in base64."""

    def way(fields: Mapping[str, str]) -> Lines:
        shown = {name.lower(): text for name, text in fields.items()}
        message = _decoded(shown.pop(field).removeprefix(prefix))
        return [*shown.items(), (field, prefix + _encoded(_edited(message, path, value)))]

    return way


def _in_opaque(how: str) -> Callable[[Any], Any]:
    def change(opaque: Any) -> Any:
        return _encoded(_edited(_decoded(opaque), "token", TOKENS[how])) if opaque else opaque

    return change


def _amount(request: str) -> str:
    return _encoded(_edited(_decoded(request), "amount", "1"))


# --- one credential

_V2: Final[Mapping[str, tuple[str, Any]]] = {
    **{f"token {how}": ("accepted.extra.token", change) for how, change in TOKENS.items()},
    "no token": ("accepted.extra.token", _DROP),
    "a number for a token": ("accepted.extra.token", 5),
    "nothing extra": ("accepted.extra", {}),
    "nothing accepted": ("accepted", {}),
    "accepted is a text": ("accepted", "all"),
    "scheme in capitals": ("accepted.scheme", "EXACT"),
    "another network": ("accepted.network", "eip155:999999"),
    "another asset": ("accepted.asset", "0x" + "1" * 40),
    "another amount": ("accepted.amount", "1"),
    "another payee": ("accepted.payTo", "0x" + "2" * 40),
    "another time-out": ("accepted.maxTimeoutSeconds", 1),
    "a number that nothing can say": ("accepted.maxTimeoutSeconds", 2**60),
    "another flow": ("accepted.extra.paymentFlow", "barter"),
    "another version": ("x402Version", 3),
    "another resource": ("resource", {"url": "https://elsewhere.example/"}),
    "extension altered": ("extensions.payment-identifier", {"info": {"required": True}}),
    "extension emptied": ("extensions.payment-identifier", {}),
    "another identifier": ("extensions.payment-identifier", {"info": {"required": False, "id": "another-one-0123"}}),
    "no identifier": ("extensions.payment-identifier", {"info": {"required": False, "id": "?"}}),
    "more in the payload": ("payload.memo", "again"),
    "another signature": ("payload.signature", lambda old: old and "0x" + "1b" * 65),
}

_V1: Final[Mapping[str, tuple[str, Any]]] = {
    "scheme in capitals": ("scheme", "EXACT"),
    "another scheme": ("scheme", "upto"),
    "another network": ("network", "elsewhere"),
    "no network": ("network", _DROP),
    "another version": ("x402Version", 2),
    "more in the payload": ("payload.memo", "again"),
    "another signature": ("payload.signature", "0x" + "1b" * 65),
}

_MPP: Final[Mapping[str, tuple[str, Any]]] = {
    **{f"token {how}": ("challenge.opaque", _in_opaque(how)) for how in TOKENS},
    "no challenge": ("challenge", None),
    "an empty challenge": ("challenge", {}),
    "another id": ("challenge.id", "x"),
    "no id": ("challenge.id", _DROP),
    "another realm": ("challenge.realm", "elsewhere.example"),
    "method in capitals": ("challenge.method", lambda method: method.upper()),
    "another method": ("challenge.method", "barter"),
    "another intent": ("challenge.intent", "subscribe"),
    "another amount": ("challenge.request", _amount),
    "an unreadable request": ("challenge.request", "!"),
    "another expiry": ("challenge.expires", "2001-01-01T00:00:00Z"),
    "no expiry": ("challenge.expires", _DROP),
    "a digest": ("challenge.digest", "sha-256=AAAA"),
    "no opaque": ("challenge.opaque", _DROP),
    "an unreadable opaque": ("challenge.opaque", "!"),
    "opaque as an object": ("challenge.opaque", {"token": "x"}),
    "a number in opaque": ("challenge.opaque", {"token": 5}),
    "more in the payload": ("payload.memo", "again"),
    "another signature": ("payload.signature", lambda old: old and "0x" + "1b" * 65),
}


def _in_credential(change: Callable[[bytes, str], str]) -> Way:
    """Spoil what an L402 credential says: its macaroon and its preimage."""

    def way(fields: Mapping[str, str]) -> Lines:
        ((name, value),) = fields.items()
        macaroon, _, preimage = value.partition(" ")[2].rpartition(":")
        return [(name, change(base64.b64decode(macaroon), preimage))]

    return way


def _l402(macaroon: bytes, preimage: str, word: str = "L402") -> str:
    return f"{word} {base64.b64encode(macaroon).decode()}:{preimage}"


def _restricted(caveat: bytes) -> Callable[[bytes, str], str]:
    return lambda macaroon, preimage: _l402(parse(macaroon).restrict(caveat).serialize(), preimage)


_L402: Final[Mapping[str, Callable[[bytes, str], str]]] = {
    "another signature": lambda macaroon, preimage: _l402(macaroon[:-32] + bytes(32), preimage),
    "another caveat": lambda macaroon, preimage: _l402(macaroon.replace(b"_offer=k1", b"_offer=k2"), preimage),
    "another version": lambda macaroon, preimage: _l402(macaroon.replace(bytes(2), b"\1\0", 1), preimage),
    "an unknown caveat": _restricted(b"services=shop:0"),
    "a caveat that is over": _restricted(b"rail402_valid_until=1"),
    "a wrong preimage": lambda macaroon, preimage: _l402(macaroon, "22" * 32),
    "half a preimage": lambda macaroon, preimage: _l402(macaroon, preimage[:32]),
    "no preimage": lambda macaroon, preimage: _l402(macaroon, ""),
    "preimage in capitals": lambda macaroon, preimage: _l402(macaroon, preimage.upper(), "lsat"),
    "no macaroon": lambda macaroon, preimage: f"L402 AAAA:{preimage}",
    "a macaroon that is cut": lambda macaroon, preimage: _l402(macaroon[:-1], preimage),
}


def _with_token(token: Callable[[str], str]) -> Way:
    """Spoil the token that goes beside a proof; where none does, one is added."""

    def way(fields: Mapping[str, str]) -> Lines:
        shown = {name.lower(): text for name, text in fields.items()}
        spoiled = token(shown.pop("x-payment-token", _STRANGE))
        return [*shown.items(), ("x-payment-token", spoiled)]

    return way


def _without_token(fields: Mapping[str, str]) -> Lines:
    return [(name, text) for name, text in fields.items() if name.lower() != "x-payment-token"]


_PROOF: Final[Mapping[str, Way]] = {
    **{f"token {how}": _with_token(change) for how, change in TOKENS.items()},
    "no token": _without_token,
    "an empty token": _with_token(lambda token: ""),
    "two tokens": lambda fields: [*fields.items(), ("X-Payment-Token", "x")],
}

WAYS: Final[Mapping[str, Mapping[str, Way]]] = {
    "x402-v2": {name: _in_json("payment-signature", "", *edit) for name, edit in _V2.items()},
    "x402-v1": {name: _in_json("x-payment", "", *edit) for name, edit in _V1.items()},
    "mpp": {name: _in_json("authorization", "Payment ", *edit) for name, edit in _MPP.items()},
    "l402": {name: _in_credential(change) for name, change in _L402.items()},
    **dict.fromkeys(("x-payment", "x-price", "payment-uri", "x-receipt"), _PROOF),
}
"""By dialect and by name."""


# --- another credential beside it

_FORGED: Final = base64.b64encode(
    b"\2\2\x42" + bytes(66) + b"\0" + b"\2\x0frail402_offer=a\0" + b"\0\6\x20" + bytes(32)
).decode()

BESIDE: Final[Mapping[str, tuple[str, str]]] = {
    "x402 of another network": (
        "PAYMENT-SIGNATURE",
        _encoded({"x402Version": 2, "accepted": {"scheme": "exact", "network": "no:where"}, "payload": {"memo": "x"}}),
    ),
    "x402 of another scheme": (
        "X-PAYMENT",
        _encoded({"x402Version": 1, "scheme": "upto", "network": "nowhere", "payload": {"memo": "x"}}),
    ),
    "MPP that is none": ("Payment-Authorization", "Payment bm9uZQ"),
    "MPP of somebody else": (
        "Payment-Authorization",
        "Payment "
        + _encoded(
            {
                "challenge": {"id": "x", "realm": "r", "method": "m", "intent": "charge", "request": "e30"},
                "payload": {"memo": "x"},
            }
        ),
    ),
    "a forged macaroon": ("Authorization", f"L402 {_FORGED}:{'33' * 32}"),
    "a proof of no rail": ("X-Payment-Proof", "pi_123"),
    "a receipt of no rail": ("X-Receipt", "barter"),
}
"""Request fields of payments that are refused, none of which is a second payment."""
