"""A wallet behind Nostr Wallet Connect (NIP-47), such as Alby Hub, as a receiver and as a sender.

The wallet's address on it, `nostr+walletconnect://…`, is all that it takes, and a secret; what it may do is chosen in
the wallet. What to know about it is written where it matters below; the worst of it: that a payment failed may mean
that it took long, and an invoice that has expired may have been paid.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import Final

from websockets.asyncio.client import connect

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.connections import shown
from rail402_lightning.backends.http_calls import whole_number
from rail402_lightning.backends.lnbits_api import Connect
from rail402_lightning.backends.nwc_client import NwcClient, NwcError
from rail402_lightning.networks import find_network
from rail402_lightning.wire import is_preimage_of

__all__ = ["NwcReceiver", "NwcSender"]

logger = logging.getLogger("rail402.lightning")

_DEADLINE: Final = 60
_PAUSES: Final = (1, 2, 5, 10)
_SLOW_POLL: Final = 1
_MAX_AWAITED: Final = 1000

# A request cannot limit the fee; this is what Alby Hub lets a payment cost, the larger of the two.
_FEE_MSAT: Final = 10_000
_FEE_PPM: Final = 10_000

_NOT_FOUND: Final = "NOT_FOUND"
_STATES: Final = ("settled", "pending", "accepted", "expired", "failed")

# With these a wallet refuses to begin. PAYMENT_FAILED, INTERNAL and OTHER may also say that something took too long.
_REFUSALS: Final = frozenset(
    {
        "RATE_LIMITED",
        "NOT_IMPLEMENTED",
        "INSUFFICIENT_BALANCE",
        "QUOTA_EXCEEDED",
        "RESTRICTED",
        "UNAUTHORIZED",
        "UNSUPPORTED_ENCRYPTION",
    }
)


class NwcReceiver:
    """Receives to a wallet by Nostr Wallet Connect; see `Receiver`.

    Args:
        connection: the connection's address, which may call `make_invoice` and `lookup_invoice`. Secret.
        network: the network that the wallet must be on; not checked here unless given.
        clock: Unix seconds.
        random_bytes: makes nonces.
        connect: what websockets are opened by, and sleep: waits that many seconds, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no such network.
    """

    sandbox = False

    def __init__(
        self,
        connection: str,
        *,
        network: str | None = None,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
        connect: Connect = connect,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = NwcClient(
            connection, clock=clock, random_bytes=random_bytes, connect=connect, sleep=sleep, noted=self._hear
        )
        self._network, self._clock = None if network is None else find_network(network), clock
        self._awaited: OrderedDict[str, asyncio.Event] = OrderedDict()

    async def start(self) -> None:
        """Check what the connection may do, and the network where the wallet tells it.

        Raises:
            ConfigurationError: one of them is wrong.
            RailUnavailable: the wallet cannot be asked.
        """
        granted = await self._client.open(("make_invoice", "lookup_invoice"), self._network)
        if "pay_invoice" in granted:
            logger.warning("the rail's connection to the wallet can spend; make one that can only receive")
        if self._client.notifies:
            await self._client.listen()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def health(self) -> None:
        """Ask for an invoice that there is not."""
        await _lookup(self._client, bytes(32))

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice."""
        asked = {
            "amount": amount_msat,
            "description_hash": hashlib.sha256(hashed_description).hexdigest(),
            "expiry": expiry_seconds,
        }
        # If the answer is lost there is perhaps an invoice now, which nobody will ever see.
        text = (await self._client.ask("make_invoice", asked)).get("invoice")
        if not isinstance(text, str):
            raise RailUnavailable("the wallet made an invoice and did not tell it")
        return text

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice.

        Wallets may tell the preimage of an invoice that is not paid, so that says nothing. Older ones have no word for
        the state; theirs is paid once it has a time of settlement.
        """
        found = await _lookup(self._client, payment_hash)
        if found is None:
            return None
        if found.get("type") == "outgoing":
            raise RailUnavailable("an invoice was paid from the very wallet that it is for; use another one")
        state = _state(found)
        if state == "settled":
            received, settled_at = whole_number(found, "amount", who="the wallet"), _time(found.get("settled_at"))
            return InvoiceStatus(state="settled", received_msat=received, settled_at=settled_at)
        if state == "failed":
            return InvoiceStatus(state="canceled")
        expires_at = _time(found.get("expires_at"))
        is_over = state == "expired" or (state == "pending" and expires_at is not None and expires_at < self._clock())
        return InvoiceStatus(state="expired" if is_over else "open")

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Return when the wallet notifies us of the payment, or the time is over; soon if it notifies nobody."""
        if not self._client.notifies:
            await asyncio.sleep(min(_SLOW_POLL, seconds))
            return
        text = payment_hash.hex()
        told = self._awaited.setdefault(text, asyncio.Event())
        if len(self._awaited) > _MAX_AWAITED:
            self._awaited.popitem(last=False)
        try:
            async with asyncio.timeout(seconds):
                await told.wait()
        except TimeoutError:
            return
        finally:
            self._awaited.pop(text, None)

    def _hear(self, note: Json) -> None:
        match note:
            case {"notification_type": "payment_received", "notification": {"payment_hash": str(payment_hash)}}:
                if payment_hash in self._awaited:
                    self._awaited[payment_hash].set()


class NwcSender:
    """Pays from a wallet by Nostr Wallet Connect; see `Sender`.

    A request cannot limit the fee. What is set aside for it is 10 sat or one percent, whichever is more, as in Alby
    Hub: so `max_fee_sat` of the wallet must be 10 or more for small amounts.

    Args:
        connection: the connection's address, which may call `pay_invoice`, `lookup_invoice` and `get_balance`. Secret:
            whoever has it can spend what the wallet lets the connection spend.
        network, clock, random_bytes, connect: as for `NwcReceiver`.
        deadline: seconds after which a payment that has not ended counts as unknown.
        sleep: waits that many seconds between two looks at a payment, and before a relay is tried again.

    Raises:
        ConfigurationError: the address cannot be used, or there is no such network.
    """

    sandbox = False

    def __init__(
        self,
        connection: str,
        *,
        network: str | None = None,
        deadline: float = _DEADLINE,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
        connect: Connect = connect,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = NwcClient(connection, clock=clock, random_bytes=random_bytes, connect=connect, sleep=sleep)
        self._network = None if network is None else find_network(network)
        self._deadline, self._sleep = deadline, sleep

    async def start(self) -> None:
        """Check what the connection may do, and the network where the wallet tells it.

        Raises:
            ConfigurationError: one of them is wrong.
            RailUnavailable: the wallet cannot be asked.
        """
        await self._client.open(("pay_invoice", "lookup_invoice", "get_balance"), self._network)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def balance(self) -> int:
        """Return what the wallet holds; the connection may have a budget below that, which is not told."""
        return whole_number(await self._client.ask("get_balance", {}), "balance", who="the wallet")

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return what such a wallet sets aside for fees; no request can limit it."""
        return max(_FEE_MSAT, -(-(bolt11.decode(invoice).amount_msat or 0) * _FEE_PPM // 1_000_000))

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice, and wait until that has ended or the deadline has come."""
        ceiling = await self.fee_ceiling(invoice, max_fee_msat=max_fee_msat)
        if ceiling > max_fee_msat:
            return SentPayment(state="failed", detail=f"the wallet may spend {ceiling} msat on fees, over the limit")
        payment_hash = bolt11.decode(invoice).payment_hash
        known = await _lookup(self._client, payment_hash)
        before = None if known is None else _sent(known)
        try:
            async with asyncio.timeout(self._deadline):
                if before is not None and before.state == "paid":
                    return before
                if before is not None and before.state != "failed":
                    return await self._follow(payment_hash)
                return await self._pay(invoice, payment_hash, known)
        except TimeoutError:
            return SentPayment(state="unknown", detail=f"the payment has not ended in {self._deadline} s")

    async def _pay(self, invoice: str, payment_hash: bytes, failed_before: Json | None) -> SentPayment:
        refusal: NwcError | None = None
        try:
            done = await self._client.do("pay_invoice", {"invoice": invoice}, seconds=self._deadline / 2)
            preimage, fee = done.get("preimage"), done.get("fees_paid")
            if isinstance(preimage, str) and is_preimage_of(preimage, payment_hash):
                fee_msat = fee if type(fee) is int and fee >= 0 else 0
                return SentPayment(state="paid", preimage=preimage, fee_msat=fee_msat)
        except NwcError as error:
            refusal = error if error.word in _REFUSALS else None
            logger.info("a payment is being looked up: %s", error.detail)
        except OutcomeUnknown as error:
            logger.warning("a payment is being looked up: %s", error.detail)
        return await self._follow(payment_hash, refusal, failed_before)

    async def _follow(
        self, payment_hash: bytes, refusal: NwcError | None = None, failed_before: Json | None = None
    ) -> SentPayment:
        """Look at the payment until it has ended.

        Args:
            refusal: the wallet's answer that it does not pay; believed once it knows of nothing in flight. With several
                relays it may have got the request twice, and refuses only the second.
            failed_before: an earlier try to pay the same invoice, which says nothing about this one.
        """
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        while True:
            try:
                found = await _lookup(self._client, payment_hash)
                sent = None if found is None else _sent(found)
            except RailUnavailable as error:
                logger.warning("a payment cannot be looked up yet: %s", error.detail)
            else:
                if refusal is not None and (sent is None or sent.state == "failed"):
                    return SentPayment(state="failed", detail=refusal.detail)
                if sent is not None and sent.state == "paid":
                    return sent
                if sent is not None and sent.state == "failed" and not _is_same(found, failed_before):
                    return sent
            await self._sleep(next(pauses))

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment."""
        found = await _lookup(self._client, payment_hash)
        return None if found is None else _sent(found)


def _sent(found: Json) -> SentPayment:
    """Read a payment. Of one whose invoice has expired Alby Hub says only that, even while it is in flight.

    Raises:
        RailUnavailable: it is none of this wallet's.
    """
    if found.get("type") == "incoming":
        raise RailUnavailable("the invoice is one of this very wallet")
    match _state(found):
        case "settled":
            preimage, fee = found.get("preimage"), found.get("fees_paid")
            told = preimage if isinstance(preimage, str) else None
            return SentPayment(state="paid", preimage=told, fee_msat=fee if type(fee) is int and fee >= 0 else 0)
        case "failed":
            return SentPayment(state="failed", detail="the wallet could not pay")
        case "expired":
            return SentPayment(state="unknown", detail="the wallet says that the invoice has expired, and no more")
    return SentPayment(state="unknown", detail="the payment is in flight")


def _is_same(found: Json | None, other: Json | None) -> bool:
    return found is not None and other is not None and found.get("created_at") == other.get("created_at")


async def _lookup(client: NwcClient, payment_hash: bytes) -> Json | None:
    """Return what the wallet knows about a payment, in or out; None if there is none.

    Raises:
        RailUnavailable: there is no answer that can be believed.
    """
    text = payment_hash.hex()
    try:
        found = await client.ask("lookup_invoice", {"payment_hash": text})
    except NwcError as error:
        if error.word == _NOT_FOUND:
            return None
        raise
    if found.get("payment_hash") != text:
        raise RailUnavailable("the wallet answered about another payment")
    return found


def _state(found: Json) -> str:
    """Return the state of a payment, which older wallets do not name: one of `_STATES`."""
    state = found.get("state")
    if state in (None, ""):
        return "pending" if _time(found.get("settled_at")) is None else "settled"
    if state not in _STATES:
        raise RailUnavailable(f"the wallet has a state that is not known here: {shown(state)}")
    return str(state)


def _time(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
