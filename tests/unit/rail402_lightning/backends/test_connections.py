"""Certificates that a TLS server shows for lnd: which are refused, and what the error says to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import LightningRail, LightningWallet
from tests.unit.rail402_lightning.backends.certificates import Certificate
from tests.unit.rail402_lightning.backends.fake_lnd import PAYING, RECEIVING


class Server:
    """Shows a certificate, and answers everything by 200 and an empty object."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate
        self.requests: list[bytes] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Yield its address."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._certificate.context)
        async with server:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()


async def start(opened: LightningRail | LightningWallet) -> None:
    try:
        await opened.start()
    finally:
        await opened.close()


@pytest.mark.parametrize(
    ("valid", "host", "why"),
    [
        ((-2, -1), "127.0.0.1", r"has expired: delete tls\.cert and tls\.key at lnd, restart it, copy tls\.cert here"),
        ((1, 2), "127.0.0.1", "is not valid yet; is the clock right"),
        ((-1, 1), "127.0.0.2", "set tlsextraip on the node"),
    ],
)
async def test_a_certificate_of_lnd_that_is_no_good_stops_the_start_and_says_what_to_do(
    tmp_path: Path, valid: tuple[int, int], host: str, why: str
) -> None:
    certificate = Certificate(tmp_path / "lnd", valid=valid, host=host)
    server = Server(certificate)

    async with server.running() as url:
        for opened in (
            LightningRail.lnd(url, RECEIVING, "regtest", tls_cert=certificate.path),
            LightningWallet.lnd(url, PAYING, "regtest", tls_cert=certificate.path),
        ):
            with pytest.raises(ConfigurationError, match=why):
                await start(opened)

    assert server.requests == []  # the macaroon was not sent


async def test_a_name_that_lnd_s_certificate_does_not_have_is_named(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "lnd", host="lnd.example.com")
    server = Server(certificate)

    async with server.running() as url:
        at = url.replace("127.0.0.1", "localhost")
        with pytest.raises(ConfigurationError, match="set tlsextradomain on the node"):
            await start(LightningRail.lnd(at, RECEIVING, "regtest", tls_cert=certificate.path))

    assert server.requests == []


async def test_only_the_node_s_own_certificate_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = Certificate(tmp_path / "own"), Certificate(tmp_path / "other")
    server = Server(own)
    monkeypatch.setenv("SSL_CERT_FILE", str(own.path))  # which a pinned certificate leaves no say

    async with server.running() as url:
        with pytest.raises(ConfigurationError, match=r"not the one in tls_cert: copy the node's tls\.cert again"):
            await start(LightningRail.lnd(url, RECEIVING, "regtest", tls_cert=other.path))
        assert server.requests == []

        for pem in (own.path, str(own.path), own.path.read_text()):
            with pytest.raises(RailUnavailable, match="which network"):  # an answer, if no good one
                await start(LightningRail.lnd(url, RECEIVING, "regtest", tls_cert=pem))
    assert all(b"Grpc-Metadata-macaroon: " + RECEIVING.hex().encode() in request for request in server.requests)


async def test_a_certificate_that_signs_itself_is_nothing_without_a_copy_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    certificate = Certificate(tmp_path / "lnd")
    server = Server(certificate)

    async with server.running() as url:
        with pytest.raises(ConfigurationError, match=r"signed by itself: set tls_cert to a copy of its tls\.cert"):
            await start(LightningWallet.lnd(url, PAYING, "regtest"))

    assert server.requests == []
