"""A real chain as a backend: authorizations are handed in by a key of our own, which pays the gas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable, StoreError
from rail402_base.chain import FINAL, Deposits, Submitted, Trace, Transfer, Unused
from rail402_base.eip3009 import Authorization, is_signed_by_payer
from rail402_base.keys import parse_private_key
from rail402_base.rpc.fees import GWEI
from rail402_base.rpc.reader import ChainReader, matching_transfer
from rail402_base.rpc.receipts import Receipt
from rail402_base.rpc.relayer import Relayer
from rail402_base.rpc.relayer_store import Purpose, RelayerStore, Stored, open_relayer_store
from rail402_base.tokens import Network, Token

__all__ = ["RelaySettings", "RpcBackend"]

logger = logging.getLogger("rail402.base")

DEFAULT_STORE: Final = "sqlite:///relayer.db"

_DISTRUSTED_SECONDS: Final = 3600
_MOST_DISTRUSTED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How a relayer works.

    Attributes:
        max_fee_per_gas: the most to pay for gas, wei per unit; above it payments are refused as unavailable.
        settle_seconds: how long a payment is waited for; then its outcome is unknown, and looked up later.
        max_in_flight: how many payments of this process may be on their way at once.
        poll_ms: milliseconds between two looks at the chain's head while a payment is waited for.
        tend_seconds: seconds that a transaction may wait before it is looked for in the nodes' pools.

    Raises:
        ConfigurationError: one of them is not positive.
    """

    max_fee_per_gas: int = GWEI
    settle_seconds: int = 30
    max_in_flight: int = 32
    poll_ms: int = 500
    tend_seconds: int = 15

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be 1 or more")


class RpcBackend:
    """A chain, reached by JSON-RPC; see `Chain`.

    Args:
        reader: the chain, its nodes and the token.
        relayer_key: 64 hex digits, with or without `0x`: the key of the account that pays the gas. Secret. Give it
            ether, and give it to this rail only: whatever else sends transactions with it takes nonces away.
        store: where its transactions are kept before they are broadcast, or the URL of an SQLite file. All workers
            that have the key share it; whoever loses it may have to wait for transactions that nobody remembers.
        settings: fees and times.
        clock: Unix seconds.

    Raises:
        ConfigurationError: the key or the URL is not one.
    """

    sees_submissions = False

    def __init__(
        self,
        reader: ChainReader,
        relayer_key: str,
        *,
        store: RelayerStore | str = DEFAULT_STORE,
        settings: RelaySettings | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.reader, self.settings = reader, settings or RelaySettings()
        self._store = open_relayer_store(store) if isinstance(store, str) else store
        self.relayer = Relayer(
            parse_private_key(relayer_key, name="relayer_key:"),
            reader=reader,
            store=self._store,
            ceiling=self.settings.max_fee_per_gas,
            clock=clock,
            poll_ms=self.settings.poll_ms,
            tend_seconds=self.settings.tend_seconds,
        )
        self._slots = asyncio.Semaphore(self.settings.max_in_flight)
        self._clock = clock
        self._distrusted: dict[str, int] = {}  # contracts that said yes until it was mined, and until when

    def __repr__(self) -> str:
        return f"RpcBackend({self.reader!r}, relayer={self.relayer.account.address!r})"

    @classmethod
    def connect(
        cls, urls: str | Iterable[str], relayer_key: str, *, token: Token, store: RelayerStore | str = DEFAULT_STORE
    ) -> RpcBackend:
        """Make one with the usual settings; see the class and `ChainReader`."""
        return cls(ChainReader(urls, token), relayer_key, store=store)

    @property
    def network(self) -> Network:
        """The chain."""
        return self.reader.network

    @property
    def signers(self) -> tuple[str, ...]:
        """The relayer's address."""
        return (self.relayer.account.address,)

    async def start(self) -> None:
        """Check nodes and token, and broadcast again what an earlier process left behind.

        Raises:
            ConfigurationError: a node is on another chain, or the contract is not the token; with the fix.
            RailUnavailable: no node can be used, or the token is paused.
            StoreError: the store cannot be opened.
        """
        await self.reader.start()
        await self.relayer.start()
        try:
            await self.relayer.health()
        except RailUnavailable as error:  # ether can be sent, and gas become cheaper, while the rail runs
            logger.warning("%s", error.detail)

    async def close(self) -> None:
        """Stop waiting, and close connections and store. What is on its way stays in the store."""
        await self.relayer.close()
        await self.reader.close()

    async def health(self) -> None:
        """Raise `RailUnavailable` where no node can be used, the token is paused, or there is no ether for gas."""
        await self.reader.health()
        await self.relayer.health()

    async def balance_of(self, token: Token, address: str) -> int:
        """Return what an address holds."""
        return await self.reader.balance_of(token, address)

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        """Check nonce, balance and payer; see `ChainReader.check`.

        A contract that accepts its signature for as long as only calls ask, and not in a block, is refused for an hour:
        it spends our gas and none of its own.
        """
        await self.reader.check(token, authorization, signature)
        if self._distrusted.get(authorization.from_, 0) > self._clock():
            detail = (
                f"a payment of the contract {authorization.from_} failed in its block although it would have passed"
            )
            raise PaymentRejected(detail, code="payment_declined")

    async def settle(self, token: Token, authorization: Authorization, signature: bytes) -> Transfer | Submitted:
        """Hand an authorization in and wait until it is mined; see `Chain.settle`.

        The nodes must all have the receipt, and it must hold the very transfer that was authorized.
        """
        if token != self.reader.token:
            raise ConfigurationError(f"the backend is for {self.reader.token.address}, not for {token.address}")
        stored: Stored | None = None
        may_be_sent = False
        try:
            async with asyncio.timeout(self.settings.settle_seconds), self._slots:
                prepared = await self.relayer.prepare(authorization, signature)
                may_be_sent = True
                stored = await self.relayer.hand_in(_purpose(token, authorization), prepared)
                receipt = await self.relayer.mined(stored)
        except TimeoutError as error:
            if stored is not None:
                return Submitted(transaction=stored.hash)
            if may_be_sent:
                raise OutcomeUnknown("the nodes took too long; it may have been sent") from error
            raise RailUnavailable("the relayer is busy, or the nodes are slow; nothing was sent") from error
        if receipt is None or not receipt.succeeded:
            raise await self._why_not(authorization, signature, stored, receipt)
        transfer = matching_transfer(receipt, token, authorization)
        if transfer is None:
            raise OutcomeUnknown(f"{receipt.transaction} succeeded, and made no transfer that was authorized")
        return transfer

    async def _why_not(
        self, authorization: Authorization, signature: bytes, stored: Stored, receipt: Receipt | None
    ) -> PaymentRejected | OutcomeUnknown:
        """Return the error for a transaction of ours that moved nothing.

        The authorization is public by then: anybody can hand it in until it expires, and what the token refuses it for
        now, such as an empty account, may have passed. So it is over only where its nonce was used or it has expired.
        """
        try:
            refused = await self.reader.simulate(authorization, signature, sender=self.relayer.account.address)
        except RailUnavailable as error:
            return OutcomeUnknown(f"{stored.hash} failed, and the nodes cannot be asked why: {error.detail}")
        if isinstance(refused, PaymentRejected) and refused.code in FINAL:
            return refused
        if receipt is None:
            return OutcomeUnknown(f"another transaction has the nonce of {stored.hash}")
        self.relayer.forget_gas()
        if not is_signed_by_payer(self.reader.token.domain, authorization, signature):
            self._distrust(authorization.from_, refused)
        why = "the token would take the authorization now" if refused is None else refused.detail
        return OutcomeUnknown(f"{stored.hash} reverted; {why}")

    def _distrust(self, payer: str, refused: PaymentRejected | RailUnavailable | None) -> None:
        """Take down a contract whose payment reverted, unless by what keys do too, such as moving the money away."""
        if refused is None or refused.code == "signature_invalid":
            now = self._clock()
            living = {each: until for each, until in self._distrusted.items() if until > now}
            self._distrusted = living if len(living) < _MOST_DISTRUSTED else {}
            self._distrusted[payer] = now + _DISTRUSTED_SECONDS

    async def trace(self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int) -> Trace:
        """Find out what became of an authorization; see `Chain.trace`. What is on its way is not lost sight of."""
        purpose = Purpose(token=token.address, authorizer=authorizer, nonce=nonce, valid_before=valid_before)
        try:
            stored = await self._store.of(self.relayer.account, purpose)
        except StoreError as error:
            raise RailUnavailable(error.detail, retry_after=5) from error
        hashes = [each.hash for each in stored]
        found = await self.reader.trace(token, authorizer, nonce, valid_before=valid_before, transactions=hashes)
        live = [each for each in stored if each.state == "live"]
        for each in live:
            self.relayer.follow(each)
        if live and found == Unused(expired=False):
            return Submitted(transaction=live[0].hash)
        return found

    async def deposits_in(
        self, token: Token, transaction: str, payee: str, *, confirmations: int = 1
    ) -> Deposits | None:
        """Find out what a transaction brought to an address; see `ChainReader.deposits_in`."""
        return await self.reader.deposits_in(token, transaction, payee, confirmations=confirmations)


def _purpose(token: Token, authorization: Authorization) -> Purpose:
    return Purpose(
        token=token.address,
        authorizer=authorization.from_,
        nonce=authorization.nonce,
        valid_before=authorization.valid_before,
    )
