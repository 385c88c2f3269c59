"""One set of scenarios, against the sandbox behind a port and, where there is a key, against Stripe's own test mode.

`STRIPE_TEST_KEY`, a secret key `sk_test_…` or `rk_test_…`, switches test mode on; without it those are skipped, and
`RAIL402_REQUIRE=all` does not count them: nobody but Stripe can give that key. `STRIPE_TEST_PROFILE` names the
account's profile where it is not `internal`. Shared payment tokens are in a preview that an account must have been
admitted to.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import stripe
import uvicorn

from rail402.client.httpx import EXTENSION
from rail402.protocol.charge import Delivery, PaymentState
from rail402_stripe import StripeApi
from rail402_stripe.proofs import ProofKind
from rail402_stripe.sandbox import Sandbox
from tests.integration.stripe_shop import PRICE, StripeShop, Wire
from tests.services.processes import free_ports, wait_for

_is_test_key = re.compile(r"(sk|rk)_test_[A-Za-z0-9_]{1,240}", re.ASCII).fullmatch


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


def key_of_test_mode() -> str:
    """The key of test mode. Ends the test where there is none, and above all where there is a live one."""
    key = os.environ.get("STRIPE_TEST_KEY", "")
    if not key:
        pytest.skip("STRIPE_TEST_KEY is not set: these run against Stripe's test mode")
    if not _is_test_key(key):
        pytest.fail("STRIPE_TEST_KEY must be a secret key of test mode, sk_test_… or rk_test_…", pytrace=False)
    return key


@asynccontextmanager
async def sandbox_behind_a_port(directory: Path) -> AsyncIterator[str]:
    """Serve a sandbox; gives its address."""
    (port,) = free_ports(1)
    app = Sandbox(directory / "stripe.sqlite3", public_url=f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.to_thread(wait_for, "the sandbox", lambda: server.started, 10)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def shop_at(account: str, directory: Path) -> AsyncIterator[StripeShop]:
    """A shop on the sandbox or on test mode."""
    wire = Wire()
    if account == "test mode":
        api = StripeApi(key_of_test_mode(), transport=wire)
        shop = StripeShop(api, wire, directory, profile_id=os.environ.get("STRIPE_TEST_PROFILE") or "internal")
        async with shop.open():
            yield shop
        return
    async with sandbox_behind_a_port(directory) as address:
        api = StripeApi("sk_test_sandbox", transport=wire, api_base=address)
        shop = StripeShop(api, wire, directory)
        async with shop.open():
            yield shop
        await api.close()


@pytest.fixture(params=["sandbox", "test mode"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StripeShop]:
    async with shop_at(request.param, tmp_path) as shop:
        yield shop


# --- shared payment tokens


@pytest.mark.parametrize("path", ["/held", "/first"])
async def test_bought_once_and_replayed(shop: StripeShop, path: str) -> None:
    assert await shop.money() == 0
    assert (await shop.buy(path)).json() == {"n": 1}
    assert (await shop.again()).json() == {"n": 1}
    charge = await shop.charge()
    assert (charge.payment, charge.delivery, charge.sandbox) == (PaymentState.SETTLED, Delivery.STORED, False)
    (intent,) = await shop.intents()
    assert (intent["id"], intent["status"], intent["amount_received"]) == (charge.transaction, "succeeded", PRICE)
    assert await shop.money() == PRICE


async def test_a_payer_buys(shop: StripeShop) -> None:
    async with shop.paying() as client:
        response = await client.get("/held")
        purchase = response.extensions[EXTENSION]
        assert (purchase.outcome, purchase.receipt.transaction) == ("paid", (await shop.intents())[0]["id"])
    assert await shop.money() == PRICE


async def test_a_cheaper_outcome_costs_less(shop: StripeShop) -> None:
    assert (await shop.buy("/held?worth=0.60 USD")).json() == {"n": 1}
    assert await shop.money() == 60
    assert (await shop.charge()).amount == 60


async def test_a_failed_handler_costs_nothing(shop: StripeShop) -> None:
    assert (await shop.buy("/held?status=500")).status_code == 500
    assert [intent["status"] for intent in await shop.intents()] == ["canceled"]
    assert await shop.money() == 0


async def test_a_failed_handler_is_refunded_where_it_was_paid_first(shop: StripeShop) -> None:
    assert (await shop.buy("/first?status=500")).status_code == 500
    assert (await shop.charge()).payment is PaymentState.REFUNDED
    assert [intent["status"] for intent in await shop.intents()] == ["succeeded"]
    assert await shop.money() == 0


async def test_a_purchase_is_refunded(shop: StripeShop) -> None:
    await shop.buy("/held")
    assert (await shop.gate.refund((await shop.charge()).id)).payment is PaymentState.REFUNDED
    assert await shop.money() == 0
    answer = await shop.again()
    assert (answer.status_code, answer.json()["code"]) == (402, "refunded")


@pytest.mark.parametrize("path", ["/held", "/first"])
@pytest.mark.parametrize(
    ("card", "code"),
    [
        ("pm_card_visa_chargeDeclined", "payment_declined"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedStolenCard", "payment_declined"),
        ("pm_card_authenticationRequired", "action_required"),
    ],
)
async def test_a_declined_card_buys_nothing(shop: StripeShop, path: str, card: str, code: str) -> None:
    answer = await shop.buy(path, card)
    assert (answer.status_code, answer.json()["code"]) == (402, code)
    assert "stolen" not in answer.text
    assert (shop.served, await shop.money()) == (0, 0)


async def test_a_token_that_is_too_small_buys_nothing(shop: StripeShop) -> None:
    offer, token = await shop.offer("/held"), await shop.token(max_amount=PRICE - 1)
    answer = await shop.show(offer, token, "/held")
    assert (answer.status_code, answer.json()["code"]) == (402, "amount_mismatch")
    assert await shop.intents() == []


async def test_a_revoked_token_buys_nothing(shop: StripeShop) -> None:
    offer, token = await shop.offer("/held"), await shop.token()
    await shop.api._post(f"/v1/test_helpers/shared_payment/granted_tokens/{token}/revoke", f"revoke:{token}")
    answer = await shop.show(offer, token, "/held")
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
    assert await shop.intents() == []


# --- prepared on demand


async def test_a_prepared_payment_intent_pays_once(shop: StripeShop) -> None:
    offer = await shop.offer("/held")
    assert await shop.intents() == []  # nothing is made for a mere 402
    made = await shop.prepare(offer, "payment_intent")
    assert await shop.prepare(offer, "payment_intent") == made
    pi = made["payment_intent"]
    early = await shop.show(offer, pi, "/held", ProofKind.PAYMENT_INTENT)
    assert (early.status_code, early.json()["code"]) == (402, "action_required")
    assert (await shop.confirm(pi))["status"] == "requires_capture"
    elsewhere = await shop.show(await shop.offer("/held"), pi, "/held", ProofKind.PAYMENT_INTENT)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (402, "resource_mismatch")
    for _ in range(2):
        assert (await shop.show(offer, pi, "/held", ProofKind.PAYMENT_INTENT)).json() == {"n": 1}
    assert [intent["id"] for intent in await shop.intents()] == [pi]
    assert await shop.money() == PRICE


async def test_a_cardholder_who_must_authenticate_is_waited_for(shop: StripeShop) -> None:
    offer = await shop.offer("/first")
    pi = (await shop.prepare(offer, "payment_intent"))["payment_intent"]
    assert (await shop.confirm(pi, "pm_card_authenticationRequired"))["status"] == "requires_action"
    answer = await shop.show(offer, pi, "/first", ProofKind.PAYMENT_INTENT)
    assert (answer.status_code, answer.json()["code"]) == (402, "action_required")
    assert (shop.served, await shop.money()) == (0, 0)


async def test_a_link_to_checkout_is_made_when_asked_for(shop: StripeShop) -> None:
    offer = await shop.offer("/held")
    made = await shop.prepare(offer, "checkout")
    assert made["url"].startswith("http")
    assert await shop.prepare(offer, "checkout") == made
    session = await shop.api.session(made["checkout_session"])
    assert (session["amount_total"], session["currency"], session["mode"]) == (PRICE, "usd", "payment")
    answer = await shop.show(offer, session["id"], "/held", ProofKind.CHECKOUT_SESSION)
    assert (answer.status_code, answer.json()["code"]) == (402, "action_required")


# --- customers


@pytest.mark.parametrize("path", ["/held", "/first"])
async def test_a_saved_customer_pays_without_being_there(shop: StripeShop, path: str) -> None:
    secret = await shop.save_customer()
    for number in (1, 2):
        answer = await shop.show(await shop.offer(path), secret, path, ProofKind.CUSTOMER)
        assert answer.json() == {"n": number}
        assert await shop.money() == number * PRICE


async def test_who_is_no_customer_pays_nothing(shop: StripeShop) -> None:
    await shop.save_customer()
    answer = await shop.show(await shop.offer("/held"), "nobody's-secret-at-all", "/held", ProofKind.CUSTOMER)
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
    assert await shop.intents() == []


# --- lost answers


@pytest.mark.parametrize("path", ["/held", "/first"])
async def test_a_lost_creation_is_closed_by_a_webhook(shop: StripeShop, path: str) -> None:
    shop.wire.lose("/v1/payment_intents")
    assert (await shop.buy(path)).status_code == 503
    assert (await shop.charge()).payment is PaymentState.UNKNOWN
    (intent,) = await shop.intents()
    name = {"/held": "amount_capturable_updated", "/first": "succeeded"}[path]
    assert (await shop.deliver(f"payment_intent.{name}", intent)).status_code == 200
    assert (await shop.again()).json() == {"n": 1}
    assert len(await shop.intents()) == 1
    assert await shop.money() == PRICE


async def test_a_lost_capture_is_closed_by_a_webhook(shop: StripeShop) -> None:
    shop.wire.lose("/capture")
    assert (await shop.buy("/held?worth=0.60 USD")).status_code == 503
    (intent,) = await shop.intents()
    forged = await shop.deliver("payment_intent.succeeded", intent, webhook_secret="whsec_guessed")
    assert forged.status_code == 400
    assert (await shop.charge()).payment is PaymentState.UNKNOWN
    assert (await shop.deliver("payment_intent.succeeded", intent)).status_code == 200
    assert (await shop.again()).json() == {"n": 1}
    assert (shop.served, await shop.money()) == (1, 60)


async def test_a_lost_refund_is_found_by_the_reconciler(shop: StripeShop) -> None:
    await shop.buy("/held")
    shop.wire.lose("/v1/refunds")
    assert (await shop.gate.refund((await shop.charge()).id)).payment is PaymentState.UNKNOWN
    assert await shop.gate.reconcile() == 1
    assert (await shop.charge()).payment is PaymentState.REFUNDED
    assert await shop.money() == 0


async def test_a_lost_cancellation_is_found_by_the_reconciler(shop: StripeShop) -> None:
    shop.wire.lose("/cancel")
    assert (await shop.buy("/held?status=500")).status_code == 500
    assert await shop.gate.reconcile() == 1
    assert (await shop.charge()).payment is PaymentState.RELEASED
    assert await shop.money() == 0


# --- the account


async def test_the_key_is_known_and_another_is_not(shop: StripeShop) -> None:
    await shop.api.check_key()
    assert shop.api.network == "stripe:test"


@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1", "pk_test_1", "sk_test_!", "sk_test_1 ", "nonsense"])
def test_a_key_that_is_not_one_of_test_mode_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_TEST_KEY", key)
    with pytest.raises(pytest.fail.Exception) as caught:
        key_of_test_mode()
    assert key not in str(caught.value)


def test_without_a_key_test_mode_is_skipped_whatever_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRIPE_TEST_KEY", raising=False)
    monkeypatch.setenv("RAIL402_REQUIRE", "all")
    with pytest.raises(pytest.skip.Exception):
        key_of_test_mode()


async def test_the_time_of_a_paid_call(
    shop: StripeShop, capsys: pytest.CaptureFixture[str], record_property: pytest.RecordProperty
) -> None:
    """How much of it is ours and how much the account's. It is told, and not judged: machines differ."""
    ours, theirs, calls = [], [], []
    async with shop.paying() as client:
        await client.get("/held?worth=0.70 USD")  # keys and connections
        for number in range(5):
            shop.wire.seconds, shop.wire.calls = 0.0, []
            began = time.perf_counter()
            assert (await client.get(f"/held?worth=0.{50 + number} USD")).status_code == 200
            ours.append(time.perf_counter() - began - shop.wire.seconds)
            theirs.append(shop.wire.seconds)
            calls.append(len(shop.wire.calls))
    said = {
        "ours_ms": round(statistics.median(ours) * 1000, 1),
        "stripes_ms": round(statistics.median(theirs) * 1000, 1),
        "calls": calls[-1],
    }
    for name, value in said.items():
        record_property(name, value)
    with capsys.disabled():
        print(f"\na paid call: {said}")
    # The payer's token, the seller's look at it, the reservation and the capture: nothing is asked twice.
    assert set(calls) == {4}
