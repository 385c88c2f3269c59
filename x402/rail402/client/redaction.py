"""Keeping payments out of the logs of the HTTP libraries: at DEBUG they write down every field of a message.

httpx itself logs URLs. Below it httpcore logs the fields of responses, where offers and their tokens are, and for
HTTP/2 hpack logs those of requests too, payments included, each in several encodings.
"""

from __future__ import annotations

import logging
import re
from typing import Final

__all__ = ["redact_logs"]

_FIELDS: Final = (
    *("authorization", "payment-authorization", "payment-signature", "payment-required", "payment-response"),
    *("payment-receipt", "www-authenticate", "proxy-authorization", "receipt-record", "peac-receipt"),
    *("x-payment", "x-payment-[a-z]+", "x-receipt", "x-receipt-record"),
)
_QUOTED: Final = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_VALUES: Final = re.compile(rf"(b?(['\"])(?:{'|'.join(_FIELDS)})\2, b?){_QUOTED}", re.ASCII | re.IGNORECASE)


class _Redaction(logging.Filter):
    """Replaces the values of those fields, written as `(b'name', b'value')`."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if _VALUES.search(message):
            record.msg, record.args = _VALUES.sub(r"\1'…'", message), ()
        return True


class _Silence(logging.Filter):
    """Drops what is below a warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


_REDACTION: Final = _Redaction()
_SILENCE: Final = _Silence()


def redact_logs() -> None:
    """Take payments out of what these libraries log in this process; nothing happens the second time."""
    for name in ("httpcore.http11", "httpcore.http2"):
        logging.getLogger(name).addFilter(_REDACTION)
    for name in ("hpack.hpack", "hpack.table"):
        logging.getLogger(name).addFilter(_SILENCE)
