"""Who sends a wallet's plain transfers: what the wallet asks of it, and the one of the sandbox.

`rpc.transfers` has the one of real chains. A sender sends each transfer once: it is named by 32 bytes of the caller's,
and what was begun under that name is found again, by this process or by the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rail402.errors import OutcomeUnknown
from rail402_base.chain import SandboxBackend
from rail402_base.eip3009 import address_of, sign
from rail402_base.sandbox import Mined
from rail402_base.sandbox_transfers import PlainTransfer, sign_transfer
from rail402_base.tokens import SANDBOX_USDC, Token

__all__ = ["Finding", "Gone", "Landed", "SandboxSender", "Sender", "Waiting", "Wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A transfer to be made: to whom (EIP-55), how many atomic units, and 32 bytes by which it is found again."""

    payee: str
    value: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Landed:
    """It was made, and is deep enough in the chain; `transaction` is its hash."""

    transaction: str


@dataclass(frozen=True, slots=True)
class Gone:
    """It was not made, and what was signed for it cannot make it any more."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """It may yet be made, or may have been; `detail` says why that is not known."""

    detail: str


Finding = Landed | Gone | Waiting
"""What became of a transfer."""


class Sender(Protocol):
    """Sends transfers of one token out of one account."""

    @property
    def token(self) -> Token:
        """What it sends."""
        ...

    @property
    def address(self) -> str:
        """Whose money it is, in EIP-55 form."""
        ...

    async def start(self) -> None:
        """Open what it needs; send again what an earlier process left on its way."""
        ...

    async def look(self) -> None:
        """Open what it needs and send nothing: `balance` and `check` can be called then."""
        ...

    async def close(self) -> None:
        """Close what `start` or `look` opened."""
        ...

    async def balance(self) -> int:
        """Return what the account holds of the token, in atomic units; raises `RailUnavailable`."""
        ...

    async def check(self, payee: str, value: int) -> None:
        """Check that the transfer could be made now, and at a price that its owner allows.

        Raises:
            OfferRefused: it could not, and why.
            RailUnavailable: the chain cannot be asked.
        """
        ...

    async def send(self, wanted: Wanted) -> str:
        """Make a transfer, and return its transaction's hash once it is deep enough.

        Raises:
            PaymentRejected, OfferRefused, RailUnavailable: it was not made, and will not be.
            OutcomeUnknown: it may be made; `find` says what became of it.
        """
        ...

    async def find(self, wanted: Wanted, *, hint: str | None = None) -> Finding:
        """Find out what became of a transfer that `send` was asked for.

        Args:
            hint: the hash of its transaction, where that is known.

        Raises:
            RailUnavailable, OutcomeUnknown: that cannot be said now.
        """
        ...

    def sign(self, digest: bytes) -> bytes:
        """Sign 32 bytes with the account's key."""
        ...


class SandboxSender:
    """Sends play money.

    Args:
        backend: the sandbox chain.
        private_key: 32 bytes. Secret.
    """

    token = SANDBOX_USDC

    def __init__(self, backend: SandboxBackend, private_key: bytes) -> None:
        self.address = address_of(private_key)
        self._backend, self._private_key = backend, private_key

    def __repr__(self) -> str:
        return f"SandboxSender({self.address!r})"

    async def start(self) -> None:
        """Open the ledger; an account that is new there is given its play money."""
        await self._backend.start()
        await self._backend.chain.endow(self.address)

    async def look(self) -> None:
        """Do the same: there is nothing on its way here."""
        await self.start()

    async def close(self) -> None:
        """Do nothing: a ledger is open only while it is used."""

    async def balance(self) -> int:
        """Return what the account holds."""
        return await self._backend.balance_of(self.token, self.address)

    async def check(self, payee: str, value: int) -> None:
        """Do nothing: there is no gas here."""

    async def send(self, wanted: Wanted) -> str:
        """Make a transfer; see `Sender.send`."""
        transfer = self._transfer(wanted)
        signature = sign_transfer(transfer, self.token, self._private_key)
        outcome = await self._backend.chain.transfer(self.token, transfer, signature)
        if isinstance(outcome, Mined):
            return outcome.transaction
        raise OutcomeUnknown(f"{outcome.transaction} is not mined yet")

    async def find(self, wanted: Wanted, *, hint: str | None = None) -> Finding:
        """Find out what became of a transfer. Its hash follows from what it is, so nothing need be kept."""
        hash_ = self._transfer(wanted).hash(self.token)
        movement = await self._backend.chain.movement(hash_)
        if movement is None or movement.state == "reverted":
            return Gone()
        return Waiting(f"{hash_} is not mined yet") if movement.block is None else Landed(hash_)

    def sign(self, digest: bytes) -> bytes:
        """Sign 32 bytes with the account's key."""
        return sign(digest, self._private_key)

    def _transfer(self, wanted: Wanted) -> PlainTransfer:
        return PlainTransfer(payer=self.address, payee=wanted.payee, value=wanted.value, nonce=wanted.name)
