"""32: addresses that lead into the private network, at once or once the price has been agreed to."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest

from rail402.client.guard import PublicOnly
from rail402.errors import OfferRefused, PaymentOutcomeUnknown
from tests.attacks.agents import Agent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

pytestmark = pytest.mark.parametrize("kind", ["async"])

PUBLIC = "93.184.216.34"


async def sell(request: RawRequest, connection: Connection) -> bytes | None:
    return challenge(fake_terms()) if request.proof is None else answer(200, body=b"bought")


class Everywhere(httpx.AsyncBaseTransport):
    """Reaches one server, whatever address is named; keeps which were."""

    def __init__(self, url: str) -> None:
        self._url, self._inner, self.reached = httpx.URL(url), httpx.AsyncHTTPTransport(), list[str]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.reached.append(request.url.host)
        url = self._url.copy_with(raw_path=request.url.raw_path)
        stream = httpx.ByteStream(await request.aread())
        return await self._inner.handle_async_request(
            httpx.Request(request.method, url, headers=request.headers, stream=stream)
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


def resolving(*answers: Sequence[str]) -> object:
    """A resolver whose answers change from one look to the next; the last one stays."""
    left = list(answers)

    async def resolve(name: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "10.0.0.1", "::1", "::ffff:169.254.169.254"])
async def test_a_name_in_the_private_network_is_not_asked(agent: Agent, address: str, observed: Observe) -> None:
    async with RawServer(sell) as shop:
        wire = Everywhere(shop.url)
        guard = PublicOnly(wire, resolve=resolving([PUBLIC, address]))  # type: ignore[arg-type]
        with pytest.raises(OfferRefused, match="is not a public address") as caught:
            await agent.get("http://shop.example/", inner=guard)
    assert (caught.value.outcome, wire.reached, agent.signed) == ("not_paid", [], 0)
    observed("behind `PublicOnly`, a name that has a private address too is not asked")


async def test_a_name_that_moves_there_after_the_price_gets_no_proof(agent: Agent, observed: Observe) -> None:
    async with RawServer(sell) as shop:
        wire = Everywhere(shop.url)
        guard = PublicOnly(wire, resolve=resolving([PUBLIC], ["169.254.169.254"]))  # type: ignore[arg-type]
        with pytest.raises(PaymentOutcomeUnknown) as caught:
            await agent.get("http://shop.example/", inner=guard)
        assert shop.proofs == []
    assert (wire.reached, agent.signed, caught.value.record_id is not None) == ([PUBLIC], 1, True)
    assert await agent.states() == ["unknown"]
    observed("one that moves there after the price gets no proof, and what was signed stays reserved")
