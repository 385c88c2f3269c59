"""Several nodes: whom is asked, and what is believed of a call that must not be lost."""

from __future__ import annotations

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402_base.rpc.endpoint import Call, Endpoint, RpcError
from rail402_base.rpc.json_rpc import JsonRpc, Sent
from tests.unit.rail402_base.rpc.chain import Network, Node, error

HEIGHT = Call("eth_blockNumber")
SEND = Call("eth_sendRawTransaction", ("0x00",))
REFUSED = httpx.Response(200, json=error(0, -32000, "nonce too low"))


@pytest.fixture
def network() -> Network:
    return Network(None, "one.test", "two.test", "three.test")


@pytest.fixture
def nodes(network: Network) -> list[Node]:
    return list(network.nodes.values())


@pytest.fixture
def rpc(network: Network) -> JsonRpc:
    return JsonRpc(network.urls, transport=network)


def asked(nodes: list[Node]) -> list[int]:
    """How many requests each node got since the last time."""
    counts = [len(node.requests) for node in nodes]
    for node in nodes:
        node.requests.clear()
    return counts


async def test_the_first_is_asked_as_long_as_it_answers(rpc: JsonRpc, nodes: list[Node]) -> None:
    for _ in range(3):
        assert await rpc.call("eth_blockNumber") == "0x64"
    assert asked(nodes) == [3, 0, 0]


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.Response(503),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=error(0, -32603, "internal error")),
        httpx.Response(429),
    ],
)
async def test_what_one_does_not_answer_is_asked_of_the_next(
    rpc: JsonRpc, nodes: list[Node], fault: Exception | httpx.Response
) -> None:
    nodes[0].faults.append(fault)
    assert await rpc.call("eth_blockNumber") == "0x64"
    assert asked(nodes) == [1, 1, 0]
    assert await rpc.call("eth_blockNumber") == "0x64"
    assert asked(nodes) == [0, 1, 0], "the one that answered is asked first from then on"


async def test_a_refusal_is_an_answer(rpc: JsonRpc, nodes: list[Node]) -> None:
    with pytest.raises(RpcError, match="does not exist"):
        await rpc.call("eth_nothing")
    assert asked(nodes) == [1, 0, 0]


async def test_nobody_answers(rpc: JsonRpc, nodes: list[Node]) -> None:
    for node in nodes:
        node.always = httpx.ReadTimeout("slow")
    with pytest.raises(RailUnavailable, match=r"one\.test.*two\.test.*three\.test"):
        await rpc.call("eth_blockNumber")
    assert asked(nodes) == [1, 1, 1]


async def test_those_that_rest_are_asked_last_and_not_never(rpc: JsonRpc, nodes: list[Node]) -> None:
    nodes[0].faults.append(httpx.ConnectError("refused"))
    nodes[1].faults.append(httpx.ConnectError("refused"))
    await rpc.call("eth_blockNumber")
    assert asked(nodes) == [1, 1, 1]
    nodes[2].faults.append(httpx.ConnectError("refused"))
    assert await rpc.call("eth_blockNumber") == "0x64"
    assert asked(nodes)[2] == 1


# --- all of them


async def height(endpoint: Endpoint) -> str:
    (answer,) = await endpoint.ask([HEIGHT])
    return str(answer)


async def test_each_that_can_be_reached_is_asked(rpc: JsonRpc, nodes: list[Node]) -> None:
    nodes[1].behind = 3
    assert await rpc.each(height) == ["0x64", "0x61", "0x64"]
    nodes[2].faults.append(httpx.ReadTimeout("slow"))
    assert await rpc.each(height) == ["0x64", "0x61"]
    asked(nodes)
    assert await rpc.each(height) == ["0x64", "0x61"]
    assert asked(nodes) == [1, 1, 0], "the third rests"


async def test_none_can_be_reached(rpc: JsonRpc, nodes: list[Node]) -> None:
    for node in nodes:
        node.always = httpx.ConnectError("refused")
    for _ in range(2):
        with pytest.raises(RailUnavailable):
            await rpc.each(height)
    assert asked(nodes) == [2, 2, 2], "where all rest, all are asked"


async def test_every_one_must_say_yes(rpc: JsonRpc, nodes: list[Node]) -> None:
    async def is_near(endpoint: Endpoint) -> bool:
        return await height(endpoint) == "0x64"

    assert await rpc.every(is_near)
    nodes[1].behind = 3
    assert not await rpc.every(is_near)
    nodes[1].behind = 0
    nodes[2].faults.append(httpx.ReadTimeout("slow"))
    assert not await rpc.every(is_near), "who is silent does not say it"
    assert await rpc.every(is_near), "it is asked again at once, although it rests"


async def test_a_wrong_configuration_is_not_passed_over(rpc: JsonRpc) -> None:
    async def look(endpoint: Endpoint) -> None:
        if endpoint.host == "two.test":
            raise ConfigurationError("another chain")

    with pytest.raises(ConfigurationError):
        await rpc.each(look)


# --- what moves money


async def test_what_moves_money_is_sent_to_one(rpc: JsonRpc, nodes: list[Node]) -> None:
    nodes[0].faults.append(httpx.Response(200, json={"jsonrpc": "2.0", "id": 0, "result": "0xabc"}))
    assert await rpc.send(SEND) == Sent("0xabc", is_doubtful=False)
    assert asked(nodes) == [1, 0, 0]


async def test_it_is_sent_on_where_one_cannot_be_reached(rpc: JsonRpc, nodes: list[Node]) -> None:
    nodes[0].faults.append(httpx.ConnectError("refused"))
    nodes[1].faults.append(REFUSED)
    sent = await rpc.send(SEND)
    assert isinstance(sent.answer, RpcError)
    assert not sent.is_doubtful


async def test_a_refusal_is_doubtful_after_a_node_that_gave_no_answer(rpc: JsonRpc, nodes: list[Node]) -> None:
    nodes[0].faults.append(httpx.ReadTimeout("slow"))
    nodes[1].faults.append(REFUSED)
    assert (await rpc.send(SEND)).is_doubtful


async def test_nobody_got_it(rpc: JsonRpc, nodes: list[Node]) -> None:
    for node in nodes:
        node.always = httpx.ConnectError("refused")
    with pytest.raises(RailUnavailable):
        await rpc.send(SEND)


async def test_somebody_may_have_got_it(rpc: JsonRpc, nodes: list[Node]) -> None:
    for node in nodes:
        node.always = httpx.ConnectError("refused")
    nodes[1].always = httpx.ReadTimeout("slow")
    with pytest.raises(OutcomeUnknown):
        await rpc.send(SEND)


# --- the rest


async def test_closing_closes_the_connections_once(rpc: JsonRpc, network: Network) -> None:
    await rpc.close()
    assert not network.closed, "there was no connection yet"
    await rpc.call("eth_blockNumber")
    await rpc.close()
    assert network.closed
    assert await rpc.call("eth_blockNumber") == "0x64", "it opens again"


def test_nodes_show_by_their_hosts_only(rpc: JsonRpc) -> None:
    assert repr(rpc) == "JsonRpc(['one.test', 'two.test', 'three.test'])"


def test_one_address_and_the_same_one_twice() -> None:
    assert len(JsonRpc("https://one.test/").endpoints) == 1
    assert len(JsonRpc(["https://one.test/", "https://one.test/"]).endpoints) == 1
    with pytest.raises(ConfigurationError, match="name at least one"):
        JsonRpc([])
