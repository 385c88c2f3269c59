"""Macaroons: the bytes of other libraries, and what nobody can take away."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects.macaroon import Macaroon, mint, parse
from rail402.errors import MalformedInput

from .dialect_fakes import vectors

KEY = b"k" * 32


@pytest.mark.parametrize("vector", vectors("macaroons.json")["vectors"], ids=lambda vector: vector["name"])
def test_the_bytes_are_those_of_other_libraries(vector: dict[str, Any]) -> None:
    root_key = bytes.fromhex(vector["root_key"])
    caveats = [caveat.encode() for caveat in vector["caveats"]]
    made = mint(root_key, bytes.fromhex(vector["identifier"]), vector["location"].encode(), caveats)
    assert made.signature.hex() == vector["signature"]
    assert base64.b64encode(made.serialize()).decode() == vector["base64"]
    assert parse(base64.b64decode(vector["base64"])) == made
    assert made.verifies(root_key)
    assert not made.verifies(root_key[:-1])


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=40), st.lists(st.binary(min_size=1, max_size=200)))
def test_a_round_trip(identifier: bytes, location: bytes, caveats: list[bytes]) -> None:
    made = mint(KEY, identifier, location, caveats[:20])
    assert parse(made.serialize()) == made
    assert made.verifies(KEY)


@pytest.mark.parametrize("size", [1, 127, 128, 300])
def test_a_field_of_any_size(size: int) -> None:
    made = mint(KEY, b"i" * size, b"l" * size, [b"c" * size])
    assert parse(made.serialize()) == made


def test_anybody_can_restrict_and_nobody_can_widen() -> None:
    whole = mint(KEY, b"id", b"", [b"a=1"])
    less = whole.restrict(b"b=2")
    assert less == mint(KEY, b"id", b"", [b"a=1", b"b=2"])
    widened = [
        Macaroon(b"", b"id", (b"a=1",), less.signature),
        Macaroon(b"", b"id", (b"b=2",), less.signature),
        Macaroon(b"", b"id", (), whole.signature),
        Macaroon(b"", b"id", (b"b=2", b"a=1"), less.signature),
        Macaroon(b"", b"other", (b"a=1",), whole.signature),
    ]
    assert not any(macaroon.verifies(KEY) for macaroon in widened)


def test_its_repr_does_not_let_it_be_used() -> None:
    assert repr(mint(KEY, b"id", b"", [b"a=1"])) == "Macaroon(identifier=6964, 1 caveats)"


GOOD = mint(KEY, b"id", b"here", [b"a=1"]).serialize()


@pytest.mark.parametrize("vector", vectors("macaroons.json")["rejected"], ids=lambda vector: vector["name"])
def test_what_is_no_macaroon(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput, match=vector["problem"]):
        parse(bytes.fromhex(vector["hex"]))


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"\x02" + bytes(8192), "longer"), (mint(KEY, b"id", b"", [b"a"] * 65).serialize(), "more than 64")],
)
def test_what_is_too_large(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        parse(data)


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda cut, byte: GOOD[:cut] + bytes([byte]) + GOOD[cut + 1 :], st.integers(0, len(GOOD)), st.integers(0, 255)
    )
)
def test_hostile_bytes_are_refused_or_do_not_verify(data: bytes) -> None:
    try:
        macaroon = parse(data)
    except MalformedInput:
        return
    same = macaroon.identifier == b"id" and macaroon.caveats == (b"a=1",)
    assert macaroon.verifies(KEY) == (same and macaroon.signature == parse(GOOD).signature)
