"""Base USDC from end to end: a gate, a payer, and a ledger whose books are counted before and after."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from rail402.client.payer import Payer
from rail402.dialects import dialect_by_name
from rail402.errors import ClientError, NoUsableOffer, PaymentOutcomeUnknown
from rail402.protocol.base import sha256_hex
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.rail import Registry
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock
from rail402_base.eip3009 import Authorization, address_of, digest, parse_authorization, sign
from rail402_base.rail import BaseRail
from rail402_base.sandbox import ENDOWMENT, SandboxChain
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC, Token
from rail402_base.wallet import BaseWallet
from rail402_base.wire import payload_of

URL = "http://testserver"
AGENT_KEY, PUBLISHER_KEY, THIRD_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
AGENT, PUBLISHER, THIRD = (address_of(key) for key in (AGENT_KEY, PUBLISHER_KEY, THIRD_KEY))
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class World:
    """A publisher and an agent in one sandbox, and everything that passes between them."""

    def __init__(self, path: Path, *, store: str = "memory://", **options: Any) -> None:
        self.clock = FakeClock()
        self.rail = BaseRail.sandbox(path, pay_to=PUBLISHER, clock=self.clock)
        self.chain = SandboxChain(path / "base.db", clock=self.clock)
        self.wallet = BaseWallet.sandbox(path, private_key=AGENT_KEY.hex(), clock=self.clock)
        self.gate = Gate(
            rails=[self.rail],
            public_url=URL,
            store=store,
            clock=self.clock,
            reconcile_seconds=0,
            wait_seconds=1,
            **options,
        )
        self.payer = Payer([self.wallet], journal=f"sqlite:///{path}/wallet.db", clock=self.clock)
        self.payer.sleep = self._sleep
        self.app = FastAPI()
        self.gate.install(self.app)
        self.runs: list[str] = []
        self.in_handler: Callable[[], Awaitable[None]] | None = None
        self.while_waiting: Callable[[], Awaitable[Any]] = self.gate.reconcile
        self.status = 200
        self._routes()
        self._nonces = itertools.count(1)
        self.http: httpx.AsyncClient
        self.agent: httpx.AsyncClient

    def _routes(self) -> None:
        @self.app.get("/article")
        @self.gate.paid("0.003 USD")
        async def article(response: Response) -> dict[str, int]:
            return await self._serve("article", response)

        @self.app.get("/book")
        @self.gate.paid("0.50 USD")
        async def book(response: Response) -> dict[str, int]:
            return await self._serve("book", response)

        @self.app.get("/upfront")
        @self.gate.paid("0.003 USD", flow="upfront")
        async def upfront(response: Response) -> dict[str, int]:
            return await self._serve("upfront", response)

    async def _serve(self, name: str, response: Response) -> dict[str, int]:
        self.runs.append(name)
        if self.in_handler is not None:
            await self.in_handler()
        response.status_code = self.status
        return {"run": len(self.runs)}

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(max(int(seconds), 1))
        await self.while_waiting()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[World]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with (
            self.gate,
            self.payer,
            httpx.AsyncClient(transport=transport, base_url=URL) as self.http,
            httpx.AsyncClient(transport=self.payer.transport(transport), base_url=URL) as self.agent,
        ):
            yield self

    async def assert_books(self, *, paid: int) -> None:
        """All the money is there, and the publisher has this much of it."""
        books = await self.chain.books()
        assert books.minted == sum(books.balances.values()) == ENDOWMENT
        assert books.balances.get(PUBLISHER, 0) == paid

    # Payments by hand

    async def accepted(self, path: str) -> dict[str, Any]:
        """The requirements that a fresh 402 offers."""
        response = await self.http.get(path)
        assert response.status_code == 402
        (accepted,) = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"]
        found: dict[str, Any] = accepted
        return found

    def authorization(self, accepted: dict[str, Any], **members: Any) -> Authorization:
        """What an honest payer signs for these requirements, with members changed."""
        honest: dict[str, Any] = {
            "from_": AGENT,
            "to": accepted["payTo"],
            "value": int(accepted["amount"]),
            "valid_after": 0,
            "valid_before": self.clock() + accepted["maxTimeoutSeconds"],
            "nonce": next(self._nonces).to_bytes(32, "big"),
        }
        return Authorization(**(honest | members))

    async def payment(self, path: str, **members: Any) -> dict[str, str]:
        """A payment for a fresh offer of that path."""
        accepted = await self.accepted(path)
        return header(accepted, signed(self.authorization(accepted, **members)))

    async def refused(self, path: str, fields: dict[str, str], *, status: int = 402) -> str:
        """The reason for which a payment is refused: nothing is run and nothing moves."""
        runs, books = list(self.runs), await self.chain.books()
        response = await self.http.get(path, headers=fields)
        assert response.status_code == status, response.text
        assert "run" not in response.json()
        assert (self.runs, await self.chain.books()) == (runs, books)
        code: str = response.json()["code"]
        return code


def signed(authorization: Authorization, key: bytes = AGENT_KEY, token: Token = SANDBOX_USDC) -> dict[str, Any]:
    return dict(payload_of(authorization, sign(digest(token.domain, authorization), key)))


def header(accepted: Any, payload: Any) -> dict[str, str]:
    message = {"x402Version": 2, "accepted": accepted, "payload": payload}
    return {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message).encode()).decode()}


def opened(fields: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    message = json.loads(base64.b64decode(fields["PAYMENT-SIGNATURE"]))
    return message["accepted"], message["payload"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path).open() as world:
        yield world


# An authorization that somebody else hands in


async def preempt(world: World, fields: dict[str, str]) -> None:
    authorization, signature = parse_authorization(opened(fields)[1])
    await world.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)


@pytest.mark.parametrize("when", ["before it is shown", "after a release"])
async def test_who_was_preempted_has_paid(world: World, when: str) -> None:
    fields = await world.payment("/article")
    if when == "after a release":
        world.status = 500
        assert (await world.http.get("/article", headers=fields)).status_code == 500
        world.status = 200
    await preempt(world, fields)
    answer = await world.http.get("/article", headers=fields)
    assert (answer.status_code, "payment-response" in answer.headers) == (200, True)
    await world.assert_books(paid=3000)
    again = await world.http.get("/article", headers=fields)
    assert (again.status_code, again.content) == (200, answer.content)
    accepted = await world.accepted("/article")
    assert await world.refused("/article", header(accepted, opened(fields)[1]), status=409) == "replay_not_proven"


@pytest.mark.parametrize("how", ["by us", "by somebody else"])
async def test_a_transfer_pays_for_nothing_once_its_charge_is_forgotten(world: World, how: str) -> None:
    fields = await world.payment("/article", valid_before=world.clock() + 86_400)
    if how == "by somebody else":
        await preempt(world, fields)
    assert (await world.http.get("/article", headers=fields)).status_code == 200
    world.clock.advance(31 * 86_400)
    await world.gate.reconcile()
    accepted = await world.accepted("/article")
    assert await world.refused("/article", header(accepted, opened(fields)[1])) == "authorization_expired"


# A payer that pays


@pytest.mark.parametrize("store", ["memory://", "sqlite"])
@pytest.mark.parametrize("path", ["/article", "/upfront"])
async def test_an_agent_pays_once_and_has_a_receipt(tmp_path: Path, store: str, path: str) -> None:
    async with World(
        tmp_path, store=f"sqlite:///{tmp_path}/charges.db" if store == "sqlite" else store
    ).open() as world:
        await world.assert_books(paid=0)
        response = await world.agent.get(path)
        assert (response.status_code, response.json()) == (200, {"run": 1})
        await world.assert_books(paid=3000)
        purchase = response.extensions["rail402"]
        assert (purchase.outcome, str(purchase.price), str(purchase.fee)) == ("paid", "0.003 USDC", "0 USDC")
        receipt = purchase.receipt
        assert purchase.receipt_error is None
        assert (receipt.payer, receipt.payee, receipt.amount) == (AGENT, PUBLISHER, "3000")
        assert (receipt.network, receipt.asset) == ("eip155:402402", SANDBOX_USDC.address)
        assert receipt.sandbox is True
        assert receipt.response_digest == sha256_hex(response.content)
        settled = json.loads(base64.b64decode(response.headers["payment-response"]))
        assert settled == {
            "success": True,
            "payer": AGENT,
            "transaction": receipt.transaction,
            "network": "eip155:402402",
            "amount": "3000",
        }
        mined = await world.chain.transaction(receipt.transaction)
        assert mined is not None
        assert (mined.state, mined.authorization.value, mined.authorization.to) == ("mined", 3000, PUBLISHER)


async def test_every_purchase_is_one_payment(world: World) -> None:
    for number in range(1, 4):
        assert (await world.agent.get("/article")).json() == {"run": number}
        await world.assert_books(paid=number * 3000)


async def test_an_agent_without_the_money_signs_nothing(world: World) -> None:
    await move_all(world)
    with pytest.raises(NoUsableOffer, match="no balance"):
        await world.agent.get("/article")
    assert world.runs == []


@pytest.mark.parametrize(
    "lie",
    [
        {"asset": THIRD},
        {"network": "eip155:8453"},
        {"network": "eip155:8453", "asset": BASE_USDC.address, "extra": {"name": "USD Coin", "version": "2"}},
        {"extra": {"name": "USD Coin", "version": "2"}},
        {"extra": {"name": "Sandbox USDC", "version": "2", "decimals": 18}},
        {"amount": "1e3"},
        {"payTo": "0x" + 40 * "0"},
    ],
    ids=["unknown token", "other network", "other network's token", "name", "decimals", "amount", "zero payee"],
)
async def test_an_agent_does_not_sign_an_offer_that_lies(world: World, lie: dict[str, Any]) -> None:
    accepted = await world.accepted("/article")
    required = {"x402Version": 2, "resource": {"url": f"{URL}/article"}, "accepts": [accepted | lie]}

    def answer(request: httpx.Request) -> httpx.Response:
        assert "payment-signature" not in request.headers
        return httpx.Response(402, headers={"PAYMENT-REQUIRED": base64.b64encode(json.dumps(required).encode())})

    async with httpx.AsyncClient(transport=world.payer.transport(httpx.MockTransport(answer))) as agent:
        with pytest.raises(ClientError) as caught:
            await agent.get(f"{URL}/article")
    assert caught.value.outcome == "not_paid"
    await world.assert_books(paid=0)


# Replays


async def test_a_repeated_payment_gets_the_same_response_for_nothing(world: World) -> None:
    fields = await world.payment("/article")
    first = await world.http.get("/article", headers=fields)
    world.clock.advance(300)  # the authorization has expired and its nonce is used: it was paid
    again = await world.http.get("/article", headers=fields)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content == b'{"run":1}'
    assert again.headers["idempotent-replayed"] == "true"
    assert first.headers["receipt-record"] == again.headers["receipt-record"]
    await world.assert_books(paid=3000)


async def test_the_same_payment_in_other_letters_is_the_same(world: World) -> None:
    accepted, payload = opened(await world.payment("/article"))
    shouted = {
        "signature": payload["signature"],
        "authorization": payload["authorization"] | {"from": "0x" + AGENT[2:].upper(), "to": PUBLISHER.lower()},
    }
    echoed = accepted | {"asset": accepted["asset"].upper().replace("X", "x"), "payTo": accepted["payTo"].lower()}
    assert (await world.http.get("/article", headers=header(accepted, payload))).status_code == 200
    again = await world.http.get("/article", headers=header(echoed, shouted))
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    await world.assert_books(paid=3000)


async def test_a_public_authorization_does_not_replay_without_its_token(world: World) -> None:
    fields = await world.payment("/article")
    assert (await world.http.get("/article", headers=fields)).status_code == 200
    fresh = await world.accepted("/article")
    # Whoever reads the chain knows the authorization and its signature, but not the token that came with it.
    assert await world.refused("/article", header(fresh, opened(fields)[1]), status=409) == "replay_not_proven"


@pytest.mark.parametrize("settled", [True, False])
async def test_a_forged_signature_under_a_known_nonce_gets_nothing(world: World, settled: bool) -> None:
    accepted, payload = opened(await world.payment("/article"))
    if settled:
        assert (await world.http.get("/article", headers=header(accepted, payload))).status_code == 200
    authorization, signature = parse_authorization(payload)
    high_s = (SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    for forged in (
        sign(digest(SANDBOX_USDC.domain, authorization), THIRD_KEY),
        signature[:64] + bytes((55 - signature[64],)),
        signature[:32] + high_s + bytes((55 - signature[64],)),
        bytes(65),
    ):
        fields = header(accepted, payload | {"signature": "0x" + forged.hex()})
        assert await world.refused("/article", fields) == "signature_invalid"


async def test_a_payment_opens_nothing_else(world: World) -> None:
    fields = await world.payment("/article")
    payload = opened(fields)[1]
    paths = ("/book", "/article?page=2", "/upfront")
    for path in paths:
        assert await world.refused(path, fields) == "resource_mismatch"
    assert await world.refused("/book", header(await world.accepted("/book"), payload)) == "amount_mismatch"
    assert (await world.http.get("/article", headers=fields)).status_code == 200
    for path in paths:
        assert await world.refused(path, fields) == "resource_mismatch"
        fresh = await world.accepted(path)
        assert await world.refused(path, header(fresh, payload), status=409) == "replay_not_proven"


async def test_a_second_payment_for_a_used_offer_is_refused(world: World) -> None:
    accepted, payload = opened(await world.payment("/article"))
    assert (await world.http.get("/article", headers=header(accepted, payload))).status_code == 200
    second = header(accepted, signed(world.authorization(accepted)))
    assert await world.refused("/article", second, status=409) == "payment_in_progress"


async def test_of_many_at_once_one_is_settled(world: World) -> None:
    fields = await world.payment("/article")
    responses = await asyncio.gather(*(world.http.get("/article", headers=fields) for _ in range(10)))
    assert [response.content for response in responses] == [b'{"run":1}'] * 10
    assert world.runs == ["article"]
    await world.assert_books(paid=3000)


# Payments that do not pay


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"value": 2999}, "amount_mismatch"),
        ({"value": 3001}, "amount_mismatch"),
        ({"to": THIRD}, "payee_mismatch"),
        ({"from_": THIRD}, "signature_invalid"),
        ({"valid_before": 1}, "authorization_expired"),
    ],
)
async def test_a_payment_for_something_else_is_refused(world: World, members: dict[str, Any], code: str) -> None:
    assert await world.refused("/article", await world.payment("/article", **members)) == code


async def test_a_payment_at_the_wrong_time_is_refused(world: World) -> None:
    now = world.clock()
    assert await world.refused("/article", await world.payment("/article", valid_after=now)) == "not_yet_valid"
    short = await world.payment("/article", valid_before=now + 119)
    assert await world.refused("/article", short) == "authorization_expired"
    late = await world.payment("/article", valid_before=now + 10**6)
    world.clock.advance(601)
    assert await world.refused("/article", late) == "offer_expired"


@pytest.mark.parametrize("token", [BASE_USDC, BASE_SEPOLIA_USDC, replace(SANDBOX_USDC, address=THIRD)])
async def test_a_payment_in_another_token_is_refused(world: World, token: Token) -> None:
    accepted = await world.accepted("/article")
    payload = signed(world.authorization(accepted), token=token)
    assert await world.refused("/article", header(accepted, payload)) == "signature_invalid"
    theirs = {"network": token.network.caip2, "asset": token.address, "extra": {"name": token.name, "version": "2"}}
    echoed = accepted | theirs | {"extra": theirs["extra"] | {"token": accepted["extra"]["token"]}}
    assert await world.refused("/article", header(echoed, payload)) == "method_not_offered"


@pytest.mark.parametrize("change", [{"amount": "1"}, {"payTo": THIRD}, {"maxTimeoutSeconds": 61}])
async def test_terms_that_were_altered_are_refused(world: World, change: dict[str, Any]) -> None:
    accepted = await world.accepted("/article") | change
    fields = header(accepted, signed(world.authorization(accepted)))
    assert await world.refused("/article", fields) == "resource_mismatch"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("accepted.amount", "-3000"),
        ("accepted.amount", 3000),
        ("accepted.payTo", "merchant"),
        ("accepted.maxTimeoutSeconds", True),
        ("accepted.extra", []),
        ("payload.signature", "0x"),
        ("payload.signature", "0x" + 128 * "0"),
        ("payload.signature", ["0x"]),
        ("payload.authorization", "0x"),
        ("payload.authorization.from", AGENT[:-1]),
        ("payload.authorization.to", None),
        ("payload.authorization.value", "3e3"),
        ("payload.authorization.value", "٣٠٠٠"),
        ("payload.authorization.value", 3000),
        ("payload.authorization.value", str(2**256)),
        ("payload.authorization.validAfter", "-1"),
        ("payload.authorization.validBefore", "NaN"),
        ("payload.authorization.nonce", "0x" + 62 * "0"),
    ],
)
async def test_a_malformed_payment_is_refused_and_named(world: World, member: str, value: Any) -> None:
    accepted, payload = opened(await world.payment("/article"))
    message = {"accepted": accepted, "payload": payload}
    *path, last = member.split(".")
    parent = message
    for name in path:
        parent = parent[name]
    parent[last] = value
    response = await world.http.get("/article", headers=header(message["accepted"], message["payload"]))
    assert response.status_code in (400, 402)
    assert last in response.text
    assert world.runs == []
    await world.assert_books(paid=0)


# When something fails


async def test_a_failed_handler_costs_nothing_and_may_be_tried_again(world: World) -> None:
    fields, world.status = await world.payment("/article"), 500
    assert (await world.http.get("/article", headers=fields)).status_code == 500
    await world.assert_books(paid=0)
    world.status = 200
    assert (await world.http.get("/article", headers=fields)).json() == {"run": 2}
    await world.assert_books(paid=3000)


async def test_a_failed_handler_after_an_upfront_payment_may_run_once_more(world: World) -> None:
    fields, world.status = await world.payment("/upfront"), 500
    assert (await world.http.get("/upfront", headers=fields)).status_code == 500
    await world.assert_books(paid=3000)
    world.status = 200
    assert (await world.http.get("/upfront", headers=fields)).json() == {"run": 2}
    assert (await world.http.get("/upfront", headers=fields)).json() == {"run": 2}
    await world.assert_books(paid=3000)


async def move_all(world: World) -> None:
    """Move all that the agent holds to a third one."""
    accepted = await world.accepted("/article")
    everything = world.authorization(accepted, to=THIRD, value=await world.chain.balance_of(AGENT))
    await world.chain.transfer_with_authorization(
        SANDBOX_USDC, everything, sign(digest(SANDBOX_USDC.domain, everything), AGENT_KEY)
    )


async def test_an_account_that_is_emptied_meanwhile_gets_no_response(world: World) -> None:
    fields = await world.payment("/article")
    world.in_handler = lambda: move_all(world)
    response = await world.http.get("/article", headers=fields)
    assert (response.status_code, response.json()["code"]) == (402, "insufficient_funds")
    assert "run" not in response.json()
    assert world.runs == ["article"]
    await world.assert_books(paid=0)
    world.in_handler = None
    assert await world.refused("/article", fields) == "insufficient_funds"


async def test_an_account_that_is_emptied_before_is_noticed_before(world: World) -> None:
    fields = [await world.payment(path) for path in ("/article", "/upfront")]
    await move_all(world)
    for path, payment in zip(("/article", "/upfront"), fields, strict=True):
        assert await world.refused(path, payment) == "insufficient_funds"


async def test_an_authorization_that_somebody_else_hands_in_is_served_once(world: World) -> None:
    fields = await world.payment("/article")
    authorization, signature = parse_authorization(opened(fields)[1])

    async def preempt() -> None:
        await world.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)

    world.in_handler = preempt
    first = await world.http.get("/article", headers=fields)
    again = await world.http.get("/article", headers=fields)
    assert (first.status_code, first.content) == (200, b'{"run":1}')
    assert (again.headers["idempotent-replayed"], again.content) == ("true", b'{"run":1}')
    await world.assert_books(paid=3000)


async def test_a_lost_answer_is_never_guessed(world: World) -> None:
    fields = await world.payment("/article")
    await world.chain.inject("lost_answer")
    for _ in range(2):
        response = await world.http.get("/article", headers=fields)
        assert (response.status_code, response.json()["code"]) == (503, "outcome_unknown")
        assert "payment-required" not in response.headers
    world.clock.advance(300)
    assert await world.gate.reconcile() == 1
    response = await world.http.get("/article", headers=fields)
    assert (response.status_code, response.content) == (200, b'{"run":1}')
    assert world.runs == ["article"]
    await world.assert_books(paid=3000)


@pytest.mark.parametrize("path", ["/article", "/upfront"])
@pytest.mark.parametrize("fault", ["lost_answer", "dropped", "unavailable", "pending"])
async def test_an_agent_is_served_and_pays_once_whatever_the_chain_does(tmp_path: Path, path: str, fault: Any) -> None:
    # A charge is looked up when the lease of its worker has lapsed: after handler_seconds and settle_seconds.
    async with World(tmp_path, handler_seconds=5, settle_seconds=5).open() as world:
        await world.chain.inject(fault)

        async def reconcile() -> None:
            await world.chain.release()
            await world.gate.reconcile()

        world.while_waiting = reconcile
        response = await world.agent.get(path)
        assert response.status_code == 200
        assert response.extensions["rail402"].outcome == "paid"
        await world.assert_books(paid=3000)


async def test_a_pending_payment_stays_open_until_the_chain_decides(world: World) -> None:
    fields = await world.payment("/article")
    await world.chain.inject("pending")
    assert (await world.http.get("/article", headers=fields)).status_code == 503
    world.clock.advance(300)
    assert await world.gate.reconcile() == 0
    assert (await world.http.get("/article", headers=fields)).status_code == 503
    await world.chain.release()  # it has expired: the contract refuses it
    world.clock.advance(600)
    assert await world.gate.reconcile() == 1
    assert (await world.http.get("/article", headers=fields)).status_code == 402
    await world.assert_books(paid=0)


async def test_an_agent_pays_anew_only_when_its_payment_cannot_be_taken_any_more(world: World) -> None:
    world.status = 500
    response = await world.agent.get("/article")
    assert (response.status_code, response.extensions["rail402"].outcome) == (500, "unknown")
    await world.assert_books(paid=0)

    world.status = 200
    again = await world.agent.get("/article")
    assert again.status_code == 200
    assert again.extensions["rail402"].record_id == response.extensions["rail402"].record_id
    await world.assert_books(paid=3000)


async def test_an_agent_whose_payment_ran_out_pays_anew(world: World) -> None:
    world.in_handler = lambda: move_all(world)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await world.agent.get("/article")
    world.in_handler = None
    await world.assert_books(paid=0)
    (recovered,) = await world.payer.recover()
    assert (recovered.record.id, recovered.outcome) == (caught.value.record_id, "unknown")
    world.clock.advance(300)
    (recovered,) = await world.payer.recover()
    assert recovered.outcome == "not_paid"
    assert await world.payer.journal.unresolved() == []


# --- in every dialect


@pytest.mark.parametrize("dialect", ["x402-v2", "mpp", "x402-v1"])
@pytest.mark.parametrize("path", ["/article", "/upfront"])
async def test_every_dialect_pays_once_and_replays_where_it_proves_who_asks(
    tmp_path: Path, dialect: str, path: str
) -> None:
    world, speaker = World(tmp_path), dialect_by_name(dialect)
    async with world.open():
        context = Context(specs=Registry([world.wallet.spec]), now=world.clock())
        asked = await world.http.get(path)
        (offer,) = speaker.offers(Fields(asked.headers.multi_items()), asked.content, context)
        paid = await world.wallet.pay(offer, record_id="r1", now=world.clock())
        shown = dict(speaker.credential(offer, dict(paid.payload), context))
        served = await world.http.get(path, headers=shown)
        assert (served.status_code, served.json()) == (200, {"run": 1})
        await world.assert_books(paid=3000)
        again = await world.http.get(path, headers=shown)
        # What x402 version 1 shows is public once it is mined, and comes without a secret of ours.
        assert again.status_code == (409 if dialect == "x402-v1" else 200)
        assert world.runs == [path[1:]]
        await world.assert_books(paid=3000)
