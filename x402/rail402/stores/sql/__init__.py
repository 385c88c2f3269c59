"""The SQL of the stores: one folder per database with ordered migrations and named queries.

`0001_charges.sql` and its successors are the schema, applied in the order of their numbers, each once; the number of
the last one is the schema's version. `queries.sql` holds every other statement under a line `-- name: <name>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

__all__ = ["Migration", "migrations", "parse_queries", "queries", "read_migrations"]

_MIGRATION = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql", re.ASCII)
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: `number` is the version that it leads to."""

    number: int
    script: str


@cache
def migrations(database: str) -> Sequence[Migration]:
    """Return the schema of `database` (a folder of this package), oldest step first."""
    return read_migrations(files(__name__) / database)


def read_migrations(folder: Traversable) -> Sequence[Migration]:
    """Return the schema in a folder, oldest step first."""
    steps = [
        Migration(int(match[1]), file.read_text("utf-8"))
        for file in folder.iterdir()
        if (match := _MIGRATION.fullmatch(file.name))
    ]
    return tuple(sorted(steps, key=lambda step: step.number))


@cache
def queries(database: str) -> Mapping[str, str]:
    """Return the named queries of `database`."""
    return parse_queries((files(__name__) / database / "queries.sql").read_text("utf-8"))


def parse_queries(text: str) -> Mapping[str, str]:
    """Return the statements of a file by the names above them.

    Raises:
        ValueError: a name appears twice.
    """
    _, *parts = _NAME.split(text)
    named = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    if len(named) * 2 != len(parts):
        raise ValueError("a query's name appears twice")
    return named
