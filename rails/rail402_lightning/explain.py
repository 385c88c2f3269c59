"""What offers and invoices on Lightning say, for tools that show them and move nothing. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from pydantic import SecretStr

from rail402.plugins import Explained
from rail402.protocol.offer import Offer
from rail402.protocol.rail import RailSpec
from rail402_lightning import bolt11
from rail402_lightning.networks import NETWORKS, network_of
from rail402_lightning.wire import LightningSpec, invoice_of

__all__ = ["describe", "explain", "network_name", "specs"]

_is_invoice = re.compile(r"ln(?:bc|tb)[a-z0-9]+", re.ASCII | re.IGNORECASE).fullmatch
_is_32_bytes = re.compile(r"[0-9a-fA-F]{64}", re.ASCII).fullmatch
_URI = "lightning:"


def specs() -> list[RailSpec]:
    """Return a spec for each network."""
    return [LightningSpec(network.name) for network in NETWORKS]


def network_name(network: str) -> str | None:
    """Return what people call a network."""
    name = next((known.name for known in NETWORKS if known.id == network), None)
    return f"Lightning {name}{' (the sandbox too)' if name == 'regtest' else ''}" if name else None


def describe(offer: Offer) -> dict[str, Any]:
    """Return the invoice of an offer, and what it says beside the offer's own terms.

    Raises:
        MalformedInput: it has none that can be read.
    """
    invoice = invoice_of(offer)
    facts = {name: fact for name, fact in _facts(invoice).items() if name not in ("network", "network_name")}
    return {"invoice": invoice.text} | {name: fact for name, fact in facts.items() if not isinstance(fact, SecretStr)}


def explain(text: str) -> Explained | None:
    """Return what an invoice says, with `lightning:` in front or without; None for any other text.

    Raises:
        MalformedInput: it is an invoice that cannot be read.
    """
    is_uri = text[: len(_URI)].lower() == _URI
    if is_uri or _is_invoice(text):
        invoice = bolt11.decode(text[len(_URI) :].removeprefix("//").partition("?")[0] if is_uri else text)
        open_amount = ["it names no amount, and rail402 never pays such an invoice"]
        notes = open_amount if invoice.amount_msat is None else []
        return Explained("BOLT 11 invoice", _facts(invoice), ["its signature is good for this payee", *notes])
    if _is_32_bytes(text):
        facts = {"preimage": SecretStr(text.lower()), "its_payment_hash": _sha256(bytes.fromhex(text))}
        return Explained("32 bytes: a preimage, which is secret, or a payment hash", facts)
    return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _facts(invoice: bolt11.Invoice) -> dict[str, Any]:
    """Return every field of an invoice."""
    msat = invoice.amount_msat
    network = network_of(invoice.prefix)
    facts = {
        "network": network.id,
        "network_name": network_name(network.id),
        "amount_msat": msat,
        "amount_sat": None
        if msat is None
        else msat // 1000
        if msat % 1000 == 0
        else f"{msat // 1000}.{msat % 1000:03}",
        "description": invoice.description,
        "description_hash": None if invoice.description_hash is None else invoice.description_hash.hex(),
        "created_at": invoice.created_at,
        "expires_at": invoice.expires_at,
        "expiry_seconds": invoice.expiry,
        "payee": invoice.payee.hex(),
        "payment_hash": invoice.payment_hash.hex(),
        "payment_secret": SecretStr(invoice.payment_secret.hex()),
        "min_final_cltv_expiry_blocks": invoice.min_final_cltv_expiry,
        "features": sorted(invoice.features),
        "route_hints": [[_hop(hop) for hop in hint] for hint in invoice.route_hints],
        "metadata": None if invoice.metadata is None else SecretStr(invoice.metadata.hex()),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _hop(hop: bolt11.RouteHop) -> dict[str, Any]:
    channel = hop.short_channel_id
    return {
        "node": hop.node_id.hex(),
        "channel": f"{channel >> 40}x{channel >> 16 & 0xFFFFFF}x{channel & 0xFFFF}",
        "fee_base_msat": hop.fee_base_msat,
        "fee_ppm": hop.fee_proportional_millionths,
        "cltv_expiry_delta_blocks": hop.cltv_expiry_delta,
    }
