"""USDC on Base: EIP-3009 authorizations, signed by the payer and handed in by the publisher, who pays the gas.

    gate = Gate(rails=[BaseRail.sandbox()], public_url="https://api.example.com")
    payer = Payer(wallets=[BaseWallet.sandbox()])

`BaseRail` is the server side and `BaseWallet` the client side. Outside the sandbox, `BaseRail.rpc` takes payments with
a key of its own for the gas and `BaseRail.facilitator` through an x402 facilitator; `BaseWallet.from_private_key` and
its siblings pay, and a `ChainReader` tells them their balance. With `transfers=Transfers()` a rail takes plain ERC-20
transfers as well, which `BaseTransferWallet` makes. The names below load on first use, because they need the
extra `base`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rail402_base.chain import Chain, ChainView
    from rail402_base.config import PLUGIN
    from rail402_base.facilitator import FacilitatorBackend
    from rail402_base.facilitator_api import Facilitator
    from rail402_base.keys import ContractSigner, LocalSigner, RemoteSigner, Signer
    from rail402_base.rail import BaseRail
    from rail402_base.rpc.backend import RelaySettings, RpcBackend
    from rail402_base.rpc.reader import ChainReader
    from rail402_base.rpc.signer import RpcSigner
    from rail402_base.rpc.transfers import RpcSender, SendSettings
    from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, Network, Token, other_network
    from rail402_base.transfer_wallet import BaseTransferWallet
    from rail402_base.transfers import Transfers
    from rail402_base.wallet import BaseWallet
    from rail402_base.wire import BaseSpec

_HOMES = {
    "rail402_base.chain": ("Chain", "ChainView"),
    "rail402_base.config": ("PLUGIN",),
    "rail402_base.facilitator": ("FacilitatorBackend",),
    "rail402_base.facilitator_api": ("Facilitator",),
    "rail402_base.keys": ("ContractSigner", "LocalSigner", "RemoteSigner", "Signer"),
    "rail402_base.rail": ("BaseRail",),
    "rail402_base.rpc.backend": ("RelaySettings", "RpcBackend"),
    "rail402_base.rpc.reader": ("ChainReader",),
    "rail402_base.rpc.signer": ("RpcSigner",),
    "rail402_base.tokens": ("BASE_SEPOLIA_USDC", "BASE_USDC", "Network", "Token", "other_network"),
    "rail402_base.rpc.transfers": ("RpcSender", "SendSettings"),
    "rail402_base.transfer_wallet": ("BaseTransferWallet",),
    "rail402_base.transfers": ("Transfers",),
    "rail402_base.wallet": ("BaseWallet",),
    "rail402_base.wire": ("BaseSpec",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BASE_SEPOLIA_USDC",
    "BASE_USDC",
    "PLUGIN",
    "BaseRail",
    "BaseSpec",
    "BaseTransferWallet",
    "BaseWallet",
    "Chain",
    "ChainReader",
    "ChainView",
    "ContractSigner",
    "Facilitator",
    "FacilitatorBackend",
    "LocalSigner",
    "Network",
    "RelaySettings",
    "RemoteSigner",
    "RpcBackend",
    "RpcSender",
    "RpcSigner",
    "SendSettings",
    "Signer",
    "Token",
    "Transfers",
    "other_network",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rail402_base' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
