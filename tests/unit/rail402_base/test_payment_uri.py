"""Payment URIs: the specification's examples, and whatever else may stand there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput
from rail402_base.payment_uri import parse_payment_uri

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "payment_uris.json").read_text(encoding="utf-8")
)
ADDRESS = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["name"])
def test_accepted(vector: dict[str, Any]) -> None:
    uri = parse_payment_uri(vector["uri"])
    assert (uri.target, uri.chain_id, uri.function) == (vector["target"], vector["chain_id"], vector["function"])
    assert (uri.payee, uri.amount) == (vector["payee"], vector["amount"])


@pytest.mark.parametrize("vector", VECTORS["reject"], ids=lambda vector: vector["name"])
def test_rejected(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        parse_payment_uri(vector["uri"])


@given(st.integers(1, 2**63 // 10), st.integers(1, 2**256 - 1))
def test_what_is_written_is_read(chain_id: int, amount: int) -> None:
    uri = parse_payment_uri(f"ethereum:{ADDRESS}@{chain_id}/transfer?address={ADDRESS}&uint256={amount}")
    assert (uri.chain_id, uri.payee, uri.amount) == (chain_id, ADDRESS, amount)


@given(st.text(), st.sampled_from(["ethereum:", f"ethereum:{ADDRESS}@", f"ethereum:{ADDRESS}?value=", ""]))
def test_any_text_is_read_or_refused(text: str, start: str) -> None:
    try:
        parse_payment_uri(start + text)
    except MalformedInput:
        return


def test_a_long_text_is_refused_at_once() -> None:
    with pytest.raises(MalformedInput):
        parse_payment_uri(f"ethereum:{ADDRESS}?" + "&".join(f"{number}=1" for number in range(100_000)))
