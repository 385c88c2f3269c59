"""One 402 in every dialect, as a gate with three rails says it, and answers of a server that says what it is told."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rail402.dialects import DEFAULT_DIALECTS
from rail402.money import Money
from rail402.plugins import RailPlugin, load_plugin
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Registry
from rail402_base.tokens import SANDBOX_USDC
from rail402_base.wire import BaseSpec
from rail402_lightning.bolt11 import UnsignedInvoice, encode
from rail402_lightning.request_binding import request_hash
from rail402_lightning.wire import LightningSpec
from rail402_stripe.currencies import currency
from rail402_stripe.wire import StripeSpec

NOW = 1_800_000_000
PAYEE = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
PREIMAGE_HASH = bytes([5] * 32)
ORDER = Order(method="GET", url="https://shop.example/a", route="")

BASE, LIGHTNING, STRIPE = BaseSpec(SANDBOX_USDC), LightningSpec("regtest"), StripeSpec("stripe:sandbox")
KEYS = OfferKeys({"k1": b"s" * 32})
SERVER = Context(specs=Registry([BASE, LIGHTNING, STRIPE]), now=NOW, realm="shop.example", keys=KEYS)


def plugins() -> dict[str, RailPlugin]:
    return {name: load_plugin(name) for name in ("base", "lightning", "stripe")}


def invoice(now: int = NOW, order: Order = ORDER, **changes: Any) -> str:
    terms: dict[str, Any] = {
        "prefix": "bcrt",
        "amount_msat": 21_000,
        "created_at": now,
        "payment_hash": PREIMAGE_HASH,
        "payment_secret": bytes([9] * 32),
        "description_hash": request_hash(order),
        "expiry": 600,
        "features": frozenset({8, 14}),
    }
    return encode(UnsignedInvoice(**(terms | changes)), bytes([7] * 32))


def lightning_offer(now: int = NOW, order: Order = ORDER, **changes: Any) -> Offer:
    from rail402_lightning.bolt11 import decode

    text = invoice(now, order, **changes)
    return Offer(
        rail="lightning",
        mechanism="bolt11",
        network=LIGHTNING.network.id,
        asset="BTC",
        amount=21_000,
        currency="BTC",
        exponent=11,
        payee=decode(text).payee.hex(),
        expires_at=now + 600,
        timeout_seconds=600,
        flow=Flow.UPFRONT,
        extra={"invoice": text},
    )


def base_offer(now: int = NOW, payee: str = PAYEE) -> Offer:
    return BASE.offer(
        SANDBOX_USDC, payee=payee, amount=3000, flow=Flow.AUTHORIZATION, expires_at=now + 600, timeout_seconds=180
    )


def stripe_offer(now: int = NOW, payee: str = "profile_sandbox") -> Offer:
    return STRIPE.offer(
        currency("usd"),
        payee=payee,
        amount=50,
        flow=Flow.ESCROW,
        expires_at=now + 600,
        payment_method_types=["card"],
    )


def said(*offers: Offer, now: int = NOW, order: Order = ORDER) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return the field lines and the body of the 402 for these offers, in every dialect."""
    issued = tuple(KEYS.issue(offer, order, bytes([number] * 16)) for number, offer in enumerate(offers))
    challenge = Challenge(order=order, price=Money.parse("0.5 USD"), offers=issued, description="An article", now=now)
    envelopes = [dialect.challenge(challenge, SERVER) for dialect in DEFAULT_DIALECTS]
    body: dict[str, Any] = {}
    for envelope in envelopes:
        body |= envelope.body
    return [line for envelope in envelopes for line in envelope.fields], body


def fields_and_body(*offers: Offer) -> tuple[Fields, bytes]:
    lines, body = said(*offers)
    return Fields(lines), json.dumps(body).encode()


def required(*accepts: Any, **more: Any) -> str:
    """Return a PAYMENT-REQUIRED with these entries."""
    return to_base64({"x402Version": 2, "error": "", "resource": {"url": ORDER.url}, "accepts": list(accepts), **more})


def to_base64(value: Mapping[str, Any]) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


EVM: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:402402",
    "amount": "3000",
    "asset": SANDBOX_USDC.address,
    "payTo": PAYEE,
    "maxTimeoutSeconds": 180,
    "extra": {"name": "Sandbox USDC", "version": "2"},
}


class Answers:
    """A server on a loopback port that answers every request with the same bytes, and keeps what it was sent.

    Attributes:
        pause: seconds after each byte of the answer.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw, self.requests, self.pause = raw, list[bytes](), 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(20)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/a"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                connection.settimeout(10)
                self.requests.append(_request(connection))
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if not self.pause:
            connection.sendall(self.raw)
            return
        for byte in self.raw:
            try:
                connection.sendall(bytes([byte]))
            except OSError:  # nobody waits for the rest
                return
            time.sleep(self.pause)

    def close(self) -> None:
        # Wakes a thread that waits for a connection, which closing alone does not.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int((lengths or [b"0"])[0]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def answering(status: str, *lines: tuple[str, str], body: bytes = b"", length: int | None = None) -> Iterator[Answers]:
    """Serve one answer; `length` is a Content-Length other than the body's."""
    head = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in lines)]
    head += [f"Content-Length: {len(body) if length is None else length}", "Connection: close", "", ""]
    server = Answers("\r\n".join(head).encode("latin-1") + body)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
