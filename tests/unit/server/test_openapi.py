"""What an app's documents say of its paid routes, and who answers for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from rail402.errors import ConfigurationError
from rail402.rates import FixedRates
from rail402.server.gate import Gate
from rail402_base import BaseRail
from rail402_base.tokens import SANDBOX_USDC
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.unit.server.shop import Wire

URL = "http://shop.test"

BASE = {"method": "evm", "intent": "charge", "currency": SANDBOX_USDC.address}
LIGHTNING = {"method": "lightning", "intent": "charge", "currency": "sat"}
STRIPE = {"method": "stripe", "intent": "charge", "currency": "usd"}


def gate_of(directory: Path, **options: Any) -> Gate:
    rails = [BaseRail.sandbox(directory), LightningRail.sandbox(directory), StripeRail.sandbox(directory)]
    rates = FixedRates({"BTC/USD": "60000"})
    return Gate(rails=rails, store="memory://", public_url=URL, rates=rates, reconcile_seconds=0, **options)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return gate_of(tmp_path)


@asynccontextmanager
async def opened(gate: Gate, app: Any) -> AsyncIterator[httpx.AsyncClient]:
    gate.install(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
        yield client
        await gate.close()


async def goods(request: Request) -> Response:
    return PlainTextResponse("the goods")


def offers(document: Any, path: str, method: str = "get") -> list[Any]:
    found: list[Any] = document["paths"][path][method]["x-payment-info"]["offers"]
    return found


# --- an app that describes itself


async def test_fastapi_s_own_document_is_completed(gate: Gate) -> None:
    app = FastAPI(title="News", version="7")

    @app.get("/article/{slug}", summary="An article", responses={402: {"description": "Not for free"}})
    @gate.paid("0.50 USD", description="One  article")
    async def article(slug: str) -> None: ...

    @app.get("/free")
    async def free() -> None: ...

    async with opened(gate, app) as client:
        document = (await client.get("/openapi.json")).json()
        again = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/article/{slug}"]["get"]
    assert (document["info"], operation["summary"]) == ({"title": "News", "version": "7"}, "An article")
    said = {"description": "One  article"}
    assert offers(document, "/article/{slug}") == [
        {**BASE, "amount": "500000", **said},
        {**LIGHTNING, "amount": None, **said},  # for what rate it is sold, the 402 says
        {**STRIPE, "amount": "50", **said},
    ]
    assert operation["responses"]["402"]["description"] == "Not for free"
    assert [each["name"] for each in operation["parameters"]] == ["slug"]
    assert "x-payment-info" not in document["paths"]["/free"]["get"]
    assert document["x-service-info"] == {"docs": {"llms": "/llms.txt"}}
    assert again == document


async def test_what_the_app_says_itself_stays(gate: Gate) -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    own = {"offers": [{"method": "stripe", "intent": "charge", "amount": "1"}]}

    @app.get("/goods", openapi_extra={"x-payment-info": own})
    @gate.paid("0.50 USD")
    async def sell() -> None: ...

    generated = app.openapi

    def customised() -> dict[str, Any]:
        return {**generated(), "x-service-info": {"categories": ["goods"]}}

    app.openapi = customised  # type: ignore[method-assign]
    async with opened(gate, app) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["paths"]["/goods"]["get"]["x-payment-info"] == own
    assert document["x-service-info"] == {"categories": ["goods"]}
    assert document["paths"]["/goods"]["get"]["responses"]["402"]["description"].startswith("Payment required: 0.5 USD")


async def test_a_document_at_another_address_is_found_at_the_usual_one_too(gate: Gate) -> None:
    app = FastAPI(openapi_url="/api/v1/schema")
    app.get("/goods")(gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        assert (await client.get("/openapi.json")).json() == (await client.get("/api/v1/schema")).json()


async def test_a_start_after_a_stop_completes_it_once(gate: Gate) -> None:
    app = FastAPI()
    app.get("/goods")(gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        first = (await client.get("/openapi.json")).json()
        await gate.close()
        assert (await client.get("/openapi.json")).json() == first
        assert gate.started


async def test_what_its_schema_leaves_out_stays_out(gate: Gate) -> None:
    app = FastAPI()
    app.get("/goods", include_in_schema=False)(gate.paid("0.50 USD")(goods))
    app.get("/more")(gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        assert list((await client.get("/openapi.json")).json()["paths"]) == ["/more"]
        assert "/goods" not in (await client.get("/llms.txt")).text


async def test_routes_that_it_does_not_describe_are_added(gate: Gate) -> None:
    router = APIRouter(prefix="/v2")
    router.get("/item/{n}")(gate.paid("0.60 USD", rails=["stripe"])(goods))
    app = FastAPI(routes=[Mount("/inner", routes=[Route("/goods", gate.paid("0.50 USD")(goods))])])
    app.include_router(router)
    async with opened(gate, app) as client:
        document = (await client.get("/openapi.json")).json()
    assert offers(document, "/v2/item/{n}") == [{**STRIPE, "amount": "60"}]
    assert len(offers(document, "/inner/goods")) == 3


# --- an app that does not


async def test_a_minimal_document_of_the_paid_routes(gate: Gate) -> None:
    app = Starlette(routes=[Route("/free", goods)])
    app.add_route("/day/{day:int}/{rest:path}", gate.paid("0.50 USD")(goods), methods=["GET", "PUT"])
    async with opened(gate, app) as client:
        response = await client.get("/openapi.json")
    document = response.json()
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=300"
    assert (document["openapi"], document["servers"]) == ("3.1.0", [{"url": URL}])
    assert document["info"] == {"title": "shop.test", "version": "1"}
    assert list(document["paths"]) == ["/day/{day}/{rest}"]
    assert sorted(document["paths"]["/day/{day}/{rest}"]) == ["get", "put"]
    put = document["paths"]["/day/{day}/{rest}"]["put"]
    assert put["parameters"] == [
        {"name": "day", "in": "path", "required": True, "schema": {"type": "integer"}, "example": 1},
        {"name": "rest", "in": "path", "required": True, "schema": {"type": "string"}, "example": "example"},
    ]
    assert put["requestBody"] == {"required": False, "content": {"*/*": {"schema": {}}}}
    assert "requestBody" not in document["paths"]["/day/{day}/{rest}"]["get"]
    assert sorted(put["responses"]) == ["200", "402"]


async def test_each_method_says_its_own_price(gate: Gate) -> None:
    app = Starlette()
    app.add_route("/goods", goods, methods=["GET", "POST", "DELETE"])
    gate.protect("GET /goods", price="0.50 USD", rails=["stripe"])
    gate.protect("POST /goods", price="0.70 USD", rails=["stripe"], description="More of it")
    async with opened(gate, app) as client:
        document = (await client.get("/openapi.json")).json()
    assert offers(document, "/goods") == [{**STRIPE, "amount": "50"}]
    assert offers(document, "/goods", "post") == [{**STRIPE, "amount": "70", "description": "More of it"}]
    assert sorted(document["paths"]["/goods"]) == ["get", "post"]


async def test_an_app_that_names_no_methods(gate: Gate) -> None:
    async def files(scope: Any, receive: Any, send: Any) -> None: ...

    app = Starlette(routes=[Mount("/files", app=files)])
    gate.protect("* /files/*", price="0.50 USD", rails=["stripe"])
    async with opened(gate, app) as client:
        document = (await client.get("/openapi.json")).json()
    assert list(document["paths"]) == ["/files/{path}"]
    assert offers(document, "/files/{path}") == [{**STRIPE, "amount": "50"}]


async def test_a_price_that_the_request_says(gate: Gate) -> None:
    app = Starlette()
    app.add_route("/goods", gate.paid(lambda request: "0.50 USD")(goods))
    async with opened(gate, app) as client:
        assert [offer["amount"] for offer in offers((await client.get("/openapi.json")).json(), "/goods")] == [None] * 3
        assert "costs what the request says" in (await client.get("/llms.txt")).text


async def test_only_offers_that_can_be_made_in_mpp_are_listed(gate: Gate) -> None:
    app = Starlette()
    app.add_route("/cheap", gate.paid("0.49 USD")(goods))
    app.add_route("/dear", gate.paid("90 sat")(goods))
    app.add_route("/x402", gate.paid("0.50 USD", dialects=["x402-v2"])(goods))
    async with opened(gate, app) as client:
        document = (await client.get("/openapi.json")).json()
    assert [offer["method"] for offer in offers(document, "/cheap")] == ["evm", "lightning"]  # Stripe takes 0.50 and up
    assert [offer["amount"] for offer in offers(document, "/dear")] == [None, "90", None]
    assert "x-payment-info" not in document["paths"]["/x402"]["get"]
    assert "402" in document["paths"]["/x402"]["get"]["responses"]


async def test_a_rail_that_cannot_charge_the_price_is_in_no_document(tmp_path: Path) -> None:
    rails = [BaseRail.sandbox(tmp_path), LightningRail.sandbox(tmp_path), StripeRail.sandbox(tmp_path)]
    gate = Gate(rails=rails, store="memory://", public_url=URL, reconcile_seconds=0)  # without rates
    app = Starlette()
    app.add_route("/goods", gate.paid("0.25 USD")(goods))
    app.add_route("/dear", gate.paid("0.50 USD")(goods))
    app.add_route("/asked", gate.paid(lambda request: "0.25 USD")(goods))
    async with opened(gate, app) as client:
        document, prose = (await client.get("/openapi.json")).json(), (await client.get("/llms.txt")).text
        made = (await client.get("/goods")).json()["offers"]
    assert offers(document, "/goods") == [{**BASE, "amount": "250000"}]
    assert [offer["rail"] for offer in made] == ["base"]
    assert "`GET /goods` costs 0.25 USD, to be paid by base." in prose
    assert "`GET /dear` costs 0.5 USD, to be paid by base or stripe." in prose
    assert "`GET /asked` costs what the request says, to be paid by base or lightning or stripe." in prose


async def test_of_a_rail_of_several_currencies_those_that_lead_from_the_price_are_listed(tmp_path: Path) -> None:
    rails = [StripeRail.sandbox(tmp_path, currency=("usd", "eur"))]
    gate = Gate(rails=rails, store="memory://", public_url=URL, reconcile_seconds=0)
    app = Starlette()
    app.add_route("/goods", gate.paid("0.50 EUR")(goods))
    async with opened(gate, app) as client:
        assert offers((await client.get("/openapi.json")).json(), "/goods") == [
            {**STRIPE, "currency": "eur", "amount": "50"}
        ]


async def test_a_rail_that_cannot_at_today_s_rate_stays_in_the_documents(tmp_path: Path) -> None:
    app = Starlette()
    gate = gate_of(tmp_path)
    app.add_route("/goods", gate.paid("90 sat", rails=["lightning", "stripe"])(goods))  # 0.06 USD, today
    async with opened(gate, app) as client:
        assert "to be paid by lightning or stripe." in (await client.get("/llms.txt")).text


async def test_nothing_is_made_for_a_document(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def invoice(*_: Any, **__: Any) -> None:
        pytest.fail("an invoice was made")

    monkeypatch.setattr(LightningRail, "offer", invoice)
    app = Starlette()
    app.add_route("/goods", gate.paid("90 sat")(goods))
    async with opened(gate, app) as client:
        assert len(offers((await client.get("/openapi.json")).json(), "/goods")) == 3


# --- prose


async def test_the_prose(gate: Gate) -> None:
    app = FastAPI(title="News")
    app.get("/b")(gate.paid("0.50 USD", description="Two\nlines.", rails=["base", "stripe"])(goods))
    app.get("/a/{slug}")(gate.paid("90 sat", rails=["lightning"])(goods))
    async with opened(gate, app) as client:
        response = await client.get("/llms.txt")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    text = response.text
    assert text.startswith("# News\n\n> ")
    assert "- `GET /a/{slug}` costs 90 sat, to be paid by lightning.\n" in text
    assert "- `GET /b` costs 0.5 USD, to be paid by base or stripe. Two lines.\n" in text
    assert text.index("/a/") < text.index("/b")
    assert f"({URL}/openapi.json)" in text


# --- who answers


async def test_the_app_s_own_files_come_first(gate: Gate) -> None:
    async def own(request: Request) -> Response:
        return PlainTextResponse(f"own {request.url.path}")

    app = Starlette(routes=[Route("/llms.txt", own), Route("/openapi.json", own)])
    app.add_route("/goods", gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        for path in ("/llms.txt", "/openapi.json"):
            assert (await client.get(path)).text == f"own {path}"


async def test_a_paid_file_stays_paid(gate: Gate) -> None:
    app = Starlette()
    app.add_route("/{anything:path}", gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        for path in ("/llms.txt", "/openapi.json"):
            assert (await client.get(path)).status_code == 402


@pytest.mark.parametrize("path", ["/llms.txt", "/openapi.json"])
async def test_head_and_other_methods(gate: Gate, path: str) -> None:
    app = Starlette()
    app.add_route("/goods", gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        head, got = await Wire(app, path, "HEAD").run(), await client.get(path)
        assert (head.status, head.body) == (200, b"")
        assert head.one("content-length") == str(len(got.content))
        assert (await client.post(path)).status_code == 404
        assert (await client.get(path + "/")).status_code == 404


async def test_no_secret_is_in_them(tmp_path: Path) -> None:
    secret = "a secret that only this test knows, 32 bytes"
    gate, app = gate_of(tmp_path, secret=secret), FastAPI()
    app.get("/goods")(gate.paid("0.50 USD")(goods))
    async with opened(gate, app) as client:
        said = (await client.get("/openapi.json")).text + (await client.get("/llms.txt")).text
    assert secret not in said
    assert "token" not in json.dumps(said)


# --- the setting


async def test_all_of_it_can_be_turned_off(tmp_path: Path) -> None:
    for app in (Starlette(), FastAPI()):
        gate = gate_of(tmp_path, documents=False)
        app.add_route("/goods", gate.paid("0.50 USD")(goods))
        async with opened(gate, app) as client:
            assert (await client.get("/llms.txt")).status_code == 404
            response = await client.get("/openapi.json")
            assert response.status_code == 404 or "x-service-info" not in response.json()


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_the_setting_is_yes_or_no(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="documents="):
        gate_of(tmp_path, documents=value)
