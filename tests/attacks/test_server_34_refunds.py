"""34: Refunds: twice, above the charge, to an address out of a request, and then used again. The books stay even."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from rail402.dialects.l402 import L402
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.errors import ConfigurationError, OutcomeUnknown
from rail402.protocol.charge import Charge, PaymentState
from rail402.server.settings import Receipts
from rail402.testing.fakes import FakeClock
from rail402_lightning import bolt11
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import AGENT, PUBLISHER_KEY, World, header, opened
from tests.conformance.test_refunds import RAILS, Shop
from tests.conformance.test_refunds_lightning import PRICE, Worker
from tests.integration.test_base_refunds import Office
from tests.integration.test_base_rpc import Shop as Till
from tests.services.anvil import USDC, EvmChain
from tests.unit.server.shop import Shop as FakeShop


@pytest.fixture(params=RAILS)
def shops(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Shop]:
    """Makes workers of one shop on Base's or on Stripe's sandbox."""
    clock = FakeClock()
    return lambda **options: Shop(tmp_path, request.param, clock, **options)


# --- twice


async def test_asked_for_by_many_at_once(shops: Callable[..., Shop], observed: Observe) -> None:
    async with shops().open() as one, shops().open() as other:
        charge = await one.buy()
        work = [each.gate.refund(charge.id) for each in (one, other) * 8]
        ends = await asyncio.gather(*work, return_exceptions=True)
        assert any(isinstance(end, Charge) and end.payment is PaymentState.REFUNDED for end in ends)
        first = await one.gate.refund(charge.id)
        assert [await each.gate.refund(charge.id) for each in (one, other)] == [first, first]
        assert (first.payment, await one.ours()) == (PaymentState.REFUNDED, 0)
    observed("16 refunds of one charge at once by two workers, and more after them: the money goes back once")


async def test_on_a_chain_with_a_store_that_is_set_back(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    """An older copy of the store does not know of the refund; the token does."""
    office = Office(Till(evm, tmp_path), tmp_path, FakeClock(int(time.time())))
    async with office.open() as agent:
        charge = await office.buy(agent)
        before = await office.charge()
        for _ in range(3):
            assert (await office.gate.refund(charge.id)).payment is PaymentState.REFUNDED
            version = (await office.charge()).version
            await office.gate.services().store.save(before.model_copy(update={"version": version}))
            office.clock.advance(700)
    office.assert_books(paid=1, back=1)
    observed("with a store that was set back: the token itself takes one refund of a charge, on a real EVM")


async def test_one_invoice_for_two_refunds(tmp_path: Path, observed: Observe) -> None:
    async with Worker(tmp_path, FakeClock()).open() as shop:
        _, first = await shop.granted()
        shop.clock.advance(1)
        _, second = await shop.granted()
        invoice = await shop.invoice()
        answers = [await shop.fetch(proof, invoice) for proof in (first, second, first)]
        assert [answer.status_code for answer in answers] == [200, 409, 200]
        assert answers[0].json() == answers[2].json()
        assert (await shop.node.books()).received_msat == 3 * PRICE
    observed("the same refund fetched again gets the same answer; one invoice serves no two refunds")


# --- above the charge


async def test_more_than_was_taken(tmp_path: Path, observed: Observe) -> None:
    async with Worker(tmp_path, FakeClock()).open() as shop:
        _, preimage = await shop.granted()
        for msat in (PRICE + 1000, PRICE - 1000, 100 * PRICE):
            assert (await shop.fetch(preimage, await shop.invoice(msat))).status_code == 400
        await shop.assert_given_back()
    observed("Lightning: an invoice over any other amount than the one paid is refused")


async def test_what_was_reduced_is_refunded_reduced(observed: Observe) -> None:
    shop = FakeShop()
    shop.ledger.balances["alice"] = 10_000

    async def goods(request: Any) -> Any:
        shop.gate.reduce(request, "0.001 USD")
        return Response(b"less")

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow="escrow")(goods))
    async with shop.open():
        assert (await shop.buy("/goods")).status_code == 200
        assert shop.ledger.balances["alice"] == 9000
        await shop.gate.refund((await shop.only_charge()).id)
        assert shop.ledger.balances["alice"] == 10_000
    observed("after a capture of less, that much goes back and no more")


async def test_what_was_never_taken(shops: Callable[..., Shop], observed: Observe) -> None:
    async with shops(flow="authorization").open() as shop:
        shop.status = 500
        assert (await shop.agent.get("/goods")).status_code == 500
        charge = await shop.charge()
        with pytest.raises(ConfigurationError, match="its payment is released"):
            await shop.gate.refund(charge.id)
        with pytest.raises(ConfigurationError, match="there is no charge"):
            await shop.gate.refund("ch_" + "a" * 26)
        assert await shop.ours() == 0
    observed("what was released, and what there is no charge of, is not refunded")


# --- to others


async def test_to_an_address_in_the_request(tmp_path: Path, observed: Observe) -> None:
    async with World(tmp_path).open() as world:
        mallory = "0x" + "66" * 20
        accepted, payload = opened(await world.payment("/article"))
        wishes = {"refundTo": mallory, "payer": mallory, "from": mallory, "refund_address": mallory}
        fields = header(accepted | {"extra": accepted["extra"]}, payload | wishes)
        fields |= {"X-Refund-Address": mallory, "Refund-To": mallory, "X-Payer": mallory}
        answer = await world.http.get(f"/article?refund_to={mallory}", headers=fields)
        assert answer.status_code == 402  # bound to the URL without it
        assert (await world.http.get("/article", headers=fields)).status_code == 200
        (charge,) = await world.gate.services().store.recent(limit=2)
        assert charge.payer == AGENT
        world.rail.with_refunds(PUBLISHER_KEY.hex())
        assert (await world.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await world.chain.balance_of(mallory) == 0
        await world.assert_books(paid=0)
    observed("Base: whatever a request says, it goes back to who signed the payment")


async def test_by_who_has_not_paid(tmp_path: Path, observed: Observe) -> None:
    async with Worker(tmp_path, FakeClock()).open() as shop:
        charge, preimage = await shop.granted()
        payment_hash = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
        invoice = await shop.invoice()
        for guess in (payment_hash, charge.id, "0" * 64, preimage[::-1], [preimage], {"preimage": preimage}):
            assert (await shop.fetch(guess, invoice)).status_code in (400, 409)
        await shop.assert_given_back()
    observed("Lightning: without the preimage nobody fetches it, with the public hash neither")


async def test_by_a_node_on_the_way_of_the_payment(tmp_path: Path, observed: Observe) -> None:
    """It has the preimage, which the payment itself brought there."""
    async with Worker(tmp_path, FakeClock()).open() as shop:
        for dialect in (X402V2(), Mpp(), L402()):
            preimage, _ = await shop.granted_in(dialect)
            for shown in ({}, {"X-Receipt": preimage}, {"Authorization": f"L402 {'AAAA' * 20}:{preimage}"}):
                answer = await shop.fetch(preimage, await shop.invoice(), shown)
                assert answer.status_code in (400, 402, 409)
        await shop.assert_given_back(bought=3)
    observed("nor by a preimage alone, where the payment came with its offer's token: 409 `replay_not_proven`")


async def test_before_it_was_granted(tmp_path: Path, observed: Observe) -> None:
    async with Worker(tmp_path, FakeClock()).open() as shop:
        _, preimage = await shop.buy()
        answer = await shop.fetch(preimage, await shop.invoice())
        assert (answer.status_code, answer.json()["code"]) == (409, "refund_not_due")
        await shop.assert_given_back()
    observed("no refund is fetched that the seller has not granted")


async def test_with_the_key_of_another(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    till = Till(evm, tmp_path)
    office = Office(till, tmp_path, FakeClock(int(time.time())))
    async with office.open() as agent:
        charge = await office.buy(agent)
        moved = charge.model_copy(update={"offer": charge.offer.model_copy(update={"payee": evm.account().address})})
        assert "refund_key is the key of" in str(office.rail.refund_obstacle(moved))
        assert evm.usdc_of(till.payee.address) == 3000
        assert evm.usdc_of(till.payer.address) == 10 * USDC - 3000
    observed("money of another payee is not given back by this one's key")


# --- and then used again


async def test_shown_again(shops: Callable[..., Shop], observed: Observe) -> None:
    async with shops().open() as one, shops().open() as other:
        charge = await one.buy()
        await one.gate.refund(charge.id)
        other.sent = one.sent
        for _ in range(2):
            for each in (one, other):
                answer = await each.again()
                assert (answer.status_code, answer.json()["code"]) == (402, "refunded")
            one.clock.advance(700)
            await one.gate.reconcile()
        assert (one.runs + other.runs, await one.ours()) == (1, 0)
    observed("402 `refunded` for the payment that went back, at every worker, then and later; the handler ran once")


async def test_shown_again_while_the_refund_is_not_known(shops: Callable[..., Shop], observed: Observe) -> None:
    async with shops().open() as shop:
        charge = await shop.buy()
        refund = shop.rail.refund  # type: ignore[attr-defined]

        async def lost(asked: Charge) -> Any:
            await refund(asked)
            raise OutcomeUnknown("the answer was lost")

        shop.rail.refund = lost  # type: ignore[attr-defined]
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.UNKNOWN
        assert (await shop.again()).status_code == 503
        assert (await shop.close_all()).payment is PaymentState.REFUNDED
        assert (await shop.again()).json()["code"] == "refunded"
        assert (shop.runs, await shop.ours()) == (1, 0)
    observed("503 for it while it is not known whether it went back")


async def test_while_it_is_granted(tmp_path: Path, observed: Observe) -> None:
    async with Worker(tmp_path, FakeClock()).open() as shop:
        _, preimage = await shop.granted()
        assert (await shop.show(preimage)).json()["code"] == "refunded"
        invoice = await shop.invoice()
        assert (await shop.fetch(preimage, invoice)).status_code == 200
        assert (await shop.show(preimage)).json()["code"] == "refunded"
        assert shop.runs == 1
        await shop.assert_given_back(invoice)
        paid = await shop.node.lookup_invoice(bolt11.decode(invoice).payment_hash)
        assert paid is not None
    observed("Lightning: from the moment that it is granted the payment buys nothing")


async def test_a_pass_that_went_back_has_no_uses(observed: Observe) -> None:
    shop, runs = FakeShop(), []

    async def goods(request: Any) -> Any:
        runs.append(1)
        return Response(b"goods")

    paid = shop.gate.paid("0.003 USD", flow="upfront", receipt=Receipts(uses=10, valid="1d"))
    shop.app.add_route("/goods", paid(goods))
    async with shop.open():
        proof = await shop.quote("/goods")
        assert [(await shop.client.get("/goods", headers=proof)).status_code for _ in range(3)] == [200] * 3
        await shop.gate.refund((await shop.only_charge()).id)
        answers: list[httpx.Response] = [await shop.client.get("/goods", headers=proof) for _ in range(3)]
        assert {(each.status_code, each.json()["code"]) for each in answers} == {(402, "refunded")}
        assert (len(runs), shop.ledger.charged_total) == (3, 0)
    observed("a pass that went back has no uses left")
