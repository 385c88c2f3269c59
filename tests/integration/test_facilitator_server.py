"""Our facilitator as a process on a real EVM, used by x402's own library: the money is counted on both sides."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402_base.facilitator_wire import SignedTransfer, request_body
from tests.services import facilitator as official_services
from tests.services import install_root, require
from tests.services.anvil import USDC, Account, EvmChain
from tests.services.our_facilitator import OurFacilitator, our_facilitator
from tests.services.processes import free_ports, running

PRICE = 3000
PROGRAM = Path(__file__).with_name("x402_official.py")
TRIES = 40
RATIO = 1.0  # how much longer than x402's own facilitator a verification may take at most


@pytest.fixture(scope="module")
def ours(evm: EvmChain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurFacilitator]:
    with our_facilitator(tmp_path_factory.mktemp("ours"), evm) as started:
        yield started


@pytest.fixture(scope="module")
def library() -> str:
    if reason := official_services.missing():
        require("x402", reason)
    return str(install_root() / "x402" / "bin" / "python")


class Buyer:
    """A payer and a payee of one test's own."""

    def __init__(self, evm: EvmChain) -> None:
        self.evm = evm
        self.payer, self.payee = evm.account(usdc=USDC), evm.account()

    def body(self, *, version: int = 2, value: int = PRICE, payee: str | None = None) -> dict[str, Any]:
        authorization = self.evm.authorize(self.payer, payee or self.payee.address, value)
        signed = SignedTransfer(self.evm.token, authorization, self.evm.sign(self.payer, authorization))
        body: dict[str, Any] = json.loads(json.dumps(request_body(version, signed, now=self.evm.now())))
        return body

    def assert_paid(self, times: int) -> None:
        paid = times * PRICE
        assert self.evm.usdc_of(self.payer.address) == USDC - paid
        assert self.evm.usdc_of(self.payee.address) == paid
        assert self.evm.ether_of(self.payer.address) == 0


@pytest.fixture
def buyer(evm: EvmChain) -> Buyer:
    return Buyer(evm)


async def run(python: str, **given: Any) -> dict[str, Any]:
    """Run the official program to its end; what it printed."""
    process = await asyncio.create_subprocess_exec(
        python, str(PROGRAM), json.dumps(given), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, error.decode()
    said: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return said


@contextmanager
def official_server(python: str, directory: Path, facilitator: str, payee: str, **more: Any) -> Iterator[str]:
    """x402's own FastAPI middleware in front of one article; gives its address."""
    (port,) = free_ports(1)
    given = {"do": "serve", "port": port, "facilitator": facilitator, "payTo": payee, **more}
    with running("official-server", [python, str(PROGRAM), json.dumps(given)], directory) as process:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(trust_env=False) as client:
            process.wait_until("HTTP", lambda: client.get(f"{url}/runs").is_success)
        yield url


async def settle(url: str, body: Any, **headers: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        response = await client.post(f"{url}/settle", json=body, headers=headers)
    assert response.status_code == 200, response.text
    said: dict[str, Any] = response.json()
    return said


@pytest.mark.parametrize("version", [1, 2])
async def test_the_official_client_of_facilitators_verifies_and_settles(
    evm: EvmChain, ours: OurFacilitator, library: str, buyer: Buyer, version: int
) -> None:
    gas = evm.ether_of(_relayer(ours).address)
    calls = ["verify", "settle", "settle", "verify"]
    body = buyer.body(version=version)
    said = await run(library, do="ask", facilitator=ours.url, body=body, calls=calls)
    verified, settled, again, spent = said["answers"]
    assert verified == {"isValid": True, "payer": buyer.payer.address}
    assert (settled["success"], settled["payer"], settled["amount"]) == (True, buyer.payer.address, str(PRICE))
    assert settled["network"] == {1: "base-sepolia", 2: "eip155:84532"}[version]
    assert (again["success"], again["errorReason"]) == (False, "duplicate_settlement")
    assert again["transaction"] == settled["transaction"]
    assert (spent["isValid"], spent["invalidReason"]) == (False, "duplicate_settlement")
    receipt = evm.receipt(settled["transaction"])
    assert receipt is not None
    assert (int(receipt["status"], 16), receipt["from"]) == (1, _relayer(ours).address.lower())
    assert evm.ether_of(_relayer(ours).address) < gas
    assert said["supported"]["signers"] == {"eip155:84532": [_relayer(ours).address]}
    buyer.assert_paid(1)


@pytest.mark.parametrize("route", ["article", "upfront"])
async def test_the_official_client_pays_the_official_server_through_it_and_a_replay_is_not_served(
    ours: OurFacilitator, library: str, buyer: Buyer, tmp_path: Path, route: str
) -> None:
    with official_server(library, tmp_path, ours.url, buyer.payee.address) as shop:
        bought = await run(library, do="pay", url=f"{shop}/{route}", key=buyer.payer.private_key)
        assert (bought["status"], bought["body"], bought["payments"]) == (200, {"run": 1}, 1)
        assert (bought["settled"]["success"], bought["settled"]["payer"]) == (True, buyer.payer.address)
        buyer.assert_paid(1)
        async with httpx.AsyncClient(trust_env=False) as client:
            again = await client.get(f"{shop}/{route}", headers=bought["payment"])
            runs = (await client.get(f"{shop}/runs")).json()["runs"]
    assert (again.status_code, runs) == (402, 1)
    said = {"article": again.headers.get("payment-required"), "upfront": again.headers.get("payment-response")}[route]
    reasons = json.loads(base64.b64decode(said or ""))
    assert reasons["error" if route == "article" else "errorReason"] == "duplicate_settlement"
    buyer.assert_paid(1)


@pytest.mark.parametrize("route", ["article", "upfront"])
async def test_one_payment_shown_many_times_at_once_is_served_once(
    ours: OurFacilitator, library: str, buyer: Buyer, tmp_path: Path, route: str
) -> None:
    with official_server(library, tmp_path, ours.url, buyer.payee.address, seconds=1) as shop:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            asked = await client.get(f"{shop}/{route}")
            required = json.loads(base64.b64decode(asked.headers["payment-required"]))
            body = buyer.body()
            payment = {**body["paymentPayload"], "accepted": required["accepts"][0], "resource": required["resource"]}
            header = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(payment).encode()).decode()}
            served = await asyncio.gather(*(client.get(f"{shop}/{route}", headers=header) for _ in range(5)))
    assert sorted(each.status_code for each in served) == [200, 402, 402, 402, 402]
    buyer.assert_paid(1)


async def test_killed_in_the_middle_of_a_settlement_it_settles_once(
    evm: EvmChain, buyer: Buyer, tmp_path: Path
) -> None:
    with our_facilitator(tmp_path, evm, settle_seconds=4, wait_seconds=10) as own:
        body, relayer = buyer.body(), _relayer(own).address
        with evm.mining(None):
            call = asyncio.create_task(_lost(own.url, body))
            await _until(lambda: evm.waiting(relayer))
            own.kill()
            await call
            own.start()
            pending = await settle(own.url, body)
            assert (pending["success"], pending["errorReason"]) == (False, "settlement_pending")
            buyer.assert_paid(0)
        said = await _settled(own.url, body)
        assert (said["success"], said["amount"]) == (True, str(PRICE))
        again = await settle(own.url, body)
        assert (again["errorReason"], again["transaction"]) == ("duplicate_settlement", said["transaction"])
    buyer.assert_paid(1)
    assert int(evm.call("eth_getTransactionCount", relayer, "latest"), 16) == 1


async def test_what_waits_for_a_block_is_pending_with_its_hash_and_then_settled(
    evm: EvmChain, buyer: Buyer, tmp_path: Path
) -> None:
    with our_facilitator(tmp_path, evm, wait_seconds=1) as own:
        body = buyer.body()
        with evm.mining(None):
            first = await settle(own.url, body)
            assert first["errorReason"] == "settlement_pending"
        said = await _settled(own.url, body)
        assert said["success"]
        assert evm.receipt(said["transaction"])
    buyer.assert_paid(1)


async def test_a_caller_that_hung_up_is_told_when_it_comes_back(evm: EvmChain, buyer: Buyer, tmp_path: Path) -> None:
    with our_facilitator(tmp_path, evm) as own:
        body = buyer.body()
        with evm.mining(None):
            async with httpx.AsyncClient(trust_env=False, timeout=2) as impatient:
                with pytest.raises(httpx.ReadTimeout):
                    await impatient.post(f"{own.url}/settle", json=body)
        await _until(lambda: evm.usdc_of(buyer.payee.address))
        assert (await _settled(own.url, body))["success"]
        assert (await settle(own.url, body))["errorReason"] == "duplicate_settlement"
    buyer.assert_paid(1)


async def test_it_settles_for_its_payees_only_and_with_its_token(evm: EvmChain, buyer: Buyer, tmp_path: Path) -> None:
    token = "a-token-of-the-tests"
    with our_facilitator(tmp_path, evm, pay_to=[buyer.payee.address], token=token) as own:
        async with httpx.AsyncClient(trust_env=False) as client:
            refused = await client.post(f"{own.url}/settle", json=buyer.body())
        assert refused.status_code == 401
        header = {"Authorization": f"Bearer {token}"}
        gas = evm.ether_of(_relayer(own).address)
        stranger = await settle(own.url, buyer.body(payee=evm.account().address), **header)
        assert stranger["errorReason"] == "invalid_payment_requirements"
        assert evm.ether_of(_relayer(own).address) == gas
        assert (await settle(own.url, buyer.body(), **header))["success"]
    buyer.assert_paid(1)


async def test_a_verification_takes_no_longer_than_the_official_one(
    evm: EvmChain, ours: OurFacilitator, library: str, buyer: Buyer, tmp_path: Path
) -> None:
    with official_services.facilitator(tmp_path, evm) as official:
        bodies = [buyer.body() for _ in range(TRIES)]
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            took: dict[str, list[float]] = {ours.url: [], official.url: []}
            for body in bodies:  # in turn: both see the same load
                for url, seconds in took.items():
                    began = time.perf_counter()
                    said = (await client.post(f"{url}/verify", json=body)).json()
                    seconds.append(time.perf_counter() - began)
                    assert said["isValid"] is True
    mine, theirs = (sorted(seconds)[TRIES // 2] for seconds in took.values())
    print(f"verify: ours {mine * 1000:.1f} ms, official {theirs * 1000:.1f} ms, ratio {mine / theirs:.2f}")
    assert mine / theirs < RATIO


def _relayer(facilitator: OurFacilitator) -> Account:
    assert facilitator.relayer is not None
    return facilitator.relayer


async def _lost(url: str, body: Any) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(f"{url}/settle", json=body)


async def _settled(url: str, body: Any) -> dict[str, Any]:
    """Ask until it is not pending any more, as x402's servers do."""
    async with asyncio.timeout(60):
        while (said := await settle(url, body)).get("errorReason") == "settlement_pending":  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return said


async def _until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not probe():  # noqa: ASYNC110 - a chain in another process sets no event
            await asyncio.sleep(0.05)
