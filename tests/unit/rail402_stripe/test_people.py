"""The pages of a person's purchase: what a link and a cookie must be before anything is made or shown."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from rail402.errors import ConfigurationError, PaymentRejected
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import EndpointReply, EndpointRequest
from rail402.protocol.order import Order
from rail402.testing.fakes import FakeClock
from rail402_stripe.on_demand import Preparer
from rail402_stripe.people import People
from tests.unit.rail402_stripe.test_on_demand import ORIGIN, SETTINGS, Gate, Stripe, offer_of, session, stripe_says

__all__ = ["stripe_says"]

MINE = {"it": "is mine"}
URL = f"{ORIGIN}/report?n=1"


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def link(**changes: str) -> dict[str, str]:
    return {"dialect": "mpp", "offer": packed(MINE), "url": URL, "route": "GET /report", **changes}


def form_of(fields: dict[str, str], origin: str | None = ORIGIN) -> EndpointRequest:
    sent = Fields([] if origin is None else [("origin", origin)])
    return EndpointRequest(method="POST", query={}, fields=sent, body=urlencode(fields).encode())


def page_of(query: dict[str, str], cookie: str | None = None) -> EndpointRequest:
    fields = Fields([] if cookie is None else [("cookie", cookie)])
    return EndpointRequest(method="GET", query=query, fields=fields, body=b"")


def people(account: Stripe) -> People:
    return People(Preparer(account.api, SETTINGS, FakeClock()))


def location(reply: EndpointReply) -> str | None:
    return dict(reply.fields).get("location")


async def test_the_button_leads_to_checkout_and_leaves_a_cookie(stripe_says: Stripe) -> None:
    stripe_says.answer = session()
    reply = await people(stripe_says).lead(form_of(link()), Gate(offer_of()))
    assert (reply.status, location(reply)) == (303, session()["url"])
    name, _, limits = dict(reply.fields)["set-cookie"].partition("=")
    assert name.startswith("rail402-")
    assert limits.partition("; ")[2] == (
        "Path=/.well-known/rail402/stripe; Max-Age=7200; HttpOnly; SameSite=Lax; Secure"
    )


async def test_the_offer_must_be_for_what_the_link_leads_to(stripe_says: Stripe) -> None:
    gate, order = Gate(offer_of()), Order(method="GET", url=URL, route="GET /report")
    await people(stripe_says).show(page_of(link()), gate)
    assert gate.how == {"order": order, "may_be_expired": False}
    await people(stripe_says).lead(form_of(link()), gate)
    assert gate.how == {"order": order, "may_be_expired": False}
    mark = "0" * 32
    cookie = f"rail402-{mark[:16]}={packed(link())}"
    await people(stripe_says).come_back(page_of({"offer": mark, "session": "cs_1"}, cookie), gate)
    assert gate.how == {"order": order, "may_be_expired": True}  # what was paid in time is fetched later


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{ORIGIN}.evil.example", ""])
async def test_the_form_of_another_site_leaves_nothing_with_the_browser(stripe_says: Stripe, origin: str) -> None:
    stripe_says.answer = session()
    reply = await people(stripe_says).lead(form_of(link(), origin), Gate(offer_of()))
    assert (reply.status, "set-cookie" in dict(reply.fields), stripe_says.asked) == (400, False, [])


async def test_a_program_that_names_no_origin_is_led(stripe_says: Stripe) -> None:
    stripe_says.answer = session()
    assert (await people(stripe_says).lead(form_of(link(), None), Gate(offer_of()))).status == 303


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "https://evil.example/report"},
        {"url": ORIGIN},
        {"url": f"{ORIGIN}.evil.example/"},
        {"url": f"{ORIGIN}/a b"},
        {"url": f"{ORIGIN}/a\r\nset-cookie: b=c"},
        {"url": f"{ORIGIN}/{'a' * 3500}"},  # no cookie could hold it, and then it could not be shown when it is paid
        {"url": f"{ORIGIN}/{'a' * 5000}"},
        {"offer": "not base64url!"},
        {"offer": packed([1])},
        {"offer": packed({"it": "is not mine"})},
        {"dialect": "x402-v2"},
        {"dialect": ""},
    ],
)
async def test_a_link_that_is_none_makes_nothing(stripe_says: Stripe, changes: dict[str, str]) -> None:
    stripe_says.answer = session()
    reply = await people(stripe_says).lead(form_of(link(**changes)), Gate(offer_of()))
    assert reply.status in (400, 402)
    assert (location(reply), reply.media_type) == (None, "text/html; charset=utf-8")
    assert stripe_says.asked == []


@pytest.mark.parametrize("body", [b"", b"\xff", b"a=1&" * 20, b"x" * 70_000, b"dialect=mpp"])
async def test_a_form_that_is_none_makes_nothing(stripe_says: Stripe, body: bytes) -> None:
    request = EndpointRequest(method="POST", query={}, fields=Fields(), body=body)
    assert (await people(stripe_says).lead(request, Gate(offer_of()))).status == 400
    assert stripe_says.asked == []


async def test_the_way_back_shows_it_to_the_browser_that_paid(stripe_says: Stripe) -> None:
    stripe_says.answer, gate = session(), _Known(offer_of())
    led = await people(stripe_says).lead(form_of(link(offer=packed(MINE | {"challenge": {"id": "c"}}))), gate)
    cookie = dict(led.fields)["set-cookie"].partition(";")[0]
    mark = stripe_says.asked[0][2]["client_reference_id"]
    query = {"offer": mark, "session": "cs_1"}
    shown = (await people(stripe_says).come_back(page_of(query, f"other=1; {cookie}"), gate)).body.decode()
    told = json.loads(shown.partition('id="bought">')[2].partition("</script>")[0])
    assert told["url"] == URL
    credential = told["payment"].removeprefix("Payment ")
    decoded = json.loads(base64.urlsafe_b64decode(credential + "=" * (-len(credential) % 4)))
    assert decoded == {"challenge": {"id": "c"}, "payload": {"checkoutSession": "cs_1"}}
    for strange in ({"session": "pi_1"}, {"session": "cs_<b>"}, {"offer": "0" * 32}, {"offer": "x"}):
        reply = await people(stripe_says).come_back(page_of(query | strange, cookie), gate)
        assert "script" not in reply.body.decode()
    for other in ("rail402-=x", cookie[:24] + "=%%%", cookie.partition("=")[0] + "=" + packed({"url": URL})):
        reply = await people(stripe_says).come_back(page_of(query, other), gate)
        assert "script" not in reply.body.decode()


async def test_a_cookie_that_leads_elsewhere_leads_nowhere(stripe_says: Stripe) -> None:
    mark = "0" * 32
    cookie = f"rail402-{mark[:16]}={packed(link(url='https://evil.example/'))}"
    reply = await people(stripe_says).come_back(page_of({"offer": mark, "session": "cs_1"}, cookie), Gate(offer_of()))
    assert (reply.status, "evil" in reply.body.decode()) == (400, False)


class _Known(Gate):
    """A desk that takes any envelope for its offer."""

    def offer(self, dialect: str, envelope: Any, **how: Any) -> Any:
        self.how = how
        return self.known


async def test_a_mistake_of_the_publisher_s_is_no_page(stripe_says: Stripe) -> None:
    class Broken(Gate):
        def offer(self, dialect: str, envelope: Any, **how: Any) -> Any:
            raise ConfigurationError("no secret")

    with pytest.raises(ConfigurationError):
        await people(stripe_says).show(page_of(link()), Broken(offer_of()))


@pytest.mark.parametrize(("code", "title"), [("offer_expired", "expired"), ("offer_unknown", "did not work")])
async def test_a_link_that_is_over_says_so(stripe_says: Stripe, code: str, title: str) -> None:
    class Late(Gate):
        def offer(self, dialect: str, envelope: Any, **how: Any) -> Any:
            raise PaymentRejected(code=code)

    reply = await people(stripe_says).show(page_of(link()), Late(offer_of()))
    assert (reply.status, title in reply.body.decode()) == (402, True)
