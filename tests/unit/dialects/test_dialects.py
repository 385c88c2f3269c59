"""The list of dialects: names, order, and that none of them does anything but compute."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rail402.dialects
from rail402.dialects import DEFAULT_DIALECTS, X402V2, Mpp, XReceipt, dialect_by_name
from rail402.errors import ConfigurationError


def test_order_and_names() -> None:
    assert [type(dialect) for dialect in DEFAULT_DIALECTS] == [X402V2, Mpp, XReceipt]
    assert [dialect.name for dialect in DEFAULT_DIALECTS] == ["x402-v2", "mpp", "x-receipt"]
    assert [dialect.echo for dialect in DEFAULT_DIALECTS] == ["full", "full", "none"]


def test_found_by_name() -> None:
    assert [dialect_by_name(dialect.name) for dialect in DEFAULT_DIALECTS] == list(DEFAULT_DIALECTS)
    with pytest.raises(ConfigurationError, match="no dialect 'x402'; the dialects are: x402-v2, mpp, x-receipt"):
        dialect_by_name("x402")


def test_no_two_dialects_share_a_field() -> None:
    for names in (
        [name for dialect in DEFAULT_DIALECTS for name in dialect.request_fields],
        [name for dialect in DEFAULT_DIALECTS for name in dialect.response_fields],
    ):
        assert len(names) == len({name.lower() for name in names})
    assert all(name == name.lower() for dialect in DEFAULT_DIALECTS for name in dialect.request_fields)


def test_dialects_are_pure() -> None:
    allowed = {
        "__future__",
        "base64",
        "collections",
        "dataclasses",
        "datetime",
        "hashlib",
        "hmac",
        "json",
        "re",
        "typing",
    }
    for path in Path(rail402.dialects.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith(
                    ("rail402.dialects", "rail402.protocol", "rail402.errors")
                ), f"{path.name} imports {name}"
        assert "now(" not in path.read_text()
