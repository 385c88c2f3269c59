"""lnd as a receiver and as a sender (REST API, lnd 0.15 and later).

Two macaroons, two classes; neither needs `admin.macaroon`:

    lncli bakemacaroon --save_to rail402-receive.macaroon info:read invoices:read invoices:write
    lncli bakemacaroon --save_to rail402-pay.macaroon info:read offchain:read offchain:write

Narrower still, down to the single methods, is what `lnd_macaroon.RECEIVE` and `PAY` list: `uri:` before each. What to
know about lnd is written where it matters below; the worst of it: a payment that timed out is not one that failed, so
only a terminal state counts, and it is asked for by the payment hash until there is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Final

import httpx

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.lnd_api import (
    NOT_FOUND,
    LndApi,
    LndError,
    MacaroonRefused,
    NotReady,
    as_base64,
    as_base64url,
    from_base64,
)
from rail402_lightning.backends.lnd_macaroon import PAY, RECEIVE, permissions
from rail402_lightning.backends.lnd_node import active_channels, integer, node_info, open_node, spendable

__all__ = ["LndReceiver", "LndSender"]

logger = logging.getLogger("rail402.lightning")

_SEND: Final = "/v2/router/send"

_DEADLINE: Final = 60
_LOOK_TIMEOUT: Final = 10
_MAX_PARTS: Final = 16
_PAUSES: Final = (1, 2, 5)

_FAILURES: Final = {
    "FAILURE_REASON_TIMEOUT": "lnd found no way in the time that it had",
    "FAILURE_REASON_NO_ROUTE": "there is no route to the payee within the fee limit",
    "FAILURE_REASON_ERROR": "lnd had an internal error",
    "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS": "the payee does not know the invoice, or takes it no more",
    "FAILURE_REASON_INSUFFICIENT_BALANCE": "the channels of the node hold too little",
    "FAILURE_REASON_CANCELED": "the payment was canceled at the node",
}

# gRPC codes with which lnd itself refuses a payment: unknown (lnd's usual one), invalid argument, not found, failed
# precondition, out of range, unimplemented. With others, such as unavailable, it may go on with it.
_REFUSALS: Final = frozenset({2, 3, 5, 9, 11, 12})


class LndReceiver:
    """Receives to an lnd; see `Receiver`.

    The macaroon takes `info:read`, `invoices:read` and `invoices:write`, and cannot spend. With `offchain:read` beside
    them, `health` also sees whether the channels have room to receive.

    Args:
        url: the address of the REST API.
        macaroon: hexadecimal digits, bytes, or the path of the file. Secret.
        tls_cert: the node's `tls.cert`, as a path or as PEM text; None where its certificate is a public one.
        network: the network that the node must be on; not checked here unless given.
        private: put hints to the node's private channels into the invoices.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: address, macaroon or certificate cannot be used.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        macaroon: str | bytes | Path,
        *,
        tls_cert: str | Path | None = None,
        network: str | None = None,
        private: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api = LndApi(url, macaroon, tls_cert=tls_cert, transport=transport)
        self._network, self.private = network, private

    async def start(self) -> None:
        """Check certificate, macaroon, network, chain and channels.

        Raises:
            ConfigurationError: one of the settings is wrong.
            RailUnavailable: lnd cannot be reached, is locked, starting or syncing, or nobody could pay it.
        """
        await self._check_channels(await open_node(self._api, RECEIVE, self._network))

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def health(self) -> None:
        """Ask whether lnd follows the chain, and has a channel to be paid through."""
        await self._check_channels(await node_info(self._api))

    async def _check_channels(self, info: Json) -> None:
        """Raise `RailUnavailable` where nobody can pay the node."""
        if integer(info, "num_active_channels") == 0:
            raise RailUnavailable(
                "lnd has no active channel, so nobody can pay it: open one, and have money on the other side of it"
            )
        if "offchain:read" not in (permissions(self._api.macaroon) or ()):
            return
        channels = await active_channels(self._api)
        if sum(spendable(channel, "remote") for channel in channels) == 0:
            raise RailUnavailable(
                "all money in lnd's channels is on its own side, so nobody can pay it: it needs inbound capacity"
            )
        if not self.private and all(channel.get("private") is True for channel in channels):
            raise RailUnavailable("all channels of lnd are private, and its invoices do not tell of them: set private")

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice."""
        body = {
            "value_msat": str(amount_msat),
            "description_hash": as_base64(hashlib.sha256(hashed_description).digest()),
            "expiry": str(expiry_seconds),
            "private": self.private,
        }
        try:
            text = (await self._api.post("/v1/invoices", body)).get("payment_request")
        except OutcomeUnknown as error:  # perhaps there is an invoice now, which nobody will ever see
            raise RailUnavailable(error.detail) from error
        if not isinstance(text, str):
            raise RailUnavailable("lnd made an invoice and did not tell it")
        return text

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice.

        lnd cancels an invoice that has expired; nothing can arrive for it any more. While a payment of a hold invoice
        is held it is accepted, and what has arrived then may go back.
        """
        try:
            found = await self._api.get(f"/v1/invoice/{payment_hash.hex()}")
        except LndError as error:
            if error.grpc_code == NOT_FOUND and "invoice" in error.message:
                return None
            raise
        if from_base64(found.get("r_hash")) != payment_hash:
            raise RailUnavailable("lnd answered about another invoice")
        match found.get("state"):
            case "SETTLED":
                received, settled_at = integer(found, "amt_paid_msat"), integer(found, "settle_date")
                return InvoiceStatus(state="settled", received_msat=received, settled_at=settled_at or None)
            case "CANCELED":
                return InvoiceStatus(state="canceled")
            case "OPEN" | "ACCEPTED":
                return InvoiceStatus(state="open")
        raise RailUnavailable("lnd answered about an invoice in a form that is not known here")

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Wait on the node's own stream until the invoice has ended or the time is over; `status` says what it is.

        A stream that is lost is opened again; its first message tells what happened meanwhile.
        """
        path = f"/v2/invoices/subscribe/{as_base64url(payment_hash)}"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if await self._has_ended(path):
                        return
                    await asyncio.sleep(_PAUSES[0])
        except TimeoutError:
            return

    async def _has_ended(self, path: str) -> bool:
        try:
            await self._api.follow("GET", path, lambda invoice: invoice.get("state") in ("SETTLED", "CANCELED"))
        except (RailUnavailable, OutcomeUnknown) as error:
            logger.info("an invoice cannot be watched now: %s", error.detail)
            return False
        return True


class LndSender:
    """Pays from an lnd; see `Sender`.

    The macaroon takes `info:read`, `offchain:read` and `offchain:write`. Whoever has it can spend all that is in the
    node's channels.

    Args:
        url, macaroon, tls_cert, network, transport: as for `LndReceiver`.
        deadline: seconds after which a payment that has not ended counts as unknown. For half of them lnd tries routes.
        max_parts: the most parts that a payment is split into.
        allow_self_payment: whether invoices of the node itself are paid, around through its peers.

    Raises:
        ConfigurationError: address, macaroon or certificate cannot be used.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        macaroon: str | bytes | Path,
        *,
        tls_cert: str | Path | None = None,
        network: str | None = None,
        deadline: float = _DEADLINE,
        max_parts: int = _MAX_PARTS,
        allow_self_payment: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if deadline <= 0 or max_parts < 1:
            raise ConfigurationError("deadline and max_parts must be positive")
        self._api = LndApi(url, macaroon, tls_cert=tls_cert, transport=transport)
        self._network, self._deadline, self._max_parts = network, deadline, max_parts
        self._allow_self_payment = allow_self_payment

    async def start(self) -> None:
        """Check certificate, macaroon, network and chain.

        Where there is nothing to spend that is only logged: what was paid before must be found out nevertheless.

        Raises:
            ConfigurationError: one of the settings is wrong.
            RailUnavailable: lnd cannot be reached, is locked, starting or syncing.
        """
        await open_node(self._api, PAY, self._network)
        if await self.balance() == 0:
            logger.warning("lnd has no active channel with money on its own side, so it cannot pay: open or fill one")

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def balance(self) -> int:
        """Return what the channels can carry that a payment may use: without what they keep in reserve, and without
        those whose peer is away."""
        parts = sorted(spendable(channel, "local") for channel in await active_channels(self._api))
        return sum(parts[-self._max_parts :])

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return `max_fee_msat`: lnd keeps to it."""
        return max_fee_msat

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice, and wait until that has ended or the deadline has come."""
        payment_hash = bolt11.decode(invoice).payment_hash
        known = await self._look(payment_hash)
        try:
            async with asyncio.timeout(self._deadline):
                if known is not None and known.get("status") != "FAILED":
                    return await self._follow(payment_hash)
                body = {
                    "payment_request": invoice,
                    "fee_limit_msat": str(max_fee_msat),  # left out, only routes without a fee are taken
                    "timeout_seconds": max(1, int(self._deadline / 2)),
                    "max_parts": self._max_parts,
                    "amp": False,
                    "allow_self_payment": self._allow_self_payment,
                    "no_inflight_updates": True,
                }
                return await self._send(payment_hash, body, failed_before=known)
        except TimeoutError:
            return SentPayment(state="unknown", detail=f"the payment has not ended in {self._deadline} s")

    async def _send(self, payment_hash: bytes, body: Json, *, failed_before: Json | None) -> SentPayment:
        """Have lnd pay. That goes on when our connection ends, so whatever is no answer is followed by a look."""
        refusal: LndError | None = None
        try:
            return _sent(await self._api.follow("POST", _SEND, _is_final, body=body), payment_hash)
        except NotReady:
            raise  # before the payment was looked at
        except LndError as error:
            refusal = error if error.grpc_code in _REFUSALS or isinstance(error, MacaroonRefused) else None
            logger.info("a payment is being looked up: %s", error.detail)
        except OutcomeUnknown as error:
            logger.warning("a payment is being looked up: %s", error.detail)
        sent = await self._follow(payment_hash, failed_before, refusal)
        if sent.state == "failed" and isinstance(refusal, MacaroonRefused):
            raise refusal  # by lnd, or by what stands before it, which may have passed the request on
        return sent

    async def _follow(
        self, payment_hash: bytes, failed_before: Json | None = None, refusal: LndError | None = None
    ) -> SentPayment:
        """Track the payment until it has ended.

        Args:
            failed_before: an earlier try to pay the same invoice, which says nothing about this one.
            refusal: lnd's answer that it does not pay, which is believed if it knows of no payment either.
        """
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        while True:
            try:
                found = await self._find(payment_hash, _is_final)
                if found is not None and not _is_same(found, failed_before):
                    return _sent(found, payment_hash)
            except (RailUnavailable, OutcomeUnknown) as error:
                logger.warning("a payment cannot be looked up yet: %s", error.detail)
            else:
                if refusal is not None:
                    return SentPayment(state="failed", detail=refusal.detail)
            await asyncio.sleep(next(pauses))

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment."""
        found = await self._look(payment_hash)
        try:
            return None if found is None else _sent(found, payment_hash)
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def _look(self, payment_hash: bytes) -> Json | None:
        """Return a payment as it is now; None if there is none.

        Raises:
            RailUnavailable: lnd cannot be asked.
        """
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                return await self._find(payment_hash)
        except TimeoutError as error:
            raise RailUnavailable(f"lnd gave no answer in {_LOOK_TIMEOUT} s") from error
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def _find(self, payment_hash: bytes, until: Callable[[Json], bool] | None = None) -> Json | None:
        """Return a payment as it is now, or when `until` is true of it; None if there is none.

        The stream's first message is the state at that time; without those in between the only one is the end.
        """
        path = f"/v2/router/track/{as_base64url(payment_hash)}"
        params = {"no_inflight_updates": "false" if until is None else "true"}
        try:
            return await self._api.follow("GET", path, until or _is_any, params=params)
        except LndError as error:
            if error.grpc_code == NOT_FOUND and "payment" in error.message:
                return None
            raise


def _is_any(payment: Json) -> bool:
    return True


def _is_same(payment: Json, other: Json | None) -> bool:
    return other is not None and payment.get("payment_index") == other.get("payment_index")


def _is_final(payment: Json) -> bool:
    return payment.get("status") in ("SUCCEEDED", "FAILED")


def _sent(payment: Json, payment_hash: bytes) -> SentPayment:
    """Read a payment. Only the status counts: a reason to fail may be there while parts of it are still in flight.

    Raises:
        OutcomeUnknown: it cannot be read.
    """
    if payment.get("payment_hash") != payment_hash.hex():
        raise OutcomeUnknown("lnd answered about another payment")
    match payment.get("status"):
        case "SUCCEEDED":
            preimage = payment.get("payment_preimage")
            try:
                fee = integer(payment, "fee_msat")
            except RailUnavailable as error:
                raise OutcomeUnknown(error.detail) from error
            return SentPayment(state="paid", preimage=preimage if isinstance(preimage, str) else None, fee_msat=fee)
        case "FAILED":
            reason = str(payment.get("failure_reason"))
            return SentPayment(state="failed", detail=_FAILURES.get(reason, "lnd does not say why"))
        case "IN_FLIGHT" | "INITIATED":
            return SentPayment(state="unknown", detail="the payment is in flight")
    raise OutcomeUnknown("lnd answered about a payment in a form that is not known here")
