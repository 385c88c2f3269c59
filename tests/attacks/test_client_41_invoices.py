"""41: invoices that say something else than the offer beside them, or that must not be paid at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ClientError, NoUsableOffer
from rail402.testing.fakes import FakeClock
from rail402_lightning.backends import SentPayment
from rail402_lightning.backends.sandbox import SandboxSender
from rail402_lightning.sandbox import ENDOWMENT_MSAT
from rail402_lightning.wallet import LightningWallet
from tests.attacks.agents import OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer
from tests.unit.rail402_lightning.invoices import AMOUNT, NOW, PREIMAGE, ToldSender, invoice


def asking(**payment: Any) -> Any:
    """Asks in the X-Receipt dialect."""
    body = json.dumps({"type": "x402", "payment": {"network": "lightning", **payment}}).encode()

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is not None:
            return answer(200, body=b"bought")
        return answer(402, [("Content-Type", "application/json")], body)

    return handle


LIES: dict[str, dict[str, Any]] = {
    "a smaller amount beside it": {"invoice": invoice(), "amount_sats": AMOUNT // 1000 - 1},
    "a larger amount beside it": {"invoice": invoice(), "amount_sats": AMOUNT // 1000 + 1},
    "an amount in msat beside it": {"invoice": invoice(), "amount_sats": AMOUNT},
    "no amount at all": {"invoice": invoice(amount_msat=None)},
    "no amount, and one beside it": {"invoice": invoice(amount_msat=None), "amount_sats": 21},
    "expired": {"invoice": invoice(created_at=NOW - 601)},
    "expiring": {"invoice": invoice(created_at=NOW - 590)},
    "from the future": {"invoice": invoice(created_at=NOW + 3600)},
    "mainnet": {"invoice": invoice(prefix="bc")},
    "testnet": {"invoice": invoice(prefix="tb")},
    "signet": {"invoice": invoice(prefix="tbs")},
    "above the cap": {"invoice": invoice(amount_msat=1_000_001)},
    "far above the cap": {"invoice": invoice(amount_msat=2_000_000_000)},
    "held for months": {"invoice": invoice(min_final_cltv_expiry=20_000)},
    "another checksum": {"invoice": invoice()[:-1] + ("q" if invoice()[-1] != "q" else "p")},
    "not an invoice": {"invoice": "lnbcrt1"},
    "no invoice": {},
    "a text for a number": {"invoice": invoice(), "amount_sats": "٢١"},
    "a fraction": {"invoice": invoice(), "amount_sats": 21.0},
}


@pytest.mark.parametrize("kind", ["async"])
@pytest.mark.parametrize("payment", LIES.values(), ids=LIES)
async def test_such_an_invoice_is_not_paid(
    open_agent: OpenAgent, tmp_path: Path, payment: dict[str, Any], observed: Observe
) -> None:
    clock = FakeClock(NOW)
    wallet = LightningWallet.sandbox(tmp_path / "sandbox", clock=clock, name="agent")
    agent = open_agent(wallets=[wallet], clock=clock)
    async with RawServer(asking(**payment)) as server:
        with pytest.raises(ClientError) as caught:
            await agent.get(server.url)
        assert caught.value.outcome == "not_paid"
        assert server.proofs == []
    assert isinstance(wallet.sender, SandboxSender)
    assert await wallet.sender.node.balance("agent") == ENDOWMENT_MSAT
    observed("invoices of another amount, of none, expired, or of another network are not paid")


@pytest.mark.parametrize("kind", ["async"])
async def test_a_route_that_costs_more_than_allowed(open_agent: OpenAgent, observed: Observe) -> None:
    sender = ToldSender(ceiling=2001)
    agent = open_agent(wallets=[LightningWallet(sender, network="regtest")])
    async with RawServer(asking(invoice=invoice())) as server:
        with pytest.raises(NoUsableOffer, match="may spend up to 2001 msat on fees"):
            await agent.get(server.url)
    assert sender.paid == []
    observed("nor over a route that costs more than allowed")


@pytest.mark.parametrize("kind", ["async"])
async def test_the_node_is_told_the_most_that_the_route_may_cost(open_agent: OpenAgent) -> None:
    sender = ToldSender(SentPayment(state="paid", preimage=PREIMAGE, fee_msat=5))
    agent = open_agent(wallets=[LightningWallet(sender, network="regtest")])
    async with RawServer(asking(invoice=invoice())) as server:
        assert (await agent.get(server.url)).text == "bought"
        assert server.proofs == [PREIMAGE]
    assert sender.paid == [(invoice(), 2000)]
    assert await agent.spent() == {"BTC": "21005 msat"}
