"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from rail402.config import Secret
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402_stripe.api import API_VERSION, SptParameter, StripeApi
from rail402_stripe.rail import StripeRail
from rail402_stripe.wallet import HOLD_SECONDS, StripeWallet

__all__ = ["PLUGIN", "RailConfig", "WalletConfig", "make_rail", "make_wallet"]


class RailConfig(Record):
    """`[[rails]]` with `name = "stripe"`.

    Args:
        backend: `sandbox`, or `stripe` for an account of yours, in test or live mode as its key says.
        directory: the sandbox's directory.
        secret_key: `env:NAME` or `file:PATH` of the account's secret key.
        profile_id: the account's profile, `profile_…`.
        currency: the currency to charge in, or a list of several.
        payment_method_types: the kinds of payment method that are taken.
        api_version, spt_parameter: see `StripeApi`.
    """

    backend: Literal["sandbox", "stripe"]
    directory: str | None = None
    secret_key: Secret | None = None
    profile_id: str | None = None
    currency: str | list[str] = "usd"
    payment_method_types: list[str] = Field(default=["card", "link"], min_length=1)
    api_version: str = API_VERSION
    spt_parameter: SptParameter = "payment_method_data"

    @model_validator(mode="after")
    def _check(self) -> RailConfig:
        account = {"secret_key", "profile_id"}
        if self.backend == "stripe":
            _want(self, account, not_for={"directory"})
        else:
            _want(self, set(), not_for=account | {"payment_method_types", "api_version", "spt_parameter"})
        return self


class WalletConfig(Record):
    """`[[wallets]]` with `name = "stripe"`.

    Args:
        backend: `sandbox`; `issued_token`, which pays with a payment method of your own Stripe account; or
            `test_helper`, which tries out a seller's account with its own test key.
        directory: the sandbox's directory.
        secret_key: `env:NAME` or `file:PATH` of that account's secret key.
        payment_method: `pm_…`; one of Stripe's test cards unless the tokens are issued.
        currencies: the currencies to pay in; any unless given.
        hold_seconds: for how long the amount of an unused token stays reserved; see `StripeWallet`.
    """

    backend: Literal["sandbox", "issued_token", "test_helper"]
    directory: str | None = None
    secret_key: Secret | None = None
    payment_method: str | None = None
    currencies: list[str] | None = Field(default=None, min_length=1)
    hold_seconds: int = Field(default=HOLD_SECONDS, ge=0)

    @model_validator(mode="after")
    def _check(self) -> WalletConfig:
        match self.backend:
            case "sandbox":
                _want(self, set(), not_for={"secret_key", "currencies", "hold_seconds"})
            case "test_helper":
                _want(self, {"secret_key"}, not_for={"directory", "currencies", "hold_seconds"})
            case "issued_token":
                _want(self, {"secret_key", "payment_method"}, not_for={"directory"})
        return self


def _want(config: RailConfig | WalletConfig, needed: set[str], *, not_for: set[str]) -> None:
    """Check which keys are there; pydantic makes its own error out of this one."""
    missing = sorted(name for name in needed if getattr(config, name) is None)
    if missing:
        raise ValueError(f'backend = "{config.backend}" needs {", ".join(missing)}')
    surplus = sorted(config.model_fields_set & not_for)
    if surplus:
        raise ValueError(f'backend = "{config.backend}" has no {", ".join(surplus)}')


def make_rail(config: RailConfig) -> StripeRail:
    """Make the rail that a table describes.

    Raises:
        ConfigurationError: see `StripeRail`.
    """
    if config.secret_key is None or config.profile_id is None:
        return StripeRail.sandbox(config.directory, currency=config.currency)
    api = StripeApi(
        config.secret_key.get_secret_value(), api_version=config.api_version, spt_parameter=config.spt_parameter
    )
    return StripeRail(
        api,
        profile_id=config.profile_id,
        currency=config.currency,
        payment_method_types=config.payment_method_types,
    )


def make_wallet(config: WalletConfig) -> StripeWallet:
    """Make the wallet that a table describes.

    Raises:
        ConfigurationError: see `StripeWallet`.
    """
    method = config.payment_method or "pm_card_visa"
    if config.secret_key is None:
        return StripeWallet.sandbox(config.directory, payment_method=method)
    secret_key = config.secret_key.get_secret_value()
    if config.backend == "test_helper":
        return StripeWallet.test_helper(secret_key, payment_method=method)
    return StripeWallet.issued_token(secret_key, method, currencies=config.currencies, hold_seconds=config.hold_seconds)


PLUGIN: Final = RailPlugin(rail_config=RailConfig, wallet_config=WalletConfig, rail=make_rail, wallet=make_wallet)
