from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from rail402.errors import ConfigurationError
from rail402_stripe.client import RailStripeClient
from rail402_stripe.sandbox import Fault, Sandbox

Balance = Callable[[], Awaitable[dict[str, int]]]
CARD: dict[str, Any] = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
KEY: Any = {"idempotency_key": "charge-1"}
CREATE = ("POST", "/v1/payment_intents")


async def test_a_timeout_before_leaves_nothing(client: RailStripeClient, sandbox: Sandbox, balance: Balance) -> None:
    sandbox.inject_fault(Fault(*CREATE, "timeout"))
    with pytest.raises(stripe.APIConnectionError) as caught:
        await client.v1.payment_intents.create_async(CARD, KEY)
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
    assert (await client.v1.payment_intents.list_async()).data == []
    intent = await client.v1.payment_intents.create_async(CARD, KEY)
    assert "idempotent-replayed" not in intent.last_response.headers
    assert await balance() == {"usd": 500}


async def test_a_timeout_after_takes_the_money_and_the_key_finds_it(
    client: RailStripeClient, sandbox: Sandbox, balance: Balance
) -> None:
    sandbox.inject_fault(Fault(*CREATE, "timeout", applied=True))
    with pytest.raises(stripe.APIConnectionError):
        await client.v1.payment_intents.create_async(CARD, KEY)
    assert await balance() == {"usd": 500}
    (made,) = (await client.v1.payment_intents.list_async()).data
    again = await client.v1.payment_intents.create_async(CARD, KEY)
    assert (again.id, again.last_response.headers["idempotent-replayed"]) == (made.id, "true")
    assert await balance() == {"usd": 500}


@pytest.mark.parametrize("answer", ["server_error", "html", "truncated"])
async def test_a_spoilt_answer_after_the_fact_hides_a_charge_that_was_made(
    client: RailStripeClient, sandbox: Sandbox, balance: Balance, answer: Any
) -> None:
    sandbox.inject_fault(Fault(*CREATE, answer, applied=True))
    with pytest.raises(stripe.APIError) as caught:
        await client.v1.payment_intents.create_async(CARD, KEY)
    assert caught.value.http_status == {"server_error": 500, "html": 502, "truncated": 200}[answer]
    assert await balance() == {"usd": 500}
    assert (await client.v1.payment_intents.create_async(CARD, KEY)).status == "succeeded"
    assert await balance() == {"usd": 500}


@pytest.mark.parametrize(
    ("answer", "error", "status"),
    [
        ("server_error", stripe.APIError, 500),
        ("html", stripe.APIError, 502),
        ("rate_limited", stripe.RateLimitError, 429),
        ("conflict", stripe.APIError, 409),
    ],
)
async def test_a_refusal_before_the_fact_made_nothing(
    client: RailStripeClient,
    sandbox: Sandbox,
    balance: Balance,
    answer: Any,
    error: type[stripe.StripeError],
    status: int,
) -> None:
    sandbox.inject_fault(Fault(*CREATE, answer))
    with pytest.raises(error) as caught:
        await client.v1.payment_intents.create_async(CARD)
    assert caught.value.http_status == status
    assert await balance() == {"usd": 0}
    assert (await client.v1.payment_intents.create_async(CARD)).status == "succeeded"


async def test_a_conflict_and_a_rate_limit_leave_the_key_free(client: RailStripeClient, sandbox: Sandbox) -> None:
    for answer in ("conflict", "rate_limited"):
        sandbox.inject_fault(Fault(*CREATE, answer))  # type: ignore[arg-type]
        with pytest.raises(stripe.StripeError):
            await client.v1.payment_intents.create_async(CARD, KEY)
    intent = await client.v1.payment_intents.create_async(CARD, KEY)
    assert "idempotent-replayed" not in intent.last_response.headers


async def test_the_library_itself_recovers_a_lost_answer_without_charging_twice(
    client: RailStripeClient, sandbox: Sandbox, balance: Balance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    sandbox.inject_fault(Fault(*CREATE, "timeout", applied=True))
    intent = await client.v1.payment_intents.create_async(CARD, {"max_network_retries": 1})
    assert intent.last_response.headers["idempotent-replayed"] == "true"
    assert await balance() == {"usd": 500}


async def test_faults_hit_only_what_they_name_in_order_and_as_often_as_told(
    client: RailStripeClient, sandbox: Sandbox
) -> None:
    intent = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    path = "/v1/payment_intents/*/capture"
    sandbox.inject_fault(Fault("POST", path, "conflict", times=2))
    sandbox.inject_fault(Fault("POST", path, "rate_limited"))
    sandbox.inject_fault(Fault("GET", f"/v1/payment_intents/{intent.id}", "html"))
    for expected in (409, 409, 429):
        with pytest.raises(stripe.StripeError) as caught:
            await client.v1.payment_intents.capture_async(intent.id)
        assert caught.value.http_status == expected
    assert (await client.v1.payment_intents.capture_async(intent.id)).status == "succeeded"
    with pytest.raises(stripe.APIError):
        await client.v1.payment_intents.retrieve_async(intent.id)
    assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "succeeded"


async def test_faults_lie_in_the_ledger(client: RailStripeClient, ledger_path: Path) -> None:
    other = Sandbox(ledger_path)
    other.inject_fault(Fault("GET", "/v1/balance", "timeout"))
    other.close()
    with pytest.raises(stripe.APIConnectionError):
        await client.v1.balance.retrieve_async()
    await client.v1.balance.retrieve_async()


async def test_a_request_without_a_valid_key_uses_no_fault_up(
    client: RailStripeClient, sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    sandbox.inject_fault(Fault("GET", "/v1/balance", "rate_limited"))
    refused = await http.get("/v1/balance", headers={"authorization": "Bearer nonsense"})
    assert refused.status_code == 401
    with pytest.raises(stripe.RateLimitError):
        await client.v1.balance.retrieve_async()


@pytest.mark.parametrize(
    ("method", "answer", "applied", "times"),
    [
        ("POST", "nonsense", False, 1),
        ("POST", "rate_limited", True, 1),
        ("POST", "conflict", True, 1),
        ("POST", "truncated", False, 1),
        ("DELETE", "timeout", False, 1),
        ("POST", "timeout", False, 0),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(method: str, answer: Any, applied: bool, times: int) -> None:
    with pytest.raises(ConfigurationError):
        Fault(method, "/v1/balance", answer, applied=applied, times=times)
