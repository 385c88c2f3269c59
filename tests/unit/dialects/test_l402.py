"""L402: the challenge that all clients read, macaroons that only become narrower, and tokens that are opaque."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Mapping
from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import L402
from rail402.dialects.macaroon import mint, parse
from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.binding import OfferKeys
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry

from .dialect_fakes import KEYS, LIGHTNING, NOW, SECRETS, STRIPE, challenge_of, charge_of, offer_of, vectors

L = L402()
PREIMAGE = "11" * 32
HASH = hashlib.sha256(bytes.fromhex(PREIMAGE)).hexdigest()
VECTORS = vectors("l402.json")


def lines_of(kind: str) -> list[str]:
    return [vector["line"] for vector in VECTORS[kind]]


def shortened(line: str) -> str:
    return line[:40]


class InvoiceBinding:
    """Invoices are texts such as `lnbcrt1`; all of them are paid with one preimage."""

    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        return {"invoice": offer.extra["invoice"], "paymentHash": HASH}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        if not wire["invoice"].startswith("ln"):
            return None
        if wire["paymentHash"] not in (None, HASH):
            raise MalformedInput("invoice", "is not the one that the macaroon is made for")
        return offer_of(LIGHTNING).model_copy(update={"extra": {"invoice": wire["invoice"]}, "token": None})

    def encode_proof(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"preimage": payload["preimage"]}

    def decode_proof(self, wire: Mapping[str, Any]) -> dict[str, Any] | None:
        hash_of_it = hashlib.sha256(bytes.fromhex(wire["preimage"])).hexdigest()
        assert wire["paymentHash"] in (
            hash_of_it,
            wire["preimage"],
        )  # the hash itself, where only that is known
        return {"preimage": wire["preimage"]}


LIGHTNING = copy(LIGHTNING)
LIGHTNING.bindings = {**LIGHTNING.bindings, "l402": InvoiceBinding()}  # type: ignore[dict-item]


def context(now: int = NOW, keys: OfferKeys | None = KEYS, *rails: Any) -> Context:
    return Context(specs=Registry(rails or [LIGHTNING]), now=now, realm="shop.example", keys=keys)


SERVER, CLIENT = context(), context(keys=None)


def challenge_line(token: str | None = None) -> str:
    ((name, value),) = L.challenge(challenge_of(offer_of(LIGHTNING)), SERVER).fields
    assert name == "WWW-Authenticate"
    return value


def minted() -> str:
    match = re.search(r'macaroon="([^"]+)"', challenge_line())
    assert match is not None
    return match[1]


def payments(*lines: str, context: Context = SERVER) -> list[Payment]:
    return L.payments(Fields(("Authorization", line) for line in lines), EMPTY_BODY_DIGEST, context)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- server: the challenge


@pytest.mark.parametrize(
    "parser",
    [  # what clients that are about do with the line
        r'^(?:LSAT|L402)\s+macaroon="(?P<token>[^"]+)",\s*invoice="(?P<invoice>[^"]+)"',
        r'^L402 .*token="(?P<token>[^"]+)"',
        r'macaroon="(?P<token>[^"]+)".*invoice="(?P<invoice>[^"]+)"',
    ],
)
def test_the_challenge_suits_the_parsers_that_are_about(parser: str) -> None:
    match = re.search(parser, challenge_line())
    assert match is not None
    assert match["token"] == minted()
    assert match.groupdict().get("invoice", "lnbcrt1") == "lnbcrt1"


def test_the_macaroon_is_of_the_usual_form() -> None:
    macaroon = parse(base64.b64decode(minted(), validate=True))
    assert (len(macaroon.identifier), macaroon.identifier[:34].hex()) == (66, "0000" + HASH)
    assert macaroon.location == b"shop.example"
    assert macaroon.caveats == (f"rail402_offer={offer_of(LIGHTNING).token}".encode(),)


def test_no_invoice_no_challenge() -> None:
    assert L.challenge(challenge_of(offer_of(STRIPE)), context(NOW, KEYS, STRIPE)).fields == ()


def test_there_is_no_receipt() -> None:
    (payment,) = payments(f"L402 {minted()}:{PREIMAGE}")
    assert L.receipt(charge_of(offer_of(LIGHTNING)), payment, SERVER) == []


# --- server: the credential


@pytest.mark.parametrize("scheme", ["L402", "LSAT", "l402", "Lsat"])
def test_a_credential_is_read_under_both_words(scheme: str) -> None:
    (payment,) = payments(f"{scheme} {minted()}:{PREIMAGE}")
    assert (payment.dialect, payment.rail, payment.payload) == ("l402", "lightning", {"preimage": PREIMAGE})
    assert (payment.offer, payment.offer_token) == (None, offer_of(LIGHTNING).token)


def test_the_preimage_may_be_upper_case_and_the_base64_of_any_kind() -> None:
    for text in (minted().rstrip("="), minted().replace("+", "-").replace("/", "_")):
        assert len(payments(f"L402 {text}:{PREIMAGE.upper()}")) == 1


def test_a_preimage_whose_digits_were_read_as_base64_is_known_all_the_same() -> None:
    misread = base64.b64decode(PREIMAGE).hex()  # as l402-requests 0.9 does with what lnd answers
    (payment,) = payments(f"L402 {minted()}:{misread}")
    assert payment.payload == {"preimage": PREIMAGE}
    with pytest.raises(PaymentRejected):
        payments(f"L402 {minted()}:{base64.b64decode('22' * 32).hex()}")
    with pytest.raises(MalformedInput, match="send the preimage"):
        payments(f"L402 {minted()}:{base64.b64decode(HASH).hex()}")


def test_one_credential_under_two_words_is_one_payment() -> None:
    assert len(payments(f"LSAT {minted()}:{PREIMAGE}", f"L402 {minted()}:{PREIMAGE}", "Bearer abc")) == 1


def test_no_credential_no_payment() -> None:
    assert payments() == []
    assert payments("Bearer L402", "Payment abc", "Basic bDQwMjph") == []


def test_two_payments_are_refused() -> None:
    with pytest.raises(MalformedInput) as caught:
        payments(f"L402 {minted()}:{PREIMAGE}", f"L402 {minted()}:{'22' * 32}")
    assert caught.value.code == "several_payments"


@pytest.mark.parametrize("line", [*lines_of("refused_credentials"), "L402 " + "A" * 70_000 + ":00"], ids=shortened)
def test_what_cannot_be_read_is_malformed(line: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        payments(line)
    assert PREIMAGE not in str(caught.value)


@pytest.mark.parametrize("preimage", ["", "22" * 32, "11" * 31, "11" * 33, "zz" * 32, PREIMAGE + "00"])
def test_a_wrong_preimage_gets_a_new_challenge(preimage: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        payments(f"L402 {minted()}:{preimage}")
    assert (caught.value.code, caught.value.status) == ("preimage_invalid", 402)


def test_the_payment_hash_for_the_preimage_gets_no_new_challenge() -> None:
    with pytest.raises(MalformedInput, match="send the preimage") as caught:
        payments(f"L402 {minted()}:{HASH}")
    assert caught.value.status == 400


# --- server: caveats


def restricted(*caveats: bytes) -> str:
    macaroon = parse(base64.b64decode(minted()))
    for caveat in caveats:
        macaroon = macaroon.restrict(caveat)
    return encoded(macaroon.serialize())


@pytest.mark.parametrize(
    "caveats",
    [(f"rail402_valid_until={NOW + 1}".encode(),), (b"rail402_valid_until=999999999999", b"preimage=00")],
)
def test_a_narrower_macaroon_still_pays(caveats: tuple[bytes, ...]) -> None:
    assert len(payments(f"L402 {restricted(*caveats)}:{PREIMAGE}")) == 1


def test_the_preimage_may_stand_in_a_caveat() -> None:
    assert len(payments(f"L402 {restricted(f'preimage={PREIMAGE}'.encode())}:")) == 1


@pytest.mark.parametrize(
    ("caveats", "code"),
    [
        ((f"rail402_valid_until={NOW}".encode(),), "receipt_expired"),
        ((f"rail402_valid_until={NOW}".encode(), f"rail402_valid_until={NOW + 9}".encode()), "receipt_expired"),
        ((b"rail402_valid_until=soon",), "resource_mismatch"),
        ((b"rail402_valid_until",), "resource_mismatch"),
        (("rail402_valid_until=\u0661\u0661".encode(),), "resource_mismatch"),
        ((b"services=shop:0",), "resource_mismatch"),
        ((b"rail402_offer=k1.1.a.b",), "resource_mismatch"),
        ((b"\xff\xfe",), "resource_mismatch"),
        ((b"rail402_valid_until\x00=1",), "resource_mismatch"),
        ((b"preimage=00", b"preimage=11"), "resource_mismatch"),
    ],
)
def test_a_caveat_that_does_not_hold_or_is_not_known(caveats: tuple[bytes, ...], code: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        payments(f"L402 {restricted(*caveats)}:{PREIMAGE}")
    assert caught.value.code == code


def forgeries() -> list[bytes]:
    ours = parse(base64.b64decode(minted()))
    other = bytes(2) + bytes.fromhex(HASH) + bytes(32)
    return [
        mint(b"guess", ours.identifier, ours.location, ours.caveats).serialize(),
        mint(b"guess", b"short", b"", [b"rail402_offer=a"]).serialize(),
        mint(b"guess", ours.identifier).serialize(),
        ours.serialize()[:-32] + bytes(32),
        ours.serialize().replace(ours.identifier, other),
        ours.serialize().replace(b"rail402_offer=k1", b"rail402_offer=k2"),
    ]


@pytest.mark.parametrize("index", range(6))
def test_a_macaroon_that_is_not_ours(index: int) -> None:
    with pytest.raises(PaymentRejected) as caught:
        payments(f"L402 {encoded(forgeries()[index])}:{PREIMAGE}")
    assert caught.value.code == "offer_unknown"


@pytest.mark.parametrize("index", range(6))
def test_a_refusal_tells_what_was_shown(index: int) -> None:
    """The preimage's payment, and the one that the macaroon names, by its hash: either may be known."""
    with pytest.raises(PaymentRejected) as caught:
        payments(f"L402 {encoded(forgeries()[index])}:{PREIMAGE}")
    named = [{"preimage": HASH}] if index != 1 else []  # which is too short to name one
    assert [payment.payload for payment in caught.value.shown] == [{"preimage": PREIMAGE}, *named]
    with pytest.raises(PaymentRejected) as caught:
        payments(f"L402 {minted()}:beef")
    assert [payment.payload for payment in caught.value.shown] == [{"preimage": HASH}]


def test_a_rotated_secret_still_knows_its_macaroons() -> None:
    line = f"L402 {minted()}:{PREIMAGE}"
    both = OfferKeys({"k2": b"2" * 32, **SECRETS}, current="k2")
    assert len(payments(line, context=context(keys=both))) == 1
    with pytest.raises(PaymentRejected):
        payments(line, context=context(keys=OfferKeys({"k2": b"2" * 32})))


# --- client


def offers(*lines: str, context: Context = CLIENT) -> list[Offer]:
    return L.offers(Fields(("WWW-Authenticate", line) for line in lines), b"", context)


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["name"])
def test_a_challenge_is_read_and_answered(vector: dict[str, str]) -> None:
    (offer,) = offers(vector["line"])
    assert (offer.dialect, offer.extra["invoice"]) == ("l402", "lnbcrt1")
    credential = f"{vector['scheme']} {vector['token']}:{PREIMAGE}"
    assert L.credential(offer, {"preimage": PREIMAGE}, CLIENT) == [("Authorization", credential)]


def test_our_own_challenge() -> None:
    (offer,) = offers(challenge_line())
    ((_, credential),) = L.credential(offer, {"preimage": PREIMAGE}, CLIENT)
    assert payments(credential)[0].offer_token == offer_of(LIGHTNING).token


def test_one_offer_under_two_words_counts_once() -> None:
    lines = ['LSAT macaroon="abc", invoice="lnbcrt1"', 'L402 macaroon="abc", invoice="lnbcrt1"']
    (offer,) = offers(*lines)
    assert (offer.envelope or {})["scheme"] == "L402"
    assert len(offers(*lines, 'L402 macaroon="def", invoice="lnbcrt2"')) == 2


@pytest.mark.parametrize(
    "line",
    [*lines_of("reject"), 'L402 macaroon="' + "A" * 9000 + '", invoice="lnbcrt1"', "L402 " + "a" * 70_000],
    ids=shortened,
)
def test_a_challenge_that_cannot_be_used(line: str) -> None:
    with pytest.raises(MalformedInput):
        offers(line)
    if len(line) < 60_000:
        assert len(offers(line, 'L402 macaroon="abc", invoice="lnbcrt1"')) == 1


def test_a_macaroon_for_another_invoice_is_refused() -> None:
    other = encoded(mint(b"k", bytes(2) + bytes(64)).serialize())
    with pytest.raises(MalformedInput, match="is not the one that the macaroon is made for"):
        offers(f'L402 macaroon="{other}", invoice="lnbcrt1"')


def test_other_schemes_and_other_rails_are_left_alone() -> None:
    assert offers("Payment abc", 'Bearer realm="l402"') == []
    assert offers('L402 macaroon="abc", invoice="xyz"') == []


@given(st.text(max_size=200) | st.text(alphabet='L402SATlsat macroninvoice=",:\\\x00', max_size=200))
def test_hostile_lines_never_surprise(text: str) -> None:
    latin = text.encode("utf-8").decode("latin-1")
    for line in (latin, f"L402 {latin}"):
        with contextlib.suppress(MalformedInput):
            offers(line)
        with contextlib.suppress(MalformedInput, PaymentRejected):
            payments(line)
