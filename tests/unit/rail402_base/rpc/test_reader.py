"""Looking at a chain through several nodes: what is checked before a payment is accepted, and what became of it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402_base.chain import Submitted, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization
from rail402_base.rpc.reader import ChainReader
from rail402_base.tokens import BASE_USDC, SANDBOX_USDC
from tests.unit.rail402_base.rpc.chain import NOW, PAYEE, PAYER, TOKEN, USDC, Chain, Network, Node, Refused, word


@pytest.fixture
def network() -> Network:
    return Network(None, "one.test", "two.test")


@pytest.fixture
def chain(network: Network) -> Chain:
    return network.chain


@pytest.fixture
async def reader(network: Network) -> ChainReader:
    reader = network.reader()
    await reader.start()
    for node in network.nodes.values():
        node.requests.clear()
    return reader


def made(transaction: str, at: int | None = NOW + 2) -> Transfer:
    return Transfer(transaction=transaction, log_index=2, to=PAYEE, value=3000, at=at)


# --- at the start, and later


async def test_every_node_is_checked_at_the_start(network: Network) -> None:
    network.nodes["two.test"].answers["eth_chainId"] = lambda: "0x1"
    with pytest.raises(ConfigurationError, match=r"two\.test is on the chain 1"):
        await network.reader().start()


async def test_one_that_cannot_be_reached_at_the_start_is_done_without(network: Network) -> None:
    network.nodes["two.test"].always = httpx.ConnectError("refused")
    reader = network.reader()
    await reader.start()
    await reader.health()
    network.node.always = httpx.ConnectError("refused")
    with pytest.raises(RailUnavailable):
        await reader.health()


@pytest.mark.parametrize("options", [{"confirmations": 0}, {"lookback": 0}, {"timeout": 0}])
def test_numbers_that_make_no_sense(network: Network, options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        network.reader(**options)


def test_the_sandbox_is_no_chain() -> None:
    with pytest.raises(ConfigurationError, match="sandbox"):
        ChainReader("https://one.test/", SANDBOX_USDC)


async def test_another_token_is_not_looked_at(reader: ChainReader) -> None:
    with pytest.raises(ConfigurationError, match="the reader is for USDC"):
        await reader.balance_of(BASE_USDC, PAYER)


def test_it_shows_its_nodes_by_their_hosts(network: Network) -> None:
    assert repr(network.reader()) == "ChainReader(['one.test', 'two.test'], network='eip155:84532')"


async def test_balances(reader: ChainReader) -> None:
    assert await reader.balance_of(TOKEN, PAYER) == 100 * USDC


# --- before a payment is accepted


async def check(reader: ChainReader, chain: Chain, value: int = 3000) -> None:
    authorization = chain.authorize(value)
    await reader.check(TOKEN, authorization, chain.sign(authorization))


async def test_nonce_balance_and_code_are_looked_at_in_one_request(
    reader: ChainReader, chain: Chain, network: Network
) -> None:
    await check(reader, chain)
    assert [len(node.requests) for node in network.nodes.values()] == [1, 0]
    assert network.node.methods().count("eth_getCode") == 1
    assert network.node.methods().count("eth_call") == 5


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda it: it.used.add((PAYER.lower(), "01" * 32)), "proof_already_used"),
        (lambda it: it.balances.update({PAYER.lower(): 2999 - 100 * USDC}), "insufficient_funds"),
        (lambda it: it.blacklist.add(PAYER.lower()), "payment_declined"),
        (lambda it: it.codes.update({PAYER.lower(): "0x6080"}), "signature_invalid"),
    ],
)
async def test_a_payment_that_would_not_be_taken(
    reader: ChainReader, chain: Chain, spoil: Callable[[Chain], object], code: str
) -> None:
    spoil(chain)
    with pytest.raises(PaymentRejected) as caught:
        await check(reader, chain)
    assert caught.value.code == code


async def test_exactly_enough_is_enough(reader: ChainReader, chain: Chain) -> None:
    await check(reader, chain, 100 * USDC)
    with pytest.raises(PaymentRejected):
        await check(reader, chain, 100 * USDC + 1)


async def test_a_payer_that_delegated_is_decided_by_the_token(reader: ChainReader, chain: Chain) -> None:
    chain.codes[PAYER.lower()] = "0xef0100" + "11" * 20
    with pytest.raises(PaymentRejected, match="invalid signature") as caught:
        await check(reader, chain)
    assert caught.value.code == "signature_invalid"


async def test_a_delegated_payer_whom_the_token_takes(reader: ChainReader, chain: Chain, network: Network) -> None:
    for node in network.nodes.values():
        node.answers["eth_getCode"] = lambda *_: "0xef0100" + "11" * 20
    await check(reader, chain)
    assert len(network.node.requests) == 2


@pytest.mark.parametrize("spoil", [lambda it: setattr(it, "paused", True), lambda it: it.blacklist.add(PAYEE.lower())])
async def test_what_the_payer_cannot_change(
    reader: ChainReader, chain: Chain, spoil: Callable[[Chain], object]
) -> None:
    spoil(chain)
    with pytest.raises(RailUnavailable):
        await check(reader, chain)


@pytest.mark.parametrize("method", ["eth_call", "eth_getCode"])
@pytest.mark.parametrize("answer", [None, "", "0xzz", 5, {}])
async def test_an_answer_that_makes_no_sense_rejects_nobody(
    reader: ChainReader, chain: Chain, network: Network, method: str, answer: object
) -> None:
    for node in network.nodes.values():
        node.answers[method] = lambda *_: answer
    with pytest.raises(RailUnavailable):
        await check(reader, chain)


async def test_a_refusal_of_the_node_rejects_nobody(reader: ChainReader, chain: Chain, network: Network) -> None:
    def refuse(*_: object) -> None:
        raise Refused(-32000, "missing trie node")

    for node in network.nodes.values():
        node.answers["eth_getCode"] = refuse
    with pytest.raises(RailUnavailable, match="missing trie node"):
        await check(reader, chain)
    authorization = chain.authorize()
    for node in network.nodes.values():
        node.answers["eth_call"] = refuse
    with pytest.raises(RailUnavailable, match="missing trie node"):
        await reader.simulate(authorization, chain.sign(authorization))


# --- what became of it


@pytest.fixture
def authorization(chain: Chain) -> Authorization:
    return chain.authorize()


async def trace(reader: ChainReader, authorization: Authorization, *hints: str) -> object:
    return await reader.trace(
        TOKEN, PAYER, authorization.nonce, valid_before=authorization.valid_before, transactions=hints
    )


async def test_nothing_yet(reader: ChainReader, chain: Chain, authorization: Authorization) -> None:
    assert await trace(reader, authorization) == Unused(expired=False)
    chain.mine(time=NOW + 599)
    assert await trace(reader, authorization) == Unused(expired=False)
    chain.mine(time=NOW + 600)
    assert await trace(reader, authorization) == Unused(expired=True)


async def test_it_has_expired_when_it_has_for_all(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization
) -> None:
    chain.mine(time=NOW + 600)
    network.nodes["two.test"].behind = 1
    assert await trace(reader, authorization) == Unused(expired=False)


async def test_a_block_that_may_be_taken_back_expires_nothing(
    network: Network, chain: Chain, authorization: Authorization
) -> None:
    deep = network.reader(confirmations=3)
    chain.mine(2, time=NOW + 600)
    assert await trace(deep, authorization) == Unused(expired=False)
    chain.mine(time=NOW + 601)
    assert await trace(deep, authorization) == Unused(expired=True)


async def test_a_transfer_is_found_whoever_handed_it_in(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization
) -> None:
    transaction = chain.hand_in(authorization)
    assert await trace(reader, authorization) == made(transaction)
    searches = network.node.methods().count("eth_getLogs")
    assert searches == 1
    assert await trace(reader, authorization, transaction) == made(transaction)
    assert network.node.methods().count("eth_getLogs") == searches, "where it is known, nothing is searched"


async def test_a_cancelled_one_is_void(reader: ChainReader, chain: Chain, authorization: Authorization) -> None:
    chain.cancel(authorization)
    assert await trace(reader, authorization) == Void()


async def test_a_transfer_that_is_not_deep_enough(network: Network, chain: Chain, authorization: Authorization) -> None:
    deep = network.reader(confirmations=2)
    transaction = chain.hand_in(authorization)
    assert await trace(deep, authorization) == Submitted(transaction=transaction)
    chain.mine()
    assert await trace(deep, authorization) == made(transaction)


@pytest.mark.parametrize(
    "lie",
    [
        lambda node: node.answers.update(eth_call=lambda *_: "0x" + word(0)),
        lambda node: setattr(node, "behind", 1),
    ],
    ids=["it lies", "it is a block behind"],
)
async def test_a_transfer_that_one_node_denies_is_unknown(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization, lie: Callable[[Node], object]
) -> None:
    transaction = chain.hand_in(authorization)
    lie(network.nodes["two.test"])
    if network.nodes["two.test"].behind:
        network.nodes["two.test"].answers["eth_call"] = lambda *_: "0x" + word(0)  # as it was a block ago
    with pytest.raises(OutcomeUnknown, match="disagree"):
        await trace(reader, authorization, transaction)


async def test_a_node_that_knows_the_nonce_used_and_has_lost_the_events(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization
) -> None:
    transaction = chain.hand_in(authorization)
    forgetful = {"eth_getTransactionReceipt": lambda *_: None, "eth_getLogs": lambda *_: []}
    network.nodes["two.test"].answers.update(forgetful)
    assert await trace(reader, authorization, transaction) == made(transaction), "the two agree that it was used"
    network.node.answers.update(forgetful)
    with pytest.raises(OutcomeUnknown, match="finds no event"):
        await trace(reader, authorization, transaction)


async def test_nodes_that_show_different_transfers(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization
) -> None:
    transaction = chain.hand_in(authorization)
    truth = network.node.eth_get_transaction_receipt(transaction)
    assert truth is not None
    forged = truth | {"logs": [truth["logs"][0], truth["logs"][1] | {"data": "0x" + word(1)}]}
    network.nodes["two.test"].answers["eth_getTransactionReceipt"] = lambda _: forged
    with pytest.raises(OutcomeUnknown, match="disagree"):
        await trace(reader, authorization, transaction)


async def test_a_liar_far_ahead_is_not_believed_alone(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization
) -> None:
    """The second node is compromised: it shows a payment that never was, in a block far above."""
    other = Chain()
    other.mine(5000, time=NOW + 1)
    other.hand_in(authorization)
    network.nodes["two.test"].chain = other
    with pytest.raises(OutcomeUnknown, match="disagree"):
        await trace(reader, authorization)


async def test_one_that_hangs_is_not_listened_to(
    network: Network, chain: Chain, reader: ChainReader, authorization: Authorization
) -> None:
    chain.mine(40)
    transaction = chain.hand_in(authorization)
    network.nodes["two.test"].behind = 41
    assert await trace(reader, authorization, transaction) == made(transaction, at=chain.head.time)


async def test_a_node_that_gives_no_answer_is_done_without(
    reader: ChainReader, chain: Chain, network: Network, authorization: Authorization
) -> None:
    transaction = chain.hand_in(authorization)
    network.nodes["two.test"].always = httpx.ReadTimeout("slow")
    assert await trace(reader, authorization, transaction) == made(transaction)
    network.node.always = httpx.ReadTimeout("slow")
    with pytest.raises(RailUnavailable):
        await trace(reader, authorization, transaction)


async def test_what_one_transaction_did(reader: ChainReader, chain: Chain, authorization: Authorization) -> None:
    assert await reader.transfer_in(TOKEN, authorization, "0x" + "99" * 32) == Submitted(transaction="0x" + "99" * 32)
    transaction = chain.hand_in(authorization)
    assert await reader.transfer_in(TOKEN, authorization, transaction) == made(transaction)
    other = chain.authorize(number=2)
    assert await reader.transfer_in(TOKEN, other, transaction) is None
    smaller = chain.authorize(1)
    with pytest.raises(OutcomeUnknown, match="another transfer"):
        await reader.transfer_in(TOKEN, smaller, transaction)


# --- what a transaction brought


async def test_what_a_transaction_brought(reader: ChainReader, chain: Chain, authorization: Authorization) -> None:
    transaction = chain.hand_in(authorization)
    found = await reader.deposits_in(TOKEN, transaction, PAYEE)
    assert found is not None
    assert (found.at, found.succeeded) == (NOW + 2, True)
    assert [(each.payer, each.value) for each in found.all] == [(PAYER, 3000)]
    assert await reader.deposits_in(TOKEN, "0x" + 64 * "a", PAYEE) is None
    with pytest.raises(ConfigurationError):
        await reader.deposits_in(BASE_USDC, transaction, PAYEE)


@pytest.mark.parametrize(("of_the_reader", "asked"), [(3, 1), (1, 3)])
async def test_it_must_be_as_deep_as_either_asks(
    network: Network, chain: Chain, authorization: Authorization, of_the_reader: int, asked: int
) -> None:
    reader = network.reader(confirmations=of_the_reader)
    transaction = chain.hand_in(authorization)
    for _ in range(2):
        assert await reader.deposits_in(TOKEN, transaction, PAYEE, confirmations=asked) is None
        chain.mine()
    assert await reader.deposits_in(TOKEN, transaction, PAYEE, confirmations=asked) is not None


async def test_one_node_that_tells_of_a_payment_is_not_believed(
    network: Network, reader: ChainReader, chain: Chain, authorization: Authorization
) -> None:
    transaction = chain.hand_in(authorization)
    network.nodes["two.test"].answers["eth_getTransactionReceipt"] = lambda _: None
    assert await reader.deposits_in(TOKEN, transaction, PAYEE) is None
    chain.mine(40)
    with pytest.raises(OutcomeUnknown):
        await reader.deposits_in(TOKEN, transaction, PAYEE)


async def test_the_receipt_of_another_transaction_is_no_answer(
    network: Network, reader: ChainReader, chain: Chain, authorization: Authorization
) -> None:
    chain.hand_in(authorization)
    (receipt,) = chain.receipts()
    for node in network.nodes.values():
        node.answers["eth_getTransactionReceipt"] = lambda _: receipt
    with pytest.raises(OutcomeUnknown, match="was asked about"):
        await reader.deposits_in(TOKEN, "0x" + 64 * "a", PAYEE)
