"""`rail402 inspect`: every offer of a 402, and what is wrong with each; it pays nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rail402.cli.exit_codes import ExitCode
from rail402.cli.hiding import revealed
from rail402.cli.reading import DIALECTS, PAYMENT_WORDS, SAFE_BYTES, Entry, challenge_bytes, installed, read_entries
from rail402.cli.request import MAX_BODY, Data, Header, Method, Url, ask, build_request, order_of
from rail402.cli.show import AsJson, clean, new_console, print_json, show_facts
from rail402.client.unsold import unsold
from rail402.clock import system_clock
from rail402.dialects import auth_params
from rail402.errors import MalformedInput
from rail402.protocol.base import Json, parse_json
from rail402.protocol.dialect import Fields
from rail402.protocol.order import Order

__all__ = ["inspect"]

_LIKE_TERMS = re.compile(r"payment|price|l402|paywall", re.IGNORECASE)

_MEANINGS: Final = {
    401: "it asks for a login, not for money: a payment does not help",
    403: "it is forbidden: a payment does not help",
    404: "there is nothing there, and nothing is sold",
    405: "this method is not allowed there; try another one with --method",
    409: "the request conflicts with another one: wait, then send the same again",
    429: "too many requests: wait, and pay nothing",
    503: "it cannot be served now: wait, and pay nothing",
}

_STYLES: Final = {"payable": "green", "refused": "red", "unreadable": "red"}

_HELP = """Show what a 402 asks for, on which rails, and what is wrong with offers. Pays nothing, and asks no wallet.

Makes one request, sends no payment and follows no redirect."""

_All = Annotated[bool, typer.Option("--all", help="Show every offer of every dialect, with all that it says.")]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server answered; `body` is None where it was too large or too slow to be read."""

    order: Order
    status: int
    reason: str
    fields: Fields
    body: bytes | None


def inspect(
    url: Url,
    method: Method = None,
    header: Header = None,
    data: Data = None,
    every: _All = False,
    as_json: AsJson = False,
    timeout: Annotated[int, typer.Option(min=1, max=300, help="Seconds for the whole answer.")] = 15,
) -> None:
    request = build_request(url, method, header or [], data)
    try:
        answer = asyncio.run(_ask(request, timeout))
    except (httpx.HTTPError, TimeoutError, OSError) as error:
        why = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        if as_json:
            print_json({"url": str(request.url), "status": None, "error": why})
        else:
            typer.echo(f"rail402 inspect: no answer from {request.url}: {clean(why)}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    now = system_clock()
    plugins, missing = installed()
    entries = read_entries(plugins, answer.fields, answer.body or b"", now=now, order=answer.order)
    report = _report(answer, entries, missing, now)
    if as_json:
        print_json(report)
    else:
        _show(report, now, every=every)
    raise typer.Exit(_exit_code(report))


inspect.__doc__ = _HELP


# --- the request


async def _ask(request: httpx.Request, timeout: int) -> _Answer:
    headers = {"User-Agent": "rail402-inspect", "Accept-Encoding": "gzip, deflate"}
    async with asyncio.timeout(timeout), httpx.AsyncClient(timeout=timeout, headers=headers) as client:
        response, body = await ask(client, request)
    return _Answer(
        order=order_of(request),
        status=response.status_code,
        reason=response.reason_phrase,
        fields=Fields.from_raw(response.headers.raw),
        body=body,
    )


# --- what came of it


def _report(answer: _Answer, entries: Sequence[Entry], missing: Sequence[str], now: int) -> dict[str, Any]:
    """Return all that is to be said, as JSON values."""
    offers = [revealed(entry.facts(now), secrets=False) for entry in entries]
    size = challenge_bytes(answer.fields)
    return {
        "url": answer.order.url,
        "method": answer.order.method,
        "status": answer.status,
        "reason": answer.reason,
        "kind": _kind(answer, entries),
        "meaning": _meaning(answer, entries),
        "redirects_to": _field(answer, "location") if 300 <= answer.status < 400 else None,
        "retry_after": _field(answer, "retry-after"),
        "offers": offers,
        "counts": {verdict: sum(1 for entry in entries if entry.verdict == verdict) for verdict in _COUNTED},
        "pay_urls": _pay_urls(answer),
        "challenge_bytes": size,
        "cache_control": _field(answer, "cache-control"),
        "content_type": _field(answer, "content-type"),
        "body_bytes": None if answer.body is None else len(answer.body),
        "notes": [*_notes(answer, entries, size), *missing],
    }


_COUNTED: Final = ("payable", "refused", "unreadable", "unknown", "ignored")


def _kind(answer: _Answer, entries: Sequence[Entry]) -> str:
    if answer.status != 402:
        return "redirect" if 300 <= answer.status < 400 else "not a 402"
    if any(entry.verdict == "payable" for entry in entries):
        return "payable"
    return "not payable" if entries or _strange_terms(answer) or unsold(answer.body) else "administrative"


def _meaning(answer: _Answer, entries: Sequence[Entry]) -> str:
    status, kind = answer.status, _kind(answer, entries)
    if kind == "payable":
        return "payment is asked for, and at least one offer can be paid"
    if kind == "not payable" and not entries and unsold(answer.body):
        return "payment is asked for, and none of the server's own rails can charge the price"
    if kind == "not payable":
        return "payment is asked for, and no offer can be paid with the rails installed here"
    if kind == "administrative":
        return "a 402 without payment terms: a billing matter of an account, which no payment settles"
    if kind == "redirect":
        return "it is somewhere else; a payment never follows a redirect, so inspect that address itself"
    if 200 <= status < 300:
        return "it was served without a payment"
    return _MEANINGS.get(status, "the server failed" if status >= 500 else "the request was refused, and not for money")


def _exit_code(report: Json) -> ExitCode:
    codes = {"payable": ExitCode.DONE, "not payable": ExitCode.NOT_PAYABLE, "administrative": ExitCode.ADMINISTRATIVE}
    return codes.get(report["kind"], ExitCode.NOT_402)


def _notes(answer: _Answer, entries: Sequence[Entry], size: int) -> list[str]:
    notes = []
    passed_over = sum(1 for entry in entries if entry.verdict in ("unreadable", "ignored"))
    if passed_over:
        notes.append(f"a client that follows the specifications passes over {passed_over} of the challenges")
    if answer.status != 402 and entries:
        notes.append(f"it holds payment terms, and every client ignores them: the status is {answer.status}, not 402")
    if _v2_in_body(answer.body) and not answer.fields.all("payment-required"):
        notes.append("the body holds an x402 v2 challenge, which clients ignore: it belongs in PAYMENT-REQUIRED")
    schemes = {scheme.name for line in answer.fields.all("www-authenticate") for scheme in auth_params.parse(line)}
    if schemes - PAYMENT_WORDS:
        notes.append(f"WWW-Authenticate also asks for a login: {', '.join(sorted(schemes - PAYMENT_WORDS)[:8])}")
    told = unsold(answer.body) if answer.status == 402 and not entries else None
    if told is not None:
        notes.append(f"the server says: {told[1]}")
    notes += [f"not known here: the field {name}" for name in _strange_terms(answer)]
    if size > SAFE_BYTES:
        notes.append(f"warning: {size} bytes of challenge fields; many proxies buffer no more than {SAFE_BYTES}")
    if answer.status == 402 and "no-store" not in (_field(answer, "cache-control") or "").lower():
        notes.append("warning: without Cache-Control: no-store a cache may give one payer's 402 to another")
    if answer.body is None:
        notes.append("the body was too large or too slow to be read")
    return notes


def _strange_terms(answer: _Answer) -> list[str]:
    """Return the names of fields that look like payment terms of a dialect that is not known here."""
    known = {name.lower() for dialect in DIALECTS for name in dialect.response_fields} | {"receipt-record", "vary"}
    names = dict.fromkeys(name for name, _ in answer.fields if _LIKE_TERMS.search(name) and name not in known)
    return [name for name in names if not name.startswith("access-control-")][:8]


def _pay_urls(answer: _Answer) -> list[dict[str, str]]:
    """Return where a person can pay, as a rail402 server says it in the body."""
    offers = _json_body(answer.body).get("offers")
    links = [offer for offer in offers if isinstance(offer, dict)] if isinstance(offers, list) else []
    return [
        {"rail": str(link.get("rail", ""))[:64], "price": str(link.get("price", ""))[:64], "url": link["pay_url"]}
        for link in links[:16]
        if isinstance(link.get("pay_url"), str) and link["pay_url"].startswith(("https://", "http://"))
    ]


def _v2_in_body(body: bytes | None) -> bool:
    message = _json_body(body)
    return message.get("x402Version") == 2 and isinstance(message.get("accepts"), list)


def _json_body(body: bytes | None) -> Json:
    try:
        return parse_json(body or b"", field="body", max_bytes=MAX_BODY)
    except MalformedInput:
        return {}


def _field(answer: _Answer, name: str) -> str | None:
    return ", ".join(answer.fields.all(name)) or None


# --- for people


@dataclass(frozen=True, slots=True)
class _Payment:
    """What one payment is for: offers that differ in nothing but their dialect and when they expire."""

    offer: Json
    dialects: str
    expiries: Sequence[int]


def _payments(offers: Sequence[Json]) -> list[_Payment]:
    alike: dict[str, list[Json]] = {}
    for offer in offers:
        terms = {name: fact for name, fact in offer.items() if name not in _OF_DIALECTS}
        alike.setdefault(json.dumps(terms, sort_keys=True), []).append(offer)
    return [
        _Payment(
            offer=same[0],
            dialects=", ".join(dict.fromkeys(offer["dialect"] for offer in same)),
            expiries=sorted({offer["expires_at"] for offer in same if "expires_at" in offer}),
        )
        for same in alike.values()
    ]


def _show(report: Json, now: int, *, every: bool) -> None:
    console, offers = new_console(), report["offers"]
    payments = _payments(offers)
    console.print(Text(clean(f"{report['method']} {report['url']} → {report['status']} {report['reason']}"), "bold"))
    console.print(_lead(report))
    for name in ("redirects_to", "retry_after"):
        if report[name]:
            console.print(f"{name.replace('_', ' ')}: {clean(report[name])}")
    if payments:
        console.print("", _table(payments), sep="\n")
    if every:
        _show_offers(console, offers, now)
    else:
        _show_payments(console, payments, now)
    for link in report["pay_urls"]:
        console.print(Text(f"a person can pay {clean(link['price'])} at {clean(link['url'], 4096)}"), soft_wrap=True)
    if report["status"] == 402:
        size, cached = report["challenge_bytes"], clean(report["cache_control"] or "not said")
        console.print(f"challenge fields: {size} bytes · Cache-Control: {cached}")
    for note in report["notes"]:
        console.print(Text(f"· {clean(note)}", "yellow" if note.startswith("warning") else ""))
    if offers and not every:
        console.print(f"--all shows all that each offer says; there are {len(offers)}")


def _lead(report: Json) -> str:
    """Return the meaning, and of offers that can be paid no more than is known: no wallet was asked."""
    if report["kind"] != "payable":
        return str(report["meaning"])
    count = f"{report['counts']['payable']} of {len(report['offers'])} offers"
    return f"payment is asked for; {count} {_WORDS['payable']}, and no wallet was asked"


def _table(payments: Sequence[_Payment]) -> Table:
    """Return a row for each payment; the last column says what is wrong with some."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("rail", "network", "price", "dialects", ""):
        table.add_column(name, overflow="fold")
    for payment in payments:
        offer = payment.offer
        terms = (offer.get("rail"), ", ".join(offer.get("network_names", ())), offer.get("price"), payment.dialects)
        wrong = "" if offer["verdict"] == "payable" else _WORDS[offer["verdict"]]
        table.add_row(*(Text(clean(term or "–")) for term in terms), Text(wrong, _style(offer)))
    return table


def _show_payments(console: Console, payments: Sequence[_Payment], now: int) -> None:
    for number, payment in enumerate(payments, 1):
        title = _title(number, payment.offer.get("rail", payment.dialects), payment.offer)
        show_facts(console, title, _details(payment), now=now, style=_style(payment.offer))


def _details(payment: _Payment) -> dict[str, Any]:
    """Return what the table does not say, each fact once; of an offer that is refused, nothing would be paid."""
    facts = {name: fact for name, fact in payment.offer.items() if name not in _IN_TABLE}
    if len(payment.expiries) > 1:
        del facts["expires_at"]
        facts["expires_first_at"] = payment.expiries[0]
    paid = facts.pop("would_be_paid", None)
    if not paid or payment.offer["verdict"] != "payable":
        return facts
    more = {name: clean(fact, _LONG) if isinstance(fact, str) else fact for name, fact in paid.items()}
    return facts | {"would_be_paid": "as follows"} | {name: fact for name, fact in more.items() if name not in facts}


def _show_offers(console: Console, offers: Sequence[Json], now: int) -> None:
    shown: dict[str, int] = {}
    for number, offer in enumerate(offers, 1):
        facts = {name: value for name, value in offer.items() if name not in _IN_TITLE}
        paid = facts.get("would_be_paid")
        if paid and (first := shown.setdefault(json.dumps(paid), number)) != number:
            facts["would_be_paid"] = f"the same as {first}"
        show_facts(console, _title(number, offer["dialect"], offer), facts, now=now, style=_style(offer))


def _title(number: int, who: str, offer: Json) -> str:
    return f"{number} · {who} · {offer.get('price', 'no price')} · {_WORDS[offer['verdict']]}"


def _style(offer: Json) -> str:
    return _STYLES.get(offer["verdict"], "yellow")


_LONG: Final = 80  # characters of a text in the short form, such as an invoice
_OF_DIALECTS: Final = ("dialect", "expires_at", "expires_in_seconds")
_IN_TITLE: Final = ("dialect", "verdict", "price", "expires_in_seconds")
_IN_TABLE: Final = (*_IN_TITLE, "rail", "network_names", "amount_atomic")
_WORDS: Final = {
    "payable": "can be read and paid by the rails here",
    "refused": "refused",
    "unreadable": "cannot be read",
    "unknown": "not known here",
    "ignored": "passed over",
}
