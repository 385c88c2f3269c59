"""Records, the canonical form, and the one parser of a peer's JSON."""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import cached_property

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rail402.errors import MalformedInput
from rail402.protocol.base import (
    MAX_JSON_DEPTH,
    Record,
    canonical_json,
    hmac_sha256,
    hmac_sha256_again,
    parse_json,
    sha256_hex,
    text_member,
)

FUZZ = settings(derandomize=True, database=None, deadline=None, max_examples=150)


class Coffee(Record):
    size: int
    name: str = "espresso"

    @cached_property
    def label(self) -> str:
        return f"{self.name} {self.size}"


class TestRecord:
    def test_a_record_does_not_change(self) -> None:
        with pytest.raises(ValidationError):
            Coffee(size=1).size = 2  # type: ignore[misc]

    def test_unknown_members_are_refused_and_what_they_hold_is_not_shown(self) -> None:
        with pytest.raises(ValidationError, match="sugar") as caught:
            Coffee(size=1, sugar="hunter2")  # type: ignore[call-arg]
        assert "hunter2" not in str(caught.value)

    def test_a_copy_has_the_changes(self) -> None:
        first = Coffee(size=1)
        assert first.model_copy(update={"size": 2}) == Coffee(size=2)
        assert first.model_copy() == first == Coffee(size=1)

    def test_a_copy_does_not_inherit_what_was_worked_out_for_the_original(self) -> None:
        first = Coffee(size=1)
        assert first.label == "espresso 1"
        assert first.model_copy(update={"size": 2}).label == "espresso 2"
        assert first.label == "espresso 1"

    def test_a_copy_changes_fields_only(self) -> None:
        with pytest.raises(TypeError, match="Coffee has no milk, sise"):
            Coffee(size=1).model_copy(update={"sise": 2, "milk": True})


class TestCanonicalJson:
    def test_the_example_of_rfc_8785(self) -> None:
        value = {
            "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
            "literals": [None, True, False],
        }
        assert (
            canonical_json(value)
            == (
                '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
                '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
            ).encode()
        )

    def test_members_are_in_order(self) -> None:
        assert canonical_json({"b": 1, "a": {"d": [], "c": ""}}) == b'{"a":{"c":"","d":[]},"b":1}'

    @FUZZ
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_the_short_way_writes_what_the_library_writes(self, value: object) -> None:
        try:
            expected = rfc8785.dumps(value)  # type: ignore[arg-type]
        except ValueError:
            with pytest.raises(ValueError):  # noqa: PT011 (whatever the library says)
                canonical_json(value)
        else:
            assert canonical_json(value) == expected

    @pytest.mark.parametrize(
        "value",
        ["\x7f\x00\b/", {"\x7f": [], "~": {}}, {"a": 2**53 - 1, "B": -(2**53) + 1, "": [True, None, False]}, [], {}, 0],
    )
    def test_corners_of_the_short_way(self, value: object) -> None:
        assert canonical_json(value) == rfc8785.dumps(value)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [2**53, [-(2**53)], {"a": "\ud800"}, {1: 2}, float("nan"), object()])
    def test_what_has_no_canonical_form(self, value: object) -> None:
        with pytest.raises((ValueError, TypeError)):
            canonical_json(value)


def test_hmac_sha256() -> None:  # RFC 4231, test case 2
    for made in (hmac_sha256, hmac_sha256_again):
        mac = made(b"Jefe", b"what do ya want for nothing?")
        assert mac.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@FUZZ
@given(st.binary(max_size=130), st.lists(st.binary(max_size=200), max_size=3))
def test_a_key_that_is_used_again_makes_what_it_would_make_anew(key: bytes, texts: list[bytes]) -> None:
    for data in texts:
        assert hmac_sha256_again(key, data) == hmac.digest(key, data, hashlib.sha256)


def test_sha256_hex() -> None:
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def refused(data: bytes | str, because: str, max_bytes: int = 100_000) -> None:
    with pytest.raises(MalformedInput, match=because) as caught:
        parse_json(data, field="PAYMENT-SIGNATURE", max_bytes=max_bytes)
    assert caught.value.field == "PAYMENT-SIGNATURE"
    assert caught.value.status == 400


class TestParseJson:
    @pytest.mark.parametrize("data", ['{"a": [1, 2.5, "x", null, true]}', b'{"a": [1, 2.5, "x", null, true]}'])
    def test_an_object_is_read(self, data: bytes | str) -> None:
        assert parse_json(data, field="f", max_bytes=100) == {"a": [1, 2.5, "x", None, True]}

    def test_a_size_is_read_and_one_byte_more_is_not(self) -> None:
        data = b'{"a":1}'
        assert parse_json(data, field="f", max_bytes=len(data)) == {"a": 1}
        refused(data, "larger than 6 bytes", max_bytes=6)

    @pytest.mark.parametrize("data", ["[]", '"{}"', "1", "null", "true"])
    def test_only_an_object(self, data: str) -> None:
        refused(data, "must be a JSON object")

    @pytest.mark.parametrize(
        "data",
        [
            "",
            " ",
            "{",
            "{}{}",
            "{'a':1}",
            '{"a":1,}',
            '{"a":01}',
            '{"a":+1}',
            '{"a":"\n"}',
            "\ufeff{}",
            b"\xef\xbb\xbf{}",
            b'{"a":"\xff"}',
            b"{\x00}\x00",  # UTF-16
            '{"a":' + "1" * 5000 + "}",
        ],
    )
    def test_what_is_not_json(self, data: bytes | str) -> None:
        refused(data, "is not valid JSON")

    @pytest.mark.parametrize(
        "data", ['{"amount":"1","amount":"9"}', '{"a":{"b":1,"c":2,"b":1}}', r'{"a":1,"\u0061":2}']
    )
    def test_a_member_that_is_there_twice(self, data: str) -> None:
        refused(data, "is not valid JSON")

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999999999"])
    def test_numbers_that_are_not_finite(self, number: str) -> None:
        refused(f'{{"a":{number}}}', "is not valid JSON")

    @pytest.mark.parametrize("text", [r'"\ud800"', r'"\udfffx"', r'{"\ud83d":1}', '"\ud800"'])
    def test_half_a_surrogate_pair(self, text: str) -> None:
        refused(f'{{"a":{text}}}', "is not valid JSON")

    def test_whole_surrogate_pairs_and_other_scripts_are_text(self) -> None:
        assert parse_json(r'{"a":"\ud83d\ude00"}', field="f", max_bytes=99) == {"a": "😀"}
        assert parse_json('{"ä":"😀"}', field="f", max_bytes=99) == {"ä": "😀"}

    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
    def test_depth(self, opening: str, closing: str) -> None:
        def nested(depth: int) -> str:
            return '{"x":' + opening * (depth - 1) + "1" + closing * (depth - 1) + "}"

        assert "x" in parse_json(nested(MAX_JSON_DEPTH), field="f", max_bytes=9999)
        refused(nested(MAX_JSON_DEPTH + 1), "deeper than 32")

    def test_depth_is_found_out_without_recursion(self) -> None:
        refused("[" * 1_000_000, "deeper than 32", max_bytes=2_000_000)

    @pytest.mark.parametrize("text", ["[" * 40, '\\"' + "{" * 40, "\\\\" + "[" * 40, "]" * 40])
    def test_brackets_in_a_text_are_not_depth(self, text: str) -> None:
        assert parse_json(f'{{"a":"{text}"}}', field="f", max_bytes=999)["a"].endswith(text[-1])

    def test_many_shallow_brackets_are_not_depth(self) -> None:
        value: dict[str, list[list[int]]] = {"a": [[] for _ in range(200)]}
        assert parse_json(json.dumps(value), field="f", max_bytes=9999) == value

    @FUZZ
    @given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0d8ae1.-\u00e4', max_size=40).map(str.encode))
    def test_anything_else_is_refused_politely(self, data: bytes) -> None:
        try:
            value = parse_json(data, field="f", max_bytes=50)
        except MalformedInput:
            return
        assert isinstance(value, dict)

    @FUZZ
    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**53) + 1, 2**53 - 1)
            | st.text(alphabet='aé€😀\\"\n', max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
            max_leaves=8,
        )
    )
    def test_what_is_canonical_is_read_back(self, value: object) -> None:
        data = canonical_json({"value": value})
        assert parse_json(data, field="f", max_bytes=10_000) == {"value": value}


class TestTextMember:
    def test_a_text_is_returned_as_it_is(self) -> None:
        assert text_member({"name": " ä "}, "name") == " ä "
        assert text_member({"amount": "12"}, "amount", r"\d+") == "12"

    @pytest.mark.parametrize("value", [None, 12, True, ["12"], {"12": 1}, b"12"])
    def test_what_is_no_text_is_refused_by_its_name(self, value: object) -> None:
        with pytest.raises(MalformedInput, match=r"amount: must be a text"):
            text_member({"amount": value}, "amount")

    @pytest.mark.parametrize("value", ["", "12 ", "12\n", "x12", "١٢"])
    def test_all_of_it_must_fit_its_form_in_ascii(self, value: str) -> None:
        with pytest.raises(MalformedInput, match=r"amount: must be a text that fits \\d\+"):
            text_member({"amount": value}, "amount", r"\d+")

    def test_a_member_that_is_not_there(self) -> None:
        with pytest.raises(MalformedInput, match="amount"):
            text_member({}, "amount")
