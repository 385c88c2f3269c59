"""Every chain that x402 version 1 has a name for, from the 402 to the settlement and back, in that name."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rail402.dialects import X402V1
from rail402.errors import PaymentRejected, Rail402Error
from rail402.money import Money
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST, Order
from rail402.protocol.rail import Registry
from rail402_base.tokens import BASE_USDC, NETWORKS, Network, Token
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, PAYEE, TIMEOUT, vectors

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "x402_v1_networks.json").read_text())
PAYLOAD = vectors()["specification"]["payload"]
ORDER = Order(method="GET", url="https://api.example.com/a", route="GET /a")
V1 = X402V1()


def spec_on(name: str, chain_id: int) -> BaseSpec:
    network = Network(chain_id=chain_id, title=name, v1_name=name, kind="testnet")
    token = Token(network=network, symbol="USDC", address=BASE_USDC.address, decimals=6, name="USDC", version="2")
    return BaseSpec(token)


def offer_of(spec: BaseSpec) -> Offer:
    return spec.offer(
        spec.tokens[0],
        payee=PAYEE,
        amount=3000,
        flow=Flow.AUTHORIZATION,
        expires_at=NOW + TIMEOUT,
        timeout_seconds=TIMEOUT,
    )


def decoded(lines: Any) -> Any:
    ((_, value),) = lines
    return json.loads(base64.b64decode(value, validate=True))


@pytest.mark.parametrize(("name", "chain_id"), VECTORS["networks"].items())
def test_a_purchase_in_the_name_of_version_1(name: str, chain_id: int) -> None:
    spec = spec_on(name, chain_id)
    context, made = Context(specs=Registry([spec]), now=NOW), offer_of(spec)
    said = V1.challenge(Challenge(order=ORDER, price=Money.parse("0.003 USD"), offers=(made,), now=NOW), context)
    assert said.body["accepts"][0]["network"] == name

    (offer,) = V1.offers(Fields(), json.dumps(said.body).encode(), context)
    assert (offer.network, offer.canonical) == (f"eip155:{chain_id}", made.canonical)

    lines = V1.credential(offer, PAYLOAD, context)
    assert decoded(lines)["network"] == name
    (payment,) = V1.payments(Fields(lines), EMPTY_BODY_DIGEST, context)
    assert payment.payload == PAYLOAD

    for state, facts in ((PaymentState.SETTLED, {"transaction": "0x1"}), (PaymentState.UNKNOWN, {})):
        charge = Charge(
            id="ch_1",
            order=ORDER,
            offer=made,
            price=made.price,
            dialect="x402-v1",
            keys=("key",),
            created_at=NOW,
            lease_until=NOW,
            window=600,
            payment=state,
            **facts,
        )
        outcome = decoded(V1.receipt(charge, payment, context))
        assert (outcome["network"], outcome["success"]) == (name, state is PaymentState.SETTLED)
        assert outcome.get("errorReason") == (None if outcome["success"] else "settlement_pending")


def test_our_own_networks_have_these_names() -> None:
    known = {network.v1_name: network.chain_id for network in NETWORKS.values() if network.kind != "sandbox"}

    assert known.items() <= VECTORS["networks"].items()


@pytest.mark.parametrize("name", VECTORS["none"], ids=repr)
def test_no_other_name_is_one(name: Any) -> None:
    spec = spec_on("base", 8453)
    context = Context(specs=Registry([spec]), now=NOW)
    said = V1.challenge(
        Challenge(order=ORDER, price=Money.parse("0.003 USD"), offers=(offer_of(spec),), now=NOW), context
    )
    (entry,) = said.body["accepts"]
    body = {**said.body, "accepts": [{**entry, "network": name}]}
    assert V1.offers(Fields(), json.dumps(body).encode(), context) == []

    message = {"x402Version": 1, "scheme": "exact", "network": name, "payload": PAYLOAD}
    field = base64.b64encode(json.dumps(message).encode()).decode()
    with pytest.raises(Rail402Error) as caught:
        V1.payments(Fields([("x-payment", field)]), EMPTY_BODY_DIGEST, context)
    assert isinstance(caught.value, PaymentRejected) == isinstance(name, str)


def test_two_chains_are_told_apart() -> None:
    polygon, celo = (
        Context(specs=Registry([spec_on(name, VECTORS["networks"][name])]), now=NOW) for name in ("polygon", "celo")
    )
    made = offer_of(spec_on("celo", 42220))
    said = V1.challenge(Challenge(order=ORDER, price=Money.parse("0.003 USD"), offers=(made,), now=NOW), celo)

    assert V1.offers(Fields(), json.dumps(said.body).encode(), polygon) == []
