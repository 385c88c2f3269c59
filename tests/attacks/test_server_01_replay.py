"""1: one proof, shown again and again: in the same words, in other words, in another dialect, after a restart."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import httpx
import pytest

from rail402_base.eip3009 import parse_authorization
from rail402_base.sandbox import ENDOWMENT
from rail402_base.wire import payload_of
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import AGENT, World, header, opened
from tests.conformance.test_lightning_end_to_end import PRICE, Town, required, signature

PAID = 3000


async def assert_one_payment(world: World) -> None:
    """On both sides: the agent has lost it, the publisher has it."""
    await world.assert_books(paid=PAID)
    assert await world.chain.balance_of(AGENT) == ENDOWMENT - PAID


async def test_the_same_request_gets_the_stored_answer(world: World, observed: Observe) -> None:
    fields = await world.payment("/article")
    answers = [await world.http.get("/article", headers=fields) for _ in range(5)]
    assert {(each.status_code, each.content) for each in answers} == {(200, b'{"run":1}')}
    assert [each.headers.get("idempotent-replayed") for each in answers] == [None, *["true"] * 4]
    assert len({each.headers["receipt-record"] for each in answers}) == 1
    assert world.runs == ["article"]
    await assert_one_payment(world)
    observed("the stored answer and the same receipt, one run, one transfer on both sides of the books")


async def test_spellings_of_one_proof_are_one_proof(world: World, observed: Observe) -> None:
    accepted, payload = opened(await world.payment("/article"))
    assert (await world.http.get("/article", headers=header(accepted, payload))).status_code == 200
    authorization = payload["authorization"]
    loud = authorization | {name: "0x" + authorization[name][2:].upper() for name in ("from", "to", "nonce")}
    text = base64.b64decode(header(accepted, payload)["PAYMENT-SIGNATURE"])
    for fields in (
        header(accepted, payload | {"authorization": loud}),
        header(accepted, payload | {"signature": "0x" + payload["signature"][2:].upper()}),
        header(accepted, payload | {"memo": "another payment"}),
        {"PAYMENT-SIGNATURE": base64.b64encode(b" " + text + b"\n").decode()},
        {"PAYMENT-SIGNATURE": base64.b64encode(text.replace(b": ", b":")).decode()},
    ):
        answer = await world.http.get("/article", headers=fields)
        replayed = answer.status_code == 200 and answer.headers["idempotent-replayed"] == "true"
        assert replayed or answer.status_code in (400, 402, 409), answer.text
    assert world.runs == ["article"]
    await assert_one_payment(world)
    observed("letters, spaces and added members make no second payment of it")


async def test_under_a_fresh_offer_it_is_used(world: World, observed: Observe) -> None:
    fields = await world.payment("/article")
    assert (await world.http.get("/article", headers=fields)).status_code == 200
    for _ in range(3):
        again = header(await world.accepted("/article"), opened(fields)[1])
        assert await world.refused("/article", again, status=409) == "replay_not_proven"
    await assert_one_payment(world)
    observed("409 `replay_not_proven` under a fresh offer")


@pytest.mark.parametrize("first", ["payment-signature", "x-payment"])
async def test_in_another_dialect_it_is_used(world: World, first: str, observed: Observe) -> None:
    """x402 version 1 shows the same authorization without the offer's token."""
    accepted, payload = opened(await world.payment("/article"))
    old = {"x402Version": 1, "scheme": "exact", "network": accepted["network"], "payload": payload}
    offers = (await world.http.get("/article")).json()["accepts"]
    old["network"] = offers[0]["network"]
    ways = {
        "payment-signature": header(accepted, payload),
        "x-payment": {"X-PAYMENT": base64.b64encode(json.dumps(old).encode()).decode()},
    }
    assert (await world.http.get("/article", headers=ways.pop(first))).status_code == 200
    (other,) = ways.values()
    assert await world.refused("/article", other, status=409) == "replay_not_proven"
    await assert_one_payment(world)
    observed("409 `replay_not_proven` in another dialect")


@pytest.mark.parametrize("mine", [{"authorization": "Bearer mine"}, {"authorization": "Basic bWluZQ=="}])
async def test_without_the_login_it_is_used(world: World, mine: dict[str, str], observed: Observe) -> None:
    """What was bought by somebody who was logged in may be about that person."""
    fields = await world.payment("/article")
    first = await world.http.get("/article", headers=fields | mine)
    assert first.status_code == 200
    for login in ({}, {"authorization": "Bearer another"}):
        assert await world.refused("/article", fields | login, status=409) == "replay_not_proven"
    again = await world.http.get("/article", headers=fields | mine)
    assert (again.status_code, again.content, world.runs) == (200, first.content, ["article"])
    await assert_one_payment(world)
    observed("409 `replay_not_proven` without the login that the first request had")


async def test_a_bare_preimage_needs_the_cookie_again(town: Town, observed: Observe) -> None:
    """Nodes that forwarded the payment know the preimage too."""
    accepted = required(await town.http.get("/article/one"))
    shown = {"X-Receipt": await town.pay(accepted["extra"]["invoice"])}
    first = await town.http.get("/article/one", headers=shown | {"cookie": "session=mine"})
    assert first.status_code == 200
    for cookie in ({}, {"cookie": "session=another"}):
        answer = await town.http.get("/article/one", headers=shown | cookie)
        assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
    again = await town.http.get("/article/one", headers=shown | {"cookie": "session=mine"})
    assert (again.content, town.runs) == (first.content, ["one"])
    observed("a preimage alone opens no answer that went to a browser with a cookie")


@pytest.mark.parametrize("path", ["/article", "/upfront"])
async def test_after_a_restart_it_is_still_used(tmp_path: Path, path: str, observed: Observe) -> None:
    store = f"sqlite:///{tmp_path}/charges.db"
    async with World(tmp_path, store=store).open() as world:
        fields = await world.payment(path)
        first = await world.http.get(path, headers=fields)
    async with World(tmp_path, store=store).open() as again:
        answer = await again.http.get(path, headers=fields)
        assert (answer.status_code, answer.content, again.runs) == (200, first.content, [])
        again.clock.advance(601)  # the window of the replay is over
        assert await again.refused(path, fields) == "receipt_expired"
        await assert_one_payment(again)
    observed("after a restart the stored answer, and 402 `receipt_expired` once its window is over")


async def test_two_hours_after_the_store_was_lost_nothing_old_pays(tmp_path: Path, observed: Observe) -> None:
    """The chain remembers what the gate forgot. For an hour it would be taken for a stranger's preemption: that is why
    a gate whose store was lost is to wait for two hours."""
    async with World(tmp_path).open() as world:
        fields = await world.payment("/article", valid_before=world.clock() + 86_400)
        assert (await world.http.get("/article", headers=fields)).status_code == 200
    async with World(tmp_path).open() as forgetful:
        forgetful.clock.advance(2 * 3600)
        authorization, proof = parse_authorization(opened(fields)[1])
        fresh = header(await forgetful.accepted("/article"), payload_of(authorization, proof))
        assert await forgetful.refused("/article", fresh) == "proof_already_used"
        await assert_one_payment(forgetful)
    observed("402 `proof_already_used` two hours after the store was lost, however long the authorization is valid")


async def test_a_preimage_is_one_payment_however_it_is_shown(town: Town, observed: Observe) -> None:
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])
    shown = [
        {"X-Receipt": preimage},
        {"X-Receipt": preimage.upper()},
        signature(accepted, {"preimage": preimage}),
        signature(accepted, {"preimage": preimage.upper()}),
    ]
    answers: list[httpx.Response] = [await town.http.get("/article/one", headers=each) for each in shown]
    served = [each for each in answers if each.status_code == 200]
    assert served
    assert {each.content for each in served} == {served[0].content}
    assert {each.status_code for each in answers} <= {200, 400, 402}
    assert town.runs == ["one"]
    assert (await town.books()).received_msat == PRICE
    observed("a preimage in any letters and dialect is the same payment")
