from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, MalformedInput
from rail402_base import tokens
from rail402_base.tokens import NETWORKS, SANDBOX_USDC, TOKENS, Network, Token

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "eip3009.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["domains"], ids=lambda vector: vector["network"])
def test_usdc_is_what_is_deployed(vector: dict[str, Any]) -> None:
    network = NETWORKS[vector["network"]]
    token = tokens.usdc_on(network)
    assert (token.address, token.decimals, token.symbol) == (vector["address"], vector["decimals"], "USDC")
    assert (token.name, token.version, network.v1_name) == (vector["name"], vector["version"], vector["v1_name"])
    assert token.domain.separator.hex() == vector["separator"][2:]


def test_what_each_network_is_worth() -> None:
    assert {name: network.kind for name, network in NETWORKS.items()} == {
        "eip155:8453": "production",
        "eip155:84532": "testnet",
        "eip155:402402": "sandbox",
    }


def test_the_sandbox_shares_nothing_with_a_real_token() -> None:
    others = [token for token in TOKENS if token is not SANDBOX_USDC]
    assert len(others) == 2
    for other in others:
        assert SANDBOX_USDC.domain.separator != other.domain.separator
        assert SANDBOX_USDC.address != other.address
        assert SANDBOX_USDC.network.chain_id != other.network.chain_id
        assert SANDBOX_USDC.name != other.name
    assert (SANDBOX_USDC.name, SANDBOX_USDC.version, SANDBOX_USDC.decimals) == ("Sandbox USDC", "2", 6)


def test_no_two_networks_or_tokens_share_a_name() -> None:
    assert len({network.v1_name for network in NETWORKS.values()}) == len(NETWORKS)
    assert len({(token.network.caip2, token.address) for token in TOKENS}) == len(TOKENS)
    assert {token.network.caip2 for token in TOKENS} == set(NETWORKS)


def test_a_token_is_found_in_any_case_but_only_on_its_network() -> None:
    usdc = tokens.BASE_USDC
    assert tokens.find_token("eip155:8453", usdc.address.lower()) is usdc
    assert tokens.find_token("eip155:84532", usdc.address) is None
    assert tokens.find_token("eip155:8453", tokens.BASE_SEPOLIA_USDC.address) is None
    assert tokens.find_token("eip155:8453", "") is None


def test_networks_by_either_name() -> None:
    assert tokens.resolve_network("base") is tokens.resolve_network("eip155:8453") is tokens.BASE
    assert tokens.network_of_v1("base-sepolia") is tokens.BASE_SEPOLIA
    assert tokens.network_of_v1("eip155:8453") is None
    with pytest.raises(ConfigurationError, match=r"'base-mainnet' is not known; .*eip155:8453 \(base\)"):
        tokens.resolve_network("base-mainnet")


def test_a_token_of_ones_own() -> None:
    network = Network(chain_id=31337, title="Local node", v1_name="local", kind="testnet")
    with pytest.raises(ConfigurationError, match="eip155:31337"):
        tokens.usdc_on(network)
    token = Token(network=network, symbol="T", address=SANDBOX_USDC.address, decimals=18, name="T", version="1")
    assert token.domain.chain_id == 31337
    assert token != replace(token, version="2")
    assert token.domain.separator != replace(token, version="2").domain.separator
    with pytest.raises(MalformedInput):
        replace(token, address="0x1")


def test_tokens_and_networks_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        tokens.BASE_USDC.decimals = 18  # type: ignore[misc]
    with pytest.raises(TypeError):
        NETWORKS["eip155:1"] = tokens.BASE  # type: ignore[index]
