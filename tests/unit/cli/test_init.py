"""What `rail402 init` writes: a file that loads, and an example of every wallet, limit and rule that loads as well."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from eth_account import Account
from typer.testing import CliRunner

from rail402.cli import init
from rail402.cli.app import app
from rail402.client import toml
from rail402.client.toml import payer_from_toml
from rail402.dialects import DEFAULT_DIALECTS
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin, installed_rails, load_plugin
from rail402.sandbox import PLAY_MONEY
from rail402_stripe.link_wallet import MAX_AMOUNT
from rail402_stripe.wallet import HOLD_SECONDS
from tests.unit.rail402_lightning.backends.certificates import Certificate
from tests.unit.rail402_lightning.backends.fake_lnd import PAYING
from tests.unit.rail402_lightning.backends.fake_nwc import address

KEY = "11" * 32


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that an example refers to is there."""
    for name in re.findall(r"env:(\w+)", written(tmp_path / "first")):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))


def written(folder: Path) -> str:
    path = folder / "wallets.toml"
    made = CliRunner().invoke(app, ["init", str(path)])
    assert made.exit_code == 0, made.output
    return path.read_text("utf-8")


def examples(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each example begins and ends: lines that begin with # and no space."""
    lines, begin = [*text.splitlines(), ""], None
    for number, line in enumerate(lines):
        is_example = re.match(r"#[^ #]", line) is not None
        if is_example and begin is None:
            begin = number
        elif not is_example and begin is not None:
            yield begin, number
            begin = None


def with_examples(text: str, *chosen: tuple[int, int]) -> str:
    lines = text.splitlines()
    for begin, end in chosen:
        lines[begin:end] = [line[1:] for line in lines[begin:end]]
    return "\n".join(lines)


def all_examples(folder: Path) -> list[dict[str, Any]]:
    """The whole file as it is with each example by itself."""
    text = written(folder)
    return [tomllib.loads(with_examples(text, example)) for example in examples(text)]


NAMES = [str(number) for number in range(len(list(examples(init._written(Path("/x"))[0]))))]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], None]:
    """Put there all that the examples in a folder's file refer to."""
    certificate = Certificate(tmp_path / "node").path.read_text()

    def provide(folder: Path) -> None:
        values = {
            "BASE_MNEMONIC": "test test test test test test test test test test test junk",
            "BASE_OWNER_KEY": KEY,
            "NWC_CONNECTION": address("wss://relay.test"),
            "STRIPE_SECRET_KEY": "sk_live_" + "k" * 24,
            "STRIPE_TEST_KEY": "sk_test_" + "k" * 24,
            "DATABASE_URL": "postgresql://me:hidden@db.test/wallets",
        }
        for name in re.findall(r"env:(\w+)", (folder / "wallets.toml").read_text("utf-8")):
            monkeypatch.setenv(name, values.get(name, "k" * 32))
        (folder / "base.key").write_text(KEY)
        (folder / "keystore.json").write_text(json.dumps(Account.encrypt(KEY, "k" * 32, kdf="scrypt", iterations=2)))
        (folder / "rail402-pay.macaroon").write_bytes(PAYING)
        for name in ("tls.cert", "ca.pem"):
            (folder / name).write_text(certificate)

    return provide


def test_it_pays_with_play_money_on_every_rail(tmp_path: Path) -> None:
    path = tmp_path / "one" / "wallets.toml"
    shown = CliRunner().invoke(app, ["init", str(path), "--json"])
    assert json.loads(shown.output) == {"wallets": str(path), "rails": installed_rails()}
    payer = payer_from_toml(path)
    assert {wallet.split(":")[0] for wallet in payer.all_wallets} == set(installed_rails())
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert CliRunner().invoke(app, ["init", str(path)]).exit_code == 1
    assert PLAY_MONEY in CliRunner().invoke(app, ["init", str(tmp_path / "two.toml")]).output


MISSING = r"environment variable \w+ is not set|(keystore )?(file|macaroon) \S+ cannot be read|tls_cert must be a copy"


def problem_of(path: Path) -> str | None:
    try:
        payer_from_toml(path)
    except ConfigurationError as error:
        return error.detail
    return None


@pytest.mark.parametrize("number", NAMES)
def test_every_example_loads_by_itself(tmp_path: Path, number: str, secrets: Callable[[Path], None]) -> None:
    path, text = tmp_path / "wallets.toml", written(tmp_path)
    path.write_text(with_examples(text, list(examples(text))[int(number)]), "utf-8")
    problem = problem_of(path)
    assert problem is None or re.search(rf"^{re.escape(str(path))}:\d+: (wallets|client).*({MISSING})", problem), (
        problem
    )
    secrets(tmp_path)
    assert problem_of(path) is None


def test_all_wallets_together_are_told_apart(tmp_path: Path, secrets: Callable[[Path], None]) -> None:
    text = written(tmp_path)
    for rail in ("lightning", "stripe"):
        chosen = [(a, b) for a, b in examples(text) if f'#name = "{rail}"' in text.splitlines()[a:b]]
        (tmp_path / "wallets.toml").write_text(with_examples(text, *chosen), "utf-8")
        secrets(tmp_path)
        if rail == "lightning":
            payer = payer_from_toml(tmp_path / "wallets.toml")
            assert {"lnbits", "lnd", "cln", "phoenixd", "nwc"} <= payer.all_wallets.keys()


def backends(model: Any) -> set[str]:
    annotation = model.model_fields["backend"].annotation
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {"sandbox", "rpc"}


@pytest.mark.parametrize("rail", installed_rails())
def test_there_is_an_example_of_every_kind_of_wallet_with_all_its_keys(tmp_path: Path, rail: str) -> None:
    model = load_plugin(rail).wallet_config
    tables = [table for file in all_examples(tmp_path) for table in file["wallets"] if table["name"] == rail]
    assert {key for table in tables for key in table} == {*model.model_fields, "name"}
    assert {table["backend"] for table in tables} == backends(model)
    if rail == "base":
        assert {table.get("pays_by") for table in tables} >= {"authorization", "transfer"}


def test_every_key_of_the_other_tables_is_there(tmp_path: Path) -> None:
    files = all_examples(tmp_path)
    assert {key for file in files for key in file} == {*toml._File.model_fields}
    assert {key for file in files for key in file["client"]} == {*toml._Client.model_fields}
    assert {key for file in files for key in file["budget"]} == {*toml._Budget.model_fields}
    rules = [rule for file in files for rule in file["budget"].get("rules", [])]
    assert {key for rule in rules for key in rule} == {*toml._Rule.model_fields}
    assert {key for file in files for each in file.get("prefer", []) for key in each} == {
        *toml._Preference.model_fields
    }


def test_the_defaults_that_it_names_are_the_defaults(tmp_path: Path) -> None:
    files = all_examples(tmp_path)
    client = {key: value for file in files for key, value in file["client"].items() if key not in ("rates", "journal")}
    assert client == {
        "deadline": toml._Client.model_fields["deadline"].default,
        "dialects": [dialect.name for dialect in DEFAULT_DIALECTS],
    }
    text = written(tmp_path / "two")
    assert f"#max_amount = {MAX_AMOUNT} " in text
    assert text.count(f"#hold_seconds = {HOLD_SECONDS}") == 2
    payer = payer_from_toml(tmp_path / "two" / "wallets.toml")
    for level in ("per_request", "per_hour", "per_day"):  # no looser than without a file
        assert toml.Budget.__dataclass_fields__[level].default == tuple(tomllib.loads(text)["budget"][level])
    assert payer.budget == toml.Budget(**tomllib.loads(text)["budget"])


def test_a_rail_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> RailPlugin:
        if name != "lightning":
            raise ConfigurationError(f"rail {name!r} cannot be imported; try: pip install 'rail402[{name}]'")
        return load_plugin(name)

    monkeypatch.setattr(init, "load_plugin", load)
    text = written(tmp_path)
    assert "# --- rail 'base' cannot be imported; try: pip install 'rail402[base]'\n" in text
    assert tuple(payer_from_toml(tmp_path / "wallets.toml").all_wallets) == ("lightning",)
    monkeypatch.setattr(init, "installed_rails", lambda: ["base"])
    shown = CliRunner().invoke(app, ["init", str(tmp_path / "no" / "wallets.toml")])
    assert "it has no wallet" in shown.output


def test_a_folder_s_name_stays_a_name(tmp_path: Path, secrets: Callable[[Path], None]) -> None:
    folder = tmp_path / 'a "b" \\ {rail} é'
    text = written(folder)
    chosen = next((a, b) for a, b in examples(text) if "#private_key = " in "\n".join(text.splitlines()[a:b]))
    (folder / "wallets.toml").write_text(with_examples(text, chosen), "utf-8")
    secrets(folder)
    assert len(payer_from_toml(folder / "wallets.toml").all_wallets) == len(installed_rails()) + 1
