"""Links for people: they lead to what their offer is for, and nobody else can leave one with a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.conformance.test_stripe_end_to_end import URL, Shop, no_telemetry_file
from tests.conformance.test_stripe_on_demand import challenge
from tests.unit.rail402_stripe.account import Account

__all__ = ["no_telemetry_file"]

STRIPE = "/.well-known/rail402/stripe"


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    account = Account(tmp_path)
    yield account
    await account.close()


@pytest.mark.parametrize("changes", [{"url": f"{URL}/account/delete?sure=yes"}, {"route": "GET /other"}])
async def test_a_link_whose_offer_is_for_something_else_is_refused_before_anything_is_paid(
    account: Account, changes: dict[str, str]
) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        _, said = await challenge(shop)
        link = dict(parse_qsl(urlsplit(said["pay_url"]).query))
        assert (await shop.client.get(STRIPE, params=link)).status_code == 200
        altered = link | changes
        answers = [
            await shop.client.get(STRIPE, params=altered),
            await shop.client.post(f"{STRIPE}/checkout", data=altered),
        ]
        assert [answer.status_code for answer in answers] == [402, 402]
        assert all("set-cookie" not in answer.headers for answer in answers)


async def test_another_site_cannot_make_a_browser_fetch_an_address_of_the_shop(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, said = await challenge(shop)
        link = dict(parse_qsl(urlsplit(said["pay_url"]).query))
        async with httpx.AsyncClient(transport=shop.transport(), base_url=URL) as victim:
            forged = {"origin": "https://evil.example"}
            led = await victim.post(f"{STRIPE}/checkout", data=link, headers=forged)
            assert (led.status_code, "set-cookie" in led.headers) == (400, False)
            assert offer.envelope is not None
            asked = {"dialect": "mpp", "offer": dict(offer.envelope), "prepare": "checkout"}
            made = (await victim.post(STRIPE, json=asked)).json()
            session = await account.api.session(made["checkout_session"])
            query = {"offer": session["client_reference_id"], "session": made["checkout_session"]}
            page = await victim.get(f"{STRIPE}/return", params=query)
            assert 'id="bought"' not in page.text
