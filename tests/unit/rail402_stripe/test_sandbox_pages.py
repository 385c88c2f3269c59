"""The sandbox's pages at the gate's own origin."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from rail402.errors import MalformedInput
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import EndpointRequest
from rail402_stripe.sandbox import SANDBOX_URL
from rail402_stripe.sandbox_pages import SandboxPages, reachable
from tests.unit.rail402_stripe.account import Account
from tests.unit.rail402_stripe.test_on_demand import ORIGIN, Gate, offer_of

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"{SANDBOX_URL}/c/pay/cs_1", f"{ORIGIN}/.well-known/rail402/stripe/sandbox?page=%2Fc%2Fpay%2Fcs_1"),
        ("https://checkout.stripe.com/c/pay/cs_1#x", "https://checkout.stripe.com/c/pay/cs_1#x"),
        (f"{SANDBOX_URL}/v1/balance", f"{SANDBOX_URL}/v1/balance"),
        (f"{ORIGIN}/c/pay/cs_1", f"{ORIGIN}/c/pay/cs_1"),
    ],
)
def test_only_the_sandbox_s_own_pages_are_moved(url: str, found: str) -> None:
    assert reachable(url, Gate(offer_of())) == found


def request_of(page: str, **form: str) -> EndpointRequest:
    method, fields = ("POST", [("content-type", FORM)]) if form else ("GET", [])
    return EndpointRequest(method=method, query={"page": page}, fields=Fields(fields), body=urlencode(form).encode())


@pytest.mark.parametrize(
    "page", ["", "/v1/balance", "/c/pay/../../v1/balance", "/c/pay/", "c/pay/cs_1", "/c/pay/cs_1?a=b"]
)
async def test_nothing_else_of_it_is_reached(account: Account, page: str) -> None:
    with pytest.raises(MalformedInput):
        await SandboxPages(account.sandbox)(request_of(page), Gate(offer_of()))


async def test_a_page_is_shown_and_its_button_works(account: Account) -> None:
    line = {"currency": "usd", "unit_amount": 50, "product_data": {"name": "x"}}
    session = await account.api.create_session(
        "k", mode="payment", line_items=[{"quantity": 1, "price_data": line}], success_url=f"{ORIGIN}/back"
    )
    page, pages, gate = f"/c/pay/{session['id']}", SandboxPages(account.sandbox), Gate(offer_of())
    shown = await pages(request_of(page), gate)
    assert (shown.status, b"0.50 USD" in shown.body) == (200, True)
    assert shown.media_type == "text/html; charset=utf-8"
    declined = await pages(request_of(page, payment_method="pm_card_visa_chargeDeclined"), gate)
    assert (declined.status, declined.fields) == (402, [])
    asked = await pages(request_of(page, payment_method="pm_card_authenticationRequired"), gate)
    assert dict(asked.fields)["location"].startswith(f"{ORIGIN}/.well-known/rail402/stripe/sandbox?page=%2Fc%2Fauth")
    paid = await pages(request_of(page, payment_method="pm_card_visa"), gate)
    assert (paid.status, dict(paid.fields)["location"]) == (303, f"{ORIGIN}/back")
    assert await account.balance() == 50
    assert (await pages(request_of("/c/pay/cs_unknown"), gate)).status == 404
