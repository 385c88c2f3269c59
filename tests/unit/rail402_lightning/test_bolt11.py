from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import MalformedInput
from rail402_lightning import bech32, bolt11
from rail402_lightning.bolt11 import Invoice, RouteHop, UnsignedInvoice, decode, encode

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "bolt11.json").read_text(encoding="utf-8"))
KEY = bytes.fromhex(VECTORS["private_key"])
NODE = PrivateKey(KEY).public_key.format()
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

UNSIGNED = UnsignedInvoice(
    prefix="bcrt",
    amount_msat=25_000,
    created_at=1_700_000_000,
    payment_hash=b"\x01" * 32,
    payment_secret=b"\x02" * 32,
    description="coffee",
)


def by_name(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


# Hostile invoices need a good checksum and a good signature, so the tests write them on their own.


def tag(letter: str, value: str) -> str:
    return letter + bech32.letters_from_int(len(value), width=2) + value


def octets(data: bytes) -> str:
    return bech32.letters_from_bytes(data)


def sign(readable: str, body: str, *, high_s: bool = False, recovery_id: int | None = None, key: bytes = KEY) -> str:
    bits = "".join(f"{bech32.ALPHABET.index(letter):05b}" for letter in body)
    bits += "0" * (-len(bits) % 8)
    message = readable.encode() + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    signature = bytearray(PrivateKey(key).sign_recoverable(message))
    if high_s:
        signature[32:64] = (ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
        signature[64] ^= 1
    if recovery_id is not None:
        signature[64] = recovery_id
    return bech32.encode(readable, body + octets(bytes(signature)))


P = tag("p", octets(b"\x01" * 32))
S = tag("s", octets(b"\x02" * 32))
D = tag("d", octets(b"coffee"))
H = tag("h", octets(b"\x03" * 32))
N = tag("n", octets(NODE))
HOP = octets(bytes(51))
TIMESTAMP = bech32.letters_from_int(1_700_000_000, width=7)


def written(*fields: str, readable: str = "lnbcrt250n", **how: Any) -> str:
    return sign(readable, TIMESTAMP + "".join(fields), **how)


# The specification's own examples.


@pytest.mark.parametrize("vector", by_name(VECTORS["valid"]))
def test_reads_the_examples_of_the_specification(vector: dict[str, Any]) -> None:
    invoice = decode(vector["invoice"])

    assert invoice.prefix == vector["prefix"]
    assert invoice.amount_msat == vector["amount_msat"]
    assert invoice.created_at == vector["created_at"]
    assert invoice.expiry == vector["expiry"]
    assert invoice.expires_at == vector["created_at"] + vector["expiry"]
    assert invoice.payment_hash.hex() == vector["payment_hash"]
    assert invoice.payment_secret.hex() == vector["payment_secret"]
    assert invoice.description == vector["description"]
    assert (invoice.description_hash and invoice.description_hash.hex()) == vector["description_hash"]
    assert (invoice.metadata and invoice.metadata.hex()) == vector["metadata"]
    assert invoice.min_final_cltv_expiry == vector["min_final_cltv_expiry"]
    assert sorted(invoice.features) == vector["features"]
    hints = [[[hop.node_id.hex(), *hop[1:]] for hop in hint] for hint in invoice.route_hints]
    assert hints == vector["route_hints"]
    assert len(invoice.payee) == 33
    if vector["payee"] is not None:  # a high-S signature recovers another key than the signer's
        assert invoice.payee.hex() == vector["payee"]
    assert invoice.text == vector["invoice"].lower()


@pytest.mark.parametrize("vector", by_name(VECTORS["invalid"]))
def test_refuses_the_invalid_examples_of_the_specification(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput) as caught:
        decode(vector["invoice"])
    assert caught.value.field == vector["field"]


def test_writes_the_x402_example_byte_for_byte() -> None:
    vector = next(vector for vector in VECTORS["valid"] if "private_key" in vector)
    invoice = UnsignedInvoice(
        prefix="bc",
        amount_msat=25_000,
        created_at=1_700_000_000,
        payment_hash=bytes.fromhex(vector["payment_hash"]),
        payment_secret=bytes.fromhex(vector["payment_secret"]),
        description_hash=bytes.fromhex(vector["description_hash"]),
        expiry=300,
    )
    assert encode(invoice, bytes.fromhex(vector["private_key"])) == vector["invoice"]


@pytest.mark.parametrize("scheme", ["", "lightning:", "LIGHTNING:"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_case_and_uri_scheme_do_not_matter(scheme: str, case: Any) -> None:
    text = VECTORS["valid"][0]["invoice"]
    assert decode(scheme + case(text)) == decode(text)


# What a reader has to skip.


def test_unknown_fields_and_fallback_addresses_are_skipped() -> None:
    unknown = tag("2", "qqq") + tag("f", "n" + "q" * 32) + tag("f", "") + tag("z", "")
    assert replace(decode(written(P, unknown, S, D)), text="") == replace(decode(written(P, S, D)), text="")


def test_odd_features_may_be_unknown_and_come_out_as_numbers() -> None:
    invoice = decode(written(P, S, D, tag("9", bech32.letters_from_int(1 << 14 | 1 << 17 | 1 << 1001))))
    assert invoice.features == {14, 17, 1001}


def test_several_route_hints_keep_their_order() -> None:
    first, second = (RouteHop(NODE, number, 1, 2, 3) for number in (7, 8))
    invoice = replace(UNSIGNED, route_hints=((first, second), (second,)))
    assert decode(encode(invoice, KEY)).route_hints == ((first, second), (second,))


def test_a_named_payee_is_verified_with_a_low_s_whatever_the_recovery_id() -> None:
    for recovery_id in range(4):
        assert decode(written(P, S, D, N, recovery_id=recovery_id)).payee == NODE


def test_without_a_named_payee_both_s_recover_a_key() -> None:
    assert decode(written(P, S, D)).payee == NODE
    assert decode(written(P, S, D, high_s=True)).payee == NODE


# Hostile invoices, well signed.

HOSTILE = {
    "no payment hash": (written(S, D), "invoice.payment_hash"),
    "two payment hashes": (written(P, S, D, tag("p", octets(b"\x09" * 32))), "invoice.payment_hash"),
    "the same payment hash twice": (written(P, P, S, D), "invoice.payment_hash"),
    "no payment secret": (written(P, D), "invoice.payment_secret"),
    "two payment secrets": (written(P, S, S, D), "invoice.payment_secret"),
    "two descriptions": (written(P, S, D, D), "invoice.description"),
    "two description hashes": (written(P, S, H, H), "invoice.description_hash"),
    "two expiries": (written(P, S, D, tag("x", "p"), tag("x", "z")), "invoice.expiry"),
    "two named payees": (written(P, S, D, N, N), "invoice.payee"),
    "description and its hash": (written(P, S, D, H), "invoice.description"),
    "no description at all": (written(P, S), "invoice.description"),
    "payment hash a letter short": (written(tag("p", "q" * 51), S, D), "invoice.payment_hash"),
    "payment hash a letter long": (written(tag("p", "q" * 53), S, D), "invoice.payment_hash"),
    "payment secret too long": (written(P, tag("s", "q" * 53), D), "invoice.payment_secret"),
    "description hash too short": (written(P, S, tag("h", "q" * 51)), "invoice.description_hash"),
    "named payee too short": (written(P, S, D, tag("n", "q" * 52)), "invoice.payee"),
    "payment hash with padding bits set": (written(tag("p", "q" * 51 + "p"), S, D), "invoice.payment_hash"),
    "description with a letter too many": (written(P, S, tag("d", octets(b"coffee") + "q")), "invoice.description"),
    "description that is not UTF-8": (written(P, S, tag("d", octets(b"\xff\xfe"))), "invoice.description"),
    "expiry that begins with a zero": (written(P, S, D, tag("x", "qp")), "invoice.expiry"),
    "expiry of 65 bits": (written(P, S, D, tag("x", "p" * 13)), "invoice.expiry"),
    "cltv that begins with a zero": (written(P, S, D, tag("c", "qp")), "invoice.min_final_cltv_expiry"),
    "cltv of 65 bits": (written(P, S, D, tag("c", "p" * 13)), "invoice.min_final_cltv_expiry"),
    "features that begin with a zero": (written(P, S, D, tag("9", "qp")), "invoice.features"),
    "unknown compulsory feature": (written(P, S, D, tag("9", octets(b"\x01" + bytes(129)))), "invoice.features"),
    "empty route hint": (written(P, S, D, tag("r", "")), "invoice.route_hints"),
    "route hint of a hop and a byte": (written(P, S, D, tag("r", octets(bytes(52)))), "invoice.route_hints"),
    "second of two route hints broken": (written(P, S, D, tag("r", HOP), tag("r", "q")), "invoice.route_hints"),
    "ends within a field's value": (written(P, S, D, "dqz" + "q"), "invoice"),
    "ends within a field's length": (written(P, S, D, "dq"), "invoice"),
    "ends after a field's letter": (written(P, S, D, "d"), "invoice"),
    "named payee is not on the curve": (written(P, S, D, tag("n", octets(b"\x02" + bytes(32)))), "invoice.signature"),
    "named payee is someone else": (written(P, S, D, N, key=b"\x05" * 32), "invoice.signature"),
    "high S with a named payee": (written(P, S, D, N, high_s=True), "invoice.signature"),
    "recovery id 4": (written(P, S, D, recovery_id=4), "invoice.signature"),
    "recovery id 4 with a named payee": (written(P, S, D, N, recovery_id=4), "invoice.signature"),
    "zero signature": (bech32.encode("lnbcrt1m", TIMESTAMP + P + S + D + "q" * 104), "invoice.signature"),
    "zero signature, named payee": (
        bech32.encode("lnbcrt1m", TIMESTAMP + P + S + D + N + "q" * 104),
        "invoice.signature",
    ),
    "huge signature, named payee": (
        bech32.encode("lnbcrt1m", TIMESTAMP + P + S + D + N + octets(b"\xff" * 32 + b"\1" * 32 + b"\0")),
        "invoice.signature",
    ),
    "nothing but a timestamp": (bech32.encode("lnbcrt1m", TIMESTAMP + "q" * 103), "invoice"),
    "another coin": (written(P, S, D, readable="lnltc1m"), "invoice"),
    "simnet": (written(P, S, D, readable="lnsb1m"), "invoice"),
    "not lightning": (written(P, S, D, readable="bc"), "invoice"),
    "zero amount": (written(P, S, D, readable="lnbcrt0"), "invoice.amount"),
    "amount with a leading zero": (written(P, S, D, readable="lnbcrt01m"), "invoice.amount"),
    "negative amount": (written(P, S, D, readable="lnbcrt-1m"), "invoice.amount"),
    "fractional amount": (written(P, S, D, readable="lnbcrt1.5m"), "invoice.amount"),
    "multiplier without an amount": (written(P, S, D, readable="lnbcrtm"), "invoice.amount"),
    "two multipliers": (written(P, S, D, readable="lnbcrt1mm"), "invoice.amount"),
    "a tenth of a millisatoshi": (written(P, S, D, readable="lnbcrt1p"), "invoice.amount"),
    "more bitcoin than there can be": (written(P, S, D, readable="lnbcrt21000001"), "invoice.amount"),
    "an amount of 5000 digits": (written(P, S, D, readable="lnbcrt" + "9" * 5000), "invoice.amount"),
    "lightning://": ("lightning://" + written(P, S, D), "invoice"),
    "two schemes": ("lightning:lightning:" + written(P, S, D), "invoice"),
    "only a scheme": ("lightning:", "invoice"),
    "empty": ("", "invoice"),
    "a space at the end": (written(P, S, D) + " ", "invoice"),
    "a letter bech32 lacks": ("lnbcrt1b" + "q" * 200, "invoice"),
    "a Kelvin sign, whose lower case is k": (VECTORS["valid"][12]["invoice"].replace("K", "\u212a"), "invoice"),
    "a full-width digit": (VECTORS["valid"][1]["invoice"].replace("2500u", "２500u"), "invoice"),
    "too long": ("lnbcrt1" + "q" * bolt11.MAX_LENGTH, "invoice"),
}


@pytest.mark.parametrize(("text", "field"), HOSTILE.values(), ids=HOSTILE.keys())
def test_refuses_hostile_invoices_and_names_the_field(text: str, field: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        decode(text)
    assert caught.value.field == field
    assert caught.value.status == 400


def test_the_length_is_checked_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bech32, "decode", lambda text: pytest.fail("parsed an oversized text"))
    with pytest.raises(MalformedInput, match="longer than 7089"):
        decode("lnbc1" + "q" * 10**6)


# Amounts.


@pytest.mark.parametrize(
    ("written_amount", "amount_msat"),
    [
        ("", None),
        ("1", 10**11),
        ("21000000", bolt11.MAX_AMOUNT_MSAT),
        ("1m", 10**8),
        ("1u", 10**5),
        ("1n", 100),
        ("10p", 1),
        ("123450p", 12_345),
        ("10n", 1000),
        ("2500000u", 250_000_000_000),  # not the largest multiplier, met in the wild
    ],
)
def test_amounts_are_millisatoshis(written_amount: str, amount_msat: int | None) -> None:
    assert decode(written(P, S, D, readable=f"lnbcrt{written_amount}")).amount_msat == amount_msat


@pytest.mark.parametrize(
    ("amount_msat", "prefix"),
    [
        (10**11, "lnbcrt11"),
        (10**8, "lnbcrt1m1"),
        (250_000, "lnbcrt2500n1"),
        (1, "lnbcrt10p1"),
        (12_345, "lnbcrt123450p1"),
        (None, "lnbcrt1"),
    ],
)
def test_writes_the_shortest_amount(amount_msat: int | None, prefix: str) -> None:
    assert encode(replace(UNSIGNED, amount_msat=amount_msat), KEY).startswith(prefix)


# Writing.


def test_a_named_payee_is_the_signing_key() -> None:
    text = encode(UNSIGNED, KEY, name_payee=True)
    assert N in text
    assert decode(text).payee == NODE


def test_expiry_and_cltv_are_always_written() -> None:
    text = encode(UNSIGNED, KEY)
    assert tag("x", bech32.letters_from_int(3600)) in text
    assert tag("c", bech32.letters_from_int(18)) in text


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "ltc"},
        {"amount_msat": 0},
        {"amount_msat": -1},
        {"amount_msat": bolt11.MAX_AMOUNT_MSAT + 1},
        {"created_at": -1},
        {"created_at": 1 << 35},
        {"payment_hash": b"\x01" * 31},
        {"payment_secret": b"\x01" * 33},
        {"description": None},
        {"description_hash": b"\x01" * 32},
        {"description": None, "description_hash": b"\x01" * 20},
        {"description": "x" * 640},
        {"description": "\ud800"},
        {"expiry": 0},
        {"expiry": -1},
        {"expiry": 1 << 60},
        {"min_final_cltv_expiry": 0},
        {"metadata": b"x" * 640},
        {"route_hints": ((RouteHop(b"\x02" * 32, 1, 1, 1, 1),),)},
        {"route_hints": ((RouteHop(NODE, 1, 1, 1, 1 << 16),),)},
        {"route_hints": ((RouteHop(NODE, -1, 1, 1, 1),),)},
        {"route_hints": ((RouteHop(NODE, 1, 1, 1, 1),) * 13,)},
        {"features": frozenset({-1})},
    ],
    ids=str,
)
def test_refuses_to_write_what_no_invoice_can_say(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are for people
        encode(replace(UNSIGNED, **change), KEY)


def test_the_longest_description_fits() -> None:
    invoice = replace(UNSIGNED, description="x" * 639)
    assert decode(encode(invoice, KEY)).description == "x" * 639


def test_the_repr_holds_no_secret() -> None:
    secret = bytes(range(100, 132))
    invoice = replace(UNSIGNED, payment_secret=secret, metadata=b"hidden-metadata")
    signed = decode(encode(invoice, KEY))
    for text in (repr(invoice), repr(signed)):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
        assert "hidden-metadata" not in text
        assert octets(secret) not in text
        assert "coffee" in text


# Properties.

hops = st.builds(
    RouteHop,
    st.binary(min_size=33, max_size=33),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)
known_features = st.sampled_from([0, 8, 12, 14, 16, 24, 36, 44, 48]) | st.integers(0, 2000).map(lambda n: 2 * n + 1)
invoices = st.builds(
    UnsignedInvoice,
    prefix=st.sampled_from(["bc", "tb", "tbs", "bcrt"]),
    amount_msat=st.none() | st.integers(1, bolt11.MAX_AMOUNT_MSAT) | st.integers(1, 100_000),
    created_at=st.integers(0, 2**35 - 1),
    payment_hash=st.binary(min_size=32, max_size=32),
    payment_secret=st.binary(min_size=32, max_size=32),
    description=st.text(max_size=150),
    expiry=st.integers(1, 2**60 - 1) | st.integers(1, 10_000),
    min_final_cltv_expiry=st.integers(1, 2**60 - 1) | st.integers(1, 2000),
    features=st.frozensets(known_features, max_size=6),
    route_hints=st.lists(st.lists(hops, min_size=1, max_size=12).map(tuple), max_size=2).map(tuple),
    metadata=st.none() | st.binary(max_size=60),
)
hashed_invoices = st.builds(
    lambda invoice, digest: replace(invoice, description=None, description_hash=digest),
    invoices,
    st.binary(min_size=32, max_size=32),
)


def unsigned(invoice: Invoice) -> UnsignedInvoice:
    return UnsignedInvoice(**{name: getattr(invoice, name) for name in UnsignedInvoice.__dataclass_fields__})


@settings(max_examples=150, deadline=None)
@given(invoices | hashed_invoices, st.booleans())
def test_what_is_written_is_read_back(invoice: UnsignedInvoice, name_payee: bool) -> None:
    text = encode(invoice, KEY, name_payee=name_payee)
    signed = decode(text)
    assert unsigned(signed) == invoice
    assert signed.payee == NODE
    assert signed.text == text
    assert encode(signed, KEY, name_payee=name_payee) == text


def read_or_refuse(text: str) -> Invoice | None:
    try:
        return decode(text)
    except MalformedInput:
        return None


real_texts = st.sampled_from([vector["invoice"] for vector in VECTORS["valid"]])


@settings(max_examples=150, deadline=None)
@given(real_texts, st.data())
def test_one_changed_character_is_always_noticed(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    replacement = data.draw(st.characters(max_codepoint=0x17F).filter(lambda char: char.lower() != text[at].lower()))
    assert read_or_refuse(text[:at] + replacement + text[at + 1 :]) is None


@settings(max_examples=400, deadline=None)
@given(real_texts, st.data())
def test_changes_under_a_good_checksum_never_break_the_parser(text: str, data: st.DataObject) -> None:
    readable, letters = bech32.decode(text)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(letters)))
        end = data.draw(st.integers(start, min(start + 4, len(letters))))
        letters = letters[:start] + data.draw(st.text(bech32.ALPHABET, max_size=4)) + letters[end:]
    invoice = read_or_refuse(bech32.encode(readable, letters))
    if invoice is not None:
        assert len(invoice.payment_hash) == len(invoice.payment_secret) == 32


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=400) | st.text(bech32.ALPHABET, max_size=400).map(lambda letters: bech32.encode("lnbc", letters))
)
def test_arbitrary_text_is_refused(text: str) -> None:
    assert read_or_refuse(text) is None


# The bolt11 package as an oracle.


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the bolt11 package does not install on Python 3.13 and later")
class TestAgainstTheBolt11Package:
    @settings(max_examples=60, deadline=None)
    @given(invoices | hashed_invoices, st.booleans())
    def test_it_reads_what_we_write(self, invoice: UnsignedInvoice, name_payee: bool) -> None:
        import bolt11 as oracle

        theirs = oracle.decode(encode(invoice, KEY, name_payee=name_payee))
        assert theirs.currency == invoice.prefix
        assert theirs.amount_msat == invoice.amount_msat
        assert theirs.date == invoice.created_at
        assert theirs.payment_hash == invoice.payment_hash.hex()
        assert theirs.payment_secret == invoice.payment_secret.hex()
        assert theirs.description_hash == (invoice.description_hash and invoice.description_hash.hex())
        assert (theirs.description or None) == (invoice.description or None)
        assert theirs.payee == NODE.hex()

    @pytest.mark.parametrize("vector", by_name(VECTORS["valid"]))
    def test_both_read_the_same_from_the_examples(self, vector: dict[str, Any]) -> None:
        import bolt11 as oracle

        theirs, ours = oracle.decode(vector["invoice"]), decode(vector["invoice"])
        assert theirs.payee == ours.payee.hex()
        assert theirs.amount_msat == ours.amount_msat
        assert (theirs.date, theirs.expiry) == (ours.created_at, ours.expiry)
        assert theirs.payment_hash == ours.payment_hash.hex()
        assert len(theirs.route_hints or []) == len(ours.route_hints)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 10**13), st.integers(0, 2**32), st.integers(1, 2**31), st.text(max_size=50))
    def test_we_read_what_it_writes(self, amount_msat: int, created_at: int, expiry: int, description: str) -> None:
        import bolt11 as oracle
        from bolt11.models.features import Feature, FeatureExtra, Features, FeatureState

        fields = oracle.Tags()
        fields.add(oracle.TagChar.payment_hash, "01" * 32)
        fields.add(oracle.TagChar.payment_secret, "02" * 32)
        fields.add(oracle.TagChar.description, description)
        fields.add(oracle.TagChar.expire_time, expiry)
        fields.add(oracle.TagChar.min_final_cltv_expiry, 40)
        states: dict[Feature | FeatureExtra, FeatureState] = {
            Feature.payment_secret: FeatureState.required,
            Feature.basic_mpp: FeatureState.supported,
        }
        fields.add(oracle.TagChar.features, Features.from_feature_list(states))
        theirs = oracle.Bolt11(
            currency="tbs", amount_msat=oracle.MilliSatoshi(amount_msat), date=created_at, tags=fields
        )
        ours = decode(oracle.encode(theirs, KEY.hex()))
        assert (ours.prefix, ours.amount_msat, ours.created_at) == ("tbs", amount_msat, created_at)
        assert (ours.expiry, ours.min_final_cltv_expiry) == (expiry, 40)
        assert ours.description == description
        assert ours.features == {14, 17}
        assert ours.payee == NODE
