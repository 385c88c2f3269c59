"""A payer from a file: every mistake is named with its file, line and key, and the budget is the file's everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rail402.client import toml
from rail402.client.budget import Budget
from rail402.client.preference import Preference
from rail402.client.rules import Rule
from rail402.client.toml import journal_from_toml, payer_from_toml, sandbox_payer, wallets_file
from rail402.config import Secret
from rail402.errors import ConfigurationError
from rail402.money import Money
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402.testing.fakes import FakeLedger, FakeSpec, FakeWallet

GOOD = """\
[client]
deadline = 12
dialects = ["x402-v2", "mpp"]

[client.rates]
"BTC/USD" = "60000"

[budget]
per_request = ["0.50 USD", "800 sat"]
per_hour = "2 USD"

[[wallets]]
name = "fake"
key = "env:WALLET_KEY"

[[wallets]]
name = "other"
"""


RULE = '[[budget.rules]]\nhost = "a.test"\nrail = "base"\nper_day = "1 USD"\n\n[[wallets]]\nname = "fake"'


class FakeConfig(Record):
    """The table of a fake wallet."""

    key: Secret | None = None
    backend: str = "real"


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALLET_KEY", "hunter2")

    def load(name: str) -> RailPlugin:
        if name not in ("fake", "other"):
            raise ConfigurationError(f"the rail {name} is not installed")

        def wallet(config: FakeConfig) -> FakeWallet:
            if name == "other" and config.key is not None:
                raise ConfigurationError("key: this wallet has none")
            return FakeWallet(FakeLedger(), FakeSpec(name))

        return RailPlugin(rail_config=Record, wallet_config=FakeConfig, rail=lambda config: None, wallet=wallet)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(toml, "load_plugin", load)
    monkeypatch.setattr(toml, "installed_rails", lambda: ["fake", "other"])


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "wallets.toml"
        path.write_text(text)
        return path

    return write


Write = Callable[[str], Path]


def test_a_whole_file(written: Write, tmp_path: Path) -> None:
    payer = payer_from_toml(written(GOOD))
    assert "fake:alice" in repr(payer)
    assert "other:alice" in repr(payer)
    assert [str(limit) for limit in payer.budget.limits("request")] == ["0.5 USD", "800 sat"]
    assert [str(limit) for limit in payer.budget.limits("hour")] == ["2 USD"]
    assert [str(limit) for limit in payer.budget.limits("day")] == ["20 USD", "20000 sat"], "the default"
    assert Path(payer.journal.address) == tmp_path / "wallet.db"
    assert "hunter2" not in repr(payer)


def test_every_limit_and_list(written: Write) -> None:
    text = """\
total = "100 USD"
allow_hosts = ["*.example.com", "a.test"]
deny_payees = ["0xBAD"]

[[budget.rules]]
host = "*"
per_day = "2 USD"

[[budget.rules]]
rail = "other"
per_request = ["0.10 USD", "100 sat"]
total = "5 USD"

"""
    budget = payer_from_toml(written(GOOD.replace('per_hour = "2 USD"\n', text))).budget
    assert budget == Budget(
        per_request=["0.50 USD", "800 sat"],
        total="100 USD",
        rules=[Rule(host="*", per_day="2 USD"), Rule(rail="other", per_request=["0.10 USD", "100 sat"], total="5 USD")],
        allow_hosts=["*.example.com", "a.test"],
        deny_payees=["0xBAD"],
    )


def test_one_name_needs_no_list(written: Write) -> None:
    text = GOOD.replace('per_hour = "2 USD"\n', 'deny_hosts = "*.ads.example"\nallow_payees = "0xGOOD"\n')
    payer = payer_from_toml(written(text.replace("[[wallets]]", '[[prefer]]\nwallets = "other"\n\n[[wallets]]', 1)))
    assert payer.budget.lists == Budget(deny_hosts=["*.ads.example"], allow_payees=["0xGOOD"]).lists
    assert payer.preferences == (Preference(wallets=["other"]),)
    assert payer.preferences[0].names == ("other",)


def test_the_journal_is_beside_the_file_wherever_one_works(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(GOOD.replace("[client]\n", '[client]\njournal = "sqlite:///spent.db"\n'))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    journal, budget = journal_from_toml(path)
    assert Path(journal.address) == tmp_path / "spent.db"
    assert str(budget.limits("hour")[0]) == "2 USD"
    absolute = written(GOOD.replace("[client]\n", f'[client]\njournal = "sqlite:///{tmp_path}/else.db"\n'))
    assert Path(journal_from_toml(absolute)[0].address) == tmp_path / "else.db"


def test_some_rails_only_and_less_per_purchase(written: Write) -> None:
    payer = payer_from_toml(written(GOOD), rails=["other"], at_most=Money.parse("0.05 USD"))
    assert "fake:alice" not in repr(payer)
    assert [str(limit) for limit in payer.budget.limits("request")] == ["0.05 USD", "80 sat"]
    with pytest.raises(ConfigurationError, match="has no wallet on stripe"):
        payer_from_toml(written(GOOD), rails=["stripe"])


PREFER = """\
[[prefer]]
host = "*.example.com"
wallets = ["other", "fake:alice"]

[[prefer]]
cheapest = true

[[wallets]]
name = "fake"
"""


def test_another_order_of_wallets_for_some_requests(written: Write) -> None:
    text = GOOD.replace('[[wallets]]\nname = "fake"\n', PREFER, 1)
    assert payer_from_toml(written(text)).preferences == (
        Preference(host="*.example.com", wallets=["other", "fake:alice"]),
        Preference(cheapest=True),
    )
    assert payer_from_toml(written(text), rails=["fake"]).preferences == ()
    assert payer_from_toml(written(GOOD)).preferences == ()


def test_the_file_s_own_limits_are_what_the_journal_remembers(written: Write) -> None:
    payer = payer_from_toml(written(GOOD), at_most=Money.parse("0.05 USD"))
    assert payer.file_limits == journal_from_toml(written(GOOD))[1] != payer.budget


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (
            ('[[wallets]]\nname = "fake"', PREFER.replace("cheapest", "cheap")),
            r"wallets.toml:17: prefer.1.cheap: is not",
        ),
        (
            ('[[wallets]]\nname = "fake"', PREFER.replace("cheapest = true", "")),
            r"wallets.toml:16: prefer.1: .*name wal",
        ),
        (
            ('[[wallets]]\nname = "fake"', PREFER.replace('"other"', '"third"')),
            r":12: prefer.0: .*no wallet 'third'; the",
        ),
        (
            ('[[wallets]]\nname = "fake"', PREFER.replace("*.example", "*.*")),
            r":12: prefer.0: .*not the name of a host",
        ),
        (("deadline = 12", "dead = 12"), r"wallets.toml:2: client.dead: is not known here; known are: deadline"),
        (('"x402-v2", "mpp"', '"x402-v9"'), r"wallets.toml:1: client: .*x402-v9"),
        (('"2 USD"', '"2 dollars"'), r"wallets.toml:10: budget.per_hour: .*2 dollars"),
        (('"0.50 USD", "800 sat"', '"1 USD", "2 USDC"'), r"wallets.toml:9: budget.per_request: .*two limits in USD"),
        (('name = "other"', 'name = "third"'), r"wallets.toml:17: wallets.1.name: the rail third is not installed"),
        (('name = "other"', 'label = "third"'), r"wallets.toml:16: wallets.1: needs name"),
        (('name = "other"', 'name = "fake"'), r"two wallets are called 'fake:alice'"),
        (("env:WALLET_KEY", "hunter2"), r"wallets.toml:14: wallets.0.key: write a secret as env:NAME or file:PATH"),
        (("env:WALLET_KEY", "env:NO_SUCH"), r"wallets.toml:14: wallets.0.key: the environment variable NO_SUCH"),
        (("[[wallets]]", "[[purse]]"), r"wallets.toml:1: purse: is not known here|wallets: is missing"),
        (("[budget]", "[budget]\nper_week = 1"), r"wallets.toml:9: budget.per_week: is not known here"),
        (
            ("[budget]", '[budget]\ndeny_hosts = ["a b"]'),
            r"wallets.toml:9: budget.deny_hosts: 'a b' is not the name of a",
        ),
        (
            ("[budget]", "[budget]\ndeny_hosts = 3"),
            r"wallets.toml:9: budget.deny_hosts: write it as text, or several as a list of texts: .*example",
        ),
        (('"2 USD"', "2.5"), r"wallets.toml:10: budget.per_hour: write it as text, .*: \"0.50 USD\" or "),
        (("[budget]", "[budget]\nallow_payees = [1]"), r"budget.allow_payees: write it as text, .*0x2096"),
        (
            ('[[wallets]]\nname = "fake"', '[prefer]\nwallets = "fake"\n\n[[wallets]]\nname = "fake"'),
            r"wallets.toml:12: prefer: .*: write \[\[prefer\]\]$",
        ),
        (
            ('[[wallets]]\nname = "fake"', '[[prefer]]\nwallets = 1\n\n[[wallets]]\nname = "fake"'),
            r"wallets.toml:13: prefer.0.wallets: write it as text, .*lightning",
        ),
        (
            ('[[wallets]]\nname = "fake"', '[budget.rules]\nhost = "*"\n\n[[wallets]]\nname = "fake"'),
            r"wallets.toml:12: budget.rules: .*: write \[\[budget.rules\]\]$",
        ),
        (('["x402-v2", "mpp"]', '"mpp"'), r"wallets.toml:3: client.dialects: .*: write dialects = \[…\]$"),
        (('[[wallets]]\nname = "fake"', RULE), r"budget.rules: .*one host, payee, rail or tool"),
        (('[[wallets]]\nname = "fake"', RULE.replace("rail", "agent")), r"budget.rules.0.agent: is not known here"),
    ],
)
def test_a_mistake_is_named_with_its_line(written: Write, change: tuple[str, str], because: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigurationError, match=because) as caught:
        payer_from_toml(written(GOOD.replace(*change)))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("postgresql://me:hunter2@db/x", r"wallets.toml:2: client.journal: .*write it as env:NAME"),
        ("mysql://hunter2/x", r"wallets.toml:.: client.*: write .sqlite:///relative\.db."),
        ("env:NO_SUCH", r"wallets.toml:2: client.journal: the environment variable NO_SUCH is not set"),
    ],
)
def test_the_journal_s_url_is_checked(written: Write, url: str, because: str) -> None:
    wrong = written(GOOD.replace("[client]\n", f'[client]\njournal = "{url}"\n'))
    for read in (payer_from_toml, journal_from_toml):
        with pytest.raises(ConfigurationError, match=because) as caught:
            read(wrong)
        assert "hunter2" not in str(caught.value)


def test_a_journal_in_a_postgresql_is_named_by_reference(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALLETS_URL", "postgresql://me:hunter2@db.test/wallets")
    path = written(GOOD.replace("[client]\n", '[client]\njournal = "env:WALLETS_URL"\n'))
    journal, _ = journal_from_toml(path)
    assert journal.address == "db.test:5432/wallets"
    assert journal.exists(), "as far as one can tell without asking"
    assert "hunter2" not in repr(journal) + repr(payer_from_toml(path))


def test_play_money_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))
    payer = sandbox_payer(rails=["fake"])
    assert Path(payer.journal.address) == tmp_path / "play" / "wallet.db"
    assert "other" not in repr(payer)
    with pytest.raises(ConfigurationError, match="no rail is installed that is called stripe"):
        sandbox_payer(rails=["stripe"])


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAIL402_WALLETS", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wallets_file() == tmp_path / ".config" / "rail402" / "wallets.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert wallets_file() == tmp_path / "xdg" / "rail402" / "wallets.toml"
    monkeypatch.setenv("RAIL402_WALLETS", "mine.toml")
    assert wallets_file() == Path("mine.toml")
