"""Where charges live: the interface in `base`, and the stores that implement it.

- `memory://`: gone when the process ends; for tests and for a server that is one process and may forget.
- `sqlite:///charges.db`: a file, relative to the working directory; `sqlite:////var/lib/charges.db`: an absolute one.
  Durable, and shared by all processes of one machine.
- `postgresql://user:password@host/database`: for workers on several machines; it needs the extra `postgres`.
"""

from __future__ import annotations

from rail402.errors import ConfigurationError
from rail402.stores.base import Claim, Issued, Store, StoredResponse, TokenBucket
from rail402.stores.memory import MemoryStore
from rail402.stores.sqlite import SqliteStore

__all__ = ["Claim", "Issued", "MemoryStore", "SqliteStore", "Store", "StoredResponse", "TokenBucket", "open_store"]

_FORMS = '"memory://", "sqlite:///relative.db", "sqlite:////absolute.db" or "postgresql://user:password@host/database"'


def open_store(url: str) -> Store:
    """Return the store that `url` names; `start` opens it.

    Raises:
        ConfigurationError: the URL has none of the forms `memory://`, `sqlite:///relative.db`,
            `sqlite:////absolute.db`, `postgresql://user:password@host/database`; or what the last needs is missing.
    """
    if url == "memory://":
        return MemoryStore()
    if url.startswith(("postgresql://", "postgres://")):
        return _open_postgres(url)
    scheme, colon, _ = url.partition("://")
    path = url.removeprefix("sqlite:///")
    if path == url:
        # Only the scheme: the rest of a URL may hold a password.
        raise ConfigurationError(f"the store {scheme + colon if colon else 'URL'!r} is not known; write {_FORMS}")
    if "?" in path or "#" in path:
        raise ConfigurationError(f"the store's path {path!r} must be a plain file name without options; write {_FORMS}")
    return SqliteStore(path)


def _open_postgres(url: str) -> Store:
    try:
        from rail402.stores.postgres import PostgresStore
    except ImportError as error:
        raise ConfigurationError(f"PostgreSQL needs {error.name}: pip install 'rail402[postgres]'") from error
    return PostgresStore(url)
