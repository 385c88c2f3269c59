"""One node: what it answers, and everything that can be wrong with an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402_base.rpc.endpoint import MAX_ANSWER, Call, Endpoint, RpcError
from tests.unit.rail402_base.rpc.chain import Network, Node, Refused, error

CHAIN_ID, HEIGHT, SYNCING = Call("eth_chainId"), Call("eth_blockNumber"), Call("eth_syncing")
SEND = Call("eth_sendRawTransaction", ("0x00",))
ADDRESS = "https://user:pass-word@one.test/v2/0123456789abcdef-secret?apikey=fedcba9876543210"


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def node(network: Network) -> Node:
    return network.node


@pytest.fixture
def endpoint(network: Network) -> Endpoint:
    return Endpoint(ADDRESS, timeout=5, transport=network)


async def test_calls_are_made_in_one_request_and_answered_in_order(endpoint: Endpoint, node: Node) -> None:
    assert await endpoint.ask([CHAIN_ID, HEIGHT, SYNCING]) == ["0x14a34", "0x64", False]
    assert len(node.requests) == 1


async def test_one_call_is_no_batch(endpoint: Endpoint, node: Node) -> None:
    assert await endpoint.ask([HEIGHT]) == ["0x64"]
    assert node.requests == [{"jsonrpc": "2.0", "id": 0, "method": "eth_blockNumber", "params": []}]


async def test_a_refused_call_leaves_the_others(endpoint: Endpoint) -> None:
    unknown, height = await endpoint.ask([Call("eth_nothing"), HEIGHT])
    assert isinstance(unknown, RpcError)
    assert (unknown.number, unknown.message) == (-32601, "the method eth_nothing does not exist")
    assert height == "0x64"


async def test_no_calls_are_no_request(endpoint: Endpoint, node: Node) -> None:
    assert await endpoint.ask([]) == []
    assert node.requests == []


async def test_a_great_many_calls_are_several_batches(endpoint: Endpoint, node: Node) -> None:
    assert await endpoint.ask([HEIGHT] * 120) == ["0x64"] * 120
    assert [len(request) for request in node.requests] == [50, 50, 20]


# --- batches that a node does not take


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(200, json=error(None, -32600, "no batches")),
        httpx.Response(200, json=[error(None, -32600, "no batches")]),
        httpx.Response(400, text="batches are not supported"),
        httpx.Response(413, text="too large"),
    ],
)
async def test_smaller_batches_are_made_where_one_is_refused(
    endpoint: Endpoint, node: Node, refusal: httpx.Response
) -> None:
    node.faults.append(refusal)

    assert await endpoint.ask([HEIGHT] * 9) == ["0x64"] * 9
    assert sorted(len(request) if isinstance(request, list) else 1 for request in node.requests) == [1, 4, 4, 9]
    await endpoint.ask([HEIGHT] * 4)
    assert len(node.requests[-1]) == 4, "what it takes is remembered"


async def test_a_node_that_takes_no_batch_at_all(endpoint: Endpoint, node: Node) -> None:
    node.takes = 0
    assert await endpoint.ask([CHAIN_ID, HEIGHT, SYNCING]) == ["0x14a34", "0x64", False]
    node.requests.clear()
    await endpoint.ask([CHAIN_ID, HEIGHT])
    assert all(isinstance(request, dict) for request in node.requests), "it is not asked for one again"


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(502, text="<html>Bad Gateway</html>"),
        httpx.Response(200, text="<html>Please wait</html>"),
        httpx.Response(200, json=error(None, -32005, "limit exceeded")),
        httpx.Response(429, text="slow down"),
    ],
)
async def test_a_node_in_trouble_takes_batches_again_later(
    endpoint: Endpoint, node: Node, trouble: httpx.Response
) -> None:
    node.faults.append(trouble)
    with pytest.raises(OutcomeUnknown):
        await endpoint.ask([CHAIN_ID, HEIGHT])
    await endpoint.ask([CHAIN_ID, HEIGHT])
    assert [len(request) for request in node.requests] == [2, 2]


# --- answers that are none


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (httpx.Response(200, text="<html>hello</html>"), "answered 200, and not in JSON-RPC"),
        (httpx.Response(500, text=""), "answered 500, and not in JSON-RPC"),
        (httpx.Response(200, json=[]), "not in JSON-RPC"),
        (httpx.Response(200, json=5), "not in JSON-RPC"),
        (httpx.Response(200, json={}), "not JSON-RPC 2.0"),
        (httpx.Response(200, json={"id": 7, "result": "0x1"}), "did not answer all calls"),
        (httpx.Response(200, json={"id": "0", "result": "0x1"}), "not JSON-RPC 2.0"),
        (httpx.Response(200, json={"id": True, "result": "0x1"}), "not JSON-RPC 2.0"),
        (httpx.Response(200, json={"id": 0, "error": "no"}), "an error that is not JSON-RPC"),
        (httpx.Response(200, json={"id": 0, "error": {"code": "-1"}}), "an error that is not JSON-RPC"),
        (httpx.Response(200, text='{"jsonrpc":"2.0","id":0,"resu'), "not in JSON-RPC"),
        (httpx.Response(200, content=b'{"id":0,"result":"\xff"}'), "not in JSON-RPC"),
        (httpx.Response(200, text="[" * 100_000), "not in JSON-RPC"),
        (httpx.Response(301, headers={"Location": "https://other.test/"}), "redirects"),
        (httpx.Response(401, text="who are you"), r"refuses the key in its address \(401\); put the right one there"),
        (httpx.Response(403), "refuses the key"),
        (httpx.Response(429, headers={"Retry-After": "5"}), "over its limit"),
        (httpx.Response(200, json=error(0, -32005, "daily limit")), "over its limit: daily limit"),
        (httpx.Response(200, json=error(0, -32603, "internal error")), "in trouble: internal error"),
    ],
)
async def test_what_cannot_be_read_is_no_answer(
    endpoint: Endpoint, node: Node, response: httpx.Response, says: str
) -> None:
    node.faults.append(response)
    with pytest.raises(OutcomeUnknown, match=says):
        await endpoint.ask([HEIGHT])
    assert await endpoint.ask([HEIGHT]) == ["0x64"]


@pytest.mark.parametrize(
    "answers",
    [
        [{"id": 0, "result": "0x1"}, {"id": 0, "result": "0x2"}],
        [{"id": 0, "result": "0x1"}, {"id": 2, "result": "0x2"}],
        [{"id": 0, "result": "0x1"}],
        [{"id": 0, "result": "0x1"}, {"id": 1, "result": "0x2"}, {"id": 2, "result": "0x3"}],
        [{"id": 0, "result": "0x1"}, 5],
        [{"id": 0, "result": "0x1"}, {"id": None, "error": {"code": 1}}],
    ],
    ids=["twice", "another id", "truncated", "too many", "no object", "an error of nobody's"],
)
async def test_a_batch_that_is_not_answered_call_by_call(endpoint: Endpoint, node: Node, answers: list[Any]) -> None:
    node.faults.append(httpx.Response(200, json=answers))
    with pytest.raises(OutcomeUnknown):
        await endpoint.ask([CHAIN_ID, HEIGHT])


async def test_an_error_before_the_request_was_read_is_the_calls(endpoint: Endpoint, node: Node) -> None:
    node.faults.append(httpx.Response(200, json=error(None, -32700, "parse error")))
    (answer,) = await endpoint.ask([SEND])
    assert isinstance(answer, RpcError)
    assert answer.number == -32700


async def test_a_limit_on_events_is_for_who_asked(endpoint: Endpoint, node: Node) -> None:
    node.faults.append(httpx.Response(200, json=error(0, -32005, "query returned more than 10000 results")))
    (answer,) = await endpoint.ask([Call("eth_getLogs", ({},))])
    assert isinstance(answer, RpcError)


async def test_what_a_contract_or_a_transaction_causes_is_no_trouble_of_the_node(
    endpoint: Endpoint, node: Node
) -> None:
    node.answers["eth_call"] = node.answers["eth_sendRawTransaction"] = lambda *_: refuse(-32603, "nonce too low")
    answers = await endpoint.ask([Call("eth_call", ({}, "latest")), SEND])
    assert all(isinstance(answer, RpcError) for answer in answers)


def refuse(number: int, message: str) -> None:
    raise Refused(number, message)


class Endless(httpx.AsyncByteStream):
    """A body that does not end."""

    sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += 1 << 20
            yield b" " * (1 << 20)


async def test_a_huge_answer_is_not_read_on(endpoint: Endpoint, node: Node) -> None:
    body = Endless()
    node.faults.append(lambda _: httpx.Response(200, stream=body))
    with pytest.raises(OutcomeUnknown, match="larger than"):
        await endpoint.ask([HEIGHT])
    assert body.sent <= MAX_ANSWER + (2 << 20)


async def test_a_compressed_answer_is_not_unpacked(endpoint: Endpoint, node: Node) -> None:
    node.faults.append(
        lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f"))
    )
    with pytest.raises(OutcomeUnknown, match="compressed"):
        await endpoint.ask([HEIGHT])


# --- connections


@pytest.mark.parametrize(
    ("failure", "is_certain"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.PoolTimeout("busy"), True),
        (httpx.ReadTimeout("slow"), False),
        (httpx.WriteTimeout("slow"), False),
        (httpx.WriteError("gone"), False),
        (httpx.ReadError("reset"), False),
        (httpx.RemoteProtocolError("closed"), False),
    ],
)
async def test_only_what_was_never_connected_was_surely_not_sent(
    endpoint: Endpoint, node: Node, failure: Exception, is_certain: bool
) -> None:
    node.faults.append(failure)
    with pytest.raises(RailUnavailable if is_certain else OutcomeUnknown, match=type(failure).__name__):
        await endpoint.ask([SEND])


async def test_a_whole_answer_has_a_time_limit() -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

    endpoint = Endpoint("https://one.test/", timeout=1, transport=Silent())
    endpoint._timeout = 0  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown, match="gave no answer"):
        await endpoint.ask([HEIGHT])


async def test_who_gave_no_answer_rests_longer_each_time(endpoint: Endpoint, node: Node) -> None:
    assert not endpoint.is_resting
    for _ in range(100):
        node.faults.append(httpx.ConnectError("refused"))
        with pytest.raises(RailUnavailable):
            await endpoint.ask([HEIGHT])
        assert endpoint.is_resting
    assert endpoint._rests_until <= asyncio.get_running_loop().time() + 60
    await endpoint.ask([HEIGHT])
    assert not endpoint.is_resting


# --- addresses


async def test_the_address_is_used_as_it_was_given(network: Network) -> None:
    seen: list[httpx.Request] = []

    class Recording(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json={"jsonrpc": "2.0", "id": 0, "result": 1})

    await Endpoint(ADDRESS, timeout=5, transport=Recording()).ask([HEIGHT])
    (request,) = seen
    assert str(request.url) == "https://one.test/v2/0123456789abcdef-secret?apikey=fedcba9876543210"
    assert request.headers["Authorization"] == "Basic dXNlcjpwYXNzLXdvcmQ="


async def test_the_key_in_an_address_shows_nowhere(
    endpoint: Endpoint, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(endpoint), str(endpoint), endpoint.host]
    echo = f"bad key 0123456789abcdef-secret or fedcba9876543210 or pass-word in {ADDRESS}"
    faults = [
        httpx.ConnectError(echo),
        httpx.ReadError(echo),
        httpx.Response(403, text=echo),
        httpx.Response(500, text=echo),
        httpx.Response(200, json=error(0, -32005, echo)),
        httpx.Response(200, json=error(0, -32603, echo)),
    ]
    for fault in faults:
        node.faults.append(fault)
        with pytest.raises((OutcomeUnknown, RailUnavailable)) as caught:
            await endpoint.ask([HEIGHT])
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        shown += [str(caught.value), repr(caught.value)]
    node.faults.append(httpx.Response(200, json=error(0, -32000, echo)))
    (answer,) = await endpoint.ask([SEND])
    shown += [str(answer), repr(answer), caplog.text]
    for secret in ("0123456789abcdef", "fedcba9876543210", "pass-word"):
        assert all(secret not in text for text in shown), secret


async def test_what_a_node_says_is_shortened_and_on_one_line(endpoint: Endpoint, node: Node) -> None:
    node.faults.append(httpx.Response(200, json=error(0, -32000, "a\nb\x1b[31m" + "x" * 1000)))
    (answer,) = await endpoint.ask([SEND])
    assert answer.message.startswith("a b [31mxxx")
    assert len(answer.message) == 200


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must look like"),
        ("base.example.com", "must look like"),
        ("wss://base.example.com/secret-key", "must look like"),
        ("https://", "must look like"),
        ("http://base.example.com/secret-key", "use https"),
        ("http://8.8.8.8/secret-key", "use https"),
        ("https://one.test:port/secret-key", "is not an address"),
        (None, "is not an address"),
    ],
)
def test_an_address_that_cannot_be_used(network: Network, url: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Endpoint(url, timeout=5, transport=network)
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8545", "localhost", "[::1]", "10.1.2.3", "node", "node.lan", "x.onion"])
def test_http_is_for_private_networks(network: Network, host: str) -> None:
    Endpoint(f"http://{host}/", timeout=5, transport=network)
