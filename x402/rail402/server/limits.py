"""How much one client, and one route, may ask of a gate: 402s, payments to verify, invoices, and the rails' addresses.

Each is a token bucket that all workers on a store share. So that the store is not asked on every request, a worker has
two small parts of each bucket for itself:

- an allowance of its own, a 200th of the burst and of the rate. Who asks for little is served from it, and the store
  never hears of them: a flood from very many addresses writes nothing;
- chunks of a 20th of the burst, drawn from the store's bucket once that allowance is used up. What is left of a chunk
  lapses when the bucket has been refilled by as much.

What the store's bucket holds is smaller by just these parts. So with up to 20 workers, over any time, no more is
granted than the burst and what the rate brings in that time. Whoever is refused makes this worker ask the store again
only when there can be a token.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from rail402.clock import Clock
from rail402.errors import ConfigurationError, RateLimited, StoreError
from rail402.server.addresses import TrustedProxies
from rail402.stores.base import TokenBucket

__all__ = ["Limiter", "Limits", "Shared", "parse_rate"]

logger = logging.getLogger("rail402.server")

_WORKERS: Final = 20
_OWN_PART: Final = 200
_CHUNK_PART: Final = 20
_REMEMBERED: Final = 16_384
_RETRY_STORE: Final = 5

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/([smh])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def parse_rate(value: str | TokenBucket) -> TokenBucket:
    """Return the bucket that a text such as `"600/m"` names: so many at once, and as many again every minute.

    Raises:
        ConfigurationError: it is no such text.
    """
    if isinstance(value, TokenBucket):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigurationError(f'{value!r}: write a number per second, minute or hour: "20/s", "600/m", "5000/h"')
    count = int(match[1])
    return TokenBucket(rate=count / _SECONDS[match[2]], burst=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is too much; see `parse_rate` for the form of a rate.

    Args:
        challenges, payments, invoices: per client: 402s, payments that are verified, and unpaid invoices.
        route_challenges, route_payments, route_invoices: the same of all clients together, per route. They protect the
            node, and whoever else verifies. A payment that has been settled is served again whatever others do.
        addresses, route_addresses: per client, and of all clients together per address: requests for a receipt and to
            the rails' own addresses, such as where a refund is fetched; webhooks are not counted.
        trusted_proxies: networks of proxies in front, such as `10.0.0.0/8`, that tell clients' addresses; see
            `TrustedProxies`.

    Raises:
        ConfigurationError: a rate or a network cannot be read.
    """

    challenges: str | TokenBucket = "6000/m"
    payments: str | TokenBucket = "3000/m"
    invoices: str | TokenBucket = "300/m"
    route_challenges: str | TokenBucket = "60000/m"
    route_payments: str | TokenBucket = "12000/m"
    route_invoices: str | TokenBucket = "3000/m"
    addresses: str | TokenBucket = "300/m"
    route_addresses: str | TokenBucket = "6000/m"
    trusted_proxies: Sequence[str] = ()

    def __post_init__(self) -> None:
        for rate in fields(self)[:-1]:
            try:
                parse_rate(getattr(self, rate.name))
            except ConfigurationError as error:
                raise ConfigurationError(f"limits: {rate.name}={error.detail}") from error
        if isinstance(self.trusted_proxies, str):
            raise ConfigurationError(f"limits: trusted_proxies={self.trusted_proxies!r} must be a list of networks")
        TrustedProxies(self.trusted_proxies)


class Shared(Protocol):
    """Buckets that all workers share; see `Store.spend`. It raises `StoreError` where they cannot be reached."""

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int: ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a limit is parted: what all workers share, how much is drawn of that at a time, and what is a worker's own.

    The last as its tokens' time to come, one and all of them, in nanoseconds; see `TokenBucket`.
    """

    shared: TokenBucket
    chunk: int
    own_token_ns: int
    own_ns: int

    @classmethod
    def of(cls, rate: str | TokenBucket) -> _Plan:
        """Part a limit."""
        limit = parse_rate(rate)
        own, chunk = limit.burst // _OWN_PART, max(1, limit.burst // _CHUNK_PART)
        all_own, left_over = _WORKERS * own, chunk if chunk > 1 else 0
        shared = TokenBucket(limit.rate * (limit.burst - all_own) / limit.burst, limit.burst - all_own - left_over)
        token_ns = TokenBucket(limit.rate * own / limit.burst, own).token_ns if own else 0
        return cls(shared, chunk, token_ns, token_ns * own)


class _Kind:
    """What is counted: the plans for each client and for each route."""

    def __init__(self, name: str, client: str | TokenBucket, route: str | TokenBucket) -> None:
        self.name, self.client, self.route = name, _Plan.of(client), _Plan.of(route)


@dataclass(slots=True)
class _Share:
    """What this worker has of one bucket.

    Attributes:
        own_full_at: when its own allowance is full again, in nanoseconds; see `TokenBucket`.
        drawn: tokens of the last chunk, good until `good_until`.
        empty_until: until when the shared bucket surely has none.
        alone_full_at: of the bucket that it keeps while the shared one cannot be reached.
    """

    own_full_at: int = 0
    drawn: int = 0
    good_until: float = 0
    empty_until: int = 0
    alone_full_at: int = 0
    drawing: asyncio.Lock | None = None

    def take(self, plan: _Plan, now: int) -> bool:
        """Take one token of what is here."""
        if self.drawn and now <= self.good_until:
            self.drawn -= 1
            return True
        now_ns = now * 10**9
        full_at = max(self.own_full_at, now_ns) + plan.own_token_ns
        if not plan.own_ns or full_at > now_ns + plan.own_ns:
            return False
        self.own_full_at = full_at
        return True

    def give_back(self, now: int) -> None:
        """Put back a token that was taken just now."""
        if now > self.good_until:
            self.drawn, self.good_until = 0, now
        self.drawn += 1

    def check(self, now: int) -> None:
        """Raise `RateLimited` while there surely is no token."""
        if now < self.empty_until:
            wait = self.empty_until - now
            raise RateLimited(f"come back in {wait} s", retry_after=wait)


class Limiter:
    """Counts what clients and routes ask of one worker; what is too much raises `RateLimited`.

    Args:
        limits: None counts nothing.
        shared: the buckets of all workers. While they cannot be reached this worker counts by itself: limits that fail
            do not stop anybody from buying, and do not let everything through either.
        clock: Unix seconds.
    """

    def __init__(self, limits: Limits | None, shared: Shared, clock: Clock) -> None:
        self._is_on, limits = limits is not None, limits or Limits()
        self._challenges = _Kind("402:", limits.challenges, limits.route_challenges)
        self._payments = _Kind("payment:", limits.payments, limits.route_payments)
        self._invoices = _Kind("invoice:", limits.invoices, limits.route_invoices)
        self._addresses = _Kind("address:", limits.addresses, limits.route_addresses)
        self._proxies = TrustedProxies(limits.trusted_proxies)
        self._shared, self._clock = shared, clock
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        self._alone_until: int | None = None

    @property
    def remembered(self) -> int:
        """How many clients and routes are remembered here; bounded, those not seen for longest go first."""
        return len(self._shares)

    async def challenge(self, scope: Mapping[str, Any], route: str) -> None:
        """Count a 402."""
        if self._is_on:
            await self._take_both(self._challenges, self._proxies.client_of(scope), route)

    async def invoice(self, scope: Mapping[str, Any], route: str) -> None:
        """Count an offer that the rail's backend makes and remembers one by one, such as an invoice."""
        if self._is_on:
            await self._take_both(self._invoices, self._proxies.client_of(scope), route)

    async def address(self, scope: Mapping[str, Any], address: str) -> None:
        """Count a request to an address of the gate's own."""
        if self._is_on:
            await self._take_both(self._addresses, self._proxies.client_of(scope), address)

    async def payment(self, scope: Mapping[str, Any]) -> None:
        """Count a payment that is shown, before anything of it is verified."""
        if self._is_on:
            kind = self._payments
            await self._take(kind.name + self._proxies.client_of(scope), kind.client)

    async def new_payment(self, route: str) -> None:
        """Count a payment that nobody has seen before and that is signed well, before the rail is asked about it."""
        if self._is_on:
            await self._take(self._payments.name + route, self._payments.route)

    def was_settled(self, scope: Mapping[str, Any]) -> None:
        """Count a payment no more: it is a settled one, shown again by who may, as often as it was paid for."""
        if self._is_on:
            self._share(self._payments.name + self._proxies.client_of(scope)).give_back(self._clock())

    # --- the buckets

    async def _take_both(self, kind: _Kind, client: str, route: str) -> None:
        """Take a token of a client and one of its route, or none.

        The store gets to know of a client only once the route has a token, so that however many clients there are, they
        cannot fill it.
        """
        client, route = kind.name + client, kind.name + route
        share, now = self._share(client), self._clock()
        if share.take(kind.client, now):
            await self._take(route, kind.route)
            return
        share.check(now)
        await self._take(route, kind.route)
        try:
            await self._take(client, kind.client)
        except RateLimited:
            self._share(route).give_back(now)
            raise

    async def _take(self, name: str, plan: _Plan) -> None:
        share, now = self._share(name), self._clock()
        if share.take(plan, now):
            return
        if now >= share.empty_until:
            share.drawing = share.drawing or asyncio.Lock()
            async with share.drawing:  # of many who come at once, one asks the store for all
                if share.take(plan, now) or (now >= share.empty_until and await self._draw(name, plan, share)):
                    return
        share.check(now)
        raise RateLimited("come back later", retry_after=1)  # others took what was there in the meantime

    async def _draw(self, name: str, plan: _Plan, share: _Share) -> bool:
        """Draw a chunk and take one token of it; say whether there was one."""
        now = self._clock()
        drawn = await self._spend(name, plan, share, now)
        if not drawn:
            share.empty_until = now + -(-plan.shared.token_ns // 10**9)
            return False
        # What a chunk held before is void: by now the shared bucket may have been refilled by it.
        share.drawn, share.good_until = drawn - 1, now + drawn / plan.shared.rate
        return True

    async def _spend(self, name: str, plan: _Plan, share: _Share, now: int) -> int:
        if self._alone_until is None or now >= self._alone_until:
            try:
                drawn = await self._shared.spend(name, plan.chunk, plan.shared, now=now)
            except StoreError as error:
                if self._alone_until is None:
                    logger.warning(
                        "limits are counted by this worker alone, until the others can be reached: %s", error
                    )
                self._alone_until = now + _RETRY_STORE
            else:
                if self._alone_until is not None:
                    logger.info("limits are counted together with the other workers again")
                self._alone_until = None
                return drawn
        taken, share.alone_full_at = plan.shared.take(share.alone_full_at, plan.chunk, now=now)
        return taken

    def _share(self, name: str) -> _Share:
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = _Share()
            if len(self._shares) > _REMEMBERED:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(name)
        return share
