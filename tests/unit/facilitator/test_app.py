"""The HTTP of a facilitator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.facilitator.app import facilitator_app
from rail402.facilitator.service import Facilitator
from rail402.testing.fakes import FakeRail, FakeSpec
from tests.unit.facilitator.desk import NETWORK, Desk

TOKEN = "token-of-the-tests"


@pytest.mark.parametrize("call", ["verify", "settle"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"x402Version": 2}', b"x" * 70_000])
async def test_a_body_that_cannot_be_read_is_400_with_a_typed_error(call: str, content: bytes) -> None:
    desk = Desk()
    async with desk.open() as client:
        response = await client.post(f"/{call}", content=content)
    said = response.json()
    too_large = len(content) > desk.settings.max_body
    assert response.status_code == (413 if too_large else 400)
    assert said["error"] == ("body_too_large" if too_large else "malformed_request")
    assert said["field"]
    if call == "verify":
        assert (said["isValid"], said["invalidReason"]) == (False, "invalid_payload")
    else:
        assert (said["success"], said["errorReason"], said["transaction"]) == (False, "invalid_payload", "")
    assert desk.ledger.calls == []


async def test_supported_names_concrete_networks_and_who_signs() -> None:
    desk = Desk()
    desk.rail.signers = ("relayer",)
    async with desk.open() as client:
        said = (await client.get("/supported")).json()
        desk.rail.signers = ()
        assert (await client.get("/supported")).json()["signers"] == {}
    assert said["signers"] == {NETWORK: ["relayer"]}
    assert [(kind["x402Version"], kind["network"]) for kind in said["kinds"]] == [(2, NETWORK), (1, NETWORK)]


async def test_health_says_what_is_wrong_and_is_not_asked_all_the_time() -> None:
    desk = Desk()
    asked = []

    async def health() -> None:
        asked.append(desk.clock())
        if len(asked) > 1:
            raise RailUnavailable("https://node.example.com/secret-key is down")

    desk.rail.health = health  # type: ignore[method-assign]
    async with desk.open() as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/health")).status_code == 200
        desk.clock.advance(5)
        failing = await client.get("/health")
    assert (failing.status_code, failing.json()["status"]) == (503, "failing")
    assert "secret" not in failing.text
    assert len(asked) == 2


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("path", ["/verify", "/settle"])
async def test_other_methods_are_not_there(method: str, path: str) -> None:
    async with Desk().open() as client:
        assert (await client.request(method, path)).status_code == 405


class TestToken:
    @pytest.mark.parametrize(
        "sent", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"bearer{TOKEN}", TOKEN, "Bearer ü"]
    )
    async def test_without_it_nobody_is_let_in(self, sent: str | None) -> None:
        desk = Desk(token=TOKEN)
        headers = {} if sent is None else {"authorization": sent.encode("latin-1")}
        async with desk.open() as client:
            calls = [
                await client.post("/verify", json=desk.body(), headers=headers),
                await client.post("/settle", json=desk.body(), headers=headers),
                await client.get("/supported", headers=headers),
            ]
            assert (await client.get("/health")).status_code == 200
        for response in calls:
            assert (response.status_code, response.json()["error"]) == (401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert desk.ledger.calls == []

    async def test_with_it_everything_is_there(self) -> None:
        desk = Desk(token=TOKEN)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with desk.open() as client:
            assert (await client.get("/supported", headers=headers)).status_code == 200
            said = (await client.post("/settle", json=desk.body(), headers=headers)).json()
        assert said["success"] is True

    async def test_it_is_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return one == other

        monkeypatch.setattr("rail402.facilitator.app.hmac.compare_digest", compare)
        async with Desk(token=TOKEN).open() as client:
            assert (await client.get("/supported", headers={"Authorization": "Bearer x"})).status_code == 401
        assert compared == [(b"Bearer x", f"Bearer {TOKEN}".encode())]

    @pytest.mark.parametrize(
        "token", ["", "short", "fifteen letters", "has a blank in it all", "ü" * 20, "x" * 20 + "\n"]
    )
    def test_one_that_could_be_guessed_or_not_sent_is_refused(self, token: str) -> None:
        with pytest.raises(ConfigurationError, match="token"):
            facilitator_app(Desk().facilitator, token=token)


@pytest.mark.parametrize("key", ["", "k" * 257])
async def test_an_idempotency_key_has_a_length(key: str) -> None:
    desk = Desk()
    async with desk.open() as client:
        response = await client.post("/settle", json=desk.body(), headers={"Idempotency-Key": key})
    assert (response.status_code, response.json()["field"]) == (400, "idempotency-key")
    assert desk.ledger.calls == []


async def test_answers_are_not_cached() -> None:
    desk = Desk()
    async with desk.open() as client:
        response = await client.post("/settle", json=desk.body())
    assert response.headers["cache-control"] == "no-store"


async def test_a_caller_who_hangs_up_in_the_middle_of_its_body() -> None:
    desk = Desk()
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/settle", "headers": [], "query_string": b"", "root_path": ""}
    async with desk.facilitator:
        await facilitator_app(desk.facilitator)(scope, receive, send)
    assert desk.ledger.calls == []


async def test_whoever_hung_up_while_it_was_settled_leaves_the_success_to_the_next() -> None:
    desk = Desk()
    body = json.dumps(desk.body()).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/settle", "headers": [], "query_string": b"", "root_path": ""}
    async with desk.open() as client:
        await facilitator_app(desk.facilitator)(scope, receive, send)
        assert desk.ledger.count("settle") == 1
        again = await client.post("/settle", content=body)
    assert again.json()["success"] is True
    assert desk.ledger.count("settle") == 1


class TestWhatItTakes:
    def test_a_rail_is_needed(self) -> None:
        with pytest.raises(ConfigurationError, match="at least one rail"):
            Facilitator([])

    def test_a_rail_whose_payers_pay_themselves_needs_no_facilitator(self) -> None:
        desk = Desk()
        invoices = FakeRail(desk.ledger, FakeSpec("lightning", style="invoice"))
        with pytest.raises(ConfigurationError, match="lightning needs no facilitator"):
            Facilitator([desk.rail, invoices], store=desk.store)

    def test_play_money_and_money_do_not_mix(self) -> None:
        desk = Desk()
        live = FakeRail(desk.ledger, FakeSpec("live"))
        live.is_sandbox = False
        with pytest.raises(ConfigurationError, match="do not mix"):
            Facilitator([desk.rail, live], store=desk.store)

    async def test_a_rail_that_is_down_at_the_start_stops_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        desk = Desk()

        async def start() -> None:
            raise RailUnavailable("the node is down")

        desk.rail.start = start  # type: ignore[method-assign]
        async with desk.open() as client:
            assert (await client.get("/supported")).status_code == 200
        assert "cannot be reached yet" in caplog.text

    async def test_it_closes_what_it_opened_and_may_start_again(self) -> None:
        desk = Desk(reconcile_seconds=1)
        for _ in range(2):
            async with desk.facilitator:
                await desk.facilitator.start()  # it has, so this does nothing
                assert desk.rail.started
            assert not desk.rail.started
            await desk.facilitator.close()

    async def test_the_app_starts_and_stops_it(self) -> None:
        desk = Desk()
        app = facilitator_app(desk.facilitator)
        async with app.router.lifespan_context(app):
            assert desk.rail.started
        assert not desk.rail.started
