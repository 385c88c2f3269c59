"""The files of SQL: what the loader reads, and that every query finds its rows by an index."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("name", queries("sqlite"))
def test_no_query_reads_a_whole_table(name: str, tmp_path: Path) -> None:
    # An index keeps a query as fast with a million charges as with a thousand.
    connection = open_writer(tmp_path / "charges.db", busy_timeout=1)
    query = queries("sqlite")[name]
    values = {field: "[]" if field == "keys" else 1 for field in re.findall(r":([a-z_]+)", query)}
    try:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    finally:
        connection.close()
    whole = re.compile(r"SCAN (?!json_each|\(subquery|charges USING INDEX charges_by_age)")
    assert [step for step in plan if whole.match(step)] == []
