"""A plain ERC-20 transfer as the sandbox chain takes it: what its owner signs, and its hash. Pure.

On a real chain it is a transaction of the owner's own account, with gas and an account's nonce. Here there is neither;
32 bytes of the owner's choice tell two equal transfers apart, and the same one sent twice is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from rail402.errors import MalformedInput
from rail402_base.eip3009 import keccak256, parse_address, sign
from rail402_base.tokens import Token

__all__ = ["PlainTransfer", "sign_transfer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTransfer:
    """Who moves how much to whom; `value` in atomic units, `nonce` 32 bytes.

    Raises:
        MalformedInput: one of the addresses is none, or the value is negative.
    """

    payer: str
    payee: str
    value: int
    nonce: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "payer", parse_address(self.payer, "payer"))
        object.__setattr__(self, "payee", parse_address(self.payee, "payee"))
        if self.value < 0:
            raise MalformedInput("value", "must not be negative")

    def digest(self, token: Token) -> bytes:
        """Return the 32 bytes that the owner signs."""
        said = (
            f"rail402 sandbox transfer\n{token.network.caip2}/{token.address}\n{self.payer}\n{self.payee}\n{self.value}"
        )
        return keccak256(said.encode() + b"\n" + self.nonce)

    def hash(self, token: Token) -> str:
        """Return the transaction's hash."""
        return "0x" + keccak256(b"rail402 sandbox transaction\n" + self.digest(token)).hex()


def sign_transfer(transfer: PlainTransfer, token: Token, private_key: bytes) -> bytes:
    """Sign a transfer with the owner's key; 65 bytes."""
    return sign(transfer.digest(token), private_key)
