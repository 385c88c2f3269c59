"""10: signatures of somebody else, altered ones, and those that only a contract vouches for."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from rail402_base.eip3009 import Authorization, address_of, digest, parse_authorization, sign
from rail402_base.tokens import SANDBOX_USDC
from tests.attacks.cases import Observe
from tests.attacks.chain import Stand
from tests.conformance.test_base_end_to_end import (
    SECP256K1_ORDER,
    THIRD,
    THIRD_KEY,
    World,
    header,
    opened,
)
from tests.services.anvil import EvmChain

ERC6492 = bytes.fromhex("6492" * 16)
"""What ends a signature of a contract that is not there yet (ERC-6492)."""


def forgeries(signature: bytes, of_another: bytes) -> dict[str, bytes]:
    """Signatures that are not the payer's, or not the one that the token takes."""
    r, s, v = signature[:32], signature[32:64], signature[64]
    high_s = (SECP256K1_ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    return {
        "of another key": of_another,
        "the other half of the curve": r + high_s + bytes([55 - v]),
        "high s, same v": r + high_s + bytes([v]),
        "other v": r + s + bytes([55 - v]),
        "v of 29": r + s + bytes([29]),
        "zero": bytes(65),
        "r of zero": bytes(32) + s + bytes([v]),
        "s of zero": r + bytes(32) + bytes([v]),
        "s of the order": r + SECP256K1_ORDER.to_bytes(32, "big") + bytes([v]),
        "random": secrets.token_bytes(64) + bytes([27]),
        "short": signature[:64],
        "long": signature + b"\0",
        "nothing": b"",
        "EIP-2098": r + ((v - 27) << 255 | int.from_bytes(s, "big")).to_bytes(32, "big"),
        "ERC-6492": signature + ERC6492,
        "a megabit": bytes(4000),
    }


@pytest.mark.parametrize("settled", [False, True])
async def test_no_other_signature_pays(world: World, settled: bool, observed: Observe) -> None:
    accepted, payload = opened(await world.payment("/article"))
    if settled:
        assert (await world.http.get("/article", headers=header(accepted, payload))).status_code == 200
    authorization, signature = parse_authorization(payload)
    of_another = sign(digest(SANDBOX_USDC.domain, authorization), THIRD_KEY)
    for name, forged in forgeries(signature, of_another).items():
        fields = header(accepted, payload | {"signature": "0x" + forged.hex()})
        response = await world.http.get("/article", headers=fields)
        assert response.status_code in (400, 402), (name, response.text)
        codes = "signature_invalid", "payload_invalid", "malformed_payment", "wallet_undeployed"
        assert response.json()["code"] in codes, name
    await world.assert_books(paid=3000 if settled else 0)
    assert len(world.runs) == settled
    observed("400 or 402 for 16 signatures that are not the payer's own, also under a nonce that has paid")


async def test_a_signature_over_other_terms_is_none(world: World, observed: Observe) -> None:
    accepted, payload = opened(await world.payment("/article"))
    for member, value in {"from": THIRD, "to": THIRD, "value": "3001", "nonce": "0x" + "11" * 32}.items():
        changed = payload | {"authorization": payload["authorization"] | {member: value}}
        assert await world.refused("/article", header(accepted, changed)) in (
            "signature_invalid",
            "amount_mismatch",
            "payee_mismatch",
        )
    observed("402 for a good signature over other terms")


async def test_on_the_chain_no_gas_is_spent_on_a_forgery(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        authorization = stand.shop.authorize()
        signature = stand.shop.sign(authorization)
        of_another = evm.sign(stand.account(), authorization)
        for name, forged in forgeries(signature, of_another).items():
            fields = await stand.pay(authorization, forged)
            before = stand.spent()
            answer = await stand.show(fields)
            assert answer.status_code in (400, 402), (name, answer.text)
            assert stand.spent() == before
        assert (await stand.show(await stand.pay(authorization, signature))).status_code == 200
        stand.assert_paid(1)
    observed("no gas was spent on any of them")


async def test_a_payer_that_is_not_there(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    """An address of nobody, with a signature that says that its contract will be deployed (ERC-6492)."""
    async with Stand(evm, tmp_path).sell() as stand:
        nobody = address_of(bytes(31) + b"\x77")
        authorization = Authorization(
            from_=nobody,
            to=stand.shop.payee.address,
            value=3000,
            valid_after=0,
            valid_before=evm.now() + 600,
            nonce=secrets.token_bytes(32),
        )
        fields: dict[str, Any] = await stand.pay(authorization, bytes(96) + ERC6492)
        before = stand.spent()
        answer = await stand.show(fields)
        assert answer.status_code in (400, 402)
        assert stand.spent() == before
    observed("nor on an account that is not deployed (ERC-6492)")
