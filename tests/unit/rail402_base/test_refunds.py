"""Giving back on Base: what is signed, what stands in the way, and every way in which it can end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.protocol.charge import Charge, Operation, PaymentEvent
from rail402.protocol.rail import Failed, NotPaid, Pending, Refunded, Settled, Unknown
from rail402_base.chain import Submitted, Transfer, Unused, Void
from rail402_base.config import RailConfig, make_rail
from rail402_base.eip3009 import recover
from rail402_base.facilitator import FacilitatorBackend
from rail402_base.keys import LocalSigner
from rail402_base.rail import BaseRail
from rail402_base.refunds import REFUND_SECONDS, refund_nonce
from rail402_base.tokens import BASE_USDC
from tests.unit.rail402_base.payments import (
    NOW,
    PAYEE,
    PAYEE_KEY,
    PAYER,
    PRICE,
    THIRD,
    THIRD_KEY,
    Till,
    present,
    signed,
)


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    till = Till(tmp_path)
    await till.chain.mint(PAYER, 10_000)
    till.rail.with_refunds(PAYEE_KEY.hex())
    return till


async def asked(till: Till) -> Charge:
    """A charge that was settled, and whose refund is written and not made."""
    payment = present(signed(till.authorization()))
    charge = await till.verify(await till.offer(), payment)
    settled = await till.rail.settle(charge, payment)
    assert isinstance(settled, Settled)
    taken = charge.on(PaymentEvent.SETTLE, lease_until=NOW).on(PaymentEvent.SETTLED, lease_until=NOW)
    return taken.on(PaymentEvent.REFUND, lease_until=NOW + 60, asked_at=NOW)


class Told:
    """A chain that says what it is told to; it notes what was handed in."""

    sees_submissions = False

    def __init__(self, till: Till, *, settles: Any = None, traces: Any = None) -> None:
        self.network, self._settles, self._traces = till.backend.network, settles, traces
        self.handed_in: list[Any] = []
        self._till = till

    def __getattr__(self, name: str) -> Any:
        return getattr(self._till.backend, name)

    async def settle(self, token: Any, authorization: Any, signature: bytes) -> Any:
        self.handed_in.append((authorization, signature))
        return self._said(self._settles)

    async def trace(self, token: Any, authorizer: str, nonce: bytes, *, valid_before: int) -> Any:
        assert (authorizer, len(nonce), valid_before) == (PAYEE, 32, NOW + REFUND_SECONDS)
        return self._said(self._traces)

    def _said(self, what: Any) -> Any:
        if isinstance(what, Exception):
            raise what
        return what


def moved(**members: Any) -> Transfer:
    return Transfer(**{"transaction": "0xback", "log_index": 1, "to": PAYER, "value": PRICE} | members)


async def told(till: Till, charge: Charge, **answers: Any) -> tuple[Any, Told]:
    rail = BaseRail(chain := Told(till, **answers), pay_to=PAYEE)  # type: ignore[arg-type]
    rail._is_open = True
    rail.with_refunds(PAYEE_KEY.hex())
    return rail, chain


async def test_it_goes_back_once_however_often_it_is_tried(till: Till) -> None:
    charge = await asked(till)
    first = await till.rail.refund(charge)
    assert isinstance(first, Refunded)
    assert (await till.chain.balance_of(PAYEE), await till.chain.balance_of(PAYER)) == (0, 10_000)
    later = charge.model_copy(update={"asked_at": NOW + 5000, "tries": 7})
    till.clock.advance(5000)
    await till.chain.mint(PAYEE, PRICE)
    assert await till.rail.refund(later) == first
    assert await till.chain.balance_of(PAYEE) == PRICE
    assert await till.rail.lookup(later, Operation.REFUND) == first


async def test_what_is_signed(till: Till) -> None:
    charge = await asked(till)
    rail, chain = await told(till, charge, settles=moved())
    assert await rail.refund(charge) == Refunded(transaction="0xback")
    ((authorization, signature),) = chain.handed_in
    assert (authorization.from_, authorization.to, authorization.value) == (PAYEE, PAYER, PRICE)
    assert (authorization.valid_before, authorization.nonce) == (NOW + REFUND_SECONDS, refund_nonce(charge))
    from rail402_base.eip3009 import digest

    assert recover(digest(rail.token.domain, authorization), signature) == PAYEE
    other = charge.model_copy(update={"id": "ch_other"})
    assert refund_nonce(other) != refund_nonce(charge)


async def test_a_reduced_charge_goes_back_reduced(till: Till) -> None:
    charge = (await asked(till)).model_copy(update={"reduced_to": 1000})
    rail, chain = await told(till, charge, settles=moved(value=1000))
    await rail.refund(charge)
    assert chain.handed_in[0][0].value == 1000


@pytest.mark.parametrize(
    ("settles", "traces", "outcome"),
    [
        (Submitted(transaction="0xback"), None, Unknown(detail="0xback is not mined yet")),
        (OutcomeUnknown("who knows"), None, Unknown(detail="who knows")),
        (
            PaymentRejected("empty", code="insufficient_funds"),
            None,
            Failed(code="insufficient_funds", detail="empty"),
        ),
        (PaymentRejected("used", code="proof_already_used"), moved(), Refunded(transaction="0xback")),
        (PaymentRejected("late", code="authorization_expired"), Unused(expired=True), NotPaid()),
        (
            PaymentRejected("used", code="proof_already_used"),
            Submitted(transaction="0xback"),
            Unknown(detail="an earlier try is being mined"),
        ),
    ],
)
async def test_every_end_of_a_try(till: Till, settles: Any, traces: Any, outcome: Any) -> None:
    charge = await asked(till)
    rail, _ = await told(till, charge, settles=settles, traces=traces)
    assert await rail.refund(charge) == outcome


async def test_a_chain_that_is_down_gives_nothing_back(till: Till) -> None:
    charge = await asked(till)
    rail, _ = await told(till, charge, settles=RailUnavailable("down"))
    with pytest.raises(RailUnavailable):
        await rail.refund(charge)


@pytest.mark.parametrize(
    ("traces", "outcome"),
    [
        (moved(), Refunded(transaction="0xback")),
        (Unused(expired=True), NotPaid()),
        (Unused(expired=False), Pending()),
        (Submitted(transaction="0xback"), Pending()),
        (Void(), Failed(code="payment_declined", detail="the payee's key has cancelled this refund for good")),
        (OutcomeUnknown("they disagree"), Unknown(detail="they disagree")),
    ],
)
async def test_what_became_of_it(till: Till, traces: Any, outcome: Any) -> None:
    charge = await asked(till)
    rail, _ = await told(till, charge, traces=traces)
    assert await rail.lookup(charge, Operation.REFUND) == outcome


@pytest.mark.parametrize("members", [{"to": THIRD}, {"value": PRICE - 1}])
async def test_a_nonce_that_moved_something_else_is_nobodys_refund(till: Till, members: Any) -> None:
    charge = await asked(till)
    rail, _ = await told(till, charge, traces=moved(**members))
    found = await rail.lookup(charge, Operation.REFUND)
    assert isinstance(found, Unknown)
    assert "moved something else" in found.detail


@pytest.mark.parametrize(
    ("members", "obstacle"),
    [
        ({"network": "eip155:1"}, "this rail is elsewhere"),
        ({"asset": BASE_USDC.address}, "this rail is elsewhere"),
        ({"payee": THIRD}, "refund_key is the key of"),
        ({}, None),
    ],
)
async def test_what_stands_in_the_way(till: Till, members: Any, obstacle: str | None) -> None:
    charge = await asked(till)
    charge = charge.model_copy(update={"offer": charge.offer.model_copy(update=members)})
    found = till.rail.refund_obstacle(charge)
    assert (found is None) if obstacle is None else (found is not None and obstacle in found)
    if obstacle is not None:
        assert isinstance(await till.rail.refund(charge), Failed)
        assert await till.chain.balance_of(PAYEE) == PRICE


async def test_without_a_key_or_a_payer_nothing_goes_back(till: Till) -> None:
    charge = await asked(till)
    nobody = charge.model_copy(update={"payer": None})
    assert till.rail.refund_obstacle(nobody) == "its payer is not known"
    with pytest.raises(OutcomeUnknown, match="is no address"):
        await till.rail.look_up_refund(charge.model_copy(update={"payer": "alice"}))
    keyless = BaseRail(till.backend, pay_to=PAYEE)
    assert "give the rail refund_key" in (keyless.refund_obstacle(charge) or "")


# --- settings


async def test_the_sandbox_has_the_key_where_it_has_the_address(till: Till, tmp_path: Path) -> None:
    charge = await asked(till)
    own = BaseRail.sandbox(tmp_path)
    mine = charge.model_copy(update={"offer": charge.offer.model_copy(update={"payee": own.pay_to})})
    assert own.refund_obstacle(mine) is None
    named = BaseRail.sandbox(tmp_path, pay_to=PAYEE)
    assert "refund_key" in (named.refund_obstacle(charge) or "")


@pytest.mark.parametrize("key", [THIRD_KEY.hex(), LocalSigner(THIRD_KEY)])
def test_only_the_payees_key_is_taken(till: Till, key: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"refunds need that of {PAYEE}"):
        till.rail.with_refunds(key)


@pytest.mark.parametrize("key", ["", "0x12", "g" * 64, "0" * 64])
def test_what_is_no_key_is_not_repeated(till: Till, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        till.rail.with_refunds(key)
    assert not key or key not in str(caught.value)


def test_a_facilitator_hands_in_no_refunds(till: Till) -> None:
    assert FacilitatorBackend.hands_in_refunds is False
    till.rail.chain.hands_in_refunds = False  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="a facilitator hands in payments and no refunds"):
        till.rail.with_refunds(PAYEE_KEY.hex())


def test_the_key_is_in_the_file_by_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFUND_KEY", PAYEE_KEY.hex())
    table = {"backend": "sandbox", "directory": str(tmp_path), "pay_to": PAYEE, "refund_key": "env:REFUND_KEY"}
    config = RailConfig.model_validate(table)
    assert PAYEE_KEY.hex() not in repr(config)
    assert make_rail(config)._refund_signer is not None
    assert PAYEE_KEY.hex() not in repr(vars(make_rail(config)))
    with pytest.raises(ValueError, match="has no refund_key"):
        RailConfig.model_validate(
            {"backend": "facilitator", "pay_to": PAYEE, "urls": ["https://a"], "facilitators": ["https://b"]}
            | {"refund_key": "env:REFUND_KEY"}
        )
