"""How the dialects of the documents are checked against their vectors."""

from __future__ import annotations

from typing import Any

from rail402.dialects import dialect_by_name
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer

from .dialect_fakes import CLIENT, NOW, vectors

ALL = vectors("documents_dialects.json")


def read(dialect: str, vector: dict[str, Any]) -> list[Offer]:
    return dialect_by_name(dialect).offers(Fields(map(tuple, vector["fields"])), vector["body"].encode(), CLIENT)


def summary(offer: Offer) -> list[Any]:
    """Amount, payee, seconds until it expires, token."""
    assert offer.envelope is not None
    return [offer.amount, offer.payee, offer.expires_at - NOW, offer.envelope.get("token")]
