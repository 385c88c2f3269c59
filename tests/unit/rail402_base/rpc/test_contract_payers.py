"""Payers that are contracts (ERC-1271), over a chain in memory: what is asked, in which order, and what it may cost."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402.errors import OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.facilitator.app import facilitator_app
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import Facilitator
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.gate import Gate
from rail402.stores.memory import MemoryStore
from rail402.testing.fakes import FakeClock
from rail402_base.chain import Transfer
from rail402_base.eip3009 import Authorization, address_of, digest, keccak256
from rail402_base.facilitator_wire import SignedTransfer, request_body
from rail402_base.rail import BaseRail
from rail402_base.rpc.abi import MAX_CONTRACT_GAS
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.wire import authorization_key, payload_of
from tests.unit.rail402_base.rpc.chain import (
    ACCEPTED,
    GAS,
    IS_VALID,
    NOW,
    PAYEE,
    RELAYER,
    RELAYER_KEY,
    TOKEN,
    USDC,
    Network,
    Refused,
    until,
)

WALLET = address_of(b"\x05" * 32)
REFUSED = "0x" + "f" * 8 + "0" * 56
CAP = hex(MAX_CONTRACT_GAS)


def halted(message: str, number: int = -32000) -> Callable[..., str]:
    def halt(*_: object) -> str:
        raise Refused(number, message)

    return halt


class Shop:
    """A relayer, and a wallet that is a contract: it accepts what ends with the hash of the digest."""

    def __init__(self, path: Path) -> None:
        self.network = Network(None)
        self.chain, self.node = self.network.chain, self.network.node
        self.chain.balances[WALLET.lower()] = 100 * USDC
        self.chain.codes[WALLET.lower()] = "0x6080"
        self.chain.wallets[WALLET.lower()] = self.honest
        self.clock = FakeClock(NOW)
        self.backend = self.another(path / "relayer.db")

    def another(self, path: Path) -> RpcBackend:
        settings = RelaySettings(poll_ms=1, tend_seconds=3600, settle_seconds=5)
        key, url = RELAYER_KEY.hex(), f"sqlite:///{path}"
        return RpcBackend(self.network.reader(), key, store=url, settings=settings, clock=self.clock)

    @staticmethod
    def honest(message: bytes, signature: bytes, is_mined: bool) -> str:
        return ACCEPTED if signature.endswith(keccak256(message)) else REFUSED

    def authorize(self, number: int = 1, value: int = 3000, **members: Any) -> Authorization:
        return self.chain.authorize(value, number=number, from_=WALLET, **members)

    def sign(self, authorization: Authorization) -> bytes:
        return b"passkey" * 50 + keccak256(digest(TOKEN.domain, authorization))

    async def check(self, authorization: Authorization, signature: bytes | None = None) -> None:
        await self.backend.check(TOKEN, authorization, signature or self.sign(authorization))

    async def refused(self, authorization: Authorization, signature: bytes | None = None) -> str:
        with pytest.raises(PaymentRejected) as caught:
            await self.check(authorization, signature)
        return caught.value.code

    async def settle(self, authorization: Authorization) -> Any:
        return await self.backend.settle(TOKEN, authorization, self.sign(authorization))

    def calls(self, method: str) -> list[Any]:
        requests = [each if isinstance(each, list) else [each] for each in self.node.requests]
        return [call["params"][0] for request in requests for call in request if call["method"] == method]

    def assert_paid(self, *values: int) -> None:
        assert self.chain.usdc_of(PAYEE) == sum(values)
        assert self.chain.usdc_of(WALLET) == 100 * USDC - sum(values)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path)
    await shop.backend.start()
    shop.node.requests.clear()
    yield shop
    await shop.backend.close()


# --- before it is accepted


async def test_one_request_asks_the_contract_and_the_token_with_a_limit(shop: Shop) -> None:
    await shop.check(shop.authorize())
    assert len(shop.node.requests) == 1
    bounded = [call for call in shop.calls("eth_call") if "gas" in call]
    assert [(call["to"], call["gas"]) for call in bounded] == [(WALLET, CAP), (TOKEN.address, CAP)]
    assert bounded[0]["data"].startswith("0x" + IS_VALID)
    assert "from" not in bounded[0], "not every node takes a contract for a sender"


@pytest.mark.parametrize(
    "answer",
    [
        lambda *_: REFUSED,
        lambda *_: "0x",
        lambda *_: ACCEPTED[:10],
        lambda *_: ACCEPTED + "00" * 32,
        lambda *_: ACCEPTED[:-1] + "1",
        halted("execution reverted", 3),
        halted("out of gas"),
        halted("invalid opcode: INVALID"),
        halted("EVM error: OutOfGas", -32003),
    ],
)
async def test_a_contract_that_does_not_accept(shop: Shop, answer: Callable[..., str]) -> None:
    shop.chain.wallets[WALLET.lower()] = answer
    assert await shop.refused(shop.authorize()) == "signature_invalid"
    assert shop.node.sent == []


@pytest.mark.parametrize("signature", [b"\x01", bytes(65), bytes(700)], ids=len)
async def test_a_forgery(shop: Shop, signature: bytes) -> None:
    assert await shop.refused(shop.authorize(), signature) == "signature_invalid"


async def test_an_address_without_code_has_only_its_key(shop: Shop) -> None:
    del shop.chain.codes[WALLET.lower()]  # what answers there all the same is not the payer's: a precompile, say
    with pytest.raises(PaymentRejected, match="the signature is not that of") as caught:
        await shop.check(shop.authorize())
    assert caught.value.code == "signature_invalid"


async def test_code_that_answers_whatever_it_is_asked_is_no_wallet(shop: Shop) -> None:
    shop.chain.wallets[WALLET.lower()] = lambda *_: "0x" + 63 * "0" + "1"
    assert await shop.refused(shop.authorize()) == "signature_invalid"


async def test_the_signature_comes_before_all_that_it_gives_away(shop: Shop) -> None:
    """A used nonce may count as paid; who has no signature must not even hear of it."""
    authorization = shop.authorize()
    shop.chain.used.add((WALLET.lower(), authorization.nonce.hex()))
    shop.chain.balances[WALLET.lower()] = 0
    assert await shop.refused(authorization, bytes(80)) == "signature_invalid"
    assert await shop.refused(authorization) == "proof_already_used"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda it: it.balances.update({WALLET.lower(): 2999 - 100 * USDC}), "insufficient_funds"),
        (lambda it: it.blacklist.add(WALLET.lower()), "payment_declined"),
    ],
)
async def test_a_contract_is_a_payer_like_others(shop: Shop, spoil: Callable[[Any], object], code: str) -> None:
    spoil(shop.chain)
    assert await shop.refused(shop.authorize()) == code


async def test_a_token_without_that_function_takes_no_contracts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.rail402_base.rpc.chain.HANDED_IN_BYTES", "00000000")
    assert await shop.refused(shop.authorize()) == "payment_declined"


async def test_a_node_in_trouble_is_held_against_nobody(shop: Shop) -> None:
    shop.chain.wallets[WALLET.lower()] = halted("missing trie node")
    with pytest.raises(RailUnavailable, match="missing trie node"):
        await shop.check(shop.authorize())


# --- handing it in


async def test_a_payment(shop: Shop) -> None:
    authorization = shop.authorize()
    found = await shop.settle(authorization)
    assert isinstance(found, Transfer)
    assert (found.to, found.value) == (PAYEE, 3000)
    shop.assert_paid(3000)


async def test_gas_is_estimated_for_each_and_for_none_of_the_others(shop: Shop) -> None:
    used = iter([200_000, 320_000, 350_000])
    estimate = shop.node.eth_estimate_gas

    def estimated(transaction: dict[str, str]) -> str:
        assert estimate(transaction) == hex(GAS)
        return hex(next(used)) if "gas" in transaction else hex(GAS)

    shop.node.answers["eth_estimateGas"] = estimated
    sent = []
    send = shop.node.eth_send_raw_transaction

    def seen(raw: str) -> str:
        hash_ = send(raw)
        sent.append(limit_of(bytes.fromhex(raw[2:])))
        return hash_

    shop.node.answers["eth_sendRawTransaction"] = seen
    await shop.settle(shop.authorize(1))
    by_key = shop.chain.authorize(number=9)
    await shop.backend.settle(TOKEN, by_key, shop.chain.sign(by_key))
    await shop.settle(shop.authorize(2))
    await shop.settle(shop.authorize(3))
    assert sent == [260_000, 116_000, MAX_CONTRACT_GAS, MAX_CONTRACT_GAS]
    assert [call.get("gas") for call in shop.calls("eth_estimateGas")] == [CAP, None, CAP, CAP]


@pytest.mark.parametrize("answer", [lambda *_: REFUSED, halted("execution reverted", 3), halted("out of gas")])
async def test_one_that_has_changed_its_mind_is_not_sent(shop: Shop, answer: Callable[..., str]) -> None:
    authorization = shop.authorize()
    await shop.check(authorization)
    shop.chain.wallets[WALLET.lower()] = answer
    with pytest.raises(PaymentRejected, match="invalid signature") as caught:
        await shop.settle(authorization)
    assert caught.value.code == "signature_invalid"
    assert (shop.node.sent, shop.chain.counts[RELAYER.lower()]) == ([], 0)
    shop.assert_paid()


async def test_one_that_needs_more_than_the_limit_is_not_sent(shop: Shop) -> None:
    def estimated(transaction: dict[str, str]) -> str:
        raise Refused(-32000, f"gas required exceeds allowance ({int(transaction['gas'], 16)})")

    shop.node.answers["eth_estimateGas"] = estimated
    with pytest.raises(PaymentRejected, match="exceeds allowance") as caught:
        await shop.settle(shop.authorize())
    assert caught.value.code == "payment_declined"
    assert shop.node.sent == []


async def test_one_whose_time_has_just_come_is_sent_with_the_limit(shop: Shop) -> None:
    authorization = shop.authorize(valid_after=shop.chain.head.time)
    assert isinstance(await shop.settle(authorization), Transfer)
    assert limit_of(shop.node.sent[0]) == MAX_CONTRACT_GAS


async def test_one_that_lies_to_calls_costs_gas_once_an_hour(shop: Shop) -> None:
    shop.chain.wallets[WALLET.lower()] = lambda *asked: REFUSED if asked[2] else ACCEPTED
    await shop.check(shop.authorize(1))
    with pytest.raises(OutcomeUnknown, match="the token would take the authorization now"):
        await shop.settle(shop.authorize(1))
    assert shop.chain.counts[RELAYER.lower()] == 1
    shop.assert_paid()
    assert await shop.refused(shop.authorize(2)) == "payment_declined"
    by_key = shop.chain.authorize(number=9)
    await shop.backend.check(TOKEN, by_key, shop.chain.sign(by_key))
    shop.clock.advance(3600)
    await shop.check(shop.authorize(2))


async def test_one_whose_money_went_away_is_asked_again(shop: Shop) -> None:
    shop.chain.mines_at_once = False
    settling = asyncio.create_task(shop.settle(shop.authorize(1)))
    await until(lambda: bool(shop.chain.pool))
    shop.chain.balances[WALLET.lower()] = 0
    shop.chain.mine()
    with pytest.raises(OutcomeUnknown, match="exceeds balance"):
        await settling
    assert await shop.refused(shop.authorize(2)) == "insufficient_funds"
    shop.chain.balances[WALLET.lower()] = 3000
    await shop.check(shop.authorize(2))


def limit_of(raw: bytes) -> int:
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    return int(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["gas"])


# --- our facilitator in front of it


class Desk:
    """A facilitator over the shop's chain."""

    def __init__(self, shop: Shop, **settings: Any) -> None:
        self.shop = shop
        self.rail = BaseRail(shop.backend, pay_to=PAYEE, token=TOKEN)
        self.store = MemoryStore()
        usual = {"any_payee": True, "wait_seconds": 1, "reconcile_seconds": 0}
        self.facilitator = Facilitator(
            [self.rail], store=self.store, settings=FacilitatorSettings(**usual | settings), clock=shop.clock
        )
        transport = httpx.ASGITransport(app=facilitator_app(self.facilitator), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://desk")

    async def ask(self, call: str, authorization: Authorization, signature: bytes, version: int = 2) -> dict[str, Any]:
        signed = SignedTransfer(TOKEN, authorization, signature)
        body = json.loads(json.dumps(request_body(version, signed, now=NOW)))
        response = await self.client.post(f"/{call}", json=body)
        said: dict[str, Any] = response.json()
        return said | {"status": response.status_code}


@pytest.fixture
async def desk(shop: Shop) -> AsyncIterator[Desk]:
    desk = Desk(shop, max_per_payer=2)
    async with desk.facilitator, desk.client:
        yield desk


FORGED = "invalid_exact_evm_payload_signature"


@pytest.mark.parametrize("version", [1, 2])
async def test_a_facilitator_answers_to_the_signature_that_was_accepted(shop: Shop, desk: Desk, version: int) -> None:
    authorization = shop.authorize()
    genuine, other = shop.sign(authorization), b"\x07" + shop.sign(authorization)
    for forged in (bytes(80), b"\x01"):
        assert (await desk.ask("verify", authorization, forged, version))["invalidReason"] == FORGED
        assert (await desk.ask("settle", authorization, forged, version))["errorReason"] == FORGED
    assert await desk.store.find({authorization_key(TOKEN, authorization)}) is None
    assert (await desk.ask("verify", authorization, genuine, version))["isValid"] is True
    assert (await desk.ask("settle", authorization, genuine, version))["success"] is True
    for another in (bytes(80), other):  # the contract would accept the last one, too
        assert (await desk.ask("verify", authorization, another, version))["invalidReason"] == FORGED
        assert (await desk.ask("settle", authorization, another, version))["errorReason"] == FORGED
    again = await desk.ask("settle", authorization, genuine, version)
    assert (again["errorReason"], bool(again["transaction"])) == ("duplicate_settlement", True)
    shop.assert_paid(3000)


async def test_one_that_nobody_was_told_of_is_told_to_nobody_else(shop: Shop, desk: Desk) -> None:
    authorization = shop.authorize()
    shop.chain.mines_at_once = False
    pending = await desk.ask("settle", authorization, shop.sign(authorization))
    assert pending["errorReason"] == "settlement_pending"
    shop.chain.mine()
    shop.chain.mine()
    shop.clock.advance(120)
    other = b"\x07" + shop.sign(authorization)
    for call, reason in (("verify", "invalidReason"), ("settle", "errorReason")):
        assert (await desk.ask(call, authorization, other))[reason] == FORGED
    told = await desk.ask("settle", authorization, shop.sign(authorization))
    assert told["success"] is True
    shop.assert_paid(3000)


async def test_forgeries_take_no_places_of_the_payers(shop: Shop, desk: Desk) -> None:
    gate = asyncio.Event()
    waiting = 0
    check = shop.backend.check

    async def slow(token: Any, authorization: Authorization, signature: bytes) -> None:
        nonlocal waiting
        if signature != shop.sign(authorization):
            waiting += 1
            await gate.wait()
        await check(token, authorization, signature)

    shop.backend.check = slow  # type: ignore[method-assign]
    forgeries = [asyncio.create_task(desk.ask("settle", shop.authorize(n), bytes(80))) for n in range(1, 6)]
    await until(lambda: waiting == 5)
    honest = shop.authorize(9)
    assert (await desk.ask("settle", honest, shop.sign(honest)))["success"] is True
    gate.set()
    assert {(await each)["errorReason"] for each in forgeries} == {FORGED}
    shop.assert_paid(3000)


async def test_the_digest_is_kept_and_the_signature_is_not(shop: Shop, desk: Desk) -> None:
    authorization = shop.authorize()
    signature = shop.sign(authorization)
    await desk.ask("settle", authorization, signature)
    charge = await desk.store.find({authorization_key(TOKEN, authorization)})
    assert charge is not None
    assert len(charge.rail_state["proof_digest"]) == 64
    assert signature.hex() not in charge.model_dump_json()
    assert charge.takes_proof({}), "a key's signature needs no comparison"
    assert charge.takes_proof({"proof_digest": charge.rail_state["proof_digest"]})
    assert not charge.takes_proof({"proof_digest": "0" * 64})
    by_key = charge.model_copy(update={"rail_state": {}})
    assert not by_key.takes_proof({"proof_digest": charge.rail_state["proof_digest"]})


# --- a gate in front of it


async def test_a_gate_replays_to_the_signature_that_was_accepted(shop: Shop) -> None:
    gate = Gate(
        rails=[BaseRail(shop.backend, pay_to=PAYEE, token=TOKEN)],
        public_url="http://shop",
        store=MemoryStore(),
        secret="secret of the tests " * 2,
        receipt_key=ReceiptKeys.generate()[1],
        clock=shop.clock,
        reconcile_seconds=0,
    )
    app, runs = FastAPI(), []
    gate.install(app)

    @app.get("/article")
    @gate.paid("0.003 USD")
    async def article() -> dict[str, int]:
        runs.append(1)
        return {"run": len(runs)}

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with gate, httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        asked = await http.get("/article")
        (accepted,) = json.loads(base64.b64decode(asked.headers["payment-required"]))["accepts"]
        authorization = shop.authorize()

        async def show(signature: bytes) -> tuple[int, Any]:
            message = {"x402Version": 2, "accepted": accepted, "payload": payload_of(authorization, signature)}
            shown = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message).encode()).decode()}
            response = await http.get("/article", headers=shown)
            return response.status_code, response.json().get("code", response.json())

        genuine = shop.sign(authorization)
        forgeries = bytes(80), b"\x07" + genuine  # the contract would accept the last one, too
        assert await show(forgeries[0]) == (402, "signature_invalid")
        assert await show(genuine) == (200, {"run": 1})
        for forged in forgeries:
            assert await show(forged) == (402, "signature_invalid")
        shop.chain.wallets[WALLET.lower()] = lambda *_: REFUSED
        assert await show(genuine) == (200, {"run": 1})
    shop.assert_paid(3000)
