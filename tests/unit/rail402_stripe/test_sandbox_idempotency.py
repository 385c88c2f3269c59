from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import stripe

from rail402_stripe.client import RailStripeClient
from rail402_stripe.sandbox import Fault, Sandbox

Balance = Callable[[], Awaitable[dict[str, int]]]
CARD: dict[str, Any] = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
KEY: Any = {"idempotency_key": "charge-1"}


async def test_the_same_request_gets_the_first_answer(client: RailStripeClient, balance: Balance) -> None:
    first = await client.v1.payment_intents.create_async(CARD, KEY)
    again = await client.v1.payment_intents.create_async(CARD, KEY)
    assert again.id == first.id
    assert again.to_dict() == first.to_dict()
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert again.last_response.headers["original-request"] == first.last_response.request_id
    assert await balance() == {"usd": 500}


async def test_the_order_of_the_parameters_does_not_matter(http: httpx.AsyncClient, balance: Balance) -> None:
    bodies = ("amount=500&currency=usd&confirm=true&payment_method=pm_card_visa&metadata[a]=1&metadata[b]=2",)
    bodies += ("metadata%5Bb%5D=2&metadata[a]=1&payment_method=pm_card_visa&confirm=true&currency=usd&amount=500",)
    headers = {"idempotency-key": "k", "content-type": "application/x-www-form-urlencoded"}
    first, second = [await http.post("/v1/payment_intents", content=body, headers=headers) for body in bodies]
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert await balance() == {"usd": 500}


async def test_other_parameters_under_the_key_are_an_error(client: RailStripeClient, balance: Balance) -> None:
    await client.v1.payment_intents.create_async(CARD, KEY)
    with pytest.raises(stripe.IdempotencyError, match="same parameters") as caught:
        await client.v1.payment_intents.create_async({**CARD, "amount": 501}, KEY)
    assert (caught.value.http_status, caught.value.json_body["error"]["type"]) == (400, "idempotency_error")
    assert await balance() == {"usd": 500}


async def test_another_endpoint_under_the_key_is_an_error(client: RailStripeClient) -> None:
    intent = await client.v1.payment_intents.create_async(CARD, KEY)
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        await client.v1.refunds.create_async({"payment_intent": intent.id}, KEY)


async def test_a_decline_is_replayed_too(client: RailStripeClient) -> None:
    bodies = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            await client.v1.payment_intents.create_async({**CARD, "payment_method": "pm_card_visa_chargeDeclined"}, KEY)
        bodies.append(caught.value.json_body)
    assert caught.value.headers["idempotent-replayed"] == "true"
    assert bodies[0] == bodies[1]
    assert len((await client.v1.payment_intents.list_async()).data) == 1


async def test_a_refusal_after_execution_began_is_replayed_though_the_state_has_changed(
    client: RailStripeClient,
) -> None:
    intent = await client.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "capture_method": "manual"}
    )
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.capture_async(intent.id, {}, KEY)
    await client.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.payment_intents.capture_async(intent.id, {}, KEY)
    assert caught.value.headers["idempotent-replayed"] == "true"
    assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_capture"


async def test_a_request_that_was_not_valid_leaves_its_key_free(client: RailStripeClient, balance: Balance) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.create_async({**CARD, "amount": 1}, KEY)
    assert (await client.v1.payment_intents.create_async(CARD, KEY)).status == "succeeded"
    assert await balance() == {"usd": 500}


async def test_of_two_at_once_one_is_in_flight(client: RailStripeClient, balance: Balance) -> None:
    outcomes = await asyncio.gather(
        *(client.v1.payment_intents.create_async(CARD, KEY) for _ in range(2)), return_exceptions=True
    )
    (conflict,) = [outcome for outcome in outcomes if isinstance(outcome, stripe.APIError)]
    (done,) = [outcome for outcome in outcomes if isinstance(outcome, stripe.PaymentIntent)]
    assert conflict.http_status == 409
    assert conflict.json_body["error"]["code"] == "idempotency_key_in_use"
    assert (await client.v1.payment_intents.create_async(CARD, KEY)).id == done.id
    assert await balance() == {"usd": 500}


async def test_a_request_cut_off_in_flight_frees_its_key(
    client: RailStripeClient, sandbox: Sandbox, balance: Balance
) -> None:
    def claims() -> int:
        with sandbox._ledger.transaction() as books:
            return int(books.connection.execute("SELECT count(*) FROM idempotency").fetchone()[0])

    task = asyncio.create_task(client.v1.payment_intents.create_async(CARD, KEY))
    while not claims():  # noqa: ASYNC110 - the claim is a row, no event announces it
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert claims() == 0
    intent = await client.v1.payment_intents.create_async(CARD, KEY)
    assert "idempotent-replayed" not in intent.last_response.headers
    assert await balance() == {"usd": 500}


async def test_after_a_day_the_key_protects_nothing(client: RailStripeClient, clock: Any, balance: Balance) -> None:
    first = await client.v1.payment_intents.create_async(CARD, KEY)
    clock.now += 24 * 3600 - 1
    assert (await client.v1.payment_intents.create_async(CARD, KEY)).id == first.id
    clock.now += 1
    assert (await client.v1.payment_intents.create_async(CARD, KEY)).id != first.id
    assert await balance() == {"usd": 1000}


async def test_a_claim_of_a_process_that_died_lapses_after_a_minute(
    client: RailStripeClient, sandbox: Sandbox, clock: Any
) -> None:
    with sandbox._ledger.transaction() as books:
        row = ("charge-1", "/v1/payment_intents", b"", "req_dead", clock.now)
        books.connection.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?, NULL, NULL)", row)
    with pytest.raises(stripe.IdempotencyError):
        await client.v1.payment_intents.create_async(CARD, KEY)
    clock.now += 60
    assert (await client.v1.payment_intents.create_async(CARD, KEY)).status == "succeeded"


@pytest.mark.parametrize("key", ["", "k" * 256, "k\x7f", "k\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1")])
async def test_a_key_that_is_no_key_is_a_400(http: httpx.AsyncClient, key: str | bytes) -> None:
    headers: Any = {"idempotency-key": key}
    response = await http.post("/v1/payment_intents", data={"amount": "500", "currency": "usd"}, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "idempotency_error")


async def test_reads_have_no_keys(http: httpx.AsyncClient) -> None:
    for path in ("/v1/balance", "/v1/payment_intents"):
        response = await http.get(path, headers={"idempotency-key": "same"})
        assert response.status_code == 200


async def test_a_server_error_is_saved_like_any_answer(
    client: RailStripeClient, sandbox: Sandbox, balance: Balance
) -> None:
    sandbox.inject_fault(Fault("POST", "/v1/payment_intents", "server_error"))
    for _ in range(2):
        with pytest.raises(stripe.APIError) as caught:
            await client.v1.payment_intents.create_async(CARD, KEY)
        assert caught.value.http_status == 500
    assert caught.value.headers["idempotent-replayed"] == "true"
    assert await balance() == {"usd": 0}
    other: Any = {"idempotency_key": "charge-1:2"}
    assert (await client.v1.payment_intents.create_async(CARD, other)).status == "succeeded"
