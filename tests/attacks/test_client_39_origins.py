"""39: redirects before and after the 402, to other origins and down to http; what else could carry a payment away."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rail402.errors import OfferRefused
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

SECRET_FIELDS = {"payment-signature", "authorization", "payment-authorization", "x-receipt", "x-payment", "cookie"}


async def sell(request: RawRequest, connection: Connection) -> bytes | None:
    return challenge(fake_terms()) if request.proof is None else answer(200, body=b"bought")


def names(request: RawRequest) -> set[str]:
    return {line.partition(b":")[0].decode().lower() for line in request.lines}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_before_the_402_to_another_origin(agent: Agent, status: int, observed: Observe) -> None:
    async with RawServer(sell) as evil:

        async def redirect(request: RawRequest, connection: Connection) -> bytes | None:
            return answer(status, [("Location", f"{evil.url}/pay")])

        async with RawServer(redirect) as shop:
            with pytest.raises(OfferRefused, match=f"redirected to {evil.url}") as caught:
                await agent.get(shop.url)
            assert caught.value.outcome == "not_paid"
        assert (agent.signed, evil.proofs) == (0, [])
        # Asked for by name, it is paid: that is the owner's decision.
        assert (await agent.get(evil.url)).text == "bought"
    observed("a price behind a redirect to another origin is not paid")


@pytest.mark.parametrize("kind", ["async"])
async def test_following_by_hand_is_following(open_agent: OpenAgent) -> None:
    agent = open_agent()
    async with RawServer(sell) as evil:

        async def redirect(request: RawRequest, connection: Connection) -> bytes | None:
            return answer(302, [("Location", f"{evil.url}/pay")])

        async with (
            RawServer(redirect) as shop,
            httpx.AsyncClient(transport=agent.payer.transport()) as client,
        ):
            response = await client.get(shop.url)
            assert response.next_request is not None
            with pytest.raises(OfferRefused):
                await client.send(response.next_request)
    assert agent.signed == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_after_the_402_to_another_origin(agent: Agent, status: int, observed: Observe) -> None:
    async def read(request: RawRequest, connection: Connection) -> bytes | None:
        return answer(200, body=b"elsewhere")

    async with RawServer(read) as evil:

        async def redirect(request: RawRequest, connection: Connection) -> bytes | None:
            return challenge(fake_terms()) if request.proof is None else answer(status, [("Location", evil.url)])

        async with RawServer(redirect) as shop:
            assert (await agent.request("POST", shop.url, content=b"body")).text == "elsewhere"
            assert len(shop.proofs) == 1
        assert [names(request) & SECRET_FIELDS for request in evil.requests] == [set()]
    assert agent.signed == 1
    observed("no payment field follows a redirect to another origin")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_origin_is_paid_where_it_leads(agent: Agent, status: int) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.target == "/old":
            return answer(status, [("Location", "/new")])
        return await sell(request, connection)

    async with RawServer(handle) as shop:
        response = await agent.request("POST", shop.url + "/old", content=b"body")
        assert (response.text, response.url.path) == ("bought", "/new")
        assert [(request.target, request.proof is not None) for request in shop.requests] == [
            ("/old", False),
            ("/new", False),
            ("/new", True),
        ]
        assert shop.requests[1].body == shop.requests[2].body == (b"body" if status > 303 else b"")


@pytest.mark.parametrize(
    "location",
    ["http://shop.test/", "http://shop.test:443/", "https://shop.test:444/", "https://www.shop.test/", "//evil.test/"],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_down_to_http_to_other_ports_and_hosts(agent: Agent, location: str, when: str, observed: Observe) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        proven = "payment-signature" in request.headers
        if len(seen) == 1 and when == "before":
            return httpx.Response(302, headers={"Location": location})
        if proven:
            return httpx.Response(302, headers={"Location": location})
        head, _, _ = challenge(fake_terms()).partition(b"\r\n\r\n")
        value = head.split(b"PAYMENT-REQUIRED: ")[1].split(b"\r\n")[0].decode()
        return httpx.Response(402, headers={"PAYMENT-REQUIRED": value})

    with pytest.raises(OfferRefused):
        await agent.get("https://shop.test/", inner=httpx.MockTransport(handle))
    assert agent.signed == (0 if when == "before" else 1)
    for request in seen:
        if "payment-signature" in request.headers:
            assert (request.url.scheme, request.url.host, request.url.port) == ("https", "shop.test", None)
    observed("nor down to http, to another port or host")


async def test_the_same_origin_in_another_spelling_is_the_same(agent: Agent) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/old":
            return httpx.Response(302, headers={"Location": "HTTPS://SHOP.test:443/new"})
        head, _, _ = challenge(fake_terms()).partition(b"\r\n\r\n")
        value = head.split(b"PAYMENT-REQUIRED: ")[1].split(b"\r\n")[0].decode()
        if "payment-signature" in request.headers:
            return httpx.Response(200, text="bought")
        return httpx.Response(402, headers={"PAYMENT-REQUIRED": value})

    assert (await agent.get("https://shop.test/old", inner=httpx.MockTransport(handle))).text == "bought"


async def test_a_caller_sees_no_payment_in_its_own_objects(agent: Agent) -> None:
    async with RawServer(sell) as shop:
        response = await agent.get(shop.url)
        (proof,) = shop.proofs
        assert not set(response.request.headers) & SECRET_FIELDS
        assert proof not in repr(response.extensions) + repr(response.request.extensions)
        assert proof not in repr(vars(response.extensions["rail402"].receipt or object))


@pytest.mark.parametrize("kind", ["async"])
async def test_the_keys_of_receipts_are_fetched_without_anything_of_the_callers(open_agent: OpenAgent) -> None:
    agent = open_agent()

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms())
        return answer(200, [("Receipt-Record", "a.b.c")], b"bought")

    traced: list[str] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        traced.append(name)

    async with RawServer(handle) as shop:
        response = await agent.request(
            "POST",
            shop.url + "/page",
            content=b"the body",
            headers={"Cookie": "session=1", "X-Api-Key": "k"},
            extensions={"target": b"/other?x=1", "trace": trace},
        )
        assert response.extensions["rail402"].receipt is None
        first, paid, fetched = shop.requests
    assert first.target == paid.target == "/other?x=1"
    assert (fetched.method, fetched.target, fetched.body) == ("GET", "/.well-known/rail402/jwks.json", b"")
    assert names(fetched) == {"host", "accept"}
    assert traced
    (record,) = await agent.payer.journal.newest()
    assert record.order.url == f"{shop.url}/other?x=1", "what was bought is what was sent"


async def test_what_the_journal_keeps_of_a_url_has_no_password(agent: Agent) -> None:
    async with RawServer(sell) as shop:
        await agent.get(shop.url.replace("http://", "http://alice:passw0rd@"))
    (record,) = await agent.payer.journal.newest()
    assert record.order.url == f"{shop.url}/"


async def test_a_payment_of_one_shop_is_never_shown_to_another(open_agent: OpenAgent) -> None:
    """An open purchase belongs to its whole order: the same path elsewhere is another one."""
    agent = open_agent()

    async def drop(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms()) if request.proof is None else None

    async with RawServer(drop) as first, RawServer(sell) as second:
        with pytest.raises(Exception, match="connection failed"):
            await agent.get(first.url + "/page")
        assert (await agent.get(second.url + "/page")).text == "bought"
        assert not set(first.proofs) & set(second.proofs)
    assert agent.signed == 2
