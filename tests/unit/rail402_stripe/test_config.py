"""The tables of the configuration files, and the plugin that is registered for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rail402_stripe
from rail402.config import TomlFile
from rail402.errors import ConfigurationError
from rail402.plugins import load_plugin
from rail402.protocol.offer import Flow
from rail402_stripe import StripeRail, StripeSpec, StripeWallet
from rail402_stripe.config import PLUGIN, RailConfig, WalletConfig, make_rail, make_wallet
from rail402_stripe.currencies import currency


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk_test_hidden")
    monkeypatch.setenv("LIVE_KEY", "sk_live_hidden")
    monkeypatch.setenv("WEBHOOK", "whsec_hidden")
    monkeypatch.setenv("SECRET", "hidden-hidden-hidden")


def read(folder: Path, kind: type[Any], text: str) -> Any:
    path = folder / "file.toml"
    path.write_text("[[tables]]\n" + text)
    return TomlFile(path).table(kind, "tables", 0)


def test_the_entry_point_is_this_plugin() -> None:
    assert load_plugin("stripe") is PLUGIN is rail402_stripe.PLUGIN


def test_every_public_name_loads() -> None:
    for name in rail402_stripe.__all__:
        assert getattr(rail402_stripe, name) is not None
    assert dir(rail402_stripe) == sorted(rail402_stripe.__all__)
    with pytest.raises(AttributeError, match="Stripes"):
        _ = rail402_stripe.Stripes


async def test_a_sandbox_rail(tmp_path: Path) -> None:
    rail = make_rail(read(tmp_path, RailConfig, f'backend = "sandbox"\ndirectory = "{tmp_path}"\ncurrency = "eur"'))
    assert isinstance(rail, StripeRail)
    assert rail.is_sandbox is True
    assert [mechanism.asset for mechanism in rail.spec.mechanisms] == ["eur"]
    await rail.close()


async def test_an_account(tmp_path: Path) -> None:
    text = """
        backend = "stripe"
        secret_key = "env:LIVE_KEY"
        profile_id = "profile_1"
        currency = ["usd", "eur"]
        payment_method_types = ["card"]
        publishable_key = "pk_live_1"
        checkout = true
        webhook_secrets = ["env:WEBHOOK"]
        api_version = "2026-03-04.preview"
        spt_parameter = "top_level"
    """
    config = read(tmp_path, RailConfig, text)
    assert "hidden" not in repr(config)
    rail = make_rail(config)
    assert rail.is_sandbox is False
    assert [mechanism.network for mechanism in rail.spec.mechanisms] == ["stripe:live"] * 2
    assert "2026-03-04.preview" in repr(rail)
    assert set(rail.endpoints()) == {
        ("POST", "stripe"),
        ("GET", "stripe"),
        ("POST", "stripe/checkout"),
        ("GET", "stripe/return"),
        ("POST", "stripe/webhook"),
    }
    await rail.close()


async def test_an_account_that_prepares_nothing(tmp_path: Path) -> None:
    text = 'backend = "stripe"\nsecret_key = "env:TEST_KEY"\nprofile_id = "profile_1"'
    rail = make_rail(read(tmp_path, RailConfig, text))
    assert rail.endpoints() == {}
    await rail.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backend = "square"', "sandbox"),
        ("", "missing"),
        ('backend = "stripe"', "needs profile_id, secret_key"),
        ('backend = "stripe"\nprofile_id = "profile_1"', "needs secret_key"),
        ('backend = "stripe"\nsecret_key = "sk_live_hidden"\nprofile_id = "p"', "env:NAME"),
        ('backend = "stripe"\nsecret_key = "env:NOWHERE"\nprofile_id = "p"', "NOWHERE"),
        ('backend = "stripe"\nsecret_key = "env:LIVE_KEY"\nprofile_id = "p"\ndirectory = "x"', "has no directory"),
        ('backend = "sandbox"\nsecret_key = "env:LIVE_KEY"', "has no secret_key"),
        ('backend = "sandbox"\nprofile_id = "profile_1"', "has no profile_id"),
        ('backend = "sandbox"\nspt_parameter = "top_level"', "has no spt_parameter"),
        ('backend = "sandbox"\nspt_parameter = "other"', "top_level"),
        ('backend = "sandbox"\npublishable_key = "pk_test_1"', "has no publishable_key"),
        ('backend = "sandbox"\ncheckout = true', "has no checkout"),
        ('backend = "sandbox"\npayment_method_types = []', "payment_method_types"),
        ('backend = "sandbox"\nkey = "x"', "known are"),
    ],
)
def test_a_rails_table_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(tmp_path, RailConfig, text)
    assert "file.toml:" in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'backend = "stripe"\nsecret_key = "env:LIVE_KEY"\nprofile_id = "internal"',
        'backend = "stripe"\nsecret_key = "env:TEST_KEY"\nprofile_id = "profile_sandbox"',
        'backend = "stripe"\nsecret_key = "env:TEST_KEY"\nprofile_id = "p"\napi_version = "new"',
        'backend = "stripe"\nsecret_key = "env:TEST_KEY"\nprofile_id = "p"\npublishable_key = "pk_live_1"',
        'backend = "stripe"\nsecret_key = "env:LIVE_KEY"\nprofile_id = "p"\npublishable_key = "pk_test_1"',
        'backend = "stripe"\nsecret_key = "env:TEST_KEY"\nprofile_id = "acct_1"',
        'backend = "sandbox"\ncurrency = "zzz"',
    ],
)
def test_settings_that_do_not_fit_together(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_rail(read(tmp_path, RailConfig, f"{text}\n"))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ('backend = "sandbox"\npayment_method = "pm_card_visa"', "stripe:sandbox"),
        ('backend = "test_helper"\nsecret_key = "env:TEST_KEY"', "stripe:test"),
        (
            'backend = "issued_token"\nsecret_key = "env:LIVE_KEY"\npayment_method = "pm_1"\ncurrencies = ["usd"]',
            "stripe:live",
        ),
        (
            'backend = "issued_token"\nsecret_key = "env:TEST_KEY"\npayment_method = "pm_1"\nhold_seconds = 3600',
            "stripe:test",
        ),
    ],
)
async def test_wallets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, network: str) -> None:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path))
    config = read(tmp_path, WalletConfig, text)
    assert "hidden" not in repr(config)
    wallet = make_wallet(config)
    assert isinstance(wallet, StripeWallet)
    assert wallet.name == network
    await wallet.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backend = "paypal"', "issued_token"),
        ('backend = "link"', "needs access_token"),
        ('backend = "link"\naccess_token = "link_hidden"', "env:NAME or file:PATH"),
        ('backend = "link"\naccess_token = "env:SECRET"\nmax_amount = 0', "max_amount"),
        ('backend = "link"\naccess_token = "env:SECRET"\nsecret_key = "env:TEST_KEY"', "has no secret_key"),
        ('backend = "checkout"\naccess_token = "env:SECRET"', "has no access_token"),
        ('backend = "test_helper"', "needs secret_key"),
        ('backend = "test_helper"\nsecret_key = "env:TEST_KEY"\ncurrencies = ["usd"]', "has no currencies"),
        ('backend = "issued_token"\nsecret_key = "env:TEST_KEY"', "needs payment_method"),
        (
            'backend = "issued_token"\nsecret_key = "env:TEST_KEY"\npayment_method = "pm_1"\ndirectory = "x"',
            "directory",
        ),
        ('backend = "sandbox"\nsecret_key = "env:LIVE_KEY"', "has no secret_key"),
        ('backend = "sandbox"\nhold_seconds = -1', "hold_seconds"),
        ('backend = "own_customer"\npayment_method = "pm_1"', "needs publishable_key"),
        ('backend = "own_customer"\npublishable_key = "pk_test_1"', "needs payment_method"),
        ('backend = "own_customer"\npublishable_key = "pk_1"\npayment_method = "pm_1"\nmode = "test"', "has no mode"),
        ('backend = "customer_secret"\norigin = "https://x.example"', "needs customer_secret"),
        ('backend = "customer_secret"\ncustomer_secret = "env:TEST_KEY"', "needs origin"),
        ('backend = "checkout"\nmode = "real"', "mode"),
        ('backend = "checkout"\nsecret_key = "env:TEST_KEY"', "has no secret_key"),
        ('backend = "sandbox"\ncurrencies = []', "currencies"),
    ],
)
def test_a_wallets_table_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(tmp_path, WalletConfig, text)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "network"),
    [
        ('backend = "own_customer"\npublishable_key = "pk_live_1"\npayment_method = "pm_1"', "Own", "live"),
        ('backend = "customer_secret"\ncustomer_secret = "env:SECRET"\norigin = "https://x.example"', "Cus", "live"),
        ('backend = "checkout"', "Checkout", "live"),
        ('backend = "link"\naccess_token = "env:SECRET"', "Link", "live"),
        ('backend = "link"\naccess_token = "env:SECRET"\nmode = "test"\ncurrencies = ["cad"]', "Link", "test"),
        ('backend = "checkout"\nmode = "test"\ncheckout_origins = ["https://pay.example"]', "Checkout", "test"),
    ],
)
async def test_wallets_of_people(tmp_path: Path, text: str, kind: str, network: str) -> None:
    config = read(tmp_path, WalletConfig, text)
    wallet = make_wallet(config)
    assert type(wallet).__name__.startswith(kind)
    assert wallet.spec.mechanisms[0].network == f"stripe:{network}"
    assert ("https://pay.example" in wallet.origins_for_people) is ("checkout_origins" in text)
    assert "hidden" not in repr(config) + repr(wallet)
    await wallet.close()


async def test_a_link_of_small_amounts(tmp_path: Path) -> None:
    text = 'backend = "link"\naccess_token = "env:SECRET"\nmode = "test"\ncurrencies = ["usd", "cad"]\nmax_amount = 99'
    wallet = make_wallet(read(tmp_path, WalletConfig, text))
    for amount, code, takes in ((99, "usd", True), (99, "cad", True), (100, "usd", False), (99, "eur", False)):
        offer = StripeSpec("stripe:test", [code]).offer(
            currency(code),
            payee="profile_test_1",
            amount=amount,
            flow=Flow.ESCROW,
            expires_at=1,
            payment_method_types=["card"],
        )
        assert (await wallet.can_pay(offer) is not None) is takes
    await wallet.close()


@pytest.mark.parametrize(
    "text",
    [
        'backend = "own_customer"\npublishable_key = "sk_live_hidden"\npayment_method = "pm_1"',
        'backend = "own_customer"\npublishable_key = "pk_live_1"\npayment_method = "4242"',
        'backend = "customer_secret"\ncustomer_secret = "env:SECRET"\norigin = "x.example"',
        'backend = "link"\naccess_token = "env:SECRET"\npayment_method = "pm_1"',
        'backend = "customer_secret"\ncustomer_secret = "env:TEST_KEY"\norigin = "https://x.example"',
    ],
)
def test_wallets_of_people_that_do_not_fit(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_wallet(read(tmp_path, WalletConfig, text))
    assert "hidden" not in str(caught.value)


def test_the_test_helper_refuses_a_live_key(tmp_path: Path) -> None:
    config = read(tmp_path, WalletConfig, 'backend = "test_helper"\nsecret_key = "env:LIVE_KEY"')
    with pytest.raises(ConfigurationError, match="test mode"):
        make_wallet(config)
