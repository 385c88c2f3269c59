"""What is offered on rails that no wallet is on: read to be named, and never to be paid."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from rail402.client import offered
from rail402.client.offered import other_offers
from rail402.dialects import DEFAULT_DIALECTS
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin, load_plugin
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.rail import Registry
from rail402_base.tokens import SANDBOX_USDC

NOW = 1_800_000_000
TERMS = {
    "scheme": "exact",
    "network": SANDBOX_USDC.network.caip2,
    "asset": SANDBOX_USDC.address,
    "amount": "3000",
    "payTo": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
    "maxTimeoutSeconds": 60,
    "extra": {"name": SANDBOX_USDC.domain.name, "version": SANDBOX_USDC.domain.version},
}


def found(*terms: dict[str, object]) -> list[str]:
    required = {"x402Version": 2, "resource": {"url": "https://shop.test/a"}, "accepts": terms}
    fields = Fields([("PAYMENT-REQUIRED", base64.b64encode(json.dumps(required).encode()).decode())])
    context = Context(specs=Registry([]), now=NOW)
    return [f"{each.rail} {each.price}" for each in other_offers(DEFAULT_DIALECTS, fields, b"", context)]


def test_every_installed_rail_reads_its_own() -> None:
    assert found(TERMS, TERMS | {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"}) == ["base 0.003 USDC"]


def test_a_server_is_not_read_for_ever() -> None:
    assert len(found(*[TERMS | {"amount": str(amount)} for amount in range(1, 40)])) == 16


@pytest.mark.parametrize("terms", [{}, TERMS | {"amount": "much"}])
def test_what_cannot_be_read_is_not_named(terms: dict[str, object]) -> None:
    assert found(terms) == []


def without_base(load: Callable[[str], RailPlugin]) -> Callable[[str], RailPlugin]:
    def loaded(name: str) -> RailPlugin:
        if name == "base":
            raise ConfigurationError("an extra is missing")
        return load(name)

    return loaded


def test_a_rail_that_cannot_be_loaded_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offered, "load_plugin", without_base(load_plugin))
    assert found(TERMS) == []
