"""`rail402 get` and `rail402 post`: one request, paid for within the budget if it has to be."""

from __future__ import annotations

import asyncio
import base64
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from rail402.cli.asking import is_confirmed
from rail402.cli.body import Output, Raw, check_output, write_body
from rail402.cli.exit_codes import ExitCode
from rail402.cli.progress import Progress
from rail402.cli.request import Data, Header, Url, build_request
from rail402.cli.show import clean, in_sat, new_console, print_json, show_facts
from rail402.cli.telemetry import without_telemetry
from rail402.client.approval import question
from rail402.client.budget import Budget
from rail402.client.choice import OF_THE_OWNER
from rail402.client.fetch import fetch
from rail402.client.httpx import EXTENSION
from rail402.client.journal import Journal
from rail402.client.limits import Room
from rail402.client.payer import Payer
from rail402.client.records import Approve, Purchase, Quote
from rail402.client.toml import journal_from_toml, payer_from_toml, sandbox_journal, sandbox_payer, wallets_file
from rail402.clock import system_clock
from rail402.errors import (
    AdministrativePaymentRequired,
    BudgetExceeded,
    ClientError,
    ConfigurationError,
    NoUsableOffer,
    PaymentActionRequired,
    Rail402Error,
    StoreError,
)
from rail402.money import Money

__all__ = ["Wallets", "get", "open_journal", "open_payer", "post"]

_WALLETS: Final = "~/.config/rail402/wallets.toml"
_HELP: Final = """{what} and pay for it if it is answered with a 402, within the budget.

The body goes to standard output; what was paid, and whether the receipt verifies, goes to standard error. The same
command after an interruption goes on with the same payment and never makes a second one."""

_SANDBOX: Final = "sandbox"
Wallets = Annotated[
    str | None,
    typer.Option(
        help=f"A wallets.toml, or the word {_SANDBOX} for play money; $RAIL402_WALLETS or {_WALLETS} if left out."
    ),
]
_Max = Annotated[
    str | None, typer.Option("--max", help="The most to pay, such as '0.10 USD'; never more than the budget allows.")
]
_Rails = Annotated[list[str] | None, typer.Option("--rail", help="Pay on this rail only; repeatable.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be paid, and pay nothing.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead: answer, body and purchase.")]

_TIMEOUT: Final = 60
"""Seconds to wait for the server at each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Get:
    """The options of `get`, as typer reads them off the class."""

    url: Url
    header: Header = None
    wallets: Wallets = None
    most: _Max = None
    rail: _Rails = None
    dry_run: _DryRun = False
    output: Output = None
    raw: Raw = False
    as_json: _Json = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post(_Get):
    """Those of `post`."""

    data: Data = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is asked for, who pays, and what else the options say."""

    request: httpx.Request
    payer: Payer
    options: _Get


def _command(options: type[_Get], method: str, what: str) -> Callable[..., None]:
    """Return a command with the options of a class."""

    def command(**given: Any) -> None:
        said = options(**given)
        data = (said.data or "") if isinstance(said, _Post) else None
        request = build_request(said.url, method, said.header or [], data)
        check_output(said.output)
        payer = open_payer(said.wallets, rails=said.rail or [], most=said.most)
        _run(_Asked(request=request, payer=payer, options=said))

    command.__name__, command.__doc__ = method.lower(), _HELP.format(what=what)
    command.__signature__ = inspect.signature(options, eval_str=True)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


get = _command(_Get, "GET", "Get a URL,")
post = _command(_Post, "POST", "Post to a URL,")


def open_payer(wallets: str | None, *, rails: Sequence[str] = (), most: str | None = None) -> Payer:
    """Return the payer that the options name.

    Raises:
        ConfigurationError: there is no wallets.toml, or it is wrong.
        typer.BadParameter: an amount that is none, or that the budget's limits cannot be compared with.
    """
    at_most = None if most is None else _most(most, wallets)
    if wallets == _SANDBOX:
        payer = sandbox_payer(rails=rails, at_most=at_most)
    else:
        payer = payer_from_toml(_file(wallets), rails=rails, at_most=at_most)
    without_telemetry()
    return payer


def _most(text: str, wallets: str | None) -> Money:
    """Return the most to pay, which has to be in a currency that the budget has a limit in."""
    _, budget = open_journal(wallets)
    try:
        most = Money.parse(text)
        budget.tightened(most)
    except ConfigurationError as error:
        raise typer.BadParameter(error.detail, param_hint="--max") from error
    return most


def open_journal(wallets: str | None) -> tuple[Journal, Budget]:
    """Return the journal, not yet started, and the budget that `--wallets` names.

    Raises:
        ConfigurationError: there is no wallets.toml, or it is wrong.
    """
    return sandbox_journal() if wallets == _SANDBOX else journal_from_toml(_file(wallets))


def _file(wallets: str | None) -> Path:
    path = wallets_file() if wallets is None else Path(wallets)
    if wallets is None and not path.exists():
        raise ConfigurationError(f"there is no {path}; make it with `rail402 init`, or try --wallets {_SANDBOX}")
    return path


def _run(asked: _Asked) -> None:
    try:
        if asked.options.dry_run:
            asyncio.run(_quote(asked))
            return
        response, room = asyncio.run(_buy(asked))
    except ClientError as error:
        _fail(asked, error, _code_of(error))
    except Rail402Error as error:
        _fail(asked, error, ExitCode.FAILED)
    except (httpx.HTTPError, TimeoutError, OSError) as error:
        _no_answer(asked, str(error) or type(error).__name__)
    else:
        _tell(asked, response, room)


async def _buy(asked: _Asked) -> tuple[httpx.Response, Room | None]:
    """Return the answer and, where somebody is watching, what is left to spend."""
    request, progress = asked.request, None
    if _is_watched(asked):
        progress = Progress(new_console(stderr=True))
        asked.payer.on_progress = progress.tell
    if sys.stdin.isatty() and sys.stderr.isatty():
        asked.payer.approve = _asking(progress)
    with progress or nullcontext():
        async with asked.payer as payer:
            response = await fetch(
                str(request.url), method=request.method, headers=request.headers, body=request.content, payer=payer
            )
            purchase: Purchase | None = response.extensions.get(EXTENSION)
            room = None
            if progress is not None and purchase is not None:
                with suppress(StoreError):  # that is no reason to lose what was bought
                    room = await payer.room_after(purchase.record_id)
            return response, room


def _is_watched(asked: _Asked) -> bool:
    """Say whether a person sees what goes on."""
    return sys.stderr.isatty() and not asked.options.as_json


def _asking(progress: Progress | None) -> Approve:
    """Return what asks whoever sits at the terminal. Nothing else runs meanwhile; an answer after the offer's end is
    refused."""

    async def approve(quote: Quote) -> bool:
        quiet: AbstractContextManager[None] = nullcontext() if progress is None else progress.aside()
        with quiet:
            return is_confirmed(clean(in_sat(question(quote)), 4000))

    return approve


async def _quote(asked: _Asked) -> None:
    async with asked.payer as payer, httpx.AsyncHTTPTransport() as inner:
        request = asked.request
        request.extensions = {"timeout": httpx.Timeout(_TIMEOUT).as_dict()}
        quote = await payer.quote(request, inner)
    if asked.options.as_json:
        print_json({"url": str(asked.request.url), "quote": None if quote is None else _terms(quote)})
    elif quote is None:
        typer.echo("it is not answered with a 402: nothing would be paid")
    else:
        terms = _terms(quote) | {"price": in_sat(quote.price), "total": in_sat(quote.total)}
        show_facts(new_console(), "would be paid", terms, now=system_clock(), style="green")


def _terms(quote: Quote) -> dict[str, Any]:
    offer = quote.offer
    return {
        "price": str(quote.price),
        "total": str(quote.total),
        "wallet": quote.wallet,
        "rail": offer.rail,
        "network": offer.network,
        "asset": offer.asset,
        "amount": str(offer.amount),
        "payee": offer.payee,
        "dialect": offer.dialect,
        "flow": offer.flow.value,
        "expires_at": offer.expires_at,
    }


# --- what is said


def _tell(asked: _Asked, response: httpx.Response, room: Room | None) -> None:
    """Hand over the body and say what was paid; end the command."""
    purchase: Purchase | None = response.extensions.get(EXTENSION)
    try:
        if asked.options.output is not None or not asked.options.as_json:
            write_body(response.content, asked.options.output, raw=asked.options.raw)
    except OSError as error:
        typer.echo(f"rail402: the body cannot be written: {error.strerror} · {_bought(purchase)}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    if asked.options.as_json:
        print_json(_answer(asked, response, purchase))
    else:
        typer.echo(f"{response.status_code} {clean(response.reason_phrase)} · {_bought(purchase)}", err=True)
        if purchase is not None and _is_watched(asked):
            typer.echo(clean(_account(purchase, room)), err=True)
    if response.status_code < 400:
        raise typer.Exit(ExitCode.DONE)
    is_known = purchase is None or purchase.outcome == "paid"
    raise typer.Exit(ExitCode.FAILED if is_known else ExitCode.STILL_OPEN)


def _answer(asked: _Asked, response: httpx.Response, purchase: Purchase | None) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "url": str(response.url),
        "status": response.status_code,
        "content_type": response.headers.get("content-type"),
        "purchase": None if purchase is None else _facts(purchase),
    }
    if asked.options.output is not None:
        return answer | {"output": str(asked.options.output)}
    try:
        return answer | {"body": response.content.decode()}
    except UnicodeDecodeError:
        return answer | {"body_base64": base64.b64encode(response.content).decode()}


def _facts(purchase: Purchase) -> Mapping[str, Any]:
    receipt = purchase.receipt
    return {
        "record_id": purchase.record_id,
        "outcome": purchase.outcome,
        "price": str(purchase.price),
        "fee": None if purchase.fee is None else str(purchase.fee),
        "rail": purchase.rail,
        "dialect": purchase.dialect,
        "receipt": None if receipt is None else receipt.model_dump(mode="json", by_alias=True, exclude_none=True),
        "receipt_error": purchase.receipt_error,
    }


def _bought(purchase: Purchase | None) -> str:
    if purchase is None:
        return "nothing was paid"
    fee = f" and {purchase.fee} in fees" if purchase.fee is not None and purchase.fee.amount else ""
    paid = "paid" if purchase.outcome == "paid" else "perhaps paid"
    said = [in_sat(f"{paid} {purchase.price}{fee}")]
    said.append(f"on {purchase.rail} ({purchase.dialect})")
    if purchase.receipt is not None:
        said.append("receipt verified")
    elif purchase.receipt_error is not None:
        said.append(f"its receipt is not to be trusted: {clean(purchase.receipt_error)}")
    return " · ".join([*said, purchase.record_id])


def _account(purchase: Purchase, room: Room | None) -> str:
    """Return what was spent in all, and what may be."""
    price, fee = purchase.price, purchase.fee
    if fee is None or fee.currency == price.currency:
        spent = str(price if fee is None else price + fee)
    else:
        spent = f"{price} and {fee}"
    left = [] if room is None else [f"{room.left} of {room.limit} {room.per} is left"]
    if purchase.outcome == "paid":
        return in_sat(" · ".join([f"paid {spent} in all", *left]))
    return in_sat(" · ".join([*left, f"{spent} held until it is known: rail402 receipts recover"]))


def _code_of(error: ClientError) -> ExitCode:
    match error:
        case AdministrativePaymentRequired():
            return ExitCode.ADMINISTRATIVE
        case BudgetExceeded():
            return ExitCode.OVER_BUDGET
        case _ if error.code in OF_THE_OWNER:
            return ExitCode.OVER_BUDGET
        case _:
            return ExitCode.NOT_PAYABLE if error.outcome == "not_paid" else ExitCode.STILL_OPEN


def _no_answer(asked: _Asked, why: str) -> None:
    """Say that nothing came back; nothing was paid then, or it would be another error."""
    if asked.options.as_json:
        print_json({"url": str(asked.request.url), "status": None, "error": why})
    else:
        typer.echo(f"rail402: no answer from {asked.request.url}: {clean(why)}", err=True)
    raise typer.Exit(ExitCode.FAILED)


def _fail(asked: _Asked, error: Rail402Error, code: ExitCode) -> None:
    """Say why it did not go as asked, and what became of the money; end the command."""
    outcome = error.outcome if isinstance(error, ClientError) else None
    record = error.record_id if isinstance(error, ClientError) else None
    link = error.url if isinstance(error, PaymentActionRequired) else None
    why = str(error)
    if asked.options.rail and isinstance(error, NoUsableOffer):
        why += "; wallets on other rails are left out by --rail"
    if asked.options.as_json:
        said = {"code": error.code, "error": why, "outcome": outcome, "record_id": record, "action_url": link}
        print_json({"url": str(asked.request.url), **said})
    else:
        typer.echo(f"rail402: {clean(in_sat(why), 2000)}", err=True)
        if link is not None:
            typer.echo(f"a person has to act at {clean(link, 4096)}; then run the same command again", err=True)
    raise typer.Exit(code)
