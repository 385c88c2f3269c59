"""The header fields of a gated route's responses."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.server.fields import Remaining, content_length, end_to_end
from tests.unit.server.shop import Shop


def answering(fields: list[tuple[str, str]], status: int = 200) -> Shop:
    """Return a shop whose goods have exactly these fields besides their own."""
    shop = Shop()

    async def goods(request: Request) -> Response:
        response = PlainTextResponse("the goods", status)
        response.raw_headers += [(name.encode(), value.encode()) for name, value in fields]
        return response

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    return shop


@pytest.mark.parametrize(
    ("own", "sent"),
    [
        ([], "private"),
        (["no-store"], "private, no-store"),
        (["public"], "private"),
        (["PUBLIC, Max-Age=60"], "private, Max-Age=60"),
        (["private"], "private"),
        (["max-age=60, s-maxage=600, proxy-revalidate, must-revalidate"], "private, max-age=60, must-revalidate"),
        (["public", "max-age=60"], "private, max-age=60"),
        (["immutable,,  ,public"], "private, immutable"),
        (['no-cache="set-cookie, x"'], 'private, no-cache="set-cookie, x"'),
    ],
)
@pytest.mark.parametrize("status", [200, 404])
async def test_no_shared_cache_may_keep_it_and_other_directives_stay(own: list[str], sent: str, status: int) -> None:
    shop = answering([("Cache-Control", value) for value in own], status)
    async with shop.open():
        proof = await shop.quote("/goods")
        for _ in range(2):
            answer = await shop.request("/goods", headers=proof).run()
            assert answer.one("cache-control") == sent


@pytest.mark.parametrize("name", ["CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control"])
async def test_no_cdn_is_told_otherwise_behind_its_back(name: str) -> None:
    shop = answering([(name, "max-age=3600"), ("X-Other", "1")])
    async with shop.open():
        proof = await shop.quote("/goods")
        for _ in range(2):
            answer = await shop.request("/goods", headers=proof).run()
            assert answer.all(name.lower()) == []
            assert answer.one("x-other") == "1"


async def test_lists_are_joined_to_the_handlers_own_in_one_line() -> None:
    own = [("Vary", "Accept"), ("vary", "Cookie"), ("Access-Control-Expose-Headers", "ETag")]
    shop = answering(own)
    async with shop.open():
        answer = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        vary = answer.one("vary").split(", ")
        assert {"Accept", "Cookie", "Authorization", "Payment-Signature"} <= set(vary)
        exposed = answer.one("access-control-expose-headers").split(", ")
        assert {"ETag", "PAYMENT-RESPONSE", "Receipt-Record"} <= set(exposed)


async def test_a_route_names_only_the_dialects_it_speaks() -> None:
    shop = Shop()

    async def goods(request: Request) -> Response:
        return PlainTextResponse("")

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", dialects=["x402-v2"])(goods))
    async with shop.open():
        unpaid = await shop.client.get("/goods")
        assert unpaid.headers["vary"] == "Payment-Signature"
        assert "WWW-Authenticate" not in unpaid.headers["access-control-expose-headers"]
        assert "www-authenticate" not in unpaid.headers


async def test_a_paid_answer_names_its_charge_and_carries_both_receipts() -> None:
    shop = answering([])
    async with shop.open():
        answer = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        charge = await shop.only_charge()
        assert answer.one("rail402-charge") == f"{charge.id}; payment=settled"
        assert answer.one("receipt-record") == charge.receipt
        assert len(answer.all("payment-response")) == 1


async def test_a_failed_answer_names_its_charge_and_carries_none() -> None:
    shop = answering([], 500)
    async with shop.open():
        answer = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert answer.one("rail402-charge") == f"{(await shop.only_charge()).id}; payment=released"
        assert (answer.all("receipt-record"), answer.all("payment-response")) == ([], [])


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], None),
        ([(b"Content-Length", b"12")], 12),
        ([(b"content-length", b"")], None),
        ([(b"content-length", b"-1")], None),
        ([(b"content-length", b"x"), (b"content-length", b"7")], 7),
    ],
)
def test_the_length_that_a_response_declares(headers: list[Any], length: int | None) -> None:
    assert content_length({"headers": headers}) == length
    assert content_length({}) is None


@pytest.mark.parametrize(
    ("length", "pieces", "said"),
    [
        (b"9", [b"the ", b"goods", b""], [True, False, False]),
        (b"9", [b"the goods, and more"], [True]),
        (b"0", [b""], [False]),
        (b"9", [b"", b"the "], [True, True]),
        (b"nine", [b"the goods"], [True]),
    ],
)
def test_a_body_ends_with_its_last_byte(length: bytes, pieces: list[bytes], said: list[bool]) -> None:
    remaining = Remaining({"headers": [(b"content-length", length)]}, "GET")
    assert [remaining.after(piece, True) for piece in pieces] == said
    assert not remaining.after(b"", False)


@pytest.mark.parametrize(
    ("method", "status", "body", "is_missing"),
    [
        ("GET", 200, b"the go", True),
        ("GET", 200, b"the goods", False),
        ("GET", 200, b"the goods, and more", False),
        ("HEAD", 200, b"", False),
        ("GET", 304, b"", False),
        ("GET", 204, b"", False),
    ],
)
def test_a_body_is_missing_where_there_is_less_than_it_says(
    method: str, status: int, body: bytes, is_missing: bool
) -> None:
    remaining = Remaining({"status": status, "headers": [(b"content-length", b"9")]}, method)
    assert not remaining.after(body, False)
    assert remaining.is_missing is is_missing


def test_only_what_is_end_to_end_is_kept() -> None:
    own = [(b"ETag", b"1"), (b"Connection", b"close"), (b"TRANSFER-ENCODING", b"chunked"), (b"etag", b"2")]
    assert end_to_end(own) == ((b"ETag", b"1"), (b"etag", b"2"))
