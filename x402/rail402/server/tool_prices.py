"""What a tool costs, for `tools/list`: said before anybody calls it, so that an agent can choose.

Neither MCP, x402 nor MPP has a field for it: it stands in the tool's `_meta`, under a name of ours. All of this is for
looking around, as in `openapi.py`: what counts is what a call is asked.
"""

from __future__ import annotations

from typing import Any

from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.mcp import PRICE
from rail402.money import as_money
from rail402.protocol.rail import RailSpec
from rail402.server.gate import Gate
from rail402.server.settings import Rule

__all__ = ["SPOKEN", "price_meta", "price_sentence"]

SPOKEN = (X402V2.name, Mpp.name)
"""The dialects that a tool is paid for by."""


def price_meta(gate: Gate, rule: Rule) -> dict[str, Any]:
    """Return what the `_meta` of a tool says of its price: `{"rail402/price": {...}}`.

    `price` is for people and programs, `"0.01 USD"`, and is left out where the call's arguments decide. `accepts` has
    what it may be paid with, in the seller's order: `rail`, `network` and `currency`. `dialects` has how. A pass says
    its `uses` and `seconds`.
    """
    spoken = _spoken(gate, rule)
    said: dict[str, Any] = {} if callable(rule.price) else {"price": str(as_money(rule.price))}
    if rule.receipts.uses > 1:
        said |= {"uses": rule.receipts.uses, "seconds": rule.receipts.seconds}
    said["accepts"] = [
        {"rail": spec.name, "network": network, "currency": currency}
        for spec in _taken(gate, rule, spoken)
        for network, currency in dict.fromkeys((each.network, each.currency) for each in spec.mechanisms)
    ]
    return {PRICE: {**said, "dialects": spoken}}


def price_sentence(gate: Gate, rule: Rule) -> str:
    """Return the same as a sentence, for a tool's description: hosts show a model that, and rarely `_meta`."""
    price = "what its arguments decide" if callable(rule.price) else str(as_money(rule.price))
    if rule.receipts.uses > 1:
        price += f" for {rule.receipts.uses} calls within {rule.receipts.seconds} seconds"
    rails = [spec.name for spec in _taken(gate, rule, _spoken(gate, rule))]
    return f"Costs {price}, to be paid by {' or '.join(rails)}."


def _spoken(gate: Gate, rule: Rule) -> list[str]:
    return [name for name in SPOKEN if name in (gate.dialects if rule.dialects is None else rule.dialects)]


def _taken(gate: Gate, rule: Rule, spoken: list[str]) -> list[RailSpec]:
    """Return the rails that a tool takes; one that speaks no dialect of tools is none."""
    names = [spec.name for spec in gate.specs] if rule.rails is None else rule.rails
    return [gate.specs[name] for name in names if not gate.specs[name].bindings.keys().isdisjoint(spoken)]
