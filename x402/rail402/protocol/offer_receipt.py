"""Signed offers and receipts of x402 (extension `offer-receipt`): what they say, and checking who signed them.

A server may sign the terms of a 402 (an offer) and that it was paid (a receipt), so that others can be shown either
later. Both come as a compact JWS whose key is named by a DID URL, or as EIP-712 typed data, which a rail on an EVM
chain can check (`rail402_base.offer_receipt`). The gate signs with its receipt key, as `did:web:<host>#<key id>`, and
publishes the DID document at `DID_DOCUMENT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from rail402.errors import MalformedInput
from rail402.protocol.base import Json, Record, parse_json

__all__ = [
    "DID_DOCUMENT",
    "MAX_SIGNED_BYTES",
    "OfferTerms",
    "ReceiptTerms",
    "did_document",
    "did_of",
    "keys_in",
    "read_terms",
    "verify_jws",
]

DID_DOCUMENT: Final = "/.well-known/did.json"
"""Where a `did:web` without a path is resolved (did:web method, section 3.2)."""

MAX_SIGNED_BYTES: Final = 16_384

_ALGORITHMS: Final = ("EdDSA", "Ed25519", "ES256", "ES256K")
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_MAX_KEYS: Final = 32


class _Terms(Record):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, strict=True)

    version: int = Field(default=1, ge=1, le=1)
    network: str
    resource_url: str

    @property
    def payload(self) -> dict[str, Any]:
        """What is signed, by its names on the wire, without optional members that say nothing."""
        members = self.model_dump(by_alias=True)
        return {name: value for name, value in members.items() if value or name not in ("validUntil", "transaction")}


class OfferTerms(_Terms):
    """The payload of a signed offer (section 4.2): the terms of one entry of `accepts`.

    Args:
        network: its CAIP-2 name, also where x402 version 1 has another.
        amount: atomic units, as a decimal text.
        valid_until: Unix seconds; 0 where the offer says nothing about it.
    """

    scheme: str
    asset: str
    pay_to: str
    amount: str
    valid_until: int = Field(default=0, ge=0, lt=1 << 53)

    def fits(self, requirements: Json, resource_url: str) -> bool:
        """Say whether these are the terms of a version 2 entry of `accepts`, for that resource."""
        said = (self.scheme, self.network, self.asset, self.pay_to, self.amount)
        names = ("scheme", "network", "asset", "payTo", "amount")
        return self.resource_url == resource_url and said == tuple(requirements.get(name) for name in names)


class ReceiptTerms(_Terms):
    """The payload of a signed receipt (section 5.2): that `payer` has paid for a resource.

    Args:
        issued_at: Unix seconds.
        transaction: its hash; empty where the server keeps that to itself.
    """

    payer: str
    issued_at: int = Field(ge=0, lt=1 << 53)
    transaction: str = ""


T = TypeVar("T", OfferTerms, ReceiptTerms)


def read_terms(kind: type[T], payload: object) -> T:
    """Return a payload's terms.

    Raises:
        MalformedInput: `receipt_invalid`: it is none of version 1.
    """
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise _invalid(f"payload.{where}" if where else "payload", "is missing or has the wrong form") from error


def verify_jws(kind: type[T], artifact: object, keys: Mapping[str, Json], *, did: str | None = None) -> T:
    """Return the terms of a signed offer or receipt of the format `jws`, once its signature is verified.

    Args:
        kind: `OfferTerms` or `ReceiptTerms`.
        artifact: the object as it is in the extension; `acceptIndex`, which nobody signs, is not looked at.
        keys: public JWKs by their DID URLs; see `keys_in`.
        did: the DID that may sign for the resource; unless given, the `did:web` of the resource's own host.

    Raises:
        MalformedInput: `receipt_invalid`: it is not one, or none of these keys has signed it, or another DID has.
    """
    token = artifact.get("signature") if isinstance(artifact, Mapping) and artifact.get("format") == "jws" else None
    if not isinstance(token, str) or len(token) > MAX_SIGNED_BYTES:
        raise _invalid("signature", f"must be a JWS of at most {MAX_SIGNED_BYTES} bytes")
    try:
        header = jws.extract_compact(token.encode("ascii"), registry=_Registry()).headers()
        # Keys and pointers to keys in the header (jwk, jku, x5c), and crit, are the classic ways to be fooled.
        if not {"alg", "kid"} <= set(header) <= _HEADER or header["kid"] not in keys:
            raise _invalid("signature", "must name its key by a known DID URL, and have no other members")
        key = _key(keys[header["kid"]])
        payload = jws.deserialize_compact(token.encode("ascii"), key, registry=_Registry()).payload
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _invalid("signature", "is not a JWS signed by a key of the issuer") from error
    try:
        terms = read_terms(kind, parse_json(payload, field="payload", max_bytes=MAX_SIGNED_BYTES))
    except MalformedInput as error:
        raise _invalid(error.field, "does not hold the terms of version 1") from error
    allowed = did or did_of(terms.resource_url)
    if header["kid"].partition("#")[0] != allowed:
        raise _invalid("signature", f"is not by {allowed}, which signs for the resource")
    return terms


def did_of(url: str) -> str:
    """Return the `did:web` of a URL's host.

    Raises:
        MalformedInput: `receipt_invalid`: it has none.
    """
    try:
        host = urlsplit(url).netloc
    except ValueError as error:  # brackets that hold no IPv6 address
        raise _invalid("url", "is not a URL") from error
    if not host or "@" in host:
        raise _invalid("url", "must have a host, and no user name")
    return "did:web:" + quote(host.lower(), safe="")


def did_document(did: str, jwks: Json) -> dict[str, Any]:
    """Return the DID document that publishes a JWK Set: each key under its own id."""
    names = [f"{did}#{key['kid']}" for key in jwks["keys"]]
    methods = [
        {"id": name, "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": dict(key)}
        for name, key in zip(names, jwks["keys"], strict=True)
    ]
    context = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/suites/jws-2020/v1"]
    return {"@context": context, "id": did, "verificationMethod": methods, "assertionMethod": names}


def keys_in(document: object) -> dict[str, Json]:
    """Return the public keys of a DID document that may sign statements, by their DID URLs.

    Raises:
        MalformedInput: `receipt_invalid`: it is no DID document.
    """
    members = document if isinstance(document, Mapping) else {}
    did, methods = members.get("id"), members.get("verificationMethod")
    if not isinstance(did, str) or not isinstance(methods, list):
        raise _invalid("did.json", "must have an id and verificationMethod")
    allowed = members.get("assertionMethod")
    found: dict[str, Json] = {}
    for method in methods[:_MAX_KEYS]:
        name = method.get("id") if isinstance(method, Mapping) else None
        if isinstance(name, str) and isinstance(method.get("publicKeyJwk"), Mapping):
            full = did + name if name.startswith("#") else name
            if full.startswith(did + "#") and (not isinstance(allowed, list) or name in allowed or full in allowed):
                found[full] = dict(method["publicKeyJwk"])
    return found


def _key(jwk: Json) -> OKPKey | ECKey:
    public = {name: jwk[name] for name in ("kty", "crv", "x", "y") if name in jwk}
    return OKPKey.import_key(public) if public.get("kty") == "OKP" else ECKey.import_key(public)


class _Registry(jws.JWSRegistry):
    """Signatures only; the older name of Ed25519 is read as the newer one, without joserfc's warning about it."""

    def __init__(self) -> None:
        super().__init__(algorithms=list(_ALGORITHMS))

    def get_alg(self, name: str) -> Any:
        return super().get_alg("Ed25519" if name == "EdDSA" else name)


def _invalid(field: str, detail: str) -> MalformedInput:
    return MalformedInput(field, detail, code="receipt_invalid")
