"""A worker process of a publisher: `python -m tests.attacks.worker FOLDER URL`, with sockets of its own.

Workers that are given one folder share the store and the sandboxes' money. It prints its port when it listens, and
serves until its standard input ends. Every run of a handler is a line in `FOLDER/runs`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fastapi import FastAPI

from rail402 import Gate
from rail402.server.settings import Receipts
from rail402_base import BaseRail
from rail402_base.eip3009 import address_of
from rail402_lightning import LightningRail
from tests.interop.bank import listening, served

__all__ = ["PUBLISHER", "runs", "workers"]

PUBLISHER = address_of(bytes([2]) * 32)
ROOT = Path(__file__).parents[2]
_STORE = "RAIL402_TEST_WORKERS_STORE"


def runs(folder: Path) -> list[str]:
    """What the handlers of all workers did, one word a run."""
    path = folder / "runs"
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def workers(folder: Path, url: str, count: int, *, store: str | None = None) -> Iterator[list[str]]:
    """The origins of that many worker processes, on one SQLite file or on `store`; they have ended afterwards."""
    command = [sys.executable, "-m", "tests.attacks.worker", str(folder), url]
    env = os.environ | {_STORE: store or f"sqlite:///{folder}/charges.db"}
    with ExitStack() as started:
        children = []
        for _ in range(count):
            child = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.enter_context(child)  # closes its input, and waits for it
            children.append(child)
        yield [_origin(child) for child in children]


def _origin(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.startswith("http://"), f"the worker ended with {child.wait()}"
    return line.strip()


def _app(folder: Path, url: str) -> FastAPI:
    sandbox = folder / "sandbox"
    rails = [BaseRail.sandbox(sandbox, pay_to=PUBLISHER), LightningRail.sandbox(sandbox)]
    gate = Gate(rails=rails, public_url=url, store=os.environ[_STORE], wait_seconds=5)
    app = FastAPI()
    gate.install(app)

    async def run(word: str) -> dict[str, str]:
        with open(folder / "runs", "a") as file:  # noqa: ASYNC230 - a line, which one write appends whole
            file.write(word + "\n")
        await asyncio.sleep(0.2)  # long enough for the others to arrive
        return {"sold": word, "by": str(os.getpid())}

    @app.get("/article")
    @gate.paid("0.003 USD", rails=["base"])
    async def article() -> dict[str, str]:
        return await run("article")

    @app.get("/upfront")
    @gate.paid("0.003 USD", rails=["base"], flow="upfront")
    async def upfront() -> dict[str, str]:
        return await run("upfront")

    @app.get("/invoice")
    @gate.paid("21 sat", rails=["lightning"])
    async def invoice() -> dict[str, str]:
        return await run("invoice")

    @app.get("/pass")
    @gate.paid("0.003 USD", rails=["base"], receipt=Receipts(valid="10m", uses=10))
    async def ten() -> dict[str, str]:
        return await run("pass")

    return app


async def _serve(folder: Path, url: str) -> None:
    with listening() as (found, origin):
        async with served(_app(folder, url), found):
            print(origin, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))
