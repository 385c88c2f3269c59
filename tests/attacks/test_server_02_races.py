"""2: one proof, fifty times at once, at four worker processes on one SQLite file."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.clock import system_clock
from rail402_base.eip3009 import Authorization, address_of
from rail402_base.sandbox import ENDOWMENT, SandboxChain
from rail402_lightning.sandbox import SandboxLightning
from tests.attacks.cases import Observe
from tests.attacks.worker import PUBLISHER, runs, workers
from tests.conformance.test_base_end_to_end import AGENT_KEY, header, signed
from tests.conformance.test_lightning_end_to_end import PRICE, required, signature
from tests.services.postgres import PostgresServer

URL = "https://shop.example"
AT_ONCE, WORKERS, PAID = 50, 4, 3000
AGENT = address_of(AGENT_KEY)


def authorize(accepted: dict[str, Any]) -> dict[str, Any]:
    """What an honest payer shows."""
    authorization = Authorization(
        from_=AGENT,
        to=accepted["payTo"],
        value=int(accepted["amount"]),
        valid_after=0,
        valid_before=system_clock() + accepted["maxTimeoutSeconds"],
        nonce=bytes(31) + b"\7",
    )
    return signed(authorization)


async def all_at_once(origins: list[str], path: str, fields: dict[str, str], times: int = AT_ONCE) -> list[Any]:
    """What each of so many requests gets, spread over the workers."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
        calls = [client.get(origins[number % len(origins)] + path, headers=fields) for number in range(times)]
        return list(await asyncio.gather(*calls))


async def terms(origin: str, path: str) -> dict[str, Any]:
    """What a fresh 402 asks."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(origin + path)
    assert response.status_code == 402
    (accepted,) = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"]
    found: dict[str, Any] = accepted
    return found


async def assert_books(folder: Path, paid: int) -> None:
    chain = SandboxChain(folder / "sandbox" / "base.db", clock=system_clock)
    books = await chain.books()
    assert (books.balances[AGENT], books.balances.get(PUBLISHER, 0)) == (ENDOWMENT - paid, paid)


async def endow(folder: Path) -> None:
    (folder / "sandbox").mkdir()
    chain = SandboxChain(folder / "sandbox" / "base.db", clock=system_clock)
    await chain.endow(AGENT)


@pytest.mark.parametrize("path", ["/article", "/upfront"])
async def test_one_of_fifty_is_run_and_settled(tmp_path: Path, path: str, observed: Observe) -> None:
    await endow(tmp_path)
    with workers(tmp_path, URL, WORKERS) as origins:
        accepted = await terms(origins[0], path)
        answers = await all_at_once(origins, path, header(accepted, authorize(accepted)))
    assert {each.status_code for each in answers} <= {200, 409}
    served = [each for each in answers if each.status_code == 200]
    assert {each.content for each in served} == {served[0].content}, "all that is served is the one answer"
    assert sum("idempotent-replayed" not in each.headers for each in served) == 1
    assert all("retry-after" in each.headers for each in answers if each.status_code == 409)
    assert runs(tmp_path) == [path[1:]]
    await assert_books(tmp_path, PAID)
    observed("one run and one transfer on both sides of the books; the others got its stored answer or 409")


@pytest.mark.xdist_group("postgres")
async def test_one_of_fifty_on_postgresql(tmp_path: Path, postgres: PostgresServer, observed: Observe) -> None:
    await endow(tmp_path)
    with workers(tmp_path, URL, WORKERS, store=postgres.schema()) as origins:
        accepted = await terms(origins[0], "/article")
        answers = await all_at_once(origins, "/article", header(accepted, authorize(accepted)))
    assert {each.status_code for each in answers} <= {200, 409}
    served = [each for each in answers if each.status_code == 200]
    assert {each.content for each in served} == {served[0].content}
    assert sum("idempotent-replayed" not in each.headers for each in served) == 1
    assert runs(tmp_path) == ["article"]
    await assert_books(tmp_path, PAID)
    observed("the same at four workers on PostgreSQL")


async def test_fifty_payments_for_one_offer_are_one(tmp_path: Path, observed: Observe) -> None:
    await endow(tmp_path)
    with workers(tmp_path, URL, WORKERS) as origins:
        accepted = await terms(origins[0], "/article")
        payments = []
        for number in range(20):
            authorization = Authorization(
                from_=AGENT,
                to=PUBLISHER,
                value=PAID,
                valid_after=0,
                valid_before=system_clock() + 180,
                nonce=number.to_bytes(32, "big"),
            )
            payments.append(header(accepted, signed(authorization)))
        calls = [all_at_once([origins[n % WORKERS]], "/article", each, 1) for n, each in enumerate(payments)]
        answers = [answer for (answer,) in await asyncio.gather(*calls)]
    assert Counter(each.status_code for each in answers) == {200: 1, 409: 19}
    assert runs(tmp_path) == ["article"]
    await assert_books(tmp_path, PAID)
    observed("of 20 different payments for one offer one was taken")


async def test_one_preimage_at_four_workers(tmp_path: Path, observed: Observe) -> None:
    with workers(tmp_path, URL, WORKERS) as origins:
        async with httpx.AsyncClient(trust_env=False) as client:
            accepted = required(await client.get(f"{origins[0]}/invoice"))
        node = SandboxLightning(tmp_path / "sandbox" / "lightning.db", clock=system_clock)
        status = await node.pay_invoice(accepted["extra"]["invoice"], wallet="stranger", max_fee_msat=1000)
        assert status.preimage is not None
        answers = await all_at_once(origins, "/invoice", signature(accepted, {"preimage": status.preimage.hex()}))
        books = await node.books()
        await node.close()
    assert {each.status_code for each in answers} <= {200, 409}
    assert len({each.content for each in answers if each.status_code == 200}) == 1
    assert runs(tmp_path) == ["invoice"]
    assert (books.received_msat, books.balanced) == (PRICE, True)
    observed("one run for a preimage")


async def test_a_pass_for_ten_at_four_workers(tmp_path: Path, observed: Observe) -> None:
    await endow(tmp_path)
    with workers(tmp_path, URL, WORKERS) as origins:
        accepted = await terms(origins[0], "/pass")
        answers = await all_at_once(origins, "/pass", header(accepted, authorize(accepted)))
    assert Counter(each.status_code for each in answers) == {200: 10, 402: 40}
    assert {each.json()["code"] for each in answers if each.status_code == 402} == {"uses_exhausted"}
    assert runs(tmp_path) == ["pass"] * 10
    await assert_books(tmp_path, PAID)
    observed("a pass for ten ran ten times, not eleven")
