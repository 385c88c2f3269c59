"""40: payee, amount or asset that change between asking and paying; a HEAD that is cheaper than the GET."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.errors import BudgetExceeded
from rail402_base.eip3009 import parse_authorization
from rail402_base.sandbox import SandboxChain
from rail402_base.tokens import SANDBOX_USDC
from rail402_base.wallet import BaseWallet
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

SHOP, THIEF = "0x" + "11" * 20, "0x" + "22" * 20


def usdc_terms(**changes: Any) -> dict[str, Any]:
    """Terms of 0.003 USDC in the sandbox, with members changed."""
    terms = {
        "scheme": "exact",
        "network": SANDBOX_USDC.network.caip2,
        "asset": SANDBOX_USDC.address,
        "amount": "3000",
        "payTo": SHOP,
        "maxTimeoutSeconds": 180,
        "extra": {"name": SANDBOX_USDC.name, "version": SANDBOX_USDC.version},
    }
    return terms | changes


def message(proof: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(proof))
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"payTo": "thief"},
        {"amount": "2000000"},
        {"amount": "1"},
        {"maxTimeoutSeconds": 10**9},
        {"network": "fake:other"},
        {"asset": "eur"},
    ],
)
async def test_what_is_paid_is_what_was_checked(agent: Agent, change: dict[str, Any], observed: Observe) -> None:
    """Each 402 after the first asks for something else; the payment still is for what the first one said."""
    terms = fake_terms()

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if len(server.proofs) == 3:
            return answer(200, body=b"bought")
        return challenge(terms if len(server.requests) == 1 else fake_terms(**change))

    async with RawServer(handle) as server:
        assert (await agent.get(server.url)).text == "bought"
        assert len(set(server.proofs)) == 1
        sent = message(server.proofs[0])
        assert sent["accepted"] == terms
        paid = {name: sent["payload"][name] for name in ("amount", "payee", "network", "asset")}
        assert paid == {"amount": "3000", "payee": "shop", "network": "fake:fake", "asset": "usd"}
    assert agent.signed == 1
    observed("what is paid is what was checked, whatever the server says next")


async def test_a_real_signature_is_over_the_checked_terms(open_agent: OpenAgent, tmp_path: Any) -> None:
    wallet = BaseWallet.sandbox(tmp_path / "sandbox", private_key="01" * 32)
    agent = open_agent(wallets=[wallet])

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(usdc_terms())
        if len(server.proofs) < 3:
            return challenge(usdc_terms(payTo=THIEF, amount="900000"))
        return answer(200, body=b"bought")

    async with RawServer(handle) as server:
        assert (await agent.get(server.url)).text == "bought"
        (proof,) = set(server.proofs)
        authorization, _ = parse_authorization(message(proof)["payload"])
        assert (authorization.to.lower(), authorization.value) == (SHOP, 3000)
        assert authorization.from_ == wallet.signer.address
    chain = SandboxChain(tmp_path / "sandbox" / "base.db", clock=agent.clock)
    assert await chain.balance_of(THIEF) == await chain.balance_of(SHOP) == 0


async def test_the_budget_judges_the_price_of_the_get(open_agent: OpenAgent, observed: Observe) -> None:
    agent = open_agent(budget=Budget(per_request="0.01 USD"))

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms("1" if request.method == "HEAD" else "10001"))
        return answer(200)

    async with RawServer(handle) as server:
        assert (await agent.request("HEAD", server.url)).status_code == 200
        with pytest.raises(BudgetExceeded):
            await agent.get(server.url)
        assert [request.method for request in server.requests] == ["HEAD", "HEAD", "GET"]
    assert await agent.spent() == {"USD": "0.000001 USD"}
    observed("a HEAD that is cheap approves no GET that is dear")


async def test_an_open_purchase_is_gone_on_with_at_its_own_terms(agent: Agent) -> None:
    """A payment that was not served keeps its terms, whatever the server asks for when the agent comes back."""

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms() if len(server.requests) == 1 else fake_terms("999999", payTo="thief"))
        return None if len(server.proofs) <= 6 else answer(200, body=b"bought")

    async with RawServer(handle) as server:
        with pytest.raises(Exception, match="connection failed"):
            await agent.get(server.url)
        assert (await agent.get(server.url)).text == "bought"
        assert len(set(server.proofs)) == 1
    assert (agent.signed, await agent.spent()) == (1, {"USD": "0.003 USD"})
