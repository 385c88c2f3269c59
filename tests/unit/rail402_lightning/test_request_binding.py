"""The hash that stands for a request, against the scheme's own vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rail402.protocol.base import sha256_hex
from rail402.protocol.order import Order
from rail402_lightning.request_binding import bound_request, request_hash

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "lnbtc.json").read_text(encoding="utf-8")
)["request_hashes"]


def order_of(vector: dict[str, Any]) -> Order:
    body = bytes.fromhex(vector["body"])
    return Order(method=vector["method"], url=vector["url"], route="", body_digest=sha256_hex(body))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_hash_is_the_scheme_s(vector: dict[str, Any]) -> None:
    assert request_hash(order_of(vector), vector["headers"]).hex() == vector["hash"]


def test_the_hash_is_that_of_the_bound_text() -> None:
    order = order_of(VECTORS[0])

    assert hashlib.sha256(bound_request(order)).digest() == request_hash(order)


def test_the_route_is_not_in_it_because_the_client_cannot_know_it() -> None:
    order = order_of(VECTORS[0])

    assert request_hash(order) == request_hash(order.model_copy(update={"route": "GET /article/{id}"}))


@pytest.mark.parametrize("url", ["https://api.example.com/article/A?x=1", "https://api.example.com/article/%41"])
def test_the_url_counts_exactly_as_it_was_sent(url: str) -> None:
    order = order_of(VECTORS[0])

    assert request_hash(order.model_copy(update={"url": url})) != request_hash(order)


def test_headers_count_in_the_order_of_their_names() -> None:
    order = order_of(VECTORS[0])

    assert request_hash(order, {"b": "1", "a": "2"}) == request_hash(order, {"a": "2", "b": "1"})
