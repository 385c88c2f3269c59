"""The client's process: an agent that buys one thing with a real payer, and goes on where an earlier life ended."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Literal

import httpx

from rail402 import Payer
from rail402.errors import Rail402Error
from tests.crashes.steps import Steps, watch_agent
from tests.crashes.world import World, lines, note

__all__ = ["Phase", "live"]

Phase = Literal["buy", "go on", "look"]
"""`buy`: for the first time. `go on`: recover, then ask again for what is not in hand. `look`: only recover."""

_PLAIN = {"host", "accept", "accept-encoding", "connection", "user-agent"}


class _Noted(httpx.AsyncHTTPTransport):
    """Writes down what is sent with a payment, so that it can be shown again by somebody else."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(verify=False)  # there is no TLS here, and to read the certificates takes longer than a run
        self._world, self._number = world, number

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fields = {name: value for name, value in request.headers.items() if name not in _PLAIN}
        if fields and request.url.path == "/goods":
            note(self._world.presented(self._number), fields)
        return await super().handle_async_request(request)


def live(world: World, number: int, phase: Phase, kill_at: int) -> None:
    """Do what the phase says, or die at step `kill_at`."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
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
        wanted = phase != "look" and not lines(world.received(number))
        if phase != "buy":
            for each in await payer.recover():
                logging.info("recovered %s: %s", each.record.id, each.outcome)
            if world.scenario.never_serves:  # what is not owed any more is not asked for again
                wanted = wanted and bool(await payer.journal.unresolved())
        if wanted:
            await _get(world, number, client, steps)


async def _get(world: World, number: int, client: httpx.AsyncClient, steps: Steps) -> None:
    try:
        response = await client.get(world.url)
    except (Rail402Error, httpx.TransportError) as error:
        logging.info("not served: %s: %s", type(error).__name__, error)
        return
    logging.info("answered %s %s", response.status_code, dict(response.headers))
    if response.status_code == 200:
        steps("before it is used")
        is_replay = response.headers.get("idempotent-replayed") == "true"
        note(world.received(number), {"body": response.text, "replayed": is_replay})
        steps("after it is used")
