"""27, through the proxy: fields that lie to the server behind it about who asks, who paid, and where."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.attacks.cases import Observe
from tests.attacks.sockets import connect, head
from tests.attacks.test_server_26_proxied_paths import GOODS, LooseServer, ToPort, proxied

LIES = [
    *(("Rail402-Charge", "ch_lie"), ("rail402_charge", "ch_lie"), ("Rail402-Payer", "lie"), ("RAIL402_PAYER", "lie")),
    *(("Rail402.Charge", "ch_lie"), ("Rail402~Payer", "lie"), ("X.Forwarded.For", "lie")),
    *(("Rail402-Anything", "lie"), ("X-Forwarded-For", "lie"), ("X_Forwarded_For", "lie"), ("X-Forwarded-Host", "lie")),
    *(
        ("X-Forwarded-Proto", "lie"),
        ("Forwarded", "for=lie;host=lie"),
        ("X-Real-IP", "lie"),
        ("X-Original-Host", "lie"),
    ),
    ("Connection", "Rail402-Payer, X-Forwarded-For, Rail402-Charge, Host, Via"),
]
TOLD = {
    "via": "1.1 rail402",
    "x-forwarded-for": "127.0.0.1",
    "x-forwarded-host": "testserver",
    "x-forwarded-proto": "http",
}


def said(server: LooseServer) -> dict[str, str]:
    """What the server was told last of what it believes."""
    begins = ("rail402", "x-forwarded", "x-original", "x-real", "forwarded", "via", "host")
    return {name: value for name, value in server.fields.items() if name.replace("_", "-").startswith(begins)}


async def test_the_server_believes_nobody_but_the_proxy(tmp_path: Path, observed: Observe) -> None:
    async with proxied(tmp_path, "pass") as (world, server, port):
        transport = world.payer.transport(ToPort(port))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await client.get("/free", headers=LIES)
            assert said(server) == {"host": "testserver", **TOLD}
            bought = await client.get("/paid", headers=LIES)
        charge = bought.headers["rail402-charge"].partition(";")[0]
        paid = {"rail402-charge": charge, "rail402-rail": "base", "rail402-price": "0.003 USD"}
        told = said(server)
        assert told.pop("rail402-payer").startswith("0x")
        assert told == {"host": "testserver", **TOLD, **paid}
        assert not {"payment-signature", "x-payment", "authorization"} & server.fields.keys()
    observed("behind the proxy nobody is believed who says who paid, who asks or for which host")


@pytest.mark.parametrize("host", ["evil.test", "testserver:99", "127.0.0.1", "testserver\x00", ""])
async def test_the_host_is_never_the_client_s(tmp_path: Path, host: str, observed: Observe) -> None:
    async with proxied(tmp_path, "pass") as (_, server, port):
        reader, writer = await connect(port)
        writer.write(head("GET", "/free", {"Connection": "close"}, host=host))
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert said(server).get("host", "testserver") == "testserver"
    observed("the proxy tells the server the configured host, never the client's")


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Length": "4", "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked", "Content-Length": "4"},
        {"Transfer-Encoding": "chunked", "Transfer_Encoding": "identity", "Content_Length": "4"},
        {"Transfer-Encoding": "\tchunked"},
        {"Transfer-Encoding": "chunked", "Connection": "Transfer-Encoding"},
        {"Content-Length": "5", "Connection": "Content-Length"},
    ],
)
async def test_no_request_is_smuggled_to_the_server(tmp_path: Path, fields: dict[str, str], observed: Observe) -> None:
    inner = "GET /paid HTTP/1.1\r\nHost: testserver\r\nConnection: close\r\n\r\n"
    async with proxied(tmp_path, "pass") as (_, server, port):
        reader, writer = await connect(port)
        writer.write(head("POST", "/free", fields) + b"0\r\n\r\n" + inner.encode())
        answers = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert GOODS.encode() not in answers
        assert [line for line in server.served if "paid" in line] == []
        assert len(server.served) <= 1
    observed("two ways to say where a request ends make no second one that the gate has not seen")
