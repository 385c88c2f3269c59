"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from rail402.config import Secret, resolve_secret, revealed
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402_lightning import explain
from rail402_lightning.backends.lnd_macaroon import read_macaroon
from rail402_lightning.networks import NETWORKS
from rail402_lightning.rail import LightningRail
from rail402_lightning.wallet import MAX_FEE_PPM, MAX_FEE_SAT, LightningWallet

__all__ = ["PLUGIN", "RailConfig", "WalletConfig", "make_rail", "make_wallet"]

Backend = Literal["sandbox", "lnbits", "lnd"]

_LIMITS: Final = frozenset({"node_id", "max_fee_sat", "max_fee_ppm"})

_OWN: Final = {
    "sandbox": frozenset({"directory"}),
    "lnbits": _LIMITS | {"url", "invoice_key", "admin_key"},
    "lnd": _LIMITS | {"url", "macaroon", "tls_cert", "private"},
}
"""What only some of the backends have a use for."""

_OPTIONAL: Final = _LIMITS | {"directory", "tls_cert", "private"}


def _resolve_macaroon(value: object) -> str:
    """Return the macaroon that `env:NAME` or `file:PATH` refers to; the file may be lnd's own, which is no text."""
    kind, _, target = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind != "file" or not target:
        return resolve_secret(value)
    try:
        return read_macaroon(Path(target)).hex()
    except ConfigurationError as error:
        raise ValueError(error.detail) from error


Macaroon = Annotated[SecretStr, BeforeValidator(_resolve_macaroon)]


def _check(table: Record, backend: str, network: str | None) -> None:
    """Check that a table has what its backend needs, and nothing that it has no use for."""
    if network is not None and network not in {known.name for known in NETWORKS}:
        raise ValueError(f"network must be one of {', '.join(known.name for known in NETWORKS)}")
    for key in type(table).model_fields:
        users = [f'"{name}"' for name, own in _OWN.items() if key in own]
        given = key in table.model_fields_set and getattr(table, key) is not None
        if key in _OWN[backend] and not given and key not in _OPTIONAL:
            raise ValueError(f'backend = "{backend}" needs {key}')
        if users and key not in _OWN[backend] and given:
            raise ValueError(f'backend = "{backend}" has no {key}: {key} is for backend = {" or ".join(users)}')
    if backend == "sandbox" and network not in (None, "regtest"):
        raise ValueError('backend = "sandbox" moves no real money; its network is regtest')


class RailConfig(Record):
    """`[[rails]]` with `name = "lightning"`.

    Args:
        backend: `lnd`, `lnbits`, or `sandbox` for play money.
        network: `mainnet`, `testnet`, `signet` or `regtest`; mainnet unless given.
        url: the address of LNbits, or of lnd's REST API.
        invoice_key: `env:NAME` or `file:PATH` of the invoice key of a wallet of LNbits.
        macaroon: `file:PATH` of a macaroon of lnd, or `env:NAME` of one in hexadecimal digits.
        tls_cert: the path of lnd's `tls.cert`; none where its certificate is a public one.
        private: whether lnd's invoices hold hints to its private channels.
        node_id: the public key of the node that must sign the invoices; learnt at the start unless given.
        directory: the sandbox's directory.
    """

    backend: Backend
    network: str | None = None
    url: str | None = None
    invoice_key: Secret | None = None
    macaroon: Macaroon | None = None
    tls_cert: str | None = None
    private: bool | None = None
    node_id: str | None = Field(None, pattern="^0[23][0-9a-fA-F]{64}$")
    directory: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> RailConfig:
        _check(self, self.backend, self.network)
        return self


class WalletConfig(Record):
    """`[[wallets]]` with `name = "lightning"`.

    Args:
        backend: `lnd`, `lnbits`, or `sandbox` for play money.
        network: `mainnet`, `testnet`, `signet` or `regtest`; mainnet unless given.
        url: the address of LNbits, or of lnd's REST API.
        admin_key: `env:NAME` or `file:PATH` of the admin key of a wallet of LNbits.
        macaroon: `file:PATH` of a macaroon of lnd, or `env:NAME` of one in hexadecimal digits.
        tls_cert: the path of lnd's `tls.cert`; none where its certificate is a public one.
        max_fee_sat, max_fee_ppm: what a payment may cost in fees: the larger of the two.
        label: tells it from the other wallets of a payer; in the sandbox it says whose money it is.
        directory: the sandbox's directory.
    """

    backend: Backend
    network: str | None = None
    url: str | None = None
    admin_key: Secret | None = None
    macaroon: Macaroon | None = None
    tls_cert: str | None = None
    max_fee_sat: int = Field(MAX_FEE_SAT, ge=0)
    max_fee_ppm: int = Field(MAX_FEE_PPM, ge=0, le=1_000_000)
    label: str = "lightning"
    directory: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> WalletConfig:
        _check(self, self.backend, self.network)
        return self


def make_rail(config: RailConfig) -> LightningRail:
    """Make the rail that a table describes.

    Raises:
        ConfigurationError: see `LightningRail`.
    """
    if config.backend == "sandbox":
        return LightningRail.sandbox(config.directory)
    url, network = config.url or "", config.network or "mainnet"
    if config.backend == "lnbits":
        return LightningRail.lnbits(url, revealed(config.invoice_key) or "", network, node_id=config.node_id)
    return LightningRail.lnd(
        url,
        revealed(config.macaroon) or "",
        network,
        tls_cert=_path(config.tls_cert),
        private=config.private is True,
        node_id=config.node_id,
    )


def make_wallet(config: WalletConfig) -> LightningWallet:
    """Make the wallet that a table describes.

    Raises:
        ConfigurationError: see `LightningWallet`.
    """
    if config.backend == "sandbox":
        return LightningWallet.sandbox(config.directory, name=config.label)
    url, network = config.url or "", config.network or "mainnet"
    limits = {"max_fee_sat": config.max_fee_sat, "max_fee_ppm": config.max_fee_ppm}
    if config.backend == "lnbits":
        return LightningWallet.lnbits(url, revealed(config.admin_key) or "", network, name=config.label, **limits)
    macaroon, tls_cert = revealed(config.macaroon) or "", _path(config.tls_cert)
    return LightningWallet.lnd(url, macaroon, network, tls_cert=tls_cert, name=config.label, **limits)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


PLUGIN: Final = RailPlugin(
    rail_config=RailConfig,
    wallet_config=WalletConfig,
    rail=make_rail,
    wallet=make_wallet,
    specs=explain.specs,
    network_name=explain.network_name,
    describe=explain.describe,
    explain=explain.explain,
)
