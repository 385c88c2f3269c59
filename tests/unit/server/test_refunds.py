"""Giving money back: who may have it, when, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from rail402.errors import ConfigurationError, KeyTaken, MalformedInput, OutcomeUnknown, PaymentRejected, StaleCharge
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.rail import Failed, Refunded, Refunds, RefundsOnDemand, Unknown
from rail402.protocol.receipt import verify_refund
from rail402.server.endpoints import GateDesk
from rail402.server.refunds import obstacle
from rail402.testing.fakes import Ending, FakeRail
from rail402.testing.store_support import make_charge
from tests.unit.server.shop import URL, Shop


class OnDemand:
    """A fake rail that has to be told where to."""

    def __init__(self, rail: FakeRail) -> None:
        self._rail, self.paid, self.answer = rail, [], Refunded(transaction="back")  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        if name in ("refund",):
            raise AttributeError(name)
        return getattr(self._rail, name)

    async def pay_back(self, charge: Charge) -> Any:
        self.paid.append(charge.rail_state["to"])
        return self.answer


def shop_of(status: int = 200, *, on_demand: bool = False) -> Shop:
    shop = Shop()

    async def goods(request: Request) -> Response:
        return Response(b"goods", status)

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow="upfront")(goods))
    if on_demand:
        shop.gate._rails["fake"] = OnDemand(shop.rail)  # type: ignore[assignment]
    return shop


async def test_a_refund_has_a_signed_receipt() -> None:
    shop = shop_of()
    async with shop.open():
        await shop.buy("/goods")
        bought = await shop.only_charge()
        shop.clock.advance(50)
        refunded = await shop.gate.refund(bought.id)
        assert refunded.refund_receipt is not None
        record = verify_refund(refunded.refund_receipt, shop.gate.services().receipt_keys.jwks, issuer=URL)
        assert (record.transaction, record.payment) == (refunded.refund_transaction, bought.transaction)
        assert (record.issued_at, record.payer, record.amount) == (shop.clock(), bought.payer, "3000")
        assert refunded.receipt == bought.receipt
        found = await shop.client.get(f"/.well-known/rail402/receipts/{bought.id}")
        assert found.json() == {
            "charge": bought.id,
            "payment": "refunded",
            "receipt": bought.receipt,
            "refund_receipt": refunded.refund_receipt,
        }
        assert found.headers["cache-control"] == "no-store"
        assert (await shop.client.head(f"/.well-known/rail402/receipts/{bought.id}")).status_code == 200


async def test_a_refund_that_is_looked_up_has_its_receipt_too() -> None:
    shop = shop_of()
    async with shop.open():
        await shop.buy("/goods")
        shop.ledger.script("refund", Ending.UNKNOWN_DONE)
        assert (await shop.gate.refund((await shop.only_charge()).id)).payment is PaymentState.UNKNOWN
        await shop.gate.reconcile()
        charge = await shop.only_charge()
        assert charge.refund_receipt is not None
        assert charge.refund_transaction is not None


@pytest.mark.parametrize("path", ["ch_none", "", "ch_" + "A" * 26, "ch_" + "a" * 26, "../jwks.json/x"])
async def test_nothing_is_told_of_no_charge(path: str) -> None:
    shop = shop_of()
    async with shop.open():
        answer = await shop.client.get(f"/.well-known/rail402/receipts/{path}")
        assert answer.status_code == 404
        assert (await shop.client.post("/.well-known/rail402/receipts/ch_x")).status_code == 404


async def test_what_stands_in_the_way_is_said_before_anything_is_written() -> None:
    shop = shop_of()
    async with shop.open():
        await shop.buy("/goods")
        charge = await shop.only_charge()
        shop.rail.refund_obstacle = lambda _: "no key for it"  # type: ignore[method-assign]
        with pytest.raises(ConfigurationError, match="no key for it"):
            await shop.gate.refund(charge.id)
        shop.gate.services().rails = {}
        with pytest.raises(ConfigurationError, match="has no rail fake: put it back"):
            await shop.gate.refund(charge.id)
        assert await shop.only_charge() == charge


async def test_a_rail_that_cannot_leaves_the_rerun_open() -> None:
    shop = shop_of(500)
    async with shop.open():
        shop.rail.refund_obstacle = lambda _: "no key for it"  # type: ignore[method-assign]
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 500
        charge = await shop.only_charge()
        assert (charge.payment, charge.may_rerun, shop.ledger.count("refund")) == (PaymentState.SETTLED, True, 0)


async def test_which_rails_give_back() -> None:
    shop = shop_of(on_demand=True)
    rail = shop.gate._rails["fake"]
    assert isinstance(shop.rail, Refunds)
    assert not isinstance(rail, Refunds)
    assert isinstance(rail, RefundsOnDemand)
    other = obstacle(object(), make_charge("key"))  # type: ignore[arg-type]
    assert (other or "").endswith("gives nothing back")


# --- granted, then fetched


async def granted(shop: Shop) -> tuple[Charge, GateDesk, dict[str, str]]:
    proof = await shop.quote("/goods")
    assert (await shop.client.get("/goods", headers=proof)).status_code == 200
    charge = await shop.gate.refund((await shop.only_charge()).id)
    return charge, GateDesk(shop.gate.services()), proof


async def test_a_grant_is_made_once_and_ends_what_the_payment_bought() -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        charge, _, proof = await granted(shop)
        assert (charge.payment, charge.refund_due_at) == (PaymentState.SETTLED, shop.clock())
        shop.clock.advance(9)
        assert await shop.gate.refund(charge.id) == charge
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (402, "refunded")
        assert charge.may_rerun is False


async def test_a_grant_outlives_the_retention_of_the_payment() -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        charge, retention = await shop.only_charge(), shop.gate.services().settings.retention_seconds
        shop.clock.advance(retention - 60)
        granted, desk = await shop.gate.refund(charge.id), GateDesk(shop.gate.services())
        shop.clock.advance(retention)
        await shop.gate.reconcile()
        due = await desk.refund_due(charge.keys, Fields(proof.items()))
        assert due == granted
        assert (await desk.pay_back(due, {"to": "here"})).payment is PaymentState.REFUNDED
        shop.clock.advance(2 * retention)
        await shop.gate.reconcile()
        assert await shop.charges() == []


async def test_it_is_fetched_once() -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        charge, desk, proof = await granted(shop)
        due = await desk.refund_due(charge.keys, Fields(proof.items()))
        paid = await desk.pay_back(due, {"to": "here"}, keys=["refund:here"])
        assert (paid.payment, paid.refund_transaction) == (PaymentState.REFUNDED, "back")
        assert paid.rail_state["to"] == "here"
        assert "refund:here" in paid.keys
        assert await desk.refund_due(charge.keys, Fields(proof.items())) == paid
        for late in (due, paid):
            with pytest.raises((StaleCharge, PaymentRejected)):
                await desk.pay_back(late, {"to": "there"})
        assert shop.gate._rails["fake"].paid == ["here"]  # type: ignore[attr-defined]


async def test_it_is_fetched_by_who_has_what_was_secret_at_the_claim() -> None:
    """The proof by itself may be known to others, such as the nodes that forwarded a Lightning payment."""
    shop = shop_of(on_demand=True)
    async with shop.open():
        charge, desk, proof = await granted(shop)
        other = await shop.quote("/goods")
        for shown in ({}, other):
            with pytest.raises(PaymentRejected) as caught:
                await desk.refund_due(charge.keys, Fields(shown.items()))
            assert caught.value.code == "replay_not_proven"
        with pytest.raises(MalformedInput):
            await desk.refund_due(charge.keys, Fields([("payment-signature", "nonsense")]))
        assert await desk.refund_due(charge.keys, Fields(proof.items())) == charge


async def test_where_there_was_no_secret_the_proof_is_enough() -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        charge, desk, _ = await granted(shop)
        bare = await shop.gate.services().store.save(charge.model_copy(update={"secret_digest": None}))
        assert await desk.refund_due(charge.keys, Fields(())) == bare


async def test_two_at_once_are_one() -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        charge, desk, _ = await granted(shop)
        work = [desk.pay_back(charge, {"to": str(number)}) for number in range(5)]
        ends = await asyncio.gather(*work, return_exceptions=True)
        assert sum(isinstance(end, Charge) for end in ends) == 1
        assert len(shop.gate._rails["fake"].paid) == 1  # type: ignore[attr-defined]


async def test_a_key_of_another_charge_is_refused_before_anything_is_paid() -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        first, desk, _ = await granted(shop)
        await desk.pay_back(first, {"to": "a"}, keys=["refund:a"])
        await shop.buy("/goods")
        bought = next(each for each in await shop.charges() if each.id != first.id)
        second = await shop.gate.refund(bought.id)
        with pytest.raises(KeyTaken):
            await desk.pay_back(second, {"to": "a"}, keys=["refund:a"])
        assert shop.gate._rails["fake"].paid == ["a"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("granting", [True, False])
async def test_nothing_is_due_that_was_not_granted(granting: bool) -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        charge, desk = await shop.only_charge(), GateDesk(shop.gate.services())
        keys = ["another:key"] if granting else charge.keys
        if granting:
            await shop.gate.refund(charge.id)
        with pytest.raises(PaymentRejected) as caught:
            await desk.refund_due(keys, Fields(proof.items()))
        assert caught.value.code == "refund_not_due"
        if not granting:
            with pytest.raises(PaymentRejected):
                await desk.pay_back(charge, {"to": "me"})


@pytest.mark.parametrize(
    ("answer", "state"), [(Failed(code="payment_declined", detail="no route"), "settled"), (Unknown(), "unknown")]
)
async def test_what_was_not_paid_stays_due(answer: Any, state: str) -> None:
    shop = shop_of(on_demand=True)
    async with shop.open():
        charge, desk, proof = await granted(shop)
        shop.gate._rails["fake"].answer = answer  # type: ignore[attr-defined]
        found = await desk.pay_back(charge, {"to": "here"})
        assert (found.payment, found.refund_due_at) == (state, charge.refund_due_at)
        assert found.last_word == ("no route" if state == "settled" else "no answer that can be believed")
        if state == "unknown":
            with pytest.raises(OutcomeUnknown):
                await desk.refund_due(charge.keys, Fields(proof.items()))
        else:
            assert await desk.refund_due(charge.keys, Fields(proof.items())) == found
