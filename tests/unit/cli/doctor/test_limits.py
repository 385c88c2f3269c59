"""What the doctor says of an agent's limits: whether they hold, fit the wallets, and name what there is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rail402.cli.doctor.agent import agent_findings
from rail402.client.journal import Journal
from rail402.client.toml import journal_from_toml

WALLETS = '\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n\n[[wallets]]\nname = "lightning"\nbackend = "sandbox"\n'


@pytest.fixture(autouse=True)
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))


@pytest.fixture(autouse=True)
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows `*.known.test`, and nobody to ask about `*.unasked.test`."""

    async def look_up(self: object, host: str, port: int) -> list[Any]:
        if host.endswith(".unasked.test"):
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if not host.endswith(".known.test"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return []

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", look_up)


Said = list[tuple[str, str, str, str]]


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[..., Any]:
    async def findings(text: str, *, wallets: str = WALLETS) -> Said:
        path = tmp_path / "wallets.toml"
        path.write_text(text + wallets)
        path.chmod(0o600)
        said = [finding async for finding in agent_findings(str(path))]
        return [(each.about, each.state, each.says, each.fix) for each in said]

    return findings


def troubles(said: Said) -> list[tuple[str, str, str]]:
    return [(about, says, fix) for about, state, says, fix in said if state != "ok"]


async def test_limits_that_hold(doctor: Callable[..., Any]) -> None:
    said = await doctor('[budget]\nper_request = ["1 USD", "10 sat"]\ntotal = "50 USD"\n')
    assert troubles(said) == []
    (limits,) = [says for about, _, says, _ in said if about == "budget"]
    assert limits == (
        "the limits are 1 USD or 10 sat per request, 5 USD or 5000 sat per hour, 20 USD or 20000 sat per day, "
        "50 USD in total"
    )
    (limits,) = [says for about, _, says, _ in await doctor("") if about == "budget"]
    assert limits.endswith(", which are the defaults")


async def test_windows_without_a_limit(doctor: Callable[..., Any]) -> None:
    said = troubles(await doctor("[budget]\nper_hour = []\nper_day = []\n"))
    assert [(about, says) for about, says, _ in said] == [
        ("budget", "there is no limit per hour"),
        ("budget", "there is no limit per day"),
    ]
    assert [fix.split(",")[0] for *_, fix in said] == ['write per_hour = "5 USD"', 'write per_day = "5 USD"']


async def test_looser_limits_wait_and_looking_confirms_none(doctor: Callable[..., Any], tmp_path: Path) -> None:
    limits = '[budget]\nper_request = "{} USD"\nper_hour = "{} USD"\nper_day = "20 USD"\n'
    wallet = '\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n'

    async def accept() -> None:
        journal, budget = journal_from_toml(tmp_path / "wallets.toml")
        await journal.start()
        await journal.accept(budget, now=0)
        await journal.close()

    assert troubles(await doctor(limits.format(2, 2), wallets=wallet)) == []
    assert troubles(await doctor(limits.format(3, 5), wallets=wallet)) == [], "to look at limits is not to confirm them"
    assert troubles(await doctor(limits.format(1, 2), wallets=wallet)) == []
    await accept()
    for _ in range(2):
        said = troubles(await doctor(limits.format(1, 5), wallets=wallet))
        assert said == [
            (
                "budget",
                "nothing is bought, because the limits are looser: per hour it was 2 USD, and is 5 USD",
                "rail402 budget confirm",
            )
        ]


async def test_a_pause(doctor: Callable[..., Any], tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/wallet.db")
    await journal.start()
    await journal.pause(now=0)
    await journal.close()
    assert troubles(await doctor("")) == [
        ("budget", "purchases are paused: nothing is bought", "rail402 budget resume")
    ]


async def test_a_currency_that_no_limit_can_be_compared_with(doctor: Callable[..., Any]) -> None:
    dollars = '[budget]\nper_request = "1 USD"\nper_hour = "5 USD"\nper_day = "20 USD"\n'
    ((about, says, fix),) = troubles(await doctor(dollars))
    assert (about, says.startswith("nothing can be bought by lightning in BTC: ")) == ("budget", True), says
    assert "write each limit in BTC as well, or a rate under [client.rates]" in fix
    assert troubles(await doctor('[client.rates]\n"BTC/USD" = "60000"\n\n' + dollars)) == [], "its advice helps"


async def test_a_rule_for_a_rail_that_no_wallet_is_on(doctor: Callable[..., Any]) -> None:
    rule = '[[budget.rules]]\nrail = "{}"\nper_day = ["1 USD", "10 sat"]\n'
    text = "".join(rule.format(name) for name in ("stripe", "base", "*"))
    assert troubles(await doctor(text)) == [
        ("budget", "there is a rule for the rail stripe, and no wallet on it", "the rails here are base, lightning")
    ]


async def test_hosts_that_are_not_there(doctor: Callable[..., Any]) -> None:
    text = """
[budget]
allow_hosts = ["api.known.test", "apii.unknown.test", "*.unknown.test", "127.0.0.1", "[::1]"]
deny_hosts = "ads.unknown.test"

[[budget.rules]]
host = "shop.unknown.test"
per_day = ["1 USD", "10 sat"]

[[budget.rules]]
host = "*"
per_day = ["1 USD", "10 sat"]

[[prefer]]
host = "Pay.Unknown.Test:8443"
cheapest = true

[[prefer]]
host = "pay.unasked.test"
cheapest = true

[[prefer]]
cheapest = true
"""
    fix = "see whether it is spelt right"
    assert troubles(await doctor(text)) == [
        ("prefer", "there is no host pay.unknown.test", fix),
        ("rules", "there is no host shop.unknown.test", fix),
        ("allow_hosts", "there is no host apii.unknown.test", fix),
        ("deny_hosts", "there is no host ads.unknown.test", fix),
    ]


async def test_preferences_for_wallets_that_are_not_there(doctor: Callable[..., Any]) -> None:
    ((about, says, _),) = troubles(await doctor('[[prefer]]\nwallets = "stripe"\n'))
    assert about == "configuration"
    assert "wallets.toml:1: prefer.0: prefer: there is no wallet 'stripe'; there are: base" in says
