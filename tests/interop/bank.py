"""Where the money of the interop tests is: the sandboxes' ledgers, and one address at which peers reach them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from rail402 import Gate
from rail402.clock import system_clock
from rail402.errors import PaymentRejected
from rail402.sandbox import sandbox_directory
from rail402.testing.fakes import FakeLedger, FakeRail
from rail402_base import BaseRail
from rail402_base.eip3009 import parse_authorization
from rail402_base.sandbox import ENDOWMENT
from rail402_base.sandbox_keys import open_sandbox
from rail402_base.tokens import SANDBOX_USDC
from rail402_stripe import StripeApi, StripeRail
from rail402_stripe.api import SANDBOX_LEDGER
from rail402_stripe.sandbox import Sandbox
from rail402_stripe.wire import SANDBOX_PROFILE

__all__ = ["ENDOWMENT", "FAKE_SECRET", "TOKEN", "Bank", "Shop", "listening", "served"]

TOKEN = {
    "address": SANDBOX_USDC.address,
    "chainId": SANDBOX_USDC.network.chain_id,
    "decimals": SANDBOX_USDC.decimals,
    "name": SANDBOX_USDC.name,
    "version": SANDBOX_USDC.version,
}
"""What a peer must be told of the sandbox's token, as a person would from its contract."""

FAKE_SECRET = "the fake rail's secret"


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens on a free loopback port, and its origin."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found, f"http://127.0.0.1:{found.getsockname()[1]}"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the tests."""
        yield


@asynccontextmanager
async def served(app: Any, found: socket.socket, **settings: Any) -> AsyncIterator[None]:
    """Serve an app at a socket, in this event loop; with further settings of `uvicorn.Config`."""
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "ws": "none", "timeout_keep_alive": 1}
    server = _Server(uvicorn.Config(app, **quiet, **settings))
    serving = asyncio.create_task(server.serve(sockets=[found]))
    try:
        while not server.started:
            if serving.done():
                serving.result()
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(SystemExit):
            await serving


@dataclass
class Bank:
    """The sandboxes of one directory.

    Attributes:
        directory: theirs, for rails and wallets.
        url: at which the Stripe sandbox answers as Stripe's API does, and `/chain` hands an authorization in.
    """

    directory: Path
    url: str

    def __post_init__(self) -> None:
        self.chain = open_sandbox(self.directory, clock=system_clock).backend.chain
        self.stripe = StripeApi.sandbox(self.directory)

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path) -> AsyncIterator[Bank]:
        with listening() as (found, url):
            bank = cls(directory, url)
            sandbox = Sandbox(sandbox_directory(directory) / SANDBOX_LEDGER, profile_id=SANDBOX_PROFILE)
            routes = [Route("/chain", bank._hand_in, methods=["POST"]), Mount("/", sandbox)]
            async with served(Starlette(routes=routes), found):
                yield bank
            sandbox.close()
            await bank.stripe.close()

    async def _hand_in(self, request: Request) -> Response:
        payload = json.loads(await request.body())
        authorization, signature = parse_authorization({"authorization": payload, "signature": payload["signature"]})
        try:
            mined: Any = await self.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)
        except PaymentRejected as error:
            return JSONResponse({"error": error.detail}, status_code=400)
        return JSONResponse({"transaction": mined.transaction})

    async def cents(self) -> int:
        """What the Stripe account holds."""
        return (await self.stripe.balance()).get("usd", 0)

    async def intents(self) -> list[Any]:
        """Every PaymentIntent of the account."""
        return [intent async for intent in self.stripe.intents_between(0, system_clock() + 10)]


class Message(BaseModel):
    """What `/echo` gives back."""

    said: str


class Shop:
    """Our server: everything costs 0.50 USD, on all rails that keep their money in the bank, in all dialects."""

    def __init__(self, bank: Bank, url: str, app: Any = None) -> None:
        self.ledger, self.served = FakeLedger(), 0
        self.base = BaseRail.sandbox(bank.directory)
        rails = [StripeRail.sandbox(bank.directory), self.base, FakeRail(self.ledger, clock=system_clock)]
        store = f"sqlite:///{bank.directory}/charges.db"
        self.gate = Gate(rails=rails, store=store, public_url=url)
        self.url, self.app = url, app or FastAPI(title="Interop")
        self.gate.install(self.app)

    def sell(self) -> None:
        """Put the goods up."""

        @self.app.get("/report")
        @self.gate.paid("0.50 USD", description="The report")
        async def report() -> dict[str, int]:
            self.served += 1
            return {"n": self.served}

        @self.app.post("/echo")
        @self.gate.paid("0.50 USD")
        async def echo(message: Message) -> dict[str, Any]:
            self.served += 1
            return {"n": self.served, "echo": message.model_dump()}

    async def charges(self) -> list[Any]:
        """All charges of the gate."""
        return list(await self.gate.services().store.recent(limit=10))
