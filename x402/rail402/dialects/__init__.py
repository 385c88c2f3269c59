"""The wire formats. Each is one module, pure; what a gate or a payer speaks is a list of instances of these."""

from __future__ import annotations

from typing import Final

from rail402.dialects.l402 import L402
from rail402.dialects.mpp import Mpp
from rail402.dialects.payment_uri import PaymentUri
from rail402.dialects.x402_v1 import X402V1
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_payment import XPayment
from rail402.dialects.x_price import XPrice
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import ConfigurationError
from rail402.protocol.dialect import Dialect

__all__ = [
    "DEFAULT_DIALECTS",
    "L402",
    "OPTIONAL_DIALECTS",
    "PAYMENT_FIELDS",
    "X402V1",
    "X402V2",
    "Mpp",
    "PaymentUri",
    "XPayment",
    "XPrice",
    "XReceipt",
    "dialect_by_name",
]

DEFAULT_DIALECTS: Final[tuple[Dialect, ...]] = (X402V2(), Mpp(), L402(), X402V1(), XReceipt())
"""What is spoken by default, in the order in which a client prefers it: dialects that send the offer or its token back
come before those that do not. A 402 that is too large leaves out the last ones first."""

OPTIONAL_DIALECTS: Final[tuple[Dialect, ...]] = (XPayment(), XPrice(), PaymentUri())
"""What is spoken only where it is asked for: `dialects=[*DEFAULT_DIALECTS, XPrice()]`."""

PAYMENT_FIELDS: Final = frozenset(
    name for dialect in (*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS) for name in dialect.request_fields
) - {"authorization"}
"""The request fields, in lower case, in which nothing but a payment travels; `authorization` may hold a login too."""


def dialect_by_name(name: str) -> Dialect:
    """Return the dialect of that name.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    dialects = (*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS)
    for dialect in dialects:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in dialects)
    raise ConfigurationError(f"there is no dialect {name!r}; the dialects are: {known}")
