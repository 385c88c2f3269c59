"""Released Lightning clients pay our server, whose invoices and whose money are those of real lnd nodes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate
from rail402.protocol.receipt import ReceiptKeys
from rail402_lightning import LightningRail
from rail402_lightning.backends import InvoiceStatus
from tests.interop.bank import listening, served
from tests.interop.peers import ALBY, L402_NPM, L402_REQUESTS, Case, cases, program, run
from tests.services.lightning import RegtestNetwork
from tests.services.lnd import LndNode
from tests.services.processes import wait_for

PRICE = 21_000
SECRET = "a secret that only this test knows, of 32 bytes and more"
CLIENTS = {L402_NPM: "l402_client.mjs", L402_REQUESTS: "l402_requests_client.py", ALBY: "alby_client.mjs"}
STATES: Any = {"OPEN": "open", "ACCEPTED": "open", "SETTLED": "settled", "CANCELED": "canceled"}


class LndReceiver:
    """As much of an lnd as the rail needs."""

    sandbox = False

    def __init__(self, node: LndNode) -> None:
        self._node = node

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def health(self) -> None: ...

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        digest = base64.b64encode(hashlib.sha256(hashed_description).digest()).decode()
        body = {"value_msat": str(amount_msat), "expiry": str(expiry_seconds), "description_hash": digest}
        return str(self._node.post("/v1/invoices", body)["payment_request"])

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        try:
            invoice = self._node.get(f"/v1/invoice/{payment_hash.hex()}")
        except httpx.HTTPStatusError:
            return None
        received, settled_at = int(invoice["amt_paid_msat"]), int(invoice["settle_date"])
        return InvoiceStatus(state=STATES[invoice["state"]], received_msat=received, settled_at=settled_at or None)


class LightningShop:
    """Our server on Alice's node; the peers pay from Bob's."""

    def __init__(self, network: RegtestNetwork, url: str, directory: Path) -> None:
        self.network, self.url, self.served = network, url, 0
        self.gate = Gate(
            rails=[LightningRail(LndReceiver(network.alice), network="regtest")],
            store=f"sqlite:///{directory}/charges.db",
            public_url=url,
            secret=SECRET,
            receipt_key=ReceiptKeys.generate()[1],
        )
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.get("/article")
        @self.gate.paid("21 sat")
        async def article() -> dict[str, int]:
            return self._serve()

        @self.app.get("/article/mpp")
        @self.gate.paid("21 sat", dialects=["mpp"])
        async def article_by_mpp() -> dict[str, int]:
            return self._serve()

    def _serve(self) -> dict[str, int]:
        self.served += 1
        return {"n": self.served}

    def balances(self) -> tuple[int, int]:
        """What the publisher and the payers have in their channel, millisatoshis."""
        return self.network.alice.channel_balance(), self.network.bob.channel_balance()

    async def charges(self) -> list[Any]:
        return list(await self.gate.services().store.recent(limit=10))


@pytest.fixture
async def lightning_shop(regtest: RegtestNetwork, tmp_path: Path) -> AsyncIterator[LightningShop]:
    with listening() as (found, url):
        shop = LightningShop(regtest, url, tmp_path)
        async with served(shop.app, found):
            yield shop


async def buy(case: Case, shop: LightningShop, directory: Path) -> Any:
    """Let the peer buy from Bob's node."""
    bob = shop.network.bob
    lnd = {"url": bob.rest_url, "macaroon": bob.macaroon_hex, "cert": str(bob.tls_cert_path)}
    protocol = case.route.split()[0]
    path = "/article/mpp" if protocol == "MPP" else "/article"  # Alby's reads MPP where it is the first scheme only
    given = {"url": shop.url + path, "node": lnd, "protocol": protocol}
    given |= {"own_wallet": case.route.endswith("its own lnd wallet")}
    command = program(case.package.service, CLIENTS[case.package], directory)
    program(case.package.service, "lnd.mjs", directory)
    env = {"NODE_EXTRA_CA_CERTS": str(bob.tls_cert_path)}
    return await run(command, json.dumps(given), directory=directory, env=env)


@pytest.mark.parametrize("case", [case for package in CLIENTS for case in cases(package)], ids=str)
async def test_pays_once_and_is_served(case: Case, lightning_shop: LightningShop, tmp_path: Path) -> None:
    shop, before = lightning_shop, lightning_shop.balances()
    answer = await buy(case, shop, tmp_path)
    assert (answer["status"], answer["body"]) == (200, {"n": 1}), answer
    wanted = before[0] + PRICE, before[1] - PRICE
    wait_for(f"{PRICE} msat in the channel", lambda: shop.balances() == wanted, 10)
    (charge,) = await shop.charges()
    dialect = {"L402": "l402", "MPP": "mpp", "x402": "x402-v2"}[case.route.split()[0]]
    assert (charge.payment, charge.dialect, charge.amount) == ("settled", dialect, PRICE)
    if case.package == ALBY:
        assert (answer["paid"], answer["amountSat"]) == (True, PRICE // 1000)
