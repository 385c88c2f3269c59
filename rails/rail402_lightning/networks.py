"""The networks that Lightning runs on, and what each is called where.

x402 names a Lightning network by the first half of its genesis block's hash. Mainnet and testnet are fixed by the
`lnbtc` scheme; signet and regtest follow the same rule by convention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rail402.errors import ConfigurationError
from rail402_lightning.bolt11 import Prefix

__all__ = ["NETWORKS", "Network", "find_network", "network_of"]


@dataclass(frozen=True, slots=True)
class Network:
    """One network.

    Attributes:
        name: `mainnet`, `testnet`, `signet` or `regtest`.
        id: its name in offers and consumption keys, `lnbtc:` and 32 hexadecimal digits.
        prefix: what stands after `ln` in its invoices (BOLT 11).
    """

    name: str
    id: str
    prefix: Prefix


NETWORKS: Final = (
    Network("mainnet", "lnbtc:000000000019d6689c085ae165831e93", "bc"),
    Network("testnet", "lnbtc:000000000933ea01ad0ee984209779ba", "tb"),
    Network("signet", "lnbtc:00000008819873e925422c1ff0f99f7c", "tbs"),
    Network("regtest", "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328", "bcrt"),
)

_BY_PREFIX: Final = {network.prefix: network for network in NETWORKS}


def find_network(name: str) -> Network:
    """Return the network of that name or id.

    Raises:
        ConfigurationError: there is none.
    """
    for network in NETWORKS:
        if name in (network.name, network.id):
            return network
    known = ", ".join(network.name for network in NETWORKS)
    raise ConfigurationError(f"network {name!r} is not a Lightning network; it is one of {known}")


def network_of(prefix: Prefix) -> Network:
    """Return the network whose invoices have that prefix."""
    return _BY_PREFIX[prefix]
