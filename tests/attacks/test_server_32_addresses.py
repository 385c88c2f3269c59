"""32: addresses in what a client sends. A gate calls its own backends, and nobody that a request names.

Python tells of every connection that is begun (`sys.addaudithook`), so that nothing has to be guessed about who was
called. `canary` is what an attacker would have called: it answers whatever is asked.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.dialects import macaroon
from rail402.errors import ConfigurationError
from rail402_base.facilitator import Facilitator
from tests.attacks.cases import Observe
from tests.attacks.facilitators import market
from tests.attacks.raw import Connection, RawRequest, RawServer, answer
from tests.conformance.test_base_end_to_end import World, header, opened
from tests.conformance.test_l402_end_to_end import buy, show
from tests.conformance.test_lightning_end_to_end import Town
from tests.services.anvil import EvmChain

_calls: list[set[tuple[str, int]]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _calls and isinstance(arguments[1], tuple):
        _calls[-1].add((str(arguments[1][0]), int(arguments[1][1])))
    elif event == "socket.getaddrinfo" and _calls:
        _calls[-1].add((str(arguments[0]), int(arguments[1] or 0)))


sys.addaudithook(_audit)  # for as long as the process lives; it notes nothing outside of `called`


@contextmanager
def called() -> Iterator[set[tuple[str, int]]]:
    """Everybody who is called, or looked up, in this block."""
    _calls.append(set())
    try:
        yield _calls[-1]
    finally:
        _calls.pop()


@pytest.fixture
async def canary() -> AsyncIterator[RawServer]:
    async def serve(request: RawRequest, connection: Connection) -> bytes:
        return answer(200, [("Content-Type", "application/json")], b'{"isValid": true, "success": true, "keys": []}')

    async with RawServer(serve) as server:
        yield server


def addresses(canary: RawServer) -> list[str]:
    """The canary's, in the spellings that fool filters, and where clouds keep their secrets."""
    hosts = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
    found = [f"http://{host}:{canary.port}/x" for host in hosts]
    found += ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://metadata.internal/"]
    return [
        *found,
        f"http://user@127.0.0.1:{canary.port}@169.254.169.254/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:70/",
    ]


def requests(url: str, good: dict[str, str]) -> Iterator[dict[str, str]]:
    """Requests with an address wherever a payment, or what comes with one, could have one."""
    message = json.loads(base64.b64decode(good["PAYMENT-SIGNATURE"]))
    names = ("facilitator", "facilitatorUrl", "verifyUrl", "settleUrl", "callback", "callbackUrl", "webhook", "jwks")
    for name in names:
        for where in (message, message["accepted"], message["accepted"]["extra"], message["payload"]):
            changed = json.loads(json.dumps(message))
            target: Any = changed
            for part in _path(message, where):
                target = target[part]
            target[name] = url
            yield {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(changed).encode()).decode()}
    yield {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message | {"resource": {"url": url}}).encode()).decode()}
    head = base64.urlsafe_b64encode(json.dumps({"alg": "EdDSA", "jku": url, "x5u": url, "kid": url}).encode()).decode()
    for name in ("Receipt-Record", "X-Receipt", "Payment-Receipt", "Authorization"):
        yield {name: f"{head.rstrip('=')}.e30.AAAA"}
        yield {name: url}
    for name in (
        "X-Facilitator",
        "X-Payment-Facilitator",
        "X-Callback-Url",
        "Origin",
        "Referer",
        "X-Forwarded-Host",
        "From",
    ):
        yield good | {name: url}
    yield good | {"Host": url.removeprefix("http://")}


def _path(message: dict[str, Any], where: object) -> list[str]:
    paths: list[list[str]] = [[], ["accepted"], ["accepted", "extra"], ["payload"]]
    for path in paths:
        found: Any = message
        for part in path:
            found = found[part]
        if found is where:
            return path
    raise AssertionError("no member of the message")


async def test_who_is_called_is_heard(canary: RawServer) -> None:
    with called() as calls:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(canary.url)
    assert ("127.0.0.1", canary.port) in calls


async def test_nothing_in_a_request_is_called(world: World, canary: RawServer, observed: Observe) -> None:
    good = await world.payment("/article")
    with called() as calls:
        for url in addresses(canary):
            for fields in requests(url, good):
                response = await world.http.get("/article", headers=fields)
                assert response.status_code in (200, 400, 402, 409), response.text
                assert f":{canary.port}" not in response.headers.get("location", "")
    assert (calls, canary.requests) == (set(), [])
    observed("nobody is called or looked up for 13 addresses in 49 places of a payment and its fields")


async def test_the_facilitator_is_the_operators(
    evm: EvmChain, tmp_path: Path, canary: RawServer, observed: Observe
) -> None:
    """With a real backend: only it and the chain are called, whoever is named; a redirect leads nowhere."""
    async with market(evm, tmp_path) as buyer:
        accepted, payload = opened((await buyer.honest())[1])
        own = {buyer.backend._facilitators[0]._facilitator.url, evm.url}
        ports = {(httpx.URL(url).host, httpx.URL(url).port or 0) for url in own}
        with called() as calls:
            for name in ("facilitator", "facilitatorUrl", "url"):
                named = accepted | {"extra": accepted["extra"] | {name: canary.url}}
                assert (await buyer.show(header(named, payload))).status_code in (200, 402)
            good = (await buyer.honest())[1]
            for status in (301, 302, 307, 308):
                buyer.liar.says["/verify"] = answer(status, [("Location", canary.url)])
                assert (await buyer.show(good)).status_code == 503
            buyer.ahead = 60  # the breaker has rested
            del buyer.liar.says["/verify"]
            buyer.liar.says["/settle"] = answer(307, [("Location", canary.url)])
            assert (await buyer.show(good)).status_code == 503
        assert {(host, port) for host, port in calls if host != "::1"} <= ports
        assert (canary.requests, "/settle" in buyer.liar.calls) == ([], True)
    observed("with a facilitator and a chain only these are called; a facilitator's redirect is not followed")


@pytest.mark.parametrize(
    "url",
    ["http://facilitator.example.com", "ftp://127.0.0.1", "http://u:p@127.0.0.1", "https://a.example/?x=1", "", "//x"],
)
def test_an_operators_own_slip_is_refused(url: str, observed: Observe) -> None:
    with pytest.raises(ConfigurationError):
        Facilitator(url)
    observed("an operator's own address by plain http, with credentials or a query is refused")


async def test_an_invoices_host_and_a_macaroons_place_are_not_called(
    town: Town, canary: RawServer, observed: Observe
) -> None:
    """A macaroon has a place that nobody signs, and its caveats may name a third party to ask."""
    paid = await buy(town)
    made = macaroon.parse(base64.b64decode(paid.macaroon))
    with called() as calls:
        for url in addresses(canary):
            moved = base64.b64encode(replace(made, location=url.encode()).serialize()).decode()
            third = made.restrict(b"ask=" + url.encode())
            for token in (moved, base64.b64encode(third.serialize()).decode()):
                assert (await show(town, paid.shown(macaroon=token))).status_code in (200, 402)
    assert (calls, canary.requests) == (set(), [])
    observed("nor for the place or a third party in a macaroon")
