"""Through a whole gate: why a Lightning payment was refused is said in the scheme's own words."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from rail402 import Gate
from rail402.testing.fakes import FakeClock
from rail402_lightning import LightningRail
from rail402_lightning.backends.sandbox import SandboxReceiver

URL = "http://testserver"
PREFIX = "invalid_exact_lnbtc_"


class Town:
    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        rail = LightningRail.sandbox(directory, clock=self.clock, wait_seconds=0)
        assert isinstance(rail.receiver, SandboxReceiver)
        self.node = rail.receiver.node
        self.gate = Gate(rails=[rail], public_url=URL, store="memory://", clock=self.clock, reconcile_seconds=0)
        app = Starlette()
        for path in ("/a", "/b", "/{rest:path}"):
            app.add_route(path, self.gate.paid("21 sat")(_article), methods=["GET"])
        self.gate.install(app)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL)

    async def bought(self, path: str = "/a") -> tuple[dict[str, Any], str]:
        """What a 402 asks for, and the preimage that paying it shows."""
        accepted = said(await self.http.get(path))["accepts"][0]
        paid = await self.node.pay_invoice(accepted["extra"]["invoice"], wallet="stranger", max_fee_msat=1000)
        assert paid.preimage is not None
        return accepted, paid.preimage.hex()

    async def show(self, accepted: Any, payload: Any, path: str = "/a") -> httpx.Response:
        message = {"x402Version": 2, "accepted": accepted, "payload": payload}
        field = base64.b64encode(json.dumps(message).encode()).decode()
        return await self.http.get(path, headers={"PAYMENT-SIGNATURE": field})


async def _article(request: Any) -> JSONResponse:
    return JSONResponse({})


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    town = Town(tmp_path)
    async with town.gate, town.http:
        yield town


def said(response: httpx.Response) -> Any:
    return json.loads(base64.b64decode(response.headers["payment-required"], validate=True))


@pytest.mark.parametrize(
    ("payload", "path", "change", "word"),
    [
        ({"preimage": "00" * 32}, "/a", {}, "preimage_hash_mismatch"),
        ({"proof": 1}, "/a", {}, "preimage_missing"),
        (None, "/b", {}, "request_mismatch"),
        (None, "/a?more=1", {}, "request_mismatch"),
        (None, "/a", {"amount": "20000"}, "request_mismatch"),
        (None, "/a", {"token": "k9.1800000000." + "A" * 22 + "." + "A" * 43}, "extra_mismatch"),
        (None, "/a", {"token": None}, "extra_mismatch"),
    ],
)
async def test_a_refused_payment(town: Town, payload: Any, path: str, change: dict[str, Any], word: str) -> None:
    accepted, preimage = await town.bought()
    terms = {name: value for name, value in change.items() if name != "token"}
    extra = {name: change.get(name, value) for name, value in accepted["extra"].items()}
    altered = {**accepted, "extra": extra, **terms}

    refused = await town.show(altered, payload or {"preimage": preimage}, path)

    assert refused.status_code == 402
    assert said(refused)["error"].removeprefix(PREFIX) == word
    served = await town.show(accepted, {"preimage": preimage})
    assert served.status_code == 200  # nothing of it was used up
    settled = json.loads(base64.b64decode(served.headers["payment-response"]))
    assert "payer" not in settled
    assert settled["transaction"] in json.dumps([charge.rail_state["payment_hash"] for charge in await charges(town)])


async def charges(town: Town) -> Any:
    return await town.gate.services().store.recent(limit=10)


async def test_a_preimage_in_capitals_is_malformed_and_invites_no_second_payment(town: Town) -> None:
    accepted, preimage = await town.bought()

    refused = await town.show(accepted, {"preimage": preimage.upper().replace("0", "A")})

    assert (refused.status_code, refused.json()["code"]) == (400, "malformed_payment")
    assert "payment-required" not in refused.headers


@pytest.mark.parametrize("path", ["/%zz", "/a%", "/a?x=%z"])
async def test_a_request_that_no_invoice_can_be_bound_to_is_offered_none(town: Town, path: str) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    raw, _, query = path.partition("?")
    scope = {"type": "http", "method": "GET", "path": raw, "raw_path": raw.encode(), "query_string": query.encode()}
    transport = town.http._transport
    assert isinstance(transport, httpx.ASGITransport)
    await transport.app({**scope, "headers": [], "root_path": "", "scheme": "http"}, receive, send)

    assert sent[0]["status"] == 402
    assert json.loads(sent[1]["body"])["offers"] == []
