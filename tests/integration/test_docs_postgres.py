"""The program of `docs/server.md` that keeps its charges in a PostgreSQL, as it stands there, on two machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.acceptance.test_docs import DOCS, blocks, environment
from tests.services.postgres import PostgresServer

# Buys with what the sandbox's wallet has signed, or shows that again; prints the status and the receipt.
AGENT = """
import asyncio, json, sys
import httpx
from shop_postgres import app, gate
from rail402 import Payer
from rail402_base import BaseWallet

class Kept(httpx.ASGITransport):
    async def handle_async_request(self, request):
        if request.url.path == "/article":
            self.sent = {name: value for name, value in request.headers.items() if name != "host"}
        return await super().handle_async_request(request)

async def main():
    transport = Kept(app=app)
    async with gate:
        if len(sys.argv) > 1:
            async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
                answer = await client.get("/article", headers=json.loads(sys.argv[1]))
        else:
            payer = Payer([BaseWallet.sandbox()])
            async with payer, httpx.AsyncClient(transport=payer.transport(transport)) as client:
                answer = await client.get("https://api.example.com/article")
        print(json.dumps([answer.status_code, answer.text, dict(answer.headers), transport.sent]))

asyncio.run(main())
"""


def test_two_machines_share_what_was_paid(postgres: PostgresServer, tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks(DOCS / "server.md") if block.file == "shop_postgres.py"]
    (tmp_path / "shop_postgres.py").write_text(text)
    more = environment(DATABASE_URL=postgres.schema(), RAIL402_SANDBOX=str(tmp_path))

    def run(*arguments: str) -> list[Any]:
        command = [sys.executable, "-W", "error", "-c", AGENT, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=more, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return list(json.loads(done.stdout))

    status, text, fields, sent = run()
    assert (status, text) == (200, '"All there is to know."')
    # On the other machine the same answer for the same charge; a store of its own would sell it once more.
    status, again, replayed, _ = run(json.dumps(sent))
    assert (status, again) == (200, text)
    assert replayed.pop("idempotent-replayed") == "true"
    assert replayed == fields
