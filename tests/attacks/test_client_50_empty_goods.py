"""50: paid, and what comes is empty or no good. It is recorded as paid; asking for more than that is not built yet."""

from __future__ import annotations

import pytest

from tests.attacks.agents import Agent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

GOODS = {
    "empty": answer(200),
    "no content": b"HTTP/1.1 204 -\r\n\r\n",
    "not modified": b"HTTP/1.1 304 -\r\n\r\n",
    "a redirect to nowhere": answer(302),
    "an excuse": answer(200, body=b'{"error": "try again and pay again"}'),
    "another price": answer(200, [("PAYMENT-REQUIRED", "e30=")], b'{"type": "x402", "payment": {"amount": "1"}}'),
}


@pytest.mark.parametrize("goods", GOODS.values(), ids=GOODS)
async def test_it_is_recorded_as_paid_and_bought_once(agent: Agent, goods: bytes, observed: Observe) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms()) if request.proof is None else goods

    async with RawServer(handle) as server:
        response = await agent.get(server.url)
    purchase = response.extensions["rail402"]
    assert (purchase.outcome, purchase.receipt, str(purchase.price)) == ("paid", None, "0.003 USD")
    assert (agent.signed, await agent.states()) == (1, ["committed"])
    record = await agent.payer.journal.get(purchase.record_id)
    assert record is not None
    assert (record.order.url, str(record.cost)) == (f"{server.url}/", "0.003 USD")
    observed("empty and broken goods are recorded as paid, and bought once")


async def test_an_error_without_a_receipt_is_not_called_paid(agent: Agent) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms()) if request.proof is None else answer(404)

    async with RawServer(handle) as server:
        response = await agent.get(server.url)
    assert (response.status_code, response.extensions["rail402"].outcome) == (404, "unknown")
    assert await agent.states() == ["unknown"]
    assert await agent.spent() == {"USD": "0.003 USD"}
