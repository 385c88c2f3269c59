"""The rail's tables in configuration files, and how it is found by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rail402_base
from rail402.config import TomlFile
from rail402.errors import ConfigurationError
from rail402.plugins import load_plugin
from rail402.server.toml import gate_from_toml
from rail402_base.config import PLUGIN, RailConfig, WalletConfig
from rail402_base.rail import BaseRail
from rail402_base.wallet import BaseWallet
from tests.unit.rail402_base.payments import PAYEE, PAYER, PAYER_KEY


def write(path: Path, text: str) -> TomlFile:
    file = path / "file.toml"
    file.write_text(text)
    return TomlFile(file)


def test_it_is_found_by_name() -> None:
    assert load_plugin("base") is PLUGIN is rail402_base.PLUGIN


def test_a_sandbox_rail_from_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, f'[rail]\nbackend = "sandbox"\ndirectory = "{tmp_path}"\npay_to = "{PAYEE}"')
    rail = PLUGIN.rail(file.table(PLUGIN.rail_config, "rail"))
    assert isinstance(rail, BaseRail)
    assert rail.pay_to == PAYEE
    assert rail.is_sandbox is True
    assert PLUGIN.rail(RailConfig(backend="sandbox", directory=str(tmp_path))).is_sandbox is True


def test_a_whole_gate_from_a_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        f"""
[server]
public_url = "https://api.example.com"
store = "memory://"
[[rails]]
name = "base"
backend = "sandbox"
directory = "{tmp_path}"
[[routes]]
match = "GET /a"
price = "0.003 USD"
""",
    )
    gate_from_toml(tmp_path / "file.toml")


def test_a_sandbox_wallet_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYER_KEY", PAYER_KEY.hex())
    file = write(tmp_path, f'[wallet]\nbackend = "sandbox"\ndirectory = "{tmp_path}"\nprivate_key = "env:PAYER_KEY"')
    config = file.table(PLUGIN.wallet_config, "wallet")
    assert PAYER_KEY.hex() not in repr(config)
    wallet = PLUGIN.wallet(config)
    assert isinstance(wallet, BaseWallet)
    assert wallet.signer.address == PAYER
    assert PLUGIN.wallet(WalletConfig(backend="sandbox", directory=str(tmp_path))).name != wallet.name


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[it]\nbackend = "rpc"', 2, "there is no backend 'rpc'; there are: sandbox"),
        ("[it]\n", 1, "it.backend: is missing"),
        ('[it]\nbackend = "sandbox"\nnetwork = "base"', 3, "is not known here; known are: backend, directory"),
        ('[it]\nbackend = "sandbox"\ndirectory = 5', 3, "directory"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = write(tmp_path, text)
    for model in (PLUGIN.rail_config, PLUGIN.wallet_config):
        with pytest.raises(ConfigurationError) as caught:
            file.table(model, "it")
        assert f"file.toml:{line}:" in str(caught.value)
        assert problem in str(caught.value)


def test_a_key_in_the_file_itself_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = write(tmp_path, f'[it]\nbackend = "sandbox"\nprivate_key = "{PAYER_KEY.hex()}"')
    with pytest.raises(ConfigurationError, match="env:NAME or file:PATH") as caught:
        file.table(PLUGIN.wallet_config, "it")
    assert PAYER_KEY.hex() not in str(caught.value)


def test_a_wrong_address_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pay_to"):
        PLUGIN.rail(RailConfig(backend="sandbox", directory=str(tmp_path), pay_to="merchant"))


def test_the_public_names_are_all_there() -> None:
    assert len(set(rail402_base.__all__)) == len(rail402_base.__all__)
    for name in rail402_base.__all__:
        assert getattr(rail402_base, name) is not None
    assert dir(rail402_base) == sorted(rail402_base.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rail402_base.nothing


def test_importing_it_needs_no_extra() -> None:
    script = "import sys, rail402_base; sys.exit(any(n in sys.modules for n in ('coincurve', 'eth_account', 'Crypto')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
    script = "import sys; sys.modules['coincurve'] = None\nfrom rail402.plugins import load_plugin\nload_plugin('base')"
    failed = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert "pip install 'rail402[base]'" in failed.stderr


def test_using_it_does_not_import_eth_account() -> None:
    script = "import sys; from rail402_base import BaseRail, BaseWallet, PLUGIN; sys.exit('eth_account' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
