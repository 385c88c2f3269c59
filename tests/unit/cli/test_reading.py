"""Every entry of a 402 is found, and what is wrong with it is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.cli.hiding import revealed
from rail402.cli.reading import DIALECTS, Entry, installed, read_entries
from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402.protocol.dialect import Fields
from rail402.testing.fakes import FakeRail, FakeWallet
from tests.unit.cli.samples import (
    EVM,
    NOW,
    ORDER,
    base_offer,
    fields_and_body,
    invoice,
    lightning_offer,
    plugins,
    required,
    said,
    stripe_offer,
)

PLUGINS = plugins()


def read(*lines: tuple[str, str], body: bytes = b"", now: int = NOW) -> list[Entry]:
    return read_entries(PLUGINS, Fields(lines), body, now=now, order=ORDER)


def one(*lines: tuple[str, str], body: bytes = b"", now: int = NOW) -> dict[str, Any]:
    (entry,) = read(*lines, body=body, now=now)
    facts: dict[str, Any] = revealed(entry.facts(now), secrets=False)
    json.dumps(facts)
    return facts


def test_every_dialect_there_is_is_read() -> None:
    assert set(DIALECTS) == {*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS}


def test_every_offer_of_three_rails_in_every_dialect() -> None:
    fields, body = fields_and_body(base_offer(), lightning_offer(), stripe_offer())
    entries = read_entries(PLUGINS, fields, body, now=NOW, order=ORDER)
    found = [(entry.dialect, entry.readings[0].offer.rail, entry.verdict) for entry in entries]
    assert [each for each in found if each[0] in ("x402-v2", "mpp", "l402", "x402-v1", "x-receipt")] == [
        ("x402-v2", "base", "payable"),
        ("x402-v2", "lightning", "payable"),
        ("mpp", "base", "payable"),
        ("mpp", "lightning", "payable"),
        ("mpp", "stripe", "payable"),
        ("l402", "lightning", "payable"),
        ("x402-v1", "base", "payable"),
        ("x-receipt", "lightning", "payable"),
    ]


def test_the_facts_of_an_offer_on_base() -> None:
    facts = one(("PAYMENT-REQUIRED", required(EVM)))
    assert facts | {"would_be_paid": None} == {
        "dialect": "x402-v2",
        "verdict": "payable",
        "reasons": [],
        "rail": "base",
        "mechanism": "eip3009",
        "price": "0.003 USDC",
        "amount_atomic": "3000",
        "assets": [EVM["asset"]],
        "networks": ["eip155:402402"],
        "network_names": ["Sandbox (no real money)"],
        "payee": EVM["payTo"],
        "flow": "authorization",
        "expires_at": NOW + 180,
        "expires_in_seconds": 180,
        "would_be_paid": None,
    }
    assert facts["would_be_paid"]["domain"]["chainId"] == 402402
    assert facts["would_be_paid"]["message"] == {"to": EVM["payTo"], "value": "3000"}


@pytest.mark.parametrize(
    ("network", "asset", "names", "title"),
    [
        ("eip155:8453", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", ("USD Coin", "2"), "Base"),
        ("eip155:84532", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", ("USDC", "2"), "Base Sepolia"),
    ],
)
def test_every_network_is_known(network: str, asset: str, names: tuple[str, str], title: str) -> None:
    entry = EVM | {"network": network, "asset": asset, "extra": {"name": names[0], "version": names[1]}}
    facts = one(("PAYMENT-REQUIRED", required(entry)))
    assert (facts["verdict"], facts["network_names"]) == ("payable", [title])


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("bc", "Lightning mainnet"),
        ("tb", "Lightning testnet"),
        ("tbs", "Lightning signet"),
        ("bcrt", "Lightning regtest (the sandbox too)"),
    ],
)
def test_an_invoice_says_its_network_and_its_own_amount(prefix: str, name: str) -> None:
    text = invoice(prefix=prefix)
    facts = one(("WWW-Authenticate", f'L402 macaroon="opaque", invoice="{text}"'))
    assert (facts["verdict"], facts["network_names"], facts["price"]) == ("payable", [name], "21 sat")
    assert facts["would_be_paid"]["amount_msat"] == 21_000
    assert facts["would_be_paid"]["invoice"] == text


def test_the_invoice_counts_and_not_what_stands_beside_it() -> None:
    body = {"type": "x402", "payment": {"network": "lightning", "invoice": invoice(), "amount_sats": 1}}
    facts = one(body=json.dumps(body).encode())
    assert (facts["verdict"], facts["price"]) == ("refused", "1 sat")
    assert facts["reasons"] == ["the invoice is for another amount than the offer says"]
    assert facts["would_be_paid"]["amount_sat"] == 21


def test_why_an_offer_is_refused() -> None:
    zero = EVM | {"payTo": "0x" + "0" * 40}
    assert one(("PAYMENT-REQUIRED", required(zero)))["reasons"] == ["it would send the money to the zero address"]
    late = one(("WWW-Authenticate", f'L402 token="opaque", invoice="{invoice()}"'), now=NOW + 700)
    assert late["reasons"] == ["the invoice has expired"]
    assert late["expires_in_seconds"] == -100


def test_an_offer_for_another_request_is_refused() -> None:
    fields, body = fields_and_body(lightning_offer())
    other = ORDER.model_copy(update={"url": "https://shop.example/b"})
    verdicts = {entry.dialect: entry.verdict for entry in read_entries(PLUGINS, fields, body, now=NOW, order=other)}
    assert (verdicts["x402-v2"], verdicts["l402"]) == ("refused", "payable")


@pytest.mark.parametrize(
    ("payee", "networks", "verdict"),
    [
        ("profile_sandbox", ["stripe:sandbox"], "payable"),
        ("profile_test_1", ["stripe:test"], "payable"),
        ("profile_1", ["stripe:live", "stripe:test"], "payable"),
    ],
)
def test_a_challenge_of_stripe_is_shown_once_with_the_modes_that_it_may_be_about(
    payee: str, networks: list[str], verdict: str
) -> None:
    lines, _ = said(stripe_offer(payee=payee))
    facts = one(*lines)
    assert (facts["networks"], facts["verdict"]) == (networks, verdict)


def test_a_refusal_of_several_modes_names_them() -> None:
    lines, _ = said(stripe_offer())
    facts = one(*lines, now=NOW + 9999)
    assert facts["verdict"] == "refused"
    assert "stripe:sandbox: it has expired" in facts["reasons"]


@pytest.mark.parametrize(
    "change",
    [{"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"}, {"scheme": "upto"}, {"asset": "0x" + "1" * 40}],
)
def test_what_no_rail_knows_is_listed_as_it_is(change: dict[str, Any]) -> None:
    unknown, known = read(("PAYMENT-REQUIRED", required(EVM | change, EVM)))
    assert (unknown.verdict, known.verdict) == ("unknown", "payable")
    assert unknown.facts(NOW)["wire"]["payTo"] == EVM["payTo"]
    (name, value), *_ = change.items()
    assert unknown.facts(NOW)["wire"][name] == value


def test_an_unknown_method_of_mpp_is_listed_with_its_request() -> None:
    line = 'Payment id="a", realm="r", method="tempo", intent="charge", request="eyJhbW91bnQiOiI1In0"'
    facts = one(("WWW-Authenticate", line))
    assert facts["verdict"] == "unknown"
    assert facts["wire"] == {"method": "tempo", "intent": "charge", "request": {"amount": "5"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payTo": "bob"}, "payTo: must be an address"),
        ({"maxTimeoutSeconds": "60"}, "maxTimeoutSeconds: must be"),
        ({"extra": 5}, "extra: must be an object"),
    ],
)
def test_a_broken_entry_is_shown_beside_good_ones(change: dict[str, Any], reason: str) -> None:
    entries = read(("PAYMENT-REQUIRED", required(EVM, EVM | change, "no object", EVM | {"scheme": "x"})))
    assert [entry.verdict for entry in entries] == ["payable", "unreadable", "unreadable", "unknown"]
    assert reason in entries[1].problems[0]


def test_an_entry_that_its_dialect_passes_over_is_shown() -> None:
    entries = read(("PAYMENT-REQUIRED", required(EVM | {"extra": {"paymentFlow": "subscription"}})))
    assert [entry.verdict for entry in entries] == ["ignored"]
    assert entries[0].facts(NOW)["wire"]["extra"] == {"paymentFlow": "subscription"}


def test_challenges_on_one_line_are_told_apart() -> None:
    good = f'L402 macaroon="opaque", invoice="{invoice()}"'
    bad = 'Payment id="a", id="a", realm="r", method="m", intent="i", request="e30"'
    entries = read(("WWW-Authenticate", f'Basic realm="a", {bad}, {good}, Payment realm="\\u0007"'))
    assert sorted((entry.dialect, entry.verdict) for entry in entries) == [("l402", "payable"), ("mpp", "unreadable")]
    entries = read(("WWW-Authenticate", f'Basic realm="a", {bad}, {good}, Payment realm="r"'))
    assert [entry.verdict for entry in entries if entry.dialect == "mpp"] == ["unreadable"] * 2


def test_one_challenge_under_both_words_is_one() -> None:
    params = f'macaroon="opaque", invoice="{invoice()}"'
    assert len(read(("WWW-Authenticate", f"LSAT {params}"), ("WWW-Authenticate", f"L402 {params}"))) == 1


@pytest.mark.parametrize(
    ("lines", "body", "problem"),
    [
        ([("PAYMENT-REQUIRED", "***")], b"", "payment-required: is not base64"),
        ([("PAYMENT-REQUIRED", required(EVM, x402Version=1))], b"", "x402Version must be 2"),
        ([("PAYMENT-REQUIRED", required(EVM)), ("PAYMENT-REQUIRED", required())], b"", "twice"),
        ([], b'{"x402Version":1,"accepts":5}', "its accepts must be a list"),
        ([], b"{broken", "body: is not valid JSON"),
    ],
)
def test_a_broken_challenge_is_shown_once(lines: list[tuple[str, str]], body: bytes, problem: str) -> None:
    (entry,) = read(*lines, body=body)
    assert entry.verdict == "unreadable"
    assert problem in entry.problems[0]


@pytest.mark.parametrize("body", [b"", b"<html>402</html>", b"{}", b'{"error":"Payment required"}', b"[1]", b"\xff"])
def test_without_terms_there_is_no_entry(body: bytes) -> None:
    assert read(("WWW-Authenticate", 'Basic realm="x"'), body=body) == []


@pytest.mark.parametrize("change", [{"scheme": "unknown"}, {"paymentFlow": "subscription"}, {"maxTimeoutSeconds": 0}])
def test_tokens_of_offers_are_not_shown(change: dict[str, Any]) -> None:
    entry = EVM | change | {"extra": {"token": "t" * 50, **change}}
    facts = one(("PAYMENT-REQUIRED", required(entry)))
    assert facts["verdict"] in ("unknown", "ignored", "unreadable")
    assert "t" * 50 not in json.dumps(facts)


def test_without_an_order_nothing_is_judged() -> None:
    fields, body = fields_and_body(base_offer(payee="0x" + "0" * 40), lightning_offer())
    verdicts = {entry.verdict for entry in read_entries(PLUGINS, fields, body, now=NOW)}
    assert verdicts == {"known"}


def test_a_rail_that_describes_nothing_is_no_harm() -> None:
    bare = RailPlugin(Record, Record, FakeRail, FakeWallet, specs=PLUGINS["base"].specs)
    fields = Fields([("PAYMENT-REQUIRED", required(EVM))])
    (entry,) = read_entries({"bare": bare}, fields, b"", now=NOW, order=ORDER)
    facts = entry.facts(NOW)
    assert (facts["network_names"], facts["would_be_paid"]) == (["eip155:402402"], {})


def test_a_great_many_entries_are_not_all_read() -> None:
    assert len(read(("PAYMENT-REQUIRED", required(*[{"n": number} for number in range(1000)])))) == 64


def test_the_installed_rails_and_those_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"base", "lightning", "stripe"} <= installed()[0].keys()

    def broken(name: str) -> RailPlugin:
        raise ConfigurationError(f"rail {name!r} cannot be imported")

    monkeypatch.setattr("rail402.cli.reading.load_plugin", broken)
    found, problems = installed()
    assert found == {}
    assert "rail 'base' cannot be imported" in problems


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(list(EVM.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*EVM, "x"]), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON, max_size=3), st.text(max_size=60), JSON)
def test_whatever_a_server_says_is_listed(accepts: list[Any], line: str, payment: Any) -> None:
    body = json.dumps({"x402Version": 1, "accepts": accepts, "type": "x402", "payment": payment}).encode()
    lines = [("PAYMENT-REQUIRED", required(*accepts)), ("WWW-Authenticate", f'Payment id="{line}", L402 {line}')]
    for entry in read(*lines, body=body):
        json.dumps(revealed(entry.facts(NOW), secrets=False))


# --- the dialects that are not on by default

URI = f"ethereum:{EVM['asset']}@402402/transfer?address={EVM['payTo']}&uint256=3000"


def test_a_price_without_a_network_may_be_about_several() -> None:
    body = {"error": "Payment Required", "price": "0.10", "currency": "USDC", "paymentAddress": EVM["payTo"]}
    facts = one(body=json.dumps(body).encode())
    assert (facts["dialect"], facts["verdict"], facts["price"]) == ("x-price", "payable", "0.1 USDC")
    assert facts["network_names"] == ["Base", "Base Sepolia", "Sandbox (no real money)"]
    assert len(facts["assets"]) == 3
    named = one(body=json.dumps(body | {"network": "base-sepolia"}).encode())
    assert named["networks"] == ["eip155:84532"]
    assert named["would_be_paid"]["sent"].startswith("transfer (ERC-20)")


def test_payment_uris_on_lines_and_in_the_body() -> None:
    lines = [
        ("Link", f'<{URI}>; rel="payment"'),
        ("Link", f'<lightning:{invoice()}>; rel="payment"'),
        ("Link", '<bitcoin:bc1qxy>; rel="payment", <https://shop.example/>; rel="next"'),
        ("Link", '<https://shop.example/next>; rel="next"'),
    ]
    body = json.dumps({"payment_uri": URI, "expires_at": NOW + 60}).encode()
    found = [(entry.verdict, entry.facts(NOW).get("rail")) for entry in read(*lines, body=body)]
    assert sorted(map(str, found)) == [
        "('payable', 'base')",
        "('payable', 'lightning')",
        "('unknown', None)",
    ]


def test_x_payment_on_several_lines() -> None:
    said = {"price": "0.003", "receiver": EVM["payTo"], "network": "rail402-sandbox", "asset": "USDC"}
    lines = [("X-Payment", json.dumps(each)) for each in (said, said | {"network": "gold"}, said | {"price": "x"})]
    verdicts = [entry.verdict for entry in read(*lines, lines[0])]
    assert verdicts == ["payable", "unknown", "unreadable"]
