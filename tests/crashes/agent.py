"""The client's process: an agent that buys one thing with a real payer, and goes on where an earlier life ended."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Literal

import httpx

from rail402 import Payer
from rail402.client.records import PurchaseState
from rail402.errors import Rail402Error
from tests.crashes.banks import Lnd
from tests.crashes.processes import start_log
from tests.crashes.shop import GRANT, REFUND
from tests.crashes.steps import Steps, watch_agent
from tests.crashes.tools import call_tool
from tests.crashes.world import World, lines, note

__all__ = ["Phase", "live"]

Phase = Literal["buy", "go on", "look"]
"""`buy`: for the first time. `go on`: recover, then ask again for what is not in hand. `look`: only recover."""

_KEY = "idempotency-key"
_TRIES = 8
_PLAIN = {"host", "accept", "accept-encoding", "connection", "user-agent"}


class _Noted(httpx.AsyncHTTPTransport):
    """Writes down what is sent with a payment, so that it can be shown again by somebody else."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(verify=False)  # there is no TLS here, and to read the certificates takes longer than a run
        self._world, self._number = world, number

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fields = {name: value for name, value in request.headers.items() if name not in _PLAIN}
        if fields.keys() - {_KEY} and request.url.path == "/goods":
            note(self._world.presented(self._number), fields)
        return await super().handle_async_request(request)


def live(world: World, number: int, phase: Phase, kill_at: int) -> None:
    """Do what the phase says, or die at step `kill_at`."""
    start_log()
    steps = Steps(world.path / f"client-{number}.steps", kill_at)
    wallet = world.bank.wallet(number, world.clock)
    watch_agent(steps, wallet)
    payer = Payer([wallet], journal=f"sqlite:///{world.journal(number)}", clock=world.clock)

    async def wait(seconds: float) -> None:
        world.clock.advance(math.ceil(seconds))
        await asyncio.sleep(0.05)

    payer.sleep = wait
    asyncio.run(_live(world, number, phase, payer, steps))


async def _live(world: World, number: int, phase: Phase, payer: Payer, steps: Steps) -> None:
    async with payer, httpx.AsyncClient(transport=payer.transport(_Noted(world, number)), timeout=30) as client:
        scenario = world.scenario
        wanted = phase != "look" and len(lines(world.received(number))) < scenario.uses
        if phase != "buy":
            for each in await payer.recover():
                logging.info("recovered %s: %s", each.record.id, each.outcome)
            if scenario.never_serves:  # what is not owed any more is not asked for again
                wanted = wanted and bool(await payer.journal.unresolved())
        bought = [each for each in await payer.journal.newest() if each.state is PurchaseState.COMMITTED]
        if scenario.uses > 1 and wanted:
            if bought or await _get(world, number, client, steps, {_KEY: "use 1"}) == 200:
                await _use_up(world, number, steps)
        elif wanted and scenario.via == "mcp":
            await call_tool(world, number, payer, steps)
        elif wanted:
            await _get(world, number, client, steps, {})
        if phase != "look" and scenario.is_fetched:
            await _fetch_refunds(world, number, payer)


async def _get(
    world: World, number: int, client: httpx.AsyncClient, steps: Steps, fields: Mapping[str, str]
) -> int | None:
    """Ask for the goods, and keep them where they come; return the status."""
    try:
        response = await client.get(world.url, headers=fields)
    except (Rail402Error, httpx.TransportError) as error:
        logging.info("not served: %s: %s", type(error).__name__, error)
        return None
    logging.info("answered %s %s", response.status_code, dict(response.headers))
    if response.status_code == 200:
        steps("before it is used")
        is_replay = response.headers.get("idempotent-replayed") == "true"
        note(world.received(number), {"body": response.text, "replayed": is_replay})
        steps("after it is used")
    return response.status_code


async def _use_up(world: World, number: int, steps: Steps) -> None:
    """Use the pass that was bought, a request at a time. Each has a key of its own, and a repeat has the same."""
    async with httpx.AsyncClient(timeout=30, verify=False) as client:
        tries = 0
        while (had := len(lines(world.received(number)))) < world.scenario.uses and tries < _TRIES:
            fields = lines(world.presented(number))[-1] | {_KEY: f"use {had + 1}"}
            tries += 1
            if await _get(world, number, client, steps, fields) not in (200, 500, None):
                return


async def _fetch_refunds(world: World, number: int, payer: Payer) -> None:
    """Have the seller give back what was paid for nothing, to an invoice of ours: the same one each time."""
    bank = world.bank
    assert isinstance(bank, Lnd)
    async with httpx.AsyncClient(base_url=world.origin, timeout=60, verify=False) as client:
        try:
            await client.post(GRANT)
            for record in await payer.journal.newest():
                invoice = world.path / f"invoice-{record.id}"
                if not invoice.exists():
                    invoice.write_text(bank.invoice(record.offer.amount))
                asked = {"preimage": (record.proof or {}).get("preimage"), "invoice": invoice.read_text()}
                for fields in lines(world.presented(number)):  # of this purchase, or of one that was not taken
                    answer = await client.post(REFUND, json=asked, headers=fields)
                    logging.info("refund of %s: %s %s", record.id, answer.status_code, answer.text)
        except httpx.TransportError as error:
            logging.info("not refunded: %s", error)
