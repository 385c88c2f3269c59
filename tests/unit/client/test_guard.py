"""Only public addresses are connected to, and to the very one that was looked at."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest

from rail402.client.guard import PublicOnly, is_public
from rail402.errors import OfferRefused

PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"


class Wire(httpx.AsyncBaseTransport):
    """What would connect; keeps what it was asked to."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(200, content=await request.aread())

    async def aclose(self) -> None:
        self.closed = True


def answering(*answers: Sequence[str]) -> tuple[PublicOnly, Wire]:
    """A guard whose resolver gives these answers in turn, the last one for ever."""
    left, wire = list(answers), Wire()

    async def resolve(name: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return PublicOnly(wire, resolve=resolve), wire


@pytest.mark.parametrize("address", [PUBLIC, OTHER, "1.1.1.1", "64:ff9b::5db8:d822", "2002:5db8:d822::1"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("255.255.255.255", "224.0.0.1", "198.18.0.1", "192.0.2.1", "240.0.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "fd00:ec2::254", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::1", "64:ff9b::a9fe:a9fe"),
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        *("fec0::1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::a00:1", "5f00::1"),
    ],
)
def test_all_others(address: str) -> None:
    assert not is_public(address)


async def test_it_connects_to_what_it_has_looked_at_by_the_name_that_was_asked_for() -> None:
    guard, wire = answering([PUBLIC, OTHER])
    async with httpx.AsyncClient(transport=guard) as client:
        response = await client.post("https://shop.example:8443/a?b=%20c", content=b"body")
    (sent,) = wire.asked
    assert str(sent.url) == f"https://{PUBLIC}:8443/a?b=%20c"
    assert sent.headers["host"] == "shop.example:8443"
    assert sent.extensions["sni_hostname"] == "shop.example"
    assert (response.content, str(response.url)) == (b"body", "https://shop.example:8443/a?b=%20c")
    assert wire.closed


async def test_one_name_is_looked_up_asked_for_and_shown_by_its_certificate() -> None:
    # The resolver's own, older rules for other alphabets make another host of it: fass.example.
    names, wire = [], Wire()

    async def resolve(name: str, port: int) -> Sequence[str]:
        names.append(name)
        return [PUBLIC]

    async with httpx.AsyncClient(transport=PublicOnly(wire, resolve=resolve)) as client:
        await client.get("https://fa\u00df.example/")
    (sent,) = wire.asked
    assert {*names, sent.headers["host"], sent.extensions["sni_hostname"]} == {"xn--fa-hia.example"}


async def test_a_proxy_of_the_environment_would_look_names_up_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    guard, wire = answering([PUBLIC])
    async with httpx.AsyncClient(transport=guard) as client:
        for scheme in ("http", "https"):
            assert (await client.get(f"{scheme}://shop.example/")).status_code == 200
    assert {request.url.host for request in wire.asked} == {PUBLIC}


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:10.0.0.1"], []])
async def test_one_private_address_is_enough_to_refuse(addresses: list[str]) -> None:
    guard, wire = answering(addresses)
    async with httpx.AsyncClient(transport=guard) as client:
        with pytest.raises(OfferRefused, match=r"shop\.example is not a public address\. .*--allow-private") as caught:
            await client.get("https://shop.example/")
    assert (wire.asked, caught.value.code) == ([], "address_not_public")


class Down(Wire):
    """One of the two addresses cannot be connected to."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == OTHER:
            raise httpx.ConnectError("unreachable")
        return await super().handle_async_request(request)


async def test_the_next_address_is_tried_where_one_cannot_be_connected_to() -> None:
    answers = [[OTHER, OTHER, PUBLIC], [PUBLIC, OTHER], [OTHER]]

    async def resolve(name: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    wire = Down()
    async with httpx.AsyncClient(transport=PublicOnly(wire, resolve=resolve)) as client:
        for _ in range(2):
            assert (await client.post("https://shop.example/", content=b"body")).content == b"body"
        with pytest.raises(httpx.ConnectError, match="unreachable"):
            await client.post("https://shop.example/", content=b"body")
    assert [request.url.host for request in wire.asked] == [PUBLIC, PUBLIC]


async def test_a_name_that_changes_its_mind_is_looked_at_each_time() -> None:
    guard, wire = answering([PUBLIC], ["169.254.169.254"])
    async with httpx.AsyncClient(transport=guard) as client:
        await client.get("https://shop.example/")
        with pytest.raises(OfferRefused):
            await client.get("https://shop.example/")
    assert [request.url.host for request in wire.asked] == [PUBLIC]


async def test_a_redirect_into_the_private_network_is_refused() -> None:
    wire = httpx.MockTransport(lambda request: httpx.Response(302, headers={"Location": "http://169.254.169.254/"}))

    async def resolve(name: str, port: int) -> Sequence[str]:
        return [PUBLIC] if name == "shop.example" else [name]

    async with httpx.AsyncClient(transport=PublicOnly(wire, resolve=resolve), follow_redirects=True) as client:
        with pytest.raises(OfferRefused, match=r"169\.254\.169\.254"):
            await client.get("https://shop.example/")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f000001"])
async def test_numbers_in_any_spelling_by_the_system_s_own_resolver(host: str) -> None:
    wire = Wire()
    async with httpx.AsyncClient(transport=PublicOnly(wire)) as client:
        with pytest.raises((OfferRefused, httpx.ConnectError)):
            await client.get(f"http://{host}/")
    assert wire.asked == []


async def test_a_name_that_is_none() -> None:
    async def resolve(name: str, port: int) -> Sequence[str]:
        raise OSError("no such host")

    async with httpx.AsyncClient(transport=PublicOnly(Wire(), resolve=resolve)) as client:
        with pytest.raises(httpx.ConnectError, match="cannot be resolved"):
            await client.get("http://nowhere.example/")
