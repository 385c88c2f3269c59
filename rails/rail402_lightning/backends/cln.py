"""Core Lightning as a receiver and as a sender (clnrest, Core Lightning 24.11 and later).

Two runes, two classes; each may call its own methods and no others:

    lightning-cli createrune restrictions='[["method=getinfo","method=invoice","method=listinvoices",
        "method=waitinvoice"]]'
    lightning-cli createrune restrictions='[["method=getinfo","method=xpay","method=pay","method=listpays",
        "method=listpeerchannels"]]'

What to know about Core Lightning is written where it matters below; the worst of it: between two attempts of a payment
it lists that as failed, and it may say that a payment failed while parts of it are still in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Final

import httpx

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.cln_api import ClnApi, ClnError, RuneRefused, UnknownMethod, millisatoshis
from rail402_lightning.backends.cln_node import check_channels, is_allowed, listed, number, open_node, synced
from rail402_lightning.networks import find_network
from rail402_lightning.wire import is_preimage_of

__all__ = ["ClnReceiver", "ClnSender"]

logger = logging.getLogger("rail402.lightning")

_DEADLINE: Final = 60
_PAUSES: Final = (1, 2, 5)
_SLOW_POLL: Final = 1
_NOBODY: Final = "00" * 32

_LABEL_TAKEN: Final = 900
_EXPIRED: Final = 903

# With these a payment has ended: wrong parameters, no way to the payee, too expensive, expired, other, out of time.
_REFUSALS: Final = frozenset({-32602, -32600, 203, 205, 206, 207, 209, 210})

# Seconds after which no further attempt is made, counted from the first one and on top of the time for attempts.
_SETTLED_DOWN: Final = 60


class ClnReceiver:
    """Receives to a Core Lightning; see `Receiver`.

    Args:
        url: the address of clnrest.
        rune: may call `getinfo`, `invoice`, `listinvoices` and `waitinvoice`. Secret.
        tls_cert: clnrest's `ca.pem`, as a path or as PEM text; None where its certificate is a public one.
        network: the network that the node must be on; not checked here unless given.
        private: put hints to the node's private channels into the invoices. Where all of its channels are private, it
            does so anyway.
        random_bytes: makes labels.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: address, rune or certificate cannot be used, or there is no such network.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        rune: str,
        *,
        tls_cert: str | Path | None = None,
        network: str | None = None,
        private: bool = False,
        random_bytes: RandomBytes = system_random,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api = ClnApi(url, rune, tls_cert=tls_cert, transport=transport)
        # Waits are long; they must not keep the other calls from a connection.
        self._waits = ClnApi(url, rune, tls_cert=tls_cert, transport=transport)
        self._network = None if network is None else find_network(network).name
        self.private, self._random_bytes = private, random_bytes

    async def start(self) -> None:
        """Check certificate, rune, network, chain and channels.

        Raises:
            ConfigurationError: one of the settings is wrong.
            RailUnavailable: the node cannot be reached, is syncing, or nobody could pay it.
        """
        check_channels(await open_node(self._api, self._network))
        if not await is_allowed(self._api, "listinvoices", {"payment_hash": _NOBODY}):
            raise ConfigurationError("the rune does not let us call listinvoices; make one that does")
        if await is_allowed(self._api, "xpay", {}) or await is_allowed(self._api, "pay", {}):
            logger.warning(
                "the rune of the rail can spend; give it one for invoice, listinvoices and waitinvoice alone"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()
        await self._waits.close()

    async def health(self) -> None:
        """Ask whether the node follows the chain, and has a channel to be paid through."""
        check_channels(synced(await self._api.ask("getinfo")))

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice.

        Its label is new, so an invoice whose making was not answered is found by it and not made twice.
        """
        label = f"rail402-{self._random_bytes(16).hex()}"
        try:
            asked = {
                "amount_msat": amount_msat,
                "label": label,
                "description": hashed_description.decode(),
                "deschashonly": True,
                "expiry": expiry_seconds,
            }
        except UnicodeDecodeError as error:
            raise RailUnavailable("Core Lightning hashes the description itself, and this is none") from error
        if self.private:
            asked["exposeprivatechannels"] = True
        try:
            made = await self._api.do("invoice", asked)
        except OutcomeUnknown as error:
            made = await self._labelled(label, error)
        except ClnError as error:
            if error.rpc_code != _LABEL_TAKEN:
                raise
            made = await self._labelled(label, error)
        text = made.get("bolt11")
        if not isinstance(text, str):
            raise RailUnavailable("Core Lightning made an invoice and did not tell it")
        return text

    async def _labelled(self, label: str, why: ClnError | OutcomeUnknown) -> Json:
        """Return the invoice of a label.

        Raises:
            RailUnavailable: there is none, or the node cannot be asked.
        """
        found = await listed(self._api, "listinvoices", "invoices", {"label": label})
        if len(found) != 1 or found[0].get("label") != label:
            raise RailUnavailable(why.detail) from why
        return found[0]

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice."""
        row = await self._row(payment_hash)
        if row is None:
            return None
        match row.get("status"):
            case "paid":
                received, settled_at = millisatoshis(row, "amount_received_msat"), number(row, "paid_at")
                return InvoiceStatus(state="settled", received_msat=received, settled_at=settled_at)
            case "unpaid":
                return InvoiceStatus(state="open")
            case "expired":
                return InvoiceStatus(state="expired")
        raise RailUnavailable("Core Lightning answered about an invoice in a form that is not known here")

    async def _row(self, payment_hash: bytes) -> Json | None:
        text = payment_hash.hex()
        found = await listed(self._api, "listinvoices", "invoices", {"payment_hash": text})
        if len(found) > 1 or any(row.get("payment_hash") != text for row in found):
            raise RailUnavailable("Core Lightning answered about another invoice")
        return found[0] if found else None

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Have the node answer when the invoice is paid or has expired; `status` says which."""
        now = asyncio.get_running_loop().time
        ends = now() + seconds
        try:
            async with asyncio.timeout(seconds):
                row = await self._row(payment_hash)
                if row is not None and row.get("status") == "unpaid":
                    await self._waits.do("waitinvoice", {"label": row.get("label")}, timeout=seconds)
        except TimeoutError:
            return
        except (RailUnavailable, OutcomeUnknown) as error:
            if isinstance(error, ClnError) and error.rpc_code == _EXPIRED:
                return
            logger.info("an invoice cannot be waited for now: %s", error.detail)
            await asyncio.sleep(max(0, min(_SLOW_POLL, ends - now())))


class ClnSender:
    """Pays from a Core Lightning; see `Sender`.

    Args:
        url, tls_cert, network, transport: as for `ClnReceiver`.
        rune: may call `getinfo`, `xpay`, `pay`, `listpays` and `listpeerchannels`. Secret: whoever has it can spend all
            that is in the node's channels.
        deadline: seconds after which a payment that has not ended counts as unknown. For half of them the node tries
            routes.
        clock: Unix seconds; the node's own may differ by a minute.
        sleep: waits that many seconds between two looks at a payment.

    Raises:
        ConfigurationError: address, rune or certificate cannot be used, or there is no such network.
    """

    sandbox = False

    def __init__(
        self,
        url: str,
        rune: str,
        *,
        tls_cert: str | Path | None = None,
        network: str | None = None,
        deadline: float = _DEADLINE,
        clock: Clock = system_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if deadline <= 0:
            raise ConfigurationError("deadline must be positive")
        self._api = ClnApi(url, rune, tls_cert=tls_cert, transport=transport)
        self._network = None if network is None else find_network(network).name
        self._deadline, self._clock, self._sleep = deadline, clock, sleep
        self._retry_for = max(1, int(deadline / 2))

    async def start(self) -> None:
        """Check certificate, rune, network and chain.

        Where there is nothing to spend that is only logged: what was paid before must be found out nevertheless.

        Raises:
            ConfigurationError: one of the settings is wrong.
            RailUnavailable: the node cannot be reached, or is syncing.
        """
        await open_node(self._api, self._network)
        if not await is_allowed(self._api, "listpays", {"payment_hash": _NOBODY}):
            raise ConfigurationError("the rune does not let us call listpays; make one that does")
        if await self.balance() == 0:
            logger.warning("Core Lightning has no channel with money on its own side, so it cannot pay")

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def balance(self) -> int:
        """Return what the channels can carry whose peers are there."""
        channels = await listed(self._api, "listpeerchannels", "channels", {})
        usable = (
            row for row in channels if row.get("state") == "CHANNELD_NORMAL" and row.get("peer_connected") is True
        )
        return sum(millisatoshis(row, "spendable_msat") for row in usable)

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return `max_fee_msat`: the node keeps to it."""
        return max_fee_msat

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice, and wait until that has ended or the deadline has come."""
        payment_hash = bolt11.decode(invoice).payment_hash
        known = await self.lookup(payment_hash)
        try:
            async with asyncio.timeout(self._deadline):
                if known is not None and known.state != "failed":
                    return known if known.state == "paid" else await self._follow(payment_hash, None)
                return await self._pay(invoice, payment_hash, max_fee_msat)
        except TimeoutError:
            return SentPayment(state="unknown", detail=f"the payment has not ended in {self._deadline} s")

    async def _pay(self, invoice: str, payment_hash: bytes, max_fee_msat: int) -> SentPayment:
        """Have the node pay. That goes on when our connection ends, so whatever is no answer is followed by a look."""
        limits = {"maxfee": max_fee_msat, "retry_for": self._retry_for}
        refusal: ClnError | None = None
        try:
            try:
                done = await self._api.do("xpay", {"invstring": invoice, **limits}, timeout=self._deadline)
            except UnknownMethod:
                done = await self._api.do("pay", {"bolt11": invoice, **limits}, timeout=self._deadline)
            if (sent := _answered(done, payment_hash)) is not None:
                return sent
        except UnknownMethod:
            raise  # before the payment was looked at
        except ClnError as error:
            refusal = error if error.rpc_code in _REFUSALS or isinstance(error, RuneRefused) else None
            logger.info("a payment is being looked up: %s", error.detail)
        except OutcomeUnknown as error:
            logger.warning("a payment is being looked up: %s", error.detail)
        sent = await self._follow(payment_hash, refusal)
        if sent.state == "failed" and isinstance(refusal, RuneRefused):
            raise refusal  # by the node, or by what stands before it, which may have passed the request on
        return sent

    async def _follow(self, payment_hash: bytes, refusal: ClnError | None) -> SentPayment:
        """Look at the payment until it has ended.

        Args:
            refusal: the node's answer that it does not pay; believed once nothing is in flight.
        """
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        while True:
            try:
                rows = await self._rows(payment_hash)
                if refusal is not None and all(row["status"] == "failed" for row in rows):
                    return SentPayment(state="failed", detail=refusal.detail)
                sent = self._sent(rows, payment_hash)
                if sent is not None and sent.state != "unknown":
                    return sent
            except RailUnavailable as error:
                logger.warning("a payment cannot be looked up yet: %s", error.detail)
            await self._sleep(next(pauses))

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment."""
        return self._sent(await self._rows(payment_hash), payment_hash)

    async def _rows(self, payment_hash: bytes) -> list[Json]:
        """Return what the node wrote down about the tries to make a payment."""
        text = payment_hash.hex()
        rows = await listed(self._api, "listpays", "pays", {"payment_hash": text})
        for row in rows:
            if row.get("payment_hash") != text or row.get("status") not in ("pending", "complete", "failed"):
                raise RailUnavailable("Core Lightning answered about a payment in a form that is not known here")
        return rows

    def _sent(self, rows: list[Json], payment_hash: bytes) -> SentPayment | None:
        """Return what the tries to make a payment come to; None if there was none.

        Between two attempts of a try the last one has failed and the try has not; only its time ends it.
        """
        if not rows:
            return None
        for row in rows:
            if row["status"] == "complete":
                return SentPayment(state="paid", preimage=_text(row, "preimage"), fee_msat=_fee(row))
        if any(row["status"] == "pending" for row in rows):
            return SentPayment(state="unknown", detail="the payment is in flight")
        begun = max(number(row, "created_at") for row in rows)
        if self._clock() < begun + self._retry_for + _SETTLED_DOWN:
            return SentPayment(state="unknown", detail="the node may try another route yet")
        return SentPayment(state="failed", detail="the node found no way to pay")


def _answered(done: Json, payment_hash: bytes) -> SentPayment | None:
    """Read the answer to a payment; None if it does not show that the payment was made. `pay` has other endings."""
    preimage = _text(done, "payment_preimage")
    if done.get("status", "complete") != "complete" or not is_preimage_of(preimage, payment_hash):
        return None
    try:
        fee = millisatoshis(done, "amount_sent_msat") - millisatoshis(done, "amount_msat")
    except RailUnavailable:
        return None
    return SentPayment(state="paid", preimage=preimage, fee_msat=max(0, fee))


def _fee(row: Json) -> int:
    """Return what a payment cost on top of what its invoice asks for."""
    if "amount_msat" in row:
        asked = millisatoshis(row, "amount_msat")
    else:
        try:
            asked = bolt11.decode(str(row.get("bolt11"))).amount_msat or 0
        except MalformedInput as error:
            raise RailUnavailable("Core Lightning does not say what a payment was over") from error
    return max(0, millisatoshis(row, "amount_sent_msat") - asked)


def _text(members: Json, name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) else None
