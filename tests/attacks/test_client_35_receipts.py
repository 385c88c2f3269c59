"""35, the client's half: forged receipts, other people's receipts, keys that are swapped. A receipt never decides
whether what was paid for is handed over; one that proves nothing is not shown as one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rail402.protocol.order import Order
from rail402.protocol.receipt import Receipt, ReceiptKeys
from tests.attacks.agents import Agent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

JWKS = "/.well-known/rail402/jwks.json"


def b64(data: bytes | str | dict[str, Any]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Issuer:
    """A shop that signs receipts with a key of its own, as it should, until a test changes how."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.x = b64(self.private.public_key().public_bytes_raw())
        self.jwks: Any = {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": self.x, "kid": "k1"}]}
        self.header: dict[str, Any] = {"alg": "EdDSA", "kid": "k1", "typ": "rail402-receipt+jwt"}
        self.claims: dict[str, Any] = {}
        self.forge: Callable[[str], str] = lambda signed: f"{signed}.{b64(self.private.sign(signed.encode()))}"
        self.now, self.fetched, self.sold, self.url = 1_800_000_000, 0, 0, ""

    async def __call__(self, request: RawRequest, connection: Connection) -> bytes | None:
        if request.target == JWKS:
            self.fetched += 1
            body = self.jwks if isinstance(self.jwks, bytes) else json.dumps(self.jwks).encode()
            return answer(200 if self.jwks else 404, body=body)
        if request.proof is None:
            return challenge(fake_terms())
        self.sold += 1
        return answer(200, [("Receipt-Record", self.receipt(request))], b"bought")

    def receipt(self, request: RawRequest) -> str:
        origin = f"http://{request.header('host')}"
        order = Order(method=request.method, url=origin + request.target, route="")
        claims = {
            "v": 1,
            "iss": origin,
            "jti": f"ch_{self.sold}",
            "iat": self.now,
            "valid_until": self.now + 600,
            "method": "GET",
            "resource": order.url,
            "request_digest": order.request_digest,
            "rail": "fake",
            "network": "fake:fake",
            "asset": "usd",
            "amount": "3000",
            "price": "0.003 USD",
            "payee": "shop",
            "transaction": "t",
        } | self.claims
        text = json.dumps(claims) if "RAW" not in claims else claims["RAW"]
        return self.forge(f"{b64(self.header)}.{b64(text)}")


async def buy(agent: Agent, server: RawServer) -> tuple[Receipt | None, str | None]:
    """Buy; what was paid for is there, whatever the receipt is."""
    response = await agent.get(server.url + "/page?x=1")
    assert response.text == "bought"
    purchase = response.extensions["rail402"]
    assert purchase.outcome == "paid"
    return purchase.receipt, purchase.receipt_error


async def test_an_honest_receipt_is_one(agent: Agent) -> None:
    issuer = Issuer()
    async with RawServer(issuer) as server:
        for _ in range(2):
            receipt, error = await buy(agent, server)
            assert (error, receipt is not None) == (None, True)
    assert issuer.fetched == 1


def _hmac_with_the_public_key(issuer: Issuer) -> None:
    issuer.header |= {"alg": "HS256"}
    key = issuer.private.public_key().public_bytes_raw()
    issuer.forge = lambda signed: f"{signed}.{b64(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def _another_key(issuer: Issuer) -> None:
    other = Ed25519PrivateKey.generate()
    issuer.forge = lambda signed: f"{signed}.{b64(other.sign(signed.encode()))}"


def _a_key_that_it_brings_along(issuer: Issuer) -> None:
    other = Ed25519PrivateKey.generate()
    x = b64(other.public_key().public_bytes_raw())
    issuer.header |= {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}}
    issuer.forge = lambda signed: f"{signed}.{b64(other.sign(signed.encode()))}"


def _members_twice(issuer: Issuer) -> None:
    issuer.claims = {"RAW": '{"v": 1, "amount": "3000", "amount": "1"}'}


FORGERIES: dict[str, Callable[[Issuer], Any]] = {
    "alg none": lambda issuer: issuer.header.update(alg="none"),
    "no signature": lambda issuer: setattr(issuer, "forge", lambda signed: f"{signed}."),
    "HS256 with the public key": _hmac_with_the_public_key,
    "another key": _another_key,
    "an embedded key": _a_key_that_it_brings_along,
    "a pointer to keys": lambda issuer: issuer.header.update(jku="http://evil.test/keys"),
    "a certificate": lambda issuer: issuer.header.update(x5c=["AAAA"]),
    "crit": lambda issuer: issuer.header.update(crit=["exp"], exp=1),
    "b64 false": lambda issuer: issuer.header.update(b64=False, crit=["b64"]),
    "no kid": lambda issuer: issuer.header.pop("kid"),
    "kid as a list": lambda issuer: issuer.header.update(kid=["k1"]),
    "another type": lambda issuer: issuer.header.update(typ="JWT"),
    "members twice": _members_twice,
    "no claims": lambda issuer: issuer.claims.update(RAW="[]"),
    "not JSON": lambda issuer: issuer.claims.update(RAW="\udcff".encode("utf-8", "surrogatepass").decode("latin-1")),
    "another issuer": lambda issuer: issuer.claims.update(iss="https://shop.test"),
    "another page": lambda issuer: issuer.claims.update(resource="http://127.0.0.1/other"),
    "another method": lambda issuer: issuer.claims.update(method="POST"),
    "another request": lambda issuer: issuer.claims.update(request_digest="0" * 64),
    "a smaller amount": lambda issuer: issuer.claims.update(amount="2999"),
    "an amount in other digits": lambda issuer: issuer.claims.update(amount="٣000"),
    "another payee": lambda issuer: issuer.claims.update(payee="somebody"),
    "another network": lambda issuer: issuer.claims.update(network="fake:other"),
    "another asset": lambda issuer: issuer.claims.update(asset="eur"),
    "an older purchase": lambda issuer: issuer.claims.update(iat=1_799_990_000),
    "a purchase to come": lambda issuer: issuer.claims.update(iat=1_800_010_000),
    "a version to come": lambda issuer: issuer.claims.update(v=2),
    "more than is known": lambda issuer: issuer.claims.update(refundable=True),
    "far too long": lambda issuer: setattr(issuer, "forge", lambda signed: signed + "." + "A" * 70_000),
    "no keys": lambda issuer: setattr(issuer, "jwks", None),
    "keys that are no keys": lambda issuer: setattr(issuer, "jwks", {"keys": [None, 7, {"kty": "oct", "k": "AA"}]}),
    "a key that is no point": lambda issuer: issuer.jwks["keys"][0].update(x="AAAA"),
    "a huge set of keys": lambda issuer: setattr(issuer, "jwks", b'{"keys": [' + b" " * 70_000 + b"]}"),
    "a deep set of keys": lambda issuer: setattr(issuer, "jwks", b"[" * 60_000),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_receipt_is_none(agent: Agent, change: Callable[[Issuer], Any], observed: Observe) -> None:
    issuer = Issuer()
    change(issuer)
    async with RawServer(issuer) as server:
        receipt, error = await buy(agent, server)
    assert receipt is None
    assert error
    assert len(error) <= 400
    assert await agent.states() == ["committed"]
    observed("34 forgeries: no receipt, a reason, and the response all the same")


async def test_the_receipt_of_an_earlier_purchase_of_the_same_thing(agent: Agent) -> None:
    issuer = Issuer()
    async with RawServer(issuer) as server:
        assert (await buy(agent, server))[0] is not None
        agent.clock.advance(3600)
        receipt, error = await buy(agent, server)
    assert receipt is None
    assert "not when this was bought" in str(error)


async def test_keys_that_are_swapped_later(agent: Agent, observed: Observe) -> None:
    issuer, other = Issuer(), Issuer()
    async with RawServer(issuer) as server:
        first, _ = await buy(agent, server)
        assert first is not None
        kept = await agent.payer.journal.pinned(server.url)
        server.handler = other
        receipt, error = await buy(agent, server)
        assert receipt is None
        assert "vouches for" in str(error)
        # The same key id with another key behind it is another key.
        other.jwks["keys"][0]["kid"] = issuer.header["kid"]
        assert (await buy(agent, server))[0] is None
        assert await agent.payer.journal.pinned(server.url) == kept
    observed("keys that are swapped after the first purchase vouch for nothing")


async def test_a_set_of_keys_that_grows_for_ever_pins_a_few(agent: Agent) -> None:
    issuer = Issuer()
    more = [
        {**issuer.jwks["keys"][0], "x": b64(number.to_bytes(32, "big")), "kid": str(number)} for number in range(500)
    ]
    issuer.jwks["keys"] += more
    async with RawServer(issuer) as server:
        assert (await buy(agent, server))[0] is not None
        assert len(await agent.payer.journal.pinned(server.url)) <= 32


async def test_a_receipt_of_another_shop_is_none(agent: Agent, observed: Observe) -> None:
    """Two shops of one operator, with one key: the receipt of one is not the other's."""
    first, second = Issuer(), Issuer()
    second.private, second.jwks = first.private, first.jwks
    async with RawServer(first) as one, RawServer(second) as two:
        assert (await buy(agent, one))[0] is not None
        second.claims = {"iss": one.url, "resource": f"{one.url}/page?x=1"}
        assert (await buy(agent, two))[0] is None
    observed("another shop's receipt is none, though one key signed both")


async def test_our_own_signer_agrees_with_this_one(agent: Agent) -> None:
    """The forgeries above are refused for what is wrong with them: signed by the product, the same claims pass."""
    issuer, keys = Issuer(), ReceiptKeys.generate()[0]
    issuer.jwks = keys.jwks

    def sign(signed: str) -> str:
        padded = signed.split(".")[1] + "=="
        return keys.sign(Receipt.model_validate(json.loads(base64.urlsafe_b64decode(padded))))

    issuer.forge = sign
    async with RawServer(issuer) as server:
        assert (await buy(agent, server))[1] is None
