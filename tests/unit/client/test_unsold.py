"""The body of a 402 in which a gate makes no offer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rail402.client.unsold import unsold
from rail402.money import Money

WORDS = "no rail of this route can charge 0.01 USD"


def body(**changes: Any) -> bytes:
    said = {"error": WORDS, "code": "payment_required", "price": "0.01 USD", "offers": []} | changes
    return json.dumps({name: value for name, value in said.items() if value is not ...}).encode()


@pytest.mark.parametrize("text", [body(), body(error=..., detail=WORDS), body(error="other", detail=WORDS)])
def test_the_price_and_why_are_read_in_both_forms_of_body(text: bytes) -> None:
    assert unsold(text) == (Money.parse("0.01 USD"), WORDS)


def test_no_more_than_200_characters_are_passed_on() -> None:
    assert unsold(body(error="x" * 300)) == (Money.parse("0.01 USD"), "x" * 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"offers": [{}]},
        {"offers": ...},
        {"offers": None},
        {"price": "a lot"},
        {"price": 5},
        {"price": ...},
        {"error": 5},
        {"error": ...},
        {"detail": None},
    ],
)
def test_anything_else_is_no_such_402(changes: Any) -> None:
    assert unsold(body(**changes)) is None


@pytest.mark.parametrize("text", [None, b"", b"[]", b"{", b"\xff", b"[" * 100_000, body() + b" " * 200_000])
def test_what_cannot_be_read_is_no_such_402(text: bytes | None) -> None:
    assert unsold(text) is None
