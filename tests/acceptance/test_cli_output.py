"""What `rail402 get` writes: bodies as they are to pipes and files, and to a terminal nothing that it would act on."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from rail402 import Gate
from rail402_base import BaseRail
from tests.acceptance.test_pay_cli import RAIL402
from tests.interop.bank import listening, served

HOSTILE = "\x1b]0;owned\x07 \x1b[2Jred\x1b[0m\r\nü\ttab \u202eevil\x9b1m\x00 a\rb\u00a0"
SHOWN = "\\x1b]0;owned\\x07 \\x1b[2Jred\\x1b[0m\nü\ttab \\u202eevil\\x9b1m\\x00 a\\rb\u00a0\n"
BINARY = b"\x89PNG\x1b[2J\xff"


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    with listening() as (found, origin):
        gate = Gate(rails=[BaseRail.sandbox(tmp_path / "play")], public_url=origin, store="memory://")
        app = FastAPI()
        gate.install(app)

        @app.get("/hostile")
        @gate.paid("0.01 USD")
        async def hostile() -> Response:
            return Response(HOSTILE)

        @app.get("/binary")
        @gate.paid("0.01 USD")
        async def binary() -> Response:
            return Response(BINARY, media_type="image/png")

        async with served(app, found):
            yield origin


async def get(folder: Path, *arguments: str, terminal: bool = False) -> tuple[int, bytes, str]:
    """Run `rail402 get`, at a terminal or not; return its exit code and both its outputs."""
    env = {**os.environ, "HOME": str(folder), "RAIL402_SANDBOX": str(folder / "play")}
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = await asyncio.create_subprocess_exec(
        *RAIL402,
        *("get", *arguments, "--wallets", "sandbox"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        cwd=folder,
    )
    os.close(theirs)
    seen = asyncio.create_task(asyncio.to_thread(read, ours))
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    out = await seen
    os.close(ours)
    return process.returncode or 0, out.replace(b"\r\n", b"\n") if terminal else out, errors.decode()


def read(descriptor: int) -> bytes:
    found = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # how a terminal ends
            return found
        if not chunk:
            return found
        found += chunk


async def test_a_terminal_is_shown_text(tmp_path: Path, url: str) -> None:
    code, out, errors = await get(tmp_path, f"{url}/hostile", terminal=True)
    assert (code, out.decode()) == (0, SHOWN)
    assert "paid 0.01 USDC" in errors


async def test_a_terminal_is_shown_no_bytes(tmp_path: Path, url: str) -> None:
    code, out, errors = await get(tmp_path, f"{url}/binary", terminal=True)
    assert (code, out) == (0, b"")
    assert f"{len(BINARY)} bytes that are no UTF-8 are not shown: use --output FILE or --raw" in errors


async def test_raw_is_as_it_is(tmp_path: Path, url: str) -> None:
    code, out, _ = await get(tmp_path, f"{url}/hostile", "--raw", terminal=True)
    assert (code, out.decode()) == (0, HOSTILE)


@pytest.mark.parametrize(("path", "body"), [("hostile", HOSTILE.encode()), ("binary", BINARY)])
async def test_a_pipe_and_a_file_get_it_as_it_is(tmp_path: Path, url: str, path: str, body: bytes) -> None:
    assert (await get(tmp_path, f"{url}/{path}"))[:2] == (0, body)
    file = tmp_path / "body"
    file.write_bytes(b"before " * 100)
    assert (await get(tmp_path, f"{url}/{path}?n=2", "--output", str(file), terminal=True))[:2] == (0, b"")
    assert file.read_bytes() == body


async def test_json_says_where_the_body_is(tmp_path: Path, url: str) -> None:
    code, out, _ = await get(tmp_path, f"{url}/binary", "-o", "body", "--json")
    said = json.loads(out)
    assert (code, said["output"], said["purchase"]["outcome"], "body_base64" in said) == (0, "body", "paid", False)
    assert (tmp_path / "body").read_bytes() == BINARY


async def test_nothing_is_bought_that_could_not_be_written(tmp_path: Path, url: str) -> None:
    code, out, errors = await get(tmp_path, f"{url}/binary", "--output", str(tmp_path / "none" / "body"))
    assert (code, out, "cannot be written" in errors) == (2, b"", True)
    journal = tmp_path / "play" / "wallet.db"
    assert not journal.exists()


async def test_what_was_bought_and_cannot_be_written_is_said_to_be_paid(tmp_path: Path, url: str) -> None:
    code, _, errors = await get(tmp_path, f"{url}/binary", "--output", "/dev/full")
    assert (code, "Traceback" in errors) == (1, False)
    assert "the body cannot be written: No space left on device · paid 0.01 USDC" in errors


async def test_a_refusal_leaves_a_file_as_it_was(tmp_path: Path, url: str) -> None:
    file = tmp_path / "body"
    code, _, _ = await get(tmp_path, f"{url}/binary", "--max", "0.001 USD", "--output", str(file))
    assert (code, file.exists()) == (7, False)
    file.write_bytes(b"before")
    code, _, _ = await get(tmp_path, f"{url}/binary", "--max", "0.001 USD", "--output", str(file))
    assert (code, file.read_bytes()) == (7, b"before")
