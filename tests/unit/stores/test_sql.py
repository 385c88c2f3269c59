"""The files of SQL: what the loader reads, and that every query finds its rows by an index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rail402.stores.sql import migrations, parse_queries, queries
from rail402.stores.sqlite_file import open_writer


def test_queries_go_by_the_names_above_them() -> None:
    text = "-- A file.\n\n-- name: first\n-- Why.\nSELECT 1;\n\n-- name: second\nSELECT 2;\n"
    assert parse_queries(text) == {"first": "-- Why.\nSELECT 1;", "second": "SELECT 2;"}


def test_name_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_queries("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


@pytest.mark.parametrize("database", ["sqlite", "postgres", "journal", "journal_postgres"])
def test_migrations_are_numbered_without_a_gap(database: str) -> None:
    numbers = [step.number for step in migrations(database)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(tmp_path / "charges.db", busy_timeout=1)) as connection:
        yield connection


def plan(connection: sqlite3.Connection, name: str) -> list[str]:
    """Say how SQLite finds the rows of a query."""
    query = queries("sqlite")[name]
    values = {field: "[]" if field in ("keys", "rails") else 1 for field in re.findall(r":([a-z_]+)", query)}
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]


@pytest.mark.parametrize("name", queries("sqlite"))
def test_no_query_reads_a_whole_table(name: str, connection: sqlite3.Connection) -> None:
    # An index keeps a query as fast with a million charges as with a thousand.
    whole = re.compile(r"SCAN (?!json_each|\(subquery)")
    from_its_end = ["SCAN charges USING INDEX charges_by_age"] if name == "recent_charges" else []
    assert [step for step in plan(connection, name) if whole.match(step)] == from_its_end


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("unresolved_charges", "SEARCH charges USING INDEX charges_by_lease (lease_until<?)"),
        ("recent_charges", "SCAN charges USING INDEX charges_by_age"),
        ("recent_charges_before", "SEARCH charges USING INDEX charges_by_age (created_at<?)"),
        ("prune_charges", "SEARCH charges USING INDEX charges_by_end (<expr><?)"),
    ],
)
def test_charges_are_read_in_the_order_of_an_index_that_has_no_others(
    name: str, step: str, connection: sqlite3.Connection
) -> None:
    steps = plan(connection, name)
    assert step in steps
    assert [each for each in steps if "TEMP B-TREE" in each] == []


def test_pruning_takes_no_longer_for_what_has_to_stay(connection: sqlite3.Connection) -> None:
    insert = (
        "INSERT INTO charges (id, version, payment, delivery, lease_until, created_at, valid_until, uses, uses_taken, "
        "charge) VALUES (?, 0, 'settled', 'stored', 1, 1, ?, 9, 1, '{}')"
    )
    steps = []
    for number in range(2):
        connection.executemany(insert, ((f"stays {number} {n}", 900) for n in range(1 + number * 2000)))
        connection.executemany(insert, ((f"goes {number} {n}", 2) for n in range(10)))
        steps.append(0)

        def count() -> None:
            steps[-1] += 1

        connection.set_progress_handler(count, 1)
        pruned = connection.execute(queries("sqlite")["prune_charges"], {"before": 500, "limit": 100}).rowcount
        connection.set_progress_handler(None, 1)
        assert pruned == 10
    assert steps[1] < steps[0] * 1.1
