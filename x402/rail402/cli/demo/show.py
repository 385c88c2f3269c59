"""The demo for people: each purchase with its 402, its payment and its receipt decoded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rail402.cli.demo.agent import Bought, Facts
from rail402.dialects.auth_params import parse

__all__ = ["show"]

_SECRET = ("signature", "preimage", "spt", "token", "opaque", "id", "macaroon")
_LONG = 42


def show(facts: Facts, console: Console | None = None) -> None:
    """Print the facts."""
    console = console or Console(highlight=False)
    console.print(f"A publisher at [bold]{facts.url}[/], and an agent with three wallets of play money.\n")
    for each in facts.bought:
        console.print(_panel(each))
    console.print(_overview(facts))
    for refusal in facts.refusals:
        console.print(f"refused: {refusal}", style="yellow")
    for problem in facts.problems:
        console.print(f"problem: {problem}", style="red")
    console.print(Text(facts.summary, style="bold green" if facts.ok else "bold red"), soft_wrap=True)


def _panel(each: Bought) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for title, name, decoded in (*_challenge(each), *_payment(each), *_receipt(each)):
        grid.add_row(Text(title, style="bold cyan"), Text(name, style="cyan"))
        for key, value in _rows(decoded):
            grid.add_row(f"  {key}", value)
    rail = each.purchase.rail if each.purchase else "not paid"
    return Panel(grid, title=f"GET {each.path} · {rail}", title_align="left", box=box.ROUNDED)


def _challenge(each: Bought) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    required = each.challenge.get("payment-required")
    if required and each.purchase and each.purchase.dialect == "x402-v2":
        yield "402", "PAYMENT-REQUIRED", _from_base64(required)["accepts"][0]
    if each.purchase and each.purchase.dialect == "mpp":
        for scheme in parse(each.challenge.get("www-authenticate", "")):
            if scheme.name == "payment":
                params = dict(scheme.params)
                yield "402", "WWW-Authenticate", params | {"request": _from_base64(params.get("request") or "")}
    if each.purchase and each.purchase.dialect == "x-receipt":
        yield "402", "body", json.loads(each.challenge_body)["payment"]


def _payment(each: Bought) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    signature, login, proof = (each.proof.get(name) for name in ("payment-signature", "authorization", "x-receipt"))
    if signature:
        yield "payment", "PAYMENT-SIGNATURE", _from_base64(signature)["payload"]
    elif login:
        yield "payment", "Authorization", _from_base64(login.split(" ", 1)[1])["payload"]
    elif proof:
        yield "payment", "X-Receipt", {"preimage": proof}


def _receipt(each: Bought) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    if each.receipt is not None:
        yield "receipt", "Receipt-Record", each.receipt.model_dump(by_alias=True, exclude_none=True)


def _rows(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _rows(item, f"{prefix}{key}.")
        else:
            yield prefix + key, _short(key, item)


def _short(key: str, item: object) -> str:
    """Return a value as it is shown: secrets only by their first characters, even those of play money."""
    text = item if isinstance(item, str) else json.dumps(item)
    if key in _SECRET and len(text) > 12:
        return f"{text[:8]}… ({len(text)} characters)"
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]}…{text[-8:]}"


def _overview(facts: Facts) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("route", "rail", "dialect", "price", "received", "receipt"):
        table.add_column(column, no_wrap=True)
    for each in facts.bought:
        rail = each.purchase.rail if each.purchase else "–"
        dialect, price = (each.purchase.dialect, str(each.purchase.price)) if each.purchase else ("–", "–")
        received = str(facts.received.get(rail, "–"))
        receipt = "verified" if each.receipt else "not verified"
        table.add_row(each.path, rail, dialect, price, received, receipt)
    return table


def _from_base64(text: str) -> dict[str, Any]:
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    decoded: dict[str, Any] = json.loads(base64.b64decode(padded))
    return decoded
