"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator

from rail402.config import Secret
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402_base.rail import BaseRail
from rail402_base.wallet import BaseWallet

__all__ = ["BACKENDS", "PLUGIN", "RailConfig", "WalletConfig", "make_rail", "make_wallet"]

BACKENDS: Final = ("sandbox",)
"""The ways to reach a chain that a file can name."""


def _known(backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    return backend


Backend = Annotated[str, AfterValidator(_known)]


class RailConfig(Record):
    """`[[rails]]` with `name = "base"`.

    Args:
        backend: how the chain is reached: `sandbox`.
        directory: the sandbox's directory.
        pay_to: the address that is paid; the sandbox has one of its own.
    """

    backend: Backend
    directory: str | None = None
    pay_to: str | None = None


class WalletConfig(Record):
    """`[[wallets]]` with `name = "base"`.

    Args:
        backend: how the chain is reached: `sandbox`.
        directory: the sandbox's directory.
        private_key: `env:NAME` or `file:PATH` of 64 hex digits; the sandbox has a key of its own.
    """

    backend: Backend
    directory: str | None = None
    private_key: Secret | None = None


def make_rail(config: RailConfig) -> BaseRail:
    """Make the rail that a table describes.

    Raises:
        ConfigurationError: see `BaseRail.sandbox`.
    """
    return BaseRail.sandbox(config.directory, pay_to=config.pay_to)


def make_wallet(config: WalletConfig) -> BaseWallet:
    """Make the wallet that a table describes.

    Raises:
        ConfigurationError: see `BaseWallet.sandbox`.
    """
    private_key = None if config.private_key is None else config.private_key.get_secret_value()
    return BaseWallet.sandbox(config.directory, private_key=private_key)


PLUGIN: Final = RailPlugin(rail_config=RailConfig, wallet_config=WalletConfig, rail=make_rail, wallet=make_wallet)
