"""The agent's side: what it would cost, paying once, and finding out what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import (
    ConfigurationError,
    OfferRefused,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown
from rail402.testing.fakes import FakeClock
from rail402_lightning.backends import SentPayment
from rail402_lightning.backends.sandbox import SandboxSender
from rail402_lightning.rail import LightningRail
from rail402_lightning.sandbox import ENDOWMENT_MSAT, SandboxLightning
from rail402_lightning.wallet import LightningWallet
from rail402_lightning.wire import invoice_of
from tests.unit.rail402_lightning.invoices import (
    AMOUNT,
    EXPIRY,
    MECHANISM,
    NOW,
    ORDER,
    PREIMAGE,
    ToldSender,
    invoice,
    offer,
    terms,
)

PAID = SentPayment(state="paid", preimage=PREIMAGE, fee_msat=21)
FAILED = SentPayment(state="failed", detail="no route")
IN_FLIGHT = SentPayment(state="unknown", detail="in flight")
PROOF = {"preimage": PREIMAGE}


def told(said: Any = None, *, max_fee_sat: int = 2, **answers: Any) -> LightningWallet:
    return LightningWallet(ToldSender(said, **answers), network="regtest", max_fee_sat=max_fee_sat)


def sender_of(wallet: LightningWallet) -> ToldSender:
    assert isinstance(wallet.sender, ToldSender)
    return wallet.sender


class TestSandbox:
    """Against the sandbox node, with the publisher's real invoices."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(NOW)

    @pytest.fixture
    async def offered(self, tmp_path: Path, clock: FakeClock) -> Offer:
        rail = LightningRail.sandbox(tmp_path, clock=clock)
        made = await rail.offer(ORDER, MECHANISM, terms())
        await rail.close()
        assert made is not None
        return made

    @pytest.fixture
    async def wallet(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[LightningWallet]:
        wallet = LightningWallet.sandbox(tmp_path, clock=clock, name="agent")
        await wallet.start()
        yield wallet
        await wallet.close()

    @pytest.fixture
    async def node(self, wallet: LightningWallet) -> AsyncIterator[SandboxLightning]:
        assert isinstance(wallet.sender, SandboxSender)
        yield wallet.sender.node
        assert (await wallet.sender.node.books()).balanced

    async def test_it_pays_and_shows_the_preimage(
        self, wallet: LightningWallet, node: SandboxLightning, offered: Offer
    ) -> None:
        paid = await wallet.pay(offered, record_id="r", now=NOW)

        status = await node.lookup_payment(invoice_of(offered).payment_hash, "agent")
        assert status is not None
        assert status.preimage is not None
        assert paid == Paid(payload={"preimage": status.preimage.hex()}, fee=Money.parse("21 msat"), moved=True)
        assert await node.balance("agent") == ENDOWMENT_MSAT - AMOUNT - 21

    async def test_the_cost_is_the_price_and_the_most_that_the_route_may_take(
        self, wallet: LightningWallet, offered: Offer
    ) -> None:
        assert await wallet.can_pay(offered) == Cost(price=Money.parse("21 sat"), fee_ceiling=Money.parse("2 sat"))

    async def test_a_payment_that_fails_moves_nothing(
        self, wallet: LightningWallet, node: SandboxLightning, offered: Offer
    ) -> None:
        await node.script("next", "fail", reason="no_route")

        with pytest.raises(PaymentFailed, match="no_route") as caught:
            await wallet.pay(offered, record_id="rec_1", now=NOW)

        assert caught.value.record_id == "rec_1"
        assert await node.balance("agent") == ENDOWMENT_MSAT
        assert await wallet.resume(offered, None, record_id="rec_1", now=NOW) == NotPaid()

    async def test_a_payment_in_flight_is_unknown_until_it_lands(
        self, wallet: LightningWallet, node: SandboxLightning, offered: Offer
    ) -> None:
        await node.script("next", "pending-then-settle")

        with pytest.raises(PaymentOutcomeUnknown) as caught:
            await wallet.pay(offered, record_id="rec_1", now=NOW)
        assert caught.value.record_id == "rec_1"
        assert isinstance(await wallet.resume(offered, None, record_id="rec_1", now=NOW), Unknown)
        await node.release(invoice_of(offered).payment_hash)

        assert isinstance(await wallet.resume(offered, None, record_id="rec_1", now=NOW), Paid)
        assert await node.balance("agent") == ENDOWMENT_MSAT - AMOUNT - 21

    async def test_an_answer_that_was_lost_is_found_again_and_paid_once(
        self, wallet: LightningWallet, node: SandboxLightning, offered: Offer
    ) -> None:
        await node.script("next", "lost-answer")

        with pytest.raises(PaymentOutcomeUnknown):
            await wallet.pay(offered, record_id="r", now=NOW)

        assert isinstance(await wallet.resume(offered, None, record_id="r", now=NOW), Paid)
        assert isinstance(await wallet.pay(offered, record_id="r", now=NOW), Paid)
        assert await node.balance("agent") == ENDOWMENT_MSAT - AMOUNT - 21

    async def test_what_was_never_sent_is_not_paid_once_the_invoice_has_expired(
        self, wallet: LightningWallet, offered: Offer
    ) -> None:
        expired = NOW + EXPIRY
        assert isinstance(await wallet.resume(offered, None, record_id="r", now=expired + 60), Unknown)
        assert await wallet.resume(offered, None, record_id="r", now=expired + 61) == NotPaid()

    async def test_a_limit_on_fees_is_kept(self, tmp_path: Path, clock: FakeClock, offered: Offer) -> None:
        node = SandboxLightning(tmp_path / "lightning.db", clock=clock)
        wallet = LightningWallet(SandboxSender(node, "agent"), network="regtest", max_fee_sat=0, max_fee_ppm=0)

        with pytest.raises(PaymentFailed, match="fee_limit"):
            await wallet.pay(offered, record_id="r", now=NOW)

        await wallet.close()

    @pytest.mark.parametrize("network", ["mainnet", "signet"])
    def test_it_refuses_a_network_with_real_money(self, tmp_path: Path, network: str) -> None:
        with pytest.raises(ConfigurationError, match="no real money"):
            LightningWallet.sandbox(tmp_path, network=network)


# What it would cost.


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "lnbtc:000000000019d6689c085ae165831e93"},
        {"mechanism": "eip3009"},
        {"asset": "USDC"},
    ],
)
async def test_what_is_not_this_wallet_s_cannot_be_paid(changes: dict[str, Any]) -> None:
    assert await told().can_pay(offer(**changes)) is None


async def test_the_balance_must_cover_price_and_fees() -> None:
    assert await told(msat=AMOUNT + 2000).can_pay(offer()) is not None
    for msat, has in ((AMOUNT + 1999, "22999 msat"), (0, "0 sat")):
        with pytest.raises(OfferRefused, match=f"can spend {has} now, and this may take 23 sat: fund it"):
            await told(msat=msat).can_pay(offer())


async def test_the_node_is_asked_once_about_an_invoice_that_every_dialect_says() -> None:
    wallet = told()
    text = invoice()
    costs = [await wallet.can_pay(offer(text, dialect=dialect)) for dialect in ("x402-v2", "mpp", "x-receipt")]
    sender_of(wallet).ceiling = 1000

    assert len(set(costs)) == 1
    assert await wallet.can_pay(offer(text)) == costs[0]
    assert await wallet.can_pay(offer(invoice(payment_hash=bytes(32)))) != costs[0]


async def test_an_invoice_that_could_not_be_paid_is_looked_at_again() -> None:
    wallet = told(msat=0)
    with pytest.raises(OfferRefused):
        await wallet.can_pay(offer())
    sender_of(wallet).msat = 1_000_000

    assert await wallet.can_pay(offer()) is not None


async def test_a_node_that_would_spend_more_on_fees_is_not_used() -> None:
    with pytest.raises(OfferRefused, match="up to 2001 msat on fees, and the limit is 2 sat"):
        await told(ceiling=2001).can_pay(offer())


async def test_the_limit_on_fees_grows_with_the_amount_and_rounds_up() -> None:
    wallet = told(PAID)

    await wallet.pay(offer(invoice(amount_msat=1_000_050), amount=1_000_050), record_id="r", now=NOW)
    await wallet.pay(offer(), record_id="r", now=NOW)

    assert [limit for _, limit in sender_of(wallet).paid] == [10_001, 2000]


@pytest.mark.parametrize("limit", [{"max_fee_sat": -1}, {"max_fee_ppm": -1}])
def test_a_limit_on_fees_is_not_negative(limit: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="negative"):
        LightningWallet(ToldSender(), network="regtest", **limit)


# Paying.


@pytest.mark.parametrize(
    ("made", "now", "why"),
    [
        (offer(), NOW + EXPIRY, "expired"),
        (offer(invoice(amount_msat=None)), NOW, "amount"),
        (offer(invoice(amount_msat=AMOUNT * 2)), NOW, "amount"),
        (offer(invoice(prefix="bc")), NOW, "regtest"),
        (offer("lnbcrt1"), NOW, "bech32"),
        (offer(extra={}), NOW, "text"),
    ],
)
async def test_an_invoice_that_must_not_be_paid_is_not_sent(made: Offer, now: int, why: str) -> None:
    wallet = told(PAID)

    with pytest.raises(PaymentFailed, match=why):
        await wallet.pay(made, record_id="r", now=now)

    assert sender_of(wallet).paid == []


async def test_a_node_that_sent_nothing_paid_nothing() -> None:
    with pytest.raises(PaymentFailed, match="down") as caught:
        await told(RailUnavailable("down", retry_after=7)).pay(offer(), record_id="rec_1", now=NOW)

    assert (caught.value.record_id, caught.value.retry_after) == ("rec_1", 7)


@pytest.mark.parametrize("preimage", [None, "", "00" * 32, "null"])
async def test_a_payment_without_its_preimage_is_in_doubt_and_not_made_again(preimage: str | None) -> None:
    said = SentPayment(state="paid", preimage=preimage)

    with pytest.raises(PaymentOutcomeUnknown, match="no preimage"):
        await told(said).pay(offer(), record_id="r", now=NOW)
    assert isinstance(await told(said).resume(offer(), None, record_id="r", now=NOW + 9999), Unknown)


# Finding out.


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (PAID, Paid(payload=PROOF, fee=Money.parse("21 msat"), moved=True)),
        (FAILED, NotPaid()),
        (IN_FLIGHT, Unknown(detail="in flight")),
        (RailUnavailable("down"), Unknown(detail="down")),
        (None, Unknown(detail="the wallet's node knows of no such payment yet")),
    ],
)
async def test_the_node_says_what_became_of_a_payment(said: Any, outcome: Any) -> None:
    assert await told(said).resume(offer(), None, record_id="r", now=NOW) == outcome


@pytest.mark.parametrize("said", [FAILED, IN_FLIGHT, RailUnavailable("down"), None])
async def test_a_preimage_in_hand_stays_good(said: Any) -> None:
    assert await told(said).resume(offer(), PROOF, record_id="r", now=NOW + 9999) == Paid(payload=PROOF, moved=True)


async def test_another_invoice_s_preimage_in_hand_is_none() -> None:
    assert await told(FAILED).resume(offer(), {"preimage": "00" * 32}, record_id="r", now=NOW) == NotPaid()


async def test_a_payment_in_flight_stays_unknown_long_after_the_expiry() -> None:
    assert isinstance(await told(IN_FLIGHT).resume(offer(), None, record_id="r", now=NOW + 999_999), Unknown)


def test_a_wallet_s_repr_names_it_and_no_secret() -> None:
    wallet = LightningWallet.lnbits("https://lnbits.example.com", "5ec2e7", "testnet", name="spending")

    assert repr(wallet) == "LightningWallet('spending', network='testnet')"
    assert "5ec2e7" not in repr(vars(wallet)) + repr(vars(wallet.sender))
    assert PREIMAGE not in repr(PAID)


# --- for `rail402 doctor`


@pytest.mark.parametrize(
    ("answers", "fixes"),
    [
        ({}, [""]),
        ({"msat": 0}, ["fund it, or open a channel with money on its own side"]),
        ({"ceiling": 2001}, ["", "max_fee_sat = 3"]),
    ],
)
async def test_what_its_node_can_spend_and_may_take_in_fees(answers: dict[str, Any], fixes: list[str]) -> None:
    wallet = told(**answers)
    assert [each.fix for each in await wallet.examine()] == fixes
    assert sender_of(wallet).paid == []


async def test_the_sandbox_s_node_can_be_looked_at(tmp_path: Path) -> None:
    wallet = LightningWallet.sandbox(tmp_path)
    (said,) = await wallet.examine()
    assert said.says == f"its node can spend {ENDOWMENT_MSAT // 1000} sat on regtest"
    await wallet.close()
