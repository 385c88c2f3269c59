"""The answer on its way out: paid before the first byte, never buffered, kept for a repeat where it fits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from rail402.errors import StoreError
from rail402.protocol.charge import Delivery, PaymentState
from rail402.protocol.receipt import verify_receipt
from rail402.server.delivery import Withheld
from rail402.server.settings import Receipts
from rail402.testing.fakes import Ending
from tests.unit.server.shop import Shop, Wire

FLOWS = ["authorization", "escrow", "upfront"]


def shop_with(endpoint: Any, flow: str = "authorization", methods: Any = ("GET",), **options: Any) -> Shop:
    """Return a shop that sells one endpoint, or one bare ASGI app, at /goods."""
    shop = Shop(**options)
    if asyncio.iscoroutinefunction(endpoint) and endpoint.__code__.co_argcount == 3:
        shop.app.mount("/goods", endpoint)
        shop.gate.protect("* /goods/*", price="0.003 USD", flow=flow)
    else:
        shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow=flow)(endpoint), methods=list(methods))
    return shop


class Reel:
    """A body that leaves piece by piece, each only when it is let go."""

    def __init__(self, pieces: int) -> None:
        self.turns = [asyncio.Event() for _ in range(pieces)]
        self.runs = 0

    async def play(self) -> AsyncIterator[bytes]:
        for number, turn in enumerate(self.turns):
            await turn.wait()
            yield b"data: %d\n\n" % number

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        return StreamingResponse(self.play(), media_type="text/event-stream")


# --- streaming


@pytest.mark.parametrize("flow", FLOWS)
async def test_each_chunk_leaves_when_the_handler_yields_it(flow: str) -> None:
    reel = Reel(3)
    shop = shop_with(reel.endpoint, flow)
    async with shop.open():
        wire = shop.request("/goods", headers=await shop.quote("/goods"))
        running = asyncio.create_task(wire.run())
        await wire.until(chunks=0)
        assert (wire.status, wire.chunks) == (200, [])
        for number, turn in enumerate(reel.turns):
            turn.set()
            await wire.until(chunks=number + 1)
            assert wire.chunks[-1] == b"data: %d\n\n" % number
            assert not wire.complete
        await running
        assert wire.complete
        assert wire.one("content-type").startswith("text/event-stream")


@pytest.mark.parametrize("flow", FLOWS)
async def test_it_is_settled_before_the_first_byte_leaves(flow: str) -> None:
    settled: list[bool] = []

    async def streamed(request: Request) -> Response:
        return StreamingResponse(iter(["a", "b"]))

    async def watch(message: Any) -> None:
        settled.append(shop.ledger.charged_total == 3000 and (await shop.only_charge()).payment == "settled")

    shop = shop_with(streamed, flow)
    async with shop.open():
        wire = await shop.request("/goods", headers=await shop.quote("/goods"), watch=watch).run()
        assert wire.body == b"ab"
        assert settled == [True] * 4  # the head, two pieces, the end


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_client_that_has_it_all_may_leave_before_the_end(
    flow: str, pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A body of known length is complete with its last byte; the empty message that ends a stream comes after that."""
    runs: list[Any] = []

    async def goods(scope: Any, receive: Any, send: Any) -> None:
        runs.append(scope)
        head = [(b"content-length", b"%d" % (4 * pieces))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for _ in range(pieces):
            await send({"type": "http.response.body", "body": b"word", "more_body": True})
        raise asyncio.CancelledError  # as a framework does whose client has left

    shop = shop_with(goods, flow)
    async with shop.open():
        proof = await shop.quote("/goods/1")
        wire = shop.request("/goods/1", headers=proof)
        with pytest.raises(asyncio.CancelledError):
            await wire.run()
        assert wire.body == b"word" * pieces
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert (await shop.request("/goods/1", headers=proof).run()).body == b"word" * pieces
    assert len(runs) == 1
    assert "changed the charge" not in caplog.text


@pytest.mark.parametrize("pieces", [["half"], ["nearly ", "half"]])
@pytest.mark.parametrize("flow", FLOWS)
async def test_an_answer_that_is_shorter_than_it_says_is_no_answer(flow: str, pieces: list[str]) -> None:
    """Servers break it off; so its payer does not have it, and is not to have paid for it."""
    lengths = iter([99, len("".join(pieces))])

    async def short(request: Request) -> Response:
        headers = {"content-length": str(next(lengths))}
        return StreamingResponse(iter(pieces), headers=headers) if pieces[1:] else Response(pieces[0], headers=headers)

    shop = shop_with(short, flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        await shop.request("/goods", headers=proof).run()
        charge = await shop.only_charge()
        assert charge.delivery is Delivery.FAILED
        if flow == "upfront" and not pieces[1:]:  # nothing has left: it is given back, as after any failure
            assert (charge.payment, shop.ledger.charged_total) == (PaymentState.REFUNDED, 0)
            return
        again = await shop.request("/goods", headers=proof).run()
        assert (again.status, again.body) == (200, "".join(pieces).encode())
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("flow", FLOWS)
async def test_what_has_no_body_lacks_none(flow: str) -> None:
    async def head(request: Request) -> Response:
        return Response(headers={"content-length": "99"})

    shop = shop_with(head, flow, methods=["HEAD"])
    async with shop.open():
        proof = await shop.quote("/goods", method="HEAD")
        await shop.request("/goods", method="HEAD", headers=proof).run()
        assert (await shop.only_charge()).delivery is Delivery.STORED


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_client_that_leaves_while_the_last_piece_is_kept(flow: str, caplog: pytest.LogCaptureFixture) -> None:
    keeping, kept = asyncio.Event(), asyncio.Event()

    async def streamed(request: Request) -> Response:
        return StreamingResponse(iter(["nearly ", "all"]))

    shop = shop_with(streamed, flow)
    async with shop.open():
        proof, store = await shop.quote("/goods"), shop.gate.services().store
        save = store.save

        async def saving(charge: Any, **more: Any) -> Any:
            if more.get("response") is not None:
                keeping.set()
                await kept.wait()
            return await save(charge, **more)

        store.save = saving  # type: ignore[method-assign]
        running = asyncio.create_task(shop.request("/goods", headers=proof).run())
        async with asyncio.timeout(5):
            await keeping.wait()
        running.cancel()
        await asyncio.wait({running}, timeout=0.01)
        kept.set()
        await asyncio.wait({running})
        await shop.gate.services().drain()
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
    assert "changed the charge" not in caplog.text


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_client_that_reads_slowly_does_not_get_another_run(flow: str) -> None:
    stalled, go_on, renewed, runs = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    async def reading(message: Any) -> None:
        if message.get("body"):
            stalled.set()
            await go_on.wait()

    async def streamed(request: Request) -> Response:
        runs.append(request)
        return StreamingResponse(iter(["nearly all"]))

    shop = shop_with(streamed, flow, handler_seconds=1, settle_seconds=1, wait_seconds=0)
    async with shop.open():
        proof, store = await shop.quote("/goods"), shop.gate.services().store
        wire = shop.request("/goods", headers=proof, watch=reading)
        running = asyncio.create_task(wire.run())
        async with asyncio.timeout(5):
            await stalled.wait()
            save = store.save

            async def saving(*charge: Any, **more: Any) -> Any:
                renewed.set()
                return await save(*charge, **more)

            store.save = saving  # type: ignore[method-assign]
            shop.clock.advance(2)  # the whole lease, but for what keeps it
            await renewed.wait()
        repeated = await shop.client.get("/goods", headers=proof)
        assert (repeated.status_code, repeated.json()["code"], len(runs)) == (409, "payment_in_progress", 1)
        go_on.set()
        await running
        assert (wire.body, wire.complete) == (b"nearly all", True)
        assert (await shop.client.get("/goods", headers=proof)).headers["idempotent-replayed"] == "true"
        assert len(runs) == 1


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_streamed_body_replays_once_it_was_complete(flow: str) -> None:
    reel = Reel(2)
    shop = shop_with(reel.endpoint, flow)
    for turn in reel.turns:
        turn.set()
    async with shop.open():
        proof = await shop.quote("/goods")
        first = await shop.request("/goods", headers=proof).run()
        again = await shop.request("/goods", headers=proof).run()
        assert again.body == first.body == b"data: 0\n\ndata: 1\n\n"
        assert again.one("idempotent-replayed") == "true"
        assert reel.runs == 1


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_body_past_the_limit_streams_and_may_run_once_more_uncharged(flow: str) -> None:
    runs = 0

    async def long(request: Request) -> Response:
        nonlocal runs
        runs += 1
        return StreamingResponse(iter([b"x" * 60, b"y" * 60]))

    shop = shop_with(long, flow, max_stored=100)
    async with shop.open():
        proof = await shop.quote("/goods")
        for run in (1, 2):
            wire = await shop.request("/goods", headers=proof).run()
            assert (wire.status, wire.body) == (200, b"x" * 60 + b"y" * 60)
            assert (await shop.only_charge()).delivery is Delivery.STREAMED
            assert runs == run
            assert wire.all("idempotent-replayed") == []
        third = await shop.request("/goods", headers=proof).run()
        assert (third.status, third.json()["code"]) == (402, "proof_already_used")
        assert (runs, shop.ledger.count("settle"), shop.ledger.charged_total) == (2, 1, 3000)


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_body_of_known_length_in_pieces_streams_and_replays(flow: str) -> None:
    async def goods(request: Request) -> Response:
        return StreamingResponse(iter([b"the ", b"goods"]), headers={"content-length": "9"})

    shop = shop_with(goods, flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        first = await shop.request("/goods", headers=proof).run()
        assert first.chunks == [b"the ", b"goods", b""]
        again = await shop.request("/goods", headers=proof).run()
        assert (again.body, again.one("content-length")) == (b"the goods", "9")


async def test_a_long_body_is_not_kept_in_memory_past_the_limit() -> None:
    async def endless(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 1000

        return StreamingResponse(pieces())

    shop = shop_with(endless, max_stored=1000)
    async with shop.open():
        wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert len(wire.body) == 50_000
        assert await shop.gate.services().store.response((await shop.only_charge()).id) is None


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_declared_length_past_the_limit_settles_before_the_body_is_made(flow: str) -> None:
    async def long(request: Request) -> Response:
        return Response(b"x" * 200)

    shop = shop_with(long, flow, max_stored=100)
    async with shop.open():
        wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert (wire.status, len(wire.body), wire.one("content-length")) == (200, 200, "200")
        assert (await shop.only_charge()).delivery is Delivery.STREAMED


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_body_that_breaks_off_is_settled_and_may_run_once_more(flow: str) -> None:
    runs = 0

    async def fragile(request: Request) -> Response:
        nonlocal runs
        runs += 1

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            if runs == 1:
                raise RuntimeError("the source broke")
            yield b"two"

        return StreamingResponse(pieces())

    shop = shop_with(fragile, flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        wire = shop.request("/goods", headers=proof)
        with pytest.raises(RuntimeError, match="the source broke"):
            await wire.run()
        assert (wire.body, wire.complete) == (b"one", False)  # nothing of ours is glued to a broken body
        broken = await shop.only_charge()
        assert (broken.payment, broken.delivery) == (PaymentState.SETTLED, Delivery.FAILED)
        rerun = await shop.request("/goods", headers=proof).run()
        assert rerun.body == b"onetwo"
        replay = await shop.request("/goods", headers=proof).run()
        assert replay.one("idempotent-replayed") == "true"
        assert (runs, shop.ledger.charged_total, shop.ledger.count("refund")) == (2, 3000, 0)


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_client_that_goes_away_has_paid_and_may_come_back_once(flow: str, spec_version: str) -> None:
    reel = Reel(2)
    shop = shop_with(reel.endpoint, flow)
    asgi = {"asgi": {"version": "3.0", "spec_version": spec_version}}

    async def gone_after_one(message: Any) -> None:
        if len(wire.sent) == 2:
            raise OSError("the client is gone")

    async with shop.open():
        proof = await shop.quote("/goods")
        wire = shop.request("/goods", headers=proof, scope=asgi, watch=gone_after_one)
        running = asyncio.create_task(wire.run())
        reel.turns[0].set()
        await wire.until(chunks=1)
        wire.gone.set()
        if spec_version == "2.4":  # there it is `send` that tells
            reel.turns[1].set()
        await asyncio.gather(running, return_exceptions=True)
        await shop.gate.services().drain()
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.FAILED)
        reel.turns[1].set()
        rerun = await shop.request("/goods", headers=proof).run()
        assert rerun.body == b"data: 0\n\ndata: 1\n\n"
        assert reel.runs == 2
        assert (shop.ledger.charged_total, shop.ledger.count("refund")) == (3000, 0)


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_cancelled_stream_is_a_failed_delivery(flow: str) -> None:
    reel = Reel(2)
    shop = shop_with(reel.endpoint, flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        wire = shop.request("/goods", headers=proof)
        async with anyio.create_task_group() as group:  # as BaseHTTPMiddleware cancels: at every await, again and again

            async def run() -> None:
                await wire.run()

            group.start_soon(run)
            reel.turns[0].set()
            await wire.until(chunks=1)
            group.cancel_scope.cancel()
        await shop.gate.services().drain()
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.FAILED)
        assert not wire.complete


async def test_a_failing_rerun_gives_no_money_back() -> None:
    """The first run delivered everything; who could then make the rerun fail would have had it for nothing."""

    async def ranged(request: Request) -> Response:
        return StreamingResponse(iter([b"x" * 200]), 416 if "range" in request.headers else 200)

    for flow in FLOWS:
        shop = shop_with(ranged, flow, max_stored=100)
        async with shop.open():
            proof = await shop.quote("/goods")
            assert (await shop.request("/goods", headers=proof).run()).status == 200
            second = await shop.request("/goods", headers=proof | {"range": "bytes=900-"}).run()
            assert second.status == 416
            assert shop.ledger.count("refund") == 0
            assert shop.ledger.charged_total == 3000


async def test_a_long_stream_keeps_its_lease_alive() -> None:
    async def slow(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x"
                shop.clock.advance(50)
                assert await shop.gate.reconcile() == 0

        return StreamingResponse(pieces())

    shop = shop_with(slow)
    async with shop.open():
        wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert wire.body == b"x" * 20
        assert (await shop.only_charge()).delivery is Delivery.STORED


async def test_a_stream_that_falls_silent_too_long_is_taken_over_and_not_kept() -> None:
    reel = Reel(2)

    async def goods(request: Request) -> Response:
        return Response(b"rerun") if reel.runs else await reel.endpoint(request)

    shop = Shop()
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", receipt=Receipts(valid="1d"))(goods))
    async with shop.open():
        proof = await shop.quote("/goods")
        late = shop.request("/goods", headers=proof)
        running = asyncio.create_task(late.run())
        reel.turns[0].set()
        await late.until(chunks=1)
        shop.clock.advance(1000)  # its worker seems dead by now
        rerun = await shop.request("/goods", headers=proof).run()
        assert rerun.body == b"rerun"
        reel.turns[1].set()
        await running
        assert late.body == b"data: 0\n\ndata: 1\n\n"
        again = await shop.request("/goods", headers=proof).run()
        assert again.body == b"rerun"
        assert shop.ledger.charged_total == 3000


# --- what a response can look like


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("status", [200, 201, 204, 206, 302, 303, 304, 307])
async def test_every_success_and_every_redirect_settles(flow: str, status: int) -> None:
    async def answer(request: Request) -> Response:
        return (
            RedirectResponse("/elsewhere", status) if 302 <= status < 304 or status == 307 else Response(None, status)
        )

    shop = shop_with(answer, flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        first = await shop.request("/goods", headers=proof).run()
        again = await shop.request("/goods", headers=proof).run()
        assert (first.status, again.status) == (status, status)
        assert shop.ledger.charged_total == 3000
        assert (await shop.only_charge()).delivery is Delivery.STORED
        assert again.one("idempotent-replayed") == "true"
        assert first.all("location") == again.all("location")


async def test_every_set_cookie_and_repeated_line_is_kept() -> None:
    async def cookies(request: Request) -> Response:
        response = JSONResponse({})
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        response.raw_headers.append((b"link", b"<1>"))
        response.raw_headers.append((b"link", b"<2>"))
        return response

    shop = shop_with(cookies)
    async with shop.open():
        proof = await shop.quote("/goods")
        first = await shop.request("/goods", headers=proof).run()
        again = await shop.request("/goods", headers=proof).run()
        for wire in (first, again):
            assert [line.split(";")[0] for line in wire.all("set-cookie")] == ["a=1", "b=2"]
            assert wire.all("link") == ["<1>", "<2>"]


async def test_what_belongs_to_the_connection_is_not_replayed() -> None:
    async def proxied(request: Request) -> Response:
        return Response(b"x", headers={"Connection": "close", "Keep-Alive": "timeout=5", "Trailer": "x", "ETag": '"1"'})

    shop = shop_with(proxied)
    async with shop.open():
        proof = await shop.quote("/goods")
        await shop.request("/goods", headers=proof).run()
        again = await shop.request("/goods", headers=proof).run()
        assert (again.all("connection"), again.all("keep-alive"), again.all("trailer")) == ([], [], [])
        assert again.one("etag") == '"1"'


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_file_never_passes_the_gate_by_pathsend(flow: str, tmp_path: Path) -> None:
    (tmp_path / "goods").write_bytes(b"the goods")

    async def file(request: Request) -> Response:
        return FileResponse(tmp_path / "goods")

    shop = shop_with(file, flow)
    offered = {"extensions": {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "tls": {"v": 1}}}
    async with shop.open():
        proof = await shop.quote("/goods")
        wire = await shop.request("/goods", headers=proof, scope=offered).run()
        assert {message["type"] for message in wire.sent} == {"http.response.start", "http.response.body"}
        assert wire.body == b"the goods"
        assert list(wire.scope["extensions"]) == ["tls"]


async def test_head_is_settled_and_replayed_like_any_other() -> None:
    async def goods(request: Request) -> Response:
        return Response(b"" if request.method == "HEAD" else b"goods", headers={"content-length": "5"})

    shop = shop_with(goods)
    async with shop.open():
        quoted = await shop.client.head("/goods")
        assert quoted.status_code == 402
        proof = await shop.proof(quoted)
        first = await shop.request("/goods", "HEAD", headers=proof).run()
        assert (first.status, first.body, first.one("content-length")) == (200, b"", "5")
        got = await shop.request("/goods", headers=proof).run()
        assert (got.status, got.json()["code"]) == (402, "resource_mismatch")  # what is paid for HEAD opens no GET
        assert shop.ledger.charged_total == 3000


async def test_trailers_follow_the_last_chunk() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"trailer", b"digest")]
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": [(b"digest", b"1")]})

    shop = shop_with(app)
    async with shop.open():
        wire = await shop.request("/goods/", headers=await shop.quote("/goods/")).run()
        kinds = [message["type"] for message in wire.sent]
        assert kinds == ["http.response.start", "http.response.body", "http.response.trailers"]
        assert wire.sent[0]["trailers"] is True


async def test_background_tasks_run_only_once_it_is_charged() -> None:
    done: list[str] = []

    async def goods(request: Request) -> Response:
        return JSONResponse({}, background=BackgroundTask(done.append, "sent the mail"))

    for ending, status in [(Ending.FAILED, 402), (Ending.UNKNOWN_DONE, 503), (Ending.NOT_PAID, 402), (Ending.OK, 200)]:
        shop = shop_with(goods)
        async with shop.open():
            proof = await shop.quote("/goods")
            shop.ledger.script("settle", ending)
            assert (await shop.client.get("/goods", headers=proof)).status_code == status
            assert done == (["sent the mail"] if ending is Ending.OK else [])


async def test_the_receipt_names_the_body_where_it_is_known_in_time() -> None:
    async def whole(request: Request) -> Response:
        return Response(b"goods")

    async def pieces(request: Request) -> Response:
        return StreamingResponse(iter([b"goods"]))

    for flow in FLOWS:
        for endpoint, digest in [(whole, hashlib.sha256(b"goods").hexdigest()), (pieces, None)]:
            shop = shop_with(endpoint, flow)
            async with shop.open():
                wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
                jwks = shop.gate.services().receipt_keys.jwks
                assert verify_receipt(wire.one("receipt-record"), jwks).response_digest == digest


# --- the money does not come


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.NOT_PAID, Ending.UNKNOWN_DONE, Ending.UNAVAILABLE])
async def test_nothing_of_a_stream_leaves_unpaid(ending: Ending) -> None:
    started = closed = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal started, closed
        started += 1
        try:
            yield b"the goods"
        finally:
            closed += 1

    async def goods(request: Request) -> Response:
        return StreamingResponse(pieces())

    shop = shop_with(goods)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", ending)
        wire = await shop.request("/goods", headers=proof).run()
        assert wire.status in (402, 503)
        assert b"goods" not in wire.body.replace(b"/goods", b"")
        assert started == closed == 0


async def test_an_unknown_settlement_drains_a_body_of_known_length() -> None:
    async def goods(request: Request) -> Response:
        return StreamingResponse(iter([b"the ", b"goods"]), headers={"content-length": "9"})

    shop = shop_with(goods)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        first = await shop.request("/goods", headers=proof).run()
        assert first.status == 503
        assert b"the goods" not in first.body
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.UNKNOWN, Delivery.STORED)
        assert await shop.gate.reconcile() == 1  # at once: nobody works on it any more
        again = await shop.request("/goods", headers=proof).run()
        assert (again.status, again.body) == (200, b"the goods")


@pytest.mark.parametrize(("length", "body"), [("9", b"x" * 200), ("90", b"x")])
async def test_a_drained_body_that_lied_about_its_length_is_not_kept(length: str, body: bytes) -> None:
    async def goods(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield body
            raise RuntimeError("and then it broke")

        return StreamingResponse(pieces(), headers={"content-length": length})

    shop = shop_with(goods, max_stored=100)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        wire = shop.request("/goods", headers=proof)
        await asyncio.gather(wire.run(), return_exceptions=True)
        assert wire.status == 503
        assert await shop.gate.services().store.response((await shop.only_charge()).id) is None
        shop.clock.advance(500)
        await shop.gate.reconcile()
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.FAILED)


async def test_a_handler_that_swallows_the_refusal_still_sends_nothing() -> None:
    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        for message in (
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b"the goods", "more_body": True},
            {"type": "http.response.body", "body": b"more"},
        ):
            try:
                await send(message)
            except Withheld as error:
                refused.append(error)

    refused: list[Exception] = []
    shop = shop_with(stubborn)
    async with shop.open():
        proof = await shop.quote("/goods/")
        shop.ledger.script("settle", Ending.FAILED)
        wire = await shop.request("/goods/", headers=proof).run()
        assert (wire.status, wire.json()["code"]) == (402, "payment_declined")
        assert len(refused) == 3


async def test_other_errors_beside_the_refusal_go_on_to_the_server() -> None:
    async def clumsy(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            raise KeyError("a bug while it cleans up")

    shop = shop_with(clumsy)
    async with shop.open():
        proof = await shop.quote("/goods/")
        shop.ledger.script("settle", Ending.FAILED)
        wire = shop.request("/goods/", headers=proof)
        with pytest.raises(KeyError, match="a bug"):
            await wire.run()
        assert wire.status == 402


# --- a handler that does not keep to ASGI


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"type": "http.response.body", "body": b"the goods"}],
        [{"type": "http.response.pathsend", "path": "/the/goods"}],
        [
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]},
            {"type": "http.response.pathsend", "path": "/the/goods"},
        ],
        [{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]}] * 2,
    ],
)
async def test_a_response_that_never_became_one_costs_nothing(messages: list[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(dict(message))

    shop = shop_with(app)
    async with shop.open():
        wire = await shop.request("/goods/", headers=await shop.quote("/goods/")).run()
        assert (wire.status, wire.json()["code"]) == (500, "handler_failed")
        assert b"/the/goods" not in wire.body
        assert {message["type"] for message in wire.sent} == {"http.response.start", "http.response.body"}
        assert shop.ledger.charged_total == 0
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.RELEASED, Delivery.FAILED)


# --- undoing


@pytest.mark.parametrize("flow", ["escrow", "upfront"])
async def test_a_failed_handlers_answer_does_not_wait_for_a_hanging_rail(flow: str) -> None:
    hanging, go_on = asyncio.Event(), asyncio.Event()

    async def hang(name: str, key: str) -> None:
        if name in ("release", "refund"):
            hanging.set()
            await go_on.wait()

    async def broken(request: Request) -> Response:
        return JSONResponse({"error": "mine"}, 500)

    shop = shop_with(broken, flow, release_seconds=0, wait_seconds=0)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.before = hang
        first = await shop.client.get("/goods", headers=proof)
        assert (first.status_code, first.json()) == (500, {"error": "mine"})
        assert (await shop.only_charge()).id in first.headers["rail402-charge"]
        await hanging.wait()
        again = await shop.client.get("/goods", headers=proof)
        assert (again.status_code, again.json()["code"]) == (503, "outcome_unknown")
        go_on.set()
        await shop.gate.services().drain()
        assert shop.ledger.charged_total == 0
        assert not shop.ledger.held


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_store_so_slow_that_the_error_leaves_first_does_not_swallow_the_refund(flow: str) -> None:
    async def broken(request: Request) -> Response:
        return JSONResponse({"error": "mine"}, 500)

    shop = shop_with(broken, flow, release_seconds=0)
    async with shop.open():
        proof = await shop.quote("/goods")
        store, answered = shop.gate.services().store, asyncio.Event()
        save = store.save

        async def slow(charge: Any, **kwargs: Any) -> Any:
            if charge.delivery is Delivery.FAILED:
                await answered.wait()
            return await save(charge, **kwargs)

        store.save = slow  # type: ignore[method-assign]
        assert (await shop.client.get("/goods", headers=proof)).json() == {"error": "mine"}
        answered.set()
        await shop.gate.services().drain()
        assert shop.ledger.charged_total == 0
        assert not shop.ledger.held


async def test_a_refund_that_fails_leaves_the_rerun_open() -> None:
    answers = iter([500, 200])

    async def flaky(request: Request) -> Response:
        return JSONResponse({}, next(answers))

    shop = shop_with(flaky, "upfront")
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("refund", Ending.FAILED)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 500
        settled_at, shop.clock.now = shop.clock.now, shop.clock.now + 100
        await shop.gate.reconcile()
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.FAILED)
        assert charge.settled_at == settled_at  # the window does not begin anew
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("ending", [Ending.UNAVAILABLE, Ending.UNKNOWN_NOT_DONE])
async def test_a_refund_that_does_not_get_through_is_not_forgotten(ending: Ending) -> None:
    async def broken(request: Request) -> Response:
        return JSONResponse({}, 500)

    shop = shop_with(broken, "upfront")
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("refund", ending)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 500
        waiting = await shop.client.get("/goods", headers=proof)
        assert (waiting.status_code, waiting.json()["code"]) == (503, "outcome_unknown")
        assert await shop.gate.reconcile() == 1
        assert ((await shop.only_charge()).payment, shop.ledger.charged_total) == (PaymentState.REFUNDED, 0)
        assert (await shop.client.get("/goods", headers=proof)).json()["code"] == "refunded"


@pytest.mark.parametrize("ending", [Ending.UNKNOWN_DONE, Ending.UNKNOWN_NOT_DONE, Ending.UNAVAILABLE])
async def test_a_release_whose_answer_is_lost_is_looked_up(ending: Ending) -> None:
    async def broken(request: Request) -> Response:
        return JSONResponse({}, 500)

    shop = shop_with(broken, "escrow")
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("release", ending)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        assert not shop.ledger.held


# --- the store goes down when the money is ours


class Forgetful:
    """A store that is down for the next calls of some verbs."""

    def __init__(self, store: Any) -> None:
        self._store, self.down = store, {}

    def __getattr__(self, verb: str) -> Any:
        if self.down.get(verb, 0) > 0:
            self.down[verb] -= 1
            raise StoreError(f"{verb} is down")
        return getattr(self._store, verb)


async def test_a_stream_that_is_paid_goes_on_while_the_store_is_down() -> None:
    async def slow(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            shop.clock.advance(100)
            store.down["save"] = 2  # the lease cannot be renewed, and the copy not be kept
            yield b"two"

        return StreamingResponse(pieces())

    shop = shop_with(slow)
    async with shop.open():
        services = shop.gate.services()
        store = services.store = Forgetful(services.store)  # type: ignore[assignment]
        wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert (wire.status, wire.body, wire.complete) == (200, b"onetwo", True)
        assert (await shop.only_charge()).delivery is Delivery.RUNNING


async def test_an_answer_to_settled_money_leaves_even_if_it_cannot_be_kept() -> None:
    async def goods(request: Request) -> Response:
        store.down["save"] = 1
        return Response(b"goods")

    shop = shop_with(goods, "upfront")
    async with shop.open():
        services = shop.gate.services()
        store = services.store = Forgetful(services.store)  # type: ignore[assignment]
        wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert (wire.status, wire.body) == (200, b"goods")
        assert shop.ledger.count("refund") == 0


async def test_a_failed_handler_while_the_store_is_down_is_left_to_its_lease() -> None:
    async def broken(request: Request) -> Response:
        store.down["save"] = 1
        return JSONResponse({}, 500)

    shop = shop_with(broken)
    async with shop.open():
        services = shop.gate.services()
        store = services.store = Forgetful(services.store)  # type: ignore[assignment]
        wire: Wire = await shop.request("/goods", headers=await shop.quote("/goods")).run()
        assert wire.status == 500
        shop.clock.advance(500)
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
