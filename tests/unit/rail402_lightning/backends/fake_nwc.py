"""A relay, and a wallet service behind it that answers as Alby Hub does, with play money; on a loopback port.

The relay keeps nothing but the wallet's info event. Traps included: an outgoing payment whose invoice has expired is
called expired, and a request is dropped once its expiration has passed.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from coincurve import PrivateKey
from websockets.asyncio.server import ServerConnection, serve

from rail402_lightning import bolt11
from rail402_lightning.backends import nwc_wire
from rail402_lightning.backends.nwc_wire import Event
from tests.unit.rail402_lightning.backends.play import PlayNode

CLIENT, SERVICE, STRANGER = bytes([1] * 32), bytes([2] * 32), bytes([3] * 32)


def public(secret: bytes) -> str:
    return PrivateKey(secret).public_key_xonly.format().hex()


def address(*relays: str) -> str:
    """The connection's address."""
    named = "&".join(f"relay={relay}" for relay in relays)
    return f"nostr+walletconnect://{public(SERVICE)}?{named}&secret={CLIENT.hex()}"


METHODS = ("pay_invoice", "get_balance", "get_info", "make_invoice", "lookup_invoice")


@dataclass
class FakeNwc(PlayNode):
    """The wallet service and its relays.

    Attributes:
        encryption: the schemes that its info event names; None for no such tag.
        granted: what the connection may call.
        replies: for the next replies: `lost` (done, not answered), `ignored` (not done), `forged` (another's signature
            first), `twice`, `torn` (cannot be decrypted), `other` (answers another method), an error's
            code, or `late` and an error's code (done all the same).
        before: what the relay does to the next event that is published: `refuse`, `refuse and pass on`, `hang up`.
        doors: the relays want to know who asks (NIP-42), and say so when a client comes (`shut`) or when it asks
            (`slow`); `locked`: they let nobody in.
        old: has no word for states.
        seen: the requests that the relays were sent, as (relay's number, method).
    """

    encryption: str | None = "nip44_v2 nip04"
    notifications: str = ""
    has_info: bool = True
    granted: tuple[str, ...] = METHODS
    said_network: str = "regtest"
    replies: deque[str] = field(default_factory=deque)
    before: deque[str] = field(default_factory=deque)
    doors: str = "open"
    known: set[ServerConnection] = field(default_factory=set)
    old: bool = False
    seen: list[tuple[int, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    handled: set[str] = field(default_factory=set)
    sockets: set[ServerConnection] = field(default_factory=set)
    failed_kept: bool = True
    urls: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    dedupes: bool = True

    @asynccontextmanager
    async def running(self, relays: int = 1) -> AsyncIterator[str]:
        """Yield the connection's address, over so many relays."""
        servers = []
        for number in range(relays):

            async def handle(socket: ServerConnection, number: int = number) -> None:
                await self._relay(socket, number)

            servers.append(await serve(handle, "127.0.0.1", 0))
        self.urls = [f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}" for server in servers]
        try:
            yield address(*self.urls)
        finally:
            for server in servers:
                server.close()
                await server.wait_closed()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    # The relay.

    async def _relay(self, socket: ServerConnection, number: int) -> None:
        self.sockets.add(socket)
        challenge = f"{number}-{len(self.known)}"
        if self.doors == "shut":
            await socket.send(json.dumps(["AUTH", challenge]))
        try:
            async for text in socket:
                match json.loads(text):
                    case ["AUTH", event]:
                        await self._comes_in(socket, number, challenge, event)
                    case ["REQ" | "EVENT" as verb, what, *_] if self.doors != "open" and socket not in self.known:
                        if self.doors != "shut":
                            await socket.send(json.dumps(["AUTH", challenge]))
                        why = "auth-required: who are you?"
                        said = ["OK", what["id"], False, why] if verb == "EVENT" else ["CLOSED", what, why]
                        await socket.send(json.dumps(said))
                    case ["REQ", name, wanted]:
                        if nwc_wire.INFO in wanted["kinds"] and self.has_info:
                            await socket.send(json.dumps(["EVENT", name, self._info().wire()]))
                        await socket.send(json.dumps(["EOSE", name]))
                    case ["EVENT", event]:
                        await self._published(socket, number, event)
        finally:
            self.sockets.discard(socket)

    async def _comes_in(self, socket: ServerConnection, number: int, challenge: str, wire: dict[str, Any]) -> None:
        event = nwc_wire.read_event(wire, author=public(CLIENT))
        said = (event.kind, event.created_at, event.tag("relay"), event.tag("challenge"))
        is_in = self.doors != "locked" and said == (22242, self.clock(), self.urls[number], challenge)
        if is_in:
            self.known.add(socket)
        await socket.send(json.dumps(["OK", event.id, is_in, "" if is_in else "restricted: not you"]))

    async def _published(self, socket: ServerConnection, number: int, wire: dict[str, Any]) -> None:
        event = nwc_wire.read_event(wire, author=public(CLIENT))
        self.events.append(event)
        before = self.before.popleft() if self.before else ""
        if before == "hang up":
            await socket.close()
            return
        is_taken = not before.startswith("refuse")
        await socket.send(json.dumps(["OK", event.id, is_taken, "" if is_taken else "blocked: no"]))
        if before == "refuse" or (self.dedupes and event.id in self.handled):
            return
        self.handled.add(event.id)
        task = asyncio.create_task(self._serve(event, number))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def send(self, event: Event, *, name: str = "any") -> None:
        """Deliver an event to whoever is connected, as a relay does to its subscribers."""
        for socket in list(self.sockets):
            await socket.send(json.dumps(["EVENT", name, event.wire()]))

    # The wallet service.

    def event(self, kind: int, content: str, *tags: tuple[str, ...], secret: bytes = SERVICE) -> Event:
        return nwc_wire.sign_event(kind, content, tags=tags, now=self.clock(), secret=secret, random=bytes(32))

    def _info(self) -> Event:
        tags = () if self.encryption is None else (("encryption", self.encryption),)
        if self.notifications:
            tags += (("notifications", self.notifications),)
        return self.event(nwc_wire.INFO, " ".join(METHODS), *tags)

    def hide(self, body: dict[str, Any], *, old: bool = False) -> str:
        if old:
            return nwc_wire.nip04_encrypt(json.dumps(body), SERVICE, public(CLIENT), bytes(16))
        key = nwc_wire.conversation_key(SERVICE, public(CLIENT))
        return nwc_wire.nip44_encrypt(json.dumps(body), key, bytes(32))

    async def _serve(self, event: Event, number: int) -> None:
        assert int(event.tag("expiration") or 0) > self.clock()
        old = event.tag("encryption") is None
        if old:
            text = nwc_wire.nip04_decrypt(event.content, SERVICE, public(CLIENT))
        else:
            text = nwc_wire.nip44_decrypt(event.content, nwc_wire.conversation_key(SERVICE, public(CLIENT)))
        request = json.loads(text)
        method, params = request["method"], request["params"]
        self.seen.append((number, method))
        told = self.replies.popleft() if self.replies and method in ("pay_invoice", "make_invoice") else ""
        if told == "ignored":
            return
        if told.isupper():
            answer = _error(told, "no: " + "cd" * 32)
        else:
            answer = await self._do(method, params)
        if told == "lost":
            return
        if told.startswith("late "):
            answer = _error(told.removeprefix("late "), "no")
        body = {"result_type": "get_budget" if told == "other" else method, **answer}
        content = self.hide(body, old=old) if told != "torn" else self.hide(body)[:-8] + "AAAAAAA="
        tags = (("p", public(CLIENT)), ("e", event.id))
        reply = self.event(nwc_wire.REPLY, content, *tags)
        if told == "forged":
            fake = {"result_type": method, "result": {"preimage": "cd" * 32}}
            await self.send(self.event(nwc_wire.REPLY, self.hide(fake), *tags, secret=STRANGER))
            wrong = {**reply.wire(), "content": self.hide(fake)}
            for socket in list(self.sockets):
                await socket.send(json.dumps(["EVENT", "any", wrong]))
                await socket.send("not JSON")
                await socket.send(json.dumps(["EVENT", "any", {"id": 7}]))
            other = self.event(nwc_wire.REPLY, content, ("p", public(STRANGER)), ("e", event.id))
            await self.send(other)
            await self.send(self.event(nwc_wire.REPLY, self.hide(fake), ("p", public(CLIENT)), ("e", "00" * 32)))
        await self.send(reply)
        if told == "twice":
            await self.send(reply)

    async def _do(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method not in self.granted:
            return _error("RESTRICTED", "This app does not have the permission")
        match method:
            case "get_info":
                return _result(network=self.said_network, methods=list(self.granted))
            case "get_balance":
                return _result(balance=await self.ledger.balance(self.wallet))
            case "make_invoice":
                made = await self.ledger.create_invoice(
                    params["amount"],
                    expiry_seconds=params["expiry"],
                    description_hash=bytes.fromhex(params["description_hash"]),
                )
                return _result(type="incoming", invoice=made, payment_hash=bolt11.decode(made).payment_hash.hex())
            case "pay_invoice":
                return await self._pay(params["invoice"])
            case "lookup_invoice":
                return await self._lookup(bytes.fromhex(params["payment_hash"]))
        return _error("NOT_IMPLEMENTED", method)

    async def _pay(self, invoice: str) -> dict[str, Any]:
        payment_hash = bolt11.decode(invoice).payment_hash
        known = await self.ledger.lookup_payment(payment_hash, self.wallet)
        if known is not None and known.state != "failed":
            return _error("OTHER", "this invoice has already been paid")
        paid = await self.ledger.pay_invoice(invoice, wallet=self.wallet, max_fee_msat=10_000)
        if paid.state != "succeeded" or paid.preimage is None:
            return _error("PAYMENT_FAILED", f"{paid.reason}")
        return _result(preimage=paid.preimage.hex(), fees_paid=paid.fee_msat)

    async def _lookup(self, payment_hash: bytes) -> dict[str, Any]:
        sent = await self.ledger.lookup_payment(payment_hash, self.wallet)
        received = await self.ledger.lookup_invoice(payment_hash)
        body: dict[str, Any] = {"payment_hash": payment_hash.hex(), "created_at": 1}
        if sent is not None:
            state = {"pending": "pending", "succeeded": "settled", "failed": "failed"}[sent.state]
            if state != "settled" and received is not None and received.state == "expired":
                state = "expired"
            body |= {"type": "outgoing", "state": state, "amount": sent.amount_msat, "fees_paid": sent.fee_msat}
            if sent.preimage is not None:
                body |= {"preimage": sent.preimage.hex(), "settled_at": self.clock()}
        elif received is not None and payment_hash.hex() in self.own:
            state = {"open": "pending", "settled": "settled", "expired": "expired"}[received.state]
            body |= {"type": "incoming", "state": state, "amount": 21_000, "preimage": "ab" * 32}
            body["expires_at"] = self.clock() + (600 if state == "pending" else -1)
            if state == "settled":
                body |= {"amount": received.amount_paid_msat, "settled_at": received.settled_at}
        else:
            return _error("NOT_FOUND", "transaction not found")
        if self.old:
            del body["state"]
        return _result(**body)

    own: set[str] = field(default_factory=set)


def _result(**members: Any) -> dict[str, Any]:
    return {"error": None, "result": members}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}, "result": None}
