"""What the rail says about texts of its own."""

from __future__ import annotations

from pydantic import SecretStr

from rail402.protocol.offer import Flow, Offer
from rail402_stripe.config import PLUGIN
from rail402_stripe.currencies import currency
from rail402_stripe.explain import describe, explain, network_name
from rail402_stripe.wire import StripeSpec


def offer(flow: Flow = Flow.ESCROW, external_id: str | None = None) -> Offer:
    return StripeSpec("stripe:test").offer(
        currency("eur"),
        payee="profile_test_1",
        amount=250,
        flow=flow,
        expires_at=1_800_000_000,
        payment_method_types=["card"],
        external_id=external_id,
    )


def test_a_spec_for_each_mode() -> None:
    networks = [spec.mechanisms[0].network for spec in PLUGIN.specs()]
    assert networks == ["stripe:live", "stripe:test", "stripe:sandbox"]
    assert [network_name(each) for each in networks] == ["Stripe", "Stripe, test mode", "Sandbox (no real money)"]
    assert network_name("stripe:other") is None


def test_what_would_be_taken() -> None:
    held = describe(offer(external_id="order-1"))
    assert (held["seller"], held["limit"], held["external_id"]) == ("profile_test_1", "2.5 EUR", "order-1")
    assert (held["proofs"], held["payment_method_types"]) == (["spt"], ["card"])
    assert "reserved" in held["taken"]
    assert "charged before" in describe(offer(Flow.UPFRONT))["taken"]


def test_a_token_is_secret() -> None:
    explained = explain("spt_1A2b")
    assert explained is not None
    assert explained.facts == {"spt": SecretStr("spt_1A2b")}
    for text in ("", "spt_", "spt_ü", "pi_123", "spt_1 2"):
        assert explain(text) is None
