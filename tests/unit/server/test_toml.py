"""A gate from a file: every mistake is named with its file, line and key, and no secret stands in it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.config import Secret
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402.protocol.receipt import ReceiptKeys
from rail402.server import toml
from rail402.server.gate import Gate
from rail402.server.limits import Limits
from rail402.server.toml import gate_from_toml
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet
from tests.unit.server.shop import Shop

GOOD = """\
[server]
public_url = "https://shop.example"
store = "memory://"
reconcile_seconds = 0

[[rails]]
name = "fake"

[[routes]]
match = "GET /goods"
price = "0.003 USD"
"""


class FakeConfig(Record):
    """The table of a fake rail."""

    minimum: int = 1
    key: Secret | None = None
    payee: str = "shop"


class NoConfig(Record):
    """The table of a rail that wants nothing."""


LEDGER, CLOCK = FakeLedger(), FakeClock()


def make_rail(config: FakeConfig) -> FakeRail:
    if config.payee == "nobody":
        raise ConfigurationError("payee: must be somebody")
    return FakeRail(LEDGER, FakeSpec(), payee=config.payee, minimum=config.minimum)


PLUGINS = {
    "fake": RailPlugin(FakeConfig, NoConfig, make_rail, FakeWallet),
    "gold": RailPlugin(NoConfig, NoConfig, lambda config: FakeRail(LEDGER, FakeSpec("gold")), FakeWallet),
}

Write = Callable[..., Path]

ROUTELESS = ('[[routes]]\nmatch = "GET /goods"\nprice = "0.003 USD"\n', "")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a file with some lines replaced."""

    def load_plugin(name: str) -> RailPlugin:
        if name not in PLUGINS:
            raise ConfigurationError(f"there is no rail {name!r}; installed are: fake, gold")
        return PLUGINS[name]

    def writing(*changes: tuple[str, str], text: str = GOOD) -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "rail402.toml"
        path.write_text(text)
        return path

    monkeypatch.setattr(toml, "load_plugin", load_plugin)
    return writing


async def test_a_file_makes_a_gate_that_sells(write: Write) -> None:
    path = write(
        ("reconcile_seconds = 0\n", 'reconcile_seconds = 0\nmax_body = 10\nrates = { "BTC/USD" = "60000" }\n'),
        ('name = "fake"', 'name = "fake"\npayee = "me"\n[[rails]]\nname = "gold"'),
        (
            'price = "0.003 USD"\n',
            """price = "0.003 USD"
               rails = ["gold", "fake"]
               dialects = ["x402-v2"]
               flow = "upfront"
               valid = "1h"
               uses = 2
               description = "One article"
            """,
        ),
    )
    shop = Shop(install=False)
    shop.gate = gate_from_toml(path)
    shop.gate.install(shop.app)

    async def goods(request: Request) -> Response:
        return PlainTextResponse("the goods")

    shop.app.add_route("/goods", goods)
    async with shop.open():
        quoted = await shop.client.get("/goods")
        body = quoted.json()
        assert [offer["rail"] for offer in body["offers"]] == ["gold", "fake"]
        assert body["offers"][1]["payee"] == "me"
        assert body["resource"]["description"] == "One article"
        assert "www-authenticate" not in quoted.headers
        settings = shop.gate.services().settings
        assert (settings.max_body, settings.offer_seconds) == (10, 600)


@pytest.mark.parametrize(
    ("lines", "limits"),
    [
        ("", Limits()),
        ("limits = false", None),
        ("[server.limits]", Limits()),
        (
            '[server.limits]\ninvoices = "60/m"\nroute_addresses = "9/s"\ntrusted_proxies = ["10.0.0.0/8"]',
            Limits(invoices="60/m", route_addresses="9/s", trusted_proxies=["10.0.0.0/8"]),
        ),
    ],
)
async def test_limits_have_a_table_of_their_own(write: Write, lines: str, limits: Limits | None) -> None:
    async with gate_from_toml(write(("reconcile_seconds = 0", f"reconcile_seconds = 0\n{lines}"), ROUTELESS)) as gate:
        assert gate.services().settings.limits == limits


def test_redis_is_a_secret(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://u:s3cr3t@127.0.0.1:6379/0")
    gate = gate_from_toml(write(("reconcile_seconds = 0", 'redis = "env:REDIS_URL"')))
    assert gate._settings.redis == "redis://u:s3cr3t@127.0.0.1:6379/0"
    assert "s3cr3t" not in repr(gate._settings)


MISTAKES: list[tuple[tuple[str, str], int, str, str]] = [
    # (what is written instead of what, line, key, what the message says)
    (("[server]", "[sever]"), 1, "server", "is missing"),
    (('public_url = "https://shop.example"', "# nothing"), 1, "server.public_url", "is missing"),
    (('"https://shop.example"', '"shop.example"'), 1, "server", "must be an origin"),
    (('"https://shop.example"', "5"), 2, "server.public_url", "valid string"),
    (('store = "memory://"', 'stor = "memory://"'), 3, "server.stor", "known are: dialects, documents, handler"),
    (('"memory://"', '"redis://x"'), 1, "server", "is not known"),
    (("reconcile_seconds = 0", "max_body = -1"), 4, "server.max_body", "greater than or equal to 0"),
    (("reconcile_seconds = 0", 'offer_seconds = "ten"'), 4, "server.offer_seconds", "valid integer"),
    (("reconcile_seconds = 0", "offer_seconds = 0"), 4, "server.offer_seconds", "greater than 0"),
    (("reconcile_seconds = 0", 'secret = "s3cr3t-in-the-file"'), 4, "server.secret", "env:NAME or file:PATH"),
    (("reconcile_seconds = 0", 'secret = "env:RAIL402_NOT_SET"'), 4, "server.secret", "RAIL402_NOT_SET is not set"),
    (
        ("reconcile_seconds = 0", 'receipt_key = "file:/not/there"'),
        4,
        "server.receipt_key",
        "/not/there cannot be read",
    ),
    (("reconcile_seconds = 0", 'rates = { "BTC/USD" = "many" }'), 1, "server", "is not a number"),
    (("reconcile_seconds = 0", 'rates = { "BTC/USD" = 6.5 }'), 4, "server.rates.BTC/USD", "valid string"),
    (("reconcile_seconds = 0", 'redis = "redis://127.0.0.1"'), 4, "server.redis", "env:NAME or file:PATH"),
    (("reconcile_seconds = 0", "limits = true"), 4, "server.limits", "limits = false"),
    (("reconcile_seconds = 0", 'limits = "600/m"'), 4, "server.limits", "a table [server.limits]"),
    (
        ("reconcile_seconds = 0", '[server.limits]\ninvoices = "60"'),
        5,
        "server.limits.invoices",
        "write a number per second",
    ),
    (("reconcile_seconds = 0", "[server.limits]\ninvoices = 60"), 5, "server.limits.invoices", "valid string"),
    (
        ("reconcile_seconds = 0", '[server.limits]\ntrusted_proxies = ["me"]'),
        5,
        "server.limits.trusted_proxies",
        "write networks",
    ),
    (
        ("reconcile_seconds = 0", '[server.limits]\nclients = "1/s"'),
        5,
        "server.limits.clients",
        "known are: addresses",
    ),
    (('[[rails]]\nname = "fake"\n', ""), 1, "rails", "is missing"),
    (('[[rails]]\nname = "fake"', 'rails = "fake"'), 6, "rails", "is missing"),
    (('name = "fake"', 'nam = "fake"'), 6, "rails.0", "needs name ="),
    (('name = "fake"', 'name = "gold2"'), 7, "rails.0.name", "installed are: fake, gold"),
    (('name = "fake"', 'name = "fake"\nminimun = 3'), 8, "rails.0.minimun", "known are: key, minimum, payee"),
    (('name = "fake"', 'name = "fake"\nkey = "plain"'), 8, "rails.0.key", "env:NAME"),
    (('name = "fake"', 'name = "fake"\npayee = "nobody"'), 6, "rails.0", "payee: must be somebody"),
    (('name = "fake"', 'name = "fake"\n[[rails]]\nname = "fake"'), 1, "server", "two rails are called 'fake'"),
    (('match = "GET /goods"', 'match = "/goods"'), 10, "routes.0.match", "write a method and a path"),
    (('match = "GET /goods"\n', ""), 9, "routes.0.match", "is missing"),
    (('price = "0.003 USD"', "price = 0.003"), 11, "routes.0.price", "valid string"),
    (('price = "0.003 USD"', 'price = "cheap"'), 11, "routes.0.price", "write"),
    (('price = "0.003 USD"', 'price = "0 USD"'), 11, "routes.0.price", "more than zero"),
    (('0.003 USD"', '0.003 USD"\nflow = "later"'), 12, "routes.0.flow", "'authorization', 'upfront' or 'escrow'"),
    (('0.003 USD"', '0.003 USD"\nvalid = "1w"'), 12, "routes.0.valid", '"90s", "10m", "1h", "7d"'),
    (('0.003 USD"', '0.003 USD"\nvalid = true'), 12, "routes.0.valid", "write seconds"),
    (('0.003 USD"', '0.003 USD"\nuses = 0'), 12, "routes.0.uses", "greater than or equal to 1"),
    (
        ('0.003 USD"', '0.003 USD"\nrails = ["gold"]'),
        9,
        "routes.0",
        "there is no rail 'gold'; the rails here are: fake",
    ),
    (('0.003 USD"', '0.003 USD"\nrails = "fake"'), 12, "routes.0.rails", "valid list"),
    (('0.003 USD"', '0.003 USD"\ndialects = ["x402"]'), 9, "routes.0", "there is no dialect 'x402'"),
    (('0.003 USD"', '0.003 USD"\n[[routes]]\nmatch = "GET /b"\nprice = "x"'), 14, "routes.1.price", "write"),
    (("[[routes]]", "[routes]"), 9, "routes", "valid list"),
    (("[[routes]]", "[[route]]"), 9, "route", "known are: proxy, rails, routes, server"),
]


@pytest.mark.parametrize(("change", "line", "key", "says"), MISTAKES, ids=[row[2] + " " + row[3] for row in MISTAKES])
def test_a_mistake_is_named_with_file_line_and_key(
    write: Write, change: tuple[str, str], line: int, key: str, says: str
) -> None:
    path = write(change)
    with pytest.raises(ConfigurationError) as raised:
        gate_from_toml(path)
    where, _, detail = raised.value.detail.removeprefix(str(path)).partition(": ")
    assert where == f":{line}"
    assert detail.startswith(f"{key}: ")
    assert says in detail


def test_no_secret_is_in_an_error(write: Write) -> None:
    for change in (
        ("reconcile_seconds = 0", 'secret = "s3cr3t-in-the-file"'),
        ("reconcile_seconds = 0", "secret = 5318008"),
        ('name = "fake"', 'name = "fake"\nkey = "s3cr3t-in-the-file"'),
    ):
        with pytest.raises(ConfigurationError) as raised:
            gate_from_toml(write(change))
        shown = "".join(traceback.format_exception(raised.value))
        assert "s3cr3t" not in shown
        assert "5318008" not in shown


async def test_secrets_come_from_the_environment_and_from_files(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, pem = ReceiptKeys.generate()
    (tmp_path / "key.pem").write_text(pem)
    monkeypatch.setenv("RAIL402_SECRET", "s3cr3t" * 8)
    seen: list[Any] = []
    monkeypatch.setitem(
        PLUGINS,
        "fake",
        RailPlugin(FakeConfig, NoConfig, lambda config: seen.append(config) or make_rail(config), FakeWallet),
    )
    file = f'secret = "env:RAIL402_SECRET"\nreceipt_key = "file:{tmp_path}/key.pem"'
    path = write(
        ("reconcile_seconds = 0", f"reconcile_seconds = 0\n{file}"),
        ('name = "fake"', 'name = "fake"\nkey = "env:RAIL402_SECRET"'),
        ROUTELESS,
    )
    gate: Gate = gate_from_toml(path)
    async with gate:
        assert gate.services().receipt_keys.kid == keys.kid
    assert seen[0].key == SecretStr("s3cr3t" * 8)
    assert "s3cr3t" not in repr(seen[0])
