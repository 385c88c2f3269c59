"""`rail402 receipts`: what was bought, with the receipts, out of the journal; and closing what is open."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from rail402.cli.asking import confirm
from rail402.cli.exit_codes import ExitCode, failed
from rail402.cli.pay import Wallets, open_journal, open_payer
from rail402.cli.show import AsJson, clean, in_sat, new_console, print_json, relative, show_facts, show_rows
from rail402.client.journal import Journal
from rail402.client.payer import Payer, Recovered
from rail402.client.receipts import check_subject
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.client.refunds import LookedAt, find_refunds
from rail402.clock import system_clock
from rail402.errors import ConfigurationError, MalformedInput
from rail402.money import Money
from rail402.protocol.receipt import verify_receipt

__all__ = ["receipts"]

T = TypeVar("T")

_PAGE: Final = 500
_PREFIX: Final = "rec_"
_NAMED: Final = 8
_RECEIPTS: Final = {True: "yes", False: "bad", None: "no"}
_STYLES: Final = {PurchaseState.COMMITTED: "green", PurchaseState.RELEASED: "dim"}

receipts = typer.Typer(
    name="receipts",
    help="What was bought, with the receipts; and closing what is open. No wallet is opened but by recover.",
    no_args_is_help=True,
)

RecordId = Annotated[str, typer.Argument(metavar="RECORD", help="Its id, rec_…, as get prints it, or how it begins.")]

_LIST_HELP: Final = "List purchases, the newest first."
_SHOW_HELP: Final = "Show all that is known of one purchase. Proofs are not shown."
_VERIFY_HELP: Final = """\
Verify receipts offline, by the keys that were pinned when they came; all of them if none is named.

A purchase without a receipt is said to have none, which is no failure."""
_EXPORT_HELP: Final = "Print all purchases, the newest first, as CSV or as JSON lines."
_REFUNDS_HELP: Final = """\
Ask the sellers what they gave back, and write it down where they have signed it.

It counts in the budget as before: limits are for what leaves the wallets."""
_RECOVER_HELP: Final = """Ask the wallets what became of every purchase that is open.

What was not paid is released. What was paid stays open until the same request is made again and served."""
_WRITE_OFF_HELP: Final = """\
Give up a purchase that is open and cannot be resolved. It asks first, unless --yes is given.

It counts as spent, and the same request buys anew: if it was paid after all, that is paid twice."""


class Format(StrEnum):
    """What an export is written in."""

    CSV = "csv"
    JSONL = "jsonl"


@receipts.command("list", help=_LIST_HELP)
def list_receipts(
    wallets: Wallets = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="The record to go on from: the last one of the page before.")
    ] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are not resolved.")] = False,
    as_json: AsJson = False,
) -> None:
    async def read(journal: Journal) -> Sequence[PurchaseRecord]:
        if only_open:
            return (await journal.unresolved())[:limit]
        return await journal.newest(limit=limit, before=before)

    async def read_to_show(journal: Journal) -> list[tuple[PurchaseRecord, str]]:
        return [(each, _RECEIPTS[(await _verified(journal, each))["verified"]]) for each in await read(journal)]

    if as_json:
        print_json({"purchases": [_facts(record) for record in _run(wallets, read)]})
    else:
        _show_list(new_console(), _run(wallets, read_to_show), now=system_clock())


@receipts.command("show", help=_SHOW_HELP)
def show(record: RecordId, wallets: Wallets = None, as_json: AsJson = False) -> None:
    found = _run(wallets, lambda journal: _get(journal, record))
    facts = _facts(found) | {"receipt": found.receipt, "refund_receipt": found.refund_receipt}
    if as_json:
        print_json(facts)
    else:
        facts |= {name: in_sat(facts[name]) for name in _AMOUNTS if facts[name] is not None}
        for name in ("receipt", "refund_receipt"):
            facts[name] = "there is one; --json has its text" if facts[name] else None
        show_facts(new_console(), found.id, facts, now=system_clock(), style=_STYLES.get(found.state, "yellow"))


@receipts.command("verify", help=_VERIFY_HELP)
def verify(
    record: Annotated[list[str] | None, typer.Argument(metavar="RECORD", help="The ids, rec_….")] = None,
    wallets: Wallets = None,
    as_json: AsJson = False,
) -> None:
    async def check(journal: Journal) -> list[dict[str, Any]]:
        if record:
            return [await _verified(journal, await _get(journal, each)) for each in record]
        return [await _verified(journal, each) async for each in _all(journal)]

    results = _run(wallets, check)
    bad = sum(1 for result in results if result["verified"] is False)
    if as_json:
        print_json({"receipts": results})
    else:
        words = {True: "verified", False: "does not verify", None: "has none"}
        for result in results:
            why = f": {clean(result['error'])}" if result["error"] else ""
            typer.echo(f"{result['record']}  {words[result['verified']]}{why}")
        verified = sum(1 for result in results if result["verified"])
        typer.echo(f"{verified} verified, {bad} not, {len(results) - verified - bad} without a receipt")
    raise typer.Exit(ExitCode.FAILED if bad else ExitCode.DONE)


@receipts.command("export", help=_EXPORT_HELP)
def export(
    wallets: Wallets = None,
    form: Annotated[Format, typer.Option("--format", help="csv, or jsonl with the signed receipts.")] = Format.CSV,
) -> None:
    async def write(journal: Journal) -> None:
        if form is Format.CSV:
            typer.echo(_csv_line(_COLUMNS), nl=False)
        async for each in _all(journal):
            facts = _facts(each)
            if form is Format.CSV:
                typer.echo(_csv_line(["" if facts[name] is None else str(facts[name]) for name in _COLUMNS]), nl=False)
            else:
                signed = {"receipt": each.receipt, "refund_receipt": each.refund_receipt}
                typer.echo(json.dumps(facts | signed, separators=(",", ":")))

    _run(wallets, write)


@receipts.command("refunds", help=_REFUNDS_HELP)
def refunds(
    record: Annotated[list[str] | None, typer.Argument(metavar="RECORD", help="The ids, rec_….")] = None,
    wallets: Wallets = None,
    days: Annotated[int, typer.Option(min=1, max=10_000, help="How long ago it was bought, at most.")] = 30,
    as_json: AsJson = False,
) -> None:
    async def ask(journal: Journal) -> list[LookedAt]:
        since = system_clock() - days * 86_400
        if record:
            asked = [await _get(journal, each) for each in record]
        else:
            asked = [each async for each in _all(journal, since=since)]
        return [each async for each in find_refunds(journal, asked, now=system_clock())]

    found = _run(wallets, ask)
    bad = sum(1 for each in found if each.error is not None)
    if as_json:
        print_json({"asked": [_facts(each.record) | {"error": each.error} for each in found]})
    else:
        for each in found:
            if each.error is not None:
                typer.echo(f"{each.record.id}  {clean(each.error)}")
            elif each.record.refunded is not None:
                typer.echo(f"{each.record.id}  {in_sat(each.record.refunded)} given back")
        back = sum(1 for each in found if each.record.refunded is not None)
        typer.echo(f"{back} given back, of {len(found)} that were asked about")
    raise typer.Exit(ExitCode.FAILED if bad else ExitCode.DONE)


@receipts.command("recover", help=_RECOVER_HELP)
def recover(wallets: Wallets = None, as_json: AsJson = False) -> None:
    async def ask() -> list[dict[str, Any]]:
        async with open_payer(wallets) as payer:
            return [_facts(each.record) | _became(each, payer) for each in await payer.recover()]

    found = asyncio.run(ask())
    if as_json:
        print_json({"recovered": found})
    else:
        for each in found:
            typer.echo(f"{each['record']}  {each['outcome']}: {in_sat(each['advice'])} · {clean(each['url'], 200)}")
        typer.echo(f"{len(found)} were open")
    raise typer.Exit(ExitCode.STILL_OPEN if any(each["outcome"] == "unknown" for each in found) else ExitCode.DONE)


@receipts.command("write-off", help=_WRITE_OFF_HELP)
def write_off(
    record: RecordId,
    wallets: Wallets = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    found = _run(wallets, lambda journal: _get(journal, record))
    if not yes:
        for_what = clean(f"{found.order.method} {found.order.url}", 200)
        confirm(f"count {in_sat(_cost(found))} as spent, and never ask for {for_what} with it again?")
    try:
        closed = _run(wallets, lambda journal: journal.write_off(found.id, now=system_clock()))
    except ConfigurationError as error:  # it is not open, or it is being worked on
        raise failed(error.detail) from error
    if as_json:
        print_json(_facts(closed))
    else:
        typer.echo(f"{closed.id}  written off: {in_sat(_cost(closed))} count as spent")


def _cost(record: PurchaseRecord) -> Money:
    """Return what a purchase counts as."""
    return record.reserved if record.cost is None else record.cost


def _became(found: Recovered, payer: Payer) -> dict[str, str]:
    """Return what became of a purchase, and what to do about it."""
    advice = {
        "not_paid": "released",
        "paid": f"it did cost {_cost(found.record)}; the same request made again fetches what was bought",
        "unknown": "still open; the same request goes on with it",
    }
    if found.outcome == "unknown" and found.record.wallet not in payer.wallets:
        return {"outcome": found.outcome, "advice": f"still open; {found.record.without_wallet}"}
    left = found.record.lease_until - system_clock()
    if found.outcome == "unknown" and left > 0:
        busy = f"another process is at it, or ended in the middle of it; try again in {left} s"
        return {"outcome": found.outcome, "advice": busy}
    return {"outcome": found.outcome, "advice": advice[found.outcome]}


# --- the journal


def _run(wallets: str | None, work: Callable[[Journal], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _journal(wallets) as journal:
            return await work(journal)

    return asyncio.run(run())


@asynccontextmanager
async def _journal(wallets: str | None) -> AsyncIterator[Journal]:
    journal, _ = open_journal(wallets)
    if not journal.exists():
        raise failed(f"there is no journal {journal.address}: nothing was bought yet")
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


async def _get(journal: Journal, named: str) -> PurchaseRecord:
    """Return the purchase with that id, or the only one whose id begins so."""
    record = await journal.get(named)
    if record is not None:
        return record
    found = [each async for each in _all(journal) if len(named) > len(_PREFIX) and each.id.startswith(named)]
    if len(found) == 1:
        return found[0]
    name = clean(named, 80)
    if not found:
        raise failed(f"there is no purchase {name}; see `rail402 receipts list`")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    raise failed(f"several purchases begin with {name}: {', '.join(each.id for each in found[:_NAMED])}{more}")


async def _all(journal: Journal, *, since: int = 0) -> AsyncIterator[PurchaseRecord]:
    before = None
    while page := await journal.newest(limit=_PAGE, before=before):
        for record in page:
            if record.created_at < since:
                return
            yield record
        before = page[-1].id


async def _verified(journal: Journal, record: PurchaseRecord) -> dict[str, Any]:
    result: dict[str, Any] = {"record": record.id, "url": record.order.url, "verified": None, "error": None}
    if record.receipt is None:
        return result
    keys = {"keys": [dict(key) for key in await journal.pinned(record.order.origin)]}
    try:
        receipt = verify_receipt(record.receipt, keys, issuer=record.order.origin)
        check_subject(receipt, record)
    except MalformedInput as error:
        return result | {"verified": False, "error": str(error)}
    return result | {"verified": True, "transaction": receipt.transaction, "charge": receipt.charge}


# --- what is shown

_AMOUNTS: Final = ("price", "cost", "reserved", "refunded")
_COLUMNS: Final = (
    *("record", "created_at", "state", "method", "url", "rail", "network", "dialect"),
    *(*_AMOUNTS, "payee", "wallet", "detail"),
)


def _facts(record: PurchaseRecord) -> dict[str, Any]:
    """Return what is known of a purchase and is no secret."""
    return {
        "record": record.id,
        "created_at": record.created_at,
        "state": record.standing,
        "method": record.order.method,
        "url": record.order.url,
        "rail": record.offer.rail,
        "network": record.offer.network,
        "dialect": record.offer.dialect,
        "price": str(record.offer.price),
        "cost": None if record.cost is None else str(record.cost),
        "reserved": str(record.reserved),
        "refunded": None if record.refunded is None else str(record.refunded),
        "payee": record.offer.payee,
        "wallet": record.wallet,
        "detail": record.detail,
    }


def _csv_line(values: Sequence[str]) -> str:
    """Return a line of CSV; a text that a spreadsheet would take for a formula is kept from being one."""
    line = io.StringIO()
    csv.writer(line).writerow(
        [f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value for value in values]
    )
    return line.getvalue()


def _show_list(console: Console, records: Sequence[tuple[PurchaseRecord, str]], *, now: int) -> None:
    if not records:
        console.print("no purchase fits")
        return
    rows = [
        [
            Text(record.id),
            Text(relative(record.created_at - now)),
            Text(in_sat(record.offer.price)),
            Text(record.standing, _STYLES.get(record.state, "yellow")),
            Text(clean(record.offer.rail, 40)),
            Text(receipt),
            Text(clean(f"{record.order.method} {record.order.url}", 120)),
        ]
        for record, receipt in records
    ]
    show_rows(console, ("record", "when", "price", "state", "rail", "receipt", "for"), rows, below=3)
