"""The sandbox node behind the two protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402.sandbox import PLAY_MONEY
from rail402.testing.fakes import FakeClock
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.backends.sandbox import LEDGER, SandboxReceiver, SandboxSender, open_sandbox
from rail402_lightning.request_binding import bound_request, request_hash
from rail402_lightning.sandbox import SandboxLightning
from tests.unit.rail402_lightning.invoices import NOW, ORDER


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SandboxLightning]:
    node = open_sandbox(tmp_path, clock=FakeClock(NOW))
    yield node
    await node.close()


@pytest.fixture
async def text(node: SandboxLightning) -> str:
    receiver = SandboxReceiver(node)
    await receiver.start()
    return await receiver.create_invoice(21_000, expiry_seconds=600, hashed_description=bound_request(ORDER))


async def test_an_invoice_is_bound_by_the_hash_of_its_description(text: str) -> None:
    invoice = bolt11.decode(text)

    assert (invoice.description_hash, invoice.amount_msat, invoice.expiry) == (request_hash(ORDER), 21_000, 600)


async def test_both_ends_see_one_payment(node: SandboxLightning, text: str) -> None:
    receiver, sender = SandboxReceiver(node), SandboxSender(node, "agent")
    payment_hash = bolt11.decode(text).payment_hash
    assert await receiver.status(payment_hash) == InvoiceStatus(state="open")
    assert await sender.lookup(payment_hash) is None

    sent = await sender.pay(text, max_fee_msat=1000)

    assert (sent.state, sent.fee_msat) == ("paid", 21)
    assert await sender.lookup(payment_hash) == sent
    assert await receiver.status(payment_hash) == InvoiceStatus(state="settled", received_msat=21_000, settled_at=NOW)
    assert await receiver.received() == 21_000


async def test_what_the_node_never_saw_is_nothing(node: SandboxLightning) -> None:
    assert await SandboxReceiver(node).status(bytes(32)) is None
    assert await SandboxSender(node, "agent").lookup(bytes(32)) is None


async def test_a_payment_can_fail_hang_and_lose_its_answer(node: SandboxLightning, text: str) -> None:
    sender = SandboxSender(node, "agent")
    await node.script("next", "fail", reason="no_route")
    await node.script("next", "lost-answer")

    assert await sender.pay(text, max_fee_msat=1000) == SentPayment(state="failed", detail="no_route")
    assert (await sender.pay(text, max_fee_msat=1000)).state == "unknown"
    assert (await sender.pay(text, max_fee_msat=1000)).state == "paid"


async def test_an_invoice_of_another_sandbox_is_said_to_be_that(text: str, tmp_path: Path) -> None:
    elsewhere = open_sandbox(tmp_path / "elsewhere", clock=FakeClock(NOW))
    sent = await SandboxSender(elsewhere, "agent").pay(text, max_fee_msat=1000)
    await elsewhere.close()

    assert (sent.state, sent.detail) == ("failed", f"no_route: the invoice is another node's; {PLAY_MONEY}")


async def test_wallets_do_not_share_their_money(node: SandboxLightning, text: str) -> None:
    await SandboxSender(node, "one").pay(text, max_fee_msat=1000)

    assert await SandboxSender(node, "one").balance() == await SandboxSender(node, "two").balance() - 21_021


async def test_the_ledger_is_in_the_sandbox_directory(node: SandboxLightning, text: str, tmp_path: Path) -> None:
    assert (tmp_path / LEDGER).exists()
    with pytest.raises(ConfigurationError, match="Lightning network"):
        open_sandbox(tmp_path, network="bitcoin")
