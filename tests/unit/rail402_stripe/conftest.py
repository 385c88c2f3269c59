"""A sandbox on a fresh ledger, the real Stripe client on it, and a plain HTTP client beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import stripe

from rail402_stripe.client import RailStripeClient, stripe_client
from rail402_stripe.sandbox import SANDBOX_URL, Sandbox, SandboxTransport
from tests.unit.rail402_stripe.account import Account

START = 1_790_000_000


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    return tmp_path / "stripe.sqlite3"


@pytest.fixture
def sandbox(ledger_path: Path, clock: Clock) -> Iterator[Sandbox]:
    sandbox = Sandbox(ledger_path, clock=clock)
    yield sandbox
    sandbox.close()


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[RailStripeClient]:
    transport = SandboxTransport(sandbox)
    async with stripe_client("sk_test_publisher", transport=transport, api_base=SANDBOX_URL) as client:
        yield client


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """Sends bytes as they are; the secret key is set, each test may override it."""
    headers = {"authorization": "Bearer sk_test_publisher"}
    async with httpx.AsyncClient(transport=SandboxTransport(sandbox), base_url=SANDBOX_URL, headers=headers) as http:
        yield http


@pytest.fixture
def grant(client: RailStripeClient) -> Callable[..., Awaitable[str]]:
    """Mints shared payment tokens: `await grant(max_amount=500)`."""

    async def grant(payment_method: str = "pm_card_visa", currency: str = "usd", **limits: int) -> str:
        response = await client.raw_request_async(
            "post",
            "/v1/test_helpers/shared_payment/granted_tokens",
            payment_method=payment_method,
            usage_limits={"currency": currency, **limits},
        )
        return str(response.data["id"])

    return grant


@pytest.fixture
def balance(client: RailStripeClient) -> Callable[[], Awaitable[dict[str, int]]]:
    """Counts the money: available and pending together, by currency."""

    async def balance() -> dict[str, int]:
        found = await client.v1.balance.retrieve_async()
        totals: dict[str, int] = {}
        for part in (*found.available, *found.pending):
            totals[part.currency] = totals.get(part.currency, 0) + part.amount
        return totals

    return balance


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    """The account of a fresh sandbox, with a clock of its own."""
    account = Account(tmp_path)
    yield account
    await account.close()
