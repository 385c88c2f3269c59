"""The client side: what a token is issued for, and what became of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentFailed, RailUnavailable
from rail402.money import Money
from rail402.protocol.charge import PaymentEvent
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Cost, Held, NotPaid, Paid, Released, Settled, Unknown
from rail402_stripe import StripeApi, StripeWallet, TokenFacts, TokenIssuer, TokenTerms
from rail402_stripe.currencies import currency
from rail402_stripe.wallet import HOLD_SECONDS
from rail402_stripe.wire import SANDBOX_PROFILE, StripeSpec
from tests.unit.rail402_stripe.account import ORDER, PRICE, Account, step

NOW = 1_800_000_000
GRANT = "/v1/test_helpers/shared_payment/granted_tokens"


def make_offer(network: Any = "stripe:live", **changes: Any) -> Offer:
    terms: dict[str, Any] = {
        "payee": "profile_1",
        "amount": PRICE,
        "flow": Flow.UPFRONT,
        "expires_at": NOW + 600,
        "payment_method_types": ["card"],
    }
    unit = currency(changes.pop("currency", "usd"))
    return StripeSpec(network).offer(unit, **(terms | changes))


class Recorder(TokenIssuer):
    """Issues one token, notes the terms, and says of it what it is told."""

    def __init__(self, facts: TokenFacts | None = None) -> None:
        self.terms: list[TokenTerms] = []
        self.facts = facts

    async def create(self, terms: TokenTerms) -> str:
        self.terms.append(terms)
        return "spt_1"

    async def look(self, spt: str) -> TokenFacts | None:
        return self.facts


def facts(**changes: Any) -> TokenFacts:
    known: dict[str, Any] = {"captured": 0, "consumed": False, "ended_at": None, "expires_at": NOW + 600}
    return TokenFacts(**(known | changes))


# --- what it pays


async def test_the_price_is_the_whole_cost() -> None:
    offer = make_offer()
    assert await StripeWallet(Recorder()).can_pay(offer) == Cost(price=Money.parse("0.50 USD"))


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"network": "stripe:test"}),
        ({}, {"mechanism": "card"}),
        ({"currencies": ["eur", "gbp"]}, {}),
        ({"payment_method_types": ["link"]}, {}),
        ({}, {"payee": "acct_1"}),  # an account takes no tokens
    ],
)
async def test_what_is_not_the_wallets_is_not_paid(options: Any, changes: Any) -> None:
    wallet, offer = StripeWallet(Recorder(), **options), make_offer().model_copy(update=changes)
    assert await wallet.can_pay(offer) is None
    with pytest.raises(PaymentFailed):
        await wallet.pay(offer, record_id="rec_1", now=NOW)


async def test_any_common_kind_of_payment_method_will_do() -> None:
    wallet = StripeWallet(Recorder(), payment_method_types=["link", "card"], currencies=["USD"])
    assert await wallet.can_pay(make_offer(payment_method_types=["us_bank_account", "card"])) is not None


@pytest.mark.parametrize(
    "options",
    [
        {"network": "stripe"},
        {"currencies": ["zzz"]},
        {"payment_method_types": []},
        {"payment_method_types": "card"},
        {"max_lifetime": 0},
        {"hold_seconds": -1},
    ],
)
def test_settings_that_are_none_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        StripeWallet(Recorder(), **options)


async def test_a_token_is_good_for_the_offer_and_nothing_else() -> None:
    issuer = Recorder()
    offer = make_offer(external_id="order-7", currency="jpy", amount=700)
    paid = await StripeWallet(issuer).pay(offer, record_id="rec_1", now=NOW)
    assert paid == Paid(payload={"spt": "spt_1", "externalId": "order-7"}, fee=Money.parse("0 JPY"))
    assert "spt_1" not in repr(paid)
    assert issuer.terms == [
        TokenTerms(
            amount=700,
            currency="jpy",
            profile_id="profile_1",
            expires_at=NOW + 600,
            payment_method_types=("card",),
            reference="rec_1",
        )
    ]


async def test_a_token_never_lives_long_whatever_the_server_says() -> None:
    issuer = Recorder()
    await StripeWallet(issuer).pay(make_offer(expires_at=NOW + 10**8), record_id="rec_1", now=NOW)
    assert issuer.terms[0].expires_at == NOW + 3600


async def test_an_expired_offer_is_not_paid() -> None:
    issuer = Recorder()
    with pytest.raises(PaymentFailed):
        await StripeWallet(issuer).pay(make_offer(), record_id="rec_1", now=NOW + 600)
    assert issuer.terms == []


async def test_tokens_may_come_from_a_function() -> None:
    async def create(terms: TokenTerms) -> str:
        return f"spt_{terms.amount}"

    wallet = StripeWallet(create)
    paid = await wallet.pay(make_offer(), record_id="rec_1", now=NOW)
    assert paid.payload == {"spt": "spt_50"}
    assert isinstance(await wallet.resume(make_offer(), paid.payload, record_id="rec_1", now=NOW), Unknown)
    await wallet.close()


@pytest.mark.parametrize("spt", ["tok_1", "", None, 7])
async def test_what_is_no_token_is_not_shown(spt: Any) -> None:
    async def create(terms: TokenTerms) -> str:
        found: str = spt
        return found

    with pytest.raises(PaymentFailed):
        await StripeWallet(create).pay(make_offer(), record_id="rec_1", now=NOW)


# --- what became of it


@pytest.mark.parametrize(
    ("known", "later", "kind"),
    [
        (facts(), 0, Paid),
        (facts(), 599, Paid),
        (facts(captured=PRICE), 0, Paid),
        (facts(captured=PRICE, ended_at=NOW + 5, consumed=True), 10**7, Paid),
        (facts(captured=PRICE, ended_at=NOW + 600), 10**7, Paid),  # it expired after a reservation, then was captured
        (facts(consumed=True, ended_at=NOW + 5), 10, Paid),
        (facts(), 600, Unknown),
        (facts(ended_at=NOW + 5), 10, Unknown),
        (facts(ended_at=NOW + 5), 4 + HOLD_SECONDS, Unknown),
        (facts(ended_at=NOW + 5), 5 + HOLD_SECONDS, NotPaid),
        (facts(), 600 + HOLD_SECONDS, NotPaid),
        (facts(expires_at=None), 10**7, Paid),
        (None, 10**7, Unknown),
    ],
)
async def test_what_became_of_a_token(known: TokenFacts | None, later: int, kind: type) -> None:
    wallet, payload = StripeWallet(Recorder(known)), {"spt": "spt_1"}
    found = await wallet.resume(make_offer(), payload, record_id="rec_1", now=NOW + later)
    assert isinstance(found, kind)
    if isinstance(found, Paid):
        assert found.payload == payload


async def test_the_owner_may_say_how_long_a_reservation_lasts() -> None:
    wallet = StripeWallet(Recorder(facts(ended_at=NOW)), hold_seconds=0)
    assert await wallet.resume(make_offer(), {"spt": "spt_1"}, record_id="rec_1", now=NOW) == NotPaid()


async def test_a_token_that_was_never_shown_paid_nothing() -> None:
    wallet = StripeWallet(Recorder(facts(captured=PRICE)))
    assert await wallet.resume(make_offer(), None, record_id="rec_1", now=NOW) == NotPaid()


# --- taking a token back


class Revoker(Recorder):
    """Notes what it was asked to revoke."""

    revoked: list[str]

    async def revoke(self, spt: str) -> None:
        self.revoked = [spt]


@pytest.mark.parametrize(
    ("known", "is_back"),
    [
        (facts(ended_at=NOW), True),
        (facts(expires_at=NOW), True),
        (facts(), False),  # it was not revoked after all
        (facts(ended_at=NOW, captured=PRICE), False),
        (facts(ended_at=NOW, captured=1), False),
        (facts(ended_at=NOW, consumed=True), False),
        (None, False),
    ],
)
async def test_a_token_is_back_where_nobody_has_taken_anything(known: TokenFacts | None, is_back: bool) -> None:
    issuer = Revoker(known)
    payload = {"spt": "spt_1"}
    assert await StripeWallet(issuer).withdraw(make_offer(), payload, record_id="r", now=NOW) is is_back
    assert issuer.revoked == ["spt_1"]


async def test_a_function_cannot_take_a_token_back() -> None:
    async def create(terms: TokenTerms) -> str:
        return "spt_1"

    assert not await StripeWallet(create).withdraw(make_offer(), {"spt": "spt_1"}, record_id="r", now=NOW)


@pytest.mark.parametrize("issued", [True, False])
async def test_a_token_of_the_sandbox_is_revoked(account: Account, issued: bool) -> None:
    wallet = StripeWallet.issued_token(account.api, "pm_card_visa") if issued else account.wallet
    charge, payment = await account.claimed(wallet=wallet)

    async def withdraw() -> bool:
        return await wallet.withdraw(charge.offer, payment.payload, record_id="r", now=account.clock())

    assert await withdraw()
    assert (await account.api.granted_token(payment.payload["spt"]))["deactivated_reason"] == "revoked"
    assert await withdraw()  # once more changes nothing
    assert not isinstance(await account.rail.hold(charge, payment), Held)
    assert await account.balance() == 0


async def test_a_token_that_was_charged_is_not_back(account: Account) -> None:
    charge, payment = await account.claimed(Flow.UPFRONT)
    assert isinstance(await account.rail.settle(charge, payment), Settled)
    assert not await account.wallet.withdraw(charge.offer, payment.payload, record_id="r", now=account.clock())


@pytest.mark.parametrize("issued", [True, False])
async def test_a_revocation_without_an_answer_is_none(issued: bool) -> None:
    api, requests = answering(httpx.Response(500, json={"error": {}}))
    wallet = StripeWallet.issued_token(api, "pm_1") if issued else StripeWallet.test_helper(api)
    with pytest.raises(OutcomeUnknown):
        await wallet.withdraw(make_offer("stripe:test"), {"spt": "spt_hidden"}, record_id="r", now=NOW)
    await wallet.close()
    place = "shared_payment/issued_tokens" if issued else "test_helpers/shared_payment/granted_tokens"
    assert requests[0].url.path == f"/v1/{place}/spt_hidden/revoke"
    assert "hidden" not in requests[0].headers["idempotency-key"]


# --- the sandbox


async def test_the_sandbox_pays_its_own_publisher_only(account: Account) -> None:
    await account.wallet.start()
    offer = await account.offer()
    account.wallet.spec.check_offer(offer, ORDER, now=account.clock())
    assert await account.wallet.can_pay(offer) is not None
    assert await account.wallet.can_pay(make_offer("stripe:test")) is None
    assert account.wallet.name == "stripe:sandbox"
    (mechanism,) = account.wallet.spec.mechanisms
    assert mechanism.network == "stripe:sandbox"


async def test_the_sandbox_issues_exact_tokens(account: Account) -> None:
    offer = await account.offer()
    payment = await account.pay(offer)
    token = await account.api.granted_token(payment.payload["spt"])
    assert token["usage_limits"] == {"currency": "usd", "max_amount": PRICE, "expires_at": offer.expires_at}
    assert isinstance(await account.rail.hold(*await account.claimed()), Held)


async def test_one_purchase_has_one_token(account: Account) -> None:
    offer = await account.offer()
    first = await account.wallet.pay(offer, record_id="rec_x", now=account.clock())
    second = await account.wallet.pay(offer, record_id="rec_x", now=account.clock())
    other = await account.wallet.pay(offer, record_id="rec_y", now=account.clock())
    assert first.payload == second.payload != other.payload


async def test_what_became_of_a_token_in_the_sandbox(account: Account) -> None:
    charge, payment = await account.claimed()

    async def resume() -> Any:
        return await account.wallet.resume(charge.offer, payment.payload, record_id="r", now=account.clock())

    assert await resume() == Paid(payload=payment.payload)
    held = await account.rail.hold(charge, payment)
    assert isinstance(held, Held)
    account.clock.advance(700)
    assert isinstance(await resume(), Unknown)  # it has expired, and is reserved all the same
    charge = step(step(charge, PaymentEvent.HELD, held.state), PaymentEvent.SETTLE)
    assert isinstance(await account.rail.settle(charge, None), Settled)
    assert await resume() == Paid(payload=payment.payload, moved=True)


async def test_an_unused_token_is_not_paid_once_no_reservation_can_last(account: Account) -> None:
    charge, payment = await account.held()
    assert await account.rail.release(step(charge, PaymentEvent.RELEASE)) == Released()
    account.clock.advance(600 + HOLD_SECONDS)
    found = await account.wallet.resume(charge.offer, payment.payload, record_id="r", now=account.clock())
    assert found == NotPaid()


async def test_a_token_of_another_account_is_unknown(account: Account) -> None:
    offer = await account.offer()
    found = await account.wallet.resume(offer, {"spt": "spt_else"}, record_id="r", now=account.clock())
    assert isinstance(found, Unknown)


async def test_no_answer_about_a_token_is_no_answer(account: Account) -> None:
    offer = await account.offer()
    payment = await account.pay(offer)
    account.spoil("/v1/shared_payment/granted_tokens/*", "server_error")
    with pytest.raises(RailUnavailable):
        await account.wallet.resume(offer, payment.payload, record_id="r", now=account.clock())


@pytest.mark.parametrize(("answer", "applied"), [("timeout", True), ("timeout", False), ("truncated", True)])
async def test_a_token_that_nobody_got_paid_nothing(account: Account, answer: Any, applied: bool) -> None:
    offer = await account.offer()
    account.spoil(GRANT, answer, applied=applied)
    with pytest.raises(PaymentFailed):
        await account.wallet.pay(offer, record_id="rec_x", now=account.clock())
    assert isinstance(await account.wallet.pay(offer, record_id="rec_x", now=account.clock()), Paid)


async def test_a_busy_stripe_issues_nothing(account: Account) -> None:
    offer = await account.offer()
    account.spoil(GRANT, "rate_limited")
    with pytest.raises(RailUnavailable):
        await account.wallet.pay(offer, record_id="rec_x", now=account.clock())


async def test_a_sandbox_refuses_what_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        StripeWallet.sandbox(tmp_path, payment_method="4242424242424242")
    with pytest.raises(TypeError):
        StripeWallet.sandbox(tmp_path, secret_key="sk_live_1")  # type: ignore[call-arg]


# --- accounts of Stripe


def answering(*responses: httpx.Response, key: str = "sk_test_hidden") -> tuple[StripeApi, list[httpx.Request]]:
    """An account that answers so, one after the other, and the requests it got."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return responses[len(requests) - 1]

    return StripeApi(key, transport=httpx.MockTransport(answer)), requests


def form(request: httpx.Request) -> dict[str, str]:
    return dict(httpx.QueryParams(request.content.decode()))


async def test_a_token_is_issued_to_the_seller_within_limits() -> None:
    token = httpx.Response(200, json={"id": "spt_1", "status": "active"})
    api, requests = answering(token, key="sk_live_hidden")
    wallet = StripeWallet.issued_token(api, "pm_1", currencies=["usd"])
    paid = await wallet.pay(make_offer(), record_id="rec_1", now=NOW)
    await wallet.close()
    assert paid.payload == {"spt": "spt_1"}
    assert "hidden" not in repr(wallet)
    assert requests[0].url.path == "/v1/shared_payment/issued_tokens"
    assert requests[0].headers["idempotency-key"] == "rail402:rec_1:token"
    assert form(requests[0]) == {
        "payment_method": "pm_1",
        "usage_limits[currency]": "usd",
        "usage_limits[max_amount]": "50",
        "usage_limits[expires_at]": str(NOW + 600),
        "seller_details[network_business_profile]": "profile_1",
    }


async def test_an_issued_token_is_asked_about_where_it_was_issued() -> None:
    found = {"deactivated_at": NOW, "usage_details": {"amount_captured": {"value": 50}}}
    api, requests = answering(httpx.Response(200, json=found), key="sk_live_hidden")
    wallet = StripeWallet.issued_token(api, "pm_1")
    assert isinstance(await wallet.resume(make_offer(), {"spt": "spt_1"}, record_id="r", now=NOW), Paid)
    await wallet.close()
    assert requests[0].url.path == "/v1/shared_payment/issued_tokens/spt_1"


async def test_a_sandbox_account_issues_tokens_too(account: Account) -> None:
    wallet = StripeWallet.issued_token(account.api, "pm_card_visa")
    assert await account.rail.hold(*await account.claimed(wallet=wallet))
    assert await account.statuses() == ["requires_capture"]


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(200, json={"id": "spt_1", "status": "requires_action"}), "action_required"),
        (httpx.Response(200, json={"status": "active"}), "payment_failed"),
        (httpx.Response(402, json={"error": {"type": "card_error", "code": "card_declined"}}), "payment_failed"),
        (
            httpx.Response(402, json={"error": {"type": "card_error", "code": "authentication_required"}}),
            "action_required",
        ),
        (httpx.Response(400, json={"error": {"code": "resource_missing", "message": "spt_hidden"}}), "payment_failed"),
        (httpx.Response(500, json={"error": {}}), "payment_failed"),
    ],
)
async def test_no_token_no_payment(response: httpx.Response, code: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api, _ = answering(response)
    wallet = StripeWallet.issued_token(api, "pm_1")
    with pytest.raises(PaymentFailed) as caught:
        await wallet.pay(make_offer("stripe:test"), record_id="rec_1", now=NOW)
    await wallet.close()
    assert caught.value.code == code
    assert "hidden" not in str(caught.value) + caplog.text


async def test_the_test_helper_knows_both_spellings() -> None:
    refusal = {"type": "invalid_request_error", "code": "parameter_unknown", "param": "seller_details"}
    api, requests = answering(httpx.Response(400, json={"error": refusal}), httpx.Response(200, json={"id": "spt_1"}))
    wallet = StripeWallet.test_helper(api)
    offer = make_offer("stripe:test", payee="internal")
    assert (await wallet.pay(offer, record_id="rec_1", now=NOW)).payload == {"spt": "spt_1"}
    await wallet.close()
    assert form(requests[0])["seller_details[network_id]"] == "internal"
    assert not any("seller" in name for name in form(requests[1]))
    assert requests[0].headers["idempotency-key"] != requests[1].headers["idempotency-key"]


async def test_the_test_helper_repeats_no_other_refusal() -> None:
    api, requests = answering(httpx.Response(400, json={"error": {"code": "resource_missing"}}))
    wallet = StripeWallet.test_helper(api)
    with pytest.raises(PaymentFailed):
        await wallet.pay(make_offer("stripe:test"), record_id="rec_1", now=NOW)
    await wallet.close()
    assert len(requests) == 1


async def test_the_test_helper_is_never_called_with_a_live_key() -> None:
    with pytest.raises(ConfigurationError, match="test mode") as caught:
        StripeWallet.test_helper("sk_live_hidden")
    assert "hidden" not in str(caught.value)
    for bad in ("pk_test_1", "", "sk_test_"):
        with pytest.raises(ConfigurationError):
            StripeWallet.test_helper(bad)


@pytest.mark.parametrize(("key", "network"), [("sk_test_1", "stripe:test"), ("sk_live_1", "stripe:live")])
async def test_the_key_says_the_wallets_network(key: str, network: Any) -> None:
    wallet = StripeWallet.issued_token(key, "pm_1")
    assert await wallet.can_pay(make_offer(network)) is not None
    assert wallet.name == network
    await wallet.close()


@pytest.mark.parametrize(("network", "payee"), [("stripe:live", SANDBOX_PROFILE), ("stripe:live", "internal")])
def test_a_live_wallet_pays_no_test_profile(network: Any, payee: str) -> None:
    wallet = StripeWallet(Recorder(), network=network)
    with pytest.raises(Exception, match="profile"):
        wallet.spec.check_offer(make_offer(network, payee=payee), None, now=NOW)  # type: ignore[arg-type]


# --- for `rail402 doctor`


async def test_the_key_is_looked_at(tmp_path: Path) -> None:
    wallet = StripeWallet.sandbox(tmp_path)
    (said,) = await wallet.examine()
    assert (said.says, said.fix, said.time) == ("Stripe accepts its key, for test money", "", None)
    await wallet.close()
    assert await StripeWallet(Recorder()).examine() == ()


@pytest.mark.parametrize(("status", "raised"), [(401, ConfigurationError), (500, RailUnavailable), (403, None)])
async def test_a_key_that_stripe_does_not_take(status: int, raised: type[Exception] | None) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"error": {"type": "invalid_request_error"}})

    wallet = StripeWallet.issued_token(StripeApi("sk_live_hidden", transport=httpx.MockTransport(answer)), "pm_1")
    if raised is None:  # a restricted key that may not see the balance
        (said,) = await wallet.examine()
        assert (said.says, said.time) == ("Stripe accepts its key", None)
    else:
        with pytest.raises(raised) as caught:
            await wallet.examine()
        assert "sk_live" not in str(caught.value)
    await wallet.close()


async def test_stripe_s_time_is_told() -> None:
    balance = {"available": [], "pending": []}
    answer = httpx.Response(200, json=balance, headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT"})
    api = StripeApi("sk_live_hidden", transport=httpx.MockTransport(lambda _: answer))
    wallet = StripeWallet.issued_token(api, "pm_1")
    (said,) = await wallet.examine()
    assert (said.says, said.time) == ("Stripe accepts its key", NOW)
    await wallet.close()
