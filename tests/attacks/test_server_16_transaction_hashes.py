"""16: a transaction's hash as a proof, which is public, and may be of anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from rail402.clock import system_clock
from rail402_base.rpc.abi import TRANSFER
from tests.attacks.cases import Observe
from tests.integration.test_base_rpc import until
from tests.integration.test_base_transfers import PRICE, Shop, refused
from tests.services.anvil import USDC, EvmChain


@pytest.fixture
def shop(evm: EvmChain, tmp_path: Path) -> Shop:
    return Shop(evm, tmp_path)


async def show(client: httpx.AsyncClient, proof: str) -> httpx.Response:
    return await client.get("/article", headers={"X-Payment-Proof": proof})


def fake_event(evm: EvmChain, emitter: str, payer: str, payee: str) -> str:
    """Have a contract of ours emit USDC's own event, and return its transaction."""
    words = [int(TRANSFER, 16), int(payer, 16), int(payee, 16)]
    code = f"7f{PRICE:064x}600052" + "".join(f"7f{word:064x}" for word in reversed(words)) + "60206000a300"
    evm.call("anvil_setCode", emitter, "0x" + code)
    return evm.send(payer, emitter, b"")


async def test_what_did_not_pay_us(shop: Shop, observed: Observe) -> None:
    evm, payer, payee = shop.evm, shop.payer.address, shop.payee.address
    async with shop.open() as client:
        refused(await show(client, evm.send_usdc(payer, payee, 99 * USDC)), "payment_declined")
        refused(await show(client, evm.send_usdc(payer, evm.account().address, PRICE)), "payee_mismatch")
        refused(await show(client, evm.send_usdc(payer, payee, PRICE - 1)), "amount_mismatch")
        refused(await show(client, fake_event(evm, evm.account().address, payer, payee)), "payee_mismatch")
        refused(await show(client, evm.send(payer, payee, b"")), "payee_mismatch")  # ether, to the payee
        refused(await show(client, "0x" + 64 * "b"), "not_settled")
        for junk in ("0x", "0x" + 63 * "b", "0x" + 65 * "b", 64 * "b", "0x" + 64 * "g", "0x" + "ｂ" * 64):
            answer = await client.get("/article", headers=[(b"X-Payment-Proof", junk.encode())])
            assert answer.status_code in (400, 402)
    assert shop.runs == 0
    observed(
        "reverted, to others, too little, of a fake token, of ether, unknown, or no hash: 400 or 402 with the reason"
    )


async def test_old(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    shop = Shop(evm, tmp_path, max_age=1)
    transaction = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
    old = evm.now() + 2
    async with shop.open() as client:
        await until(lambda: system_clock() >= old)
        refused(await show(client, transaction), "authorization_expired")
    observed("402 `authorization_expired` for an old one")


async def test_too_shallow_and_undone(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    shop = Shop(evm, tmp_path, confirmations=2)
    async with shop.open() as client:
        before = evm.call("evm_snapshot")
        transaction = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        refused(await show(client, transaction), "not_settled")
        evm.call("evm_revert", before)
        evm.mine(3)
        refused(await show(client, transaction), "not_settled")
        deep = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        evm.mine()
        assert (await show(client, deep)).status_code == 200
    assert shop.runs == 1
    shop.assert_paid(PRICE)
    observed("402 `not_settled` while it is too shallow, and after a reorganisation undid it")


async def test_the_first_claim_counts_in_any_letters(shop: Shop, observed: Observe) -> None:
    async with shop.open() as client:
        transaction = shop.evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        spellings = [transaction, "0x" + transaction[2:].upper(), transaction.swapcase().replace("X", "x")]
        proofs = [*spellings, *spellings]
        answers = await asyncio.gather(*(show(client, proof) for proof in proofs))
        assert sorted(each.status_code for each in answers) == [200, 409, 409, 409, 409, 409]
        receipts = [await client.get("/article", headers={"X-Receipt": each}) for each in spellings]
        assert {each.status_code for each in receipts} == {409}
        later = await client.get("/article?page=2", headers={"X-Payment-Proof": transaction})
        assert later.status_code in (402, 409)
    assert shop.runs == 1
    shop.assert_paid(PRICE)
    observed("of six at once, in three spellings, one is served; the others get 409, in every dialect")


async def test_somebody_elses(shop: Shop, observed: Observe) -> None:
    """Whoever reads the chain can be first with a bare hash, unless the payer signs, as it may be told to."""
    thief = shop.evm.account()
    async with shop.open() as client:
        transaction = shop.evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        refused(await show(client, shop.signed(transaction, thief)), "signature_invalid")
        assert (await show(client, shop.signed(transaction, shop.payer))).status_code == 200
        refused(await show(client, transaction), "replay_not_proven", 409)
        refused(await show(client, shop.signed(transaction, thief)), "replay_not_proven", 409)
    assert shop.runs == 1
    observed("another's signature is 402 `signature_invalid`; once its payer has signed, the bare hash is 409")


async def test_where_payers_must_sign_the_chains_readers_get_nothing(
    evm: EvmChain, tmp_path: Path, observed: Observe
) -> None:
    shop = Shop(evm, tmp_path, must_sign=True)
    async with shop.open() as client:
        transaction = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        refused(await show(client, transaction), "signature_invalid")
        refused(await show(client, shop.signed(transaction, evm.account())), "signature_invalid")
        assert (await show(client, shop.signed(transaction, shop.payer))).status_code == 200
    observed("with `must_sign` a bare hash is 402 `signature_invalid`; without it whoever shows one first is served")
