"""The wallet that transfers: what it pays, what it proves, and that it pays for nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, OfferRefused, OutcomeUnknown, PaymentFailed
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import NotPaid, Paid, Unknown
from rail402_base.sandbox import ENDOWMENT
from rail402_base.senders import Finding, Landed, SandboxSender, Waiting, Wanted
from rail402_base.tokens import BASE_USDC, SANDBOX_USDC, Token
from rail402_base.transfer_wallet import BaseTransferWallet
from rail402_base.transfers import EIP191, order_terms
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, ORDER, PAYEE, PAYER, PAYER_KEY, PRICE, Till

HASH = "0x" + 64 * "a"


@pytest.fixture
def till(tmp_path: Path) -> Till:
    return Till(tmp_path)


@pytest.fixture
async def wallet(till: Till) -> BaseTransferWallet:
    wallet = BaseTransferWallet(SandboxSender(till.backend, PAYER_KEY))
    await wallet.start()
    return wallet


def offer_of(token: Token = SANDBOX_USDC, **changes: Any) -> Offer:
    offer = BaseSpec(token).transfer_offer(
        token, payee=PAYEE, amount=PRICE, expires_at=NOW + 600, timeout_seconds=300, extra={"signature": EIP191}
    )
    return offer.model_copy(update=changes)


async def test_it_pays_and_signs_for_its_own_request(till: Till, wallet: BaseTransferWallet) -> None:
    offer = wallet.for_order(offer_of(), ORDER)
    assert offer.extra == {"signature": EIP191, **order_terms(ORDER)}
    cost = await wallet.can_pay(offer)
    assert cost is not None
    assert (str(cost.price), cost.fee_ceiling) == ("0.003 USDC", None)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert await till.chain.balance_of(PAYEE) == PRICE
    payment = Payment(dialect="x-price", rail="base", payload=paid.payload)
    assert BaseSpec(SANDBOX_USDC).authenticate(offer, payment).payer == PAYER
    assert await wallet.resume(offer, None, record_id="rec_1", now=NOW) == paid
    assert await wallet.resume(offer, paid.payload, record_id="rec_1", now=NOW) == paid
    assert await till.chain.balance_of(PAYEE) == PRICE


async def test_it_signs_its_own_request_whatever_the_server_says(wallet: BaseTransferWallet) -> None:
    offer = offer_of(extra={"signature": EIP191, "method": "GET", "url": "https://evil.example/"})
    assert wallet.for_order(offer, ORDER).extra["url"] == ORDER.url


@pytest.mark.parametrize("extra", [{}, {"signature": "other"}, {"signature": EIP191}])
async def test_it_sends_a_bare_hash_where_nothing_else_is_known_to_be_read(
    wallet: BaseTransferWallet, extra: dict[str, str]
) -> None:
    offer = offer_of(extra=extra)
    if "signature" not in extra or extra["signature"] != EIP191:
        offer = wallet.for_order(offer, ORDER)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert list(paid.payload) == ["transaction"]


async def test_its_network_is_that_of_its_token(wallet: BaseTransferWallet) -> None:
    assert wallet.networks == {SANDBOX_USDC.network.caip2}


async def test_each_purchase_is_a_transfer_of_its_own(till: Till, wallet: BaseTransferWallet) -> None:
    proofs = [(await wallet.pay(offer_of(), record_id=f"rec_{n}", now=NOW)).payload["transaction"] for n in range(3)]
    assert len(set(proofs)) == 3
    assert await till.chain.balance_of(PAYEE) == 3 * PRICE
    await wallet.pay(offer_of(), record_id="rec_0", now=NOW)
    assert await till.chain.balance_of(PAYEE) == 3 * PRICE, "one purchase is never paid twice"


async def test_what_it_does_not_pay(till: Till, wallet: BaseTransferWallet) -> None:
    authorized = await till.offer()
    for offer in (offer_of(BASE_USDC), authorized):
        assert await wallet.can_pay(offer) is None
        with pytest.raises(PaymentFailed):
            await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert wallet.for_order(authorized, ORDER) is authorized
    assert await wallet.can_pay(offer_of(amount=ENDOWMENT + 1)) is None
    assert await wallet.can_pay(offer_of(amount=ENDOWMENT)) is not None
    with pytest.raises(PaymentFailed):
        await wallet.pay(offer_of(amount=ENDOWMENT + 1), record_id="rec_1", now=NOW)
    with pytest.raises(OfferRefused):
        wallet.spec.check_offer(offer_of(flow="authorization"), ORDER, now=NOW)
    wallet.spec.check_offer(offer_of(), ORDER, now=NOW)


@pytest.mark.parametrize("fault", ["unavailable", "lost_answer", "dropped", "pending"])
async def test_how_a_payment_that_broke_off_is_resumed(till: Till, wallet: BaseTransferWallet, fault: Any) -> None:
    await till.chain.inject(fault)
    error = PaymentFailed if fault == "unavailable" else OutcomeUnknown
    with pytest.raises(error):
        await wallet.pay(offer_of(), record_id="rec_1", now=NOW)
    found = await wallet.resume(offer_of(), None, record_id="rec_1", now=NOW)
    kinds = {"unavailable": NotPaid, "dropped": NotPaid, "lost_answer": Paid, "pending": Unknown}
    assert isinstance(found, kinds[fault])
    await till.chain.release()
    found = await wallet.resume(offer_of(), None, record_id="rec_1", now=NOW)
    moved = await till.chain.balance_of(PAYEE)
    assert isinstance(found, Paid) is (moved == PRICE)
    assert moved in (0, PRICE)


async def test_resuming_gives_the_sender_what_it_needs(wallet: BaseTransferWallet) -> None:
    asked: list[tuple[Wanted, str | None]] = []
    answers: list[Finding] = [Waiting("who knows"), Landed(HASH)]

    async def find(wanted: Wanted, *, hint: str | None = None) -> Finding:
        asked.append((wanted, hint))
        return answers.pop(0)

    wallet.sender.find = find  # type: ignore[method-assign]
    found = await wallet.resume(offer_of(), {"transaction": HASH}, record_id="rec_1", now=NOW)
    assert found == Unknown(detail="who knows")
    assert isinstance(await wallet.resume(offer_of(), None, record_id="rec_2", now=NOW), Paid)
    (first, hint), (second, no_hint) = asked
    assert (hint, no_hint) == (HASH, None)
    assert (first.payee, first.value) == (second.payee, second.value) == (PAYEE, PRICE)
    assert first.name != second.name


async def test_a_sandbox_wallet_shares_the_key_of_the_other(tmp_path: Path) -> None:
    from rail402_base.wallet import BaseWallet

    wallet = BaseTransferWallet.sandbox(tmp_path)
    assert wallet.sender.address == BaseWallet.sandbox(tmp_path).signer.address
    assert wallet.name == f"base-transfer:{wallet.sender.address}"
    assert PAYER_KEY.hex() not in repr(BaseTransferWallet.sandbox(tmp_path, private_key=PAYER_KEY.hex()))
    with pytest.raises(ConfigurationError):
        BaseTransferWallet.sandbox(tmp_path, private_key="0x12")


def test_a_wallet_on_a_real_chain(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/transfers.db"
    wallet = BaseTransferWallet.rpc("https://node.example/secret-key-1", PAYER_KEY.hex(), transfers_db=url)
    assert wallet.sender.address == PAYER
    assert wallet.sender.token == BASE_USDC
    assert "secret" not in repr(wallet)
    with pytest.raises(ConfigurationError):
        BaseTransferWallet.rpc("https://node.example", 64 * "0", transfers_db=url)


async def test_a_transfer_that_reverted_was_not_paid(till: Till, wallet: BaseTransferWallet) -> None:
    await till.chain.inject("pending")
    with pytest.raises(OutcomeUnknown):
        await wallet.pay(offer_of(), record_id="rec_1", now=NOW)
    await till.empty()
    await till.chain.release()
    assert await wallet.resume(offer_of(), None, record_id="rec_1", now=NOW) == NotPaid()
    assert await till.chain.balance_of(PAYEE) == 0
