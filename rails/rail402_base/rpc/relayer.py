"""The account that hands authorizations in and pays the gas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rail402.clock import Clock
from rail402.errors import OutcomeUnknown, RailUnavailable, StoreError
from rail402_base.eip3009 import Authorization, is_signed_by_payer
from rail402_base.rpc.abi import (
    MAX_CONTRACT_GAS,
    eth_call,
    is_revert,
    quantity,
    refusal,
    transfer_call_data,
)
from rail402_base.rpc.blocks import Block, parse_block
from rail402_base.rpc.endpoint import Call, RpcError
from rail402_base.rpc.fees import FEE_CALLS, Fees, fees_now, with_margin
from rail402_base.rpc.outbox import NEVER_TAKEN, Outbox
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.receipts import Receipt
from rail402_base.rpc.relayer_store import Purpose, RelayerStore, Stored
from rail402_base.rpc.transactions import Refusal, SignedTransaction, sign_transaction

__all__ = ["Prepared", "Relayer"]

logger = logging.getLogger("rail402.base")

_TRIES: Final = 3
# What a transfer is reckoned to need before the first estimate.
_TYPICAL_GAS: Final = 120_000
_FEW_PAYMENTS: Final = 50

_WHY_NEVER_TAKEN: Final = {
    Refusal.NO_GAS_MONEY: "the relayer {} has no ether to pay for gas: send it some",
    Refusal.UNFIT: "the nodes refuse the transactions of {}; see the log",
    Refusal.NOT_REACHED: "no node could be reached to broadcast a transaction of {}",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call of the token that would go through now.

    Attributes:
        called: the function and its arguments, `0x` and hex digits.
        fees: what gas costs.
        gas: the most that it may use; None for what transfers use, which hardly differ.
    """

    called: str
    fees: Fees
    gas: int | None


class Relayer:
    """One account on one chain.

    Args:
        private_key: 32 bytes. Secret.
        reader: asks the nodes.
        store: where its transactions are kept; shared by all workers that have this key, and by nobody else.
        ceiling: the most to pay for gas, wei per unit.
        clock: Unix seconds.
        poll_ms: milliseconds between two looks at the chain's head.
        tend_seconds: seconds that a transaction may wait before it is looked for in the nodes' pools.

    Raises:
        ConfigurationError: the key is not one.
    """

    def __init__(
        self,
        private_key: bytes,
        *,
        reader: ChainReader,
        store: RelayerStore,
        ceiling: int,
        clock: Clock,
        poll_ms: int,
        tend_seconds: int,
    ) -> None:
        self._private_key, self._ceiling, self._reader, self._store = private_key, ceiling, reader, store
        self._outbox = Outbox(
            private_key,
            reader=reader,
            store=store,
            ceiling=ceiling,
            clock=clock,
            poll_ms=poll_ms,
            tend_seconds=tend_seconds,
        )
        self.account = self._outbox.account
        self._gas: int | None = None
        self._tasks: set[asyncio.Task[Stored]] = set()

    def __repr__(self) -> str:
        return f"Relayer({self.account.address!r}, chain_id={self.account.chain_id})"

    async def start(self) -> None:
        """Open the store, and broadcast again what it holds and no block does.

        Raises:
            ConfigurationError, StoreError: the store cannot be opened.
            RailUnavailable: no node answers.
        """
        await asyncio.to_thread(_import_signer)
        await self._store.start()
        await self._outbox.start()

    async def close(self) -> None:
        """Finish what is being sent, stop waiting, and close the store."""
        await self.finished()
        await self._outbox.close()
        await self._store.close()

    # --- one payment

    async def prepare(self, authorization: Authorization, signature: bytes) -> Prepared:
        """Find out in one request whether the token would take an authorization now, and what gas costs.

        What a contract uses to check its signature is its own affair: for each of its payments gas is estimated, up to
        a limit.

        Raises:
            PaymentRejected: the token would refuse it, with the reason code.
            RailUnavailable: no node answers, or gas is above the ceiling.
        """
        token = self._reader.token
        called = transfer_call_data(token.domain, authorization, signature)
        is_by_key = is_signed_by_payer(token.domain, authorization, signature)
        limit = None if is_by_key else MAX_CONTRACT_GAS
        tried = eth_call(token.address, called, sender=self.account.address, gas=limit)
        calls = [*FEE_CALLS, tried]
        if limit is not None or self._gas is None:
            calls.append(Call("eth_estimateGas", tried.params[:1]))
        newest, tip, answer, *estimated = await self._reader.rpc.batch(calls)
        head = parse_block(newest)
        if isinstance(answer, RpcError) and not _is_too_early(answer, authorization, head):
            raise refusal(answer)
        fees = fees_now(head, tip, ceiling=self._ceiling)
        needed = None
        if estimated and not isinstance(estimated[0], RpcError):
            needed = with_margin(quantity(estimated[0]))
        if limit is None:
            self._gas = needed or self._gas
            return Prepared(called, fees, None)
        if needed is None and not isinstance(answer, RpcError):  # it says yes to the call only
            raise refusal(estimated[0])
        return Prepared(called, fees, min(needed or limit, limit))

    async def hand_in(self, purpose: Purpose, prepared: Prepared) -> Stored:
        """Sign, store and broadcast; what is begun is finished also where the caller is cancelled.

        Where this authorization is on its way already, that transaction is returned.

        Raises:
            RailUnavailable: nothing was broadcast, and nothing will be.
            OutcomeUnknown: it may have been.
        """
        return await self.submit(purpose, prepared.called, prepared.fees, gas=prepared.gas, is_taken_once=True)

    async def submit(
        self, purpose: Purpose, called: str, fees: Fees, *, gas: int | None = None, is_taken_once: bool = False
    ) -> Stored:
        """Sign, store and broadcast a call of the token; see `hand_in`.

        Args:
            called: the function and its arguments, `0x` and hex digits.
            gas: the most that it may use; what was estimated last unless given.
            is_taken_once: whether the token takes it once however often it is mined, as it does an authorization. Only
                that gets a second nonce where another transaction has the first; all else is followed, because whoever
                says so may be wrong.
        """
        task = asyncio.create_task(self._submit(purpose, called, fees, gas, is_taken_once))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def finished(self) -> None:
        """Wait for what is being signed, stored and broadcast, also where its caller was cancelled."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def prepare_call(self, called: str) -> tuple[int, Fees]:
        """Find out in one request how much gas a call of the token would take now, and what that costs.

        Raises:
            PaymentRejected: the token would refuse it, with the reason code.
            RailUnavailable: no node answers, or gas is above the ceiling.
        """
        call = {"from": self.account.address, "to": self._reader.token.address, "data": called}
        count = Call("eth_getTransactionCount", (self.account.address, "pending"))
        newest, tip, estimated, used = await self._reader.rpc.batch(
            [*FEE_CALLS, Call("eth_estimateGas", (call,)), count]
        )
        if isinstance(estimated, RpcError):
            raise refusal(estimated)
        # A plain transfer gets no second nonce: the first is not to be one that another program has used.
        self._outbox.skip(quantity(used))
        fees = fees_now(parse_block(newest), tip, ceiling=self._ceiling)
        self._gas = with_margin(quantity(estimated))
        return self._gas, fees

    def follow(self, stored: Stored) -> asyncio.Future[Receipt | None]:
        """Wait for a transaction in the background; see `Outbox.follow`."""
        return self._outbox.follow(stored)

    async def mined(self, stored: Stored) -> Receipt | None:
        """Wait for the receipt; None where the transaction can never be mined. Bound it by a time-out.

        Raises:
            OutcomeUnknown: the relayer was closed meanwhile.
        """
        future = self.follow(stored)
        await asyncio.wait([future])
        if future.cancelled():
            raise OutcomeUnknown(f"{stored.hash} is on its way, and is not waited for any more")
        return future.result()

    def forget_gas(self) -> None:
        """Estimate anew before the next payment."""
        self._gas = None

    async def is_overtaken(self, sent: Sequence[Stored], *, depth: int) -> bool:
        """Say whether other transactions have the nonces of these; see `Outbox.is_overtaken`."""
        return await self._outbox.is_overtaken(sent, depth=depth)

    async def _submit(self, purpose: Purpose, called: str, fees: Fees, gas: int | None, is_taken_once: bool) -> Stored:
        for _ in range(_TRIES):
            stored, is_new = await self._allocate(purpose, called, fees, gas)
            refused = await self._outbox.broadcast(stored)
            if refused is Refusal.NONCE_USED and is_taken_once and await self._is_lost(stored):
                continue
            if is_new and refused in NEVER_TAKEN and await self._refuse(stored):
                raise RailUnavailable(_WHY_NEVER_TAKEN[refused].format(self.account.address), retry_after=60)
            self.follow(stored)
            return stored
        raise OutcomeUnknown(f"another program uses the key of {self.account.address}: give the rail a key of its own")

    async def _allocate(self, purpose: Purpose, called: str, fees: Fees, gas: int | None) -> tuple[Stored, bool]:
        limit = gas or self._gas or with_margin(_TYPICAL_GAS)

        def sign(nonce: int) -> SignedTransaction:
            return sign_transaction(
                self._private_key,
                chain_id=self.account.chain_id,
                nonce=nonce,
                to=self._reader.token.address,
                data=called,
                gas=limit,
                fees=fees,
            )

        try:
            return await self._outbox.allocate(purpose, sign)
        except StoreError as error:
            # A write that failed may have been written; what is written will be broadcast.
            try:
                known = await self._store.of(self.account, purpose)
            except StoreError:
                raise OutcomeUnknown(error.detail) from error
            if any(each.state == "live" for each in known):
                raise OutcomeUnknown(error.detail) from error
            raise RailUnavailable(error.detail, retry_after=5) from error

    async def _is_lost(self, stored: Stored) -> bool:
        """See `Outbox.is_lost`; what cannot be noted now is looked after later."""
        try:
            return await self._outbox.is_lost(stored)
        except StoreError as error:
            logger.warning("it could not be noted that %s lost its nonce: %s", stored.hash, error)
            return False

    async def _refuse(self, stored: Stored) -> bool:
        """Note that no node has it; False where another worker has broadcast it meanwhile, or may have."""
        try:
            return await self._outbox.refuse(stored)
        except StoreError as error:
            raise OutcomeUnknown(f"{stored.hash} will be broadcast after all: {error.detail}") from error

    # --- gas

    async def health(self) -> None:
        """Raise `RailUnavailable` where the account cannot pay for the gas of a payment; warn where it soon cannot."""
        address = self.account.address
        newest, tip, balance = await self._reader.rpc.batch([*FEE_CALLS, Call("eth_getBalance", (address, "latest"))])
        fees = fees_now(parse_block(newest), tip, ceiling=self._ceiling)
        payments = quantity(balance) // ((self._gas or with_margin(_TYPICAL_GAS)) * fees.max_fee)
        if not payments:
            raise RailUnavailable(_WHY_NEVER_TAKEN[Refusal.NO_GAS_MONEY].format(address), retry_after=60)
        if payments < _FEW_PAYMENTS:
            logger.warning("the ether of the relayer %s is enough for %d more payments; send some", address, payments)


def _is_too_early(error: RpcError, authorization: Authorization, head: Block) -> bool:
    """Say whether only the newest block is older than the authorization; the next one will not be."""
    return is_revert(error) and head.time <= authorization.valid_after


def _import_signer() -> None:
    """Import what signs, which takes most of a second, outside the event loop."""
    import eth_account  # noqa: F401
