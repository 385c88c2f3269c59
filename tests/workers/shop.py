"""A shop in several worker processes, served as in production: `uvicorn --workers N --factory tests.workers.shop:app`.

Its workers share a store and the sandboxes' money, and nothing else. Every run of a handler is a line in the folder's
`runs`: the charge that paid for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import Depends, FastAPI, HTTPException
from starlette.responses import StreamingResponse

from rail402 import Gate
from rail402.protocol.charge import Charge
from rail402.server.limits import Limits
from rail402.server.settings import Receipts
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.services.processes import Process, free_ports, running

__all__ = ["PRICES", "Shop", "app", "open_shop"]

ROOT: Final = Path(__file__).parents[2]

PRICES: Final = {
    "/article": ("base", "0.003 USD"),
    "/upfront": ("base", "0.003 USD"),
    "/invoice": ("lightning", "21 sat"),
    "/report": ("stripe", "0.50 USD"),
    "/pass": ("base", "0.003 USD"),
    "/fails": ("stripe", "0.50 USD"),
    "/stream": ("base", "0.003 USD"),
}
"""What each paid route costs, and on which rail."""

_RATES: Final = (
    *("challenges", "payments", "invoices"),
    *("route_challenges", "route_payments", "route_invoices"),
)


def app() -> FastAPI:
    """The shop of this worker; its settings come from the environment, as in any deployment."""
    folder = Path(os.environ["SHOP_FOLDER"])
    gate = _gate(folder, os.environ["SHOP_URL"], os.environ["SHOP_STORE"])
    shop = FastAPI()
    gate.install(shop)
    paid = Depends(gate.charge)

    async def run(charge: Charge) -> dict[str, Any]:
        with open(folder / "runs", "a") as file:  # noqa: ASYNC230 - a line, which one write appends whole
            file.write(f"{charge.id}\n")
        await asyncio.sleep(0.02)  # long enough for the others to arrive
        return {"charge": charge.id, "by": os.getpid()}

    @shop.get("/free")
    async def free() -> dict[str, int]:
        return {"by": os.getpid()}

    for path, flow, receipts in (
        ("/article", None, None),
        ("/upfront", "upfront", None),
        ("/invoice", None, None),
        ("/report", None, None),
        ("/pass", None, Receipts(valid="10m", uses=5)),
    ):
        rail, price = PRICES[path]
        paid_for = gate.paid(price, rails=[rail], flow=flow, receipt=receipts)

        @shop.get(path)
        @paid_for
        async def sold(charge: Charge = paid) -> dict[str, Any]:
            return await run(charge)

    @shop.get("/fails")
    @gate.paid(PRICES["/fails"][1], rails=["stripe"])
    async def fails(charge: Charge = paid) -> None:
        await run(charge)
        raise HTTPException(503, "out of stock")

    @shop.get("/stream")
    @gate.paid(PRICES["/stream"][1], rails=["base"])
    async def stream(charge: Charge = paid) -> StreamingResponse:
        await run(charge)

        async def chunks() -> Any:
            for number in range(20):
                yield f"{charge.id} {number}\n".encode()
                await asyncio.sleep(0)

        return StreamingResponse(chunks(), media_type="text/plain")

    return shop


def _gate(folder: Path, url: str, store: str) -> Gate:
    sandbox = folder / "sandbox"
    rails = [BaseRail.sandbox(sandbox), LightningRail.sandbox(sandbox), StripeRail.sandbox(sandbox)]
    redis = os.environ.get("SHOP_REDIS")
    limits = Limits(**dict.fromkeys(_RATES, "1000000/m"))  # all clients share an address, and none is to meet them
    leases = {"handler_seconds": 5, "settle_seconds": 5}  # what a killed worker leaves is soon free for the others
    options = {"limits": limits, "wait_seconds": 5, "reconcile_seconds": 1, **leases}
    return Gate(rails=rails, public_url=url, store=store, redis=redis, **options)


@dataclass(frozen=True)
class Shop:
    """A running shop.

    Attributes:
        folder: where its runs, its store and its sandboxes' money are.
        url: its origin.
        process: uvicorn and its workers.
    """

    folder: Path
    url: str
    process: Process

    @property
    def sandbox(self) -> Path:
        """Where the play money is."""
        return self.folder / "sandbox"

    def runs(self) -> Counter[str]:
        """How often a handler ran for each charge."""
        path = self.folder / "runs"
        return Counter(path.read_text().splitlines() if path.exists() else [])

    async def received(self) -> dict[str, int]:
        """What the shop was paid, by rail, in atomic units: read off each rail's own books."""
        found = {}
        for rail in (
            BaseRail.sandbox(self.sandbox),
            LightningRail.sandbox(self.sandbox),
            StripeRail.sandbox(self.sandbox),
        ):
            await rail.start()
            money = await rail.received()
            found[rail.spec.name] = money.to_atomic(rail.spec.mechanisms[0].exponent)
            await rail.close()
        return found


@contextmanager
def open_shop(folder: Path, store: str, *, workers: int, **environment: str) -> Iterator[Shop]:
    """Serve the shop by that many workers until the block ends.

    Args:
        store: the URL of its store.
        environment: further settings of the shop.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sandbox").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "tests.workers.shop:app", "--factory", "--workers", str(workers)]
    command += ["--port", str(port), "--backlog", "1024", "--log-level", "warning", "--no-access-log"]
    settings = {"SHOP_FOLDER": str(folder), "SHOP_URL": url, "SHOP_STORE": store, **environment}
    with running("shop", command, folder, env=settings, cwd=ROOT) as process:
        process.wait_until("its first answer", lambda: _answers(url))
        yield Shop(folder, url, process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/free", timeout=1, trust_env=False).is_success
    except httpx.TransportError:
        return False
