"""Payments by plain ERC-20 transfer: the payer pays on the chain, and shows the transaction's hash. Pure.

A hash is public. It says that somebody paid, and neither who shows it nor for what, so:

- It buys once: whatever else the transaction holds, its hash is a consumption key, and so are the transfer's event and
  the payer's EIP-3009 authorizations in the same transaction. What an authorization has paid for is not paid for again
  by the hash of the transaction that it was handed in with, from the moment that the authorization is claimed.
- Whoever shows it first gets what it bought, unless `Transfers.must_sign` is set. Afterwards nobody gets the stored
  response for a bare hash.
- A payer can prove to be the one: by an EIP-191 signature of the paying account over a text that names the request,
  the payee and the transaction (`proof_text`). Such a payment opens no other request, and replays. A payer that is a
  contract has no key to sign with, and sends the bare hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402_base.chain import Deposit, Deposits
from rail402_base.eip3009 import keccak256, recover

__all__ = [
    "EIP191",
    "MECHANISM",
    "TransferProof",
    "Transfers",
    "accepted",
    "message_digest",
    "order_terms",
    "parse_proof",
    "proof_text",
    "signer_of",
]

MECHANISM: Final = "transfer"

EIP191: Final = "eip191"
"""What a challenge calls a signature over `proof_text`."""

_DAY: Final = 86_400
_PENDING_SECONDS: Final = 2

_is_hash = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII).fullmatch
_is_signature = re.compile(r"0x[0-9a-fA-F]{130}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """That plain transfers are taken, and which.

    Attributes:
        max_age: seconds that a transfer may be old when it is first shown: a day at most, because a charge guards its
            payment for a day at least.
        confirmations: how many blocks it must have, its own counted. One is enough where no block is ever taken back;
            where the latest ones can be, more of them keep a transfer from paying that is undone afterwards.
        not_before: Unix seconds; older transfers are not taken. Set it where the address was paid before this store of
            charges was there, or after the store was lost: what it does not remember could pay again.
        must_sign: only take transfers whose payer signs. Without it, whoever reads the chain can show the hash of
            somebody else's payment first; with it, nobody can, and clients that know nothing but the hash cannot pay.

    Raises:
        ConfigurationError: one of them is out of its range.
    """

    max_age: int = 3600
    confirmations: int = 1
    not_before: int = 0
    must_sign: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_age <= _DAY or self.confirmations < 1 or self.not_before < 0:
            raise ConfigurationError(
                f"transfers: max_age must be 1 to {_DAY} seconds, confirmations 1 or more, and not_before a time"
            )


@dataclass(frozen=True, slots=True)
class TransferProof:
    """What a payer shows: the hash of its transaction, in lower case, and perhaps its signature (65 bytes)."""

    transaction: str
    signature: bytes | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """The proof as it travels."""
        signed = {} if self.signature is None else {"signature": "0x" + self.signature.hex()}
        return {"transaction": self.transaction, **signed}


def parse_proof(payload: Mapping[str, object]) -> TransferProof:
    """Read a proof.

    Raises:
        MalformedInput: the message names the member; code `payload_invalid`.
    """
    transaction, signature = payload.get("transaction"), payload.get("signature")
    if not isinstance(transaction, str) or not _is_hash(transaction):
        raise MalformedInput("transaction", "must be a transaction hash: 0x and 64 hex digits", code="payload_invalid")
    if signature is None:
        return TransferProof(transaction.lower())
    if not isinstance(signature, str) or not _is_signature(signature):
        raise MalformedInput("signature", "must be 0x and 130 hex digits (65 bytes)", code="payload_invalid")
    return TransferProof(transaction.lower(), bytes.fromhex(signature[2:]))


def order_terms(order: Order) -> dict[str, str]:
    """Return what an offer says of the order, so that its payment can name it."""
    return {"method": order.method, "url": order.url}


def proof_text(offer: Offer, transaction: str) -> str | None:
    """Return what a payer signs; None where the offer does not say what is bought."""
    method, url = offer.extra.get("method"), offer.extra.get("url")
    if not isinstance(method, str) or not isinstance(url, str):
        return None
    lines = [
        "I paid for this request (rail402 proof of payment)",
        f"Request: {method} {url}",
        f"Network: {offer.network}",
        f"Payee: {offer.payee}",
        f"Transaction: {transaction}",
    ]
    return "\n".join(lines)


def message_digest(text: str) -> bytes:
    """Return the 32 bytes that are signed for a text (EIP-191, version 0x45, which is `personal_sign`)."""
    message = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(message)).encode() + message)


def signer_of(offer: Offer, proof: TransferProof) -> str | None:
    """Return whose signature a proof has; None where it has none.

    Raises:
        PaymentRejected: it is no signature, or nothing says for what it should be one; code `signature_invalid`.
    """
    if proof.signature is None:
        return None
    text = proof_text(offer, proof.transaction)
    if text is None:
        raise PaymentRejected("the offer names no request to sign for", code="signature_invalid")
    return recover(message_digest(text), proof.signature)


def accepted(transfers: Transfers, offer: Offer, found: Deposits | None, *, signer: str | None, now: int) -> Deposit:
    """Return the transfer that pays for an offer.

    Where the transaction holds several that could, it is the first of those that no authorization of their payer's can
    have made, else the first. More than the price is accepted; nothing of it is given back.

    Args:
        found: what the transaction brought to the payee.
        signer: whose signature came with it.

    Raises:
        PaymentRejected: none does, with the reason code. `not_settled` where it may yet: it can be shown again.
    """
    if found is None:
        detail = f"no block holds it yet, or fewer than {transfers.confirmations} blocks are on it; send it again"
        raise PaymentRejected(detail, code="not_settled", retry_after=_PENDING_SECONDS)
    if not found.succeeded:
        raise PaymentRejected("the transaction reverted: it moved nothing", code="payment_declined")
    if not found.all:
        raise PaymentRejected(f"the transaction moves none of this token to {offer.payee}", code="payee_mismatch")
    if now - found.at > transfers.max_age or found.at < transfers.not_before:
        detail = f"the transfer is {now - found.at} s old, and may be {transfers.max_age} s old"
        raise PaymentRejected(detail, code="authorization_expired")
    enough = [each for each in found.all if each.value >= offer.amount]
    if not enough:
        most = max(each.value for each in found.all)
        raise PaymentRejected(
            f"it is for {most} atomic units, and {offer.amount} were asked for", code="amount_mismatch"
        )
    if signer is None and transfers.must_sign:
        raise PaymentRejected("sign for it: a bare transaction hash is not taken here", code="signature_invalid")
    own = [each for each in enough if signer in (None, each.payer)]
    if not own:
        detail = f"the signature is that of {signer}, and {enough[0].payer} paid; a contract sends the bare hash"
        raise PaymentRejected(detail, code="signature_invalid")
    return min(own, key=lambda each: (bool(each.nonces), each.log_index))
