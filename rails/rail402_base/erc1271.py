"""Signatures of payers that are contracts (ERC-1271): what is asked of one, and what its answer means. Pure.

A contract has no key. Whether a signature is its own only the contract can say, and it may say something else tomorrow:
its owners change, or it lies. So it is asked when a payment is verified, and the token asks it once more when the
payment is handed in. A payment that is known already is told from a forgery by the digest of the signature which the
contract accepted.

A wallet that is not deployed yet cannot be asked. What ERC-6492 wraps around its signature deploys it: a call, chosen
by the payer, that we would pay the gas of. That is not done here.
"""

from __future__ import annotations

import hashlib
from typing import Final

from rail402.errors import PaymentRejected

__all__ = ["IS_VALID_SIGNATURE", "PROOF_DIGEST", "is_accepted", "proof_digest", "require_deployed"]

IS_VALID_SIGNATURE: Final = "isValidSignature(bytes32,bytes)"
"""What is asked; its selector is also the answer of a contract that accepts."""

PROOF_DIGEST: Final = "proof_digest"
"""Where the digest is in `Verified.state`."""

_ACCEPTED: Final = bytes.fromhex("1626ba7e").ljust(32, b"\0")
_WRAPPED: Final = bytes.fromhex(16 * "6492")


def is_accepted(answer: bytes) -> bool:
    """Say whether a contract's answer accepts a signature: one word with the magic value, and nothing else."""
    return answer == _ACCEPTED


def proof_digest(signature: bytes) -> str:
    """Return what is kept of a signature: 64 hex digits from which it cannot be made again."""
    return hashlib.sha256(signature).hexdigest()


def require_deployed(signature: bytes) -> None:
    """Refuse the signature of a wallet that would have to be deployed first (ERC-6492).

    Raises:
        PaymentRejected: it is one; code `wallet_undeployed`.
    """
    if signature.endswith(_WRAPPED):
        detail = "it is wrapped for a wallet that is not deployed (ERC-6492); deploy it, and sign without the wrapper"
        raise PaymentRejected(detail, code="wallet_undeployed")
