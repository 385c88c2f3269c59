"""What the doctor says of an agent's file and wallets: each by itself, whatever the others do, and never a secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.cli.doctor import agent
from rail402.cli.doctor.agent import agent_findings
from rail402.client.payer import Payer
from rail402.clock import system_clock
from rail402.errors import ConfigurationError, RailUnavailable
from rail402.protocol.rail import Observation, Wallet
from rail402.testing.fakes import FakeClock, FakeLedger, FakeWallet
from tests.interop.bank import listening, served
from tests.unit.rail402_lightning.backends.fake_nwc import FakeNwc

PLAY = '[[wallets]]\nname = "base"\nbackend = "sandbox"\n'


@pytest.fixture(autouse=True)
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))


Said = list[tuple[str, str, str, str]]


async def doctor(path: Path, text: str, *, mode: int = 0o600) -> Said:
    path = path / "wallets.toml"
    path.write_text(text)
    path.chmod(mode)
    return [(each.about, each.state, each.says, each.fix) async for each in agent_findings(str(path))]


def about(said: Said, name: str) -> list[tuple[str, str, str]]:
    return [rest for found, *rest in said if found.startswith(name)]  # type: ignore[misc]


# --- the file


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o644, "ok"), (0o660, "wrong"), (0o602, "wrong")])
async def test_who_may_write_the_file(tmp_path: Path, mode: int, state: str) -> None:
    ((found, says, fix),) = about(await doctor(tmp_path, PLAY, mode=mode), "file")
    assert found == state
    if state == "wrong":
        assert f"has the mode {mode:o}: others can raise its limits" in says
        assert fix == f"chmod 600 {tmp_path}/wallets.toml"


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o640, "warning")])
async def test_a_keystore_is_a_secret_as_well(tmp_path: Path, mode: int, state: str) -> None:
    (tmp_path / "key.json").write_text(json.dumps(Account.encrypt("11" * 32, "hidden", kdf="scrypt", iterations=2)))
    (tmp_path / "password").write_text("hidden")
    for name in ("key.json", "password"):
        (tmp_path / name).chmod(mode)
    text = f'{PLAY}keystore = "{tmp_path}/key.json"\nkeystore_password = "file:{tmp_path}/password"\n'
    said = await doctor(tmp_path, text)
    assert [found for found, *_ in about(said, "wallets.0.keystore")] == [state, state]
    assert (state == "ok") == ({found for _, found, *_ in said} == {"ok"})
    assert "hidden" not in str(said)


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (PLAY + "secret = 1\n", "wallets.toml:4: wallets.0.secret: is not known here; known are: backend,"),
        (PLAY + 'private_key = "env:NO_SUCH_KEY"\n', "private_key: the environment variable NO_SUCH_KEY is not set"),
        ("[[wallets]\n", "is not valid TOML"),
        ("[budget]\n", "wallets: is missing"),
    ],
)
async def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, because: str) -> None:
    said = await doctor(tmp_path, text, mode=0o666)
    assert said[0][:2] == ("configuration", "wrong")
    assert because in said[0][2]
    assert [name for name, *_ in said[1:]] == ([] if "TOML" in because else ["file"]), "what can be said is said"


async def test_every_table_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    text = (
        '[client]\ndead = 1\n\n[budget]\nper_hour = 5\n\n[[wallets]]\nname = "gold"\n\n[[wallets]]\nlabel = "none"\n\n'
    )
    said = about(await doctor(tmp_path, text + PLAY + 'private_key = "env:NO_SUCH_KEY"\n'), "configuration")
    assert [says.partition("wallets.toml:")[2].partition(": ")[2][:22] for _, says, _ in said] == [
        "client.dead: is not kn",
        "budget.per_hour: write",
        "wallets.0.name: there ",
        "wallets.1: needs name ",
        "wallets.2.private_key:",
    ]
    ((_, says, _),) = about(await doctor(tmp_path, PLAY + PLAY), "configuration")
    assert "two wallets are called" in says


async def test_a_secret_that_is_named_twice_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("11" * 32)
    (tmp_path / "key").chmod(0o644)
    table = f'{PLAY}private_key = "file:{tmp_path}/key"\n'
    said = await doctor(tmp_path, table + table + 'pays_by = "transfer"\n')
    assert [name for name, state, *_ in said if state == "warning"] == ["wallets.0.private_key"]


# --- the wallets


class Examined(FakeWallet):
    """A wallet that says of itself what it is told to."""

    def __init__(self, name: str, outcome: Sequence[Observation] | Exception | None) -> None:
        super().__init__(FakeLedger())
        self.name, self.outcome, self.closed = name, outcome, 0

    async def start(self) -> None:
        raise AssertionError("a wallet that is examined is not started by others")

    async def examine(self) -> Sequence[Observation]:
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or ()

    async def close(self) -> None:
        self.closed += 1


def payer_of(monkeypatch: pytest.MonkeyPatch, path: Path, *wallets: Wallet) -> None:
    payer = Payer(wallets, journal=f"sqlite:///{path}/wallet.db")
    monkeypatch.setattr(agent, "open_payer", lambda _: payer)


async def test_each_wallet_is_told_of_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_PATIENCE", 0.05)
    wallets = [
        Examined("good", [Observation("it has 5 USDC"), Observation("but no ether", "send some")]),
        Examined("mute", None),
        Examined("misled", ConfigurationError("it is on another network")),
        Examined("gone", RailUnavailable("it cannot be reached")),
        Examined("brief", []),
    ]
    payer_of(monkeypatch, tmp_path, *wallets)
    said = await doctor(tmp_path, PLAY)
    assert [(name, *rest[:2]) for name, *rest in said if name.startswith("wallet ")] == [
        ("wallet good", "ok", "it has 5 USDC"),
        ("wallet good", "warning", "but no ether"),
        ("wallet mute", "wrong", "no answer in 0.05 s"),
        ("wallet misled", "wrong", "it is on another network"),
        ("wallet gone", "wrong", "it cannot be reached"),
        ("wallet brief", "ok", f"can be used, on {wallets[0].spec.mechanisms[0].network}"),
    ]
    fixes = {name: fix for name, _, _, fix in said}
    assert "until then no wallet of this file pays" in fixes["wallet misled"]
    assert "left out until it can be reached" in fixes["wallet gone"]
    assert [wallet.closed for wallet in wallets] == [1] * 5


async def test_a_wallet_over_nostr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay is reached and the methods are offered; a wallet's own reserve may be above the limit of fees."""
    fake, text = (
        FakeNwc(tmp_path, clock=FakeClock(system_clock())),
        '[[wallets]]\nname = "lightning"\nbackend = "nwc"\nconnection = "env:NWC"\n',
    )
    text += 'network = "regtest"\n'
    async with fake.running() as address:
        monkeypatch.setenv("NWC", address)
        good, fees = about(await doctor(tmp_path, text), "wallet ")
        assert (good[0], fees[0], fees[2]) == ("ok", "warning", "max_fee_sat = 10")
        assert len(about(await doctor(tmp_path, f"{text}{fees[2]}\n"), "wallet ")) == 1
        fake.said_network = "mainnet"
        ((state, says, _),) = about(await doctor(tmp_path, text), "wallet ")
        assert (state, "the wallet is on mainnet" in says) == ("wrong", True)
    monkeypatch.setattr(agent, "_PATIENCE", 0.5)
    said = await doctor(tmp_path, text)
    assert [state for state, *_ in about(said, "wallet ")] == ["wrong"]
    assert address.partition("secret=")[2] not in str(said)


# --- the clock


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (3600, "warning"), (-3600, "warning")])
async def test_the_clock_of_a_wallet_s_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, state: str
) -> None:
    async def service(scope: Any, receive: Any, send: Any) -> None:
        date = formatdate(system_clock() + ahead, usegmt=True).encode()
        await send({"type": "http.response.start", "status": 404, "headers": [(b"date", date)]})
        await send({"type": "http.response.body"})

    monkeypatch.setenv("KEY", "k" * 32)
    with listening() as (found, url):
        text = f'[[wallets]]\nname = "lightning"\nbackend = "lnbits"\nurl = "{url}"\nadmin_key = "env:KEY"\n'
        async with served(service, found, date_header=False):
            ((told, says, _),) = about(await doctor(tmp_path, text), "clock")
        assert told == state
        assert ("3600 s away from 127.0.0.1's" in says) == (state == "warning")
        assert about(await doctor(tmp_path, PLAY), "clock") == [], "nobody to compare it with"


async def test_the_clock_that_a_wallet_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payer_of(monkeypatch, tmp_path, Examined("bank", [Observation("fine", time=system_clock() - 100)]))
    ((state, says, _),) = about(await doctor(tmp_path, PLAY), "clock")
    assert state == "warning"
    assert "from wallet bank's" in says


# --- the command


def test_without_a_word_it_is_about_one_s_own_wallets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wallets.toml"
    monkeypatch.setenv("RAIL402_WALLETS", str(path))
    missing = CliRunner().invoke(app, ["doctor"])
    assert missing.exit_code == 2
    path.write_text(PLAY)
    shown = CliRunner().invoke(app, ["doctor"])
    assert (shown.exit_code, f"{path} can be read" in shown.output) == (0, True), shown.output
    said = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert said["counts"] == {"ok": len(said["findings"])}
    path.chmod(0o622)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
