"""The client side of Stripe: pays with shared payment tokens, each issued for one offer and good for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, MalformedInput, PaymentFailed
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost, NotPaid, Observation, Paid, Unknown, Wallet
from rail402_stripe.api import StripeApi
from rail402_stripe.currencies import currency
from rail402_stripe.issuers import (
    CallableIssuer,
    CreateToken,
    IssuedTokens,
    TestTokens,
    TokenFacts,
    TokenIssuer,
    TokenTerms,
)
from rail402_stripe.proofs import ProofKind, payload_of, proof_kinds_of, spt_of
from rail402_stripe.wire import MECHANISM, Network, StripeSpec, payment_method_types_of

__all__ = ["HOLD_SECONDS", "MAX_LIFETIME", "StripeWallet"]

MAX_LIFETIME: Final = 3600
"""Seconds for which a token is good at most, however long a server honours its offer."""

HOLD_SECONDS: Final = 7 * 24 * 3600
"""Seconds for which a seller may keep an amount reserved before taking it: cards allow a week."""


class StripeWallet(Wallet):
    """Pays with shared payment tokens (SPT).

    To pay is to have a token issued that is good for exactly the offer's amount, currency and seller, and no longer
    than the offer. The seller charges it; there is no fee on top.

    Args:
        tokens: where tokens come from: an async function of `TokenTerms` that returns one, or a `TokenIssuer`.
        network: which Stripe they are of.
        currencies: the currencies to pay in; any unless given.
        payment_method_types: the kinds of payment method behind the tokens. A seller who takes none of them is not
            paid.
        max_lifetime: seconds for which a token is good at most.
        hold_seconds: for how long a token that has ended unused may still turn out to be taken. Sellers reserve an
            amount first and take it later, and a token does not show that; until then its amount stays reserved here.

    Raises:
        ConfigurationError: a currency is none of Stripe's, a list is empty, or a number of seconds is not positive.
    """

    def __init__(
        self,
        tokens: CreateToken | TokenIssuer,
        *,
        network: Network = "stripe:live",
        currencies: Sequence[str] | None = None,
        payment_method_types: Sequence[str] = ("card",),
        max_lifetime: int = MAX_LIFETIME,
        hold_seconds: int = HOLD_SECONDS,
    ) -> None:
        if max_lifetime <= 0 or hold_seconds < 0 or not payment_method_types or isinstance(payment_method_types, str):
            raise ConfigurationError(
                "a wallet needs a max_lifetime of more than 0 seconds, hold_seconds of 0 or more, and a list of "
                "payment_method_types"
            )
        self._issuer = tokens if isinstance(tokens, TokenIssuer) else CallableIssuer(tokens)
        self._currencies = None if currencies is None else frozenset(currency(code).code for code in currencies)
        self.spec = StripeSpec(network, currencies or ("usd",))
        self.name = network
        self._network, self._method_types = network, frozenset(payment_method_types)
        self._max_lifetime, self._hold_seconds = max_lifetime, hold_seconds

    def __repr__(self) -> str:
        return f"StripeWallet({type(self._issuer).__name__}, network={self._network!r})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        payment_method: str = "pm_card_visa",
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
    ) -> StripeWallet:
        """Make a wallet of play money, in the ledger that every sandbox of this directory shares.

        Its card is one of Stripe's test cards, and no seller outside the sandbox can charge it.

        Args:
            directory: see `sandbox_directory`.
            payment_method: the test card: `pm_card_visa`, `pm_card_visa_chargeDeclined`, …
            clock: Unix seconds; random_bytes: makes ids.

        Raises:
            ConfigurationError: the directory cannot be made.
        """
        api = StripeApi.sandbox(directory, clock=clock, random_bytes=random_bytes)
        return cls(TestTokens(api, payment_method), network=api.network)

    @classmethod
    def test_helper(cls, secret_key: str | StripeApi, *, payment_method: str = "pm_card_visa") -> StripeWallet:
        """Make a wallet for trying out a seller's account in test mode: its tokens come from Stripe's test helper.

        Args:
            secret_key: the **seller's** own `sk_test_…`.
            payment_method: one of Stripe's test cards.

        Raises:
            ConfigurationError: the key is not one of test mode.
        """
        api = secret_key if isinstance(secret_key, StripeApi) else StripeApi(secret_key)
        if api.network == "stripe:live":
            raise ConfigurationError("the test helper is for test mode: give a key sk_test_…, never a live one")
        return cls(TestTokens(api, payment_method), network=api.network)

    @classmethod
    def issued_token(
        cls,
        secret_key: str | StripeApi,
        payment_method: str,
        *,
        currencies: Sequence[str] | None = None,
        payment_method_type: str = "card",
        hold_seconds: int = HOLD_SECONDS,
    ) -> StripeWallet:
        """Make a wallet on a Stripe account of one's own.

        Args:
            secret_key: the payer's own key; its mode is the wallet's.
            payment_method: the payment method of that account that pays, `pm_…`.
            currencies, hold_seconds: see the class.
            payment_method_type: its kind.

        Raises:
            ConfigurationError: the key, the payment method or a currency is not one.
        """
        api = secret_key if isinstance(secret_key, StripeApi) else StripeApi(secret_key)
        return cls(
            IssuedTokens(api, payment_method),
            network=api.network,
            currencies=currencies,
            payment_method_types=[payment_method_type],
            hold_seconds=hold_seconds,
        )

    async def examine(self) -> Sequence[Observation]:
        """Ask where its tokens come from; see `Wallet.examine`."""
        return await self._issuer.examine()

    async def close(self) -> None:
        """Close the connections."""
        await self._issuer.close()

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price: there is nothing on top. None where the network, the currency or every kind of payment
        method is none of the wallet's, or where the seller takes no such tokens."""
        if (offer.mechanism, offer.network) != (MECHANISM, self._network) or ProofKind.SPT not in proof_kinds_of(offer):
            return None
        if self._currencies is not None and offer.asset not in self._currencies:
            return None
        if self._method_types.isdisjoint(payment_method_types_of(offer)):
            return None
        return Cost(price=offer.price)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Have a token issued for exactly this offer; see `Wallet.pay`.

        Raises:
            PaymentFailed: there is no token, or the offer is none of the wallet's; nothing was paid.
            RailUnavailable: its source cannot be reached; nothing was paid.
        """
        if await self.can_pay(offer) is None or offer.expires_at <= now:
            raise PaymentFailed(f"the wallet does not pay {offer.price} on {offer.network}", record_id=record_id)
        spt = await self._issuer.create(
            TokenTerms(
                amount=offer.amount,
                currency=offer.asset,
                profile_id=offer.payee,
                expires_at=min(offer.expires_at, now + self._max_lifetime),
                payment_method_types=payment_method_types_of(offer),
                reference=record_id,
            )
        )
        payload = payload_of(spt, offer.extra.get("external_id"))
        try:
            spt_of(payload)
        except MalformedInput as error:
            raise PaymentFailed("what was issued is no shared payment token", record_id=record_id) from error
        return Paid(payload=payload, fee=Money(Decimal(0), offer.currency))

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Find out what became of a token; see `Wallet.resume`.

        1. Without a payload nothing was paid: a token is written down before it is shown to anybody.
        2. Where a seller has taken the money, it is paid.
        3. Until the token ends it is the payment, and is shown again.
        4. After that it may still be taken by a seller who has reserved the amount, which the token does not tell: it
           stays unknown for as long as a reservation can last.
        """
        if payload is None:
            return NotPaid()
        facts = await self._issuer.look(spt_of(payload))
        if facts is None:
            return Unknown(detail="whoever issued the token does not say what became of it")
        if facts.captured > 0 or facts.consumed:
            return Paid(payload=payload, moved=True)
        ended_at = _ended_at(facts, now)
        if ended_at is None:
            return Paid(payload=payload)
        if now < ended_at + self._hold_seconds:
            return Unknown(detail="the token has ended unused, but its amount may still be reserved by the seller")
        return NotPaid()

    async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
        """Revoke a token that its seller has refused; see `Wallet.withdraw`. An amount that a seller had reserved
        before that it can still take, which is why the token's amount stays counted."""
        spt = spt_of(payload)
        await self._issuer.revoke(spt)
        facts = await self._issuer.look(spt)
        return facts is not None and _ended_at(facts, now) is not None and not facts.captured and not facts.consumed


def _ended_at(facts: TokenFacts, now: int) -> int | None:
    if facts.ended_at is not None:
        return facts.ended_at
    return facts.expires_at if facts.expires_at is not None and facts.expires_at <= now else None
