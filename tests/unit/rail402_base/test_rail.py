"""The server side: which payments are good, and every way in which taking one can end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Failed, Holds, NotPaid, Pending, Refunds, Settled, Terms, Unknown
from rail402_base.chain import SandboxBackend, Submitted, Trace, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization
from rail402_base.facilitator import FacilitatorBackend
from rail402_base.rail import BaseRail
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC, Token
from rail402_base.transfers import Transfers
from rail402_base.wire import ZERO_ADDRESS
from tests.unit.rail402_base.payments import (
    NOW,
    ORDER,
    PAYEE,
    PAYER,
    PRICE,
    THIRD,
    TIMEOUT,
    Till,
    present,
    signed,
)

FAR = 2**256 - 1


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    till = Till(tmp_path)
    await till.chain.mint(PAYER, 10_000)
    return till


async def claimed(till: Till, **members: Any) -> tuple[Charge, Payment]:
    """A payment that was verified and claimed."""
    payment = present(signed(till.authorization(**members)))
    return await till.verify(await till.offer(), payment), payment


async def assert_conserved(till: Till, payee: int) -> None:
    books = await till.chain.books()
    assert sum(books.balances.values()) == books.minted == 10_000
    assert books.balances.get(PAYEE, 0) == payee


# Offers


async def test_an_offer_says_what_was_asked(till: Till) -> None:
    terms = Terms(amount=PRICE, flow=Flow.UPFRONT, now=NOW, expires_at=NOW + 600, timeout_seconds=TIMEOUT)
    offer = await till.rail.offer(ORDER, till.rail.spec.mechanisms[0], terms)
    assert offer is not None
    assert (offer.rail, offer.network, offer.asset) == ("base", "eip155:402402", SANDBOX_USDC.address)
    assert (offer.amount, str(offer.price), offer.payee) == (PRICE, "0.003 USDC", PAYEE)
    assert (offer.flow, offer.expires_at, offer.timeout_seconds) == (Flow.UPFRONT, NOW + 600, TIMEOUT)
    assert till.rail.issued_key(offer) is None
    assert (
        till.rail.spec.bindings["x402-v2"].decode_offer(
            till.rail.spec.bindings["x402-v2"].encode_offer(offer), expires_at=NOW + 600
        )
        == offer
    )


# Verification


async def test_a_good_payment_is_accepted_and_nothing_moves(till: Till) -> None:
    charge, _ = await claimed(till)
    assert charge.payer == PAYER
    assert len(charge.keys) == 1
    await assert_conserved(till, payee=0)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"valid_after": NOW}, "not_yet_valid"),
        ({"valid_after": NOW + 60}, "not_yet_valid"),
        ({"valid_after": FAR, "valid_before": FAR}, "not_yet_valid"),
        ({"valid_before": 0}, "authorization_expired"),
        ({"valid_before": NOW}, "authorization_expired"),
        ({"valid_before": NOW + TIMEOUT - 61}, "authorization_expired"),
        ({"valid_before": NOW + 600 + 86_401}, "authorization_expired"),
        ({"valid_before": FAR}, "authorization_expired"),
        ({"value": 10_001}, "amount_mismatch"),
    ],
)
async def test_a_payment_at_the_wrong_time_is_refused(till: Till, members: dict[str, Any], code: str) -> None:
    payment = present(signed(till.authorization(**members)))
    assert await till.refusal(await till.offer(), payment) == code


@pytest.mark.parametrize(
    "members",
    [
        {"valid_after": NOW - 1},
        {"valid_after": NOW - 600},
        {"valid_before": NOW + TIMEOUT - 60},
        {"valid_before": NOW + 600 + 86_400},
    ],
)
async def test_a_payment_that_outlasts_handler_and_settlement_is_accepted(till: Till, members: dict[str, Any]) -> None:
    charge, payment = await claimed(till, **members)
    assert isinstance(await till.rail.settle(charge, payment), Settled)


async def test_a_payer_has_a_minute_from_signing_to_arrival(till: Till) -> None:
    offer = await till.offer()
    payment = present(signed(till.authorization()))
    till.clock.advance(60)
    await till.verify(offer, payment)
    till.clock.advance(1)
    assert await till.refusal(offer, payment) == "authorization_expired"


@pytest.mark.parametrize("timeout_seconds", [1, 60, 61])
async def test_a_short_timeout_wants_a_second_at_least(till: Till, timeout_seconds: int) -> None:
    offer = await till.offer(timeout_seconds=timeout_seconds)
    await till.verify(offer, present(signed(till.authorization(valid_before=NOW + 1))))
    assert await till.refusal(offer, present(signed(till.authorization(valid_before=NOW)))) == "authorization_expired"


async def test_an_offer_is_honoured_until_it_expires(till: Till) -> None:
    offer = await till.offer()
    till.clock.advance(600)
    await till.verify(offer, present(signed(till.authorization())))
    till.clock.advance(1)
    assert await till.refusal(offer, present(signed(till.authorization()))) == "offer_expired"


async def test_a_cancelled_nonce_is_refused(till: Till) -> None:
    cancelled = till.authorization()
    await till.cancel(cancelled)
    assert await till.refusal(await till.offer(), present(signed(cancelled))) == "proof_already_used"


async def preempted(till: Till, **members: Any) -> Payment:
    """A payment that somebody else hands in before it is shown to us."""
    authorization = till.authorization(**members)
    await till.hand_in(authorization)
    return present(signed(authorization))


async def test_an_authorization_that_was_handed_in_before_our_check_is_accepted(till: Till) -> None:
    payment = await preempted(till)
    charge = await till.verify(await till.offer(), payment)
    settled = await till.rail.settle(charge, payment)
    assert isinstance(settled, Settled)
    assert settled.keys < set(charge.keys), "its transfer is claimed with it"
    assert len(charge.keys) == 2
    await assert_conserved(till, payee=PRICE)


@pytest.mark.parametrize(("ago", "is_good"), [(3600, True), (3601, False), (86_000, False)])
async def test_a_transfer_of_long_ago_pays_for_nothing(till: Till, ago: int, is_good: bool) -> None:
    """Its charge may have been forgotten."""
    payment = await preempted(till, valid_before=NOW + 87_000)
    till.clock.advance(ago)
    offer = await till.offer()
    if is_good:
        await till.verify(offer, payment)
    else:
        assert await till.refusal(offer, payment) == "proof_already_used"


@pytest.mark.parametrize("change", [{"to": THIRD}, {"value": PRICE - 1}, {"to": PAYER, "value": 0}])
async def test_a_nonce_that_was_used_for_another_transfer_is_refused(till: Till, change: dict[str, Any]) -> None:
    authorization = till.authorization()
    await till.hand_in(replace(authorization, **change))
    assert await till.refusal(await till.offer(), present(signed(authorization))) == "proof_already_used"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Unused(expired=False), RailUnavailable),
        (Submitted(transaction="0x1"), RailUnavailable),
        (OutcomeUnknown("the nodes disagree"), RailUnavailable),
        (RailUnavailable("down"), RailUnavailable),
        (Transfer(transaction="0x1", log_index=1, to=PAYEE, value=PRICE, at=None), PaymentRejected),
    ],
    ids=repr,
)
async def test_a_used_nonce_must_be_explained(till: Till, answer: Trace | Exception, expected: type[Exception]) -> None:
    offer, payment = await till.offer(), await preempted(till)
    public(till, answer)
    with pytest.raises(expected):
        await till.verify(offer, payment)


async def test_a_payer_without_the_money_is_refused(till: Till) -> None:
    offer, payment = await till.offer(), present(signed(till.authorization()))
    await till.empty()
    assert await till.refusal(offer, payment) == "insufficient_funds"


async def test_a_chain_that_cannot_be_asked_refuses_nobody(till: Till) -> None:
    class Unreachable(SandboxBackend):
        async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
            raise RailUnavailable("down")

    till.rail.chain = Unreachable(till.chain, clock=till.clock)
    with pytest.raises(RailUnavailable):
        await claimed(till)


# Settlement


async def test_a_payment_is_settled_and_named_by_its_transfer(till: Till) -> None:
    charge, payment = await claimed(till)
    settled = await till.rail.settle(charge, payment)
    assert isinstance(settled, Settled)
    assert settled.keys == {f"tx:eip155:402402/{settled.transaction}/1"}
    assert str(await till.rail.received()) == "0.003 USDC"
    await assert_conserved(till, payee=PRICE)
    assert await till.rail.lookup(charge, Operation.SETTLE) == settled


async def test_settling_twice_takes_the_money_once(till: Till) -> None:
    charge, payment = await claimed(till)
    assert await till.rail.settle(charge, payment) == await till.rail.settle(charge, payment)
    await assert_conserved(till, payee=PRICE)


async def test_an_account_emptied_meanwhile_fails_for_good(till: Till) -> None:
    charge, payment = await claimed(till)
    await till.empty()
    failed = await till.rail.settle(charge, payment)
    assert isinstance(failed, Failed)
    assert failed.code == "insufficient_funds"
    await assert_conserved(till, payee=0)


async def test_an_authorization_that_ran_out_meanwhile_fails_for_good(till: Till) -> None:
    charge, payment = await claimed(till)
    till.clock.advance(TIMEOUT)
    failed = await till.rail.settle(charge, payment)
    assert isinstance(failed, Failed)
    assert failed.code == "authorization_expired"


async def test_an_authorization_that_was_used_and_ran_out_meanwhile_is_settled(till: Till) -> None:
    """The token says that it has expired, whether it was used before or not."""
    authorization = till.authorization()
    payment = present(signed(authorization))
    charge = await till.verify(await till.offer(), payment)
    await till.hand_in(authorization)
    till.clock.advance(TIMEOUT)
    assert isinstance(await till.rail.settle(charge, payment), Settled)


async def test_a_cancelled_authorization_fails_for_good(till: Till) -> None:
    authorization = till.authorization()
    payment = present(signed(authorization))
    charge = await till.verify(await till.offer(), payment)
    await till.cancel(authorization)
    for found in (await till.rail.settle(charge, payment), await till.rail.lookup(charge, Operation.SETTLE)):
        assert isinstance(found, Failed)
        assert found.code == "proof_already_used"
    await assert_conserved(till, payee=0)


async def test_an_authorization_that_somebody_else_handed_in_is_settled(till: Till) -> None:
    authorization = till.authorization()
    payment = present(signed(authorization))
    charge = await till.verify(await till.offer(), payment)
    await till.hand_in(authorization)
    settled = await till.rail.settle(charge, payment)
    assert isinstance(settled, Settled)
    await assert_conserved(till, payee=PRICE)
    assert await till.rail.lookup(charge, Operation.SETTLE) == settled


@pytest.mark.parametrize("change", [{"to": THIRD}, {"value": PRICE - 1}, {"to": PAYER, "value": 0}])
async def test_the_same_nonce_used_for_another_transfer_is_no_payment(till: Till, change: dict[str, Any]) -> None:
    authorization = till.authorization()
    payment = present(signed(authorization))
    charge = await till.verify(await till.offer(), payment)
    await till.hand_in(replace(authorization, **change))
    for found in (await till.rail.settle(charge, payment), await till.rail.lookup(charge, Operation.SETTLE)):
        assert isinstance(found, Failed)
        assert found.code == "proof_already_used"


async def test_a_lost_answer_is_looked_up(till: Till) -> None:
    charge, payment = await claimed(till)
    await till.chain.inject("lost_answer")
    assert isinstance(await till.rail.settle(charge, payment), Unknown)
    assert isinstance(await till.rail.lookup(charge, Operation.SETTLE), Settled)
    await assert_conserved(till, payee=PRICE)


async def test_what_was_dropped_may_be_tried_again(till: Till) -> None:
    charge, payment = await claimed(till)
    await till.chain.inject("dropped")
    assert isinstance(await till.rail.settle(charge, payment), Unknown)
    assert await till.rail.lookup(charge, Operation.SETTLE) == NotPaid()
    assert isinstance(await till.rail.settle(charge, payment), Settled)
    await assert_conserved(till, payee=PRICE)


async def test_an_unreachable_chain_raises_before_anything_is_sent(till: Till) -> None:
    charge, payment = await claimed(till)
    await till.chain.inject("unavailable")
    with pytest.raises(RailUnavailable):
        await till.rail.settle(charge, payment)
    await assert_conserved(till, payee=0)


async def test_a_pending_transfer_stays_open_until_it_is_mined(till: Till) -> None:
    charge, payment = await claimed(till)
    await till.chain.inject("pending")
    assert isinstance(await till.rail.settle(charge, payment), Unknown)
    assert isinstance(await till.rail.lookup(charge, Operation.SETTLE), Pending)
    await till.chain.release()
    assert isinstance(await till.rail.lookup(charge, Operation.SETTLE), Settled)
    await assert_conserved(till, payee=PRICE)


async def test_a_pending_transfer_that_comes_to_nothing_was_not_paid(till: Till) -> None:
    charge, payment = await claimed(till)
    await till.chain.inject("pending")
    assert isinstance(await till.rail.settle(charge, payment), Unknown)
    till.clock.advance(TIMEOUT)
    assert isinstance(await till.rail.lookup(charge, Operation.SETTLE), Pending)
    await till.chain.release()
    assert await till.rail.lookup(charge, Operation.SETTLE) == NotPaid()
    await assert_conserved(till, payee=0)


class PublicChain(SandboxBackend):
    """A chain on which a transaction can be on its way unseen, and whose answers are scripted."""

    sees_submissions = False
    answers: list[Trace | Exception]

    async def trace(self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int) -> Trace:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def public(till: Till, *answers: Trace | Exception) -> None:
    till.rail.chain = chain = PublicChain(till.chain, clock=till.clock)
    chain.answers = list(answers)


async def test_on_a_public_chain_only_expiry_says_that_nothing_was_paid(till: Till) -> None:
    charge, _ = await claimed(till)
    public(till, Unused(expired=False), Submitted(transaction="0x1"), Unused(expired=True))
    assert isinstance(await till.rail.lookup(charge, Operation.SETTLE), Pending)
    assert isinstance(await till.rail.lookup(charge, Operation.SETTLE), Pending)
    assert await till.rail.lookup(charge, Operation.SETTLE) == NotPaid()


@pytest.mark.parametrize(
    "answer",
    [Unused(expired=False), Submitted(transaction="0x1"), RailUnavailable("down"), OutcomeUnknown("?")],
    ids=lambda answer: type(answer).__name__,
)
async def test_a_used_nonce_that_cannot_be_explained_is_unknown(till: Till, answer: Trace | Exception) -> None:
    charge, payment = await claimed(till)
    assert isinstance(await till.rail.settle(charge, payment), Settled)
    public(till, answer)
    assert isinstance(await till.rail.settle(charge, payment), Unknown)


async def test_a_used_nonce_that_is_explained_is_believed(till: Till) -> None:
    charge, payment = await claimed(till)
    assert isinstance(await till.rail.settle(charge, payment), Settled)
    transfer = Transfer(transaction="0xAB", log_index=4, to=PAYEE, value=PRICE, at=NOW)
    public(till, transfer, Void())
    assert await till.rail.settle(charge, payment) == Settled(
        transaction="0xAB", at=NOW, keys=frozenset({"tx:eip155:402402/0xab/4"})
    )
    assert isinstance(await till.rail.settle(charge, payment), Failed)


async def test_a_charge_of_another_network_is_not_judged_by_this_one(till: Till) -> None:
    charge, _ = await claimed(till)
    moved = charge.model_copy(
        update={"offer": charge.offer.model_copy(update={"network": "eip155:8453", "asset": BASE_USDC.address})}
    )
    found = await till.rail.lookup(moved, Operation.SETTLE)
    assert isinstance(found, Unknown)
    assert "eip155:8453" in found.detail


# Configuration


async def test_a_rail_of_its_own_sandbox(tmp_path: Path) -> None:
    rail = BaseRail.sandbox(tmp_path)
    assert rail.is_sandbox is True
    assert rail.token == SANDBOX_USDC
    await rail.start()
    await rail.health()
    await rail.close()
    assert BaseRail.sandbox(tmp_path).pay_to == rail.pay_to
    assert BaseRail.sandbox(tmp_path, pay_to=PAYEE.lower()).pay_to == PAYEE
    assert not isinstance(rail, Holds)
    assert isinstance(rail, Refunds)


async def test_another_chain_where_ours_was_is_unhealthy_and_no_mistake_of_the_app(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def health() -> None:
        raise ConfigurationError("the node is on the chain 1")

    monkeypatch.setattr(till.backend, "health", health)
    with pytest.raises(RailUnavailable, match="on the chain 1"):
        await till.rail.health()


@pytest.mark.parametrize(
    "pay_to", ["", "0x1", "merchant", ZERO_ADDRESS, PAYEE[:-1] + ("a" if PAYEE[-1] != "a" else "b"), None, 5]
)
def test_a_wrong_address_is_refused(tmp_path: Path, pay_to: Any) -> None:
    with pytest.raises(ConfigurationError, match="pay_to"):
        BaseRail(Till(tmp_path).backend, pay_to=pay_to)


async def test_a_sandbox_refuses_every_token_but_its_own(till: Till) -> None:
    with pytest.raises(ConfigurationError, match="eip155:8453"):
        BaseRail(till.backend, pay_to=PAYEE, token=BASE_USDC)
    rail = BaseRail(till.backend, pay_to=PAYEE, token=replace(SANDBOX_USDC, address=THIRD))
    with pytest.raises(ConfigurationError, match="sandbox"):
        await rail.start()


async def test_a_forged_signature_is_refused_before_the_chain_is_asked(till: Till) -> None:
    offer, payload = await till.offer(), signed(till.authorization())
    forged = payload | {"authorization": payload["authorization"] | {"nonce": "0x" + 64 * "9"}}
    with pytest.raises(PaymentRejected) as caught:
        till.rail.spec.authenticate(offer, present(forged))
    assert caught.value.code == "signature_invalid"


# Made by one call


def test_a_rail_that_hands_in_itself(tmp_path: Path) -> None:
    settings = RelaySettings(settle_seconds=9)
    rail = BaseRail.rpc(
        ["https://one.test/", "https://two.test/"],
        "07" * 32,
        pay_to=PAYEE,
        token=BASE_SEPOLIA_USDC,
        relayer_db=f"sqlite:///{tmp_path}/r.db",
        settings=settings,
    )
    assert isinstance(rail.chain, RpcBackend)
    assert (rail.token, rail.chain.settings, rail.is_sandbox) == (BASE_SEPOLIA_USDC, settings, False)
    assert BaseRail.rpc("https://one.test/", "07" * 32, pay_to=PAYEE).token == BASE_USDC
    with pytest.raises(ConfigurationError, match="relayer_key"):
        BaseRail.rpc("https://one.test/", "secret", pay_to=PAYEE)


def test_a_rail_with_a_facilitator() -> None:
    rail = BaseRail.facilitator("https://f.test/", "https://one.test/", pay_to=PAYEE, token=BASE_SEPOLIA_USDC)
    assert isinstance(rail.chain, FacilitatorBackend)
    assert rail.token == BASE_SEPOLIA_USDC


async def test_an_offer_made_anew_is_the_same_but_for_its_expiry(till: Till) -> None:
    assert till.rail.has_fixed_terms
    first = await till.offer()
    till.clock.advance(60)
    second = await till.offer()
    assert second != first
    assert second.model_copy(update={"expires_at": first.expires_at}) == first


# Plain transfers


@pytest.fixture
def transfers(till: Till) -> BaseRail:
    till.rail = BaseRail(till.backend, pay_to=PAYEE, transfers=Transfers())
    return till.rail


async def transferred(till: Till, value: int = PRICE) -> tuple[Charge, Payment]:
    terms = Terms(amount=PRICE, flow=Flow.UPFRONT, now=NOW, expires_at=NOW + 600, timeout_seconds=TIMEOUT)
    offer = await till.rail.offer(ORDER, till.rail.spec.mechanisms[1], terms)
    assert offer is not None
    payment = present({"transaction": await till.pay(value)})
    return await till.verify(offer, payment), payment


async def test_what_is_known_of_a_transfer(till: Till, transfers: BaseRail) -> None:
    charge, payment = await transferred(till, PRICE + 1)
    transaction = payment.payload["transaction"]
    assert charge.payer == PAYER
    assert set(charge.keys) == {f"tx:eip155:402402/{transaction}", f"tx:eip155:402402/{transaction}/0"}
    assert charge.rail_state == {
        "transaction": transaction,
        "log_index": 0,
        "from": PAYER,
        "received": str(PRICE + 1),
    }
    await assert_conserved(till, payee=PRICE + 1)


async def test_a_transfer_that_was_claimed_is_settled_whatever_happens_to_the_chain(
    till: Till, transfers: BaseRail
) -> None:
    """A worker that ended between the two leaves no doubt: the money had moved before."""
    charge, payment = await transferred(till)
    await till.chain.inject("unavailable")
    settled = await transfers.settle(charge, payment)
    assert settled == await transfers.lookup(charge, Operation.SETTLE)
    assert settled == Settled(transaction=payment.payload["transaction"], payer=PAYER)
    await assert_conserved(till, payee=PRICE)


async def test_both_mechanisms_are_offered_and_bound_to_the_order(till: Till, transfers: BaseRail) -> None:
    terms = Terms(amount=PRICE, flow=Flow.UPFRONT, now=NOW, expires_at=NOW + 600, timeout_seconds=TIMEOUT)
    offers = [await transfers.offer(ORDER, each, terms) for each in transfers.spec.mechanisms]
    assert [(offer.mechanism, dict(offer.extra)) for offer in offers if offer] == [
        ("eip3009", {}),
        ("transfer", {"method": "GET", "url": ORDER.url}),
    ]
