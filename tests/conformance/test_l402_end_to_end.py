"""L402 through the whole gate: what a macaroon and its preimage open, and what restricting or altering them does."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.dialects import macaroon
from tests.conformance.test_lightning_end_to_end import Town


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    town = Town(tmp_path)
    async with town.gate, town.http:
        yield town


class Paid:
    """A challenge of `path`, paid by any wallet."""

    def __init__(self, token: str, preimage: str) -> None:
        self.macaroon, self.preimage = token, preimage

    def shown(self, scheme: str = "L402", **changes: str) -> dict[str, str]:
        members = {"macaroon": self.macaroon, "preimage": self.preimage} | changes
        return {"Authorization": f"{scheme} {members['macaroon']}:{members['preimage']}"}

    def restricted(self, caveat: str) -> str:
        """The same macaroon with one more caveat: anybody can add one, and nobody can take one away."""
        restricted = macaroon.parse(base64.b64decode(self.macaroon)).restrict(caveat.encode())
        return base64.b64encode(restricted.serialize()).decode()


async def buy(town: Town, path: str = "/article/one") -> Paid:
    challenge = (await town.http.get(path)).headers.get_list("www-authenticate")[0]
    match = re.match(r'L402 macaroon="([^"]+)", invoice="([^"]+)", version="0", token="([^"]+)"$', challenge)
    assert match is not None, challenge
    assert match[1] == match[3]
    return Paid(match[1], await town.pay(match[2]))


async def show(town: Town, headers: dict[str, str], path: str = "/article/one", **request: Any) -> httpx.Response:
    return await town.http.request(request.pop("method", "GET"), path, headers=headers, **request)


@pytest.mark.parametrize("scheme", ["L402", "LSAT", "l402"])
async def test_a_payment_is_served_once_and_replayed(town: Town, scheme: str) -> None:
    paid = await buy(town)
    first, again = [await show(town, paid.shown(scheme)) for _ in range(2)]
    assert (first.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert town.runs == ["one"]


async def test_both_words_at_once_are_one_payment(town: Town) -> None:
    paid = await buy(town)
    lines = [("Authorization", paid.shown(word)["Authorization"]) for word in ("LSAT", "L402")]
    response = await town.http.get("/article/one", headers=lines)
    assert (response.status_code, town.runs) == (200, ["one"])


async def test_a_payment_opens_its_own_request_only(town: Town) -> None:
    paid = await buy(town)
    for path, method in (("/article/two", "GET"), ("/article/one?page=2", "GET"), ("/article/one", "POST")):
        response = await show(town, paid.shown(), path, method=method)
        assert (response.status_code, response.json()["code"]) == (402, "resource_mismatch")
    assert town.runs == []
    assert (await show(town, paid.shown())).status_code == 200


async def test_a_holder_can_restrict_it_and_the_restriction_holds(town: Town) -> None:
    paid = await buy(town)
    soon, past = (str(town.clock() + seconds) for seconds in (60, 0))
    ended = await show(town, paid.shown(macaroon=paid.restricted(f"rail402_valid_until={past}")))
    assert (ended.status_code, ended.json()["code"]) == (402, "receipt_expired")
    unknown = await show(town, paid.shown(macaroon=paid.restricted("ip=192.0.2.1")))
    assert (unknown.status_code, unknown.json()["code"]) == (402, "resource_mismatch")
    assert town.runs == []
    assert (await show(town, paid.shown(macaroon=paid.restricted(f"rail402_valid_until={soon}")))).status_code == 200


@pytest.mark.parametrize("caveat", ["rail402_offer=k1.1.a.b", "rail402_valid_until=9999999999999", "services=x:0"])
async def test_nothing_that_is_added_loosens_it(town: Town, caveat: str) -> None:
    paid = await buy(town)
    response = await show(town, paid.shown(macaroon=paid.restricted(caveat)))
    assert (response.status_code, town.runs) == (402, [])


async def test_what_was_altered_or_belongs_to_another_payment_opens_nothing(town: Town) -> None:
    one, other = await buy(town), await buy(town)
    raw = bytearray(base64.b64decode(one.macaroon))
    raw[-1] ^= 1
    altered = base64.b64encode(bytes(raw)).decode()
    answers = [
        await show(town, one.shown(macaroon=altered)),
        await show(town, one.shown(preimage=other.preimage)),
        await show(town, one.shown(preimage="00" * 32)),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (402, "offer_unknown"),
        (402, "preimage_invalid"),
        (402, "preimage_invalid"),
    ]
    assert town.runs == []


async def test_the_preimage_alone_does_not_replay_what_a_macaroon_bought(town: Town) -> None:
    paid = await buy(town)
    assert (await show(town, paid.shown())).status_code == 200
    bare = await show(town, {"X-Receipt": paid.preimage})
    assert (bare.status_code, bare.json()["code"]) == (409, "replay_not_proven")


async def test_an_unpaid_invoice_opens_nothing(town: Town) -> None:
    challenge = (await town.http.get("/article/one")).headers.get_list("www-authenticate")[0]
    macaroon = challenge.split('macaroon="')[1].split('"')[0]
    response = await show(town, Paid(macaroon, "11" * 32).shown())
    assert (response.status_code, town.runs) == (402, [])


async def test_a_secret_that_was_rotated_away_knows_its_macaroons_no_more(town: Town, tmp_path: Path) -> None:
    paid = await buy(town)
    other = Town(tmp_path / "other")
    async with other.gate, other.http:
        response = await show(other, paid.shown())
        assert (response.status_code, response.json()["code"]) == (402, "offer_unknown")
