"""Receipts: signed records of charges, which anybody can verify later without asking anyone.

A receipt is a compact JWS (RFC 7515) signed with Ed25519. The header says `EdDSA` (RFC 8037), which every library
verifies today; the fully specified name `Ed25519` (RFC 9864) is read as well. The header carries no keys and no
pointers to keys: the verifier brings the issuer's JWK Set (RFC 7517), which the issuer publishes at
`/.well-known/rail402/jwks.json`, retired keys included.

Where the money has gone back there is a second one, the refund receipt, of another type: neither passes for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import ConfigDict, Field, ValidationError

from rail402.errors import ConfigurationError, MalformedInput
from rail402.money import Money
from rail402.protocol.base import Json, Record, canonical_json, parse_json
from rail402.protocol.charge import Charge

__all__ = [
    "MAX_RECEIPT_BYTES",
    "RECEIPT_TYPE",
    "REFUND_TYPE",
    "Receipt",
    "ReceiptKeys",
    "RefundReceipt",
    "verify_receipt",
    "verify_refund",
]

RECEIPT_TYPE = "rail402-receipt+jwt"
REFUND_TYPE = "rail402-refund+jwt"
MAX_RECEIPT_BYTES = 16_384
_ALGORITHMS = ["EdDSA", "Ed25519"]
_HEADER_MEMBERS = {"alg", "kid", "typ"}
_MAX_ISSUER = 200


class Receipt(Record):
    """A signed record of a charge.

    Args:
        issuer: the origin that was paid.
        charge: the charge's id.
        issued_at: when it settled, Unix seconds; valid_until: until when it replays, Unix seconds.
        method, resource: what was bought; `resource` is the full URL.
        request_digest: the order's, without the route; response_digest: SHA-256 of the body, where known in time.
        rail, network, asset, amount: what was paid; `amount` in atomic units as a decimal text, `price` for people.
        payee, payer, transaction: from whom, to whom, and the rail's reference.
        uses: how many requests it is good for.
        sandbox: only play money moved.
    """

    version: int = Field(1, alias="v", ge=1, le=1)
    issuer: str = Field(alias="iss")
    charge: str = Field(alias="jti")
    issued_at: int = Field(alias="iat")
    valid_until: int = Field(alias="valid_until")
    method: str
    resource: str
    request_digest: str
    response_digest: str | None = None
    rail: str
    network: str
    asset: str
    amount: str = Field(pattern=r"^[1-9][0-9]{0,77}$")
    price: str
    payee: str
    payer: str | None = None
    transaction: str
    uses: int = 1
    sandbox: bool = False

    model_config = ConfigDict(populate_by_name=True, strict=True)

    @classmethod
    def of(cls, charge: Charge, *, issuer: str, response_digest: str | None = None) -> Receipt:
        """Make the record of a settled charge."""
        if charge.settled_at is None or charge.valid_until is None or charge.transaction is None:
            raise ConfigurationError(f"charge {charge.id} is not settled and has no receipt")
        offer, order = charge.offer, charge.order
        return cls(
            issuer=issuer,
            charge=charge.id,
            issued_at=charge.settled_at,
            valid_until=charge.valid_until,
            method=order.method,
            resource=order.url,
            request_digest=order.request_digest,
            response_digest=response_digest,
            rail=offer.rail,
            network=offer.network,
            asset=offer.asset,
            amount=str(charge.amount),
            price=str(Money.from_atomic(charge.amount, offer.exponent, offer.currency)),
            payee=offer.payee,
            payer=charge.payer,
            transaction=charge.transaction,
            uses=charge.uses,
            sandbox=charge.sandbox,
        )


class RefundReceipt(Record):
    """A signed record that a charge's money has gone back.

    Args:
        issuer: the origin that was paid, and gave it back.
        charge: the charge's id, as in its receipt.
        issued_at: when it was known to have gone back, Unix seconds.
        rail, network, asset, amount: what went back; `amount` in atomic units as a decimal text, `price` for people.
        payee, payer, payment: to whom, from whom and by which transaction it had been paid, as in its receipt.
        transaction: the rail's reference of the way back, where it has one.
        sandbox: only play money moved.
    """

    version: int = Field(1, alias="v", ge=1, le=1)
    issuer: str = Field(alias="iss")
    charge: str = Field(alias="jti")
    issued_at: int = Field(alias="iat")
    rail: str
    network: str
    asset: str
    amount: str = Field(pattern=r"^[1-9][0-9]{0,77}$")
    price: str
    payee: str
    payer: str | None = None
    payment: str
    transaction: str | None = None
    sandbox: bool = False

    model_config = ConfigDict(populate_by_name=True, strict=True)

    @classmethod
    def of(cls, charge: Charge, *, issuer: str) -> RefundReceipt:
        """Make the record of a refunded charge."""
        if charge.refunded_at is None or charge.transaction is None:
            raise ConfigurationError(f"charge {charge.id} is not refunded")
        offer = charge.offer
        return cls(
            issuer=issuer,
            charge=charge.id,
            issued_at=charge.refunded_at,
            rail=offer.rail,
            network=offer.network,
            asset=offer.asset,
            amount=str(charge.amount),
            price=str(Money.from_atomic(charge.amount, offer.exponent, offer.currency)),
            payee=offer.payee,
            payer=charge.payer,
            payment=charge.transaction,
            transaction=charge.refund_transaction,
            sandbox=charge.sandbox,
        )


R = TypeVar("R", Receipt, RefundReceipt)


class ReceiptKeys:
    """The Ed25519 keys that receipts are signed with.

    Args:
        current: the private key, as PEM or as a JWK; it signs.
        retired: public keys (PEM or JWK) of earlier receipts; they stay in the JWK Set.

    Raises:
        ConfigurationError: a key cannot be read, is not Ed25519, or `current` has no private part.
    """

    def __init__(
        self, current: str | bytes | Mapping[str, Any], retired: Sequence[str | bytes | Mapping[str, Any]] = ()
    ):
        self._key = _load(current, private=True)
        self._public = [_public(self._key), *(_public(_load(key, private=False)) for key in retired)]

    def __repr__(self) -> str:
        return f"ReceiptKeys(current={self.kid!r}, retired={len(self._public) - 1})"

    @classmethod
    def generate(cls) -> tuple[ReceiptKeys, str]:
        """Make a new key; return it with its private PEM, which is to be kept in a file of mode 600."""
        pem = OKPKey.generate_key("Ed25519").as_pem(private=True).decode()
        return cls(pem), pem

    @property
    def kid(self) -> str:
        """The id of the signing key: its RFC 7638 thumbprint."""
        return str(self._public[0]["kid"])

    @property
    def jwks(self) -> dict[str, Any]:
        """The public JWK Set, the current key first."""
        return {"keys": list(self._public)}

    def sign(self, receipt: Receipt | RefundReceipt) -> str:
        """Return the receipt as a compact JWS."""
        kind = RECEIPT_TYPE if isinstance(receipt, Receipt) else REFUND_TYPE
        header = {"alg": "EdDSA", "kid": self.kid, "typ": kind}
        claims = canonical_json(receipt.model_dump(by_alias=True, exclude_none=True))
        return jws.serialize_compact(header, claims, self._key, registry=_Registry())

    def sign_as(self, did: str, claims: Json) -> str:
        """Return claims that are no receipt as a compact JWS by a DID: its key id is a DID URL, `<did>#<kid>`."""
        header = {"alg": "EdDSA", "kid": f"{did}#{self.kid}"}
        return jws.serialize_compact(header, canonical_json(claims), self._key, registry=_Registry())


def verify_receipt(token: str, jwks: Mapping[str, Any], *, issuer: str | None = None) -> Receipt:
    """Verify a receipt against the issuer's JWK Set and return it.

    Args:
        token: the compact JWS.
        jwks: the issuer's JWK Set, from its discovery address or from the journal that pinned it.
        issuer: the origin that must have issued it.

    Raises:
        MalformedInput: it is not a receipt, is not signed by a key of the set, or was issued by somebody else.
    """
    return _verified(token, jwks, Receipt, RECEIPT_TYPE, issuer)


def verify_refund(token: str, jwks: Mapping[str, Any], *, issuer: str | None = None) -> RefundReceipt:
    """Verify a refund receipt and return it; see `verify_receipt`."""
    return _verified(token, jwks, RefundReceipt, REFUND_TYPE, issuer)


def _verified(token: str, jwks: Mapping[str, Any], model: type[R], kind: str, issuer: str | None) -> R:
    if len(token) > MAX_RECEIPT_BYTES:
        raise _invalid("receipt", f"is longer than {MAX_RECEIPT_BYTES} bytes")
    try:
        unverified = jws.extract_compact(token.encode("ascii"), registry=_Registry())
        header = unverified.headers()
        # Keys and pointers to keys in the header (jwk, jku, x5c), and crit, are the classic ways to be fooled.
        if set(header) != _HEADER_MEMBERS or header["typ"] != kind or not isinstance(header["kid"], str):
            raise _invalid("receipt", f"its header must be alg, kid and typ {kind}, and nothing else")
        if issuer is not None:
            _check_issuer(unverified.payload, issuer)
        key = _find(jwks, header["kid"])
        payload = jws.deserialize_compact(token.encode("ascii"), key, registry=_Registry()).payload
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _invalid("receipt", "is not a JWS signed by a key of the issuer") from error
    try:
        receipt = model.model_validate(parse_json(payload, field="receipt", max_bytes=MAX_RECEIPT_BYTES))
    except MalformedInput as error:
        raise _invalid("receipt", "its claims are not one JSON object") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise _invalid(f"receipt.{where}", "is missing or has the wrong form") from error
    if issuer is not None and receipt.issuer != issuer:
        raise _foreign(receipt.issuer, issuer)
    return receipt


def _check_issuer(payload: bytes, issuer: str) -> None:
    """Refuse what says itself that another issuer made it: its key would be looked for in vain."""
    try:
        said = parse_json(payload, field="receipt", max_bytes=MAX_RECEIPT_BYTES).get("iss")
    except MalformedInput:
        return
    if said != issuer and isinstance(said, str):
        raise _foreign(said, issuer)


def _foreign(said: str, issuer: str) -> MalformedInput:
    return _invalid("receipt.iss", f"was issued by {said[:_MAX_ISSUER]}, not by {issuer}")


def _invalid(field: str, detail: str) -> MalformedInput:
    return MalformedInput(field, detail, code="receipt_invalid")


class _Registry(jws.JWSRegistry):
    """Only Ed25519, under either of its names; joserfc's warning about the older name is not for our users."""

    def __init__(self) -> None:
        super().__init__(algorithms=_ALGORITHMS)

    def get_alg(self, name: str) -> Any:
        return super().get_alg("Ed25519" if name == "EdDSA" else name)


def _find(jwks: Mapping[str, Any], kid: str) -> OKPKey:
    for member in jwks["keys"]:
        if member.get("kid") == kid and member.get("kty") == "OKP" and member.get("crv") == "Ed25519":
            return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": member["x"]})
    raise _invalid("receipt.kid", "names no Ed25519 key of the issuer")


def _load(value: str | bytes | Mapping[str, Any], *, private: bool) -> OKPKey:
    try:
        key = OKPKey.import_key(dict(value) if isinstance(value, Mapping) else value)
    except (JoseError, ValueError, TypeError) as error:
        raise ConfigurationError("a receipt key must be an Ed25519 key as PEM or JWK; use `rail402 keygen`") from error
    if key.curve_name != "Ed25519" or (private and not key.is_private):
        raise ConfigurationError("a receipt key must be a private Ed25519 key; use `rail402 keygen`")
    return key


def _public(key: OKPKey) -> dict[str, Any]:
    public = key.as_dict(private=False)
    return {"kty": "OKP", "crv": "Ed25519", "x": public["x"], "kid": key.thumbprint(), "use": "sig", "alg": "EdDSA"}
