"""What a string of this field says: headers, invoices, macaroons, tokens, receipts, and the JSON that they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

from pydantic import SecretStr, ValidationError

from rail402.cli.hiding import hidden, offer_token, only_public, read_macaroon
from rail402.cli.reading import PAYMENT_WORDS, read_entries
from rail402.dialects import auth_params
from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects._payment_proof import parse_proof
from rail402.errors import MalformedInput
from rail402.plugins import Explained, RailPlugin
from rail402.protocol.base import Json, parse_json
from rail402.protocol.dialect import Fields
from rail402.protocol.receipt import (
    RECEIPT_TYPE,
    REFUND_TYPE,
    Receipt,
    RefundReceipt,
    verify_receipt,
    verify_refund,
)

__all__ = ["MAX_TEXT", "READABLE", "Explainer"]

MAX_TEXT: Final = 131_072
"""Characters above which nothing is looked at."""

READABLE: Final = (
    "PAYMENT-REQUIRED, PAYMENT-SIGNATURE, PAYMENT-RESPONSE, X-PAYMENT, X-PAYMENT-RESPONSE (x402, both versions)",
    "WWW-Authenticate with Payment, L402 or LSAT challenges",
    "Authorization or Payment-Authorization with a Payment, L402 or LSAT credential",
    "Payment-Receipt (MPP)",
    "Receipt-Record, X-Receipt-Record, and other JWS in compact form",
    "X-Receipt and X-Payment-Proof: a preimage, a transaction hash, the id of a PaymentIntent, a signed transfer",
    "X-Payment of a server, and Link with rel=payment",
    "a macaroon, in base64 or hexadecimal",
    "an offer token of rail402",
    "a BOLT 11 invoice, also with lightning: in front",
    "a payment URI (EIP-681, ethereum:…)",
    "a shared payment token of Stripe",
    "a JWK Set, and the JSON body of a 402",
)
"""What can be explained, for people. Each also as a whole header line."""

_HEADER_LINE = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,63}+):[ \t]*+(.*)", re.ASCII | re.DOTALL)
_JWS = re.compile(r"([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)", re.ASCII)
_L402 = re.compile(r"(?:l402|lsat)[ \t]++([^\s:]++):([^\s:]*+)", re.IGNORECASE | re.ASCII)
_Verify = Callable[[str, Mapping[str, Any]], Receipt | RefundReceipt]
_RECORDS: Final[Mapping[str, tuple[type[Receipt | RefundReceipt], _Verify, str]]] = {
    RECEIPT_TYPE: (Receipt, verify_receipt, "receipt of rail402 (JWS)"),
    REFUND_TYPE: (RefundReceipt, verify_refund, "refund receipt of rail402 (JWS)"),
}
_NO_RECORD: Final = (None, verify_receipt, "JWS, no receipt of rail402")
_PROOF_DIALECTS: Final = ("x-payment", "x-price", "payment-uri")
_PRIVATE_KEY_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


class Explainer:
    """Explains texts.

    Args:
        plugins: the rails that help.
        now: Unix seconds.
        jwks: the JWK Set by which receipts are verified; None: they are not.
    """

    def __init__(self, plugins: Mapping[str, RailPlugin], *, now: int, jwks: Json | None = None) -> None:
        self._plugins, self._now, self._jwks = plugins, now, jwks
        base64_json = dict.fromkeys(
            ("payment-required", "payment-signature", "payment-response", "x-payment-response", "payment-receipt"),
            self._base64_json,
        )
        self._by_field: Mapping[str, Callable[[str], Explained | None]] = {
            **base64_json,
            "www-authenticate": self._challenges,
            "link": self._link,
            "x-payment-proof": self._payment_proof,
            "x-receipt": lambda text: self._of_rail(text) or self._receipt(text),
            "authorization": self._credential,
            "payment-authorization": self._credential,
            "receipt-record": self._jws,
            "x-receipt-record": self._jws,
        }
        self._any = (
            *(self._of_rail, self._json, self._credential, self._challenges),
            *(self._jws, offer_token, self._base64_json, self._macaroon, self._receipt),
        )

    def explain(self, text: str) -> Explained:
        """Return what `text` says.

        Raises:
            MalformedInput: it is none of `READABLE`, or is one and broken; the text itself is not repeated.
        """
        if len(text) > MAX_TEXT:
            raise MalformedInput("text", f"is longer than {MAX_TEXT} characters")
        text = text.encode("utf-8", "replace").decode().strip()
        line = _HEADER_LINE.fullmatch(text)
        reader = None if line is None else self._by_field.get(line[1].lower())
        if line is not None and reader is not None:
            explained = reader(line[2].strip())
            if explained is None:
                raise MalformedInput(line[1].lower(), "holds nothing that belongs there")
            return explained
        problems = []
        for value in (text,) if line is None else (text, line[2].strip()):
            for read in self._any:
                try:
                    explained = read(value)
                except MalformedInput as error:
                    problems.append(error)
                    continue
                if explained is not None:
                    return explained
        raise problems[0] if problems else MalformedInput("text", "is nothing that is known here")

    # --- texts

    def _of_rail(self, text: str) -> Explained | None:
        for plugin in self._plugins.values():
            explained = plugin.explain(text)
            if explained is not None:
                return explained
        return None

    def _json(self, text: str) -> Explained | None:
        return self._message(parse_json(text, field="json", max_bytes=MAX_TEXT)) if text.startswith("{") else None

    def _base64_json(self, text: str) -> Explained | None:
        try:
            message = from_base64(text, field="base64", max_bytes=MAX_TEXT)
        except MalformedInput:
            if text.startswith("eyJ"):  # base64 of {"
                raise
            return None
        return self._message(message)

    def _link(self, text: str) -> Explained | None:
        offers = self._offers(Fields([("link", text)]))
        return Explained("links to pay at (payment URIs)", {"offers": offers}) if offers else None

    def _payment_proof(self, text: str) -> Explained:
        proof = parse_proof(text)
        return Explained("proof of payment (X-Payment-Proof)", self._proof(_PROOF_DIALECTS, {"proof": proof}, proof))

    def _receipt(self, text: str) -> Explained | None:
        proof = self._proof(("x-receipt",), {"receipt": text})
        return Explained("proof of payment (X-Receipt)", proof) if proof["known_to_rails"] else None

    def _macaroon(self, text: str) -> Explained | None:
        return read_macaroon(text) if text.startswith(("02", "Ag")) else None

    def _challenges(self, text: str) -> Explained | None:
        schemes = auth_params.parse(text)
        ours = [scheme for scheme in schemes if scheme.name in PAYMENT_WORDS and scheme.params]
        if not ours:
            return None
        facts: dict[str, Any] = {"challenges": [self._challenge(scheme) for scheme in ours]}
        facts["offers"] = self._offers(Fields([("www-authenticate", text)]))
        others = sorted({scheme.name for scheme in schemes} - PAYMENT_WORDS)
        notes = [f"other schemes beside it, which ask for no payment: {', '.join(others)}"] if others else []
        names = {"payment": "MPP", "l402": "L402", "lsat": "L402"}
        kinds = dict.fromkeys(names[scheme.name] for scheme in ours)
        return Explained(f"{' and '.join(kinds)} challenge", facts, notes)

    def _challenge(self, scheme: auth_params.Scheme) -> dict[str, Any]:
        params: dict[str, Any] = dict(scheme.params)
        if scheme.name == "payment":
            return {"scheme": "Payment", **self._mpp_challenge(params)}
        token = params.pop("token", None) or params.get("macaroon")
        params.pop("macaroon", None)
        return {"scheme": scheme.name.upper(), "macaroon": _opaque(token), **hidden(params)}

    def _credential(self, text: str) -> Explained | None:
        l402 = _L402.fullmatch(text)
        if l402 is not None:
            facts = {"macaroon": _opaque(l402[1]), "preimage": SecretStr(l402[2])}
            return Explained("L402 credential", facts, ["whoever has it is served: keep it secret"])
        for scheme in auth_params.parse(text):
            if scheme.name == "payment" and scheme.token:
                return self._message(from_base64(scheme.token, field="credential", max_bytes=MAX_TEXT))
        return None

    def _jws(self, text: str) -> Explained | None:
        match = _JWS.fullmatch(text)
        if match is None:
            return None
        header = from_base64(match[1], field="jws.header", max_bytes=MAX_TEXT)
        facts: dict[str, Any] = {"header": hidden(header)}
        facts["claims"] = hidden(from_base64(match[2], field="jws.claims", max_bytes=MAX_TEXT))
        model, verify, kind = _RECORDS.get(str(header.get("typ")), _NO_RECORD)
        notes = [] if model is None else _receipt_problems(match[2], model)
        if self._jwks is None:
            notes.append("its signature was not checked: give the issuer's keys with --jwks")
        else:
            try:
                receipt = verify(text, self._jwks)
                facts["signature_verifies"] = True
                notes.append(f"its signature is good: a key of the set signed it for {receipt.issuer}")
            except MalformedInput as error:
                facts["signature_verifies"] = False
                notes.append(f"its signature does NOT count: {error.detail}")
        return Explained(kind, facts, notes)

    # --- JSON messages

    def _message(self, message: Json) -> Explained | None:
        readers = (self._x402, self._mpp, self._body)
        return next((found for read in readers if (found := read(message)) is not None), None)

    def _x402(self, message: Json) -> Explained | None:
        version = "v1" if message.get("x402Version") == 1 else "v2"
        rest = {name: value for name, value in message.items() if name not in ("accepts", "accepted", "payload")}
        if isinstance(message.get("accepts"), list) and "x402Version" in message:
            if version == "v2":
                fields, body = Fields([("payment-required", to_base64(compact_json(message)))]), b""
            else:
                fields, body = Fields(), compact_json(message)
            facts = {**hidden(rest), "offers": self._offers(fields, body)}
            return Explained(f"x402 {version} challenge (PaymentRequired)", facts)
        if isinstance(message.get("payload"), dict) and isinstance(message.get("accepted"), dict):
            facts = {"accepted": hidden(message["accepted"]), **self._proof(("x402-v2",), message["payload"])}
            return Explained("x402 v2 payment (PaymentPayload)", {**hidden(rest), **facts})
        named = {name: message.get(name) for name in ("scheme", "network")}
        if isinstance(message.get("payload"), dict) and all(isinstance(text, str) for text in named.values()):
            payload = message["payload"]
            proof = self._proof(("x402-v1",), {**named, "payload": payload}, payload)
            return Explained("x402 v1 payment (PaymentPayload)", {**hidden(rest), **proof})
        if isinstance(message.get("success"), bool) and ("transaction" in message or "errorReason" in message):
            return Explained("x402 settlement (SettleResponse)", hidden(message))
        if isinstance(message.get("authorization"), dict) and "signature" in message:
            return Explained("proof of payment (EIP-3009 authorization)", self._proof(("x402-v2",), message))
        return None

    def _mpp(self, message: Json) -> Explained | None:
        challenge, payload = message.get("challenge"), message.get("payload")
        if isinstance(challenge, dict) and isinstance(payload, dict):
            facts = {"challenge": self._mpp_challenge(challenge), **self._proof(("mpp",), payload)}
            rest = {name: value for name, value in message.items() if name not in ("challenge", "payload")}
            return Explained("MPP credential", facts | hidden(rest))
        if {"method", "reference", "status", "timestamp"} <= message.keys():
            return Explained("MPP receipt (Payment-Receipt)", hidden(message))
        return None

    def _body(self, message: Json) -> Explained | None:
        keys = message.get("keys")
        if isinstance(keys, list) and all(isinstance(key, dict) for key in keys):
            private = [key for key in keys if _PRIVATE_KEY_MEMBERS & key.keys()]
            notes = ["it holds a PRIVATE key, which must never be published"] if private else []
            return Explained("JWK Set", {"keys": [_jwk(key) for key in keys]}, notes)
        text = compact_json(message)
        offers = self._offers(Fields([("x-payment", text.decode())]) if "receiver" in message else Fields(), text)
        if offers and all(offer["verdict"] == "unreadable" for offer in offers):
            raise MalformedInput("json", offers[0]["reasons"][0])
        if offers:
            terms = ("payment", "accepts", "offers")
            rest = {name: value for name, value in message.items() if name not in terms}
            names = ", ".join(dict.fromkeys(offer["dialect"] for offer in offers))
            return Explained(f"payment terms ({names})", {**hidden(rest), "offers": offers})
        if isinstance(message.get("offers"), list) and "price" in message:
            return Explained("body of a 402, for people", hidden(message), ["its terms are in the header fields"])
        return None

    def _mpp_challenge(self, challenge: Json) -> dict[str, Any]:
        said: dict[str, Any] = hidden(
            {name: value for name, value in challenge.items() if name not in ("request", "opaque")}
        )
        return said | {name: _decoded(challenge[name]) for name in ("request", "opaque") if name in challenge}

    def _proof(self, dialects: Sequence[str], wire: Json, payload: Json | None = None) -> dict[str, Any]:
        """Return a proof without its secrets, which rails know it for their own, and what is wrong with it.

        Args:
            wire: what a rail's `decode_proof` reads; `payload` is the part that is shown, all of it unless given.
        """
        known, problems = dict[str, None](), dict[str, None]()
        specs = [spec for plugin in self._plugins.values() for spec in plugin.specs()]
        for spec, dialect in product(specs, dialects):
            binding = spec.bindings.get(dialect)
            try:
                if binding is not None and binding.decode_proof(wire) is not None:
                    known[spec.name] = None
            except MalformedInput as error:
                problems[f"{spec.name}: {error}"] = None
        payload = wire if payload is None else payload
        return {"payload": only_public(payload), "known_to_rails": list(known), "problems": list(problems)}

    def _offers(self, fields: Fields, body: bytes = b"") -> list[dict[str, Any]]:
        return [entry.facts(self._now) for entry in read_entries(self._plugins, fields, body, now=self._now)]


def _opaque(token: str | None) -> Any:
    """Return what an L402 token says, which need not be a macaroon."""
    if not token:
        return None
    try:
        return dict(read_macaroon(token).facts)
    except MalformedInput as error:
        return {"token": SecretStr(token), "note": f"no macaroon that can be read: it {error.detail}"}


def _decoded(text: Any) -> Any:
    """Return JSON in base64 as what it says; anything else hidden."""
    try:
        return hidden(from_base64(text, field="base64", max_bytes=MAX_TEXT)) if isinstance(text, str) else hidden(text)
    except MalformedInput:
        return SecretStr(text)


def _receipt_problems(claims: str, model: type[Receipt | RefundReceipt]) -> list[str]:
    try:
        model.model_validate(from_base64(claims, field="jws.claims", max_bytes=MAX_TEXT))
    except ValidationError as error:
        return [f"its claim {member} is missing or has the wrong form" for member in _places(error)]
    return []


def _places(error: ValidationError) -> Iterator[str]:
    for each in error.errors()[:8]:
        yield ".".join(str(part) for part in each["loc"])


def _jwk(key: Json) -> dict[str, Any]:
    return {name: SecretStr(str(value)) if name in _PRIVATE_KEY_MEMBERS else value for name, value in key.items()}
