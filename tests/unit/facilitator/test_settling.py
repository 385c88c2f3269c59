"""A payment is taken once, and its settlement is worth one success."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.facilitator.service import Facilitator
from rail402.facilitator.wire import read_question
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.stores.sqlite import SqliteStore
from rail402.testing.fakes import Ending
from tests.unit.facilitator.desk import NETWORK, PAYER, PRICE, Desk, key_of

LEASE = 60 + 5


async def settle(client: httpx.AsyncClient, body: Any, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await client.post("/settle", json=body, headers=named)
    assert response.status_code == 200, response.text
    said: dict[str, Any] = response.json()
    assert None not in said.values()
    return said


async def verify(client: httpx.AsyncClient, body: Any) -> dict[str, Any]:
    response = await client.post("/verify", json=body)
    assert response.status_code == 200, response.text
    said: dict[str, Any] = response.json()
    assert None not in said.values()
    return said


def reason(said: dict[str, Any]) -> str:
    assert said.get("success", said.get("isValid")) is False
    return str(said.get("errorReason") or said.get("invalidReason"))


async def the_charge(desk: Desk, body: Any) -> Charge:
    charge = await desk.store.find([key_of(body)])
    assert charge is not None
    return charge


@pytest.mark.parametrize("version", [1, 2])
async def test_a_payment_is_checked_and_taken(version: int) -> None:
    desk = Desk()
    body = desk.body(version=version)
    async with desk.open() as client:
        assert await verify(client, body) == {"isValid": True, "payer": PAYER}
        assert (desk.ledger.charged_total, await desk.store.find([key_of(body)])) == (0, None)
        said = await settle(client, body)
    transaction = desk.ledger.charged[key_of(body)].transaction
    assert said == {
        "success": True,
        "transaction": transaction,
        "network": NETWORK,
        "amount": str(PRICE),
        "payer": PAYER,
    }
    assert desk.ledger.charged_total == PRICE
    charge = await the_charge(desk, body)
    assert (charge.payment, charge.delivery, charge.price.currency) == (PaymentState.SETTLED, Delivery.STORED, "USD")


class TestOneSuccess:
    async def test_the_second_time_it_is_a_duplicate_that_names_the_transaction(self) -> None:
        desk = Desk()
        body = desk.body()
        async with desk.open() as client:
            first = await settle(client, body)
            second = await settle(client, body)
            checked = await verify(client, body)
        assert reason(second) == "duplicate_settlement"
        assert (second["transaction"], second["payer"]) == (first["transaction"], PAYER)
        assert reason(checked) == "duplicate_settlement"
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)

    async def test_of_many_at_once_one_hears_it(self) -> None:
        desk = Desk()
        body = desk.body()
        async with desk.open() as client:
            said = await asyncio.gather(*(settle(client, body) for _ in range(8)))
        assert sorted(each["success"] for each in said) == [False] * 7 + [True]
        assert {each["transaction"] for each in said} == {desk.ledger.charged[key_of(body)].transaction}
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)

    async def test_a_second_caller_waits_for_the_first(self) -> None:
        desk = Desk()
        body, go_on = desk.body(), asyncio.Event()

        async def hold_up(name: str, key: str) -> None:
            if name == "settle":
                await go_on.wait()

        desk.ledger.before = hold_up
        async with desk.open() as client:
            calls = [asyncio.create_task(settle(client, body)) for _ in range(2)]
            done, _ = await asyncio.wait(calls, timeout=0.2)
            assert not done
            assert reason(await verify(client, body)) == "settlement_pending"
            go_on.set()
            said = [await call for call in calls]
        assert sorted(each["success"] for each in said) == [False, True]
        assert desk.ledger.count("settle") == 1

    async def test_who_shows_the_callers_own_key_hears_it_again(self) -> None:
        desk = Desk()
        body = desk.body()
        async with desk.open() as client:
            first = await settle(client, body, Idempotency_Key="the seller's own")
            again = await settle(client, body, Idempotency_Key="the seller's own")
            stranger = await settle(client, body, Idempotency_Key="another")
            bare = await settle(client, body)
        assert (first, again) == (first, first)
        assert first["success"]
        assert reason(stranger) == reason(bare) == "duplicate_settlement"
        assert desk.ledger.count("settle") == 1

    async def test_a_key_that_came_too_late_opens_nothing(self) -> None:
        desk = Desk()
        body = desk.body()
        async with desk.open() as client:
            await settle(client, body)
            assert reason(await settle(client, body, Idempotency_Key="guessed")) == "duplicate_settlement"

    async def test_where_it_may_be_repeated_everybody_hears_it(self) -> None:
        desk = Desk(repeat=True)
        body = desk.body()
        async with desk.open() as client:
            said = [await settle(client, body) for _ in range(3)]
            assert reason(await verify(client, body)) == "duplicate_settlement"
        assert said[0]["success"]
        assert said[0] == said[1] == said[2]
        assert desk.ledger.count("settle") == 1

    async def test_a_caller_who_has_gone_leaves_it_to_the_next(self) -> None:
        desk = Desk()
        body = desk.body()

        async def gone() -> bool:
            return False

        async with desk.open() as client:
            left = await desk.facilitator.settle(read_question(_bytes(body), max_bytes=9999), is_here=gone)
            assert left.told is None
            assert (await the_charge(desk, body)).delivery is Delivery.NONE
            assert await verify(client, body) == {"isValid": True, "payer": PAYER}
            assert (await settle(client, body))["success"]
            assert reason(await settle(client, body)) == "duplicate_settlement"
        assert desk.ledger.count("settle") == 1

    async def test_an_answer_that_was_begun_and_never_left_is_given_again(self) -> None:
        desk = Desk()
        body = desk.body()
        async with desk.open() as client:
            begun = await desk.facilitator.settle(read_question(_bytes(body), max_bytes=9999))
            assert begun.told is not None  # and the process ends
            assert reason(await settle(client, body)) == "settlement_pending"
            desk.clock.advance(10)
            assert await verify(client, body) == {"isValid": True, "payer": PAYER}
            assert (await settle(client, body))["success"]
            await desk.facilitator.told(begun.told)  # too late: somebody else has heard it
            assert reason(await settle(client, body)) == "duplicate_settlement"
        assert desk.ledger.count("settle") == 1


class TestOutcomes:
    @pytest.mark.parametrize("ending", [Ending.UNKNOWN_DONE, Ending.OK])
    async def test_a_lost_answer_is_looked_up_at_once(self, ending: Ending) -> None:
        desk = Desk()
        desk.ledger.script("settle", ending)
        body = desk.body()
        async with desk.open() as client:
            assert (await settle(client, body))["success"]
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)

    async def test_what_is_under_way_is_pending_until_it_is_there(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.PENDING)
        body = desk.body()
        async with desk.open() as client:
            said = await settle(client, body)
            assert reason(said) == "settlement_pending"
            assert (said["transaction"], said["payer"]) == ("", PAYER)
            assert reason(await verify(client, body)) == "settlement_pending"
            assert desk.ledger.count("lookup") < 5  # it is not looked for all the time
            desk.ledger.arrive(key_of(body))
            assert (await settle(client, body))["success"]
            assert reason(await settle(client, body)) == "duplicate_settlement"
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)

    async def test_a_pending_one_names_the_transaction_that_the_rail_sent(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.PENDING)
        body = desk.body()
        async with desk.open() as client:
            await settle(client, body)
            charge = await the_charge(desk, body)
            state = {**charge.rail_state, "transaction": "0xsent"}
            await desk.store.save(charge.model_copy(update={"rail_state": state}))
            assert (await settle(client, body))["transaction"] == "0xsent"

    async def test_the_reconciler_finds_it_and_the_next_call_says_so(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.PENDING)
        body = desk.body()
        async with desk.open() as client:
            await settle(client, body)
            desk.ledger.arrive(key_of(body))
            desk.clock.advance(60)
            assert await desk.facilitator.reconcile() == 1
            assert (await the_charge(desk, body)).payment is PaymentState.SETTLED
            looks = desk.ledger.count("lookup")
            assert (await settle(client, body))["success"]
        assert desk.ledger.count("lookup") == looks

    async def test_a_refusal_is_final_and_remembered(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.FAILED)
        body = desk.body()
        async with desk.open() as client:
            said = [reason(await settle(client, body)), reason(await settle(client, body))]
            said.append(reason(await verify(client, body)))
        assert said == ["invalid_transaction_state"] * 3
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, 0)

    async def test_what_was_not_taken_may_be_settled_again(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.NOT_PAID, Ending.NOT_PAID)
        body = desk.body()
        async with desk.open() as client:
            assert reason(await settle(client, body)) == "invalid_transaction_state"
            assert reason(await settle(client, body)) == "invalid_transaction_state"
            assert (await verify(client, body))["isValid"]
            assert (await settle(client, body))["success"]
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (3, PRICE)
        assert (await the_charge(desk, body)).attempt == 3

    async def test_one_that_expired_meanwhile_is_not_taken_again(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.NOT_PAID)
        body = desk.body()
        async with desk.open() as client:
            await settle(client, body)
            desk.clock.advance(601)
            said = await settle(client, body)
        assert reason(said) == "invalid_exact_evm_payload_authorization_valid_before"
        assert desk.ledger.count("settle") == 1

    @pytest.mark.parametrize(("call", "seconds"), [("settle", "5"), ("verify", "2")])
    async def test_a_rail_that_is_down_is_trouble_of_our_own(self, call: str, seconds: str) -> None:
        desk = Desk()
        desk.ledger.script(call, Ending.UNAVAILABLE)
        body = desk.body()
        async with desk.open() as client:
            down = await client.post(f"/{call}", json=body)
            assert (await settle(client, body))["success"]
        said = down.json()
        assert (down.status_code, said["error"], down.headers["retry-after"]) == (503, "rail_unavailable", seconds)
        assert "scripted" not in down.text
        word = {"settle": "errorReason", "verify": "invalidReason"}[call]
        assert said[word] == f"unexpected_{call}_error"
        assert desk.ledger.charged_total == PRICE

    async def test_no_answer_in_time_is_pending_and_goes_on(self) -> None:
        desk = Desk(wait_seconds=0)
        body = desk.body()
        async with desk.open() as client:
            assert reason(await settle(client, body)) == "settlement_pending"
            charge = await the_charge(desk, body)
            while charge.payment is not PaymentState.SETTLED:
                charge = await desk.store.wait(charge, timeout=5) or charge
            assert (await settle(client, body))["success"]
        assert desk.ledger.count("settle") == 1


class TestCrashes:
    async def test_a_process_that_dies_in_the_middle_is_looked_up_by_the_next(self, tmp_path: Path) -> None:
        desk = Desk(store=SqliteStore(str(tmp_path / "f.db")))
        body = desk.body()
        dies = asyncio.Event()

        async def die(name: str, key: str) -> None:
            if name == "settle":
                dies.set()
                await asyncio.Event().wait()

        desk.ledger.after = die  # the money has moved, and nobody is told
        await desk.facilitator.start()
        call = asyncio.create_task(desk.facilitator.settle(read_question(_bytes(body), max_bytes=9999)))
        await dies.wait()
        for task in desk.facilitator._life.services.tasks:  # type: ignore[union-attr]
            task.cancel()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        desk.ledger.after = None
        desk.facilitator = desk.another(desk.clock)
        async with desk.open() as client:
            assert reason(await settle(client, body)) == "settlement_pending"  # its lease runs
            desk.clock.advance(LEASE + 1)
            assert (await settle(client, body))["success"]
            assert reason(await settle(client, body)) == "duplicate_settlement"
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)

    async def test_one_that_comes_back_after_its_lease_believes_the_lookup(self) -> None:
        desk = Desk()
        other = desk.another(desk.clock)
        body = desk.body()

        async def outlast_the_lease(name: str, key: str) -> None:
            if name == "settle":
                desk.clock.advance(LEASE + 1)
                await other.reconcile()

        desk.ledger.after = outlast_the_lease
        async with other, desk.open() as client:
            assert (await settle(client, body))["success"]
            assert reason(await settle(client, body)) == "duplicate_settlement"
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)

    async def test_a_record_that_is_gone_is_trouble_of_our_own(self) -> None:
        desk = Desk()
        desk.ledger.script("settle", Ending.PENDING)

        async def wait(charge: Charge, *, timeout: float) -> None:
            return None

        desk.store.wait = wait  # type: ignore[assignment]
        async with desk.open() as client:
            response = await client.post("/settle", json=desk.body())
        assert (response.status_code, response.json()["error"]) == (503, "store_unavailable")

    async def test_two_processes_take_it_once(self, tmp_path: Path) -> None:
        desk = Desk(store=SqliteStore(str(tmp_path / "f.db")))
        other = Facilitator(
            [desk.rail], store=SqliteStore(str(tmp_path / "f.db")), settings=desk.settings, clock=desk.clock
        )
        question = read_question(_bytes(desk.body()), max_bytes=9999)
        async with desk.facilitator, other:
            answers = await asyncio.gather(*(each.settle(question) for each in [desk.facilitator, other] * 4))
        assert [answer.told is not None for answer in answers].count(True) == 1
        assert (desk.ledger.count("settle"), desk.ledger.charged_total) == (1, PRICE)


class TestRefusals:
    @pytest.mark.parametrize("call", [settle, verify])
    async def test_a_forged_payment_is_not_looked_at(self, call: Any) -> None:
        desk = Desk()
        body = desk.body()
        body["paymentPayload"]["payload"]["signature"] = "00" * 32
        async with desk.open() as client:
            said = await call(client, body)
        assert reason(said) == "invalid_exact_evm_payload_signature"
        assert "payer" not in said
        assert desk.ledger.calls == []

    async def test_a_forged_copy_of_a_settled_one_hears_nothing(self) -> None:
        desk = Desk(repeat=True)
        body = desk.body()
        async with desk.open() as client:
            await settle(client, body)
            body["paymentPayload"]["payload"]["signature"] = "00" * 32
            assert reason(await settle(client, body)) == "invalid_exact_evm_payload_signature"

    async def test_terms_that_the_payer_did_not_sign(self) -> None:
        desk = Desk()
        body = desk.body()
        for terms in (body["paymentRequirements"], body["paymentPayload"]["accepted"]):
            terms["payTo"] = "thief"
        async with desk.open() as client:
            said = await settle(client, body)
        assert reason(said) == "invalid_exact_evm_payload_recipient_mismatch"
        assert desk.ledger.calls == []

    async def test_a_payee_that_is_not_ours(self) -> None:
        desk = Desk(pay_to=("other",))
        async with desk.open() as client:
            assert reason(await verify(client, desk.body())) == "invalid_payment_requirements"
            assert reason(await settle(client, desk.body())) == "invalid_payment_requirements"
            assert (await settle(client, desk.body(payee="other")))["success"]

    async def test_a_payer_without_funds(self) -> None:
        desk = Desk()
        desk.ledger.balances[PAYER] = PRICE - 1
        async with desk.open() as client:
            said = [await verify(client, desk.body()), await settle(client, desk.body())]
        assert [reason(each) for each in said] == ["insufficient_funds"] * 2
        assert [each["payer"] for each in said] == [PAYER] * 2
        assert await desk.store.recent(limit=1) == []

    async def test_a_payer_has_so_many_at_once(self) -> None:
        desk = Desk(max_per_payer=2)
        go_on, both = asyncio.Event(), asyncio.Event()

        async def hold_up(name: str, key: str) -> None:
            if name == "settle":
                if desk.ledger.count("settle") == 2:
                    both.set()
                await go_on.wait()

        desk.ledger.before = hold_up
        async with desk.open() as client:
            calls = [asyncio.create_task(settle(client, desk.body())) for _ in range(2)]
            await both.wait()
            third = await client.post("/settle", json=desk.body())
            go_on.set()
            assert [(await call)["success"] for call in calls] == [True, True]
        assert (third.status_code, third.headers["retry-after"]) == (429, "1")
        assert third.json()["success"] is False
        assert desk.ledger.count("settle") == 2

    async def test_a_gates_store_is_not_ours(self) -> None:
        desk = Desk(repeat=True)
        body = desk.body()
        async with desk.open() as client:
            await settle(client, body)
            charge = await the_charge(desk, body)
            foreign = charge.order.model_copy(update={"route": "GET /article"})
            await desk.store.save(charge.model_copy(update={"order": foreign}))
            for call in ("/verify", "/settle"):
                response = await client.post(call, json=body)
                assert (response.status_code, response.json()["error"]) == (503, "store_unavailable")
        assert desk.ledger.count("settle") == 1


async def test_the_rail_is_told_that_no_handler_runs_before_settlement() -> None:
    desk = Desk(validity_seconds=7)
    seen = []

    async def verify_offer(given: Any, payment: Any, verified: Any, *, now: int) -> Any:
        seen.append((given.timeout_seconds, payment.offer.timeout_seconds))
        return verified

    desk.rail.verify = verify_offer  # type: ignore[method-assign]
    async with desk.open() as client:
        await settle(client, desk.body())
    assert seen == [(67, 67)]


def _bytes(body: Any) -> bytes:
    return httpx.Request("POST", "http://desk", json=body).read()
