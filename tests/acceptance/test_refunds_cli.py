"""`rail402 receipts refunds`: what a seller gave back is in the journal, and in whatever reads it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from fastapi import FastAPI

from rail402 import Gate
from rail402.protocol.receipt import verify_refund
from rail402_base import BaseRail
from tests.acceptance.test_pay_cli import Agent
from tests.interop.bank import listening, served


async def test_what_was_given_back(tmp_path: Path) -> None:
    with listening() as (found, url):
        gate = Gate(rails=[BaseRail.sandbox(tmp_path / "play")], public_url=url, store="memory://")
        app = FastAPI()
        gate.install(app)

        @app.get("/{name}")
        @gate.paid("0.60 USD")
        async def article(name: str) -> str:
            return name

        agent = Agent(tmp_path, url)
        async with served(app, found):
            records = [(await agent.says("get", f"{url}/{name}"))[1]["purchase"]["record_id"] for name in "ab"]
            code, said = await agent.says("receipts", "refunds")
            assert (code, [each["state"] for each in said["asked"]]) == (0, ["committed"] * 2)
            newest, _ = await gate.services().store.recent(limit=2)
            await gate.refund(newest.id)
            done = await agent.types("receipts", "refunds", "--wallets", "sandbox")
            told = f"{records[1]}  0.6 USDC given back\n1 given back, of 2 that were asked about\n"
            assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
            keys = gate.services().receipt_keys.jwks
        # The rest needs no seller.
        _, listed = await agent.says("receipts", "list")
        states = {each["record"]: (each["state"], each["refunded"]) for each in listed["purchases"]}
        assert states == {records[0]: ("committed", None), records[1]: ("refunded", "0.6 USDC")}
        _, shown = await agent.says("receipts", "show", records[1])
        assert verify_refund(shown["refund_receipt"], keys, issuer=url).charge == newest.id
        exported = await agent.types("receipts", "export", "--wallets", "sandbox")
        rows = list(csv.DictReader(io.StringIO(exported.stdout)))
        assert [(row["state"], row["cost"], row["refunded"]) for row in rows] == [
            ("refunded", "0.6 USDC", "0.6 USDC"),
            ("committed", "0.6 USDC", ""),
        ]
        lines = await agent.types("receipts", "export", "--format", "jsonl", "--wallets", "sandbox")
        assert json.loads(lines.stdout.splitlines()[0])["refund_receipt"] == shown["refund_receipt"]
        _, budget = await agent.says("budget", "show")
        assert (budget["per_day"]["used"], budget["refunded"]) == (["1.2 USD"], ["0.6 USDC"])
        shown_budget = await agent.types("budget", "show", "--wallets", "sandbox")
        assert "refunded     0.6 USDC, which counts as used all the same" in shown_budget.stdout
        code, said = await agent.says("receipts", "refunds", records[0])
        assert (code, "does not answer" in said["asked"][0]["error"]) == (1, True)
