"""What a request asks to buy, and who asks."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import MalformedInput
from rail402.server.request import ClientDisconnected, GatedRequest, read_body


async def nothing_more() -> Any:
    return {"type": "http.disconnect"}


def request(headers: dict[str, str] | list[tuple[str, str]] | None = None, body: bytes = b"", **scope: Any) -> Any:
    lines = headers.items() if isinstance(headers, dict) else headers or []
    whole = {
        "type": "http",
        "method": "GET",
        "path": "/goods",
        "raw_path": b"/goods",
        "query_string": b"",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines],
        **scope,
    }
    return GatedRequest(whole, nothing_more, body, public_url="https://shop.example", route="GET /goods")


def test_the_order_says_the_url_exactly_as_it_was_sent() -> None:
    order = request(raw_path=b"/a%2Fb/%C3%A9", query_string=b"q=a%20b&q=&%00").order
    assert order.url == "https://shop.example/a%2Fb/%C3%A9?q=a%20b&q=&%00"
    assert order.origin == "https://shop.example"


@pytest.mark.parametrize(
    ("path", "url"),
    [("/a b", "/a%20b"), ("/a?b", "/a%3Fb"), ("/é", "/%C3%A9"), ("/a/b:c@d", "/a/b:c@d"), ("/100%", "/100%25")],
)
@pytest.mark.parametrize("raw_path", [None, b""])
def test_a_server_that_does_not_tell_the_raw_path(raw_path: bytes | None, path: str, url: str) -> None:
    assert request(path=path, raw_path=raw_path).order.url == "https://shop.example" + url


def test_a_query_in_the_raw_path_is_not_counted_twice() -> None:
    assert request(raw_path=b"/goods?a=1", query_string=b"a=1").order.url == "https://shop.example/goods?a=1"


def test_a_url_may_be_8_kib_long_and_no_longer() -> None:
    assert request(query_string=b"x" * (8192 - 7)).order
    with pytest.raises(MalformedInput, match="longer than 8192") as raised:
        request(query_string=b"x" * (8192 - 6))
    assert raised.value.code == "malformed_request"


def test_orders_differ_in_anything_that_is_bought() -> None:
    orders = [
        request().order,
        request(method="POST").order,
        request(body=b"x").order,
        request(query_string=b"x").order,
        request(raw_path=b"/goods/").order,
        request(raw_path=b"//goods").order,
    ]
    assert len({order.digest for order in orders}) == len(orders)


async def test_the_body_is_handed_on_once_and_then_the_server_speaks() -> None:
    one = request(body=b"x")
    assert await one.receive() == {"type": "http.request", "body": b"x", "more_body": False}
    assert (await one.receive())["type"] == "http.disconnect"
    rewound = one.rewind()
    assert (await rewound())["body"] == (await rewound())["body"] == b"x"


# --- who asks


def context(*lines: tuple[str, str]) -> set[str]:
    return set(request(list(lines)).context)


def test_every_cookie_counts_by_itself() -> None:
    assert context() == set()
    assert context(("cookie", "a=1; b=2")) == context(("cookie", "b=2"), ("cookie", "a=1")) | context()
    assert context(("cookie", "a=1")) < context(("cookie", "a=1; b=2"))
    assert context(("cookie", "; ;")) == set()
    assert context(("cookie", "a=1")).isdisjoint(context(("cookie", "a=2")))


@pytest.mark.parametrize("scheme", ["Payment", "payment", "L402", "LSAT", "lsat"])
def test_a_payment_is_no_login(scheme: str) -> None:
    assert context(("authorization", f"{scheme} abc==")) == set()
    login = context(("authorization", "Bearer a:b"))
    for line in (f"Bearer a:b, {scheme} abc", f"{scheme} abc ,Bearer a:b", f", {scheme} abc, Bearer a:b,"):
        assert context(("authorization", line)) == login


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bearer a", "Bearer b"),
        ("Bearer a:b", "Bearer a:c"),
        ("Bearer {a}", "Bearer {b}"),
        ("alice:secret", "alice:other"),
        ("YWxp==", "Ym9i=="),
        ("token=a", "token=b"),
        ('Digest username="a, payments", x="1"', 'Digest username="a, payments", x="2"'),
        ("Paymentx a", "Paymentx b"),
        ("\xe9", "\xe8"),
        ('"', '"a'),
    ],
)
def test_every_other_authorization_is_a_login(one: str, other: str) -> None:
    assert len(context(("authorization", one))) == 1
    assert context(("authorization", one)).isdisjoint(context(("authorization", other)))


def test_a_cookie_is_no_authorization() -> None:
    assert context(("cookie", "x")).isdisjoint(context(("authorization", "x")))


def test_hostile_lines_are_read_in_linear_time() -> None:
    for line in ("," * 60_000, ", payment " * 6000, "payment" + " " * 60_000, "\t" * 60_000 + "x"):
        context(("authorization", line), ("cookie", line))


def test_the_slot_is_the_idempotency_key_of_this_request() -> None:
    assert request().slot == ""
    slot = request({"idempotency-key": "k"}).slot
    assert slot == request([("idempotency-key", "k"), ("Idempotency-Key", "k")]).slot
    assert slot.startswith("key:")
    others = [
        request({"idempotency-key": ""}).slot,
        request({"idempotency-key": "k2"}).slot,
        request({"idempotency-key": "k"}, body=b"x").slot,
        request({"idempotency-key": "k"}, method="POST").slot,
    ]
    assert len({slot, *others}) == 5
    with pytest.raises(MalformedInput, match="idempotency-key"):
        request([("idempotency-key", "1"), ("idempotency-key", "2")])


# --- the body


async def read(chunks: list[bytes], limit: int = 10, headers: Any = ()) -> bytes:
    async def receive() -> Any:
        if not chunks:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    return await read_body({"headers": list(headers)}, receive, limit)


async def test_a_body_is_read_to_its_end() -> None:
    assert await read([b"ab", b"", b"cd"]) == b"abcd"
    assert await read([b""]) == b""
    assert await read([b"x" * 10], headers=[(b"content-length", b"10")]) == b"x" * 10

    async def bare() -> Any:
        return {"type": "http.request"}

    assert await read_body({"headers": []}, bare, 10) == b""


async def test_no_more_than_the_limit_is_read() -> None:
    chunks = [b"x" * 6, b"y" * 6, b"z"]
    with pytest.raises(MalformedInput) as raised:
        await read(chunks)
    assert (raised.value.code, chunks) == ("body_too_large", [b"z"])


async def test_a_client_that_leaves_is_no_error_of_its_bytes() -> None:
    with pytest.raises(ClientDisconnected):
        await read([])
