"""The webhook endpoint by itself: which deliveries count, what each event has looked up, and what it answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest
import stripe

from rail402.errors import ConfigurationError, MalformedInput, RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.charge import Operation
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import EndpointReply, EndpointRequest, Endpoints, Signed
from rail402.protocol.payment import ConsumptionKey
from rail402_stripe import StripeRail
from rail402_stripe.config import RailConfig, make_rail
from rail402_stripe.webhooks import EVENTS, TOLERANCE_SECONDS, WEBHOOK, Webhook, check_secrets

NOW = 1_800_000_000
SECRET, OLD_SECRET = "whsec_current", "whsec_being_rolled"
CHARGE, INTENT = "ch_abc234", "pi_1"
MARKS = {"rail402_charge": CHARGE, "rail402_realm": "shop.example"}
KEY = f"stripe:test:{INTENT}"


class FakeDesk:
    """Remembers what was to be looked up; knows what it is told to know."""

    public_url = "https://shop.example:8443"

    def __init__(self, *known: str) -> None:
        self.known, self.asked = set(known), list[tuple[Operation, str]]()

    async def look_up(self, operation: Operation, *, keys: Iterable[ConsumptionKey] = (), charge: str = "") -> bool:
        found = [name for name in (charge or None, *keys) if name is not None]
        self.asked += [(operation, name) for name in found]
        return bool(self.known & set(found))

    def offer(self, dialect: str, envelope: Json, **how: Any) -> Any:
        raise AssertionError("a webhook asks for no offers")


async def retrieve(pi: str) -> Json:
    """What Stripe says about the PaymentIntent."""
    return {"id": pi, "object": "payment_intent", "metadata": MARKS}


def endpoint(**changes: Any) -> Webhook:
    facts = {"secrets": (SECRET, OLD_SECRET), "network": "stripe:test", "clock": lambda: NOW, "retrieve": retrieve}
    return Webhook(**(facts | changes))


def event(name: str = "payment_intent.succeeded", document: Any = None, **changes: Any) -> dict[str, Any]:
    made = {"id": "evt_1", "object": "event", "type": name, "created": NOW, "livemode": False}
    intent = {"id": INTENT, "object": "payment_intent", "metadata": MARKS}
    return made | {"data": {"object": intent if document is None else document}} | changes


def signature(body: str, secret: str = SECRET, at: int = NOW) -> str:
    """What the library itself would send."""
    return str(stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=at))


def delivery(made: Any, header: str | None = None) -> EndpointRequest:
    body = made if isinstance(made, bytes) else json.dumps(made).encode()
    shown = signature(body.decode()) if header is None else header
    return EndpointRequest(method="POST", query={}, fields=Fields([("Stripe-Signature", shown)]), body=body)


async def refusal(request: EndpointRequest, hook: Webhook | None = None) -> MalformedInput:
    desk = FakeDesk(CHARGE)
    with pytest.raises(MalformedInput) as caught:
        await (hook or endpoint())(request, desk)
    assert desk.asked == []
    return caught.value


# --- what is genuine


async def test_a_genuine_delivery_is_looked_up_and_says_so() -> None:
    desk = FakeDesk(CHARGE)
    reply = await endpoint()(delivery(event()), desk)
    assert (reply.status, json.loads(reply.body)) == (200, {"received": True})
    assert desk.asked[0] == (Operation.SETTLE, CHARGE)


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
async def test_while_a_secret_is_rolled_either_signature_will_do(secret: str) -> None:
    body = json.dumps(event())
    other = signature(body, "whsec_somebody_elses").partition(",")[2]
    header = f"{signature(body, secret)},{other},v0={'0' * 64}"
    assert (await endpoint()(delivery(event(), header), FakeDesk(CHARGE))).status == 200


@pytest.mark.parametrize("header", ["", "v1=00", "t=", "t=x,v1=00", f"t={NOW}", f"t={NOW},v0=00", "t=é,v1=00", "\x00"])
async def test_what_is_no_signature_is_refused(header: str) -> None:
    error = await refusal(delivery(event(), header))
    assert (error.status, error.field) == (400, "stripe-signature")


async def test_a_signature_of_something_else_is_refused() -> None:
    body = json.dumps(event())
    good = signature(body)
    for header in (
        signature(body + " "),
        signature(body, "whsec_"),
        signature(body, "whsec_forged"),
        good.replace("v1=", "v0="),
        good.replace(f"t={NOW}", f"t={NOW + 1}"),
        good[:-1],
        good + "é",
    ):
        assert (await refusal(delivery(event(), header))).status == 400
    assert (await refusal(delivery(body.replace("evt_1", "evt_2").encode(), good))).status == 400


@pytest.mark.parametrize("extra", [f"t={NOW}", f"t={NOW - 9999}", "t=1"])
async def test_a_second_time_cannot_make_an_old_delivery_young(extra: str) -> None:
    body = json.dumps(event())
    old = signature(body, at=NOW - 9999)
    for header in (f"{old},{extra}", f"{extra},{old}", f"{signature(body)},{extra}"):
        assert (await refusal(delivery(event(), header))).status == 400


@pytest.mark.parametrize("time", [f"+{NOW}", f" {NOW}", f"{NOW}=1", f"{NOW // 1000}_000", "9" * 5000])
async def test_a_time_is_digits(time: str) -> None:
    header = signature(json.dumps(event())).replace(f"t={NOW}", f"t={time}")
    assert (await refusal(delivery(event(), header))).status == 400


async def test_two_signature_headers_are_none() -> None:
    body = json.dumps(event())
    fields = Fields([("stripe-signature", signature(body)), ("stripe-signature", signature(body, OLD_SECRET))])
    request = EndpointRequest(method="POST", query={}, fields=fields, body=body.encode())
    assert (await refusal(request)).status == 400
    nothing = EndpointRequest(method="POST", query={}, fields=Fields(), body=body.encode())
    assert (await refusal(nothing)).status == 400


@pytest.mark.parametrize(
    ("seconds", "is_taken"),
    [(0, True), (-TOLERANCE_SECONDS, True), (TOLERANCE_SECONDS, True), (-301, False), (301, False), (86_400, False)],
)
async def test_a_delivery_is_of_now_give_or_take_five_minutes(seconds: int, is_taken: bool) -> None:
    request = delivery(event(), signature(json.dumps(event()), at=NOW + seconds))
    if is_taken:
        assert (await endpoint()(request, FakeDesk(CHARGE))).status == 200
    else:
        assert "300 s" in (await refusal(request)).detail


@pytest.mark.parametrize(
    ("network", "livemode", "is_taken"),
    [
        ("stripe:test", False, True),
        ("stripe:sandbox", False, True),
        ("stripe:live", True, True),
        ("stripe:test", True, False),
        ("stripe:sandbox", True, False),
        ("stripe:live", False, False),
        ("stripe:live", None, False),
        ("stripe:test", 0, False),
    ],
)
async def test_the_mode_is_that_of_the_key(network: str, livemode: Any, is_taken: bool) -> None:
    hook, request = endpoint(network=network), delivery(event(livemode=livemode))
    if is_taken:
        assert (await hook(request, FakeDesk(CHARGE))).status == 200
    else:
        assert (await refusal(request, hook)).field == "livemode"


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"evt"', b"{", b"{}{}", b'{"type":NaN}', b'{"a":1,"a":2}', b"[" * 60 + b"]" * 60]
)
async def test_a_signed_body_that_is_no_object_is_malformed(body: bytes) -> None:
    assert (await refusal(delivery(body))).status == 400


async def test_a_body_that_is_no_text_is_malformed() -> None:
    assert (await refusal(delivery(b"\xff", f"t={NOW},v1=00"))).status == 400


async def test_a_body_that_is_too_large_is_not_even_verified() -> None:
    error = await refusal(delivery(b"a" * (2**18 + 1), "t=1,v1=00"))
    assert (error.status, error.code) == (413, "body_too_large")


# --- what is looked up


@pytest.mark.parametrize("name", sorted(set(EVENTS) - {"charge.dispute.created"}))
async def test_every_event_has_its_operations_looked_up(name: str) -> None:
    desk = FakeDesk(CHARGE)
    assert (await endpoint()(delivery(event(name)), desk)).status == 200
    assert desk.asked == [(operation, CHARGE) for operation in EVENTS[name]]
    is_about_refunds = "refund" in name
    assert (set(EVENTS[name]) == {Operation.REFUND}) is is_about_refunds


@pytest.mark.parametrize(
    "document",
    [
        {"id": "ch_1", "object": "charge", "payment_intent": INTENT, "metadata": {}},
        {"id": "re_1", "object": "refund", "payment_intent": INTENT, "metadata": None},
        {"id": "cs_1", "object": "checkout.session", "payment_intent": INTENT},
        {"id": INTENT, "object": "payment_intent", "metadata": {"rail402_charge": "no such form!"}},
        {"id": INTENT, "object": "payment_intent", "metadata": {"rail402_charge": 7}},
    ],
)
async def test_without_our_mark_the_payment_intent_leads_to_the_charge(document: Any) -> None:
    desk = FakeDesk(KEY)
    assert (await endpoint()(delivery(event("charge.refunded", document)), desk)).status == 200
    assert desk.asked == [(Operation.REFUND, KEY)]


async def test_a_charge_that_is_not_found_by_its_mark_is_by_its_payment_intent() -> None:
    desk = FakeDesk(KEY)
    assert (await endpoint()(delivery(event("payment_intent.amount_capturable_updated")), desk)).status == 200
    assert desk.asked == [(Operation.HOLD, CHARGE), (Operation.HOLD, KEY)]


@pytest.mark.parametrize(
    "document",
    [
        7,
        [],
        "pi_1",
        {},
        {"object": "payment_intent"},
        {"id": "pi_\n", "object": "payment_intent", "metadata": []},
        {"object": "charge", "payment_intent": None},
        {"object": "charge", "payment_intent": {"id": INTENT}},
    ],
)
async def test_events_about_nothing_of_ours_are_taken_and_forgotten(document: Any) -> None:
    desk = FakeDesk()
    assert (await endpoint()(delivery(event("charge.refunded", document)), desk)).status == 200
    assert desk.asked == []
    assert (await endpoint()(delivery(event("charge.refunded", data=document)), desk)).status == 200


@pytest.mark.parametrize("name", ["invoice.paid", "payment_intent.created", "", None, 7, ["payment_intent.succeeded"]])
async def test_other_events_are_taken_and_forgotten(name: Any) -> None:
    desk = FakeDesk(CHARGE)
    assert (await endpoint()(delivery(event(name)), desk)).status == 200
    assert desk.asked == []


@pytest.mark.parametrize(
    ("marks", "age", "status"),
    [
        (MARKS, 0, 503),
        (MARKS, 3599, 503),
        (MARKS, -60, 503),
        (MARKS, 3600, 200),  # it was pruned, then, or never was
        (MARKS | {"rail402_realm": "staging.shop.example"}, 0, 200),  # another gate on the same account
        ({"rail402_charge": CHARGE}, 0, 200),
        ({}, 0, 200),
    ],
)
async def test_an_event_that_came_before_its_charge_is_asked_for_again(marks: Any, age: int, status: int) -> None:
    document = {"id": INTENT, "object": "payment_intent", "metadata": marks}
    reply = await endpoint()(delivery(event(document=document, created=NOW - age)), FakeDesk())
    assert reply.status == status
    assert (("retry-after", "5") in reply.fields) is (status == 503)


async def test_an_event_without_a_time_is_not_asked_for_again() -> None:
    assert (await endpoint()(delivery(event(created="now")), FakeDesk())).status == 200


async def test_the_same_delivery_again_is_the_same_lookup_again() -> None:
    desk, request = FakeDesk(CHARGE), delivery(event("charge.refunded"))
    replies = [await endpoint()(request, desk) for _ in range(3)]
    assert replies == [EndpointReply.of({"received": True})] * 3
    assert desk.asked == [(Operation.REFUND, CHARGE)] * 3


# --- what the publisher is told


async def test_a_dispute_is_told_with_our_charge(caplog: pytest.LogCaptureFixture) -> None:
    dispute = {"id": "dp_1", "object": "dispute", "payment_intent": INTENT, "reason": "fraudulent"}
    desk = FakeDesk(CHARGE)
    assert (await endpoint()(delivery(event("charge.dispute.created", dispute)), desk)).status == 200
    assert desk.asked == []
    assert f"charge {CHARGE} ({INTENT}) is disputed" in caplog.text


async def test_disputes_of_others_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def strange(pi: str) -> Json:
        return {"id": pi, "metadata": {}}

    dispute = {"id": "dp_1", "object": "dispute", "payment_intent": INTENT}
    await endpoint(retrieve=strange)(delivery(event("charge.dispute.created", dispute)), FakeDesk())
    await endpoint()(delivery(event("charge.dispute.created", {"payment_intent": None})), FakeDesk())
    assert caplog.text == ""


async def test_a_dispute_that_cannot_be_looked_at_is_told_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async def down(pi: str) -> Json:
        raise RailUnavailable("Stripe cannot be reached")

    dispute = {"id": "dp_1", "object": "dispute", "payment_intent": INTENT}
    reply = await endpoint(retrieve=down)(delivery(event("charge.dispute.created", dispute)), FakeDesk())
    assert reply.status == 200
    assert f"{INTENT} is disputed" in caplog.text


async def test_a_refund_that_failed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    refund = {"id": "re_1", "object": "refund", "payment_intent": INTENT, "metadata": MARKS}
    await endpoint()(delivery(event("refund.failed", refund)), FakeDesk())
    assert caplog.text == ""
    await endpoint()(delivery(event("refund.failed", refund)), FakeDesk(CHARGE))
    assert f"a refund of {INTENT} failed" in caplog.text


async def test_neither_bodies_nor_secrets_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    private = event(receipt_email="alice@example.com")
    await endpoint()(delivery(private), FakeDesk(CHARGE))
    for request in (delivery(private | {"livemode": True}), delivery(private, "t=1,v1=00")):
        error = await refusal(request)
        assert "alice" not in str(error)
    assert "alice" not in caplog.text
    assert "whsec" not in caplog.text
    assert "whsec" not in repr(endpoint())


# --- the rail's settings


def test_an_endpoint_is_there_where_there_is_a_secret() -> None:
    without = StripeRail("sk_test_1", profile_id="profile_1")
    assert isinstance(without, Endpoints)
    assert WEBHOOK not in without.endpoints()
    rail = StripeRail("sk_test_1", profile_id="profile_1", webhook_secrets=[SECRET, OLD_SECRET])
    assert WEBHOOK in rail.endpoints()
    assert SECRET not in repr(rail)


@pytest.mark.parametrize("secrets", ["whsec_1", ["sk_test_1"], [""], ["whsec_"], ["whsec_a b"], ["whsec_1", None]])
def test_what_is_no_signing_secret_is_refused_and_not_repeated(secrets: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_secrets(secrets)
    assert "sk_test_1" not in str(caught.value)


def test_secrets_come_from_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOOK", SECRET)
    (tmp_path / "old").write_text(OLD_SECRET + "\n")
    table = {"backend": "sandbox", "directory": str(tmp_path)}
    secrets = ["env:HOOK", f"file:{tmp_path / 'old'}"]
    config = RailConfig.model_validate(table | {"webhook_secrets": secrets})
    assert SECRET not in repr(config)
    hook = make_rail(config).endpoints()[WEBHOOK]
    assert isinstance(hook, Signed)
    assert isinstance(hook.endpoint, Webhook)
    assert hook.endpoint.secrets == (SECRET, OLD_SECRET)
    assert hook.endpoint.network == "stripe:sandbox"
    with pytest.raises(ConfigurationError):
        make_rail(RailConfig.model_validate(table | {"webhook_secrets": ["env:PATH"]}))
