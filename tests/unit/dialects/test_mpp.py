"""MPP: ids, lines, credentials and receipts, against published vectors and against hostile ones."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import Mpp
from rail402.dialects.auth_params import parse
from rail402.dialects.mpp import body_digest_field, challenge_id
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.base import canonical_json, sha256_hex
from rail402.protocol.binding import OfferKeys
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.rail import Registry

from .dialect_fakes import (
    BASE,
    CLIENT,
    KEYS,
    LIGHTNING,
    NOW,
    ORDER,
    RAILS,
    SECRETS,
    SERVER,
    STRIPE,
    challenge_of,
    charge_of,
    offer_of,
    order,
    terms,
    vectors,
)

MPP = Mpp()
IDS = vectors("mpp_challenge_ids.json")
HEADERS = vectors("mpp_headers.json")
BODY_DIGEST = sha256_hex(b'{"a":1}')
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def by_name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def decoded(value: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))


def canonical(value: object) -> str:
    return base64.urlsafe_b64encode(canonical_json(value)).decode().rstrip("=")


def lines(*offers: Offer, body_digest: str = EMPTY_BODY_DIGEST, **more: Any) -> list[tuple[str, str]]:
    return list(MPP.challenge(challenge_of(*offers, of=order(body_digest), **more), SERVER).fields)


def params(line: tuple[str, str]) -> dict[str, str | None]:
    (scheme,) = parse(line[1])
    return dict(scheme.params)


def offers(*values: str) -> list[Offer]:
    return MPP.offers(Fields(("WWW-Authenticate", value) for value in values), b"", CLIENT)


def credential(offer: Offer, *, body_digest: str = EMPTY_BODY_DIGEST) -> dict[str, Any]:
    """The credential for an offer of the server's, as JSON."""
    (read,) = offers(*(value for _, value in lines(offer, body_digest=body_digest)))
    ((name, value),) = MPP.credential(read, {"proof": "sig"}, CLIENT)
    assert name == "Authorization"
    message: dict[str, Any] = decoded(value.removeprefix("Payment "))
    return message


def payments(message: object, body_digest: str = EMPTY_BODY_DIGEST, context: Context = SERVER) -> list[Any]:
    return MPP.payments(Fields([("authorization", f"Payment {encoded(message)}")]), body_digest, context)


def refusal(message: object, body_digest: str = EMPTY_BODY_DIGEST) -> str:
    with pytest.raises(PaymentRejected) as caught:
        payments(message, body_digest)
    return caught.value.code


BARE = ("id", "realm", "method", "intent", "request", "expires")


@pytest.mark.parametrize("body_digest", [EMPTY_BODY_DIGEST, BODY_DIGEST])
def test_a_lightning_client_need_not_send_back_more_than_its_draft_shows(body_digest: str) -> None:
    message = credential(offer_of(LIGHTNING, order(body_digest)), body_digest=body_digest)
    assert "opaque" not in message["challenge"]
    message["challenge"] = {name: message["challenge"][name] for name in BARE}
    (payment,) = payments(message, body_digest)
    KEYS.verify(payment.offer, order(body_digest))
    other = BODY_DIGEST if body_digest == EMPTY_BODY_DIGEST else sha256_hex(b"another")
    assert refusal(message, other) == "offer_unknown"
    request = decoded(message["challenge"]["request"])
    message["challenge"]["request"] = canonical(request | {"_rail402_offer": "k1.2000000000.0.x"})
    assert refusal(message, body_digest) == "offer_unknown"


def test_of_other_methods_all_of_it_comes_back() -> None:
    message = credential(offer_of(STRIPE, order(BODY_DIGEST)), body_digest=BODY_DIGEST)
    assert "_rail402_offer" not in decoded(message["challenge"]["request"])
    del message["challenge"]["digest"]
    assert refusal(message, BODY_DIGEST) == "offer_unknown"


# --- ids and digests


@pytest.mark.parametrize("vector", IDS["vectors"], ids=by_name)
def test_published_ids(vector: dict[str, Any]) -> None:
    challenge = dict(vector["challenge"])
    for name in {"request", "opaque"} & challenge.keys():
        challenge[name] = canonical(challenge[name])
    assert challenge_id(vector["secret"].encode(), challenge) == vector["id"]


def test_published_digest() -> None:
    assert body_digest_field(sha256_hex(IDS["digest"]["body"].encode())) == IDS["digest"]["digest"]


# --- the challenge


def test_one_line_for_each_offer() -> None:
    base, stripe = offer_of(BASE), offer_of(STRIPE)
    first, second = lines(base, stripe, description="An  \t article\r\nwith \x00 café ☕")
    assert first[0] == second[0] == "WWW-Authenticate"
    assert second[1].startswith('Payment id="')
    assert params(second)["method"] == "stripe"
    order_of_params = ["id", "realm", "method", "intent", "request", "description", "expires", "opaque"]
    assert list(params(first)) == order_of_params
    found = params(first)
    assert found.pop("id") == challenge_id(KEYS.derive("mpp"), {key: str(value) for key, value in found.items()})
    assert found == {
        "realm": "api.example.com",
        "method": "evm",
        "intent": "charge",
        "request": canonical(
            {"amount": "3000", "currency": "coin", "methodDetails": {"seconds": 60}, "recipient": "payee"}
        ),
        "description": "An article with café ☕",
        "expires": "2027-01-15T08:05:00Z",
        "opaque": canonical({"token": base.token}),
    }


def test_a_body_is_bound_by_its_digest() -> None:
    (line,) = lines(offer_of(BASE), body_digest=BODY_DIGEST)
    assert params(line)["digest"] == IDS["digest"]["digest"]


def test_no_offer_no_line() -> None:
    x402_only = type(BASE)("other", "o:1", "o", flow=BASE.flow, speaks="x402-v2")
    context = Context(specs=Registry([x402_only]), now=NOW, realm="r", keys=KEYS)  # type: ignore[list-item]
    assert MPP.challenge(challenge_of(offer_of(x402_only)), context).fields == []


def test_a_realm_with_a_line_break_and_a_missing_key_are_ours_to_fix() -> None:
    for context in (Context(specs=SERVER.specs, now=NOW, realm="a\r\nb", keys=KEYS), CLIENT):
        with pytest.raises(ConfigurationError):
            MPP.challenge(challenge_of(offer_of(BASE)), context)


# --- the payment


@pytest.mark.parametrize("rail", RAILS, ids=lambda rail: rail.name)
@pytest.mark.parametrize("body_digest", [EMPTY_BODY_DIGEST, BODY_DIGEST])
def test_a_payment_brings_back_the_offer_and_its_token(rail: Any, body_digest: str) -> None:
    offer = offer_of(rail, order(body_digest))
    (payment,) = payments(credential(offer, body_digest=body_digest), body_digest)
    assert (payment.dialect, payment.rail, payment.payload) == ("mpp", rail.name, {"proof": "sig"})
    assert terms(payment.offer) == terms(offer)
    KEYS.verify(payment.offer, order(body_digest))


@pytest.mark.parametrize(
    "value",
    [
        "Payment {}",
        "payment   {}",
        "PAYMENT {}==",
        "Bearer x, Payment {}",
        "Payment {} , Basic eDp5",
        "L402 a==:b, Payment {}",
    ],
)
@pytest.mark.parametrize("field", ["Authorization", "Payment-Authorization"])
def test_the_credential_is_found_among_other_schemes(field: str, value: str) -> None:
    text = encoded(credential(offer_of(BASE)))
    fields = Fields([("authorization", "Bearer sesame"), (field, value.format(text))])
    assert len(MPP.payments(fields, EMPTY_BODY_DIGEST, SERVER)) == 1


@pytest.mark.parametrize(
    "value",
    ["Bearer x", "L402 macaroon==:preimage", "Basic eDp5", "", 'Digest username="a, Payment e30"', "Paymente30"],
)
def test_other_schemes_are_left_alone(value: str) -> None:
    assert MPP.payments(Fields([("authorization", value)]), EMPTY_BODY_DIGEST, SERVER) == []


def test_one_payment_twice_is_one_and_two_are_refused() -> None:
    one, two = encoded(credential(offer_of(BASE))), encoded(credential(offer_of(STRIPE)))
    same = Fields([("authorization", f"Payment {one}, Payment {one}"), ("payment-authorization", f"Payment {one}")])
    assert len(MPP.payments(same, EMPTY_BODY_DIGEST, SERVER)) == 1
    for values in (
        [f"Payment {one}, Payment {two}"],
        [f"Payment {one}", f"Payment {two}"],
        [f"Payment {one}, Payment"],
    ):
        with pytest.raises(MalformedInput) as caught:
            MPP.payments(Fields(("authorization", value) for value in values), EMPTY_BODY_DIGEST, SERVER)
        assert caught.value.code == "several_payments"


def test_opaque_may_come_back_decoded_and_nulls_are_passed_over() -> None:
    message = credential(offer_of(BASE))
    message["challenge"] |= {"opaque": decoded(message["challenge"]["opaque"]), "header": None, "digest": "", "new": 1}
    (payment,) = payments(message | {"source": None})
    KEYS.verify(payment.offer, ORDER)


def test_a_description_is_not_covered() -> None:
    message = credential(offer_of(BASE))
    message["challenge"]["description"] = "another"
    assert len(payments(message)) == 1


@pytest.mark.parametrize("member", ["id", "realm", "method", "intent", "request", "expires", "opaque"])
def test_an_altered_challenge_is_none_of_ours(member: str) -> None:
    message = credential(offer_of(BASE))
    message["challenge"][member] += "0"
    assert refusal(message) == "offer_unknown"


@pytest.mark.parametrize("member", ["expires", "opaque"])
def test_a_challenge_with_something_left_out_is_none_of_ours(member: str) -> None:
    message = credential(offer_of(BASE))
    del message["challenge"][member]
    assert refusal(message) == "offer_unknown"


@pytest.mark.parametrize("addition", [{"digest": body_digest_field(BODY_DIGEST)}, {"header": "Payment-Authorization"}])
def test_a_challenge_with_an_addition_is_none_of_ours(addition: dict[str, str]) -> None:
    message = credential(offer_of(BASE))
    message["challenge"] |= addition
    assert refusal(message, BODY_DIGEST) == "offer_unknown"


def test_another_servers_challenge_is_none_of_ours() -> None:
    message = credential(offer_of(BASE))
    others = Context(specs=SERVER.specs, now=NOW, realm=SERVER.realm, keys=OfferKeys({"k1": b"2" * 32}))
    with pytest.raises(PaymentRejected) as caught:
        payments(message, context=others)
    assert caught.value.code == "offer_unknown"


def test_a_retired_secret_still_recognises_its_challenges() -> None:
    message = credential(offer_of(BASE))
    rotated = OfferKeys({**SECRETS, "k2": b"2" * 32}, current="k2")
    (payment,) = payments(message, context=Context(specs=SERVER.specs, now=NOW, realm=SERVER.realm, keys=rotated))
    rotated.verify(payment.offer, ORDER)


def test_another_body_is_another_request() -> None:
    message = credential(offer_of(BASE, order(BODY_DIGEST)), body_digest=BODY_DIGEST)
    assert refusal(message, sha256_hex(b'{"a":2}')) == "resource_mismatch"
    assert refusal(message, EMPTY_BODY_DIGEST) == "resource_mismatch"


def test_both_forms_of_a_digest_are_read() -> None:
    message = credential(offer_of(BASE, order(BODY_DIGEST)), body_digest=BODY_DIGEST)
    message["challenge"]["digest"] = message["challenge"]["digest"].replace("sha-256=", "sha-256=:") + ":"
    assert len(payments(message, BODY_DIGEST)) == 1


def signed(**members: str) -> dict[str, Any]:
    """A challenge with our secret's id, whatever it says."""
    challenge = {"realm": "r", "method": "evm", "intent": "charge", "request": "e30", **members}
    return {"challenge": {"id": challenge_id(KEYS.derive("mpp"), challenge), **challenge}, "payload": {"proof": "p"}}


def test_a_challenge_of_ours_without_a_token_of_ours() -> None:
    assert refusal(signed(opaque=canonical({}))) == "offer_unknown"
    assert refusal(signed(opaque=canonical({"token": "x"}))) == "offer_unknown"
    with pytest.raises(MalformedInput):
        payments(signed())
    token = offer_of(BASE).token
    assert refusal(signed(opaque=canonical({"token": token}), method="tempo")) == "method_not_offered"


def test_a_payload_of_another_method() -> None:
    assert refusal(credential(offer_of(BASE)) | {"payload": {"preimage": "00"}}) == "payload_invalid"


@pytest.mark.parametrize("vector", HEADERS["refused_credentials"], ids=by_name)
@pytest.mark.parametrize("field", ["authorization", "payment-authorization"])
def test_refused_credentials(vector: dict[str, str], field: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        MPP.payments(Fields([(field, vector["line"])]), EMPTY_BODY_DIGEST, SERVER)
    assert (caught.value.code, caught.value.status) == ("malformed_credential", 402)


def test_an_oversized_credential_is_refused_unread() -> None:
    with pytest.raises(MalformedInput, match="longer than 65536"):
        MPP.payments(Fields([("authorization", "Payment " + "A" * 65_536)]), EMPTY_BODY_DIGEST, SERVER)


# --- the receipt


def receipt(state: PaymentState = PaymentState.SETTLED, request: dict[str, Any] | None = None, **facts: Any) -> Any:
    offer = offer_of(BASE)
    (payment,) = payments(credential(offer))
    if request is not None:
        payment = payment.model_copy(update={"envelope": {**payment.envelope, "request": request}})
    found = MPP.receipt(charge_of(offer, state, **facts), payment, SERVER)
    assert all(name == "Payment-Receipt" and "=" not in value for name, value in found)
    return [decoded(value) for _, value in found], payment.envelope["challenge"]["id"]


def test_receipt() -> None:
    found, challenge = receipt(transaction="0xabc", settled_at=NOW + 5)
    assert found == [
        {
            "method": "evm",
            "challengeId": challenge,
            "reference": "0xabc",
            "status": "success",
            "timestamp": "2027-01-15T08:00:05Z",
        }
    ]
    assert receipt()[0][0] | {"challengeId": ""} == {
        "method": "evm",
        "challengeId": "",
        "reference": "",
        "status": "success",
        "timestamp": "2027-01-15T08:00:00Z",
    }


def test_receipt_repeats_the_external_id() -> None:
    assert receipt(request={"externalId": "order-1"})[0][0]["externalId"] == "order-1"
    assert "externalId" not in receipt(request={"externalId": 1})[0][0]


@pytest.mark.parametrize("state", [state for state in PaymentState if state is not PaymentState.SETTLED])
def test_an_error_never_carries_a_receipt(state: PaymentState) -> None:
    assert receipt(state)[0] == []


# --- the client


class AnyMethod:
    """A binding that takes every challenge, for tests of the envelope alone."""

    def decode_offer(self, wire: Any, *, expires_at: int) -> Offer:
        return BASE.offer("1", json.dumps(wire), 60, None, expires_at)

    def encode_proof(self, payload: Any) -> Any:
        return payload


class AnyRail:
    name, bindings = "base", {"mpp": AnyMethod()}


ANY = Context(specs=Registry([AnyRail()]), now=NOW)  # type: ignore[list-item]


def read(*values: str) -> list[Offer]:
    return MPP.offers(Fields(("www-authenticate", value) for value in values), b"ignored", ANY)


@pytest.mark.parametrize("vector", HEADERS["read"], ids=by_name)
def test_read_challenges(vector: dict[str, Any]) -> None:
    found = [offer.envelope for offer in read(vector["line"])]
    assert found == [{"challenge": challenge} for challenge in vector["challenges"]]


@pytest.mark.parametrize("vector", HEADERS["refused"], ids=by_name)
def test_refused_challenges(vector: dict[str, str]) -> None:
    with pytest.raises(MalformedInput):
        read(vector["line"])
    good = HEADERS["read"][0]["line"]
    assert len(read(good, vector["line"])) == 1  # it does not hide the good one
    assert len(read(f"{good}, {vector['line']}")) == 1


def test_no_challenge_no_offer() -> None:
    assert read() == read('Bearer realm="x"', 'L402 macaroon="m", invoice="i"') == []


def test_lines_and_lists_are_the_same() -> None:
    values = [value for _, value in lines(*(offer_of(rail) for rail in RAILS), description="a, Payment for you")]
    together = offers(", ".join(['Bearer realm="a, b"', *values, "Basic"]))
    assert together == offers(*values)
    assert [offer.rail for offer in together] == ["base", "lightning", "stripe"]


def test_a_method_that_no_rail_knows_is_passed_over() -> None:
    assert offers(HEADERS["read"][0]["line"]) == []


def test_a_rail_names_what_is_wrong_with_its_request() -> None:
    with pytest.raises(MalformedInput, match=r"request\.methodDetails"):
        offers('Payment id="a", realm="r", method="evm", intent="charge", request="e30"')


def test_oversized_lines_and_requests() -> None:
    with pytest.raises(MalformedInput, match="longer than 65536"):
        read("Payment " + "a" * 65_536)
    with pytest.raises(MalformedInput, match="longer than 16384"):
        read(f'Payment id="a", realm="r", method="m", intent="c", request="{"A" * 16_385}"')


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        ("2027-01-15T08:05:00Z", NOW + 300),
        ("2027-01-15T08:05:00.999Z", NOW + 300),
        ("2027-01-15T09:05:00+01:00", NOW + 300),
        ("0001-01-01T00:00:00+23:00", -62_135_679_600),
        (None, NOW + 300),
    ],
)
def test_expiry(expires: str | None, seconds: int) -> None:
    line = HEADERS["read"][0]["line"] + ("" if expires is None else f', expires="{expires}"')
    assert [offer.expires_at for offer in read(line)] == [seconds]


def test_the_challenge_goes_back_exactly_as_it_came() -> None:
    # canonical JSON would order the members of this request and opaque otherwise
    request, opaque = encoded({"b": 1, "a": "é"}), encoded({"z": "1", "a": "2"})
    (offer,) = read(
        f'Payment opaque="{opaque}", id="i|=", realm="r", method="m", intent="c", request="{request}=", new="x"'
    )
    ((name, value),) = MPP.credential(offer, {"proof": "p"}, ANY)
    assert (name, decoded(value.removeprefix("Payment "))) == (
        "Authorization",
        {
            "challenge": {
                "id": "i|=",
                "realm": "r",
                "method": "m",
                "intent": "c",
                "request": request + "=",
                "opaque": opaque,
            },
            "payload": {"proof": "p"},
        },
    )


def test_the_credential_goes_where_the_challenge_asks_for_it() -> None:
    (offer,) = read(HEADERS["read"][0]["line"] + ', header="payment-AUTHORIZATION"')
    ((name, value),) = MPP.credential(offer, {"proof": "p"}, ANY)
    assert (name, MPP.credential_field(offer)) == ("Payment-Authorization", "payment-authorization")
    assert MPP.credential_field(*read(HEADERS["read"][0]["line"])) == "authorization"
    assert decoded(value.removeprefix("Payment "))["challenge"]["header"] == "payment-AUTHORIZATION"


# --- properties


@given(
    st.sampled_from(RAILS),
    st.integers(1, 10**40),
    st.text(max_size=20),
    st.text(max_size=40),
    st.binary(max_size=20),
)
def test_round_trip(rail: Any, amount: int, payee: str, description: str, body: bytes) -> None:
    digest = sha256_hex(body)
    offer = offer_of(rail, order(digest), amount=amount, payee=payee)
    made = lines(offer, body_digest=digest, description=description)
    assert all(value.isascii() and value.isprintable() for _, value in made)
    (found,) = MPP.offers(Fields(made), b"", CLIENT)
    assert terms(found) == terms(offer) | {"token": None}
    line = MPP.credential(found, {"proof": payee}, CLIENT)
    (payment,) = MPP.payments(Fields(line), digest, SERVER)
    assert terms(payment.offer) == terms(offer)
    assert payment.payload == {"proof": payee}
    KEYS.verify(payment.offer, order(digest))


def survives(value: str) -> None:
    """Whatever the peer sends, it is read or refused by name; nothing else is ever raised."""
    with contextlib.suppress(MalformedInput, PaymentRejected):
        MPP.payments(Fields([("authorization", value)]), EMPTY_BODY_DIGEST, SERVER)
    with contextlib.suppress(MalformedInput):
        offers(value)


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_hostile_text(value: str) -> None:
    survives(value)
    survives(f"Payment {value}")


@given(st.binary(max_size=200))
def test_hostile_bytes(value: bytes) -> None:
    text = base64.urlsafe_b64encode(value).decode()
    survives(f"Payment {text}")
    survives(f'Payment id="a", realm="r", method="evm", intent="charge", request="{text}"')


@given(st.sampled_from(["id", "realm", "method", "intent", "request", "expires", "digest", "header", "opaque"]), JSON)
def test_hostile_members(member: str, value: Any) -> None:
    message = signed()
    survives("Payment " + encoded(message | {"challenge": message["challenge"] | {member: value}}))
    survives("Payment " + encoded(message | {member: value, "payload": value}))


@given(JSON, JSON)
def test_hostile_requests_under_a_good_id(request: Any, payload: Any) -> None:
    opaque = canonical({"token": offer_of(BASE).token})
    survives("Payment " + encoded(signed(request=encoded(request), opaque=opaque) | {"payload": payload}))
    survives(f'Payment id="a", realm="r", method="evm", intent="charge", request="{encoded(request)}"')
