"""What a client presents, and what a challenge says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rail402.protocol.challenge import Challenge
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment


def test_the_proof_and_the_envelope_are_not_in_the_repr(offer: Offer) -> None:
    payment = Payment(
        dialect="mpp",
        rail="lightning",
        payload={"preimage": "5ec7e7"},
        offer=offer.model_copy(update={"token": "k1.1.5ec7e7.mac"}),
        envelope={"challenge": "5ec7e7"},
    )
    assert "5ec7e7" not in repr(payment)
    assert "mpp" in repr(payment)


def test_a_payment_without_an_echo_has_no_offer() -> None:
    payment = Payment(dialect="x-receipt", rail="base", payload={"receipt": "0xabc"})
    assert (payment.offer, payment.envelope) == (None, {})


@pytest.mark.parametrize("missing", ["dialect", "rail", "payload"])
def test_a_payment_must_say(missing: str) -> None:
    members = {"dialect": "mpp", "rail": "base", "payload": {}}
    del members[missing]
    with pytest.raises(ValidationError, match=missing):
        Payment.model_validate(members)


def test_what_is_wrong_with_a_proof_is_said_without_the_proof() -> None:
    with pytest.raises(ValidationError) as caught:
        Payment.model_validate({"dialect": "mpp", "rail": "base", "payload": "5ec7e7"})
    assert "5ec7e7" not in str(caught.value)


def test_a_challenge_asks_for_payment_unless_told(order: Order, offer: Offer) -> None:
    challenge = Challenge(order=order, price=offer.price, offers=(offer,), now=1)
    assert (challenge.code, challenge.detail, challenge.offers) == ("payment_required", "", (offer,))
