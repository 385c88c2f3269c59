"""The networks and EIP-3009 tokens that this rail knows without asking a node. Pure.

What a server says about a token (its name, its decimals) is never believed: a client looks the token up here, or was
given it by its owner. Any other token with EIP-3009 on any other EVM chain is described by its owner: `other_network`
and `Token`; whoever reaches the chain then checks the description against the contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from rail402.errors import ConfigurationError
from rail402_base.eip3009 import Domain, same_address

__all__ = [
    "BASE",
    "BASE_SEPOLIA",
    "BASE_SEPOLIA_USDC",
    "BASE_USDC",
    "NETWORKS",
    "SANDBOX",
    "SANDBOX_USDC",
    "TOKENS",
    "Network",
    "NetworkKind",
    "Token",
    "find_token",
    "network_of_v1",
    "other_network",
    "resolve_network",
    "usdc_on",
]

NetworkKind = Literal["production", "testnet", "sandbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A chain.

    Attributes:
        chain_id: its EIP-155 number.
        title: its name for people.
        v1_name: what x402 version 1 calls it.
        kind: what its money is worth: `production` is real, `testnet` is free on a real chain, `sandbox` a local
            file.
        caip2: its CAIP-2 name, as x402 version 2 and receipts write it.
    """

    chain_id: int
    title: str
    v1_name: str
    kind: NetworkKind
    caip2: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "caip2", f"eip155:{self.chain_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An ERC-20 token with EIP-3009.

    Attributes:
        network: the chain it lives on.
        symbol: its name for people and in prices.
        address: its contract.
        decimals: how many decimal places the atomic unit is below one token.
        name: what the contract answers to `name()`; it is signed, so it must be exact.
        version: what it answers to `version()`.
        domain: the EIP-712 domain made of these.

    Raises:
        MalformedInput: the address is not one.
    """

    network: Network
    symbol: str
    address: str
    decimals: int
    name: str
    version: str
    domain: Domain = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        domain = Domain(
            name=self.name,
            version=self.version,
            chain_id=self.network.chain_id,
            verifying_contract=self.address,
        )
        object.__setattr__(self, "address", domain.verifying_contract)
        object.__setattr__(self, "domain", domain)


BASE = Network(chain_id=8453, title="Base", v1_name="base", kind="production")
BASE_SEPOLIA = Network(chain_id=84532, title="Base Sepolia", v1_name="base-sepolia", kind="testnet")
SANDBOX = Network(chain_id=402402, title="Sandbox (no real money)", v1_name="rail402-sandbox", kind="sandbox")

BASE_USDC = Token(
    network=BASE,
    symbol="USDC",
    address="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    decimals=6,
    name="USD Coin",
    version="2",
)
BASE_SEPOLIA_USDC = Token(
    network=BASE_SEPOLIA,
    symbol="USDC",
    address="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    decimals=6,
    name="USDC",
    version="2",
)
SANDBOX_USDC = Token(
    network=SANDBOX,
    symbol="USDC",
    address="0x4020000000000000000000000000000000000402",
    decimals=6,
    name="Sandbox USDC",
    version="2",
)

NETWORKS: Mapping[str, Network] = MappingProxyType({each.caip2: each for each in (BASE, BASE_SEPOLIA, SANDBOX)})
TOKENS = (BASE_USDC, BASE_SEPOLIA_USDC, SANDBOX_USDC)

_NETWORKS_OF_V1 = {network.v1_name: network for network in NETWORKS.values()}
_USDC = {token.network.caip2: token for token in TOKENS}

_is_eip155 = re.compile(r"eip155:([1-9][0-9]{0,17})").fullmatch


def network_of_v1(name: str) -> Network | None:
    """The network that x402 version 1 calls so, or None."""
    return _NETWORKS_OF_V1.get(name)


def resolve_network(name: str) -> Network:
    """The network that a person meant, by its CAIP-2 or its x402 version 1 name.

    Raises:
        ConfigurationError: there is none of that name here; the message lists those there are.
    """
    network = NETWORKS.get(name) or network_of_v1(name)
    if network is None:
        known = ", ".join(f"{each.caip2} ({each.v1_name})" for each in NETWORKS.values())
        raise ConfigurationError(f"the network {name!r} is not known; there are {known}")
    return network


def other_network(name: str, *, title: str = "", is_testnet: bool = False) -> Network:
    """The network of this table by any of its names, or any other EVM chain by its CAIP-2 name.

    Args:
        name: such as `base`, or `eip155:137`.
        title: another chain's name for people.
        is_testnet: whether another chain's money is worth nothing.

    Raises:
        ConfigurationError: it is not in the table, and no `eip155:` name with a chain's number.
    """
    match = _is_eip155(name)
    if match is None or name in NETWORKS:
        return resolve_network(name)
    kind: NetworkKind = "testnet" if is_testnet else "production"
    return Network(chain_id=int(match[1]), title=title or name, v1_name=name, kind=kind)


def usdc_on(network: Network) -> Token:
    """USDC on a network of this table.

    Raises:
        ConfigurationError: the network is not of this table, so the token has to be given.
    """
    token = _USDC.get(network.caip2)
    if token is None:
        raise ConfigurationError(f"USDC on {network.caip2} is not in the table: pass the token itself")
    return token


def find_token(network: str, address: str) -> Token | None:
    """The token at an address (in any case) of a network (its CAIP-2 name), or None where this table has none."""
    matches = (each for each in TOKENS if each.network.caip2 == network and same_address(each.address, address))
    return next(matches, None)
