"""The facilitator backend: whatever a facilitator says, the chain decides, and only one of them gets a payment."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402_base.chain import Deposits, Submitted, Transfer, Unused, Void
from rail402_base.facilitator import Facilitator, FacilitatorBackend
from rail402_base.tokens import BASE_SEPOLIA_USDC
from tests.unit.rail402_base.facilitators import (
    AUTHORIZATION,
    FAILED,
    HASH,
    KINDS,
    MINED,
    OTHER_HASH,
    PAID,
    SETTLED,
    TOKEN,
    UNUSED,
    VALID,
    Chain,
    Reply,
    World,
)
from tests.unit.rail402_base.payments import PAYER, THIRD

ALL_LOOKS = [1, 1, 2, 2, 4, 4]
NO_MONEY = PaymentRejected("holds nothing", code="insufficient_funds")
NODE_DOWN = RailUnavailable("node cannot be reached")
NODES_DISAGREE = OutcomeUnknown("the nodes disagree")


def refused(reason: str = "invalid_transaction_state", **members: Any) -> dict[str, Any]:
    return {"success": False, "errorReason": reason, "transaction": "", "network": "eip155:84532", **members}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pair() -> World:
    return World("one", "two")


# Settling


async def test_a_settlement_that_the_chain_shows_is_one(world: World) -> None:
    world.chain.traces = [PAID]
    assert await world.settle() == PAID
    assert (world.chain.looks, world.slept) == ([(HASH,)], [])
    assert world.net.paths() == ["/supported", "/settle"]


async def test_our_node_may_be_behind_theirs(world: World) -> None:
    world.chain.traces = [UNUSED, NODE_DOWN, NODES_DISAGREE, Submitted(transaction=HASH)]
    assert await world.settle() == Submitted(transaction=HASH)
    assert world.slept == [1, 1, 2]
    world.chain.traces = [UNUSED, PAID]
    assert await world.settle() == PAID


async def test_the_transaction_itself_shows_it_sooner_than_the_contract(world: World) -> None:
    world.chain.transactions = {HASH: MINED}
    assert await world.settle() == PAID


@pytest.mark.parametrize(
    "said",
    [
        SETTLED,
        SETTLED | {"amount": "3000", "network": "base-sepolia"},
        {"success": True, "transaction": HASH, "network": "eip155:84532"},
        SETTLED | {"payer": PAYER.lower()},
    ],
)
async def test_a_success_that_the_chain_does_not_show_is_none(world: World, said: dict[str, Any]) -> None:
    world.net.tell("/settle", said)
    with pytest.raises(OutcomeUnknown, match=f"has sent {HASH}; and the chain shows nothing"):
        await world.settle()
    assert world.slept == ALL_LOOKS


LIES: dict[str, dict[str, Any]] = {
    "payer": SETTLED | {"payer": THIRD},
    "network": SETTLED | {"network": "eip155:8453"},
    "no network": {"success": True, "payer": PAYER, "transaction": HASH},
    "amount": SETTLED | {"amount": "2999"},
    "amount as a number": SETTLED | {"amount": 3000.5},
    "empty transaction": SETTLED | {"transaction": ""},
    "no transaction": {"success": True, "payer": PAYER, "network": "eip155:84532"},
    "transaction null": SETTLED | {"transaction": None},
    "no hash": SETTLED | {"transaction": "0x1234"},
    "payer of a failure": refused(payer=THIRD),
    "network of a failure": refused(network="solana:x"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_an_answer_about_something_else_is_not_believed(world: World, lie: dict[str, Any]) -> None:
    world.net.tell("/settle", lie)
    for _ in range(3):
        with pytest.raises(OutcomeUnknown, match="answered about another settlement"):
            await world.settle()
    with pytest.raises(RailUnavailable, match="failed too often"):
        await world.settle()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_money_that_moved_has_moved_whatever_they_say(world: World, lie: dict[str, Any]) -> None:
    world.net.tell("/settle", lie)
    world.chain.traces = [PAID]
    assert await world.settle() == PAID


async def test_another_transaction_than_the_one_that_paid(world: World) -> None:
    world.net.tell("/settle", SETTLED | {"transaction": OTHER_HASH})
    world.chain.traces = [PAID]
    found = await world.settle()
    assert isinstance(found, Transfer)
    assert found.transaction == HASH
    assert world.chain.looks == [(OTHER_HASH,)]


@pytest.mark.parametrize(
    "found", [replace(PAID, value=2999), replace(PAID, value=3001), replace(PAID, to=THIRD), Void()]
)
async def test_another_transfer_by_the_same_nonce_is_no_payment(world: World, found: Any) -> None:
    world.chain.traces = [found]
    with pytest.raises(PaymentRejected) as caught:
        await world.settle()
    assert caught.value.code == "proof_already_used"


async def test_a_success_by_a_transaction_that_reverted_is_not_waited_for(world: World) -> None:
    world.chain.transactions = {HASH: FAILED}
    for _ in range(3):
        with pytest.raises(OutcomeUnknown, match="and the chain would take it"):
            await world.settle()
    assert world.slept == []
    with pytest.raises(RailUnavailable, match="failed too often"):
        await world.settle()


@pytest.mark.parametrize("said", [SETTLED, refused("transaction_failed", transaction=HASH)])
async def test_a_transaction_that_reverted_because_of_the_payer_may_be_sent_again(
    world: World, said: dict[str, Any]
) -> None:
    """The authorization stands in the block for all to see, and the payer may have the money before it expires."""
    world.net.tell("/settle", said)
    world.chain.transactions, world.chain.refusal = {HASH: FAILED}, NO_MONEY
    for _ in range(5):
        with pytest.raises(OutcomeUnknown, match="now the chain would not take it: holds nothing"):
            await world.settle()
    assert len(world.net.calls) == 1 + 5, "which is no failure of the facilitator's"


async def test_a_failed_transaction_that_may_still_be_mined_is_not_final(world: World) -> None:
    world.net.tell("/settle", refused("transaction_failed", transaction=HASH))
    world.chain.refusal = NO_MONEY
    with pytest.raises(OutcomeUnknown):
        await world.settle()
    assert world.slept == ALL_LOOKS


async def test_a_refusal_is_not_final_where_only_the_account_is_empty(world: World) -> None:
    world.net.tell("/settle", refused("invalid_exact_evm_insufficient_balance"))
    world.chain.refusal = NO_MONEY
    for _ in range(5):
        with pytest.raises(OutcomeUnknown, match="holds nothing"):
            await world.settle()
    assert len(world.net.calls) == 1 + 5, "the facilitator was right, and is not blamed"


@pytest.mark.parametrize(
    "reason", ["insufficient_funds", "invalid_exact_evm_payload_signature", "unexpected_settle_error"]
)
async def test_a_refusal_that_the_chain_does_not_bear_out_is_not_believed(world: World, reason: str) -> None:
    world.net.tell("/settle", refused(reason))
    for _ in range(3):
        with pytest.raises(OutcomeUnknown, match=f"did not settle it: {reason}; and the chain would take it"):
            await world.settle()
    assert world.slept == []
    with pytest.raises(RailUnavailable, match="failed too often"):
        await world.settle()


async def test_a_refusal_counts_for_nothing_where_the_money_moved(world: World) -> None:
    world.net.tell("/settle", refused("invalid_exact_evm_nonce_already_used"))
    world.chain.traces = [PAID]
    assert await world.settle() == PAID


async def test_a_nonce_that_was_used_between_two_looks(world: World) -> None:
    world.net.tell("/settle", refused("invalid_exact_evm_nonce_already_used"))
    world.chain.refusal = PaymentRejected("used", code="proof_already_used")
    with pytest.raises(PaymentRejected) as caught:
        await world.settle()
    assert caught.value.code == "proof_already_used"


async def test_a_refusal_while_the_chain_cannot_be_asked_is_unknown(world: World) -> None:
    world.net.tell("/settle", refused("insufficient_funds"))
    for refusal, trace in ((NODE_DOWN, UNUSED), (None, NODE_DOWN), (NO_MONEY, NODES_DISAGREE)):
        world.chain.refusal, world.chain.traces = refusal, [trace]
        with pytest.raises(OutcomeUnknown, match="insufficient_funds"):
            await world.settle()
    world.chain.refusal, world.chain.traces = None, [PAID]
    assert await world.settle() == PAID, "the facilitator was not blamed for our nodes"


async def test_while_the_chain_cannot_be_asked_nobody_is_praised_or_blamed(world: World) -> None:
    for trace in (UNUSED, NODE_DOWN, UNUSED, NODE_DOWN, UNUSED):
        world.chain.traces = [trace]
        with pytest.raises(OutcomeUnknown):
            await world.settle()
    with pytest.raises(RailUnavailable, match="failed too often"):
        await world.settle()


async def test_one_that_is_pending_is_waited_for(world: World) -> None:
    world.net.tell("/settle", refused("settlement_pending", transaction=HASH))
    world.chain.traces = [UNUSED, UNUSED, PAID]
    assert await world.settle() == PAID
    assert world.slept == [1, 1]


@pytest.mark.parametrize(
    "answer",
    [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut off"), Reply(500), Reply(200, "<html>"), Reply(302)],
    ids=repr,
)
async def test_without_an_answer_the_chain_is_looked_at_once(world: World, answer: Any) -> None:
    world.net.tell("/settle", answer)
    with pytest.raises(OutcomeUnknown, match="the chain shows nothing of it"):
        await world.settle()
    assert (world.chain.looks, world.slept) == ([()], [])
    world.chain.traces = [PAID]
    assert await world.settle() == PAID


async def test_without_an_answer_no_refusal_of_the_chain_is_final(world: World) -> None:
    # It may be on its way, and the payer may get the money before it arrives.
    world.net.tell("/settle", httpx.ReadTimeout("slow"))
    world.chain.refusal = NO_MONEY
    with pytest.raises(OutcomeUnknown):
        await world.settle()


# Several facilitators


@pytest.mark.parametrize("answer", [httpx.ConnectError("refused"), Reply(401), Reply(403), Reply(429)], ids=repr)
async def test_the_next_one_gets_what_the_first_never_looked_at(pair: World, answer: Any) -> None:
    turned_away = isinstance(answer, Reply)
    pair.chain.traces = [UNUSED, PAID] if turned_away else [PAID]
    pair.net.tell("/settle", answer)
    assert await pair.settle() == PAID
    assert pair.net.calls == ["one/supported", "one/settle", "two/supported", "two/settle"]


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_what_turns_us_away_may_have_passed_the_payment_on(pair: World, status: int) -> None:
    pair.chain.traces = [PAID]
    pair.net.tell("/settle", Reply(status))
    assert await pair.settle() == PAID
    assert pair.net.paths("two") == []
    pair.chain.traces = [NODE_DOWN]
    pair.net.tell("/settle", Reply(status))
    with pytest.raises(OutcomeUnknown):
        await pair.settle()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout("slow"),
        httpx.WriteError("reset"),
        Reply(500),
        Reply(503, "<html>"),
        Reply(200, "<html>"),
        Reply(200, {}),
        Reply(400, {"error": "bad request"}),
        Reply(404, "<html>"),
        Reply(404, refused("insufficient_funds")),
        Reply(405),
        Reply(307, location="https://two.example.com/settle"),
        SETTLED,
        SETTLED | {"transaction": ""},
        refused("unexpected_settle_error"),
        refused("transaction_failed", transaction=HASH),
    ],
    ids=repr,
)
async def test_the_next_one_never_gets_what_the_first_may_have_handed_in(pair: World, answer: Any) -> None:
    pair.chain.transactions = {HASH: FAILED}
    pair.net.tell("/settle", answer)
    with pytest.raises(OutcomeUnknown):
        await pair.settle()
    assert pair.net.paths("two") == []


async def test_where_none_looked_at_it_nothing_happened(pair: World) -> None:
    for host in ("one", "two"):
        pair.net.tell("/settle", Reply(429), host=host)
    with pytest.raises(RailUnavailable, match=r"one\.example.com .* \(429\); two\.example"):
        await pair.settle()
    assert pair.chain.looks == [(), ()]  # and the chain shows nothing of it


async def test_one_that_settles_nothing_is_left_alone_though_it_answers_questions(pair: World) -> None:
    pair.net.tell("/settle", httpx.ReadTimeout("slow"))
    for _ in range(3):
        await pair.check()
        with pytest.raises(OutcomeUnknown):
            await pair.settle()
    pair.net.calls.clear()
    pair.chain.traces = [PAID]
    await pair.check()
    assert await pair.settle() == PAID
    assert pair.net.calls == ["two/supported", "two/verify", "two/settle"]


async def test_one_that_rested_is_tried_with_one_payment(pair: World) -> None:
    pair.net.tell("/settle", httpx.ReadTimeout("slow"))
    for _ in range(3):
        with pytest.raises(OutcomeUnknown):
            await pair.settle()
    pair.chain.traces = [PAID]
    pair.clock.advance(29)
    await pair.settle()
    assert pair.net.paths("one") == ["/supported", *3 * ["/settle"]]
    pair.clock.advance(1)
    pair.net.tell("/settle", SETTLED)
    pair.net.calls.clear()
    await asyncio.gather(pair.settle(), pair.settle())
    assert (pair.net.paths("one"), pair.net.paths("two")) == (["/supported", "/settle"], ["/settle"])
    pair.net.calls.clear()
    await asyncio.gather(pair.settle(), pair.settle())
    assert pair.net.calls == ["one/settle", "one/settle"]


async def test_all_at_rest_says_when_the_first_is_back() -> None:
    world = World("one", "two", max_failures=1)
    world.net.tell("/verify", Reply(502))
    await world.check()
    world.clock.advance(10)
    world.net.tell("/verify", Reply(502), host="two")
    for rested, left in ((0, 20), (5, 15)):
        world.clock.advance(rested)
        with pytest.raises(RailUnavailable) as caught:
            await world.check()
        assert caught.value.retry_after == left


async def test_a_lie_on_chain_is_found_out_and_the_liar_left_alone(pair: World) -> None:
    for _ in range(3):
        with pytest.raises(OutcomeUnknown):
            await pair.settle()  # "success", and nothing to see
    pair.net.calls.clear()
    pair.chain.traces = [PAID]
    await pair.settle()
    assert pair.net.calls == ["two/supported", "two/settle"]


async def test_a_transfer_that_is_not_deep_enough_is_no_lie(world: World) -> None:
    world.chain.traces = [Submitted(transaction=HASH)]
    for _ in range(5):
        assert await world.settle() == Submitted(transaction=HASH)


# Accepting


async def test_a_payment_is_asked_about_before_it_is_accepted(world: World) -> None:
    await world.check()
    assert world.net.paths() == ["/supported", "/verify"]
    assert world.net.sent("/verify")["paymentPayload"]["payload"]["authorization"]["value"] == "3000"


async def test_where_the_chain_refuses_no_facilitator_is_asked(world: World) -> None:
    world.chain.refusal = NO_MONEY
    with pytest.raises(PaymentRejected, match="holds nothing"):
        await world.check()
    world.chain.refusal = NODE_DOWN
    with pytest.raises(RailUnavailable, match="node"):
        await world.check()
    assert world.net.calls == []


async def test_they_need_not_be_asked() -> None:
    world = World(verify=False)
    await world.check()
    assert world.net.calls == []
    world.chain.refusal = NO_MONEY
    with pytest.raises(PaymentRejected):
        await world.check()


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("insufficient_funds", "insufficient_funds"),
        ("invalid_exact_evm_nonce_already_used", "proof_already_used"),
        ("invalid_exact_evm_payload_signature", "signature_invalid"),
        ("invalid_exact_evm_payload_authorization_valid_before", "authorization_expired"),
        ("sanctioned_address", "payment_declined"),
        (None, "payment_declined"),
    ],
)
async def test_a_refusal_has_our_reason(pair: World, reason: str | None, code: str) -> None:
    pair.net.tell("/verify", {"isValid": False, "invalidReason": reason, "payer": PAYER})
    with pytest.raises(PaymentRejected) as caught:
        await pair.check()
    assert caught.value.code == code
    assert pair.net.paths("two") == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout("slow"),
        Reply(502, "<html>"),
        Reply(401),
        {"isValid": "yes"},
        {"isValid": True, "payer": THIRD},
        {"isValid": False, "invalidReason": "unexpected_verify_error"},
    ],
    ids=repr,
)
async def test_without_a_verdict_the_next_one_is_asked(pair: World, answer: Any) -> None:
    pair.net.tell("/verify", answer)
    await pair.check()
    assert pair.net.calls[-1] == "two/verify"
    pair.net.tell("/verify", answer, host="two")
    with pytest.raises(RailUnavailable):
        await pair.check()


@pytest.mark.parametrize(
    "answer",
    [
        Reply(400, {"error": "validBefore is too large"}),
        Reply(500, "<html>"),
        Reply(422),
        {"isValid": False, "invalidReason": "unexpected_verify_error"},
    ],
    ids=repr,
)
async def test_a_payer_cannot_have_a_facilitator_left_alone(world: World, answer: Any) -> None:
    world.net.tell("/verify", *5 * [answer], VALID)
    for _ in range(5):
        with pytest.raises(RailUnavailable):
            await world.check()
    await world.check()  # somebody else's payment, which it does not stumble over


# Looking


async def test_looking_asks_the_chain_and_no_facilitator(world: World) -> None:
    world.chain.traces = [Unused(expired=True)]
    found = await world.backend.trace(TOKEN, PAYER, AUTHORIZATION.nonce, valid_before=AUTHORIZATION.valid_before)
    assert found == Unused(expired=True)
    assert await world.backend.balance_of(TOKEN, PAYER) == 30_000
    assert world.net.calls == []
    assert (world.backend.network, world.backend.sees_submissions) == (Chain.network, False)


# Starting


async def test_starting_checks_all_of_them(pair: World) -> None:
    await pair.backend.start()
    assert pair.chain.is_open
    assert pair.net.calls == ["one/supported", "two/supported"]
    await pair.backend.health()
    await pair.backend.close()
    assert not pair.chain.is_open


@pytest.mark.parametrize("host", ["one", "two"])
async def test_one_for_another_network_is_found_at_the_start(pair: World, host: str) -> None:
    pair.net.tell("/supported", {"kinds": [KINDS[0] | {"network": "eip155:1"}]}, host=host)
    with pytest.raises(ConfigurationError, match=rf"{host}\.example\.com does not settle .* eip155:84532"):
        await pair.backend.start()


async def test_one_that_is_down_at_the_start_is_used_once_it_answers(pair: World) -> None:
    pair.net.tell("/supported", httpx.ConnectError("refused"), {"kinds": KINDS})
    pair.chain.traces = [PAID]
    await pair.backend.start()
    await pair.settle()
    assert pair.net.paths("one") == ["/supported", "/supported", "/settle"]


async def test_all_down_at_the_start_is_an_error(pair: World) -> None:
    for host in ("one", "two"):
        pair.net.tell("/supported", httpx.ConnectError("refused"), host=host)
    with pytest.raises(RailUnavailable, match=r"one\.example\.com cannot be reached .*; two\.example\.com cannot"):
        await pair.backend.start()


async def test_one_that_turns_out_to_settle_elsewhere_gets_no_payment(pair: World) -> None:
    pair.net.tell("/supported", httpx.ConnectError("refused"), {"kinds": []})
    pair.chain.traces = [PAID]
    await pair.backend.start()
    await pair.settle()
    assert pair.net.paths("one") == ["/supported", "/supported"]


async def test_health_needs_the_chain_and_one_facilitator(pair: World) -> None:
    pair.net.tell("/supported", Reply(500))
    await pair.backend.health()
    pair.net.tell("/supported", {"kinds": []}, host="two")
    with pytest.raises(RailUnavailable, match="does not settle"):
        await pair.backend.health()
    pair.net.answers.clear()
    pair.chain.refusal = NODE_DOWN
    with pytest.raises(RailUnavailable, match="node cannot"):
        await pair.backend.health()


@pytest.mark.parametrize(
    ("facilitators", "options", "words"),
    [
        ([], {}, "at least one"),
        ("http://facilitator.example.com", {}, "use https"),
        ("https://one.example.com", {"max_failures": 0}, "1 or more"),
        ("https://one.example.com", {"rest_seconds": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_used_is_refused(facilitators: Any, options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FacilitatorBackend(facilitators, reader=Chain(), **options)


@pytest.mark.parametrize(
    "facilitators",
    ["https://one.example.com/key", Facilitator("https://one.example.com/key"), ["https://one.example.com/key"]],
)
async def test_one_may_be_given_by_itself_and_shows_by_its_host(facilitators: Any) -> None:
    backend = FacilitatorBackend(facilitators, reader=Chain())
    assert repr(backend).startswith("FacilitatorBackend(['one.example.com'], reader=")
    await backend.close()


async def test_connections_are_opened_anew_after_closing() -> None:
    backend = FacilitatorBackend("http://127.0.0.1:1", reader=Chain())
    for _ in range(2):
        with pytest.raises(RailUnavailable, match="cannot be reached"):
            await backend.start()
        await backend.close()


async def test_what_a_transaction_brought_is_read_from_the_chain(world: World) -> None:
    world.chain.transactions = {HASH: MINED}
    backend = FacilitatorBackend("https://one.example.com", reader=world.chain)
    assert await backend.deposits_in(BASE_SEPOLIA_USDC, HASH, PAYER, confirmations=3) == Deposits(
        at=3, succeeded=True, all=()
    )
    assert await backend.deposits_in(BASE_SEPOLIA_USDC, "0x" + 64 * "0", PAYER) is None
    await backend.close()
