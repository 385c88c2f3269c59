"""Payment URIs of Ethereum (EIP-681): `ethereum:<token>@<chain>/transfer?address=<payee>&uint256=<amount>`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from rail402.errors import MalformedInput
from rail402_base.eip3009 import MAX_UINT256, parse_address

__all__ = ["SCHEME", "PaymentUri", "parse_payment_uri"]

SCHEME: Final = "ethereum:"

_MAX_LENGTH: Final = 4096
_MAX_PARAMETERS: Final = 32
_URI = re.compile(r"(?:pay-)?([^@/?]++)(?:@([0-9]{1,18}))?(?:/([A-Za-z0-9_]{1,64}))?(?:\?(.*))?", re.ASCII)
_NUMBER = re.compile(r"([0-9]{1,78})(?:\.([0-9]{1,78}))?(?:e([0-9]{1,2}))?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentUri:
    """A payment URI taken apart.

    Attributes:
        target: the address behind the scheme, in EIP-55 form: who is paid, or the token where `function` is there.
        chain_id: the EIP-155 number of the chain; mainnet where the URI names none.
        function: what is called at the target: `transfer`.
        parameters: the rest, as it came.
        payee: who is paid, None where the URI leaves it open.
        amount: atomic units of the token, or wei; None where the URI leaves it open.
    """

    target: str
    chain_id: int = 1
    function: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    payee: str | None = None
    amount: int | None = None


def parse_payment_uri(text: str) -> PaymentUri:
    """Read a payment URI.

    Raises:
        MalformedInput: it is none, or names its payee by anything else than an address (names need a look-up).
    """
    match = _URI.fullmatch(text[len(SCHEME) :])
    if len(text) > _MAX_LENGTH or text[: len(SCHEME)].lower() != SCHEME or match is None:
        raise MalformedInput("payment_uri", "must be ethereum:<address>, perhaps with @<chain>/<function>?<parameters>")
    parameters: dict[str, str] = {}
    for pair in (match[4] or "").split("&", _MAX_PARAMETERS):
        name, _, value = pair.partition("=")
        if name in parameters:
            raise MalformedInput("payment_uri", "has a parameter twice")
        if pair:
            parameters[name] = unquote(value)
    target, function = parse_address(match[1], "payment_uri"), match[3]
    payee = parameters.get("address") if function == "transfer" else None if function else target
    amount = parameters.get("uint256" if function == "transfer" else "value")
    return PaymentUri(
        target=target,
        chain_id=int(match[2] or 1),
        function=function,
        parameters=parameters,
        payee=None if payee is None else parse_address(payee, "payment_uri.address"),
        amount=None if amount is None else _amount(amount),
    )


def _amount(text: str) -> int:
    """Read a number as EIP-681 writes it: `1000`, or `2.014e18`."""
    match = _NUMBER.fullmatch(text)
    fraction = (match[2] or "") if match else ""
    zeros = int(match[3] or 0) - len(fraction) if match else 0
    number = int(match[1] + fraction) * 10**zeros if match and zeros >= 0 else 0
    if not 0 < number <= MAX_UINT256:
        raise MalformedInput("payment_uri.amount", "must be a whole number of atomic units, more than zero")
    return number
