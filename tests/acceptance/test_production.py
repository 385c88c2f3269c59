"""Going live, as docs/production*.md tells it: every refusal and every log message there has the words of the code."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Awaitable, Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate
from rail402.errors import ConfigurationError, PaymentRejected, Rail402Error, RailUnavailable
from rail402.protocol.receipt import ReceiptKeys
from rail402_base import BaseRail
from rail402_lightning.backends.lnd_macaroon import PAY, RECEIVE
from rail402_stripe.webhooks import EVENTS
from tests.acceptance.base_node import PAYEE, Node
from tests.acceptance.refusals import CASES, TROUBLES
from tests.acceptance.test_docs import DOCS, ROOT, names, says

PAGES = sorted(DOCS.glob("production*.md"))
SHOP = "https://api.example.com"


def tables(page: Path, head: str) -> Iterator[list[str]]:
    """Yield the rows of a page's tables whose first column is called `head`."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        for line in page.read_text().splitlines()
    ]
    inside = False
    for before, row in zip([[], *rows], rows, strict=False):
        inside = bool(row) and (inside or row[0].startswith(head))
        if inside and not row[0].startswith((head, "---")) and before:
            yield row


REFUSALS = [(page.name, *row[:3]) for page in PAGES for row in tables(page, "what is wrong")]


def test_every_refusal_of_a_page_is_tried() -> None:
    on_pages = [(page, what) for page, what, *_ in REFUSALS]
    assert sorted(on_pages) == sorted((page, what) for page, cases in CASES.items() for what in cases)


@pytest.mark.parametrize(("page", "what", "said", "then"), REFUSALS, ids=[f"{row[0]}: {row[1]}" for row in REFUSALS])
async def test_a_refusal_has_the_words_of_the_page(
    page: str, what: str, said: str, then: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rail402"):
        error = await refusal_of(CASES[page][what](tmp_path))
    found = [record.getMessage() for record in caplog.records] if error is None else [error.detail]
    assert any(says(text, said.strip("`")) for text in found), found
    assert then in what_follows(error)


@pytest.mark.parametrize("what", TROUBLES)
async def test_what_waits_sells_when_the_trouble_is_over(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ("production-base.md", what, "waits") in [(page, what, then) for page, what, _, then in REFUSALS]
    node = Node(**TROUBLES[what])
    rail = BaseRail(node.backend(f"sqlite:///{tmp_path}/relayer.db"), pay_to=PAYEE)
    keys = {"secret": "s" * 32, "receipt_key": ReceiptKeys.generate()[1]}
    gate = Gate(rails=[rail], public_url=SHOP, store="memory://", reconcile_seconds=0, **keys)
    app = FastAPI()
    gate.install(app)
    app.add_api_route("/article", gate.paid("0.01 USD")(lambda: "text"))
    async with gate, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=SHOP) as client:
        assert "rail base cannot be reached yet" in caplog.text
        assert (await client.get("/article")).status_code == 503
        node.recover()
        unpaid = await client.get("/article")
    assert (unpaid.status_code, [offer["rail"] for offer in unpaid.json()["offers"]]) == (402, ["base"])


async def refusal_of(case: Awaitable[None]) -> Rail402Error | None:
    try:
        await case
    except Rail402Error as error:
        return error
    return None


def what_follows(error: Rail402Error | None) -> tuple[str, ...]:
    """Return what a page may say that comes of it."""
    match error:
        case None:
            return ("warns",)
        case ConfigurationError():
            return ("stops",)
        case RailUnavailable():
            return ("waits", "503")  # at the start, and while one pays
        case PaymentRejected():
            return (f"{error.status} `{error.code}`",)
    return (str(error.status),)


@cache
def texts() -> set[str]:
    """Return every text in the code, with `…` where something is put in."""
    found = set()
    for path in [*ROOT.glob("x402/**/*.py"), *ROOT.glob("rails/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[sdr]", "…", node.value))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_message_to_watch_for_is_one_of_the_code(page: Path) -> None:
    messages = [name for row in tables(page, "message") for name in names(row[0])]
    assert messages
    assert [message for message in messages if message not in texts()] == []


def test_the_macaroons_are_those_that_the_code_asks_for() -> None:
    text = (DOCS / "production-lightning.md").read_text()
    baked = re.findall(r"^\$ lncli bakemacaroon (.*)$", text, re.MULTILINE)
    rights = [{word for word in command.split() if ":" in word} for command in baked]
    methods = {f"uri:{method}" for each in RECEIVE.methods.values() for method in each}
    assert rights == [set(RECEIVE.methods), methods, set(PAY.methods)]


def test_the_page_names_every_call_to_stripe() -> None:
    called = set()
    for path in ROOT.glob("rails/rail402_stripe/*.py"):
        called |= {re.sub(r"\{[^}]*\}", "{id}", each) for each in re.findall(r'"(/v1/[a-z_/{}.]+)"', path.read_text())}
    revoked = "/v1/{id}/{id}/revoke"  # of a place that is either of two
    assert revoked in called
    places = ("shared_payment/issued_tokens", "test_helpers/shared_payment/granted_tokens")
    called = (called - {revoked}) | {f"/v1/{place}/{{id}}/revoke" for place in places}
    said = [name for row in tables(DOCS / "production-stripe.md", "call") for name in names(row[0])]
    assert {name.split()[1] for name in said} == called


def test_the_page_names_every_event_that_is_taken() -> None:
    said = [name for row in tables(DOCS / "production-stripe.md", "event") for name in names(row[0])]
    assert sorted(said) == sorted(EVENTS)
