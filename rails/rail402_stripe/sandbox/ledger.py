"""The sandbox's ledger: one SQLite file, shared by all processes of this machine that open it.

Every request runs in one transaction that takes SQLite's write lock at its start (`BEGIN IMMEDIATE`): requests of any
number of processes happen one after the other, so a token is never charged twice. A transaction never waits for
anything but that lock and takes well under a millisecond, which is why it runs on the event loop. The file has mode
600 and write-ahead logging from the moment its name exists: it is made under another name and linked into place.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rail402.errors import ConfigurationError, StoreError
from rail402_stripe.sandbox.errors import JsonObject

__all__ = ["Books", "Ledger", "Page"]

_SCHEMA_VERSION = 1
_APPLICATION_ID = int.from_bytes(b"r4st")
_LOCK_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which objects a list shows, newest first.

    Attributes:
        kind: the documents' `object`.
        parent: only objects below this one.
        created: bounds on the creation time, as pairs of a comparison (`gte`, …) and Unix seconds.
        starting_after: the id after which the page starts.
        limit: how many objects at most.
    """

    kind: str
    parent: str | None = None
    created: tuple[tuple[str, int], ...] = ()
    starting_after: str | None = None
    limit: int = 10


_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class Books:
    """The ledger inside one open transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def mark(self) -> None:
        """Remember this point of the transaction."""
        self.connection.execute("SAVEPOINT mark")

    def undo_to_mark(self) -> None:
        """Undo what was written since the mark; the transaction itself goes on."""
        self.connection.execute("ROLLBACK TO mark")

    def insert(self, document: JsonObject, *, parent: str | None = None) -> JsonObject:
        """Add an object; its `id`, `object` and `created` are read from the document."""
        row = (document["id"], document["object"], parent, document["created"], json.dumps(document))
        self.connection.execute("INSERT INTO objects (id, kind, parent, created, document) VALUES (?, ?, ?, ?, ?)", row)
        return document

    def replace(self, document: JsonObject) -> None:
        """Write back a changed object."""
        self.connection.execute("UPDATE objects SET document = ? WHERE id = ?", (json.dumps(document), document["id"]))

    def find(self, kind: str, object_id: str) -> JsonObject | None:
        """Return an object of that kind, or None."""
        row = self.connection.execute(
            "SELECT document FROM objects WHERE id = ? AND kind = ?", (object_id, kind)
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def page(self, page: Page) -> tuple[list[JsonObject], bool]:
        """Return a page of objects, newest first, and whether there are more."""
        where, values = ["kind = ?"], list[str | int]([page.kind])
        if page.parent is not None:
            where.append("parent = ?")
            values.append(page.parent)
        for comparison, moment in page.created:
            where.append(f"created {_COMPARISONS[comparison]} ?")
            values.append(moment)
        if page.starting_after is not None:
            where.append("seq < (SELECT seq FROM objects WHERE id = ?)")
            values.append(page.starting_after)
        # The conditions are this function's own words; only values come from the request.
        query = f"SELECT document FROM objects WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"  # noqa: S608
        rows = self.connection.execute(query, (*values, page.limit + 1)).fetchall()
        return [json.loads(row[0]) for row in rows[: page.limit]], len(rows) > page.limit

    def post(self, entry_id: str, *, source: str, currency: str, amount: int, available_on: int) -> None:
        """Move money: `amount` in minor units, positive into the account. Each source moves money once."""
        row = (entry_id, source, currency, amount, available_on)
        self.connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)

    def balances(self, now: int) -> dict[str, tuple[int, int]]:
        """Return the available and the pending amount of every currency, in minor units."""
        rows = self.connection.execute(
            "SELECT currency, sum(CASE WHEN available_on <= ?1 THEN amount ELSE 0 END),"
            " sum(CASE WHEN available_on > ?1 THEN amount ELSE 0 END) FROM entries GROUP BY currency ORDER BY currency",
            (now,),
        )
        return {currency: (available, pending) for currency, available, pending in rows}


class Ledger:
    """The file. Opened at first use and again after `close`.

    Args:
        path: the SQLite file; made, with mode 600, if it does not exist. Its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Books]:
        """Run the block in one transaction that no other process overlaps; it is undone if the block raises.

        Raises:
            ConfigurationError: the file cannot be made or is not a ledger of this sandbox.
            StoreError: the file cannot be locked, read or written.
        """
        with self._lock:
            connection = self._connection = self._connection or self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield Books(connection)
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise StoreError(f"the sandbox ledger {self.path} cannot be used: {error}") from error
            finally:
                if connection.in_transaction:
                    connection.rollback()

    def close(self) -> None:
        """Close the file; harmless if it is not open."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        try:
            if not self.path.exists():
                self._create()
            connection = _connect(self.path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the sandbox ledger {self.path} cannot be opened: {error}") from error
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        except sqlite3.Error as error:
            connection.close()
            raise ConfigurationError(f"{self.path} cannot be read as a sandbox ledger: {error}") from error
        if found != [_APPLICATION_ID, _SCHEMA_VERSION]:
            connection.close()
            raise ConfigurationError(f"{self.path} is not a ledger of this version of the Stripe sandbox")
        return connection

    def _create(self) -> None:
        # Made complete under a name of its own, then linked: no process ever sees half a ledger or another mode.
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}-{threading.get_ident()}.new")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            connection = _connect(draft)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(files(__package__).joinpath("schema.sql").read_text("utf-8"))
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            finally:
                connection.close()
            try:
                os.link(draft, self.path)
            except FileExistsError:
                return  # another process was first; its ledger is the one
        finally:
            draft.unlink()


def _connect(path: Path) -> sqlite3.Connection:
    # Threads take turns by the ledger's own lock, so SQLite's check for a single thread is off.
    return sqlite3.connect(path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
