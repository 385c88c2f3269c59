"""The server's challenges: what is put together once must not differ from what is put together each time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.dialects import _mpp_challenge
from rail402.dialects._base64_json import from_base64, to_base64url
from rail402.dialects._mpp_challenge import (
    ECHO_THE_REQUEST_ONLY,
    OFFER,
    Made,
    body_digest_field,
    challenge_id,
    make,
    said,
)
from rail402.dialects.auth_params import parse
from rail402.protocol.base import canonical_json, sha256_hex

SECRET = b"s" * 32
DIGEST = body_digest_field(sha256_hex(b'{"a":1}'))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
REQUESTS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | NUMBERS | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=5,
).filter(lambda request: OFFER not in request)


def made(request: dict[str, Any], *, method: str = "evm", token: str = "k1.1.n.m", **changes: Any) -> Made:
    given = {"realm": "api.example.com", "description": "", "digest": "", "expires": "2027-01-15T08:05:00Z"} | changes
    wire = {"method": method, "intent": "charge", "request": request}
    return make(said(wire), token=token, secret=SECRET, **given)


@settings(derandomize=True, database=None, deadline=None)
@given(
    request=REQUESTS,
    method=st.sampled_from(["evm", "lightning", "stripe"]),
    token=st.from_regex(r"k1\.[0-9]{10}\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", fullmatch=True),
    description=st.sampled_from(["", "An article", 'with "quotes" \\ and caf\u00e9 \u2615', "on\r\ntwo lines"]),
    digest=st.sampled_from(["", DIGEST]),
)
def test_line_parameters_and_id_say_the_same(
    request: dict[str, Any], method: str, token: str, description: str, digest: str
) -> None:
    for _ in range(2):  # the second time from what was kept
        challenge = made(request, method=method, token=token, description=description, digest=digest)
        in_request = method in ECHO_THE_REQUEST_ONLY
        expected = {
            "realm": "api.example.com",
            "method": method,
            "intent": "charge",
            "request": to_base64url(canonical_json({**request, OFFER: token} if in_request else request)),
            "description": " ".join(description.split()),
            "digest": digest,
            "expires": "2027-01-15T08:05:00Z",
            "opaque": "" if in_request else to_base64url(canonical_json({"token": token})),
        }
        expected = {name: text for name, text in expected.items() if text}
        params = challenge.params()
        assert params == {"id": challenge_id(SECRET, expected), **expected}
        assert list(params) == ["id", *expected]
        (scheme,) = parse(challenge.line())
        assert (scheme.name, scheme.params) == ("payment", list(params.items()))


@pytest.mark.parametrize("method", ["evm", "lightning"])
def test_nothing_of_one_offer_comes_back_in_another(method: str) -> None:
    first = made({"amount": "1"}, method=method, token="k1.1.first.m")
    second = made({"amount": "1"}, method=method, token="k1.1.second.m", expires="2028-01-15T08:05:00Z")
    told = [str(from_base64(text, field="f")) for text in (second.request, second.opaque or second.request)]
    assert any("second" in text for text in told)
    assert not any("first" in text for text in told)
    assert second.expires == "2028-01-15T08:05:00Z"
    assert first.id != second.id


def test_a_change_of_any_term_is_followed_at_once() -> None:
    for amount in ("1", "2", "1"):
        assert from_base64(made({"amount": amount}).request, field="f") == {"amount": amount}
    for change in ({"realm": "other.example"}, {"description": "Another"}, {"realm": "api.example.com"}):
        assert change.items() <= made({"amount": "1"}, **change).params().items()
    assert made({"amount": 1}).request != made({"amount": 1.5}).request != made({"amount": "1"}).request


def test_what_is_kept_is_bounded() -> None:
    for number in range(600):
        made({"amount": str(number)}, description=f"Article {number}")
    assert _mpp_challenge._fixed.cache_info().currsize <= 256


@pytest.mark.parametrize("value", [2**53, float("nan"), float("inf"), "\ud800"])
def test_a_request_that_has_no_canonical_form(value: Any) -> None:
    for method in ("evm", "lightning"):
        with pytest.raises(ValueError):  # noqa: PT011 (whatever the library says)
            made({"amount": value}, method=method)
