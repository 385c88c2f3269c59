"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, SecretStr, model_validator

from rail402.config import Secret
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402_lightning.networks import NETWORKS
from rail402_lightning.rail import LightningRail
from rail402_lightning.wallet import MAX_FEE_PPM, MAX_FEE_SAT, LightningWallet

__all__ = ["PLUGIN", "RailConfig", "WalletConfig", "make_rail", "make_wallet"]

Backend = Literal["sandbox", "lnbits"]


def _check(backend: str, network: str | None, needed: dict[str, object], directory: str | None) -> None:
    """Check that a table has what its backend needs, and nothing that it has no use for."""
    if network is not None and network not in {known.name for known in NETWORKS}:
        raise ValueError(f"network must be one of {', '.join(known.name for known in NETWORKS)}")
    for key, value in needed.items():
        if backend == "lnbits" and value is None:
            raise ValueError(f'backend = "lnbits" needs {key}')
        if backend == "sandbox" and value is not None:
            raise ValueError(f'backend = "sandbox" has no {key}')
    if backend == "sandbox" and network not in (None, "regtest"):
        raise ValueError('backend = "sandbox" moves no real money; its network is regtest')
    if backend != "sandbox" and directory is not None:
        raise ValueError('directory is for backend = "sandbox"')


class RailConfig(Record):
    """`[[rails]]` with `name = "lightning"`.

    Args:
        backend: `lnbits`, or `sandbox` for play money.
        network: `mainnet`, `testnet`, `signet` or `regtest`; mainnet unless given.
        url: the address of LNbits.
        invoice_key: `env:NAME` or `file:PATH` of the invoice key of a wallet there.
        node_id: the public key of the node that must sign the invoices; learnt at the start unless given.
        directory: the sandbox's directory.
    """

    backend: Backend
    network: str | None = None
    url: str | None = None
    invoice_key: Secret | None = None
    node_id: str | None = Field(None, pattern="^0[23][0-9a-fA-F]{64}$")
    directory: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> RailConfig:
        _check(self.backend, self.network, {"url": self.url, "invoice_key": self.invoice_key}, self.directory)
        return self


class WalletConfig(Record):
    """`[[wallets]]` with `name = "lightning"`.

    Args:
        backend: `lnbits`, or `sandbox` for play money.
        network: `mainnet`, `testnet`, `signet` or `regtest`; mainnet unless given.
        url: the address of LNbits.
        admin_key: `env:NAME` or `file:PATH` of the admin key of a wallet there.
        max_fee_sat, max_fee_ppm: what a payment may cost in fees: the larger of the two.
        label: tells it from the other wallets of a payer; in the sandbox it says whose money it is.
        directory: the sandbox's directory.
    """

    backend: Backend
    network: str | None = None
    url: str | None = None
    admin_key: Secret | None = None
    max_fee_sat: int = Field(MAX_FEE_SAT, ge=0)
    max_fee_ppm: int = Field(MAX_FEE_PPM, ge=0, le=1_000_000)
    label: str = "lightning"
    directory: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> WalletConfig:
        _check(self.backend, self.network, {"url": self.url, "admin_key": self.admin_key}, self.directory)
        return self


def make_rail(config: RailConfig) -> LightningRail:
    """Make the rail that a table describes.

    Raises:
        ConfigurationError: see `LightningRail`.
    """
    if config.backend == "sandbox":
        return LightningRail.sandbox(config.directory)
    url, key = config.url or "", _revealed(config.invoice_key)
    return LightningRail.lnbits(url, key, config.network or "mainnet", node_id=config.node_id)


def make_wallet(config: WalletConfig) -> LightningWallet:
    """Make the wallet that a table describes.

    Raises:
        ConfigurationError: see `LightningWallet`.
    """
    if config.backend == "sandbox":
        return LightningWallet.sandbox(config.directory, name=config.label)
    return LightningWallet.lnbits(
        config.url or "",
        _revealed(config.admin_key),
        config.network or "mainnet",
        max_fee_sat=config.max_fee_sat,
        max_fee_ppm=config.max_fee_ppm,
        name=config.label,
    )


def _revealed(key: SecretStr | None) -> str:
    return "" if key is None else key.get_secret_value()


PLUGIN: Final = RailPlugin(rail_config=RailConfig, wallet_config=WalletConfig, rail=make_rail, wallet=make_wallet)
