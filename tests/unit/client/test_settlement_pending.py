"""A server that says 402 while it does not know yet whether it was paid, as the official x402 servers do."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rail402.errors import PaymentOutcomeUnknown
from tests.unit.client.shop import PRICE, Answer, Market

PENDING: dict[str, Any] = {
    "success": False,
    "errorReason": "settlement_pending",
    "transaction": "0x" + "ab" * 32,
    "network": "eip155:84532",
}


def pending(*, served: bool = False, body: Any = None) -> Answer:
    """A 402 with the outcome beside a fresh challenge, which invites a second payment."""
    fresh = {"x402Version": 2, "error": "settlement_pending", "resource": {"url": "https://shop.test/"}, "accepts": []}
    headers = {
        "PAYMENT-RESPONSE": base64.b64encode(json.dumps(PENDING).encode()).decode(),
        "PAYMENT-REQUIRED": base64.b64encode(json.dumps(fresh).encode()).decode(),
    }
    return Answer(402, headers, body={} if body is None else body, served=served)


@pytest.mark.parametrize("body", [{}, {"error": "settlement_pending"}, {"x402Version": 2, "error": "Payment required"}])
@pytest.mark.parametrize("times", [1, 3])
async def test_the_same_payment_is_shown_until_it_is_settled(market: Market, times: int, body: Any) -> None:
    market.shop.script.extend([pending(served=True, body=body), *[pending(body=body)] * (times - 1)])

    response = await market.request(market.payer())

    assert response.text == "article 1"
    assert len(market.shop.proofs) == times + 1
    assert len(set(market.shop.proofs)) == 1
    assert (market.ledger.count("pay"), market.ledger.charged_total) == (1, PRICE)
    assert await market.states() == ["committed"]


async def test_what_stays_pending_is_resumed_by_the_next_call_and_never_paid_again(market: Market) -> None:
    market.shop.script.extend([pending(served=True), *[pending()] * 50])
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown, match="stay reserved"):
        await market.request(payer)
    market.shop.script.clear()

    response = await market.request(payer)

    assert response.text == "article 1"
    assert len(set(market.shop.proofs)) == 1
    assert (market.ledger.count("pay"), market.ledger.charged_total) == (1, PRICE)
