"""Header fields, and what a dialect must implement."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import MalformedInput
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry

FUZZ = settings(derandomize=True, database=None, deadline=None, max_examples=100)


class TestFields:
    def test_names_are_without_case_and_values_untouched(self) -> None:
        fields = Fields([("PAYMENT-Signature", " aB= "), ("X", "1")])
        assert fields.one("payment-signature") == " aB= "
        assert list(fields) == [("payment-signature", " aB= "), ("x", "1")]

    def test_nothing(self) -> None:
        fields = Fields()
        assert (fields.one("x"), fields.all("x"), list(fields)) == (None, [], [])

    def test_lines_keep_their_order(self) -> None:
        fields = Fields([("Authorization", "a"), ("Cookie", "x"), ("authorization", "b")])
        assert fields.all("authorization") == ["a", "b"]

    def test_the_same_value_twice_is_one(self) -> None:
        assert Fields([("x", "1"), ("X", "1")]).one("x") == "1"

    @pytest.mark.parametrize("second", ["2", "1 ", ""])
    def test_two_values_are_refused(self, second: str) -> None:
        with pytest.raises(MalformedInput, match="twice") as caught:
            Fields([("x", "1"), ("X", second)]).one("x")
        assert (caught.value.code, caught.value.field, caught.value.status) == ("several_payments", "x", 400)

    def test_a_size_is_read_and_more_is_not(self) -> None:
        assert Fields([("x", "a" * MAX_HEADER_BYTES)]).one("x") == "a" * MAX_HEADER_BYTES
        with pytest.raises(MalformedInput, match="longer than 65536") as caught:
            Fields([("x", "a" * (MAX_HEADER_BYTES + 1))]).one("x")
        assert caught.value.code == "malformed_payment"

    def test_a_line_is_read_once_by_each_reader(self) -> None:
        asked = []

        def read(line: str) -> str:
            asked.append(line)
            return line.upper()

        fields = Fields([("A", "x"), ("b", "y"), ("a", "z")])
        assert [fields.each("a", read), fields.each("b", read), fields.each("a", read)] == [
            ["X", "Z"],
            ["Y"],
            ["X", "Z"],
        ]
        assert fields.each("a", str) == ["x", "z"]
        assert fields.each("c", read) == []
        assert asked == ["x", "z", "y"]
        assert Fields([("a", "other")]).each("a", read) == ["OTHER"]

    @FUZZ
    @given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=5))
    def test_any_bytes_are_fields(self, raw: list[tuple[bytes, bytes]]) -> None:
        fields = Fields.from_raw(raw)
        assert [value.encode("latin-1") for _, value in fields] == [value for _, value in raw]
        for name, _ in fields:
            assert fields.all(name) or name != name.lower()


def test_an_envelope_is_empty_unless_told() -> None:
    assert Envelope() == Envelope(fields=(), body={})
    assert Envelope().body is not Envelope().body


def test_a_client_has_no_secrets() -> None:
    context = Context(specs=Registry([]), now=1)
    assert (context.keys, context.realm) == (None, "")


class Whisper(Dialect):
    """A dialect that has nothing to say."""

    name, echo, request_fields, response_fields = "whisper", "none", ("x-whisper", "x-aside"), ()

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        return Envelope()

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        return []

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> list[tuple[str, str]]:
        return []

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        return []

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> list[tuple[str, str]]:
        return []


def test_a_credential_travels_in_the_first_field_unless_told(offer: Offer) -> None:
    assert Whisper().credential_field(offer) == "x-whisper"


def test_a_dialect_implements_both_ends() -> None:
    with pytest.raises(TypeError, match="challenge, credential, offers, payments"):
        Dialect()  # type: ignore[abstract]
