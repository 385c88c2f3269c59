"""Invoices from the node: one for each offer, and for orders in demand a few ahead of it.

An invoice that was minted ahead is there without a round trip to the node. It is shown to one payer only, like any
other, and while nobody has seen it, no row of it is kept anywhere but at the node. What is minted ahead is bounded:

- only for what was asked for three times within a minute: one order, or, where invoices are not bound to an order, one
  price. So nothing is made for addresses that are asked for once, however many there are;
- one for each that was asked for, up to `ahead` of them; so there are never more than twice as many as offers;
- one after another, ten a second at most, and ever slower while the node fails;
- for 64 such orders at a time; those not asked for longest are forgotten first.

One payment must not buy two orders, so a node that makes an invoice with a payment hash of before is not believed. The
last 16,384 hashes are remembered here; what other workers were given, or is longer ago, the store's issued rows know.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from rail402.errors import ConfigurationError, MalformedInput, RailUnavailable
from rail402_lightning import bolt11
from rail402_lightning.backends import Receiver

__all__ = ["AHEAD", "MAX_AHEAD", "Minter", "Wanted"]

logger = logging.getLogger("rail402.lightning")

AHEAD: Final = 8
"""How many invoices are minted ahead for one order, unless told."""

MAX_AHEAD: Final = 100
"""How many may be."""

_HOT: Final = 3
_WINDOW: Final = 60
_MAX_ASKED: Final = 1024
_MAX_POOLS: Final = 64
_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 60
_MAX_GIVEN: Final = 16_384
_FRESH: Final = (3, 4)  # the part of its life that an invoice must have before it to be shown


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an invoice must be.

    Args:
        amount: millisatoshis, a multiple of 1000.
        seconds: until it expires, from when it is made.
        hashed: the text whose SHA-256 is its description hash: the request that it is bound to, or any text.
    """

    amount: int
    seconds: int
    hashed: bytes

    @property
    def digest(self) -> bytes:
        """What tells it from others, in few bytes."""
        return hashlib.sha256(f"{self.amount} {self.seconds} ".encode() + self.hashed).digest()


@dataclass(slots=True)
class _Pool:
    """Invoices that nobody has seen, oldest first.

    Attributes:
        owed: how many may be minted ahead.
        asked_at: when one was asked for last, Unix seconds.
    """

    asked_at: int
    ready: deque[bolt11.Invoice] = field(default_factory=deque)
    owed: int = 0


class Minter:
    """Makes the invoices of one rail, in one worker.

    Args:
        receiver: the node.
        ahead: how many are minted ahead for each order in demand, 0 to 100; 0 turns that off.
        sleep: waits that many seconds.

    Raises:
        ConfigurationError: `ahead` is out of range.
    """

    def __init__(
        self, receiver: Receiver, *, ahead: int = AHEAD, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        if isinstance(ahead, bool) or not isinstance(ahead, int) or not 0 <= ahead <= MAX_AHEAD:
            raise ConfigurationError(f"mint_ahead={ahead!r} must be a whole number from 0 to {MAX_AHEAD}")
        self._receiver, self._ahead, self._sleep = receiver, ahead, sleep
        self._asked: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # how often, since when
        self._pools: OrderedDict[Wanted, _Pool] = OrderedDict()
        self._given: OrderedDict[bytes, None] = OrderedDict()  # payment hashes, oldest first
        self._pause: float = _PAUSE
        self._filling: asyncio.Task[None] | None = None

    @property
    def ready(self) -> int:
        """How many invoices are there that nobody has seen."""
        return sum(len(pool.ready) for pool in self._pools.values())

    async def invoice(self, wanted: Wanted, *, now: int) -> bolt11.Invoice:
        """Return an invoice that nobody else has seen or will see: one that is there, else a new one.

        Raises:
            RailUnavailable: there is none, and the node makes none.
        """
        pool = self._pool(wanted, now) if self._ahead else None
        if pool is None:
            return await self.mint(wanted)
        invoice = _fresh(pool.ready, now)
        if now - pool.asked_at < _WINDOW:
            pool.owed = min(pool.owed + 1, self._ahead - len(pool.ready))
            self._fill()
        pool.asked_at = now
        return await self.mint(wanted) if invoice is None else invoice

    async def mint(self, wanted: Wanted) -> bolt11.Invoice:
        """Have an invoice made, and believe nothing about it but what it says itself.

        Raises:
            RailUnavailable: the node cannot be used now, made another one than it was asked for, or one whose payment
                hash it used before.
        """
        text = await self._receiver.create_invoice(
            wanted.amount, expiry_seconds=wanted.seconds, hashed_description=wanted.hashed
        )
        try:
            invoice = bolt11.decode(text)
        except MalformedInput as error:
            raise RailUnavailable("the node made an invoice that cannot be read") from error
        said = {
            "amount": (invoice.amount_msat, wanted.amount),
            "expiry": (invoice.expiry, wanted.seconds),
            "description hash": (invoice.description_hash, hashlib.sha256(wanted.hashed).digest()),
        }
        for term, (found, asked) in said.items():
            if found != asked:
                raise RailUnavailable(f"the node made an invoice with another {term} than it was asked for")
        self._remember(invoice.payment_hash)
        return invoice

    def _remember(self, payment_hash: bytes) -> None:
        if payment_hash in self._given:
            raise RailUnavailable("the node made an invoice with a payment hash that it used before")
        self._given[payment_hash] = None
        if len(self._given) > _MAX_GIVEN:
            self._given.popitem(last=False)

    async def close(self) -> None:
        """Stop minting, and forget what nobody has seen."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
        self._pools.clear()
        self._asked.clear()

    # --- what is in demand

    def _pool(self, wanted: Wanted, now: int) -> _Pool | None:
        """Return the invoices ahead of what is wanted; None while there is no demand for it."""
        pool = self._pools.get(wanted)
        if pool is not None:
            self._pools.move_to_end(wanted)
            return pool
        digest = wanted.digest
        count, since = self._asked.pop(digest, (0, now))
        if now - since >= _WINDOW:
            count, since = 0, now
        if count + 1 < _HOT:
            self._asked[digest] = (count + 1, since)
            if len(self._asked) > _MAX_ASKED:
                self._asked.popitem(last=False)
            return None
        pool = self._pools[wanted] = _Pool(asked_at=now)
        if len(self._pools) > _MAX_POOLS:
            self._pools.popitem(last=False)
        return pool

    # --- in the background

    def _fill(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.get_running_loop().create_task(self._mint_what_is_owed())

    async def _mint_what_is_owed(self) -> None:
        while (wanted := self._owed()) is not None:
            try:
                invoice = await self.mint(wanted)
            except RailUnavailable as error:
                logger.warning("no invoices are minted ahead for now: %s", error.detail)
                for pool in self._pools.values():  # whoever asks once the node is back earns them anew
                    pool.owed = 0
                self._pause = min(self._pause * 2, _MAX_PAUSE)
            else:
                self._pause = _PAUSE
                if wanted in self._pools:
                    self._pools[wanted].ready.append(invoice)
            await self._sleep(self._pause)

    def _owed(self) -> Wanted | None:
        """Take up what is owed to what was asked for last."""
        for wanted, pool in reversed(self._pools.items()):
            if pool.owed > 0:
                pool.owed -= 1
                return wanted
        return None


def _fresh(ready: deque[bolt11.Invoice], now: int) -> bolt11.Invoice | None:
    """Take the oldest invoice that has most of its life before it; what is older goes."""
    part, whole = _FRESH
    while ready:
        invoice = ready.popleft()
        if (invoice.expires_at - now) * whole >= invoice.expiry * part:
            return invoice
    return None
