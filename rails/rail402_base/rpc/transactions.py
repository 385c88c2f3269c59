"""Transactions of EIP-1559: signing them, and what a node's refusal of one means. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from rail402_base.rpc.endpoint import RpcError
from rail402_base.rpc.fees import Fees

__all__ = ["Refusal", "SignedTransaction", "fees_of", "refusal_of", "sign_again", "sign_transaction"]


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction as it is broadcast; `hash` is `0x` and 64 hex digits."""

    nonce: int
    hash: str
    raw: bytes = field(repr=False)


def sign_transaction(
    private_key: bytes, *, chain_id: int, nonce: int, to: str, data: str, gas: int, fees: Fees
) -> SignedTransaction:
    """Sign a call that sends no ether along.

    Args:
        private_key: 32 bytes. Secret.
        to: the contract, or an address of our own.
        data: what is called, `0x` and hex digits.
        gas: the most that it may use.
        fees: what is offered per unit of gas.
    """
    unsigned = {"type": 2, "chainId": chain_id, "nonce": nonce, "to": to, "value": 0, "data": data, "gas": gas}
    return _signed(unsigned | _as_fields(fees), private_key)


def sign_again(private_key: bytes, raw: bytes, fees: Fees) -> SignedTransaction:
    """Sign what does the same as a signed transaction, with its nonce, and offers something else for gas."""
    unsigned = {name: value for name, value in _fields(raw).items() if name not in ("v", "r", "s")}
    return _signed(unsigned | _as_fields(fees), private_key)


def fees_of(raw: bytes) -> Fees:
    """Return what a signed transaction offers for gas."""
    fields = _fields(raw)
    return Fees(max_fee=fields["maxFeePerGas"], max_priority_fee=fields["maxPriorityFeePerGas"])


# eth_account takes most of a second to import: only who relays pays for it.


def _signed(unsigned: dict[str, Any], private_key: bytes) -> SignedTransaction:
    from eth_account import Account

    signed = Account.sign_transaction(unsigned, private_key)
    raw = bytes(signed.raw_transaction)
    return SignedTransaction(unsigned["nonce"], "0x" + signed.hash.hex().removeprefix("0x"), raw)


def _fields(raw: bytes) -> dict[str, Any]:
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    return dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())


def _as_fields(fees: Fees) -> dict[str, int]:
    return {"maxFeePerGas": fees.max_fee, "maxPriorityFeePerGas": fees.max_priority_fee}


class Refusal(Enum):
    """Why a node did not take a transaction."""

    KNOWN = auto()
    """It has it already."""

    NONCE_USED = auto()
    """A block holds a transaction with this nonce: this one, or another."""

    NONCE_TAKEN = auto()
    """Its pool holds another transaction with this nonce, which pays as much."""

    NO_GAS_MONEY = auto()
    """The relayer's ether does not cover the most that the gas may cost."""

    UNFIT = auto()
    """It breaks a rule that it will break tomorrow: nobody takes it."""

    NOT_REACHED = auto()
    """It was reached by no connection."""

    UNCLEAR = auto()
    """There was no answer, or in words that are not known here: it may have taken it all the same."""


# Words of geth, op-geth, reth, Nethermind, Erigon, Besu and anvil; the first that fits.
_REFUSALS: Final = (
    ("already known", Refusal.KNOWN),
    ("already imported", Refusal.KNOWN),
    ("known transaction", Refusal.KNOWN),
    ("alreadyknown", Refusal.KNOWN),
    ("already in the pool", Refusal.KNOWN),
    ("already exists", Refusal.KNOWN),
    ("nonce too low", Refusal.NONCE_USED),
    ("nonce is too low", Refusal.NONCE_USED),
    ("oldnonce", Refusal.NONCE_USED),
    ("nonce has already been used", Refusal.NONCE_USED),
    ("replacement", Refusal.NONCE_TAKEN),
    ("could not replace", Refusal.NONCE_TAKEN),
    ("insufficient funds", Refusal.NO_GAS_MONEY),
    ("insufficientfunds", Refusal.NO_GAS_MONEY),
    ("upfront cost exceeds", Refusal.NO_GAS_MONEY),
    ("intrinsic gas", Refusal.UNFIT),
    ("exceeds block gas limit", Refusal.UNFIT),
    ("gas limit exceeded", Refusal.UNFIT),
    ("invalid sender", Refusal.UNFIT),
    ("invalid chain id", Refusal.UNFIT),
    ("underpriced", Refusal.UNFIT),
    ("less than block base fee", Refusal.UNFIT),
    ("max fee per gas", Refusal.UNFIT),
)


def refusal_of(error: RpcError) -> Refusal:
    """Say what a node's answer to `eth_sendRawTransaction` means."""
    said = error.message.lower()
    return next((refusal for words, refusal in _REFUSALS if words in said), Refusal.UNCLEAR)
