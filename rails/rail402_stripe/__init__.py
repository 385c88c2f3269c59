"""Stripe: shared payment tokens of agents, Checkout for people, and saved cards, charged to the publisher's account.

    gate = Gate(rails=[StripeRail.sandbox()], public_url="https://api.example.com")
    payer = Payer(wallets=[StripeWallet.sandbox()])

`StripeRail` is the server side and `StripeWallet` the client side. Outside the sandbox, `StripeRail("sk_…",
profile_id="profile_…")` charges, and `StripeWallet.issued_token` pays with a payment method of your own account. The
names below load on first use, because they need the extra `stripe`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rail402_stripe.api import StripeApi
    from rail402_stripe.checkout_wallet import CheckoutWallet
    from rail402_stripe.config import PLUGIN
    from rail402_stripe.customer_secret import CustomerSecretWallet
    from rail402_stripe.customers import SavedCustomer
    from rail402_stripe.issuers import CreateToken, TokenFacts, TokenIssuer, TokenTerms
    from rail402_stripe.link import LinkApi
    from rail402_stripe.link_wallet import LinkWallet
    from rail402_stripe.on_demand import OnDemand
    from rail402_stripe.own_customer import OwnCustomerWallet
    from rail402_stripe.rail import StripeRail
    from rail402_stripe.wallet import StripeWallet
    from rail402_stripe.wire import StripeSpec

_HOMES = {
    "rail402_stripe.api": ("StripeApi",),
    "rail402_stripe.checkout_wallet": ("CheckoutWallet",),
    "rail402_stripe.config": ("PLUGIN",),
    "rail402_stripe.customer_secret": ("CustomerSecretWallet",),
    "rail402_stripe.customers": ("SavedCustomer",),
    "rail402_stripe.issuers": ("CreateToken", "TokenFacts", "TokenIssuer", "TokenTerms"),
    "rail402_stripe.link": ("LinkApi",),
    "rail402_stripe.link_wallet": ("LinkWallet",),
    "rail402_stripe.on_demand": ("OnDemand",),
    "rail402_stripe.own_customer": ("OwnCustomerWallet",),
    "rail402_stripe.rail": ("StripeRail",),
    "rail402_stripe.wallet": ("StripeWallet",),
    "rail402_stripe.wire": ("StripeSpec",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PLUGIN",
    "CheckoutWallet",
    "CreateToken",
    "CustomerSecretWallet",
    "LinkApi",
    "LinkWallet",
    "OnDemand",
    "OwnCustomerWallet",
    "SavedCustomer",
    "StripeApi",
    "StripeRail",
    "StripeSpec",
    "StripeWallet",
    "TokenFacts",
    "TokenIssuer",
    "TokenTerms",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rail402_stripe' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
