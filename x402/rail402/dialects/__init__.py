"""The wire formats. Each is one module, pure; what a gate or a payer speaks is a list of instances of these."""

from __future__ import annotations

from typing import Final

from rail402.dialects.l402 import L402
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v1 import X402V1
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import ConfigurationError
from rail402.protocol.dialect import Dialect

__all__ = ["DEFAULT_DIALECTS", "L402", "X402V1", "X402V2", "Mpp", "XReceipt", "dialect_by_name"]

DEFAULT_DIALECTS: Final[tuple[Dialect, ...]] = (X402V2(), Mpp(), XReceipt())
"""What is spoken by default, in the order in which a 402 says it and a client prefers it: dialects that echo the whole
offer come before those that echo nothing."""


def dialect_by_name(name: str) -> Dialect:
    """Return the dialect of that name.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    for dialect in DEFAULT_DIALECTS:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in DEFAULT_DIALECTS)
    raise ConfigurationError(f"there is no dialect {name!r}; the dialects are: {known}")
