"""A payment that buys several requests: each takes one use, no more than were paid for, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from rail402.errors import StoreError
from rail402.protocol.charge import Delivery
from rail402.server.settings import Receipts
from rail402.testing.fakes import Ending
from tests.unit.server.shop import Shop

FLOWS = ["authorization", "escrow", "upfront"]
THREE = Receipts(valid="1h", uses=3)
LEASE = 120
"""Seconds for which who runs a handler is trusted to be alive, by default."""


class Library:
    """A shop whose handler can be told what to do next."""

    def __init__(self, flow: str = "authorization", receipt: Receipts = THREE, **options: Any) -> None:
        self.shop = Shop(**options)
        self.flow, self.receipt = flow, receipt
        self.runs = 0
        self.next: list[Any] = []
        self.sell("/books/{name}")

    def sell(self, path: str, price: Any = "0.003 USD") -> None:
        paid = self.shop.gate.paid(price, flow=self.flow, receipt=self.receipt)
        self.shop.app.add_route(path, paid(self.book), methods=["GET", "POST"])

    async def book(self, request: Request) -> Response:
        self.runs += 1
        what = self.next.pop(0) if self.next else 200
        if isinstance(what, Exception):
            raise what
        if isinstance(what, Response):
            return what
        return PlainTextResponse(f"{request.url.path} {self.runs}", what)

    async def dies_with_a_use(self, proof: dict[str, str], key: str = "") -> None:
        """Have a worker die over a further use, before it has written anything."""
        store = self.shop.gate.services().store
        give_back = store.return_use

        async def dead(*_: Any) -> None:
            raise StoreError("this process is gone")

        store.return_use, self.next = dead, [500]  # type: ignore[method-assign]
        await self.get("b", proof, key)
        store.return_use = give_back  # type: ignore[method-assign]

    async def get(self, name: str, proof: dict[str, str], key: str = "", method: str = "GET") -> Any:
        headers = proof | ({"idempotency-key": key} if key else {})
        return await self.shop.client.request(method, f"/books/{name}", headers=headers)


@pytest.mark.parametrize("flow", FLOWS)
async def test_three_uses_on_three_addresses_and_no_fourth(flow: str) -> None:
    library = Library(flow)
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        for number, name in enumerate(["a", "b", "c?page=2"], 1):
            answer = await library.get(name, proof)
            assert (answer.status_code, answer.text[-1]) == (200, str(number))
            assert answer.headers["cache-control"] == "private"
            assert answer.headers["receipt-record"]
        fourth = await library.get("d", proof)
        assert (fourth.status_code, fourth.json()["code"]) == (402, "uses_exhausted")
        assert "payment-required" in fourth.headers
        assert library.runs == 3
        assert library.shop.ledger.charged_total == 3000


@pytest.mark.parametrize("uses_before", [0, 1])
async def test_a_client_that_has_it_all_may_leave_before_the_end(uses_before: int) -> None:
    library = Library()

    async def leaving() -> AsyncIterator[bytes]:
        yield b"all of it"
        raise RuntimeError("the client has left")

    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        for _ in range(uses_before):
            await library.get("a", proof)
        library.next = [StreamingResponse(leaving(), headers={"content-length": "9"})]
        wire = library.shop.request("/books/a", headers=proof | {"idempotency-key": "1"})
        await asyncio.gather(wire.run(), return_exceptions=True)
        assert wire.body == b"all of it"
        assert (await library.get("a", proof, "1")).text == "all of it"
        assert library.runs == uses_before + 1


@pytest.mark.parametrize("flow", FLOWS)
async def test_the_same_address_again_is_a_further_use(flow: str) -> None:
    library = Library(flow)
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        texts = [(await library.get("a", proof)).text for _ in range(3)]
        assert len(set(texts)) == 3
        assert (await library.get("a", proof)).status_code == 402


@pytest.mark.parametrize("flow", FLOWS)
async def test_together_they_take_no_more_than_were_paid_for(flow: str) -> None:
    library = Library(flow, Receipts(valid="1h", uses=7), wait_seconds=5)
    running, go_on = asyncio.Event(), asyncio.Event()
    at_once = most = 0

    async def slow(request: Request) -> Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        running.set()
        await go_on.wait()
        return PlainTextResponse("")

    library.book = slow  # type: ignore[method-assign]
    library.sell("/slow/{name}")
    library.shop.gate._marked.pop(0)
    library.shop.app.router.routes.pop(0)
    async with library.shop.open():
        proof = await library.shop.quote("/slow/0")
        requests = [asyncio.create_task(library.shop.client.get("/slow/0", headers=proof))]
        await running.wait()
        requests += [
            asyncio.create_task(library.shop.client.get(f"/slow/{number}", headers=proof)) for number in range(1, 30)
        ]
        go_on.set()
        statuses = [(await request).status_code for request in requests]
        assert (statuses.count(200), statuses.count(402)) == (7, 23)
        assert most <= 7
        assert library.shop.ledger.charged_total == 3000


@pytest.mark.parametrize("failure", [404, 500, RuntimeError("a bug")])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_failed_further_use_is_given_back(flow: str, failure: Any) -> None:
    library = Library(flow)
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [failure] * 4
        for _ in range(4):
            failed = await library.get("b", proof)
            assert failed.status_code == (failure if isinstance(failure, int) else 500)
            assert (await library.shop.only_charge()).id in failed.headers["rail402-charge"]
            assert "receipt-record" not in failed.headers
        assert [(await library.get("b", proof)).status_code for _ in range(3)] == [200, 200, 402]
        assert library.shop.ledger.charged_total == 3000


@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_failed_first_use_is_not_lost(flow: str, failures: int) -> None:
    library = Library(flow)
    library.next = [500] * failures
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        statuses = [(await library.get("a", proof)).status_code for _ in range(failures + 4)]
        assert statuses == [500] * failures + [200, 200, 200, 402]
        assert library.shop.ledger.charged_total == 3000
        assert library.shop.ledger.count("refund") == 0


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_first_use_withheld_while_the_outcome_is_unknown_is_not_lost(flow: str, length: bool) -> None:
    library = Library(flow)
    body = Response(b"x") if length else StreamingResponse(iter([b"x"]))
    library.next = [body]
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        library.shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        assert (await library.get("a", proof)).status_code == 503
        await library.shop.gate.reconcile()
        statuses = [(await library.get("a", proof)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 402]


async def test_a_use_that_breaks_off_is_spent() -> None:
    async def breaking() -> Any:
        yield b"half"
        raise RuntimeError("the source broke")

    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [StreamingResponse(breaking())]
        wire = library.shop.request("/books/b", headers=proof)
        with pytest.raises(RuntimeError, match="the source broke"):
            await wire.run()
        assert (wire.status, wire.body) == (200, b"half")
        assert [(await library.get("c", proof)).status_code for _ in range(2)] == [200, 402]


# --- Idempotency-Key


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_repeated_idempotency_key_replays_without_taking_a_use(flow: str, streamed: bool) -> None:
    library = Library(flow)
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        for key in ("one", "two", "three"):
            library.next = [StreamingResponse(iter([key.encode()])) if streamed else PlainTextResponse(key)]
            first = await library.get("a", proof, key)
            for _ in range(3):
                again = await library.get("a", proof, key)
                assert (again.status_code, again.text) == (200, first.text) == (200, key)
                assert again.headers["idempotent-replayed"] == "true"
                assert again.headers["receipt-record"]
        assert library.runs == 3
        assert (await library.get("a", proof, "four")).status_code == 402
        assert (await library.get("a", proof, "one")).status_code == 200  # even when all are used


async def test_a_key_is_good_for_its_own_request_only() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        texts = [(await library.get(name, proof, "k")).text for name in ("a", "b")]
        assert [text.split()[0] for text in texts] == ["/books/a", "/books/b"]
        assert (await library.get("a", proof, "k", "POST")).headers.get("idempotent-replayed") is None
        assert library.runs == 3


async def test_a_failed_use_is_not_replayed() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        library.next = [500, 200, 404, 200]
        statuses = [(await library.get("a", proof, key)).status_code for key in ("1", "1", "2", "2")]
        assert statuses == [500, 200, 404, 200]


async def test_a_use_past_the_limit_is_sent_and_not_kept() -> None:
    library = Library(max_stored=10)
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        for _ in range(3):
            library.next = [StreamingResponse(iter([b"x" * 8, b"y" * 8, b"z" * 8]))]
            assert len((await library.get("a", proof, "k")).content) == 24
        assert (await library.get("a", proof, "k")).status_code == 402


async def test_two_different_keys_in_one_request_are_refused_before_anything_is_claimed() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        lines = [(name.encode(), value.encode()) for name, value in proof.items()]
        twice = [*lines, (b"idempotency-key", b"1"), (b"idempotency-key", b"2")]
        wire = await library.shop.request("/books/a", headers=twice).run()
        assert (wire.status, wire.json()["code"]) == (400, "malformed_request")
        assert await library.shop.charges() == []
        same = [*lines, (b"idempotency-key", b"1"), (b"idempotency-key", b"1")]
        assert (await library.shop.request("/books/a", headers=same).run()).status == 200


# --- what a pass is good for


async def test_a_pass_is_good_for_its_route_at_its_price_only() -> None:
    library = Library()
    library.sell("/films/{name}")

    async def by_size(request: Request) -> str:
        return "9 USD" if request.query_params.get("size") == "big" else "0.003 USD"

    library.sell("/maps/{name}", by_size)
    async with library.shop.open():
        books, maps = await library.shop.quote("/books/a"), await library.shop.quote("/maps/a")
        assert (await library.get("a", books)).status_code == 200
        assert (await library.shop.client.get("/maps/a", headers=maps)).status_code == 200
        for path, proof in [("/films/a", books), ("/maps/a", books), ("/books/b", maps), ("/maps/b?size=big", maps)]:
            answer = await library.shop.client.get(path, headers=proof)
            assert (answer.status_code, answer.json()["code"]) == (402, "resource_mismatch"), path
        assert (await library.get("b", books)).status_code == 200


async def test_a_pass_ends_with_its_window() -> None:
    library = Library(receipt=Receipts(valid="1h", uses=1000))
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        assert (await library.get("a", proof, "k")).status_code == 200
        library.shop.clock.advance(3600)
        assert (await library.get("b", proof)).status_code == 200
        library.shop.clock.advance(1)
        for key in ("", "k"):
            late = await library.get("a", proof, key)
            assert (late.status_code, late.json()["code"]) == (402, "receipt_expired")


async def test_a_pass_needs_the_login_and_the_token_it_was_bought_with() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        assert (await library.get("a", proof | {"authorization": "Bearer alice"})).status_code == 200
        for other in ({}, {"authorization": "Bearer bob"}):
            stolen = await library.get("b", proof | other)
            assert (stolen.status_code, stolen.json()["code"]) == (409, "replay_not_proven")


async def test_a_use_that_arrives_with_the_first_waits_until_that_is_settled() -> None:
    library = Library(wait_seconds=5)
    running, go_on = asyncio.Event(), asyncio.Event()

    async def slow_first(request: Request) -> Response:
        library.runs += 1
        if library.runs == 1:
            running.set()
            await go_on.wait()
        return PlainTextResponse("")

    library.shop.app.router.routes.clear()
    library.shop.gate._marked.clear()
    library.book = slow_first  # type: ignore[method-assign]
    library.sell("/books/{name}")
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        first = asyncio.create_task(library.get("a", proof))
        await running.wait()
        second = asyncio.create_task(library.get("b", proof))
        await asyncio.sleep(0)
        assert library.runs == 1
        go_on.set()
        assert ((await first).status_code, (await second).status_code) == (200, 200)


async def test_uses_beside_a_first_one_that_is_still_running_do_not_take_its_delivery_away() -> None:
    library = Library("upfront")
    running, go_on = asyncio.Event(), asyncio.Event()

    async def slow_first(request: Request) -> Response:
        library.runs += 1
        if request.url.path == "/books/a":
            running.set()
            await go_on.wait()
        return PlainTextResponse(request.url.path)

    library.shop.app.router.routes.clear()
    library.shop.gate._marked.clear()
    library.book = slow_first  # type: ignore[method-assign]
    library.sell("/books/{name}")
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        first = asyncio.create_task(library.get("a", proof, "k"))
        await running.wait()
        assert (await library.get("b", proof)).status_code == 200
        go_on.set()
        assert (await first).status_code == 200
        charge = await library.shop.only_charge()
        assert (charge.delivery, charge.uses_taken) == (Delivery.STREAMED, 2)
        assert (await library.get("a", proof, "k")).headers["idempotent-replayed"] == "true"
        assert [(await library.get("c", proof)).status_code for _ in range(2)] == [200, 402]


# --- who has a use dies, or is late


async def test_a_use_whose_worker_died_comes_back_with_its_lease() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        await library.dies_with_a_use(proof)
        assert [(await library.get("b", proof)).status_code for _ in range(2)] == [200, 402]
        library.shop.clock.advance(LEASE)
        assert [(await library.get("b", proof)).status_code for _ in range(2)] == [200, 402]
        assert (await library.shop.only_charge()).uses_taken == 3


async def test_a_repeat_waits_for_the_lease_of_who_died_with_its_key() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        await library.dies_with_a_use(proof, "k")
        busy = await library.get("b", proof, "k")
        assert (busy.status_code, busy.json()["code"]) == (409, "payment_in_progress")
        assert busy.headers["retry-after"]
        library.shop.clock.advance(LEASE)
        assert (await library.get("b", proof, "k")).text == "/books/b 3"
        assert (await library.get("b", proof, "k")).headers["idempotent-replayed"] == "true"
        assert [(await library.get("c", proof)).status_code for _ in range(2)] == [200, 402]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_use_that_came_back_meanwhile_is_not_served_by_who_is_late(streams: bool) -> None:
    library = Library(wait_seconds=0)
    began, go_on = asyncio.Event(), asyncio.Event()

    async def late(pieces: int) -> Any:
        for number in range(pieces):
            yield b"x"
            if number == 0:
                began.set()
                await go_on.wait()

    async def slow(request: Request) -> Response:
        if "late" not in request.url.path:
            return PlainTextResponse("in time")
        if streams:
            return StreamingResponse(late(2))
        began.set()
        await go_on.wait()
        return PlainTextResponse("late")

    library.shop.app.router.routes.clear()
    library.shop.gate._marked.clear()
    library.book = slow  # type: ignore[method-assign]
    library.sell("/books/{name}")
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        wire = library.shop.request("/books/late", headers=proof)
        running = asyncio.create_task(wire.run())
        await began.wait()
        library.shop.clock.advance(LEASE)
        assert [(await library.get("b", proof)).status_code for _ in range(3)] == [200, 200, 402]
        go_on.set()
        await running
        if streams:
            assert (wire.status, wire.body, wire.complete) == (200, b"x", False)
        else:
            assert (wire.status, wire.json()["code"]) == (409, "payment_in_progress")
        assert (await library.shop.only_charge()).uses_taken == 3


async def test_a_long_answer_keeps_its_lease() -> None:
    library = Library()

    async def long() -> Any:
        for _ in range(5):
            library.shop.clock.advance(LEASE - 50)
            yield b"x"

    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [StreamingResponse(long())]
        assert (await library.get("b", proof, "k")).text == "xxxxx"
        assert (await library.get("b", proof, "k")).headers["idempotent-replayed"] == "true"


async def test_a_client_that_reads_slowly_does_not_get_its_use_back() -> None:
    library = Library(receipt=Receipts(uses=2), handler_seconds=1, settle_seconds=1)
    stalled, go_on, renewed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def reading(message: Any) -> None:
        if message.get("body") == b"nearly all":
            stalled.set()
            await go_on.wait()

    async def streamed() -> Any:
        yield b"nearly all"

    async with library.shop.open():
        store = library.shop.gate.services().store
        renew = store.renew_use

        async def renewing(*names: str, lease_until: int) -> bool:
            renewed.set()
            return await renew(*names, lease_until=lease_until)

        store.renew_use = renewing  # type: ignore[method-assign]
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [StreamingResponse(streamed())]
        wire = library.shop.request("/books/b", headers=proof, watch=reading)
        running = asyncio.create_task(wire.run())
        async with asyncio.timeout(5):
            await stalled.wait()
            library.shop.clock.advance(2)  # the whole lease, but for what keeps it
            await renewed.wait()
        assert (await library.get("c", proof)).json()["code"] == "uses_exhausted"
        go_on.set()
        await running
        assert (wire.body, wire.complete) == (b"nearly all", True)


async def test_a_use_whose_head_alone_was_made_is_given_back() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        raise RuntimeError("the source broke")

    class Broken(Response):
        __call__ = staticmethod(broken)  # type: ignore[assignment]

    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [Broken()]
        failed = await library.get("b", proof)
        assert (failed.status_code, failed.json()["code"]) == (500, "handler_failed")
        assert [(await library.get("c", proof)).status_code for _ in range(3)] == [200, 200, 402]


async def test_a_repeat_beside_the_first_use_waits_for_its_answer() -> None:
    library = Library("upfront", wait_seconds=5)
    running, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        library.runs += 1
        running.set()
        await go_on.wait()
        return PlainTextResponse(f"run {library.runs}")

    library.shop.app.router.routes.clear()
    library.shop.gate._marked.clear()
    library.book = slow  # type: ignore[method-assign]
    library.sell("/books/{name}")
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        first = asyncio.create_task(library.get("a", proof, "k"))
        await running.wait()
        again = asyncio.create_task(library.get("a", proof, "k"))
        await asyncio.sleep(0.01)
        go_on.set()
        assert (await first).text == (await again).text == "run 1"
        assert (await library.shop.only_charge()).uses_taken == 1


# --- the store is down


async def test_a_use_is_served_even_if_it_cannot_be_kept_or_given_back() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        store = library.shop.gate.services().store

        async def down(*_: Any, **__: Any) -> Any:
            raise StoreError("down")

        store.end_use = store.return_use = down  # type: ignore[method-assign]
        library.next = [404, 200]
        assert (await library.get("b", proof, "k")).status_code == 404
        assert (await library.get("b", proof, "k")).json()["code"] == "payment_in_progress"
        library.shop.clock.advance(LEASE)
        served = await library.get("b", proof, "k")
        assert (served.status_code, served.text) == (200, "/books/b 3")


async def test_a_use_is_not_served_while_the_store_cannot_count_it() -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        store = library.shop.gate.services().store

        async def down(*_: Any, **__: Any) -> Any:
            raise StoreError("down")

        store.take_use = down  # type: ignore[method-assign]
        answer = await library.get("b", proof)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert library.runs == 1


async def test_the_first_use_of_a_pass_counts_as_streamed() -> None:
    library = Library()
    async with library.shop.open():
        await library.get("a", await library.shop.quote("/books/a"))
        charge = await library.shop.only_charge()
        assert (charge.delivery, charge.uses, charge.uses_taken) == (Delivery.STREAMED, 3, 1)


def broken_off(pieces: list[str]) -> Response:
    """Return an answer that says that it is longer than it is."""
    headers = {"content-length": "99"}
    return StreamingResponse(iter(pieces), headers=headers) if pieces[1:] else Response(pieces[0], headers=headers)


@pytest.mark.parametrize("pieces", [["half"], ["nearly ", "half"]])
async def test_a_use_whose_answer_is_shorter_than_it_says_is_kept_for_no_repeat(pieces: list[str]) -> None:
    library = Library()
    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [broken_off(pieces)]
        wire = library.shop.request("/books/b", headers={**proof, "idempotency-key": "k"})
        await wire.run()
        again = await library.get("b", proof, "k")
        assert (again.status_code, again.text[:8]) == (200, "/books/b")
        statuses = [(await library.get("c", proof)).status_code for _ in range(2)]
        # What had begun to leave was a use, as whenever an answer breaks off; what had not was none.
        assert statuses == ([200, 402] if len(pieces) == 1 else [402, 402])


async def test_a_client_may_take_its_time_over_the_last_piece() -> None:
    library = Library()
    stalled, go_on = asyncio.Event(), asyncio.Event()

    async def reading(message: Any) -> None:
        if message.get("body") == b"last":
            stalled.set()
            await go_on.wait()

    async with library.shop.open():
        proof = await library.shop.quote("/books/a")
        await library.get("a", proof)
        library.next = [StreamingResponse(iter(["first", "last"]), headers={"content-length": "9"})]
        wire = library.shop.request("/books/b", headers=proof, watch=reading)
        running = asyncio.create_task(wire.run())
        async with asyncio.timeout(5):
            await stalled.wait()
            library.shop.clock.advance(3600)
            await asyncio.sleep(0)
            # The use is counted: nothing may find out that its lease is nobody's any more.
            assert not [task for task in asyncio.all_tasks() if "PassDelivery._stay" in repr(task)]
            go_on.set()
            await running
        assert (wire.body, wire.complete) == (b"firstlast", True)
