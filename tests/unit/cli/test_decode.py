"""`rail402 decode`: input, output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.protocol.receipt import Receipt, ReceiptKeys
from tests.unit.cli.samples import answering, invoice

RUNNER = CliRunner()
KEYS, _ = ReceiptKeys.generate()
RECEIPT = Receipt(
    issuer="https://shop.example",
    charge="ch_1",
    issued_at=1_800_000_000,
    valid_until=1_800_000_600,
    method="GET",
    resource="https://shop.example/a",
    request_digest="0" * 64,
    rail="base",
    network="eip155:8453",
    asset="0x1",
    amount="3000",
    price="0.003 USDC",
    payee="0x2",
    transaction="0x3",
)
SIGNED = KEYS.sign(RECEIPT)


def decode(*arguments: str, stdin: bytes | None = None) -> Result:
    result = RUNNER.invoke(app, ["decode", *arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def as_json(*arguments: str, stdin: bytes | None = None, code: int = 0) -> dict[str, Any]:
    result = decode("--json", *arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_text_for_people_and_json_for_programs() -> None:
    shown = decode(invoice())
    assert shown.exit_code == 0
    assert "BOLT 11 invoice" in shown.stdout
    assert "21000" in shown.stdout
    assert "Lightning regtest" in shown.stdout
    read = as_json(invoice())
    assert read["kind"] == "BOLT 11 invoice"
    assert read["facts"]["amount_msat"] == 21_000


def test_secrets_are_shown_only_when_asked_for() -> None:
    preimage = "ab" * 32
    assert preimage not in decode(preimage).output
    assert preimage not in decode("--json", preimage).output
    assert as_json("--secrets", preimage)["facts"]["preimage"] == preimage


def test_the_text_may_come_from_standard_input_or_a_file(tmp_path: Path) -> None:
    assert as_json("-", stdin=invoice().encode() + b"\n")["kind"] == "BOLT 11 invoice"
    (tmp_path / "text").write_text(f"\n{invoice()}\n")
    assert as_json(f"@{tmp_path / 'text'}")["kind"] == "BOLT 11 invoice"
    assert as_json("--", invoice())["kind"] == "BOLT 11 invoice"


@pytest.mark.parametrize("size", [131_073, 5_000_000])
def test_what_is_too_large_is_not_read(tmp_path: Path, size: int) -> None:
    (tmp_path / "large").write_bytes(b"a" * size)
    assert "longer than" in as_json(f"@{tmp_path / 'large'}", code=1)["error"]
    assert "longer than" in as_json("-", stdin=b"a" * size, code=1)["error"]


def test_what_cannot_be_read_is_told_what_can(tmp_path: Path) -> None:
    shown = decode("hello")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "BOLT 11 invoice" in shown.stderr
    assert "nothing that is known here" in shown.stderr
    found = as_json("hello", code=1)
    assert found["kind"] is None
    assert any("macaroon" in line for line in found["readable"])
    for text in (f"@{tmp_path}/none", f"@{tmp_path}", "@\x00", "-stray"):
        assert decode(text).exit_code == 1


def test_a_receipt_is_verified_with_the_keys_of_a_file(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(KEYS.jwks))
    assert "signature_verifies" not in as_json(SIGNED)["facts"]
    good = as_json("--jwks", str(jwks), f"Receipt-Record: {SIGNED}")
    assert good["facts"]["signature_verifies"] is True
    assert "https://shop.example" in good["notes"][-1]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(ReceiptKeys.generate()[0].jwks))
    bad = as_json("--jwks", str(other), SIGNED, code=1)
    assert bad["facts"]["signature_verifies"] is False
    assert bad["facts"]["claims"]["jti"] == "ch_1"
    altered = SIGNED[:-4] + ("AAAA" if SIGNED[-4:] != "AAAA" else "BBBB")
    assert decode("--jwks", str(jwks), altered).exit_code == 1


def test_a_receipt_is_verified_with_the_keys_of_an_address() -> None:
    with answering("200 OK", body=json.dumps(KEYS.jwks).encode()) as server:
        assert as_json("--jwks", server.url, SIGNED)["facts"]["signature_verifies"] is True


@pytest.mark.parametrize(
    ("status", "body"), [("404 Not Found", b""), ("302 Found", b"{}"), ("200 OK", b"a" * 70_000), ("200 OK", b"[]")]
)
def test_keys_that_cannot_be_had(status: str, body: bytes) -> None:
    with answering(status, ("Location", "http://127.0.0.1:1/"), body=body) as server:
        assert "jwks" in as_json("--jwks", server.url, SIGNED, code=1)["error"]


def test_keys_that_cannot_be_fetched_or_read(tmp_path: Path) -> None:
    for place in ("http://127.0.0.1:1/jwks", "http://[", str(tmp_path), str(tmp_path / "none")):
        assert as_json("--jwks", place, SIGNED, code=1)["error"]


def test_keys_are_for_receipts(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(KEYS.jwks))
    assert "verifies receipts" in as_json("--jwks", str(jwks), invoice(), code=1)["error"]


def test_a_stranger_cannot_command_the_terminal() -> None:
    text = json.dumps({"type": "x402", "payment": {"network": "\x1b[31m[red]x[/]"}, "detail": "\u202eevil\x07"})
    shown = decode(text).output
    assert "[red]x[/]" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_ends_with_0_or_1(text: str) -> None:
    assert decode("--", text).exit_code in (0, 1)
    assert decode("--json", "--", text).exit_code in (0, 1)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_with_0_or_1(data: bytes) -> None:
    assert decode("-", stdin=data).exit_code in (0, 1)
