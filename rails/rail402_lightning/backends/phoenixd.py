"""phoenixd as a receiver and as a sender (HTTP API of 0.7 and later).

Two passwords, two classes: `PhoenixdReceiver` takes `http-password-limited-access`, which cannot spend, and
`PhoenixdSender` takes `http-password`. What to know about phoenixd is written where it matters below; the worst of it:
that it did not pay it answers with status 200, and it says so too where the invoice was paid before. So what became of
a payment is read from its row.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.connections import CertificateRefused, shown
from rail402_lightning.backends.http_calls import whole_number
from rail402_lightning.backends.lnbits_api import STREAM_LOST, Connect
from rail402_lightning.backends.phoenixd_api import Answer, PasswordRefused, PhoenixdApi
from rail402_lightning.networks import find_network

__all__ = ["PhoenixdReceiver", "PhoenixdSender"]

logger = logging.getLogger("rail402.lightning")

_INFO: Final = "/getinfo"
_PAY: Final = "/payinvoice"
_RECEIVED: Final = "/payments/incoming/"
_SENT: Final = "/payments/outgoingbyhash/"

_DEADLINE: Final = 60
_PAUSES: Final = (1, 2, 5)
_SLOW_POLL: Final = 1
_MAX_MESSAGE: Final = 1 << 16

_CHAINS: Final = {"testnet3": "testnet", "testnet4": "testnet"}

# What phoenixd's one peer takes for every payment that goes beyond itself; no request can say less.
_FEE_MSAT: Final = 4000
_FEE_PPM: Final = 4000

# Refused before the payment was begun: a parameter, the password, the path. But what says so may stand before phoenixd
# and have passed the request on, so there must be no row of it either.
_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 413, 415, 429})


class PhoenixdReceiver:
    """Receives to a phoenixd; see `Receiver`.

    A phoenixd without a channel buys one when money comes in, and takes the price of that out of what comes; amounts
    too small for it become a credit towards it. What a payer has paid counts in full all the same.

    Args:
        url: phoenixd's address.
        password: `http-password-limited-access` of its `phoenix.conf`. Secret.
        network: the network that it must be on; not checked here unless given.
        transport: what requests are sent through, and connect: what websockets are opened by, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no password or network.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        password: str,
        *,
        network: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        connect: Connect = connect,
    ) -> None:
        self._api = PhoenixdApi(url, password, transport=transport, connect=connect)
        self._network = None if network is None else find_network(network).name

    async def start(self) -> None:
        """Check the password and the network.

        Raises:
            ConfigurationError: one of them is wrong, or there is no phoenixd at that address.
            RailUnavailable: phoenixd cannot be asked.
        """
        await _open_node(self._api, self._network)
        if await _can_pay(self._api):
            logger.warning(
                "the phoenixd password of the rail is one that can spend; give it http-password-limited-access instead"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def health(self) -> None:
        """Ask phoenixd for its state."""
        (await self._api.get(_INFO)).expect()

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice, which is over whole sats."""
        form = {
            "amountSat": str(amount_msat // 1000),
            "descriptionHash": hashlib.sha256(hashed_description).hexdigest(),
            "expirySeconds": str(expiry_seconds),
        }
        try:
            text = (await self._api.post("/createinvoice", form)).expect().get("serialized")
        except OutcomeUnknown as error:  # perhaps there is an invoice now, which nobody will ever see
            raise RailUnavailable(error.detail) from error
        if not isinstance(text, str):
            raise RailUnavailable("phoenixd made an invoice and did not tell it")
        return text

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice.

        phoenixd tells the preimage from the start, so that says nothing; `isPaid` does, and it is only said when all
        that was asked for is there. What it calls received is less than that where it bought a channel on the way.
        """
        row = await _row(self._api, _RECEIVED, payment_hash)
        if row is None:
            return None
        match row.get("isPaid"), row.get("isExpired"):
            case True, _:
                settled_at = _number(row, "completedAt") // 1000
                return InvoiceStatus(
                    state="settled", received_msat=_number(row, "requestedSat") * 1000, settled_at=settled_at
                )
            case False, True:
                return InvoiceStatus(state="expired")
            case False, False:
                return InvoiceStatus(state="open")
        raise RailUnavailable("phoenixd answered about an invoice in a form that is not known here")

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Return when phoenixd reports the payment on its websocket, or the time is over.

        What was paid before the websocket was open it does not say, so the invoice is looked at once it is.
        """
        now = asyncio.get_running_loop().time
        ends = now() + seconds
        try:
            async with asyncio.timeout(seconds), self._api.listen("/websocket", timeout=seconds) as messages:
                status = await self.status(payment_hash)
                while status is not None and status.state == "open":
                    if _is_about(await messages.recv(), payment_hash):
                        return
        except TimeoutError:
            return
        except (*STREAM_LOST, RailUnavailable) as error:
            logger.info("phoenixd's websocket cannot be used (%s): payments are polled for", type(error).__name__)
            await asyncio.sleep(max(0, min(_SLOW_POLL, ends - now())))


class PhoenixdSender:
    """Pays from a phoenixd; see `Sender`.

    Every payment costs 4 sat and 0.4 percent: phoenixd pays through one peer, and has no limit to set. So
    `max_fee_sat` of the wallet must be 7 or more for small amounts.

    Args:
        url: phoenixd's address.
        password: `http-password` of its `phoenix.conf`. Secret: whoever has it can spend all that phoenixd holds.
        network: the network that it must be on; not checked here unless given.
        deadline: seconds after which a payment that has not ended counts as unknown.
        sleep: waits that many seconds between two looks at a payment.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no password or network.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        password: str,
        *,
        network: str | None = None,
        deadline: float = _DEADLINE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api = PhoenixdApi(url, password, transport=transport)
        self._network = None if network is None else find_network(network).name
        self._deadline, self._sleep = deadline, sleep

    async def start(self) -> None:
        """Check the password and the network.

        Raises:
            ConfigurationError: one of them is wrong, or there is no phoenixd at that address.
            RailUnavailable: phoenixd cannot be asked.
        """
        await _open_node(self._api, self._network)
        if not await _can_pay(self._api):
            raise ConfigurationError(
                "the phoenixd password of the wallet cannot pay; give it http-password of phoenix.conf"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def balance(self) -> int:
        """Return what the channel can carry; a credit towards fees cannot be spent."""
        return _number((await self._api.get("/getbalance")).expect(), "balanceSat") * 1000

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return what phoenixd's peer takes."""
        return _FEE_MSAT + -(-(bolt11.decode(invoice).amount_msat or 0) * _FEE_PPM // 1_000_000)

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice, and wait until that has ended or the deadline has come."""
        ceiling = await self.fee_ceiling(invoice, max_fee_msat=max_fee_msat)
        if ceiling > max_fee_msat:
            return SentPayment(state="failed", detail=f"phoenixd takes {ceiling} msat in fees, over the limit")
        payment_hash = bolt11.decode(invoice).payment_hash
        known = await _row(self._api, _SENT, payment_hash)
        try:
            async with asyncio.timeout(self._deadline):
                if known is not None and _sent(known).state != "failed":
                    return await self._follow(payment_hash, None)
                return await self._pay(invoice, payment_hash, failed_before=known)
        except TimeoutError:
            return SentPayment(state="unknown", detail=f"the payment has not ended in {self._deadline} s")

    async def _pay(self, invoice: str, payment_hash: bytes, *, failed_before: Json | None) -> SentPayment:
        answer: Answer | None = None
        try:
            answer = await self._api.post(_PAY, {"invoice": invoice}, timeout=self._deadline / 2)
        except OutcomeUnknown as error:
            logger.warning("a payment is being looked up: %s", error.detail)
        return await self._follow(payment_hash, answer, failed_before=failed_before)

    async def _follow(
        self, payment_hash: bytes, answer: Answer | None, *, failed_before: Json | None = None
    ) -> SentPayment:
        """Look at the payment until it has ended.

        Args:
            answer: to the request to pay. Where it says that it was not paid, phoenixd is done with this request; it
                says so, too, of what was paid before or is under way.
            failed_before: an earlier try to pay the same invoice, which says nothing about this one.

        Raises:
            RailUnavailable: the request was refused, and phoenixd wrote nothing down about it.
        """
        said = {} if answer is None else answer.body
        reason = said.get("reason") if said.get("paymentHash") == payment_hash.hex() else None
        is_over = isinstance(reason, str)
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        while True:
            try:
                row = await _row(self._api, _SENT, payment_hash)
                sent = None if row is None else _sent(row)
            except RailUnavailable as error:
                logger.warning("a payment cannot be looked up yet: %s", error.detail)
            else:
                if sent is not None and sent.state == "paid":
                    return sent
                if is_over and (sent is None or sent.state == "failed"):
                    return SentPayment(state="failed", detail=f"phoenixd: {shown(reason)}")
                if sent is not None and sent.state == "failed" and not _is_same(row, failed_before):
                    return sent
                if answer is not None and answer.status in _REFUSED and (sent is None or sent.state == "failed"):
                    raise answer.error()
            await self._sleep(next(pauses))

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment: the best of all tries to make it."""
        row = await _row(self._api, _SENT, payment_hash)
        return None if row is None else _sent(row)


def _sent(row: Json) -> SentPayment:
    """Read a payment. One that failed has no word for it: it is not paid, and completed.

    Raises:
        RailUnavailable: it cannot be read.
    """
    match row.get("isPaid"), row.get("completedAt"):
        case True, _:
            preimage = row.get("preimage")
            told = preimage if isinstance(preimage, str) else None
            return SentPayment(state="paid", preimage=told, fee_msat=_number(row, "fees"))
        case False, int():
            return SentPayment(state="failed", detail="phoenixd could not pay")
        case False, None:
            return SentPayment(state="unknown", detail="the payment is in flight")
    raise RailUnavailable("phoenixd answered about a payment in a form that is not known here")


def _is_same(row: Json | None, other: Json | None) -> bool:
    return row is not None and other is not None and row.get("paymentId") == other.get("paymentId")


async def _row(api: PhoenixdApi, path: str, payment_hash: bytes) -> Json | None:
    """Return what phoenixd wrote down about a payment; None if there is none.

    Raises:
        RailUnavailable: there is no answer that can be believed.
    """
    text = payment_hash.hex()
    answer = await api.get(path + text)
    if (answer.status, answer.detail) == (404, "Not found"):  # of a path that it does not know it says more
        return None
    row = answer.expect()
    if row.get("paymentHash") != text:
        raise RailUnavailable("phoenixd answered about another payment")
    return row


async def _open_node(api: PhoenixdApi, network: str | None) -> None:
    """Check that there is a phoenixd that takes the password, on our network."""
    try:
        answer = await api.get(_INFO)
        if answer.status in (404, 405):
            raise ConfigurationError(f"there is no phoenixd at {api.url}; url is its address alone")
        said = answer.expect().get("chain")
    except (PasswordRefused, CertificateRefused) as error:
        raise ConfigurationError(error.detail) from error
    if not isinstance(said, str):
        raise ConfigurationError(f"what answers at {api.url} is no phoenixd that is known here")
    found = _CHAINS.get(said, said)
    if network not in (None, found):
        raise ConfigurationError(f"phoenixd is on {shown(found)}, and network={network!r} is set")


async def _can_pay(api: PhoenixdApi) -> bool:
    """Whether the password can spend: with one that can, a request to pay nothing fails for want of an invoice.

    Raises:
        RailUnavailable: phoenixd cannot be asked.
    """
    try:
        return (await api.post(_PAY, {})).status not in (401, 403)
    except OutcomeUnknown as error:
        raise RailUnavailable(error.detail) from error


def _is_about(message: Any, payment_hash: bytes) -> bool:
    try:
        return parse_json(message, field="message", max_bytes=_MAX_MESSAGE).get("paymentHash") == payment_hash.hex()
    except MalformedInput:
        return False


def _number(members: Json, name: str) -> int:
    return whole_number(members, name, who="phoenixd")
