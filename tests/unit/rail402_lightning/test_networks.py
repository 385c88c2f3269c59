"""What the networks are called where."""

from __future__ import annotations

import pytest

from rail402.errors import ConfigurationError
from rail402_lightning.networks import NETWORKS, Network, find_network, network_of


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_network_is_found_by_each_of_its_names(network: Network) -> None:
    assert find_network(network.name) is find_network(network.id) is network_of(network.prefix) is network


def test_a_network_is_named_after_its_genesis_block() -> None:
    names = {network.name: network.id.removeprefix("lnbtc:") for network in NETWORKS}

    assert all(len(name) == 32 for name in names.values())
    assert names["mainnet"].startswith("000000000019d668")
    assert len(set(names.values())) == len(NETWORKS)


@pytest.mark.parametrize("name", ["", "bitcoin", "lnbtc:", "MAINNET", "bc"])
def test_another_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(ConfigurationError, match="mainnet, testnet, signet, regtest"):
        find_network(name)
