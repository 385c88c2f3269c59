"""The fake rail, as a rail of its own: what it accepts, what it refuses, and how scripted calls end."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import MalformedInput, OfferRefused, PaymentFailed, PaymentOutcomeUnknown, PaymentRejected
from rail402.errors import RailUnavailable as Unavailable
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import (
    Failed,
    Held,
    Holds,
    NotPaid,
    Paid,
    Pending,
    Refunded,
    Refunds,
    Released,
    Settled,
    Terms,
    Unknown,
)
from rail402.testing.fakes import Ending, FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet

ORDER = Order(method="GET", url="https://api.example.com/a", route="GET /a")
NOW = 1_800_000_000


async def make(style: Any = "signed", flow: Flow = Flow.UPFRONT, **ledger: Any) -> tuple[FakeRail, FakeWallet, Offer]:
    spec, money = FakeSpec(style=style), FakeLedger(**ledger)
    rail = FakeRail(money, spec)
    terms = Terms(amount=3000, flow=flow, now=NOW, expires_at=NOW + 300, timeout_seconds=60)
    offer = await rail.offer(ORDER, spec.mechanism, terms)
    assert offer is not None
    return rail, FakeWallet(money, spec), offer


def present(payload: Any) -> Payment:
    return Payment(dialect="x402-v2", rail="fake", payload=payload)


async def claimed(rail: FakeRail, offer: Offer, payload: Any) -> tuple[Charge, Payment]:
    payment = present(payload)
    verified = await rail.verify(offer, payment, rail.fake.authenticate(offer, payment), now=NOW)
    charge = Charge(
        id="ch_1",
        order=ORDER,
        offer=offer,
        price=offer.price,
        window=600,
        dialect="x402-v2",
        keys=tuple(verified.keys),
        created_at=NOW,
        lease_until=NOW + 60,
        payer=verified.payer,
        rail_state=dict(verified.state),
    )
    return charge, payment


def test_clock_moves_only_when_told() -> None:
    clock = FakeClock(100)
    assert (clock(), clock(), clock.advance(5), clock()) == (100, 100, 105, 105)


@pytest.mark.parametrize("style", ["signed", "invoice"])
async def test_a_payment_is_charged_once(style: str) -> None:
    rail, wallet, offer = await make(style)
    paid = await wallet.pay(offer, record_id="r1", now=NOW)
    charge, payment = await claimed(rail, offer, paid.payload)
    first, second = await rail.settle(charge, payment), await rail.settle(charge, payment)
    assert isinstance(first, Settled)
    assert first == second
    assert wallet.ledger.charged_total == 3000
    assert wallet.ledger.count("settle") == 2
    assert await rail.lookup(charge, Operation.SETTLE) == first


async def test_it_has_the_capabilities() -> None:
    rail, _, _ = await make()
    assert isinstance(rail, Holds)
    assert isinstance(rail, Refunds)
    await rail.start()
    await rail.health()
    await rail.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": "2999"}, "signature_invalid"),
        ({"signature": "00"}, "signature_invalid"),
        ({"signature": "\u00e9"}, "signature_invalid"),
        ({"payer": "mallory"}, "signature_invalid"),
    ],
)
async def test_a_forged_proof_does_not_pass(change: dict[str, str], code: str) -> None:
    rail, wallet, offer = await make()
    payload = dict((await wallet.pay(offer, record_id="r1", now=NOW)).payload)
    with pytest.raises(PaymentRejected) as caught:
        rail.fake.authenticate(offer, present(payload | change))
    assert caught.value.code == code


@pytest.mark.parametrize("change", [{"nonce": 5}, {"valid_before": "soon"}, {"valid_before": True}, {"payer": None}])
async def test_a_malformed_proof_names_the_member(change: dict[str, Any]) -> None:
    rail, wallet, offer = await make()
    payload = dict((await wallet.pay(offer, record_id="r1", now=NOW)).payload)
    with pytest.raises(MalformedInput) as caught:
        rail.fake.authenticate(offer, present(payload | change))
    assert caught.value.field == next(iter(change))


@pytest.mark.parametrize(("member", "value"), [("amount", 3001), ("payee", "else"), ("network", "fake:else")])
async def test_a_proof_for_another_offer_does_not_pass(member: str, value: Any) -> None:
    rail, wallet, offer = await make()
    paid = await wallet.pay(offer, record_id="r1", now=NOW)
    with pytest.raises(PaymentRejected) as caught:
        rail.fake.authenticate(offer.model_copy(update={member: value}), present(paid.payload))
    assert caught.value.code == f"{member}_mismatch"


async def test_another_invoices_preimage_does_not_pass_and_a_hash_is_recognised() -> None:
    rail, _wallet, offer = await make("invoice")
    _, _, other = await make("invoice")
    with pytest.raises(PaymentRejected) as caught:
        rail.fake.authenticate(offer, present({"preimage": "00"}))
    assert caught.value.code == "preimage_invalid"
    assert rail.fake.mistaken_keys(present({"preimage": other.extra["hash"]})) == {rail.issued_key(other)}


async def test_verify_sees_the_money() -> None:
    rail, wallet, offer = await make(balances={"alice": 2999})
    assert await wallet.can_pay(offer) is None
    proof = (await wallet.pay(offer, record_id="r1", now=NOW)).payload
    with pytest.raises(PaymentRejected) as caught:
        await claimed(rail, offer, proof)
    assert caught.value.code == "insufficient_funds"
    wallet.ledger.balances["alice"] = 3000
    charge, payment = await claimed(rail, offer, proof)
    await rail.settle(charge, payment)
    assert wallet.ledger.balances["alice"] == 0
    with pytest.raises(PaymentRejected) as caught:
        await claimed(rail, offer, proof)
    assert caught.value.code == "proof_already_used"


async def test_an_unpaid_invoice_and_an_expired_proof_are_refused() -> None:
    rail, _, offer = await make("invoice")
    key = rail.issued_key(offer)
    with pytest.raises(PaymentRejected, match="has not arrived"):
        await claimed(rail, offer, rail.ledger.proofs[str(key)])
    rail, wallet, offer = await make()
    proof = (await wallet.pay(offer, record_id="r1", now=NOW - 60)).payload
    with pytest.raises(PaymentRejected) as caught:
        await claimed(rail, offer, proof)
    assert caught.value.code == "authorization_expired"


async def test_escrow_holds_captures_and_releases() -> None:
    rail, wallet, offer = await make(flow=Flow.ESCROW, balances={"alice": 5000})
    charge, payment = await claimed(rail, offer, (await wallet.pay(offer, record_id="r1", now=NOW)).payload)
    assert isinstance(await rail.hold(charge, payment), Held)
    assert wallet.ledger.balances["alice"] == 2000
    assert isinstance(await rail.lookup(charge, Operation.HOLD), Held)
    assert isinstance(await rail.release(charge), Released)
    assert wallet.ledger.balances["alice"] == 5000
    await rail.hold(charge, payment)
    assert isinstance(await rail.settle(charge, None), Settled)
    assert wallet.ledger.balances["alice"] == 2000
    assert isinstance(await rail.release(charge), Settled)
    assert isinstance(await rail.refund(charge), Refunded)
    assert wallet.ledger.balances["alice"] == 5000
    assert isinstance(await rail.lookup(charge, Operation.REFUND), Refunded)


@pytest.mark.parametrize(
    ("ending", "answer", "moved", "found"),
    [
        (Ending.NOT_PAID, NotPaid, False, NotPaid),
        (Ending.FAILED, Failed, False, NotPaid),
        (Ending.UNKNOWN_DONE, Unknown, True, Settled),
        (Ending.UNKNOWN_NOT_DONE, Unknown, False, NotPaid),
        (Ending.PENDING, Unknown, False, Pending),
    ],
)
async def test_settlements_end_as_scripted(ending: Ending, answer: type, moved: bool, found: type) -> None:
    rail, wallet, offer = await make()
    charge, payment = await claimed(rail, offer, (await wallet.pay(offer, record_id="r1", now=NOW)).payload)
    wallet.ledger.script("settle", ending)
    assert isinstance(await rail.settle(charge, payment), answer)
    assert bool(wallet.ledger.charged) is moved
    assert isinstance(await rail.lookup(charge, Operation.SETTLE), found)
    if ending is Ending.PENDING:
        wallet.ledger.arrive(next(iter(charge.keys)))
        assert isinstance(await rail.lookup(charge, Operation.SETTLE), Settled)


async def test_unavailable_means_that_nothing_happened() -> None:
    _rail, wallet, offer = await make("invoice")
    wallet.ledger.script("pay", Ending.UNAVAILABLE)
    with pytest.raises(Unavailable):
        await wallet.pay(offer, record_id="r1", now=NOW)
    assert not wallet.ledger.charged


@pytest.mark.parametrize("style", ["signed", "invoice"])
@pytest.mark.parametrize(
    ("ending", "error", "found"),
    [
        (Ending.FAILED, PaymentFailed, NotPaid),
        (Ending.UNKNOWN_NOT_DONE, PaymentOutcomeUnknown, NotPaid),
        (Ending.UNKNOWN_DONE, PaymentOutcomeUnknown, Paid),
        (Ending.PENDING, PaymentOutcomeUnknown, None),
    ],
)
async def test_wallets_resume_what_became_of_a_payment(style: str, ending: Ending, error: type, found: Any) -> None:
    _, wallet, offer = await make(style)
    wallet.ledger.script("pay", ending)
    with pytest.raises(error):
        await wallet.pay(offer, record_id="r1", now=NOW)
    resumed = await wallet.resume(offer, None, record_id="r1", now=NOW)
    assert isinstance(resumed, found or Unknown)


async def test_a_signature_can_be_shown_again_until_it_expires() -> None:
    _, wallet, offer = await make()
    paid = await wallet.pay(offer, record_id="r1", now=NOW)
    assert await wallet.resume(offer, paid.payload, record_id="r1", now=NOW + 59) == paid
    assert isinstance(await wallet.resume(offer, paid.payload, record_id="r1", now=NOW + 60), NotPaid)


async def test_hooks_run_around_the_move() -> None:
    rail, wallet, offer = await make()
    charge, payment = await claimed(rail, offer, (await wallet.pay(offer, record_id="r1", now=NOW)).payload)
    seen = []

    async def before(name: str, key: str) -> None:
        seen.append((name, bool(rail.ledger.charged)))

    rail.ledger.before = rail.ledger.after = before
    await rail.settle(charge, payment)
    assert seen == [("settle", False), ("settle", True)]


_COMMON = ["x402-v2", "mpp", "x-receipt", "payment-uri"]
_SIGNED = ["x-payment", "x-price"]


@pytest.mark.parametrize(
    ("style", "dialect"),
    [
        *((style, dialect) for style in ("signed", "invoice") for dialect in _COMMON),
        *(("signed", name) for name in _SIGNED),
    ],
)
async def test_offers_and_proofs_survive_each_dialect(style: str, dialect: str) -> None:
    rail, wallet, offer = await make(style)
    binding = rail.fake.bindings[dialect]
    assert binding.decode_offer(binding.encode_offer(offer), expires_at=offer.expires_at) == offer
    proof = (await wallet.pay(offer, record_id="r1", now=NOW)).payload
    assert binding.decode_proof(binding.encode_proof(proof)) == proof


@pytest.mark.parametrize("dialect", [*_COMMON, *_SIGNED])
async def test_another_rails_json_is_left_alone(dialect: str) -> None:
    rail, _wallet, offer = await make()
    other = FakeSpec("other").bindings[dialect]
    assert other.decode_offer(rail.fake.bindings[dialect].encode_offer(offer), expires_at=1) is None
    assert other.decode_proof({"receipt": "fake:e30=", "preimage": "x", "proof": {"preimage": "x"}}) is None


@pytest.mark.parametrize(
    ("member", "value"), [("amount", "0"), ("amount", "1e3"), ("amount", 3), ("flow", "later"), ("timeout_seconds", 0)]
)
async def test_malformed_offers_name_the_member(member: str, value: Any) -> None:
    rail, _, offer = await make()
    binding = rail.fake.bindings["x-receipt"]
    with pytest.raises(MalformedInput) as caught:
        binding.decode_offer({**binding.encode_offer(offer), member: value}, expires_at=1)
    assert caught.value.field == member


async def test_check_offer_refuses_what_is_not_as_it_says() -> None:
    rail, _, offer = await make("invoice")
    rail.fake.check_offer(offer, ORDER, now=NOW)
    for change in ({"amount": 2}, {"network": "fake:else"}, {"expires_at": NOW}):
        with pytest.raises(OfferRefused):
            rail.fake.check_offer(offer.model_copy(update=change), ORDER, now=NOW)
