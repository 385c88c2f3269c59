"""Agents that buy at a shop, and a wire that shows every payment many times at once, as a broken client does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from rail402 import Payer
from rail402.client.budget import Budget
from rail402_base import BaseWallet
from rail402_lightning import LightningWallet
from rail402_stripe import StripeWallet

__all__ = ["Echo", "Shown", "open_agent"]

_PAYMENT_FIELDS: Final = ("payment-signature", "authorization", "payment-authorization", "x-payment", "x-receipt")


@dataclass(frozen=True)
class Shown:
    """One payment that was shown several times, and every answer to it."""

    path: str
    fields: dict[str, str] = field(repr=False)
    answers: list[httpx.Response]

    @property
    def served(self) -> list[httpx.Response]:
        """The answers with the goods."""
        return [answer for answer in self.answers if answer.is_success]

    @property
    def refused(self) -> list[httpx.Response]:
        """All other answers."""
        return [answer for answer in self.answers if not answer.is_success]


class Echo(httpx.AsyncBaseTransport):
    """Sends each request that carries a payment `times` times at once, on connections of their own.

    The caller gets the first answer with the goods, or just the first.
    """

    def __init__(self, times: int) -> None:
        self._times = times
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))
        self.shown: list[Shown] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it."""
        fields = {name: request.headers[name] for name in _PAYMENT_FIELDS if name in request.headers}
        if not fields:
            return await self._inner.handle_async_request(request)
        ended = await asyncio.gather(*(self._send(request) for _ in range(self._times)), return_exceptions=True)
        answers = [end for end in ended if isinstance(end, httpx.Response)]
        for end in ended:
            if isinstance(end, BaseException) and not (answers and isinstance(end, httpx.TransportError)):
                raise end
        shown = Shown(request.url.path, fields, answers)
        self.shown.append(shown)
        return (shown.served or shown.answers)[0]

    async def _send(self, request: httpx.Request) -> httpx.Response:
        copy = httpx.Request(request.method, request.url, headers=request.headers, extensions=dict(request.extensions))
        response = await self._inner.handle_async_request(copy)
        content = await response.aread()
        await response.aclose()
        raw = [line for line in response.headers.raw if line[0].lower() not in (b"content-encoding",)]
        return httpx.Response(response.status_code, headers=raw, content=content, request=request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


@asynccontextmanager
async def open_agent(sandbox: Path, journal: Path, url: str, wire: httpx.AsyncBaseTransport) -> AsyncIterator[Any]:
    """A client that pays on all rails with the sandboxes' play money."""
    payer = Payer(
        [BaseWallet.sandbox(sandbox), LightningWallet.sandbox(sandbox), StripeWallet.sandbox(sandbox)],
        budget=Budget(per_request=["1 USD", "1000 sat"], per_hour="1000000 USD", per_day="1000000 USD"),
        journal=f"sqlite:///{journal}",
        deadline=3,
    )
    async with payer, httpx.AsyncClient(transport=payer.transport(wire), base_url=url, timeout=60) as client:
        yield client
