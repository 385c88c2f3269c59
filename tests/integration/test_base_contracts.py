"""Payers that are contracts (ERC-1271) on a real EVM: the money is counted on both sides, and so is the gas."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from rail402.client.payer import Payer
from rail402.clock import system_clock
from rail402.dialects import dialect_by_name
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.rail import Registry
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.gate import Gate
from rail402.stores.sqlite import SqliteStore
from rail402_base.eip3009 import Authorization, digest, sign
from rail402_base.facilitator import FacilitatorBackend
from rail402_base.facilitator_wire import SignedTransfer, request_body
from rail402_base.keys import ContractSigner
from rail402_base.rail import BaseRail
from rail402_base.rpc.abi import AUTHORIZATION_USED, MAX_CONTRACT_GAS
from rail402_base.rpc.backend import RelaySettings
from rail402_base.rpc.reader import ChainReader
from rail402_base.wallet import BaseWallet
from rail402_base.wire import authorization_key, payload_of
from tests.integration.test_facilitator_server import library, official_server, run
from tests.services import facilitator as official_services
from tests.services import require
from tests.services.anvil import ETHER, USDC, Account, EvmChain
from tests.services.our_facilitator import our_facilitator
from tests.services.processes import free_ports

__all__ = ["library"]  # a fixture

URL = "http://testserver"
PRICE = 3000
DIALECTS = ("x402-v2", "x402-v1", "mpp", "x-payment")
UNDEPLOYED = bytes.fromhex(16 * "6492")

REFUSED_AT_ONCE = (
    "refuses",
    "reverts",
    "answers too little",
    "answers too much",
    "answers with more",
    "burns gas",
    "breaks",
)


class Market:
    """A gate in front of an app, a relayer, and a wallet that is a contract."""

    def __init__(self, evm: EvmChain, path: Path, *, facilitator: str | None = None) -> None:
        self.evm = evm
        self.payee, self.relayer = evm.account(), evm.account(ether=ETHER)
        self.wallet = evm.smart_wallet(usdc=USDC)
        self.ahead = 0  # seconds that the gate's clock is ahead
        self.begin = evm.height()
        self.store = SqliteStore(f"{path}/charges.db")
        self.gate = Gate(
            rails=[self._rail(path, facilitator)],
            public_url=URL,
            store=self.store,
            secret="secret of the tests " * 2,
            receipt_key=ReceiptKeys.generate()[1],
            clock=lambda: system_clock() + self.ahead,
            reconcile_seconds=0,
            wait_seconds=5,
            dialects=[dialect_by_name(name) for name in DIALECTS],
        )
        self.app = FastAPI()
        self.gate.install(self.app)
        self.runs = 0
        self.in_handler: Callable[[], object] = lambda: None
        self.http: httpx.AsyncClient
        for path_, flow in (("/article", "authorization"), ("/book", "authorization"), ("/upfront", "upfront")):
            self.app.get(path_)(self.gate.paid("0.003 USD", flow=flow)(self._serve))  # type: ignore[arg-type]

    def _rail(self, path: Path, facilitator: str | None) -> BaseRail:
        if facilitator is not None:
            backend = FacilitatorBackend(facilitator, reader=ChainReader(self.evm.url, self.evm.token))
            return BaseRail(backend, pay_to=self.payee.address, token=self.evm.token)
        return BaseRail.rpc(
            self.evm.url,
            self.relayer.private_key,
            pay_to=self.payee.address,
            token=self.evm.token,
            relayer_db=f"sqlite:///{path}/relayer.db",
            settings=RelaySettings(poll_ms=20, tend_seconds=1, max_fee_per_gas=50 * 10**9),
        )

    async def _serve(self, request: Request) -> dict[str, int]:
        self.runs += 1
        self.in_handler()  # after the payment was verified, before it is settled
        return {"run": self.runs}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Market]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with self.gate, httpx.AsyncClient(transport=transport, base_url=URL, timeout=60) as self.http:
            yield self

    # --- payments by hand

    async def accepted(self, path: str = "/article") -> dict[str, Any]:
        response = await self.http.get(path)
        assert response.status_code == 402
        (accepted,) = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"]
        found: dict[str, Any] = accepted
        return found

    def authorize(self, accepted: dict[str, Any], **members: Any) -> Authorization:
        until = system_clock() + accepted["maxTimeoutSeconds"]
        made = self.evm.authorize(self.wallet, accepted["payTo"], int(accepted["amount"]), valid_before=until)
        return Authorization(**({name: getattr(made, name) for name in made.__slots__} | members))

    def sign(self, authorization: Authorization, more: bytes = b"") -> bytes:
        """The owner's signature, and what the wallet does not care about."""
        return self.evm.sign(self.wallet, authorization) + more

    async def payment(self, path: str = "/article", more: bytes = b"and more") -> dict[str, str]:
        accepted = await self.accepted(path)
        authorization = self.authorize(accepted)
        return header(accepted, authorization, self.sign(authorization, more))

    async def refused(self, fields: dict[str, str], path: str = "/article", status: int = 402) -> str:
        """The reason for which a payment is refused: nothing is run, nothing moves, no gas is spent."""
        before = self.runs, self.evm.usdc_of(self.payee.address), self.evm.ether_of(self.relayer.address)
        response = await self.http.get(path, headers=fields)
        assert response.status_code == status, response.text
        assert (self.runs, self.evm.usdc_of(self.payee.address), self.evm.ether_of(self.relayer.address)) == before
        code: str = response.json()["code"]
        return code

    # --- the books

    def assert_paid(self, times: int) -> None:
        """What the wallet has lost the payee has, by balances and by events, and nobody else has anything."""
        assert self.evm.usdc_of(self.wallet.address) == USDC - times * PRICE
        assert self.evm.usdc_of(self.payee.address) == times * PRICE
        topics = [AUTHORIZATION_USED, "0x" + self.wallet.address[2:].lower().rjust(64, "0")]
        criteria = {"address": self.evm.token.address, "fromBlock": hex(self.begin), "topics": topics}
        assert len(self.evm.call("eth_getLogs", criteria)) == times

    def sent(self) -> int:
        """How many transactions of the relayer's were mined."""
        return int(self.evm.call("eth_getTransactionCount", self.relayer.address, "latest"), 16)

    async def state(self, fields: dict[str, str]) -> PaymentState | None:
        payload = json.loads(base64.b64decode(fields["PAYMENT-SIGNATURE"]))["payload"]["authorization"]
        authorization = Authorization(
            from_=payload["from"],
            to=payload["to"],
            value=int(payload["value"]),
            valid_after=int(payload["validAfter"]),
            valid_before=int(payload["validBefore"]),
            nonce=bytes.fromhex(payload["nonce"][2:]),
        )
        charge = await self.store.find({authorization_key(self.evm.token, authorization)})
        return None if charge is None else charge.payment


def header(accepted: Any, authorization: Authorization, signature: bytes) -> dict[str, str]:
    message = {"x402Version": 2, "accepted": accepted, "payload": payload_of(authorization, signature)}
    return {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message).encode()).decode()}


def with_signature(fields: dict[str, str], signature: bytes) -> dict[str, str]:
    message = json.loads(base64.b64decode(fields["PAYMENT-SIGNATURE"]))
    message["payload"]["signature"] = "0x" + signature.hex()
    return {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message).encode()).decode()}


def contract_wallet(evm: EvmChain, wallet: Account) -> BaseWallet:
    """Our client for a wallet whose owner's key is in this process."""

    async def sign_typed_data(message: dict[str, Any]) -> bytes:
        members = message["message"]
        authorization = Authorization(
            from_=members["from"],
            to=members["to"],
            value=int(members["value"]),
            valid_after=int(members["validAfter"]),
            valid_before=int(members["validBefore"]),
            nonce=bytes.fromhex(members["nonce"][2:]),
        )
        return sign(digest(evm.token.domain, authorization), wallet.key_bytes) + b"which owner"

    signer = ContractSigner(wallet.address, sign_typed_data)
    return BaseWallet(signer, tokens=(evm.token,), chain=ChainReader(evm.url, evm.token))


@pytest.fixture
async def market(evm: EvmChain, tmp_path: Path) -> AsyncIterator[Market]:
    async with Market(evm, tmp_path).open() as opened:
        yield opened


# --- paying


async def test_an_agent_pays_from_a_contract(market: Market, tmp_path: Path) -> None:
    payer = Payer([contract_wallet(market.evm, market.wallet)], journal=f"sqlite:///{tmp_path}/wallet.db")
    transport = payer.transport(httpx.ASGITransport(app=market.app))
    async with payer, httpx.AsyncClient(transport=transport, base_url=URL, timeout=60) as agent:
        for number, path in enumerate(["/article", "/upfront"], 1):
            response = await agent.get(path)
            assert (response.status_code, response.json()) == (200, {"run": number})
            market.assert_paid(number)
    assert response.extensions["rail402"].receipt.payer == market.wallet.address
    mined = market.evm.receipt(response.extensions["rail402"].receipt.transaction)
    assert mined is not None
    assert (mined["from"], mined["status"]) == (market.relayer.address.lower(), "0x1")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_that_carries_authorizations_takes_a_contracts(market: Market, dialect: str) -> None:
    wallet, speaker = contract_wallet(market.evm, market.wallet), dialect_by_name(dialect)
    context = Context(specs=Registry([wallet.spec]), now=system_clock())
    asked = await market.http.get("/article")
    (offer, *_) = speaker.offers(Fields(asked.headers.multi_items()), asked.content, context)
    paid = await wallet.pay(offer, record_id="rec_1", now=system_clock())
    shown = dict(speaker.credential(offer, dict(paid.payload), context))
    served = await market.http.get("/article", headers=shown)
    assert (served.status_code, served.json()) == (200, {"run": 1})
    market.assert_paid(1)
    await market.http.get("/article", headers=shown)
    assert market.runs == 1
    market.assert_paid(1)


@pytest.mark.parametrize("size", [65, 66, 96, 700, 2048])
async def test_signatures_of_any_size(market: Market, size: int) -> None:
    fields = await market.payment(more=bytes(range(1, 251)) * 9)
    payload = json.loads(base64.b64decode(fields["PAYMENT-SIGNATURE"]))["payload"]
    signature = bytes.fromhex(payload["signature"][2:])[:size]
    response = await market.http.get("/article", headers=with_signature(fields, signature))
    assert (response.status_code, response.json()) == (200, {"run": 1})
    market.assert_paid(1)


async def test_contracts_and_keys_pay_side_by_side(market: Market) -> None:
    """What a contract's payment needs of gas is not what the others are reckoned to need, nor the other way round."""
    payer = market.evm.account(usdc=USDC)
    payments = []
    for _ in range(4):
        payments.append(await market.payment())
        accepted = await market.accepted()
        authorization = market.authorize(accepted, from_=payer.address)
        payments.append(header(accepted, authorization, market.evm.sign(payer, authorization)))
    found = await asyncio.gather(*(market.http.get("/article", headers=each) for each in payments))
    assert [each.status_code for each in found] == [200] * 8
    assert market.evm.usdc_of(payer.address) == market.evm.usdc_of(market.wallet.address) == USDC - 4 * PRICE
    assert market.evm.usdc_of(market.payee.address) == 8 * PRICE


async def test_an_account_that_has_delegated_pays_by_its_contract(market: Market) -> None:
    """EIP-7702: it has a key and code; here somebody else's key signs, as its code allows."""
    code = market.evm.account().address
    market.evm.call("anvil_setCode", code, market.evm.wallet_code)
    market.evm.call("anvil_setCode", market.wallet.address, "0xef0100" + code[2:])
    response = await market.http.get("/article", headers=await market.payment())
    assert (response.status_code, response.json()) == (200, {"run": 1})
    market.assert_paid(1)


async def test_a_payment_that_somebody_else_handed_in_counts(market: Market) -> None:
    accepted = await market.accepted()
    authorization = market.authorize(accepted)
    signature = market.sign(authorization, b"\x01")
    market.evm.submit_bytes(market.evm.account().address, authorization, signature)
    market.assert_paid(1)
    forged = header(accepted, authorization, market.sign(authorization)[:64] + b"\x01\x02")
    assert await market.refused(forged) == "signature_invalid", "or the money of others would pay for it"
    response = await market.http.get("/article", headers=header(accepted, authorization, signature))
    assert (response.status_code, response.json()) == (200, {"run": 1})
    market.assert_paid(1)
    assert market.sent() == 0


# --- what is refused


@pytest.mark.parametrize("manner", REFUSED_AT_ONCE)
async def test_a_contract_that_does_not_accept_is_refused_and_uses_nothing_up(market: Market, manner: str) -> None:
    fields = await market.payment()
    market.evm.behave(market.wallet, manner)
    assert await market.refused(fields) == "signature_invalid"
    assert await market.state(fields) is None
    market.evm.behave(market.wallet, "honest")
    assert (await market.http.get("/article", headers=fields)).status_code == 200
    market.assert_paid(1)


async def test_a_payer_without_code_needs_its_key(market: Market) -> None:
    fields = await market.payment()
    market.evm.destroy(market.wallet)
    assert await market.refused(fields) == "signature_invalid"


async def test_a_wallet_that_is_not_deployed_is_refused_in_its_own_words(market: Market) -> None:
    fields = await market.payment(more=bytes(95) + UNDEPLOYED)
    assert await market.refused(fields) == "wallet_undeployed"
    response = await market.http.get("/article", headers=fields)
    said = json.loads(base64.b64decode(response.headers["payment-required"]))
    assert "undeployed_smart_wallet" in said["error"]
    assert "ERC-6492" in response.text


@pytest.mark.parametrize("signature", [b"", bytes(2049)], ids=len)
async def test_a_signature_of_no_size_or_too_large_a_one_is_malformed(market: Market, signature: bytes) -> None:
    fields = with_signature(await market.payment(), signature)
    assert await market.refused(fields) == "payload_invalid"


async def test_a_contract_that_holds_too_little(market: Market) -> None:
    market.evm.set_usdc(market.wallet.address, PRICE - 1)
    assert await market.refused(await market.payment()) == "insufficient_funds"


async def test_a_payment_opens_nothing_else_and_its_nonce_pays_once(market: Market) -> None:
    fields = await market.payment()
    assert (await market.http.get("/article", headers=fields)).status_code == 200
    assert await market.refused(fields, "/book") == "resource_mismatch"
    payload = json.loads(base64.b64decode(fields["PAYMENT-SIGNATURE"]))["payload"]
    nonce = bytes.fromhex(payload["authorization"]["nonce"][2:])
    accepted = await market.accepted("/book")
    again = market.authorize(accepted, nonce=nonce, valid_before=system_clock() + 600)
    code = await market.refused(header(accepted, again, market.sign(again, b"and more")), "/book")
    assert code == "signature_invalid", "another authorization has another signature"
    market.assert_paid(1)


# --- forgeries


async def test_a_forgery_shown_first_does_not_take_the_place_of_the_payment(market: Market) -> None:
    fields = await market.payment()
    for forged in (b"\x01", bytes(65), bytes(700), market.payee.key_bytes * 3):
        assert await market.refused(with_signature(fields, forged)) == "signature_invalid"
    assert await market.state(fields) is None
    assert (await market.http.get("/article", headers=fields)).status_code == 200
    market.assert_paid(1)


async def test_a_forgery_under_a_known_nonce_replays_nothing(market: Market) -> None:
    fields = await market.payment()
    first = await market.http.get("/article", headers=fields)
    assert first.status_code == 200
    payload = json.loads(base64.b64decode(fields["PAYMENT-SIGNATURE"]))["payload"]
    genuine = bytes.fromhex(payload["signature"][2:])
    market.evm.behave(market.wallet, "takes anything")
    for forged in (b"\x01", bytes(65), genuine[:65], genuine + b"\x00", genuine[:-1] + b"\xff"):
        assert await market.refused(with_signature(fields, forged)) == "signature_invalid"
    again = await market.http.get("/article", headers=fields)
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (200, first.json(), "true")
    market.assert_paid(1)


async def test_a_replay_outlives_the_owner_and_the_contract(market: Market) -> None:
    fields = await market.payment()
    first = await market.http.get("/article", headers=fields)
    for change in (lambda: market.evm.behave(market.wallet, "refuses"), lambda: market.evm.destroy(market.wallet)):
        change()
        again = await market.http.get("/article", headers=fields)
        assert (again.status_code, again.json()) == (200, first.json())
    market.assert_paid(1)


async def test_forgeries_beside_the_payment_gain_and_spoil_nothing(market: Market) -> None:
    fields = await market.payment()
    shown = [with_signature(fields, bytes([number]) * (60 + number)) for number in range(1, 13)]
    shown[6:6] = [fields] * 3
    found = await asyncio.gather(*(market.http.get("/article", headers=each) for each in shown))
    forged = [*found[:6], *found[9:]]
    # While the payment has no end, nobody who shows its nonce is asked to pay.
    assert {each.json()["code"] for each in forged} <= {"signature_invalid", "payment_in_progress"}
    assert {each.status_code for each in forged} <= {402, 409}
    assert [each.json() for each in found[6:9]] == [{"run": 1}] * 3
    market.assert_paid(1)
    assert market.sent() == 1


# --- changing its mind


@pytest.mark.parametrize("manner", [*REFUSED_AT_ONCE, "is gone"])
async def test_a_contract_that_changes_its_mind_is_not_served_and_costs_no_gas(market: Market, manner: str) -> None:
    evm, gas = market.evm, market.evm.ether_of(market.relayer.address)
    fields = await market.payment()
    market.in_handler = lambda: evm.destroy(market.wallet) if manner == "is gone" else evm.behave(market.wallet, manner)
    response = await market.http.get("/article", headers=fields)
    if manner in ("answers too much",):  # the token does not mind, and it is the token that pays
        assert response.status_code == 200
        market.assert_paid(1)
        return
    assert (response.status_code, response.json()["code"]) == (402, "signature_invalid")
    assert await market.state(fields) is PaymentState.REJECTED
    market.assert_paid(0)
    assert (market.sent(), evm.ether_of(market.relayer.address)) == (0, gas)
    market.in_handler = lambda: None
    evm.behave(market.wallet, "honest")
    assert await market.refused(fields) == "signature_invalid", "it was refused for good"
    market.assert_paid(0)


@pytest.mark.parametrize("path", ["/article", "/upfront"])
@pytest.mark.parametrize("manner", ["lies to calls", "burns gas when mined"])
async def test_a_contract_that_accepts_until_it_is_mined_is_not_served(market: Market, manner: str, path: str) -> None:
    """No call can show it. The gas has a limit, and the contract is not trusted again for an hour."""
    evm = market.evm
    evm.behave(market.wallet, manner)
    fields = await market.payment(path)
    gas, begin = evm.ether_of(market.relayer.address), evm.height()
    response = await market.http.get(path, headers=fields)
    assert response.status_code != 200
    assert "run" not in response.json()
    assert await market.state(fields) is PaymentState.UNKNOWN, "it could be handed in again until it expires"
    assert market.sent() == 1
    market.assert_paid(0)
    assert evm.ether_of(market.relayer.address) < gas
    mined = [evm.call("eth_getBlockByNumber", hex(number), False) for number in range(begin + 1, evm.height() + 1)]
    (transaction,) = [each for block in mined for each in block["transactions"]]
    receipt = evm.receipt(transaction)
    assert receipt is not None
    assert receipt["status"] == "0x0"
    assert int(receipt["gasUsed"], 16) <= MAX_CONTRACT_GAS
    assert await market.refused(await market.payment(path), path) == "payment_declined"
    market.ahead = 7200
    with evm.at(system_clock() + market.ahead):
        evm.mine(4)
        await market.gate.reconcile()
        assert await market.state(fields) is PaymentState.RELEASED
        assert await market.refused(fields, path) in ("offer_expired", "authorization_expired")
    market.assert_paid(0)


# --- facilitators


@pytest.mark.parametrize("version", [1, 2])
async def test_the_official_facilitator_settles_for_a_contract(evm: EvmChain, tmp_path: Path, version: int) -> None:
    if reason := official_services.missing():
        require("x402", reason)
    with official_services.facilitator(tmp_path, evm, version=version) as official:
        async with Market(evm, tmp_path, facilitator=official.url).open() as market:
            response = await market.http.get("/article", headers=await market.payment())
            assert (response.status_code, response.json()) == (200, {"run": 1})
            assert await market.refused(with_signature(await market.payment(), bytes(80))) == "signature_invalid"
            market.assert_paid(1)


async def test_our_facilitator_settles_for_a_contract(evm: EvmChain, tmp_path: Path) -> None:
    with our_facilitator(tmp_path, evm) as ours:
        async with Market(evm, tmp_path, facilitator=ours.url).open() as market:
            response = await market.http.get("/article", headers=await market.payment())
            assert (response.status_code, response.json()) == (200, {"run": 1})
            market.assert_paid(1)


@pytest.mark.parametrize("version", [1, 2])
async def test_our_facilitator_answers_for_a_payment_to_its_own_signature_only(
    evm: EvmChain, library: str, tmp_path: Path, version: int
) -> None:
    """Verified, settled and asked again by x402's own client of facilitators."""
    wallet, payee = evm.smart_wallet(usdc=USDC), evm.account()
    authorization = evm.authorize(wallet, payee.address, PRICE)
    body = facilitator_body(evm, version, authorization, evm.sign(wallet, authorization) + b"and more")
    forged = facilitator_body(evm, version, authorization, evm.sign(wallet, authorization) + b"and less")
    junk = facilitator_body(evm, version, authorization, bytes(200))
    with our_facilitator(tmp_path, evm) as ours:
        ask: dict[str, Any] = {"do": "ask", "facilitator": ours.url}
        (before, refused) = (await run(library, **ask, body=junk, calls=["verify", "settle"]))["answers"]
        assert (before["isValid"], before["invalidReason"]) == (False, "invalid_exact_evm_payload_signature")
        assert (refused["success"], refused["errorReason"]) == (False, "invalid_exact_evm_payload_signature")
        verified, settled = (await run(library, **ask, body=body, calls=["verify", "settle"]))["answers"]
        assert verified == {"isValid": True, "payer": wallet.address}
        assert (settled["success"], settled["payer"]) == (True, wallet.address)
        evm.behave(wallet, "takes anything")
        for other in (forged, junk):
            spent, again = (await run(library, **ask, body=other, calls=["verify", "settle"]))["answers"]
            assert (spent["isValid"], spent["invalidReason"]) == (False, "invalid_exact_evm_payload_signature")
            assert (again["success"], again["errorReason"]) == (False, "invalid_exact_evm_payload_signature")
        (told,) = (await run(library, **ask, body=body, calls=["settle"]))["answers"]
        assert (told["errorReason"], told["transaction"]) == ("duplicate_settlement", settled["transaction"])
        wrapped = facilitator_body(evm, version, evm.authorize(wallet, payee.address, PRICE), bytes(96) + UNDEPLOYED)
        (undeployed,) = (await run(library, **ask, body=wrapped, calls=["verify"]))["answers"]
        assert undeployed["invalidReason"] == "invalid_exact_evm_payload_undeployed_smart_wallet"
    assert evm.usdc_of(wallet.address) == USDC - PRICE
    assert evm.usdc_of(payee.address) == PRICE


async def test_the_official_client_pays_the_official_server_from_a_contract_through_ours(
    evm: EvmChain, library: str, tmp_path: Path
) -> None:
    wallet, payee = evm.smart_wallet(usdc=USDC), evm.account()
    with (
        our_facilitator(tmp_path / "ours", evm) as ours,
        official_server(library, tmp_path, ours.url, payee.address) as shop,
    ):
        given = {"url": f"{shop}/article", "key": wallet.private_key, "contract": wallet.address}
        bought = await run(library, do="pay", **given)
    assert (bought["status"], bought["body"], bought["payments"]) == (200, {"run": 1}, 1)
    assert (bought["settled"]["success"], bought["settled"]["payer"]) == (True, wallet.address)
    assert evm.usdc_of(wallet.address) == USDC - PRICE
    assert evm.usdc_of(payee.address) == PRICE


async def test_the_official_client_pays_our_server_from_a_contract(market: Market, library: str) -> None:
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(market.app, port=port, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        given = {"url": f"http://127.0.0.1:{port}/article", "key": market.wallet.private_key}
        bought = await run(library, do="pay", contract=market.wallet.address, **given)
    finally:
        server.should_exit = True
        await serving
    assert (bought["status"], bought["body"], bought["payments"]) == (200, {"run": 1}, 1)
    assert (bought["settled"]["success"], bought["settled"]["payer"]) == (True, market.wallet.address)
    market.assert_paid(1)


async def test_our_client_pays_the_official_server_from_a_contract(evm: EvmChain, library: str, tmp_path: Path) -> None:
    wallet, payee = evm.smart_wallet(usdc=USDC), evm.account()
    payer = Payer([contract_wallet(evm, wallet)], journal=f"sqlite:///{tmp_path}/wallet.db")
    with (
        official_services.facilitator(tmp_path / "theirs", evm) as theirs,
        official_server(library, tmp_path, theirs.url, payee.address) as shop,
    ):
        async with payer, httpx.AsyncClient(transport=payer.transport(httpx.AsyncHTTPTransport())) as agent:
            response = await agent.get(f"{shop}/article", timeout=60)
    assert (response.status_code, response.json()) == (200, {"run": 1})
    assert evm.usdc_of(wallet.address) == USDC - PRICE
    assert evm.usdc_of(payee.address) == PRICE


def facilitator_body(evm: EvmChain, version: int, authorization: Authorization, signature: bytes) -> dict[str, Any]:
    signed = SignedTransfer(evm.token, authorization, signature)
    body: dict[str, Any] = json.loads(json.dumps(request_body(version, signed, now=evm.now())))
    return body
