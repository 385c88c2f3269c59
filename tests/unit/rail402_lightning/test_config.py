"""The tables in the configuration files, and the plugin that brings them."""

from __future__ import annotations

from pathlib import Path

import pytest

import rail402_lightning
from rail402.config import TomlFile
from rail402.errors import ConfigurationError
from rail402.plugins import load_plugin
from rail402_lightning import (
    ClnReceiver,
    ClnSender,
    LightningRail,
    LightningWallet,
    LnbitsReceiver,
    LnbitsSender,
    LndReceiver,
    LndSender,
    NwcReceiver,
    NwcSender,
    PhoenixdReceiver,
    PhoenixdSender,
)
from rail402_lightning.config import PLUGIN, RailConfig, WalletConfig
from tests.unit.rail402_lightning.backends.fake_lnd import PAYING, RECEIVING
from tests.unit.rail402_lightning.backends.fake_nwc import address
from tests.unit.rail402_lightning.invoices import PAYEE

LNBITS = """
backend = "lnbits"
url = "https://lnbits.example.com"
"""
LND = """
backend = "lnd"
url = "https://lnd.example.com:8080"
"""

CLN = """
backend = "cln"
url = "https://cln.example.com:3010"
"""
PHOENIXD = """
backend = "phoenixd"
url = "http://127.0.0.1:9740"
"""
SECRET = "5ec2e75ec2e7"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNBITS_KEY", "5ec2e75ec2e7")
    monkeypatch.setenv("LND_MACAROON", RECEIVING.hex())
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("NWC", address("wss://relay.example.com"))


def rail(tmp_path: Path, text: str) -> LightningRail:
    file = tmp_path / "rail402.toml"
    file.write_text(f'[[rails]]\nname = "lightning"\n{text}')
    made = PLUGIN.rail(TomlFile(file).table(RailConfig, "rails", 0, ignore=["name"]))
    assert isinstance(made, LightningRail)
    return made


def wallet(tmp_path: Path, text: str) -> LightningWallet:
    file = tmp_path / "wallets.toml"
    file.write_text(f'[[wallets]]\nname = "lightning"\n{text}')
    made = PLUGIN.wallet(TomlFile(file).table(WalletConfig, "wallets", 0, ignore=["name"]))
    assert isinstance(made, LightningWallet)
    return made


def test_it_is_found_by_its_name() -> None:
    assert load_plugin("lightning") is PLUGIN


def test_the_package_says_what_it_has() -> None:
    assert set(dir(rail402_lightning)) == set(rail402_lightning.__all__)
    assert all(getattr(rail402_lightning, name) is not None for name in rail402_lightning.__all__)
    with pytest.raises(AttributeError):
        rail402_lightning.nothing  # noqa: B018


def test_a_sandbox_needs_nothing(tmp_path: Path) -> None:
    text = f'backend = "sandbox"\ndirectory = "{tmp_path}"'

    assert rail(tmp_path, text).is_sandbox is True
    assert wallet(tmp_path, text).name == "lightning"


def test_how_many_invoices_are_minted_ahead_is_set_for_every_backend(tmp_path: Path) -> None:
    backends = {
        "sandbox": f'backend = "sandbox"\ndirectory = "{tmp_path}"',
        "lnbits": LNBITS + 'invoice_key = "env:LNBITS_KEY"',
        "lnd": LND + 'macaroon = "env:LND_MACAROON"',
        "cln": CLN + 'rune = "env:SECRET"',
        "phoenixd": PHOENIXD + 'password = "env:SECRET"',
        "nwc": 'backend = "nwc"\nconnection = "env:NWC"',
    }
    for text in backends.values():
        assert rail(tmp_path, text)._minter._ahead == 8
        assert rail(tmp_path, text + "\nmint_ahead = 0")._minter._ahead == 0


def test_lnbits_takes_an_address_and_a_key(tmp_path: Path) -> None:
    receiving = rail(tmp_path, LNBITS + f'invoice_key = "env:LNBITS_KEY"\nnode_id = "{PAYEE}"')
    paying = wallet(
        tmp_path,
        LNBITS + 'admin_key = "env:LNBITS_KEY"\nnetwork = "signet"\nmax_fee_sat = 5\nmax_fee_ppm = 0\nlabel = "day"',
    )

    assert isinstance(receiving.receiver, LnbitsReceiver)
    assert receiving.spec.mechanisms[0].network == "lnbtc:000000000019d6689c085ae165831e93"
    assert isinstance(paying.sender, LnbitsSender)
    assert (paying.name, paying.spec.mechanisms[0].network) == ("day", "lnbtc:00000008819873e925422c1ff0f99f7c")
    assert paying.max_fee_msat(1_000_000_000) == 5000


def test_lnd_takes_an_address_a_macaroon_and_its_certificate(tmp_path: Path) -> None:
    (tmp_path / "pay.macaroon").write_bytes(PAYING)
    receiving = rail(tmp_path, LND + f'macaroon = "env:LND_MACAROON"\nprivate = true\nnode_id = "{PAYEE}"')
    paying = wallet(
        tmp_path,
        LND + f'macaroon = "file:{tmp_path}/pay.macaroon"\nnetwork = "signet"\nmax_fee_ppm = 70\nlabel = "day"',
    )

    assert isinstance(receiving.receiver, LndReceiver)
    assert receiving.receiver.private is True
    assert receiving.spec.mechanisms[0].network == "lnbtc:000000000019d6689c085ae165831e93"
    assert isinstance(paying.sender, LndSender)
    assert (paying.name, paying.spec.mechanisms[0].network) == ("day", "lnbtc:00000008819873e925422c1ff0f99f7c")
    assert (paying.max_fee_msat(1_000_000_000), paying.max_fee_msat(1000)) == (70_000, 2000)


@pytest.mark.parametrize(
    ("text", "key", "receiver", "sender", "refund_fee"),
    [
        (CLN + 'rune = "env:SECRET"', "refund_rune", ClnReceiver, ClnSender, 2000),
        (PHOENIXD + 'password = "env:SECRET"', "refund_password", PhoenixdReceiver, PhoenixdSender, 7000),
        ('backend = "nwc"\nconnection = "env:NWC"', "refund_connection", NwcReceiver, NwcSender, 10_000),
    ],
)
def test_each_other_node_takes_its_address_and_its_secret(
    tmp_path: Path, text: str, key: str, receiver: type, sender: type, refund_fee: int
) -> None:
    more = f'\nnode_id = "{PAYEE}"\nnetwork = "signet"\nmint_ahead = 3'
    receiving = rail(tmp_path, text + more)
    paying = wallet(tmp_path, text + '\nnetwork = "signet"\nmax_fee_sat = 9\nmax_fee_ppm = 70\nlabel = "day"')
    giving_back = rail(tmp_path, text + f'\n{key} = "env:{"NWC" if "nwc" in text else "SECRET"}"')

    assert isinstance(receiving.receiver, receiver)
    assert (receiving.payee, receiving._minter._ahead, receiving._refunding) == (PAYEE, 3, None)
    assert receiving.spec.mechanisms[0].network == "lnbtc:00000008819873e925422c1ff0f99f7c"
    assert isinstance(paying.sender, sender)
    assert (paying.name, paying.max_fee_msat(1_000_000_000), paying.max_fee_msat(1000)) == ("day", 70_000, 9000)
    assert giving_back._refunding is not None
    assert isinstance(giving_back._refunding.sender, sender)
    assert giving_back._refunding.max_fee_msat(1000) == refund_fee


def test_core_lightning_may_hint_at_private_channels(tmp_path: Path) -> None:
    receiving = rail(tmp_path, CLN + 'rune = "env:SECRET"\nprivate = true').receiver

    assert isinstance(receiving, ClnReceiver)
    assert receiving.private is True


def test_a_macaroon_file_may_be_lnd_s_own_or_hold_the_digits(tmp_path: Path) -> None:
    raw, text = tmp_path / "raw", tmp_path / "text"
    raw.write_bytes(PAYING)
    text.write_text(PAYING.hex() + "\n")

    for path in (raw, text):
        made = WalletConfig(backend="lnd", url="https://lnd.example.com", macaroon=f"file:{path}")  # type: ignore[arg-type]
        assert made.macaroon is not None
        assert made.macaroon.get_secret_value() == PAYING.hex()
        assert PAYING.hex() not in repr(made)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "backend: is missing"),
        ('backend = "eclair"', "'sandbox', 'lnbits', 'lnd', 'cln', 'phoenixd' or 'nwc'"),
        ('backend = "lnbits"', "needs url"),
        (LNBITS, "needs invoice_key"),
        (LNBITS + 'invoice_key = "5ec2e75ec2e7"', "env:NAME or file:PATH"),
        (LNBITS + 'invoice_key = "env:NO_SUCH_KEY"', "NO_SUCH_KEY is not set"),
        (LNBITS + 'invoice_key = "env:LNBITS_KEY"\nnetwork = "bitcoin"', "mainnet, testnet, signet, regtest"),
        (LNBITS + 'invoice_key = "env:LNBITS_KEY"\ndirectory = "x"', 'directory is for backend = "sandbox"'),
        (LNBITS + 'invoice_key = "env:LNBITS_KEY"\nnode_id = "02ab"', "node_id"),
        (LNBITS + 'invoice_key = "env:LNBITS_KEY"\nkey = 1', "is not known here"),
        ('backend = "sandbox"\nmint_ahead = 101', "mint_ahead: Input should be less than or equal to 100"),
        ('backend = "sandbox"\nmint_ahead = -1', "mint_ahead"),
        ('backend = "sandbox"\nmint_ahead = "8"', "mint_ahead: Input should be a valid integer"),
        ('backend = "sandbox"\nnetwork = "mainnet"', "moves no real money"),
        ('backend = "sandbox"\ninvoice_key = "env:LNBITS_KEY"', "has no invoice_key"),
        ('backend = "sandbox"\nurl = "https://lnbits.example.com"', "has no url"),
        ('backend = "sandbox"\nnode_id = "02' + "ab" * 32 + '"', "has no node_id"),
        (LND, "needs macaroon"),
        (LND + 'macaroon = "5ec2e75ec2e7"', "env:NAME or file:PATH"),
        (LND + 'macaroon = "file:/no/such/file"', "cannot be read"),
        (LND + 'macaroon = "env:LNBITS_KEY"', "one of its .macaroon files"),
        (LND + 'macaroon = "env:LND_MACAROON"\ntls_cert = "/no/such/file"', "tls_cert must be a copy"),
        (
            LND + 'macaroon = "env:LND_MACAROON"\ninvoice_key = "env:LNBITS_KEY"',
            'invoice_key is for backend = "lnbits"',
        ),
        (LNBITS + 'invoice_key = "env:LNBITS_KEY"\nprivate = true', 'private is for backend = "lnd"'),
        ('backend = "lnd"\nmacaroon = "env:LND_MACAROON"', "needs url"),
        (CLN, "needs rune"),
        (CLN + 'rune = "5ec2e75ec2e7"', "env:NAME or file:PATH"),
        (CLN + 'rune = "env:SECRET"\nrefund_password = "env:SECRET"', "has no refund_password"),
        (CLN + 'rune = "env:SECRET"\ntls_cert = "/no/such/file"', "tls_cert must be a copy"),
        (PHOENIXD, "needs password"),
        (PHOENIXD + 'password = "env:SECRET"\nprivate = true', 'private is for backend = "lnd" or "cln"'),
        ('backend = "phoenixd"\nurl = "http://phoenixd.example.com"\npassword = "env:SECRET"', "use https"),
        ('backend = "nwc"', "needs connection"),
        ('backend = "nwc"\nconnection = "env:SECRET"', "no address of Nostr Wallet Connect"),
        ('backend = "nwc"\nconnection = "env:NWC"\nurl = "https://x.example.com"', "has no url"),
    ],
)
def test_a_rail_s_table_that_is_wrong_says_why(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        rail(tmp_path, text)

    assert "5ec2e7" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LNBITS, "needs admin_key"),
        (LNBITS + 'invoice_key = "env:LNBITS_KEY"', "is not known here"),
        (LNBITS + 'admin_key = "env:LNBITS_KEY"\nmax_fee_sat = -1', "greater than or equal to 0"),
        (LNBITS + 'admin_key = "env:LNBITS_KEY"\nmax_fee_ppm = 1000001', "less than or equal to"),
        ('backend = "sandbox"\nmax_fee_sat = 5', "has no max_fee_sat"),
        ('backend = "sandbox"\nadmin_key = "env:LNBITS_KEY"', "has no admin_key"),
        (LND + 'macaroon = "env:LND_MACAROON"\ntls_cert = "/no/such/file"', "tls_cert must be a copy"),
    ],
)
def test_a_wallet_s_table_that_is_wrong_says_why(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        wallet(tmp_path, text)


def test_a_key_is_in_no_repr(tmp_path: Path) -> None:
    made = WalletConfig(backend="lnbits", url="https://lnbits.example.com", admin_key="env:LNBITS_KEY")  # type: ignore[arg-type]

    assert "5ec2e7" not in repr(made)
