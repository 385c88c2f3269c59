"""Every request that we make to Stripe, shown to stripe-mock as well: it knows Stripe's description of its API.

Whole purchases run against the sandbox, through the real `stripe` library; each request on its way there goes to
stripe-mock too, just as it is. Where its description is behind what Stripe's documentation says, `DIFFERENCES` says
how, and a test sees that it still is: nothing is left out unsaid.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
import stripe

from rail402.protocol.charge import PaymentState
from rail402.protocol.rail import Paid
from rail402_stripe import StripeApi, StripeWallet
from rail402_stripe.proofs import ProofKind
from rail402_stripe.sandbox import SANDBOX_URL, Sandbox, SandboxTransport
from rail402_stripe.webhooks import EVENTS
from tests.integration.stripe_shop import StripeShop, Wire
from tests.services.stripe_mock import SECRET_KEY, ApiDescription, StripeMock

NESTED = "payment_method_data[shared_payment_granted_token]"
TOP_LEVEL = "shared_payment_granted_token"


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@dataclass(frozen=True)
class Asked:
    """A request, as stripe-mock gets it."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.params]

    def without(self, name: str) -> Asked:
        return replace(self, params=tuple(pair for pair in self.params if pair[0] != name))

    def and_also(self, name: str, value: str) -> Asked:
        return replace(self, params=(*self.params, (name, value)))


@dataclass(frozen=True)
class Difference:
    """What stripe-mock's descriptions do not have, or want beside. `param`: by which it is told."""

    why: str
    path: str
    param: str
    is_preview: bool
    adds: tuple[str, str] | None = None

    def amended(self, asked: Asked) -> Asked:
        """The request as stripe-mock can check the rest of it."""
        return asked.without(self.param) if self.adds is None else asked.and_also(*self.adds)


DIFFERENCES = (
    Difference(
        "its preview has the token in payment_method_data, but wants a `type` beside, as for data of a payment method; "
        "Stripe's documentation gives the token alone",
        path="/v1/payment_intents",
        param=NESTED,
        is_preview=True,
        adds=("payment_method_data[type]", "link"),
    ),
    Difference(
        "Stripe's previews had the token at the top until 2026-04-22; stripe-mock's is younger",
        path="/v1/payment_intents",
        param=TOP_LEVEL,
        is_preview=False,
    ),
    Difference(
        "the test helper took the seller in older previews; without it the request is made again",
        path="/v1/test_helpers/shared_payment/granted_tokens",
        param="seller_details[network_id]",
        is_preview=True,
    ),
)


async def refusal(mock: StripeMock, asked: Asked, *, is_preview: bool | None = None) -> str | None:
    """Why the request is not one by the description that it belongs to; None if it is."""
    if is_preview is None:
        is_preview = "/shared_payment/" in asked.path
    description: ApiDescription = mock.preview if is_preview else mock.released
    body = urlencode(asked.params)
    sent: dict[str, Any] = {"params": body} if asked.method == "GET" else {"content": body}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.request(asked.method, description.url + asked.path, headers=dict(asked.headers), **sent)
    if not answer.is_success:
        return f"{asked}: {answer.json()['error']['message']}"
    unknown = description.unknown(asked.method, asked.path, asked.names)
    return f"{asked}: there is no {', '.join(unknown)}" if unknown else None


class Linted(SandboxTransport):
    """Answers from a sandbox, and shows every request to stripe-mock as well.

    Attributes:
        asked: every request; refusals: why stripe-mock refused one.
    """

    def __init__(self, sandbox: Sandbox, mock: StripeMock) -> None:
        super().__init__(sandbox)
        self._mock = mock
        self.asked: list[Asked] = []
        self.refusals: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        form = request.url.query or await request.aread()
        params = parse_qsl(form.decode(), keep_blank_values=True)
        left = ("host", "content-length")
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in left]
        asked = Asked(request.method, request.url.path, tuple(params), tuple(headers))
        self.asked.append(asked)
        is_preview = None
        for difference in DIFFERENCES:
            if difference.path == asked.path and difference.param in asked.names:
                asked, is_preview = difference.amended(asked), difference.is_preview
        found = await refusal(self._mock, asked, is_preview=is_preview)
        self.refusals += [] if found is None else [found]
        return answer

    @property
    def paths(self) -> set[str]:
        """What was asked for, with `*` for ids."""
        return {re.sub(r"/(pi|cs|spt|cus|pm|re)_[A-Za-z0-9_]+", "/*", each.path) for each in self.asked}


@pytest.fixture
async def linted(mock: StripeMock, tmp_path: Path) -> AsyncIterator[Linted]:
    sandbox = Sandbox(tmp_path / "stripe.sqlite3")
    yield Linted(sandbox, mock)
    sandbox.close()


@pytest.fixture
async def shop(linted: Linted, tmp_path: Path) -> AsyncIterator[StripeShop]:
    wire = Wire(linted)
    api = StripeApi("sk_test_sandbox", transport=wire, api_base=SANDBOX_URL)
    async with StripeShop(api, wire, tmp_path).open() as shop:
        yield shop


# --- what we ask


async def test_every_way_to_sell_asks_only_what_there_is(shop: StripeShop, linted: Linted) -> None:
    """Each kind of purchase, each way for it to end, each thing that is looked up: and nothing of it is unknown."""
    await shop.api.check_key()
    assert (await shop.buy("/held?worth=0.60 USD")).status_code == 200
    assert (await shop.buy("/held?status=500")).status_code == 500
    assert (await shop.buy("/first?status=500")).status_code == 500
    assert (await shop.buy("/first", "pm_card_visa_chargeDeclined")).status_code == 402
    shop.wire.lose("/v1/payment_intents")
    assert (await shop.buy("/first")).status_code == 503
    await shop.gate.reconcile()  # which looks through the list
    assert (await shop.again()).status_code == 200
    recent = await shop.gate.services().store.recent(limit=10)
    shop.wire.lose("/v1/refunds")
    await shop.gate.refund(next(charge.id for charge in recent if charge.payment is PaymentState.SETTLED))
    await shop.gate.reconcile()
    secret = await shop.save_customer()
    for path in ("/held", "/first"):
        offer = await shop.offer(path)
        pi = (await shop.prepare(offer, "payment_intent"))["payment_intent"]
        await shop.confirm(pi)
        assert (await shop.show(offer, pi, path, ProofKind.PAYMENT_INTENT)).status_code == 200
        offer = await shop.offer(path)
        session = (await shop.prepare(offer, "checkout"))["checkout_session"]
        assert (await shop.show(offer, session, path, ProofKind.CHECKOUT_SESSION)).status_code == 402
        assert (await shop.show(await shop.offer(path), secret, path, ProofKind.CUSTOMER)).status_code == 200
    assert linted.refusals == []
    await _every_way_to_pay(shop, linted)
    assert linted.paths >= paths_of_the_api(), "a request of ours is in no scenario"


async def _every_way_to_pay(shop: StripeShop, linted: Linted) -> None:
    issued, tested = StripeWallet.issued_token(shop.api, "pm_card_visa"), StripeWallet.test_helper(shop.api)
    for wallet in (issued, tested):
        offer = await shop.offer("/held")
        now = offer.expires_at - 100
        paid = await wallet.pay(offer, record_id=f"rec_{wallet is issued}", now=now)
        assert await wallet.resume(offer, paid.payload, record_id="rec", now=now) == Paid(payload=paid.payload)
        assert await wallet.withdraw(offer, paid.payload, record_id="rec", now=now)
    assert linted.refusals == []


def paths_of_the_api() -> set[str]:
    """Every path in the source of `StripeApi`, with `*` for what is put in."""
    written = re.findall(r'"(/v1/[^"]+)"', inspect.getsource(StripeApi))
    paths = {re.sub(r"\{[a-z_]+\}", "*", path) for path in written}
    # The one path of which more than an id is put in.
    paths -= {"/v1/*/*/revoke"}
    revoked = {f"/v1/{place}/*/revoke" for place in re.findall(r'"([a-z_/]+_tokens)"', inspect.getsource(StripeApi))}
    assert len(revoked) == 2
    return paths | revoked


async def test_the_older_spelling_of_the_token_too(linted: Linted, tmp_path: Path) -> None:
    wire = Wire(linted)
    api = StripeApi("sk_test_sandbox", transport=wire, api_base=SANDBOX_URL, spt_parameter="top_level")
    async with StripeShop(api, wire, tmp_path).open() as shop:
        assert (await shop.buy("/held")).status_code == 200
        assert (await shop.buy("/first")).status_code == 200
    assert [TOP_LEVEL in asked.names for asked in linted.asked if asked.path == "/v1/payment_intents"] == [True, True]
    assert linted.refusals == []


async def test_only_charging_a_token_asks_for_what_the_released_api_has_not(shop: StripeShop, linted: Linted) -> None:
    secret = await shop.save_customer()
    await shop.show(await shop.offer("/held"), secret, "/held", ProofKind.CUSTOMER)
    await shop.buy("/held")
    created = [asked for asked in linted.asked if (asked.method, asked.path) == ("POST", "/v1/payment_intents")]
    assert [NESTED in asked.names for asked in created] == [False, True]


# --- what keeps this test honest


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.param)
async def test_every_difference_is_still_one(mock: StripeMock, difference: Difference) -> None:
    """One that is none any more must go; and with its amendment, there is nothing else that is refused."""
    params = {
        "/v1/payment_intents": (("amount", "80"), ("currency", "usd"), ("confirm", "true")),
        "/v1/test_helpers/shared_payment/granted_tokens": (
            *(("payment_method", "pm_card_visa"), ("usage_limits[currency]", "usd")),
            *(("usage_limits[expires_at]", "1800000000"), ("usage_limits[max_amount]", "80")),
        ),
    }
    plain = asked("POST", difference.path, *params[difference.path])
    with_it = plain.and_also(difference.param, "spt_1")
    for is_preview in {True, difference.is_preview}:
        assert await refusal(mock, with_it, is_preview=is_preview) is not None
    assert await refusal(mock, plain, is_preview=difference.is_preview) is None
    assert await refusal(mock, difference.amended(with_it), is_preview=difference.is_preview) is None


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("POST", "/v1/payment_intents", [("amount", "80"), ("currency", "usd"), ("colour", "red")]),
        ("POST", "/v1/payment_intents", [("amount", "80")]),
        ("POST", "/v1/payment_intents", [("amount", "eighty"), ("currency", "usd")]),
        ("POST", "/v1/payment_intents", [("amount", "80"), ("currency", "usd"), ("capture_method", "later")]),
        ("POST", "/v1/payment_intents", [("amount", "80"), ("currency", "usd"), (NESTED, "spt_1")]),
        (
            "POST",
            "/v1/payment_intents",
            [
                *(("amount", "80"), ("currency", "usd")),
                *(("automatic_payment_methods[enabled]", "true"), ("automatic_payment_methods[colour]", "red")),
            ],
        ),
        ("POST", "/v1/checkout/sessions", [("line_items[0][colour]", "red")]),
        ("POST", "/v1/checkout/sessions", [("payment_intent_data[metadata][a][b]", "c")]),
        ("POST", "/v1/refunds", [("payment_intent", "pi_1"), ("all", "true")]),
        ("GET", "/v1/payment_intents/pi_1", [("colour", "red")]),
        ("GET", "/v1/payment_intents", [("created[before]", "1")]),
        ("GET", "/v1/payment_intent/pi_1", []),
        ("POST", "/v1/shared_payment/granted_tokens", []),
    ],
)
async def test_what_is_wrong_is_refused(mock: StripeMock, method: str, path: str, params: Any) -> None:
    assert await refusal(mock, asked(method, path, *params)) is not None


def asked(method: str, path: str, *params: tuple[str, str]) -> Asked:
    headers = (("authorization", f"Bearer {SECRET_KEY}"), ("content-type", "application/x-www-form-urlencoded"))
    return Asked(method, path, params, headers)


# --- what we are told


async def test_stripe_sends_the_events_that_we_take(mock: StripeMock) -> None:
    """An endpoint can be set up for every one of them, and for nothing of another name."""
    events = tuple((f"enabled_events[{number}]", name) for number, name in enumerate(EVENTS))
    made = asked("POST", "/v1/webhook_endpoints", ("url", "https://shop.example/hook"), *events)
    assert await refusal(mock, made) is None
    assert await refusal(mock, made.and_also(f"enabled_events[{len(events)}]", "payment_intent.paid")) is not None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/payment_intents/pi_1", "payment_intent"),
        ("/v1/charges/ch_1", "charge"),
        ("/v1/refunds/re_1", "refund"),
        ("/v1/disputes/dp_1", "dispute"),
        ("/v1/checkout/sessions/cs_1", "checkout.session"),
    ],
)
async def test_what_events_are_about_has_the_members_that_we_read(mock: StripeMock, path: str, kind: str) -> None:
    document = await told(mock, path)
    assert document["object"] == kind
    assert "metadata" in document
    assert "payment_intent" in document or kind == "payment_intent"


async def test_what_we_judge_by_is_in_the_answers(mock: StripeMock) -> None:
    intent = await told(mock, "/v1/payment_intents/pi_1?expand[0]=latest_charge")
    wanted = "id amount amount_capturable amount_received client_secret currency last_payment_error livemode metadata"
    assert {*wanted.split(), "status", "latest_charge", "next_action"} <= intent.keys()
    charge = "id amount_captured amount_refunded captured created disputed refunded"
    assert set(charge.split()) <= intent["latest_charge"].keys()
    session = await told(mock, "/v1/checkout/sessions/cs_1?expand[0]=payment_intent.latest_charge")
    assert {"id", "metadata", "livemode", "payment_intent", "status", "url"} <= session.keys()
    assert {"id", "payment_intent", "status"} <= (await told(mock, "/v1/refunds/re_1")).keys()
    token = await told(mock, "/v1/shared_payment/granted_tokens/spt_1", is_preview=True)
    members = "id livemode deactivated_at deactivated_reason usage_limits usage_details agent_details"
    assert set(members.split()) <= token.keys()
    assert {"currency", "expires_at", "max_amount"} <= token["usage_limits"].keys()


async def told(mock: StripeMock, path: str, *, is_preview: bool = False) -> Any:
    description = mock.preview if is_preview else mock.released
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {SECRET_KEY}"}) as client:
        return (await client.get(description.url + path)).raise_for_status().json()
