"""The publisher's side: which invoices are offered, and when one counts as paid."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, PaymentRejected, RailUnavailable
from rail402.money import Money
from rail402.protocol.charge import Operation
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Failed, NotPaid, Settled, Verified
from rail402.testing.fakes import FakeClock
from rail402_lightning.backends import InvoiceStatus
from rail402_lightning.backends.sandbox import SandboxReceiver
from rail402_lightning.rail import PRESENT_GRACE, SETTLE_GRACE, LightningRail
from rail402_lightning.request_binding import request_hash
from rail402_lightning.sandbox import SandboxLightning
from rail402_lightning.wire import invoice_of
from tests.unit.rail402_lightning.invoices import (
    AMOUNT,
    EXPIRY,
    HASH,
    KEY,
    MECHANISM,
    NOW,
    ORDER,
    OTHER_KEY,
    PAYEE,
    SPEC,
    ToldReceiver,
    charge,
    invoice,
    offer,
    payment,
    terms,
)

FAKE_WALLET_KEY = hashlib.pbkdf2_hmac("sha256", b"ToTheMoon1", b"FakeWallet", 2048, 32)  # as LNbits makes it
SETTLED = InvoiceStatus(state="settled", received_msat=AMOUNT, settled_at=NOW + 5)


def told(*, wait_seconds: float = 0, **answers: Any) -> LightningRail:
    return LightningRail(ToldReceiver(**answers), network="regtest", wait_seconds=wait_seconds)


def receiver_of(rail: LightningRail) -> ToldReceiver:
    assert isinstance(rail.receiver, ToldReceiver)
    return rail.receiver


def by_invoice(made: Offer) -> Payment:
    """The payment that shows the invoice itself, with the token of its offer."""
    return payment(payload={"invoice": made.extra["invoice"]}, offer=made.model_copy(update={"token": "t"}))


async def made_by(rail: LightningRail, **changes: Any) -> Offer:
    made = await rail.offer(ORDER, MECHANISM, terms(**changes))
    assert made is not None
    return made


async def verify(rail: LightningRail, made: Offer, shown: Any = None, *, now: int = NOW) -> Any:
    shown = shown or payment()
    return await rail.verify(made, shown, SPEC.authenticate(shown.offer or made, shown), now=now)


class TestSandbox:
    """Against the sandbox node, which makes real invoices."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(NOW)

    @pytest.fixture
    async def rail(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[LightningRail]:
        rail = LightningRail.sandbox(tmp_path, clock=clock, wait_seconds=0)
        await rail.start()
        yield rail
        await rail.close()

    @pytest.fixture
    def node(self, rail: LightningRail) -> SandboxLightning:
        assert isinstance(rail.receiver, SandboxReceiver)
        return rail.receiver.node

    async def paid(self, node: SandboxLightning, made: Offer) -> Any:
        """Pay an offer; returns the payment that proves it."""
        status = await node.pay_invoice(str(made.extra["invoice"]), wallet="agent", max_fee_msat=1000)
        assert status.preimage is not None
        return payment(status.preimage.hex())

    async def test_an_offer_is_an_invoice_bound_to_the_order(self, rail: LightningRail, node: SandboxLightning) -> None:
        made = await made_by(rail)

        text = invoice_of(made)
        assert (made.amount, text.amount_msat) == (AMOUNT, AMOUNT)
        assert made.payee == text.payee.hex() == (await node.node_id()).hex()
        assert text.description_hash == request_hash(ORDER)
        assert (made.expires_at, made.timeout_seconds, text.expiry) == (NOW + EXPIRY, EXPIRY, EXPIRY)
        assert (made.flow, dict(made.extra)) == (Flow.UPFRONT, {"invoice": text.text})
        SPEC.check_offer(made.model_copy(update={"dialect": "x402-v2"}), ORDER, now=NOW)

    async def test_every_offer_has_an_invoice_of_its_own(self, rail: LightningRail) -> None:
        assert rail.issued_key(await made_by(rail)) != rail.issued_key(await made_by(rail))

    async def test_the_issued_key_is_the_key_of_the_payment(self, rail: LightningRail, node: SandboxLightning) -> None:
        made = await made_by(rail)

        assert {rail.issued_key(made)} == rail.spec.identify(await self.paid(node, made))

    async def test_a_paid_invoice_is_verified_and_settled(self, rail: LightningRail, node: SandboxLightning) -> None:
        made = await made_by(rail)
        shown = await self.paid(node, made)

        verified = await verify(rail, made, shown)
        settled = await rail.settle(charge(made, dict(verified.state)), shown)

        assert settled == Settled(transaction=invoice_of(made).payment_hash.hex(), at=NOW)
        assert await rail.received() == Money.parse("21 sat")

    async def test_a_payment_in_flight_is_not_settled_and_nothing_is_burnt(
        self, rail: LightningRail, node: SandboxLightning
    ) -> None:
        made = await made_by(rail)
        await node.script("next", "pending-then-settle")
        await node.pay_invoice(str(made.extra["invoice"]), wallet="agent", max_fee_msat=1000)
        shown = by_invoice(made)

        with pytest.raises(PaymentRejected) as caught:
            await rail.verify(made, shown, SPEC.authenticate(shown.offer or made, shown), now=NOW)
        await node.release(invoice_of(made).payment_hash)
        await rail.verify(made, shown, SPEC.authenticate(shown.offer or made, shown), now=NOW)

        assert (caught.value.code, caught.value.retryable, caught.value.retry_after) == ("not_settled", True, 2)

    async def test_what_arrives_just_after_the_expiry_was_paid_in_time(
        self, rail: LightningRail, node: SandboxLightning, clock: FakeClock
    ) -> None:
        made = await made_by(rail)
        await node.script("next", "settle-late")
        await node.pay_invoice(str(made.extra["invoice"]), wallet="agent", max_fee_msat=1000)
        clock.advance(EXPIRY + 1)
        status = await node.lookup_payment(invoice_of(made).payment_hash, "agent")
        assert status is not None
        assert status.preimage is not None

        await verify(rail, made, payment(status.preimage.hex()), now=clock())

    async def test_publisher_and_agent_share_the_ledger_of_a_directory(
        self, rail: LightningRail, tmp_path: Path, clock: FakeClock
    ) -> None:
        twin = LightningRail.sandbox(tmp_path, clock=clock)
        await twin.start()

        assert (await made_by(twin)).payee == (await made_by(rail)).payee
        await twin.close()

    async def test_it_is_marked_as_a_sandbox_and_healthy(self, rail: LightningRail) -> None:
        assert rail.is_sandbox is True
        await rail.health()

    @pytest.mark.parametrize("network", ["mainnet", "testnet", "lnbtc:000000000019d6689c085ae165831e93"])
    def test_it_refuses_a_network_with_real_money(self, tmp_path: Path, network: str) -> None:
        with pytest.raises(ConfigurationError, match="no real money"):
            LightningRail.sandbox(tmp_path, network=network)


# What a node may answer.


def test_a_rail_on_a_node_is_no_sandbox() -> None:
    assert told().is_sandbox is False
    assert LightningRail.lnbits("https://lnbits.example.com", "key").is_sandbox is False


async def test_only_a_sandbox_counts_what_it_received() -> None:
    with pytest.raises(ConfigurationError, match="sandbox"):
        await told().received()


async def test_the_start_learns_the_node_and_offers_keep_to_it() -> None:
    rail = told()
    await rail.start()
    assert (await made_by(rail)).payee == PAYEE

    rail.receiver.key = OTHER_KEY  # type: ignore[attr-defined]
    with pytest.raises(RailUnavailable, match="another node"):
        await rail.offer(ORDER, MECHANISM, terms())


async def test_a_rail_that_could_not_start_learns_the_node_with_its_first_offer() -> None:
    rail = told()

    assert (await made_by(rail)).payee == PAYEE


async def test_a_node_that_was_down_at_the_start_is_checked_before_it_is_used() -> None:
    rail = told(down=RailUnavailable("down"))
    with pytest.raises(RailUnavailable, match="down"):
        await rail.start()
    with pytest.raises(RailUnavailable, match="down"):
        await made_by(rail)

    receiver_of(rail).down, receiver_of(rail).changes = None, {"prefix": "bc"}
    with pytest.raises(RailUnavailable, match="is on mainnet"):  # no 500: the app runs, and other rails sell
        await made_by(rail)

    receiver_of(rail).changes = {}
    await asyncio.gather(*(made_by(rail) for _ in range(10)))
    await rail.start()
    assert receiver_of(rail).asked.count("start") == 4


async def test_a_configured_node_id_does_not_spare_a_node_its_check() -> None:
    rail = LightningRail(ToldReceiver(changes={"prefix": "bc"}), network="regtest", node_id=PAYEE)

    with pytest.raises(RailUnavailable, match="is on mainnet"):
        await rail.offer(ORDER, MECHANISM, terms())


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("mainnet", {"prefix": "bc", "features": frozenset()}),  # with any secret of its own
        ("regtest", {"prefix": "bc", "features": frozenset()}),
        ("mainnet", {"prefix": "bc", "key": FAKE_WALLET_KEY}),
    ],
)
async def test_a_fake_wallet_is_refused_at_the_start(network: str, changes: dict[str, Any]) -> None:
    key = changes.pop("key", KEY)

    with pytest.raises(ConfigurationError, match="FakeWallet"):
        await LightningRail(ToldReceiver(key=key, changes=changes), network=network).start()


@pytest.mark.parametrize("said", [InvoiceStatus(state="canceled"), RailUnavailable("in a form that is not known here")])
async def test_a_node_that_does_not_know_what_it_has_made_is_refused_at_the_start(said: Any) -> None:
    with pytest.raises(RailUnavailable, match=r"just made|not known here"):
        await told(said=said).start()


async def test_a_node_that_is_named_must_be_the_one() -> None:
    good = LightningRail(ToldReceiver(), network="regtest", node_id=PAYEE.upper())
    await good.start()

    with pytest.raises(ConfigurationError, match="node_id"):
        await LightningRail(ToldReceiver(key=OTHER_KEY), network="regtest", node_id=PAYEE).start()


async def test_a_node_on_another_network_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="is on mainnet, and network='regtest' is set"):
        await told(changes={"prefix": "bc"}).start()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount_msat": AMOUNT - 1000}, "another amount"),
        ({"amount_msat": None}, "another amount"),
        ({"expiry": 3600}, "another expiry"),
        ({"description_hash": bytes(32)}, "another description hash"),
        ({"description_hash": None, "description": "LNbits"}, "another description hash"),
        ({"prefix": "bc"}, "another node"),
        ({"created_at": NOW + 61}, "clock is 61 s ahead"),
    ],
)
async def test_an_invoice_that_is_not_what_was_asked_for_is_not_offered(changes: dict[str, Any], why: str) -> None:
    rail = told()
    await rail.start()
    rail.receiver.changes = changes  # type: ignore[attr-defined]

    with pytest.raises(RailUnavailable, match=why):
        await rail.offer(ORDER, MECHANISM, terms())


@pytest.mark.parametrize("text", ["lnbcrt1", "<html>", invoice()[:-1] + "q"])
async def test_an_invoice_that_cannot_be_read_is_not_offered(text: str) -> None:
    with pytest.raises(RailUnavailable, match="cannot be read"):
        await told(text=text).offer(ORDER, MECHANISM, terms())


async def test_an_offer_never_outlives_its_invoice() -> None:
    rail = told(changes={"created_at": NOW - 20})

    made = await made_by(rail)

    assert (made.expires_at, made.timeout_seconds) == (NOW + EXPIRY - 20, EXPIRY)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (InvoiceStatus(state="open"), "not_settled"),
        (InvoiceStatus(state="expired"), "not_settled"),
        (InvoiceStatus(state="canceled"), "not_settled"),
        (InvoiceStatus(state="settled", received_msat=AMOUNT - 1), "amount_mismatch"),
        (
            InvoiceStatus(state="settled", received_msat=AMOUNT, settled_at=NOW + EXPIRY + SETTLE_GRACE + 1),
            "offer_expired",
        ),
    ],
)
async def test_an_invoice_that_is_not_paid_as_offered_is_rejected(said: Any, code: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        await verify(told(said=said), offer())

    assert caught.value.code == code


@pytest.mark.parametrize("settled_at", [None, NOW, NOW + EXPIRY, NOW + EXPIRY + SETTLE_GRACE])
@pytest.mark.parametrize("received", [AMOUNT, AMOUNT + 1])
async def test_an_invoice_that_was_paid_in_time_counts(settled_at: int | None, received: int) -> None:
    said = InvoiceStatus(state="settled", received_msat=received, settled_at=settled_at)

    await verify(told(said=said), offer())


async def test_a_paid_invoice_may_be_presented_late_and_not_for_ever() -> None:
    rail, made = told(said=SETTLED), offer()
    await verify(rail, made, now=made.expires_at + PRESENT_GRACE)

    with pytest.raises(PaymentRejected) as caught:
        await verify(rail, made, now=made.expires_at + PRESENT_GRACE + 1)

    assert caught.value.code == "offer_expired"


async def test_who_has_the_preimage_of_an_expired_invoice_is_not_invited_to_pay_again() -> None:
    rail, made = told(said=InvoiceStatus(state="expired")), offer()
    shown = by_invoice(made)

    with pytest.raises(PaymentRejected) as with_preimage:
        await verify(rail, made, now=made.expires_at + 1)
    with pytest.raises(PaymentRejected) as without:
        await rail.verify(made, shown, SPEC.authenticate(shown.offer or made, shown), now=made.expires_at + 1)

    assert (with_preimage.value.code, with_preimage.value.retryable) == ("not_settled", True)
    assert (without.value.code, without.value.retryable) == ("offer_expired", False)


async def test_a_preimage_of_an_invoice_that_the_node_does_not_know_invites_no_second_payment() -> None:
    made = offer()

    with pytest.raises(RailUnavailable, match="another wallet"):
        await verify(told(said=None), made)
    with pytest.raises(PaymentRejected) as caught:
        await told(said=None).verify(made, by_invoice(made), Verified(keys=frozenset()), now=NOW)
    assert caught.value.code == "offer_unknown"


# Waiting for the money.

OPEN = InvoiceStatus(state="open")


@pytest.mark.parametrize("before", [OPEN, InvoiceStatus(state="expired"), InvoiceStatus(state="canceled")])
async def test_who_shows_a_preimage_before_the_node_says_settled_is_waited_for(before: InvoiceStatus) -> None:
    rail = told(said=before, hints=[SETTLED], wait_seconds=5)

    await verify(rail, offer())

    assert receiver_of(rail).asked == ["status", "status"]
    assert receiver_of(rail).waited == [pytest.approx(5, abs=0.5)]


async def test_who_shows_the_invoice_is_waited_for_until_it_expires() -> None:
    made, rail = offer(), told(said=OPEN, hints=[SETTLED], wait_seconds=5)
    late = told(said=OPEN, hints=[SETTLED], wait_seconds=5)

    await verify(rail, made, by_invoice(made))
    with pytest.raises(PaymentRejected) as caught:
        await verify(late, made, by_invoice(made), now=made.expires_at + 1)

    assert len(receiver_of(rail).waited) == 1
    assert (caught.value.code, receiver_of(late).waited) == ("offer_expired", [])


async def test_a_payment_that_does_not_come_is_told_so_when_the_time_is_over() -> None:
    rail = told(said=OPEN, wait_seconds=0.1)

    with pytest.raises(PaymentRejected) as caught:
        await verify(rail, offer())

    assert (caught.value.code, caught.value.retry_after) == ("not_settled", 2)
    assert receiver_of(rail).asked == ["status", "status"]


async def test_a_hint_settles_nothing_and_many_are_no_storm() -> None:
    rail = told(said=OPEN, hints=[OPEN] * 1000, wait_seconds=0.32)

    with pytest.raises(PaymentRejected, match="the invoice is open"):
        await verify(rail, offer())

    assert len(receiver_of(rail).asked) <= 8
    assert len(receiver_of(rail).hints) >= 990


@pytest.mark.parametrize(
    ("hint", "code"),
    [
        (InvoiceStatus(state="settled", received_msat=AMOUNT - 1), "amount_mismatch"),
        (RailUnavailable("the stream ends and so does the node"), "rail_unavailable"),
    ],
)
async def test_what_the_node_says_after_a_hint_counts(hint: Any, code: str) -> None:
    with pytest.raises((PaymentRejected, RailUnavailable)) as caught:
        await verify(told(said=OPEN, hints=[hint], wait_seconds=5), offer())

    assert caught.value.code == code


async def test_what_will_not_settle_is_not_waited_for() -> None:
    rail = told(said=InvoiceStatus(state="settled", received_msat=1), wait_seconds=5)

    with pytest.raises(PaymentRejected):
        await verify(rail, offer())

    assert receiver_of(rail).waited == []


async def test_no_more_than_a_hundred_unpaid_invoices_are_waited_for_and_preimages_still_are() -> None:
    made, rail = offer(), told(said=OPEN, wait_seconds=5)
    waiting = [asyncio.create_task(verify(rail, made, by_invoice(made))) for _ in range(100)]
    await asyncio.sleep(0.01)
    assert len(receiver_of(rail).waited) == 100

    with pytest.raises(PaymentRejected, match="the invoice is open"):
        await asyncio.wait_for(verify(rail, made, by_invoice(made)), 1)
    receiver_of(rail).hints = [SETTLED]
    await asyncio.wait_for(verify(rail, made), 1)

    for task in waiting:
        task.cancel()
    assert {type(ended) for ended in await asyncio.gather(*waiting, return_exceptions=True)} == {asyncio.CancelledError}
    receiver_of(rail).said, receiver_of(rail).hints = OPEN, [SETTLED]
    await asyncio.wait_for(verify(rail, made, by_invoice(made)), 1)  # their places are free again


@pytest.mark.parametrize("seconds", [-1, 11, float("nan")])
def test_the_time_to_wait_is_bounded(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="wait_seconds"):
        told(wait_seconds=seconds)


@pytest.mark.parametrize("operation", [Operation.SETTLE, Operation.HOLD, Operation.RELEASE])
@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (SETTLED, Settled(transaction=HASH.hex(), at=NOW + 5)),
        (InvoiceStatus(state="open"), NotPaid()),
        (InvoiceStatus(state="expired"), NotPaid()),
        (InvoiceStatus(state="canceled"), NotPaid()),
        (
            InvoiceStatus(state="settled", received_msat=1),
            Failed(code="amount_mismatch", detail=f"1 of {AMOUNT} msat arrived"),
        ),
        (
            InvoiceStatus(state="settled", received_msat=AMOUNT, settled_at=NOW + 9999),
            Failed(code="offer_expired", detail="the invoice was paid too late"),
        ),
    ],
)
async def test_the_node_decides_what_became_of_a_payment(said: Any, outcome: Any, operation: Operation) -> None:
    claimed = charge(offer(), {"payment_hash": HASH.hex()})

    assert await told(said=said).lookup(claimed, operation) == outcome
    assert await told(said=said).settle(claimed, payment()) == outcome


@pytest.mark.parametrize("said", [None, RailUnavailable("down")])
async def test_a_node_that_cannot_say_decides_nothing(said: Any) -> None:
    claimed = charge(offer(), {"payment_hash": HASH.hex()})

    with pytest.raises(RailUnavailable):
        await told(said=said).settle(claimed, payment())
    with pytest.raises(RailUnavailable):
        await told(said=said).lookup(claimed, Operation.SETTLE)


async def test_a_node_that_is_down_is_not_healthy() -> None:
    with pytest.raises(RailUnavailable):
        await told(said=RailUnavailable("down")).health()


async def test_it_closes_its_node() -> None:
    rail = told()
    await rail.close()

    assert rail.receiver.asked == ["close"]  # type: ignore[attr-defined]


def test_the_proof_of_a_payment_is_in_no_state() -> None:
    verified = SPEC.authenticate(offer(), payment())

    assert not re.search(payment().payload["preimage"], repr((verified, payment(), charge(offer(), verified.state))))
