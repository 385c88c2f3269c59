"""Calls to LNbits: what is sent, what is believed, and what may have happened where there is no answer."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, Rail402Error, RailUnavailable
from rail402_lightning.backends.connections import MAX_ANSWER
from rail402_lightning.backends.lnbits_api import KeyRefused, LnbitsApi
from tests.unit.rail402_lightning.backends.fake_lnbits import URL

KEY = "5ec2e7" * 4


def api(answer: httpx.Response | Exception | None = None, url: str = URL) -> LnbitsApi:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer or httpx.Response(200, json={"path": request.url.path, **request.headers})

    return LnbitsApi(url, KEY, transport=httpx.MockTransport(handle))


async def test_the_key_is_sent_and_nothing_compressed_is_asked_for() -> None:
    answer = await api(url=f"{URL}/node/").get("/api/v1/wallet")

    assert answer.status == 200
    assert answer.body["path"] == "/node/api/v1/wallet"
    assert (answer.body["x-api-key"], answer.body["accept-encoding"]) == (KEY, "identity")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "lnbits.example.com",
        "ftp://lnbits.example.com",
        "https://",
        "https://user:pw@lnbits.example.com",
        "https://lnbits.example.com/?usr=1",
        "https://lnbits.example.com/wallet#top",
        "https://lnbits.example.com:port",
        "http://lnbits.example.com",
        "http://8.8.8.8",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url"):
        LnbitsApi(url, KEY)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:5000", "[::1]", "10.0.0.7", "lnbits", "umbrel.local", "a.onion"]
)
def test_plain_http_is_for_private_networks(host: str) -> None:
    assert LnbitsApi(f"http://{host}", KEY).url == f"http://{host}"


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://localhost:5000", False),
        ("http://127.0.0.2", False),
        ("http://[::1]:5000", False),
        ("http://a.onion", False),
        ("https://lnbits.example.com", False),
        ("http://10.0.0.7", True),
        ("http://lnbits:5000", True),
        ("http://umbrel.local", True),
    ],
)
async def test_plain_http_to_another_machine_is_warned_of(
    url: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calls = api(url=url)
    with caplog.at_level(logging.WARNING, "rail402.lightning"):
        await calls.get("/p")
        await calls.get("/p")
    await calls.close()

    assert caplog.text.count("its network sees the key; use https") == warns
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", ["", "with space", "line\r\nX: y", "é" * 32])
def test_a_key_that_is_none_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LnbitsApi(URL, key)

    assert not key or key not in str(caught.value)


def test_the_key_is_in_no_repr() -> None:
    assert repr(api()) == f"LnbitsApi('{URL}')"


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.PoolTimeout("x")])
async def test_what_never_left_did_not_happen(error: Exception) -> None:
    with pytest.raises(RailUnavailable, match="cannot be reached"):
        await api(error).post("/p", {})


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout("x"),
        httpx.WriteTimeout("x"),
        httpx.WriteError("x"),
        httpx.ReadError("x"),
        httpx.RemoteProtocolError("x"),
        httpx.Response(200, text="<html>a proxy</html>"),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(200, json=[1, 2]),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b'{"a": 1, "a": 2}'),
        httpx.Response(200, content=b"{" + b" " * MAX_ANSWER + b"}"),
        httpx.Response(200, content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_what_left_and_has_no_readable_answer_may_have_happened(answer: httpx.Response | Exception) -> None:
    with pytest.raises(OutcomeUnknown):
        await api(answer).post("/p", {})


async def test_reading_changes_nothing_so_there_it_is_just_unavailable() -> None:
    with pytest.raises(RailUnavailable):
        await api(httpx.ReadTimeout("x")).get("/p")


async def test_an_answer_that_trickles_in_is_not_waited_for() -> None:
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

    with pytest.raises(OutcomeUnknown, match="TimeoutError"):
        await api(httpx.Response(200, stream=Trickle())).post("/p", {}, timeout=0)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (404, {"detail": "Wallet not found."}, KeyRefused, "copy it from the wallet's page"),
        (401, {"detail": "No Api Key provided."}, KeyRefused, "No Api Key"),
        (403, {"detail": "Invoice (or Admin) key required."}, KeyRefused, "key required"),
        (404, {"detail": "Not Found"}, RailUnavailable, "404: Not Found"),
        (520, {"detail": "unexpected backend error.", "status": "pending"}, RailUnavailable, "520: unexpected"),
        (500, {"detail": "Unexpected error! ID: x"}, RailUnavailable, "500"),
        (400, {"detail": [{"msg": "bad"}]}, RailUnavailable, "bad"),
        (418, {}, RailUnavailable, "418"),
    ],
)
async def test_a_status_that_was_not_expected_says_why(
    status: int, body: dict[str, object], kind: type[Rail402Error], says: str
) -> None:
    answer = await api(httpx.Response(status, json=body)).get("/p")

    with pytest.raises(kind, match=says):
        answer.expect(200)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", None), ("-1", None), ("9" * 9, None), ("", None)])
async def test_a_rate_limit_says_when_to_come_back(header: str, seconds: int | None) -> None:
    limited = httpx.Response(
        429, json={"error": "Rate limit exceeded: 200 per 1 minute"}, headers={"Retry-After": header}
    )
    answer = await api(limited).get("/p")

    with pytest.raises(RailUnavailable, match="Rate limit exceeded") as caught:
        answer.expect(200)
    assert caught.value.retry_after == seconds


async def test_no_secret_comes_back_in_an_error() -> None:
    said = {"detail": f"key {KEY}aaaaaaaa preimage {'ab' * 32} " + "x" * 500, "status": "failed"}
    answer = await api(httpx.Response(520, json=said)).get("/p")

    assert answer.detail.startswith("key … preimage … xxx")
    assert len(answer.detail) == 200
    assert "ab" * 32 not in repr(answer)


async def test_it_can_be_used_again_after_it_was_closed() -> None:
    calls = api()
    await calls.get("/p")
    await calls.close()
    await calls.close()

    assert (await calls.get("/p")).status == 200
    await calls.close()
