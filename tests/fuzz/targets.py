"""Everything that reads a peer's bytes, each as a function of bytes, with seeds that it can read.

A target may raise `Rail402Error` and nothing else. Where the wire wraps JSON in base64, the bytes are tried both as
what is inside and as what is outside.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from coincurve import PrivateKey

from rail402.client.receipts import read_keys
from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS, Mpp, XReceipt, auth_params, macaroon
from rail402.dialects._payment_proof import parse_proof
from rail402.dialects.accept_payment import preferred
from rail402.facilitator.wire import kinds_of, read_payment, read_question
from rail402.mcp import MppMcp, X402Mcp
from rail402.money import Money
from rail402.protocol.base import parse_json
from rail402.protocol.binding import OfferKeys, parse_token
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.offer_receipt import OfferTerms, did_document, keys_in, verify_jws
from rail402.protocol.order import EMPTY_BODY_DIGEST, Order
from rail402.protocol.rail import Registry
from rail402.protocol.receipt import verify_receipt
from rail402_base.eip3009 import parse_authorization
from rail402_base.facilitator_wire import (
    SignedTransfer,
    parse_settlement,
    parse_verdict,
    request_body,
    spoken_version,
)
from rail402_base.offer_receipt import signed_offer, signed_receipt
from rail402_base.payment_uri import parse_payment_uri
from rail402_base.tokens import BASE_SEPOLIA_USDC
from rail402_base.wire import BaseSpec
from rail402_lightning import bolt11
from rail402_lightning.backends import nwc, nwc_wire
from rail402_lightning.exact import check_settlement
from rail402_lightning.wire import LightningSpec
from rail402_stripe.currencies import currency
from rail402_stripe.proofs import OtherProofs, Preparation
from rail402_stripe.wire import StripeSpec

__all__ = ["TARGETS", "Target"]

NOW: Final = 1_800_000_000
ORDER: Final = Order(method="GET", url="https://api.example.com/article/402", route="GET /article/{slug}")
KEYS: Final = OfferKeys({"k1": b"k" * 32})
INVOICE: Final = (
    "lnbc250n1pj48ugqpp54y3u9s8ylemsv8l3ewyzzu0klhujvuvmkl6llchq23vy8rzjsf0qsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3z"
    "yg3zyg3zygshp5p4nz8am4uqj4q8a87z3sk4x6yk4dv2mvel34epw68qqkwy0xcqvqxqzfvcqpjr4rx6ls6j5rpwknuea64evlk7yfx56wmqcer5eer"
    "ekdsn9tlv6v4ex9mlz5dtm9qapl3svwlqcf7837dmjkru9z9w4h2rvm0md52w2sqxrwu5f"
)

ALL: Final = (*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS)
BASE, LIGHTNING, STRIPE = (
    BaseSpec(BASE_SEPOLIA_USDC, transfers=True),
    LightningSpec("mainnet"),
    StripeSpec("stripe:test", ("usd",)),
)
SERVER: Final = Context(specs=Registry([BASE, LIGHTNING, STRIPE]), now=NOW, realm="api.example.com", keys=KEYS)
CLIENT: Final = Context(specs=SERVER.specs, now=NOW)

_SIGNED: Final = {
    "signature": "0x" + "1b" * 65,
    "authorization": {
        "from": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
        "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "value": "3000",
        "validAfter": "0",
        "validBefore": str(NOW + 60),
        "nonce": "0x" + "f3" * 32,
    },
}


@dataclass(frozen=True, slots=True)
class Target:
    """A reader of bytes.

    Attributes:
        run: reads them; raises `Rail402Error` where it cannot.
        seeds: bytes that it can read.
    """

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _offers() -> list[Offer]:
    base = BASE.offer(
        BASE_SEPOLIA_USDC,
        payee="0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        amount=3000,
        flow=Flow.AUTHORIZATION,
        expires_at=NOW + 600,
        timeout_seconds=180,
    )
    binding = LIGHTNING.bindings["x-receipt"]
    invoice = binding.decode_offer({"network": "lightning", "invoice": INVOICE}, expires_at=NOW + 600)
    assert invoice is not None
    transfer = base.model_copy(update={"mechanism": "transfer", "flow": Flow.UPFRONT})
    pay = "https://api.example.com/pay"
    others = OtherProofs(payment_intent=Preparation(pay, "pk_test_1"), checkout_url=pay)
    card = STRIPE.offer(
        currency("usd"),
        payee="profile_test_1",
        amount=50,
        flow=Flow.ESCROW,
        expires_at=NOW + 600,
        payment_method_types=["card", "link"],
        other_proofs=others,
    )
    return [KEYS.issue(offer, ORDER, bytes(16)) for offer in (base, transfer, invoice, card)]


def _challenge() -> Challenge:
    offers = tuple(_offers())
    return Challenge(order=ORDER, price=Money.parse("0.003 USD"), offers=offers, description="An article", now=NOW)


def _headers(dialect: Dialect) -> tuple[list[tuple[str, str]], bytes]:
    said = dialect.challenge(_challenge(), SERVER)
    return list(said.fields), json.dumps(said.body).encode()


def _proof(offer: Offer) -> dict[str, Any]:
    if offer.mechanism == "transfer":
        return {"transaction": "0x" + "ab" * 32}
    if offer.rail == "stripe":
        return {"spt": "spt_1RgaZcFPC5QUO6ZCDVZuVA8q"}
    return dict(_SIGNED) if offer.rail == "base" else {"preimage": "00" * 32}


def _credentials(dialect: Dialect) -> Iterator[tuple[str, str]]:
    fields, body = _headers(dialect)
    for offer in dialect.offers(Fields(fields), body, CLIENT):
        yield from dialect.credential(offer, _proof(offer), CLIENT)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _both(value: str) -> Iterator[bytes]:
    """What is outside, and what is inside where it is base64."""
    yield value.encode("latin-1")
    head, _, last = value.rpartition(" ")
    try:
        yield head.encode() + b" " * bool(head) + base64.urlsafe_b64decode(last + "=" * (-len(last) % 4))
    except ValueError:
        return


def _forms(data: bytes) -> Iterator[str]:
    """The bytes as a field's value: as they are, and with their last word in base64, in either alphabet."""
    yield _text(data)
    head, space, last = data.partition(b" ")
    if not space:
        head, last = b"", data
    yield _text(head + space) + base64.b64encode(last).decode()
    yield _text(head + space) + base64.urlsafe_b64encode(last).rstrip(b"=").decode()


def _challenges_of(dialect: Dialect) -> Target:
    fields, body = _headers(dialect)
    names = [name.lower() for name in dialect.response_fields]

    def run(data: bytes) -> None:
        for form in _forms(data):
            for name in names:
                _tried(lambda name=name, form=form: dialect.offers(Fields([(name, form)]), b"", CLIENT))  # type: ignore[misc]
        dialect.offers(Fields(), data, CLIENT)

    seeds = [seed for _, value in fields for seed in _both(value)]
    return Target(run, (*seeds, body))


def _payments_of(dialect: Dialect) -> Target:
    def run(data: bytes) -> None:
        for form in _forms(data):
            for name in dialect.request_fields:
                fields = Fields([(name, form)])
                _tried(lambda fields=fields: _presented(dialect, fields))  # type: ignore[misc]

    seeds = [seed for _, value in _credentials(dialect) for seed in _both(value)]
    return Target(run, tuple(seeds) or (b"00" * 32,))


def _presented(dialect: Dialect, fields: Fields) -> None:
    for payment in dialect.payments(fields, EMPTY_BODY_DIGEST, SERVER):
        spec = SERVER.specs[payment.rail]
        spec.identify(payment)
        if payment.offer_token is not None:
            parse_token(payment.offer_token)
        if payment.offer is not None:
            KEYS.verify(payment.offer, ORDER)
            spec.authenticate(payment.offer, payment)


def _tried(read: Callable[[], object]) -> None:
    from rail402.errors import Rail402Error

    try:
        read()
    except Rail402Error:
        return


def _json(read: Callable[[Any], object]) -> Callable[[bytes], object]:
    return lambda data: read(parse_json(data, field="data", max_bytes=65_536))


def _mcp() -> Iterator[tuple[str, Target]]:
    x402, mpp = X402Mcp(), MppMcp()
    result, error = x402.result(_challenge(), SERVER), mpp.error(_challenge(), SERVER)
    assert result is not None
    assert error is not None
    (first, *_), (second, *_) = x402.offers(result, CLIENT), mpp.offers({"error": error}, CLIENT)
    paid = x402.credential(first, _proof(first), CLIENT)
    answered = {"params": {"_meta": mpp.credential(second, _proof(second), CLIENT)}}
    yield "mcp.x402.offers", Target(_json(lambda value: x402.offers(value, CLIENT)), (_dump(result),))
    yield "mcp.x402.payment", Target(_json(lambda value: x402.payment(value, SERVER)), (_dump(paid),))
    yield "mcp.mpp.offers", Target(_json(lambda value: mpp.offers(value, CLIENT)), (_dump({"error": error}),))
    yield "mcp.mpp.payment", Target(_json(lambda value: mpp.payment(value, SERVER)), (_dump(answered),))


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()


_URI: Final = (
    "ethereum:0x036CbD53842c5426634e7929541eC2318f3dCF7e@84532/transfer"
    "?address=0x209693Bc6afc0C5328bA36FaF03C514EF312287C&uint256=3000"
)

_ARTIFACT: Final = {
    "format": "eip712",
    "payload": {"version": 1, "resourceUrl": ORDER.url, "scheme": "exact", "network": "eip155:8453", "asset": "0x1",
                "payTo": "0x2", "amount": "1", "validUntil": NOW},
    "signature": "0x" + "1b" * 65,
}  # fmt: skip


def _lnbtc() -> dict[str, Any]:
    binding = LIGHTNING.bindings["x402-v2"]
    accepted = binding.encode_offer(_offers()[2])
    return {"requirements": accepted, "message": {"accepted": accepted, "payload": {"preimage": "00" * 32}}}


def _settled(value: Any) -> None:
    requirements, message = value.get("requirements"), value.get("message")
    if isinstance(requirements, dict) and isinstance(message, dict):
        check_settlement(requirements, message, now=NOW)


def _signed(value: Any) -> None:
    for read in (signed_offer, signed_receipt):
        _tried(lambda read=read: read(value))  # type: ignore[misc]
    _tried(lambda: verify_jws(OfferTerms, value, {}))


def _facilitators() -> Iterator[tuple[str, Target]]:
    """What a facilitator is asked, and what one answers."""

    def asked(data: bytes) -> None:
        question = read_question(data, max_bytes=65_536)
        found = read_payment(question, SERVER.specs, kinds, now=NOW)
        SERVER.specs[found.offer.rail].authenticate(found.offer, found.payment)

    def answered(value: Any) -> None:
        spoken_version(value, BASE_SEPOLIA_USDC.network)
        parse_verdict(value)
        parse_settlement(value)

    kinds = [kind for spec in SERVER.specs for _, kind in kinds_of(spec)]
    authorization, signature = parse_authorization(_SIGNED)
    transfer = SignedTransfer(token=BASE_SEPOLIA_USDC, authorization=authorization, signature=signature)
    yield "facilitator.asked", Target(asked, tuple(_dump(request_body(each, transfer, now=NOW)) for each in (1, 2)))
    answers = (
        {"kinds": [{"x402Version": 2, "scheme": "exact", "network": "eip155:84532"}]},
        {"isValid": True, "payer": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"},
        {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "amount": "3000"},
    )
    yield "facilitator.answered", Target(_json(answered), tuple(_dump(answer) for answer in answers))


def _envelopes() -> Iterator[tuple[str, Target]]:
    """What comes back of an offer by itself, where a person pays it."""
    challenge, (signed, transfer, *_) = _challenge(), _offers()
    mpp = Mpp().envelope(signed, challenge, SERVER)
    x_receipt = XReceipt().challenge(challenge.model_copy(update={"offers": (transfer,)}), SERVER).body
    for dialect, envelope in ((Mpp(), mpp), (XReceipt(), x_receipt)):
        read = _json(lambda value, dialect=dialect: dialect.offer_of(value, SERVER))  # type: ignore[misc]
        yield f"{dialect.name}.offer_of", Target(read, (_dump(envelope),))


def _nwc() -> Iterator[tuple[str, Target]]:
    """What relays say, and the wallets behind them, which can sign and encrypt whatever they like."""
    ours, theirs = PrivateKey(b"\1" * 32), PrivateKey(b"\2" * 32)
    client, wallet = (key.public_key_xonly.format().hex() for key in (ours, theirs))
    shared = nwc_wire.conversation_key(ours.secret, wallet)

    def relayed(data: bytes) -> None:
        match nwc_wire.read_message(data):
            case ["EVENT", str(), value]:
                nwc_wire.read_event(value, author=wallet)

    def signed(value: Any) -> None:
        said = (value.get(name) for name in ("created_at", "kind", "tags", "content"))
        digest = nwc_wire._digest(wallet, *said)
        signature = theirs.sign_schnorr(digest, bytes(32)).hex()
        value |= {"pubkey": wallet, "id": digest.hex(), "sig": signature}
        assert nwc_wire.read_event(value, author=wallet).wire().items() <= value.items()

    def hidden(data: bytes) -> None:
        coded = base64.b64encode(data).decode()
        for text in (_text(data), coded, f"{coded}?iv={'A' * 22}=="):
            _tried(lambda text=text: nwc_wire.nip44_decrypt(text, shared))  # type: ignore[misc]
            _tried(lambda text=text: nwc_wire.nip04_decrypt(text, ours.secret, wallet))  # type: ignore[misc]
        nwc_wire._unpadded(data)

    answer = {"type": "outgoing", "state": "settled", "preimage": "00" * 32, "fees_paid": 0, "settled_at": NOW}
    modern = nwc_wire.nip44_encrypt(json.dumps(answer), shared, bytes(32))
    old = nwc_wire.nip04_encrypt(json.dumps(answer), theirs.secret, client, bytes(16))
    tags = (("p", client), ("e", "00" * 32))
    event = nwc_wire.sign_event(nwc_wire.REPLY, modern, tags=tags, now=NOW, secret=theirs.secret, random=bytes(32))
    messages = (["EVENT", "1", event.wire()], ["OK", event.id, True, ""], ["NOTICE", "busy"])
    address = f"nostr+walletconnect://{wallet}?relay=wss%3A%2F%2Frelay.example.com&secret={ours.to_hex()}"
    contents = (modern.encode(), base64.b64decode(modern), old.encode(), b"\0\5hello".ljust(34, b"\0"))
    yield "nwc.messages", Target(relayed, tuple(_dump(message) for message in messages))
    yield "nwc.events", Target(_json(signed), (_dump(event.wire()),))
    yield "nwc.contents", Target(hidden, contents)
    yield "nwc.answers", Target(_json(nwc._sent), (_dump(answer), _dump(answer | {"state": ""})))
    yield "nwc.address", Target(lambda data: nwc_wire.parse_connection(_text(data)), (address.encode(),))


def _made() -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for dialect in ALL:
        targets[f"{dialect.name}.offers"] = _challenges_of(dialect)
        targets[f"{dialect.name}.payments"] = _payments_of(dialect)
    targets |= {**dict(_mcp()), **dict(_facilitators()), **dict(_envelopes()), **dict(_nwc())}
    plain = macaroon.mint(b"k" * 32, bytes(66), b"api.example.com", [b"rail402_offer=k1.1.a.b"])
    authorization = _dump(_SIGNED)
    lines = tuple(value.encode() for dialect in DEFAULT_DIALECTS for _, value in _headers(dialect)[0])
    receipt = b"eyJhbGciOiJFZERTQSIsImtpZCI6ImsxIn0.eyJpc3MiOiJodHRwczovL2FwaS5leGFtcGxlLmNvbSJ9." + b"A" * 86
    return targets | {
        "auth_params": Target(lambda data: auth_params.parse(_text(data)), lines),
        "accept_payment": Target(
            lambda data: preferred(_text(data), ["a"], lambda _: ("stripe", "charge")),
            (b"stripe/charge;q=0.5, */*;q=0",),
        ),
        "payment_uri": Target(lambda data: parse_payment_uri(_text(data)), (_URI.encode(),)),
        "payment_proof": Target(lambda data: parse_proof(_text(data)), (b"0x" + b"ab" * 32, b"00" * 32, authorization)),
        "lnbtc": Target(_json(_settled), (_dump(_lnbtc()),)),
        "offer_receipt": Target(_json(_signed), (_dump(_ARTIFACT),)),
        "did_document": Target(_json(keys_in), (_dump(did_document("did:web:api.example.com", {"keys": []})),)),
        "jwks": Target(read_keys, (_dump({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "k1"}]}),)),
        "macaroon": Target(macaroon.parse, (plain.serialize(),)),
        "bolt11": Target(lambda data: bolt11.decode(_text(data)), (INVOICE.encode(),)),
        "eip3009": Target(_json(parse_authorization), (authorization,)),
        "offer_token": Target(lambda data: parse_token(_text(data)), ((_offers()[0].token or "").encode(),)),
        "receipt": Target(lambda data: verify_receipt(_text(data), {"keys": []}), (receipt,)),
        "money": Target(lambda data: Money.parse(_text(data)), (b"0.003 USD", b"$1.50", b"21 sat", b"2500 msat")),
    }


TARGETS: Final = _made()
