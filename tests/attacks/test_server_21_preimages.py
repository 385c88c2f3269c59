"""21: preimages of other invoices, of unpaid ones, of held ones, and what is no preimage."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402_lightning import LightningRail, bolt11
from tests.attacks.cases import Observe
from tests.conformance.test_l402_end_to_end import Paid, buy, show
from tests.conformance.test_lightning_end_to_end import Town, required, signature
from tests.integration.test_base_rpc import until
from tests.integration.test_lightning_lnd import PRICE, URL, Ledger, Shop, bake
from tests.integration.test_lightning_lnd import RECEIVE as RIGHTS
from tests.services.lightning import RegtestNetwork
from tests.services.processes import ServiceFailed

JUNK = ["", "0", "ab" * 31, "ab" * 33, "ab" * 32 + "0", "zz" * 32, "ａｂ" * 32, "ab" * 4000, "../" * 21 + "a"]


async def shown(town: Town, preimage: str, accepted: dict[str, Any], macaroon: str) -> list[httpx.Response]:
    """The answers to a preimage in all three dialects that take one."""
    fields: list[dict[str, str]] = [{"X-Receipt": preimage}, signature(accepted, {"preimage": preimage})]
    fields.append({"Authorization": f"L402 {macaroon}:{preimage}"})
    return [
        await town.http.get("/article/one", headers=[(k.encode(), v.encode()) for k, v in each.items()])
        for each in fields
    ]


async def macaroon_of(town: Town) -> tuple[str, dict[str, Any]]:
    """A macaroon that nobody has paid for, and the terms beside it."""
    challenge = await town.http.get("/article/one")
    line = challenge.headers.get_list("www-authenticate")[0]
    return line.split('macaroon="')[1].split('"')[0], required(challenge)


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: junk[:9] or "nothing")
async def test_what_is_no_preimage(town: Town, junk: str, observed: Observe) -> None:
    macaroon, accepted = await macaroon_of(town)
    for answer in await shown(town, junk, accepted, macaroon):
        assert answer.status_code in (400, 402), answer.text
    assert town.runs == []
    assert (await town.books()).received_msat == 0
    observed("400 or 402 for 31 and 33 bytes and seven other kinds of junk, in all three dialects")


async def test_the_preimage_of_another_invoice(town: Town, observed: Observe) -> None:
    other = required(await town.http.get("/article/two"))
    preimage = await town.pay(other["extra"]["invoice"])
    macaroon, accepted = await macaroon_of(town)
    answers = await shown(town, preimage, accepted, macaroon)
    assert [each.status_code for each in answers] == [402, 402, 402]
    assert {each.json()["code"] for each in answers} <= {"preimage_invalid", "resource_mismatch"}
    paid = await buy(town)
    swapped = await show(town, Paid(macaroon, paid.preimage).shown())
    assert (swapped.status_code, swapped.json()["code"]) == (402, "preimage_invalid")
    assert town.runs == []
    observed("402 `preimage_invalid` or 402 `resource_mismatch` for the preimage of another invoice")


async def test_a_preimage_that_everybody_knows(town: Town, observed: Observe) -> None:
    """Zeros, and the payment hash itself, which stands in the invoice."""
    macaroon, accepted = await macaroon_of(town)
    hash_ = bolt11.decode(accepted["extra"]["invoice"]).payment_hash.hex()
    for preimage in ("00" * 32, hash_):
        answers = await shown(town, preimage, accepted, macaroon)
        assert {each.status_code for each in answers} <= {400, 402}
    assert town.runs == []
    observed("402 for zeros; 400 for the payment hash in place of the preimage, with no second challenge")


# --- on lnd


@pytest.fixture
async def rail(regtest: RegtestNetwork) -> AsyncIterator[LightningRail]:
    alice = regtest.alice
    held = bake(alice, *RIGHTS.methods)
    rail = LightningRail.lnd(alice.rest_url, held, "regtest", tls_cert=alice.tls_cert_path, wait_seconds=0.5)
    await rail.start()
    yield rail
    await rail.close()


async def test_lnd_an_open_invoice_whose_preimage_is_known(
    regtest: RegtestNetwork, rail: LightningRail, tmp_path: Path, observed: Observe
) -> None:
    """Whoever has the node's read macaroon knows the preimage of every invoice; it proves nothing until it is paid."""
    shop, ledger = Shop(rail, tmp_path), Ledger(regtest)
    before = ledger.balances()
    async with shop.gate, httpx.AsyncClient(transport=httpx.ASGITransport(shop.app), base_url=URL) as client:
        text = (await client.get("/article/402")).json()["payment"]["invoice"]
        told = regtest.alice.get(f"/v1/invoice/{bolt11.decode(text).payment_hash.hex()}")
        preimage = base64.b64decode(told["r_preimage"]).hex()
        early = await client.get("/article/402", headers={"X-Receipt": preimage})
        assert (early.status_code, early.json()["code"], shop.runs) == (402, "not_settled", [])
        ledger.expect(before)
        await asyncio.to_thread(regtest.bob.pay, text)
        paid = await client.get("/article/402", headers={"X-Receipt": preimage})
    assert (paid.status_code, shop.runs) == (200, ["402"])
    ledger.expect(before, PRICE, -PRICE)
    observed("lnd: the right preimage of an open invoice is 402 `not_settled`, and served once it was paid")


@pytest.mark.parametrize("ending", ["settled", "canceled"])
async def test_lnd_a_held_invoice(
    regtest: RegtestNetwork, rail: LightningRail, tmp_path: Path, ending: str, observed: Observe
) -> None:
    """The money has arrived, and may still go back: lnd calls the invoice ACCEPTED."""
    shop, ledger, alice = Shop(rail, tmp_path), Ledger(regtest), regtest.alice
    before, preimage = ledger.balances(), secrets.token_bytes(32)
    payment_hash = hashlib.sha256(preimage).digest()
    encoded = base64.b64encode(payment_hash).decode()

    async def hold(amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        description = base64.b64encode(hashlib.sha256(hashed_description).digest()).decode()
        body = {"hash": encoded, "value_msat": str(amount_msat), "expiry": str(expiry_seconds)}
        return str(alice.post("/v2/invoices/hodl", body | {"description_hash": description})["payment_request"])

    rail.receiver.create_invoice = hold  # type: ignore[method-assign]
    shown = {"X-Receipt": preimage.hex()}
    async with shop.gate, httpx.AsyncClient(transport=httpx.ASGITransport(shop.app), base_url=URL) as client:
        text = (await client.get("/article/402")).json()["payment"]["invoice"]
        paying = asyncio.create_task(asyncio.to_thread(_try_to_pay, regtest, text))
        await until(lambda: alice.get(f"/v1/invoice/{payment_hash.hex()}")["state"] == "ACCEPTED")
        held = await client.get("/article/402", headers=shown)
        assert (held.status_code, held.json()["code"], shop.runs) == (402, "not_settled", [])
        if ending == "settled":
            alice.post("/v2/invoices/settle", {"preimage": base64.b64encode(preimage).decode()})
        else:
            alice.post("/v2/invoices/cancel", {"payment_hash": encoded})
        await paying
        ended = await client.get("/article/402", headers=shown)
    if ending == "settled":
        assert (ended.status_code, shop.runs) == (200, ["402"])
        ledger.expect(before, PRICE, -PRICE)
    else:
        assert (ended.status_code, shop.runs) == (402, [])
        ledger.expect(before)
    observed("lnd: a held payment is 402 `not_settled`, served when it settles and not when it goes back")


def _try_to_pay(regtest: RegtestNetwork, text: str) -> None:
    with suppress(ServiceFailed):
        regtest.bob.pay(text)
