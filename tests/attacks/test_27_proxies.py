"""27: `Host`, `X-Forwarded-*` and `Forwarded` that lie, to move offers to another origin or to be somebody else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.server.limits import Limits
from tests.attacks.cases import Observe
from tests.unit.server.shop import URL, Shop, Wire

PROXY, ATTACKER, VICTIM = "10.0.0.1", "203.0.113.9", "198.51.100.7"
LIMITS = Limits(challenges="10/h", trusted_proxies=["10.0.0.0/8"])


async def goods(_: Request) -> Response:
    return PlainTextResponse("the goods")


def shop(**options: Any) -> Shop:
    made = Shop(Starlette(), **options)
    made.app.add_route("/goods", made.gate.paid("0.003 USD")(goods))
    return made


async def ask(shop: Shop, peer: str | None, *lines: tuple[str, str]) -> Wire:
    headers = [(name.encode(), value.encode()) for name, value in lines]
    client = None if peer is None else (peer, 1)
    return await shop.request("/goods", headers=headers, scope={"client": client}).run()


async def statuses(shop: Shop, peer: str | None, *lines: tuple[str, str], times: int = 1) -> list[int]:
    return [(await ask(shop, peer, *lines)).status for _ in range(times)]


@pytest.mark.parametrize("trusted", [False, True])
async def test_no_field_moves_an_offer_to_another_origin(trusted: bool, observed: Observe) -> None:
    lies = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-prefix", "/cheap"),
        ("x-original-url", "/free"),
        ("forwarded", "for=203.0.113.9;host=evil.example;proto=http"),
    ]
    made = shop(limits=LIMITS) if trusted else shop()
    async with made.open():
        said = []
        for lines in ([], lies):
            answer = await ask(made, PROXY, *lines)
            message = json.loads(base64.b64decode(answer.one("payment-required")))
            realms = [line.partition("realm=")[2].split(",")[0] for line in answer.all("www-authenticate")]
            said.append((answer.status, message["resource"], answer.json()["resource"], realms))
        assert said[0] == said[1]
        assert said[0][1]["url"] == f"{URL}/goods"
    observed("resource and realm are the configured origin's, whatever the request says")


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "cf-connecting-ip"])
async def test_who_comes_directly_is_counted_by_its_own_address(name: str, observed: Observe) -> None:
    made = shop(limits=LIMITS)
    async with made.open():
        lines = [(name, f"{'for=' if name == 'forwarded' else ''}198.51.100.{number}") for number in range(40)]
        found = [(await ask(made, ATTACKER, line)).status for line in lines]
        assert found == [402] * 10 + [429] * 30
        assert await statuses(made, "198.51.100.3") == [402]  # nobody else was charged for it
    observed("without a trusted proxy no field makes another client of one, nor one of another")


async def test_what_a_client_tells_the_proxy_about_itself_is_not_believed(observed: Observe) -> None:
    made = shop(limits=LIMITS)
    async with made.open():
        for number in range(40):  # the proxy appends the address that it was asked by
            line = ("x-forwarded-for", f"{VICTIM}, 10.9.9.9, 192.0.2.{number}, {ATTACKER}")
            expected = 402 if number < 10 else 429
            assert await statuses(made, PROXY, line) == [expected]
        assert await statuses(made, PROXY, ("x-forwarded-for", VICTIM), times=10) == [402] * 10
        assert await statuses(made, PROXY, ("x-forwarded-for", f"{VICTIM}, 10.1.1.1")) == [429]
    observed("behind trusted proxies the right-most hop that is not one of them counts")


@pytest.mark.parametrize(
    "lie",
    [
        ("forwarded", f"for={VICTIM}"),
        ("forwarded", 'for="'),
        ("forwarded", "for=unknown"),
    ],
)
async def test_a_second_field_that_the_proxy_did_not_write_wins_nothing(
    lie: tuple[str, str], observed: Observe
) -> None:
    made = shop(limits=LIMITS)
    async with made.open():
        found = [(await ask(made, PROXY, ("x-forwarded-for", f"192.0.2.{number}"), lie)).status for number in range(40)]
        assert found == [402] * 10 + [429] * 30  # all of them count as the proxy
        assert await statuses(made, PROXY, ("x-forwarded-for", VICTIM)) == [402]
    observed("fields that contradict each other, or cannot be read, make all of their senders one client")


async def test_everybody_behind_a_socket_is_one_client() -> None:
    made = shop(limits=LIMITS)
    async with made.open():
        lines = [("x-forwarded-for", f"198.51.100.{number}") for number in range(20)]
        assert [(await ask(made, None, line)).status for line in lines] == [402] * 10 + [429] * 10


async def test_one_household_with_2_to_the_64_addresses_is_one_client(observed: Observe) -> None:
    made = shop(limits=LIMITS)
    async with made.open():
        found = [(await ask(made, f"2001:db8:1:2:{number:x}::1")).status for number in range(20)]
        assert found == [402] * 10 + [429] * 10
        assert await statuses(made, "2001:db8:1:3::1") == [402]
    observed("a /64 of IPv6 is one client")
