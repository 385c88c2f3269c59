"""The list of dialects: names, order, and that none of them does anything but compute."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rail402.dialects
from rail402.dialects import (
    DEFAULT_DIALECTS,
    L402,
    OPTIONAL_DIALECTS,
    X402V1,
    X402V2,
    Mpp,
    PaymentUri,
    XPayment,
    XPrice,
    XReceipt,
    dialect_by_name,
)
from rail402.errors import ConfigurationError
from rail402.protocol.dialect import Dialect

from .dialect_fakes import BASE, SERVER, challenge_of, offer_of


def test_order_and_names() -> None:
    assert [type(dialect) for dialect in DEFAULT_DIALECTS] == [X402V2, Mpp, L402, X402V1, XReceipt]
    assert [dialect.name for dialect in DEFAULT_DIALECTS] == ["x402-v2", "mpp", "l402", "x402-v1", "x-receipt"]
    assert [dialect.echo for dialect in DEFAULT_DIALECTS] == ["full", "full", "none", "none", "none"]
    assert [type(dialect) for dialect in OPTIONAL_DIALECTS] == [XPayment, XPrice, PaymentUri]
    assert [dialect.name for dialect in OPTIONAL_DIALECTS] == ["x-payment", "x-price", "payment-uri"]
    assert {dialect.echo for dialect in OPTIONAL_DIALECTS} == {"none"}


def test_found_by_name() -> None:
    known = [*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS]
    assert [dialect_by_name(dialect.name) for dialect in known] == known
    with pytest.raises(
        ConfigurationError,
        match=r"no dialect 'x402'; the dialects are: x402-v2, mpp, l402, x402-v1, x-receipt, x-payment, x-price, "
        r"payment-uri$",
    ):
        dialect_by_name("x402")


def test_dialects_share_only_the_fields_of_authentication() -> None:
    for names, shared in (
        ([name for dialect in DEFAULT_DIALECTS for name in dialect.request_fields], ["authorization"]),
        ([name for dialect in DEFAULT_DIALECTS for name in dialect.response_fields], ["WWW-Authenticate"]),
    ):
        assert sorted(name for name in set(names) if names.count(name) > 1) == shared
        assert len(set(names)) == len({name.lower() for name in names})
    assert all(name == name.lower() for dialect in DEFAULT_DIALECTS for name in dialect.request_fields)


def test_those_of_the_proof_field_share_it_and_nothing_else() -> None:
    own = {name for dialect in OPTIONAL_DIALECTS for name in dialect.request_fields}
    assert own == {"x-payment-proof", "x-payment-token"}
    others = {name for dialect in DEFAULT_DIALECTS for name in dialect.request_fields}
    assert own & others == {"x-payment-token"}  # X-Receipt's too
    responses = [name.lower() for dialect in OPTIONAL_DIALECTS for name in dialect.response_fields]
    assert len(set(responses)) == len(responses)


@pytest.mark.parametrize("dialect", [*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS], ids=lambda dialect: dialect.name)
def test_an_offer_that_a_rail_cannot_say_is_left_out(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = offer_of(BASE)
    for binding in BASE.bindings.values():
        monkeypatch.setattr(type(binding), "encode_offer", lambda self, offer: None)
    said = dialect.challenge(challenge_of(offer), SERVER)
    assert (list(said.fields), said.body) == ([], {})
    assert dialect.envelope(offer, challenge_of(offer), SERVER) is None


def test_dialects_are_pure() -> None:
    allowed = {
        "__future__",
        "base64",
        "collections",
        "contextlib",
        "dataclasses",
        "datetime",
        "functools",
        "hashlib",
        "hmac",
        "json",
        "operator",
        "pydantic_core",
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
