"""How EIP-3009 offers and payments look in each dialect.

In x402 this is the scheme `exact` on EVM chains with the asset transfer method `eip3009`
(specs/schemes/exact/scheme_exact_evm.md): the requirements name the token, and the payload is a signed
`TransferWithAuthorization`. In MPP it is the method `evm` with the intent `charge` and the credential type
`authorization`.

Tokens are looked up in a local table. What the peer says about one (its name, version, decimals) must agree with the
table or be left out; else the offer is not ours to read.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rail402.errors import ConfigurationError, MalformedInput
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402_base.eip3009 import MAX_UINT256, Authorization, keccak256, message_of, parse_address, parse_authorization
from rail402_base.tokens import Token

if TYPE_CHECKING:
    from rail402_base.wire import BaseSpec

__all__ = [
    "MppBinding",
    "X402V1Binding",
    "X402V2Binding",
    "address_in",
    "answering_nonce",
    "challenge_nonces",
    "payload_of",
    "seconds_in",
    "token_of",
]

_MECHANISM: Final = "eip3009"
_SCHEME: Final = "exact"
# x402 leaves the method out where it is the default one; "default" is what its SDKs call that internally.
_METHODS: Final = (None, "eip3009", "default")

_METHOD: Final = "evm"
_INTENT: Final = "charge"
_AUTHORIZATION: Final = "authorization"
_SECONDS: Final = 300

_is_amount = re.compile(r"[1-9][0-9]{0,77}").fullmatch


def payload_of(authorization: Authorization, signature: bytes) -> dict[str, object]:
    """Return the proof of payment: x402's payload of `exact` on EVM, numbers as decimal strings."""
    return {"signature": "0x" + signature.hex(), "authorization": message_of(authorization)}


def challenge_nonces(envelope: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the nonces by which an authorization answers an MPP challenge: the draft's, and pympp's.

    The draft and mppx hash the id and the realm one after the other, pympp hashes them as a JSON list.
    """
    challenge = envelope["challenge"]
    both = [challenge["id"], challenge["realm"]]
    as_list = json.dumps(both, separators=(",", ":"), ensure_ascii=False)
    return keccak256("".join(both).encode()), keccak256(as_list.encode())


def answering_nonce(envelope: Mapping[str, Any]) -> bytes:
    """Return the nonce that the server of an MPP challenge takes: the draft's, or pympp's where pympp made it."""
    drafts, pympps = challenge_nonces(envelope)
    opaque = envelope["challenge"].get("opaque", "")
    try:
        decoded = base64.urlsafe_b64decode(opaque + "=" * (-len(opaque) % 4))
    except ValueError:
        return drafts
    return pympps if b'"_mpp_nonce"' in decoded else drafts


class X402V2Binding:
    """The scheme `exact` on EVM inside x402, version 2: `PaymentRequirements`, and the payload of a payment."""

    fixed_terms = True

    def __init__(self, spec: BaseSpec) -> None:
        self._spec = spec

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the requirements; `paymentFlow` is left out where it is the default (x402's rule)."""
        if offer.mechanism != _MECHANISM:
            return None
        token = token_of(self._spec, offer)
        extra = {"name": token.name, "version": token.version}
        if offer.flow is not Flow.AUTHORIZATION:
            extra["paymentFlow"] = offer.flow.value
        return {
            "scheme": _SCHEME,
            "network": offer.network,
            "amount": str(offer.amount),
            "asset": offer.asset,
            "payTo": offer.payee,
            "maxTimeoutSeconds": offer.timeout_seconds,
            "extra": extra,
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read requirements. None for another scheme, an unknown token, another transfer method or flow, and for a
        token about which `extra` says anything else than our table.

        Addresses come back in EIP-55 form and members that we do not know are dropped, so that a client that spells or
        adds something accepts the same offer all the same.
        """
        network, asset = wire.get("network"), wire.get("asset")
        if wire.get("scheme") != _SCHEME or not isinstance(network, str) or not isinstance(asset, str):
            return None
        token = self._spec.token(network, asset)
        extra = wire.get("extra", {})
        if token is None:
            return None
        if not isinstance(extra, Mapping):
            raise MalformedInput("extra", "must be an object")
        flow = _flow(extra)
        if flow is None or extra.get("assetTransferMethod") not in _METHODS or not _agrees(extra, token):
            return None
        return self._spec.offer(
            token,
            payee=address_in(wire, "payTo"),
            amount=_amount(wire, "amount"),
            flow=flow,
            expires_at=expires_at,
            timeout_seconds=seconds_in(wire, "maxTimeoutSeconds"),
        )

    def encode_proof(self, payload: Json) -> Json:
        """Return the payload: it travels as it is."""
        return payload

    def decode_proof(self, wire: Json) -> Json | None:
        """Read a payload. None where it holds no authorization, as Permit2's and other methods' do."""
        if "authorization" not in wire:
            return None
        return payload_of(*parse_authorization(wire))


class X402V1Binding:
    """The same inside x402, version 1: other names for networks and the amount, and no word about the flow.

    The proof is the whole of `X-PAYMENT` but its version: its scheme and network say whose it is.
    """

    fixed_terms = True

    def __init__(self, spec: BaseSpec) -> None:
        self._spec, self._v2 = spec, X402V2Binding(spec)
        self._networks = {token.network.v1_name: token.network for token in spec.tokens}

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the requirements."""
        requirements = self._v2.encode_offer(offer)
        if requirements is None:
            return None
        wire = dict(requirements)
        wire["maxAmountRequired"] = wire.pop("amount")
        return wire | {"network": self._v1_name(offer)}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read requirements; see `X402V2Binding.decode_offer`."""
        network = self._networks.get(str(wire.get("network")))
        if network is None:
            return None
        amount = {"amount": wire.get("maxAmountRequired"), "network": network.caip2}
        return self._v2.decode_offer({**wire, **amount}, expires_at=expires_at)

    def encode_proof(self, payload: Json) -> Json:
        """Return the payload in its place."""
        return {"payload": self._v2.encode_proof(payload)}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read scheme, network and payload. None where they are none of ours."""
        if wire["scheme"] != _SCHEME or wire["network"] not in self._networks:
            return None
        return self._v2.decode_proof(wire["payload"])

    def _v1_name(self, offer: Offer) -> str:
        return next(name for name, network in self._networks.items() if network.caip2 == offer.network)


class MppBinding:
    """The method `evm` with the intent `charge` inside MPP.

    The draft knows one flow, in which the money is taken before the handler runs. Ours takes it afterwards where the
    route does not say otherwise, and tells the client so: `methodDetails.paymentFlow` is `authorization` then.
    """

    fixed_terms = True

    def __init__(self, spec: BaseSpec) -> None:
        self._spec = spec

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the challenge's method, intent and request."""
        if offer.mechanism != _MECHANISM:
            return None
        token = token_of(self._spec, offer)
        details: dict[str, Any] = {
            "chainId": token.network.chain_id,
            "credentialTypes": [_AUTHORIZATION],
            "decimals": token.decimals,
            "timeoutSeconds": offer.timeout_seconds,
        }
        if offer.flow is Flow.AUTHORIZATION:
            details["paymentFlow"] = offer.flow.value
        request = {"amount": str(offer.amount), "currency": offer.asset, "recipient": offer.payee}
        return {"method": _METHOD, "intent": _INTENT, "request": request | {"methodDetails": details}}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read a request. None for another method or intent, an unknown token, or where no authorization is taken."""
        request = wire.get("request")
        if (wire.get("method"), wire.get("intent")) != (_METHOD, _INTENT) or not isinstance(request, Mapping):
            return None
        details, asset = request.get("methodDetails"), request.get("currency")
        if not isinstance(details, Mapping) or not isinstance(asset, str):
            raise MalformedInput("request", "must have a currency and methodDetails")
        types = details.get("credentialTypes", [_AUTHORIZATION])
        token = self._spec.token(f"eip155:{details.get('chainId')}", asset)
        if token is None or not isinstance(types, list) or _AUTHORIZATION not in types or details.get("splits"):
            return None
        if details.get("decimals", token.decimals) != token.decimals:
            return None
        held = details.get("paymentFlow") == Flow.AUTHORIZATION.value
        return self._spec.offer(
            token,
            payee=address_in(request, "recipient"),
            amount=_amount(request, "amount"),
            flow=Flow.AUTHORIZATION if held else Flow.UPFRONT,
            expires_at=expires_at,
            timeout_seconds=seconds_in({"timeoutSeconds": _SECONDS, **details}, "timeoutSeconds"),
        )

    def listing(self, mechanism: Mechanism, amount: int | None) -> Json | None:
        """Return how discovery documents list a price."""
        if mechanism.name != _MECHANISM:
            return None
        said = None if amount is None else str(amount)
        return {"method": _METHOD, "intent": _INTENT, "amount": said, "currency": mechanism.asset}

    def encode_proof(self, payload: Json) -> Json:
        """Return the payload, which has no level for the authorization here."""
        return {"type": _AUTHORIZATION, **payload["authorization"], "signature": payload["signature"]}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read a payload. None where it is of another type, such as `permit2` or `hash`."""
        if wire.get("type") != _AUTHORIZATION:
            return None
        authorization = {name: wire.get(name) for name in ("from", "to", "value", "validAfter", "validBefore", "nonce")}
        return payload_of(*parse_authorization({"authorization": authorization, "signature": wire.get("signature")}))


def token_of(spec: BaseSpec, offer: Offer) -> Token:
    """Return the token that an offer is in."""
    token = spec.token(offer.network, offer.asset)
    if token is None:
        raise ConfigurationError(f"{offer.asset} on {offer.network} is none of this rail's tokens")
    return token


def _flow(extra: Json) -> Flow | None:
    flow = extra.get("paymentFlow", Flow.AUTHORIZATION.value)
    if not isinstance(flow, str):
        raise MalformedInput("extra.paymentFlow", "must be a text")
    return Flow(flow) if flow in (Flow.AUTHORIZATION, Flow.UPFRONT) else None


def _agrees(extra: Json, token: Token) -> bool:
    known = {"name": token.name, "version": token.version, "decimals": token.decimals}
    return all(extra.get(member, value) == value for member, value in known.items())


def _amount(wire: Json, name: str) -> int:
    text = wire.get(name)
    if not isinstance(text, str) or not _is_amount(text) or int(text) > MAX_UINT256:
        raise MalformedInput(name, "must be a string of decimal digits: atomic units from 1 to 2^256 - 1")
    return int(text)


def address_in(wire: Json, name: str) -> str:
    """Read an address; raises `MalformedInput` naming the member."""
    try:
        return parse_address(wire.get(name), name)
    except MalformedInput as error:  # of the offer, not of the payload
        raise MalformedInput(name, "must be an address: 0x and 40 hex digits") from error


def seconds_in(wire: Json, name: str) -> int:
    """Read a number of seconds; raises `MalformedInput` naming the member."""
    seconds = wire.get(name)
    if type(seconds) is not int or not 0 < seconds < 2**31:
        raise MalformedInput(name, "must be a whole number of seconds, more than zero")
    return seconds
