from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402_base.eip3009 import Authorization, address_of, cancel_digest, digest, sign, typed_data
from rail402_base.sandbox import ENDOWMENT, Fault, Mined, Pending, Reverted, RevertReason, SandboxChain
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC, Token
from tests.services.processes import run_together

NOW = 1_740_672_100
PAYER_KEY, PAYEE_KEY, THIRD_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
PAYER, PAYEE, THIRD = (address_of(key) for key in (PAYER_KEY, PAYEE_KEY, THIRD_KEY))
ZERO_ADDRESS = "0x" + 40 * "0"


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


class Counter:
    """Random bytes that are all different and the same in every run."""

    count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def chain(tmp_path: Path, clock: Clock) -> SandboxChain:
    chain = SandboxChain(tmp_path / "ledger.db", clock=clock, random_bytes=Counter())
    await chain.mint(PAYER, 1_000)
    return chain


def cheque(number: int = 1, **other: Any) -> Authorization:
    members: dict[str, Any] = {
        "from_": PAYER,
        "to": PAYEE,
        "value": 300,
        "valid_after": NOW - 10,
        "valid_before": NOW + 10,
        "nonce": number.to_bytes(32, "big"),
    }
    return Authorization(**{**members, **other})


def signed(authorization: Authorization, key: bytes = PAYER_KEY, token: Token = SANDBOX_USDC) -> bytes:
    return sign(digest(token.domain, authorization), key)


async def settle(chain: SandboxChain, authorization: Authorization) -> Mined | Pending:
    return await chain.transfer_with_authorization(SANDBOX_USDC, authorization, signed(authorization))


async def assert_reverts(chain: SandboxChain, reason: RevertReason, authorization: Authorization, **other: Any) -> None:
    before = await chain.books()
    used = await chain.authorization_state(authorization.from_, authorization.nonce)
    signature = signed(authorization, **other)
    with pytest.raises(Reverted) as caught:
        await chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)
    assert caught.value.revert_reason is reason
    assert await chain.books() == before
    assert await chain.authorization_state(authorization.from_, authorization.nonce) is used


async def assert_books_balance(chain: SandboxChain, minted: int = 1_000) -> None:
    books = await chain.books()
    assert sum(books.balances.values()) == books.minted == minted
    assert min(books.balances.values()) >= 0


# Transfers


async def test_a_transfer_moves_the_money_and_uses_the_nonce(chain: SandboxChain) -> None:
    authorization = cheque()
    assert not await chain.authorization_state(PAYER, authorization.nonce)
    mined = await settle(chain, authorization)
    assert mined == Mined("0x" + f"{1:064x}", 1, 1, NOW)
    assert await chain.balance_of(PAYER) == 700
    assert await chain.balance_of(PAYEE.lower()) == 300
    assert await chain.authorization_state(PAYER.lower(), authorization.nonce)
    assert await chain.find_authorization(PAYER.lower(), authorization.nonce) == mined
    transaction = await chain.transaction(mined.transaction.upper().replace("X", "x"))
    assert transaction is not None
    assert (transaction.state, transaction.authorization, transaction.mined) == ("mined", authorization, mined)
    await assert_books_balance(chain)


async def test_what_never_was_is_not_found(chain: SandboxChain) -> None:
    assert await chain.balance_of(THIRD) == 0
    assert await chain.transaction("0x" + 64 * "0") is None
    assert await chain.find_authorization(PAYER, bytes(32)) is None


async def test_blocks_count_up(chain: SandboxChain) -> None:
    mined = [await settle(chain, cheque(number)) for number in range(1, 4)]
    assert [each.block for each in mined if isinstance(each, Mined)] == [1, 2, 3]


async def test_the_whole_balance_nothing_and_oneself_may_be_paid(chain: SandboxChain) -> None:
    await settle(chain, cheque(1, value=0))
    await settle(chain, cheque(2, to=PAYER, value=1_000))
    assert await chain.balance_of(PAYER) == 1_000
    await settle(chain, cheque(3, value=1_000))
    assert await chain.balance_of(PAYER) == 0
    await assert_books_balance(chain)


async def test_anyone_may_hand_it_in_with_v_from_0(chain: SandboxChain) -> None:
    signature = signed(cheque())
    from_zero = signature[:64] + bytes((signature[64] - 27,))
    assert isinstance(await chain.transfer_with_authorization(SANDBOX_USDC, cheque(), from_zero), Mined)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOW - 11, RevertReason.NOT_YET_VALID),
        (NOW - 10, RevertReason.NOT_YET_VALID),  # the contract wants now > validAfter
        (NOW - 9, None),
        (NOW + 9, None),
        (NOW + 10, RevertReason.EXPIRED),  # and now < validBefore
        (NOW + 11, RevertReason.EXPIRED),
    ],
)
async def test_both_ends_of_the_validity_are_outside_it(
    chain: SandboxChain, clock: Clock, now: int, reason: RevertReason | None
) -> None:
    clock.now = now
    if reason is None:
        assert isinstance(await settle(chain, cheque()), Mined)
    else:
        await assert_reverts(chain, reason, cheque())


async def test_validity_without_end(chain: SandboxChain) -> None:
    authorization = cheque(valid_after=0, valid_before=2**256 - 1)
    mined = await settle(chain, authorization)
    assert isinstance(mined, Mined)
    transaction = await chain.transaction(mined.transaction)
    assert transaction is not None
    assert transaction.authorization == authorization


async def test_a_nonce_works_once_whatever_else_is_signed_with_it(chain: SandboxChain) -> None:
    mined = await settle(chain, cheque())
    await assert_reverts(chain, RevertReason.NONCE_USED, cheque())
    await assert_reverts(chain, RevertReason.NONCE_USED, cheque(value=1))
    assert await chain.find_authorization(PAYER, cheque().nonce) == mined


async def test_a_nonce_belongs_to_its_payer(chain: SandboxChain) -> None:
    await chain.mint(THIRD, 300)
    await settle(chain, cheque())
    other = cheque(from_=THIRD)
    assert isinstance(await chain.transfer_with_authorization(SANDBOX_USDC, other, signed(other, THIRD_KEY)), Mined)


async def test_only_the_payer_can_sign(chain: SandboxChain) -> None:
    await assert_reverts(chain, RevertReason.INVALID_SIGNATURE, cheque(), key=PAYEE_KEY)


@pytest.mark.parametrize("token", [BASE_USDC, BASE_SEPOLIA_USDC])
async def test_a_signature_for_real_money_is_worth_nothing_here(chain: SandboxChain, token: Token) -> None:
    await assert_reverts(chain, RevertReason.INVALID_SIGNATURE, cheque(), token=token)


@pytest.mark.parametrize("token", [BASE_USDC, BASE_SEPOLIA_USDC, replace(SANDBOX_USDC, version="3")])
async def test_only_the_sandbox_token_can_be_settled(chain: SandboxChain, token: Token) -> None:
    with pytest.raises(ConfigurationError, match="cannot be settled in the sandbox"):
        await chain.transfer_with_authorization(token, cheque(), signed(cheque(), token=token))
    with pytest.raises(ConfigurationError, match="cannot be settled in the sandbox"):
        await chain.cancel_authorization(token, PAYER, bytes(32), bytes(65))


@pytest.mark.parametrize("change", [{"to": THIRD}, {"value": 301}, {"valid_before": NOW + 11}])
async def test_what_was_signed_cannot_be_altered(chain: SandboxChain, change: dict[str, Any]) -> None:
    with pytest.raises(Reverted) as caught:
        await chain.transfer_with_authorization(SANDBOX_USDC, cheque(**change), signed(cheque()))
    assert caught.value.revert_reason is RevertReason.INVALID_SIGNATURE


async def test_malformed_and_malleable_signatures(chain: SandboxChain) -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    good = signed(cheque())
    twin = good[:32] + (order - int.from_bytes(good[32:64], "big")).to_bytes(32, "big") + bytes((55 - good[64],))
    for signature in (b"", good[:64], bytes(65), good[:64] + b"\x25", twin):
        with pytest.raises(Reverted) as caught:
            await chain.transfer_with_authorization(SANDBOX_USDC, cheque(), signature)
        assert caught.value.revert_reason is RevertReason.INVALID_SIGNATURE


@pytest.mark.parametrize("value", [1_001, 2**63, 2**256 - 1])
async def test_nobody_can_pay_more_than_they_have(chain: SandboxChain, value: int) -> None:
    await assert_reverts(chain, RevertReason.INSUFFICIENT_BALANCE, cheque(value=value))
    poor = cheque(from_=THIRD, value=1)
    await assert_reverts(chain, RevertReason.INSUFFICIENT_BALANCE, poor, key=THIRD_KEY)


async def test_nothing_can_be_burnt(chain: SandboxChain) -> None:
    await assert_reverts(chain, RevertReason.ZERO_PAYEE, cheque(to=ZERO_ADDRESS))


async def test_what_is_wrong_in_every_way_is_refused_in_the_contracts_order(chain: SandboxChain, clock: Clock) -> None:
    await settle(chain, cheque())
    wrong = cheque(to=ZERO_ADDRESS, value=5_000)
    await assert_reverts(chain, RevertReason.NONCE_USED, wrong, key=PAYEE_KEY)
    clock.now = NOW + 10
    await assert_reverts(chain, RevertReason.EXPIRED, wrong, key=PAYEE_KEY)
    clock.now = NOW - 10
    await assert_reverts(chain, RevertReason.NOT_YET_VALID, wrong, key=PAYEE_KEY)
    clock.now = NOW
    fresh = cheque(2, to=ZERO_ADDRESS, value=5_000)
    await assert_reverts(chain, RevertReason.INVALID_SIGNATURE, fresh, key=PAYEE_KEY)
    await assert_reverts(chain, RevertReason.ZERO_PAYEE, fresh)


@pytest.mark.parametrize(
    ("reason", "code", "retryable"),
    [
        (RevertReason.NOT_YET_VALID, "not_yet_valid", True),
        (RevertReason.EXPIRED, "authorization_expired", False),
        (RevertReason.NONCE_USED, "proof_already_used", False),
        (RevertReason.INVALID_SIGNATURE, "signature_invalid", False),
        (RevertReason.ZERO_PAYEE, "payee_mismatch", False),
        (RevertReason.INSUFFICIENT_BALANCE, "insufficient_funds", False),
    ],
)
def test_a_revert_says_why_in_the_reason_codes(reason: RevertReason, code: str, retryable: bool) -> None:
    error = Reverted(reason)
    assert (error.code, error.retryable, error.status) == (code, retryable, 402)
    assert reason.value in str(error)


# Cancelling


async def test_a_cancelled_nonce_cannot_be_used(chain: SandboxChain) -> None:
    nonce = cheque().nonce
    signature = sign(cancel_digest(SANDBOX_USDC.domain, PAYER, nonce), PAYER_KEY)
    await chain.cancel_authorization(SANDBOX_USDC, PAYER.lower(), nonce, signature)
    assert await chain.authorization_state(PAYER, nonce)
    assert await chain.find_authorization(PAYER, nonce) is None
    await assert_reverts(chain, RevertReason.NONCE_USED, cheque())
    with pytest.raises(Reverted) as caught:
        await chain.cancel_authorization(SANDBOX_USDC, PAYER, nonce, signature)
    assert caught.value.revert_reason is RevertReason.NONCE_USED


async def test_a_used_nonce_cannot_be_cancelled_and_nobody_else_can_cancel(chain: SandboxChain) -> None:
    nonce = cheque().nonce
    to_cancel = cancel_digest(SANDBOX_USDC.domain, PAYER, nonce)
    for signature in (sign(to_cancel, PAYEE_KEY), signed(cheque()), bytes(65)):
        with pytest.raises(Reverted) as caught:
            await chain.cancel_authorization(SANDBOX_USDC, PAYER, nonce, signature)
        assert caught.value.revert_reason is RevertReason.INVALID_SIGNATURE
    await settle(chain, cheque())
    with pytest.raises(Reverted) as caught:
        await chain.cancel_authorization(SANDBOX_USDC, PAYER, nonce, sign(to_cancel, PAYER_KEY))
    assert caught.value.revert_reason is RevertReason.NONCE_USED


# Making money


async def test_a_wallet_is_endowed_once(chain: SandboxChain) -> None:
    assert await chain.endow(THIRD.lower()) is True
    assert await chain.endow(THIRD) is False
    assert await chain.balance_of(THIRD) == ENDOWMENT == 100 * 10**SANDBOX_USDC.decimals
    await assert_books_balance(chain, 1_000 + ENDOWMENT)


async def test_spending_it_all_brings_no_second_endowment(chain: SandboxChain) -> None:
    await chain.endow(THIRD)
    spent = cheque(from_=THIRD, value=ENDOWMENT)
    await chain.transfer_with_authorization(SANDBOX_USDC, spent, signed(spent, THIRD_KEY))
    assert await chain.endow(THIRD) is False
    assert await chain.balance_of(THIRD) == 0


async def test_many_at_once_are_endowed_once(chain: SandboxChain) -> None:
    assert sorted(await asyncio.gather(*(chain.endow(THIRD) for _ in range(8)))) == [False] * 7 + [True]


@pytest.mark.parametrize("amount", [0, -1, 2**63 - 1_000, 2**64])
async def test_what_cannot_be_minted(chain: SandboxChain, amount: int) -> None:
    with pytest.raises(ConfigurationError, match="cannot mint"):
        await chain.mint(THIRD, amount)
    await assert_books_balance(chain)


async def test_as_much_as_can_be_counted(chain: SandboxChain) -> None:
    await chain.mint(PAYER, 2**63 - 1_001)
    await assert_books_balance(chain, 2**63 - 1)
    await settle(chain, cheque(value=2**63 - 1))
    await assert_books_balance(chain, 2**63 - 1)


async def test_addresses_must_be_addresses(chain: SandboxChain) -> None:
    for call in (chain.balance_of("0x"), chain.endow(""), chain.mint("0x12", 1), chain.find_authorization("", b"")):
        with pytest.raises(MalformedInput):
            await call


# Faults


async def test_a_lost_answer_moves_the_money(chain: SandboxChain) -> None:
    await chain.inject("lost_answer")
    with pytest.raises(OutcomeUnknown):
        await settle(chain, cheque())
    mined = await chain.find_authorization(PAYER, cheque().nonce)
    assert mined is not None
    assert await chain.balance_of(PAYEE) == 300
    assert isinstance(await settle(chain, cheque(2)), Mined)


@pytest.mark.parametrize(("fault", "error"), [("dropped", OutcomeUnknown), ("unavailable", RailUnavailable)])
async def test_faults_under_which_nothing_moves(chain: SandboxChain, fault: Fault, error: type[Exception]) -> None:
    await chain.inject(fault)
    with pytest.raises(error):
        await settle(chain, cheque())
    assert await chain.find_authorization(PAYER, cheque().nonce) is None
    assert not await chain.authorization_state(PAYER, cheque().nonce)
    assert await chain.balance_of(PAYER) == 1_000
    assert isinstance(await settle(chain, cheque()), Mined)


async def test_faults_queue_up_and_are_used_once(chain: SandboxChain) -> None:
    await chain.inject("unavailable", times=2)
    await chain.inject("dropped")
    for error in (RailUnavailable, RailUnavailable, OutcomeUnknown):
        with pytest.raises(error):
            await settle(chain, cheque())
    assert isinstance(await settle(chain, cheque()), Mined)


async def test_a_refusal_does_not_use_up_a_fault(chain: SandboxChain) -> None:
    await chain.inject("lost_answer")
    await assert_reverts(chain, RevertReason.INSUFFICIENT_BALANCE, cheque(value=5_000))
    with pytest.raises(OutcomeUnknown):
        await settle(chain, cheque())


async def test_faults_are_seen_by_other_processes_and_after_a_restart(chain: SandboxChain, clock: Clock) -> None:
    await chain.inject("unavailable")
    with pytest.raises(RailUnavailable):
        await settle(SandboxChain(chain.path, clock=clock), cheque())
    assert isinstance(await settle(chain, cheque()), Mined)


async def test_a_fault_that_there_is_not(chain: SandboxChain) -> None:
    with pytest.raises(ConfigurationError, match="must be one of lost_answer, dropped, unavailable, pending"):
        await chain.inject("slow")  # type: ignore[arg-type]


# Pending


async def test_a_pending_transfer_moves_when_it_is_released(chain: SandboxChain) -> None:
    await chain.inject("pending")
    pending = await settle(chain, cheque())
    assert isinstance(pending, Pending)
    before = await chain.transaction(pending.transaction)
    assert before is not None
    assert (before.state, before.authorization, before.mined) == ("pending", cheque(), None)
    assert await chain.find_authorization(PAYER, cheque().nonce) is None
    assert not await chain.authorization_state(PAYER, cheque().nonce)
    assert await chain.balance_of(PAYEE) == 0

    [after] = await chain.release()
    assert (after.state, after.hash) == ("mined", pending.transaction)
    assert after.mined == await chain.find_authorization(PAYER, cheque().nonce)
    assert await chain.transaction(pending.transaction) == after
    assert await chain.balance_of(PAYEE) == 300
    assert await chain.release() == ()
    await assert_books_balance(chain)


async def test_what_was_settled_meanwhile_reverts(chain: SandboxChain) -> None:
    await chain.inject("pending")
    pending = await settle(chain, cheque())
    mined = await settle(chain, cheque())
    [released] = await chain.release()
    assert isinstance(pending, Pending)
    assert (released.hash, released.state, released.mined) == (pending.transaction, "reverted", None)
    assert await chain.find_authorization(PAYER, cheque().nonce) == mined
    assert await chain.balance_of(PAYEE) == 300


async def test_what_expired_meanwhile_reverts(chain: SandboxChain, clock: Clock) -> None:
    await chain.inject("pending")
    await settle(chain, cheque())
    clock.now = NOW + 10
    assert [each.state for each in await chain.release()] == ["reverted"]
    assert await chain.balance_of(PAYEE) == 0


async def test_pending_ones_are_mined_in_order_until_the_money_is_gone(chain: SandboxChain) -> None:
    await chain.inject("pending", times=4)
    for number in range(1, 5):
        await settle(chain, cheque(number))
    assert [each.state for each in await chain.release()] == ["mined", "mined", "mined", "reverted"]
    assert await chain.balance_of(PAYER) == 100
    await assert_books_balance(chain)


# Several at once


async def test_one_authorization_settled_by_many_tasks_is_mined_once(chain: SandboxChain, clock: Clock) -> None:
    chains = [chain, SandboxChain(chain.path, clock=clock)]
    attempts = [settle(chains[number % 2], cheque()) for number in range(12)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(each, Mined) for each in outcomes) == 1
    refused = [each for each in outcomes if isinstance(each, Reverted)]
    assert [each.revert_reason for each in refused] == [RevertReason.NONCE_USED] * 11
    assert await chain.balance_of(PAYEE) == 300


PROCESS = """
import asyncio, json, sys
from rail402_base.eip3009 import parse_authorization
from rail402_base.sandbox import Reverted, SandboxChain

async def settle_all(path, now, payloads):
    chain = SandboxChain(path, clock=lambda: int(now))
    print("ready", flush=True)
    sys.stdin.readline()
    for payload in json.loads(payloads):
        try:
            mined = await chain.transfer_with_authorization(chain.token, *parse_authorization(payload))
        except Reverted as error:
            print("reverted", error.code)
        else:
            print("mined", mined.transaction)

asyncio.run(settle_all(*sys.argv[1:]))
"""


async def test_one_authorization_settled_by_two_processes_is_mined_once(chain: SandboxChain) -> None:
    cheques = [cheque(number, value=1) for number in range(1, 26)]
    payloads = [
        {"signature": "0x" + signed(each).hex(), "authorization": typed_data(SANDBOX_USDC.domain, each)["message"]}
        for each in cheques
    ]
    command = [sys.executable, "-c", PROCESS, str(chain.path), str(NOW), json.dumps(payloads)]
    one, other = (output.splitlines() for output in run_together([command, command]))
    assert len(one) == len(other) == len(cheques)
    for each, outcomes in zip(cheques, zip(one, other, strict=True), strict=True):
        mined = await chain.find_authorization(PAYER, each.nonce)
        assert mined is not None
        assert sorted(outcomes) == [f"mined {mined.transaction}", "reverted proof_already_used"]
    assert await chain.balance_of(PAYEE) == len(cheques)
    await assert_books_balance(chain)


async def test_nothing_secret_is_written_down(chain: SandboxChain) -> None:
    await settle(chain, cheque())
    transaction = await chain.transaction("0x" + f"{1:064x}")
    assert signed(cheque()).hex() not in repr(transaction)
    assert signed(cheque()) not in chain.path.read_bytes()
