"""Calls to lnd: what each way of going wrong means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402_lightning.backends import lnd_api
from rail402_lightning.backends.connections import CertificateRefused
from rail402_lightning.backends.lnd_api import (
    LndApi,
    LndError,
    MacaroonRefused,
    NotReady,
    as_base64,
    as_base64url,
    from_base64,
)
from tests.unit.rail402_lightning.backends.fake_lnd import (
    LOCKED,
    RECEIVING,
    STARTING,
    URL,
    Answer,
    error,
    sent,
    stream,
    stream_error,
)
from tests.unit.rail402_lightning.invoices import HASH, PREIMAGE


def api(answer: Answer, url: str = URL) -> LndApi:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return LndApi(url, RECEIVING, transport=httpx.MockTransport(handle))


async def pay(answer: Answer) -> object:
    return await api(answer).follow("POST", "/v2/router/send", lambda _: True, body={})


class Chunks(httpx.AsyncByteStream):
    """A body that comes in just these pieces, and breaks if an exception is the last."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


# Bytes.


def test_bytes_are_written_in_the_alphabet_of_their_place() -> None:
    data = bytes.fromhex("fbefbeff")

    assert (as_base64(data), as_base64url(data)) == ("++++/w==", "----_w==")
    assert from_base64(as_base64(data)) == data


@pytest.mark.parametrize("value", [None, 7, "----_w==", "++++/w", "é", ["x"]])
def test_what_is_no_base64_is_no_bytes(value: object) -> None:
    assert from_base64(value) is None


# The address, the macaroon and the certificate.


@pytest.mark.parametrize(
    "url",
    ["", "lnd.example.com", "ftp://x", "https://", "https://u:p@x", "https://x/?a=1", "https://x:port", "grpc://x"],
)
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url"):
        LndApi(url, RECEIVING)


@pytest.mark.parametrize("url", ["http://lnd.example.com:8080", "http://8.8.8.8:8080"])
def test_the_macaroon_is_not_sent_in_the_clear_over_the_internet(url: str) -> None:
    with pytest.raises(ConfigurationError, match="in the clear"):
        LndApi(url, RECEIVING)


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://10.0.0.2:8080", "http://lnd:8080", "http://x.onion"])
def test_a_private_network_needs_no_encryption(url: str) -> None:
    assert LndApi(url + "/", RECEIVING).url == url


@pytest.mark.parametrize("given", ["/no/such/tls.cert", "-----BEGIN CERTIFICATE-----\nAAAA", "", Path("/no/such")])
def test_a_certificate_that_cannot_be_read_is_refused(given: str | Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a copy of lnd's tls\.cert"):
        LndApi(URL, RECEIVING, tls_cert=given)


async def test_the_macaroon_goes_in_its_header_in_hexadecimal_digits_and_in_no_repr() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    lnd = LndApi(URL, RECEIVING, transport=httpx.MockTransport(handle))
    await lnd.get("/v1/getinfo")
    await lnd.close()
    await lnd.get("/v1/getinfo")
    await lnd.close()

    assert [request.headers["Grpc-Metadata-macaroon"] for request in seen] == [RECEIVING.hex()] * 2
    assert repr(lnd) == f"LndApi({URL!r})"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (10, "has expired"),
        (9, "clock"),
        (62, "tlsextradomain"),
        (64, "tlsextraip"),
        (18, "set tls_cert to"),
        (20, "set"),
    ],
)
async def test_a_certificate_that_is_refused_says_what_to_do(code: int, why: str) -> None:
    cause = ssl.SSLCertVerificationError("certificate verify failed")
    cause.verify_code = code
    broken = httpx.ConnectError("x")
    broken.__cause__ = OSError("x")
    broken.__cause__.__context__ = cause

    with pytest.raises(CertificateRefused, match=why):
        await pay(broken)


# What may have happened.


@pytest.mark.parametrize("broken", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.PoolTimeout("x")])
async def test_what_never_got_there_is_an_outage(broken: Exception) -> None:
    for call in (api(broken).get("/x"), api(broken).post("/x", {}), pay(broken)):
        with pytest.raises(RailUnavailable, match="cannot be reached at"):
            await call


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: httpx.ReadTimeout("x"),
        lambda: httpx.ReadError("x"),
        lambda: httpx.WriteError("x"),
        lambda: httpx.RemoteProtocolError("x"),
        lambda: httpx.Response(502, text="<html>bad gateway</html>"),
        lambda: httpx.Response(503, json={"detail": "maintenance"}),
        lambda: httpx.Response(500, json={"error": "x"}),
        lambda: httpx.Response(500, json={"code": "2", "message": "x"}),
        lambda: httpx.Response(500, json={"code": 2}),
        lambda: httpx.Response(500, content=b" " * (1 << 21)),
        lambda: httpx.Response(200, content=b" " * (1 << 21) + b"\n"),
        lambda: httpx.Response(200, text="<html>"),
        lambda: httpx.Response(200, json=[]),
        lambda: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Chunks(b"{}")),
        lambda: httpx.Response(200, stream=Chunks(b'{"result"', httpx.ReadError("x"))),
    ],
)
async def test_what_is_no_answer_of_lnd_leaves_it_open(make: Callable[[], Answer], is_stream: bool) -> None:
    answer = make()
    with pytest.raises(OutcomeUnknown):
        await (pay(answer) if is_stream else api(answer).post("/x", {}))


async def test_reading_is_never_in_doubt() -> None:
    with pytest.raises(RailUnavailable, match="ReadTimeout"):
        await api(httpx.ReadTimeout("x")).get("/x")


async def test_an_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(lnd_api, "_TIMEOUT", 0.02)

    with pytest.raises(OutcomeUnknown, match="no answer in"):
        await LndApi(URL, RECEIVING, transport=httpx.MockTransport(hang)).post("/x", {})


@pytest.mark.parametrize("wrapped", [error, stream_error])
@pytest.mark.parametrize(
    ("message", "code", "kind"),
    [
        ("permission denied", 2, MacaroonRefused),
        ("verification failed: signature mismatch after caveat verification", 2, MacaroonRefused),
        ("cannot determine data format of binary-encoded macaroon", 2, MacaroonRefused),
        ('caveat "time-before 2020-01-01T00:00:00Z" not satisfied: macaroon has expired', 2, MacaroonRefused),
        ("cannot get macaroon: root key with id 1 doesn't exist", 2, MacaroonRefused),
        ("who are you?", 16, MacaroonRefused),
        (LOCKED, 2, NotReady),
        (STARTING, 2, NotReady),
        ("wallet not created, create one to enable full RPC access", 2, NotReady),
        ("waiting to start, RPC services not available", 2, NotReady),
        ("unable to locate invoice", 5, LndError),
    ],
)
async def test_lnd_s_own_errors_are_told_apart(wrapped: type, message: str, code: int, kind: type[LndError]) -> None:
    for call in (api(wrapped(message, code)).get("/x"), pay(wrapped(message, code))):
        with pytest.raises(LndError) as caught:
            await call
        assert (type(caught.value), caught.value.grpc_code, caught.value.message) == (kind, code, message)


async def test_an_error_tells_nothing_that_could_be_a_secret() -> None:
    secrets = [PREIMAGE, as_base64(bytes.fromhex(PREIMAGE)), as_base64url(bytes.fromhex(PREIMAGE)), RECEIVING.hex()]

    for secret in secrets:
        with pytest.raises(LndError) as caught:
            await pay(stream_error(f"no {secret}\n there " + "x " * 200))
        assert secret not in str(caught.value)
        assert caught.value.message.startswith("no …  there x")
        assert len(caught.value.message) <= 200


# Streams.


async def test_a_stream_is_read_until_what_is_waited_for_and_in_whatever_pieces_it_comes() -> None:
    body = stream(sent("INITIATED"), sent("IN_FLIGHT"), sent("SUCCEEDED")).content
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    answer = httpx.Response(200, stream=Chunks(b"\n\n", *pieces, httpx.ReadError("never read")))

    found = await api(answer).follow("GET", "/x", lambda payment: payment["status"] == "SUCCEEDED")

    assert found["payment_hash"] == HASH.hex()


async def test_a_last_message_needs_no_end_of_line() -> None:
    assert (await api(httpx.Response(200, text='{"result":{"a":1}}')).follow("GET", "/x", lambda _: True)) == {"a": 1}


async def test_a_stream_that_ends_before_is_no_answer() -> None:
    with pytest.raises(OutcomeUnknown, match="too early"):
        await api(stream(sent("IN_FLIGHT"))).follow("POST", "/x", lambda payment: payment["status"] == "FAILED")


async def test_an_error_after_a_message_is_no_refusal() -> None:
    lines = stream(sent("IN_FLIGHT")).content + stream_error("permission denied").content

    with pytest.raises(OutcomeUnknown, match="permission denied"):
        await api(httpx.Response(200, content=lines)).follow("POST", "/x", lambda _: False, body={})


async def test_an_error_in_a_stream_s_first_line_is_lnd_s_answer() -> None:
    answer = httpx.Response(200, content=stream_error("self-payments not allowed").content)

    with pytest.raises(LndError, match="self-payments"):
        await pay(answer)


async def test_a_message_without_end_is_not_read_on() -> None:
    answer = httpx.Response(200, stream=Chunks(*[b"x" * (1 << 16)] * 17, RuntimeError("read on")))

    with pytest.raises(OutcomeUnknown, match="larger than"):
        await pay(answer)


async def test_a_preimage_of_an_invoice_does_not_leave_the_module() -> None:
    body = {"r_preimage": "x", "htlcs": [{"amp": {"preimage": "x"}}], "state": "OPEN"}

    assert await api(httpx.Response(200, json=body)).get("/x") == {"state": "OPEN"}
    assert await api(stream(body)).follow("GET", "/x", lambda _: True) == {"state": "OPEN"}
