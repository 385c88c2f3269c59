"""What a payment is bound to."""

from __future__ import annotations

import hashlib

import pytest

from rail402.protocol.order import EMPTY_BODY_DIGEST, Order


def test_the_digest_is_over_the_canonical_order(order: Order) -> None:
    text = (
        f'{{"body_digest":"{hashlib.sha256(b"").hexdigest()}","method":"GET","route":"GET /article/{{slug}}",'
        '"url":"https://api.example.com/article/402?lang=en"}'
    )
    assert order.digest == hashlib.sha256(text.encode()).hexdigest()
    assert order.body_digest == EMPTY_BODY_DIGEST


@pytest.mark.parametrize(
    "change",
    [
        {"method": "HEAD"},
        {"url": "https://api.example.com/article/402?lang=de"},
        {"url": "https://api.example.com/article/402"},
        {"url": "https://api.example.com/article/%3402?lang=en"},
        {"url": "http://api.example.com/article/402?lang=en"},
        {"url": "https://api.example.com:8443/article/402?lang=en"},
        {"route": "GET /article/{id}"},
        {"body_digest": "0" * 64},
    ],
)
def test_everything_that_was_asked_for_is_in_the_digest(order: Order, change: dict[str, str]) -> None:
    assert order.digest  # worked out before the copy is made
    assert order.model_copy(update=change).digest != order.digest


def test_the_clients_digest_is_without_the_route_and_with_all_else(order: Order) -> None:
    text = (
        f'{{"body_digest":"{hashlib.sha256(b"").hexdigest()}","method":"GET",'
        '"url":"https://api.example.com/article/402?lang=en"}'
    )
    assert order.request_digest == hashlib.sha256(text.encode()).hexdigest()
    assert order.model_copy(update={"route": "GET /{path}"}).request_digest == order.request_digest
    for change in ({"method": "HEAD"}, {"url": "https://api.example.com/"}, {"body_digest": "0" * 64}):
        assert order.model_copy(update=change).request_digest != order.request_digest


def test_members_cannot_run_into_each_other() -> None:
    first = Order(method="GET", url="https://a.example/b", route='GET /b","x":"y')
    second = Order(method="GET", url='https://a.example/b","x":"y', route="GET /b")
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://api.example.com/article/402?next=https://evil.example/", "https://api.example.com"),
        ("https://api.example.com", "https://api.example.com"),
        ("https://api.example.com?q=a/b", "https://api.example.com"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://[::1]:8000/a", "http://[::1]:8000"),
    ],
)
def test_the_origin(url: str, origin: str) -> None:
    assert Order(method="GET", url=url, route="GET /").origin == origin
