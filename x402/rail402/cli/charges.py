"""`rail402 charges`: what was paid, giving it back, and closing what is open. Works beside a server that runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from rail402.cli.asking import confirm
from rail402.cli.charge_texts import facts_of, show_charge, show_list, show_report, sum_of
from rail402.cli.exit_codes import ExitCode, failed
from rail402.cli.show import AsJson, clean, in_sat, new_console, print_json
from rail402.cli.telemetry import without_telemetry
from rail402.clock import system_clock
from rail402.config import TomlFile, resolve_secret
from rail402.errors import ConfigurationError
from rail402.protocol.charge import Charge, PaymentState
from rail402.server.refunds import obstacle
from rail402.server.report import Report, is_open
from rail402.server.settings import parse_duration
from rail402.stores import Store, open_store

if TYPE_CHECKING:
    from rail402.server.gate import Gate

__all__ = ["charges"]

T = TypeVar("T")

_PAGE: Final = 200
_OPEN: Final = "open"
_STATES: Final = (_OPEN, *(state.value for state in PaymentState))
_SHOW_PROGRESS_EVERY: Final = 10

charges = typer.Typer(
    name="charges",
    help="What was paid, giving it back, and closing what is open. Works beside a server that runs.",
    no_args_is_help=True,
)

Config = Annotated[Path, typer.Option("--config", "-c", help="The server's rail402.toml.")]
ChargeId = Annotated[str, typer.Argument(metavar="CHARGE", help="Its id, ch_…, as in the header Rail402-Charge.")]
_CONFIG: Final = Path("rail402.toml")

_LIST_HELP: Final = """List charges, the newest first. Only the store is opened: no rail, and no secret."""
_SHOW_HELP: Final = """Show all that is known of one charge, with its receipts. Only the store is opened."""
_REFUND_HELP: Final = """Give all of a charge's money back to who paid it, once however often it is asked for.

It says how much goes back and to whom, and asks first, unless --yes is given."""
_RECONCILE_HELP: Final = """Look up everything that is open, now, and say what stays open and what to do about it.

What a running server is at work on is left to it."""


# --- list and show, which read the store and nothing else


@charges.command("list", help=_LIST_HELP)
def list_charges(
    config: Config = _CONFIG,
    state: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(_STATES)}; repeatable.")] = None,
    rail: Annotated[str | None, typer.Option(help="Only this rail's.")] = None,
    since: Annotated[str | None, typer.Option(help="Only of the last 90s, 10m, 1h, 7d.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="The charge to go on from: the last one of the page before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    wanted = _states(state or [])
    now = system_clock()
    oldest = now - _seconds(since)

    def fits(charge: Charge) -> bool:
        in_state = charge.payment.value in wanted or (_OPEN in wanted and is_open(charge))
        return (not wanted or in_state) and (rail is None or charge.offer.rail == rail)

    async def read(store: Store) -> tuple[list[Charge], bool]:
        return await _page(store, fits, oldest=oldest, limit=limit, before=before)

    found, more = _run(_with_store(config, read))
    following = found[-1].id if more else None
    if as_json:
        print_json({"charges": [facts_of(charge, whole=False) for charge in found], "before": following})
    else:
        show_list(new_console(), found, now=now, following=following)


def _states(names: Sequence[str]) -> frozenset[str]:
    for name in names:
        if name not in _STATES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(_STATES)}", param_hint="--state")
    return frozenset(names)


def _seconds(since: str | None) -> int:
    """Return how long ago `since` is; without it, as long as there is time."""
    try:
        return system_clock() if since is None else parse_duration(since)
    except ConfigurationError as error:
        raise typer.BadParameter(error.detail, param_hint="--since") from error


async def _page(
    store: Store, fits: Callable[[Charge], bool], *, oldest: int, limit: int, before: str | None
) -> tuple[list[Charge], bool]:
    """Return the newest charges that fit, and whether there are more of them."""
    if before is not None and await store.get(before) is None:
        raise failed(f"--before: there is no charge {clean(before, 80)}")
    found: list[Charge] = []
    while True:
        page = await store.recent(limit=_PAGE, before=before)
        for charge in page:
            if charge.created_at < oldest:
                return found, False
            if fits(charge):
                if len(found) == limit:
                    return found, True
                found.append(charge)
        if len(page) < _PAGE:
            return found, False
        before = page[-1].id


@charges.command(help=_SHOW_HELP)
def show(charge: ChargeId, config: Config = _CONFIG, as_json: AsJson = False) -> None:
    async def read(store: Store) -> Charge:
        return await _known(store, charge)

    found = _run(_with_store(config, read))
    if as_json:
        print_json(facts_of(found))
    else:
        show_charge(new_console(), found, now=system_clock())


async def _known(store: Store, charge_id: str) -> Charge:
    found = await store.get(charge_id)
    if found is None:
        raise failed(f"there is no charge {clean(charge_id, 80)} in this store; see: rail402 charges list")
    return found


# --- refund and reconcile, which need the rails


@charges.command(help=_REFUND_HELP)
def refund(
    charge: ChargeId,
    config: Config = _CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    gate = _gate(config)

    async def give_back() -> Charge:
        async with _opened(gate):
            found = await _known(gate.services().store, charge)
            _confirm(gate, found, yes=yes)
            try:
                return await gate.refund(charge)
            except ConfigurationError as error:  # it is not in a state to be refunded
                raise failed(error.detail) from error

    found = _run(give_back())
    if as_json:
        print_json(facts_of(found))
    else:
        typer.echo(_outcome(found))
    raise typer.Exit(_refund_code(found))


def _confirm(gate: Gate, charge: Charge, *, yes: bool) -> None:
    """Say what is about to go back, and ask, unless there is nothing to decide."""
    if charge.payment is not PaymentState.SETTLED or charge.refund_due_at is not None:
        return
    hindered = obstacle(gate.services().rails.get(charge.offer.rail), charge)
    if hindered is not None:
        raise failed(f"charge {charge.id}: {hindered}")
    payer = clean(charge.payer) if charge.payer else "whoever proves to have paid it"
    back = in_sat(sum_of(charge))
    typer.echo(f"{back} on {charge.offer.rail} ({charge.offer.network}) goes back to {payer}", err=True)
    if yes:
        return
    if not _somebody_is_there():
        raise typer.BadParameter("nobody is there to be asked; add --yes", param_hint="refund")
    confirm("Give it back?")


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _outcome(charge: Charge) -> str:
    if charge.payment is PaymentState.REFUNDED:
        by = f" by {clean(charge.refund_transaction)}" if charge.refund_transaction else ""
        return f"refunded{by}; the signed record is in: rail402 charges show {charge.id}"
    if charge.refund_due_at is not None:
        return "granted; its payer fetches the money with an invoice and the proof of the payment"
    if is_open(charge):
        return f"not known yet: {clean(charge.last_word)}; run: rail402 charges reconcile"
    return f"not refunded: {clean(charge.last_word) or 'the rail refused'}; nothing has moved"


def _refund_code(charge: Charge) -> ExitCode:
    if charge.payment is PaymentState.REFUNDED or charge.refund_due_at is not None:
        return ExitCode.DONE
    return ExitCode.STILL_OPEN if is_open(charge) else ExitCode.FAILED


@charges.command(help=_RECONCILE_HELP)
def reconcile(config: Config = _CONFIG, as_json: AsJson = False) -> None:
    gate = _gate(config)

    def progress(seen: int, of: int) -> None:
        if seen % _SHOW_PROGRESS_EVERY == 0 and seen < of:
            typer.echo(f"looked at {seen} of {of}", err=True)

    async def work() -> Report:
        async with _opened(gate):
            return await gate.reconcile_all(progress)

    report = _run(work())
    if as_json:
        print_json(report.facts())
    else:
        show_report(new_console(), report, now=system_clock())
    raise typer.Exit(ExitCode.STILL_OPEN if report.open else ExitCode.DONE)


# --- opening


def _gate(config: Path) -> Gate:
    from rail402.server.toml import gate_from_toml  # needs a web framework, which who only lists charges may lack

    gate = gate_from_toml(config)
    without_telemetry()
    return gate


@asynccontextmanager
async def _opened(gate: Gate) -> AsyncIterator[None]:
    """Open the store and the rails, and serve nothing."""
    await gate.start(reconciling=False)
    try:
        yield
    finally:
        await gate.close()


async def _with_store(config: Path, read: Callable[[Store], Awaitable[T]]) -> T:
    store = _store_of(config)
    await store.start()
    try:
        return await read(store)
    finally:
        await store.close()


def _store_of(config: Path) -> Store:
    """Return the store of a `rail402.toml`, whose other secrets need not be there."""
    file = TomlFile(config)
    server = file.data.get("server", {})
    url = server.get("store", "sqlite:///charges.db") if isinstance(server, dict) else None
    if not isinstance(url, str):
        raise file.error(("server", "store"), 'must be a text such as "sqlite:///charges.db"')
    try:
        if url.startswith(("env:", "file:")):
            url = resolve_secret(url)
        if url == "memory://":
            raise ConfigurationError("memory:// is in the server's own process: nothing else can look into it")
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
            raise ConfigurationError(f"there is no {url} here; run this where the server runs, in its directory")
        return open_store(url)
    except (ConfigurationError, ValueError) as error:
        detail = error.detail if isinstance(error, ConfigurationError) else str(error)
        raise file.error(("server", "store"), detail) from error


def _run(work: Awaitable[T]) -> T:
    async def run() -> T:
        return await work

    return asyncio.run(run())
