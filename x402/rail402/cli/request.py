"""The one request of a command, as its options say it; what is no request, or would pay by itself, is wrong usage."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from rail402.cli.reading import PAYMENT_WORDS
from rail402.cli.show import clean
from rail402.client.bodies import read_async
from rail402.dialects import PAYMENT_FIELDS, auth_params
from rail402.protocol.base import nests_too_deep, sha256_hex
from rail402.protocol.order import Order

__all__ = ["MAX_BODY", "Data", "Header", "Method", "Url", "ask", "build_request", "order_of"]

MAX_BODY: Final = 1_048_576
"""Bytes of an answer's body that are read."""

Url = Annotated[str, typer.Argument(metavar="URL", help="What to ask for, http:// or https://.")]
Method = Annotated[str | None, typer.Option("--method", "-X", help="GET, or POST where there is --data.")]
Header = Annotated[list[str] | None, typer.Option("--header", "-H", help="A line 'Name: value'; repeatable.")]
Data = Annotated[str | None, typer.Option("--data", "-d", help="The body; - is standard input, @PATH a file.")]

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*)", re.ASCII)


def build_request(url: str, method: str | None, headers: Sequence[str], data: str | None) -> httpx.Request:
    """Return the request; a body that is JSON is said to be.

    Args:
        method: None for GET, or POST where there is `data`.
        headers: lines `Name: value`.
        data: the body, `-` for standard input, `@PATH` for a file; None without one.

    Raises:
        typer.BadParameter: one of them cannot be a part of a request, or a header is a payment.
    """
    lines = [_FIELD.fullmatch(line) for line in headers]
    if not all(lines):
        raise typer.BadParameter("a header is written as 'Name: value', in ASCII", param_hint="--header")
    fields = [(line[1], line[2].strip()) for line in lines if line is not None]
    for name, value in fields:
        if _pays(name.lower(), value):
            raise typer.BadParameter(f"{name} is a payment, which is not made by hand here", param_hint="--header")
    body = _body(data)
    verb = method or ("GET" if body is None else "POST")
    if not re.fullmatch(r"[A-Za-z]{1,32}", verb, re.ASCII):
        raise typer.BadParameter("must be a word such as GET", param_hint="--method")
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise typer.BadParameter(clean(str(error)), param_hint="URL") from error
    if target.scheme not in ("http", "https") or not target.host or target.userinfo:
        raise typer.BadParameter("must begin with http:// or https:// and hold no password", param_hint="URL")
    if body is not None and _is_json(body) and not any(name.lower() == "content-type" for name, _ in fields):
        fields.append(("Content-Type", "application/json"))
    return httpx.Request(verb.upper(), target.copy_with(fragment=None), headers=fields, content=body)


async def ask(client: httpx.AsyncClient, request: httpx.Request) -> tuple[httpx.Response, bytes | None]:
    """Send a request, and return the answer and its body; None where that is too large or too slow."""
    built = client.build_request(request.method, request.url, headers=request.headers, content=request.content)
    response = await client.send(built, stream=True)
    return response, await read_async(response, MAX_BODY)


def order_of(request: httpx.Request) -> Order:
    """Return what a request asks to buy."""
    url = request.url
    target = f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii')}"
    return Order(method=request.method, url=target, route="", body_digest=sha256_hex(request.content))


def _pays(name: str, value: str) -> bool:
    if name == "authorization":  # a login is none, and often needed to be shown the price
        return any(scheme.name in PAYMENT_WORDS for scheme in auth_params.parse(value))
    return name in PAYMENT_FIELDS


def _is_json(body: bytes) -> bool:
    """Say whether it is a JSON object or array, and nothing else."""
    try:
        text = body.decode()
        return not nests_too_deep(text) and isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes() if data.startswith("@") else data.encode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{data[1:]} cannot be read", param_hint="--data") from error
