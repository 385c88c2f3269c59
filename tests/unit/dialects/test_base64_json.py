"""JSON in base64: both alphabets are read, with or without padding, and nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects._base64_json import compact_json, from_base64, to_base64, to_base64url
from rail402.errors import MalformedInput

VALUES = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20))


@given(VALUES, st.booleans())
def test_round_trip(value: dict[str, object], padded: bool) -> None:
    data = compact_json(value)
    for text in (to_base64(data), to_base64url(data)):
        assert from_base64(text if padded else text.rstrip("="), field="f") == value


def test_exact_output() -> None:
    data = compact_json({"a": "é?>~", "b": [1, None]})
    assert data == b'{"a":"\\u00e9?>~","b":[1,null]}'
    assert to_base64(data) == base64.b64encode(data).decode()
    assert to_base64url(b"\xfb\xff") == "-_8"
    assert compact_json({"half": "\ud800"}) == b'{"half":"\\ud800"}'


@pytest.mark.parametrize("text", ["", "e", "e30===", "e3=0", "e 30", "e30\n", "ä", "{}", "e30%", "bnVsbA==", "/w=="])
def test_refused(text: str) -> None:
    with pytest.raises(MalformedInput, match=r"^The payment cannot be read: f: "):
        from_base64(text, field="f")


def test_too_long_is_not_even_decoded() -> None:
    with pytest.raises(MalformedInput, match="longer than 8 bytes"):
        from_base64("!" * 9, field="f", max_bytes=8)
