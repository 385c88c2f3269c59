"""Nostr Wallet Connect on both ends: a relay in memory, and behind it the wallet service that the unit tests have.

A request to the wallet is spoilt as a call by HTTP is, `POST /` and its method, and what comes of that is what a relay
does: it hangs up where there was no answer to read, is silent where that was too late, says OK or not, and delivers
what makes no sense.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from rail402.protocol.rail import PaymentRail, Wallet
from rail402_lightning import LightningRail, LightningWallet, NwcReceiver, NwcSender
from rail402_lightning.backends import nwc_wire
from rail402_lightning.backends.nwc_wire import MAX_MESSAGE, Event
from tests.faults.agents import LightningAgent
from tests.faults.world import ONE_IN
from tests.faults.worlds import Lightning
from tests.unit.rail402_lightning.backends.fake_nwc import CLIENT, SERVICE, FakeNwc, address, public

__all__ = ["Nwc", "NwcAgent"]

_RELAY: Final = "wss://relay.example"
_HUNG_UP: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.WriteError, httpx.ReadError)
_REFUSED: Final = frozenset({403, 404, 429})


class Everything(set[str]):
    """The payment hashes of whose invoices are the wallet's own: all of them."""

    def __contains__(self, item: object) -> bool:
        return True


class WalletService(httpx.AsyncBaseTransport):
    """Answers each request once, as the event that the relay would deliver."""

    def __init__(self, fake: FakeNwc) -> None:
        self.fake, self._replies = fake, dict[str, Event]()
        fake.send = self._send  # type: ignore[method-assign]

    async def _send(self, event: Event, *, name: str = "any") -> None:
        self._replies[event.tag("e") or ""] = event

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/info":
            return httpx.Response(200, json=self.fake._info().wire())
        event = nwc_wire.read_event(json.loads(request.content), author=public(CLIENT))
        is_late = int(event.tag("expiration") or 0) <= self.fake.clock()
        if is_late or event.id in self.fake.handled:
            raise httpx.ReadTimeout("neither relay nor wallet has a word for it", request=request)
        self.fake.handled.add(event.id)
        await self.fake._serve(event, 0)
        return httpx.Response(200, json=self._replies[event.id].wire())


class Relay:
    """The one relay of a connection; `open` is given in place of `websockets.connect`."""

    def __init__(self, wire: httpx.AsyncBaseTransport) -> None:
        self._wire = wire

    @asynccontextmanager
    async def open(self, url: str, **_: object) -> AsyncIterator[_Socket]:
        """Open a websocket."""
        socket = _Socket(self._wire)
        try:
            yield socket
        finally:
            await socket.close()


class _Socket:
    def __init__(self, wire: httpx.AsyncBaseTransport) -> None:
        self._wire = wire
        self._said: asyncio.Queue[str | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[str]:
        while (message := await self._said.get()) is not None:
            yield message

    async def send(self, text: str) -> None:
        match json.loads(text):
            case ["REQ", name, {"kinds": kinds}] if nwc_wire.INFO in kinds:
                self._begin(name, None, httpx.Request("GET", "https://relay.example/info"))
            case ["EVENT", wire]:
                asked = json.loads(_opened(nwc_wire.read_event(wire, author=public(CLIENT))))
                url = f"https://relay.example/{asked['method']}"
                self._begin("any", wire["id"], httpx.Request("POST", url, content=json.dumps(wire)))

    def _begin(self, name: str, event_id: str | None, request: httpx.Request) -> None:
        request.extensions["timeout"] = httpx.Timeout(30).as_dict()
        task = asyncio.create_task(self._carry(name, event_id, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, name: str, event_id: str | None, request: httpx.Request) -> None:
        try:
            response = await self._wire.handle_async_request(request)
            body = await _whole(response)
        except (*_HUNG_UP, httpx.RemoteProtocolError):
            self._said.put_nowait(None)
            return
        except httpx.ReadTimeout:
            return
        if event_id is not None:
            is_taken = response.status_code not in _REFUSED
            self._said.put_nowait(json.dumps(["OK", event_id, is_taken, "" if is_taken else "blocked: no"]))
        if response.status_code == 200:
            self._said.put_nowait(f'["EVENT",{json.dumps(name)},{body}]')
        elif response.status_code not in _REFUSED:
            self._said.put_nowait(body)


def _opened(event: Event) -> str:
    return nwc_wire.nip44_decrypt(event.content, nwc_wire.conversation_key(SERVICE, public(CLIENT)))


async def _whole(response: httpx.Response) -> str:
    """Return the body; a message that is too large has the websocket closed."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_MESSAGE:
            raise httpx.ReadError("message too big")
    return body.decode(errors="replace")


class Nwc(Lightning):
    """Payments arrive at a wallet that is reached by a relay."""

    row = "Lightning, NWC"
    sampled = ONE_IN

    def make_rail(self) -> PaymentRail:
        fake = FakeNwc(self.directory, clock=self.right, wallet="shop", own=Everything())
        self.node = fake.ledger
        self.secrets.append(CLIENT.hex())
        relay = Relay(self.wire(WalletService(fake)))
        return LightningRail(NwcReceiver(address(_RELAY), clock=self.clock, connect=relay.open), network="regtest")


class NwcAgent(LightningAgent):
    row = "wallet: NWC"
    sampled = ONE_IN

    def wallet(self) -> Wallet:
        self.secrets.append(CLIENT.hex())
        fake = FakeNwc(self.directory, clock=self.right)
        fake.ledger = self.node
        relay = Relay(self.wire(WalletService(fake)))
        sender = NwcSender(address(_RELAY), network="regtest", clock=self.clock, connect=relay.open)
        return LightningWallet(sender, network="regtest", max_fee_sat=10)
