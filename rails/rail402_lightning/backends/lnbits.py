"""LNbits as a receiver and as a sender (REST API of 1.x, `/api/v1`).

Two keys, two classes: `LnbitsReceiver` has a wallet's invoice key and cannot spend, `LnbitsSender` has its admin key.
What to know about LNbits is written where it matters below; the worst of it: an answer that says `failed` can be about
a payment that went through, so what became of a payment is read from its row, and only from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain, repeat
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.lnbits_api import STREAM_LOST, Answer, Connect, KeyRefused, LnbitsApi
from rail402_lightning.networks import find_network
from rail402_lightning.wire import check_node

__all__ = ["LnbitsReceiver", "LnbitsSender"]

logger = logging.getLogger("rail402.lightning")

_PAYMENTS: Final = "/api/v1/payments"
_WALLET: Final = "/api/v1/wallet"
_STREAM: Final = "/api/v1/ws"
_UNKNOWN_PAYMENT: Final = "Payment does not exist."

_PAY_TIMEOUT: Final = 30
# LNbits passes a look at a payment in flight on to its node, and LND answers that only after half a minute.
_LOOK_TIMEOUT: Final = 40
_TIMEOUT: Final = 10
_DEADLINE: Final = 60
_PAUSES: Final = (0.25, 0.5, 1.0, 2.0, 5.0)
_SLOW_POLL: Final = 1
_PROBE_SECONDS: Final = 60

_VERSIONS: Final = "version 1.x"

# Refused at the door of the API: the payment was never begun. But what says so may stand before LNbits and have passed
# the request on, so there must be no row of it either.
_REFUSED: Final = frozenset({401, 403, 404, 422, 429})


class LnbitsReceiver:
    """Receives to a wallet of an LNbits server; see `Receiver`.

    Args:
        url: the server's address.
        invoice_key: the wallet's invoice key. Secret.
        transport: what requests are sent through, and connect: what websockets are opened by, for tests.

    Raises:
        ConfigurationError: the address cannot be used.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        invoice_key: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        connect: Connect = connect,
    ) -> None:
        self._api = LnbitsApi(url, invoice_key, transport=transport, connect=connect)
        self._streams = True

    async def start(self) -> None:
        """Check the key.

        Raises:
            ConfigurationError: LNbits refuses it, or is not at that address.
            RailUnavailable: LNbits cannot be asked.
        """
        if "id" in await _open_wallet(self._api):
            logger.warning(
                "the LNbits key of the rail is an admin key, which can spend; give it the wallet's invoice key instead"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def health(self) -> None:
        """Read the wallet."""
        (await self._api.get(_WALLET)).expect(200)

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice.

        Some of the nodes behind LNbits want the text that is hashed and others its hash, so both are sent.
        """
        return await _make_invoice(
            self._api,
            {
                "amount": amount_msat // 1000,
                "memo": "",
                "description_hash": hashlib.sha256(hashed_description).hexdigest(),
                "unhashed_description": hashed_description.hex(),
                "expiry": expiry_seconds,
            },
        )

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice.

        LNbits hands out the preimage of an invoice that is not paid, so that says nothing; `paid` does. An invoice
        that has expired it marks as failed without asking its node; a payment that arrives later makes it paid. When a
        payment arrived it does not say, only when it booked it, which may be much later if it was down meanwhile. That
        nobody pays too late is left to its node, which takes no payment of an invoice that has expired.
        """
        row = await _row(self._api, payment_hash, timeout=_TIMEOUT)
        if row is None:
            return None
        amount = _integer(row, "amount")
        if amount <= 0:
            raise RailUnavailable("an invoice was paid from the very LNbits wallet that it is for; use another one")
        match row["status"]:
            case "success":
                return InvoiceStatus(state="settled", received_msat=amount)
            case "failed":
                labels = row.get("labels")
                expired = isinstance(labels, list) and "expired" in labels
                return InvoiceStatus(state="expired" if expired else "canceled")
            case _:
                return InvoiceStatus(state="open")

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Return when LNbits says something about the invoice on its websocket, or the time is over.

        Anybody can have LNbits say anything there, so what it says is not even read. What was paid before the websocket
        was open it does not say, so the invoice is looked at once it is.
        """
        now = asyncio.get_running_loop().time
        ends = now() + seconds
        try:
            stream = self._api.listen(f"{_STREAM}/{payment_hash.hex()}", timeout=seconds)
            async with asyncio.timeout(seconds), stream as messages:
                status = await self.status(payment_hash)
                if status is not None and status.state == "open":
                    await messages.recv()
        except TimeoutError:
            return
        except (*STREAM_LOST, RailUnavailable) as error:
            level = logging.WARNING if self._streams else logging.DEBUG
            logger.log(level, "LNbits has no websocket for us (%s): payments are polled for", type(error).__name__)
            self._streams = False
            await asyncio.sleep(max(0, min(_SLOW_POLL, ends - now())))
        else:
            self._streams = True


class LnbitsSender:
    """Pays from a wallet of an LNbits server; see `Sender`.

    Args:
        url: the server's address.
        admin_key: the wallet's admin key. Secret: whoever has it can spend all that the wallet holds.
        network: the network that its node must be on; None leaves that unchecked.
        deadline: seconds after which a payment that has not ended counts as unknown.
        sleep: waits that many seconds between two looks at a payment.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no such network.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        admin_key: str,
        *,
        network: str | None = None,
        deadline: float = _DEADLINE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api = LnbitsApi(url, admin_key, transport=transport)
        self._network = None if network is None else find_network(network)
        self._deadline, self._sleep = deadline, sleep

    async def start(self) -> None:
        """Check the key, and by an invoice of the wallet's own that there is a node behind it, on our network.

        Raises:
            ConfigurationError: LNbits refuses the key, or it cannot spend; LNbits is not at that address, or has
                another network's node or none.
            RailUnavailable: LNbits or its node cannot be asked.
        """
        if "id" not in await _open_wallet(self._api):
            raise ConfigurationError(
                "the LNbits key of the wallet is an invoice key, which cannot pay; give it the wallet's admin key"
            )
        if self._network is None:
            return
        check_node(await self._last_invoice() or await self._new_invoice(), self._network)

    async def _last_invoice(self) -> bolt11.Invoice | None:
        """Return the last invoice that LNbits' node made for this wallet, if any can be read."""
        last = {"limit": "1", "sortby": "time", "direction": "desc", "amount[gt]": "0"}
        match (await self._api.get(f"{_PAYMENTS}/paginated", last)).body.get("data"):
            case [{"bolt11": str(text), "amount": amount}] if type(amount) is int and amount > 0:
                with suppress(MalformedInput):
                    return bolt11.decode(text)
        return None

    async def _new_invoice(self) -> bolt11.Invoice:
        asked = {"amount": 1, "memo": "rail402: which network is this?", "expiry": _PROBE_SECONDS}
        try:
            return bolt11.decode(await _make_invoice(self._api, asked))
        except MalformedInput as error:
            raise RailUnavailable("LNbits made an invoice that cannot be read") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def balance(self) -> int:
        """Return what the wallet holds."""
        return _integer((await self._api.get(_WALLET)).expect(200), "balance")

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return what LNbits reserves for fees. It is the limit that its node is given; a payment cannot set one."""
        answer = await self._api.get(f"{_PAYMENTS}/fee-reserve", {"invoice": invoice})
        return _integer(answer.expect(200), "fee_reserve")

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice, and wait until that has ended or the deadline has come."""
        reserve = await self.fee_ceiling(invoice, max_fee_msat=max_fee_msat)
        if reserve > max_fee_msat:
            return SentPayment(state="failed", detail=f"LNbits may spend {reserve} msat on fees, over the limit")
        try:
            async with asyncio.timeout(self._deadline):
                return await self._pay(invoice)
        except TimeoutError:
            return SentPayment(state="unknown", detail=f"the payment has not ended in {self._deadline} s")

    async def _pay(self, invoice: str) -> SentPayment:
        answer: Answer | None
        try:
            answer = await self._api.post(_PAYMENTS, {"out": True, "bolt11": invoice}, timeout=_PAY_TIMEOUT)
        except OutcomeUnknown as error:
            logger.warning("a payment is being looked up: %s", error.detail)
            answer = None
        return await self._follow(bolt11.decode(invoice).payment_hash, answer)

    async def _follow(self, payment_hash: bytes, answer: Answer | None) -> SentPayment:
        """Look at the payment until it has ended; the answer's own word counts for nothing while there is a row.

        Raises:
            RailUnavailable: the request was refused, and LNbits wrote nothing down about it.
        """
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        while True:
            try:
                sent = await self.lookup(payment_hash)
            except RailUnavailable as error:
                logger.warning("a payment cannot be looked up yet: %s", error.detail)
            else:
                if sent is None and answer is not None and answer.status in _REFUSED:
                    raise answer.error()
                if sent is None and answer is not None and _has_ended(answer):
                    return SentPayment(state="failed", detail=answer.detail)
                if sent is not None and sent.state != "unknown":
                    return sent
            await self._sleep(next(pauses))

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment."""
        row = await _row(self._api, payment_hash, timeout=_LOOK_TIMEOUT)
        if row is None or _integer(row, "amount") > 0:  # an invoice of this wallet's own, which it has not paid
            return None
        match row["status"]:
            case "success":
                preimage = row.get("preimage")
                told = preimage if isinstance(preimage, str) else None
                # Until a payment has succeeded its fee is what is reserved for it; money that went out is negative.
                return SentPayment(state="paid", preimage=told, fee_msat=abs(_integer(row, "fee")))
            case "failed":
                return SentPayment(state="failed", detail="the node behind LNbits could not pay")
            case _:
                return SentPayment(state="unknown", detail="the payment is in flight")


async def _open_wallet(api: LnbitsApi) -> Json:
    """Return the wallet; an admin key is told its `id`.

    Raises:
        ConfigurationError: the key is refused, or this is no LNbits.
        RailUnavailable: LNbits cannot be asked.
    """
    answer = await api.get(_WALLET)
    try:
        wallet = answer.expect(200)
    except KeyRefused as error:
        raise ConfigurationError(error.detail) from error
    except RailUnavailable as error:
        if answer.status in (404, 405):
            raise ConfigurationError(
                f"there is no LNbits at {api.url}; url is its address alone, without /wallet or /api"
            ) from error
        raise
    if "balance" not in wallet:
        raise ConfigurationError(f"what answers at {api.url} is not the LNbits that is known here, {_VERSIONS}")
    return wallet


async def _make_invoice(api: LnbitsApi, asked: Json) -> str:
    """Return the text of a new invoice.

    Raises:
        RailUnavailable: there is none.
    """
    try:
        # Left out, `out` means a payment.
        answer = await api.post(_PAYMENTS, {"out": False, "unit": "sat", **asked})
    except OutcomeUnknown as error:  # perhaps there is an invoice now, which nobody will ever see
        raise RailUnavailable(error.detail) from error
    if "VoidWallet" in answer.detail:
        raise RailUnavailable(
            "LNbits has no Lightning node: it could not use its own at its start and fell back to VoidWallet; see its "
            "log, put the node or its settings right, and restart LNbits"
        )
    if answer.status == 520:
        raise RailUnavailable(f"the node behind LNbits made no invoice (is it locked or syncing?): {answer.detail}")
    made = answer.expect(200, 201)
    text = made.get("bolt11") or made.get("payment_request")
    if not isinstance(text, str):
        raise RailUnavailable(f"LNbits made an invoice and did not tell it; is it {_VERSIONS}?")
    return text


async def _row(api: LnbitsApi, payment_hash: bytes, *, timeout: int) -> Json | None:
    """Return what LNbits wrote down about a payment of this wallet, in or out; None if there is none.

    Raises:
        RailUnavailable: there is no answer that can be believed.
    """
    text = payment_hash.hex()
    answer = await api.get(f"{_PAYMENTS}/{text}", timeout=timeout)
    if (answer.status, answer.detail) == (404, _UNKNOWN_PAYMENT):
        return None
    row: Any = answer.expect(200).get("details")
    if row is None:  # LNbits answers anybody, with a wrong key or none; its own wallet's key gets the row
        raise KeyRefused("LNbits does not know the key; copy it from the wallet's page, under API keys")
    if not isinstance(row, dict) or row.get("payment_hash") != text or not isinstance(row.get("status"), str):
        raise RailUnavailable(f"LNbits answered about a payment in a form that is not known here; is it {_VERSIONS}?")
    if (row["status"] == "success") is not (answer.body.get("paid") is True):
        raise RailUnavailable("LNbits contradicts itself about a payment")
    return row


def _has_ended(answer: Answer) -> bool:
    """Whether LNbits itself says that it is done with a payment: without a row it did not begin it."""
    failed = answer.status == 520 and answer.body.get("status") == "failed"
    return failed or (answer.status == 400 and "detail" in answer.body)


def _integer(members: Json, name: str) -> int:
    value = members.get(name)
    if type(value) is not int:
        raise RailUnavailable(f"LNbits sent no whole number as {name}")
    return value
