"""Payments by plain transfer from end to end: a gate, a payer, and a ledger whose books are counted on both sides."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402.client.payer import Payer
from rail402.dialects import DEFAULT_DIALECTS, dialect_by_name
from rail402.errors import ClientError, NoUsableOffer, PaymentOutcomeUnknown
from rail402.protocol.order import Order
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock
from rail402_base.eip3009 import Authorization, address_of, digest, sign
from rail402_base.rail import BaseRail
from rail402_base.sandbox import ENDOWMENT, Mined, SandboxChain
from rail402_base.sandbox_transfers import PlainTransfer, sign_transfer
from rail402_base.tokens import SANDBOX_USDC
from rail402_base.transfer_wallet import BaseTransferWallet
from rail402_base.transfers import Transfers, message_digest, order_terms, proof_text
from rail402_base.wallet import BaseWallet
from rail402_base.wire import BaseSpec, payload_of

URL = "http://testserver"
PRICE = 3000
AGENT_KEY, PUBLISHER_KEY, THIEF_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
AGENT, PUBLISHER, THIEF = (address_of(key) for key in (AGENT_KEY, PUBLISHER_KEY, THIEF_KEY))
OPTIONAL = ("x-payment", "x-price", "payment-uri")
DIALECTS = ("x-price", "payment-uri", "x-receipt")
"""Those that ask for a transfer."""


class World:
    """A publisher and an agent in one sandbox."""

    def __init__(self, path: Path, *, store: str = "memory://", **transfers: Any) -> None:
        self.clock = FakeClock()
        self.chain = SandboxChain(path / "base.db", clock=self.clock)
        self.rail = BaseRail.sandbox(path, pay_to=PUBLISHER, transfers=Transfers(**transfers), clock=self.clock)
        self.gate = Gate(
            rails=[self.rail],
            public_url=URL,
            store=store,
            dialects=[*DEFAULT_DIALECTS, *map(dialect_by_name, OPTIONAL)],
            clock=self.clock,
            reconcile_seconds=0,
            wait_seconds=1,
        )
        self.path = path
        self.app = FastAPI()
        self.gate.install(self.app)
        self.runs: list[str] = []
        self.in_handler: Callable[[], Awaitable[Any]] | None = None
        self.while_waiting: Callable[[], Awaitable[Any]] | None = None
        self._numbers = itertools.count(1)
        self.http: httpx.AsyncClient
        for name, price in (("article", "0.003 USD"), ("book", "0.50 USD"), ("twin", "0.003 USD")):
            self._sell(name, price)

    def _sell(self, name: str, price: str) -> None:
        @self.app.api_route(f"/{name}", methods=["GET", "POST"])
        @self.gate.paid(price)
        async def sold() -> dict[str, Any]:
            self.runs.append(name)
            if self.in_handler is not None:
                await self.in_handler()
            return {"sold": name, "run": len(self.runs)}

    def payer(self, dialect: str, wallet: Any = None) -> Payer:
        wallet = wallet or BaseTransferWallet.sandbox(self.path, private_key=AGENT_KEY.hex(), clock=self.clock)
        journal = f"sqlite:///{self.path}/wallet.db"
        payer = Payer([wallet], journal=journal, dialects=[dialect_by_name(dialect)], clock=self.clock)
        payer.sleep = self._sleep
        return payer

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(max(int(seconds), 1))
        if self.while_waiting is not None:
            await self.while_waiting()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[World]:
        self._transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with self.gate, httpx.AsyncClient(transport=self._transport, base_url=URL) as self.http:
            await self.chain.endow(AGENT)
            yield self

    @asynccontextmanager
    async def agent(self, dialect: str, wallet: Any = None) -> AsyncIterator[httpx.AsyncClient]:
        payer = self.payer(dialect, wallet)
        transport = payer.transport(self._transport)
        async with payer, httpx.AsyncClient(transport=transport, base_url=URL) as client:
            yield client

    async def assert_books(self, *, paid: int) -> None:
        books = await self.chain.books()
        assert books.minted == sum(books.balances.values())
        assert books.balances.get(PUBLISHER, 0) == paid
        assert books.balances[AGENT] == ENDOWMENT - paid

    # by hand

    async def transfer(self, value: int = PRICE, *, to: str = PUBLISHER) -> str:
        """Have the agent move money; returns the transaction's hash."""
        transfer = PlainTransfer(payer=AGENT, payee=to, value=value, nonce=next(self._numbers).to_bytes(32, "big"))
        signature = sign_transfer(transfer, SANDBOX_USDC, AGENT_KEY)
        return (await self.chain.transfer(SANDBOX_USDC, transfer, signature)).transaction

    async def show(self, proof: str, path: str = "/article", method: str = "GET", **fields: str) -> httpx.Response:
        return await self.http.request(method, path, headers={"X-Payment-Proof": proof, **fields})

    def signed(self, transaction: str, path: str = "/article", *, key: bytes = AGENT_KEY, method: str = "GET") -> str:
        """The proof of a payer who signs."""
        offer = BaseSpec(SANDBOX_USDC).transfer_offer(
            SANDBOX_USDC,
            payee=PUBLISHER,
            amount=PRICE,
            expires_at=1,
            timeout_seconds=1,
            extra=order_terms(Order(method=method, url=URL + path, route="")),
        )
        text = proof_text(offer, transaction)
        assert text is not None
        signature = "0x" + sign(message_digest(text), key).hex()
        return json.dumps({"transaction": transaction, "signature": signature})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path).open() as world:
        yield world


def refused(response: httpx.Response, code: str, status: int = 402) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


# --- our client at our server


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_paid_once_and_served(world: World, dialect: str) -> None:
    async with world.agent(dialect) as client:
        response = await client.get("/article")
    assert response.status_code == 200, response.text
    assert response.json() == {"sold": "article", "run": 1}
    await world.assert_books(paid=PRICE)
    purchase = response.extensions["rail402"]
    assert (purchase.outcome, str(purchase.price), purchase.dialect) == ("paid", "0.003 USDC", dialect)


@pytest.mark.parametrize(("dialect", "field"), [("x-price", "x-payment-proof"), ("x-receipt", "x-receipt")])
async def test_what_our_wallet_shows_is_signed_for_the_request(world: World, dialect: str, field: str) -> None:
    shown: list[str] = []

    class Watching(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            shown.extend(request.headers.get_list(field))
            return await world._transport.handle_async_request(request)

    payer = world.payer(dialect)
    async with payer, httpx.AsyncClient(transport=payer.transport(Watching()), base_url=URL) as client:
        assert (await client.get("/article")).status_code == 200
    # Without the token that it was sent with, only the signature is left to prove who asks.
    again = await world.http.get("/article", headers={field: shown[0]})
    assert again.json() == {"sold": "article", "run": 1}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_lost_answer_is_fetched_with_the_same_payment(world: World, dialect: str) -> None:
    class Lossy(httpx.AsyncBaseTransport):
        lost = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await world._transport.handle_async_request(request)
            if response.status_code == 200 and not self.lost:
                self.lost += 1
                raise httpx.ReadError("the connection broke")
            return response

    payer = world.payer(dialect)
    async with payer, httpx.AsyncClient(transport=payer.transport(Lossy()), base_url=URL) as client:
        response = await client.get("/article")
    assert response.json() == {"sold": "article", "run": 1}
    assert world.runs == ["article"]
    await world.assert_books(paid=PRICE)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_transfer_that_is_not_mined_yet_is_resumed_and_not_made_twice(world: World, dialect: str) -> None:
    await world.chain.inject("pending")
    async with world.agent(dialect) as client:
        with pytest.raises(PaymentOutcomeUnknown):
            await client.get("/article")
    await world.assert_books(paid=0)
    async with world.agent(dialect) as client:  # another process of the agent's
        with pytest.raises(PaymentOutcomeUnknown):
            await client.get("/article")
        await world.chain.release()
        response = await client.get("/article")
    assert response.json() == {"sold": "article", "run": 1}
    await world.assert_books(paid=PRICE)


@pytest.mark.parametrize(("fault", "paid"), [("lost_answer", PRICE), ("dropped", PRICE), ("unavailable", PRICE)])
async def test_what_goes_wrong_at_the_chain_costs_nothing_twice(world: World, fault: Any, paid: int) -> None:
    await world.chain.inject(fault)
    async with world.agent("x-price") as client:
        with pytest.raises(ClientError):
            await client.get("/article")
        response = await client.get("/article")
    assert response.json() == {"sold": "article", "run": 1}
    await world.assert_books(paid=paid)


async def test_a_wallet_without_cover_pays_nothing(world: World) -> None:
    await world.transfer(ENDOWMENT - PRICE + 1, to=THIEF)
    async with world.agent("x-price") as client:
        with pytest.raises(NoUsableOffer):
            await client.get("/article")
    assert await world.chain.balance_of(AGENT) == PRICE - 1
    assert await world.chain.balance_of(PUBLISHER) == 0


async def test_a_wallet_of_authorizations_pays_no_transfer(world: World) -> None:
    wallet = BaseWallet.sandbox(world.path, private_key=AGENT_KEY.hex(), clock=world.clock)
    async with world.agent("x-price", wallet) as client:
        with pytest.raises(NoUsableOffer):
            await client.get("/article")
    await world.assert_books(paid=0)


@pytest.mark.parametrize("first", ["authorization", "transfer"])
async def test_both_wallets_in_one_payer(world: World, first: str) -> None:
    """Each offer is paid by the wallet that can, whichever of them reads it."""
    key = AGENT_KEY.hex()
    wallets = [
        BaseWallet.sandbox(world.path, private_key=key, clock=world.clock),
        BaseTransferWallet.sandbox(world.path, private_key=key, clock=world.clock),
    ]
    dialects = [dialect_by_name(name) for name in ("x402-v2", "x-price")]
    for number, dialect in enumerate(dialects, 1):
        journal = f"sqlite:///{world.path}/{dialect.name}.db"
        ordered = wallets if first == "authorization" else wallets[::-1]
        payer = Payer(ordered, journal=journal, dialects=[dialect], clock=world.clock)
        transport = payer.transport(world._transport)
        async with payer, httpx.AsyncClient(transport=transport, base_url=URL) as client:
            assert (await client.get("/article")).json()["run"] == number
    await world.assert_books(paid=2 * PRICE)


async def test_x_payment_is_paid_by_authorization_with_the_nonce_of_the_challenge(world: World) -> None:
    wallet = BaseWallet.sandbox(world.path, private_key=AGENT_KEY.hex(), clock=world.clock)
    async with world.agent("x-payment", wallet) as client:
        response = await client.get("/article")
    assert response.json() == {"sold": "article", "run": 1}
    await world.assert_books(paid=PRICE)
    challenge = json.loads((await world.http.get("/article")).headers["x-payment"])
    assert len(challenge["nonce"]) == 66
    assert not await world.chain.authorization_state(AGENT, bytes.fromhex(challenge["nonce"][2:]))


async def test_the_nonce_of_the_challenge_is_the_one_that_is_signed(world: World) -> None:
    seen: list[str] = []

    class Watching(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await world._transport.handle_async_request(request)
            if "x-payment" in response.headers:
                seen.append(json.loads(response.headers["x-payment"])["nonce"])
            return response

    wallet = BaseWallet.sandbox(world.path, private_key=AGENT_KEY.hex(), clock=world.clock)
    payer = world.payer("x-payment", wallet)
    async with payer, httpx.AsyncClient(transport=payer.transport(Watching()), base_url=URL) as client:
        await client.get("/article")
    assert await world.chain.authorization_state(AGENT, bytes.fromhex(seen[0][2:]))


# --- anybody at our server


@pytest.mark.parametrize("upper", [False, True])
async def test_the_hash_alone_pays_once(world: World, upper: bool) -> None:
    transaction = await world.transfer()
    shown = "0x" + transaction[2:].upper() if upper else transaction
    assert (await world.show(shown)).json() == {"sold": "article", "run": 1}
    for again in (transaction, "0x" + transaction[2:].upper()):
        refused(await world.show(again), "replay_not_proven", 409)
        refused(await world.http.get("/article", headers={"X-Receipt": again}), "replay_not_proven", 409)
        refused(await world.show(again, "/twin"), "replay_not_proven", 409)
    assert world.runs == ["article"]


async def test_a_payer_who_signs_gets_the_stored_answer_again(world: World) -> None:
    proof = world.signed(await world.transfer())
    assert (await world.show(proof)).json() == {"sold": "article", "run": 1}
    again = base64.b64encode(proof.encode()).decode()
    assert (await world.show(again)).json() == {"sold": "article", "run": 1}
    refused(await world.show(json.loads(proof)["transaction"]), "replay_not_proven", 409)
    assert world.runs == ["article"]


async def test_a_signature_is_for_one_request(world: World) -> None:
    transaction = await world.transfer()
    proof = world.signed(transaction)
    refused(await world.show(proof, "/twin"), "signature_invalid")
    refused(await world.show(proof, method="POST"), "signature_invalid")
    refused(await world.show(world.signed(transaction, key=THIEF_KEY)), "signature_invalid")
    assert (await world.show(proof)).status_code == 200
    # Somebody else's signature opens nothing afterwards either.
    refused(await world.show(world.signed(transaction, key=THIEF_KEY)), "replay_not_proven", 409)


async def test_the_payer_can_prove_itself_after_a_bare_hash(world: World) -> None:
    transaction = await world.transfer()
    assert (await world.show(transaction)).status_code == 200
    assert (await world.show(world.signed(transaction))).json() == {"sold": "article", "run": 1}
    refused(await world.show(world.signed(transaction, "/twin"), "/twin"), "replay_not_proven", 409)


async def test_where_payers_must_sign_a_hash_is_not_enough(tmp_path: Path) -> None:
    async with World(tmp_path, must_sign=True).open() as world:
        transaction = await world.transfer()
        refused(await world.show(transaction), "signature_invalid")
        assert (await world.show(world.signed(transaction))).status_code == 200


async def test_too_little_opens_nothing_and_too_much_does(world: World) -> None:
    refused(await world.show(await world.transfer(PRICE - 1)), "amount_mismatch")
    more = await world.transfer(PRICE + 5)
    refused(await world.show(more, "/book"), "amount_mismatch")
    assert (await world.show(more)).status_code == 200
    charge = await world.gate.services().store.find([f"tx:eip155:402402/{more}"])
    assert charge is not None
    assert (charge.rail_state["received"], charge.payer, charge.transaction) == (str(PRICE + 5), AGENT, more)


async def test_a_transfer_to_somebody_else_opens_nothing(world: World) -> None:
    refused(await world.show(await world.transfer(to=THIEF)), "payee_mismatch")


async def test_what_no_block_holds_yet_can_be_shown_again(world: World) -> None:
    refused(await world.show("0x" + 64 * "a"), "not_settled")
    await world.chain.inject("pending")
    transaction = await world.transfer()
    response = await world.show(transaction)
    refused(response, "not_settled")
    assert int(response.headers["retry-after"]) > 0
    await world.chain.release()
    assert (await world.show(transaction)).status_code == 200


async def test_an_old_transfer_pays_for_nothing(world: World) -> None:
    old, late = await world.transfer(), await world.transfer()
    world.clock.advance(3600)
    assert (await world.show(late)).status_code == 200
    world.clock.advance(1)
    refused(await world.show(old), "authorization_expired")


async def test_a_transfer_from_before_the_shop_was_there_pays_for_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    async with World(tmp_path, not_before=clock() + 10).open() as world:
        old = await world.transfer()
        world.clock.advance(10)
        refused(await world.show(old), "authorization_expired")
        assert (await world.show(await world.transfer())).status_code == 200


@pytest.mark.parametrize("first", ["authorization", "during", "hash"])
async def test_an_authorization_does_not_pay_again_by_its_transaction(world: World, first: str) -> None:
    """Nor first: whoever watches the chain while a payment is being settled gets nothing for its hash."""
    required = json.loads(base64.b64decode((await world.http.get("/article")).headers["payment-required"]))
    accepted = required["accepts"][0]
    authorization = Authorization(
        from_=AGENT, to=PUBLISHER, value=PRICE, valid_after=0, valid_before=world.clock() + 300, nonce=bytes(32)
    )
    signature = sign(digest(SANDBOX_USDC.domain, authorization), AGENT_KEY)
    payment = {"x402Version": 2, "accepted": accepted, "payload": payload_of(authorization, signature)}
    fields = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(payment).encode()).decode()}

    async def thief() -> None:
        mined = await world.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)
        # Nobody is asked to pay again before it is known what has become of that money.
        refused(await world.show(mined.transaction, "/twin"), "payment_in_progress", 409)

    if first == "hash":  # the payer had it handed in by itself: that is money too, and pays once
        mined = await world.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)
        assert (await world.show(mined.transaction)).status_code == 200
        assert (await world.http.get("/article", headers=fields)).status_code == 402
    else:
        world.in_handler = thief if first == "during" else None
        assert (await world.http.get("/article", headers=fields)).status_code == 200
        found = await world.chain.find_authorization(AGENT, bytes(32))
        assert isinstance(found, Mined)
        refused(await world.show(found.transaction, "/twin"), "proof_already_used")
        refused(await world.show(world.signed(found.transaction, "/twin"), "/twin"), "proof_already_used")
    assert len(world.runs) == 1
    await world.assert_books(paid=PRICE)


async def test_a_crash_after_the_claim_costs_the_payer_nothing(world: World) -> None:
    proof = world.signed(await world.transfer())

    async def crash() -> None:
        raise RuntimeError("the power failed")

    world.in_handler = crash
    assert (await world.show(proof)).status_code == 500
    world.in_handler = None
    assert (await world.show(proof)).json()["sold"] == "article"
    await world.assert_books(paid=PRICE)


async def test_without_transfers_a_hash_is_no_payment(world: World, tmp_path: Path) -> None:
    transaction = await world.transfer()
    dialects = [dialect_by_name(name) for name in ("x402-v2", *DIALECTS)]
    rail = BaseRail.sandbox(tmp_path, pay_to=PUBLISHER, clock=world.clock)
    gate = Gate(rails=[rail], public_url=URL, store="memory://", dialects=dialects, clock=world.clock)
    app = FastAPI()
    gate.install(app)

    @app.get("/article")
    @gate.paid("0.003 USD")
    async def article() -> str:
        return "sold"

    async with gate, httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=URL) as client:
        challenge = await client.get("/article")
        assert challenge.status_code == 402
        assert "x-price" not in challenge.headers
        assert "payment" not in challenge.json()
        for field in ("X-Payment-Proof", "X-Receipt"):
            assert (await client.get("/article", headers={field: transaction})).status_code in (400, 402)
