"""Signers of a `wallets.toml` on a real EVM: anvil's accounts sign over JSON-RPC, for themselves and for a contract."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from eth_account import Account as Key

from rail402.client.payer import Payer
from rail402.client.toml import payer_from_toml
from rail402_base.keys import LocalSigner
from tests.integration.test_base_contracts import URL, Market
from tests.services.anvil import USDC, Account, EvmChain

PASSWORD = "correct horse"


@pytest.fixture
async def market(evm: EvmChain, tmp_path: Path) -> AsyncIterator[Market]:
    async with Market(evm, tmp_path).open() as opened:
        yield opened


async def buy(market: Market, payer: Payer) -> str:
    """Buy at the market; return who paid, as the receipt says."""
    transport = payer.transport(httpx.ASGITransport(app=market.app))
    async with payer, httpx.AsyncClient(transport=transport, base_url=URL, timeout=60) as agent:
        response = await agent.get("/article")
        assert (response.status_code, response.json()) == (200, {"run": 1})
        return str(response.extensions["rail402"].receipt.payer)


def payer_of(market: Market, path: Path, signer: str) -> Payer:
    file = path / "wallets.toml"
    file.write_text(f"""
[[wallets]]
name = "base"
backend = "rpc"
network = "base-sepolia"
urls = ["{market.evm.url}"]
{signer}
""")
    return payer_from_toml(file)


async def test_a_node_s_own_account_signs(market: Market, tmp_path: Path) -> None:
    account = market.evm.call("eth_accounts")[3]
    market.evm.set_usdc(account, USDC)
    payer = payer_of(market, tmp_path, f'signer = "{market.evm.url}"\nsigner_address = "{account}"')
    assert (await buy(market, payer)).lower() == account.lower()
    assert market.evm.usdc_of(account) == USDC - 3000


async def test_a_contract_pays_whose_owner_is_a_node_s_account(market: Market, tmp_path: Path) -> None:
    evm, owner = market.evm, market.evm.call("eth_accounts")[4]
    slot = evm.wallet_slots["owner"].to_bytes(32, "big")
    evm._store(slot, int(owner, 16), at=market.wallet.address)
    text = f'contract = "{market.wallet.address}"\nsigner = "{evm.url}"\nsigner_address = "{owner}"'
    assert await buy(market, payer_of(market, tmp_path, text)) == market.wallet.address
    assert evm.usdc_of(market.wallet.address) == USDC - 3000


@pytest.mark.parametrize("kind", ["private_key", "keystore"])
async def test_a_contract_pays_whose_owner_s_key_is_here(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("OWNER_KEY", market.wallet.private_key)
    monkeypatch.setenv("PASSWORD", PASSWORD)
    keystore = tmp_path / "keystore.json"
    keystore.write_text(json.dumps(Key.encrypt(market.wallet.private_key, PASSWORD, kdf="scrypt", iterations=2)))
    owner = {
        "private_key": 'private_key = "env:OWNER_KEY"',
        "keystore": f'keystore = "{keystore}"\nkeystore_password = "env:PASSWORD"',
    }
    text = f'contract = "{market.wallet.address}"\n{owner[kind]}'
    assert await buy(market, payer_of(market, tmp_path, text)) == market.wallet.address


async def test_words_pay(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "test test test test test test test test test test test junk"
    monkeypatch.setenv("WORDS", words)
    path = "m/44'/60'/0'/0/5"
    payer = payer_of(market, tmp_path, f'mnemonic = "env:WORDS"\nderivation_path = "{path}"')
    account = Account("", LocalSigner.from_mnemonic(words, derivation_path=path).address)
    market.evm.set_usdc(account.address, USDC)
    assert await buy(market, payer) == account.address
