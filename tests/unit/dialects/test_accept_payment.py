"""`Accept-Payment`: what a client prefers comes first, and what says nothing changes nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects.accept_payment import MAX_FIELD, preferred

OFFERED = ["tempo/charge", "stripe/charge", "lightning/charge", "lightning/session"]


def chosen(field: str) -> list[str]:
    def names(entry: str) -> tuple[str, str]:
        method, intent = entry.split("/")
        return method, intent

    return preferred(field, OFFERED, names)


@pytest.mark.parametrize(
    ("field", "order"),
    [
        ("stripe/charge", ["stripe/charge"]),
        ("lightning/charge, stripe/charge;q=0.5", ["lightning/charge", "stripe/charge"]),
        ("stripe/charge;q=0.5,lightning/charge;q=0.501", ["lightning/charge", "stripe/charge"]),
        ("*/*;q=0.1, stripe/*", ["stripe/charge", "tempo/charge", "lightning/charge", "lightning/session"]),
        ("*/*, */session;q=0", ["tempo/charge", "stripe/charge", "lightning/charge"]),
        ("*/*, lightning/*;q=0, lightning/charge;q=0.2", ["tempo/charge", "stripe/charge", "lightning/charge"]),
        (
            "*/charge;q=0.3, lightning/*;q=0.9",
            ["lightning/charge", "lightning/session", "tempo/charge", "stripe/charge"],
        ),
        ("STRIPE/Charge ; Q=1.000", ["stripe/charge"]),
    ],
)
def test_the_order_is_the_clients(field: str, order: list[str]) -> None:
    assert chosen(field) == order


@pytest.mark.parametrize(
    "field",
    [
        *("", " ", ",", "stripe", "stripe/", "/charge", "stripe/charge;", "stripe/charge;q", "stripe/charge;q=2"),
        *("stripe/charge;q=0.1234", "stripe/charge;q=-1", "stripe/charge,", "stripe/charge lightning/charge", "*"),
        *("solana/*", "*/*;q=0", "stripe/charge\n", "stripe/charge;level=1", "stripe/charge," + "x/y," * 2000 + "x/y"),
    ],
)
def test_what_says_nothing_changes_nothing(field: str) -> None:
    assert chosen(field) == OFFERED


@given(st.text(max_size=200) | st.text("*/;q=.01, abc", max_size=200))
def test_whatever_comes_some_of_what_is_offered_stays(field: str) -> None:
    found = chosen(field)
    assert found
    assert set(found) <= set(OFFERED)
    assert len(set(found)) == len(found)


def test_a_long_field_is_passed_over_at_once() -> None:
    started = time.process_time()
    assert chosen("stripe/charge;" + " " * (MAX_FIELD - 20)) == OFFERED
    assert chosen("stripe/charge," * 10**6) == OFFERED
    assert time.process_time() - started < 2
