"""Tokens of a person's Link: asked for, approved, denied, lost, used and taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentActionRequired, PaymentFailed, RailUnavailable
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown
from rail402.testing.fakes import FakeClock
from rail402_stripe import LinkApi, LinkWallet, StripeApi
from rail402_stripe.currencies import currency
from rail402_stripe.link import AccessToken
from rail402_stripe.wallet import HOLD_SECONDS
from rail402_stripe.wire import SANDBOX_PROFILE, StripeSpec
from tests.unit.rail402_stripe.fake_link import APPROVAL_SECONDS, TOKEN, TOKEN_SECONDS, FakeLink

ORDER = Order(method="GET", url="https://api.example.com/article/402?user=me", route="", body_digest="0" * 64)
RECORD = "rec_1"
LOST: dict[str, Any] = {"json": {"error": {"message": "spt_secret"}}}


@pytest.fixture
async def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeLink]:
    clock = FakeClock()
    api = StripeApi.sandbox(tmp_path, clock=clock)
    yield FakeLink(api, clock)
    await api.close()


Make = Callable[..., LinkWallet]


@pytest.fixture
async def make(link: FakeLink) -> AsyncIterator[Make]:
    made: list[LinkWallet] = []

    def wallet(access_token: AccessToken = TOKEN, **options: Any) -> LinkWallet:
        options = {"network": "stripe:sandbox", "sleep": _no_sleep} | options
        made.append(LinkWallet(LinkApi(access_token, transport=link), **options))
        return made[-1]

    yield wallet
    for each in made:
        await each.close()


async def _no_sleep(seconds: float) -> None:
    pass


def offer(link: FakeLink, **changes: Any) -> Offer:
    terms: dict[str, Any] = {
        "payee": SANDBOX_PROFILE,
        "amount": 100,
        "flow": Flow.UPFRONT,
        "expires_at": link.clock() + 900,
        "payment_method_types": ["card"],
    }
    return StripeSpec("stripe:sandbox").offer(currency(changes.pop("currency", "usd")), **(terms | changes))


async def pay(wallet: LinkWallet, link: FakeLink, made: Offer | None = None, record_id: str = RECORD) -> Paid:
    made = wallet.for_order(made or offer(link), ORDER)
    return await wallet.pay(made, record_id=record_id, now=link.clock())


async def resume(wallet: LinkWallet, link: FakeLink, payload: Any = None, made: Offer | None = None) -> Any:
    return await wallet.resume(made or offer(link), payload, record_id=RECORD, now=link.clock())


# --- asking


async def test_a_payment_waits_for_its_person_and_goes_on_when_it_is_approved(make: Make, link: FakeLink) -> None:
    with pytest.raises(PaymentActionRequired) as asked:
        await pay(make(), link)
    assert (asked.value.url, asked.value.outcome) == ("https://app.link.com/activity/approve/lsrq_1", "unknown")
    assert asked.value.proof is None, "there is nothing yet that a seller could be shown"
    with pytest.raises(PaymentActionRequired) as still:
        await resume(make(), link)
    assert still.value.url == asked.value.url
    link.approve()
    paid = await resume(make(), link)
    assert isinstance(paid, Paid)
    assert paid.payload["spt"].startswith("spt_")
    assert [method for method, *_ in link.calls].count("POST") == 1, "one spend request, whatever was asked about it"


async def test_what_is_asked_for_and_what_link_is_told(make: Make, link: FakeLink) -> None:
    link.approves = True
    await pay(make(payment_method="csmrpd_1"), link)
    (body,) = [body for method, _, body in link.calls if method == "POST"]
    context = body.pop("context")
    assert body == {
        "credential_type": "shared_payment_token",
        "network_id": SANDBOX_PROFILE,
        "amount": 100,
        "currency": "usd",
        "payment_details": "csmrpd_1",
        "test": True,
        "request_approval": True,
        "metadata": {"rail402_record": RECORD},
    }
    assert list(link.keys) == [RECORD], "the purchase is the idempotency key"
    assert "https://api.example.com asks 1 USD" in context
    assert "user=me" not in context, "no more of the URL than its origin"
    assert len(context) >= 100


def test_no_context_is_too_short(link: FakeLink) -> None:
    wallet = LinkWallet(LinkApi(TOKEN))
    assert len(str(wallet._params(offer(link), "r")["context"])) >= 100


async def test_a_live_token_is_no_test(make: Make, link: FakeLink) -> None:
    made = offer(link).model_copy(update={"network": "stripe:live", "payee": "profile_1"})
    with pytest.raises(PaymentActionRequired):
        await pay(make(network="stripe:live"), link, made)
    assert "test" not in link.calls[0][2]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"network": "stripe:live"}),
        ({}, {"mechanism": "card"}),
        ({}, {"payee": "acct_1"}),
        ({}, {"asset": "eur"}),
        ({"max_amount": 99}, {}),
        ({}, {"amount": 50_001}),
        ({}, {"extra": {"payment_method_types": ["us_bank_account"]}}),
    ],
)
async def test_what_is_not_the_wallets_is_not_paid(make: Make, link: FakeLink, options: Any, changes: Any) -> None:
    wallet, made = make(**options), offer(link).model_copy(update=changes)
    assert await wallet.can_pay(made) is None
    with pytest.raises(PaymentFailed):
        await pay(wallet, link, made)
    assert link.calls == []


async def test_the_price_is_the_whole_cost_and_nobody_is_asked_for_it(make: Make, link: FakeLink) -> None:
    made = offer(link)
    assert await make().can_pay(made) == Cost(price=made.price)
    assert link.calls == []


async def test_an_expired_offer_is_not_asked_for(make: Make, link: FakeLink) -> None:
    with pytest.raises(PaymentFailed):
        await pay(make(), link, offer(link, expires_at=link.clock()))
    assert link.calls == []


# --- the person's answers


async def test_a_no_is_a_no_and_nothing_was_paid(make: Make, link: FakeLink) -> None:
    link.approves = False
    for asking in (pay(make(), link), resume(make(), link)):
        with pytest.raises(PaymentActionRequired, match="has said no") as denied:
            await asking
        assert (denied.value.outcome, denied.value.code, denied.value.url) == ("not_paid", "not_approved", None)


async def test_nobody_answers_in_ten_minutes(make: Make, link: FakeLink) -> None:
    with pytest.raises(PaymentActionRequired):
        await pay(make(), link)
    link.clock.advance(APPROVAL_SECONDS)  # type: ignore[attr-defined]
    assert await resume(make(), link) == NotPaid()


async def test_a_bank_that_asks_once_more_is_waited_for(make: Make, link: FakeLink) -> None:
    with pytest.raises(PaymentActionRequired):
        await pay(make(), link)
    link.asks_for("three_d_secure", "auto_resume")
    with pytest.raises(PaymentActionRequired) as asked:
        await resume(make(), link)
    assert (asked.value.url, asked.value.outcome) == ("https://app.link.com/do/three_d_secure", "unknown")
    link.approve()
    assert isinstance(await resume(make(), link), Paid)


async def test_what_has_to_be_done_before_another_request_is_said(make: Make, link: FakeLink) -> None:
    with pytest.raises(PaymentActionRequired):
        await pay(make(), link)
    link.asks_for("add_payment_method", "create_new_spend_request_after_completion")
    with pytest.raises(PaymentActionRequired, match="requires_action: add_payment_method") as asked:
        await resume(make(), link)
    assert (asked.value.url, asked.value.outcome) == ("https://app.link.com/do/add_payment_method", "not_paid")


# --- tokens


async def test_a_token_that_comes_a_moment_after_the_approval(make: Make, link: FakeLink) -> None:
    link.approves, link.token_delay = True, 2
    assert isinstance(await pay(make(), link), Paid)


async def test_a_token_that_does_not_come_is_for_the_next_call(make: Make, link: FakeLink) -> None:
    link.approves, link.token_delay = True, 99
    with pytest.raises(PaymentActionRequired) as asked:
        await pay(make(), link)
    assert asked.value.outcome == "unknown"
    link.token_delay = 0
    assert isinstance(await resume(make(), link), Paid)


@pytest.mark.parametrize(
    "other",
    [{"amount": 101}, {"currency": "eur"}, {"network_id": "profile_other"}, {"credential_type": "card"}],
)
@pytest.mark.parametrize("is_approved", [True, False])
async def test_a_token_for_something_else_is_not_shown_nor_asked_for(
    make: Make, link: FakeLink, other: dict[str, Any], is_approved: bool
) -> None:
    with pytest.raises(PaymentActionRequired):
        await pay(make(), link)
    link.requests["lsrq_1"] |= other
    if is_approved:
        link.approve()
    with pytest.raises(PaymentFailed, match=f"has another {next(iter(other))}"):
        await resume(make(), link)


@pytest.mark.parametrize("token", ["tok_1", 7, {"id": None}, {"id": "spt_ä"}])
async def test_what_is_no_token(make: Make, link: FakeLink, token: Any) -> None:
    def answers(method: str, path: str) -> httpx.Response:
        return httpx.Response(200, json={"id": "lsrq_1", "status": "approved", "shared_payment_token": token})

    link.before = answers
    with pytest.raises((PaymentFailed, PaymentActionRequired)):
        await pay(make(), link)


async def test_a_token_as_older_versions_give_it(make: Make, link: FakeLink) -> None:
    said = {"id": "lsrq_1", "status": "approved", "shared_payment_token": "spt_1"}
    link.before = lambda method, path: httpx.Response(200, json=said)
    assert (await pay(make(), link)).payload == {"spt": "spt_1", "spend_request": "lsrq_1"}


async def approved(make: Make, link: FakeLink) -> Paid:
    link.approves = True
    return await pay(make(), link)


async def test_a_used_token_is_paid(make: Make, link: FakeLink) -> None:
    paid = await approved(make, link)
    link.requests["lsrq_1"]["status"] = "succeeded"
    link.clock.advance(10**7)  # type: ignore[attr-defined]
    assert await resume(make(), link, paid.payload) == Paid(payload=paid.payload, moved=True)
    assert not await make().withdraw(offer(link), paid.payload, record_id=RECORD, now=link.clock())


async def test_a_token_is_shown_while_the_offer_is_good_and_held_while_it_may_be_taken(
    make: Make, link: FakeLink
) -> None:
    paid, made = await approved(make, link), offer(link)
    assert isinstance(await resume(make(), link, paid.payload, made), Paid)
    link.clock.advance(901)  # type: ignore[attr-defined]
    assert isinstance(await resume(make(), link, paid.payload, made), Unknown), "it is good for hours yet"
    link.clock.advance(TOKEN_SECONDS)  # type: ignore[attr-defined]
    assert isinstance(await resume(make(), link, paid.payload, made), Unknown), "and what was reserved is good for days"
    link.clock.advance(HOLD_SECONDS)  # type: ignore[attr-defined]
    assert await resume(make(), link, paid.payload, made) == NotPaid()


async def test_a_refused_token_is_taken_back(make: Make, link: FakeLink) -> None:
    paid = await approved(make, link)
    assert await make().withdraw(offer(link), paid.payload, record_id=RECORD, now=link.clock())
    assert (await link.stripe.issued_token(paid.payload["spt"]))["deactivated_reason"] == "revoked"
    assert not await make().withdraw(offer(link), {"spt": "spt_1"}, record_id=RECORD, now=link.clock())


# --- lost answers and crashes


@pytest.mark.parametrize("happened", [True, False])
@pytest.mark.parametrize("forgets", [True, False])
async def test_a_lost_answer_is_found_again_and_nobody_is_asked_twice(
    make: Make, link: FakeLink, happened: bool, forgets: bool
) -> None:
    def fails(method: str, path: str) -> httpx.Response | None:
        return httpx.Response(502, text="<html>") if method == "POST" else None

    link.forgets = forgets
    setattr(link, "after" if happened else "before", fails)
    with pytest.raises(OutcomeUnknown, match="answered 502"):
        await pay(make(), link)
    link.before = link.after = None
    if not happened:
        assert await resume(make(), link) == NotPaid()
        return
    with pytest.raises(PaymentActionRequired):
        await resume(make(), link)
    link.approve()
    assert isinstance(await resume(make(), link), Paid)
    assert list(link.requests) == ["lsrq_1"]


async def test_the_same_purchase_is_one_request_and_two_are_two(make: Make, link: FakeLink) -> None:
    link.approves = True
    first = await pay(make(), link)
    assert (await pay(make(), link)).payload == first.payload
    assert (await pay(make(), link, record_id="rec_2")).payload != first.payload


async def test_a_duplicate_that_is_this_very_purchase_is_gone_on_with(make: Make, link: FakeLink) -> None:
    link.forgets = True
    with pytest.raises(PaymentActionRequired) as first:
        await pay(make(), link)
    with pytest.raises(PaymentActionRequired) as again:
        await pay(make(), link)
    assert first.value.url == again.value.url
    link.requests["lsrq_1"]["metadata"] = {}
    with pytest.raises(RailUnavailable, match="takes no more spend requests"):
        await pay(make(), link)


@pytest.mark.parametrize(
    ("status", "method", "kind"),
    [
        (401, "POST", RailUnavailable),
        (403, "POST", RailUnavailable),
        (422, "POST", PaymentFailed),
        (429, "POST", RailUnavailable),
        (408, "POST", OutcomeUnknown),
        (409, "POST", OutcomeUnknown),
        (500, "POST", OutcomeUnknown),
        (302, "POST", PaymentFailed),
        (200, "POST", OutcomeUnknown),
        (500, "GET", RailUnavailable),
        (404, "GET", PaymentFailed),
        (200, "GET", OutcomeUnknown),
    ],
)
async def test_each_failure_says_whether_anything_was_done(
    make: Make, link: FakeLink, status: int, method: str, kind: type[Exception]
) -> None:
    link.before = lambda *_: httpx.Response(status, **LOST)
    with pytest.raises(kind) as failed:
        await (pay(make(), link) if method == "POST" else resume(make(), link))
    assert "spt_secret" not in str(failed.value)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 408, 429, 500, None])
async def test_once_it_was_asked_for_no_failure_says_that_nothing_was(
    make: Make, link: FakeLink, status: int | None
) -> None:
    def fails(method: str, path: str) -> httpx.Response | None:
        if method == "POST":
            return None
        if status is None:
            raise httpx.ConnectError("no")
        return httpx.Response(status, **LOST)

    link.approves, link.before = True, fails
    with pytest.raises((OutcomeUnknown, PaymentActionRequired)) as failed:
        await pay(make(), link)
    assert getattr(failed.value, "outcome", "unknown") == "unknown"
    assert "spt_secret" not in str(failed.value)
    link.before = None
    assert isinstance(await resume(make(), link), Paid)
    assert [method for method, *_ in link.calls].count("POST") == 1


@pytest.mark.parametrize(
    ("error", "kind"), [(httpx.ConnectError, RailUnavailable), (httpx.ReadTimeout, OutcomeUnknown)]
)
async def test_a_connection_that_fails(
    make: Make, link: FakeLink, error: type[httpx.TransportError], kind: type[Exception]
) -> None:
    def fails(method: str, path: str) -> httpx.Response:
        raise error("no")

    link.before = fails
    with pytest.raises(kind):
        await pay(make(), link)


async def test_a_spend_request_that_is_gone(make: Make, link: FakeLink) -> None:
    paid = await approved(make, link)
    link.requests.clear()
    assert isinstance(await resume(make(), link, paid.payload), Unknown)


# --- access


async def test_a_fresh_access_token_is_asked_for_once(make: Make, link: FakeLink) -> None:
    asked: list[bool] = []

    async def access(fresh: bool) -> str:
        asked.append(fresh)
        return "link_access_2" if fresh else TOKEN

    link.access_token, link.approves = "link_access_2", True
    assert isinstance(await pay(make(access), link), Paid)
    assert asked[:2] == [False, True]
    link.access_token = "link_access_3"
    with pytest.raises(RailUnavailable, match="log in again") as refused:
        await pay(make(access), link)
    assert "link_access" not in str(refused.value) + repr(make())


@pytest.mark.parametrize(
    "options",
    [{"currencies": []}, {"currencies": ["nope"]}, {"max_amount": 0}, {"hold_seconds": -1}, {"payment_method": "pm_1"}],
)
def test_what_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LinkWallet(LinkApi(TOKEN), **options)


# --- for `rail402 doctor`


async def test_the_login_is_looked_at_without_asking_its_person(make: Make, link: FakeLink) -> None:
    (said,) = await make().examine()
    assert (said.says, said.fix) == ("Link accepts its login, for test money", "")
    assert {method for method, *_ in link.calls} == {"GET"}
    link.access_token = "link_access_2"
    with pytest.raises(RailUnavailable, match="log in again") as caught:
        await make().examine()
    assert TOKEN not in str(caught.value)
