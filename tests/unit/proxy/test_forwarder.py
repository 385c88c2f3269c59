"""One request up and one response down, as they come; what goes wrong on the way, and who then pays."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError
from rail402.proxy.app import ProxyApp
from rail402.proxy.forwarder import Forwarder, Upstream
from rail402.testing.fakes import Ending
from tests.unit.proxy.played import Asked, answer, proxied
from tests.unit.server.shop import Shop, Wire

FLOWS = ["authorization", "escrow", "upfront"]
GIVEN_BACK = {"authorization": "released", "escrow": "released", "upfront": "refunded"}

FAILURES = [
    (httpx.ConnectError("refused: 10.1.2.3"), 502, "upstream_failed"),
    (httpx.ReadError("reset"), 502, "upstream_failed"),
    (httpx.RemoteProtocolError("Server disconnected without sending a response."), 502, "upstream_failed"),
    (httpx.LocalProtocolError("Illegal header value"), 502, "upstream_failed"),
    (httpx.ConnectTimeout(""), 504, "upstream_timeout"),
    (httpx.ReadTimeout(""), 504, "upstream_timeout"),
    (httpx.WriteTimeout(""), 504, "upstream_timeout"),
    (httpx.PoolTimeout(""), 503, "upstream_busy"),
]
failures = pytest.mark.parametrize(("error", "status", "code"), FAILURES, ids=lambda case: type(case).__name__)


async def finished(work: Any) -> Any:
    async with asyncio.timeout(5):
        return await work


# --- up


async def test_a_request_goes_up_as_it_came() -> None:
    shop, upstream = proxied(unmatched="pass")
    async with shop.open():
        body = [b"one", b"", b"two"]
        fields = [(b"content-length", b"6"), (b"X-A", b"1"), (b"x-a", b"2")]
        wire = await shop.request("/%70ath/caf%c3%a9?a=%2f&&b", "PATCH", headers=fields, chunks=body).run()
    assert (wire.status, wire.body) == (200, b"the goods")
    asked = upstream.last
    assert (asked.method, asked.target, asked.body) == ("PATCH", b"/%70ath/caf%c3%a9?a=%2f&&b", [b"one", b"two"])
    assert (asked.all("content-length"), asked.all("x-a"), asked.all("transfer-encoding")) == (["6"], ["1", "2"], [])
    assert upstream.closed is False


async def test_a_body_of_unknown_length_goes_up_in_chunks() -> None:
    shop, upstream = proxied(unmatched="pass")
    async with shop.open():
        fields = [(b"transfer-encoding", b"chunked")]
        await shop.request("/x", "POST", headers=fields, chunks=[b"a", b"b"]).run()
        await shop.request("/x", "POST").run()
    first, second = upstream.asked
    assert (first.body, first.all("transfer-encoding"), first.all("content-length")) == ([b"a", b"b"], ["chunked"], [])
    assert (second.body, second.all("transfer-encoding"), second.all("content-length")) == ([], [], [])


async def test_each_part_of_a_body_goes_up_when_it_comes() -> None:
    shop, _ = proxied(unmatched="pass")
    seen: list[bytes] = []
    parts: asyncio.Queue[bytes] = asyncio.Queue()

    class Reading(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for part in request.stream:
                seen.append(part)
                parts.put_nowait(b"next")
            return answer(b"done")

    shop.app._forwarder._transport = Reading()
    async with shop.open():
        sent = [b"1", b"2", b"3"]

        async def receive() -> Any:
            if sent != [b"1", b"2", b"3"]:
                await parts.get()  # the one before has arrived upstream
            return {"type": "http.request", "body": sent.pop(0), "more_body": bool(sent)} if sent else await _never()

        wire = shop.request("/x", "PUT", headers={"transfer-encoding": "chunked"})
        wire._receive = receive  # type: ignore[method-assign]
        await finished(wire.run())
    assert (seen, wire.body) == ([b"1", b"2", b"3"], b"done")


async def _never() -> Any:
    await asyncio.Event().wait()


async def test_the_upstream_is_asked_with_the_configured_patience() -> None:
    shop, upstream = proxied(unmatched="pass", upstream={"connect_seconds": 2, "answer_seconds": 7})
    async with shop.open():
        await shop.client.get("/x")
    assert upstream.last.extensions["timeout"] == {"connect": 2, "pool": 2, "read": 7, "write": 7}


@pytest.mark.parametrize(
    ("host", "said"),
    [({}, "shop.example"), ({"host": "public"}, "shop.example"), ({"host": "upstream"}, "upstream.example:3000")],
)
async def test_the_host_that_it_gets_is_configured(host: Any, said: str) -> None:
    shop, upstream = proxied(unmatched="pass", upstream=host)
    async with shop.open():
        await shop.client.get("/x", headers={"Host": "evil.example"})
    assert upstream.last.all("host") == [said]


@pytest.mark.parametrize(
    "to", ["", "127.0.0.1:3000", "http://h/path", "http://h/", "ftp://h", "http://u:p@h", "http://h?x", "http://"]
)
def test_an_upstream_is_an_origin(to: str) -> None:
    with pytest.raises(ConfigurationError, match="must be an origin"):
        Upstream(to=to)


async def test_its_connections_are_few_and_closed() -> None:
    forwarder = Forwarder(Upstream(to="http://h", connections=3), lambda: None)  # type: ignore[arg-type, return-value]
    assert forwarder._transport._pool._max_connections == 3  # type: ignore[attr-defined]
    await forwarder.close()


# --- down


async def test_a_response_comes_down_as_it_came() -> None:
    shop, upstream = proxied(unmatched="pass")
    fields = [("Set-Cookie", "a"), ("set-cookie", "b"), ("Content-Encoding", "gzip"), ("Content-Length", "4")]
    upstream.play = lambda asked: answer(b"\x1f\x8b", b"zz", status=203, headers=fields)
    async with shop.open():
        wire = await shop.request("/x").run()
    assert (wire.status, wire.chunks, wire.all("set-cookie")) == (203, [b"\x1f\x8b", b"zz"], ["a", "b"])
    assert (wire.one("content-encoding"), wire.one("content-length"), wire.complete) == ("gzip", "4", True)


@pytest.mark.parametrize("priced", [False, True])
async def test_each_part_comes_down_when_it_is_there(priced: bool) -> None:
    shop, upstream = proxied("GET /stream", free=("GET /free",))
    turns = [asyncio.Event() for _ in range(2)]
    headers = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
    upstream.play = lambda asked: answer(turns[0], b"one", turns[1], b"two", headers=headers)
    async with shop.open():
        proof = await shop.quote("/stream") if priced else {}
        wire = shop.request("/stream" if priced else "/free", headers=proof)
        running = asyncio.create_task(wire.run())
        await wire.until(chunks=0)
        assert wire.chunks == []
        for number, turn in enumerate(turns, 1):
            turn.set()
            await wire.until(chunks=number)
            assert not wire.complete
        await finished(running)
    assert (wire.body, wire.complete) == (b"onetwo", True)


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("HEAD", 200, [("Content-Length", "9")]),
        ("GET", 304, [("Content-Length", "9"), ("ETag", '"x"')]),
        ("GET", 204, []),
        ("GET", 200, [("Content-Length", "0")]),
        ("GET", 302, [("Location", "http://upstream.example:3000/y")]),
    ],
)
async def test_a_response_without_a_body(method: str, status: int, headers: Any) -> None:
    shop, upstream = proxied(unmatched="pass")
    upstream.play = lambda asked: answer(status=status, headers=headers)
    async with shop.open():
        wire = await finished(shop.request("/x", method).run())
    assert (wire.status, wire.body, wire.complete) == (status, b"", True)
    assert wire.all("location") == (["https://shop.example/y"] if status == 302 else [])


async def test_a_paid_answer_of_one_piece_is_one_write() -> None:
    """Settlement, receipt and stored response: as for any handler whose whole body is known."""
    shop, upstream = proxied("GET /x")
    async with shop.open():
        bought = await shop.buy("/x")
        charge = await shop.only_charge()
    assert (bought.status_code, charge.payment, charge.delivery) == (200, "settled", "stored")
    assert charge.version == 2  # claimed at 0, settling, settled with its answer
    assert upstream.last.all("rail402-charge") == [charge.id]


@pytest.mark.parametrize(("method", "length"), [("HEAD", 55), ("GET", 3)])
async def test_what_follows_a_response_answers_nobody_else(method: str, length: int) -> None:
    """A body after HEAD, and one that is longer than its Content-Length, in the same packet."""
    answers = iter([b"the" * (method == "GET") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"own"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                body = next(answers)
                said = 3 if body == b"own" else length
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % said + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        shop = Shop(install=False)
        async with ProxyApp(shop.gate, Upstream(to=f"http://127.0.0.1:{port}"), priced=(), unmatched="pass") as app:
            await Wire(app, "/theirs", method).run()
            wire = await finished(Wire(app, "/own").run())
    assert wire.body == b"own"


# --- what goes wrong before the response begins


@failures
async def test_a_failure_before_the_response_is_said_by_its_status(error: Any, status: int, code: str) -> None:
    shop, upstream = proxied(unmatched="pass")
    upstream.play = lambda asked: error
    async with shop.open():
        answered = await shop.client.get("/x")
    assert (answered.status_code, answered.json()["code"]) == (status, code)
    assert answered.headers["content-type"] == "application/problem+json"
    assert "10.1.2.3" not in answered.text
    assert ("retry-after" in answered.headers) is (status == 503)


@pytest.mark.parametrize("flow", FLOWS)
@failures
async def test_nobody_pays_for_it(error: Any, status: int, code: str, flow: str) -> None:
    shop, upstream = proxied("GET /x", protect={"flow": flow})
    upstream.play = lambda asked: error
    async with shop.open():
        answered = await shop.buy("/x")
        charge = await shop.only_charge()
        assert (answered.status_code, answered.json()["code"]) == (status, code)
        assert charge.payment == GIVEN_BACK[flow]
        assert answered.headers["rail402-charge"] == f"{charge.id}; payment={charge.payment}"
        assert shop.ledger.charged_total == 0


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_nor_for_an_error_of_the_upstream_s(status: int, flow: str) -> None:
    shop, upstream = proxied("GET /x", protect={"flow": flow})
    upstream.play = lambda asked: answer(b"no", status=status)
    async with shop.open():
        answered = await shop.buy("/x")
        assert (answered.status_code, answered.content) == (status, b"no")
        assert (await shop.only_charge()).payment == GIVEN_BACK[flow]
        assert shop.ledger.charged_total == 0


@pytest.mark.parametrize("flow", FLOWS)
async def test_nor_for_a_body_of_which_nothing_came(flow: str) -> None:
    shop, upstream = proxied("GET /x", protect={"flow": flow})
    upstream.play = lambda asked: answer(httpx.ReadError(""), headers=[("Content-Length", "9")])
    async with shop.open():
        answered = await shop.buy("/x")
        assert (answered.status_code, answered.json()["code"]) == (502, "upstream_failed")
        assert (await shop.only_charge()).payment == GIVEN_BACK[flow]


@pytest.mark.parametrize("status", [101, 199, 600, 999])
async def test_a_status_that_is_none_is_not_passed_on(status: int) -> None:
    shop, upstream = proxied(unmatched="pass")
    said = answer(b"x", status=status)
    upstream.play = lambda asked: said
    async with shop.open():
        answered = await shop.client.get("/x")
    assert answered.status_code == 502
    assert said.stream.closed.is_set()  # type: ignore[union-attr]


# --- what goes wrong later


@pytest.mark.parametrize("headers", [[("Content-Length", "9")], [("Transfer-Encoding", "chunked")]])
@pytest.mark.parametrize("priced", [False, True])
async def test_a_response_that_breaks_off_has_no_end(
    priced: bool, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop, upstream = proxied("GET /x", free=("GET /free",))
    said = answer(b"the", httpx.ReadError("reset"), headers=headers)
    upstream.play = lambda asked: said
    async with shop.open():
        proof = await shop.quote("/x") if priced else {}
        wire = await shop.request("/x" if priced else "/free", headers=proof).run()
        assert (wire.status, wire.body, wire.complete) == (200, b"the", False)
        if priced:
            charge = await shop.only_charge()
            assert (charge.payment, charge.delivery) == ("settled", "failed")
            upstream.play = lambda asked: answer(b"the goods")
            again = await shop.request("/x", headers=proof).run()  # which is owed, and costs nothing more
            assert (again.status, again.body) == (200, b"the goods")
            assert shop.ledger.charged_total == 3000
    assert said.stream.closed.is_set()  # type: ignore[union-attr]
    assert "broken off" in caplog.text


async def test_a_body_that_stalls_is_broken_off_like_one_that_breaks() -> None:
    shop, upstream = proxied(unmatched="pass")
    upstream.play = lambda asked: answer(b"the", httpx.ReadTimeout(""), headers=[("Content-Length", "9")])
    async with shop.open():
        wire = await shop.request("/x").run()
    assert (wire.body, wire.complete) == (b"the", False)


# --- the client goes


async def gone_while(shop: Shop, wire: Wire, waiting: asyncio.Event) -> None:
    running = asyncio.create_task(wire.run())
    async with asyncio.timeout(5):
        await waiting.wait()
        wire.gone.set()
        await running


@pytest.mark.parametrize("priced", [False, True])
async def test_the_upstream_is_left_when_the_client_goes_before_the_answer(priced: bool) -> None:
    shop, upstream = proxied("GET /x", free=("GET /free",))
    cancelled = asyncio.Event()

    async def wait(asked: Asked) -> None:
        try:
            await _never()
        finally:
            cancelled.set()

    upstream.play = wait
    async with shop.open():
        proof = await shop.quote("/x") if priced else {}
        wire = shop.request("/x" if priced else "/free", headers=proof)
        await gone_while(shop, wire, upstream.reached)
        assert cancelled.is_set()
        if priced:
            assert (await shop.only_charge()).payment == "released"
            assert shop.ledger.charged_total == 0
        else:
            assert wire.sent == []


@pytest.mark.parametrize("priced", [False, True])
async def test_and_in_the_middle_of_it(priced: bool) -> None:
    shop, upstream = proxied("GET /x", free=("GET /free",))
    said = answer(b"the", None, headers=[("Transfer-Encoding", "chunked")])
    upstream.play = lambda asked: said
    async with shop.open():
        proof = await shop.quote("/x") if priced else {}
        wire = shop.request("/x" if priced else "/free", headers=proof)
        running = asyncio.create_task(wire.run())
        await wire.until(chunks=1)
        wire.gone.set()
        await finished(running)
        assert said.stream.closed.is_set()  # type: ignore[union-attr]
        assert not wire.complete
        if priced:
            assert [(each.payment, each.delivery) for each in await shop.charges()] == [("settled", "failed")]


async def test_and_in_the_middle_of_its_own_request() -> None:
    shop, upstream = proxied(unmatched="pass")
    async with shop.open():
        wire = shop.request("/x", "POST", headers={"content-length": "9"})
        wire._chunks = []
        wire.gone.set()
        await finished(wire.run())
    assert (wire.sent, upstream.asked) == ([], [])


async def test_a_client_that_leaves_with_its_answer_stops_nothing() -> None:
    shop, _ = proxied("GET /x")
    async with shop.open():
        wire = shop.request("/x", headers=await shop.quote("/x"))

        async def leave(message: Any) -> None:
            wire.gone.set()

        wire._watch = leave
        await finished(wire.run())
        assert (await shop.only_charge()).delivery == "stored"
    assert wire.complete


async def test_a_client_that_stalls_in_its_request_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, upstream = proxied(unmatched="pass")
    monkeypatch.setattr(shop.app._forwarder, "_upstream", replace(shop.app.upstream, answer_seconds=0))
    async with shop.open():
        wire = shop.request("/x", "POST", headers={"content-length": "9"})
        wire._chunks = []
        await finished(wire.run())
    assert (wire.status, wire.json()["code"], upstream.asked) == (408, "request_timeout", [])


async def test_an_upstream_that_answers_before_it_has_read_everything() -> None:
    shop, upstream = proxied(unmatched="pass")
    upstream.reads = False
    upstream.play = lambda asked: answer(b"too large", status=413)
    async with shop.open():
        wire = await finished(shop.request("/x", "POST", headers={"content-length": "9"}, chunks=[b"1", b"2"]).run())
    assert (wire.status, wire.body) == (413, b"too large")


async def test_the_client_may_go_then_too() -> None:
    shop, upstream = proxied(unmatched="pass")
    upstream.reads = False
    said = answer(b"early", None, headers=[("Transfer-Encoding", "chunked")])
    upstream.play = lambda asked: said
    async with shop.open():
        wire = shop.request("/x", "POST", headers={"content-length": "9"}, chunks=[b"1", b"2"])
        running = asyncio.create_task(wire.run())
        await wire.until(chunks=1)
        wire.gone.set()
        await finished(running)
    assert said.stream.closed.is_set()  # type: ignore[union-attr]


async def test_a_request_that_is_cancelled_leaves_nothing_running() -> None:
    shop, upstream = proxied(unmatched="pass")
    upstream.play = lambda asked: _never()
    async with shop.open():
        running = asyncio.create_task(shop.request("/x").run())
        await finished(upstream.reached.wait())
        before = asyncio.all_tasks()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(before - asyncio.all_tasks()) >= 3


# --- what the gate makes of it


async def test_money_that_does_not_come_stops_the_response() -> None:
    shop, upstream = proxied("GET /x")
    said = answer(b"the goods", None, headers=[("Transfer-Encoding", "chunked")])
    upstream.play = lambda asked: said
    async with shop.open():
        proof = await shop.quote("/x")
        shop.ledger.script("settle", Ending.FAILED)
        wire = await finished(shop.request("/x", headers=proof).run())
        assert wire.status == 402
        assert b"the goods" not in wire.body
    assert said.stream.closed.is_set()  # type: ignore[union-attr]


async def test_a_replay_asks_nobody() -> None:
    shop, upstream = proxied("POST /x")
    async with shop.open():
        proof = await shop.quote("/x", "POST", content=b"{}")
        first = await shop.client.post("/x", content=b"{}", headers=proof)
        upstream.play = lambda asked: httpx.ConnectError("down")
        again = await shop.client.post("/x", content=b"{}", headers=proof)
    assert (first.content, again.content) == (b"the goods", b"the goods")
    assert again.headers["idempotent-replayed"] == "true"
    assert len(upstream.asked) == 1


async def test_upstream_knows_who_paid_and_only_then() -> None:
    shop, upstream = proxied("GET /x", free=("GET /free",))
    async with shop.open():
        await shop.client.get("/free", headers={"Rail402-Charge": "ch_forged", "Rail402_Payer": "me"})
        assert not [name for name, _ in upstream.last.headers if b"rail402-" in name.lower()]
        proof = await shop.quote("/x")
        await shop.client.get("/x", headers=proof | {"Rail402-Payer": "somebody else"})
        charge = await shop.only_charge()
    assert {name.decode(): value.decode() for name, value in upstream.last.headers if b"rail402-" in name} == {
        "rail402-charge": charge.id,
        "rail402-rail": "fake",
        "rail402-price": "0.003 USD",
        "rail402-payer": charge.payer,
    }
    assert not [name for name, _ in upstream.last.headers if name in (b"payment-signature", b"authorization")]


async def test_a_body_for_a_paid_route_has_its_limit_and_reaches_upstream_whole() -> None:
    shop, upstream = proxied("POST /x", max_body=4)
    async with shop.open():
        assert (await shop.client.post("/x", content=b"12345")).status_code == 413
        assert upstream.asked == []
        assert (await shop.buy("/x", "POST", content=b"1234")).status_code == 200
    assert (upstream.last.body, upstream.last.all("content-length")) == ([b"1234"], ["4"])
