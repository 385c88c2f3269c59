"""A payment that names itself (extension `payment-identifier`): sent again it replays; nothing else has its name."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from rail402.dialects import X402V2
from tests.unit.server.shop import Shop
from tests.unit.server.test_admission import sell

ID = "order-2026-11-21-0001"


def named(proof: dict[str, str], identifier: str | None = ID) -> dict[str, str]:
    """Return the same payment under that name, or under none."""
    ((name, value),) = proof.items()
    message: dict[str, Any] = json.loads(base64.b64decode(value))
    info = message["extensions"]["payment-identifier"]["info"]
    info.pop("id")
    if identifier is not None:
        info["id"] = identifier
    return {name: base64.b64encode(json.dumps(message).encode()).decode()}


@pytest.mark.parametrize("flow", ["authorization", "escrow", "upfront"])
async def test_the_same_payment_replays_and_another_of_that_name_is_a_conflict(flow: str) -> None:
    shop = Shop()
    served = sell(shop, flow=flow)
    async with shop.open():
        first, second = named(await shop.quote("/goods")), named(await shop.quote("/goods"))
        bought = await shop.client.get("/goods", headers=first)
        again = await shop.client.get("/goods", headers=first)
        assert (bought.status_code, again.text, again.headers["Idempotent-Replayed"]) == (200, bought.text, "true")
        assert again.headers["PAYMENT-RESPONSE"] == bought.headers["PAYMENT-RESPONSE"]
        conflict = await shop.client.get("/goods", headers=second)
        assert (conflict.status_code, conflict.json()["code"]) == (409, "identifier_conflict")
        assert "payment-required" not in conflict.headers  # paying again is not what helps
        assert (len(served), shop.ledger.charged_total) == (1, 3000)
        other = await shop.client.get("/goods", headers=named(second, "order-2026-11-21-0002"))
        assert (other.status_code, shop.ledger.charged_total) == (200, 6000)


async def test_of_two_payments_of_one_name_at_once_one_is_taken() -> None:
    shop = Shop()
    served = sell(shop)
    async with shop.open():
        proofs = [named(await shop.quote("/goods")) for _ in range(8)]
        answers = await asyncio.gather(*(shop.client.get("/goods", headers=proof) for proof in proofs))
        assert sorted(answer.status_code for answer in answers) == [200, *[409] * 7]
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"identifier_conflict"}
        assert (len(served), shop.ledger.charged_total) == (1, 3000)


async def test_where_a_name_is_required_a_payment_without_one_is_refused_before_anything_happens() -> None:
    shop = Shop(dialects=[X402V2(identifier_required=True)])
    sell(shop)
    async with shop.open():
        proof = await shop.quote("/goods")
        refused = await shop.client.get("/goods", headers=named(proof, None))
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed_payment")
        assert shop.ledger.charged_total == 0
        assert (await shop.client.get("/goods", headers=named(proof))).status_code == 200
