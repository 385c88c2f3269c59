"""The relays between us and a wallet service: the one place that knows websockets, and turns what they raise into ours.

A relay is anybody's. What it says about an event of ours (that it took it, or refused it) proves nothing, since it may
have passed it on all the same: only what was written to no relay at all was surely not sent. What it delivers counts
if the wallet service has signed it, and answers one of our open requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

from rail402.errors import MalformedInput, OutcomeUnknown, RailUnavailable
from rail402_lightning.backends.lnbits_api import STREAM_LOST, Connect
from rail402_lightning.backends.nwc_wire import (
    AUTH,
    INFO,
    MAX_MESSAGE,
    NOTIFICATION,
    REPLY,
    Connection,
    Event,
    read_event,
    read_message,
)

__all__ = ["NwcRelays", "Sign"]

logger = logging.getLogger("rail402.lightning")

_OPEN_SECONDS: Final = 10
_PAUSES: Final = (1, 2, 5, 15, 60)
_MAX_CHALLENGE: Final = 1024
_INFO_NAME: Final = "info"
_NOTES_NAME: Final = "notes"
_LETS_US_IN: Final = "lets the connection's key in (NIP-42)"


Sign = Callable[[int, str, tuple[tuple[str, ...], ...]], Event]
"""Returns an event of that kind, content and tags, signed by the connection's key now."""


@dataclass(eq=False, slots=True)
class _Open:
    """A request that waits for its answer.

    Attributes:
        sent_to: the relays that it was written to, or may have been.
        refused_by: those of them that say that they did not take it.
    """

    event: Event
    answer: asyncio.Future[Event]
    sent_to: set[str] = field(default_factory=set)
    taken_by: set[str] = field(default_factory=set)
    refused_by: set[str] = field(default_factory=set)


class NwcRelays:
    """The relays of one connection. They are opened when there is something to say, and again when they are lost.

    Args:
        connection: who talks to whom, and where.
        sign: see `Sign`.
        heard: is called with each notification of the wallet service, once for each relay that delivers it.
        connect: what websockets are opened by, and sleep: waits that many seconds before that is tried again, for
            tests.
    """

    def __init__(
        self,
        connection: Connection,
        sign: Sign,
        *,
        heard: Callable[[Event], None] | None = None,
        connect: Connect = connect,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connection, self._heard, self._connect, self._sleep = connection, heard, connect, sleep
        self._sign = sign
        self._said_who: dict[str, str] = {}  # by relay, the id of the event that said who we are
        self._locked_out: set[str] = set()
        self._open: dict[str, _Open] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sockets: dict[str, Any] = {}
        self._info: Event | None = None
        self._info_there = asyncio.Event()
        self._listening, self._asking = False, 0

    async def close(self) -> None:
        """Close the connections; a further request opens new ones."""
        tasks, self._tasks = self._tasks, {}
        self._listening = False
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def info(self, *, seconds: float) -> Event:
        """Return what the wallet service says of itself.

        Raises:
            RailUnavailable: no relay can be reached, or has it.
        """
        if self._info is None:
            self._asking += 1
            for relay, socket in list(self._sockets.items()):  # it was asked before, and gave no answer of use
                await self._say(relay, socket, self._about())
            self._run()
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._info_there.wait(), seconds)
            finally:
                self._asking -= 1
        if self._info is None:
            what = "knows it" if self._sockets else "can be reached"
            if self._sockets and self._locked_out >= self._sockets.keys():
                what = f"{_LETS_US_IN}, so none tells of it"
            raise RailUnavailable(f"no relay of the wallet {what} ({self._names()})")
        return self._info

    async def listen(self) -> None:
        """Stay connected from now on, and hear notifications."""
        if not self._listening:
            self._listening = True
            for relay, socket in list(self._sockets.items()):
                await self._say(relay, socket, self._notes())
        self._run()

    async def request(self, event: Event, *, seconds: float) -> Event:
        """Send a request, and return its answer.

        Raises:
            RailUnavailable: it was surely not sent.
            OutcomeUnknown: it may have been, and no answer came.
        """
        waiting = _Open(event, asyncio.get_running_loop().create_future())
        self._open[event.id] = waiting
        try:
            async with asyncio.timeout(seconds):
                for relay, socket in list(self._sockets.items()):
                    await self._publish(relay, socket, waiting)
                self._run()
                return await self._answered(waiting, min(seconds, _OPEN_SECONDS))
        except TimeoutError as error:
            if not waiting.sent_to:
                raise self._unsent() from error
            said = "the wallet gave no answer"
            if waiting.sent_to <= waiting.refused_by:
                said = "the relays refuse the request"
            if waiting.sent_to <= self._locked_out:
                said = f"no relay {_LETS_US_IN}, and there was no answer"
            raise OutcomeUnknown(f"{said} in {seconds} s ({self._names()})") from error
        finally:
            del self._open[event.id]
            for relay, socket in list(self._sockets.items()):
                if relay in waiting.sent_to:
                    await self._say(relay, socket, ["CLOSE", event.id])

    async def _answered(self, waiting: _Open, seconds: float) -> Event:
        """Return the answer; give up earlier where no relay is there to take the request."""
        done, _ = await asyncio.wait([waiting.answer], timeout=seconds)
        if not done and not waiting.sent_to:
            raise self._unsent()
        return await waiting.answer

    def _unsent(self) -> RailUnavailable:
        return RailUnavailable(f"no relay of the wallet can be reached ({self._names()})")

    def _names(self) -> str:
        return ", ".join(str(urlsplit(relay).hostname) for relay in self._connection.relays)

    # --- the connections

    def _run(self) -> None:
        for relay in self._connection.relays:
            if relay not in self._tasks or self._tasks[relay].done():
                self._tasks[relay] = asyncio.get_running_loop().create_task(self._stay(relay))

    async def _stay(self, relay: str) -> None:
        """Be connected to a relay as long as there is a reason."""
        pauses = iter(_PAUSES)
        pause = _PAUSES[0]
        while True:
            try:
                async with self._connect(
                    relay, open_timeout=_OPEN_SECONDS, close_timeout=1, max_size=MAX_MESSAGE, compression=None
                ) as socket:
                    await self._greet(relay, socket)
                    pauses = iter(_PAUSES)
                    async for message in socket:
                        await self._hear(relay, socket, message)
            except (*STREAM_LOST, TimeoutError) as error:
                logger.info("the relay at %s is lost (%s)", urlsplit(relay).hostname, type(error).__name__)
            finally:
                self._sockets.pop(relay, None)
                self._locked_out.discard(relay)
            if not (self._listening or self._open or self._asking):
                return
            pause = next(pauses, pause)
            await self._sleep(pause)

    async def _greet(self, relay: str, socket: Any) -> None:
        """Ask for what is there, and say what could not be said before."""
        self._sockets[relay] = socket
        await self._say(relay, socket, self._about())
        if self._listening:
            await self._say(relay, socket, self._notes())
        for waiting in list(self._open.values()):
            await self._publish(relay, socket, waiting)

    def _about(self) -> list[Any]:
        return ["REQ", _INFO_NAME, {"kinds": [INFO], "authors": [self._connection.wallet], "limit": 1}]

    def _notes(self) -> list[Any]:
        wallet, client = self._connection.wallet, self._connection.client
        return ["REQ", _NOTES_NAME, {"kinds": [NOTIFICATION], "authors": [wallet], "#p": [client], "limit": 1}]

    async def _publish(self, relay: str, socket: Any, waiting: _Open) -> None:
        """Ask for the answer, then send the request, unless this relay said before that it has it."""
        event = waiting.event
        answers = {"kinds": [REPLY], "authors": [self._connection.wallet], "#e": [event.id]}
        await self._say(relay, socket, ["REQ", event.id, answers])
        if relay not in waiting.taken_by and event.id in self._open:  # else it was said not to have been sent
            waiting.sent_to.add(relay)  # before it is: half of it may arrive
            waiting.refused_by.discard(relay)
            await self._say(relay, socket, ["EVENT", event.wire()])

    @staticmethod
    async def _say(relay: str, socket: Any, message: list[Any]) -> None:
        try:
            await socket.send(json.dumps(message, separators=(",", ":")))
        except STREAM_LOST as error:  # whoever reads the socket notices, and opens another
            logger.debug("the relay at %s is lost (%s)", urlsplit(relay).hostname, type(error).__name__)

    # --- what relays say

    async def _hear(self, relay: str, socket: Any, message: str | bytes) -> None:
        try:
            match read_message(message):
                case ["EVENT", str(), value]:
                    self._hear_event(read_event(value, author=self._connection.wallet))
                case ["OK", str(event_id), bool(is_taken), *_] if event_id in self._open:
                    waiting = self._open[event_id]
                    (waiting.taken_by if is_taken else waiting.refused_by).add(relay)
                case ["OK", str(event_id), bool(is_in), *_] if event_id == self._said_who.get(relay):
                    await self._let_in(relay, socket, is_in)
                case ["AUTH", str(challenge)] if len(challenge) <= _MAX_CHALLENGE:
                    # It is told no more than by any request of ours; the address keeps it from being used elsewhere.
                    who = self._sign(AUTH, "", (("relay", relay), ("challenge", challenge)))
                    self._said_who[relay] = who.id
                    await self._say(relay, socket, ["AUTH", who.wire()])
                case ["NOTICE" | "CLOSED" | "AUTH", *_]:
                    logger.info("the relay at %s objects to something", urlsplit(relay).hostname)
        except MalformedInput as error:
            logger.warning("the relay at %s sent what is ignored: %s", urlsplit(relay).hostname, error.detail)

    async def _let_in(self, relay: str, socket: Any, is_in: bool) -> None:
        """Ask again for what the relay has not let us before."""
        if is_in:
            self._locked_out.discard(relay)
            await self._greet(relay, socket)
        else:
            self._locked_out.add(relay)
            logger.warning("the relay at %s does not let the connection's key in", urlsplit(relay).hostname)

    def _hear_event(self, event: Event) -> None:
        if event.kind == INFO:
            if self._info is None or event.created_at > self._info.created_at:
                self._info = event
            self._info_there.set()
            return
        if event.tag("p") not in (None, self._connection.client):
            raise MalformedInput("event", "is for somebody else")
        if event.kind == NOTIFICATION and self._heard is not None:
            self._heard(event)
        elif event.kind == REPLY:
            waiting = self._open.get(event.tag("e") or "")
            if waiting is not None and not waiting.answer.done():  # each relay delivers it
                waiting.answer.set_result(event)
