"""Opening, closing and recovering."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.payer import Payer
from rail402.client.services import RESERVE_LEASE
from rail402.errors import ConfigurationError, PaymentOutcomeUnknown, RailUnavailable
from rail402.money import Money
from rail402.protocol.rail import NotPaid, Paid, Unknown
from rail402.rates import FixedRates
from rail402.testing.fakes import Ending, FakeLedger, FakeSpec, FakeWallet
from tests.unit.client.shop import LOST, PRICE, Make, Market


class Flaky(FakeWallet):
    """A wallet that is down when it is first started."""

    starts = 0
    closed = False

    async def start(self) -> None:
        self.starts += 1
        if self.starts == 1:
            raise RailUnavailable("the node is asleep")

    async def close(self) -> None:
        self.closed = True


def test_wallets_have_names_of_their_own(tmp_path: Path) -> None:
    ledger = FakeLedger()
    with pytest.raises(ConfigurationError, match="two wallets are called 'fake:alice'"):
        Payer([FakeWallet(ledger), FakeWallet(ledger)])
    with pytest.raises(ConfigurationError, match="at least one wallet"):
        Payer([])
    spec = FakeSpec()
    payer = Payer(
        [FakeWallet(ledger, spec, payer=name) for name in ("a", "b")], journal=Journal(f"sqlite:///{tmp_path}/w")
    )
    assert "fake:a" in repr(payer)


async def test_a_wallet_that_is_down_is_tried_again_at_the_next_purchase(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    flaky = Flaky(market.ledger, market.specs[0])
    payer = market.payer([flaky, FakeWallet(market.ledger, market.specs[1])])
    assert (await market.request(payer)).extensions["rail402"].rail == "second"
    assert (await market.request(payer)).extensions["rail402"].rail == "first"
    assert flaky.starts == 2


async def test_without_any_wallet_nothing_is_paid(market: Market) -> None:
    payer = market.payer([Flaky(market.ledger, market.specs[0])])
    with pytest.raises(RailUnavailable, match="asleep"):
        await market.request(payer)


async def test_both_kinds_of_with_open_and_close(market: Market) -> None:
    wallet = Flaky(market.ledger, market.specs[0])
    wallet.starts = 1
    if market.kind == "async":
        async with market.payer([wallet]) as payer:
            await market.request(payer)
    else:

        def work() -> None:
            with market.payer([wallet]) as payer:
                assert payer.run(payer.recover) == []

        await asyncio.to_thread(work)
    assert (wallet.starts, wallet.closed) == (2, True)


async def test_a_payer_can_be_opened_again(market: Market) -> None:
    payer = market.payer()
    await market.request(payer)
    await payer.close()
    assert (await market.request(payer)).status_code == 200


# --- the choice between offers


async def test_sats_need_no_rate_and_dollars_alone_do(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("sat", style="invoice", currency="BTC", exponent=11, step=1000)])
    assert (await market.request(market.payer())).status_code == 200
    dollars = Budget(per_request="1 USD", per_hour="5 USD", per_day="20 USD")
    with pytest.raises(Exception, match="no BTC/USD rate is known"):
        await market.request(market.payer(budget=dollars))
    payer = market.payer(budget=dollars, rates=FixedRates({"BTC/USD": "60000"}))
    assert (await market.request(payer)).status_code == 200
    spent = await payer.journal.spent(now=market.clock())
    assert {currency: str(held.total) for currency, held in spent["hour"].items()} == {
        "BTC": "3 sat",
        "USD": "0.0018 USD",
    }


# --- recovering


async def lose(market: Market, payer: Payer) -> None:
    market.shop.script.extend([LOST] * 6)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)


async def test_recover_releases_what_was_not_paid(market: Market) -> None:
    payer = market.payer()
    await lose(market, payer)
    (still,) = await payer.recover()
    assert (still.outcome, still.record.state) == ("unknown", "unknown")
    market.clock.advance(100)
    (gone,) = await payer.recover()
    assert (gone.outcome, gone.record.state) == ("not_paid", "released")
    assert await payer.recover() == []
    assert not (await payer.journal.spent(now=market.clock()))["hour"]


async def test_recover_keeps_what_was_paid_for_the_next_request(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec(style="invoice")])
    payer = market.payer()
    market.ledger.script("pay", Ending.UNKNOWN_DONE)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.clock.advance(400)
    (paid,) = await payer.recover()
    assert (paid.outcome, paid.record.state, paid.record.moved) == ("paid", "unknown", True)
    assert str((await payer.journal.spent(now=market.clock()))["hour"]["USD"].unresolved) == "0 USD"
    assert (await market.request(payer)).status_code == 200
    assert market.ledger.charged_total == PRICE


async def test_recover_says_what_was_paid_as_soon_as_the_wallet_knows(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec(style="invoice")])
    fee = Money.parse("0.001 USD")
    wallet = FakeWallet(market.ledger, market.specs[0], fee_ceiling=Money.parse("0.002 USD"), fee=fee)
    payer = market.payer([wallet])
    market.ledger.script("pay", Ending.UNKNOWN_DONE)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.ledger.script("resume", Ending.UNAVAILABLE)
    assert [found.outcome for found in await payer.recover()] == ["unknown"]
    for _ in range(2):
        (paid,) = await payer.recover()
        assert (paid.outcome, str(paid.record.cost), paid.record.is_open) == ("paid", "0.004 USD", True)
        wallet._fee = None  # a node that is down tells no fee
    spent = (await payer.journal.spent(now=market.clock()))["hour"]["USD"]
    assert (str(spent.total), str(spent.unresolved)) == ("0.004 USD", "0 USD")
    assert (await market.request(payer)).status_code == 200
    assert market.ledger.charged_total == PRICE


async def test_recover_counts_nothing_as_spent_that_may_not_be_used_yet(market: Market) -> None:
    payer = market.payer()
    await lose(market, payer)
    (found,) = await payer.recover()
    assert (found.outcome, found.record.moved) == ("unknown", False)


async def test_no_server_holds_an_amount_reserved_for_ever(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec(style="invoice")])
    market.shop.timeout_seconds = 10**9
    payer = market.payer()
    await lose(market, payer)
    market.clock.advance(86_401)
    (paid,) = await payer.recover()
    assert paid.outcome == "paid"
    assert not (await payer.journal.spent(now=market.clock() + 86_400))["day"]


async def test_recover_leaves_what_it_cannot_find_out(market: Market) -> None:
    payer = market.payer()
    await lose(market, payer)
    market.ledger.script("resume", Ending.UNAVAILABLE)
    assert [found.outcome for found in await payer.recover()] == ["unknown"]
    other = market.payer([FakeWallet(market.ledger, market.specs[0], payer="bob")])
    assert [found.outcome for found in await other.recover()] == ["unknown"]
    (record,) = await payer.journal.unresolved()
    assert record.lease_until == 0


async def test_recover_leaves_what_is_being_worked_on(market: Market) -> None:
    serving, done = asyncio.Event(), asyncio.Event()

    async def stall() -> None:
        serving.set()
        await done.wait()

    if market.kind == "sync":
        return  # the events belong to one loop
    market.shop.before_serving = stall
    payer = market.payer()
    call = asyncio.create_task(market.request(payer))
    await serving.wait()
    for other in (payer, market.payer()):
        assert [found.outcome for found in await other.recover()] == ["unknown"]
    done.set()
    assert (await call).status_code == 200
    assert await market.states() == ["committed"]


async def test_what_is_written_off_is_bought_anew(market: Market) -> None:
    payer = market.payer()
    await lose(market, payer)
    (record,) = await payer.journal.unresolved()
    written = await payer.write_off(record.id)
    assert (written.state, written.detail) == ("committed", "written off")
    assert str((await payer.journal.spent(now=market.clock()))["hour"]["USD"].total) == "0.003 USD"
    market.shop.script.clear()
    await market.request(payer)
    assert market.ledger.count("pay") == 2
    for unknown in (record.id, "rec_none"):
        with pytest.raises(ConfigurationError, match="no open purchase"):
            await payer.write_off(unknown)


async def test_what_is_written_off_counts_as_what_it_did_cost(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec(style="invoice")])
    ceiling, fee = Money.parse("0.002 USD"), Money.parse("0.001 USD")
    payer = market.payer([FakeWallet(market.ledger, market.specs[0], fee_ceiling=ceiling, fee=fee)])
    await lose(market, payer)
    (record,) = await payer.journal.unresolved()
    assert (await payer.write_off(record.id)).cost == Money.parse("0.004 USD")
    assert str((await payer.journal.spent(now=market.clock()))["hour"]["USD"].total) == "0.004 USD"


async def test_nothing_is_written_off_while_somebody_works_on_it(market: Market) -> None:
    payer = market.payer()
    await lose(market, payer)
    (record,) = await payer.journal.unresolved()
    now = market.clock()
    assert await payer.journal.adopt(record, now=now, lease_until=now + 10) is not None
    with pytest.raises(ConfigurationError, match="nobody works on"):
        await payer.write_off(record.id)
    market.clock.advance(11)
    assert not (await payer.write_off(record.id)).is_open


async def test_what_another_process_resolves_meanwhile_keeps_nothing_else_from_being_recovered(market: Market) -> None:
    payer, other = market.payer(), market.payer()
    await lose(market, payer)
    (record,) = await payer.journal.unresolved()

    class Slow(FakeWallet):
        async def resume(self, *arguments: Any, **named: Any) -> Paid | NotPaid | Unknown:
            market.clock.advance(RESERVE_LEASE)
            await other.recover()
            return await super().resume(*arguments, **named)

    slow = market.payer([Slow(market.ledger, market.specs[0])])
    (found,) = await slow.recover()
    assert (found.outcome, found.record.id, found.record.state) == ("unknown", record.id, "released")
