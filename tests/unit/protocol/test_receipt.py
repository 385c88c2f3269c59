"""Receipts: what is signed, who can verify it, and every way in which one might be forged.

Forgeries are made by hand with `cryptography`, not with the library under test.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import ConfigurationError, MalformedInput
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.receipt import MAX_RECEIPT_BYTES, RECEIPT_TYPE, Receipt, ReceiptKeys, verify_receipt

Make = Callable[..., Charge]
NOW = 1_800_000_000
ISSUER = "https://api.example.com"
FUZZ = settings(derandomize=True, database=None, deadline=None, max_examples=200)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MALLORY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def pem(key: Any) -> str:
    form = serialization.PrivateFormat.PKCS8
    return str(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def x_of(key: Ed25519PrivateKey) -> str:
    return b64(key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))


def forge(header: object, payload: bytes, key: Ed25519PrivateKey = PRIVATE) -> str:
    """A JWS with any header, signed well."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    signed = f"{b64(raw)}.{b64(payload)}"
    return f"{signed}.{b64(key.sign(signed.encode()))}"


KEYS = ReceiptKeys(pem(PRIVATE))
JWKS = KEYS.jwks
HEADER = {"alg": "EdDSA", "kid": KEYS.kid, "typ": RECEIPT_TYPE}


@pytest.fixture
def settled(make_charge: Make) -> Charge:
    return make_charge(
        payment=PaymentState.SETTLED,
        settled_at=NOW,
        valid_until=NOW + 600,
        transaction="0x89c91c789e57059b17285e7ba1716a1f5ff4c5dace0ea5a5135f26158d0421b9",
        payer="0x857b06519E91e3A54538791bDbb0E22373e36b66",
    )


@pytest.fixture
def receipt(settled: Charge) -> Receipt:
    return Receipt.of(settled, issuer=ISSUER, response_digest=hashlib.sha256(b"hello").hexdigest())


@pytest.fixture
def claims(receipt: Receipt) -> dict[str, Any]:
    return receipt.model_dump(by_alias=True, exclude_none=True)


@pytest.fixture
def token(receipt: Receipt) -> str:
    return KEYS.sign(receipt)


def invalid(token: str, jwks: Mapping[str, Any] = JWKS, issuer: str | None = ISSUER) -> MalformedInput:
    with pytest.raises(MalformedInput) as caught:
        verify_receipt(token, jwks, issuer=issuer)
    assert caught.value.code == "receipt_invalid"
    assert caught.value.status == 400
    return caught.value


class TestContents:
    def test_the_record_of_a_charge(self, settled: Charge, claims: dict[str, Any]) -> None:
        assert claims == {
            "v": 1,
            "iss": ISSUER,
            "jti": settled.id,
            "iat": NOW,
            "valid_until": NOW + 600,
            "method": "GET",
            "resource": "https://api.example.com/article/402?lang=en",
            "request_digest": settled.order.request_digest,
            "response_digest": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "rail": "base",
            "network": "eip155:8453",
            "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            "amount": "3000",
            "price": "0.003 USDC",
            "payee": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "payer": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
            "transaction": "0x89c91c789e57059b17285e7ba1716a1f5ff4c5dace0ea5a5135f26158d0421b9",
            "uses": 1,
            "sandbox": False,
        }

    @pytest.mark.parametrize("missing", ["settled_at", "valid_until", "transaction"])
    def test_a_charge_that_is_not_settled_has_none(self, settled: Charge, missing: str) -> None:
        with pytest.raises(ConfigurationError, match="is not settled"):
            Receipt.of(settled.model_copy(update={missing: None}), issuer=ISSUER)

    def test_play_money_says_so(self, settled: Charge) -> None:
        assert Receipt.of(settled.model_copy(update={"sandbox": True, "uses": 7}), issuer=ISSUER).sandbox

    def test_no_secret_is_in_it(self, make_charge: Make) -> None:
        charge = make_charge(
            settled_at=NOW,
            valid_until=NOW,
            transaction="0x1",
            secret_digest="secret-1",
            context=("secret-2",),
            rail_state={"raw": "secret-3"},
        )
        assert "secret" not in Receipt.of(charge, issuer=ISSUER).model_dump_json()


class TestSigning:
    def test_it_is_a_compact_jws_with_an_ed25519_signature(self, token: str, claims: dict[str, Any]) -> None:
        header, payload, signature = token.split(".")
        assert json.loads(unb64(header)) == HEADER
        assert json.loads(unb64(payload)) == claims
        PRIVATE.public_key().verify(unb64(signature), f"{header}.{payload}".encode())

    def test_anybody_with_the_key_set_can_verify_it(self, token: str, receipt: Receipt) -> None:
        published = json.loads(json.dumps(JWKS))
        assert verify_receipt(token, published, issuer=ISSUER) == receipt
        assert verify_receipt(token, published) == receipt

    def test_what_is_absent_stays_absent(self, settled: Charge) -> None:
        bare = Receipt.of(settled.model_copy(update={"payer": None}), issuer=ISSUER)
        assert "payer" not in json.loads(unb64(KEYS.sign(bare).split(".")[1]))
        assert verify_receipt(KEYS.sign(bare), JWKS) == bare

    @pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
    def test_both_names_of_the_algorithm_are_read(self, claims: dict[str, Any], receipt: Receipt, alg: str) -> None:
        assert verify_receipt(forge(HEADER | {"alg": alg}, json.dumps(claims).encode()), JWKS) == receipt


class TestKeys:
    def test_the_key_set_is_public(self) -> None:
        x = x_of(PRIVATE)
        # RFC 7638: the digest of the required members in lexical order.
        kid = b64(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest())
        (public,) = JWKS["keys"]
        assert public == {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}

    def test_a_key_may_be_pem_or_jwk(self) -> None:
        seed = b64(bytes(range(32)))
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": x_of(PRIVATE), "d": seed}
        assert ReceiptKeys(jwk).kid == ReceiptKeys(pem(PRIVATE).encode()).kid == KEYS.kid

    def test_a_new_key_comes_with_its_pem(self, receipt: Receipt) -> None:
        keys, text = ReceiptKeys.generate()
        assert ReceiptKeys(text).kid == keys.kid != KEYS.kid
        assert verify_receipt(ReceiptKeys(text).sign(receipt), keys.jwks) == receipt

    @pytest.mark.parametrize("private", [False, True])
    def test_receipts_of_a_retired_key_stay_good(self, token: str, receipt: Receipt, private: bool) -> None:
        public = PRIVATE.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        rotated = ReceiptKeys(pem(MALLORY), retired=[pem(PRIVATE) if private else public])
        assert [key["kid"] for key in rotated.jwks["keys"]] == [rotated.kid, KEYS.kid]
        assert "d" not in rotated.jwks["keys"][0].keys() | rotated.jwks["keys"][1].keys()
        assert verify_receipt(token, rotated.jwks) == receipt
        assert verify_receipt(rotated.sign(receipt), rotated.jwks) == receipt
        invalid(rotated.sign(receipt), JWKS)

    def test_a_key_that_left_the_set_is_unknown(self, token: str) -> None:
        assert "names no Ed25519 key" in str(invalid(token, ReceiptKeys(pem(MALLORY)).jwks))

    def test_the_private_key_is_not_in_the_repr(self) -> None:
        keys = ReceiptKeys(pem(PRIVATE), retired=[pem(MALLORY)])
        assert repr(keys) == f"ReceiptKeys(current={keys.kid!r}, retired=1)"

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "not a key",
            pem(PRIVATE)[:60],
            pem(X25519PrivateKey.from_private_bytes(bytes(32))),
            pem(generate_private_key(65537, 2048)),
            {},
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AA"},
            {"kty": "OKP", "crv": "Ed25519", "x": x_of(PRIVATE)},
        ],
        ids=["empty", "text", "cut", "x25519", "rsa", "no members", "symmetric", "short", "public"],
    )
    def test_a_key_that_cannot_sign(self, key: Any) -> None:
        with pytest.raises(ConfigurationError, match="Ed25519 key"):
            ReceiptKeys(key)

    def test_a_retired_key_must_be_ed25519(self) -> None:
        with pytest.raises(ConfigurationError, match="Ed25519"):
            ReceiptKeys(pem(PRIVATE), retired=[pem(X25519PrivateKey.from_private_bytes(bytes(32)))])


class TestForgery:
    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, 1, [], {}])
    @pytest.mark.parametrize("signature", ["", "e30"])
    def test_alg_none(self, token: str, alg: object, signature: str) -> None:
        header = b64(json.dumps(HEADER | {"alg": alg}).encode())
        invalid(f"{header}.{token.split('.')[1]}.{signature}")

    @pytest.mark.parametrize("secret", ["x", "raw", "pem", "jwk"])
    def test_hs256_with_the_public_key_as_the_secret(self, token: str, secret: str) -> None:
        public = PRIVATE.public_key()
        secrets = {
            "x": x_of(PRIVATE).encode(),
            "raw": public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
            "pem": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "jwk": json.dumps(JWKS["keys"][0]).encode(),
        }
        signed = f"{b64(json.dumps(HEADER | {'alg': 'HS256'}).encode())}.{token.split('.')[1]}"
        invalid(f"{signed}.{b64(hmac.digest(secrets[secret], signed.encode(), hashlib.sha256))}")

    @pytest.mark.parametrize("alg", ["HS512", "RS256", "PS256", "ES256", "ES256K", "Ed448", "eddsa"])
    def test_other_algorithms(self, claims: dict[str, Any], alg: str) -> None:
        invalid(forge(HEADER | {"alg": alg}, json.dumps(claims).encode()))

    @pytest.mark.parametrize("key", [PRIVATE, MALLORY])
    @pytest.mark.parametrize(
        "extra",
        [
            {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x_of(MALLORY)}},
            {"jku": "https://evil.example/jwks.json"},
            {"x5u": "https://evil.example/cert.pem"},
            {"x5c": ["MIIB"]},
            {"x5t": "AA"},
            {"crit": ["exp"], "exp": 1},
            {"crit": []},
            {"b64": False, "crit": ["b64"]},
            {"b64": False},
            {"b64": True},
            {"zip": "DEF"},
            {"cty": "json"},
        ],
        ids=lambda extra: "+".join(extra),
    )
    def test_keys_pointers_to_keys_and_extensions_in_the_header(
        self, claims: dict[str, Any], extra: dict[str, Any], key: Ed25519PrivateKey
    ) -> None:
        invalid(forge(HEADER | extra, json.dumps(claims).encode(), key))

    @pytest.mark.parametrize("missing", HEADER)
    def test_a_header_without(self, claims: dict[str, Any], missing: str) -> None:
        header = {name: value for name, value in HEADER.items() if name != missing}
        invalid(forge(header, json.dumps(claims).encode()))

    @pytest.mark.parametrize("typ", ["JWT", "jwt", "rail402-receipt", RECEIPT_TYPE.upper(), None, [RECEIPT_TYPE]])
    def test_a_token_made_for_something_else(self, claims: dict[str, Any], typ: object) -> None:
        invalid(forge(HEADER | {"typ": typ}, json.dumps(claims).encode()))

    @pytest.mark.parametrize("header", [b"", b"[]", b'["alg"]', b'"alg"', b"{", b"\xff", b"null", b"[" * 5000])
    def test_a_header_that_is_no_object(self, claims: dict[str, Any], header: bytes) -> None:
        invalid(forge(header, json.dumps(claims).encode()))

    def test_another_signer(self, claims: dict[str, Any]) -> None:
        invalid(forge(HEADER, json.dumps(claims).encode(), MALLORY))

    @pytest.mark.parametrize("kid", ["", "0", None, 0, ["a"], {}, "../jwks"])
    def test_a_kid_that_names_nothing(self, claims: dict[str, Any], kid: object) -> None:
        invalid(forge(HEADER | {"kid": kid}, json.dumps(claims).encode()))

    def test_a_kid_that_names_another_key_of_the_set(self, claims: dict[str, Any], token: str) -> None:
        both = ReceiptKeys(pem(PRIVATE), retired=[pem(MALLORY)]).jwks
        payload = json.dumps(claims).encode()
        invalid(forge(HEADER, payload, MALLORY), both)
        invalid(forge(HEADER | {"kid": ReceiptKeys(pem(MALLORY)).kid}, payload, PRIVATE), both)
        assert verify_receipt(token, both)

    @pytest.mark.parametrize(
        "member",
        [
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "OKP", "crv": "X25519", "x": x_of(PRIVATE)},
            {"kty": "OKP", "crv": "Ed25519"},
            {"kty": "OKP", "crv": "Ed25519", "x": 5},
            {"kty": "OKP", "crv": "Ed25519", "x": ""},
            {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
            {"kty": "OKP", "crv": "Ed25519", "x": "A" * 44},
        ],
        ids=str,
    )
    def test_a_kid_that_names_a_key_of_another_kind(self, token: str, member: dict[str, Any]) -> None:
        invalid(token, {"keys": [member | {"kid": KEYS.kid}]})

    def test_another_key_of_the_same_kid(self, token: str) -> None:
        invalid(token, {"keys": [JWKS["keys"][0] | {"x": x_of(MALLORY)}]})

    def test_a_public_key_of_small_order(self, claims: dict[str, Any]) -> None:
        # The identity point would "verify" a signature of zeros under a lax equation.
        x = b64(b"\x01" + bytes(31))
        signed = f"{b64(json.dumps(HEADER).encode())}.{b64(json.dumps(claims).encode())}"
        jwks = {"keys": [JWKS["keys"][0] | {"x": x}]}
        invalid(f"{signed}.{b64(bytes(64))}", jwks)

    @pytest.mark.parametrize(
        "jwks", [{}, {"keys": []}, {"keys": None}, {"keys": ["x"]}, {"keys": {"kid": 1}}, [], None, "keys"], ids=str
    )
    def test_a_key_set_that_is_none(self, token: str, jwks: Any) -> None:
        invalid(token, jwks)

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"amount":"1",%s}',
            b'{%s,"iss":"https://evil.example"}',
            b'{%s,"\\u0069ss":"https://evil.example"}',
        ],
    )
    def test_a_claim_that_is_there_twice(self, claims: dict[str, Any], payload: bytes) -> None:
        invalid(forge(HEADER, payload % json.dumps(claims).encode()[1:-1]))

    def test_a_header_member_that_is_there_twice_does_not_change_what_is_checked(self, claims: dict[str, Any]) -> None:
        payload = json.dumps(claims).encode()
        twice = json.dumps(HEADER)[:-1].encode() + b',"alg":"none"}'
        signed = f"{b64(twice)}.{b64(payload)}"
        invalid(f"{signed}.")
        invalid(f"{signed}.{b64(PRIVATE.sign(signed.encode()))}")

    @pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b'{"a":1e400}', b"\xff", b'"' + b"x" * 99 + b'"'])
    def test_claims_that_are_no_object(self, payload: bytes) -> None:
        invalid(forge(HEADER, payload))

    @pytest.mark.parametrize(
        "change",
        [
            {"v": 2},
            {"v": None},
            {"v": True},
            {"v": 1.0},
            {"iat": "soon"},
            {"iat": "1700000000"},
            {"uses": True},
            {"amount": "0"},
            {"amount": "-1"},
            {"amount": "01"},
            {"amount": "1.5"},
            {"amount": "1e3"},
            {"amount": "१"},
            {"amount": "9" * 79},
            {"amount": 3000},
            {"transaction": None},
            {"sandbox": "perhaps"},
            {"sandbox": 0},
            {"admin": True},
        ],
        ids=str,
    )
    def test_claims_of_another_form(self, claims: dict[str, Any], change: dict[str, Any]) -> None:
        error = invalid(forge(HEADER, json.dumps(claims | change).encode()))
        assert error.field == f"receipt.{next(iter(change))}"

    @pytest.mark.parametrize("missing", ["v", "iss", "jti", "resource", "amount", "request_digest"])
    def test_claims_that_are_missing(self, claims: dict[str, Any], missing: str) -> None:
        rest = {name: value for name, value in claims.items() if name != missing}
        token = forge(HEADER, json.dumps(rest).encode())
        if missing == "v":  # version 1 is what there is
            assert verify_receipt(token, JWKS).version == 1
        else:
            assert invalid(token).field == f"receipt.{missing}"

    @pytest.mark.parametrize(
        "issuer",
        ["https://evil.example", "https://api.example.com.evil.example", "http://api.example.com", ISSUER + "/"],
    )
    def test_another_issuer(self, token: str, issuer: str) -> None:
        error = invalid(token, issuer=issuer)
        assert (error.field, ISSUER in str(error)) == ("receipt.iss", True)

    def test_another_issuer_is_named_before_its_key_is_missed(self, token: str, claims: dict[str, Any]) -> None:
        """Of whose key there is none, as in the journal of who bought under another name of the same server."""
        for keys in (JWKS, {"keys": []}):
            error = invalid(token, keys, issuer="http://localhost:8000")
            assert error.detail == f"receipt.iss: was issued by {ISSUER}, not by http://localhost:8000"
        long = invalid(forge(HEADER, json.dumps(claims | {"iss": "x" * 5000}).encode()), issuer=ISSUER)
        assert len(str(long)) < 400

    @pytest.mark.parametrize("name", ["iss", "issuer"])
    def test_another_issuer_by_whatever_name(self, claims: dict[str, Any], name: str) -> None:
        """`issuer` is the field's name, and validation takes it as well."""
        del claims["iss"]
        token = forge(HEADER, json.dumps(claims | {name: "https://evil.example"}).encode())
        assert invalid(token, issuer=ISSUER).field == "receipt.iss"

    def test_the_receipt_of_another_resource_says_so(self, token: str, settled: Charge) -> None:
        other = settled.order.model_copy(update={"url": "https://api.example.com/dear"})
        receipt = verify_receipt(token, JWKS, issuer=ISSUER)
        assert receipt.request_digest == settled.order.request_digest != other.request_digest


class TestTampering:
    def test_every_claim(self, token: str, claims: dict[str, Any]) -> None:
        header, _, signature = token.split(".")
        for name, value in claims.items():
            other = (
                {name: not value} if isinstance(value, bool) else {name: value + ("0" if isinstance(value, str) else 1)}
            )
            payload = b64(json.dumps(claims | other).encode())
            invalid(f"{header}.{payload}.{signature}")

    def test_the_parts_of_two_receipts(self, token: str, receipt: Receipt) -> None:
        second = KEYS.sign(receipt.model_copy(update={"amount": "1"}))
        header, payload, _ = token.split(".")
        assert verify_receipt(second, JWKS).amount == "1"
        invalid(f"{header}.{payload}.{second.split('.')[2]}")
        invalid(f"{header}.{second.split('.')[1]}.{token.split('.')[2]}")

    def test_every_character(self, token: str, receipt: Receipt) -> None:
        for index, char in enumerate(token):
            other = "B" if char != "B" else "C"
            altered = token[:index] + other + token[index + 1 :]
            if index == len(token) - 1:  # its last four bits belong to no byte
                try:
                    assert verify_receipt(altered, JWKS) == receipt
                except MalformedInput:
                    continue
            else:
                invalid(altered)

    @pytest.mark.parametrize(
        "change",
        [
            lambda token: "",
            lambda token: "..",
            lambda token: token.rpartition(".")[0],
            lambda token: token.rpartition(".")[0] + ".",
            lambda token: token + ".e30",
            lambda token: token + ".",
            lambda token: token[:-10],
            lambda token: "." + token,
            lambda token: token.replace(".", "\u00b7"),
            lambda token: token.upper(),
            lambda token: json.dumps({"payload": token.split(".")[1], "signatures": []}),
        ],
    )
    def test_another_number_or_length_of_parts(self, token: str, change: Callable[[str], str]) -> None:
        invalid(change(token))

    def test_a_size_is_read_and_more_is_not(self, receipt: Receipt) -> None:
        room = MAX_RECEIPT_BYTES - len(KEYS.sign(receipt))
        longer = receipt.model_copy(update={"resource": receipt.resource + "x" * (room * 3 // 4 - 3)})
        assert MAX_RECEIPT_BYTES - 8 < len(KEYS.sign(longer)) <= MAX_RECEIPT_BYTES
        assert verify_receipt(KEYS.sign(longer), JWKS) == longer
        longest = longer.model_copy(update={"resource": longer.resource + "x" * 8})
        assert "longer than" in str(invalid(KEYS.sign(longest)))

    @FUZZ
    @given(
        st.text(max_size=60)
        | st.from_regex(r"\A[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\Z")
        | st.tuples(st.binary(max_size=30), st.binary(max_size=30)).map(lambda parts: forge(*parts))
        | st.recursive(st.none() | st.text("algkidtyp", max_size=3), st.lists, max_leaves=3).map(
            lambda v: forge(v, b"{}")
        )
        | st.fixed_dictionaries(
            {"alg": st.sampled_from(["EdDSA", "none"]), "kid": st.none() | st.text(max_size=3)}
        ).map(lambda header: forge(header | {"typ": RECEIPT_TYPE}, b"{}"))
    )
    def test_anything_else_is_refused_politely(self, token: str) -> None:
        invalid(token)


def test_the_verifier_takes_a_real_public_key_only() -> None:
    # What the key set publishes is the key that signs: nothing is derived from the kid.
    raw = unb64(JWKS["keys"][0]["x"])
    Ed25519PublicKey.from_public_bytes(raw).verify(PRIVATE.sign(b"x"), b"x")
