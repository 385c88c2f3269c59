"""Receipts: pinned keys, introduced keys, and that a receipt is about this purchase."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from rail402.client.receipts import read_keys
from rail402.client.records import Purchase
from rail402.protocol.receipt import ReceiptKeys
from tests.unit.client.shop import ORIGIN, PRICE, URL, Market

JWKS = "/.well-known/rail402/jwks.json"


@pytest.fixture
def selling(market: Market) -> Market:
    """A market whose shop signs receipts."""
    market.shop.receipts = ReceiptKeys.generate()[0]
    return market


async def buy(market: Market, **options: Any) -> Purchase:
    payer = market.payers[0] if market.payers else market.payer()
    response = await market.request(payer, **options)
    assert response.status_code == 200
    purchase = response.extensions["rail402"]
    assert isinstance(purchase, Purchase)
    return purchase


def fetched(market: Market) -> list[httpx.Request]:
    return [request for request in market.shop.requests if request.url.path == JWKS]


async def test_without_a_receipt_there_is_none_and_nothing_is_fetched(market: Market) -> None:
    purchase = await buy(market)
    assert (purchase.receipt, purchase.receipt_error) == (None, None)
    assert not fetched(market)


async def test_a_receipt_is_verified_and_kept_and_the_keys_are_fetched_once(selling: Market) -> None:
    purchase = await buy(selling, headers={"Cookie": "session=1", "Authorization": "Bearer own"})
    assert purchase.receipt is not None
    assert (purchase.receipt.issuer, purchase.receipt.resource) == (ORIGIN, URL)
    assert purchase.receipt.amount == str(PRICE)
    (record,) = await selling.payers[0].journal.newest()
    assert record.receipt is not None
    assert record.receipt.count(".") == 2
    assert (await buy(selling)).receipt is not None
    (request,) = fetched(selling)
    assert not {"cookie", "authorization", "payment-signature"} & set(request.headers)


async def test_the_digest_of_the_body_is_checked_too(selling: Market) -> None:
    purchase = await buy(selling, method="POST", content=b"body")
    assert purchase.receipt_error is None
    assert purchase.receipt is not None


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("resource", f"{ORIGIN}/article?n=2"),
        ("method", "POST"),
        ("request_digest", "0" * 64),
        ("amount", "2999"),
        ("payee", "somebody"),
        ("network", "fake:other"),
        ("asset", "eur"),
        ("issuer", "https://other.test"),
    ],
)
async def test_a_receipt_about_something_else_is_refused_and_the_response_returned(
    selling: Market, member: str, value: str
) -> None:
    selling.shop.change_receipt = {member: value}
    purchase = await buy(selling)
    assert (purchase.outcome, purchase.receipt) == ("paid", None)
    assert purchase.receipt_error is not None
    assert await selling.states() == ["committed"]


async def test_addresses_are_the_same_in_either_case(selling: Market) -> None:
    selling.shop.change_receipt = {"payee": "SHOP", "asset": "USD"}
    assert (await buy(selling)).receipt is not None


async def test_a_key_that_nothing_introduces_is_refused(selling: Market) -> None:
    await buy(selling)
    selling.shop.receipts = ReceiptKeys.generate()[0]
    purchase = await buy(selling)
    assert purchase.receipt is None
    assert "no pinned key of this origin vouches for" in str(purchase.receipt_error)
    await selling.payers[0].journal.forget(ORIGIN)
    assert (await buy(selling)).receipt is not None


async def test_a_key_that_a_pinned_one_introduces_is_pinned(selling: Market) -> None:
    await buy(selling)
    assert selling.shop.receipts is not None
    old = selling.shop.receipts.jwks["keys"]
    _, pem = ReceiptKeys.generate()
    selling.shop.receipts = ReceiptKeys(pem, retired=old)
    assert (await buy(selling)).receipt is not None
    # From here on the new key stands by itself.
    selling.shop.receipts = ReceiptKeys(pem)
    assert (await buy(selling)).receipt is not None
    assert len(await selling.payers[0].journal.pinned(ORIGIN)) == 2


@pytest.mark.parametrize(
    "published",
    [{"keys": []}, {"keys": {}}, {}, {"keys": [None, 1, {"kty": "OKP"}, {"kty": "oct", "k": "x"}]}, "text"],
    ids=str,
)
async def test_keys_that_cannot_be_used_pin_nothing(selling: Market, published: Any) -> None:
    selling.shop.jwks = published
    purchase = await buy(selling)
    assert purchase.receipt is None
    assert purchase.receipt_error
    assert not await selling.payers[0].journal.pinned(ORIGIN)


def test_a_key_that_no_database_can_hold_is_none() -> None:
    key = {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "k"}
    said = json.dumps({"keys": [key | {"kid": "a\0b"}, key, key | {"x": "\0"}]}).encode()
    assert read_keys(said) == [key]


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(404), httpx.Response(302, headers={"Location": "/x"}), httpx.Response(200, content=b"[" * 99_999)],
)
async def test_keys_that_are_not_there_are_said_so(selling: Market, answer: httpx.Response) -> None:
    sell = selling.shop.handle

    async def handle(request: httpx.Request) -> httpx.Response:
        return answer if request.url.path == JWKS else await sell(request)

    selling.shop.handle = handle  # type: ignore[method-assign]
    purchase = await buy(selling)
    assert "does not publish its receipt keys" in str(purchase.receipt_error)


async def test_a_connection_that_fails_costs_only_the_receipt(selling: Market) -> None:
    sell = selling.shop.handle

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == JWKS:
            raise httpx.ConnectError("")
        return await sell(request)

    selling.shop.handle = handle  # type: ignore[method-assign]
    purchase = await buy(selling)
    assert (purchase.outcome, purchase.receipt_error) == ("paid", "ConnectError")


async def test_two_receipts_are_none(market: Market) -> None:
    sell = market.shop.handle

    async def handle(request: httpx.Request) -> httpx.Response:
        response = await sell(request)
        if response.status_code == 200:
            response.headers = httpx.Headers([("Receipt-Record", "a"), ("Receipt-Record", "b")])
        return response

    market.shop.handle = handle  # type: ignore[method-assign]
    assert "twice" in str((await buy(market)).receipt_error)


async def test_a_receipt_proves_that_an_error_was_paid(selling: Market) -> None:
    selling.shop.status = 404
    payer = selling.payer()
    response = await selling.request(payer)
    assert (response.status_code, response.extensions["rail402"].outcome) == (404, "paid")
    assert await selling.states() == ["committed"]
