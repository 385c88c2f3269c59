"""The books of the sandbox Lightning node: an SQLite file that every process of one machine may share.

Each piece of work is one `BEGIN IMMEDIATE` transaction, so that of two processes that pay one invoice the second sees
what the first did. This is the only place that knows SQL and where `sqlite3` errors surface; they become ours here.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from rail402.errors import ConfigurationError, RailUnavailable

__all__ = [
    "ENDOWMENT_MSAT",
    "Behaviour",
    "Books",
    "InvoiceState",
    "InvoiceStatus",
    "LedgerTransaction",
    "PaymentState",
    "PaymentStatus",
    "SandboxLedger",
]

InvoiceState = Literal["open", "settled", "expired", "canceled"]
PaymentState = Literal["pending", "succeeded", "failed"]
Behaviour = Literal["pending-forever", "pending-then-settle", "fail", "settle-late", "lost-answer"]
T = TypeVar("T")

ENDOWMENT_MSAT: Final = 1_000_000_000

_APPLICATION_ID = 0x72343032
_VERSION = 1
_LOCK_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceStatus:
    """What became of an invoice of the node.

    Attributes:
        payment_hash: 32 bytes.
        state: `open`, `settled`, `canceled`, or `expired` by the clock. An expired invoice can still turn `settled`,
            when a payment that was under way arrives late.
        amount_msat: what was asked for.
        amount_paid_msat: what arrived; 0 until settled.
        expires_at: unix seconds from which on no payment is begun.
        settled_at: unix seconds, once settled.
    """

    payment_hash: bytes
    state: InvoiceState
    amount_msat: int
    amount_paid_msat: int
    expires_at: int
    settled_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentStatus:
    """What became of a wallet's latest attempt to pay an invoice.

    Attributes:
        payment_hash: 32 bytes.
        state: `succeeded` and `failed` are final (another attempt may follow a failed one), `pending` is not.
        amount_msat: what the invoice asks for; 0 for another node's invoice without an amount.
        fee_msat: what the route costs on top.
        preimage: 32 bytes, if succeeded.
        reason: if failed, why.
    """

    payment_hash: bytes
    state: PaymentState
    amount_msat: int
    fee_msat: int
    preimage: bytes | None = field(default=None, repr=False)
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All the money of the ledger, in msat: what was given out, and where it is now."""

    endowments_msat: int
    balances_msat: int
    in_flight_msat: int
    received_msat: int
    fees_msat: int

    @property
    def balanced(self) -> bool:
        """Whether nothing was lost or made up."""
        parts = (self.balances_msat, self.in_flight_msat, self.received_msat, self.fees_msat)
        return self.endowments_msat == sum(parts)


class LedgerTransaction:
    """What can be read and written within one transaction, at the time `now`."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self.now = now
        self._settle_due()

    def node_key(self) -> bytes:
        """The node's private key."""
        key: bytes = self._one("SELECT private_key FROM node")[0]
        return key

    # Invoices.

    def add_invoice(self, payment_hash: bytes, preimage: bytes, amount_msat: int, expires_at: int) -> None:
        """Enter a new, open invoice."""
        self._connection.execute(
            "INSERT INTO invoices (payment_hash, preimage, amount_msat, expires_at) VALUES (?, ?, ?, ?)",
            (payment_hash, preimage, amount_msat, expires_at),
        )

    def invoice(self, payment_hash: bytes) -> InvoiceStatus | None:
        """The status of an invoice, or None if the node never made it."""
        row = self._one(
            "SELECT state, amount_msat, expires_at, settled_at FROM invoices WHERE payment_hash = ?", payment_hash
        )
        if row is None:
            return None
        state, amount_msat, expires_at, settled_at = row
        return InvoiceStatus(
            payment_hash=payment_hash,
            state="expired" if state == "open" and self.now >= expires_at else state,
            amount_msat=amount_msat,
            amount_paid_msat=amount_msat if state == "settled" else 0,
            expires_at=expires_at,
            settled_at=settled_at,
        )

    def cancel_invoice(self, payment_hash: bytes) -> None:
        """Mark an invoice that is not settled as canceled."""
        self._connection.execute(
            "UPDATE invoices SET state = 'canceled' WHERE payment_hash = ? AND state = 'open'", (payment_hash,)
        )

    # Wallets.

    def balance(self, wallet: str) -> int:
        """What a wallet can spend; one that is new here is endowed first."""
        self._connection.execute(
            "INSERT OR IGNORE INTO wallets (name, endowment_msat, balance_msat) VALUES (?, ?, ?)",
            (wallet, ENDOWMENT_MSAT, ENDOWMENT_MSAT),
        )
        balance: int = self._one("SELECT balance_msat FROM wallets WHERE name = ?", wallet)[0]
        return balance

    def _credit(self, wallet: str, amount_msat: int) -> None:
        self._connection.execute(
            "UPDATE wallets SET balance_msat = balance_msat + ? WHERE name = ?", (amount_msat, wallet)
        )

    # Payments.

    def payment(self, payment_hash: bytes, wallet: str) -> PaymentStatus | None:
        """The status of a wallet's latest attempt at an invoice, or None if there was none."""
        row = self._one(
            "SELECT p.state, p.amount_msat, p.fee_msat, p.reason, i.preimage FROM payments AS p"
            " LEFT JOIN invoices AS i USING (payment_hash) WHERE payment_hash = ? AND wallet = ?",
            payment_hash,
            wallet,
        )
        if row is None:
            return None
        state, amount_msat, fee_msat, reason, preimage = row
        return PaymentStatus(
            payment_hash=payment_hash,
            state=state,
            amount_msat=amount_msat,
            fee_msat=fee_msat,
            preimage=preimage if state == "succeeded" else None,
            reason=reason,
        )

    def is_taken(self, payment_hash: bytes) -> bool:
        """Whether any wallet has paid the invoice or is about to."""
        return (
            self._one("SELECT 1 FROM payments WHERE payment_hash = ? AND state <> 'failed'", payment_hash) is not None
        )

    def add_payment(
        self, status: PaymentStatus, wallet: str, *, behaviour: Behaviour | None, settles_at: int | None
    ) -> None:
        """Enter an attempt, failed or pending, in place of an earlier failed one; a pending one is debited."""
        row = (status.payment_hash, wallet, status.amount_msat, status.fee_msat, status.state, status.reason)
        self._connection.execute(
            "DELETE FROM payments WHERE payment_hash = ? AND wallet = ? AND state = 'failed'",
            (status.payment_hash, wallet),
        )
        self._connection.execute("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, behaviour, settles_at))
        if status.state == "pending":
            self._credit(wallet, -status.amount_msat - status.fee_msat)

    def pending_behaviour(self, payment_hash: bytes) -> str | None:
        """How the pending payment of an invoice was told to behave, if there is one and it was."""
        row = self._one("SELECT behaviour FROM payments WHERE payment_hash = ? AND state = 'pending'", payment_hash)
        behaviour: str | None = row[0] if row is not None else None
        return behaviour

    def settle(self, payment_hash: bytes, settled_at: int) -> None:
        """Let the pending payment of an invoice arrive."""
        self._connection.execute(
            "UPDATE payments SET state = 'succeeded' WHERE payment_hash = ? AND state = 'pending'", (payment_hash,)
        )
        self._connection.execute(
            "UPDATE invoices SET state = 'settled', settled_at = ? WHERE payment_hash = ?", (settled_at, payment_hash)
        )

    def fail(self, payment_hash: bytes, reason: str) -> None:
        """Let the pending payment of an invoice fail, if there is one, and give its wallet the money back."""
        row = self._one(
            "SELECT wallet, amount_msat + fee_msat FROM payments WHERE payment_hash = ? AND state = 'pending'",
            payment_hash,
        )
        if row is not None:
            self._credit(*row)
            self._connection.execute(
                "UPDATE payments SET state = 'failed', reason = ? WHERE payment_hash = ? AND state = 'pending'",
                (reason, payment_hash),
            )

    def _settle_due(self) -> None:
        due = "SELECT payment_hash, settles_at FROM payments WHERE state = 'pending' AND settles_at <= ?"
        for payment_hash, settles_at in self._connection.execute(due, (self.now,)).fetchall():
            self.settle(payment_hash, settles_at)

    # Scripts and sums.

    def add_script(self, payment_hash: bytes | None, behaviour: Behaviour, reason: str) -> None:
        """Queue a behaviour for the next attempt at an invoice, or with None for the next at any."""
        self._connection.execute(
            "INSERT INTO scripts (payment_hash, behaviour, reason) VALUES (?, ?, ?)", (payment_hash, behaviour, reason)
        )

    def take_script(self, payment_hash: bytes) -> tuple[Behaviour | None, str | None]:
        """The behaviour and failure reason queued for this attempt, taken off the queue."""
        row = self._one(
            "SELECT id, behaviour, reason FROM scripts WHERE payment_hash = ? OR payment_hash IS NULL"
            " ORDER BY payment_hash IS NULL, id LIMIT 1",
            payment_hash,
        )
        if row is None:
            return None, None
        self._connection.execute("DELETE FROM scripts WHERE id = ?", row[:1])
        return row[1], row[2]

    def books(self) -> Books:
        """Where all the money is; what was received comes from the invoices, the rest from wallets and payments."""
        row = self._one(
            "SELECT (SELECT coalesce(sum(endowment_msat), 0) FROM wallets),"
            " (SELECT coalesce(sum(balance_msat), 0) FROM wallets),"
            " (SELECT coalesce(sum(amount_msat + fee_msat), 0) FROM payments WHERE state = 'pending'),"
            " (SELECT coalesce(sum(amount_msat), 0) FROM invoices WHERE state = 'settled'),"
            " (SELECT coalesce(sum(fee_msat), 0) FROM payments WHERE state = 'succeeded')"
        )
        endowments, balances, in_flight, received, fees = row
        return Books(
            endowments_msat=endowments,
            balances_msat=balances,
            in_flight_msat=in_flight,
            received_msat=received,
            fees_msat=fees,
        )

    def _one(self, query: str, *values: object) -> Any:
        return self._connection.execute(query, values).fetchone()


class SandboxLedger:
    """One connection to the ledger at `path`, opened at first use and made if there is none; mode 600.

    Args:
        path: the file. Its directory is made too.
        clock: unix seconds.
        new_key: makes the node's 32-byte private key, asked once in a ledger's life.
    """

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], int], new_key: Callable[[], bytes]) -> None:
        self._path = Path(path).absolute()
        self._clock = clock
        self._new_key = new_key
        self._lock = threading.Lock()  # the connection moves between worker threads, one at a time
        self._connection: sqlite3.Connection | None = None

    async def transact(self, work: Callable[[LedgerTransaction], T]) -> T:
        """Do `work` in one transaction on a worker thread: all of it, or on any error nothing.

        Raises `RailUnavailable` when the file cannot be locked, read or written; nothing has happened then.
        Raises `ConfigurationError` when it is not a sandbox ledger, or others may read it.
        """
        return await asyncio.to_thread(self._transact, work)

    async def close(self) -> None:
        """Close the file; the next piece of work opens it again."""
        await asyncio.to_thread(self._close)

    def _transact(self, work: Callable[[LedgerTransaction], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                with self._connection:  # commits, or rolls back
                    self._connection.execute("BEGIN IMMEDIATE")
                    return work(LedgerTransaction(self._connection, self._clock()))
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                    raise self._not_a_ledger() from error
                raise RailUnavailable(f"the sandbox ledger {self._path} cannot be used: {error}") from error

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        try:
            if not self._path.exists():
                self._create()
            others = self._path.stat().st_mode & 0o077
        except OSError as error:
            raise ConfigurationError(f"the sandbox ledger {self._path} cannot be made or read: {error}") from error
        if others and os.name == "posix":
            raise ConfigurationError(f"the sandbox ledger {self._path} holds a private key: chmod 600 it")
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=_LOCK_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            names = ("application_id", "user_version")
            if [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names] != [_APPLICATION_ID, _VERSION]:
                raise self._not_a_ledger()
            # No fsync per commit: a power cut may take the last seconds of play money, never the file's integrity.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
        except (sqlite3.Error, ConfigurationError):
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """Make the ledger under another name, then link it into place.

        So it is there either complete or not at all, and of several processes that start together one wins.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 600
        os.close(handle)
        try:
            with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                schema = resources.files("rail402_lightning").joinpath("sandbox.sql").read_text(encoding="utf-8")
                connection.executescript(schema)
                connection.execute("INSERT INTO node (id, private_key) VALUES (1, ?)", (self._new_key(),))
            os.link(draft, self._path)
        except FileExistsError:
            pass  # another process was first, and its node is the node
        finally:
            os.unlink(draft)

    def _not_a_ledger(self) -> ConfigurationError:
        return ConfigurationError(f"{self._path} is no sandbox ledger of this version: delete it or name another file")
