"""The header fields that a gate adds to responses, and those of the handler that it has to mind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Dialect
from rail402.protocol.payment import Payment
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = [
    "RawFields",
    "content_length",
    "end_to_end",
    "failed_fields",
    "free_fields",
    "gate_fields",
    "outcome_lines",
    "paid_fields",
]

RawFields = Iterable[tuple[bytes, bytes]]

_EXPOSED = ("Idempotent-Replayed", "Rail402-Charge", "Receipt-Record", "Retry-After")
_SHARED = (b"public", b"s-maxage", b"proxy-revalidate")
_CDN = (b"cdn-cache-control", b"surrogate-control")
"""How names of fields end that only a CDN reads, and prefers to Cache-Control (RFC 9213)."""

_HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


def gate_fields(services: Services, rule: Rule) -> list[tuple[bytes, bytes]]:
    """Return the fields that every response of a gated route has: what it varies on, and what scripts may read."""
    dialects = services.dialects_of(rule)
    vary = sorted({name.title() for dialect in dialects for name in dialect.request_fields})
    exposed = sorted({name for dialect in dialects for name in dialect.response_fields} | set(_EXPOSED))
    return [
        (b"vary", ", ".join(vary).encode()),
        (b"access-control-expose-headers", ", ".join(exposed).encode()),
    ]


def paid_fields(
    services: Services, rule: Rule, charge: Charge, payment: Payment, own: RawFields, *, replayed: bool = False
) -> list[tuple[bytes, bytes]]:
    """Return the handler's `own` fields with the receipts of a settled charge."""
    lines = [
        *_dialect(services, payment).receipt(charge, payment, services.context()),
        ("Receipt-Record", charge.receipt or ""),
    ]
    if replayed:
        lines.append(("Idempotent-Replayed", "true"))
    return [*free_fields(services, rule, own), *_charge_field(charge), *_encode(lines)]


def failed_fields(services: Services, rule: Rule, charge: Charge, own: RawFields) -> list[tuple[bytes, bytes]]:
    """Return the `own` fields of a failed handler's answer, with what became of the payment."""
    return [*free_fields(services, rule, own), *_charge_field(charge)]


def free_fields(services: Services, rule: Rule, own: RawFields) -> list[tuple[bytes, bytes]]:
    """Return the `own` fields of a response that has no charge: what is free for one is not for the next."""
    return _merged(_private(own), gate_fields(services, rule))


def end_to_end(own: RawFields) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields that belong to the response and not to the connection it left on."""
    return tuple((name, value) for name, value in own if name.lower() not in _HOP_BY_HOP)


def outcome_lines(services: Services, charge: Charge | None, payment: Payment | None) -> list[tuple[str, str]]:
    """Return the lines by which a refusal names its charge, and by which a dialect says that it did not settle."""
    if charge is None:
        return []
    lines = [("Rail402-Charge", f"{charge.id}; payment={charge.payment}")]
    if payment is not None and charge.payment is not PaymentState.SETTLED:
        lines += _dialect(services, payment).receipt(charge, payment, services.context())
    return lines


def _dialect(services: Services, payment: Payment) -> Dialect:
    return next(dialect for dialect in services.dialects if dialect.name == payment.dialect)


def content_length(message: Mapping[str, Any]) -> int | None:
    """Return the Content-Length of an ASGI response start, if it has a usable one."""
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None


class Remaining:
    """What of a response's body is still to come.

    A framework that streams ends with an empty piece; but a client that has as much as `Content-Length` says has all of
    it, and may be gone before that comes. And one that has less has not got it: servers break such a response off.

    Args:
        start: the response's ASGI start.
        method: what the request asked with; the answer to `HEAD` has no body, whatever its fields say.
    """

    def __init__(self, start: Mapping[str, Any], method: str) -> None:
        has_body = method != "HEAD" and start.get("status") not in (204, 304)
        self._bytes = content_length(start) if has_body else None

    def after(self, body: bytes, more: bool) -> bool:
        """Return whether anything comes after this piece; `more` is what its message says."""
        if self._bytes is not None:
            self._bytes -= len(body)  # below 0 where the field lies
        return more and self._bytes != 0

    @property
    def is_missing(self) -> bool:
        """Whether there is less so far than `Content-Length` says."""
        return self._bytes is not None and self._bytes > 0


def _charge_field(charge: Charge) -> list[tuple[bytes, bytes]]:
    return [(b"rail402-charge", f"{charge.id}; payment={charge.payment}".encode())]


def _encode(lines: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in lines]


def _private(own: RawFields) -> list[tuple[bytes, bytes]]:
    """Return the fields with a Cache-Control that keeps shared caches away; `no-store` and the rest stay."""
    kept, directives = [], [b"private"]
    for name, value in own:
        if name.lower() != b"cache-control":
            if not name.lower().endswith(_CDN):
                kept.append((name, value))
            continue
        for directive in value.split(b","):
            word = directive.strip()
            if word and word.lower() != b"private" and not word.lower().startswith(_SHARED):
                directives.append(word)
    return [*kept, (b"cache-control", b", ".join(directives))]


def _merged(own: RawFields, added: RawFields) -> list[tuple[bytes, bytes]]:
    """Return the `own` fields with the lists of `added` joined to theirs: middleware minds the first line only."""
    lists = dict(added)
    kept = []
    for name, value in own:
        if name.lower() in lists:
            lists[name.lower()] = value + b", " + lists[name.lower()]
        else:
            kept.append((name, value))
    return [*kept, *lists.items()]
