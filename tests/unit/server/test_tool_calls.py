"""What a tool call asks to buy, whoever carries it."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import MalformedInput
from rail402.protocol.base import sha256_hex
from rail402.server.tool_calls import ToolCall

SERVER = "https://weather.example"


def call(params: Any, scope: Any = None, most: int = 1000) -> ToolCall:
    return ToolCall(params, server=SERVER, most=most, scope=scope)


def test_the_order_is_the_tool_and_its_arguments_in_canonical_json() -> None:
    order = call({"name": "for/cast?", "arguments": {"b": 1, "a": "\u00fc"}, "_meta": {"progressToken": 1}}).order
    assert (order.method, order.url) == ("tools/call", "https://weather.example/tool/for%2Fcast%3F")
    assert order.origin == SERVER
    assert order.body_digest == sha256_hex('{"a":"\u00fc","b":1}'.encode())
    assert order.digest == call({"name": "for/cast?", "arguments": {"a": "\u00fc", "b": 1.0}}).order.digest


def test_no_arguments_are_an_empty_object() -> None:
    assert call({"name": "x"}).order == call({"name": "x", "arguments": {}}).order
    assert call({"name": "x", "arguments": None, "_meta": None}).meta == {}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"n": 2**53}, "malformed_request"),
        ({"n": float("nan")}, "malformed_request"),
        ({"n": "\ud800"}, "malformed_request"),
        ({"n": "x" * 1000}, "body_too_large"),
    ],
)
def test_arguments_that_cannot_be_bound_are_refused(arguments: Any, code: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        call({"name": "x", "arguments": arguments})
    assert caught.value.code == code


def test_the_logins_of_the_http_request_count() -> None:
    headers = [(b"authorization", b"Bearer alice"), (b"cookie", b"a=1")]
    by_alice = call({"name": "x"}, {"type": "http", "headers": headers, "client": ("192.0.2.1", 1)})
    assert [mark.partition(":")[0] for mark in by_alice.context] == ["authorization", "cookie"]
    assert by_alice.scope["client"] == ("192.0.2.1", 1)
    assert call({"name": "x"}).context == ()
