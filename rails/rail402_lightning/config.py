"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from rail402.config import Secret, resolve_secret, revealed
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402_lightning import explain
from rail402_lightning.backends import Receiver, Sender
from rail402_lightning.backends.cln import ClnReceiver, ClnSender
from rail402_lightning.backends.lnbits import LnbitsSender
from rail402_lightning.backends.lnd import LndSender
from rail402_lightning.backends.lnd_macaroon import read_macaroon
from rail402_lightning.backends.nwc import NwcReceiver, NwcSender
from rail402_lightning.backends.phoenixd import PhoenixdReceiver, PhoenixdSender
from rail402_lightning.minting import AHEAD, MAX_AHEAD
from rail402_lightning.networks import NETWORKS
from rail402_lightning.rail import LightningRail
from rail402_lightning.refunds import MAX_FEE_SAT as REFUND_FEE_SAT
from rail402_lightning.refunds import REFUND_DEADLINE, Refunding
from rail402_lightning.wallet import MAX_FEE_PPM, MAX_FEE_SAT, LightningWallet

__all__ = ["PLUGIN", "RailConfig", "WalletConfig", "make_rail", "make_wallet"]

Backend = Literal["sandbox", "lnbits", "lnd", "cln", "phoenixd", "nwc"]

_DEADLINE: Final = 60
_REFUND_FEES: Final = {"phoenixd": 7, "nwc": 10}  # sats; these two spend as much as they like, see there
_LIMITS: Final = frozenset({"node_id", "max_fee_sat", "max_fee_ppm"})

_OWN: Final = {
    "sandbox": frozenset({"directory"}),
    "lnbits": _LIMITS | {"url", "invoice_key", "admin_key", "refund_key"},
    "lnd": _LIMITS | {"url", "macaroon", "tls_cert", "private", "refund_macaroon"},
    "cln": _LIMITS | {"url", "rune", "tls_cert", "private", "refund_rune"},
    "phoenixd": _LIMITS | {"url", "password", "refund_password"},
    "nwc": _LIMITS | {"connection", "refund_connection"},
}
"""What only some of the backends have a use for."""

_REFUND: Final = frozenset({"refund_key", "refund_macaroon", "refund_rune", "refund_password", "refund_connection"})
_OPTIONAL: Final = _LIMITS | _REFUND | {"directory", "tls_cert", "private"}


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
        backend: `lnd`, `lnbits`, `cln`, `phoenixd`, `nwc`, or `sandbox` for play money.
        network: `mainnet`, `testnet`, `signet` or `regtest`; mainnet unless given.
        url: the address of LNbits, of phoenixd, or of the REST API of lnd or Core Lightning.
        invoice_key: `env:NAME` or `file:PATH` of the invoice key of a wallet of LNbits.
        macaroon: `file:PATH` of a macaroon of lnd, or `env:NAME` of one in hexadecimal digits.
        rune: `env:NAME` or `file:PATH` of a rune of Core Lightning.
        password: `env:NAME` or `file:PATH` of phoenixd's `http-password-limited-access`.
        connection: `env:NAME` or `file:PATH` of the address of a connection by Nostr Wallet Connect.
        tls_cert: the path of lnd's `tls.cert`, or of Core Lightning's `ca.pem`; none for a public certificate.
        private: whether the invoices of lnd or Core Lightning hold hints to its private channels.
        node_id: the public key of the node that must sign the invoices; learnt at the start unless given.
        mint_ahead: how many invoices are kept ready for each order in demand; 0 for none.
        refund_key: `env:NAME` or `file:PATH` of the admin key of a wallet of LNbits that refunds are paid from.
        refund_macaroon: `file:PATH` or `env:NAME` of a macaroon of lnd that can pay, for refunds.
        refund_rune, refund_password, refund_connection: likewise for `cln`, `phoenixd` and `nwc`. Without the one of
            its backend nothing is given back.
        directory: the sandbox's directory.
    """

    backend: Backend
    network: str | None = None
    url: str | None = None
    invoice_key: Secret | None = None
    macaroon: Macaroon | None = None
    rune: Secret | None = None
    password: Secret | None = None
    connection: Secret | None = None
    tls_cert: str | None = None
    private: bool | None = None
    node_id: str | None = Field(None, pattern="^0[23][0-9a-fA-F]{64}$")
    mint_ahead: int = Field(AHEAD, ge=0, le=MAX_AHEAD, strict=True)
    refund_key: Secret | None = None
    refund_macaroon: Macaroon | None = None
    refund_rune: Secret | None = None
    refund_password: Secret | None = None
    refund_connection: Secret | None = None
    directory: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> RailConfig:
        _check(self, self.backend, self.network)
        return self


class WalletConfig(Record):
    """`[[wallets]]` with `name = "lightning"`.

    Args:
        backend: `lnd`, `lnbits`, `cln`, `phoenixd`, `nwc`, or `sandbox` for play money.
        network: `mainnet`, `testnet`, `signet` or `regtest`; mainnet unless given.
        url: the address of LNbits, of phoenixd, or of the REST API of lnd or Core Lightning.
        admin_key: `env:NAME` or `file:PATH` of the admin key of a wallet of LNbits.
        macaroon: `file:PATH` of a macaroon of lnd, or `env:NAME` of one in hexadecimal digits.
        rune: `env:NAME` or `file:PATH` of a rune of Core Lightning.
        password: `env:NAME` or `file:PATH` of phoenixd's `http-password`.
        connection: `env:NAME` or `file:PATH` of the address of a connection by Nostr Wallet Connect.
        tls_cert: the path of lnd's `tls.cert`, or of Core Lightning's `ca.pem`; none for a public certificate.
        max_fee_sat, max_fee_ppm: what a payment may cost in fees: the larger of the two.
        label: tells it from the other wallets of a payer; in the sandbox it says whose money it is.
        directory: the sandbox's directory.
    """

    backend: Backend
    network: str | None = None
    url: str | None = None
    admin_key: Secret | None = None
    macaroon: Macaroon | None = None
    rune: Secret | None = None
    password: Secret | None = None
    connection: Secret | None = None
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
        return LightningRail.sandbox(config.directory, mint_ahead=config.mint_ahead)
    rail, sender = _make_rail(config), _refund_sender(config)
    if sender is None:
        return rail
    return rail.with_refunds(Refunding(sender, max_fee_sat=_REFUND_FEES.get(config.backend, REFUND_FEE_SAT)))


def _refund_sender(config: RailConfig) -> Sender | None:
    url, network = config.url or "", config.network or "mainnet"
    if config.refund_key is not None:
        return LnbitsSender(url, revealed(config.refund_key) or "", network=network, deadline=REFUND_DEADLINE)
    if config.refund_macaroon is not None:
        macaroon, tls_cert = revealed(config.refund_macaroon) or "", _path(config.tls_cert)
        return LndSender(url, macaroon, tls_cert=tls_cert, network=network, deadline=REFUND_DEADLINE)
    secret = revealed(config.refund_rune or config.refund_password or config.refund_connection)
    return None if secret is None else _sender(config, secret, deadline=REFUND_DEADLINE)


def _sender(config: RailConfig | WalletConfig, secret: str, *, deadline: float) -> Sender:
    """Return what pays from a node that has no constructor of the wallet's own."""
    url, network = config.url or "", config.network or "mainnet"
    if config.backend == "cln":
        return ClnSender(url, secret, tls_cert=_path(config.tls_cert), network=network, deadline=deadline)
    if config.backend == "phoenixd":
        return PhoenixdSender(url, secret, network=network, deadline=deadline)
    return NwcSender(secret, network=network, deadline=deadline)


def _receiver(config: RailConfig, secret: str) -> Receiver:
    """Return what receives at a node that has no constructor of the rail's own."""
    url, network = config.url or "", config.network or "mainnet"
    if config.backend == "cln":
        private, tls_cert = config.private is True, _path(config.tls_cert)
        return ClnReceiver(url, secret, tls_cert=tls_cert, network=network, private=private)
    if config.backend == "phoenixd":
        return PhoenixdReceiver(url, secret, network=network)
    return NwcReceiver(secret, network=network)


def _make_rail(config: RailConfig) -> LightningRail:
    url, network = config.url or "", config.network or "mainnet"
    if config.backend == "lnbits":
        key, ahead = revealed(config.invoice_key) or "", config.mint_ahead
        return LightningRail.lnbits(url, key, network, node_id=config.node_id, mint_ahead=ahead)
    secret = revealed(config.rune or config.password or config.connection)
    if secret is not None:
        receiver = _receiver(config, secret)
        return LightningRail(receiver, network=network, node_id=config.node_id, mint_ahead=config.mint_ahead)
    return LightningRail.lnd(
        url,
        revealed(config.macaroon) or "",
        network,
        tls_cert=_path(config.tls_cert),
        private=config.private is True,
        node_id=config.node_id,
        mint_ahead=config.mint_ahead,
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
    secret = revealed(config.rune or config.password or config.connection)
    if secret is not None:
        sender = _sender(config, secret, deadline=_DEADLINE)
        return LightningWallet(sender, network=network, name=config.label, **limits)
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
    wallet_examples=partial(files("rail402_lightning").joinpath("wallets.toml").read_text, "utf-8"),
)
