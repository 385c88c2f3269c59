"""The demo's agent: what it buys, what it is refused, and how each claim about it is counted from what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.payer import Payer
from rail402.client.records import Purchase
from rail402.errors import BudgetExceeded, MalformedInput, Rail402Error
from rail402.money import Money
from rail402.protocol.receipt import Receipt, verify_receipt
from rail402_base import BaseRail, BaseWallet
from rail402_lightning import LightningRail, LightningWallet
from rail402_stripe import StripeRail, StripeWallet

__all__ = ["Bought", "Facts", "visit"]

ROUTES = ("/article/402", "/weather", "/report")
TOO_DEAR = "/archive"
JOURNAL = "wallet.db"


@dataclass(slots=True)
class Bought:
    """One purchase, as it went over the wire."""

    path: str
    status: int
    body: str
    purchase: Purchase | None
    challenge: httpx.Headers
    challenge_body: str
    proof: httpx.Headers
    answer: httpx.Headers
    receipt: Receipt | None = None


@dataclass(slots=True)
class Facts:
    """What happened: everything the last line says is counted from here."""

    url: str
    bought: list[Bought] = field(default_factory=list)
    replays: int = 0
    refusals: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    received: dict[str, Money] = field(default_factory=dict)
    charged_twice: int = 0

    @property
    def paid(self) -> list[Bought]:
        """The purchases whose money the publisher's own ledgers show."""
        return [each for each in self.bought if each.purchase and each.purchase.rail in self.received]

    @property
    def verified(self) -> list[Bought]:
        """The purchases whose receipt verifies."""
        return [each for each in self.bought if each.receipt is not None]

    @property
    def ok(self) -> bool:
        """Whether all went as it should."""
        counts = (len(self.paid), len(self.verified), self.replays, len(self.refusals), self.charged_twice)
        return counts == (3, 3, 1, 1, 0) and not self.problems

    @property
    def summary(self) -> str:
        """The last line."""
        return (
            f"demo {'ok' if self.ok else 'failed'}: {len(self.paid)} rails paid, "
            f"{len(self.verified)} receipts verified, "
            f"{self.replays} replay served, {len(self.refusals)} budget refusal, {self.charged_twice} charged twice"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the same facts for programs."""
        return {
            "ok": self.ok,
            "rails_paid": len(self.paid),
            "receipts_verified": len(self.verified),
            "replays_served": self.replays,
            "budget_refusals": len(self.refusals),
            "charged_twice": self.charged_twice,
            "problems": self.problems,
            "purchases": [
                {
                    "path": each.path,
                    "status": each.status,
                    "rail": each.purchase.rail if each.purchase else None,
                    "dialect": each.purchase.dialect if each.purchase else None,
                    "price": str(each.purchase.price) if each.purchase else None,
                    "receipt": each.receipt.model_dump(by_alias=True, exclude_none=True) if each.receipt else None,
                }
                for each in self.bought
            ],
            "refusals": self.refusals,
            "received": {rail: str(money) for rail, money in self.received.items()},
        }

    # --- afterwards, without the publisher

    async def verify_receipts(self, directory: Path) -> None:
        """Verify every receipt with the keys that the agent's journal pinned at the first purchase."""
        journal = Journal(f"sqlite:///{directory / JOURNAL}")
        await journal.start()
        keys = {"keys": [dict(key) for key in await journal.pinned(self.url)]}
        await journal.close()
        for each in self.bought:
            try:
                each.receipt = verify_receipt(each.answer.get("receipt-record", ""), keys, issuer=self.url)
            except MalformedInput as error:
                self.problems.append(f"{each.path}: {error}")

    async def count_money(self, directory: Path) -> None:
        """Read off each rail's own ledger what the publisher received, against what was bought."""
        for rail in (BaseRail.sandbox(directory), LightningRail.sandbox(directory), StripeRail.sandbox(directory)):
            await rail.start()
            received = await rail.received()
            await rail.close()
            prices = [
                each.purchase.price for each in self.bought if each.purchase and each.purchase.rail == rail.spec.name
            ]
            if not received.amount:
                continue
            self.received[rail.spec.name] = received
            if not prices or received != prices[0]:
                self.problems.append(f"{rail.spec.name}: the publisher received {received}")
            self.charged_twice += bool(prices) and received.amount >= 2 * prices[0].amount


class _Recorder(httpx.AsyncBaseTransport):
    """Writes down what goes over the wire below the payer."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self.exchanges: list[tuple[httpx.Request, httpx.Response]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        raw = b"".join([chunk async for chunk in response.aiter_raw()])
        await response.aclose()
        copies = [httpx.Response(response.status_code, headers=response.headers, content=raw) for _ in range(2)]
        self.exchanges.append((request, copies[0]))
        return copies[1]

    async def aclose(self) -> None:
        await self._inner.aclose()

    def of(self, path: str) -> list[tuple[httpx.Request, httpx.Response]]:
        """Return the exchanges about one path."""
        return [pair for pair in self.exchanges if pair[0].url.path == path]


async def visit(url: str, directory: Path) -> Facts:
    """Buy one route on each rail, repeat a request with the same proof, and try what the budget forbids."""
    facts, recorder = Facts(url), _Recorder()
    payer = Payer(
        [BaseWallet.sandbox(directory), LightningWallet.sandbox(directory), StripeWallet.sandbox(directory)],
        budget=Budget(per_request=["1 USD", "1000 sat"]),
        journal=f"sqlite:///{directory / JOURNAL}",
    )
    async with payer, httpx.AsyncClient(transport=payer.transport(recorder), base_url=url) as client:
        for path in ROUTES:
            await _buy(facts, client, recorder, path)
        await _refused(facts, client)
    async with httpx.AsyncClient(base_url=url) as plain:
        for each in facts.bought[:1]:
            response = await plain.get(each.path, headers=_payment_only(each.proof))
            same = response.status_code == each.status and response.text == each.body
            facts.replays += same and response.headers.get("idempotent-replayed") == "true"
    return facts


async def _buy(facts: Facts, client: httpx.AsyncClient, recorder: _Recorder, path: str) -> None:
    try:
        response = await client.get(path)
    except (Rail402Error, httpx.HTTPError) as error:
        facts.problems.append(f"{path}: {error}")
        return
    exchanges = recorder.of(path)
    facts.bought.append(
        Bought(
            path=path,
            status=response.status_code,
            body=response.text,
            purchase=response.extensions.get("rail402"),
            challenge=exchanges[0][1].headers,
            challenge_body=exchanges[0][1].text,
            proof=exchanges[-1][0].headers,
            answer=response.headers,
        )
    )


async def _refused(facts: Facts, client: httpx.AsyncClient) -> None:
    try:
        response = await client.get(TOO_DEAR)
    except BudgetExceeded as error:
        facts.refusals.append(str(error))
    except (Rail402Error, httpx.HTTPError) as error:
        facts.problems.append(f"{TOO_DEAR}: {error}")
    else:
        facts.problems.append(f"{TOO_DEAR}: answered {response.status_code} without a refusal")


def _payment_only(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a paid request that carry its payment."""
    return {
        name: value for name, value in headers.items() if name in ("payment-signature", "authorization", "x-receipt")
    }
