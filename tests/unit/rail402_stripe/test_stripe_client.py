from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
import stripe

from rail402.errors import ConfigurationError
from rail402.testing.fault_transport import Pieces
from rail402.testing.faults import FAULTS, Faults, FaultyTransport
from rail402.testing.virtual_time import VirtualTimeLoop
from rail402_stripe.client import STRIPE_API_BASE, stripe_client, time_of


def _recording(requests: list[httpx.Request]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        body = {"id": "pi_1", "object": "payment_intent", "amount": 50}
        return httpx.Response(200, json=body, headers={"request-id": "req_1"})

    return httpx.MockTransport(answer)


async def test_requests_go_through_the_given_transport_and_carry_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "enable_telemetry", True)
    monkeypatch.setattr("stripe._telemetry_id.get_telemetry_id", lambda: "this-machine")
    requests: list[httpx.Request] = []
    async with stripe_client("sk_test_x", transport=_recording(requests)) as client:
        for _ in range(2):  # the library reports each request's duration with the next one
            intent = await client.v1.payment_intents.retrieve_async("pi_1")
    assert intent.amount == 50
    assert [str(request.url) for request in requests] == [f"{STRIPE_API_BASE}/v1/payment_intents/pi_1"] * 2
    for request in requests:
        assert request.headers["authorization"] == "Bearer sk_test_x"
        assert not [name for name in request.headers if "telemetry" in name or "client-user-agent" in name]
        assert "this-machine" not in str(request.headers)


@pytest.mark.parametrize("key", ["", "pk_test_x", "sk_test_", "sk_test_x\n", "sk_test_x y", "whsec_x", None])
def test_an_unusable_key_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        stripe_client(key)
    assert "_x" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "sk_test_x", "rk_live_x", "pk_x", "pk_test_", "pk_test_x\n", None])
def test_a_secret_key_is_no_publishable_one(key: str) -> None:
    with pytest.raises(ConfigurationError, match="publishable") as caught:
        stripe_client(key, publishable=True)
    assert "_x" not in str(caught.value)


@pytest.mark.parametrize("base", ["http://api.stripe.com", "ftp://localhost", "api.stripe.com", "", "https://"])
def test_a_key_is_never_sent_in_the_clear_over_the_network(base: str) -> None:
    with pytest.raises(ConfigurationError):
        stripe_client("sk_test_x", api_base=base)


async def test_plain_http_is_fine_on_this_machine() -> None:
    async with stripe_client("sk_test_x", api_base="http://127.0.0.1:12111"):
        pass


@pytest.mark.parametrize("failure", [httpx.ReadTimeout, httpx.ConnectError, httpx.RemoteProtocolError])
async def test_a_lost_answer_is_a_connection_error_with_its_cause(failure: type[httpx.TransportError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure("broken", request=request)

    async with stripe_client("sk_test_hidden", transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(stripe.APIConnectionError) as caught:
            await client.v1.payment_intents.create_async({"amount": 50, "currency": "usd"})
    assert isinstance(caught.value.__cause__, failure)
    assert caught.value.http_status is None
    assert "hidden" not in str(caught.value)


async def test_a_huge_answer_is_not_read_on() -> None:
    body = Pieces(*[b" " * (1 << 20)] * 64)
    answered = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    async with stripe_client("sk_test_x", transport=answered) as client:
        with pytest.raises(stripe.APIError, match="more than 16777216 bytes"):
            await client.v1.payment_intents.retrieve_async("pi_1")


def test_an_answer_that_trickles_is_waited_for_as_long_as_any() -> None:
    async def main() -> float:
        wire = FaultyTransport(_recording([]), Faults().on(FAULTS["endless body"]))
        async with stripe_client("sk_test_x", transport=wire, timeout_seconds=30) as client:
            with pytest.raises(stripe.APIConnectionError) as caught:
                await client.v1.payment_intents.retrieve_async("pi_1")
        assert isinstance(caught.value.__cause__, TimeoutError)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 30


async def test_retries_of_the_library_keep_the_idempotency_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ReadTimeout("lost", request=request)
        return httpx.Response(500 if len(keys) == 2 else 200, json={"id": "pi_1", "object": "payment_intent"})

    async with stripe_client("sk_test_x", transport=httpx.MockTransport(answer), max_network_retries=2) as client:
        await client.v1.payment_intents.create_async({"amount": 50, "currency": "usd"})
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_no_secret_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"id": "pi_1", "object": "payment_intent", "client_secret": "pi_1_secret_abc"})

    caplog.set_level(logging.DEBUG)
    async with stripe_client("sk_test_hidden", transport=httpx.MockTransport(answer)) as client:
        await client.raw_request_async("get", "/v1/shared_payment/granted_tokens/spt_abc")
        await client.raw_request_async("post", "/v1/payment_intents", shared_payment_granted_token="spt_abc")
    assert "/v1/payment_intents" in caplog.text
    assert "spt_…" in caplog.text
    assert "abc" not in caplog.text
    assert "hidden" not in caplog.text


async def test_neither_key_nor_client_secret_is_in_the_repr() -> None:
    async with stripe_client("sk_test_hidden", transport=_recording([])) as client:
        assert "hidden" not in repr(client)


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Fri, 15 Jan 2027 08:00:00 GMT", 1_800_000_000),
        ("Fri, 15 Jan 2027 08:00:00", None),
        ("Fri, 99 Jan 99999 08:00:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_when_an_answer_was_given(date: str | None, seconds: int | None) -> None:
    assert time_of({} if date is None else {"date": date}) == seconds
