"""What arrives from Stripe while the answer is still on its way out."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.responses import StreamingResponse

from rail402.protocol.charge import PaymentState
from tests.conformance.test_stripe_end_to_end import Shop, no_telemetry_file
from tests.unit.rail402_stripe.account import CAPTURE, Account

__all__ = ["no_telemetry_file"]

SECRET = "whsec_test123456"


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    account = Account(tmp_path, webhook_secrets=[SECRET])
    yield account
    await account.close()


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_lost_capture_is_looked_up_after_the_answer_was_collected(account: Account, meanwhile: bool) -> None:
    shop = Shop(account, "escrow", "memory://")
    runs: list[int] = []

    @shop.app.get("/slow")
    @shop.gate.paid("0.50 USD", flow="escrow")
    async def slow() -> StreamingResponse:
        runs.append(1)

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            if meanwhile:
                await shop.gate.reconcile()
            yield b"two"

        return StreamingResponse(pieces(), headers={"content-length": "6"})

    async with shop.open():
        account.spoil(CAPTURE, "timeout", applied=True)
        offer, spt = await shop.offer("/slow"), await account.token()
        lost = await shop.show(offer, spt, "/slow")
        assert (lost.status_code, lost.json()["code"]) == (503, "outcome_unknown")
        await shop.gate.reconcile()
        served = await shop.show(offer, spt, "/slow")
        assert (served.status_code, served.text, served.headers["idempotent-replayed"]) == (200, "onetwo", "true")
        assert (len(runs), await account.balance()) == (1, 50)


async def test_a_refund_in_the_dashboard_while_it_is_served_is_told_again(account: Account) -> None:
    shop = Shop(account, "upfront", "memory://")
    told: list[int] = []

    async def tell() -> None:
        charge = await shop.only_charge()
        subject = {"object": "charge", "payment_intent": charge.transaction, "metadata": {"rail402_charge": charge.id}}
        event = {"type": "charge.refunded", "livemode": False, "created": account.clock(), "data": {"object": subject}}
        body, now = json.dumps(event).encode(), account.clock()
        signature = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {"stripe-signature": f"t={now},v1={signature}"}
        path = "/.well-known/rail402/stripe/webhook"
        told.append((await shop.client.post(path, content=body, headers=headers)).status_code)

    @shop.app.get("/slow")
    @shop.gate.paid("0.50 USD", flow="upfront")
    async def slow() -> dict[str, int]:
        await account.api.refund(str((await shop.only_charge()).transaction), "by hand", {})
        await tell()
        return {"n": 1}

    async with shop.open():
        offer, spt = await shop.offer("/slow"), await account.token()
        assert (await shop.show(offer, spt, "/slow")).status_code == 200
        await tell()
        assert told == [503, 200]  # Stripe comes again after the first
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        assert (await shop.show(offer, spt, "/slow")).status_code == 402
