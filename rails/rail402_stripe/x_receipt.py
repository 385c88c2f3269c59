"""How a Stripe offer and its proof look in X-Receipt: MPP's request is the `payment` object. Pure."""

from __future__ import annotations

from typing import Final

from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Binding
from rail402_stripe.proofs import payload_of, proof_in, proof_of, receipt_of

__all__ = ["XReceiptBinding"]

_NETWORK: Final = "stripe"


class XReceiptBinding:
    """X-Receipt's `payment` object for the network `stripe`.

    The receipt is the id of the PaymentIntent, `pi_…`, or of the Checkout Session, `cs_…`. Neither is a secret, so by
    itself it opens nothing: the offer's token must come along. A shared payment token is a receipt too.

    Args:
        mpp: the rail's binding for MPP.
    """

    fixed_terms = True

    def __init__(self, mpp: Binding) -> None:
        self._mpp = mpp

    def encode_offer(self, offer: Offer) -> Json:
        """Return the `payment` object."""
        said = self._mpp.encode_offer(offer)
        assert said is not None, "MPP can say every offer of this rail"
        return {"network": _NETWORK, **said["request"]}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read the `payment` object; None for another network."""
        if wire.get("network") != _NETWORK:
            return None
        return self._mpp.decode_offer({"method": _NETWORK, "intent": "charge", "request": wire}, expires_at=expires_at)

    def encode_proof(self, payload: Json) -> Json:
        """Return the receipt."""
        return {"receipt": receipt_of(proof_of(payload))}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read the receipt; None where it does not begin as one of ours does."""
        proof = proof_in(wire["receipt"])
        return None if proof is None else payload_of(proof.value, None, proof.kind)
