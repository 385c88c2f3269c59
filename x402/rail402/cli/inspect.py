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
from rich.text import Text

from rail402.cli.exit_codes import ExitCode
from rail402.cli.hiding import revealed
from rail402.cli.reading import DIALECTS, PAYMENT_WORDS, SAFE_BYTES, Entry, challenge_bytes, installed, read_entries
from rail402.cli.request import MAX_BODY, Data, Header, Method, Url, ask, build_request, order_of
from rail402.cli.show import AsJson, clean, new_console, print_json, show_facts
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

_HELP = """Show every offer of a 402 and what is wrong with each. Pays nothing, and sends no payment.

Makes one request and follows no redirect."""


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
        _show(report, now)
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
    return "not payable" if entries or _strange_terms(answer) else "administrative"


def _meaning(answer: _Answer, entries: Sequence[Entry]) -> str:
    status, kind = answer.status, _kind(answer, entries)
    if kind == "payable":
        return "payment is asked for, and at least one offer can be paid"
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


def _show(report: Json, now: int) -> None:
    console = new_console()
    console.print(Text(clean(f"{report['method']} {report['url']} → {report['status']} {report['reason']}"), "bold"))
    console.print(report["meaning"])
    for name in ("redirects_to", "retry_after"):
        if report[name]:
            console.print(f"{name.replace('_', ' ')}: {clean(report[name])}")
    shown: dict[str, int] = {}
    for number, offer in enumerate(report["offers"], 1):
        title = f"{number} · {offer['dialect']} · {offer.get('price', 'no price')} · {_WORDS[offer['verdict']]}"
        facts = {name: value for name, value in offer.items() if name not in _IN_TITLE}
        paid = facts.get("would_be_paid")
        if paid and (first := shown.setdefault(json.dumps(paid), number)) != number:
            facts["would_be_paid"] = f"the same as {first}"
        show_facts(console, title, facts, now=now, style=_STYLES.get(offer["verdict"], "yellow"))
    for link in report["pay_urls"]:
        console.print(Text(f"a person can pay {clean(link['price'])} at {clean(link['url'], 4096)}"), soft_wrap=True)
    if report["status"] == 402:
        size, cached = report["challenge_bytes"], clean(report["cache_control"] or "not said")
        console.print(f"challenge fields: {size} bytes · Cache-Control: {cached}")
    for note in report["notes"]:
        console.print(Text(f"· {clean(note)}", "yellow" if note.startswith("warning") else ""))


_IN_TITLE: Final = ("dialect", "verdict", "price", "expires_in_seconds")
_WORDS: Final = {
    "payable": "can be paid",
    "refused": "refused",
    "unreadable": "cannot be read",
    "unknown": "not known here",
    "ignored": "passed over",
}
