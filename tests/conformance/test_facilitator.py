"""Our facilitator over the Base sandbox, with our own client of facilitators in front of it: the books are counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402.client.payer import Payer
from rail402.facilitator.app import facilitator_app
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import Facilitator
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock
from rail402_base.chain import SandboxBackend, Submitted, Trace, Transfer
from rail402_base.eip3009 import Authorization, address_of, digest, sign
from rail402_base.facilitator import FacilitatorBackend
from rail402_base.facilitator_wire import SignedTransfer, request_body
from rail402_base.rail import BaseRail
from rail402_base.sandbox import ENDOWMENT, SandboxChain
from rail402_base.tokens import BASE_SEPOLIA_USDC, SANDBOX_USDC, Token
from rail402_base.wallet import BaseWallet

URL, DESK = "http://testserver", "http://facilitator.internal"
AGENT_KEY, PUBLISHER_KEY, THIRD_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
AGENT, PUBLISHER, THIRD = (address_of(key) for key in (AGENT_KEY, PUBLISHER_KEY, THIRD_KEY))
PRICE = 3000
SANDBOX = "eip155:402402"


class Reader(SandboxBackend):
    """The sandbox as a chain that is only read, as a seller with a facilitator sees it."""

    async def trace(
        self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int, transactions: Iterable[str] = ()
    ) -> Trace:
        return await super().trace(token, authorizer, nonce, valid_before=valid_before)

    async def transfer_in(
        self, token: Token, authorization: Authorization, transaction: str
    ) -> Transfer | Submitted | None:
        found = await super().trace(
            token, authorization.from_, authorization.nonce, valid_before=authorization.valid_before
        )
        return found if isinstance(found, Transfer | Submitted) else None


class Line(httpx.AsyncBaseTransport):
    """The line between seller and facilitator, which can break: after the request arrived, before the answer does."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.asked: list[tuple[str, Any]] = []
        self.lose = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        self.asked.append((request.url.path, json.loads(request.content or b"{}")))
        if self.lose and request.url.path == "/settle":
            self.lose -= 1
            raise httpx.ReadError("the line broke", request=request)
        return response

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked if path != "/supported"]


class World:
    """A seller with a gate, a facilitator, an agent, and the chain between them."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.clock = FakeClock()
        self.chain = SandboxChain(path / "base.db", clock=self.clock)
        self.facilitator = Facilitator(
            [BaseRail.sandbox(path, clock=self.clock)],
            store="memory://",
            settings=FacilitatorSettings(**{"reconcile_seconds": 0, "wait_seconds": 1} | settings),
            clock=self.clock,
        )
        self.line = Line(facilitator_app(self.facilitator))
        self.reader = Reader(self.chain, clock=self.clock)
        self.backend = FacilitatorBackend(
            DESK, reader=self.reader, clock=self.clock, transport=self.line, sleep=self._nap
        )
        self.gate = Gate(
            rails=[BaseRail(self.backend, pay_to=PUBLISHER)],
            public_url=URL,
            store="memory://",
            clock=self.clock,
            reconcile_seconds=0,
            wait_seconds=1,
        )
        self.wallet = BaseWallet.sandbox(path, private_key=AGENT_KEY.hex(), clock=self.clock)
        self.payer = Payer([self.wallet], journal=f"sqlite:///{path}/wallet.db", clock=self.clock)
        self.payer.sleep = self._sleep
        self.runs = 0
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.get("/article")
        @self.gate.paid("0.003 USD")
        async def article() -> dict[str, int]:
            self.runs += 1
            return {"run": self.runs}

    async def _nap(self, seconds: int) -> None:
        self.clock.advance(seconds)

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(max(int(seconds), 130))
        await self.gate.reconcile()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=self.app)
        async with (
            self.facilitator,
            self.gate,
            self.payer,
            httpx.AsyncClient(transport=self.payer.transport(transport), base_url=URL) as agent,
        ):
            yield agent

    async def assert_paid(self, times: int) -> None:
        books = await self.chain.books()
        assert books.balances.get(PUBLISHER, 0) == times * PRICE
        assert books.balances[AGENT] == ENDOWMENT - times * PRICE
        assert sum(books.balances.values()) == books.minted


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_purchase_goes_through_it_and_is_paid_once(world: World) -> None:
    async with world.open() as agent:
        for run in (1, 2):
            assert (await agent.get("/article")).json() == {"run": run}
            await world.assert_paid(run)
    assert world.line.paths() == ["/verify", "/settle"] * 2
    assert {body["x402Version"] for path, body in world.line.asked if path != "/supported"} == {2}


async def test_a_client_of_version_1(world: World) -> None:
    world.facilitator.kinds = tuple(kind for kind in world.facilitator.kinds if kind.version == 1)
    async with world.open() as agent:
        assert (await agent.get("/article")).json() == {"run": 1}
    assert {body["x402Version"] for path, body in world.line.asked if path != "/supported"} == {1}
    await world.assert_paid(1)


async def test_many_at_once_are_each_paid_once(world: World) -> None:
    async with world.open() as agent:
        served = await asyncio.gather(*(agent.get("/article") for _ in range(8)))
    assert sorted(each.json()["run"] for each in served) == list(range(1, 9))
    await world.assert_paid(8)


async def test_a_lost_answer_is_looked_up_and_served_once(world: World) -> None:
    world.line.lose = 1
    async with world.open() as agent:
        assert (await agent.get("/article")).json() == {"run": 1}
    await world.assert_paid(1)
    assert world.runs == 1


async def test_a_settlement_that_the_facilitator_lost_sight_of(world: World) -> None:
    await world.chain.inject("lost_answer")
    async with world.open() as agent:
        assert (await agent.get("/article")).json() == {"run": 1}
    await world.assert_paid(1)


# --- its own answers


class Caller:
    """A seller without a gate, which asks the facilitator by hand."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world, self.client = world, client
        self._nonce = 0

    def authorization(self, **members: Any) -> Authorization:
        self._nonce += 1
        honest: dict[str, Any] = {
            "from_": AGENT,
            "to": PUBLISHER,
            "value": PRICE,
            "valid_after": 0,
            "valid_before": self.world.clock() + 600,
            "nonce": self._nonce.to_bytes(32, "big"),
        }
        return Authorization(**(honest | members))

    def body(
        self, authorization: Authorization | None = None, *, key: bytes = AGENT_KEY, version: int = 2
    ) -> dict[str, Any]:
        authorization = authorization or self.authorization()
        signature = sign(digest(SANDBOX_USDC.domain, authorization), key)
        transfer = SignedTransfer(SANDBOX_USDC, authorization, signature)
        body: dict[str, Any] = json.loads(json.dumps(request_body(version, transfer, now=self.world.clock())))
        return body

    async def ask(self, path: str, body: Any) -> dict[str, Any]:
        response = await self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        said: dict[str, Any] = response.json()
        return said


@asynccontextmanager
async def calling(world: World) -> AsyncIterator[Caller]:
    await world.wallet.start()
    async with world.facilitator, httpx.AsyncClient(transport=world.line, base_url=DESK) as client:
        yield Caller(world, client)


REFUSALS = {
    "forged": "invalid_exact_evm_payload_signature",
    "for another amount": "invalid_exact_evm_payload_authorization_value_mismatch",
    "for another payee": "invalid_exact_evm_payload_recipient_mismatch",
    "expired": "invalid_exact_evm_payload_authorization_valid_before",
    "expiring": "invalid_exact_evm_payload_authorization_valid_before",
    "too early": "invalid_exact_evm_payload_authorization_valid_after",
    "without funds": "insufficient_funds",
    "used": "duplicate_settlement",
    "of another token": "invalid_payment_requirements",
    "of another chain": "invalid_network",
    "by another scheme": "unsupported_scheme",
    "with no signature": "invalid_payload",
    "with a short signature": "invalid_exact_evm_payload_signature",  # a contract's, it may be; the sandbox has none
    "of a wallet that is not deployed": "invalid_exact_evm_payload_undeployed_smart_wallet",
    "with another domain": "invalid_payment_requirements",
}


SIGNATURES = {
    "with no signature": {"signature": "0x"},
    "with a short signature": {"signature": "0x00"},
    "of a wallet that is not deployed": {"signature": "0x" + 96 * "00" + 16 * "6492"},
}


async def refused(caller: Caller, what: str) -> dict[str, Any]:
    """Return a body that must be refused."""
    now = caller.world.clock()
    members: dict[str, dict[str, Any]] = {
        "expired": {"valid_before": now},
        "expiring": {"valid_before": now + 5},
        "too early": {"valid_after": now + 60},
        "without funds": {"value": ENDOWMENT + 1},
    }
    authorization = caller.authorization(**members.get(what, {}))
    body = caller.body(authorization, key=THIRD_KEY if what == "forged" else AGENT_KEY)
    terms = [body["paymentRequirements"], body["paymentPayload"]["accepted"]]
    changes: dict[str, dict[str, Any]] = {
        "for another amount": {"amount": str(PRICE - 1)},
        "for another payee": {"payTo": THIRD},
        "of another token": {"asset": BASE_SEPOLIA_USDC.address},
        "of another chain": {"network": "eip155:84532"},
        "by another scheme": {"scheme": "upto"},
        "with another domain": {"extra": {"name": "USD Coin", "version": "2"}},
    }
    for each in terms:
        each.update(changes.get(what, {}))
    body["paymentPayload"]["payload"] |= SIGNATURES.get(what, {})
    if what == "used":
        signature = sign(digest(SANDBOX_USDC.domain, authorization), AGENT_KEY)
        await caller.world.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)
    return body


@pytest.mark.parametrize("path", ["/verify", "/settle"])
@pytest.mark.parametrize("what", REFUSALS)
async def test_a_payment_is_refused_in_x402s_words(world: World, what: str, path: str) -> None:
    async with calling(world) as caller:
        body = await refused(caller, what)
        before = await world.chain.books()
        said = await caller.ask(path, body)
        assert await world.chain.books() == before
    assert said.get("isValid", said.get("success")) is False
    assert said.get("invalidReason", said.get("errorReason")) == REFUSALS[what]
    assert None not in said.values()


@pytest.mark.parametrize("version", [1, 2])
async def test_settled_once_whatever_is_asked_how_often(world: World, version: int) -> None:
    async with calling(world) as caller:
        body = caller.body(version=version)
        assert await caller.ask("/verify", body) == {"isValid": True, "payer": AGENT}
        said = await asyncio.gather(*(caller.ask("/settle", body) for _ in range(5)))
        (success,) = (each for each in said if each["success"])
        assert success["network"] == (SANDBOX if version == 2 else "rail402-sandbox")
        assert {each["transaction"] for each in said} == {success["transaction"]}
        later = await caller.ask("/settle", body)
        assert (later["errorReason"], later["transaction"]) == ("duplicate_settlement", success["transaction"])
        assert (await caller.ask("/verify", body))["invalidReason"] == "duplicate_settlement"
    await world.assert_paid(1)


async def test_what_is_not_mined_yet_is_pending_with_its_transaction(world: World) -> None:
    await world.chain.inject("pending")
    async with calling(world) as caller:
        body = caller.body()
        said = await caller.ask("/settle", body)
        assert (said["success"], said["errorReason"]) == (False, "settlement_pending")
        sent = said["transaction"]
        assert await world.chain.transaction(sent) is not None
        assert (await caller.ask("/settle", body))["transaction"] == sent
        (mined,) = await world.chain.release()
        done = await caller.ask("/settle", body)
        assert (done["success"], done["transaction"]) == (True, mined.hash)
    assert mined.hash == sent
    await world.assert_paid(1)


async def test_one_that_was_dropped_may_be_settled_again(world: World) -> None:
    await world.chain.inject("dropped")
    async with calling(world) as caller:
        body = caller.body()
        assert (await caller.ask("/settle", body))["errorReason"] == "invalid_transaction_state"
        assert (await caller.ask("/verify", body))["isValid"]
        assert (await caller.ask("/settle", body))["success"]
    await world.assert_paid(1)


async def test_somebody_else_handed_it_in_while_it_was_on_its_way(world: World) -> None:
    async with calling(world) as caller:
        authorization = caller.authorization()
        signature = sign(digest(SANDBOX_USDC.domain, authorization), AGENT_KEY)
        settle = world.facilitator._rails["base"].chain.settle  # type: ignore[attr-defined]

        async def beaten(*given: Any) -> Any:
            await world.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)
            return await settle(*given)

        world.facilitator._rails["base"].chain.settle = beaten  # type: ignore[attr-defined]
        said = await caller.ask("/settle", caller.body(authorization))
        assert said["success"]
        assert said["transaction"]
    await world.assert_paid(1)


async def test_payees_of_others_are_not_settled_for(tmp_path: Path) -> None:
    world = World(tmp_path, pay_to=(PUBLISHER.lower(),))
    async with calling(world) as caller:
        theirs = caller.body(caller.authorization(to=THIRD))
        for path, word in (("/verify", "invalidReason"), ("/settle", "errorReason")):
            assert (await caller.ask(path, theirs))[word] == "invalid_payment_requirements"
        assert (await caller.ask("/settle", caller.body()))["success"]
    await world.assert_paid(1)


async def test_many_payees_are_paid_what_they_asked(world: World) -> None:
    async with calling(world) as caller:
        for payee, value in ((PUBLISHER, PRICE), (THIRD, 7)):
            said = await caller.ask("/settle", caller.body(caller.authorization(to=payee, value=value)))
            assert (said["success"], said["amount"]) == (True, str(value))
    assert await world.chain.balance_of(THIRD) == 7
    assert await world.chain.balance_of(PUBLISHER) == PRICE
