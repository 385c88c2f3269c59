"""Refunds of Base USDC on a real EVM: the payer has its money back, once, wherever the publisher's process dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.receipt import verify_refund
from rail402.testing.fakes import FakeClock
from rail402_base.eip3009 import cancel_digest, sign
from rail402_base.rail import BaseRail
from rail402_base.refunds import REFUND_SECONDS, refund_nonce
from rail402_base.rpc.abi import TRANSFER
from tests.integration.test_base_rpc import NEVER, PRICE, URL, Market, Shop, _topic, until
from tests.services.anvil import USDC, EvmChain


class Dead(BaseException):
    """The process is gone."""


class Office(Market):
    """A publisher's worker that can give money back; several of them share a store of charges and a relayer."""

    def __init__(self, shop: Shop, path: Path, clock: FakeClock, **options: Any) -> None:
        super().__init__(shop, path, **options)
        self.clock = self.gate._clock = clock
        self.rail: BaseRail = self.gate._rails["base"]  # type: ignore[assignment]
        self.rail.with_refunds(shop.payee.private_key)

    async def buy(self, agent: httpx.AsyncClient) -> Charge:
        assert (await agent.get("/article")).status_code == 200
        (charge,) = await self.gate.services().store.recent(limit=1)
        return charge

    async def charge(self) -> Charge:
        (charge,) = await self.gate.services().store.recent(limit=1)
        return charge

    async def lapse(self) -> Charge:
        """Let leases lapse, and the reconciler look once."""
        self.clock.advance(130)
        await self.gate.reconcile_all()
        return await self.charge()

    def assert_books(self, *, paid: int, back: int) -> None:
        """By balances and by events: so many payments came, and so many of them went back to their payer."""
        shop, kept = self.shop, (paid - back) * PRICE
        assert self.evm.usdc_of(shop.payer.address) == 10 * USDC - kept
        assert self.evm.usdc_of(shop.payee.address) == kept
        assert self.evm.usdc_of(shop.relayer.address) == 0
        payee, payer = _topic(shop.payee.address), _topic(shop.payer.address)
        assert [int(log["data"], 16) for log in shop.logs(TRANSFER, None, payee)] == [PRICE] * paid
        returned = shop.logs(TRANSFER, payee)
        assert [(log["topics"][2], int(log["data"], 16)) for log in returned] == [(payer, PRICE)] * back


@pytest.fixture
def shop(evm: EvmChain, tmp_path: Path) -> Shop:
    return Shop(evm, tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(int(time.time()))


@pytest.fixture
def offices(shop: Shop, tmp_path: Path, clock: FakeClock) -> Callable[..., Office]:
    return lambda **options: Office(shop, tmp_path, clock, **options)


def dying(office: Office, *, made: bool) -> None:
    """Have the worker die in its next refund, before or after the chain has it."""
    refund = office.rail.refund

    async def die(charge: Charge) -> Any:
        if made:
            await refund(charge)
        raise Dead

    office.rail.refund = die  # type: ignore[method-assign]


async def test_what_was_paid_goes_back_to_who_paid_it(offices: Callable[..., Office]) -> None:
    office = offices()
    async with office.open() as agent:
        charge = await office.buy(agent)
        office.assert_books(paid=1, back=0)
        refunded = await office.gate.refund(charge.id)
        assert refunded.payment is PaymentState.REFUNDED
        office.assert_books(paid=1, back=1)
        assert refunded.refund_receipt is not None
        record = verify_refund(refunded.refund_receipt, office.gate.services().receipt_keys.jwks, issuer=URL)
        mined = office.evm.receipt(str(record.transaction))
        assert mined is not None
        assert (mined["status"], mined["from"]) == ("0x1", office.shop.relayer.address.lower())
        assert (record.payer, record.payee) == (office.shop.payer.address, office.shop.payee.address)
        assert await office.gate.refund(charge.id) == refunded
        assert office.shop.nonce() == 2
        again = await agent.get("/article")  # a new purchase
        assert again.status_code == 200
    office.assert_books(paid=2, back=1)


async def test_eight_at_once_on_two_workers_give_back_once(offices: Callable[..., Office]) -> None:
    one, other = offices(), offices()
    async with one.open() as agent, other.open():
        charge = await one.buy(agent)
        work = [each.gate.refund(charge.id) for each in (one, other) * 4]
        await asyncio.gather(*work, return_exceptions=True)
        assert (await one.gate.refund(charge.id)).payment is PaymentState.REFUNDED
    one.assert_books(paid=1, back=1)
    assert one.shop.nonce() == 2


async def test_it_dies_between_the_call_and_the_write(offices: Callable[..., Office]) -> None:
    one, other = offices(), offices()
    async with one.open() as agent, other.open():
        charge = await one.buy(agent)
        dying(one, made=True)
        (end,) = await asyncio.gather(one.gate.refund(charge.id), return_exceptions=True)
        assert isinstance(end, Dead)
        one.assert_books(paid=1, back=1)
        found = await other.lapse()
        assert found.payment is PaymentState.REFUNDED
        assert found.refund_transaction is not None
        assert await other.gate.refund(charge.id) == found
    one.assert_books(paid=1, back=1)
    assert one.shop.nonce() == 2


async def test_it_dies_between_the_write_and_the_call(offices: Callable[..., Office]) -> None:
    one, other = offices(), offices()
    async with one.open() as agent, other.open():
        charge = await one.buy(agent)
        dying(one, made=False)
        (end,) = await asyncio.gather(one.gate.refund(charge.id), return_exceptions=True)
        assert isinstance(end, Dead)
        found = await other.lapse()
        assert found.payment is PaymentState.UNKNOWN  # what is signed could still be mined, for all the chain says
        asked = found.asked_at or 0
        with one.evm.at(asked + REFUND_SECONDS):
            found = await other.lapse()
        assert found.payment is PaymentState.SETTLED
        one.assert_books(paid=1, back=0)
        assert (await other.gate.refund(charge.id)).payment is PaymentState.REFUNDED
    one.assert_books(paid=1, back=1)


async def test_a_refund_that_is_mined_late_is_found(offices: Callable[..., Office], shop: Shop) -> None:
    office = offices(settle_seconds=1, tend_seconds=NEVER)
    async with office.open() as agent:
        charge = await office.buy(agent)
        with office.evm.mining(None):
            unknown = await office.gate.refund(charge.id)
            assert unknown.payment is PaymentState.UNKNOWN
            assert "not mined yet" in unknown.last_word
            report = await office.gate.reconcile_all()
            assert [(each.charge, each.operation) for each in report.open] == [(charge.id, "refund")]
            await until(lambda: len(shop.waiting()) == 1)
            office.evm.mine()
        assert (await office.lapse()).payment is PaymentState.REFUNDED
    office.assert_books(paid=1, back=1)


async def test_the_token_takes_no_second_refund_of_a_charge(offices: Callable[..., Office]) -> None:
    """Even where a store has forgotten the first one."""
    office = offices()
    async with office.open() as agent:
        charge = await office.buy(agent)
        before = await office.charge()
        await office.gate.refund(charge.id)
        store = office.gate.services().store
        forgotten = before.model_copy(update={"version": (await office.charge()).version})
        await store.save(forgotten)
        office.clock.advance(REFUND_SECONDS + 1)
        again = await office.gate.refund(charge.id)
        assert again.payment is PaymentState.REFUNDED
    office.assert_books(paid=1, back=1)


async def test_an_empty_payee_gives_nothing_back_and_says_so(offices: Callable[..., Office]) -> None:
    office = offices()
    async with office.open() as agent:
        charge = await office.buy(agent)
        third = office.evm.account().address
        office.evm.send_usdc(office.shop.payee.address, third, PRICE)
        kept = await office.gate.refund(charge.id)
        assert kept.payment is PaymentState.SETTLED
        assert kept.last_word
        assert office.evm.usdc_of(office.shop.payer.address) == 10 * USDC - PRICE
        office.evm.set_usdc(office.shop.payee.address, PRICE)
        assert (await office.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert office.evm.usdc_of(office.shop.payer.address) == 10 * USDC


async def test_a_refund_that_the_payee_has_cancelled_stays_undone(offices: Callable[..., Office]) -> None:
    office = offices()
    evm, payee = office.evm, office.shop.payee
    async with office.open() as agent:
        charge = await office.buy(agent)
        digest = cancel_digest(evm.token.domain, payee.address, refund_nonce(charge))
        evm.cancel(evm.account().address, payee.address, refund_nonce(charge), sign(digest, payee.key_bytes))
        kept = await office.gate.refund(charge.id)
        assert (kept.payment, "cancelled" in kept.last_word) == (PaymentState.SETTLED, True)
    office.assert_books(paid=1, back=0)


async def test_the_relayer_may_be_the_payee(shop: Shop, tmp_path: Path, clock: FakeClock) -> None:
    shop.payee = shop.relayer
    office = Office(shop, tmp_path, clock)
    async with office.open() as agent:
        charge = await office.buy(agent)
        assert shop.evm.usdc_of(shop.payee.address) == PRICE
        assert (await office.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert shop.evm.usdc_of(shop.payee.address) == 0
        assert shop.evm.usdc_of(shop.payer.address) == 10 * USDC


async def test_only_the_payees_key_is_taken(shop: Shop, tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigurationError, match="refunds need that of"):
        Market(shop, tmp_path).gate._rails["base"].with_refunds(shop.relayer.private_key)  # type: ignore[attr-defined]
    office = Office(shop, tmp_path, clock)
    async with office.open() as agent:
        charge = await office.buy(agent)
        office.rail._refund_signer = None
        with pytest.raises(
            ConfigurationError, match=f"give the rail refund_key, the private key of {shop.payee.address}"
        ):
            await office.gate.refund(charge.id)
    office.assert_books(paid=1, back=0)
