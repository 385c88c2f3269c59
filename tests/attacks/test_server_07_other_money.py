"""7: the right number of something else: another token, another chain, another payee."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402_base.eip3009 import digest, sign
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC, Token
from tests.attacks.cases import Observe
from tests.attacks.chain import Stand
from tests.conformance.test_base_end_to_end import THIRD, World, header, signed
from tests.services.anvil import EvmChain

EURC = replace(SANDBOX_USDC, address="0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42", name="EURC", symbol="EURC")
FAKE = replace(SANDBOX_USDC, address=THIRD)
CHAINS = {"Base": BASE_USDC, "Base Sepolia": BASE_SEPOLIA_USDC}


def terms_of(token: Token, accepted: dict[str, Any]) -> dict[str, Any]:
    """The offer with that token in it."""
    extra = accepted["extra"] | {"name": token.name, "version": token.version}
    return accepted | {"network": token.network.caip2, "asset": token.address, "extra": extra}


@pytest.mark.parametrize("token", [EURC, FAKE, *CHAINS.values()], ids=["EURC", "fake USDC", *CHAINS])
async def test_another_token_or_chain(world: World, token: Token, observed: Observe) -> None:
    accepted = await world.accepted("/article")
    payload = signed(world.authorization(accepted), token=token)
    assert await world.refused("/article", header(accepted, payload)) == "signature_invalid"
    echoed = await world.refused("/article", header(terms_of(token, accepted), payload))
    assert echoed == ("method_not_offered" if token is not EURC and token is not FAKE else echoed)
    assert echoed in ("method_not_offered", "resource_mismatch")
    observed(
        "another token or chain: 402 `signature_invalid` under our offer, 402 `method_not_offered` or"
        " 402 `resource_mismatch` under one of the payer's making"
    )


async def test_another_payee(world: World, observed: Observe) -> None:
    assert await world.refused("/article", await world.payment("/article", to=THIRD)) == "payee_mismatch"
    altered = await world.accepted("/article") | {"payTo": THIRD}
    assert await world.refused("/article", header(altered, signed(world.authorization(altered)))) == "resource_mismatch"
    observed("another payee: 402 `payee_mismatch`, or 402 `resource_mismatch` with the offer altered")


@pytest.mark.parametrize("domain", ["name", "version", "chain", "contract"])
async def test_on_the_chain_another_domain_costs_no_gas(
    evm: EvmChain, tmp_path: Path, domain: str, observed: Observe
) -> None:
    wrong = {
        "name": replace(evm.token, name="USD Coin"),
        "version": replace(evm.token, version="1"),
        "chain": replace(evm.token, network=BASE_USDC.network),
        "contract": replace(evm.token, address=THIRD),
    }[domain]
    async with Stand(evm, tmp_path).sell() as stand:
        authorization = stand.shop.authorize()
        signature = sign(digest(wrong.domain, authorization), stand.shop.payer.key_bytes)
        assert await stand.refused(await stand.pay(authorization, signature)) == "signature_invalid"
    observed("a signature for another EIP-712 domain: 402 `signature_invalid`, no gas spent")


async def test_on_the_chain_another_payee_costs_no_gas(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        authorization = evm.authorize(stand.shop.payer, stand.account().address, 3000)
        fields = await stand.pay(authorization, stand.shop.sign(authorization))
        assert await stand.refused(fields) == "payee_mismatch"
    observed("nor for another payee's")
