"""x402's own cases for `exact` on `lnbtc`: each passes, or is skipped with the reason why it cannot be asked here."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from rail402 import errors
from rail402.dialects import X402V2
from rail402.dialects._base64_json import compact_json, to_base64
from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentFailed, PaymentOutcomeUnknown
from rail402.protocol.base import parse_json, sha256_hex
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry
from rail402.server.request import GatedRequest
from rail402_lightning import bolt11
from rail402_lightning.backends import SentPayment
from rail402_lightning.exact import REASONS, SchemeRefusal, check_challenge, check_settlement
from rail402_lightning.request_binding import PROFILE, bound_headers, bound_tool_call, request_hash
from rail402_lightning.wallet import LightningWallet
from rail402_lightning.wire import LightningSpec
from tests.unit.rail402_lightning.invoices import ToldSender

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "lnbtc_exact.json").read_text(encoding="utf-8")
)
ARTICLE: Final = "https://api.example.com/article/A"
PREFIX: Final = "invalid_exact_lnbtc_"
BINDING: Final = "request_binding"

HOST_IS_NOT_READ: Final = (
    "the gate's origin is configured and no authority of the request is ever read, so a malformed one cannot reach the "
    "hash; the request is bound to the configured origin"
)
SENDER_IS_ASKED_BY_INVOICE: Final = (
    "a Sender answers about the invoice that it was given and names no other; only the preimage is believed"
)


def cases(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", VECTORS[section], ids=lambda case: case["id"])


def meets(case: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether what was found is what the case expects, or one of the outcomes that it leaves open."""
    allowed = case.get("either", [case])
    return any(all(each.get(name) == value for name, value in found.items()) for each in allowed)


def word(error: SchemeRefusal) -> str:
    return error.word.removeprefix(PREFIX)


def test_every_case_is_here() -> None:
    sections = {name: cases for name, cases in VECTORS.items() if isinstance(cases, list)}

    assert {name: len(cases) for name, cases in sections.items()} == {
        "http_binding": 32,
        "http_server_adapter": 47,
        "mcp_binding": 25,
        "client": 16,
        "facilitator_settle": 79,
    }
    for section in sections.values():
        assert max(Counter(case["id"] for case in section).values()) == 1


def test_the_invoices_are_as_they_say() -> None:
    good = {"paid", "fresh", "second", "named", "testnet", "ended", "at_skew", "future", "mcp", "mcp_account"}
    for name in good:
        assert bolt11.decode(VECTORS["invoices"][name]).amount_msat == 25_000
    assert VECTORS["invoices"]["paid"].endswith("sqxrwu5f")


# --- what an invoice is bound to


@cases("http_binding")
def test_http_binding(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case.get("body", ""))
    url, method = case.get("url", ARTICLE), case.get("method", "GET")
    order = Order(method=method, url=url, route="", body_digest=sha256_hex(body))
    lines = [(name, value) for name, value in case.get("lines", [])]
    try:
        found = {"hash": request_hash(order, bound_headers(case.get("bound", []), lines)).hex()}
    except MalformedInput:
        found = {"error": BINDING}

    assert meets(case, found)


@cases("http_server_adapter")
def test_http_server_adapter(case: dict[str, Any]) -> None:
    url = urlsplit(case.get("url", ARTICLE))
    scope = {
        "type": "http",
        "method": "GET",
        "path": url.path,
        "raw_path": url.path.encode(),
        "query_string": url.query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in case["lines"]],
    }
    origin = case.get("origin", "https://api.example.com")
    request = GatedRequest(scope, None, b"", public_url=origin, route="")  # type: ignore[arg-type]
    found = {"hash": request_hash(request.order).hex()}

    assert request.order.url.startswith(origin + "/")
    assert found["hash"] != case.get("never")
    if "error" in case or case["id"] == "host-differs-from-url":
        pytest.skip(HOST_IS_NOT_READ)
    assert meets(case, found)


@cases("mcp_binding")
def test_mcp_binding(case: dict[str, Any]) -> None:
    try:
        params = parse_json(case["params"], field="params", max_bytes=10_000)
        server = case.get("server", "https://api.example.com/mcp")
        found = {"hash": hashlib.sha256(bound_tool_call(server, params, case.get("bound", []))).hexdigest()}
    except MalformedInput:
        found = {"error": BINDING}

    assert meets(case, found)


# --- the client


PAYER_WORDS: Final = {
    "payer-preimage-null": PaymentOutcomeUnknown,
    "payer-preimage-uppercase": PaymentOutcomeUnknown,
    "payer-preimage-wrong": PaymentOutcomeUnknown,
    "payer-in-flight": PaymentOutcomeUnknown,
    "payer-unpaid": PaymentFailed,
}
"""What the wallet raises: that nothing was paid, or that it may have been, so that no second payment is begun."""


@cases("client")
async def test_client(case: dict[str, Any]) -> None:
    changes = {"invoice", "payment_hash", "amount_msat"} & set(case.get("payer", {}))
    if changes:
        pytest.skip(SENDER_IS_ASKED_BY_INVOICE)
    document = {"accepted": base_of()["required"], "resource": {"url": ARTICLE}}
    patch(document, case)
    now, sender = case.get("now", VECTORS["base"]["now"]), ToldSender(sent(case))
    if "intended" in case:  # the operation is a call of a tool; the challenge is for an HTTP request
        bound = hashlib.sha256(bound_tool_call(**case["intended"])).digest()
        with pytest.raises(SchemeRefusal) as caught:
            check_challenge(document["accepted"], profile="mcp:1", request_hash=bound, now=now)
        assert word(caught.value) == case["error"]
        return
    spec = LightningSpec(document["accepted"]["network"])
    required = {"x402Version": 2, "resource": document["resource"], "accepts": [document["accepted"]]}
    field = ("payment-required", to_base64(compact_json(required)))
    (offer,) = X402V2().offers(Fields([field]), b"", Context(specs=Registry([spec]), now=now))
    refused = ""
    try:
        spec.check_offer(offer, Order(method="GET", url=ARTICLE, route=""), now=now)
    except OfferRefused as error:
        refused = error.detail
    if refused:
        assert any(f"({PREFIX}{each.get('error')})" in refused for each in case.get("either", [case]))
        return
    wallet = LightningWallet(sender, network="mainnet")
    if case["id"] in PAYER_WORDS:
        with pytest.raises(PAYER_WORDS[case["id"]]):
            await wallet.pay(offer, record_id="1", now=now)
    else:
        assert (await wallet.pay(offer, record_id="1", now=now)).payload == {"preimage": case["preimage"]}
    assert [text for text, _ in sender.paid] == [VECTORS["invoices"]["paid"]]


def sent(case: dict[str, Any]) -> SentPayment:
    told = case.get("payer", {})
    match told.get("status", "paid"):
        case "unpaid":
            return SentPayment(state="failed", detail="no route")
        case "in_flight":
            return SentPayment(state="unknown", detail="in flight")
        case _:
            return SentPayment(state="paid", preimage=told.get("preimage", VECTORS["base"]["preimage"]))


def test_a_profile_for_another_kind_of_operation_is_refused() -> None:
    requirements = base_of()["required"]
    digest = bytes.fromhex(requirements["extra"]["requestHash"])

    assert check_challenge(requirements, profile=PROFILE, request_hash=digest, now=1_700_000_000).expiry == 300
    with pytest.raises(SchemeRefusal, match="another request"):
        check_challenge(requirements, profile="mcp:1", request_hash=digest, now=1_700_000_000)


# --- whoever settles


@cases("facilitator_settle")
def test_facilitator_settle(case: dict[str, Any]) -> None:
    used: dict[str, int] = {}
    for step in case["steps"]:
        base = base_of()
        document = {"required": base["required"], "accepted": base_of()["required"], "preimage": base["preimage"]}
        patch(document, step)
        proof = {"preimage": document["preimage"]} if "preimage" in document else {}
        payload = {"x402Version": 2, "accepted": document["accepted"], "payload": proof}
        now = step.get("now", base["now"])
        if "step" in step and step["step"] != "replay":
            with pytest.raises(SchemeRefusal) as caught:
                check_settlement(document["required"], payload, now=now, skew=base["skew"])
            assert (word(caught.value), caught.value.step) == (step["error"], step["step"])
            continue
        settlement = check_settlement(document["required"], payload, now=now, skew=base["skew"])
        if "step" in step:
            assert (settlement.key in used, step["error"]) == (True, "duplicate_settlement")
            continue
        assert settlement.key not in used
        used[settlement.key] = settlement.retain_until
        network = step.get("network", base["required"]["network"])
        assert (settlement.payment_hash, settlement.network) == (step["settles"], network)
        assert settlement.key == f"{network}:{step['settles']}"
        assert settlement.retain_until >= step["until"]
        shown = Payment(dialect="x402-v2", rail="lightning", payload=proof)
        assert LightningSpec(network).identify(shown) == {settlement.key}  # the gate records the same


def base_of() -> dict[str, Any]:
    base: dict[str, Any] = resolved(VECTORS["base"])
    return base


def resolved(value: Any) -> Any:
    """A copy in which `@name` stands for an invoice no more."""
    if isinstance(value, dict):
        return {name: resolved(member) for name, member in value.items()}
    if isinstance(value, str) and value.startswith("@"):
        return VECTORS["invoices"][value[1:]]
    return copy.deepcopy(value)


def patch(document: dict[str, Any], step: dict[str, Any]) -> None:
    """Take out and put in what a step says; `both.` stands for both sides."""
    for path in step.get("without", []):
        place(document, path)
    for path, value in step.get("set", {}).items():
        side, _, rest = path.partition(".")
        for name in ("required", "accepted") if side == "both" else (side,):
            place(document, f"{name}.{rest}" if rest else name, resolved(value))


def place(document: dict[str, Any], path: str, *value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        document = document[name]
    if value:
        document[last] = value[0]
    else:
        del document[last]


# --- rules that the cases do not reach


@pytest.mark.parametrize(
    ("change", "reason", "step"),
    [
        ({"without": ["accepted.extra"]}, "payment_flow", 3),
        ({"set": {"accepted.extra": "x"}}, "payment_flow", 3),
        ({"set": {"both.maxTimeoutSeconds": True}}, "max_timeout", 2),
        ({"set": {"accepted.maxTimeoutSeconds": 300.5}}, "max_timeout_mismatch", 1),
        ({"set": {"both.network": "mainnet"}}, "unsupported_network", 2),
        ({"set": {"both.network": 7}}, "unsupported_network", 2),
        ({"set": {"both.amount": 25000}}, "amount", 2),
        ({"set": {"both.payTo": 7}}, "pay_to_malformed", 2),
        ({"set": {"both.extra.assetTransferMethod": None}}, "asset_transfer_method", 3),
        ({"set": {"required.extra.note": 2**60, "accepted.extra.note": 2**60}}, "extra_mismatch", 3),
        ({"set": {"required.extra.note": 1, "accepted.extra.note": True}}, "extra_mismatch", 3),
        ({"set": {"both.extra.requestBindingProfile": 1}}, BINDING, 3),
        ({"set": {"both.extra.requestBindingParams": []}}, BINDING, 3),
        ({"set": {"both.extra.requestBindingParams": {"headers": "accept"}}}, BINDING, 3),
        ({"set": {"both.extra.requestBindingParams": {"headers": [1]}}}, BINDING, 3),
        ({"set": {"preimage": None}}, "preimage_missing", 6),
        ({"set": {"preimage": 7}}, "preimage_missing", 6),
        ({"set": {"preimage": ""}}, "preimage_length", 6),
    ],
)
def test_what_else_is_refused(change: dict[str, Any], reason: str, step: int) -> None:
    document = {"required": base_of()["required"], "accepted": base_of()["required"], "preimage": "00" * 32}
    patch(document, change)
    payload = {"accepted": document["accepted"], "payload": {"preimage": document["preimage"]}}
    with pytest.raises(SchemeRefusal) as caught:
        check_settlement(document["required"], payload, now=1_700_000_000)

    assert (word(caught.value), caught.value.step) == (reason, step)
    assert caught.value.status == 402


def test_an_invoice_with_a_uri_scheme_does_not_stand_by_itself() -> None:
    document = base_of()["required"]
    document["extra"]["invoice"] = "lightning:" + document["extra"]["invoice"]
    payload = {"accepted": document, "payload": {"preimage": VECTORS["base"]["preimage"]}}
    with pytest.raises(SchemeRefusal, match="by itself"):
        check_settlement(document, payload, now=1_700_000_000)


def test_an_invoice_in_capitals_is_one_and_members_of_the_server_s_come_back() -> None:
    document = base_of()["required"]
    document["extra"]["merchant"] = {"name": "expected", "n": 1}
    document["extra"]["invoice"] = document["extra"]["invoice"].upper()
    payload = {"accepted": document, "payload": {"preimage": VECTORS["base"]["preimage"]}}

    assert check_settlement(document, payload, now=1_700_000_000).payment_hash.startswith("a923c2c0")


@pytest.mark.parametrize("message", [{}, {"accepted": []}, {"accepted": {"scheme": "exact"}, "payload": None}])
def test_hostile_payloads_are_refused_by_name(message: dict[str, Any]) -> None:
    with pytest.raises(SchemeRefusal):
        check_settlement(base_of()["required"], message, now=1_700_000_000)
    with pytest.raises(SchemeRefusal):
        check_settlement({}, message, now=1_700_000_000)


@pytest.mark.parametrize(
    ("server", "params", "metadata"),
    [
        ("/mcp", {"name": "x"}, []),
        ("stdio:server name", {"name": "x"}, []),
        ("stdio://user@server/x", {"name": "x"}, []),
        ("https://[::g]/mcp", {"name": "x"}, []),
        ("https://[:::1]/mcp", {"name": "x"}, []),
        ("https://api.example.com:99999/mcp", {"name": "x"}, []),
        ("stdio:server", {"name": 7}, []),
        ("stdio:server", {"name": "x", "arguments": {"x": float("nan")}}, []),
        ("stdio:server", {"name": "x"}, ["\ud800"]),
    ],
)
def test_calls_that_cannot_be_bound(server: str, params: dict[str, Any], metadata: list[str]) -> None:
    with pytest.raises(MalformedInput):
        bound_tool_call(server, params, metadata)


def test_a_server_need_not_speak_http() -> None:
    assert b'"server":"stdio:server"' in bound_tool_call("stdio:server", {"name": "x"}, ["\U0001f600", "\uffff"])


def test_port_zero_is_none() -> None:
    with pytest.raises(MalformedInput):
        request_hash(Order(method="GET", url="https://api.example.com:0/a", route=""))


def test_the_gate_s_codes_have_words_of_the_scheme() -> None:
    assert {code: name.removeprefix(PREFIX) for code, name in REASONS.items()} == {
        "amount_mismatch": "invoice_amount_mismatch",
        "payee_mismatch": "invoice_payee_mismatch",
        "network_mismatch": "invoice_currency_mismatch",
        "resource_mismatch": "request_mismatch",
        "offer_expired": "invoice_expired",
        "offer_unknown": "extra_mismatch",
        "payload_invalid": "preimage_missing",
        "preimage_invalid": "preimage_hash_mismatch",
    }
    assert errors.REASONS.keys() >= REASONS.keys()
    assert LightningSpec().bindings["x402-v2"].reasons is REASONS  # type: ignore[attr-defined]


def test_networks_are_named_by_their_ids() -> None:
    with pytest.raises(ConfigurationError):
        LightningSpec("lnbtc:" + "0" * 32)
