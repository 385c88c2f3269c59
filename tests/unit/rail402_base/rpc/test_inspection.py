"""At the start: whether a node is the right one, and the contract what its configuration says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_abi import encode

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_base.rpc.inspection import Features, inspect, require_usable
from rail402_base.tokens import BASE_USDC
from tests.unit.rail402_base.rpc.chain import TOKEN, Network, Refused, reverted, selector, word


@pytest.fixture
def network() -> Network:
    return Network()


async def look(network: Network) -> Features:
    (endpoint,) = network.reader().rpc.endpoints
    return await inspect(endpoint, TOKEN)


def answering(network: Network, function: str, answer: str | Refused) -> None:
    """Have the contract answer something else."""
    truth = network.chain.call

    def call(to: str, data: str) -> str:
        if not data.startswith("0x" + selector(function)):
            return truth(to, data)
        if isinstance(answer, Refused):
            raise answer
        return answer

    network.chain.call = call  # type: ignore[method-assign]


async def test_all_is_asked_in_one_request(network: Network) -> None:
    assert await look(network) == Features(paused=True, blacklist=True)
    assert len(network.node.requests) == 1


async def test_a_token_without_pause_and_blacklist(network: Network) -> None:
    answering(network, "paused()", reverted(""))
    answering(network, "isBlacklisted(address)", "0x")
    assert await look(network) == Features(paused=False, blacklist=False)


async def test_a_token_that_tells_its_domain_by_eip5267(network: Network) -> None:
    kinds = ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"]

    def domain(**other: Any) -> str:
        values = {"name": TOKEN.name, "version": TOKEN.version, "chain": 84532, "contract": TOKEN.address} | other
        return "0x" + encode(kinds, [b"\x0f", *values.values(), bytes(32), []]).hex()

    answering(network, "DOMAIN_SEPARATOR()", reverted(""))
    answering(network, "eip712Domain()", domain())
    await look(network)
    for wrong in ({"name": "USD Coin"}, {"version": "1"}, {"chain": 1}, {"contract": "0x" + "11" * 20}):
        answering(network, "eip712Domain()", domain(**wrong))
        with pytest.raises(ConfigurationError, match="another EIP-712 domain"):
            await look(network)
    answering(network, "eip712Domain()", "0x" + "zz" * 100)
    with pytest.raises(RailUnavailable):
        await look(network)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (
            lambda it: it.node.answers.update(eth_chainId=lambda: "0x2105"),
            ConfigurationError,
            r"one\.test is on the chain 8453 and the token is on 84532 \(Base Sepolia\); use an address of that",
        ),
        (lambda it: it.node.answers.update(eth_syncing=lambda: {"currentBlock": "0x1"}), RailUnavailable, "syncing"),
        (lambda it: it.chain.codes.clear(), ConfigurationError, "no contract at 0x036C.*; check the address"),
        (lambda it: it.node.answers.update(eth_getCode=lambda *_: None), RailUnavailable, "bytes in hex"),
        (lambda it: setattr(it.chain, "paused", True), RailUnavailable, "paused by its issuer"),
        (
            lambda it: answering(it, "DOMAIN_SEPARATOR()", "0x" + BASE_USDC.domain.separator.hex()),
            ConfigurationError,
            "correct the token's name and version: the contract says the name 'USDC' and the version '2'",
        ),
        (lambda it: answering(it, "DOMAIN_SEPARATOR()", "0x"), ConfigurationError, "no token with EIP-3009"),
        (lambda it: answering(it, "decimals()", "0x" + word(18)), ConfigurationError, "18 decimals and not 6"),
        (lambda it: answering(it, "paused()", Refused(-32000, "header not found")), RailUnavailable, "header not"),
    ],
)
async def test_what_cannot_be_used(
    network: Network, spoil: Callable[[Network], object], error: type[Exception], says: str
) -> None:
    spoil(network)
    with pytest.raises(error, match=says):
        await look(network)


async def test_what_can_change_later_is_asked_in_one_request(network: Network) -> None:
    (endpoint,) = network.reader().rpc.endpoints
    features = Features(paused=True, blacklist=True)
    await require_usable(endpoint, TOKEN, features)
    assert len(network.node.requests) == 1
    network.chain.paused = True
    with pytest.raises(RailUnavailable, match="paused"):
        await require_usable(endpoint, TOKEN, features)
    await require_usable(endpoint, TOKEN, Features(paused=False, blacklist=False))
    network.node.answers["eth_syncing"] = dict
    with pytest.raises(RailUnavailable, match="syncing"):
        await require_usable(endpoint, TOKEN, features)
    with pytest.raises(ConfigurationError, match="on the chain"):
        await require_usable(endpoint, replace(TOKEN, network=BASE_USDC.network), features)


async def test_a_node_that_does_not_know_whether_it_is_syncing(network: Network) -> None:
    def unknown() -> None:
        raise Refused(-32601, "no such method")

    network.node.answers["eth_syncing"] = unknown
    await look(network)
