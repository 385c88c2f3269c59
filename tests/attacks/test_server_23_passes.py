"""23: what was bought once, used more often, longer, or elsewhere than it is good for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate
from rail402.server.settings import Receipts
from rail402.testing.fakes import FakeClock
from rail402_lightning import LightningRail
from rail402_lightning.backends.sandbox import SandboxReceiver
from tests.attacks.cases import Observe
from tests.conformance.test_l402_end_to_end import Paid

URL = "http://testserver"


class Club:
    """Two services with passes for three, for ten minutes."""

    def __init__(self, folder: Path, secret: str = "a secret of the club, of 32 bytes and more") -> None:
        self.clock = FakeClock()
        rail = LightningRail.sandbox(folder, clock=self.clock)
        assert isinstance(rail.receiver, SandboxReceiver)
        self.node = rail.receiver.node
        self.gate = Gate(
            rails=[rail],
            public_url=URL,
            store=f"sqlite:///{folder}/charges.db",
            clock=self.clock,
            reconcile_seconds=0,
            secret=secret,
        )
        self.runs: list[str] = []
        app = FastAPI()
        self.gate.install(app)
        for name in ("weather", "news"):
            self._sell(app, name)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=URL)

    def _sell(self, app: FastAPI, name: str) -> None:
        @app.get(f"/{name}/{{city}}")
        @self.gate.paid("21 sat", receipt=Receipts(valid="10m", uses=3))
        async def service(city: str) -> dict[str, str]:
            self.runs.append(f"{name} {city}")
            return {"city": city}

    async def buy(self, path: str) -> Paid:
        line = (await self.http.get(path)).headers.get_list("www-authenticate")[0]
        token, invoice = line.split('macaroon="')[1].split('"')[0], line.split('invoice="')[1].split('"')[0]
        status = await self.node.pay_invoice(invoice, wallet="stranger", max_fee_msat=1000)
        assert status.preimage is not None
        return Paid(token, status.preimage.hex())

    async def show(self, paid: Paid, path: str, **fields: str) -> httpx.Response:
        return await self.http.get(path, headers=paid.shown() | fields)


@pytest.fixture
async def club(tmp_path: Path) -> AsyncIterator[Club]:
    club = Club(tmp_path)
    async with club.gate, club.http:
        yield club


def refused(response: httpx.Response, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (402, code), response.text


async def test_a_use_too_many(club: Club, observed: Observe) -> None:
    paid = await club.buy("/weather/oslo")
    for city in ("oslo", "oslo", "rome"):
        assert (await club.show(paid, f"/weather/{city}")).status_code == 200
    for city in ("oslo", "rome", "lima"):
        refused(await club.show(paid, f"/weather/{city}"), "uses_exhausted")
    bare = await club.http.get("/weather/oslo", headers={"X-Receipt": paid.preimage})
    assert (bare.status_code, bare.json()["code"]) == (409, "replay_not_proven")
    assert club.runs == ["weather oslo", "weather oslo", "weather rome"]
    observed("402 `uses_exhausted` after the last use; its bare preimage is 409 `replay_not_proven`")


async def test_a_second_too_late(club: Club, observed: Observe) -> None:
    paid = await club.buy("/weather/oslo")
    assert (await club.show(paid, "/weather/oslo")).status_code == 200
    club.clock.advance(600)
    assert (await club.show(paid, "/weather/oslo")).status_code == 200
    club.clock.advance(1)
    refused(await club.show(paid, "/weather/oslo"), "receipt_expired")
    assert len(club.runs) == 2
    observed("402 `receipt_expired` a second after its time")


async def test_another_service(club: Club, observed: Observe) -> None:
    paid = await club.buy("/weather/oslo")
    for path in ("/news/oslo", "/news/rome"):
        refused(await club.show(paid, path), "resource_mismatch")
    assert (await club.show(paid, "/weather/rome")).status_code == 402, "the first use is of what was asked for"
    assert club.runs == []
    assert (await club.show(paid, "/weather/oslo")).status_code == 200
    assert (await club.show(paid, "/weather/rome")).status_code == 200
    refused(await club.show(paid, "/news/rome"), "resource_mismatch")
    observed("402 `resource_mismatch` at another service, before and after the first use")


async def test_a_repeat_that_says_that_it_is_one(club: Club, observed: Observe) -> None:
    """An Idempotency-Key replays its own request only: it is no way to a fourth answer."""
    paid = await club.buy("/weather/oslo")
    key = {"Idempotency-Key": "mine"}
    first = await club.show(paid, "/weather/oslo", **key)
    again = await club.show(paid, "/weather/oslo", **key)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    other = await club.show(paid, "/weather/rome", **key)
    assert other.json() == {"city": "rome"}
    assert (await club.show(paid, "/weather/lima")).status_code == 200
    refused(await club.show(paid, "/weather/bonn", **key), "uses_exhausted")
    assert club.runs == ["weather oslo", "weather rome", "weather lima"]
    observed("an `Idempotency-Key` replays its own request and reaches no other")


async def test_at_another_gate(tmp_path: Path, observed: Observe) -> None:
    """Of another secret, though it takes money into the same node."""
    one, other = Club(tmp_path), Club(tmp_path / "other", secret="the secret of the other club, 32 bytes and more")
    async with one.gate, one.http, other.gate, other.http:
        paid = await one.buy("/weather/oslo")
        refused(await other.show(paid, "/weather/oslo"), "offer_unknown")
        assert other.runs == []
    observed("402 `offer_unknown` at another gate")
