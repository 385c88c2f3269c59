"""How EIP-3009 payments look on the wire, and all of them that can be checked without asking a chain. Pure.

In x402 version 2 this is the scheme `exact` on `eip155:*` with the asset transfer method `eip3009`
(specs/schemes/exact/scheme_exact_evm.md): the requirements name the token, and the payload is a signed
`TransferWithAuthorization`.

Tokens are looked up in a local table. What the peer says about one (its name, version, decimals) must agree with the
table or be left out; else the offer is not ours to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Verified
from rail402_base.eip3009 import (
    MAX_UINT256,
    Authorization,
    digest,
    parse_address,
    parse_authorization,
    recover,
    same_address,
)
from rail402_base.tokens import Token

__all__ = [
    "ZERO_ADDRESS",
    "BaseSpec",
    "X402V1Binding",
    "X402V2Binding",
    "authorization_key",
    "payload_of",
    "transfer_key",
]

ZERO_ADDRESS: Final = "0x" + 40 * "0"
_MECHANISM: Final = "eip3009"
_SCHEME: Final = "exact"
# x402 leaves the method out where it is the default one; "default" is what its SDKs call that internally.
_METHODS: Final = (None, _MECHANISM, "default")

_is_amount = re.compile(r"[1-9][0-9]{0,77}").fullmatch


def authorization_key(token: Token, authorization: Authorization) -> ConsumptionKey:
    """Return the consumption key of an authorization: the contract takes one per payer and nonce."""
    payer, nonce = authorization.from_, authorization.nonce.hex()
    return f"eip3009:{token.network.caip2}/{token.address}/{payer}/0x{nonce}".lower()


def transfer_key(token: Token, transaction: str, log_index: int) -> ConsumptionKey:
    """Return the consumption key of a mined transfer: one transaction may hold several."""
    return f"tx:{token.network.caip2}/{transaction}/{log_index}".lower()


def payload_of(authorization: Authorization, signature: bytes) -> dict[str, object]:
    """Return the proof of payment: x402's payload of `exact` on EVM, numbers as decimal strings."""
    return {
        "signature": "0x" + signature.hex(),
        "authorization": {
            "from": authorization.from_,
            "to": authorization.to,
            "value": str(authorization.value),
            "validAfter": str(authorization.valid_after),
            "validBefore": str(authorization.valid_before),
            "nonce": "0x" + authorization.nonce.hex(),
        },
    }


class BaseSpec:
    """The part of the rail that server and client share.

    Args:
        tokens: the tokens that are taken or paid with; any other is not read from the wire.

    Raises:
        ConfigurationError: there is no token, or one is there twice.
    """

    name = "base"
    # An authorization is public once it is mined: whoever copies it from the chain must not get the response.
    bare_replay = False

    def __init__(self, tokens: Token | Iterable[Token]) -> None:
        self.tokens = (tokens,) if isinstance(tokens, Token) else tuple(tokens)
        self._by_place = {(token.network.caip2, token.address.lower()): token for token in self.tokens}
        if not self.tokens or len(self._by_place) < len(self.tokens):
            raise ConfigurationError("tokens: give at least one, and each of them once")
        self.mechanisms = tuple(_mechanism(token) for token in self.tokens)
        self.bindings: Mapping[str, Binding] = {"x402-v2": X402V2Binding(self), "x402-v1": X402V1Binding(self)}

    def token(self, network: str, asset: str) -> Token | None:
        """Return the token at an address (in any case) of a network (its CAIP-2 name), None where it is not ours."""
        return self._by_place.get((network, asset.lower()))

    def offer(
        self, token: Token, *, payee: str, amount: int, flow: Flow, expires_at: int, timeout_seconds: int
    ) -> Offer:
        """Return an offer in its canonical form: what the server signs and what it reads back are the same."""
        return Offer(
            rail=self.name,
            mechanism=_MECHANISM,
            network=token.network.caip2,
            asset=token.address,
            amount=amount,
            currency=token.symbol,
            exponent=token.decimals,
            payee=payee,
            expires_at=expires_at,
            timeout_seconds=timeout_seconds,
            flow=flow,
        )

    # --- what a server asks

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the key of the authorization; see `RailSpec.identify`."""
        if payment.offer is not None:
            token = self._required(payment.offer)
        elif len(self.tokens) == 1:
            token = self.tokens[0]
        else:
            raise MalformedInput("payment", "does not say in which token it is")
        authorization, _ = parse_authorization(payment.payload)
        return frozenset({authorization_key(token, authorization)})

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        """Check payee, amount and signature, the cheap before the expensive; see `RailSpec.authenticate`.

        The amount must be exact: x402 knows no change. A payment in another token or on another chain shows here as a
        signature that does not verify, because the token's EIP-712 domain is part of what is signed.
        """
        token = self._required(offer)
        authorization, signature = parse_authorization(payment.payload)
        if not same_address(authorization.to, offer.payee):
            raise PaymentRejected(f"it goes to {authorization.to}, not to {offer.payee}", code="payee_mismatch")
        if authorization.value != offer.amount:
            detail = f"it is for {authorization.value} atomic units, and {offer.amount} were asked for, exactly"
            raise PaymentRejected(detail, code="amount_mismatch")
        if recover(digest(token.domain, authorization), signature) != authorization.from_:
            detail = f"the signature is not that of {authorization.from_} over this authorization of this token"
            raise PaymentRejected(detail, code="signature_invalid")
        return Verified(
            payer=authorization.from_,
            keys=frozenset({authorization_key(token, authorization)}),
            # A text, because no JSON number holds the largest of them.
            state={
                "from": authorization.from_,
                "nonce": "0x" + authorization.nonce.hex(),
                "valid_before": str(authorization.valid_before),
            },
        )

    def mistaken_keys(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return nothing: an authorization has no public half that could be sent for it."""
        return frozenset()

    def _required(self, offer: Offer) -> Token:
        token = self.token(offer.network, offer.asset)
        if token is None:
            code = "asset_mismatch"
            if offer.network not in {each.network.caip2 for each in self.tokens}:
                code = "network_mismatch"
            raise PaymentRejected(f"{offer.asset} on {offer.network} is not taken here", code=code)
        return token

    # --- what a client asks

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        """Refuse an offer in an unknown token, one that burns the money, and an expired one; see `RailSpec`."""
        token = self.token(offer.network, offer.asset)
        if token is None or offer.mechanism != _MECHANISM:
            raise OfferRefused(f"{offer.asset} on {offer.network} is no token that is known here")
        if (offer.currency, offer.exponent) != (token.symbol, token.decimals):
            raise OfferRefused(f"it counts {offer.currency} in 10^-{offer.exponent}, and the token does not")
        if not 0 < offer.amount <= MAX_UINT256:
            raise OfferRefused("no token has that many units")
        if same_address(offer.payee, ZERO_ADDRESS):
            raise OfferRefused("it would send the money to the zero address")
        if offer.flow not in (Flow.AUTHORIZATION, Flow.UPFRONT):
            raise OfferRefused(f"an authorization cannot be paid with in the flow {offer.flow}")
        if offer.expires_at <= now:
            raise OfferRefused("it has expired")


def _mechanism(token: Token) -> Mechanism:
    return Mechanism(
        name=_MECHANISM,
        network=token.network.caip2,
        asset=token.address,
        currency=token.symbol,
        exponent=token.decimals,
        flows=(Flow.AUTHORIZATION, Flow.UPFRONT),
    )


class X402V2Binding:
    """The scheme `exact` on EVM inside x402, version 2: `PaymentRequirements`, and the payload of a payment."""

    def __init__(self, spec: BaseSpec) -> None:
        self._spec = spec

    def encode_offer(self, offer: Offer) -> Json:
        """Return the requirements; `paymentFlow` is left out where it is the default (x402's rule)."""
        token = self._spec.token(offer.network, offer.asset)
        if token is None:
            raise ConfigurationError(f"{offer.asset} on {offer.network} is none of this rail's tokens")
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
            payee=_payee(wire),
            amount=_amount(wire),
            flow=flow,
            expires_at=expires_at,
            timeout_seconds=_seconds(wire),
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

    def __init__(self, spec: BaseSpec) -> None:
        self._spec, self._v2 = spec, X402V2Binding(spec)
        self._networks = {token.network.v1_name: token.network for token in spec.tokens}

    def encode_offer(self, offer: Offer) -> Json:
        """Return the requirements."""
        wire = dict(self._v2.encode_offer(offer))
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


def _flow(extra: Json) -> Flow | None:
    flow = extra.get("paymentFlow", Flow.AUTHORIZATION.value)
    if not isinstance(flow, str):
        raise MalformedInput("extra.paymentFlow", "must be a text")
    return Flow(flow) if flow in (Flow.AUTHORIZATION, Flow.UPFRONT) else None


def _agrees(extra: Json, token: Token) -> bool:
    known = {"name": token.name, "version": token.version, "decimals": token.decimals}
    return all(extra.get(member, value) == value for member, value in known.items())


def _amount(wire: Json) -> int:
    text = wire.get("amount")
    if not isinstance(text, str) or not _is_amount(text) or int(text) > MAX_UINT256:
        raise MalformedInput("amount", "must be a string of decimal digits: atomic units from 1 to 2^256 - 1")
    return int(text)


def _payee(wire: Json) -> str:
    try:
        return parse_address(wire.get("payTo"), "payTo")
    except MalformedInput as error:  # of the offer, not of the payload
        raise MalformedInput("payTo", "must be an address: 0x and 40 hex digits") from error


def _seconds(wire: Json) -> int:
    seconds = wire.get("maxTimeoutSeconds")
    if type(seconds) is not int or not 0 < seconds < 2**31:
        raise MalformedInput("maxTimeoutSeconds", "must be a whole number of seconds, more than zero")
    return seconds
