"""Calls to a facilitator: every way in which an answer can be missing or wrong, and what it means for the money."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, Rail402Error, RailUnavailable
from rail402.testing.fakes import FakeClock
from rail402_base.facilitator_api import MAX_ANSWER, Facilitator, FacilitatorApi
from rail402_base.facilitator_breaker import CircuitBreaker
from rail402_base.tokens import BASE_SEPOLIA
from tests.unit.rail402_base.facilitators import (
    HASH,
    KINDS,
    PAYMENT,
    SETTLED,
    VALID,
    Answer,
    Facilitators,
    Reply,
    Stream,
)
from tests.unit.rail402_base.payments import NOW, PAYER, THIRD

URL = "https://one.example.com"


class Rig:
    """One facilitator, and how it is called."""

    def __init__(self, facilitator: Facilitator | None = None) -> None:
        self.net, self.clock = Facilitators(), FakeClock(NOW)
        self.breaker = CircuitBreaker("one", max_failures=3, rest_seconds=30, clock=self.clock)
        self.api = FacilitatorApi(
            facilitator or Facilitator(URL), network=BASE_SEPOLIA, breaker=self.breaker, transport=lambda: self.net
        )

    async def call(self, path: str) -> Any:
        match path:
            case "/supported":
                return await self.api.check()
            case "/verify":
                return await self.api.verify(PAYMENT, now=NOW)
        return await self.api.settle(PAYMENT, now=NOW)


@pytest.fixture
def rig() -> Rig:
    return Rig()


HTML = "<html><body>Bad gateway</body></html>"
DEEP = '{"success":' + 40 * "[" + 40 * "]" + "}"

NEVER_LOOKED: list[Any] = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.PoolTimeout("busy"),
    httpx.LocalProtocolError("header"),
    httpx.UnsupportedProtocol("ftp"),
    Reply(401, HTML),
    Reply(403, '{"success": true, "transaction": "0x"}'),
    Reply(429, '{"error":"slow down"}'),
]
MAY_HAVE_ACTED: list[Any] = [
    httpx.ReadTimeout("slow"),
    httpx.WriteTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("cut off"),
    httpx.DecodingError("gzip"),
    Reply(500, HTML),
    Reply(502, HTML),
    Reply(500, SETTLED | VALID),
    Reply(503, {"success": False, "errorReason": "insufficient_funds", "isValid": False}),
    Reply(504, ""),
    Reply(200, HTML),
    Reply(200, ""),
    Reply(200, "null"),
    Reply(200, "[]"),
    Reply(200, "true"),
    Reply(200, '"success"'),
    Reply(200, '{"success": true, "success": true}'),
    Reply(200, DEEP),
    Reply(200, b'{"success": true, "transaction": "\xff"}'),
    Reply(200, '{"success": tr'),
    Reply(200, "{}"),
    Reply(200, {"success": "true", "isValid": "true"}),
    Reply(200, {"success": 1, "isValid": 1}),
    Reply(404, HTML),
    Reply(404, {"success": False, "errorReason": "not_found", "isValid": False}),
    Reply(404, SETTLED | VALID),
    Reply(405, ""),
    Reply(400, HTML),
    Reply(400, {"error": "bad request"}),
    Reply(422, {"detail": []}),
    Reply(400, SETTLED | VALID),
    Reply(402, SETTLED | VALID),
    Reply(202, SETTLED | VALID),
    Reply(204, ""),
    Reply(301, location="https://evil.example.com/settle"),
    Reply(307, SETTLED | VALID, location="https://evil.example.com/settle"),
    Reply(304),
    Reply(200, gzip.compress(json.dumps(SETTLED | VALID).encode(), mtime=0), content_encoding="gzip"),
]


def each(answers: list[Any]) -> list[Any]:
    return [pytest.param(answer, id=f"{number} {answer!r}") for number, answer in enumerate(answers)]


@pytest.mark.parametrize("answer", each(NEVER_LOOKED))
async def test_a_settlement_that_nobody_looked_at_did_not_happen(rig: Rig, answer: Any) -> None:
    rig.net.tell("/settle", answer)
    with pytest.raises(RailUnavailable):
        await rig.call("/settle")


@pytest.mark.parametrize("answer", each(MAY_HAVE_ACTED))
async def test_a_settlement_without_an_answer_that_can_be_read_is_unknown(rig: Rig, answer: Any) -> None:
    rig.net.tell("/settle", answer)
    with pytest.raises(OutcomeUnknown):
        await rig.call("/settle")
    assert rig.net.paths() == ["/supported", "/settle"], "not asked twice, and no redirect followed"


@pytest.mark.parametrize("path", ["/verify", "/supported"])
@pytest.mark.parametrize("answer", each(NEVER_LOOKED + MAY_HAVE_ACTED))
async def test_a_question_without_an_answer_moves_nothing(rig: Rig, path: str, answer: Any) -> None:
    rig.net.tell(path, answer)
    with pytest.raises((RailUnavailable, ConfigurationError)):
        await rig.call(path)
    assert len(rig.net.calls) == 1 + (path == "/verify")


@pytest.mark.parametrize("path", ["/supported", "/verify", "/settle"])
@pytest.mark.parametrize("answer", [Reply(503, HTML), httpx.ReadTimeout("slow"), httpx.ConnectError("refused")])
async def test_each_failure_is_counted(rig: Rig, path: str, answer: Any) -> None:
    await rig.api.check()
    rig.net.tell(path, answer)
    for _ in range(3):
        with pytest.raises((RailUnavailable, OutcomeUnknown)):
            await rig.call(path)
    calls = list(rig.net.calls)
    with pytest.raises(RailUnavailable, match="failed too often") as caught:
        await rig.call(path)
    assert (caught.value.retry_after, rig.net.calls) == (30, calls)


async def test_one_that_failed_is_asked_again_what_it_takes_before_it_gets_a_payment(rig: Rig) -> None:
    rig.net.tell("/settle", httpx.ReadTimeout("slow"))
    for _ in range(3):
        with pytest.raises(OutcomeUnknown):
            await rig.call("/settle")
    rig.clock.advance(30)
    rig.net.calls.clear()
    rig.net.tell("/supported", {"kinds": []})
    with pytest.raises(RailUnavailable, match="does not settle"):
        await rig.call("/settle")
    assert rig.net.calls == ["one/supported"]
    rig.clock.advance(30)
    rig.net.tell("/supported", {"kinds": [KINDS[0] | {"x402Version": 1, "network": "base-sepolia"}]})
    rig.net.tell("/settle", SETTLED | {"network": "base-sepolia"})
    assert (await rig.call("/settle")).success
    assert rig.net.sent("/settle")["x402Version"] == 1


# Bodies


@pytest.mark.parametrize("path", ["/verify", "/settle"])
async def test_a_gigantic_answer_is_not_read_on(rig: Rig, path: str) -> None:
    body = Stream(b'{"success": true, "isValid": true, "x": "', *100 * [65536 * b"x"], b'"}')
    rig.net.tell(path, httpx.Response(200, stream=body))
    with pytest.raises(Rail402Error, match=f"more than {MAX_ANSWER} bytes"):
        await rig.call(path)
    assert body.given <= MAX_ANSWER + 2 * 65536
    assert body.is_closed


@pytest.mark.parametrize(("path", "error"), [("/verify", RailUnavailable), ("/settle", OutcomeUnknown)])
async def test_an_answer_that_never_ends_is_not_waited_for(path: str, error: type[Rail402Error]) -> None:
    rig = Rig(Facilitator(URL, timeout=1, settle_timeout=1))
    body = Stream(b'{"success": true,', after=asyncio.Event().wait)
    rig.net.tell(path, httpx.Response(200, stream=body))
    with pytest.raises(error, match="TimeoutError"):
        await rig.call(path)
    assert body.is_closed


@pytest.mark.parametrize(("path", "seconds"), [("/supported", 7), ("/verify", 7), ("/settle", 44)])
async def test_each_call_has_its_time(path: str, seconds: int) -> None:
    rig = Rig(Facilitator(URL, timeout=7, settle_timeout=44))
    await rig.call(path)
    told = rig.net.requests[-1].extensions["timeout"]
    assert (told["read"], told["connect"], told["pool"]) == (seconds, 5, 5)


# What it takes


async def test_what_is_offered_is_asked_once(rig: Rig) -> None:
    for path in ("/verify", "/settle", "/verify"):
        await rig.call(path)
    assert rig.net.paths() == ["/supported", "/verify", "/settle", "/verify"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Reply(401), "refuses access"),
        (Reply(403), "check the headers"),
        (Reply(308, location="https://www.example.com"), "write the address that it leads to"),
        ({"kinds": []}, "it does on: no network; use another"),
        ({"kinds": [KINDS[0] | {"network": "eip155:8453"}]}, "exact on eip155:84532; it does on: eip155:8453"),
        ({"kinds": [KINDS[0] | {"x402Version": 3}]}, "does not settle"),
    ],
)
async def test_what_cannot_get_better_by_waiting_says_how_to_mend_it(rig: Rig, answer: Answer, words: str) -> None:
    rig.net.tell("/supported", answer)
    with pytest.raises(ConfigurationError, match=words):
        await rig.api.check()
    with pytest.raises(RailUnavailable, match=words):
        await rig.call("/settle")
    assert "one/settle" not in rig.net.calls


@pytest.mark.parametrize("answer", [{"kinds": {}}, {"kinds": None}, {}, Reply(404)])
async def test_what_may_get_better_says_where_to_look(rig: Rig, answer: Answer) -> None:
    rig.net.tell("/supported", answer)
    with pytest.raises(RailUnavailable, match="check the address"):
        await rig.api.check()


# Verdicts


async def test_a_good_verdict(rig: Rig) -> None:
    verdict = await rig.call("/verify")
    assert (verdict.is_valid, verdict.payer) == (True, PAYER)
    rig.net.tell("/verify", {"isValid": True, "payer": PAYER.lower()}, {"isValid": True})
    assert (await rig.call("/verify")).is_valid
    assert (await rig.call("/verify")).is_valid


async def test_a_refusal_may_come_with_an_error_status(rig: Rig) -> None:
    refused = {"isValid": False, "invalidReason": "insufficient_funds"}
    rig.net.tell("/verify", Reply(400, refused), Reply(412, refused))
    for _ in range(2):
        verdict = await rig.call("/verify")
        assert (verdict.is_valid, verdict.reason) == (False, "insufficient_funds")
    assert not rig.breaker.is_tripped


@pytest.mark.parametrize(
    "answer",
    [
        VALID | {"payer": THIRD},
        {"isValid": True, "payer": 5},
        {"isValid": False, "invalidReason": "insufficient_funds", "payer": THIRD},
        {"isValid": False, "invalidReason": "invalid_network", "payer": PAYER},
        {"isValid": "yes"},
        Reply(401),
        Reply(400, VALID),
    ],
)
async def test_a_verdict_that_is_not_on_this_payment_is_a_failure(rig: Rig, answer: Answer) -> None:
    rig.net.tell("/verify", answer)
    for _ in range(3):
        with pytest.raises(RailUnavailable):
            await rig.call("/verify")
    assert rig.breaker.is_tripped


async def test_refusing_payers_is_no_failure(rig: Rig) -> None:
    rig.net.tell("/verify", {"isValid": False, "invalidReason": "insufficient_funds"})
    for _ in range(5):
        await rig.call("/verify")
    assert not rig.breaker.is_tripped


async def test_a_refused_settlement_may_come_with_an_error_status(rig: Rig) -> None:
    refused = {"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": "eip155:84532"}
    rig.net.tell("/settle", Reply(400, refused))
    settlement = await rig.call("/settle")
    assert (settlement.success, settlement.reason, settlement.transaction) == (False, "insufficient_funds", None)


async def test_whether_a_settlement_worked_is_not_for_this_module_to_say(rig: Rig) -> None:
    assert (await rig.call("/settle")).transaction == HASH
    for _ in range(2):
        rig.breaker.failed(settling=True)
        await rig.call("/settle")
    rig.breaker.failed(settling=True)
    assert rig.breaker.is_tripped


# Addresses and headers


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://facilitator.example.com", "use https"),
        ("http://8.8.8.8", "use https"),
        ("ftp://facilitator.example.com", "must look like"),
        ("facilitator.example.com", "must look like"),
        ("https://", "must look like"),
        ("", "must look like"),
        ("https://me:secret@facilitator.example.com", "no credentials"),
        ("https://facilitator.example.com?key=secret", "no query"),
        ("https://facilitator.example.com#x", "no query"),
        ("https://facilitator.example.com:port", "not an address"),
        (None, "not an address"),
    ],
)
def test_an_address_that_cannot_be_used(url: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        Facilitator(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8402", "[::1]:80", "localhost", "facilitator", "10.0.0.7", "f.internal"])
def test_http_is_for_private_networks(host: str) -> None:
    assert Facilitator(f"http://{host}/").url == f"http://{host}"


async def test_an_address_may_have_a_path_which_may_be_a_key() -> None:
    rig = Rig(Facilitator("https://one.example.com:8443/k3y/x402/"))
    rig.net.tell("/k3y/x402/supported", Reply(500))
    with pytest.raises(RailUnavailable) as caught:
        await rig.api.check()
    assert rig.net.calls == ["one/k3y/x402/supported"]
    shown = [str(caught.value), repr(rig.api), repr(Facilitator("https://one.example.com/k3y"))]
    assert not any("k3y" in each for each in shown)
    assert "one.example.com:8443" in shown[0]


@pytest.mark.parametrize("headers", [{"X-Key": "a\nb"}, {"X Key": "a"}, {"X-Key": "ä"}, {"": "a"}, {"X-Key": " a"}])
async def test_a_header_that_cannot_be_sent_is_found_at_once(headers: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"a header for one\.example\.com"):
        Facilitator(URL, headers=headers)

    async def make(method: str, url: str) -> Mapping[str, str]:
        return headers

    rig = Rig(Facilitator(URL, headers=make))
    with pytest.raises(RailUnavailable, match=r"made for one\.example\.com"):
        await rig.api.check()
    assert rig.net.calls == []


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"settle_timeout": 0}, {"timeout": -1}])
def test_a_time_must_be_one(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="1 second or more"):
        Facilitator(URL, **settings)


async def test_headers_say_who_we_are_and_show_nowhere() -> None:
    rig = Rig(Facilitator(URL, headers={"Authorization": "Bearer s3cret"}))
    await rig.call("/settle")
    assert [request.headers["authorization"] for request in rig.net.requests] == ["Bearer s3cret"] * 2
    assert "s3cret" not in repr(Facilitator(URL, headers={"Authorization": "Bearer s3cret"}))


async def test_headers_can_be_made_for_each_request() -> None:
    async def make(method: str, url: str) -> Mapping[str, str]:
        return {"Authorization": f"{method} {url}"}

    rig = Rig(Facilitator(URL + "/x", headers=make))
    await rig.call("/settle")
    said = [request.headers["authorization"] for request in rig.net.requests]
    assert said == [f"GET {URL}/x/supported", f"POST {URL}/x/settle"]


async def test_what_is_sent(rig: Rig) -> None:
    await rig.call("/settle")
    asked, settled = rig.net.requests
    assert (asked.method, asked.content) == ("GET", b"")
    assert (settled.method, str(settled.url)) == ("POST", f"{URL}/settle")
    assert settled.headers["content-type"] == "application/json"
    assert settled.headers["accept-encoding"] == "identity"
    assert rig.net.sent("/settle")["paymentRequirements"]["amount"] == "3000"
