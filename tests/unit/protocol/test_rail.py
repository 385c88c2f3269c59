"""What rails answer, the optional capabilities, and the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any

import pytest

from rail402.errors import ConfigurationError
from rail402.money import Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import (
    Cost,
    Failed,
    Held,
    Holds,
    NotPaid,
    Paid,
    PaymentRail,
    Pending,
    Refunded,
    Refunds,
    Registry,
    Released,
    Settled,
    Terms,
    Unknown,
    Verified,
    Wallet,
)


class Spec:
    """As little of a `RailSpec` as the registry looks at."""

    bare_replay = False
    mechanisms: tuple[Mechanism, ...] = ()

    def __init__(self, name: str, **bindings: object) -> None:
        self.name = name
        self.bindings: Mapping[str, object] = bindings


def registry(*specs: Any) -> Any:
    """A registry of specs that need not be whole."""
    return Registry(specs)


class Plain(PaymentRail):
    """A rail that implements what it must and nothing else."""

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        return None

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        return verified

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed | Unknown:
        return NotPaid()

    async def lookup(self, charge: Charge, operation: Operation) -> NotPaid:
        return NotPaid()


class Full(Plain):
    """A rail that can reserve and refund as well."""

    async def hold(self, charge: Charge, payment: Payment) -> Held:
        return Held()

    async def release(self, charge: Charge) -> Released:
        return Released()

    async def refund(self, charge: Charge) -> Refunded:
        return Refunded()


class Purse(Wallet):
    """A wallet that implements what it must and nothing else."""

    async def can_pay(self, offer: Offer) -> Cost | None:
        return Cost(price=offer.price)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        return Paid(payload={"preimage": "5ec7e7"})

    async def resume(
        self, offer: Offer, payload: Mapping[str, Any] | None, *, record_id: str, now: int
    ) -> Paid | NotPaid | Unknown:
        return NotPaid()


class TestAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            Verified(keys=frozenset()),
            Held(),
            Settled(transaction="t"),
            Released(),
            Refunded(),
            Pending(),
            NotPaid(),
            Failed(code="payment_declined"),
            Unknown(),
            Paid(payload={}),
        ],
        ids=lambda answer: type(answer).__name__,
    )
    def test_an_answer_does_not_change(self, answer: Any) -> None:
        with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
            answer.state = {"other": 1}

    def test_answers_do_not_share_what_they_hold(self) -> None:
        assert Held().state is not Held().state

    def test_a_wallets_proof_is_not_in_its_repr(self) -> None:
        assert "5ec7e7" not in repr(Paid(payload={"preimage": "5ec7e7"}, fee=Money.parse("1 sat")))


class TestCapabilities:
    def test_a_rail_says_what_it_can_by_its_methods(self) -> None:
        assert isinstance(Full(), Holds)
        assert isinstance(Full(), Refunds)
        assert not isinstance(Plain(), Holds)
        assert not isinstance(Plain(), Refunds)

    async def test_what_a_rail_need_not_do(self, offer: Offer) -> None:
        rail = Plain()
        await rail.start()
        await rail.health()
        await rail.close()
        assert rail.issued_key(offer) is None
        assert rail.is_sandbox is False

    async def test_what_a_wallet_need_not_do(self) -> None:
        wallet = Purse()
        await wallet.start()
        await wallet.close()
        assert wallet.name == ""

    @pytest.mark.parametrize("base", [PaymentRail, Wallet])
    def test_the_rest_must_be_there(self, base: type) -> None:
        with pytest.raises(TypeError, match="abstract"):
            base()


class TestRegistry:
    def test_rails_are_found_by_name_in_their_order(self) -> None:
        first, second = Spec("stripe"), Spec("base")
        here = registry(first, second)
        assert list(here) == [first, second]
        assert here["base"] is second
        assert "base" in here
        assert "lightning" not in here

    def test_nothing_is_there_by_itself(self) -> None:
        assert list(registry()) == []

    def test_an_unknown_rail_is_named_with_those_that_are_known(self) -> None:
        with pytest.raises(ConfigurationError, match=r"no rail 'bse'.*: base, stripe$"):
            registry(Spec("stripe"), Spec("base"))["bse"]
        with pytest.raises(ConfigurationError, match=r"none$"):
            registry()["base"]

    def test_two_rails_of_one_name_are_a_mistake(self) -> None:
        with pytest.raises(ConfigurationError, match="two rails are called 'base'"):
            registry(Spec("base"), Spec("base"))

    def test_the_same_rail_twice_is_one(self) -> None:
        spec = Spec("base")
        assert list(registry(spec, spec)) == [spec]

    def test_who_speaks_a_dialect(self) -> None:
        binding, other = object(), object()
        base, stripe = Spec("base", mpp=binding, x402=other), Spec("stripe", mpp=other)
        here = registry(base, stripe)
        assert here.binding("base", "mpp") is binding
        assert here.binding("stripe", "x402") is None
        assert list(here.speaking("mpp")) == [(base, binding), (stripe, other)]
        assert list(here.speaking("x402")) == [(base, other)]
        assert list(here.speaking("l402")) == []
        with pytest.raises(ConfigurationError, match="no rail"):
            here.binding("lightning", "mpp")

    def test_a_read_only_mapping_of_bindings_will_do(self) -> None:
        spec = Spec("base")
        spec.bindings = MappingProxyType({"mpp": object()})
        assert [found for found, _ in registry(spec).speaking("mpp")] == [spec]
