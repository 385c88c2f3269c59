"""The seam to the library: which answers are definitive, and which are not to be believed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, Rail402Error, RailUnavailable
from rail402_stripe import StripeApi, api
from rail402_stripe.api import API_VERSION, Declined, Refused
from tests.unit.rail402_stripe.account import Account

SPT = "spt_verysecret"


def talking_to(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> StripeApi:
    return StripeApi("sk_test_hidden", transport=httpx.MockTransport(answer), **options)


def error(status: int, **members: Any) -> httpx.Response:
    message = f"No such token: '{SPT}'"
    return httpx.Response(status, json={"error": {"type": "invalid_request_error", "message": message} | members})


async def charge_with(found: StripeApi) -> Any:
    """A call that moves money."""
    return await found.create_intent(SPT, "k", amount=50, currency="usd", confirm=True)


async def look_with(found: StripeApi) -> Any:
    """A call that asks only."""
    return await found.granted_token(SPT)


# --- how a call ends


@pytest.mark.parametrize("call", [charge_with, look_with])
@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (error(400), Refused),
        (error(404, code="resource_missing", param="id"), Refused),
        (error(402, type="card_error", code="card_declined", decline_code="generic_decline"), Declined),
        (error(429), RailUnavailable),
        (error(400, code="rate_limit"), RailUnavailable),
        (error(401), RailUnavailable),
        (error(403), RailUnavailable),
        (error(409, code="lock_timeout"), RailUnavailable),
    ],
)
async def test_definitive_answers(call: Any, response: httpx.Response, kind: type[Rail402Error]) -> None:
    found = talking_to(lambda _: response)
    with pytest.raises(kind) as caught:
        await call(found)
    assert type(caught.value) is kind
    await found.close()


@pytest.mark.parametrize(
    "response",
    [
        error(500),
        error(503),
        error(409, code="idempotency_key_in_use", type="idempotency_error"),
        # Not Stripe's: something in front of it, which the request may have passed.
        httpx.Response(404, html="<h1>404 Not Found</h1>"),
        httpx.Response(401, html="<h1>401 Unauthorized</h1>"),
        httpx.Response(403, json={"message": "Forbidden"}),
        httpx.Response(403, json={"error": {"message": "Forbidden"}}),
        httpx.Response(429, html="<h1>429 Too Many Requests</h1>"),
        httpx.Response(400, json={"error": {"message": "bad gateway request"}}),
        httpx.Response(402, json={"detail": "Payment Required"}),
        # Over these the library itself breaks.
        httpx.Response(500, json={"error": "internal server error"}),
        httpx.Response(500, json={"error": None}),
        httpx.Response(404, json=["not found"]),
        httpx.Response(503, json="overloaded"),
        error(400, type="idempotency_error"),
        httpx.Response(502, html="<h1>502 Bad Gateway</h1>"),
        httpx.Response(200, text='{"id": "pi_1", "client_secret": "pi_1_secret_very'),
        httpx.Response(200, content=b"\xff\xfe{\x00}\x00"),
        httpx.Response(200, text="[]"),
        httpx.Response(200, text="[" * 100_000),
        httpx.Response(500, text="null"),
        httpx.Response(204),
    ],
)
async def test_an_answer_that_says_nothing(response: httpx.Response) -> None:
    found = talking_to(lambda _: response)
    with pytest.raises(OutcomeUnknown) as unknown:
        await charge_with(found)
    with pytest.raises(RailUnavailable):
        await look_with(found)
    await found.close()
    assert "secret" not in str(unknown.value)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError, RailUnavailable),
        (httpx.ConnectTimeout, RailUnavailable),
        (httpx.PoolTimeout, RailUnavailable),
        (httpx.ReadTimeout, OutcomeUnknown),
        (httpx.WriteTimeout, OutcomeUnknown),
        (httpx.ReadError, OutcomeUnknown),
        (httpx.WriteError, OutcomeUnknown),
        (httpx.RemoteProtocolError, OutcomeUnknown),
    ],
)
async def test_a_connection_that_breaks_is_unknown_once_something_was_sent(
    failure: type[httpx.TransportError], kind: type[Rail402Error]
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure("broken", request=request)

    found = talking_to(fail)
    with pytest.raises(kind):
        await charge_with(found)
    with pytest.raises(RailUnavailable):
        await look_with(found)
    await found.close()


async def test_codes_are_kept_and_messages_are_not() -> None:
    found = talking_to(lambda _: error(400, code="parameter_unknown", param="payment_method_data[x]"))
    with pytest.raises(Refused) as caught:
        await charge_with(found)
    assert (caught.value.stripe_code, caught.value.param) == ("parameter_unknown", "payment_method_data[x]")
    await found.close()
    odd = talking_to(lambda _: error(400, code=f"No such {SPT}!", param=["x"]))
    with pytest.raises(Refused) as caught:
        await charge_with(odd)
    assert (caught.value.stripe_code, caught.value.param) == (None, None)
    await odd.close()


@pytest.mark.parametrize("status", [400, 401, 402, 404, 409, 429, 500])
async def test_no_secret_in_any_error_or_its_causes(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"client_secret": "pi_1_secret_verysecret", "id": "pi_1", "status": "requires_payment_method"}
    found = talking_to(lambda _: error(status, payment_intent=body, code=SPT))
    with pytest.raises(Rail402Error) as caught:
        await charge_with(found)
    await found.close()
    cause: BaseException | None = caught.value
    while cause is not None:
        for text in (str(cause), repr(cause), repr(cause.args)):
            assert "verysecret" not in text
            assert "hidden" not in text
        cause = cause.__cause__
    assert "verysecret" not in caplog.text
    assert "hidden" not in repr(found)


# --- what is sent


@pytest.mark.parametrize(
    ("spelling", "parameter"),
    [
        ("payment_method_data", "payment_method_data[shared_payment_granted_token]"),
        ("top_level", "shared_payment_granted_token"),
    ],
)
async def test_the_token_is_sent_in_the_spelling_of_the_version(spelling: Any, parameter: str) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": "pi_1"})

    found = talking_to(answer, spt_parameter=spelling, api_version="2026-03-04.preview")
    await charge_with(found)
    await found.close()
    (request,) = sent
    form = dict(httpx.QueryParams(request.content.decode()))
    assert form[parameter] == SPT
    assert sum("granted_token" in name for name in form) == 1
    assert (form["confirm"], form["expand[0]"]) == ("true", "latest_charge")
    assert request.headers["stripe-version"] == "2026-03-04.preview"
    assert request.headers["idempotency-key"] == "k"


async def test_a_repeated_answer_is_not_believed_but_looked_up() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            marks = {"idempotent-replayed": "true"}
            return httpx.Response(200, json={"id": "pi_1", "status": "requires_capture"}, headers=marks)
        assert request.url.path == "/v1/payment_intents/pi_1"
        return httpx.Response(200, json={"id": "pi_1", "status": "canceled"})

    found = talking_to(answer)
    assert (await charge_with(found))["status"] == "canceled"
    await found.close()


@pytest.mark.parametrize("second", [error(500), error(404)])
async def test_a_repeated_answer_that_cannot_be_looked_up_is_unknown(second: httpx.Response) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"id": "pi_1"}, headers={"idempotent-replayed": "true"})
        return second

    found = talking_to(answer)
    with pytest.raises(OutcomeUnknown):
        await charge_with(found)
    await found.close()


async def test_a_long_list_is_read_page_by_page(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_PAGE", 2)
    made = []
    for number in range(5):
        intent = await account.api.create_intent(
            await account.token(), f"k{number}", amount=50, currency="usd", confirm=True
        )
        made.append(intent["id"])
        account.clock.advance(10)
    start = account.clock() - 50
    found = [intent["id"] async for intent in account.api.intents_between(start, start + 40)]
    assert found == made[::-1]
    middle = [intent["id"] async for intent in account.api.intents_between(start + 10, start + 30)]
    assert middle == made[3:0:-1]


@pytest.mark.parametrize("page", [{}, {"data": "x"}, {"data": ["pi_1"]}, {"data": {}}])
async def test_a_list_that_cannot_be_read_is_no_empty_list(page: Any) -> None:
    found = talking_to(lambda _: httpx.Response(200, json=page))
    with pytest.raises(RailUnavailable):
        _ = [intent async for intent in found.intents_between(0, 1)]
    with pytest.raises(RailUnavailable):
        await found.refunds("pi_1")
    with pytest.raises(RailUnavailable):
        await found.balance()
    await found.close()


# --- the account


async def test_a_good_key_is_good(account: Account) -> None:
    await account.api.check_key()


@pytest.mark.parametrize(("status", "kind"), [(401, ConfigurationError), (500, RailUnavailable), (403, None)])
async def test_the_key_is_checked(status: int, kind: type[Rail402Error] | None) -> None:
    found = talking_to(lambda _: error(status))
    if kind is None:  # a restricted key that may not see the balance
        await found.check_key()
    else:
        with pytest.raises(kind):
            await found.check_key()
    await found.close()


@pytest.mark.parametrize(
    ("key", "network"),
    [
        ("sk_test_1", "stripe:test"),
        ("rk_test_1", "stripe:test"),
        ("sk_live_1", "stripe:live"),
        ("rk_live_1", "stripe:live"),
        ("sk_test_live_1", "stripe:test"),
    ],
)
async def test_the_key_says_the_network(key: str, network: str) -> None:
    found = StripeApi(key)
    assert found.network == network
    await found.close()
    await found.close()


@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": "pk_test_1"},
        {"secret_key": ""},
        {"api_version": "latest"},
        {"api_version": API_VERSION + "\r\nx: y"},
        {"spt_parameter": "payment_method"},
        {"api_base": "http://api.stripe.com"},
    ],
)
def test_settings_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        StripeApi(**({"secret_key": "sk_test_1"} | options))


async def test_a_closed_account_opens_again(account: Account) -> None:
    await account.api.close()
    assert await account.balance() == 0


async def test_a_list_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_MAX_PAGES", 3)
    page = {"data": [{"id": "pi_1"}], "has_more": True}
    found = talking_to(lambda _: httpx.Response(200, json=page))
    with pytest.raises(RailUnavailable):
        _ = [intent async for intent in found.intents_between(0, 1)]
    await found.close()
