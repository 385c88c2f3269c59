"""35, the server's half: receipts that nobody signed, and what a good one is good for.

A gate sells something, and publishes its keys; whoever is shown a receipt verifies it with these. What is forged here
is made of a real receipt. The client's half is in `test_client_35_receipts.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rail402.errors import MalformedInput
from rail402.protocol.receipt import Receipt, ReceiptKeys, verify_receipt
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import URL, World

JWKS = "/.well-known/rail402/jwks.json"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Bought:
    """A real receipt, the keys of who gave it, and the means of a forger: a key of its own."""

    def __init__(self, token: str, jwks: dict[str, Any]) -> None:
        self.token, self.jwks = token, jwks
        head, claims, signature = token.split(".")
        self.head, self.claims = json.loads(unb64(head)), json.loads(unb64(claims))
        self.signature = signature
        self.forger = Ed25519PrivateKey.generate()

    @property
    def forgers_key(self) -> dict[str, str]:
        x = b64(self.forger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "forger"}

    def sealed(self, head: object = None, claims: object = None, sign: Callable[[bytes], bytes] | None = None) -> str:
        """A receipt of these parts, texts as they are, signed by the forger unless told otherwise."""
        parts = [
            b64(part.encode() if isinstance(part, str) else json.dumps(part).encode())
            for part in (head or self.head, self.claims if claims is None else claims)
        ]
        message = ".".join(parts)
        return f"{message}.{b64((sign or self.forger.sign)(message.encode()))}"

    def with_their_signature(self, head: object = None, claims: object = None) -> str:
        """A receipt of these parts, with the signature of the real one."""
        return self.sealed(head, claims).rpartition(".")[0] + "." + self.signature


@pytest.fixture
async def bought(world: World) -> Bought:
    answer = await world.http.get("/article", headers=await world.payment("/article"))
    assert answer.status_code == 200
    return Bought(answer.headers["receipt-record"], (await world.http.get(JWKS)).json())


def hs256(key: Callable[[Bought], bytes]) -> Callable[[Bought], str]:
    """Signed with a public key as if it were a secret."""

    def forge(bought: Bought) -> str:
        secret = key(bought)
        head = bought.head | {"alg": "HS256"}
        return bought.sealed(head, sign=lambda message: hmac.digest(secret, message, hashlib.sha256))

    return forge


def _of(bought: Bought, name: str) -> bytes:
    return unb64(bought.jwks["keys"][0][name]) if name == "x" else json.dumps(bought.jwks["keys"][0]).encode()


def _twice(claims: Mapping[str, Any], member: str, value: object) -> str:
    """Claims with one member there twice: who reads the first is told the truth, who reads the last is not."""
    return json.dumps(claims)[:-1] + f", {json.dumps(member)}: {json.dumps(value)}" + "}"


FORGERIES: dict[str, Callable[[Bought], str]] = {
    "alg none": lambda b: b.sealed(b.head | {"alg": "none"}, sign=lambda message: b""),
    "alg None": lambda b: b.sealed(b.head | {"alg": "None"}, sign=lambda message: b""),
    "no alg": lambda b: b.with_their_signature({k: v for k, v in b.head.items() if k != "alg"}),
    "alg none with their signature": lambda b: b.with_their_signature(b.head | {"alg": "none"}),
    "HS256 with the key's bytes": hs256(lambda b: _of(b, "x")),
    "HS256 with the key's JSON": hs256(lambda b: _of(b, "json")),
    "HS256 with nothing": hs256(lambda b: b""),
    "ES256": lambda b: b.sealed(b.head | {"alg": "ES256"}),
    "Ed448": lambda b: b.sealed(b.head | {"alg": "Ed448"}),
    "alg as a list": lambda b: b.with_their_signature(b.head | {"alg": ["EdDSA"]}),
    "of another key": lambda b: b.sealed(),
    "jwk": lambda b: b.sealed(b.head | {"jwk": b.forgers_key}),
    "jwk in place of kid": lambda b: b.sealed({"alg": "EdDSA", "typ": b.head["typ"], "jwk": b.forgers_key}),
    "jku": lambda b: b.sealed(b.head | {"jku": "http://127.0.0.1:9/keys"}),
    "x5u": lambda b: b.sealed(b.head | {"x5u": "http://127.0.0.1:9/cert"}),
    "x5c": lambda b: b.sealed(b.head | {"x5c": [b64(b"cert")]}),
    "crit": lambda b: b.sealed(b.head | {"crit": ["exp"], "exp": 1}),
    "crit with their signature": lambda b: b.with_their_signature(b.head | {"crit": []}),
    "b64 false": lambda b: b.with_their_signature(b.head | {"b64": False, "crit": ["b64"]}),
    "a kid of the forger's": lambda b: b.sealed(b.head | {"kid": "forger"}),
    "no kid": lambda b: b.sealed({k: v for k, v in b.head.items() if k != "kid"}),
    "a kid that is a path": lambda b: b.sealed(b.head | {"kid": "../../dev/null"}),
    "a kid that is an object": lambda b: b.sealed(b.head | {"kid": {"$ne": ""}}),
    "a kid in other letters": lambda b: b.sealed(b.head | {"kid": b.head["kid"].swapcase()}),
    "another typ": lambda b: b.with_their_signature(b.head | {"typ": "JWT"}),
    "a head twice": lambda b: b.with_their_signature(_twice(b.head, "alg", "none")),
    "claims twice": lambda b: b.with_their_signature(claims=_twice(b.claims, "amount", "1")),
    "other claims": lambda b: b.with_their_signature(claims=b.claims | {"amount": "3000000"}),
    "no claims": lambda b: b.with_their_signature(claims="{}"),
    "their signature, one bit off": lambda b: b.token[:-2] + ("A" if b.token[-2] != "A" else "B") + b.token[-1],
    "no signature": lambda b: b.token.rpartition(".")[0] + ".",
    "two parts": lambda b: b.token.rpartition(".")[0],
    "four parts": lambda b: b.token + "." + b.signature,
    "JSON serialisation": lambda b: json.dumps(
        dict(zip(("protected", "payload", "signature"), b.token.split("."), strict=True))
    ),
    "padding": lambda b: b.token + "==",
    "a line break": lambda b: b.token + "\n",
    "long": lambda b: b.token + "A" * 20_000,
    "nothing": lambda b: "",
    "no ASCII": lambda b: b.token[:-1] + "é",
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_none_verifies(bought: Bought, forgery: str, observed: Observe) -> None:
    assert verify_receipt(bought.token, bought.jwks, issuer=URL).charge == bought.claims["jti"]
    with pytest.raises(MalformedInput) as caught:
        verify_receipt(FORGERIES[forgery](bought), bought.jwks, issuer=URL)
    assert caught.value.code == "receipt_invalid"
    observed("none of 39 forgeries of a real receipt verifies against the published keys; the real one does")


KEYS: dict[str, Callable[[Bought], list[Any]]] = {
    "another key of that kid": lambda b: [b.forgers_key | {"kid": b.head["kid"]}],
    "an oct key of that kid": lambda b: [{"kty": "oct", "k": b.jwks["keys"][0]["x"], "kid": b.head["kid"]}],
    "an EC key of that kid": lambda b: [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": b.head["kid"]}],
    "an X25519 key of that kid": lambda b: [b.jwks["keys"][0] | {"crv": "X25519"}],
    "no keys": lambda b: [],
    "no objects": lambda b: [None, 7, "key", []],
}


@pytest.mark.parametrize("keys", KEYS)
async def test_a_key_is_known_by_more_than_its_id(bought: Bought, keys: str, observed: Observe) -> None:
    with pytest.raises(MalformedInput):
        verify_receipt(bought.token, {"keys": KEYS[keys](bought)})
    observed("a set of keys with the right id on the wrong key verifies nothing")


async def test_another_issuer_or_resource(world: World, bought: Bought, observed: Observe) -> None:
    """A receipt is a record, not a key to anything: the verifier sees of what, and the gate serves nothing for it."""
    for issuer in ("https://testserver", "http://testserver:80", "http://evil.test", URL + "/"):
        with pytest.raises(MalformedInput, match="was issued by"):
            verify_receipt(bought.token, bought.jwks, issuer=issuer)
    receipt = verify_receipt(bought.token, bought.jwks, issuer=URL)
    assert (receipt.resource, receipt.method) == (f"{URL}/article", "GET")
    runs = list(world.runs)
    for path in ("/article", "/book"):
        for name in ("Receipt-Record", "X-Receipt", "Payment-Receipt", "PAYMENT-RESPONSE", "X-Receipt-Record"):
            assert (await world.http.get(path, headers={name: bought.token})).status_code in (400, 402)
        for scheme in ("Bearer", "Payment", "L402"):
            answer = await world.http.get(path, headers={"Authorization": f"{scheme} {bought.token}"})
            assert answer.status_code in (400, 402)
    assert world.runs == runs
    observed("a receipt says its issuer and resource, and opens nothing wherever it is shown")


async def test_the_key_is_published_without_its_private_half(tmp_path: Path, observed: Observe) -> None:
    keys, pem = ReceiptKeys.generate()
    async with World(tmp_path, receipt_key=pem, secret="a secret of this test alone, 32 bytes").open() as world:
        published = (await world.http.get(JWKS)).json()["keys"]
        assert [set(key) for key in published] == [{"kty", "crv", "x", "kid", "use", "alg"}]
        assert published[0]["kid"] == keys.kid
        private = json.dumps(published)
        assert "PRIVATE" not in private
        # What the gate signs for one purpose does not pass for a receipt.
        other = keys.sign_as("did:web:testserver", {"iss": URL})
        with pytest.raises(MalformedInput):
            verify_receipt(other, {"keys": published})
        assert Receipt.model_fields.keys() >= {"issuer", "resource", "request_digest"}
    observed("only the public half is published, and what else the key signs is no receipt")
