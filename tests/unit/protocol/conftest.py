"""What a purchase looks like: one order, one offer for it, one charge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rail402.protocol.charge import Charge
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order

NOW = 1_800_000_000


@pytest.fixture
def order() -> Order:
    return Order(method="GET", url="https://api.example.com/article/402?lang=en", route="GET /article/{slug}")


@pytest.fixture
def make_offer() -> Callable[..., Offer]:
    def make(**terms: Any) -> Offer:
        defaults: dict[str, Any] = {
            "rail": "base",
            "mechanism": "eip3009",
            "network": "eip155:8453",
            "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            "amount": 3000,
            "currency": "USDC",
            "exponent": 6,
            "payee": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "expires_at": NOW + 600,
            "timeout_seconds": 180,
            "flow": Flow.AUTHORIZATION,
            "extra": {"name": "USD Coin", "version": "2"},
        }
        return Offer(**(defaults | terms))

    return make


@pytest.fixture
def offer(make_offer: Callable[..., Offer]) -> Offer:
    return make_offer()


@pytest.fixture
def make_charge(order: Order, make_offer: Callable[..., Offer]) -> Callable[..., Charge]:
    def make(*, flow: Flow = Flow.AUTHORIZATION, **facts: Any) -> Charge:
        offer = make_offer(flow=flow)
        defaults: dict[str, Any] = {
            "id": "ch_abcdefghijklmnopqrstuvwxyz",
            "order": order,
            "offer": offer,
            "price": offer.price,
            "dialect": "x402-v2",
            "keys": ("eip3009:8453/0x8335/0x1/0x2", "offer:nonce"),
            "created_at": NOW,
            "lease_until": NOW + 120,
            "window": 600,
        }
        return Charge(**(defaults | facts))

    return make
