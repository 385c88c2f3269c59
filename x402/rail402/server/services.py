"""What every request of a gate shares: the rails, the store, the keys, the clock."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from rail402.clock import Clock, RandomBytes
from rail402.errors import Rail402Error
from rail402.protocol.binding import OfferKeys
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Dialect, Signer
from rail402.protocol.endpoint import Endpoints
from rail402.protocol.offer_receipt import did_of
from rail402.protocol.rail import PaymentRail, Registry
from rail402.protocol.receipt import ReceiptKeys
from rail402.rates import RateSource
from rail402.server.limits import Limiter
from rail402.server.settings import GateSettings, Rule
from rail402.stores.base import Store
from rail402.stores.limits_redis import RedisLimits

__all__ = ["Services", "charge_id"]

T = TypeVar("T")

logger = logging.getLogger("rail402.server")


def charge_id(now: int, random: bytes) -> str:
    """Return a charge id: `ch_`, then the time and 88 random bits in base32.

    The time leads, so that the newest charges lie together in a store's indexes, however many there are: with ids that
    are random all over, each claim touches pages of its own.

    Args:
        now: Unix seconds.
        random: 11 bytes that nobody can guess.
    """
    return "ch_" + base64.b32encode(now.to_bytes(5, "big") + random).rstrip(b"=").decode().lower()


@dataclass(slots=True, kw_only=True)
class Services:
    """The gate's parts, handed to everything that serves a request.

    Attributes:
        did: the name that the gate signs by, where a dialect signs what it says; else None.
        with_addresses: the rails that have HTTP addresses of their own, by name.
        redis: what carries limits and wake-ups between workers, where it is not the store.
        limiter: counts what clients and routes ask for.
    """

    settings: GateSettings
    rails: Mapping[str, PaymentRail]
    registry: Registry
    dialects: Sequence[Dialect]
    store: Store
    offer_keys: OfferKeys
    receipt_keys: ReceiptKeys
    rates: RateSource | None
    clock: Clock
    random_bytes: RandomBytes
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    did: str | None = field(init=False, default=None)
    redis: RedisLimits | None = field(init=False)
    limiter: Limiter = field(init=False)
    with_addresses: Mapping[str, Endpoints] = field(init=False)
    _realm: str = field(init=False)
    _sign: Signer | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        # Asked and worked out once: these two take longer than most of a challenge.
        self.with_addresses = {name: rail for name, rail in self.rails.items() if isinstance(rail, Endpoints)}
        self._realm = self.settings.realm
        self.redis = None if self.settings.redis is None else RedisLimits(self.settings.redis)
        self.limiter = Limiter(self.settings.limits, self.redis or self.store, self.clock)
        if any(dialect.signs for dialect in self.dialects):
            self.did = did_of(self.settings.public_url)
            self._sign = partial(self.receipt_keys.sign_as, self.did)

    def context(self) -> Context:
        """Return what a dialect may use now."""
        return Context(specs=self.registry, now=self.clock(), realm=self._realm, keys=self.offer_keys, sign=self._sign)

    def dialects_of(self, rule: Rule) -> list[Dialect]:
        """Return the dialects that a route speaks."""
        return [dialect for dialect in self.dialects if rule.dialects is None or dialect.name in rule.dialects]

    def rails_of(self, rule: Rule) -> list[PaymentRail]:
        """Return the rails that a route takes, in its order."""
        return list(self.rails.values()) if rule.rails is None else [self.rails[name] for name in rule.rails]

    def has_to_close(self, charge: Charge) -> bool:
        """Whether this gate has sold it and has its rail. Any other gate on the store leaves it alone: it could not ask
        the rail, or would sign the receipt of another one's sale."""
        return charge.offer.rail in self.rails and charge.order.origin == self.settings.public_url

    def new_charge_id(self) -> str:
        """Return a fresh charge id."""
        return charge_id(self.clock(), self.random_bytes(11))

    def lease(self) -> int:
        """Return until when a write of now is trusted, Unix seconds."""
        return self.clock() + self.settings.lease_seconds

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin `work` in a task of its own, which nothing cancels and `drain` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the request is cancelled meanwhile: money may be moving in it."""
        return await asyncio.shield(self.start(work))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Rail402Error):  # whoever waits is told too; nobody may be left
            logger.error("a bug in a rail or a store: %r", error, exc_info=error)

    async def drain(self) -> None:
        """Wait for the work that requests left behind."""
        while self.tasks:
            await asyncio.wait(set(self.tasks))
