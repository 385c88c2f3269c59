"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from importlib.resources import files
from typing import Final, Literal

from pydantic import Field, model_validator

from rail402.config import Secret, revealed
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402.protocol.rail import Wallet
from rail402_stripe import explain
from rail402_stripe.api import API_VERSION, SptParameter, StripeApi
from rail402_stripe.checkout_wallet import CheckoutWallet
from rail402_stripe.customer_secret import CustomerSecretWallet
from rail402_stripe.link import LinkApi
from rail402_stripe.link_wallet import MAX_AMOUNT, LinkWallet
from rail402_stripe.on_demand import OnDemand
from rail402_stripe.own_customer import OwnCustomerWallet
from rail402_stripe.rail import StripeRail
from rail402_stripe.wallet import HOLD_SECONDS, StripeWallet
from rail402_stripe.wire import Network

__all__ = ["PLUGIN", "RailConfig", "WalletConfig", "make_rail", "make_wallet"]


class RailConfig(Record):
    """`[[rails]]` with `name = "stripe"`.

    Args:
        backend: `sandbox`, or `stripe` for an account of yours, in test or live mode as its key says.
        directory: the sandbox's directory.
        secret_key: `env:NAME` or `file:PATH` of the account's secret key.
        profile_id: the account's profile, `profile_…`; or its id, `acct_…`, where it takes no shared payment tokens.
        currency: the currency to charge in, or a list of several.
        payment_method_types: the kinds of payment method that are taken.
        publishable_key: the account's `pk_…`, which is no secret: PaymentIntents are prepared for payers who ask.
        checkout: whether people can pay by Stripe's hosted Checkout. In the sandbox both are always on. A publisher's
            own customers (`customers`) are for `StripeRail` in Python only.
        webhook_secrets: `env:NAME` or `file:PATH` of the webhook endpoint's signing secrets, several while one is
            rolled.
        api_version, spt_parameter: see `StripeApi`.
    """

    backend: Literal["sandbox", "stripe"]
    directory: str | None = None
    secret_key: Secret | None = None
    profile_id: str | None = None
    currency: str | list[str] = "usd"
    payment_method_types: list[str] = Field(default=["card", "link"], min_length=1)
    publishable_key: str | None = None
    checkout: bool = False
    webhook_secrets: list[Secret] = Field(default=[])
    api_version: str = API_VERSION
    spt_parameter: SptParameter = "payment_method_data"

    @model_validator(mode="after")
    def _check(self) -> RailConfig:
        account = {"secret_key", "profile_id"}
        if self.backend == "stripe":
            _want(self, account, not_for={"directory"})
        else:
            others = {"payment_method_types", "publishable_key", "checkout", "api_version", "spt_parameter"}
            _want(self, set(), not_for=account | others)
        return self


_NETWORKS: Final[dict[str, Network]] = {"live": "stripe:live", "test": "stripe:test", "sandbox": "stripe:sandbox"}

# The keys that a wallet's backend needs, and those that it may have.
_WALLETS: Final[dict[str, tuple[set[str], set[str]]]] = {
    "sandbox": (set(), {"directory", "payment_method"}),
    "issued_token": ({"secret_key", "payment_method"}, {"currencies", "hold_seconds"}),
    "test_helper": ({"secret_key"}, {"payment_method"}),
    "link": ({"access_token"}, {"mode", "payment_method", "currencies", "max_amount", "hold_seconds"}),
    "own_customer": ({"publishable_key", "payment_method"}, set()),
    "customer_secret": ({"customer_secret", "origin"}, {"mode"}),
    "checkout": (set(), {"mode", "checkout_origins"}),
}


class WalletConfig(Record):
    """`[[wallets]]` with `name = "stripe"`.

    Args:
        backend: `sandbox`; `issued_token`, which pays with a payment method of your own Stripe account; `test_helper`,
            which tries out a seller's account with its own test key; `link`, where a person approves each payment in
            Link; `own_customer` and `customer_secret`, for a
            customer of one publisher; or `checkout`, where a person pays at a link.
        directory: the sandbox's directory.
        secret_key: `env:NAME` or `file:PATH` of that account's secret key.
        payment_method: `pm_…`; one of Stripe's test cards in the sandbox and with the test helper, unless given.
        currencies: the currencies to pay in; any unless given.
        access_token: `env:NAME` or `file:PATH` of the person's OAuth access token at Link; see `LinkWallet`.
        max_amount: minor units that one payment by Link may cost at most.
        hold_seconds: for how long the amount of an unused token stays reserved; see `StripeWallet`.
        publishable_key: the publisher's `pk_…`; see `OwnCustomerWallet`.
        customer_secret: `env:NAME` or `file:PATH` of what the publisher knows its customer by.
        origin: the only origin that is shown it; see `CustomerSecretWallet`.
        mode: which Stripe the sellers use.
        checkout_origins: further origins at which links to Checkout may be; see `CheckoutWallet`.
    """

    backend: Literal["sandbox", "issued_token", "test_helper", "link", "own_customer", "customer_secret", "checkout"]
    directory: str | None = None
    secret_key: Secret | None = None
    payment_method: str | None = None
    access_token: Secret | None = None
    max_amount: int = Field(default=MAX_AMOUNT, gt=0, strict=True)
    currencies: list[str] | None = Field(default=None, min_length=1)
    hold_seconds: int = Field(default=HOLD_SECONDS, ge=0)
    publishable_key: str | None = None
    customer_secret: Secret | None = None
    origin: str | None = None
    mode: Literal["live", "test", "sandbox"] = "live"
    checkout_origins: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _check(self) -> WalletConfig:
        needed, others = _WALLETS[self.backend]
        _want(self, needed, not_for=type(self).model_fields.keys() - needed - others - {"backend"})
        return self


def _want(config: RailConfig | WalletConfig, needed: set[str], *, not_for: Set[str]) -> None:
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
    webhook_secrets = [secret.get_secret_value() for secret in config.webhook_secrets]
    if config.secret_key is None or config.profile_id is None:
        return StripeRail.sandbox(config.directory, currency=config.currency, webhook_secrets=webhook_secrets)
    api = StripeApi(
        config.secret_key.get_secret_value(), api_version=config.api_version, spt_parameter=config.spt_parameter
    )
    return StripeRail(
        api,
        profile_id=config.profile_id,
        currency=config.currency,
        payment_method_types=config.payment_method_types,
        on_demand=OnDemand(publishable_key=config.publishable_key, checkout=config.checkout),
        webhook_secrets=webhook_secrets,
    )


def make_wallet(config: WalletConfig) -> Wallet:
    """Make the wallet that a table describes.

    Raises:
        ConfigurationError: see the wallet's class.
    """
    method, network = config.payment_method or "pm_card_visa", _NETWORKS[config.mode]
    secret_key, customer_secret = revealed(config.secret_key) or "", revealed(config.customer_secret) or ""
    match config.backend:
        case "sandbox":
            return StripeWallet.sandbox(config.directory, payment_method=method)
        case "test_helper":
            return StripeWallet.test_helper(secret_key, payment_method=method)
        case "issued_token":
            held = config.hold_seconds
            return StripeWallet.issued_token(secret_key, method, currencies=config.currencies, hold_seconds=held)
        case "link":
            return _link_wallet(config)
        case "own_customer":
            return OwnCustomerWallet(config.publishable_key or "", method)
        case "customer_secret":
            return CustomerSecretWallet(customer_secret, config.origin or "", network=network)
        case "checkout":
            return CheckoutWallet(network=network, origins=config.checkout_origins)


def _link_wallet(config: WalletConfig) -> LinkWallet:
    return LinkWallet(
        LinkApi(revealed(config.access_token) or ""),
        network=_NETWORKS[config.mode],
        payment_method=config.payment_method,
        currencies=config.currencies or ("usd",),
        max_amount=config.max_amount,
        hold_seconds=config.hold_seconds,
    )


PLUGIN: Final = RailPlugin(
    rail_config=RailConfig,
    wallet_config=WalletConfig,
    rail=make_rail,
    wallet=make_wallet,
    specs=explain.specs,
    network_name=explain.network_name,
    describe=explain.describe,
    explain=explain.explain,
    wallet_examples=partial(files("rail402_stripe").joinpath("wallets.toml").read_text, "utf-8"),
)
