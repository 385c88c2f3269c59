"""What offers and tokens of Stripe say, for tools that show them and move nothing. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import SecretStr

from rail402.plugins import Explained
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import RailSpec
from rail402_stripe.proofs import proof_kinds_of
from rail402_stripe.wire import Network, StripeSpec

__all__ = ["describe", "explain", "network_name", "specs"]

_NAMES: Final[Mapping[str, str]] = {
    "stripe:live": "Stripe",
    "stripe:test": "Stripe, test mode",
    "stripe:sandbox": "Sandbox (no real money)",
}

_is_token = re.compile(r"spt_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch


def specs() -> list[RailSpec]:
    """Return a spec for each mode. A challenge does not say which one it is about, so several may read it."""
    return [StripeSpec(network) for network in get_args(Network)]


def network_name(network: str) -> str | None:
    """Return what people call a network."""
    return _NAMES.get(network)


def describe(offer: Offer) -> dict[str, Any]:
    """Return what can be shown for an offer, and what the seller then takes."""
    held = offer.flow is Flow.ESCROW
    return {
        "seller": offer.payee,
        "limit": str(offer.price),
        "taken": "reserved first, captured when the answer is ready" if held else "charged before the answer",
        "proofs": sorted(proof_kinds_of(offer)),
        **offer.extra,
    }


def explain(text: str) -> Explained | None:
    """Return what is known of a shared payment token without asking Stripe; None for any other text."""
    if not _is_token(text):
        return None
    notes = ["it is a bearer secret; what it allows only Stripe can say"]
    return Explained("shared payment token of Stripe (SPT)", {"spt": SecretStr(text)}, notes)
