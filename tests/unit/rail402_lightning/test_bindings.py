"""The same offer and the same proof in every dialect, and what is refused when they are read."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput, OfferRefused
from rail402_lightning import bolt11
from rail402_lightning.bindings import invoice_of
from rail402_lightning.request_binding import request_hash
from tests.unit.rail402_lightning.invoices import (
    AMOUNT,
    EXPIRY,
    HASH,
    NOW,
    ORDER,
    PAYEE,
    PREIMAGE,
    REGTEST,
    SPEC,
    invoice,
    offer,
)

X402, MPP, X_RECEIPT, L402 = (SPEC.bindings[name] for name in ("x402-v2", "mpp", "x-receipt", "l402"))
UNTIL = NOW + EXPIRY


def changed(wire: Any, path: str, value: Any) -> Any:
    """A copy of `wire` with one member changed; taken out where the value is `...`."""
    name, _, rest = path.partition(".")
    copy = dict(wire)
    if rest:
        copy[name] = changed(copy[name], rest, value)
    elif value is ...:
        del copy[name]
    else:
        copy[name] = value
    return copy


# The offer.


def test_x402_says_what_the_scheme_asks_for() -> None:
    text = invoice()

    assert X402.encode_offer(offer(text)) == {
        "scheme": "exact",
        "network": REGTEST,
        "asset": "BTC",
        "amount": "21000",
        "payTo": PAYEE,
        "maxTimeoutSeconds": EXPIRY,
        "extra": {
            "assetTransferMethod": "bolt11",
            "paymentFlow": "upfront",
            "paymentMethod": "lightning",
            "invoice": text,
            "requestHash": request_hash(ORDER).hex(),
            "requestBindingProfile": "http:1",
            "requestBindingParams": {"headers": []},
        },
    }


def test_mpp_says_what_lightning_charge_asks_for() -> None:
    text = invoice()

    assert MPP.encode_offer(offer(text)) == {
        "method": "lightning",
        "intent": "charge",
        "request": {
            "amount": "21",
            "currency": "sat",
            "methodDetails": {"invoice": text, "paymentHash": HASH.hex(), "network": "regtest"},
        },
    }


def test_x_receipt_says_what_the_payment_object_has() -> None:
    text = invoice()

    assert X_RECEIPT.encode_offer(offer(text)) == {
        "network": "lightning",
        "invoice": text,
        "amount_sats": 21,
        "expiry_seconds": EXPIRY,
    }


@pytest.mark.parametrize("binding", [X402, MPP, X_RECEIPT, L402], ids=["x402", "mpp", "x-receipt", "l402"])
def test_an_offer_comes_back_as_it_was_made_so_that_its_token_fits(binding: Any) -> None:
    made = offer()

    read = binding.decode_offer(binding.encode_offer(made), expires_at=UNTIL)

    assert read == made
    assert read.canonical == made.canonical


def test_members_that_others_add_change_nothing() -> None:
    wire = changed(X402.encode_offer(offer()), "extra.note", {"free": "text"})

    assert X402.decode_offer(wire, expires_at=UNTIL) == offer()


def test_the_transfer_method_and_the_payment_method_may_be_left_out() -> None:
    wire = X402.encode_offer(offer())
    for name in ("assetTransferMethod", "paymentMethod"):
        wire = changed(wire, f"extra.{name}", ...)

    assert X402.decode_offer(wire, expires_at=UNTIL) == offer()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("extra.requestHash", "00" * 32),
        ("extra.requestHash", ...),
        ("extra.requestBindingProfile", "mcp:1"),
        ("extra.requestBindingProfile", ...),
        ("extra.requestBindingParams", {"headers": ["cookie"]}),
        ("extra.requestBindingParams", {"headers": [], "more": 1}),
        ("extra.requestBindingParams", ...),
    ],
)
def test_a_binding_that_is_not_ours_stays_visible_in_the_offer(path: str, value: Any) -> None:
    read = X402.decode_offer(changed(X402.encode_offer(offer()), path, value), expires_at=UNTIL)

    assert read is not None
    assert read.canonical != offer().canonical
    assert set(read.extra) > {"invoice"}


def test_l402_says_the_invoice_and_its_payment_hash_and_no_more_is_read() -> None:
    text = invoice()

    assert L402.encode_offer(offer(text)) == {"invoice": text, "paymentHash": HASH.hex()}
    assert L402.decode_offer({"invoice": text}, expires_at=UNTIL) == offer(text)
    # The challenge names no end, so the invoice's counts.
    read = L402.decode_offer({"invoice": text}, expires_at=UNTIL + 3600)
    assert read is not None
    assert read.expires_at == UNTIL


@pytest.mark.parametrize(
    ("binding", "path", "value"),
    [
        (X402, "scheme", "upto"),
        (X402, "network", "lnbtc:000000000019d6689c085ae165831e93"),
        (X402, "network", "eip155:8453"),
        (X402, "network", None),
        (X402, "extra.assetTransferMethod", "bolt12"),
        (MPP, "method", "stripe"),
        (MPP, "intent", "session"),
        (X_RECEIPT, "network", "base"),
        (X_RECEIPT, "network", 7),
    ],
)
def test_what_is_some_other_rail_s_is_passed_over(binding: Any, path: str, value: Any) -> None:
    assert binding.decode_offer(changed(binding.encode_offer(offer()), path, value), expires_at=UNTIL) is None


@pytest.mark.parametrize(
    ("binding", "path", "value", "field"),
    [
        (X402, "extra", [], "extra"),
        (X402, "extra.paymentFlow", "authorization", "extra.paymentFlow"),
        (X402, "extra.paymentFlow", ..., "extra.paymentFlow"),
        (X402, "extra.invoice", ..., "invoice"),
        (X402, "extra.invoice", 7, "invoice"),
        (X402, "extra.invoice", "lnbcrt1nonsense", "invoice"),
        (X402, "extra.invoice", "x" * 100_000, "invoice"),
        (X402, "asset", "btc", "asset"),
        (X402, "payTo", "anonymous", "payTo"),
        (X402, "payTo", PAYEE.upper(), "payTo"),
        (X402, "payTo", PAYEE + "\n", "payTo"),
        (X402, "payTo", None, "payTo"),
        (X402, "maxTimeoutSeconds", "600", "maxTimeoutSeconds"),
        (X402, "maxTimeoutSeconds", True, "maxTimeoutSeconds"),
        (X402, "maxTimeoutSeconds", 600.0, "maxTimeoutSeconds"),
        (X402, "maxTimeoutSeconds", 0, "expiry"),
        (X402, "maxTimeoutSeconds", -1, "expiry"),
        (X402, "maxTimeoutSeconds", 2**31, "expiry"),
        *((X402, "amount", bad, "amount") for bad in ("0", "-1", "1e3", "+5", "1.0", "٢", "", "9" * 20, 21_000, None)),
        (MPP, "request", None, "request.methodDetails"),
        (MPP, "request.methodDetails", "x", "request.methodDetails"),
        (MPP, "request.currency", "usd", "request.currency"),
        (MPP, "request.amount", "0", "amount"),
        (MPP, "request.amount", 21, "amount"),
        (MPP, "request.methodDetails.invoice", ..., "invoice"),
        (MPP, "request.methodDetails.paymentHash", "00" * 32, "request.methodDetails.paymentHash"),
        (MPP, "request.methodDetails.network", "mainnet", "request.methodDetails.network"),
        (L402, "invoice", ..., "invoice"),
        (L402, "invoice", 7, "invoice"),
        (L402, "paymentHash", "00" * 32, "invoice"),
        (L402, "paymentHash", 7, "invoice"),
        (X_RECEIPT, "invoice", ..., "invoice"),
        (X_RECEIPT, "invoice", {}, "invoice"),
        (X_RECEIPT, "amount_sats", 0, "payment.amount_sats"),
        (X_RECEIPT, "amount_sats", -21, "payment.amount_sats"),
        (X_RECEIPT, "amount_sats", 21.5, "payment.amount_sats"),
        (X_RECEIPT, "amount_sats", True, "payment.amount_sats"),
        (X_RECEIPT, "amount_sats", 10**30, "payment.amount_sats"),
    ],
)
def test_what_is_ours_and_wrong_is_refused_by_the_member_s_name(
    binding: Any, path: str, value: Any, field: str
) -> None:
    with pytest.raises(MalformedInput) as caught:
        binding.decode_offer(changed(binding.encode_offer(offer()), path, value), expires_at=UNTIL)

    assert caught.value.field == field


def test_a_convenience_of_mpp_may_be_left_out() -> None:
    wire = MPP.encode_offer(offer())
    for name in ("paymentHash", "network"):
        wire = changed(wire, f"request.methodDetails.{name}", ...)

    assert MPP.decode_offer(wire, expires_at=UNTIL) == offer()


def test_the_invoice_says_the_amount_where_the_payment_object_does_not() -> None:
    read = X_RECEIPT.decode_offer({"invoice": invoice(amount_msat=5000)}, expires_at=UNTIL)

    assert read is not None
    assert read.amount == 5000


def test_an_amount_beside_the_invoice_stays_visible() -> None:
    wire = changed(X_RECEIPT.encode_offer(offer()), "amount_sats", 1)

    read = X_RECEIPT.decode_offer(wire, expires_at=UNTIL)

    assert read is not None
    assert (read.amount, invoice_of(read).amount_msat) == (1000, AMOUNT)


@pytest.mark.parametrize("binding", [X_RECEIPT, L402], ids=["x-receipt", "l402"])
def test_an_open_invoice_is_no_offer(binding: Any) -> None:
    with pytest.raises(MalformedInput, match="open invoice"):
        binding.decode_offer({"invoice": invoice(amount_msat=None)}, expires_at=UNTIL)


def test_an_invoice_of_another_network_is_read_so_that_its_refusal_can_name_it() -> None:
    read = X_RECEIPT.decode_offer({"invoice": invoice(prefix="bc")}, expires_at=UNTIL)

    assert read is not None
    assert read.network == "lnbtc:000000000019d6689c085ae165831e93"


def test_the_invoice_is_kept_in_one_form() -> None:
    text = invoice()

    read = X_RECEIPT.decode_offer({"invoice": "LIGHTNING:" + text.upper()}, expires_at=UNTIL)

    assert read is not None
    assert read.extra == {"invoice": text}
    assert invoice_of(read) == bolt11.decode(text)


# The proof.


@pytest.mark.parametrize("binding", [X402, MPP, X_RECEIPT, L402], ids=["x402", "mpp", "x-receipt", "l402"])
def test_a_preimage_travels_in_every_dialect(binding: Any) -> None:
    payload = {"preimage": PREIMAGE}

    assert binding.decode_proof(binding.encode_proof(payload)) == payload


def test_x_receipt_shows_the_bare_preimage() -> None:
    assert X_RECEIPT.encode_proof({"preimage": PREIMAGE}) == {"receipt": PREIMAGE}
    assert X_RECEIPT.decode_proof({"receipt": PREIMAGE.upper()}) == {"preimage": PREIMAGE}


@pytest.mark.parametrize("receipt", ["", "pi_123", "0x" + "ab" * 32, "ab" * 31, "ab" * 33, PREIMAGE + "\n", "é" * 64])
def test_another_receipt_is_some_other_rail_s(receipt: str) -> None:
    assert X_RECEIPT.decode_proof({"receipt": receipt}) is None


@pytest.mark.parametrize("bad", [None, 7, "", "ab" * 31, "ab" * 33, "zz" * 32, PREIMAGE + " ", " ".join(["ab"] * 32)])
@pytest.mark.parametrize("binding", [X402, MPP, L402], ids=["x402", "mpp", "l402"])
def test_a_preimage_is_64_hexadecimal_digits(binding: Any, bad: object) -> None:
    with pytest.raises(MalformedInput, match="64 hexadecimal"):
        binding.decode_proof({"preimage": bad})


@pytest.mark.parametrize("binding", [X402, MPP, L402], ids=["x402", "mpp", "l402"])
def test_a_payload_without_a_preimage_is_some_other_rail_s(binding: Any) -> None:
    assert binding.decode_proof({"signature": "0x"}) is None


def test_x402_takes_the_invoice_of_an_older_draft() -> None:
    assert X402.decode_proof({"invoice": "lnbcrt1"}) == {"invoice": "lnbcrt1"}
    with pytest.raises(MalformedInput):
        X402.decode_proof({"invoice": 7})


# Properties.

ALL = {name: SPEC.bindings[name] for name in ("x402-v2", "mpp", "x-receipt", "l402", "payment-uri")}
NAMES, MADE = st.sampled_from(list(ALL)), offer()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just(invoice()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def paths(wire: Any, before: str = "") -> list[str]:
    """Each member of an object, and each of the objects in it."""
    inner = [path for name, value in wire.items() if isinstance(value, dict) for path in paths(value, f"{name}.")]
    return [before + path for path in (*wire, *inner)]


def survives(name: str, wire: Any) -> None:
    """Whatever is said, it is read as an offer that can be checked, or refused by name."""
    with contextlib.suppress(MalformedInput):
        read = ALL[name].decode_offer(wire, expires_at=UNTIL)
        if read is not None:
            assert invoice_of(read).text == read.extra["invoice"]
            with contextlib.suppress(OfferRefused):
                SPEC.check_offer(read, ORDER, now=NOW)


@given(NAMES, st.integers(1, 10**9), st.integers(1, 2**31 - 1), st.binary(min_size=32, max_size=32))
def test_any_invoice_comes_back_in_every_dialect(name: str, sats: int, expiry: int, payment_hash: bytes) -> None:
    text = invoice(amount_msat=sats * 1000, expiry=expiry, payment_hash=payment_hash)
    made = offer(text, amount=sats * 1000, timeout_seconds=expiry, expires_at=NOW + expiry)

    read = ALL[name].decode_offer(json.loads(json.dumps(ALL[name].encode_offer(made))), expires_at=NOW + expiry)

    assert read == made
    assert read.canonical == made.canonical


@given(NAMES, st.binary(min_size=32, max_size=32))
def test_any_preimage_comes_back_in_every_dialect(name: str, preimage: bytes) -> None:
    payload = {"preimage": preimage.hex()}

    assert ALL[name].decode_proof(ALL[name].encode_proof(payload)) == payload


@given(NAMES, st.data(), JSON)
def test_hostile_members_give_typed_errors(name: str, data: st.DataObject, value: Any) -> None:
    wire: Any = ALL[name].encode_offer(MADE)

    survives(name, changed(wire, data.draw(st.sampled_from(paths(wire))), value))


@given(NAMES, st.integers(0, len(invoice()) - 1), st.text(max_size=3))
def test_hostile_invoices_give_typed_errors(name: str, at: int, text: str) -> None:
    spoiled = invoice()[:at] + text + invoice()[at + 1 :]

    survives(name, json.loads(json.dumps(ALL[name].encode_offer(MADE)).replace(invoice(), json.dumps(spoiled)[1:-1])))


MEMBERS = st.sampled_from(["scheme", "network", "extra", "method", "intent", "request", "invoice", "uri"])


@given(NAMES, st.dictionaries(MEMBERS | st.text(max_size=6), JSON, max_size=4))
def test_hostile_json_gives_typed_errors(name: str, wire: dict[str, Any]) -> None:
    survives(name, wire)


@given(NAMES, st.dictionaries(st.sampled_from(["preimage", "invoice"]) | st.text(max_size=6), JSON), JSON)
def test_hostile_proofs_give_typed_errors(name: str, said: dict[str, Any], receipt: Any) -> None:
    wire = {"x-receipt": {"receipt": receipt}, "payment-uri": {"proof": said}}.get(name, said)
    with contextlib.suppress(MalformedInput):
        read = ALL[name].decode_proof(wire)
        assert read is None or read.keys() <= {"preimage", "invoice"}
