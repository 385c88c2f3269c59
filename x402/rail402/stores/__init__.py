"""Where charges live: the interface in `base`, and the stores that implement it.

- `memory://`: gone when the process ends; for tests and for a server that is one process and may forget.
- `sqlite:///charges.db`: a file, relative to the working directory; `sqlite:////var/lib/charges.db`: an absolute one.
  Durable, and shared by all processes of one machine.
"""

from __future__ import annotations

from rail402.errors import ConfigurationError
from rail402.stores.base import Claim, Issued, Store, StoredResponse
from rail402.stores.memory import MemoryStore
from rail402.stores.sqlite import SqliteStore

__all__ = ["Claim", "Issued", "MemoryStore", "SqliteStore", "Store", "StoredResponse", "open_store"]

_FORMS = '"memory://", "sqlite:///relative.db" or "sqlite:////absolute.db"'


def open_store(url: str) -> Store:
    """Return the store that `url` names; `start` opens it.

    Raises:
        ConfigurationError: the URL has none of the forms `memory://`, `sqlite:///relative.db`,
            `sqlite:////absolute.db`.
    """
    if url == "memory://":
        return MemoryStore()
    scheme, colon, _ = url.partition("://")
    path = url.removeprefix("sqlite:///")
    if path == url:
        # Only the scheme: the rest of a URL may hold a password.
        raise ConfigurationError(f"the store {scheme + colon if colon else 'URL'!r} is not known; write {_FORMS}")
    if "?" in path or "#" in path:
        raise ConfigurationError(f"the store's path {path!r} must be a plain file name without options; write {_FORMS}")
    return SqliteStore(path)
