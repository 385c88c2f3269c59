"""The file under the sandbox chain: an SQLite database of balances, nonces and transactions, shared by processes.

`LedgerFile` makes and opens it and runs one transaction at a time; `Ledger` is what such a transaction can read and
write. What may happen to the money is decided in `sandbox`, not here.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402_base.eip3009 import Authorization
from rail402_base.sandbox_transfers import PlainTransfer

__all__ = ["Books", "Fault", "Ledger", "LedgerFile", "Mined", "Movement", "Transaction", "TransactionState"]

Fault = Literal["lost_answer", "dropped", "unavailable", "pending"]
TransactionState = Literal["pending", "mined", "reverted"]
_Result = TypeVar("_Result")

# USDC's contract emits AuthorizationUsed and then Transfer, and a block here holds one transaction.
TRANSFER_LOG_INDEX = 1
# An SQLite integer, which is enough for nine trillion USDC.
MAX_SUPPLY = 2**63 - 1

# Marks the file as a ledger, so that no other database is ever written to: "r402" in ASCII.
_APPLICATION_ID = 0x72343032
_SCHEMA_VERSION = 1
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
CREATE TABLE balances (address TEXT PRIMARY KEY, amount INTEGER NOT NULL CHECK (amount >= 0)) WITHOUT ROWID;
CREATE TABLE mints (id INTEGER PRIMARY KEY, address TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount > 0));
CREATE TABLE endowments (address TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE used_nonces (
    authorizer TEXT NOT NULL,
    nonce BLOB NOT NULL,
    PRIMARY KEY (authorizer, nonce)
) WITHOUT ROWID;
-- valid_after and valid_before are uint256, which an INTEGER cannot hold; a value never exceeds a balance.
CREATE TABLE transactions (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('pending', 'mined', 'reverted')),
    block INTEGER UNIQUE,
    from_address TEXT NOT NULL,
    to_address TEXT NOT NULL,
    value INTEGER NOT NULL,
    valid_after TEXT NOT NULL,
    valid_before TEXT NOT NULL,
    nonce BLOB NOT NULL,
    CHECK ((state = 'mined') = (block IS NOT NULL))
);
CREATE INDEX transactions_by_nonce ON transactions (from_address, nonce);
CREATE TABLE faults (id INTEGER PRIMARY KEY, kind TEXT NOT NULL);
"""
# Made where they are missing: a ledger without them is as good.
_ADDED = """
CREATE TABLE IF NOT EXISTS transfers (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('pending', 'mined', 'reverted')),
    block INTEGER UNIQUE,
    from_address TEXT NOT NULL,
    to_address TEXT NOT NULL,
    value INTEGER NOT NULL,
    CHECK ((state = 'mined') = (block IS NOT NULL))
);
CREATE TABLE IF NOT EXISTS block_times (block INTEGER PRIMARY KEY, time INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS pending_transactions ON transactions (id) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS pending_transfers ON transfers (id) WHERE state = 'pending';
"""
_SELECT_MOVEMENT = """
SELECT hash, state, from_address, to_address, value, moved.block, coalesce(time, 0), nonce FROM (
    SELECT hash, state, from_address, to_address, value, block, nonce FROM transactions
     UNION ALL
    SELECT hash, state, from_address, to_address, value, block, NULL FROM transfers
) AS moved LEFT JOIN block_times ON block_times.block = moved.block
"""
_SELECT_TRANSACTION = """
SELECT hash, state, transactions.block, coalesce(time, 0), from_address, to_address, value, valid_after, valid_before,
       nonce FROM transactions LEFT JOIN block_times ON block_times.block = transactions.block
"""


@dataclass(frozen=True, slots=True)
class Mined:
    """Where a transfer stands: hash, its Transfer's log index, block, and the block's time (Unix)."""

    transaction: str
    log_index: int
    block: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A transaction and the authorization it carries. `mined` is set exactly where `state` is `mined`."""

    hash: str
    state: TransactionState
    authorization: Authorization
    mined: Mined | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A transaction that moves money, by an authorization or plainly; `block` is None where none holds it (yet).

    Attributes:
        log_index: which event its Transfer is.
        time: the block's, Unix seconds.
        nonce: the authorization's, None for a plain transfer.
    """

    hash: str
    state: TransactionState
    payer: str
    payee: str
    value: int
    block: int | None
    time: int
    nonce: bytes | None

    @property
    def log_index(self) -> int:
        return 0 if self.nonce is None else TRANSFER_LOG_INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All the money there is, for the assertion that none was made or lost: `sum(balances.values()) == minted`."""

    minted: int
    balances: Mapping[str, int]


class Ledger:
    """One open transaction. Addresses are in EIP-55 form, amounts in atomic units."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    # Money

    def balance(self, address: str) -> int:
        row = self._database.execute("SELECT amount FROM balances WHERE address = ?", (address,)).fetchone()
        return int(row[0]) if row else 0

    def books(self) -> Books:
        (minted,) = self._database.execute("SELECT coalesce(sum(amount), 0) FROM mints").fetchone()
        balances = dict(self._database.execute("SELECT address, amount FROM balances ORDER BY address"))
        return Books(minted=minted, balances=balances)

    def mint(self, address: str, amount: int) -> None:
        if not 0 < amount <= MAX_SUPPLY - self.books().minted:
            raise ConfigurationError(f"cannot mint {amount} atomic units: not positive, or more than can be counted")
        self._database.execute("INSERT INTO mints (address, amount) VALUES (?, ?)", (address, amount))
        self._credit(address, amount)

    def mark_endowed(self, address: str) -> bool:
        """Whether this address had not been endowed before."""
        return self._database.execute("INSERT OR IGNORE INTO endowments VALUES (?)", (address,)).rowcount == 1

    def _credit(self, address: str, amount: int) -> None:
        self._database.execute(
            "INSERT INTO balances VALUES (?, ?) ON CONFLICT (address) DO UPDATE SET amount = amount + excluded.amount",
            (address, amount),
        )

    # Nonces

    def is_nonce_used(self, authorizer: str, nonce: bytes) -> bool:
        query = "SELECT 1 FROM used_nonces WHERE authorizer = ? AND nonce = ?"
        return self._database.execute(query, (authorizer, nonce)).fetchone() is not None

    def use_nonce(self, authorizer: str, nonce: bytes) -> None:
        self._database.execute("INSERT INTO used_nonces VALUES (?, ?)", (authorizer, nonce))

    # Transactions

    def submit(self, hash_: str, authorization: Authorization) -> None:
        """Write a transaction down as pending; nothing moves."""
        self._database.execute(
            "INSERT INTO transactions (hash, state, from_address, to_address, value, valid_after, valid_before, nonce)"
            " VALUES (?, 'pending', ?, ?, ?, ?, ?, ?)",
            (
                hash_,
                authorization.from_,
                authorization.to,
                authorization.value,
                str(authorization.valid_after),
                str(authorization.valid_before),
                authorization.nonce,
            ),
        )

    def mine(self, hash_: str, authorization: Authorization, *, now: int) -> Mined:
        """Put a pending transaction into the next block: the nonce is used up and the money moves."""
        block = self._new_block(now)
        self.use_nonce(authorization.from_, authorization.nonce)
        self._move(authorization.from_, authorization.to, authorization.value)
        self._database.execute("UPDATE transactions SET state = 'mined', block = ? WHERE hash = ?", (block, hash_))
        return Mined(hash_, TRANSFER_LOG_INDEX, block, now)

    def _new_block(self, now: int) -> int:
        # One by one: SQLite reads all of a union.
        query = "SELECT (SELECT max(block) FROM transactions), (SELECT max(block) FROM transfers)"
        block = max(highest or 0 for highest in self._database.execute(query).fetchone()) + 1
        self._database.execute("INSERT INTO block_times VALUES (?, ?)", (block, now))
        return block

    def _move(self, from_: str, to: str, value: int) -> None:
        self._database.execute("UPDATE balances SET amount = amount - ? WHERE address = ?", (value, from_))
        self._credit(to, value)

    def revert(self, hash_: str) -> None:
        self._database.execute("UPDATE transactions SET state = 'reverted' WHERE hash = ?", (hash_,))

    def transaction(self, hash_: str) -> Transaction | None:
        row = self._database.execute(f"{_SELECT_TRANSACTION} WHERE hash = ?", (hash_,)).fetchone()
        return _transaction(row) if row else None

    def transaction_by_nonce(self, from_: str, nonce: bytes) -> Transaction | None:
        """The mined transaction that used this nonce. There is at most one."""
        query = f"{_SELECT_TRANSACTION} WHERE from_address = ? AND nonce = ? AND state = 'mined'"
        row = self._database.execute(query, (from_, nonce)).fetchone()
        return _transaction(row) if row else None

    def pending(self) -> list[Transaction]:
        """In the order they were submitted."""
        rows = self._database.execute(f"{_SELECT_TRANSACTION} WHERE state = 'pending' ORDER BY id")
        return [_transaction(row) for row in rows]

    # Plain transfers

    def submit_transfer(self, hash_: str, transfer: PlainTransfer) -> None:
        """Write a plain transfer down as pending; nothing moves."""
        self._database.execute(
            "INSERT INTO transfers (hash, state, from_address, to_address, value) VALUES (?, 'pending', ?, ?, ?)",
            (hash_, transfer.payer, transfer.payee, transfer.value),
        )

    def mine_transfer(self, hash_: str, *, now: int) -> Mined:
        """Put a pending transfer into the next block; what its owner cannot cover is to be reverted instead."""
        movement = self.movement(hash_)
        assert movement is not None
        block = self._new_block(now)
        self._move(movement.payer, movement.payee, movement.value)
        self._database.execute("UPDATE transfers SET state = 'mined', block = ? WHERE hash = ?", (block, hash_))
        return Mined(hash_, movement.log_index, block, now)

    def revert_transfer(self, hash_: str) -> None:
        self._database.execute("UPDATE transfers SET state = 'reverted' WHERE hash = ?", (hash_,))

    def movement(self, hash_: str) -> Movement | None:
        """What the transaction of that hash moves, or is to move."""
        row = self._database.execute(f"{_SELECT_MOVEMENT} WHERE hash = ?", (hash_,)).fetchone()
        return _movement(row) if row else None

    def pending_transfers(self) -> list[Movement]:
        """In the order they were submitted."""
        rows = self._database.execute("SELECT hash FROM transfers WHERE state = 'pending' ORDER BY id").fetchall()
        return [movement for (hash_,) in rows if (movement := self.movement(hash_))]

    # Faults

    def add_faults(self, fault: Fault, times: int) -> None:
        self._database.executemany("INSERT INTO faults (kind) VALUES (?)", [(fault,)] * times)

    def take_fault(self) -> Fault | None:
        """The oldest fault, which is used up by this."""
        row = self._database.execute("SELECT id, kind FROM faults ORDER BY id LIMIT 1").fetchone()
        if row is None:
            return None
        self._database.execute("DELETE FROM faults WHERE id = ?", (row[0],))
        fault: Fault = row[1]
        return fault


def _transaction(row: tuple[str, TransactionState, int | None, int, str, str, int, str, str, bytes]) -> Transaction:
    hash_, state, block, at, from_, to, value, valid_after, valid_before, nonce = row
    authorization = Authorization(
        from_=from_,
        to=to,
        value=value,
        valid_after=int(valid_after),
        valid_before=int(valid_before),
        nonce=nonce,
    )
    mined = None if block is None else Mined(hash_, TRANSFER_LOG_INDEX, block, at)
    return Transaction(hash=hash_, state=state, authorization=authorization, mined=mined)


def _movement(row: tuple[str, TransactionState, str, str, int, int | None, int, bytes | None]) -> Movement:
    hash_, state, payer, payee, value, block, time, nonce = row
    return Movement(hash=hash_, state=state, payer=payer, payee=payee, value=value, block=block, time=time, nonce=nonce)


class LedgerFile:
    """The database, which is made (mode 600) by the first use where there is none.

    Args:
        path: the file. Its directory must exist, on a local disk: SQLite's WAL does not work over a network.
        busy_timeout: seconds to wait for another process's transaction.
    """

    def __init__(self, path: str | Path, *, busy_timeout: int = 30) -> None:
        self.path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._is_opened = False

    async def read(self, work: Callable[[Ledger], _Result]) -> _Result:
        """Do `work` in one transaction that sees one state of the ledger; see `write` for what is raised."""
        return await asyncio.to_thread(self._run, "DEFERRED", work)

    async def write(self, work: Callable[[Ledger], _Result]) -> _Result:
        """Do `work` in one transaction, alone among all processes. An exception from it rolls everything back.

        Raises:
            ConfigurationError: the file is not a ledger or cannot be made.
            RailUnavailable: the file could not be read or written, and nothing happened.
            OutcomeUnknown: the commit failed.
        """
        return await asyncio.to_thread(self._run, "IMMEDIATE", work)

    def _run(self, mode: str, work: Callable[[Ledger], _Result]) -> _Result:
        # A connection for each transaction costs a fraction of a millisecond, and any thread or fork may do it.
        committing = False
        try:
            self._open_once()
            with closing(self._connect(self.path)) as database:
                # No commit is lost when a process dies. A power cut may cost the ledger, but it is play money, and a
                # settlement that does not wait for the disk is ten times faster.
                database.execute("PRAGMA synchronous = OFF")
                database.execute(f"BEGIN {mode}")
                result = work(Ledger(database))
                committing = mode == "IMMEDIATE"
                database.execute("COMMIT")
                return result
        except sqlite3.Error as error:
            if committing:
                raise OutcomeUnknown(f"the commit to the sandbox ledger {self.path} failed: {error}") from error
            raise RailUnavailable(f"the sandbox ledger {self.path} cannot be used: {error}") from error

    def _connect(self, path: Path) -> sqlite3.Connection:
        uri = f"{path.as_uri()}?mode=rw"  # never makes a file
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=self._busy_timeout)

    def _open_once(self) -> None:
        if self._is_opened:
            return
        try:
            if not self.path.exists():
                self._create()
            if not self._is_ledger():
                raise ConfigurationError(f"{self.path} is not a sandbox ledger of this version: give another path")
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
            with closing(self._connect(self.path)) as database:
                database.executescript(_ADDED)
        except OSError as error:
            raise ConfigurationError(f"the sandbox ledger {self.path} cannot be made: {error.strerror}") from error
        self._is_opened = True

    def _is_ledger(self) -> bool:
        if not self.path.is_file():
            return False
        with closing(self._connect(self.path)) as database:
            try:
                (application_id,) = database.execute("PRAGMA application_id").fetchone()
                (version,) = database.execute("PRAGMA user_version").fetchone()
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                    return False
                raise
        return (application_id, version) == (_APPLICATION_ID, _SCHEMA_VERSION)

    def _create(self) -> None:
        # Made whole under another name and only then given its own: no process ever sees half a ledger.
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)  # mode 600
        os.close(descriptor)
        draft = Path(name)
        try:
            with closing(self._connect(draft)) as database:
                database.executescript(_SCHEMA)
            self.path.hardlink_to(draft)
        except FileExistsError:
            pass  # another process was faster, and its ledger is as good
        finally:
            draft.unlink()
