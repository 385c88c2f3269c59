"""`rail402 decode`: what a string says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from rail402.cli.exit_codes import ExitCode
from rail402.cli.explaining import MAX_TEXT, READABLE, Explainer
from rail402.cli.hiding import revealed
from rail402.cli.reading import installed
from rail402.cli.show import AsJson, clean, new_console, print_json, show_facts
from rail402.client.bodies import read_sync
from rail402.clock import system_clock
from rail402.errors import MalformedInput
from rail402.plugins import Explained
from rail402.protocol.base import Json, parse_json

__all__ = ["decode"]

_MAX_JWKS: Final = 65_536
_SECONDS: Final = 10

_HELP = """Explain a text: a header, an invoice, a macaroon, a receipt, a token, a payment URI, the body of a 402.

Nothing is sent anywhere, except that --jwks fetches a URL. Secrets are shown only with --secrets."""


def decode(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="It, or a whole header line; - reads standard input, @PATH a file.")
    ],
    as_json: AsJson = False,
    secrets: Annotated[bool, typer.Option("--secrets", help="Show preimages, signatures and tokens in full.")] = False,
    jwks: Annotated[
        str | None, typer.Option(help="The issuer's JWK Set, a file or URL: verify the receipt with it.")
    ] = None,
) -> None:
    plugins, missing = installed()
    now = system_clock()
    try:
        explainer = Explainer(plugins, now=now, jwks=None if jwks is None else _load_jwks(jwks))
        explained = explainer.explain(_input(text))
        if jwks is not None and "signature_verifies" not in explained.facts:
            raise MalformedInput("jwks", f"verifies receipts, and this is: {explained.kind}")
    except MalformedInput as error:
        _refuse(error, as_json=as_json, missing=missing)
    facts = revealed(explained.facts, secrets=secrets)
    if as_json:
        print_json({"kind": explained.kind, "facts": facts, "notes": list(explained.notes)})
    else:
        _show(explained, facts, now)
    raise typer.Exit(ExitCode.FAILED if explained.facts.get("signature_verifies") is False else ExitCode.DONE)


decode.__doc__ = _HELP


def _show(explained: Explained, facts: Any, now: int) -> None:
    console = new_console()
    show_facts(console, explained.kind, facts, now=now)
    for note in explained.notes:
        console.print(f"· {clean(note)}")


def _refuse(error: MalformedInput, *, as_json: bool, missing: list[str]) -> None:
    if as_json:
        print_json({"kind": None, "error": str(error), "readable": list(READABLE), "missing_rails": missing})
    else:
        lines = ["It can read:", *(f"  {each}" for each in READABLE), *(clean(each) for each in missing)]
        typer.echo("\n".join([f"rail402 decode: {clean(str(error))}", *lines]), err=True)
    raise typer.Exit(ExitCode.FAILED)


def _input(text: str) -> str:
    """Return the text that an argument stands for, bounded.

    Raises:
        MalformedInput: its file cannot be read.
    """
    if text == "-":
        return sys.stdin.buffer.read(MAX_TEXT + 1).decode("utf-8", "replace")
    return _file(text[1:], MAX_TEXT).decode("utf-8", "replace") if text.startswith("@") else text


def _file(path: str, limit: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise MalformedInput("file", f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _load_jwks(place: str) -> Json:
    if not place.startswith(("https://", "http://")):
        return parse_json(_file(place, _MAX_JWKS), field="jwks", max_bytes=_MAX_JWKS)
    try:
        with httpx.Client(timeout=_SECONDS) as client, client.stream("GET", place) as response:
            body = read_sync(response, _MAX_JWKS) if response.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MalformedInput("jwks", f"cannot be fetched: {error or type(error).__name__}") from error
    if body is None:
        raise MalformedInput("jwks", f"cannot be fetched: status {response.status_code}, or too large or slow")
    return parse_json(body, field="jwks", max_bytes=_MAX_JWKS)
