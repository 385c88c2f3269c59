"""The extension `offer-receipt` of x402: where signed offers and receipts stand in its messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rail402.protocol.base import Json
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Signer
from rail402.protocol.offer import Offer
from rail402.protocol.offer_receipt import OfferTerms, ReceiptTerms

__all__ = ["NAME", "offers_in", "receipt_in", "signed_offers", "signed_receipt"]

NAME: Final = "offer-receipt"

_ARTIFACT: Final = {
    "type": "object",
    "properties": {"format": {"type": "string", "const": "jws"}, "signature": {"type": "string"}},
    "required": ["format", "signature"],
}
_OFFERS: Final = {"offers": {"type": "array", "items": _ARTIFACT}}
_RECEIPT: Final = {"receipt": _ARTIFACT}


def signed_offers(url: str, accepts: Sequence[Json], offers: Sequence[Offer], sign: Signer) -> Json:
    """Return the extension of a challenge: the terms of each entry of `accepts`, signed.

    Args:
        offers: what the entries were made of, in their order.
    """
    signed = []
    for index, (entry, offer) in enumerate(zip(accepts, offers, strict=True)):
        terms = OfferTerms(
            resource_url=url,
            scheme=entry["scheme"],
            network=entry["network"],
            asset=entry["asset"],
            pay_to=entry["payTo"],
            amount=entry["amount"],
            valid_until=offer.expires_at,
        )
        signed.append({"format": "jws", "acceptIndex": index, "signature": sign(terms.payload)})
    return _extension(_OFFERS, {"offers": signed})


def signed_receipt(charge: Charge, sign: Signer) -> Json | None:
    """Return the extension of a settlement response; None where nobody knows who paid, which a receipt must say.

    It does not name the transaction: a receipt that is shown to others should not lead them to the payer's other ones.
    """
    if charge.payer is None or charge.settled_at is None:
        return None
    terms = ReceiptTerms(
        network=charge.offer.network,
        resource_url=charge.order.url,
        payer=charge.payer,
        issued_at=charge.settled_at,
    )
    return _extension(_RECEIPT, {"receipt": {"format": "jws", "signature": sign(terms.payload)}})


def offers_in(extensions: object) -> list[Json]:
    """Return the signed offers of a challenge's `extensions`, unverified."""
    offers = _info(extensions).get("offers")
    return [offer for offer in offers if isinstance(offer, Mapping)] if isinstance(offers, list) else []


def receipt_in(extensions: object) -> Json | None:
    """Return the signed receipt of a settlement response's `extensions`, unverified."""
    receipt = _info(extensions).get("receipt")
    return receipt if isinstance(receipt, Mapping) else None


def _info(extensions: object) -> Json:
    extension: Any = extensions.get(NAME) if isinstance(extensions, Mapping) else None
    info = extension.get("info") if isinstance(extension, Mapping) else None
    return info if isinstance(info, Mapping) else {}


def _extension(properties: Json, info: Json) -> Json:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
    return {NAME: {"info": info, "schema": schema}}
