"""The sandbox without a socket: an httpx transport, and the real Stripe client on top of it."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

import httpx

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402_stripe.client import RailStripeClient, stripe_client
from rail402_stripe.sandbox.app import SANDBOX_URL, Sandbox
from rail402_stripe.sandbox.exchange import AnswerLost, Request, joined_headers

__all__ = ["SandboxTransport", "sandbox_client"]


class SandboxTransport(httpx.AsyncBaseTransport):
    """Carries requests to a sandbox in this process. A lost answer is an `httpx.ReadTimeout`, at once.

    Closing the transport closes the sandbox's ledger file; another transport of the same sandbox opens it again.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = joined_headers(request.headers.raw)
        body = await request.aread()
        received = Request(request.method, request.url.path, request.url.query, headers, body)
        try:
            answer = await self._sandbox.handle(received)
        except AnswerLost as error:
            raise httpx.ReadTimeout("the sandbox lost the answer, as ordered", request=request) from error
        date = ("date", formatdate(self._sandbox.clock(), usegmt=True))  # over a socket the server says that
        return httpx.Response(answer.status, headers=[*answer.headers, date], content=answer.body, request=request)

    async def aclose(self) -> None:
        self._sandbox.close()


def sandbox_client(
    path: str | Path,
    *,
    secret_key: str = "sk_test_sandbox",  # noqa: S107 - test keys of the sandbox are public
    clock: Clock = system_clock,
    random_bytes: RandomBytes = system_random,
) -> RailStripeClient:
    """Return the real Stripe client of a sandbox in this process, on the ledger at `path`. Close it with `aclose()`.

    Raises:
        ConfigurationError: the key is malformed. The ledger is opened by the first request.
    """
    sandbox = Sandbox(path, clock=clock, random_bytes=random_bytes)
    return stripe_client(secret_key, transport=SandboxTransport(sandbox), api_base=SANDBOX_URL)
