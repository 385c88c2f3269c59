"""One request in front of one paid route: what it costs, what it may be, and what is never let through."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from rail402.dialects._base64_json import compact_json, from_base64, to_base64url
from rail402.errors import ConfigurationError, GateNotInstalled, OutcomeUnknown, RailUnavailable, StoreError
from rail402.money import Money
from rail402.protocol.charge import PaymentState
from rail402.rates import Rate
from rail402.server.paywall import CHARGE_KEY, current_admittance
from rail402.testing.fakes import Ending
from tests.unit.server.shop import URL, Shop, Wire

FLOWS = ["authorization", "escrow", "upfront"]


def shop_at(price: Any = "0.003 USD", *, flow: str | None = None, **options: Any) -> tuple[Shop, list[bytes]]:
    """Return a shop with one route, and the list of the request bodies that its handler has seen."""
    shop, seen = Shop(**options), []

    async def goods(request: Request) -> Response:
        seen.append(await request.body())
        return PlainTextResponse("the goods")

    methods = ["GET", "POST", "OPTIONS"]
    shop.app.add_route("/goods", shop.gate.paid(price, flow=flow)(goods), methods=methods)
    return shop, seen


# --- the price


async def by_length(request: Request) -> str:
    return f"{len(await request.body())} USD"


def by_header(request: Request) -> Money:
    return Money.parse(request.headers["x-price"])


async def test_the_price_may_depend_on_the_body_which_is_read_once_and_handed_on() -> None:
    shop, seen = shop_at(by_length)
    async with shop.open():
        proof = await shop.quote("/goods", "POST", content=b"seven b")
        answer = await shop.client.post("/goods", content=b"seven b", headers=proof)
        assert (answer.status_code, seen) == (200, [b"seven b"])
        assert shop.ledger.charged_total == 7_000_000
        assert (await shop.only_charge()).price == Money.parse("7 USD")


async def test_a_body_in_pieces_is_one_body() -> None:
    shop, seen = shop_at(by_length)
    async with shop.open():
        quoted = await shop.request("/goods", "POST", chunks=[b"sev", b"", b"en b"]).run()
        assert (quoted.status, quoted.json()["price"]) == (402, "7 USD")
        proof = await shop.quote("/goods", "POST", content=b"seven b")
        wire = await shop.request("/goods", "POST", headers=proof, chunks=[b"seven", b" b"]).run()
        assert (wire.status, seen) == (200, [b"seven b"])


async def test_the_price_may_be_a_plain_function_of_the_request() -> None:
    shop, _ = shop_at(by_header)
    async with shop.open():
        quoted = await shop.client.get("/goods", headers={"x-price": "21.5 USD"})
        assert [offer["price"] for offer in quoted.json()["offers"]] == ["21.5 USD"]


async def test_the_price_function_knows_the_path_parameters() -> None:
    shop = Shop()

    async def goods(request: Request) -> Response:
        return PlainTextResponse("")

    async def by_size(request: Request) -> str:
        return f"{request.path_params['size']} USD"

    shop.app.add_route("/goods/{size:int}", shop.gate.paid(by_size)(goods))
    async with shop.open():
        assert (await shop.client.get("/goods/4")).json()["price"] == "4 USD"


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_none_is_free_and_claims_nothing(asynchronous: bool) -> None:
    async def later(request: Request) -> None:
        return None

    shop, seen = shop_at(later if asynchronous else lambda request: None)
    async with shop.open():
        for headers in ({}, {"payment-signature": "junk"}):
            answer = await shop.client.post("/goods", content=b"body", headers=headers)
            assert (answer.status_code, answer.text) == (200, "the goods")
            assert answer.headers["cache-control"] == "private"  # free for one is not free for the next
            assert "Payment-Signature" in answer.headers["vary"]
        assert seen == [b"body"] * 2
        assert (await shop.charges(), shop.ledger.calls) == ([], [])


async def test_an_http_exception_of_the_price_function_is_the_answer() -> None:
    def no_such_article(request: Request) -> str:
        raise HTTPException(404, "no such article")

    shop, seen = shop_at(no_such_article)
    async with shop.open():
        answer = await shop.client.get("/goods")
        assert (answer.status_code, answer.text) == (404, "no such article")
        assert seen == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"n": "x"}'])
async def test_a_body_that_the_price_function_cannot_read_gets_400(body: bytes) -> None:
    async def from_json(request: Request) -> str:
        return f"{int((await request.json())['n'])} USD"

    shop, seen = shop_at(from_json)
    async with shop.open():
        answer = await shop.client.post("/goods", content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
        assert seen == []


@pytest.mark.parametrize("price", [5, 0.5, "free", "0 USD", "", b"1 USD", True, ["1 USD"]])
async def test_a_price_function_that_returns_no_price_is_an_error_and_never_free(price: Any) -> None:
    shop, seen = shop_at(lambda request: price)
    async with shop.open():
        wire = shop.request("/goods")
        with pytest.raises(ConfigurationError):
            await wire.run()
        assert (wire.status, seen) == (500, [])


async def test_an_offer_is_honoured_though_the_price_has_moved() -> None:
    prices = iter(["1 USD", "5 USD"])
    shop, _ = shop_at(lambda request: next(prices))
    async with shop.open():
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        assert shop.ledger.charged_total == 1_000_000


async def test_a_price_that_no_rail_can_charge_gets_a_402_that_says_so() -> None:
    shop, _ = shop_at(lambda request: "0.003 USD")
    shop.rail._minimum = 500_000
    async with shop.open():
        answer = await shop.client.get("/goods")
        assert (answer.status_code, answer.json()["offers"]) == (402, [])
        assert answer.json()["detail" if "detail" in answer.json() else "error"] == (
            "no rail of this route can charge 0.003 USD"
        )
        assert "payment-required" not in answer.headers


# --- the body


@pytest.mark.parametrize("chunks", [[b"x" * 101], [b"x" * 60, b"x" * 60], [b"x" * 100, b"", b"x"]])
async def test_a_body_past_the_limit_gets_413_before_any_challenge(chunks: list[bytes]) -> None:
    shop, seen = shop_at(by_length, max_body=100)
    async with shop.open():
        wire = await shop.request("/goods", "POST", chunks=chunks).run()
        assert (wire.status, wire.json()["code"]) == (413, "body_too_large")
        assert (wire.all("payment-required"), wire.all("www-authenticate")) == ([], [])
        assert (seen, shop.ledger.calls) == ([], [])


@pytest.mark.parametrize("declared", [b"101", b"9" * 5000, b"99999999999999999999999"])
async def test_a_declared_length_past_the_limit_is_refused_unread(declared: bytes) -> None:
    shop, _ = shop_at(max_body=100)
    async with shop.open():
        wire = shop.request("/goods", "POST", headers=[(b"content-length", declared)], chunks=[b"x", b"y"])
        await wire.run()
        assert wire.status == 413
        assert wire._chunks == [b"x", b"y"]


@pytest.mark.parametrize("declared", [b"", b"-1", b"1e3", b"+5", b"\xb2", b"0x10", b" 5"])
async def test_a_length_that_is_no_number_gets_400(declared: bytes) -> None:
    shop, _ = shop_at()
    async with shop.open():
        wire = await shop.request("/goods", "POST", headers=[(b"content-length", declared)]).run()
        assert (wire.status, wire.json()["code"]) == (400, "malformed_request")


async def test_a_body_at_the_limit_passes() -> None:
    shop, _ = shop_at(max_body=100)
    async with shop.open():
        assert (await shop.request("/goods", "POST", chunks=[b"x" * 100]).run()).status == 402


async def test_a_client_that_leaves_before_its_request_is_complete_gets_no_answer() -> None:
    shop, seen = shop_at()
    async with shop.open():
        wire = shop.request("/goods", chunks=[])
        wire.gone.set()
        await wire.run()
        assert (wire.sent, seen) == ([], [])


async def test_the_handler_learns_that_the_client_has_gone() -> None:
    shop, told = Shop(), []

    async def goods(request: Request) -> Response:
        assert not await request.is_disconnected()
        wire.gone.set()
        assert (await request.receive())["type"] == "http.disconnect"
        told.append(True)
        return PlainTextResponse("")

    shop.app.add_route("/goods", shop.gate.paid("1 USD")(goods), methods=["POST"])
    async with shop.open():
        proof = await shop.quote("/goods", "POST")

        async def read_first(message: Any) -> None: ...

        wire = shop.request("/goods", "POST", headers=proof, watch=read_first)
        await wire.run()
        assert told == [True]


# --- what the server says of itself never changes what is sold


@pytest.mark.parametrize("flow", FLOWS)
async def test_the_public_url_decides_whatever_the_request_claims(flow: str) -> None:
    shop, _ = shop_at(flow=flow)
    spoofed = [
        (b"host", b"evil.example"),
        (b"x-forwarded-host", b"evil.example"),
        (b"x-forwarded-proto", b"http"),
        (b"forwarded", b"host=evil.example;proto=http"),
        (b"x-original-url", b"/free"),
        (b"x-http-method-override", b"OPTIONS"),
    ]
    async with shop.open():
        proof = await shop.quote("/goods")
        quoted = await shop.request("/goods", headers=spoofed, scope={"scheme": "http", "root_path": ""}).run()
        assert quoted.json()["resource"]["url"] == f"{URL}/goods"
        assert 'realm="shop.example"' in quoted.one("www-authenticate")
        paid = await shop.request("/goods", headers=[*Wire(None, "/", headers=proof).scope["headers"], *spoofed]).run()
        assert paid.status == 200  # the same order as without them
        assert (await shop.only_charge()).order.url == f"{URL}/goods"


# --- every response of a gated route


async def test_402_and_paid_responses_are_kept_from_shared_caches_and_readable_by_scripts() -> None:
    shop, _ = shop_at()
    async with shop.open():
        unpaid = await shop.client.get("/goods")
        paid = await shop.client.get("/goods", headers=await shop.proof(unpaid))
        assert (unpaid.headers["cache-control"], paid.headers["cache-control"]) == ("no-store", "private")
        for answer in (unpaid, paid):
            vary = answer.headers["vary"].split(", ")
            assert {"Authorization", "Payment-Authorization", "Payment-Signature", "X-Receipt"} <= set(vary)
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"PAYMENT-REQUIRED", "PAYMENT-RESPONSE", "Receipt-Record", "WWW-Authenticate"} <= set(exposed)


async def test_a_route_is_asked_what_it_accepts_without_paying_and_without_its_handler() -> None:
    shop, seen = shop_at()
    async with shop.open():
        for fields in ({}, {"payment-signature": "junk"}):
            wire = await shop.request("/goods", "OPTIONS", headers=fields).run()
            assert (wire.status, wire.body, wire.one("allow")) == (204, b"", "GET, HEAD, OPTIONS, POST")
            assert (wire.one("cache-control"), wire.all("content-length"), wire.complete) == ("no-store", [], True)
        assert (seen, shop.ledger.calls) == ([], [])


async def test_options_of_a_route_that_does_not_have_them_stays_405() -> None:
    shop = Shop()

    async def goods(request: Request) -> Response:
        return PlainTextResponse("the goods")

    shop.app.add_route("/goods", shop.gate.paid("1 USD")(goods))
    async with shop.open():
        assert (await shop.client.options("/goods")).status_code == 405


# --- bare ASGI apps below a mount


async def test_a_mounted_apps_own_errors_keep_their_meaning(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text("the goods")
    shop = Shop()
    shop.app.mount("/files", StaticFiles(directory=tmp_path))
    shop.gate.protect("* /files/*", price="0.003 USD")
    shop.app.add_exception_handler(KeyError, lambda request, error: JSONResponse({"mine": True}, 418))
    async with shop.open():
        missing = await shop.buy("/files/b.txt")
        assert missing.status_code == 404
        assert "payment=released" in missing.headers["rail402-charge"]
        found = await shop.buy("/files/a.txt")
        assert (found.status_code, found.text) == (200, "the goods")
        assert (await shop.buy("/files/a.txt", "POST")).status_code == 405
        assert shop.ledger.charged_total == 3000


async def test_a_mounted_apps_own_exceptions_reach_the_apps_handlers() -> None:
    shop = Shop()

    async def raising(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    shop.app.mount("/raw", raising)
    shop.gate.protect("* /raw/*", price="0.003 USD")
    shop.app.add_exception_handler(KeyError, lambda request, error: JSONResponse({"mine": True}, 418))
    async with shop.open():
        answer = await shop.buy("/raw/x")
        assert (answer.status_code, answer.json()) == (418, {"mine": True})
        assert shop.ledger.charged_total == 0


async def test_a_websocket_of_a_gated_app_is_refused() -> None:
    shop, entered = Shop(), []

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope["type"])

    shop.app.mount("/raw", raw)
    shop.gate.protect("POST /raw/*", price="0.003 USD")
    async with shop.open():
        wire = shop.request("/raw/x", scope={"type": "websocket", "subprotocols": []})
        del wire.scope["method"]
        await wire.run()
        assert [message["type"] for message in wire.sent] == ["websocket.close"]
        assert entered == []


# --- fail closed


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("verb", ["find", "claim"])
async def test_a_store_that_is_down_serves_and_burns_nothing(flow: str, verb: str) -> None:
    shop, seen = shop_at(flow=flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        store = shop.gate.services().store
        working = getattr(store, verb)

        async def down(*_: Any, **__: Any) -> Any:
            raise StoreError("down")

        setattr(store, verb, down)
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert "retry-after" in answer.headers
        assert "payment-required" not in answer.headers
        assert (seen, shop.ledger.charged_total) == ([], 0)
        setattr(store, verb, working)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_store_that_goes_down_at_any_write_serves_no_unpaid_byte(flow: str, nth: int) -> None:
    shop, seen = shop_at(flow=flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        store, writes = shop.gate.services().store, 0
        working = store.save

        async def sometimes(*args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == nth:
                raise StoreError("down")
            return await working(*args, **kwargs)

        store.save = sometimes  # type: ignore[method-assign]
        first = await shop.client.get("/goods", headers=proof)
        assert first.status_code in (200, 503)
        if first.status_code == 200:
            assert shop.ledger.charged_total == 3000
        shop.clock.advance(130)  # and the same payment is good for the goods in the end
        await shop.gate.reconcile()
        last = await shop.client.get("/goods", headers=proof)
        assert (last.status_code, last.text) == (200, "the goods")
        assert shop.ledger.charged_total == 3000
        assert len(seen) <= 2


async def test_a_store_that_is_down_makes_no_invoices() -> None:
    shop, _ = shop_at(style="invoice")
    async with shop.open():

        async def down(*_: Any, **__: Any) -> Any:
            raise StoreError("down")

        shop.gate.services().store.issue = down  # type: ignore[method-assign]
        answer = await shop.client.get("/goods")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


async def test_a_refusal_says_what_became_of_the_payment_even_if_no_fresh_challenge_can_be_made() -> None:
    shop, _ = shop_at()
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.FAILED)
        shop.ledger.script("offer", Ending.UNAVAILABLE)
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (503, "rail_unavailable")
        assert "payment=rejected" in answer.headers["rail402-charge"]
        assert "payment-response" in answer.headers


@pytest.mark.parametrize("error", [RailUnavailable("down"), OutcomeUnknown("who knows"), RuntimeError("a bug")])
@pytest.mark.parametrize("call", ["verify", "settle"])
async def test_whatever_a_rail_raises_nothing_leaves(
    call: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    shop, _ = shop_at()

    async def raising(*_: Any, **__: Any) -> Any:
        raise error

    async with shop.open():
        proof = await shop.quote("/goods")
        setattr(shop.rail, call, raising)
        with caplog.at_level(logging.CRITICAL):
            answer = await shop.client.get("/goods", headers=proof)
        assert answer.status_code == (500 if isinstance(error, RuntimeError) else 503)
        assert "the goods" not in answer.text
        assert "a bug" not in answer.text
        shop.clock.advance(130)
        delattr(shop.rail, call)
        await shop.gate.reconcile()
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        assert shop.ledger.charged_total == 3000


async def test_a_rail_that_never_answers_is_an_unknown_outcome() -> None:
    shop, _ = shop_at(settle_seconds=1)

    async def hang(name: str, key: str) -> None:
        if name == "settle":
            await asyncio.Event().wait()

    async with shop.open():
        services = shop.gate.services()
        object.__setattr__(services.settings, "settle_seconds", 0)
        proof = await shop.quote("/goods")
        shop.ledger.after = hang  # the money has moved
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        shop.ledger.after = None
        object.__setattr__(services.settings, "settle_seconds", 60)
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        await shop.gate.reconcile()
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        assert shop.ledger.charged_total == 3000


async def test_what_paid_for_one_charge_does_not_pay_for_another() -> None:
    """Two forms of one payment, which only the rail's answer shows to be one: the second is refused for good."""
    shop, _ = shop_at()
    async with shop.open():
        first, second = await shop.quote("/goods"), await shop.quote("/goods")
        settled = shop.rail._settled

        def same_transaction(key: str) -> Any:
            answer = settled(key)
            return type(answer)(transaction="tx", keys=frozenset({"tx:1"}))

        shop.rail._settled = same_transaction  # type: ignore[method-assign]
        assert (await shop.client.get("/goods", headers=first)).status_code == 200
        refused = await shop.client.get("/goods", headers=second)
        assert (refused.status_code, refused.json()["code"]) == (402, "proof_already_used")
        assert "the goods" not in refused.text
        third = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        assert (await shop.client.get("/goods", headers=third)).status_code == 503
        assert await shop.gate.reconcile() == 1
        assert (await shop.client.get("/goods", headers=third)).status_code == 402


# --- hostile headers


PAYMENT_FIELDS = [b"payment-signature", b"authorization", b"payment-authorization", b"x-receipt"]
OTHER_FIELDS = [b"cookie", b"idempotency-key", b"accept", b"content-length", b"host", b"transfer-encoding"]
SEEDS = [
    b"",
    b"\x00",
    b"a\r\nset-cookie: x=1",
    b"Payment",
    b"Payment ",
    b"Payment e30",
    b"L402 x:y",
    b"e30=",
    b"W10=",
    b"[" * 5000,
    b"fake:e30=",
    b"fake:",
    b'Digest username="' + b"\\" * 4000,
    b"x" * 70_000,
    b"\xff\xfe",
]


@given(
    lines=st.lists(
        st.tuples(st.sampled_from(PAYMENT_FIELDS + OTHER_FIELDS), st.binary(max_size=60) | st.sampled_from(SEEDS)),
        max_size=4,
    ),
    query=st.binary(max_size=20),
    style=st.sampled_from(["signed", "invoice"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_in_any_field_are_a_payment_or_a_crash(
    lines: list[tuple[bytes, bytes]], query: bytes, style: str
) -> None:
    async def visit() -> None:
        shop, seen = shop_at(style=style)
        async with shop.open():
            wire = await shop.request("/goods", headers=lines, scope={"query_string": query}).run()
            assert 400 <= wire.status < 500
            assert seen == []
            for message in wire.sent:
                for name, value in message.get("headers", ()):
                    assert not set(b"\r\n\x00") & set(name + value)

    asyncio.run(visit())


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["exact", "fake:fake", "2999", "-1", "1e3", "٣", "9" * 90, "authorization"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize(("style", "dialect"), [("signed", "x402-v2"), ("signed", "mpp"), ("invoice", "mpp")])
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_real_payment_with_any_member_changed_is_refused_or_means_the_same(
    data: st.DataObject, style: str, dialect: str
) -> None:
    async def visit() -> None:
        shop, seen = shop_at(style=style)
        async with shop.open():
            ((name, value),) = (await shop.proof(await shop.client.get("/goods"), dialect)).items()
            scheme, _, encoded = value.rpartition(" ")
            message = place = from_base64(encoded, field="x")
            for _ in range(data.draw(st.integers(0, 3))):
                inner = [member for member in place.values() if isinstance(member, dict)]
                if inner:
                    place = data.draw(st.sampled_from(inner))
            member = data.draw(st.sampled_from(sorted(place)))
            if data.draw(st.booleans()):
                place[member] = data.draw(JUNK)
            else:
                del place[member]
            changed = f"{scheme} {to_base64url(compact_json(message))}".strip()
            wire = await shop.request("/goods", headers={name: changed}).run()
            assert wire.status in (200, 400, 402)
            assert len(seen) == len(await shop.charges()) == (wire.status == 200)
            if wire.status == 200:  # what is not bound to the money may differ: the resource, extensions, nulls
                assert shop.ledger.charged_total == 3000

    asyncio.run(visit())


async def test_a_megabyte_of_header_is_refused_unread() -> None:
    shop, seen = shop_at()
    async with shop.open():
        for name in PAYMENT_FIELDS:
            prefix = b"Payment " if b"authorization" in name else b""
            wire = await shop.request("/goods", headers=[(name, prefix + b"A" * 1_000_000)]).run()
            assert (wire.status, wire.json()["code"]) == (400, "malformed_payment")
            assert len(wire.body) < 2000
        assert seen == []


async def test_a_url_past_the_limit_gets_400() -> None:
    shop, _ = shop_at()
    async with shop.open():
        wire = await shop.request("/goods?" + "x" * 9000).run()
        assert (wire.status, wire.json()["code"]) == (400, "malformed_request")


# --- inside the handler


async def test_the_handler_sees_its_charge_and_that_it_was_admitted() -> None:
    shop, seen = Shop(), []

    async def goods(request: Request) -> Response:
        admittance = current_admittance()
        assert admittance is not None
        seen.append((admittance.charge, request.scope[CHARGE_KEY], shop.gate.charge(request)))
        return PlainTextResponse("")

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))

    async def free(request: Request) -> Response:
        assert current_admittance() is None
        with pytest.raises(GateNotInstalled):
            shop.gate.charge(request)
        return PlainTextResponse("free")

    shop.app.add_route("/free", free)
    async with shop.open():
        await shop.buy("/goods")
        ((first, second, third),) = seen
        assert first is second is third
        assert (await shop.client.get("/free")).text == "free"


@pytest.mark.parametrize("flow", FLOWS)
async def test_no_secret_of_a_payment_is_logged_or_answered(flow: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for call in ("verify", "hold", "settle", "release", "refund", "lookup"):
        for ending in Ending:
            answers = iter([200, 500] if call not in ("release", "refund") else [500, 500])
            shop = Shop(wait_seconds=0)

            async def goods(request: Request, answers: Any = answers) -> Response:
                return PlainTextResponse("", next(answers))

            shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow=flow)(goods))
            async with shop.open():
                proof = await shop.quote("/goods")
                message = from_base64(proof["PAYMENT-SIGNATURE"], field="x")
                secrets = [proof["PAYMENT-SIGNATURE"], message["payload"]["signature"]]
                secrets.append(message["accepted"]["extra"]["token"].split(".")[2])
                shop.ledger.script(call, ending)
                said = [await shop.client.get("/goods", headers=proof | {"cookie": "s=s3cr3t"}) for _ in range(2)]
                await shop.gate.reconcile()
                shown = caplog.text + "".join(f"{answer.headers} {answer.text}" for answer in said)
                shown += repr(await shop.charges())
                for secret in [*secrets, "s3cr3t"]:
                    assert secret not in shown, (call, ending)
                caplog.clear()


async def test_configuration_errors_are_ours_and_not_the_payers() -> None:
    class Rates:
        broken = False

        async def rate(self, base: str, quote: str) -> Rate:
            if self.broken:
                raise ConfigurationError("a rate is wrong")
            return Rate(Decimal(2), 0)

    rates = Rates()
    shop, _ = shop_at("0.003 EUR", rates=rates)
    async with shop.open():
        assert (await shop.client.get("/goods")).status_code == 402
        rates.broken = True
        wire = shop.request("/goods")
        with pytest.raises(ConfigurationError, match="a rate is wrong"):
            await wire.run()
        assert wire.status == 500


async def test_an_error_of_configuration_during_admission_goes_to_the_server() -> None:
    shop, seen = shop_at()
    async with shop.open():
        proof = await shop.quote("/goods")

        async def wrong(*_: Any, **__: Any) -> Any:
            raise ConfigurationError("the rail is set up wrongly")

        shop.rail.verify = wrong  # type: ignore[method-assign]
        wire = shop.request("/goods", headers=proof)
        with pytest.raises(ConfigurationError):
            await wire.run()
        assert (wire.status, seen) == (500, [])
