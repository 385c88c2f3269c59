"""What x402 is told of a settlement that is not over, of why a payment was refused, and by whose signature."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from starlette.responses import JSONResponse

from rail402.dialects import DEFAULT_DIALECTS, X402V2
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.offer_receipt import OfferTerms, ReceiptTerms, keys_in, verify_jws
from rail402.protocol.outcome import Settled, Unknown
from rail402.testing.fakes import Ending
from tests.unit.server.shop import URL, Shop

SIGNED = X402V2(offer_receipts=True)


def make_shop(**options: Any) -> Shop:
    shop = Shop(**options)
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(_goods), methods=["GET"])
    return shop


async def _goods(request: Any) -> JSONResponse:
    return JSONResponse({"goods": 1})


def told(response: Any, field: str = "payment-response") -> Any:
    return json.loads(base64.b64decode(response.headers[field], validate=True))


@pytest.mark.parametrize("transaction", ["", "0xabc"])
async def test_an_unknown_outcome_is_pending_and_never_a_fresh_challenge(
    transaction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make_shop()
    async with shop.open():
        proof = await shop.quote("/goods")

        async def lost(charge: Any, payment: Any) -> Unknown:
            return Unknown(detail="no answer", state={"transaction": transaction} if transaction else {})

        monkeypatch.setattr(shop.rail, "settle", lost)
        for answer in [await shop.client.get("/goods", headers=proof) for _ in range(2)]:
            assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
            assert int(answer.headers["retry-after"]) > 0
            assert "payment-required" not in answer.headers
            assert "www-authenticate" not in answer.headers
            outcome = told(answer)
            assert (outcome["success"], outcome["errorReason"]) == (False, "settlement_pending")
            assert outcome["transaction"] == transaction
            assert outcome["network"] == shop.rail.fake.mechanism.network
        (charge,) = await shop.charges()
        assert charge.payment is PaymentState.UNKNOWN

        async def found(charge: Any, operation: Any) -> Settled:
            return Settled(transaction="0xabc")

        monkeypatch.setattr(shop.rail, "lookup", found)
        await shop.gate.reconcile()
        served = await shop.client.get("/goods", headers=proof)
        assert (served.status_code, told(served)["success"], told(served)["transaction"]) == (200, True, "0xabc")


async def test_a_refusal_is_said_in_the_rail_s_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make_shop()
    reasons = {"payment_declined": "invalid_exact_fake_declined"}
    monkeypatch.setattr(shop.rail.spec.bindings["x402-v2"], "reasons", reasons, raising=False)
    async with shop.open():
        for call in ("verify", "settle"):
            proof = await shop.quote("/goods")
            shop.ledger.script(call, Ending.FAILED)
            answer = await shop.client.get("/goods", headers=proof)
            assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
            assert told(answer, "payment-required")["error"] == "invalid_exact_fake_declined"
            if call == "settle":
                assert told(answer)["errorReason"] == "invalid_exact_fake_declined"
        unpaid = await shop.client.get("/goods")
        assert told(unpaid, "payment-required")["error"] == "payment_required"


async def test_offers_and_receipts_are_signed_by_the_key_that_the_host_s_did_names() -> None:
    shop = make_shop(dialects=[SIGNED, *DEFAULT_DIALECTS[1:]])
    async with shop.open():
        document = await shop.client.get("/.well-known/did.json")
        keys = keys_in(document.json())
        unpaid = await shop.client.get("/goods")
        paid = await shop.client.get("/goods", headers=await shop.proof(unpaid))

    assert (document.status_code, document.headers["content-type"]) == (200, "application/did+json")
    assert document.json()["id"] == "did:web:shop.example"
    challenge = told(unpaid, "payment-required")
    (artifact,) = challenge["extensions"]["offer-receipt"]["info"]["offers"]
    assert verify_jws(OfferTerms, artifact, keys).fits(challenge["accepts"][0], URL + "/goods")
    receipt = SIGNED.signed_receipt(Fields(paid.headers.multi_items()))
    assert receipt is not None
    assert verify_jws(ReceiptTerms, receipt, keys).payer == "alice"


async def test_without_the_extension_the_gate_answers_for_no_did() -> None:
    shop = make_shop()
    async with shop.open():
        assert (await shop.client.get("/.well-known/did.json")).status_code == 404
        assert (await shop.client.get("/.well-known/rail402/.well-known/did.json")).status_code == 404
        assert shop.gate.services().context().sign is None


async def test_the_document_has_one_address() -> None:
    shop = make_shop(dialects=[SIGNED])
    async with shop.open():
        assert (await shop.client.head("/.well-known/did.json")).status_code == 200
        assert (await shop.client.post("/.well-known/did.json")).status_code == 405
