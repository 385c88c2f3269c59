"""One way to pay an order."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from pydantic import Field

from rail402.money import Money
from rail402.protocol.base import Record, canonical_json

__all__ = ["Flow", "Mechanism", "Offer"]


_NOT_TERMS = {"token", "expires_at", "dialect", "envelope", "currency", "exponent"}


class Flow(StrEnum):
    """When money moves, in x402's words.

    `authorization`: check, run the handler, settle, deliver. `upfront`: settle, run, deliver.
    `escrow`: hold, run, then capture or cancel.
    """

    AUTHORIZATION = "authorization"
    UPFRONT = "upfront"
    ESCROW = "escrow"


class Mechanism(Record):
    """One way in which a rail moves money.

    Args:
        name: how: `eip3009`, `bolt11`, `spt`.
        network: CAIP-2 style: `eip155:8453`.
        asset: the network's word for what moves: a token address, `BTC`, `usd`.
        currency: the money it is: `USDC`, `BTC`, `USD`.
        exponent: decimal places of the currency that make one atomic unit (6 for USDC, 11 for msat).
        step: atomic amounts are multiples of this (1000 where only whole sats can be charged).
        flows: the flows it supports, the default first.
    """

    name: str
    network: str
    asset: str
    currency: str
    exponent: int
    step: int = 1
    flows: tuple[Flow, ...]

    def offer(
        self,
        rail: str,
        *,
        payee: str,
        amount: int,
        expires_at: int,
        timeout_seconds: int,
        flow: Flow | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Offer:
        """Return an offer to pay by this mechanism; what is given is what `Offer` says.

        Args:
            rail: the name of the rail whose mechanism it is.
            flow: when money moves; None: the default of the mechanism.
        """
        return Offer(
            rail=rail,
            mechanism=self.name,
            network=self.network,
            asset=self.asset,
            amount=amount,
            currency=self.currency,
            exponent=self.exponent,
            payee=payee,
            expires_at=expires_at,
            timeout_seconds=timeout_seconds,
            flow=flow or self.flows[0],
            extra=extra or {},
        )


class Offer(Record):
    """One way to pay an order.

    Args:
        rail: the rail's name; `mechanism`, `network` and `asset` say how on that rail.
        amount: atomic units of the asset, more than zero.
        currency, exponent: what an atomic unit is; always from a local table, never from the peer.
        payee: who is paid: an address, a node's public key, a Stripe profile.
        expires_at: Unix seconds until which the offer is honoured.
        timeout_seconds: how long a payment must stay valid after the offer was made.
        flow: when money moves.
        extra: what else the mechanism needs, by its own names.
        token: the offer token (see `binding.py`), None before it is issued or where the dialect does not echo it.
        dialect: the dialect that carried the offer; `envelope` is what it carried, kept to be echoed untouched.
    """

    rail: str
    mechanism: str
    network: str
    asset: str
    amount: int = Field(gt=0, lt=1 << 256)
    currency: str
    exponent: int
    payee: str
    expires_at: int
    timeout_seconds: int
    flow: Flow
    extra: Mapping[str, Any] = Field(default_factory=dict)
    token: str | None = Field(default=None, repr=False)
    dialect: str | None = None
    envelope: Mapping[str, Any] | None = Field(default=None, repr=False)

    @cached_property
    def canonical(self) -> bytes:
        """The canonical JSON of the terms. The expiry is not in it: the token carries that itself."""
        terms = self.model_dump(exclude=_NOT_TERMS, mode="json")
        return canonical_json(terms | {"amount": str(self.amount)})

    @cached_property
    def terms_key(self) -> tuple[bytes, str, int]:
        """All that is asked, expiry and token aside, to look up by."""
        return self.canonical, self.currency, self.exponent

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with the fields of `update` changed; see `Record`. An offer keeps its canonical form when it is
        given its token."""
        copy = super().model_copy(update=update, deep=deep)
        if "canonical" in self.__dict__ and (update is None or update.keys() <= _NOT_TERMS):
            copy.__dict__["canonical"] = self.canonical
        return copy

    @property
    def price(self) -> Money:
        """The amount as money."""
        return Money.from_atomic(self.amount, self.exponent, self.currency)
