"""The client side of Base USDC: a key that signs authorizations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Final

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentFailed, RailUnavailable
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost, NotPaid, Observation, Paid, Unknown, Wallet
from rail402.sandbox import PLAY_MONEY
from rail402_base.bindings import answering_nonce, payload_of
from rail402_base.chain import ChainView, SandboxBackend, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization, parse_authorization, same_address
from rail402_base.examining import examine_signer
from rail402_base.keys import DEFAULT_DERIVATION_PATH, LocalSigner, Signer
from rail402_base.sandbox_keys import open_sandbox, sandbox_signer
from rail402_base.tokens import BASE_USDC, SANDBOX_USDC, TOKENS, Token
from rail402_base.wire import BaseSpec

__all__ = ["MAX_TIMEOUT", "BaseWallet"]

logger = logging.getLogger("rail402.base")

MAX_TIMEOUT: Final = 3600
"""Seconds for which a payment is valid at most, however long a server asks for."""


class BaseWallet(Wallet):
    """Pays with EIP-3009 authorizations, by default of USDC on Base.

    To pay is to sign: nothing is sent to a chain, there is no gas and no fee. Until an authorization expires, whoever
    has it can hand it in, once.

    Args:
        signer: whose key signs.
        tokens: what it may pay with. Testnets are paid on only where their tokens are named here.
        chain: where balances are read, and what became of a payment: a `ChainReader`. A wallet without one pays all the
            same, but must leave it open whether an expired authorization was taken.
        max_timeout: seconds for which a payment is valid at most.
        random_bytes: makes nonces.

    Raises:
        ConfigurationError: there are no tokens, none is on the chain that was given, or the limit is not positive.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        tokens: Iterable[Token] = (BASE_USDC,),
        chain: ChainView | None = None,
        max_timeout: int = MAX_TIMEOUT,
        random_bytes: RandomBytes = system_random,
    ) -> None:
        self.tokens = tuple(tokens)
        if not self.tokens or max_timeout <= 0:
            raise ConfigurationError("a wallet needs tokens to pay with, and a max_timeout of more than 0 seconds")
        if chain is not None and chain.network not in {token.network for token in self.tokens}:
            raise ConfigurationError(f"its chain is {chain.network.caip2}, and none of the wallet's tokens is on it")
        # Offers in all the tokens that we know are read, so that an error can say which network was asked for.
        self.spec = self._spec = BaseSpec(dict.fromkeys((*self.tokens, *TOKENS)))
        self.signer, self.chain = signer, chain
        self.name = f"base:{signer.address}"
        self.advice = {"insufficient_funds": PLAY_MONEY} if isinstance(chain, SandboxBackend) else {}
        self._max_timeout, self._random_bytes = max_timeout, random_bytes

    def __repr__(self) -> str:
        return f"BaseWallet({self.signer.address!r}, tokens={[token.network.caip2 for token in self.tokens]})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        private_key: str | None = None,
        signer: Signer | None = None,
        clock: Clock = system_clock,
    ) -> BaseWallet:
        """Make a wallet of play money, in the ledger that every sandbox of this directory shares.

        When it starts it is given 100 USDC, once per key. It can pay with nothing else.

        Args:
            directory: see `sandbox_directory`.
            private_key: 64 hex digits; one that is made and kept in the directory unless given.
            signer: signs instead of such a key.
            clock: Unix seconds.

        Raises:
            ConfigurationError: the directory or a file in it cannot be used, or the key is not one.
        """
        home = open_sandbox(directory, clock=clock)
        if signer is None:
            signer = LocalSigner.from_private_key(private_key) if private_key else sandbox_signer(home.path, "agent")
        return cls(signer, tokens=(SANDBOX_USDC,), chain=home.backend)

    @classmethod
    def from_private_key(
        cls,
        private_key: str,
        *,
        tokens: Iterable[Token] = (BASE_USDC,),
        chain: ChainView | None = None,
        max_timeout: int = MAX_TIMEOUT,
    ) -> BaseWallet:
        """Make a wallet from 64 hex digits, with or without `0x`; see the class and `LocalSigner`."""
        signer = LocalSigner.from_private_key(private_key)
        return cls(signer, tokens=tokens, chain=chain, max_timeout=max_timeout)

    @classmethod
    def from_keystore(
        cls,
        path: str | Path,
        password: str,
        *,
        tokens: Iterable[Token] = (BASE_USDC,),
        chain: ChainView | None = None,
        max_timeout: int = MAX_TIMEOUT,
    ) -> BaseWallet:
        """Make a wallet from an encrypted keystore file; see the class and `LocalSigner`.

        It takes about a second, in which nothing else runs: call it before the event loop, or in a thread.
        """
        signer = LocalSigner.from_keystore(path, password)
        return cls(signer, tokens=tokens, chain=chain, max_timeout=max_timeout)

    @classmethod
    def from_mnemonic(
        cls,
        words: str,
        *,
        passphrase: str = "",
        derivation_path: str = DEFAULT_DERIVATION_PATH,
        tokens: Iterable[Token] = (BASE_USDC,),
        chain: ChainView | None = None,
        max_timeout: int = MAX_TIMEOUT,
    ) -> BaseWallet:
        """Make a wallet from a BIP-39 mnemonic; see the class and `LocalSigner`."""
        signer = LocalSigner.from_mnemonic(words, passphrase=passphrase, derivation_path=derivation_path)
        return cls(signer, tokens=tokens, chain=chain, max_timeout=max_timeout)

    @property
    def networks(self) -> frozenset[str]:
        """The networks of its tokens."""
        return frozenset(token.network.caip2 for token in self.tokens)

    async def start(self) -> None:
        """Open the chain, where there is one; a sandbox wallet is given its play money."""
        if self.chain is not None:
            await self.chain.start()
        if isinstance(self.chain, SandboxBackend):
            await self.chain.chain.endow(self.signer.address)

    async def examine(self) -> list[Observation]:
        """Have a message signed that pays nothing, and look at the balance; see `Wallet.examine`."""
        await self.start()
        return await examine_signer(self.signer, self.tokens, self.chain)

    async def close(self) -> None:
        """Close the chain."""
        if self.chain is not None:
            await self.chain.close()

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price: there is nothing on top. None where the token is none of the wallet's or the balance is
        known and too small."""
        token = self._token(offer)
        if token is None:
            return None
        chain = self._chain_of(offer)
        if chain is not None:
            try:
                if await chain.balance_of(token, self.signer.address) < offer.amount:
                    return None
            except RailUnavailable as error:  # signing needs no chain; a payment without cover is simply refused
                logger.warning("the balance of %s is not known: %s", self.signer.address, error)
        return Cost(price=offer.price)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Sign an authorization of exactly the offer's amount; see `Wallet.pay`.

        It is valid from now on, for as long as the offer asks and at most `max_timeout`.

        Raises:
            PaymentFailed: the token is none of the wallet's, the offer has expired, or the signer did not sign; nothing
                has left.
        """
        token = self._token(offer)
        if token is None:
            raise PaymentFailed(f"the wallet has no {offer.asset} on {offer.network}", record_id=record_id)
        if offer.expires_at <= now:
            raise PaymentFailed("the offer has expired", record_id=record_id)
        seconds, nonce = offer.timeout_seconds, self._random_bytes(32)
        if offer.dialect == "mpp" and offer.envelope is not None:  # there the nonce answers the challenge, and it
            seconds, nonce = offer.expires_at - now, answering_nonce(offer.envelope)  # says until when it is good
        elif "nonce" in offer.extra:  # X-Payment's
            nonce = bytes.fromhex(offer.extra["nonce"][2:])
        authorization = Authorization(
            from_=self.signer.address,
            to=offer.payee,
            value=offer.amount,
            # Not `now`: that would be too late for a chain whose clock is a second behind.
            valid_after=0,
            valid_before=now + min(seconds, self._max_timeout),
            nonce=nonce,
        )
        try:
            signature = await self.signer.sign(token.domain, authorization)
        except (ConfigurationError, RailUnavailable, OutcomeUnknown) as error:
            raise PaymentFailed(error.detail, record_id=record_id) from error
        return Paid(payload=payload_of(authorization, signature), fee=Money(Decimal(0), token.symbol))

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Find out what became of an authorization; see `Wallet.resume`.

        1. Without a payload nothing was paid: what was signed is written down before it is shown to anybody.
        2. Until it expires it is the payment: the server may have it and may yet hand it in, so it is shown again and
           nothing else is signed in its place.
        3. Then the chain decides. Without a chain to ask, or one that has not passed the expiry for good, it stays
           unknown: the amount stays reserved until the server answers for the payment, or a chain is given.
        """
        if payload is None:
            return NotPaid()
        authorization, _ = parse_authorization(payload)
        if now < authorization.valid_before:
            return Paid(payload=payload)
        token, chain = self._spec.token(offer.network, offer.asset), self._chain_of(offer)
        if token is None or chain is None:
            return Unknown(detail=f"the authorization has expired, and there is no way to ask {offer.network} about it")
        try:
            found = await chain.trace(
                token, authorization.from_, authorization.nonce, valid_before=authorization.valid_before
            )
        except (RailUnavailable, OutcomeUnknown) as error:
            return Unknown(detail=error.detail)
        match found:
            case Transfer(to=to, value=value) if same_address(to, offer.payee) and value == offer.amount:
                return Paid(payload=payload, moved=True)
            case Transfer() | Void() | Unused(expired=True):
                return NotPaid()
            case _:
                return Unknown(detail="the chain has not passed the authorization's expiry for good")

    def _token(self, offer: Offer) -> Token | None:
        """Return the token that an offer asks for, where the wallet pays with it."""
        token = self._spec.token(offer.network, offer.asset)
        return token if token in self.tokens and offer.mechanism == "eip3009" else None

    def _chain_of(self, offer: Offer) -> ChainView | None:
        """Return the chain that knows about an offer's token."""
        return self.chain if self.chain is not None and self.chain.network.caip2 == offer.network else None
