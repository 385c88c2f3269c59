"""One request, paid for if it has to be, in one line: with the wallets and the limits of a `wallets.toml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import httpx

from rail402.client.httpx import AT_MOST, TOOL, bought_by
from rail402.client.payer import Payer
from rail402.client.toml import payer_from_toml, wallets_file
from rail402.errors import ConfigurationError, PaymentOutcomeUnknown
from rail402.money import Money

__all__ = ["fetch", "fetch_sync"]

_TIMEOUT: Final = 60
"""Seconds to wait for the server at each step."""

_Headers = Mapping[str, str] | Sequence[tuple[str, str]]


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: _Headers | None = None,
    body: str | bytes | None = None,
    json: Any = None,
    at_most: str | Money | None = None,
    tool: str | None = None,
    payer: Payer | None = None,
) -> httpx.Response:
    """Make a request, and pay for it within the budget if it is answered with 402.

    ::

        response = await fetch("https://api.example.com/article/402", at_most="0.10 USD")
        response.text, response.extensions["rail402"].price

    Args:
        url: http:// or https://. A redirect is not followed.
        body: what is sent, as it is; json: what is sent as JSON. Not both.
        at_most: the most that this request may cost, such as `"0.10 USD"`; never more than the budget allows.
        tool: what rules of the budget know the caller by; see `Rule`.
        payer: pays, and stays open. If left out, the payer of `$RAIL402_WALLETS` or `~/.config/rail402/wallets.toml`
            is opened for this call and closed after it.

    Returns:
        The response, read; where something was bought, its extension `rail402` is the `Purchase`.

    Raises:
        ClientError: it was not bought, or not surely; `outcome` says what became of the money.
        ConfigurationError: there is no wallets.toml, or it is wrong.
        StoreError: the journal cannot be used.
        httpx.TransportError: there is no answer, and nothing was paid.
    """
    paying = _own_payer() if payer is None else nullcontext(payer)
    async with paying as opened, httpx.AsyncClient(transport=opened.transport(), timeout=_TIMEOUT) as client:
        request = _request(client, url, method, headers, body, json, _said(at_most, tool))
        with _told_what_was_bought(request):
            return await client.send(request)


def fetch_sync(
    url: str,
    *,
    method: str = "GET",
    headers: _Headers | None = None,
    body: str | bytes | None = None,
    json: Any = None,
    at_most: str | Money | None = None,
    tool: str | None = None,
    payer: Payer | None = None,
) -> httpx.Response:
    """The same for callers that are not asynchronous; see `fetch`."""
    paying = _own_payer() if payer is None else nullcontext(payer)
    with paying as opened, httpx.Client(transport=opened.sync_transport(), timeout=_TIMEOUT) as client:
        request = _request(client, url, method, headers, body, json, _said(at_most, tool))
        with _told_what_was_bought(request):
            return client.send(request)


def _own_payer() -> Payer:
    path = wallets_file()
    if not path.exists():
        raise ConfigurationError(f"there is no {path}; make it with `rail402 init`, or give fetch a payer")
    return payer_from_toml(path)


def _request(
    client: httpx.Client | httpx.AsyncClient,
    url: str,
    method: str,
    headers: _Headers | None,
    body: str | bytes | None,
    json: Any,
    extensions: dict[str, Any],
) -> httpx.Request:
    if body is not None and json is not None:
        raise ConfigurationError("fetch takes either a body or json")
    return client.build_request(method, url, headers=headers, content=body, json=json, extensions=extensions)


def _said(at_most: str | Money | None, tool: str | None) -> dict[str, Any]:
    """Return the request's extensions for what the caller says of it."""
    return {name: value for name, value in ((AT_MOST, at_most), (TOOL, tool)) if value is not None}


@contextmanager
def _told_what_was_bought(request: httpx.Request) -> Iterator[None]:
    """Have an answer that cannot be read say what became of the money, where any was spent for it."""
    try:
        yield
    except httpx.HTTPError as error:
        if (bought := bought_by(request)) is None:
            raise
        why = f"the answer cannot be read ({error or type(error).__name__}); the same request asks for it again"
        raise PaymentOutcomeUnknown(why, outcome=bought.outcome, record_id=bought.record_id) from error
