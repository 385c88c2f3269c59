"""Plain transfers on a real chain: sent by the account that holds the money, which pays the gas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rail402.clock import Clock, system_clock
from rail402.errors import (
    ConfigurationError,
    OfferRefused,
    OutcomeUnknown,
    PaymentRejected,
    RailUnavailable,
    StoreError,
)
from rail402_base.eip3009 import MAX_UINT256, same_address, sign
from rail402_base.keys import parse_private_key
from rail402_base.rpc.abi import address_word, call_data, eth_call, quantity
from rail402_base.rpc.blocks import MAX_LAG
from rail402_base.rpc.endpoint import Answer, Call
from rail402_base.rpc.fees import GWEI, Fees
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.receipts import Receipt, deposits
from rail402_base.rpc.relayer import Relayer
from rail402_base.rpc.relayer_store import Purpose, RelayerStore, Stored, open_relayer_store
from rail402_base.senders import Finding, Gone, Landed, Waiting, Wanted
from rail402_base.tokens import Token

__all__ = ["DEFAULT_MAX_GAS", "RpcSender", "SendSettings"]

DEFAULT_MAX_GAS: Final = 20_000 * GWEI
"""Wei: 0.00002 ether."""

_MOST_GAS: Final = 150_000
"""Units of gas above which a transfer is not sent: USDC's take about 60,000."""

# Chains like Base take a fee for what a transaction costs them on Ethereum, beside its gas; this contract of theirs
# says how much. Other chains have nothing at its address.
_GAS_PRICE_ORACLE: Final = "0x420000000000000000000000000000000000000F"
_TRANSACTION_BYTES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSettings:
    """How transfers are sent.

    Attributes:
        max_gas: the most to pay for sending one, wei. It is a limit of its own and not part of a payer's budget,
            because no rate says here what an ether is worth; above it nothing is paid.
        send_seconds: how long a transfer is waited for; then it is found again by the next attempt.
        poll_ms: milliseconds between two looks at the chain's head.
        tend_seconds: seconds after which one that still waits is looked after.

    Raises:
        ConfigurationError: one of them is too small.
    """

    max_gas: int = DEFAULT_MAX_GAS
    send_seconds: int = 75
    poll_ms: int = 500
    tend_seconds: int = 15

    def __post_init__(self) -> None:
        if self.max_gas < _MOST_GAS or min(self.send_seconds, self.poll_ms, self.tend_seconds) < 1:
            raise ConfigurationError(f"max_gas must be {_MOST_GAS} wei or more, and the times 1 or more")

    @property
    def ceiling(self) -> int:
        """The most to offer per unit of gas, wei, however often an offer is raised."""
        return self.max_gas // _MOST_GAS


class RpcSender:
    """An account on a chain, reached by JSON-RPC; see `Sender`.

    Args:
        reader: the chain, its nodes and the token.
        private_key: 64 hex digits, with or without `0x`: the key of the account. Secret.
        store: where transactions are kept before they are broadcast, or the URL of an SQLite file. Whoever loses it can
            pay twice, because nothing else says which transfer belongs to which purchase.
        settings: fees and times.
        clock: Unix seconds.

    Raises:
        ConfigurationError: the key or the URL is not one.
    """

    def __init__(
        self,
        reader: ChainReader,
        private_key: str,
        *,
        store: RelayerStore | str,
        settings: SendSettings | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.settings = settings or SendSettings()
        self._private_key = parse_private_key(private_key)
        self._reader = reader
        self._store = open_relayer_store(store) if isinstance(store, str) else store
        self._relayer = Relayer(
            self._private_key,
            reader=reader,
            store=self._store,
            ceiling=self.settings.ceiling,
            clock=clock,
            poll_ms=self.settings.poll_ms,
            tend_seconds=self.settings.tend_seconds,
        )

    def __repr__(self) -> str:
        return f"RpcSender({self._reader!r}, address={self.address!r})"

    @property
    def token(self) -> Token:
        """What it sends."""
        return self._reader.token

    @property
    def address(self) -> str:
        """Whose money it is."""
        return self._relayer.account.address

    async def start(self) -> None:
        """Check nodes and token, and broadcast again what an earlier process left behind; see `Sender.start`."""
        await self._reader.start()
        await self._relayer.start()

    async def look(self) -> None:
        """Check nodes and token, and that the store can be opened; see `Sender.look`."""
        await self._reader.start()
        await self._store.start()

    async def close(self) -> None:
        """Finish what is being sent, and close connections and store. What is on its way stays in the store."""
        await self._relayer.close()
        await self._reader.close()

    async def balance(self) -> int:
        """Return what the account holds."""
        return await self._reader.balance_of(self.token, self.address)

    def sign(self, digest: bytes) -> bytes:
        """Sign 32 bytes with the account's key."""
        return sign(digest, self._private_key)

    async def check(self, payee: str, value: int) -> None:
        """Check that the token would make the transfer, and what gas costs; see `Sender.check`."""
        await self._prepare(_call(payee, value))

    async def send(self, wanted: Wanted) -> str:
        """Make a transfer; see `Sender.send`."""
        purpose, called = self._purpose(wanted), _call(wanted.payee, wanted.value)
        may_be_sent = False
        try:
            async with asyncio.timeout(self.settings.send_seconds):
                if await self._known(purpose):
                    raise OutcomeUnknown("this payment was begun before")
                fees = await self._prepare(called)
                may_be_sent = True
                stored = await self._relayer.submit(purpose, called, fees)
                receipt = await self._relayer.mined(stored)
        except TimeoutError as error:
            if may_be_sent:
                raise OutcomeUnknown("it is on its way, and no block that is deep enough holds it yet") from error
            raise RailUnavailable("the nodes took too long; nothing was sent") from error
        if receipt is None:
            raise OutcomeUnknown(f"another transaction has the nonce of {stored.hash}")
        found = self._outcome(receipt, wanted)
        if isinstance(found, Landed):
            return found.transaction
        raise PaymentRejected(f"{receipt.transaction} reverted: nothing was paid but gas", code="payment_declined")

    async def find(self, wanted: Wanted, *, hint: str | None = None) -> Finding:
        """Find out what became of a transfer; see `Sender.find`. What is on its way is not lost sight of."""
        await self._relayer.finished()  # what is being sent may not be in the store yet
        stored = await self._known(self._purpose(wanted))
        live = [each for each in stored if each.state == "live"]
        for each in live:
            self._relayer.follow(each)
        hashes = dict.fromkeys([each.hash for each in stored] + ([] if hint is None else [hint]))
        if not hashes:
            return Gone()
        seen = await self._reader.seen(list(hashes))
        for by_node in seen.values():
            receipt = self._reader.agreed(by_node)
            if receipt is not None:
                return self._outcome(receipt, wanted)
        if live or not stored or any(each.receipt for by_node in seen.values() for each in by_node):
            return Waiting("no block that is deep enough holds it yet")
        return await self._overtaken([each for each in stored if each.state != "refused"])

    # --- what it costs

    async def _prepare(self, called: str) -> Fees:
        oracle = eth_call(_GAS_PRICE_ORACLE, call_data("getL1FeeUpperBound(uint256)", _word(_TRANSACTION_BYTES)))
        try:
            gas, fees = await self._relayer.prepare_call(called)
        except PaymentRejected as error:
            raise OfferRefused(f"it cannot be sent: {error.detail}") from error
        balance, beside = await self._reader.rpc.batch([Call("eth_getBalance", (self.address, "latest")), oracle])
        cost = gas * fees.max_fee + _l1_fee(beside)
        if gas > _MOST_GAS or cost > self.settings.max_gas:
            raise OfferRefused(f"to send it may cost {cost} wei, and max_gas is {self.settings.max_gas}")
        if quantity(balance) < cost:
            raise OfferRefused(f"{self.address} has {quantity(balance)} wei for gas of up to {cost}: send it some")
        return fees

    # --- what became of it

    def _purpose(self, wanted: Wanted) -> Purpose:
        """Name a transfer in the store of transactions, as if it were an authorization that never expires."""
        return Purpose(token=self.token.address, authorizer=self.address, nonce=wanted.name, valid_before=MAX_UINT256)

    async def _known(self, purpose: Purpose) -> Sequence[Stored]:
        try:
            return await self._store.of(self._relayer.account, purpose)
        except StoreError as error:
            raise OutcomeUnknown(error.detail) from error

    def _outcome(self, receipt: Receipt, wanted: Wanted) -> Landed | Gone:
        """Read what a mined transaction of ours did.

        Raises:
            OutcomeUnknown: it succeeded and made another transfer, or none.
        """
        if not receipt.succeeded:
            return Gone()
        made = [
            each
            for each in deposits(receipt, self.token, wanted.payee)
            if same_address(each.payer, self.address) and each.value == wanted.value
        ]
        if not made:
            raise OutcomeUnknown(f"{receipt.transaction} succeeded, and did not make the transfer that was asked for")
        return Landed(receipt.transaction)

    async def _overtaken(self, sent: Sequence[Stored]) -> Finding:
        """Say what became of transactions that no node shows in a block and that are not live.

        Whoever is told that they are gone pays once more. So every node must show that others have their nonces, as
        many blocks ago as a node may be behind.
        """
        if any(each.state == "mined" for each in sent):
            return Waiting("a block held it, and no node shows that any more")
        depth = max(MAX_LAG, self._reader.confirmations)
        if not sent or await self._relayer.is_overtaken(sent, depth=depth):
            return Gone()
        return Waiting(f"not every node shows yet, {depth} blocks ago, that another transaction has its nonce")


def _call(payee: str, value: int) -> str:
    return call_data("transfer(address,uint256)", address_word(payee), _word(value))


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _l1_fee(answer: Answer) -> int:
    """Read what the oracle says; 0 where there is none."""
    return int(answer, 16) if isinstance(answer, str) and len(answer) == 66 else 0
