"""Reading a chain: what an address holds, whether an authorization would be taken, and what became of one.

Where several nodes are given, money is only believed in when all that can be reached say the same: what nodes disagree
about is unknown. Whether an authorization has expired is judged by the chain's own time, never by ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import httpx

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402_base.chain import Deposits, Submitted, Trace, Transfer, Unused
from rail402_base.eip3009 import Authorization, is_signed_by_payer
from rail402_base.erc1271 import is_accepted
from rail402_base.rpc.abi import (
    MAX_CONTRACT_GAS,
    address_word,
    boolean,
    call_data,
    data,
    eth_call,
    is_contract_failure,
    is_valid_signature_data,
    quantity,
    refusal,
    transfer_call_data,
)
from rail402_base.rpc.blocks import NEWEST, Block, block_at, not_stuck, parse_block
from rail402_base.rpc.endpoint import Answer, Call, Endpoint, RpcError
from rail402_base.rpc.history import LOOKBACK, Sought, Used, look_up
from rail402_base.rpc.inspection import Features, inspect, require_usable
from rail402_base.rpc.json_rpc import JsonRpc
from rail402_base.rpc.receipts import Receipt, Seen, agreed, deposits, parse_receipt, used_in
from rail402_base.tokens import Network, Token

__all__ = ["ChainReader"]

logger = logging.getLogger("rail402.base")


@dataclass(frozen=True, slots=True)
class _View:
    """What one node says became of an authorization, and its newest block."""

    head: Block
    trace: Trace | Used


class ChainReader:
    """One chain, seen through one or several nodes, for one token. It can move nothing.

    Args:
        urls: JSON-RPC addresses of nodes, the preferred one first; `http://` only in a private network. They may hold
            keys, and show nowhere.
        token: the token; its network is the chain.
        confirmations: how many blocks a transfer must have, its own counted, before it is believed.
        lookback: blocks that are searched for a transfer before an authorization's expiry, or before now.
        timeout: seconds for one answer.
        transport: what requests are sent through, for tests.
        clock: Unix seconds; only says which node hangs behind.

    Raises:
        ConfigurationError: there is no address, one cannot be used, or a number is not positive.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        token: Token,
        *,
        confirmations: int = 1,
        lookback: int = LOOKBACK,
        timeout: int = 10,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = system_clock,
    ) -> None:
        if token.network.kind == "sandbox":
            raise ConfigurationError('the sandbox is no real chain: use backend = "sandbox", or a real token')
        if confirmations < 1 or lookback < 1 or timeout < 1:
            raise ConfigurationError("confirmations, lookback and timeout must be 1 or more")
        self.token, self.confirmations = token, confirmations
        self.rpc = JsonRpc(urls, timeout=timeout, transport=transport)
        self._lookback, self._clock = lookback, clock
        self._features = Features(paused=False, blacklist=False)

    def __repr__(self) -> str:
        hosts = [endpoint.host for endpoint in self.rpc.endpoints]
        return f"ChainReader({hosts!r}, network={self.network.caip2!r})"

    @property
    def network(self) -> Network:
        """The chain."""
        return self.token.network

    async def start(self) -> None:
        """Check every node that can be reached, and the token's contract.

        Raises:
            ConfigurationError: a node is on another chain, or the contract is not that token; with the fix.
            RailUnavailable: no node can be used, or the token is paused.
        """
        found = await self.rpc.each(lambda endpoint: inspect(endpoint, self.token))
        self._features = found[0]

    async def close(self) -> None:
        """Close the connections."""
        await self.rpc.close()

    async def health(self) -> None:
        """Raise `RailUnavailable` where no node can be used now, or the token is paused."""
        await self.rpc.each(lambda endpoint: require_usable(endpoint, self.token, self._features))

    async def balance_of(self, token: Token, address: str) -> int:
        """Return what an address holds, in atomic units; see `ChainView.balance_of`."""
        self._require_token(token)
        (answer,) = await self.rpc.batch([self._read("balanceOf(address)", address_word(address))])
        return quantity(answer)

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        """Check nonce, balance, payer and a contract's signature in one request; see `ChainView.check`.

        A signature that the payer's key has not made is good where the payer is a contract which says so (ERC-1271);
        that comes first, so that nobody who has no such signature learns or gets anything. The contract may use a
        bounded amount of gas. The token is asked as well, whether it would take the authorization with this very
        signature: it asks the contract by its own rules. It is also asked about an address whose key has delegated to a
        contract (EIP-7702) and has signed itself: some tokens ask the contract all the same.

        Raises:
            PaymentRejected: the token would not take it, with the reason code.
            RailUnavailable: no node answers, the token is paused, or it refuses our own address.
        """
        self._require_token(token)
        payer, payee = address_word(authorization.from_), address_word(authorization.to)
        is_by_key = is_signed_by_payer(token.domain, authorization, signature)
        calls = [
            self._read("balanceOf(address)", payer),
            self._read("authorizationState(address,bytes32)", payer, authorization.nonce),
            Call("eth_getCode", (authorization.from_, "latest")),
            *([self._read("paused()")] if self._features.paused else []),
            *([self._read("isBlacklisted(address)", each) for each in (payer, payee) if self._features.blacklist]),
        ]
        asks = [] if is_by_key else [self._ask_payer(authorization, signature), self._try(authorization, signature)]
        balance, used, code, *rest = await self.rpc.batch([*calls, *asks])
        if not is_by_key:
            *rest, accepted, tried = rest
            _require_contract(authorization.from_, code, accepted)
        if boolean(used):
            raise PaymentRejected("the authorization's nonce was used or cancelled", code="proof_already_used")
        self._require_unrestricted(rest)
        held = quantity(balance)
        if held < authorization.value:
            detail = f"{authorization.from_} holds {held} of {authorization.value} atomic units"
            raise PaymentRejected(detail, code="insufficient_funds")
        refused = None
        if not is_by_key:
            refused = _refused(tried)
        elif data(code):
            refused = await self.simulate(authorization, signature)
        if refused is not None:
            raise refused

    def _require_unrestricted(self, answers: Sequence[Answer]) -> None:
        answers = list(answers)
        if self._features.paused and boolean(answers.pop(0)):
            raise RailUnavailable("the token contract is paused by its issuer", retry_after=60)
        if self._features.blacklist:
            payer, payee = (boolean(answer) for answer in answers)
            if payer:
                raise PaymentRejected("the token's issuer has blacklisted the payer", code="payment_declined")
            if payee:
                raise RailUnavailable("the token's issuer has blacklisted the address that is to be paid")

    def _ask_payer(self, authorization: Authorization, signature: bytes) -> Call:
        called = is_valid_signature_data(self.token.domain, authorization, signature)
        # From nobody: not every node lets a contract, such as the token, be the sender of a call.
        return eth_call(authorization.from_, called, gas=MAX_CONTRACT_GAS)

    def _try(self, authorization: Authorization, signature: bytes, sender: str | None = None) -> Call:
        called = transfer_call_data(self.token.domain, authorization, signature)
        is_by_key = is_signed_by_payer(self.token.domain, authorization, signature)
        return eth_call(self.token.address, called, sender=sender, gas=None if is_by_key else MAX_CONTRACT_GAS)

    async def simulate(
        self, authorization: Authorization, signature: bytes, *, sender: str | None = None
    ) -> PaymentRejected | RailUnavailable | None:
        """Return why the token would refuse an authorization now; None where it would take it.

        Raises:
            RailUnavailable: no node answers.
        """
        (answer,) = await self.rpc.batch([self._try(authorization, signature, sender)])
        return _refused(answer)

    # --- what became of an authorization

    async def trace(
        self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int, transactions: Iterable[str] = ()
    ) -> Trace:
        """Find out what became of an authorization, whoever handed it in; see `ChainView.trace`.

        Args:
            transactions: hashes of transactions that may have used it, where they are known: the chain's events need
                not be searched then.

        Raises:
            RailUnavailable: no node answers.
            OutcomeUnknown: the nodes disagree, or it was used longer ago than can be searched.
        """
        self._require_token(token)
        sought = Sought(
            token=token,
            authorizer=authorizer,
            nonce=nonce,
            valid_before=valid_before,
            hints=tuple(transactions),
            confirmations=self.confirmations,
            lookback=self._lookback,
        )

        async def look(endpoint: Endpoint) -> _View:
            return _View(*await look_up(endpoint, sought))

        views = await self.rpc.each(look)
        heard = compress(views, not_stuck([view.head for view in views], now=self._clock()))
        return _merged([view.trace for view in heard])

    async def transfer_in(
        self, token: Token, authorization: Authorization, transaction: str
    ) -> Transfer | Submitted | None:
        """Find out what one transaction did with an authorization.

        Args:
            transaction: its hash, `0x` and 64 hex digits.

        Returns:
            The transfer, where the transaction made exactly the one that was authorized. `Submitted` where it is not
            in a block, or not deep enough. None where it did not: it reverted, or did something else.

        Raises:
            RailUnavailable: no node answers.
            OutcomeUnknown: the nodes disagree.
        """
        self._require_token(token)
        (seen,) = (await self.seen([transaction])).values()
        receipt = self.agreed(seen)
        if receipt is None:
            return Submitted(transaction=transaction)
        return matching_transfer(receipt, token, authorization)

    async def deposits_in(
        self, token: Token, transaction: str, payee: str, *, confirmations: int = 1
    ) -> Deposits | None:
        """Find out what a transaction brought to an address; see `ChainView.deposits_in`.

        Raises:
            RailUnavailable: no node answers.
            OutcomeUnknown: the nodes disagree.
        """
        self._require_token(token)
        (seen,) = (await self.seen([transaction])).values()
        receipt = agreed(seen, confirmations=max(confirmations, self.confirmations), now=self._clock())
        if receipt is None:
            return None
        if receipt.transaction != transaction:
            raise OutcomeUnknown(f"a node was asked about {transaction} and told of {receipt.transaction}")
        (block,) = await self.rpc.batch([block_at(hex(receipt.block_number))])
        found = deposits(receipt, token, payee)
        return Deposits(at=parse_block(block).time, succeeded=receipt.succeeded, all=found)

    async def seen(self, transactions: Sequence[str]) -> dict[str, list[Seen]]:
        """Ask every node that can be reached for receipts, in one request each.

        Raises:
            RailUnavailable: no node answers.
        """
        calls = [NEWEST, *(Call("eth_getTransactionReceipt", (each,)) for each in transactions)]

        async def look(endpoint: Endpoint) -> list[Seen]:
            head, *receipts = await endpoint.ask(calls)
            return [Seen(parse_block(head), parse_receipt(receipt)) for receipt in receipts]

        by_node = await self.rpc.each(look)
        return {each: [node[number] for node in by_node] for number, each in enumerate(transactions)}

    def agreed(self, seen: Sequence[Seen]) -> Receipt | None:
        """Return the receipt that all nodes have, deep enough to be believed; None before.

        Raises:
            OutcomeUnknown: they contradict each other.
        """
        return agreed(seen, confirmations=self.confirmations, now=self._clock())

    def _read(self, function: str, *words: bytes) -> Call:
        return eth_call(self.token.address, call_data(function, *words))

    def _require_token(self, token: Token) -> None:
        if token != self.token:
            raise ConfigurationError(
                f"the reader is for {self.token.symbol} at {self.token.address} on {self.network.caip2}, "
                f"not for {token.address} on {token.network.caip2}"
            )


def _require_contract(payer: str, code: Answer, accepted: Answer) -> None:
    """Check that a payer whose key has not signed is a contract, and accepts the signature.

    Raises:
        PaymentRejected: it is not, or does not; code `signature_invalid`.
        RailUnavailable: the node did not ask it.
    """
    if not data(code):
        detail = f"the signature is not that of {payer} over this authorization of this token, and no contract is there"
        raise PaymentRejected(detail, code="signature_invalid")
    if isinstance(accepted, RpcError) and not is_contract_failure(accepted):
        raise accepted
    if isinstance(accepted, RpcError) or not is_accepted(data(accepted)):
        detail = f"the payer is the contract {payer}, and it does not accept the signature (ERC-1271)"
        raise PaymentRejected(detail, code="signature_invalid")


def _refused(answer: Answer) -> PaymentRejected | RailUnavailable | None:
    """Return why the token would not take what it was tried with; raises what says nothing about that."""
    if not isinstance(answer, RpcError):
        return None
    refused = refusal(answer)
    if refused is answer:
        raise answer
    return refused


def matching_transfer(receipt: Receipt, token: Token, authorization: Authorization) -> Transfer | None:
    """Return the transfer that a transaction made of an authorization, to the last unit; None where it made none.

    Raises:
        OutcomeUnknown: it used the authorization, and moved something else by it.
    """
    transfer = used_in(receipt, token, authorization.from_, authorization.nonce)
    if transfer is not None and (transfer.to, transfer.value) != (authorization.to, authorization.value):
        raise OutcomeUnknown(f"{receipt.transaction} used the authorization for another transfer than it allows")
    return transfer


def _merged(heard: Sequence[Trace | Used]) -> Trace:
    """Return what all nodes say.

    Raises:
        OutcomeUnknown: they do not say the same, or none says enough.
    """
    traces = [_without_time(trace) for trace in heard if not isinstance(trace, Used)]
    if not traces:
        raise OutcomeUnknown("; ".join(trace.detail for trace in heard if isinstance(trace, Used)))
    if all(isinstance(trace, Unused) for trace in traces) and len(traces) == len(heard):
        return Unused(expired=all(trace == Unused(expired=True) for trace in traces))
    if len(set(traces)) == 1 and not isinstance(traces[0], Unused):
        # Not every node says a block's time.
        return next((trace for trace in heard if isinstance(trace, Transfer) and trace.at is not None), traces[0])
    transfers = {trace for trace in traces if isinstance(trace, Transfer)}
    known = {trace.transaction for trace in traces if isinstance(trace, Transfer | Submitted)}
    if len(transfers) <= 1 == len(known) and all(isinstance(trace, Transfer | Submitted) for trace in traces):
        return Submitted(transaction=known.pop())  # mined for one node, not deep enough for another
    raise OutcomeUnknown("the nodes disagree about the authorization")


def _without_time(trace: Trace) -> Trace:
    return replace(trace, at=None) if isinstance(trace, Transfer) else trace
