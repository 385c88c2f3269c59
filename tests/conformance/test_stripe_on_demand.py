"""Payments by PaymentIntent, by Checkout and by saved customers, from the 402 to the delivery, through a real gate.

The person is played by HTTP: links are followed, forms are sent, and the cookie jar is the browser's. The money is the
sandbox account's balance in cents, counted before and after; what was made at Stripe is counted in the ledger.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from fastapi import Request

from rail402.client.payer import Payer
from rail402.errors import OutcomeUnknown
from rail402.protocol.charge import Delivery, PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.testing.fakes import FakeClock
from rail402_stripe import OwnCustomerWallet, SavedCustomer, StripeApi, StripeRail
from rail402_stripe.api import SANDBOX_LEDGER
from rail402_stripe.sandbox import SANDBOX_URL, Fault, SandboxTransport
from rail402_stripe.verification import PAID_WITHIN, PRESENT_GRACE
from rail402_stripe.wire import SANDBOX_PROFILE
from tests.conformance.test_stripe_end_to_end import MPP, URL, Shop
from tests.unit.rail402_stripe.account import CANCEL, CAPTURE, CREATE, INTENT, PRICE, REFUND, Account

PREPARE = "/.well-known/rail402/stripe"
SESSIONS = "/v1/checkout/sessions"
SECRET = "alice-0123456789abcdef"
WANTS_PERSON = "pm_card_authenticationRequired"
NO_FUNDS = "pm_card_visa_chargeDeclinedInsufficientFunds"
FLOWS = ["escrow", "upfront"]
PREPARED = ["paymentIntent", "checkoutSession"]
KINDS = ["spt", *PREPARED, "customer"]


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


class Customers:
    """The publisher's register: who has which secret."""

    def __init__(self) -> None:
        self.known: dict[str, SavedCustomer] = {}
        self.asked = 0

    async def __call__(self, secret: str) -> SavedCustomer | None:
        self.asked += 1
        return self.known.get(secret)


@pytest.fixture
def customers() -> Customers:
    return Customers()


@pytest.fixture
async def account(tmp_path: Path, customers: Customers) -> AsyncIterator[Account]:
    account = Account(tmp_path, customers=customers)
    yield account
    await account.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/charges.db"


# --- what payers do


async def challenge(shop: Shop, path: str = "/report") -> tuple[Offer, dict[str, Any]]:
    """Return the offer of a fresh 402 and its JSON."""
    response = await shop.client.get(path)
    assert response.status_code == 402
    (offer,) = MPP.offers(Fields(response.headers.multi_items()), response.content, shop.context())
    return offer, response.json()["offers"][0]


async def ask(shop: Shop, offer: Offer, what: str) -> httpx.Response:
    """Ask for a payment to be prepared."""
    assert offer.envelope is not None
    asked = {"dialect": "mpp", "offer": dict(offer.envelope), "prepare": what}
    return await shop.client.post(PREPARE, json=asked)


async def show(shop: Shop, offer: Offer, payload: dict[str, Any], path: str = "/report") -> httpx.Response:
    """Present a proof for an offer."""
    return await shop.client.get(path, headers=dict(MPP.credential(offer, payload, shop.context())))


async def confirm(shop: Shop, prepared: dict[str, Any], card: str = "pm_card_visa", **more: str) -> dict[str, Any]:
    """Confirm a PaymentIntent as its payer does: with the publishable key and the client secret alone."""
    form = {"client_secret": prepared["client_secret"], "payment_method": card, **more}
    headers = {"authorization": f"Bearer {prepared['publishable_key']}"}
    async with httpx.AsyncClient(transport=SandboxTransport(shop.account.sandbox), base_url=SANDBOX_URL) as public:
        answer = await public.post(
            f"/v1/payment_intents/{prepared['payment_intent']}/confirm", data=form, headers=headers
        )
        return dict(answer.json())


async def at_bank(shop: Shop, url: str, outcome: str = "approve") -> None:
    """Press a button on the page of the cardholder's bank."""
    async with httpx.AsyncClient(transport=SandboxTransport(shop.account.sandbox)) as browser:
        assert (await browser.post(url, data={"outcome": outcome})).status_code == 303


async def by_intent(shop: Shop, offer: Offer, card: str = "pm_card_visa") -> dict[str, Any]:
    prepared = (await ask(shop, offer, "payment_intent")).json()
    await confirm(shop, prepared, card)
    return {"paymentIntent": prepared["payment_intent"]}


async def by_checkout(shop: Shop, offer: Offer, card: str = "pm_card_visa") -> dict[str, Any]:
    prepared = (await ask(shop, offer, "checkout")).json()
    assert (await shop.client.post(prepared["url"], data={"payment_method": card})).status_code == 303
    return {"checkoutSession": prepared["checkout_session"]}


async def by_customer(shop: Shop, offer: Offer, card: str = "pm_card_visa") -> dict[str, Any]:
    register = shop.account.rail._verifier._customers
    assert isinstance(register, Customers)
    if SECRET not in register.known:
        register.known[SECRET] = await saved(shop.account, card)
    return {"customer": SECRET}


async def saved(account: Account, card: str = "pm_card_visa") -> SavedCustomer:
    """Return a customer who has saved a test card."""
    customer, _ = await account.api._post("/v1/customers", f"customer:{card}", name="Alice")
    path = f"/v1/payment_methods/{card}/attach"
    method, _ = await account.api._post(path, f"attach:{card}", customer=customer["id"])
    return SavedCustomer(customer["id"], method["id"])


async def by_token(shop: Shop, offer: Offer, card: str = "pm_card_visa") -> dict[str, Any]:
    return {"spt": await shop.account.token(payment_method=card)}


Pay = Callable[..., Awaitable[dict[str, Any]]]
PAY: dict[str, Pay] = {
    "spt": by_token,
    "paymentIntent": by_intent,
    "checkoutSession": by_checkout,
    "customer": by_customer,
}


def objects(account: Account) -> dict[str, int]:
    """Return how many objects of each kind there are at Stripe."""
    with sqlite3.connect(account.directory / SANDBOX_LEDGER) as connection:
        return dict(connection.execute("SELECT kind, count(*) FROM objects GROUP BY kind"))


def unpacked(text: str) -> dict[str, Any]:
    """Return the JSON in base64url."""
    return dict(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))


def packed(value: dict[str, Any]) -> str:
    """Return a value as base64url of its JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


# --- nothing is made for a mere 402


async def test_unpaid_answers_make_nothing_at_stripe(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await account.balance()  # the ledger is there
        for _ in range(20):
            _, said = await challenge(shop)
            assert (await shop.client.get(said["pay_url"])).status_code == 200
        assert objects(account) == {}


@pytest.mark.parametrize(("what", "kind"), [("payment_intent", "payment_intent"), ("checkout", "checkout.session")])
async def test_who_asks_again_gets_the_same(account: Account, what: str, kind: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        answers = await asyncio.gather(*(ask(shop, offer, what) for _ in range(4)))
        found = {json.dumps(answer.json()) for answer in answers if answer.status_code == 200}
        assert {answer.status_code for answer in answers} <= {200, 503}  # Stripe: the key is in use
        found.add(json.dumps((await ask(shop, offer, what)).json()))
        assert len(found) == 1
        assert objects(account) == {kind: 1}
        other, _ = await challenge(shop)
        await ask(shop, other, what)
        assert objects(account) == {kind: 2}


@pytest.mark.parametrize(("flow", "method"), [("escrow", "manual"), ("upfront", "automatic")])
async def test_what_is_prepared_is_marked_and_secret(account: Account, flow: str, method: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, _ = await challenge(shop)
        answer = await ask(shop, offer, "payment_intent")
        assert answer.headers["cache-control"] == "no-store"
        prepared = answer.json()
        assert set(prepared) == {"payment_intent", "client_secret", "publishable_key", "expires_at"}
        (intent,) = await account.intents()
        assert intent["id"] == prepared["payment_intent"]
        assert (intent["amount"], intent["currency"], intent["capture_method"]) == (PRICE, "usd", method)
        assert set(intent["metadata"]) == {"rail402_offer", "rail402_expires", "rail402_realm", "machine_payment"}
        assert intent["metadata"]["rail402_expires"] == str(offer.expires_at)
        # The offer's own secret, its nonce, is at Stripe nowhere: only the key that is made of it.
        assert offer.envelope is not None
        nonce = unpacked(offer.envelope["challenge"]["opaque"])["token"].split(".")[2]
        assert nonce.encode() not in b"".join(
            path.read_bytes() for path in account.directory.glob(f"{SANDBOX_LEDGER}*")
        )


@pytest.mark.parametrize(
    "change",
    [
        {"prepare": "gift"},
        {"prepare": None},
        {"offer": None},
        {"offer": "x"},
        {"offer": {}},
        {"dialect": "x402-v2"},
        {"dialect": None},
    ],
)
async def test_what_cannot_be_read_prepares_nothing(account: Account, change: dict[str, Any]) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        assert offer.envelope is not None
        asked = {"dialect": "mpp", "offer": dict(offer.envelope), "prepare": "checkout"}
        answer = await shop.client.post(PREPARE, json=asked | change)
        assert 400 <= answer.status_code < 403
        await account.balance()
        assert objects(account) == {}


async def test_an_offer_that_was_altered_or_has_expired_prepares_nothing(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        assert offer.envelope is not None
        honest = offer.envelope["challenge"]
        cheaper = packed(unpacked(honest["request"]) | {"amount": "51"})
        for change in ({"request": cheaper}, {"expires": "2027-02-15T08:10:00Z"}, {"id": honest["id"][::-1]}):
            asked = {"dialect": "mpp", "offer": {"challenge": {**honest, **change}}, "prepare": "checkout"}
            assert code_of(await shop.client.post(PREPARE, json=asked)) == (402, "offer_unknown")
        account.clock.advance(601)
        assert code_of(await ask(shop, offer, "checkout")) == (402, "offer_expired")
        await account.balance()
        assert objects(account) == {}
        assert code_of(await ask(shop, offer, "payment_intent")) == (402, "offer_expired")
        assert await account.rail.cancel_unpaid() == 1  # to see that there was none makes one, which nobody gets


# --- each proof buys once


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_proof_buys_once_and_is_replayed(account: Account, store: str, kind: str, flow: str) -> None:
    async with Shop(account, flow, store).open() as shop:
        assert await account.balance() == 0
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        first, second = await show(shop, offer, payload), await show(shop, offer, payload)
        assert first.json() == second.json() == {"n": 1}
        assert second.headers["idempotent-replayed"] == "true"
        assert await account.statuses() == ["succeeded"]
        assert await account.balance() == PRICE
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert f"stripe:sandbox:{(await account.intents())[0]['id']}" in charge.keys
        assert await shop.gate.reconcile() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_many_at_once_buy_once(account: Account, store: str, kind: str) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        answers = await asyncio.gather(*(show(shop, offer, payload) for _ in range(5)))
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert shop.served == 1
        assert await account.statuses() == ["succeeded"]
        assert await account.balance() == PRICE


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_fails_costs_nothing(account: Account, kind: str, flow: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        shop.status = iter([500])
        offer, _ = await challenge(shop)
        answer = await show(shop, offer, await PAY[kind](shop, offer))
        assert answer.status_code == 500
        wanted = PaymentState.RELEASED if flow == "escrow" else PaymentState.REFUNDED
        assert (await shop.only_charge()).payment is wanted
        assert await account.balance() == 0
        assert await account.statuses() == ["canceled" if flow == "escrow" else "succeeded"]


# --- and nothing else


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proof_is_good_for_its_offer_and_route_alone(account: Account, kind: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        assert code_of(await show(shop, offer, payload, "/other")) == (402, "resource_mismatch")
        if kind in PREPARED:
            again, _ = await challenge(shop)
            assert code_of(await show(shop, again, payload)) == (402, "resource_mismatch")
        assert shop.served == 0
        assert await shop.charges() == []
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert code_of(await show(shop, offer, payload, "/other")) == (402, "resource_mismatch")
        assert await account.balance() == PRICE


@pytest.mark.parametrize("kind", ["spt", *PREPARED])
async def test_an_id_alone_replays_nothing(account: Account, kind: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        assert (await show(shop, offer, payload)).status_code == 200
        assert account.rail.spec.bare_replay is False
        for path in ("/report", "/other"):  # who has read the id somewhere has no token that goes with it
            fresh, _ = await challenge(shop, path)
            assert code_of(await show(shop, fresh, payload, path)) == (409, "replay_not_proven")
        bare = packed({"payload": payload})
        answer = await shop.client.get("/report", headers={"authorization": f"Payment {bare}"})
        assert answer.status_code in (400, 402)
        assert shop.served == 1
        assert await account.balance() == PRICE


async def test_another_customer_s_secret_replays_nothing(account: Account, customers: Customers) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_customer(shop, offer)
        customers.known["mallory-0123456789ab"] = await saved(account, "pm_card_pendingRefund")
        assert (await show(shop, offer, payload)).status_code == 200
        assert code_of(await show(shop, offer, {"customer": "mallory-0123456789ab"})) == (409, "payment_in_progress")
        assert await account.balance() == PRICE


@pytest.mark.parametrize("kind", PREPARED)
@pytest.mark.parametrize(
    ("change", "code"),
    [({"amount": PRICE + 10}, "amount_mismatch"), ({"currency": "eur"}, "asset_mismatch")],
)
async def test_a_marked_payment_of_another_price_buys_nothing(
    account: Account, kind: str, change: dict[str, Any], code: str
) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        await ask(shop, offer, "payment_intent")
        (mine,) = await account.intents()
        fact = {"amount": PRICE, "currency": "usd"} | change
        forged = {"capture_method": "manual", "metadata": mine["metadata"]}
        if kind == "paymentIntent":
            how = {"confirm": True, "payment_method": "pm_card_visa"}
            intent = await account.api.create_intent(None, "forged", **fact, **forged, **how)
            payload = {kind: intent["id"]}
        else:
            line = {"currency": fact["currency"], "unit_amount": fact["amount"], "product_data": {"name": "x"}}
            session = await account.api.create_session(
                "forged",
                mode="payment",
                line_items=[{"quantity": 1, "price_data": line}],
                metadata=mine["metadata"],
                payment_intent_data=forged,
                success_url="https://shop.example/",
            )
            async with httpx.AsyncClient(transport=SandboxTransport(account.sandbox)) as browser:
                assert (await browser.post(session["url"])).status_code == 303
            payload = {kind: session["id"]}
        assert code_of(await show(shop, offer, payload)) == (402, code)
        assert shop.served == 0


@pytest.mark.parametrize("kind", PREPARED)
async def test_a_payment_to_another_account_buys_nothing(account: Account, kind: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = Account(tmp_path / "elsewhere")
    async with Shop(account, "escrow", "memory://").open() as shop, Shop(other, "escrow", "memory://").open() as theirs:
        theirs_offer, _ = await challenge(theirs)
        payload = await PAY[kind](theirs, theirs_offer)
        offer, _ = await challenge(shop)
        assert code_of(await show(shop, offer, payload)) == (402, "payment_declined")
        assert shop.served == 0
        assert await account.balance() == 0
    await other.close()


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_payment_taken_in_another_way_than_was_asked_buys_nothing(account: Account, flow: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, _ = await challenge(shop)
        await ask(shop, offer, "payment_intent")
        (mine,) = await account.intents()
        method = "automatic" if flow == "escrow" else "manual"
        intent = await account.api.create_intent(
            None,
            "forged",
            amount=PRICE,
            currency="usd",
            capture_method=method,
            metadata=mine["metadata"],
            confirm=True,
            payment_method="pm_card_visa",
        )
        answer = await show(shop, offer, {"paymentIntent": intent["id"]})
        assert code_of(answer) == ((402, "proof_already_used") if flow == "escrow" else (503, "rail_unavailable"))
        assert shop.served == 0
        assert await shop.charges() == []


# --- one offer is paid once, in one way


@pytest.mark.parametrize("what", ["payment_intent", "checkout"])
async def test_nothing_is_prepared_for_an_offer_that_another_payment_was_shown_for(account: Account, what: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, said = await challenge(shop)
        assert code_of(await show(shop, offer, await by_token(shop, offer, NO_FUNDS))) == (402, "insufficient_funds")
        assert code_of(await ask(shop, offer, what)) == (402, "offer_expired")
        page = await shop.client.get(said["pay_url"])
        led = await press(shop.client, page)
        assert (led.status_code, "expired" in led.text) == (402, True)
        assert await account.balance() == 0


async def test_who_has_paid_is_led_to_what_was_bought(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_checkout(shop, offer)
        for _ in range(2):  # before it was presented, and after
            again = (await ask(shop, offer, "checkout")).json()
            assert "/stripe/return?" in again["url"]
            assert (await show(shop, offer, payload)).status_code == 200


# --- what has not been paid (yet)


@pytest.mark.parametrize("kind", PREPARED)
async def test_what_is_not_paid_yet_burns_nothing(account: Account, kind: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        prepared = (await ask(shop, offer, "payment_intent" if kind == "paymentIntent" else "checkout")).json()
        payload = {kind: prepared["payment_intent" if kind == "paymentIntent" else "checkout_session"]}
        early = await show(shop, offer, payload)
        assert code_of(early) == (402, "action_required")
        assert "www-authenticate" in early.headers
        assert await shop.charges() == []
        assert await PAY[kind](shop, offer, NO_FUNDS if kind == "paymentIntent" else "pm_card_visa") == payload
        if kind == "paymentIntent":  # declined: another card may pay the same one
            assert code_of(await show(shop, offer, payload)) == (402, "action_required")
            await confirm(shop, prepared)
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert await account.balance() == PRICE


@pytest.mark.parametrize("kind", PREPARED)
async def test_who_began_in_time_may_pay_and_present_a_little_late(account: Account, kind: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        prepared = (await ask(shop, offer, "payment_intent" if kind == "paymentIntent" else "checkout")).json()
        account.clock.advance(600 + 1700)
        if kind == "paymentIntent":
            await confirm(shop, prepared)
            payload = {kind: prepared["payment_intent"]}
        else:
            assert (await shop.client.post(prepared["url"], data={})).status_code == 303
            payload = {kind: prepared["checkout_session"]}
        account.clock.advance(PRESENT_GRACE - 1700)
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert await account.balance() == PRICE


@pytest.mark.parametrize("kind", PREPARED)
async def test_what_is_presented_too_late_buys_nothing(account: Account, kind: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        account.clock.advance(600 + PRESENT_GRACE + 1)
        assert code_of(await show(shop, offer, payload)) == (402, "offer_expired")
        assert shop.served == 0


async def test_what_was_paid_too_late_buys_nothing(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        prepared = (await ask(shop, offer, "payment_intent")).json()
        account.clock.advance(600 + PAID_WITHIN + 1)
        await confirm(shop, prepared)  # nobody had cancelled it yet
        answer = await show(shop, offer, {"paymentIntent": prepared["payment_intent"]})
        assert code_of(answer) == (402, "offer_expired")


async def test_unpaid_payment_intents_are_cancelled_when_their_time_is_over(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offers = [(await challenge(shop))[0] for _ in range(4)]
        asked = [(await ask(shop, offer, "payment_intent")).json() for offer in offers]
        await confirm(shop, asked[1])
        await confirm(shop, asked[2], WANTS_PERSON, return_url="https://agent.example/")
        await confirm(shop, asked[3], NO_FUNDS)
        account.clock.advance(600 + PAID_WITHIN)
        assert await account.rail.cancel_unpaid() == 0
        account.clock.advance(1)
        account.spoil(CANCEL, "timeout")  # a turn that fails is made up for by the next one
        with pytest.raises(OutcomeUnknown):
            await account.rail.cancel_unpaid()
        assert await account.rail.cancel_unpaid() == 1  # the other two it had cancelled all the same
        by_id = {intent["id"]: intent["status"] for intent in await account.intents()}
        assert [by_id[one["payment_intent"]] for one in asked] == [
            "canceled",
            "requires_capture",
            "canceled",
            "canceled",
        ]
        answer = await show(shop, offers[0], {"paymentIntent": asked[0]["payment_intent"]})
        assert code_of(answer) == (402, "authorization_expired")
        assert (await show(shop, offers[1], {"paymentIntent": asked[1]["payment_intent"]})).json() == {"n": 1}


async def test_after_its_end_an_offer_shows_what_was_made_and_makes_nothing(account: Account) -> None:
    async with Shop(account, "upfront", "memory://").open() as shop:
        offers = [(await challenge(shop))[0] for _ in range(3)]
        paid, unpaid = [(await ask(shop, offer, "payment_intent")).json() for offer in offers[:2]]
        await confirm(shop, paid)
        account.clock.advance(600 + PAID_WITHIN + 1)
        assert await account.rail.cancel_unpaid() == 1
        assert [(await ask(shop, offer, "payment_intent")).json() for offer in offers[:2]] == [paid, unpaid]
        assert code_of(await ask(shop, offers[2], "payment_intent")) == (402, "offer_expired")
        assert await account.rail.cancel_unpaid() == 1  # what that made, and nobody has seen
        assert code_of(await ask(shop, offers[0], "checkout")) == (402, "offer_expired")
        account.clock.advance(PRESENT_GRACE - PAID_WITHIN)
        assert code_of(await ask(shop, offers[0], "payment_intent")) == (402, "offer_expired")
        assert sorted(await account.statuses()) == ["canceled", "canceled", "succeeded"]


class Died(BaseException):
    """The end of a process, as nothing catches it."""


@pytest.mark.parametrize(("confirms", "minutes"), [(True, 11), (True, 129), (False, 13), (False, 129)])
async def test_an_agent_that_dies_while_it_pays_comes_back(
    account: Account, tmp_path: Path, confirms: bool, minutes: int
) -> None:
    async with Shop(account, "upfront", "memory://").open() as shop:
        wallet = OwnCustomerWallet.sandbox(tmp_path, transport=shop.transport(), clock=account.clock)
        confirm_at_stripe = wallet._api.confirm

        async def dies(*args: Any) -> Any:
            if confirms:
                await confirm_at_stripe(*args)
            raise Died

        wallet._api.confirm = dies  # type: ignore[method-assign]
        payer = Payer([wallet], journal=f"sqlite:///{tmp_path}/wallet.db", clock=account.clock)
        async with payer, httpx.AsyncClient(transport=payer.transport(shop.transport()), base_url=URL) as agent:
            with pytest.raises(Died):
                await agent.get("/report")
            wallet._api.confirm = confirm_at_stripe  # type: ignore[method-assign]
            account.clock.advance(minutes * 60)
            await account.rail.cancel_unpaid()
            if not confirms:  # nothing was paid, which is what its resumption finds out
                await payer.recover()
                assert await payer.journal.unresolved() == []
            assert (await agent.get("/report")).json() == {"n": 1}
            assert await account.balance() == PRICE


@pytest.mark.parametrize("ahead", [-360, 0, 360])
async def test_a_lost_charge_is_found_whatever_our_clock_says(tmp_path: Path, customers: Customers, ahead: int) -> None:
    account = Account(tmp_path, customers=customers)
    customers.known[SECRET] = await saved(account)
    stripe_clock = account.clock
    api = StripeApi.sandbox(tmp_path, clock=stripe_clock)
    ours = FakeClock(stripe_clock() + ahead)
    await account.rail.close()
    account.rail = StripeRail(api, profile_id=SANDBOX_PROFILE, customers=customers, clock=ours)
    account.clock = ours
    async with Shop(account, "upfront", "memory://").open() as shop:
        offer = await shop.offer()
        account.spoil(CREATE, "timeout", applied=True)
        assert (await show(shop, offer, {"customer": SECRET})).status_code == 503
        for clock in (ours, stripe_clock):
            clock.advance(130)
        await shop.gate.reconcile()
        assert (await shop.only_charge()).payment is PaymentState.SETTLED
        assert (await show(shop, offer, {"customer": SECRET})).json() == {"n": 1}
        assert await account.balance() == PRICE
    await account.close()


async def test_a_process_that_starts_cancels_what_another_has_left(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        await ask(shop, offer, "payment_intent")
        spt = await account.token()
        other, _ = await challenge(shop)
        assert (await show(shop, other, {"spt": spt})).status_code == 200
    account.clock.advance(600 + PAID_WITHIN + 1)
    restarted = StripeRail.sandbox(account.directory, clock=account.clock)
    await restarted._preparer.find_left()
    assert await restarted.cancel_unpaid() == 1
    assert await restarted.cancel_unpaid() == 0
    assert sorted(await account.statuses()) == ["canceled", "succeeded"]
    await restarted.close()


async def test_a_session_ends_by_itself(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, said = await challenge(shop)
        prepared = (await ask(shop, offer, "checkout")).json()
        assert prepared["expires_at"] == offer.expires_at + 1860
        account.clock.advance(600 + 1860)
        assert (await shop.client.post(prepared["url"], data={})).status_code == 402
        assert code_of(await show(shop, offer, {"checkoutSession": prepared["checkout_session"]})) == (
            402,
            "offer_expired",
        )
        page = await shop.client.get(said["pay_url"])
        assert (page.status_code, "expired" in page.text) == (402, True)
        assert await account.balance() == 0


# --- 3-D Secure


async def press(browser: httpx.AsyncClient, page: httpx.Response, **changes: str) -> httpx.Response:
    """Send the page's form."""
    assert page.status_code == 200, page.text
    action = re.search(r'<form method="post" action="([^"]+)"', page.text)
    assert action is not None
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text)
    fields = {unescape(name): unescape(value) for name, value in hidden}
    return await browser.post(unescape(action[1]), data={**fields, **changes})


async def bought(browser: httpx.AsyncClient, returned: httpx.Response) -> httpx.Response:
    """Fetch what was bought, as the script of the return page does."""
    found = re.search(r'<script type="application/json" id="bought">(.*?)</script>', returned.text)
    assert found is not None, returned.text
    told = json.loads(found[1])
    return await browser.get(told["url"], headers={"payment-authorization": told["payment"]})


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("kind", ["spt", "customer"])
async def test_a_card_that_wants_its_holder_leads_to_a_page_and_back(
    account: Account, store: str, kind: str, flow: str
) -> None:
    async with Shop(account, flow, store).open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer, WANTS_PERSON)
        for _ in range(2):
            refused = await show(shop, offer, payload)
            assert code_of(refused) == (402, "action_required")
        assert (await shop.only_charge()).payment is PaymentState.REJECTED
        assert await account.balance() == 0
        (said,) = refused.json()["offers"]
        assert said["pay_url"].startswith(f"{URL}{PREPARE}?")

        browser = shop.client
        page = await browser.get(said["pay_url"])
        assert "Pay 0.50 USD" in page.text
        to_checkout = await press(browser, page)
        assert to_checkout.status_code == 303
        to_bank = await browser.post(to_checkout.headers["location"], data={"payment_method": WANTS_PERSON})
        assert to_bank.status_code == 303
        assert "/stripe/sandbox?page=%2Fc%2Fauthenticate%2Fpi_" in to_bank.headers["location"]
        approved = await browser.post(to_bank.headers["location"], data={"outcome": "approve"})
        assert approved.status_code == 303
        returned = await browser.get(approved.headers["location"])
        assert (await bought(browser, returned)).json() == {"n": 1}
        assert (await bought(browser, returned)).json() == {"n": 1}  # reloaded
        assert shop.served == 1
        assert await account.balance() == PRICE
        assert (await shop.gate.reconcile()) == 0


async def test_a_payment_intent_waits_for_its_holder_and_is_resumed(account: Account, store: str) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer, _ = await challenge(shop)
        prepared = (await ask(shop, offer, "payment_intent")).json()
        waits = await confirm(shop, prepared, WANTS_PERSON, return_url="https://agent.example/back")
        assert waits["status"] == "requires_action"
        payload = {"paymentIntent": prepared["payment_intent"]}
        early = await show(shop, offer, payload)
        assert code_of(early) == (402, "action_required")
        assert early.json()["offers"][0]["pay_url"].startswith(f"{URL}{PREPARE}?")
        assert await shop.charges() == []
        await at_bank(shop, waits["next_action"]["redirect_to_url"]["url"])
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert await account.balance() == PRICE


async def test_a_holder_who_refuses_pays_nothing_and_may_try_again(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        prepared = (await ask(shop, offer, "payment_intent")).json()
        waits = await confirm(shop, prepared, WANTS_PERSON, return_url="https://agent.example/back")
        await at_bank(shop, waits["next_action"]["redirect_to_url"]["url"], "fail")
        payload = {"paymentIntent": prepared["payment_intent"]}
        assert code_of(await show(shop, offer, payload)) == (402, "action_required")
        assert await account.balance() == 0
        await confirm(shop, prepared)
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert await account.balance() == PRICE


# --- a person, with nothing but a browser


async def test_a_person_pays_and_reads(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        _, said = await challenge(shop)
        browser = shop.client
        to_checkout = await press(browser, await browser.get(said["pay_url"]))
        cookie = to_checkout.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Path=/.well-known/rail402/stripe" in cookie
        checkout = await browser.get(to_checkout.headers["location"])
        assert "Sandbox checkout" in checkout.text
        back = await browser.post(to_checkout.headers["location"], data={"payment_method": "pm_card_visa"})
        returned = await browser.get(back.headers["location"])
        assert (await bought(browser, returned)).json() == {"n": 1}
        assert await account.balance() == PRICE


async def test_another_browser_is_shown_nothing_of_it(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        _, said = await challenge(shop)
        to_checkout = await press(shop.client, await shop.client.get(said["pay_url"]))
        back = await shop.client.post(to_checkout.headers["location"], data={"payment_method": "pm_card_visa"})
        async with httpx.AsyncClient(transport=shop.transport(), base_url=URL) as other:
            returned = await other.get(back.headers["location"])
        assert returned.status_code == 200
        assert "Payment " not in returned.text
        assert "<script" not in returned.text


async def test_a_person_who_turns_back_is_led_to_the_page_again(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        _, said = await challenge(shop)
        await press(shop.client, await shop.client.get(said["pay_url"]))
        mark = (await account.api.session(session_ids(account)[0]))["client_reference_id"]
        returned = await shop.client.get(f"{PREPARE}/return?offer={mark}")
        assert "Nothing was paid" in returned.text
        link = re.search(r'href="([^"]+)"', returned.text)
        assert link is not None
        page = await shop.client.get(unescape(link[1]))
        assert "Pay 0.50 USD" in page.text
        assert await account.balance() == 0


def session_ids(account: Account) -> list[str]:
    with sqlite3.connect(account.directory / SANDBOX_LEDGER) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM objects WHERE kind = 'checkout.session'")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "https://evil.example/report"),
        ("url", "http://testserver.evil.example/"),
        ("url", "javascript:alert(1)"),
        ("offer", "%%%"),
        ("offer", "e30"),
        ("dialect", "x402-v2"),
    ],
)
async def test_a_link_that_was_tampered_with_leads_nowhere(account: Account, name: str, value: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        _, said = await challenge(shop)
        link = httpx.URL(said["pay_url"])
        tampered = link.copy_merge_params({name: value})
        refused = await shop.client.get(tampered)
        assert refused.status_code in (400, 402)
        assert "<form" not in refused.text
        led = await press(shop.client, await shop.client.get(link), **{name: value})
        assert led.status_code in (400, 402)
        assert "location" not in led.headers
        await account.balance()
        assert objects(account) == {}


# --- saved customers


async def test_a_customer_pays_again_and_again_with_one_secret(account: Account, customers: Customers) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        for bought_so_far in (1, 2, 3):
            offer, _ = await challenge(shop)
            assert (await show(shop, offer, await by_customer(shop, offer))).json() == {"n": bought_so_far}
            assert await account.balance() == bought_so_far * PRICE
        assert customers.asked == 3
        charges = await shop.charges()
        assert {charge.payer for charge in charges} == {customers.known[SECRET].customer}
        assert all(SECRET not in charge.model_dump_json() for charge in charges)
        assert SECRET.encode() not in (account.directory / SANDBOX_LEDGER).read_bytes()


async def test_nobody_s_secret_buys_nothing(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        refused = await show(shop, offer, {"customer": "guess-0123456789abcdef"})
        assert code_of(refused) == (402, "payment_declined")
        assert "guess" not in refused.text
        assert await shop.charges() == []
        await account.balance()
        assert objects(account) == {}


async def test_a_customer_s_card_that_is_declined_or_gone_buys_nothing(account: Account, customers: Customers) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        assert code_of(await show(shop, offer, await by_customer(shop, offer, NO_FUNDS))) == (402, "insufficient_funds")
        customers.known[SECRET] = SavedCustomer(customers.known[SECRET].customer, "pm_gone")
        offer, _ = await challenge(shop)
        assert code_of(await show(shop, offer, {"customer": SECRET})) == (402, "payment_declined")
        assert await account.balance() == 0


async def test_where_no_customers_are_taken_none_pays(tmp_path: Path) -> None:
    account = Account(tmp_path)
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        assert code_of(await show(shop, offer, {"customer": SECRET})) == (402, "method_not_offered")
    await account.close()


# --- lost answers, at every step


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("answer", ["timeout", "html"])
@pytest.mark.parametrize(("what", "path"), [("payment_intent", CREATE), ("checkout", SESSIONS)])
async def test_a_lost_preparation_is_asked_for_again(
    account: Account, what: str, path: str, answer: Any, applied: bool
) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        account.sandbox.inject_fault(Fault("POST", path, answer, applied))
        assert code_of(await ask(shop, offer, what)) == (503, "outcome_unknown")
        assert (await ask(shop, offer, what)).status_code == 200
        assert sum(objects(account).values()) == 1


@pytest.mark.parametrize("answer", ["timeout", "server_error", "rate_limited", "html"])
@pytest.mark.parametrize("kind", PREPARED)
async def test_what_cannot_be_looked_at_now_is_presented_again(account: Account, kind: str, answer: Any) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        path = INTENT if kind == "paymentIntent" else f"{SESSIONS}/*"
        account.sandbox.inject_fault(Fault("GET", path, answer))
        busy = await show(shop, offer, payload)
        assert code_of(busy) == (503, "rail_unavailable")
        assert "www-authenticate" not in busy.headers  # nobody is invited to pay again
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert await account.balance() == PRICE


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_look_that_is_lost_after_the_claim_burns_nothing(account: Account, flow: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_checkout(shop, offer)  # seen by its session first, by its PaymentIntent after the claim
        account.spoil(INTENT, "timeout")
        busy = await show(shop, offer, payload)
        assert code_of(busy) == (503, "rail_unavailable")
        assert "www-authenticate" not in busy.headers
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert await account.statuses() == ["succeeded"]
        assert await account.balance() == PRICE


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_capture_is_unknown_and_then_found(account: Account, store: str, kind: str, applied: bool) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer, _ = await challenge(shop)
        payload = await PAY[kind](shop, offer)
        account.spoil(CAPTURE, "timeout", applied=applied)
        assert code_of(await show(shop, offer, payload)) == (503, "outcome_unknown")
        charge = await shop.reconcile()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert shop.served == 1
        assert await account.balance() == PRICE


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_customer_s_lost_payment_is_unknown_and_then_found(account: Account, flow: str, applied: bool) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_customer(shop, offer)
        account.spoil(CREATE, "timeout", applied=applied)
        assert code_of(await show(shop, offer, payload)) == (503, "outcome_unknown")
        charge = await shop.reconcile()
        if flow == "upfront" and applied:
            assert charge.payment is PaymentState.SETTLED
            assert (await show(shop, offer, payload)).json() == {"n": 1}
            assert await account.balance() == PRICE
        else:
            assert charge.payment is PaymentState.RELEASED
            assert await account.balance() == 0
            assert set(await account.statuses()) <= {"canceled"}


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("kind", PREPARED)
async def test_a_lost_release_is_unknown_and_then_found(account: Account, kind: str, applied: bool) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        shop.status = iter([500])
        offer, _ = await challenge(shop)
        account.spoil(CANCEL, "timeout", applied=applied)
        assert (await show(shop, offer, await PAY[kind](shop, offer))).status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert (await shop.reconcile()).payment is PaymentState.RELEASED
        assert await account.statuses() == ["canceled"]
        assert await account.balance() == 0


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("kind", PREPARED)
async def test_a_lost_refund_is_unknown_and_then_found(account: Account, kind: str, applied: bool) -> None:
    async with Shop(account, "upfront", "memory://").open() as shop:
        shop.status = iter([500])
        offer, _ = await challenge(shop)
        account.spoil(REFUND, "timeout", applied=applied)
        assert (await show(shop, offer, await PAY[kind](shop, offer))).status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        charge = await shop.reconcile()
        assert charge.payment is PaymentState.REFUNDED  # made again where it was not made
        assert await account.balance() == 0


# --- a cheaper outcome


@pytest.mark.parametrize("kind", KINDS)
async def test_less_is_taken_of_what_is_held_whoever_made_it(account: Account, kind: str) -> None:
    shop = Shop(account, "escrow", "memory://")

    @shop.app.get("/estimate")
    @shop.gate.paid("1.00 USD")
    async def estimate(request: Request) -> dict[str, bool]:
        return {"took": shop.gate.reduce(request, "0.60 USD")}

    async with shop.open():
        offer, _ = await challenge(shop, "/estimate")
        payload = {"spt": await account.token(max_amount=100)} if kind == "spt" else await PAY[kind](shop, offer)
        for _ in range(2):
            assert (await show(shop, offer, payload, "/estimate")).json() == {"took": True}
        (intent,) = await account.intents()
        assert (intent["amount"], intent["amount_received"], intent["status"]) == (100, 60, "succeeded")
        assert await account.balance() == 60
        assert (await shop.gate.refund((await shop.only_charge()).id)).payment is PaymentState.REFUNDED
        assert await account.balance() == 0
