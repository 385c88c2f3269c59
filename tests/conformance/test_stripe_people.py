"""Stripe with people in it: own customers, 3-D Secure, Checkout links, saved cards. From the 402 to the delivery.

A FastAPI shop behind a gate, a real payer, and the sandbox between them. What happened is counted by the sandbox
account's balance, in cents, and by its PaymentIntents.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from fastapi import FastAPI

from rail402.client.httpx import EXTENSION
from rail402.client.payer import Payer
from rail402.errors import ClientError, NoUsableOffer, PaymentActionRequired, PaymentFailed, PaymentOutcomeUnknown
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Wallet
from rail402.server.gate import Gate
from rail402_stripe import CheckoutWallet, CustomerSecretWallet, OwnCustomerWallet, SavedCustomer
from rail402_stripe.sandbox import SANDBOX_URL, SandboxTransport
from tests.unit.rail402_stripe.account import PRICE, Account

URL = "http://testserver"
SECURE = "pm_card_authenticationRequired"
DECLINED = "pm_card_visa_chargeDeclined"
SECRET = "customer-secret-0123456789"
CONFIRM = "/v1/payment_intents/*/confirm"
FLOWS = ["escrow", "upfront"]

Act = Callable[[str], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


class Shop:
    """One route behind a gate whose only rail is the sandbox's, and the people who pay there."""

    def __init__(self, directory: Path, flow: str = "escrow") -> None:
        self.directory, self.flow, self.served, self.fails = directory, flow, 0, 0
        self.saved: SavedCustomer | None = None
        self.account = Account(directory, customers=self.customer)
        self.clock = self.account.clock
        self.payers: list[Payer] = []
        self.wallets: list[Wallet] = []
        self.requests: list[httpx.Request] = []

    async def customer(self, secret: str) -> SavedCustomer | None:
        return self.saved if secret == SECRET else None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        gate = Gate(
            rails=[self.account.rail],
            store=f"sqlite:///{self.directory}/charges.db",
            public_url=URL,
            clock=self.clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app = FastAPI()
        gate.install(self.app)

        @self.app.get("/report")
        @gate.paid("0.50 USD", flow=self.flow)
        async def report() -> dict[str, int]:
            if self.fails:
                self.fails -= 1
                raise RuntimeError("scripted")
            self.served += 1
            return {"n": self.served}

        async with httpx.AsyncClient(transport=self.transport()) as self.browser:
            await gate.start()
            yield self
            for payer in self.payers:
                await payer.close()
            for wallet in self.wallets:
                await wallet.close()
            await gate.close()
        await self.account.close()

    def transport(self) -> httpx.AsyncBaseTransport:
        asgi = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)

        class Seen(httpx.AsyncBaseTransport):
            async def handle_async_request(_, request: httpx.Request) -> httpx.Response:  # noqa: N805
                self.requests.append(request)
                return await asgi.handle_async_request(request)

        return Seen()

    # --- who pays

    def own(self, method: Any = "pm_card_visa") -> OwnCustomerWallet:
        options: Any = {"payment_method": method, "transport": self.transport(), "clock": self.clock}
        self.wallets.append(OwnCustomerWallet.sandbox(self.directory, **options))
        return self.wallets[-1]  # type: ignore[return-value]

    def checkout(self) -> CheckoutWallet:
        self.wallets.append(CheckoutWallet.sandbox(transport=self.transport()))
        return self.wallets[-1]  # type: ignore[return-value]

    async def customer_with(self, card: str) -> CustomerSecretWallet:
        """Let a customer save a card with the publisher."""
        async with httpx.AsyncClient(
            transport=SandboxTransport(self.account.sandbox), headers={"Authorization": "Bearer sk_test_sandbox"}
        ) as http:
            customer = (await http.post(f"{SANDBOX_URL}/v1/customers", data={})).json()["id"]
            path = f"{SANDBOX_URL}/v1/payment_methods/{card}/attach"
            method = (await http.post(path, data={"customer": customer})).json()["id"]
        self.saved = SavedCustomer(customer, method)
        return CustomerSecretWallet.sandbox(SECRET, URL)

    def payer(self, *wallets: Wallet, on_action: Act | None = None, deadline: int = 10) -> Payer:
        payer = Payer(wallets, journal=f"sqlite:///{self.directory}/wallet.db", clock=self.clock, deadline=deadline)

        async def sleep(seconds: float) -> None:
            self.clock.advance(int(seconds))

        async def ask(url: str, offer: Offer) -> None:
            assert on_action is not None
            await on_action(url)

        payer.sleep = sleep
        payer.on_action = None if on_action is None else ask
        self.payers.append(payer)
        return payer

    async def get(self, payer: Payer) -> httpx.Response:
        async with httpx.AsyncClient(transport=payer.transport(self.transport())) as client:
            return await client.get(f"{URL}/report")

    # --- what people do

    async def approve(self, url: str, outcome: str = "approve") -> None:
        """Press a button on the bank's page."""
        assert url.startswith(f"{SANDBOX_URL}/c/authenticate/pi_")
        async with httpx.AsyncClient(transport=SandboxTransport(self.account.sandbox)) as http:
            assert (await http.get(url)).status_code == 200
            answer = await http.post(url, data={"outcome": outcome})
            assert answer.status_code == 303
        # Stripe adds these to the address that the wallet gave; what they say is not asked.
        said = {"payment_intent": "pi_1", "payment_intent_client_secret": "pi_1_secret_1", "redirect_status": "failed"}
        returned = await self.browser.get(answer.headers["location"], params=said)
        assert returned.status_code == 200
        assert "Go back to the program" in returned.text
        assert "secret" not in returned.text

    async def refuse(self, url: str) -> None:
        await self.approve(url, "fail")

    async def pay_link(self, url: str, card: str = "pm_card_visa") -> int:
        """Pay on Checkout's page, which the sandbox's rail serves at the shop's origin."""
        assert url.startswith(f"{URL}/.well-known/rail402/stripe/")
        assert (await self.browser.get(url)).status_code == 200
        return (await self.browser.post(url, data={"payment_method": card})).status_code

    async def do_nothing(self, url: str) -> None: ...

    # --- what happened

    async def money(self) -> tuple[int, list[str]]:
        """Return the account's balance in cents, and the status of each PaymentIntent, newest first."""
        return await self.account.balance(), await self.account.statuses()

    async def records(self, payer: Payer) -> list[str]:
        """Return the states of all purchases, sorted: those of one second have no order."""
        return sorted(record.state.value for record in await payer.journal.newest())

    async def reserved(self, payer: Payer) -> tuple[str, str]:
        """Return what counts in the hour, and how much of it is not resolved."""
        spent = (await payer.journal.spent(now=self.clock()))["hour"].get("USD")
        return ("0", "0") if spent is None else (str(spent.total), str(spent.unresolved))


@pytest.fixture(params=FLOWS)
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path, request.param).open() as shop:
        yield shop


@pytest.fixture
async def escrow_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path).open() as shop:
        yield shop


# --- an own customer pays with a prepared PaymentIntent


async def test_an_own_customer_pays_and_is_served_once(shop: Shop) -> None:
    payer = shop.payer(shop.own())
    assert await shop.money() == (0, [])
    response = await shop.get(payer)
    assert response.json() == {"n": 1}
    assert response.extensions[EXTENSION].outcome == "paid"
    assert response.extensions[EXTENSION].receipt.rail == "stripe"
    assert await shop.money() == (PRICE, ["succeeded"])
    assert await shop.records(payer) == ["committed"]
    assert (await shop.get(payer)).json() == {"n": 2}  # another call is another purchase
    assert await shop.money() == (2 * PRICE, ["succeeded"] * 2)


async def test_a_402_alone_prepares_nothing(shop: Shop) -> None:
    for _ in range(3):
        assert (await shop.browser.get(f"{URL}/report")).status_code == 402
    assert await shop.money() == (0, [])


async def test_a_declined_customer_pays_nothing_and_the_next_wallet_does(shop: Shop) -> None:
    payer = shop.payer(shop.own(DECLINED), shop.account.wallet)
    response = await shop.get(payer)
    assert response.json() == {"n": 1}
    assert await shop.records(payer) == ["committed", "released"]
    assert (await shop.money())[0] == PRICE
    assert await shop.reserved(payer) == ("0.5 USD", "0 USD")  # the decline counts for nothing: Stripe says so itself


async def test_a_declined_customer_without_another_wallet(shop: Shop) -> None:
    payer = shop.payer(shop.own(DECLINED))
    with pytest.raises(PaymentFailed, match="declined"):
        await shop.get(payer)
    assert await shop.reserved(payer) == ("0", "0")
    assert (await shop.money())[0] == 0


@pytest.mark.parametrize("applied", [True, False])
async def test_a_lost_confirmation_is_looked_up_and_never_made_twice(shop: Shop, applied: bool) -> None:
    payer = shop.payer(shop.own())
    shop.account.spoil(CONFIRM, "timeout", applied=applied)
    if applied:  # the look afterwards finds it paid
        assert (await shop.get(payer)).json() == {"n": 1}
        assert await shop.money() == (PRICE, ["succeeded"])
        return
    with pytest.raises(PaymentOutcomeUnknown):  # it may still be on its way
        await shop.get(payer)
    assert await shop.reserved(payer) == ("0.5 USD", "0.5 USD")
    with pytest.raises((PaymentOutcomeUnknown, PaymentActionRequired)):
        await shop.get(payer)
    shop.clock.advance(2000)  # a confirmation would have arrived by now
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE
    assert await shop.records(payer) == ["committed", "released"]


async def test_a_failed_handler_gives_it_back_and_the_next_call_buys_anew(escrow_shop: Shop) -> None:
    shop, payer = escrow_shop, escrow_shop.payer(escrow_shop.own())
    shop.fails = 1
    assert (await shop.get(payer)).status_code == 500
    assert await shop.money() == (0, ["canceled"])
    assert (await shop.get(payer)).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded", "canceled"])
    assert await shop.records(payer) == ["committed", "released"]


# --- 3-D Secure


async def test_a_person_approves_and_the_next_call_is_served_once(shop: Shop) -> None:
    payer = shop.payer(shop.own(SECURE))
    with pytest.raises(PaymentActionRequired, match=r"0\.5 USD stay reserved") as caught:
        await shop.get(payer)
    action = caught.value
    assert (action.outcome, action.code, action.proof) == ("unknown", "action_required", None)
    assert action.url is not None
    assert await shop.money() == (0, ["requires_action"])
    assert await shop.reserved(payer) == ("0.5 USD", "0.5 USD")
    with pytest.raises(PaymentActionRequired) as again:  # nobody has acted: the same payment still waits
        await shop.get(payer)
    assert (again.value.url, again.value.record_id) == (action.url, action.record_id)
    await shop.approve(action.url)
    assert (await shop.get(payer)).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded"])
    assert (shop.served, await shop.records(payer)) == (1, ["committed"])


async def test_a_person_is_asked_in_the_middle_of_a_call(shop: Shop) -> None:
    asked: list[str] = []

    async def act(url: str) -> None:
        asked.append(url)
        await shop.approve(url)

    payer = shop.payer(shop.own(SECURE), on_action=act)
    assert (await shop.get(payer)).json() == {"n": 1}
    assert len(asked) == 1
    assert await shop.money() == (PRICE, ["succeeded"])
    assert await shop.records(payer) == ["committed"]


async def test_a_person_who_refuses_pays_nothing(shop: Shop) -> None:
    payer = shop.payer(shop.own(SECURE), shop.account.wallet, on_action=shop.refuse)
    before = shop.clock()
    assert (await shop.get(payer)).json() == {"n": 1}  # the next wallet has paid
    assert shop.clock() == before  # nobody waited for the deadline
    assert (await shop.money())[0] == PRICE
    assert await shop.records(payer) == ["committed", "released"]
    assert await shop.reserved(payer) == ("0.5 USD", "0 USD")


async def test_a_person_who_does_nothing_leaves_it_reserved(shop: Shop) -> None:
    payer = shop.payer(shop.own(SECURE), shop.account.wallet, on_action=shop.do_nothing)
    with pytest.raises(PaymentActionRequired) as caught:
        await shop.get(payer)
    assert await shop.money() == (0, ["requires_action"])
    assert await shop.records(payer) == ["unknown"]
    assert (await payer.journal.newest())[0].lease_until == 0
    assert caught.value.url is not None
    await shop.approve(caught.value.url)
    payer.on_action = None
    assert (await shop.get(payer)).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded"])


async def test_a_person_who_takes_too_long_is_not_waited_for(shop: Shop) -> None:
    payer = shop.payer(shop.own(SECURE), on_action=lambda url: asyncio.sleep(60), deadline=1)
    with pytest.raises(PaymentActionRequired):
        await asyncio.wait_for(shop.get(payer), 10)
    assert await shop.records(payer) == ["unknown"]


async def test_what_nobody_approves_is_canceled_by_its_seller_and_freed(escrow_shop: Shop) -> None:
    shop, payer = escrow_shop, escrow_shop.payer(escrow_shop.own(SECURE))
    with pytest.raises(PaymentActionRequired):
        await shop.get(payer)
    shop.clock.advance(4000)
    with pytest.raises(PaymentActionRequired):  # until then it might be approved
        await shop.get(payer)
    await shop.account.rail.cancel_unpaid()
    (found,) = await payer.recover()
    assert found.outcome == "not_paid"
    assert await shop.reserved(payer) == ("0", "0")
    assert await shop.money() == (0, ["canceled"])


# --- crashes


async def test_another_process_goes_on_after_a_crash_in_the_middle(shop: Shop) -> None:
    """The first process ends while its person is being asked; the journal has all that another one needs."""

    class Crash(BaseException):
        pass

    urls: list[str] = []

    async def crash(url: str) -> None:
        urls.append(url)
        raise Crash

    with pytest.raises(Crash):
        await shop.get(shop.payer(shop.own(SECURE), on_action=crash))
    await shop.approve(urls[0])
    other = shop.payer(shop.own(SECURE))
    assert (await shop.get(other)).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded"])
    assert await shop.records(other) == ["committed"]


@pytest.mark.parametrize("card", ["pm_card_visa", SECURE])
async def test_a_crash_right_after_the_confirmation_loses_nothing(shop: Shop, card: str) -> None:
    """The wallet has paid, and the process ends before the journal hears of it."""

    class Crash(BaseException):
        pass

    wallet = shop.own(card)
    confirm = wallet._api.confirm

    async def crash(*args: Any) -> Any:
        await confirm(*args)
        raise Crash

    wallet._api.confirm = crash  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await shop.get(shop.payer(wallet))
    other = shop.payer(shop.own(DECLINED))  # it would not go through if it were confirmed once more
    await other.start()
    (record,) = await other.journal.newest()
    assert record.proof is None
    if card == SECURE:
        with pytest.raises(PaymentActionRequired) as caught:
            await shop.get(other)
        assert caught.value.url is not None
        await shop.approve(caught.value.url)
    assert (await shop.get(other)).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded"])
    assert await shop.records(other) == ["committed"]


async def test_two_processes_at_once_pay_once(escrow_shop: Shop) -> None:
    shop = escrow_shop
    began, go_on = asyncio.Event(), asyncio.Event()

    async def act(url: str) -> None:
        began.set()
        await go_on.wait()
        await shop.approve(url)

    first = shop.payer(shop.own(SECURE), on_action=act)
    running = asyncio.create_task(shop.get(first))
    await began.wait()
    with pytest.raises(PaymentOutcomeUnknown, match="another process is buying the same"):
        await shop.get(shop.payer(shop.own(SECURE), deadline=2))
    go_on.set()
    assert (await running).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded"])


# --- a link that a person pays


async def test_a_person_pays_at_a_link(shop: Shop) -> None:
    payer = shop.payer(shop.checkout())
    with pytest.raises(PaymentActionRequired) as caught:
        await shop.get(payer)
    assert caught.value.url is not None
    with pytest.raises(PaymentActionRequired) as again:
        await shop.get(payer)
    assert again.value.url == caught.value.url  # never a second link for the same
    assert await shop.pay_link(caught.value.url) == 303
    assert (await shop.get(payer)).json() == {"n": 1}
    assert await shop.money() == (PRICE, ["succeeded"])
    assert await shop.records(payer) == ["committed"]


async def test_a_link_is_paid_in_the_middle_of_a_call(shop: Shop) -> None:
    async def act(url: str) -> None:
        assert await shop.pay_link(url, DECLINED) == 402  # the first card is declined, the person takes another one
        assert await shop.pay_link(url) == 303

    assert (await shop.get(shop.payer(shop.checkout(), on_action=act))).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE


async def test_a_link_that_nobody_pays_ends_and_a_new_one_is_made(shop: Shop) -> None:
    payer = shop.payer(shop.checkout())
    with pytest.raises(PaymentActionRequired) as first:
        await shop.get(payer)
    shop.clock.advance(6000)
    with pytest.raises(PaymentActionRequired) as second:
        await shop.get(payer)
    assert first.value.url != second.value.url
    assert await shop.records(payer) == ["released", "unknown"]
    assert second.value.url is not None
    assert await shop.pay_link(second.value.url) == 303
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE


# --- a customer's saved card


async def test_a_saved_card_is_charged_without_anybody_there(shop: Shop) -> None:
    payer = shop.payer(await shop.customer_with("pm_card_visa"))
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.get(payer)).json() == {"n": 2}
    assert await shop.money() == (2 * PRICE, ["succeeded"] * 2)


async def test_the_secret_goes_to_its_own_publisher_only(shop: Shop) -> None:
    await shop.customer_with("pm_card_visa")
    payer = shop.payer(CustomerSecretWallet.sandbox(SECRET, "https://publisher.example"))
    with pytest.raises(NoUsableOffer, match="secret is for https"):
        await shop.get(payer)
    assert all("payment" not in str(request.headers).lower() for request in shop.requests)
    assert await shop.money() == (0, [])


async def test_a_saved_card_that_wants_its_person_gives_a_link_of_the_shop(shop: Shop) -> None:
    payer = shop.payer(await shop.customer_with(SECURE))
    with pytest.raises(PaymentActionRequired) as caught:
        await shop.get(payer)
    assert caught.value.outcome == "not_paid"
    assert str(caught.value.url).startswith(f"{URL}/.well-known/rail402/stripe?")
    assert (await shop.browser.get(str(caught.value.url))).status_code == 200
    assert await shop.records(payer) == ["released"]
    assert await shop.reserved(payer) == ("0.5 USD", "0 USD")  # it counts in the hour: only the publisher says so
    assert (await shop.money())[0] == 0


async def test_a_saved_card_that_wants_its_person_goes_on_at_checkout(shop: Shop) -> None:
    payer = shop.payer(await shop.customer_with(SECURE), shop.checkout())
    with pytest.raises(PaymentActionRequired) as caught:
        await shop.get(payer)
    assert caught.value.outcome == "unknown"
    assert caught.value.url is not None
    assert await shop.pay_link(caught.value.url) == 303
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE
    assert await shop.records(payer) == ["committed", "released"]


async def test_a_declined_saved_card_and_then_another_wallet(shop: Shop) -> None:
    payer = shop.payer(await shop.customer_with(DECLINED), shop.own())
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE
    assert (await shop.money())[1].count("succeeded") == 1


async def test_nobodys_secret_pays_nothing(shop: Shop) -> None:
    payer = shop.payer(CustomerSecretWallet.sandbox("somebody-elses-secret", URL))
    with pytest.raises(PaymentFailed, match="payment_declined"):
        await shop.get(payer)
    assert await shop.money() == (0, [])


# --- a token that is declined


async def test_a_declined_token_is_revoked_and_the_next_wallet_pays(shop: Shop) -> None:
    payer = shop.payer(shop.account.wallet_with(DECLINED), shop.own())
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE
    (released,) = (record for record in await payer.journal.newest() if record.state.value == "released")
    assert released.withdrawn
    assert released.proof is not None
    token = await shop.account.api.granted_token(released.proof["spt"])
    assert token["deactivated_reason"] == "revoked"


async def test_a_token_that_wants_a_person_goes_on_at_checkout(shop: Shop) -> None:
    payer = shop.payer(shop.account.wallet_with(SECURE), shop.checkout())
    with pytest.raises(PaymentActionRequired) as caught:
        await shop.get(payer)
    assert caught.value.url is not None
    assert await shop.pay_link(caught.value.url) == 303
    assert (await shop.get(payer)).json() == {"n": 1}
    assert (await shop.money())[0] == PRICE


# --- secrets


@pytest.mark.parametrize("kind", ["own", "customer"])
async def test_no_secret_is_sent_on_logged_or_shown(
    escrow_shop: Shop, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shop = escrow_shop
    wallet: Wallet = shop.own(SECURE) if kind == "own" else await shop.customer_with(SECURE)
    payer = shop.payer(wallet)
    with pytest.raises(ClientError) as caught:
        await shop.get(payer)
    (record,) = await payer.journal.newest()
    assert record.proof is not None
    secret = record.proof["clientSecret"] if kind == "own" else SECRET
    shown = caplog.text + "".join(map(repr, (record, wallet, payer, record.offer)))
    error: BaseException | None = caught.value
    while error is not None:
        shown += repr(error) + str(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    assert secret not in shown
    if kind == "own":
        sent = [request.content.decode() + str(request.url) + repr(request.headers.raw) for request in shop.requests]
        assert not any(secret in text for text in sent)
