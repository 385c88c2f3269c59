"""`rail402 charges`: what a publisher reads, gives back and closes, beside the server."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from fastapi import FastAPI, Response
from rich.console import Console
from typer.testing import CliRunner

from rail402.cli import app as app_module
from rail402.cli import charges as charges_module
from rail402.cli.app import app
from rail402.client.payer import Payer
from rail402.errors import OutcomeUnknown, Rail402Error
from rail402.protocol.charge import Charge, Operation, PaymentState
from rail402.protocol.receipt import verify_receipt, verify_refund
from rail402.server.toml import gate_from_toml
from rail402.stores import open_store
from rail402_base.rail import BaseRail
from rail402_base.wallet import BaseWallet

URL = "http://testserver"
TOML = """\
[server]
public_url = "http://testserver"
store = "sqlite:///charges.db"

[[rails]]
name = "base"
backend = "sandbox"

[[routes]]
match = "GET /goods/{name}"
price = "0.003 USD"
"""
RUNNER = CliRunner()


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    result = RUNNER.invoke(app, ["charges", *arguments], input=stdin, env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def asked(*arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return found


def refused(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["charges", *arguments])
    assert isinstance(result.exception, Rail402Error), result.output
    return str(result.exception)


class Site:
    """The server beside which the command line works."""

    def __init__(self) -> None:
        self.status = 200
        self.gate = gate_from_toml("rail402.toml")
        self.app = FastAPI()
        self.gate.install(self.app)
        self.keys: dict[str, Any] = {}

        @self.app.get("/goods/{name}")
        async def goods(name: str, response: Response) -> str:
            response.status_code = self.status
            return name

    async def _buy(self, *names: str) -> None:
        payer, inner = Payer([BaseWallet.sandbox()], journal="sqlite:///wallet.db"), httpx.ASGITransport(self.app)
        async with (
            self.gate,
            payer,
            httpx.AsyncClient(transport=payer.transport(inner), base_url=URL) as client,
        ):
            for name in names:
                assert (await client.get(f"/goods/{name}")).status_code == self.status
            self.keys = self.gate.services().receipt_keys.jwks

    def buy(self, *names: str) -> None:
        asyncio.run(self._buy(*names))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    Path("rail402.toml").write_text(TOML)
    return Site()


def change(charge_id: str, **members: Any) -> None:
    """Write something else into the store."""

    async def write() -> None:
        store = open_store("sqlite:///charges.db")
        await store.start()
        charge = await store.get(charge_id)
        assert charge is not None
        await store.save(charge.model_copy(update=members))
        await store.close()

    asyncio.run(write())


def money() -> int:
    async def count() -> int:
        received = await BaseRail.sandbox().received()
        return int(received.amount * 10**6)

    return asyncio.run(count())


# --- list


def test_charges_come_newest_first_a_page_at_a_time(site: Site) -> None:
    site.buy("a", "b", "c")
    whole = asked("list")
    assert len(whole["charges"]) == 3
    assert whole["before"] is None
    ids = [each["charge"] for each in whole["charges"]]
    first = asked("list", "--limit", "2")
    assert [each["charge"] for each in first["charges"]] == ids[:2]
    assert first["before"] == ids[1]
    second = asked("list", "--limit", "2", "--before", first["before"])
    assert ([each["charge"] for each in second["charges"]], second["before"]) == (ids[2:], None)
    text = run("list", "--limit", "2").stdout
    assert f"--before {ids[1]}" in text
    assert "GET http://testserver/goods/" in text
    assert set(whole["charges"][0]) >= {"sum", "payment", "delivery", "rail", "created_at"}


def test_no_id_is_cut_at_a_narrow_terminal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.buy("a")
    (listed,) = asked("list")["charges"]
    file = io.StringIO()
    monkeypatch.setattr(charges_module, "new_console", lambda: Console(width=80, file=file))
    run("list")
    first, second = file.getvalue().splitlines()
    assert first.split()[0] == listed["charge"]
    assert first.endswith(f"  {listed['sum']}  settled")
    assert second == f"  rail: base · answer: {listed['delivery']} · GET {listed['url']}"


def test_a_full_last_page_promises_nothing_more(site: Site) -> None:
    site.buy("a", "b")
    assert asked("list", "--limit", "2")["before"] is None


def test_lists_are_filtered(site: Site) -> None:
    site.buy("a", "b", "c")
    ids = [each["charge"] for each in asked("list")["charges"]]
    change(ids[0], payment=PaymentState.UNKNOWN, operation=Operation.SETTLE)
    change(ids[2], created_at=int(time.time()) - 7200)
    assert [each["charge"] for each in asked("list", "--state", "settled")["charges"]] == ids[1:]
    assert [each["charge"] for each in asked("list", "--state", "open")["charges"]] == [ids[0]]
    assert len(asked("list", "--state", "unknown", "--state", "settled")["charges"]) == 3
    assert {each["charge"] for each in asked("list", "--since", "1h")["charges"]} == {ids[0], ids[1]}
    assert asked("list", "--rail", "stripe")["charges"] == []
    assert len(asked("list", "--rail", "base")["charges"]) == 3
    assert "no charge fits" in run("list", "--state", "refunded").stdout


@pytest.mark.parametrize("pages", [1, 2])
def test_filters_look_past_a_page(site: Site, monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    monkeypatch.setattr(charges_module, "_PAGE", pages)
    site.buy("a", "b", "c")
    oldest = asked("list")["charges"][-1]["charge"]
    change(oldest, payment=PaymentState.REJECTED, code="payment_declined")
    assert [each["charge"] for each in asked("list", "--state", "rejected", "--limit", "1")["charges"]] == [oldest]


@pytest.mark.parametrize(
    "arguments",
    [("--state", "lost"), ("--since", "yesterday"), ("--limit", "0"), ("--limit", "10001"), ("--what",)],
)
def test_wrong_usage(site: Site, arguments: tuple[str, ...]) -> None:
    site.buy("a")
    result = RUNNER.invoke(app, ["charges", "list", *arguments])
    assert result.exit_code == 2


# --- what cannot be opened


def test_errors_name_file_line_and_fix(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "rail402.toml:3: server.store" in refused("list")
    assert "run this where the server runs" in refused("list")
    assert not Path("charges.db").exists()
    assert "no.toml: cannot be read" in refused("list", "--config", "no.toml")
    Path("rail402.toml").write_text(TOML.replace("sqlite:///charges.db", "memory://"))
    assert "the server's own process" in refused("list")
    Path("rail402.toml").write_text(TOML.replace("sqlite:///charges.db", "env:NOT_THERE"))
    assert "the environment variable NOT_THERE is not set" in refused("list")
    Path("rail402.toml").write_text(TOML.replace('"sqlite:///charges.db"', "5"))
    assert "must be a text" in refused("list")


def test_reading_needs_no_rail_and_no_secret(site: Site) -> None:
    site.buy("a")
    file = TOML.replace('backend = "sandbox"', 'backend = "rpc"\nrelayer_key = "env:NOT_THERE"')
    Path("rail402.toml").write_text(file)
    (charge,) = asked("list")["charges"]
    assert asked("show", charge["charge"])["payment"] == "settled"
    assert "NOT_THERE" in refused("refund", charge["charge"])


def test_a_charge_that_is_not_there(site: Site) -> None:
    site.buy("a")
    assert "there is no charge ch_x in this store" in run("show", "ch_x", code=1).stderr
    assert "there is no charge ch_x in this store" in run("refund", "ch_x", "--yes", code=1).stderr
    assert "there is no charge ch_x" in run("list", "--before", "ch_x", code=1).stderr


def test_run_says_it_in_one_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rail402", "charges", "list", "--config", "no.toml"])
    with pytest.raises(SystemExit) as ended:
        app_module.run()
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


# --- show


def test_the_whole_story_and_the_receipt(site: Site) -> None:
    site.buy("a")
    (line,) = asked("list")["charges"]
    facts = asked("show", line["charge"])
    receipt = verify_receipt(facts["receipt"], site.keys, issuer=URL)
    assert (receipt.charge, receipt.transaction) == (line["charge"], facts["transaction"])
    assert (facts["amount"], facts["sum"], facts["payer"]) == ("3000", "0.003 USDC", receipt.payer)
    text = run("show", line["charge"]).stdout
    for part in (line["charge"], facts["transaction"], "settled at", "receipt, signed", "0.003 USDC", "/goods/a"):
        assert part in text
    assert "refund receipt" not in text


def test_no_secret_is_shown(site: Site) -> None:
    site.buy("a")
    (line,) = asked("list")["charges"]
    change(line["charge"], secret_digest="5" * 64, context=("login:digest",))
    shown = run("show", line["charge"], "--json").stdout + run("show", line["charge"]).stdout
    assert "5" * 64 not in shown
    assert "login:digest" not in shown


# --- refund


def test_a_refund_asks_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.buy("a")
    facts = asked("show", asked("list")["charges"][0]["charge"])
    assert "add --yes" in run("refund", facts["charge"], code=2).output
    assert money() == 3000
    monkeypatch.setattr(charges_module, "_somebody_is_there", lambda: True)
    result = run("refund", facts["charge"], stdin="n\n", code=1)
    assert f"0.003 USDC on base (eip155:402402) goes back to {facts['payer']}" in result.output
    assert money() == 3000
    assert "refunded by 0x" in run("refund", facts["charge"], stdin="y\n").output
    assert money() == 0


def test_a_refund_is_made_once_and_has_a_receipt(site: Site) -> None:
    site.buy("a", "b")
    bought = asked("list")["charges"][0]["charge"]
    facts = asked("refund", bought, "--yes")
    assert (facts["payment"], money()) == ("refunded", 3000)
    record = verify_refund(facts["refund_receipt"], site.keys, issuer=URL)
    assert (record.charge, record.amount, record.transaction) == (bought, "3000", facts["refund_transaction"])
    assert asked("refund", bought) == facts  # nothing is left to be confirmed
    assert money() == 3000
    text = run("show", bought).stdout
    assert "refund receipt, signed" in text
    assert facts["refund_transaction"] in text


def test_what_cannot_be_refunded_is_refused_before_it_is_asked(site: Site) -> None:
    site.buy("a")
    bought = asked("list")["charges"][0]["charge"]
    Path("rail402.toml").write_text(TOML.replace('"sandbox"', f'"sandbox"\npay_to = "0x{"1" * 40}"'))
    assert "give the rail refund_key" in run("refund", bought, "--yes", code=1).stderr
    Path("rail402.toml").write_text(TOML)
    change(bought, payment=PaymentState.RELEASED)
    assert "its payment is released" in run("refund", bought, "--yes", code=1).stderr


def test_a_rail_that_refuses_a_refund(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.buy("a")
    bought = asked("list")["charges"][0]["charge"]

    async def refuse(self: BaseRail, charge: Charge) -> Any:
        from rail402.protocol.rail import Failed

        return Failed(code="payment_declined", detail="the payee is empty")

    monkeypatch.setattr(BaseRail, "refund", refuse)
    assert "not refunded: the payee is empty" in run("refund", bought, "--yes", code=1).output


def test_a_refund_whose_outcome_is_unknown_is_closed_by_reconcile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.buy("a")
    bought = asked("list")["charges"][0]["charge"]
    refund = BaseRail.refund

    async def lose(self: BaseRail, charge: Charge) -> Any:
        await refund(self, charge)
        raise OutcomeUnknown("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(BaseRail, "refund", lose)
        result = run("refund", bought, "--yes", code=6)
    assert "not known yet: the answer was lost; run: rail402 charges reconcile" in result.output
    assert [each["operation"] for each in asked("list", "--state", "open")["charges"]] == ["refund"]
    assert asked("reconcile") == {"looked_at": 1, "closed": 1, "open": []}
    assert asked("show", bought)["payment"] == "refunded"
    assert money() == 0


# --- reconcile


def test_what_stays_open_is_said_with_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.buy(*(str(number) for number in range(12)))
    for each in asked("list")["charges"]:
        change(each["charge"], payment=PaymentState.UNKNOWN, operation=Operation.SETTLE, settled_at=None, lease_until=0)

    async def down(self: BaseRail, charge: Charge, operation: Any) -> Any:
        raise OutcomeUnknown("the chain is silent")

    with monkeypatch.context() as patched:
        patched.setattr(BaseRail, "lookup", down)
        result = run("reconcile", code=6)
        report = asked("reconcile", code=6)
    assert "looked at 12, closed 0, 12 still open" in result.stdout
    assert "looked at 10 of 12" in result.stderr
    assert "the chain is silent" in result.stdout
    assert (report["looked_at"], len(report["open"])) == (12, 12)
    left = report["open"][0]
    assert (left["rail"], left["operation"], left["looks"]) == ("base", "settle", 2)
    assert "see that base can be reached" in left["advice"]
    assert "looked at 12, closed 12, 0 still open" in run("reconcile").stdout
    assert run("reconcile").stdout.startswith("looked at 0, closed 0, 0 still open")


@pytest.mark.parametrize(
    ("command", "codes"), [("list", "012"), ("show", "012"), ("refund", "0126"), ("reconcile", "0126")]
)
def test_help_shows_the_exit_codes(command: str, codes: str) -> None:
    shown = RUNNER.invoke(app, ["charges", command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    after = shown.partition("Exit codes:")[2].splitlines()[1:]
    assert "".join(line.strip()[0] for line in after[: len(codes)]) == codes
    assert "--json" in shown
