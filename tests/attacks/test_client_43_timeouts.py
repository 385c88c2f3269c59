"""43: payments that a server wants to stay valid for years, and times that are none."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rail402.client.journal import Journal
from rail402.client.records import PurchaseRecord
from rail402.errors import ClientError, NoUsableOffer, PaymentOutcomeUnknown
from rail402.testing.fakes import FakeClock
from rail402_base.eip3009 import parse_authorization
from rail402_base.keys import LocalSigner
from rail402_base.tokens import SANDBOX_USDC
from rail402_base.wallet import BaseWallet
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms
from tests.attacks.test_client_40_changed_terms import message, usdc_terms

YEARS = 10 * 365 * 86_400


@pytest.mark.parametrize("seconds", [3600, 3601, 86_400, YEARS, 2**31 - 1])
async def test_a_signature_is_valid_for_an_hour_at_most(open_agent: OpenAgent, seconds: int, observed: Observe) -> None:
    wallet = BaseWallet(LocalSigner(bytes([1]) * 32), tokens=[SANDBOX_USDC])
    agent = open_agent(wallets=[wallet])

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(usdc_terms(maxTimeoutSeconds=seconds)) if request.proof is None else answer(200)

    async with RawServer(handle) as server:
        await agent.get(server.url)
        authorization, _ = parse_authorization(message(server.proofs[0])["payload"])
    assert authorization.valid_before == agent.clock() + 3600
    assert authorization.valid_after == 0
    observed("a signature is valid for an hour at most, whatever was asked")


@pytest.mark.parametrize("seconds", [0, -1, 2**31, 10**400, "60", 60.0, True, None, [], "٦٠"], ids=repr)
async def test_a_time_that_is_none(agent: Agent, seconds: Any) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms(maxTimeoutSeconds=seconds))

    async with RawServer(handle) as server:
        with pytest.raises(NoUsableOffer):
            await agent.get(server.url)
    assert agent.signed == 0


EXPIRIES = [
    *("2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "2027-13-01T00:00:00Z", "soon", "2030-01-01T00:00:00"),
    *("1830000000", "99999-01-01T00:00:00Z", "2027-01-15T08:00:00+99:99", "２０３０-01-01T00:00:00Z"),
    "9999-12-31T23:59:59-14:00",
]


@pytest.mark.parametrize("expires", EXPIRIES)
async def test_an_expiry_that_is_none(agent: Agent, expires: str) -> None:
    """The furthest one that can be read is only an expiry: what is paid stays valid for as long as the terms say."""
    details = {"flow": "upfront", "timeoutSeconds": 60, "extra": {}}
    request_ = {"amount": "3000", "currency": "usd", "recipient": "shop", "methodDetails": details}
    text = base64.urlsafe_b64encode(json.dumps(request_).encode()).decode().rstrip("=")
    line = f'Payment id="i", realm="r", method="fake", intent="charge", request="{text}", expires="{expires}"'

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return answer(402, [("WWW-Authenticate", line.encode().decode("latin-1"))])
        return answer(200, body=b"bought")

    async with RawServer(handle) as server:
        if expires.startswith("9999-"):
            assert (await agent.get(server.url)).text == "bought"
            (record,) = await agent.payer.journal.newest()
            assert record.valid_until() <= agent.clock() + 86_400
            return
        with pytest.raises(ClientError):
            await agent.get(server.url)
    assert agent.signed == 0


async def test_no_server_holds_an_amount_reserved_for_more_than_a_day(agent: Agent, observed: Observe) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms(maxTimeoutSeconds=YEARS)) if request.proof is None else None

    async with RawServer(handle) as server:
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(server.url)
    agent.clock.advance(86_401)
    (found,) = await agent.payer.recover()
    assert found.record.moved
    agent.clock.advance(86_401)
    assert await agent.spent("day") == {}
    observed("no server holds an amount reserved for more than a day")


@pytest.mark.parametrize("kind", ["async"])
async def test_a_proof_is_not_taken_for_expired_while_it_is_valid(
    open_agent: OpenAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wallet signs later than the purchase began, by as long as the journal took, and its proof ends later."""
    clock = FakeClock()
    reserve = Journal.reserve

    async def slow(self: Journal, record: PurchaseRecord, entries: Any, **options: Any) -> None:
        await reserve(self, record, entries, **options)
        clock.advance(25)

    monkeypatch.setattr(Journal, "reserve", slow)
    agent = open_agent(clock=clock)

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms()) if request.proof is None else None

    began = clock()
    async with RawServer(handle) as server:
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(server.url)
        valid_before = message(server.proofs[0])["payload"]["valid_before"]
    assert valid_before == began + 25 + 60
    clock.now = valid_before - 1
    (found,) = await agent.payer.recover()
    assert (found.outcome, found.record.moved) == ("unknown", False), "it may still be taken"
    assert found.record.valid_until() >= valid_before
    clock.now = valid_before
    (found,) = await agent.payer.recover()
    assert found.outcome == "not_paid"
