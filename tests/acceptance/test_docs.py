"""The documentation is true: its programs run, its files load, its links lead somewhere, and what it names is there.

A fenced block may have a mark on the line before it:

- `<!-- file: NAME -->`: it is added to that file, which the page's later blocks can use;
- `<!-- run -->`: it is a program. It runs in a folder of its own page, with warnings as errors; where it makes a gate
  and an app, the gate starts as a server would start it;
- `<!-- prints -->`: this, exactly, is what the program before it prints; `…` stands for any run of characters.

Python without a mark is compiled, and what it imports from rail402 must be there.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import typer

import rail402
from rail402 import errors, plugins
from rail402.cli.exit_codes import ExitCode
from rail402.client import toml as client_toml
from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS
from rail402.facilitator import toml as facilitator_toml
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import DEFAULT_STORE
from rail402.protocol.dialect import Dialect
from rail402.protocol.rail import RailSpec
from rail402.proxy import toml as proxy_toml
from rail402.proxy.app import ProxyApp
from rail402.proxy.forwarder import Upstream
from rail402.server import toml as server_toml
from rail402.server.answers import MAX_CHALLENGE_BYTES
from rail402.server.gate import Gate
from rail402.server.limits import Limits
from rail402.server.settings import GateSettings, Receipts
from rail402.server.toml import gate_from_toml
from rail402_base import BASE_USDC, BaseSpec, Facilitator, FacilitatorBackend, RelaySettings, SendSettings, Transfers
from rail402_base.config import TransfersConfig
from rail402_lightning import LightningSpec
from rail402_stripe import StripeSpec
from tests.acceptance.refusals import TLS_CERT
from tests.acceptance.test_demo import LAST, RAIL402
from tests.unit.rail402_lightning.backends.fake_lnd import RECEIVING

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
REFERENCES = {
    "BASE_RPC_URL": "https://base.example.com/a-key-of-mine",
    "FACILITATOR_TOKEN": "a-token-of-mine-and-theirs",
    "LNBITS_INVOICE_KEY": "0123456789abcdef" * 2,
    "STRIPE_SECRET_KEY": "sk_test_documentation",
    "STRIPE_WEBHOOK_SECRET": "whsec_documentation",
}
"""What the pages' configuration refers to by `env:`."""

SPECS: list[RailSpec] = [BaseSpec(BASE_USDC, transfers=True), LightningSpec(), StripeSpec("stripe:test")]

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its mark ("" without one), its language and its text."""

    mark: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is added to."""
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else None


_BLOCK = re.compile(r"(?:^<!-- (run|prints|file: [\w.]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- (?!generated: |end of )(.*) -->$", re.MULTILINE)


@cache
def blocks(page: Path) -> Sequence[Block]:
    return [Block(mark, language, text) for mark, language, text in _BLOCK.findall(page.read_text())]


def prose(page: Path) -> str:
    """Return the page without its blocks."""
    return _BLOCK.sub("", page.read_text())


# --- programs

HARNESS = """
import asyncio, runpy, sys
names = runpy.run_path(sys.argv[1], run_name="__main__")
async def start():
    async with names["gate"]:
        pass
if {"gate", "app"} <= names.keys():
    asyncio.run(start())
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAIL402_SANDBOX"}
    path = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | REFERENCES | more


def make_keys(home: Path) -> None:
    """Put the files with secrets there that the pages name; a relayer's key is made by a program of its page."""
    subprocess.run([RAIL402, "keygen", "keys"], cwd=home, check=True, capture_output=True, timeout=60)
    (home / "keys" / "tls.cert").write_text(TLS_CERT)
    (home / "keys" / "rail402-receive.macaroon").write_bytes(RECEIVING)


def run(home: Path, *arguments: str) -> str:
    """Run Python in `home`; return what it prints."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=home, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def says(printed: str, wanted: str) -> bool:
    """Whether a program printed what the page shows."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("…"))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.mark == "run" for block in blocks(page))], ids=lambda page: page.name
)
def test_the_programs_of_a_page_run(page: Path, tmp_path: Path) -> None:
    home, printed = tmp_path, ""
    if page.name.startswith("production"):
        make_keys(home)
    for number, block in enumerate(blocks(page)):
        if block.file:
            with (home / block.file).open("a") as file:
                file.write(block.text)
        elif block.mark == "run":
            assert block.language == "python"
            (home / f"block{number}.py").write_text(block.text)
            printed = run(home, "-c", HARNESS, f"block{number}.py")
        elif block.mark == "prints":
            assert says(printed, block.text), printed


@by_name
def test_every_mark_is_one_that_is_known_and_has_its_block(page: Path) -> None:
    marks = [block.mark for block in blocks(page) if block.mark]
    assert _MARK.findall(page.read_text()) == marks


@by_name
def test_python_compiles_and_what_it_imports_is_there(page: Path) -> None:
    own = {str(block.file).removesuffix(".py") for block in blocks(page) if block.file}
    for block in blocks(page):
        if block.language != "python":
            continue
        tree = ast.parse(block.text)
        compile(tree, page.name, "exec")
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        for module, node in [(str(node.module), node) for node in imports]:
            if module.startswith("rail402") and module not in own:
                there = importlib.import_module(module)
                assert [each.name for each in node.names if not hasattr(there, each.name)] == [], module


@contextmanager
def serving(home: Path, port: int) -> Iterator[str]:
    """Serve `server.py` of `home` on that port."""
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=home, env=environment(), stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.get(url, timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            pytest.fail(f"the server did not start: {process.stderr and process.stderr.read()}")
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_newcomer_is_paid(tmp_path: Path) -> None:
    """The two programs of the README, as they stand there but for the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for name in ("server.py", "agent.py"):
        (text,) = [block.text for block in blocks(README) if block.file == name]
        (tmp_path / name).write_text(text.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    (wanted,) = [block.text for block in blocks(README) if block.mark == "prints"]
    with serving(tmp_path, port) as url:
        unpaid = httpx.get(f"{url}/article/402")
        assert unpaid.status_code == 402
        assert {offer["rail"] for offer in unpaid.json()["offers"]} == {"base", "lightning"}
        shown = subprocess.run([RAIL402, "inspect", f"{url}/article/402"], capture_output=True, text=True, check=True)
        (table,) = [block.text for block in blocks(DOCS / "cli.md") if block.text.startswith("rail  ")]
        assert table.strip() in "\n".join(line.rstrip() for line in shown.stdout.splitlines())
        assert says(run(tmp_path, "agent.py"), wanted)
        assert says(run(tmp_path, "agent.py"), wanted)  # and once more, with the same wallet


@pytest.mark.parametrize(("name", "most"), [("server.py", 20), ("agent.py", 16)])
def test_the_first_programs_are_short(name: str, most: int) -> None:
    (text,) = [block.text for block in blocks(README) if block.file == name]
    assert len([line for line in text.splitlines() if line.strip()]) <= most


# --- configuration files


def toml_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "toml"]


@pytest.mark.parametrize("page", [page for page in PAGES if toml_blocks(page)], ids=lambda page: page.name)
def test_configuration_files_load(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAIL402_SANDBOX", raising=False)
    make_keys(tmp_path)
    (tmp_path / "keys" / "relayer.key").write_text("11" * 32)
    for name, value in REFERENCES.items():
        monkeypatch.setenv(name, value)
    for number, block in enumerate(toml_blocks(page)):
        path = tmp_path / f"{number}.toml"
        path.write_text(block.text)
        if "proxy" in tomllib.loads(block.text):
            assert isinstance(proxy_toml.proxy_from_toml(path), ProxyApp)
        elif "server" in tomllib.loads(block.text):
            assert isinstance(gate_from_toml(path), Gate)
        elif "facilitator" in tomllib.loads(block.text):
            assert facilitator_toml.facilitator_from_toml(path).token == REFERENCES["FACILITATOR_TOKEN"]
        elif "wallets" in tomllib.loads(block.text):
            assert isinstance(client_toml.payer_from_toml(path), Payer)
        else:
            (group,) = tomllib.loads(block.text)["project"]["entry-points"]
            assert group == plugins.GROUP


def rows(page: Path, after: str) -> list[list[str]]:
    """Return the cells of the first table after that text, without its head."""
    _, found, rest = page.read_text().partition(after)
    assert found, f"{page.name}: no {after!r}"
    lines = [line for line in rest.partition("\n|")[2].split("\n\n")[0].splitlines() if line.strip()]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    """Return what stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def keys(table: Sequence[Sequence[str]]) -> list[str]:
    return [name for row in table for name in names(row[0])]


def defaults(of: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(of) if not field.name.startswith("_")}


def test_every_setting_is_described_with_its_default() -> None:
    table = rows(DOCS / "server.md", "And the settings, as keywords too:")
    said = {names(row[0])[0]: row[1] for row in table}
    wanted = {
        name: default if default is dataclasses.MISSING else str(default)
        for name, default in defaults(GateSettings).items()
    }
    assert wanted.pop("public_url") is dataclasses.MISSING
    assert wanted.pop("limits") is dataclasses.MISSING  # a factory makes it
    assert said.pop("limits") == "`Limits()`"
    assert len(said) + 1 == len(table)
    assert said == wanted


def test_every_limit_is_described_with_its_default() -> None:
    table = rows(DOCS / "server.md", "Or a `TokenBucket`.")
    wanted = {name: f'`"{default}"`' if default else "none" for name, default in defaults(Limits).items()}
    assert {names(row[0])[0]: row[1] for row in table} == wanted
    assert sorted(wanted) == sorted(server_toml._Limits.model_fields)


def test_every_keyword_of_a_gate_is_described() -> None:
    said = set(keys(rows(DOCS / "server.md", "### What a gate takes")))
    source = inspect.getsource(Gate.__init__)
    wanted = {name for name in inspect.signature(Gate).parameters if name != "options"}
    wanted |= set(re.findall(r'options\.pop\("(\w+)"', source))
    assert said == wanted


@pytest.mark.parametrize("method", [Gate.paid, Gate.protect])
def test_every_keyword_of_a_route_is_described(method: Any) -> None:
    said = set(keys(rows(DOCS / "server.md", "Both take the same keywords:")))
    assert said == set(inspect.signature(method).parameters) - {"self", "pattern"}


def test_the_route_s_default_receipt_is_said() -> None:
    assert f'Receipts(valid="{Receipts().valid}", uses={Receipts().uses})' in (DOCS / "server.md").read_text()


@pytest.mark.parametrize(
    ("after", "model"), [("`[server]`:", server_toml._Server), ("`[[routes]]`:", server_toml._Route)]
)
def test_every_key_of_the_server_s_file_is_described(after: str, model: Any) -> None:
    said = keys(rows(DOCS / "server.md", f"\n{after}\n"))
    assert sorted(said) == sorted(model.model_fields)


@pytest.mark.parametrize(
    ("section", "rail"), [("## Base", "base"), ("## Lightning", "lightning"), ("## Stripe", "stripe")]
)
def test_every_key_of_a_rail_is_described_with_its_default(section: str, rail: str) -> None:
    table = rows(DOCS / "rails.md", f"\n{section}\n")
    fields = plugins.load_plugin(rail).rail_config.model_fields
    assert sorted(keys(table)) == sorted(fields)
    for key, default, *_ in table:
        field = fields[names(key)[0]]
        if names(key) == ["network"]:  # whose default depends on the backend
            continue
        if names(default):
            assert names(default)[0] == json.dumps(field.get_default(call_default_factory=True))
        else:
            assert field.is_required() or not field.get_default(call_default_factory=True)


def test_the_finer_settings_of_base_have_their_defaults() -> None:
    table = rows(DOCS / "rails.md", "What follows\nis set in Python only")
    settings = {f"{names(of)[0]}.{names(name)[0]}": (default, what) for of, name, default, what in table}
    for of in (RelaySettings, Facilitator, FacilitatorBackend):
        for name, parameter in inspect.signature(of).parameters.items():
            said, _ = settings.pop(f"{of.__name__}.{name}", (None, None))
            assert said in (None, "none", str(parameter.default)), f"{of.__name__}.{name}"
    assert not settings
    assert Facilitator("https://f.example.com").settle_timeout < defaults(GateSettings)["settle_seconds"]
    assert RelaySettings().settle_seconds < defaults(GateSettings)["settle_seconds"]


def test_every_key_for_transfers_is_described_with_its_default() -> None:
    said = {names(key)[0]: default for key, default, _ in rows(DOCS / "rails.md", "\n### Plain transfers\n")}
    assert said.keys() == TransfersConfig.model_fields.keys()
    of_file = {name: field.default for name, field in TransfersConfig.model_fields.items()}
    assert said == {name: json.dumps(default) for name, default in of_file.items()}
    assert of_file == defaults(Transfers)
    assert f"{SendSettings().max_gas // 10**9} gwei for one payment" in (DOCS / "rails.md").read_text().replace(
        "\n  ", " "
    )


def test_every_key_of_the_facilitator_s_file_is_described_with_its_default() -> None:
    said = {names(key)[0]: default for key, default, _ in rows(DOCS / "facilitator.md", "\n`[facilitator]`:\n")}
    assert said.keys() == facilitator_toml._Facilitator.model_fields.keys()
    wanted = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in defaults(FacilitatorSettings).items()
    }
    assert wanted.keys() | {"store", "token"} == said.keys()
    for name, value in {**wanted, "store": DEFAULT_STORE, "token": None}.items():
        assert said[name] == ("none" if value is None else f"`{json.dumps(value)}`"), name


def test_every_key_of_the_proxy_is_described_with_its_default() -> None:
    said = {names(key)[0]: default for key, default, _ in rows(DOCS / "proxy.md", "\n`[proxy]`:\n")}
    fields = proxy_toml._Proxy.model_fields
    assert said.keys() == fields.keys()
    of_file = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    for name, value in of_file.items():
        assert said[name] == ("none" if value is None else f"`{json.dumps(value)}`"), name
    of_upstream = defaults(Upstream)
    assert of_upstream.pop("to") is dataclasses.MISSING
    assert of_upstream == {name: of_file[name] for name in of_upstream}


def test_every_wallet_s_table_has_the_keys_that_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pay.macaroon").write_bytes(RECEIVING)
    monkeypatch.setenv("SECRET", "0123456789abcdef" * 4)
    token = {"symbol": "T", "address": BASE_USDC.address, "decimals": 6, "name": "T", "version": "1"}
    references = ("private_key", "secret_key", "customer_secret", "admin_key", "rune", "password", "connection")
    more_references = ("keystore_password", "mnemonic", "mnemonic_passphrase", "signer", "access_token")
    secret = dict.fromkeys((*references, *more_references), "env:SECRET")
    lists = {"urls": ["https://x.example.com"], "currencies": ["usd"], "checkout_origins": ["https://x.example.com"]}
    other = {"network": None, "is_testnet": False, "token": token, "max_fee_sat": 1, "max_fee_ppm": 1, "mode": "test"}
    other |= {"hold_seconds": 1, "max_timeout": 1, "macaroon": f"file:{tmp_path}/pay.macaroon"}
    other |= {"signer_method": "eth_signTypedData", "max_amount": 1}
    other |= {"pays_by": "authorization", "max_gas_gwei": "1", "confirmations": 1}
    said: dict[str, set[str]] = {}
    for rail, backend, needs, may_have in rows(DOCS / "rails.md", "## Tables for wallets"):
        model = plugins.load_plugin(names(rail)[0]).wallet_config
        given = {key: (secret | lists | other).get(key, "text") for key in names(needs)}
        more = {key: (secret | lists | other).get(key, "text") for key in names(may_have)}
        chosen, *way = names(backend)
        fixed = {"backend": chosen, **dict(zip(way[::2], way[1::2], strict=True))}
        model.model_validate({**fixed, **given, **more})
        for missing in given:
            rest = {key: value for key, value in given.items() if key != missing}
            with pytest.raises(ValueError, match=f"needs .*{missing}"):
                model.model_validate({**fixed, **rest})
        said.setdefault(names(rail)[0], {"backend"}).update(given, more)
    assert said == {spec.name: set(plugins.load_plugin(spec.name).wallet_config.model_fields) for spec in SPECS}


def test_every_argument_of_a_payer_is_described() -> None:
    table = rows(DOCS / "client.md", "### What a payer takes")
    parameters = inspect.signature(Payer).parameters
    assert sorted(keys(table)) == sorted(parameters)
    said = {names(row[0])[0]: row[1] for row in table}
    assert str(parameters["deadline"].default) == said["deadline"]
    assert f'`"{parameters["journal"].default}"`' == said["journal"]


def test_the_budget_s_defaults_are_said() -> None:
    said = {
        names(row[0])[0]: tuple(name.strip('"') for name in names(row[1]))
        for row in rows(DOCS / "client.md", "## Budget")
    }
    assert said == {
        name: value if isinstance(value, tuple) else (str(value),) if value else ()
        for name, value in defaults(Budget).items()
    }


# --- what is on which rail


def test_the_readme_says_what_each_rail_speaks() -> None:
    """A column is a dialect that is spoken by default."""
    after = "Rails and wire formats, as the code has them:"
    head = README.read_text().partition(after)[2].partition("\n|")[2].splitlines()[0]
    columns = [_dialect(name) for name in head.strip("| ").split("|")[1:-1]]
    assert columns == [dialect.name for dialect in DEFAULT_DIALECTS]
    table = {names(row[0])[0]: row[1:] for row in rows(README, after)}
    assert table.keys() == {spec.name for spec in SPECS}
    for spec in SPECS:
        spoken = [name for name, cell in zip(columns, table[spec.name], strict=False) if cell != "–"]
        assert sorted(spoken) == sorted(name for name in spec.bindings if name in columns)


def _dialect(title: str) -> str:
    return title.strip().lower().replace(" ", "-").removesuffix("s")


def test_the_rails_page_says_how_each_moves_money() -> None:
    head, *table = [
        line.strip("|").split(" | ") for line in (DOCS / "rails.md").read_text().split("\n\n")[1].splitlines()
    ]
    assert [names(cell)[0] for cell in head[1:]] == [spec.name for spec in SPECS]
    said = {row[0].strip(): row[1:] for row in table}
    for number, spec in enumerate(SPECS):
        assert names(said["mechanism"][number]) == [mechanism.name for mechanism in spec.mechanisms]
        flows = dict.fromkeys(flow for mechanism in spec.mechanisms for flow in mechanism.flows)
        assert said["flows"][number].strip() == ", ".join(flows)
        for row, dialects in (("dialects", DEFAULT_DIALECTS), ("by opt-in", OPTIONAL_DIALECTS)):
            titles = re.split(r"; for transfers |, ", said[row][number].strip())
            spoken = [_dialect(title) for title in titles if not title.startswith("a ")]
            assert sorted(spoken) == sorted(each.name for each in dialects if each.name in spec.bindings), spec.name
        assert names(said["package, extra"][number])[1] == spec.name


@pytest.mark.parametrize(
    ("after", "dialects"),
    [("(`DEFAULT_DIALECTS`):", DEFAULT_DIALECTS), ("(`OPTIONAL_DIALECTS`):", OPTIONAL_DIALECTS)],
    ids=["default", "optional"],
)
def test_the_dialects_page_says_what_each_is_called_and_has(after: str, dialects: Sequence[Dialect]) -> None:
    text = (DOCS / "dialects.md").read_text()
    table = {row[0].strip(): row[1:] for row in rows(DOCS / "dialects.md", after)}
    assert [names(cell) for cell in table["name"]] == [[dialect.name] for dialect in dialects]
    assert [names(cell) for cell in table["class"]] == [[type(dialect).__name__] for dialect in dialects]
    for dialect, rails in zip(dialects, table["rails"], strict=True):
        spoken = set(re.findall(r"base|lightning|stripe", rails))
        assert spoken == {spec.name for spec in SPECS if dialect.name in spec.bindings}, dialect.name
        for field in (*dialect.request_fields, *dialect.response_fields):
            assert f"`{field}".lower() in text.lower()


def test_how_long_a_challenge_may_be_is_said() -> None:
    assert f"({MAX_CHALLENGE_BYTES} bytes)" in (DOCS / "dialects.md").read_text()
    assert f"| all fields of a challenge | {MAX_CHALLENGE_BYTES} bytes |" in (DOCS / "server.md").read_text()


# --- what the pages name


@cache
def sources() -> str:
    """Return everything in which a name can be defined."""
    paths = [*ROOT.glob("x402/**/*.py"), *ROOT.glob("rails/**/*.py"), *ROOT.glob("examples/*.py")]
    return "\n".join(path.read_text() for path in [*paths, ROOT / "pyproject.toml", ROOT / "Makefile"])


# Names of others: of Python, of tools, of the formats that we speak, and of the pages' own programs.
FOREIGN = {
    *("enable_telemetry", "base64url", "vouchers", "inactive_only", "AGENT_KEY", "LNBITS_ADMIN_KEY", "NOT_SET"),
    *("rk_test_", "rk_live_", "profile_test_61Seller", "STRIPE_TEST_KEY", "SHOP_SECRET"),
    *REFERENCES,
}


@by_name
def test_every_name_on_a_page_is_one_of_the_code(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    words = {word for span in spans for word in re.findall(r"[A-Za-z][A-Za-z0-9_]*", span)}
    particular = {word for word in words if "_" in word.strip("_") or re.search(r"[a-z][A-Z]", word)}
    missing = {word for word in particular - FOREIGN if not re.search(rf"\b{word}\b", sources())}
    assert missing == set()


@by_name
def test_every_path_on_a_page_is_there(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    roots = {path.name for path in ROOT.iterdir()}
    for span in spans:
        if "/" in span and span.partition("/")[0] in roots:
            assert (ROOT / span).exists(), span


def test_what_was_counted_is_what_the_pages_with_the_counts_say() -> None:
    said = {row[0]: row[2] for row in rows(ROOT / "docs" / "exactly-once.md", "# Exactly once")}
    attacks = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE))
    assert said["attacks"].startswith(f"{len(attacks)} cases")
    crashes = rows(ROOT / "docs" / "crashes.md", "# Crashes")
    killed = sum(int(number) for row in crashes for number in re.findall(r"\d+", row[4]))
    assert said["crashes"].startswith(f"{killed} kills, {sum(int(row[5]) for row in crashes)} wrong")
    faults = re.search(r"\*\*(\d+) purchases\*\*", (ROOT / "docs" / "faults.md").read_text())
    assert faults is not None
    assert said["faults"].startswith(f"{faults[1]} purchases")


def test_every_folder_of_the_layout_is_there() -> None:
    for row in rows(README, "## Layout"):
        (folder, *_) = names(row[0])
        assert (ROOT / folder).is_dir()
        for inner in names(row[1]):
            if inner.endswith("/"):
                assert (ROOT / folder / inner).is_dir(), inner


def test_every_error_is_on_its_page() -> None:
    text = (DOCS / "errors.md").read_text()
    classes = [name for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    wanted = [name for name in classes if issubclass(getattr(errors, name), errors.Rail402Error)]
    assert [name for name in wanted if f"`{name}`" not in text and f".{name}`" not in text] == []


def test_every_public_name_is_somewhere() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in rail402.__all__ if not re.search(rf"\b{name}\b", text)] == []


@by_name
def test_reason_codes_beside_a_status_are_of_that_status(page: Path) -> None:
    for status, code in re.findall(r"\b(4\d\d|5\d\d) `([a-z_]+)`", prose(page)):
        assert errors.REASONS[code].status == int(status)


# --- commands


def commands() -> set[str]:
    from rail402.cli.app import app

    single = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}
    return single | {str(group.typer_instance.info.name) for group in app.registered_groups if group.typer_instance}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines(page: Path) -> list[str]:
    """Return the commands of a page: the lines with a prompt, and those in the text."""
    shown = [block.text for block in blocks(page) if block.language in ("console", "sh")]
    prompts = [line.removeprefix("$ ") for text in shown for line in text.splitlines() if line.startswith("$ ")]
    inline = re.findall(r"`((?:rail402|make|uvicorn|pip) [a-z][^`\n]*)`", prose(page))
    return prompts + inline


@by_name
def test_every_command_on_a_page_is_there(page: Path) -> None:
    files = {block.file for block in blocks(page)}
    for line in lines(page):
        program, first, *_ = [word for word in line.split() if not word.startswith("-")]
        match program:
            case "rail402":
                assert first in commands(), line
            case "make":
                assert first in targets(), line
            case "uvicorn":
                assert ":" not in first or f"{first.partition(':')[0]}.py" in files, line
            case "python":
                assert first in files or (ROOT / first).exists(), line
            case ".venv/bin/pytest":
                assert (ROOT / line.split()[-1]).exists(), line
            case other:
                assert other in ("curl", "lightning-cli", "lncli", "pip"), line


def test_every_command_has_its_line_and_every_exit_code_its_meaning() -> None:
    page = DOCS / "cli.md"
    said = [name.removeprefix("rail402 ") for row in rows(page, "# Command line") for name in names(row[0])]
    assert sorted(said) == sorted(commands())
    assert [int(row[0]) for row in rows(page, "| gas |")] == list(ExitCode)


@pytest.mark.parametrize(
    ("page", "after", "command"),
    [
        ("cli.md", "\n## get and post\n", "post"),
        ("cli.md", "\n## inspect\n", "inspect"),
        ("mcp.md", "\n## Options\n", "mcp"),
        ("cli.md", "\n## decode\n", "decode"),
        ("facilitator.md", "`[[rails]]` has the keys of", "facilitator"),
        ("proxy.md", "must be less than `handler_seconds`.", "proxy"),
    ],
)
def test_every_option_of_a_command_is_described(page: str, after: str, command: str) -> None:
    from rail402.cli.app import app

    of_all: Any = typer.main.get_command(app)
    options = [each for each in of_all.commands[command].params if each.opts[0].startswith("-")]
    said = set(keys(rows(DOCS / page, after))) - {"--json"}
    assert said == {name for option in options for name in option.opts} - {"--json"}


def test_the_demo_s_last_line_is_as_the_readme_says() -> None:
    assert f"```text\n{LAST}\n```" in README.read_text()


# --- links


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#\s]+)", README.read_text()))
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= linked


# --- what is drawn from the code


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_drawn_from_the_code_is_current(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, f"{capsys.readouterr().out}; run: python docs/generate.py"


def test_the_check_finds_what_is_not_current(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: Mapping[str, tuple[str, Any]] = generate.PARTS
    for file in {file for file, _ in parts.values()}:
        marks = [
            f"<!-- generated: {name} -->\n<!-- end of {name} -->\n" for name, part in parts.items() if part[0] == file
        ]
        (tmp_path / file).write_text("".join(marks))
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert "settling --> unknown: lost" in (tmp_path / "payments.md").read_text()


def test_every_state_is_in_its_diagram(generate: ModuleType) -> None:
    for table, drawn in (
        (generate.PAYMENT, generate.payment_diagram()),
        (generate.DELIVERY, generate.delivery_diagram()),
    ):
        arrows = {(one, other): text for one, other, text in re.findall(r"(\w+) --> (\w+): (.*)", drawn)}
        for (state, event), following in table.items():
            assert event.value in arrows[state.value, following.value].split(", ")
