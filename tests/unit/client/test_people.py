"""Purchases that wait for a person: asked in the middle of a call, or found again by a later one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.errors import (
    BudgetExceeded,
    PaymentActionRequired,
    PaymentFailed,
    PaymentOutcomeUnknown,
    PaymentRejected,
    RailUnavailable,
)
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import NotPaid, Paid, Unknown
from rail402.testing.fakes import FakeSpec, FakeWallet
from tests.unit.client.shop import LOST, ORIGIN, PRICE, Answer, Make, Market

LINK = f"{ORIGIN}/approve"
REFUSED = Answer(402, body={"code": "action_required"})


class PersonWallet(FakeWallet):
    """Pays once its person has `approved`. `paid` counts how often it was asked to begin."""

    approved: bool | None = None
    url: str | None = LINK
    begins = 0
    gives_proof = True
    takes_back = False

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        self.begins += 1
        paid = await super().pay(offer, record_id=record_id, now=now)
        if self.approved:
            return paid
        raise PaymentActionRequired(url=self.url, retry_after=9, proof=paid.payload if self.gives_proof else None)

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        if self.approved is None:
            raise PaymentActionRequired(url=self.url)
        return await super().resume(offer, payload, record_id=record_id, now=now) if self.approved else NotPaid()

    async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
        self.withdrawn = payload
        return self.takes_back


@pytest.fixture
def wallet(market: Market) -> PersonWallet:
    """A wallet with a person; the shop takes no proof that the person has not approved."""
    wallet = PersonWallet(market.ledger, market.specs[0])
    settle = market.shop.settle

    async def settle_approved(*args: Any) -> Any:
        if not wallet.approved:
            raise PaymentRejected(code="action_required")
        return await settle(*args)

    market.shop.settle = settle_approved  # type: ignore[method-assign]
    return wallet


async def unresolved(market: Market) -> str:
    """Return what is reserved."""
    spent = (await market.payers[0].journal.spent(now=market.clock()))["hour"].get("USD")
    return "nothing" if spent is None else str(spent.unresolved)


# --- a later call


async def test_the_amount_stays_reserved_and_a_later_call_goes_on(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])
    with pytest.raises(PaymentActionRequired, match=r"until then 0\.003 USD stay reserved") as caught:
        await market.request(payer)
    error = caught.value
    assert (error.url, error.outcome, error.retry_after, error.proof) == (LINK, "unknown", 9, None)
    (record,) = await payer.journal.newest()
    assert (record.id, record.state, record.lease_until) == (error.record_id, "unknown", 0)
    assert record.proof is not None
    assert market.shop.proofs == []  # nobody was shown what is not paid yet
    assert await unresolved(market) == "0.003 USD"
    wallet.approved = True
    assert (await market.request(payer)).text == "article 1"
    assert (wallet.begins, market.ledger.charged_total, await market.states()) == (1, PRICE, ["committed"])


async def test_a_later_call_shows_it_once_and_says_again_that_it_waits(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])
    for shown in (0, 1, 2):
        with pytest.raises(PaymentActionRequired) as caught:
            await market.request(payer)
        assert (caught.value.url, len(market.shop.proofs)) == (LINK, shown)
    assert market.slept == []
    assert (wallet.begins, await market.states()) == (1, ["unknown"])


async def test_another_process_goes_on(market: Market, wallet: PersonWallet) -> None:
    with pytest.raises(PaymentActionRequired):
        await market.request(market.payer([wallet]))
    wallet.approved = True
    assert (await market.request(market.payer([wallet]))).text == "article 1"
    assert (wallet.begins, market.ledger.charged_total) == (1, PRICE)


async def test_what_the_person_refused_is_free_again(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])
    with pytest.raises(PaymentActionRequired):
        await market.request(payer)
    wallet.approved = False
    (found,) = await payer.recover() if market.kind == "async" else await asyncio.to_thread(payer.run, payer.recover)
    assert found.outcome == "not_paid"
    assert await unresolved(market) == "nothing"


async def test_recovering_leaves_it_waiting(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])
    with pytest.raises(PaymentActionRequired):
        await market.request(payer)
    (found,) = await payer.recover() if market.kind == "async" else await asyncio.to_thread(payer.run, payer.recover)
    assert (found.outcome, found.record.state) == ("unknown", "unknown")
    assert found.record.proof is not None


async def test_a_wallet_that_has_nothing_in_hand_is_asked_again(market: Market, wallet: PersonWallet) -> None:
    wallet.gives_proof = False
    payer = market.payer([wallet])
    for _ in range(2):
        with pytest.raises(PaymentActionRequired) as caught:
            await market.request(payer)
        assert caught.value.url == LINK
    assert (wallet.begins, market.shop.proofs, await unresolved(market)) == (1, [], "0.003 USD")


async def test_what_waits_counts_in_the_budget(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet], budget=Budget(per_hour="0.005 USD"))
    with pytest.raises(PaymentActionRequired):
        await market.request(payer)
    with pytest.raises(BudgetExceeded):
        await market.request(payer, url=f"{ORIGIN}/other")


# --- asked in the middle of a call


async def test_a_person_is_asked_once_and_the_call_goes_on(market: Market, wallet: PersonWallet) -> None:
    payer, asked = market.payer([wallet]), []

    async def ask(url: str, offer: Offer) -> None:
        (record,) = await payer.journal.newest()
        asked.append((url, offer.price, record.state, record.lease_until > market.clock(), record.proof is not None))
        wallet.approved = True

    payer.on_action = ask
    assert (await market.request(payer)).text == "article 1"
    ((url, price, state, is_leased, has_proof),) = asked
    assert (url, str(price), state, is_leased, has_proof) == (LINK, "0.003 USD", "unknown", True, True)
    assert (wallet.begins, market.ledger.charged_total, await market.states()) == (1, PRICE, ["committed"])


async def test_the_servers_lag_behind_the_person_is_waited_out(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])

    async def ask(url: str, offer: Offer) -> None:
        wallet.approved = True
        market.shop.script.extend([REFUSED, Answer(402, body={"code": "not_settled"}), LOST])

    payer.on_action = ask
    assert (await market.request(payer)).text == "article 1"
    assert market.slept == [1, 2, 4]


async def test_a_person_who_refuses_lets_the_next_wallet_pay(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    person = PersonWallet(market.ledger, market.specs[0])
    payer = market.payer([person, FakeWallet(market.ledger, market.specs[1])])

    async def ask(url: str, offer: Offer) -> None:
        person.approved = False

    payer.on_action = ask
    assert (await market.request(payer)).extensions["rail402"].rail == "second"
    assert market.slept == []
    assert await market.states() == ["committed", "released"]
    assert await unresolved(market) == "0 USD"


async def test_a_person_who_refuses_while_the_server_is_asked(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])

    async def give_up(seconds: float) -> None:
        await market.sleep(seconds)
        wallet.approved = False

    async def ask(url: str, offer: Offer) -> None:
        payer.sleep = give_up

    payer.on_action = ask
    with pytest.raises(PaymentActionRequired, match="nothing was paid") as caught:
        await market.request(payer)
    assert caught.value.outcome == "not_paid"
    assert (len(market.slept), await market.states(), await unresolved(market)) == (1, ["released"], "nothing")


async def test_a_person_who_does_nothing_is_waited_for_until_the_deadline(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet], deadline=20)
    payer.on_action = lambda url, offer: asyncio.sleep(0)
    with pytest.raises(PaymentActionRequired) as caught:
        await market.request(payer)
    assert (caught.value.url, sum(market.slept)) == (LINK, 15)
    (record,) = await payer.journal.newest()
    assert (record.state, record.lease_until) == ("unknown", 0)
    assert len(set(market.shop.proofs)) == 1
    wallet.approved = True
    assert (await market.request(payer)).text == "article 1"
    assert wallet.begins == 1


async def test_a_person_who_takes_longer_than_the_deadline(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet], deadline=1)
    payer.on_action = lambda url, offer: asyncio.sleep(60)
    with pytest.raises(PaymentActionRequired):
        await asyncio.wait_for(market.request(payer), 20)
    assert await market.states() == ["unknown"]


async def test_a_failure_of_whoever_asks_ends_the_call_and_nothing_else(market: Market, wallet: PersonWallet) -> None:
    payer = market.payer([wallet])

    async def ask(url: str, offer: Offer) -> None:
        raise ValueError("no window")

    payer.on_action = ask
    with pytest.raises(ValueError, match="no window"):
        await market.request(payer)
    (record,) = await payer.journal.newest()
    assert (record.state, record.lease_until) == ("unknown", 0)
    wallet.approved = True
    assert (await market.request(payer)).text == "article 1"
    assert (wallet.begins, market.ledger.charged_total) == (1, PRICE)


async def test_a_later_call_may_ask_too(market: Market, wallet: PersonWallet) -> None:
    with pytest.raises(PaymentActionRequired):
        await market.request(market.payer([wallet]))
    payer = market.payer([wallet])

    async def ask(url: str, offer: Offer) -> None:
        wallet.approved = True

    payer.on_action = ask
    assert (await market.request(payer)).text == "article 1"
    assert wallet.begins == 1


# --- links


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://evil.test/", "https://shop.test@evil.test/", None])
async def test_nobody_is_sent_to_an_untrusted_place(market: Market, wallet: PersonWallet, url: str | None) -> None:
    wallet.url, asked = url, []
    payer = market.payer([wallet])

    async def ask(url: str, offer: Offer) -> None:
        asked.append(url)

    payer.on_action = ask
    with pytest.raises(PaymentActionRequired) as caught:
        await market.request(payer)
    assert (caught.value.url, asked) == (None, [])
    assert "evil" not in str(caught.value)
    assert await unresolved(market) == "0.003 USD"


async def test_a_rails_own_place_is_trusted(market: Market, wallet: PersonWallet) -> None:
    wallet.url, wallet.origins_for_people = "https://bank.test/3ds", frozenset({"https://bank.test"})
    with pytest.raises(PaymentActionRequired) as caught:
        await market.request(market.payer([wallet]))
    assert caught.value.url == "https://bank.test/3ds"


# --- a wallet that says that nothing is left


async def test_a_wallet_that_only_needs_a_person_leaves_nothing_reserved(open_market: Make) -> None:
    class Asking(FakeWallet):
        async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
            raise PaymentActionRequired("approve the app first", url=LINK, outcome="not_paid")

    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    first = Asking(market.ledger, market.specs[0])
    payer = market.payer([first])
    payer.on_action = lambda url, offer: asyncio.sleep(0)  # there is nothing to go on with
    with pytest.raises(PaymentActionRequired, match="approve the app") as caught:
        await market.request(payer)
    assert (caught.value.url, caught.value.outcome) == (LINK, "not_paid")
    assert (await market.states(), await unresolved(market)) == (["released"], "nothing")
    both = market.payer([first, FakeWallet(market.ledger, market.specs[1])])
    assert (await market.request(both)).extensions["rail402"].rail == "second"


# --- a server that says that a person must act


async def test_a_server_that_lies_about_an_action_changes_nothing(market: Market) -> None:
    """The payment was taken, and the server says otherwise, with a link to pay once more."""
    payer, asked = market.payer(), []

    async def ask(url: str, offer: Offer) -> None:
        asked.append(url)

    payer.on_action = ask
    lie = {"code": "action_required", "offers": [{"rail": "fake", "pay_url": f"{ORIGIN}/pay-again"}]}
    market.shop.script.extend([Answer(402, body=lie, served=True)] * 2)
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown, match=r"action_required; 0\.003 USD stay reserved"):
            await market.request(payer)
    assert asked == []
    assert (market.ledger.count("pay"), market.ledger.charged_total) == (1, PRICE)
    assert await unresolved(market) == "0.003 USD"
    assert (await market.request(payer)).text == "article 1"
    assert market.ledger.count("pay") == 1


async def test_such_a_lie_does_not_hold_an_amount_for_ever(market: Market) -> None:
    payer = market.payer()
    market.shop.script.extend([Answer(402, body={"code": "action_required"}, served=True)] * 9)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.clock.advance(400)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await market.request(payer)
    assert caught.value.outcome == "paid"
    market.clock.advance(4000)
    with pytest.raises(PaymentOutcomeUnknown, match="buys anew"):
        await market.request(payer)
    assert await market.states() == ["committed"]


# --- taking a refused proof back


class Revoking(PersonWallet):
    approved = True
    takes_back = True


@pytest.mark.parametrize("code", ["payment_declined", "insufficient_funds", "offer_expired", "action_required"])
async def test_a_refused_proof_is_taken_back_and_stays_counted(open_market: Make, code: str) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    first = Revoking(market.ledger, market.specs[0])
    payer = market.payer([first, FakeWallet(market.ledger, market.specs[1])])
    market.shop.script.append(Answer(402, body={"code": code}))
    assert (await market.request(payer)).extensions["rail402"].rail == "second"
    second, released = await payer.journal.newest()
    assert (second.state, released.state, released.withdrawn) == ("committed", "released", True)
    assert first.withdrawn == released.proof
    spent = (await payer.journal.spent(now=market.clock()))["hour"]["USD"]
    assert (str(spent.total), str(spent.unresolved)) == ("0.006 USD", "0 USD")
    market.clock.advance(3700)
    assert str((await payer.journal.spent(now=market.clock()))["day"]["USD"].total) == "0.006 USD"


async def test_a_server_that_lies_about_declines_meets_the_budget(open_market: Make) -> None:
    market = open_market()
    payer = market.payer([Revoking(market.ledger, market.specs[0])], budget=Budget(per_hour="0.01 USD"))
    market.shop.script.extend([Answer(402, body={"code": "payment_declined"})] * 9)
    for _ in range(3):
        with pytest.raises(PaymentFailed, match="payment_declined, and nothing was paid"):
            await market.request(payer)
    with pytest.raises(BudgetExceeded):
        await market.request(payer)
    assert len(market.shop.proofs) == 3


@pytest.mark.parametrize("code", ["proof_already_used", "receipt_expired", "uses_exhausted", "refunded"])
async def test_what_a_server_has_taken_is_not_taken_back(market: Market, code: str) -> None:
    wallet = Revoking(market.ledger, market.specs[0])
    market.shop.script.append(Answer(402, body={"code": code}))
    with pytest.raises(PaymentOutcomeUnknown, match=code):
        await market.request(market.payer([wallet]))
    assert not hasattr(wallet, "withdrawn")


@pytest.mark.parametrize(
    "answer", [LOST, Answer(503), Answer(409), Answer(402), Answer(402, body={"code": "not_settled"})], ids=str
)
async def test_what_is_no_refusal_takes_nothing_back(market: Market, answer: Answer) -> None:
    wallet = Revoking(market.ledger, market.specs[0])
    market.shop.script.extend([answer] * 20)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(market.payer([wallet]))
    assert not hasattr(wallet, "withdrawn")


@pytest.mark.parametrize("failure", [RailUnavailable("down"), TimeoutError()])
async def test_a_proof_that_may_not_have_been_taken_back_stays_reserved(
    market: Market, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Revoking):
        async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
            raise failure

    caplog.set_level(logging.WARNING)
    market.shop.script.append(Answer(402, body={"code": "payment_declined"}))
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(market.payer([Broken(market.ledger, market.specs[0])]))
    assert await unresolved(market) == "0.003 USD"
    assert "did not take" in caplog.text


async def test_a_refusal_with_a_link_says_so(market: Market) -> None:
    body = {"code": "action_required", "offers": [{"rail": "fake", "pay_url": f"{ORIGIN}/pay"}]}
    market.shop.script.append(Answer(402, body=body))
    with pytest.raises(PaymentActionRequired) as caught:
        await market.request(market.payer([Revoking(market.ledger, market.specs[0])]))
    assert (caught.value.url, caught.value.outcome) == (f"{ORIGIN}/pay", "not_paid")
    assert await market.states() == ["released"]


async def test_the_next_wallet_pays_an_offer_of_the_refusal(open_market: Make) -> None:
    """The offers of the first 402 are used up by then."""
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    wallets = [Revoking(market.ledger, market.specs[0]), FakeWallet(market.ledger, market.specs[1])]
    settle = market.shop.settle

    async def decline(rail: Any, order: Any, payment: Any) -> Any:
        if payment.rail == "first":
            market.shop.price += 1000  # what is offered now costs more
            raise PaymentRejected(code="payment_declined")
        return await settle(rail, order, payment)

    market.shop.settle = decline  # type: ignore[method-assign]
    purchase = (await market.request(market.payer(wallets))).extensions["rail402"]
    assert (purchase.rail, str(purchase.price)) == ("second", "0.004 USD")
    with pytest.raises(PaymentFailed, match="limit is"):
        await market.request(market.payer(wallets, budget=Budget(per_request="0.0045 USD")))


# --- secrets


async def test_no_proof_is_left_in_an_error(market: Market, wallet: PersonWallet, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    payer = market.payer([wallet])
    with pytest.raises(PaymentActionRequired) as caught:
        await market.request(payer)
    (record,) = await payer.journal.newest()
    assert record.proof is not None
    shown, error = caplog.text, caught.value.__cause__
    shown += repr(vars(caught.value)) + str(caught.value)
    while error is not None:
        shown += str(error) + repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    assert str(record.proof["signature"]) not in shown


class DeniedWallet(PersonWallet):
    """Its person says no, where the wallet can tell."""

    gives_proof = False

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        if self.approved is False:
            raise PaymentActionRequired("no", code="not_approved", outcome="not_paid")
        return await super().resume(offer, payload, record_id=record_id, now=now)


@pytest.mark.parametrize("is_asked", [True, False], ids=["in the call", "before the next call"])
async def test_who_said_no_is_not_asked_again_by_another_wallet(market: Market, is_asked: bool) -> None:
    wallet = DeniedWallet(market.ledger, market.specs[0])
    other = FakeWallet(market.ledger, market.specs[0], payer="bob")
    payer = market.payer([wallet, other])

    async def ask(url: str, offer: Offer) -> None:
        wallet.approved = False

    if is_asked:
        payer.on_action = ask
    else:
        with pytest.raises(PaymentActionRequired):
            await market.request(payer)
        wallet.approved = False
    with pytest.raises(PaymentActionRequired) as caught:
        await market.request(payer)
    assert (caught.value.code, caught.value.outcome) == ("not_approved", "not_paid")
    assert (wallet.begins, market.shop.proofs, await market.states()) == (1, [], ["released"])
    assert await unresolved(market) == "nothing"


async def test_a_no_is_found_by_recovering(market: Market) -> None:
    wallet = DeniedWallet(market.ledger, market.specs[0])
    payer = market.payer([wallet])
    with pytest.raises(PaymentActionRequired):
        await market.request(payer)
    wallet.approved = False
    (found,) = await payer.recover() if market.kind == "async" else await asyncio.to_thread(payer.run, payer.recover)
    assert (found.outcome, found.record.state) == ("not_paid", "released")
