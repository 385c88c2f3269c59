"""What a relayer signed and no block holds yet: it is kept, broadcast, waited for, and never lost.

    allocate a nonce, sign, store  ->  broadcast  ->  mined (or given up)

The first step is one write to the store, so whatever happens after it can be done again, by this process or by the
next: the same bytes are broadcast until a block holds them. That is harmless as often as it happens, because a nonce is
mined once, and because the token takes an authorization once. A plain transfer, which the token makes as often as it is
mined, has one nonce for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from rail402.clock import Clock
from rail402.errors import OutcomeUnknown, RailUnavailable, StoreError
from rail402_base.eip3009 import address_of
from rail402_base.rpc.abi import address_word, boolean, call_data, eth_call, quantity
from rail402_base.rpc.blocks import NEWEST, Block, parse_block
from rail402_base.rpc.endpoint import Answer, Call, Endpoint, RpcError
from rail402_base.rpc.fees import FEE_CALLS, Fees, fees_now, is_too_cheap, outbidding
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.receipts import Receipt, parse_receipt
from rail402_base.rpc.relayer_store import Account, Purpose, RelayerStore, Sign, Stored
from rail402_base.rpc.transactions import Refusal, SignedTransaction, fees_of, refusal_of, sign_again, sign_transaction
from rail402_base.rpc.watcher import Watcher

__all__ = ["NEVER_TAKEN", "Outbox"]

logger = logging.getLogger("rail402.base")

NEVER_TAKEN: Final = (Refusal.NO_GAS_MONEY, Refusal.UNFIT, Refusal.NOT_REACHED)
"""After these, and only these, no node has the transaction."""

_SELF_TRANSFER_GAS: Final = 21_000

_LATE: Final = 2
"""Times `tend_seconds` after which one that a node has in its pool should be in a block."""

_KEPT_SECONDS: Final = 30 * 86_400
_PRUNE_EVERY: Final = 3600


class Outbox:
    """The transactions of one account.

    Args:
        private_key: 32 bytes, the account's. Secret.
        reader: asks the nodes.
        store: where they are kept; shared by all workers that have this key.
        ceiling: the most to pay for gas, wei per unit.
        clock: Unix seconds.
        poll_ms: milliseconds between two looks at the chain's head.
        tend_seconds: seconds that a transaction may wait before it is looked for in the nodes' pools.
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
        self.account = Account(reader.network.chain_id, address_of(private_key))
        self._private_key, self._ceiling, self._clock = private_key, ceiling, clock
        self._reader, self._store, self._tend_seconds = reader, store, tend_seconds
        self._watcher = Watcher(reader, poll_ms=poll_ms, tend_seconds=tend_seconds, tend=self.tend)
        self._followed: dict[str, Stored] = {}
        self._floor = 0
        self._pruned_at = 0
        self._writes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Broadcast again what the store holds and no block does.

        Raises:
            StoreError: the store cannot be used.
            RailUnavailable: no node answers.
        """
        address = self.account.address
        self._floor = quantity(await self._reader.rpc.call("eth_getTransactionCount", address, "pending"))
        for stored in await self._store.live(self.account):
            if await self._broadcast_again(stored):
                self.follow(stored)
        await self._prune()

    async def close(self) -> None:
        """Stop waiting, and finish what is being written."""
        await self._watcher.close()
        await asyncio.gather(*self._writes)

    # --- one transaction

    async def allocate(self, purpose: Purpose, sign: Sign) -> tuple[Stored, bool]:
        """Take a nonce, sign and store; see `RelayerStore.allocate`."""
        return await self._store.allocate(self.account, purpose, sign, floor=self._floor, now=self._clock())

    def skip(self, count: int) -> None:
        """Give out no nonce below the account's count at a node: others may have sent something with its key."""
        self._floor = max(self._floor, count)

    async def refuse(self, stored: Stored) -> bool:
        """Note that no node has a transaction that is new, and that its nonce is free; see `RelayerStore.refuse`."""
        return await self._store.refuse(stored)

    async def broadcast(self, stored: Stored) -> Refusal | None:
        """Give a transaction to a node; None where it took it."""
        try:
            sent = await self._reader.rpc.send(Call("eth_sendRawTransaction", ("0x" + stored.raw.hex(),)))
        except RailUnavailable as error:
            logger.warning("%s was not broadcast: %s", stored.hash, error.detail)
            return Refusal.NOT_REACHED
        except OutcomeUnknown as error:
            logger.warning("%s was perhaps broadcast: %s", stored.hash, error.detail)
            return Refusal.UNCLEAR
        if not isinstance(sent.answer, RpcError):
            return None
        refused = refusal_of(sent.answer)
        level = logging.DEBUG if refused is Refusal.KNOWN else logging.WARNING
        logger.log(level, "%s (nonce %d): %s", stored.hash, stored.nonce, sent.answer.message)
        # After a node that may have taken it, another one's refusal says nothing: a used nonce may be its own by now.
        return Refusal.UNCLEAR if sent.is_doubtful else refused

    async def _broadcast_again(self, stored: Stored) -> bool:
        """Broadcast what another worker, or another task, may have in hand too; False where it is not live any more.

        Whoever stored it must learn of that before any node does: what that one could not send may be sent here.
        """
        if not await self._store.share(stored):
            return False
        await self.broadcast(stored)
        return True

    def follow(self, stored: Stored) -> asyncio.Future[Receipt | None]:
        """Wait for a transaction in the background, and note in the store that it was mined.

        Returns:
            What has the receipt as its result: its own, or that of the one which was sent in its place. None where
            neither can be mined any more. It is not the caller's to cancel.
        """
        future = self._watcher.watch(stored.hash)
        if stored.hash not in self._followed:
            self._followed[stored.hash] = stored
            future.add_done_callback(lambda done: self._note(stored, done))
        return future

    def _note(self, stored: Stored, done: asyncio.Future[Receipt | None]) -> None:
        self._followed.pop(stored.hash, None)
        if done.cancelled() or done.result() is None:
            return
        self._floor = max(self._floor, stored.nonce + 1)
        task = asyncio.create_task(self._finish(stored))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _finish(self, stored: Stored) -> None:
        try:
            await self._store.finish(stored, "mined")
        except StoreError as error:
            logger.warning("%s is mined, and will be looked for again at the next start: %s", stored.hash, error)

    async def _prune(self) -> None:
        """Forget what has been over for long."""
        now = self._clock()
        if self._pruned_at + _PRUNE_EVERY <= now:
            self._pruned_at = now
            await self._store.prune(self.account, before=now - _KEPT_SECONDS)

    async def is_lost(self, stored: Stored) -> bool:
        """Say whether every node shows that another transaction has this nonce, and note it.

        Raises:
            StoreError: it cannot be noted.
        """
        if not await self.is_overtaken([stored]):
            return False
        logger.warning("%s lost its nonce %d to another transaction", stored.hash, stored.nonce)
        await self._store.finish(stored, "replaced")
        self._watcher.resolve(stored.hash, None)
        return True

    async def is_overtaken(self, sent: Sequence[Stored], *, depth: int = 0) -> bool:
        """Say whether every node shows that blocks hold other transactions with all these nonces, and none of these.

        A node that gives no answer may be the one which has them: it has not shown it.

        Args:
            depth: how many blocks the others must have on top of them. Behind one address there may be several nodes,
                not all equally far: one of them counts a transaction whose receipt another does not have yet.
        """

        async def look(endpoint: Endpoint) -> bool:
            (newest,) = await endpoint.ask([NEWEST])
            block = hex(max(parse_block(newest).number - depth, 0))
            # The count comes first, so that none of ours can be mined in between unseen.
            count, *receipts = await endpoint.ask(
                [
                    Call("eth_getTransactionCount", (self.account.address, block)),
                    *(Call("eth_getTransactionReceipt", (each.hash,)) for each in sent),
                ]
            )
            self.skip(quantity(count))
            is_used = quantity(count) > max(each.nonce for each in sent)
            return is_used and all(parse_receipt(receipt) is None for receipt in receipts)

        return await self._reader.rpc.every(look)

    # --- what has waited for long

    async def tend(self) -> None:
        """Look after what has waited for long, whichever worker sent it.

        What the nodes have forgotten is broadcast again, what offers too little for its gas is sent once more with a
        better offer, and a gap in the nonces is filled: all that come after one would wait.

        Raises:
            RailUnavailable, StoreError: it is tried again later.
        """
        await self._prune()
        live = await self._store.live(self.account)
        late = [each for each in live if each.created_at + self._tend_seconds <= self._clock()]
        # Those that another worker has put others in the place of are not live any more.
        hashes = {each.hash for each in live}
        late += [each for each in self._followed.values() if each.hash not in hashes]
        if not late:
            return
        address = self.account.address
        newest, tip, latest, pending, *found = await self._reader.rpc.batch(
            [
                *FEE_CALLS,
                Call("eth_getTransactionCount", (address, "latest")),
                Call("eth_getTransactionCount", (address, "pending")),
                *(Call("eth_getTransactionByHash", (each.hash,)) for each in late),
            ]
        )
        head, count = parse_block(newest), quantity(latest)
        for stored, answer in zip(late, found, strict=True):
            if _is_mined(answer):
                self.follow(stored)
            elif count > stored.nonce:
                await self.is_lost(stored)
            elif stored.hash in hashes:
                self.follow(stored)
                await self._look_after(stored, head, tip, is_known=isinstance(answer, Mapping))
        await self._fill_gap(quantity(pending), live, head, tip)

    async def _look_after(self, stored: Stored, head: Block, tip: Answer, *, is_known: bool) -> None:
        """Do what a transaction needs that is not mined; `is_known` says that a node has it in its pool."""
        is_late = stored.created_at + _LATE * self._tend_seconds <= self._clock()
        is_cheap = is_too_cheap(fees_of(stored.raw), head, tip, is_late=is_late)
        if is_known and not is_cheap:
            return
        is_moot = await self._is_moot(stored.purpose, head)
        if not is_cheap and not is_moot:
            logger.warning("%s (nonce %d) is in no pool; it is broadcast again", stored.hash, stored.nonce)
            await self._broadcast_again(stored)
            return
        try:
            await self._put_another_in_place_of(stored, head, tip, is_moot=is_moot)
        except RailUnavailable as error:
            logger.warning("%s (nonce %d) has to wait: %s", stored.hash, stored.nonce, error.detail)
            if not is_known:
                await self._broadcast_again(stored)

    async def _put_another_in_place_of(self, stored: Stored, head: Block, tip: Answer, *, is_moot: bool) -> None:
        """Offer more for the same, or for nothing where it could do nothing any more but cost gas.

        Either of the two may be mined: whoever waits for the first gets the receipt of a second that does the same, and
        both are found again by what they are for.
        """
        fees = outbidding(fees_of(stored.raw), fees_now(head, tip, ceiling=self._ceiling), ceiling=self._ceiling)
        signed = self._fill(stored.nonce, fees) if is_moot else sign_again(self._private_key, stored.raw, fees)
        purpose = None if is_moot else stored.purpose
        second = await self._store.replace(self.account, stored, purpose, signed, now=self._clock())
        if second is None:
            return  # another worker was faster
        logger.warning("%s takes the place of %s (nonce %d)", second.hash, stored.hash, stored.nonce)
        await self.broadcast(second)

        def pass_on(done: asyncio.Future[Receipt | None]) -> None:
            if not done.cancelled() and done.result() is not None:
                self._watcher.resolve(stored.hash, None if is_moot else done.result())

        self.follow(second).add_done_callback(pass_on)

    async def _fill_gap(self, first_missing: int, live: Sequence[Stored], head: Block, tip: Answer) -> None:
        """Fill the nonce that the nodes wait for, where it is nobody's and others come after it."""
        nonces = {each.nonce for each in live}
        if first_missing in nonces or not any(nonce > first_missing for nonce in nonces):
            return
        logger.warning("nothing has the nonce %d, and others wait for it; it is filled", first_missing)
        fees = fees_now(head, tip, ceiling=self._ceiling)
        filler, _ = await self._store.allocate(
            self.account, None, lambda nonce: self._fill(nonce, fees), floor=first_missing, now=self._clock()
        )
        await self.broadcast(filler)
        self.follow(filler)

    async def _is_moot(self, purpose: Purpose | None, head: Block) -> bool:
        """Say whether an authorization has expired, or was used."""
        if purpose is None or head.time >= purpose.valid_before:
            return purpose is not None
        called = call_data("authorizationState(address,bytes32)", address_word(purpose.authorizer), purpose.nonce)
        (used,) = await self._reader.rpc.batch([eth_call(purpose.token, called)])
        return boolean(used)

    def _fill(self, nonce: int, fees: Fees) -> SignedTransaction:
        """Sign a transaction that does nothing but to have a nonce."""
        account = self.account
        return sign_transaction(
            self._private_key,
            chain_id=account.chain_id,
            nonce=nonce,
            to=account.address,
            data="0x",
            gas=_SELF_TRANSFER_GAS,
            fees=fees,
        )


def _is_mined(transaction: Answer) -> bool:
    return isinstance(transaction, Mapping) and transaction.get("blockNumber") is not None
