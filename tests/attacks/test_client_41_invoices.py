"""41: invoices that say something else than the offer beside them, or that must not be paid at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rail402.errors import ClientError, NoUsableOffer
from rail402.testing.fakes import FakeClock
from rail402_lightning.backends import SentPayment
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


PAID = SentPayment(state="paid", preimage=PREIMAGE, fee_msat=5)
EXPIRED, ANOTHER_AMOUNT = "the invoice has expired", "the invoice is for another amount than the offer says"
NO_SATS = "payment.amount_sats: must be a whole number of sats"

# Each would be paid by a wallet that did not look at just this.
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a smaller amount beside it": ({"invoice": invoice(), "amount_sats": AMOUNT // 1000 - 1}, ANOTHER_AMOUNT),
    "a larger amount beside it": ({"invoice": invoice(), "amount_sats": AMOUNT // 1000 + 1}, ANOTHER_AMOUNT),
    "an amount in msat beside it": ({"invoice": invoice(), "amount_sats": AMOUNT}, ANOTHER_AMOUNT),
    "no amount at all": ({"invoice": invoice(amount_msat=None)}, "an open invoice is never paid"),
    "no amount, and one beside it": (
        {"invoice": invoice(amount_msat=None), "amount_sats": 21},
        "the invoice names no amount",
    ),
    "expired": ({"invoice": invoice(created_at=NOW - 601)}, EXPIRED),
    "expired just now": ({"invoice": invoice(created_at=NOW - 600)}, EXPIRED),
    "expiring": ({"invoice": invoice(created_at=NOW - 590)}, "the invoice expires in 10 s"),
    "from the future": ({"invoice": invoice(created_at=NOW + 3600)}, "was made 3600 s in the future"),
    "mainnet": ({"invoice": invoice(prefix="bc")}, "is for mainnet, and this wallet pays on regtest"),
    "testnet": ({"invoice": invoice(prefix="tb")}, "is for testnet, and this wallet pays on regtest"),
    "signet": ({"invoice": invoice(prefix="tbs")}, "is for signet, and this wallet pays on regtest"),
    "above the cap": ({"invoice": invoice(amount_msat=1_000_001)}, "the limit is 1000 sat per request"),
    "far above the cap": ({"invoice": invoice(amount_msat=2_000_000_000)}, "the limit is 1000 sat per request"),
    "held for months": ({"invoice": invoice(min_final_cltv_expiry=20_000)}, "hold the payment for 20000 blocks"),
    "another checksum": (
        {"invoice": invoice()[:-1] + ("q" if invoice()[-1] != "q" else "p")},
        "has a wrong checksum",
    ),
    "not an invoice": ({"invoice": "lnbcrt1"}, "is not bech32"),
    "no invoice": ({}, "invoice: must be a text"),
    "a text for a number": ({"invoice": invoice(), "amount_sats": "٢١"}, NO_SATS),
    "a fraction": ({"invoice": invoice(), "amount_sats": 21.0}, NO_SATS),
}
HONEST: dict[str, dict[str, Any]] = {
    "its amount beside it": {"invoice": invoice(), "amount_sats": AMOUNT // 1000},
    "no amount beside it": {"invoice": invoice()},
    "made a while ago": {"invoice": invoice(created_at=NOW - 300)},
    "held for a day": {"invoice": invoice(min_final_cltv_expiry=144)},
}


def rich_and_willing() -> ToldSender:
    """A node that would pay anything."""
    return ToldSender(PAID, msat=10**12)


@pytest.mark.parametrize("kind", ["async"])
@pytest.mark.parametrize(("payment", "reason"), LIES.values(), ids=LIES)
async def test_such_an_invoice_is_not_paid(
    open_agent: OpenAgent, payment: dict[str, Any], reason: str, observed: Observe
) -> None:
    sender = rich_and_willing()
    agent = open_agent(wallets=[LightningWallet(sender, network="regtest")], clock=FakeClock(NOW))
    async with RawServer(asking(**payment)) as server:
        with pytest.raises(ClientError, match=reason) as caught:
            await agent.get(server.url)
        assert caught.value.outcome == "not_paid"
        assert server.proofs == []
    assert sender.paid == []
    observed("invoices of another amount, of none, expired, or of another network are not paid")


@pytest.mark.parametrize("kind", ["async"])
@pytest.mark.parametrize("payment", HONEST.values(), ids=HONEST)
async def test_an_honest_one_is(open_agent: OpenAgent, payment: dict[str, Any]) -> None:
    sender = rich_and_willing()
    agent = open_agent(wallets=[LightningWallet(sender, network="regtest")], clock=FakeClock(NOW))
    async with RawServer(asking(**payment)) as server:
        assert (await agent.get(server.url)).text == "bought"
        assert server.proofs == [PREIMAGE]
    assert sender.paid == [(payment["invoice"], 2000)]


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
    sender = ToldSender(PAID)
    agent = open_agent(wallets=[LightningWallet(sender, network="regtest")])
    async with RawServer(asking(invoice=invoice())) as server:
        assert (await agent.get(server.url)).text == "bought"
        assert server.proofs == [PREIMAGE]
    assert sender.paid == [(invoice(), 2000)]
    assert await agent.spent() == {"BTC": "21005 msat"}
