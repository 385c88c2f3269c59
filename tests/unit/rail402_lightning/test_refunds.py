"""Giving back on Lightning: what the paying node is asked, what its answers mean, and what the rail must be given.

What is refused at the address itself is in `tests/conformance/test_refunds_lightning.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.rail import Failed, NotPaid, Pending, Refunded, Unknown
from rail402.testing.fakes import FakeClock
from rail402_lightning.backends import SentPayment
from rail402_lightning.backends.lnbits import LnbitsSender
from rail402_lightning.backends.lnd import LndSender
from rail402_lightning.config import RailConfig, make_rail
from rail402_lightning.rail import LightningRail
from rail402_lightning.refunds import Refunding
from tests.unit.rail402_lightning.invoices import AMOUNT, NOW, ToldReceiver, charge, invoice, offer

BACK = invoice()
HASH = "11" * 32
CREDENTIAL = "0201036c6e64" + "ab" * 40


class ToldSender:
    """A sender that says what it is told to; it notes what it is asked."""

    def __init__(self, *, sends: Any = None, knows: Any = None, ceiling: int = 0, sandbox: bool = False) -> None:
        self.sandbox, self._sends, self._knows, self._ceiling = sandbox, sends, knows, ceiling
        self.asked: list[Any] = []
        self.down: Exception | None = None

    async def start(self) -> None:
        self.asked.append("start")
        if self.down is not None:
            raise self.down

    async def close(self) -> None:
        self.asked.append("close")

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        return self._ceiling

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        self.asked.append((invoice, max_fee_msat))
        return self._said(self._sends)

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        self.asked.append(payment_hash.hex())
        return self._said(self._knows)

    async def balance(self) -> int:
        return 0

    def _said(self, what: Any) -> Any:
        if isinstance(what, Exception):
            raise what
        return what


def rail_of(sender: ToldSender | None = None, clock: FakeClock | None = None, **limits: int) -> LightningRail:
    rail = LightningRail(ToldReceiver(), network="regtest")
    return rail if sender is None else rail.with_refunds(Refunding(sender, clock=clock or FakeClock(NOW), **limits))


def asked(**state: Any) -> Charge:
    """A charge whose refund is written and not paid."""
    written = {"refund_hash": HASH, "refund_invoice": BACK, "refund_expires_at": NOW + 600}
    return charge(offer(), written | state).model_copy(update={"asked_at": NOW})


PAID = SentPayment(state="paid", fee_msat=7)


@pytest.mark.parametrize(
    ("sends", "outcome"),
    [
        (PAID, Refunded(transaction=HASH, state={"refund_fee_msat": "7"})),
        (SentPayment(state="failed", detail="no route"), Failed(code="payment_declined", detail="no route")),
        (SentPayment(state="unknown", detail="in flight"), Unknown(detail="in flight")),
    ],
)
async def test_every_end_of_a_try(sends: SentPayment, outcome: Any) -> None:
    sender = ToldSender(sends=sends)
    assert await rail_of(sender).pay_back(asked()) == outcome
    assert sender.asked == [(BACK, 2000)]


@pytest.mark.parametrize(
    ("limits", "most"),
    [({}, 2000), ({"max_fee_sat": 0}, -(-AMOUNT // 100)), ({"max_fee_sat": 5, "max_fee_ppm": 0}, 5000)],
)
async def test_fees_have_a_ceiling(limits: dict[str, int], most: int) -> None:
    sender = ToldSender(sends=PAID, ceiling=most)
    assert isinstance(await rail_of(sender, **limits).pay_back(asked()), Refunded)
    dear = ToldSender(sends=PAID, ceiling=most + 1)
    assert isinstance(await rail_of(dear, **limits).pay_back(asked()), Failed)
    assert dear.asked == []


@pytest.mark.parametrize(
    ("knows", "later", "outcome"),
    [
        (PAID, 0, Refunded(transaction=HASH, state={"refund_fee_msat": "7"})),
        (SentPayment(state="failed"), 0, NotPaid()),
        (SentPayment(state="unknown"), 0, Pending(retry_after=10)),
        (None, 0, Pending(retry_after=120)),
        (None, 119, Pending(retry_after=1)),
        (None, 120, NotPaid()),
    ],
)
async def test_what_became_of_it(knows: Any, later: int, outcome: Any) -> None:
    sender = ToldSender(knows=knows)
    rail = rail_of(sender, FakeClock(NOW + later))
    assert await rail.lookup(asked(), Operation.REFUND) == outcome
    assert sender.asked == [HASH]


async def test_a_node_that_cannot_say_decides_nothing() -> None:
    with pytest.raises(RailUnavailable):
        await rail_of(ToldSender(knows=RailUnavailable("down"))).lookup(asked(), Operation.REFUND)
    assert isinstance(await rail_of(ToldSender()).lookup(asked(refund_hash=None), Operation.REFUND), Unknown)
    assert isinstance(await rail_of().lookup(asked(), Operation.REFUND), Unknown)
    assert isinstance(await rail_of().pay_back(asked()), Failed)


async def test_what_stands_in_the_way() -> None:
    assert "with_refunds" in (rail_of().refund_obstacle(asked()) or "")
    ready = rail_of(ToldSender())
    assert ready.refund_obstacle(asked()) is None
    made = offer().model_copy(update={"network": "lnbtc:other"})
    assert "is on" in (ready.refund_obstacle(charge(made, {})) or "")


async def test_it_is_opened_and_closed_with_the_rail(caplog: pytest.LogCaptureFixture) -> None:
    sender = ToldSender()
    rail = rail_of(sender)
    await rail._open_refunds()
    sender.down = RailUnavailable("locked")
    await rail._open_refunds()
    assert "no refund can be paid now: locked" in caplog.text
    sender.down = ConfigurationError("the macaroon cannot pay")
    with pytest.raises(ConfigurationError):
        await rail._open_refunds()
    await rail._close_refunds()
    assert sender.asked == ["start", "start", "start", "close"]


def test_addresses_are_there_only_where_refunds_are_paid() -> None:
    assert rail_of().endpoints() == {}
    assert set(rail_of(ToldSender()).endpoints()) == {("POST", "lightning/refund")}
    assert rail_of(ToldSender()).pay_path(offer()) is None


def test_play_money_is_not_paid_for_real_money() -> None:
    with pytest.raises(ConfigurationError, match="same kind of money"):
        rail_of().with_refunds(ToldSender(sandbox=True))
    with pytest.raises(ConfigurationError, match="cannot be negative"):
        Refunding(ToldSender(), max_fee_sat=-1)


# --- settings


def test_what_pays_is_in_the_file_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYS", CREDENTIAL)
    monkeypatch.setenv("RECEIVES", "0201036c6e64" + "cd" * 40)
    lnd = {"backend": "lnd", "url": "https://127.0.0.1:8080", "macaroon": "env:RECEIVES", "network": "regtest"}
    config = RailConfig.model_validate(lnd | {"refund_macaroon": "env:PAYS"})
    rail = make_rail(config)
    assert rail._refunding is not None
    assert isinstance(rail._refunding.sender, LndSender)
    assert CREDENTIAL not in repr(config) + repr(rail._refunding)
    assert make_rail(RailConfig.model_validate(lnd))._refunding is None
    lnbits = {"backend": "lnbits", "url": "https://lnbits.example", "invoice_key": "env:RECEIVES"}
    rail = make_rail(RailConfig.model_validate(lnbits | {"refund_key": "env:PAYS"}))
    assert rail._refunding is not None
    assert isinstance(rail._refunding.sender, LnbitsSender)
    for wrong in (lnd | {"refund_key": "env:PAYS"}, lnbits | {"refund_macaroon": "env:PAYS"}):
        with pytest.raises(ValueError, match="refund_"):
            RailConfig.model_validate(wrong)


def test_the_sandbox_pays_back_by_itself(tmp_path: Path) -> None:
    rail = make_rail(RailConfig.model_validate({"backend": "sandbox", "directory": str(tmp_path)}))
    assert rail._refunding is not None
    assert rail._refunding.sender.sandbox is True
