"""What a publisher sets: for the whole gate, and for one route."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from rail402.errors import ConfigurationError
from rail402.money import Money, as_money
from rail402.protocol.offer import Flow
from rail402.protocol.rail import PaymentRail
from rail402.server.limits import Limits

__all__ = ["GateSettings", "Price", "Receipts", "Rule", "check_rails", "is_origin", "parse_duration"]

Price = Money | str | Callable[..., "Money | str | Awaitable[Money | str | None] | None"]
"""A fixed price, or a function of the request; None from the function means that this request is free."""

_DAY = 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY}
_GRACE = 7200
"""Seconds: the longest for which a payment may be shown for the first time after its offer has expired."""

_MORE_THAN_ZERO = ("offer_seconds", "handler_seconds", "settle_seconds")


def parse_duration(value: str | int) -> int:
    """Return the seconds that `value` says: a whole number of seconds, or a text such as `"10m"`, `"1h"`, `"7d"`.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ConfigurationError(f'duration {value!r}: write seconds, or a text such as "90s", "10m", "1h", "7d"')
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class Receipts:
    """What one payment buys.

    Args:
        valid: for how long from settlement the payment replays its response, or the pass is good: seconds or text.
        uses: how many requests it pays for. One (the default) replays the same request; more make it a pass, good
            for this route at this price, each request taking one use.
    """

    valid: str | int = "10m"
    uses: int = 1

    def __post_init__(self) -> None:
        parse_duration(self.valid)
        if isinstance(self.uses, bool) or not isinstance(self.uses, int) or not 1 <= self.uses <= 1_000_000_000:
            raise ConfigurationError(f"uses={self.uses!r} must be a whole number from 1 up")

    @property
    def seconds(self) -> int:
        """The window in seconds."""
        return parse_duration(self.valid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one paid route asks.

    Args:
        price: fixed, or a function of the request.
        rails: names of the rails it takes, in order of preference; None for all of the gate's.
        dialects: names of the dialects it speaks; None for all of the gate's.
        flow: when money moves, where the rail supports it; else the mechanism's default.
        receipts: what one payment buys.
        description: what is sold, for people; never put secrets or personal data here.
    """

    price: Price
    rails: tuple[str, ...] | None = None
    dialects: tuple[str, ...] | None = None
    flow: Flow | None = None
    receipts: Receipts = field(default_factory=Receipts)
    description: str = ""

    def __post_init__(self) -> None:
        if not callable(self.price) and as_money(self.price).amount <= 0:
            raise ConfigurationError("price must be more than zero; leave a free route without a price")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Limits and times of a gate.

    Args:
        public_url: the origin that payers see, such as `https://api.example.com`; it goes into offers and receipts
            and is never taken from a request.
        offer_seconds: for how long an offer is honoured.
        handler_seconds: a paid handler's deadline; after it the payment is given up.
        settle_seconds: how long settling may take.
        wait_seconds: how long a repeated payment waits for the first one's response.
        release_seconds: how long a failed handler's answer waits for the release.
        max_body: bytes of a request body; a longer one gets 413 before any challenge.
        max_stored: bytes of a response that is kept for replay.
        issued_capacity: unpaid invoices kept at most; when there are more, Lightning is not offered.
        retention_seconds: for how long finished charges and their responses are kept; a day at least, and two hours
            longer than `offer_seconds`, since a charge that is forgotten no longer guards its payment.
        reconcile_seconds: between two runs of the reconciler; 0 leaves it to calls of `Gate.reconcile`.
        documents: say what the paid routes cost in `/openapi.json` and `/llms.txt`; see `openapi.py`.
        limits: how much a client and a route may ask for; None for no limits.
        redis: the URL of a Redis that carries limits, and word of charges that change, between workers; it never holds
            a charge. None: the store does. Secret.
    """

    public_url: str
    offer_seconds: int = 600
    handler_seconds: int = 60
    settle_seconds: int = 60
    wait_seconds: int = 15
    release_seconds: int = 3
    max_body: int = 1 << 20
    max_stored: int = 1 << 20
    issued_capacity: int = 100_000
    retention_seconds: int = 30 * _DAY
    reconcile_seconds: int = 5
    documents: bool = True
    limits: Limits | None = field(default_factory=Limits)
    redis: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not is_origin(self.public_url):
            raise ConfigurationError(
                f"public_url={self.public_url!r} must be an origin without a path, such as https://api.example.com"
            )
        if not isinstance(self.documents, bool):
            raise ConfigurationError(f"documents={self.documents!r} must be True or False")
        if not (self.limits is None or isinstance(self.limits, Limits)):
            raise ConfigurationError(f"limits={self.limits!r} must be Limits(...), or None")
        for setting in fields(self)[1:-3]:
            value, least = getattr(self, setting.name), 1 if setting.name in _MORE_THAN_ZERO else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(f"{setting.name}={value!r} must be a whole number from {least} up")
        if self.retention_seconds < _DAY:
            raise ConfigurationError(f"retention_seconds={self.retention_seconds} must be a day ({_DAY}) at least")
        if self.retention_seconds < self.offer_seconds + _GRACE:
            raise ConfigurationError(
                f"retention_seconds={self.retention_seconds} must be {_GRACE} more than"
                f" offer_seconds={self.offer_seconds} at least, or a charge is forgotten whose payment is still good"
            )

    @property
    def realm(self) -> str:
        """The public host name."""
        return urlsplit(self.public_url).hostname or ""

    @property
    def timeout_seconds(self) -> int:
        """How long an authorization must stay valid: the handler, settling, and a minute's margin."""
        return self.handler_seconds + self.settle_seconds + 60

    @property
    def lease_seconds(self) -> int:
        """How long a worker is trusted to be alive after its last write."""
        return self.handler_seconds + self.settle_seconds


def is_origin(url: str) -> bool:
    """Whether a URL is an origin and no more: scheme, host and perhaps a port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and url == f"{parts.scheme}://{parts.netloc}"
        and ("@" not in parts.netloc)
    )


def names(value: Any, what: str) -> tuple[str, ...] | None:
    """Return a list of names as a tuple, None for None."""
    if value is None:
        return None
    if isinstance(value, str) or not all(isinstance(name, str) for name in value) or not value:
        raise ConfigurationError(f'{what}={value!r} must be a list of names, such as ["base", "lightning"]')
    return tuple(value)


def check_rails(rails: Collection[PaymentRail], settings: GateSettings) -> None:
    """Check that rails go together, and with the gate's settings.

    Raises:
        ConfigurationError: they do not.
    """
    if len({(rail.is_sandbox, rail.is_test) for rail in rails}) > 1:
        raise ConfigurationError("sandbox, test and live rails in one gate would sell for nothing; make several gates")
    for rail in rails:
        most = rail.max_offer_seconds
        if most is not None and settings.offer_seconds > most:
            raise ConfigurationError(f"offer_seconds must be {most} at most with the rail {rail.spec.name}")
