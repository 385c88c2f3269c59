"""What the rail and the wallet ask of a chain. Each way to reach one is a backend with this interface.

`ChainView` reads, which is all that a wallet needs; `Chain` can also hand an authorization in. `SandboxBackend` is the
one over the local ledger of `sandbox.py`; `rpc.reader` and `rpc.backend` reach real chains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from rail402.clock import Clock
from rail402.errors import ConfigurationError, PaymentRejected
from rail402.sandbox import PLAY_MONEY
from rail402_base.eip3009 import Authorization, same_address
from rail402_base.sandbox import Mined, SandboxChain
from rail402_base.tokens import SANDBOX, Network, Token

__all__ = [
    "FINAL",
    "Chain",
    "ChainView",
    "Deposit",
    "Deposits",
    "SandboxBackend",
    "Submitted",
    "Trace",
    "Transfer",
    "Unused",
    "Void",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """An authorization was mined: the money moved.

    Attributes:
        transaction: the transaction's hash; log_index: which of its events is the transfer.
        to: who was paid, in EIP-55 form; value: atomic units.
        at: the block's time, Unix seconds, where the backend knows it.
    """

    transaction: str
    log_index: int
    to: str
    value: int
    at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A transaction with the authorization was sent and no block holds it yet."""

    transaction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Void:
    """The nonce was used up without a transfer: its payer cancelled the authorization."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """Nothing of the authorization is to be seen.

    Attributes:
        expired: the chain's own time has passed `valid_before` for good, so that no block can take it any more.
    """

    expired: bool


FINAL: Final = frozenset({"proof_already_used", "authorization_expired"})
"""Codes of what the token refuses an authorization for today and for ever, whoever hands it in."""

Trace = Transfer | Submitted | Void | Unused
"""What became of an authorization."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """A transfer to an address, as the token's event tells of it.

    Attributes:
        payer: whose money it was, in EIP-55 form; value: atomic units.
        log_index: which event it is.
        nonces: those of the payer's authorizations that the same transaction used: one of them may have made it.
    """

    payer: str
    value: int
    log_index: int
    nonces: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposits:
    """What a mined transaction brought to an address.

    Attributes:
        at: the block's time, Unix seconds.
        succeeded: False where it reverted.
        all: the transfers to the address, in the order of their events.
    """

    at: int
    succeeded: bool
    all: tuple[Deposit, ...]


class ChainView(Protocol):
    """A way to look at one chain.

    Every method raises `RailUnavailable` where the chain cannot be asked and nothing was sent, `ConfigurationError`
    where the token is not on it. A backend translates all errors of its libraries to these.
    """

    @property
    def network(self) -> Network:
        """The chain it reaches."""
        ...

    async def start(self) -> None:
        """Open it, and check that it is the chain it should be."""
        ...

    async def close(self) -> None:
        """Close what `start` opened."""
        ...

    async def health(self) -> None:
        """Raise `RailUnavailable` where it cannot be used now."""
        ...

    async def balance_of(self, token: Token, address: str) -> int:
        """Return what an address holds, in atomic units."""
        ...

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        """Check that the token would take an authorization now: nonce, balance, and a signature that only the payer's
        contract can know (ERC-1271), which comes first. When it is valid has been checked.

        Raises:
            PaymentRejected: it would not, with the reason code.
        """
        ...

    async def trace(self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int) -> Trace:
        """Find out what became of an authorization, whoever handed it in.

        Args:
            authorizer: who signed it; with the nonce (32 bytes) that names it.
            valid_before: Unix seconds from which the contract refuses it.

        Raises:
            OutcomeUnknown: the chain does not say it in a way that can be believed.
        """
        ...

    async def deposits_in(
        self, token: Token, transaction: str, payee: str, *, confirmations: int = 1
    ) -> Deposits | None:
        """Find out what a transaction brought to an address.

        Args:
            transaction: its hash: `0x` and 64 hex digits in lower case.
            confirmations: how many blocks it must have, its own counted; more where the backend asks for more.

        Returns:
            None where no block holds it, or it is not deep enough yet.

        Raises:
            OutcomeUnknown: the chain does not say it in a way that can be believed.
        """
        ...


class Chain(ChainView, Protocol):
    """A way to reach one chain, and to have money moved on it."""

    @property
    def sees_submissions(self) -> bool:
        """Whether `trace` sees whatever was sent to the chain, by anybody, from that moment on.

        True for a ledger in a file. On a public chain a transaction can be on its way for as long as its authorization
        is valid, and show nowhere: there, only the expiry rules out that one is.
        """
        ...

    async def settle(self, token: Token, authorization: Authorization, signature: bytes) -> Transfer | Submitted:
        """Hand an authorization in.

        Returns:
            The transfer, or `Submitted` where it was sent but not mined in the time that a settlement may take.

        Raises:
            PaymentRejected: the contract refused, and will whoever hands it in. `proof_already_used`: its nonce was
                used. `authorization_expired`: it is too late, and the nonce may have been used before. Any other code:
                besides, it was not sent, so that nobody else can have it from us.
            OutcomeUnknown: it may have been sent, and there is no answer that can be believed.
            RailUnavailable: it was not sent.
        """
        ...


class SandboxBackend:
    """The sandbox chain as a backend.

    Args:
        chain: the ledger, which publisher and agent share.
        clock: the one that `chain` has; Unix seconds.
    """

    network = SANDBOX
    sees_submissions = True

    def __init__(self, chain: SandboxChain, *, clock: Clock) -> None:
        self.chain = chain
        self._clock = clock

    def __repr__(self) -> str:
        return f"SandboxBackend({str(self.chain.path)!r})"

    async def start(self) -> None:
        """Make the ledger where there is none."""
        await self.health()

    async def close(self) -> None:
        """Do nothing: a ledger is open only while it is used."""

    async def health(self) -> None:
        """Raise `RailUnavailable` where the ledger cannot be read."""
        await self.chain.books()

    async def balance_of(self, token: Token, address: str) -> int:
        """Return what an address holds."""
        if token != self.chain.token:
            raise ConfigurationError(f"the sandbox holds {self.chain.token.name} and no {token.name}")
        return await self.chain.balance_of(address)

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        """Check nonce and balance; see `Chain.check`. No payer here is a contract: `BaseSpec` refuses its signature."""
        if await self.chain.authorization_state(authorization.from_, authorization.nonce):
            raise PaymentRejected("the authorization's nonce was used or cancelled", code="proof_already_used")
        balance = await self.balance_of(token, authorization.from_)
        if balance < authorization.value:
            detail = f"{authorization.from_} holds {balance} of {authorization.value} atomic units; {PLAY_MONEY}"
            raise PaymentRejected(detail, code="insufficient_funds")

    async def settle(self, token: Token, authorization: Authorization, signature: bytes) -> Transfer | Submitted:
        """Hand an authorization in; see `Chain.settle`."""
        outcome = await self.chain.transfer_with_authorization(token, authorization, signature)
        if isinstance(outcome, Mined):
            return _transfer(outcome, authorization)
        return Submitted(transaction=outcome.transaction)

    async def trace(self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int) -> Trace:
        """Find out what became of an authorization; see `Chain.trace`."""
        # The clock first, then the nonce, then the transaction: whatever happens between two of them, what is said of
        # an expired authorization is final, and a used nonce without a transfer is a cancelled one.
        expired = self._clock() >= valid_before
        used = await self.chain.authorization_state(authorizer, nonce)
        found = await self.chain.find_transaction(authorizer, nonce)
        if found is not None and found.mined is not None:
            return _transfer(found.mined, found.authorization)
        if used:
            return Void()
        return Unused(expired=expired) if found is None else Submitted(transaction=found.hash)

    async def deposits_in(
        self, token: Token, transaction: str, payee: str, *, confirmations: int = 1
    ) -> Deposits | None:
        """Find out what a transaction brought to an address; no block is taken back here, so one is enough."""
        found = await self.chain.movement(transaction)
        if token != self.chain.token or found is None or found.block is None:
            return None
        nonces = () if found.nonce is None else (found.nonce,)
        deposit = Deposit(payer=found.payer, value=found.value, log_index=found.log_index, nonces=nonces)
        is_ours = same_address(found.payee, payee)
        return Deposits(at=found.time, succeeded=True, all=(deposit,) if is_ours else ())


def _transfer(mined: Mined, authorization: Authorization) -> Transfer:
    return Transfer(
        transaction=mined.transaction,
        log_index=mined.log_index,
        to=authorization.to,
        value=authorization.value,
        at=mined.at,
    )
