"""The sandbox as a backend: what it says about an authorization at each point of its life."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.sandbox import PLAY_MONEY
from rail402_base.chain import Chain, SandboxBackend, Submitted, Trace, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization, parse_authorization
from rail402_base.sandbox import SandboxChain
from rail402_base.tokens import BASE_USDC, SANDBOX, SANDBOX_USDC
from tests.unit.rail402_base.payments import NOW, PAYEE, PAYER, PRICE, THIRD, Till, signed


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    till = Till(tmp_path)
    await till.chain.mint(PAYER, 10_000)
    return till


async def trace(till: Till, authorization: Authorization) -> Trace:
    return await till.backend.trace(
        SANDBOX_USDC, authorization.from_, authorization.nonce, valid_before=authorization.valid_before
    )


async def settle(till: Till, authorization: Authorization) -> Transfer | Submitted:
    return await till.backend.settle(SANDBOX_USDC, *parse_authorization(signed(authorization)))


async def check(till: Till, authorization: Authorization) -> None:
    await till.backend.check(SANDBOX_USDC, *parse_authorization(signed(authorization)))


async def test_it_is_a_chain(till: Till) -> None:
    backend: Chain = till.backend
    assert (backend.network, backend.sees_submissions) == (SANDBOX, True)
    await backend.start()
    await backend.health()
    await backend.close()
    assert str(till.chain.path) in repr(backend)


async def test_from_unused_to_transferred(till: Till) -> None:
    authorization = till.authorization()
    assert await trace(till, authorization) == Unused(expired=False)
    await check(till, authorization)
    transfer = await settle(till, authorization)
    assert isinstance(transfer, Transfer)
    assert (transfer.to, transfer.value) == (PAYEE, PRICE)
    assert await trace(till, authorization) == transfer
    till.clock.advance(10**6)
    assert await trace(till, authorization) == transfer
    assert await till.backend.balance_of(SANDBOX_USDC, PAYER) == 7000


async def test_expiry_counts_from_the_second_in_which_the_contract_refuses(till: Till) -> None:
    authorization = till.authorization(valid_before=NOW + 2)
    till.clock.advance(1)
    assert await trace(till, authorization) == Unused(expired=False)
    till.clock.advance(1)
    assert await trace(till, authorization) == Unused(expired=True)
    with pytest.raises(PaymentRejected) as caught:
        await settle(till, authorization)
    assert caught.value.code == "authorization_expired"


async def test_a_pending_transaction_is_seen_until_it_is_mined(till: Till) -> None:
    authorization = till.authorization()
    await till.chain.inject("pending")
    submitted = await settle(till, authorization)
    assert isinstance(submitted, Submitted)
    assert await trace(till, authorization) == submitted
    await till.chain.release()
    mined = await trace(till, authorization)
    assert isinstance(mined, Transfer)
    assert mined.transaction == submitted.transaction


async def test_anothers_pending_transaction_is_not_mistaken_for_it(till: Till) -> None:
    await till.chain.inject("pending")
    await settle(till, till.authorization())
    assert await trace(till, till.authorization()) == Unused(expired=False)


async def test_a_reverted_transaction_leaves_the_authorization_unused(till: Till) -> None:
    authorization = till.authorization()
    await till.chain.inject("pending")
    await settle(till, authorization)
    await till.empty()
    await till.chain.release()
    assert await trace(till, authorization) == Unused(expired=False)


async def test_the_mined_one_of_two_transactions_is_found(till: Till) -> None:
    authorization = till.authorization()
    await till.chain.inject("pending")
    await settle(till, authorization)
    transfer = await settle(till, authorization)
    assert await trace(till, authorization) == transfer


async def test_a_cancelled_authorization_is_void(till: Till) -> None:
    authorization = till.authorization()
    await till.cancel(authorization)
    assert await trace(till, authorization) == Void()
    with pytest.raises(PaymentRejected) as caught:
        await check(till, authorization)
    assert caught.value.code == "proof_already_used"


async def test_a_payer_needs_the_whole_amount(till: Till) -> None:
    await check(till, till.authorization(value=10_000))
    with pytest.raises(PaymentRejected, match="10000 of 10001") as caught:
        await check(till, till.authorization(value=10_001))
    assert caught.value.code == "insufficient_funds"
    assert caught.value.detail.endswith(PLAY_MONEY)


async def test_errors_of_a_settlement_pass_through(till: Till) -> None:
    for fault, error in (
        ("lost_answer", OutcomeUnknown),
        ("dropped", OutcomeUnknown),
        ("unavailable", RailUnavailable),
    ):
        await till.chain.inject(fault)  # type: ignore[arg-type]
        with pytest.raises(error):
            await settle(till, till.authorization())
    with pytest.raises(PaymentRejected):
        await settle(till, till.authorization(value=10_001))


async def test_another_token_is_not_on_it(till: Till) -> None:
    for token in (BASE_USDC, replace(SANDBOX_USDC, address=THIRD)):
        with pytest.raises(ConfigurationError, match="sandbox"):
            await till.backend.balance_of(token, PAYER)
        with pytest.raises(ConfigurationError, match="sandbox"):
            await till.backend.settle(token, *parse_authorization(signed(till.authorization())))


async def test_a_ledger_that_cannot_be_made_is_noticed_at_the_start(tmp_path: Path) -> None:
    chain = SandboxChain(tmp_path / "nowhere" / "base.db", clock=lambda: NOW)
    with pytest.raises(ConfigurationError):
        await SandboxBackend(chain, clock=lambda: NOW).start()
