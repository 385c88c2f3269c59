"""What the journal asks of the database that it is in. Its verbs are written once, over this, for all databases.

- A `write` is one transaction: all of it is done and on the disk, or nothing. Writes with the same lock are done one
  after the other, by whatever task, thread, process or machine.
- A `read` sees what was written before it began.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

from rail402.errors import ConfigurationError

__all__ = ["BUDGET", "JournalDatabase", "Session", "Work", "open_database"]

T = TypeVar("T")

BUDGET: Final = "budget"
"""The lock of what new purchases are measured by: the windows, the kill switch, the pins."""

_FORMS: Final = '"sqlite:///relative.db", "sqlite:////absolute.db" or "postgresql://user:password@host/database"'


class Session(Protocol):
    """A connection, lent for the time of one read or write. Queries go by their names in `sql/journal/queries.sql`."""

    async def fetch(self, query: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        ...

    async def count(self, query: str, values: Mapping[str, Any]) -> int:
        """Run a query and return how many rows it wrote."""
        ...

    async def now(self, told: int) -> int:
        """Return the time that windows and leases are measured by, Unix seconds.

        Args:
            told: what the caller's clock says. That is it, where all callers have the same clock.
        """
        ...


Work = Callable[[Session], Coroutine[Any, Any, T]]
"""What a read or a write does; it awaits nothing but its session, and may be run again from its beginning."""


class JournalDatabase(ABC):
    """The tables of one journal.

    Attributes:
        address: where they are, for people; no secret is in it.
    """

    address: str

    @abstractmethod
    def exists(self) -> bool:
        """Say whether there may be anything to read. It makes nothing, and does not wait."""

    @abstractmethod
    async def start(self) -> None:
        """Open it, and bring its schema up to date; nothing happens if it is open.

        Raises:
            ConfigurationError: it is another program's, a newer version's, or cannot be used as it is set up.
            StoreError: it cannot be opened.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was asked for, and close it."""

    @abstractmethod
    async def read(self, work: Work[T]) -> T:
        """Run what only reads.

        Raises:
            StoreError: it cannot be used.
        """

    @abstractmethod
    async def write(self, work: Work[T], *, lock: str = BUDGET) -> T:
        """Run `work` as one transaction; one that raises leaves nothing. A caller that is cancelled stops waiting for
        it, and it is done whole all the same.

        Args:
            lock: writes with this name are done one after the other.

        Raises:
            StoreError: it cannot be used; nothing was done, or, where the message says so, it is not known.
        """


def open_database(url: str, *, busy_timeout: int) -> JournalDatabase:
    """Return the database that `url` names; `start` opens it.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/database`.
        busy_timeout: seconds to wait for others that are writing.

    Raises:
        ConfigurationError: the URL has another form, or what PostgreSQL needs is not installed.
    """
    if url.startswith(("postgresql://", "postgres://")):
        try:
            from rail402.client.journal_postgres import PostgresJournal
        except ImportError as error:
            raise ConfigurationError(f"PostgreSQL needs {error.name}: pip install 'rail402[postgres]'") from error
        return PostgresJournal(url, timeout=busy_timeout)
    from rail402.client.journal_sqlite import SqliteJournal

    path = url.removeprefix("sqlite:///")
    if path in (url, "", ":memory:") or "?" in path or "#" in path:
        # Not quoted: another database's URL may hold a password.
        raise ConfigurationError(f"journal: write {_FORMS}")
    return SqliteJournal(path, busy_timeout=busy_timeout)
