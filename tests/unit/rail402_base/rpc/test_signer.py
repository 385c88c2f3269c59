"""Signers elsewhere, played as they are described: Web3Signer, Clef, and nodes with accounts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account

from rail402.errors import ConfigurationError, PaymentFailed, RailUnavailable
from rail402.protocol.offer import Flow
from rail402_base import BaseWallet
from rail402_base.eip3009 import digest, recover
from rail402_base.keys import ContractSigner, LocalSigner, RemoteSigner
from rail402_base.rpc.signer import RpcSigner, SignMethod
from rail402_base.tokens import BASE_USDC
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import PAYER, PAYER_KEY
from tests.unit.rail402_base.test_keys import AUTHORIZATION as ANOTHERS
from tests.unit.rail402_base.test_keys import DOMAIN

AUTHORIZATION = type(ANOTHERS)(
    from_=PAYER, to=ANOTHERS.to, value=2**200, valid_after=0, valid_before=1_800_000_000, nonce=ANOTHERS.nonce
)
URL = "https://signer.example/hidden-path"


class FakeSigner(httpx.AsyncBaseTransport):
    """A signer with one key.

    Attributes:
        method: the only one it knows; reads_text: whether the message must be a text (Web3Signer), else an object.
        answers: what it says in place of a signature.
    """

    def __init__(self, method: SignMethod, *, key: bytes = PAYER_KEY) -> None:
        self.method, self.key = method, key
        self.reads_text = method == "eth_signTypedData"
        self.answers: Callable[[], httpx.Response] | None = None
        self.asked: list[dict[str, Any]] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = json.loads(request.content)
        self.asked.append(call)
        if self.answers is not None:
            return self.answers()
        if call["method"] != self.method:
            return self.refuses(-32601, f"the method {call['method']} does not exist")
        address, message = call["params"]
        if address.lower() != Account.from_key(self.key).address.lower():
            return self.refuses(-32000, "signing from is not an unlocked account")
        if isinstance(message, str) is not self.reads_text:
            return self.refuses(-32602, "invalid params")
        typed = json.loads(message) if self.reads_text else message
        signature = Account.sign_typed_data(self.key, full_message=typed).signature
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": call["id"], "result": "0x" + signature.hex()})

    @staticmethod
    def refuses(code: int, message: str) -> httpx.Response:
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 0, "error": {"code": code, "message": message}})

    async def aclose(self) -> None:
        self.closed += 1


METHODS: tuple[SignMethod, ...] = ("eth_signTypedData_v4", "eth_signTypedData", "account_signTypedData")


@pytest.mark.parametrize("method", METHODS)
async def test_a_key_elsewhere_signs_as_a_key_here_does(method: SignMethod) -> None:
    fake = FakeSigner(method)
    signer = RemoteSigner(PAYER, RpcSigner(URL, PAYER, method=method, transport=fake))
    for _ in range(2):
        signature = await signer.sign(DOMAIN, AUTHORIZATION)
        assert recover(digest(DOMAIN, AUTHORIZATION), signature) == PAYER
    assert signature == await LocalSigner(PAYER_KEY).sign(DOMAIN, AUTHORIZATION)
    assert fake.closed == 2, "no connection is left open"


async def test_a_contract_reads_the_signature_of_its_owner() -> None:
    contract = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    paid = type(ANOTHERS)(**{**_members(AUTHORIZATION), "from_": contract})
    remote = RpcSigner(URL, PAYER, transport=FakeSigner("eth_signTypedData_v4"))
    for sign in (remote, LocalSigner(PAYER_KEY).sign_typed_data):
        signature = await ContractSigner(contract, sign).sign(DOMAIN, paid)
        assert recover(digest(DOMAIN, paid), signature) == PAYER


def _members(authorization: Any) -> dict[str, Any]:
    names = ("from_", "to", "value", "valid_after", "valid_before", "nonce")
    return {name: getattr(authorization, name) for name in names}


async def test_a_signer_of_another_kind_says_so() -> None:
    fake = FakeSigner("account_signTypedData")
    with pytest.raises(RailUnavailable, match=r"does not sign \(-32601: the method eth_signTypedData_v4"):
        await RpcSigner(URL, PAYER, transport=fake)({})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: FakeSigner.refuses(-32000, "Request denied"), r"does not sign \(-32000: Request denied\)"),
        (lambda: httpx.Response(502, text="<html>"), "signer.example answered 502"),
        (lambda: httpx.Response(401), r"refuses the key in its address \(401\)"),
        (lambda: httpx.Response(200, json={"jsonrpc": "2.0", "id": 0, "result": None}), "is no signature"),
        (lambda: httpx.Response(200, json={"jsonrpc": "2.0", "id": 0, "result": "0x12"}), "65 bytes"),
    ],
)
async def test_what_fails_paid_nothing(answer: Callable[[], httpx.Response], said: str) -> None:
    fake = FakeSigner("eth_signTypedData_v4")
    fake.answers = answer
    wallet = BaseWallet(RemoteSigner(PAYER, RpcSigner(URL, PAYER, transport=fake)))
    offer = BaseSpec((BASE_USDC,)).offer(
        BASE_USDC,
        payee=AUTHORIZATION.to,
        amount=3000,
        flow=Flow.AUTHORIZATION,
        expires_at=2_000_000_000,
        timeout_seconds=60,
    )
    with pytest.raises(PaymentFailed, match=said) as failed:
        await wallet.pay(offer, record_id="rec_1", now=1_900_000_000)
    assert "hidden-path" not in str(failed.value) + repr(wallet.signer)


async def test_another_key_than_the_address_is_found_out() -> None:
    other = bytes([9]) * 32
    fake = FakeSigner("eth_signTypedData_v4", key=other)
    signer = RemoteSigner(PAYER, RpcSigner(URL, Account.from_key(other).address, transport=fake))
    with pytest.raises(ConfigurationError, match="did not sign this message with the key of"):
        await signer.sign(DOMAIN, AUTHORIZATION)


@pytest.mark.parametrize(
    ("url", "said"),
    [("signer", "signer: "), ("http://signer.example", "use https"), ("ftp://127.0.0.1", "signer: ")],
)
def test_an_address_that_cannot_be_used(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RpcSigner(url, PAYER)
