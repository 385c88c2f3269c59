"""How payments on an EVM chain look in the dialects that grew on the web before x402: small, and without an echo.

`x-price` and `payment-uri` ask for a plain transfer, `x-payment` for an EIP-3009 authorization, and `x-receipt` has the
hash of a transfer for a receipt. Whoever only knows how such a dialect was first written down can still pay: what is
beside the known members helps those who understand it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from rail402.errors import MalformedInput
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Offer
from rail402_base.bindings import address_in, payload_of, seconds_in, token_of
from rail402_base.eip3009 import MAX_UINT256, parse_authorization
from rail402_base.payment_uri import SCHEME, parse_payment_uri
from rail402_base.tokens import Token
from rail402_base.transfers import EIP191, MECHANISM, TransferProof, parse_proof

if TYPE_CHECKING:
    from rail402_base.wire import BaseSpec

__all__ = ["PaymentUriBinding", "XPaymentBinding", "XPriceBinding", "XReceiptBinding"]

_SECONDS: Final = 300

_is_price = re.compile(r"([0-9]{1,60})(?:\.([0-9]{1,36}))?", re.ASCII).fullmatch
_is_nonce = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII).fullmatch
_is_receipt = re.compile(r"(0x[0-9a-fA-F]{64})(?:\.(0x[0-9a-fA-F]{130}))?", re.ASCII).fullmatch


class _DocumentBinding:
    """What these dialects share: a token by what little they say of it, and one grammar of proofs.

    All of them read `X-Payment-Proof`, and each gives the same payment for the same field.
    """

    def __init__(self, spec: BaseSpec) -> None:
        self._spec = spec

    def encode_proof(self, payload: Json) -> Json:
        """Return the proof: a transaction with or without a signature, or an authorization."""
        return {"proof": payload}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read a proof. None where it is neither of the two, or transfers are not taken here."""
        proof = wire.get("proof")
        if not isinstance(proof, Mapping):
            return None
        if "transaction" in proof:
            return parse_proof(proof).payload if self._spec.takes_transfers else None
        return payload_of(*parse_authorization(proof)) if "authorization" in proof else None

    def _find_token(self, wire: Json, currency: object) -> Token | None:
        """Return the token that is meant: by its network and its address or its symbol.

        A challenge without a network means the first one that this side pays on: it is what the oldest of these
        dialects leave out.
        """
        network, asset = wire.get("network"), wire.get("asset", currency)
        if not isinstance(asset, str) or not isinstance(network, str | None):
            return None
        for token in self._spec.tokens:
            if network not in (None, token.network.caip2, token.network.v1_name):
                continue
            if asset.lower() == token.address.lower() or asset == token.symbol:
                return token
        return None

    def _transfer(self, token: Token, wire: Json, *, payee: str, amount: int, expires_at: int) -> Offer:
        signed = {"signature": EIP191} if wire.get("signature") == EIP191 else {}
        return self._spec.transfer_offer(
            token, payee=payee, amount=amount, expires_at=expires_at, timeout_seconds=_SECONDS, extra=signed
        )


class XPriceBinding(_DocumentBinding):
    """X-Price: a price, a currency and an address; the proof is the hash of a transfer."""

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return price, currency and address, with network, asset and the signature that is understood beside them."""
        if offer.mechanism != MECHANISM:
            return None
        token = token_of(self._spec, offer)
        return {
            "price": _price(offer),
            "currency": token.symbol,
            "paymentAddress": offer.payee,
            "network": token.network.v1_name,
            "asset": token.address,
            "signature": EIP191,
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read a price. None where it is in no token of ours, or the address is none of an EVM chain."""
        token = self._find_token(wire, wire.get("currency"))
        if token is None or not _is_evm(wire.get("paymentAddress")):
            return None
        payee, amount = address_in(wire, "paymentAddress"), _amount(wire, token)
        return self._transfer(token, wire, payee=payee, amount=amount, expires_at=expires_at)


class PaymentUriBinding(_DocumentBinding):
    """A payment URI (EIP-681); the proof is the hash of a transfer."""

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the URI."""
        return None if offer.mechanism != MECHANISM else {"uri": _uri(self._spec, offer), "signature": EIP191}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read a URI. None where it is another scheme's, or asks for something else than a token of ours.

        Raises:
            MalformedInput: it cannot be read, or leaves payee or amount open.
        """
        text = wire.get("uri")
        if not isinstance(text, str) or text[: len(SCHEME)].lower() != SCHEME:
            return None
        uri = parse_payment_uri(text)
        token = self._spec.token(f"eip155:{uri.chain_id}", uri.target)
        if token is None or uri.function != "transfer":
            return None
        if uri.payee is None or uri.amount is None:
            raise MalformedInput("payment_uri", "must name address and uint256: nothing is paid that is left open")
        return self._transfer(token, wire, payee=uri.payee, amount=uri.amount, expires_at=expires_at)


class XReceiptBinding(_DocumentBinding):
    """X-Receipt's `payment` object for a transfer; the receipt is the hash, with a signature behind a full stop where
    the server says that it understands one."""

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the `payment` object."""
        if offer.mechanism != MECHANISM:
            return None
        token = token_of(self._spec, offer)
        return {
            "network": token.network.v1_name,
            "address": offer.payee,
            "amount": _price(offer),
            "currency": token.symbol,
            "asset": token.address,
            "uri": _uri(self._spec, offer),
            "signature": EIP191,
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read the `payment` object. None where its network is none of ours."""
        if not isinstance(wire.get("network"), str):
            return None
        token = self._find_token(wire, wire.get("currency"))
        if token is None:
            return None
        payee, amount = address_in(wire, "address"), _amount({"price": wire.get("amount")}, token)
        return self._transfer(token, wire, payee=payee, amount=amount, expires_at=expires_at)

    def encode_proof(self, payload: Json) -> Json:
        """Return the receipt."""
        return {"receipt": ".".join(payload[name] for name in ("transaction", "signature") if name in payload)}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read the receipt. None where it is no transaction's hash, or transfers are not taken here."""
        receipt = wire.get("receipt")
        match = _is_receipt(receipt) if isinstance(receipt, str) else None
        if match is None or not self._spec.takes_transfers:
            return None
        signature = None if match[2] is None else bytes.fromhex(match[2][2:])
        return TransferProof(match[1].lower(), signature).payload


class XPaymentBinding(_DocumentBinding):
    """X-Payment: price, receiver, network, asset and nonce; the proof is an EIP-3009 authorization with that nonce."""

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the challenge; its nonce is the dialect's to make."""
        if offer.mechanism == MECHANISM:
            return None
        token = token_of(self._spec, offer)
        flow = {} if offer.flow is Flow.AUTHORIZATION else {"paymentFlow": offer.flow.value}
        return {
            "price": _price(offer),
            "currency": token.symbol,
            "receiver": offer.payee,
            "network": token.network.v1_name,
            "asset": token.address,
            "maxTimeoutSeconds": offer.timeout_seconds,
            **flow,
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read a challenge. None where it is in no token of ours, or the receiver is none of an EVM chain."""
        token = self._find_token(wire, wire.get("currency"))
        if token is None or not _is_evm(wire.get("receiver")):
            return None
        nonce = wire.get("nonce")
        if nonce is not None and not (isinstance(nonce, str) and _is_nonce(nonce)):
            raise MalformedInput("nonce", "must be 0x and 64 hex digits (32 bytes)")
        flow = Flow.UPFRONT if wire.get("paymentFlow") == Flow.UPFRONT.value else Flow.AUTHORIZATION
        offer = self._spec.offer(
            token,
            payee=address_in(wire, "receiver"),
            amount=_amount(wire, token),
            flow=flow,
            expires_at=expires_at,
            timeout_seconds=seconds_in({"maxTimeoutSeconds": _SECONDS, **wire}, "maxTimeoutSeconds"),
        )
        return offer if nonce is None else offer.model_copy(update={"extra": {"nonce": nonce.lower()}})


def _uri(spec: BaseSpec, offer: Offer) -> str:
    token = token_of(spec, offer)
    return f"{SCHEME}{token.address}@{token.network.chain_id}/transfer?address={offer.payee}&uint256={offer.amount}"


def _price(offer: Offer) -> str:
    return str(offer.price).partition(" ")[0]


def _amount(wire: Json, token: Token) -> int:
    """Read a price in whole tokens, exactly."""
    text = wire.get("price")
    match = _is_price(text) if isinstance(text, str) else None
    places = (match[2] or "").rstrip("0") if match else ""
    units = int(match[1] + places.ljust(token.decimals, "0")) if match else 0
    if len(places) > token.decimals or not 0 < units <= MAX_UINT256:
        raise MalformedInput("price", f"must be a text such as 0.003, more than zero, {token.decimals} places at most")
    return units


def _is_evm(address: object) -> bool:
    return isinstance(address, str) and address[:2].lower() == "0x"
