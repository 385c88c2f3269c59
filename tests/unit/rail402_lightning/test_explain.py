"""What the rail says about texts of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from rail402.errors import MalformedInput
from rail402_lightning.config import PLUGIN
from rail402_lightning.explain import describe, explain, network_name
from tests.unit.rail402_lightning.invoices import AMOUNT, EXPIRY, HASH, NOW, PAYEE, PREIMAGE, invoice, offer

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "bolt11.json").read_text(encoding="utf-8")
)


def test_a_spec_for_each_network() -> None:
    names = [network_name(spec.mechanisms[0].network) for spec in PLUGIN.specs()]
    assert names == [
        *("Lightning mainnet", "Lightning testnet", "Lightning signet"),
        "Lightning regtest (the sandbox too)",
    ]
    assert network_name("lnbtc:0") is None


def test_an_invoice() -> None:
    explained = explain(invoice(description="Coffee ☕", description_hash=None))
    assert explained is not None
    assert explained.kind == "BOLT 11 invoice"
    facts = explained.facts
    assert (facts["amount_msat"], facts["amount_sat"]) == (AMOUNT, AMOUNT // 1000)
    assert (facts["created_at"], facts["expires_at"], facts["expiry_seconds"]) == (NOW, NOW + EXPIRY, EXPIRY)
    assert (facts["payee"], facts["payment_hash"]) == (PAYEE, HASH.hex())
    assert (facts["description"], facts["features"]) == ("Coffee ☕", [8, 14])
    assert isinstance(facts["payment_secret"], SecretStr)
    assert len(explained.notes) == 1


@pytest.mark.parametrize("form", ["lightning:{}", "LIGHTNING:{}", "lightning://{}", "lightning:{}?label=coffee"])
def test_a_payment_uri(form: str) -> None:
    explained = explain(form.format(invoice()))
    assert explained is not None
    assert explained.facts["amount_sat"] == AMOUNT // 1000


def test_amounts_below_a_sat_and_open_ones() -> None:
    small = explain(invoice(amount_msat=21_007))
    assert small is not None
    assert small.facts["amount_sat"] == "21.007"
    open_one = explain(invoice(amount_msat=None))
    assert open_one is not None
    assert "amount_msat" not in open_one.facts
    assert "never pays" in open_one.notes[-1]


def test_the_specifications_example_with_a_route() -> None:
    text = next(each["invoice"] for each in VECTORS["valid"] if each.get("route_hints"))
    explained = explain(text)
    assert explained is not None
    hop = explained.facts["route_hints"][0][0]
    assert hop["node"] == "029e03a901b85534ff1e92c43c74431f7ce72046060fcf7a95c37e148f78c77255"
    assert hop["channel"] == "66051x263430x1800"
    assert (hop["fee_base_msat"], hop["fee_ppm"], hop["cltv_expiry_delta_blocks"]) == (1, 20, 3)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: str(vector["name"]))
def test_every_invoice_of_the_specification(vector: dict[str, Any]) -> None:
    explained = explain(f"LIGHTNING:{vector['invoice']}")
    assert explained is not None
    assert all(value is not None for value in explained.facts.values())


def test_what_an_offer_would_pay_is_without_secrets() -> None:
    said = describe(offer())
    assert (said["invoice"], said["amount_msat"]) == (offer().extra["invoice"], AMOUNT)
    assert not [name for name, value in said.items() if isinstance(value, SecretStr)]
    assert "network" not in said


def test_other_texts() -> None:
    proof = explain(PREIMAGE.upper())
    assert proof is not None
    assert proof.facts["its_payment_hash"] == HASH.hex()
    assert proof.facts["preimage"].get_secret_value() == PREIMAGE
    for text in ("", "ab", "lnurl1abc", "0x" + PREIMAGE, "ethereum:0x"):
        assert explain(text) is None
    for text in ("lightning:", "lnbc1qqq", "lightning:LNURL1abc"):
        with pytest.raises(MalformedInput):
            explain(text)
