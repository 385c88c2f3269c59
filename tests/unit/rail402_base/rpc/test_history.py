"""Searching the events of one node for an authorization."""

from __future__ import annotations

import pytest

from rail402.errors import RailUnavailable
from rail402_base.chain import Transfer, Unused, Void
from rail402_base.rpc.history import Sought, Used, look_up
from tests.unit.rail402_base.rpc.chain import NOW, PAYER, TOKEN, Chain, Network, Refused


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def chain(network: Network) -> Chain:
    return network.chain


async def look(network: Network, *, valid_before: int = NOW + 600, lookback: int = 50_000) -> object:
    (endpoint,) = network.reader().rpc.endpoints
    sought = Sought(
        token=TOKEN,
        authorizer=PAYER,
        nonce=b"\x01" * 32,
        valid_before=valid_before,
        hints=(),
        confirmations=1,
        lookback=lookback,
    )
    head, found = await look_up(endpoint, sought)
    assert head.number == network.chain.head.number
    return found


def windows(network: Network) -> list[int]:
    """How many blocks each search asked for."""
    searches = [
        call["params"][0]
        for request in network.node.requests
        for call in (request if isinstance(request, list) else [request])
        if call["method"] == "eth_getLogs"
    ]
    return [int(each["toBlock"], 16) - int(each["fromBlock"], 16) + 1 for each in searches]


async def test_the_newest_blocks_are_searched_first(network: Network, chain: Chain) -> None:
    transaction = chain.hand_in(chain.authorize())
    chain.mine(12_000)
    chain.blocks[-1].time = NOW + 500  # the authorization is still valid
    found = await look(network)
    assert isinstance(found, Transfer)
    assert found.transaction == transaction
    assert windows(network) == [5000, 5000, 2102]


async def test_a_node_that_does_not_say_when_beside_an_event_is_asked_for_the_block(
    network: Network, chain: Chain
) -> None:
    chain.hand_in(chain.authorize())
    at = chain.head.time
    chain.mine(3)
    truth = network.node.eth_get_transaction_receipt

    def without_time(hash_: str) -> object:
        receipt = truth(hash_)
        assert isinstance(receipt, dict)
        logs = [{name: log[name] for name in log if name != "blockTimestamp"} for log in receipt["logs"]]
        return receipt | {"logs": logs}

    network.node.answers["eth_getTransactionReceipt"] = without_time
    found = await look(network)
    assert isinstance(found, Transfer)
    assert found.at == at


async def test_what_has_expired_was_used_before_that(network: Network, chain: Chain) -> None:
    chain.hand_in(chain.authorize())
    chain.mine(20_000)
    assert isinstance(await look(network), Transfer)
    assert len(windows(network)) == 1, "the block of the expiry is found by halves, and nothing after it is searched"
    assert network.node.methods().count("eth_getBlockByNumber") < 40


async def test_what_was_cancelled_after_its_expiry(network: Network, chain: Chain) -> None:
    chain.mine(1000)
    chain.cancel(chain.authorize())
    assert await look(network) == Void()


async def test_a_node_that_allows_few_blocks_in_one_search(network: Network, chain: Chain) -> None:
    def few(criteria: dict[str, str]) -> object:
        if int(criteria["toBlock"], 16) - int(criteria["fromBlock"], 16) >= 1000:
            raise Refused(-32005, "block range too large")
        return network.node.eth_get_logs(criteria)

    network.node.answers["eth_getLogs"] = few
    chain.mine(3000, time=NOW + 1)
    chain.hand_in(chain.authorize())
    chain.mine(1500, time=NOW + 2)
    assert isinstance(await look(network), Transfer)
    assert windows(network)[:4] == [4602, 2500, 1250, 625]


async def test_a_node_that_allows_too_few(network: Network, chain: Chain) -> None:
    def one(criteria: dict[str, str]) -> object:
        if criteria["toBlock"] != criteria["fromBlock"]:
            raise Refused(-32000, "no ranges")
        return network.node.eth_get_logs(criteria)

    chain.hand_in(chain.authorize())
    chain.mine(200, time=NOW + 2)
    network.node.answers["eth_getLogs"] = one
    found = await look(network)
    assert isinstance(found, Used)
    assert "use another" in found.detail
    assert len(windows(network)) == 100, "and no more"


async def test_what_is_not_found_was_used_all_the_same(network: Network, chain: Chain) -> None:
    chain.hand_in(chain.authorize())
    chain.mine(100, time=NOW + 2)
    found = await look(network, lookback=50)
    assert isinstance(found, Used)
    assert "finds no event of it in 50 blocks" in found.detail


async def test_an_event_of_something_else_is_not_it(network: Network, chain: Chain) -> None:
    chain.hand_in(chain.authorize())
    chain.hand_in(chain.authorize(number=2), nonce=1)
    others = [log for receipt in chain.receipts() for log in receipt["logs"]][2:]
    network.node.answers["eth_getLogs"] = lambda _: others
    assert isinstance(await look(network), Used)


@pytest.mark.parametrize("answer", [None, {}, [5], [{}]])
async def test_events_that_cannot_be_read(network: Network, chain: Chain, answer: object) -> None:
    chain.hand_in(chain.authorize())
    network.node.answers["eth_getLogs"] = lambda _: answer
    assert isinstance(await look(network), Used)


async def test_an_event_without_a_receipt_is_no_evidence(network: Network, chain: Chain) -> None:
    chain.hand_in(chain.authorize())
    network.node.answers["eth_getTransactionReceipt"] = lambda _: None
    found = await look(network)
    assert isinstance(found, Used)
    assert "no receipt that fits" in found.detail


async def test_a_node_without_the_block_it_spoke_of(network: Network) -> None:
    def only_newest(name: str, _: bool) -> object:
        return network.node.eth_get_block_by_number("latest", False) if name == "latest" else None

    network.node.answers["eth_getBlockByNumber"] = only_newest
    with pytest.raises(RailUnavailable):
        await look(network)


async def test_an_unused_one_costs_two_requests(network: Network) -> None:
    assert await look(network) == Unused(expired=False)
    assert len(network.node.requests) == 2
