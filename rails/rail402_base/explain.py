"""What offers and payment URIs on Base say, for tools that show them and move nothing. Pure."""

from __future__ import annotations

import re
from typing import Any

from rail402.money import Money
from rail402.plugins import Explained
from rail402.protocol.offer import Offer
from rail402.protocol.rail import RailSpec
from rail402_base.payment_uri import SCHEME, parse_payment_uri
from rail402_base.tokens import NETWORKS, TOKENS, find_token
from rail402_base.transfers import MECHANISM as TRANSFER
from rail402_base.wire import BaseSpec

__all__ = ["describe", "explain", "network_name", "specs"]

_is_hash = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII).fullmatch


def specs() -> list[RailSpec]:
    """Return a spec for each token. A challenge that leaves the network open is then read by several."""
    return [BaseSpec(token, transfers=True) for token in TOKENS]


def network_name(network: str) -> str | None:
    """Return what people call a network."""
    known = NETWORKS.get(network)
    return None if known is None else known.title


def describe(offer: Offer) -> dict[str, Any] | None:
    """Return what the payer of an offer would sign (the EIP-712 domain and the message), or would send on the chain."""
    token = find_token(offer.network, offer.asset)
    if token is None:
        return None
    paid = {
        "token": f"{token.symbol}, {token.decimals} decimals",
        "message": {"to": offer.payee, "value": str(offer.amount)},
    }
    if offer.mechanism == TRANSFER:
        return {"sent": "transfer (ERC-20), by the payer, with gas", "contract": token.address, **paid}
    domain = token.domain
    return {
        "signed": "TransferWithAuthorization (EIP-3009)",
        **paid,
        "domain": {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.verifying_contract,
        },
        "valid_for_seconds": offer.timeout_seconds,
    }


def explain(text: str) -> Explained | None:
    """Return what a payment URI or a transaction hash says, None for any other text.

    Raises:
        MalformedInput: it is a payment URI that cannot be read.
    """
    if text[: len(SCHEME)].lower() == SCHEME:
        return _payment_uri(text)
    if _is_hash(text):
        return Explained("32 bytes with 0x: a transaction hash, or a nonce", {"hash": text.lower()})
    return None


def _payment_uri(text: str) -> Explained:
    uri = parse_payment_uri(text)
    network = f"eip155:{uri.chain_id}"
    facts: dict[str, Any] = {"network": network, "network_name": network_name(network)}
    notes = []
    token = find_token(network, uri.target) if uri.function else None
    if uri.function:
        facts |= {"function": uri.function, "token": uri.target, "token_name": token.symbol if token else None}
    if uri.function and token is None:
        notes.append("the token is not known here, so what one unit of it is worth cannot be said")
    facts |= {"payee": uri.payee, "amount": None if uri.amount is None else str(uri.amount)}
    if token is not None and uri.amount is not None:
        facts["price"] = str(Money.from_atomic(uri.amount, token.decimals, token.symbol))
    if uri.amount is None:
        notes.append("it names no amount: the payer is to choose")
    facts["parameters"] = dict(uri.parameters)
    return Explained("payment URI (EIP-681)", facts, notes)
