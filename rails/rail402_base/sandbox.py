"""A chain in which only the money is fake: real signatures, checked in the order USDC's contract checks them.

It is one file, shared by every process of a sandbox (server workers, agents, the command line), and it survives them.
A settlement is one exclusive transaction on it, which does for the processes what a block does for a chain: one after
the other, each sees all that went before.

Only the sandbox token can move here. A signature for it names a chain that does not exist, so it is worth nothing on a
real one, and a signature for a real token is worth nothing here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import get_args

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402_base.eip3009 import Authorization, cancel_digest, digest, parse_address, recover
from rail402_base.sandbox_ledger import Books, Fault, Ledger, LedgerFile, Mined, Movement, Transaction
from rail402_base.sandbox_transfers import PlainTransfer
from rail402_base.tokens import SANDBOX_USDC, Token

__all__ = [
    "ENDOWMENT",
    "Books",
    "Fault",
    "Mined",
    "Movement",
    "Pending",
    "RevertReason",
    "Reverted",
    "SandboxChain",
    "Transaction",
]

# What a new wallet is given to play with: 100 USDC.
ENDOWMENT = 100_000_000

_ZERO_ADDRESS = "0x" + 40 * "0"


class RevertReason(StrEnum):
    """Why the contract refuses, in the words of USDC's own (FiatTokenV2)."""

    NOT_YET_VALID = "FiatTokenV2: authorization is not yet valid"
    EXPIRED = "FiatTokenV2: authorization is expired"
    NONCE_USED = "FiatTokenV2: authorization is used or canceled"
    INVALID_SIGNATURE = "FiatTokenV2: invalid signature"
    ZERO_PAYEE = "ERC20: transfer to the zero address"
    INSUFFICIENT_BALANCE = "ERC20: transfer amount exceeds balance"


_CODES = {
    RevertReason.NOT_YET_VALID: "not_yet_valid",
    RevertReason.EXPIRED: "authorization_expired",
    RevertReason.NONCE_USED: "proof_already_used",
    RevertReason.INVALID_SIGNATURE: "signature_invalid",
    RevertReason.ZERO_PAYEE: "payee_mismatch",
    RevertReason.INSUFFICIENT_BALANCE: "insufficient_funds",
}


class Reverted(PaymentRejected):
    """The contract refused, definitively: nothing moved. `revert_reason` says why, `code` is the reason code for it."""

    def __init__(self, revert_reason: RevertReason) -> None:
        self.revert_reason = revert_reason
        super().__init__(revert_reason.value, code=_CODES[revert_reason])


@dataclass(frozen=True, slots=True)
class Pending:
    """A transfer that was sent and that no block holds yet: nothing has moved so far, and it may yet revert."""

    transaction: str


class SandboxChain:
    """The sandbox token on its chain.

    Args:
        path: the ledger's file, made (mode 600) where there is none. Its directory must exist, on a local disk.
        clock: unix seconds; the time of a block.
        random_bytes: makes transaction hashes.

    Addresses are taken in any case; amounts are atomic units. Every method raises `MalformedInput` for an address that
    is none, `ConfigurationError` where the file is not a ledger or cannot be made, and `RailUnavailable` where it could
    not be read or written and nothing happened.
    """

    token = SANDBOX_USDC

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], int],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._file = LedgerFile(path)
        self._clock = clock
        self._random_bytes = random_bytes

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._file.path

    async def balance_of(self, address: str) -> int:
        """What an address holds; 0 for one that was never seen."""
        holder = parse_address(address)
        return await self._file.read(lambda ledger: ledger.balance(holder))

    async def authorization_state(self, authorizer: str, nonce: bytes) -> bool:
        """Whether a nonce was used or cancelled (EIP-3009 `authorizationState`)."""
        holder = parse_address(authorizer)
        return await self._file.read(lambda ledger: ledger.is_nonce_used(holder, nonce))

    async def transaction(self, hash_: str) -> Transaction | None:
        """The transaction of that hash (`0x`, 64 hex digits, any case), or None."""
        return await self._file.read(lambda ledger: ledger.transaction(hash_.lower()))

    async def find_authorization(self, from_: str, nonce: bytes) -> Mined | None:
        """The transfer that used this nonce, whoever handed it in; None where none was mined (so far)."""
        payer = parse_address(from_)
        found = await self._file.read(lambda ledger: ledger.transaction_by_nonce(payer, nonce))
        return found.mined if found else None

    async def find_transaction(self, from_: str, nonce: bytes) -> Transaction | None:
        """The transaction that carries this authorization: the mined one, else a pending one. Reverted ones are left
        out, because the contract may yet take the authorization from another."""
        payer = parse_address(from_)

        def find(ledger: Ledger) -> Transaction | None:
            waiting = (
                each
                for each in ledger.pending()
                if (each.authorization.from_, each.authorization.nonce) == (payer, nonce)
            )
            return ledger.transaction_by_nonce(payer, nonce) or next(waiting, None)

        return await self._file.read(find)

    async def books(self) -> Books:
        """All that was ever minted, and who holds it now."""
        return await self._file.read(lambda ledger: ledger.books())

    async def mint(self, address: str, amount: int) -> None:
        """Make money out of nothing.

        Raises:
            ConfigurationError: the amount is not positive, or more than the ledger can count.
        """
        holder = parse_address(address)
        await self._file.write(lambda ledger: ledger.mint(holder, amount))

    async def endow(self, address: str) -> bool:
        """Give a wallet its play money (`ENDOWMENT`), once per address ever. Returns whether this was the time."""
        holder = parse_address(address)

        def give(ledger: Ledger) -> bool:
            is_new = ledger.mark_endowed(holder)
            if is_new:
                ledger.mint(holder, ENDOWMENT)
            return is_new

        return await self._file.write(give)

    async def transfer_with_authorization(
        self, token: Token, authorization: Authorization, signature: bytes
    ) -> Mined | Pending:
        """Hand in an authorization, as a relayer or anybody else may.

        Args:
            token: the sandbox token; there is no other here.
            authorization: what was signed.
            signature: 65 bytes.

        Returns:
            Where it was mined, or `Pending` under the fault of that name.

        Raises:
            Reverted: the contract refused; nothing moved.
            ConfigurationError: the token is another one.
            OutcomeUnknown: the answer was lost: a scripted fault, or a commit that failed.
        """
        self._require_sandbox(token)

        def settle(ledger: Ledger) -> Mined | Pending | OutcomeUnknown | RailUnavailable:
            fault = ledger.take_fault()
            if fault == "unavailable":
                return RailUnavailable("the sandbox chain cannot be reached (a scripted fault)")
            # A refusal takes back everything, the fault included: it stays for a settlement that would go through.
            _require_valid(ledger, authorization, self._clock())
            _require_signature(digest(token.domain, authorization), signature, authorization.from_)
            _require_transferable(ledger, authorization)
            if fault == "dropped":
                return OutcomeUnknown("the sandbox chain did not answer (a scripted fault)")
            hash_ = "0x" + self._random_bytes(32).hex()
            ledger.submit(hash_, authorization)
            if fault == "pending":
                return Pending(hash_)
            mined = ledger.mine(hash_, authorization, now=self._clock())
            if fault == "lost_answer":
                return OutcomeUnknown("the sandbox chain's answer was lost (a scripted fault)")
            return mined

        return await self._written(settle)

    async def transfer(self, token: Token, transfer: PlainTransfer, signature: bytes) -> Mined | Pending:
        """Make a plain transfer (ERC-20 `transfer`), as its owner: no authorization, no nonce, and here no gas.

        Args:
            token: the sandbox token; there is no other here.
            transfer: what is moved. The same one again is the same transaction: it moves nothing twice.
            signature: the owner's, over `transfer.digest`; 65 bytes.

        Returns, raises: see `transfer_with_authorization`; the same faults are for both.
        """
        self._require_sandbox(token)
        hash_ = transfer.hash(token)

        def send(ledger: Ledger) -> Mined | Pending | OutcomeUnknown | RailUnavailable:
            known = ledger.movement(hash_)
            if known is not None:
                return Pending(hash_) if known.block is None else Mined(hash_, known.log_index, known.block, known.time)
            fault = ledger.take_fault()
            if fault == "unavailable":
                return RailUnavailable("the sandbox chain cannot be reached (a scripted fault)")
            _require_signature(transfer.digest(token), signature, transfer.payer)
            _require_cover(ledger, transfer.payer, transfer.payee, transfer.value)
            if fault == "dropped":
                return OutcomeUnknown("the sandbox chain did not answer (a scripted fault)")
            ledger.submit_transfer(hash_, transfer)
            if fault == "pending":
                return Pending(hash_)
            mined = ledger.mine_transfer(hash_, now=self._clock())
            if fault == "lost_answer":
                return OutcomeUnknown("the sandbox chain's answer was lost (a scripted fault)")
            return mined

        return await self._written(send)

    async def movement(self, hash_: str) -> Movement | None:
        """What the transaction of that hash (`0x`, 64 hex digits, any case) moved, or is to move."""
        return await self._file.read(lambda ledger: ledger.movement(hash_.lower()))

    async def _written(
        self, work: Callable[[Ledger], Mined | Pending | OutcomeUnknown | RailUnavailable]
    ) -> Mined | Pending:
        # A fault is returned and not raised, so that what was written is committed before it shows.
        outcome = await self._file.write(work)
        if isinstance(outcome, OutcomeUnknown | RailUnavailable):
            raise outcome
        return outcome

    async def cancel_authorization(self, token: Token, authorizer: str, nonce: bytes, signature: bytes) -> None:
        """Make a nonce worthless (EIP-3009 `cancelAuthorization`).

        Args:
            token: the sandbox token.
            authorizer: whose nonce it is.
            nonce: 32 bytes.
            signature: the authorizer's, over `eip3009.cancel_digest`; 65 bytes.

        Raises:
            Reverted: the nonce was used or cancelled before, or the signature is not the authorizer's.
            ConfigurationError: the token is another one.
        """
        self._require_sandbox(token)
        holder = parse_address(authorizer)

        def cancel(ledger: Ledger) -> None:
            if ledger.is_nonce_used(holder, nonce):
                raise Reverted(RevertReason.NONCE_USED)
            _require_signature(cancel_digest(token.domain, holder, nonce), signature, holder)
            ledger.use_nonce(holder, nonce)

        await self._file.write(cancel)

    async def inject(self, fault: Fault, *, times: int = 1) -> None:
        """Have the next settlements go wrong, whichever process makes them. Faults queue up; each is used once.

        `lost_answer`: the money moves, and the caller gets `OutcomeUnknown`. `dropped`: the same, but nothing moves.
        `unavailable`: nothing moves, and the caller gets `RailUnavailable`. `pending`: it waits for `release`.

        Raises:
            ConfigurationError: there is no such fault.
        """
        if fault not in get_args(Fault):
            raise ConfigurationError(f"the fault {fault!r} must be one of {', '.join(get_args(Fault))}")
        await self._file.write(lambda ledger: ledger.add_faults(fault, times))

    async def release(self) -> tuple[Transaction, ...]:
        """Mine what is pending, in the order it came; what the contract refuses by now is `reverted`.

        Returns the transactions with authorizations; plain transfers are mined after them, and are not in it.
        """

        def mine_all(ledger: Ledger) -> list[Transaction | None]:
            waiting = ledger.pending()
            for each in waiting:
                try:
                    _require_valid(ledger, each.authorization, self._clock())
                    _require_transferable(ledger, each.authorization)
                except Reverted:
                    ledger.revert(each.hash)
                else:
                    ledger.mine(each.hash, each.authorization, now=self._clock())
            for plain in ledger.pending_transfers():
                if plain.value > ledger.balance(plain.payer):
                    ledger.revert_transfer(plain.hash)
                else:
                    ledger.mine_transfer(plain.hash, now=self._clock())
            return [ledger.transaction(each.hash) for each in waiting]

        return tuple(each for each in await self._file.write(mine_all) if each)

    def _require_sandbox(self, token: Token) -> None:
        if token != self.token:
            raise ConfigurationError(
                f"{token.name} on {token.network.caip2} cannot be settled in the sandbox: "
                f"only {self.token.name} on {self.token.network.caip2} can"
            )


# The contract's checks. A transfer makes them in this order: what is wrong twice is refused for the contract's reason.


def _require_valid(ledger: Ledger, authorization: Authorization, now: int) -> None:
    if not now > authorization.valid_after:
        raise Reverted(RevertReason.NOT_YET_VALID)
    if not now < authorization.valid_before:
        raise Reverted(RevertReason.EXPIRED)
    if ledger.is_nonce_used(authorization.from_, authorization.nonce):
        raise Reverted(RevertReason.NONCE_USED)


def _require_signature(digest_: bytes, signature: bytes, signer: str) -> None:
    try:
        recovered = recover(digest_, signature)
    except PaymentRejected as error:
        raise Reverted(RevertReason.INVALID_SIGNATURE) from error
    if recovered != signer:
        raise Reverted(RevertReason.INVALID_SIGNATURE)


def _require_transferable(ledger: Ledger, authorization: Authorization) -> None:
    _require_cover(ledger, authorization.from_, authorization.to, authorization.value)


def _require_cover(ledger: Ledger, payer: str, payee: str, value: int) -> None:
    if payee == _ZERO_ADDRESS:
        raise Reverted(RevertReason.ZERO_PAYEE)
    if value > ledger.balance(payer):
        raise Reverted(RevertReason.INSUFFICIENT_BALANCE)
