"""`rail402 inspect`: one request, nothing paid, everything said."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.cli.inspect import SAFE_BYTES
from rail402.plugins import load_plugin
from rail402.protocol.order import Order
from rail402.server.answers import MAX_CHALLENGE_BYTES
from tests.unit.cli.samples import EVM, PAYEE, answering, base_offer, lightning_offer, required, said, stripe_offer

RUNNER = CliRunner()
NO_STORE = ("Cache-Control", "no-store")


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    result = RUNNER.invoke(app, ["inspect", *arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def ask(*lines: tuple[str, str], status: str = "402 Payment Required", body: bytes = b"", code: int) -> dict[str, Any]:
    with answering(status, *lines, body=body) as server:
        result = run(server.url, "--json")
        text = run(server.url)
    assert text.exit_code == result.exit_code == code, result.output + text.output
    report: dict[str, Any] = json.loads(result.stdout)
    counts = f"{report['counts']['payable']} of {len(report['offers'])} offers can be read and paid by the rails here"
    assert (counts if report["kind"] == "payable" else report["meaning"]) in text.stdout
    return report


def boxes(shown: str) -> list[str]:
    """Return the titles of the boxes."""
    return [line.strip("╭─╮ ") for line in shown.splitlines() if line.startswith("╭")]


def table(shown: str) -> list[list[str]]:
    """Return the cells of the table's rows."""
    lines = shown.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("rail  "))
    end = next(number for number, line in enumerate(lines) if line.startswith("╭"))
    return [re.split(r" {2,}", line.strip()) for line in lines[first + 1 : end]]


def test_offers_of_three_rails() -> None:
    now = int(time.time())
    with answering("402 Payment Required") as server:
        order = Order(method="GET", url=server.url, route="")
        lines, body = said(base_offer(now), lightning_offer(now, order), stripe_offer(now), now=now, order=order)
        link = {"rail": "stripe", "price": "0.5 USD", "pay_url": "https://shop.example/pay?x=1"}
        body["offers"] = [link, 5, {}, link | {"pay_url": "javascript:alert(1)"}, link | {"pay_url": 5}]
        payload = json.dumps(body).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in [*lines, NO_STORE])
        server.raw = f"HTTP/1.1 402 Payment Required\r\n{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload
        report = json.loads(run(server.url, "--json").stdout)
        text, every = run(server.url), run(server.url, "--all")
        assert json.loads(run(server.url, "--json", "--all").stdout).keys() == report.keys()
    assert text.exit_code == every.exit_code == 0
    assert report["kind"] == "payable"
    assert report["counts"]["payable"] == len(report["offers"]) >= 8
    assert {offer["rail"] for offer in report["offers"]} == {"base", "lightning", "stripe"}
    assert report["challenge_bytes"] == sum(len(name) + len(value) + 4 for name, value in lines)
    assert report["notes"] == []
    assert report["pay_urls"] == [{"rail": "stripe", "price": "0.5 USD", "url": "https://shop.example/pay?x=1"}]
    rows = [
        ["base", "Sandbox (no real money)", "0.003 USDC", "x402-v2, mpp, x402-v1"],
        ["lightning", "Lightning regtest (the sandbox too)", "21 sat", "x402-v2, mpp, l402, x-receipt"],
        ["stripe", "Sandbox (no real money)", "0.5 USD", "mpp"],
    ]
    words = "can be read and paid by the rails here"
    assert table(text.stdout) == table(every.stdout) == rows
    assert boxes(text.stdout) == [f"{n} · {row[0]} · {row[2]} · {words}" for n, row in enumerate(rows, 1)]
    assert boxes(every.stdout) == [
        f"{number} · {offer['dialect']} · {offer['price']} · {words}"
        for number, offer in enumerate(report["offers"], 1)
    ]
    for shown in (text.stdout, every.stdout):
        assert "verifyingContract" in shown
        assert "a person can pay 0.5 USD at https://shop.example/pay?x=1" in shown
        assert "and no wallet was asked" in shown
        assert "can be paid" not in shown
    assert f"there are {len(report['offers'])}" in text.stdout
    assert "the same as" not in text.stdout
    assert "the same as 1" in every.stdout


def test_a_payment_is_shown_once_with_its_first_expiry_and_its_invoice_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    monkeypatch.setattr("rail402.cli.inspect.system_clock", lambda: now)
    with answering("402 Payment Required") as server:
        order = Order(method="GET", url=server.url, route="")
        offer = lightning_offer(now, order)
        lines, _ = said(base_offer(now), offer, now=now, order=order)
        server.raw = (
            "HTTP/1.1 402 Payment Required\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines) + "\r\n"
        ).encode()
        text, every = run(server.url).stdout, run(server.url, "--all").stdout
    base, lightning = text.split("╭")[1:]
    assert base.count(PAYEE) == 2  # who is paid, and in the message that is signed
    assert re.search(r"expires first at +in 3 min ", base)  # by x402, which says how long; by MPP it is ten
    assert "expires first at" not in lightning
    assert re.search(r"would be paid +as follows", lightning)
    assert lightning.count(offer.payee) == lightning.count("expires at") == 1
    invoice = str(offer.extra["invoice"])
    assert f"{invoice[:68]}…{invoice[-8:]}" in text
    assert invoice[:90] in every


def test_what_would_be_paid_cannot_replace_the_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"payee": "somebody else", "limit": "none"}
    plugin = replace(load_plugin("base"), describe=lambda offer: told)
    monkeypatch.setattr("rail402.cli.inspect.installed", lambda: ({"base": plugin}, []))
    with answering("402 Payment Required", ("PAYMENT-REQUIRED", required(EVM))) as server:
        text, every = run(server.url).stdout, run(server.url, "--all").stdout
    assert PAYEE in text
    assert re.search(r"limit +none", text)
    assert "somebody else" not in text
    assert "somebody else" in every


def test_payments_that_differ_have_a_row_and_a_box_each() -> None:
    entries = (EVM, EVM | {"amount": "3001"}, EVM, EVM | {"payTo": "0x" + "1" * 40})
    with answering("402 Payment Required", ("PAYMENT-REQUIRED", required(*entries))) as server:
        text, every = run(server.url).stdout, run(server.url, "--all").stdout
    assert [(row[2], row[3]) for row in table(text)] == [
        ("0.003 USDC", "x402-v2"),
        ("0.003001 USDC", "x402-v2"),
        ("0.003 USDC", "x402-v2"),
    ]
    assert (len(boxes(text)), len(boxes(every))) == (3, 4)


def test_the_short_form_says_why_an_offer_is_refused() -> None:
    entries = (EVM, EVM | {"payTo": "0x" + "0" * 40}, EVM | {"payTo": 5}, EVM | {"scheme": "upto"}, 7)
    with answering("402 Payment Required", ("PAYMENT-REQUIRED", required(*entries))) as server:
        text = run(server.url).stdout
    assert "; 1 of 5 offers can be read and paid by the rails here, and no wallet was asked" in text
    assert [row[-1] for row in table(text)] == [
        "x402-v2",
        "refused",
        "cannot be read",
        "not known here",
        "cannot be read",
    ]
    first, refused, broken, unknown, _ = text.split("╭")[1:]
    assert "2 · base · 0.003 USDC · refused" in refused
    assert "it would send the money to the zero address" in refused
    assert "would be paid" in first
    assert "would be paid" not in refused
    assert "3 · x402-v2 · no price · cannot be read" in broken
    assert "payTo: must be an address" in broken
    assert re.search(r"wire · scheme +upto", unknown)


def test_the_request_is_made_once_and_carries_no_payment(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b'{"q":1}')
    with answering("200 OK") as server:
        run(server.url)
        run(server.url, "-H", "Authorization: Bearer key", "-H", "X-A: 1", "-H", "x-a: 2", "-d", f"@{tmp_path}/body")
        run(server.url + "?q=%20a#fragment", "--method", "delete", "-d", "-", stdin=b"from stdin")
    first, second, third = server.requests
    assert first.startswith(b"GET /a HTTP/1.1\r\n")
    assert not [name for name in (b"authorization", b"payment", b"x-receipt", b"cookie") if name in first.lower()]
    assert second.startswith(b"POST /a HTTP/1.1\r\n")
    assert second.endswith(b'\r\n\r\n{"q":1}')
    assert b"Authorization: Bearer key\r\n" in second
    assert second.lower().count(b"x-a:") == 2
    assert third.startswith(b"DELETE /a?q=%20a HTTP/1.1\r\n")
    assert third.endswith(b"from stdin")


@pytest.mark.parametrize(
    "header",
    [
        *("PAYMENT-SIGNATURE: e30", "X-PAYMENT: e30", "X-Receipt: aa", "payment-authorization: Payment e30"),
        *("Authorization: Payment e30", "Authorization: L402 a:b", "authorization: Basic a, lsat b"),
        *("no colon", "a b: c", "X-A: ü", "X-A: a\r\nX-B: b", ": a"),
    ],
)
def test_a_header_that_pays_or_is_none_is_wrong_usage(header: str) -> None:
    assert run("http://127.0.0.1:1/", "-H", header).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        *(["ftp://a/"], ["a/b"], ["http://"], ["http://user:secret@a/"], ["http://[::"], ["http://a\x00/"], []),
        *(["http://127.0.0.1:1/", "--method", "G T"], ["http://127.0.0.1:1/", "-d", "@/nowhere/at/all"]),
        *(["http://127.0.0.1:1/", "--timeout", "0"], ["http://" + "a" * 70_000]),
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_no_answer() -> None:
    shown = run("http://127.0.0.1:1/")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "no answer from http://127.0.0.1:1/" in shown.stderr
    report = run("http://127.0.0.1:1/", "--json")
    assert report.exit_code == 1
    assert json.loads(report.stdout)["status"] is None


def test_an_answer_that_never_ends_is_given_up() -> None:
    with answering("402 Payment Required", length=100) as server:
        server.raw = server.raw.replace(b"Connection: close\r\n\r\n", b"")
        assert run(server.url, "--timeout", "1").exit_code == 1
    with answering("402 Payment Required", body=b"short", length=100) as server:
        assert run(server.url, "--timeout", "1").exit_code == 1


def test_an_answer_that_trickles_in_is_given_up() -> None:
    with answering("402 Payment Required", ("X-Long", "a" * 2000)) as server:
        server.pause = 0.05
        began = time.monotonic()
        assert run(server.url, "--timeout", "1").exit_code == 1
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        ("200 OK", "served without a payment"),
        ("401 Unauthorized", "asks for a login"),
        ("403 Forbidden", "forbidden"),
        ("404 Not Found", "nothing is sold"),
        ("405 Method Not Allowed", "--method"),
        ("418 Teapot", "not for money"),
        ("429 Too Many Requests", "pay nothing"),
        ("500 Internal Server Error", "the server failed"),
        ("503 Service Unavailable", "wait"),
    ],
)
def test_what_is_no_402(status: str, meaning: str) -> None:
    report = ask(("Retry-After", "7"), status=status, code=3)
    assert report["kind"] == "not a 402"
    assert meaning in report["meaning"]
    assert report["retry_after"] == "7"


def test_a_redirect_is_not_followed() -> None:
    report = ask(("Location", "https://elsewhere.example/a"), status="307 Temporary Redirect", code=3)
    assert (report["kind"], report["redirects_to"]) == ("redirect", "https://elsewhere.example/a")


def test_terms_without_a_402_are_ignored() -> None:
    report = ask(("PAYMENT-REQUIRED", required(EVM)), status="401 Unauthorized", code=3)
    assert len(report["offers"]) == 1
    assert any("every client ignores them" in note for note in report["notes"])


@pytest.mark.parametrize("body", [b"", b"<html>pay your bill</html>", b'{"error":"quota"}', b"\xff\xfe"])
def test_a_402_without_terms_is_administrative(body: bytes) -> None:
    report = ask(("WWW-Authenticate", 'Basic realm="a"'), NO_STORE, body=body, code=4)
    assert report["kind"] == "administrative"
    assert report["notes"] == ["WWW-Authenticate also asks for a login: basic"]


@pytest.mark.parametrize(
    "lines",
    [
        [("PAYMENT-REQUIRED", required(EVM | {"scheme": "upto"}))],
        [("PAYMENT-REQUIRED", required(EVM | {"payTo": "0x" + "0" * 40}))],
        [("PAYMENT-REQUIRED", "***")],
        [("Crawler-Price", "USD 0.01")],
    ],
)
def test_terms_that_nobody_here_can_pay(lines: list[tuple[str, str]]) -> None:
    assert ask(*lines, code=5)["kind"] == "not payable"


def test_what_clients_would_ignore_is_said() -> None:
    v2 = json.dumps({"x402Version": 2, "accepts": [EVM]}).encode()
    assert any("belongs in PAYMENT-REQUIRED" in note for note in ask(NO_STORE, body=v2, code=4)["notes"])
    report = ask(("PAYMENT-REQUIRED", required(EVM, EVM | {"payTo": 5}, 7)), NO_STORE, code=0)
    assert report["notes"] == ["a client that follows the specifications passes over 2 of the challenges"]
    assert report["counts"] == {"payable": 1, "refused": 0, "unreadable": 2, "unknown": 0, "ignored": 0}
    report = ask(("X-Paywall", "1"), ("Access-Control-Expose-Headers", "PAYMENT-REQUIRED"), NO_STORE, code=5)
    assert report["notes"] == ["not known here: the field x-paywall"]


def test_large_challenges_and_caches() -> None:
    assert SAFE_BYTES == MAX_CHALLENGE_BYTES
    report = ask(("PAYMENT-REQUIRED", required(EVM, pad="a" * 6000)), code=0)
    assert report["challenge_bytes"] > SAFE_BYTES
    first, second = report["notes"]
    assert first.startswith(f"warning: {report['challenge_bytes']} bytes of challenge fields")
    assert "no-store" in second
    assert ask(("PAYMENT-REQUIRED", required(EVM)), ("Cache-Control", "private, No-Store"), code=0)["notes"] == []


def test_a_body_that_is_too_large_is_not_read() -> None:
    report = ask(NO_STORE, body=b"a" * 1_100_000, code=4)
    assert (report["body_bytes"], report["notes"]) == (None, ["the body was too large or too slow to be read"])


def test_a_stranger_cannot_command_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[31m[bold red]evil[/]"
    entry = {"scheme": evil, "network": "[link=https://e]n[/]", "payTo": "\u202ekcab"}
    body = json.dumps(
        {"x402Version": 1, "accepts": [entry], "offers": [{"price": evil, "pay_url": "https://a" + evil}]}
    )
    with answering("402 \x9b31m[red]Pay", ("Cache-Control", "[red]x[/]"), body=body.encode()) as server:
        text, every = run(server.url).output, run(server.url, "--all").output
        report = run(server.url, "--json").output
    for output in (text, every, report):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(output)
    assert "[bold red]evil[/]" in text
    assert "Cache-Control: [red]x[/]" in text


def test_a_wrong_content_coding_is_no_body() -> None:
    report = ask(NO_STORE, ("Content-Encoding", "gzip"), body=b"not gzip", code=4)
    assert report["body_bytes"] == 0


@pytest.mark.parametrize("member", ["error", "detail"])
def test_a_gate_whose_rails_cannot_charge_the_price_is_no_bill(member: str) -> None:
    why = "no rail of this route can charge 0.01 USD"
    body = {member: why, "code": "payment_required", "price": "0.01 USD", "offers": []}
    report = ask(NO_STORE, body=json.dumps(body).encode(), code=5)
    assert report["kind"] == "not payable"
    assert report["meaning"] == "payment is asked for, and none of the server's own rails can charge the price"
    assert report["notes"] == [f"the server says: {why}"]


def test_what_a_server_without_offers_says_is_a_stranger_s_text() -> None:
    body = {"error": "\x1b[31m[bold]" + "x" * 300, "price": "0.01 USD", "offers": []}
    with answering("402 Payment Required", NO_STORE, body=json.dumps(body).encode()) as server:
        text = run(server.url).stdout
    assert "\x1b" not in text
    assert "· the server says: [bold]xx" in " ".join(text.split())
    assert text.count("xx") < 100
