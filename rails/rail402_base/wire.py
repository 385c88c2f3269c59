"""The part of the rail that server and client share: all of a payment that needs no chain to check. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Verified
from rail402_base import transfers as transfer_proofs
from rail402_base.bindings import MppBinding, X402V1Binding, X402V2Binding, challenge_nonces, payload_of
from rail402_base.document_bindings import PaymentUriBinding, XPaymentBinding, XPriceBinding, XReceiptBinding
from rail402_base.eip3009 import (
    MAX_UINT256,
    Authorization,
    is_signed_by_payer,
    parse_authorization,
    same_address,
)
from rail402_base.erc1271 import PROOF_DIGEST, proof_digest, require_deployed
from rail402_base.tokens import Token

__all__ = [
    "ZERO_ADDRESS",
    "BaseSpec",
    "authorization_key",
    "hash_key",
    "nonce_key",
    "payload_of",
    "transfer_key",
]

ZERO_ADDRESS: Final = "0x" + 40 * "0"
_MECHANISM: Final = "eip3009"
_MPP: Final = "mpp"
_FLOWS: Final = {
    _MECHANISM: (Flow.AUTHORIZATION, Flow.UPFRONT),
    transfer_proofs.MECHANISM: (Flow.UPFRONT,),  # the money has moved before it is shown
}


def authorization_key(token: Token, authorization: Authorization) -> ConsumptionKey:
    """Return the consumption key of an authorization: the contract takes one per payer and nonce."""
    return nonce_key(token, authorization.from_, authorization.nonce)


def nonce_key(token: Token, payer: str, nonce: bytes) -> ConsumptionKey:
    """Return the consumption key of the authorization that has this nonce."""
    return f"eip3009:{token.network.caip2}/{token.address}/{payer}/0x{nonce.hex()}".lower()


def hash_key(token: Token, transaction: str) -> ConsumptionKey:
    """Return the consumption key of a transaction that is shown by its hash."""
    return f"tx:{token.network.caip2}/{transaction}".lower()


def transfer_key(token: Token, transaction: str, log_index: int) -> ConsumptionKey:
    """Return the consumption key of a mined transfer: one transaction may hold several."""
    return f"tx:{token.network.caip2}/{transaction}/{log_index}".lower()


class BaseSpec:
    """The part of the rail that server and client share.

    Args:
        tokens: the tokens that are taken or paid with; any other is not read from the wire.
        transfers: whether plain transfers are taken, beside authorizations.

    Raises:
        ConfigurationError: there is no token, or one is there twice.
    """

    name = "base"
    # An authorization is public once it is mined: whoever copies it from the chain must not get the response.
    bare_replay = False

    def __init__(self, tokens: Token | Iterable[Token], *, transfers: bool = False) -> None:
        self.tokens = (tokens,) if isinstance(tokens, Token) else tuple(tokens)
        self._by_place = {(token.network.caip2, token.address.lower()): token for token in self.tokens}
        if not self.tokens or len(self._by_place) < len(self.tokens):
            raise ConfigurationError("tokens: give at least one, and each of them once")
        self.takes_transfers = transfers
        names = (_MECHANISM, transfer_proofs.MECHANISM) if transfers else (_MECHANISM,)
        self.mechanisms = tuple(_mechanism(name, token) for name in names for token in self.tokens)
        self.bindings: Mapping[str, Binding] = {
            "x402-v2": X402V2Binding(self),
            _MPP: MppBinding(self),
            "x402-v1": X402V1Binding(self),
            "x-payment": XPaymentBinding(self),
            "x-price": XPriceBinding(self),
            "payment-uri": PaymentUriBinding(self),
            "x-receipt": XReceiptBinding(self),
        }

    def token(self, network: str, asset: str) -> Token | None:
        """Return the token at an address (in any case) of a network (its CAIP-2 name), None where it is not ours."""
        return self._by_place.get((network, asset.lower()))

    def offer(
        self, token: Token, *, payee: str, amount: int, flow: Flow, expires_at: int, timeout_seconds: int
    ) -> Offer:
        """Return an offer in its canonical form: what the server signs and what it reads back are the same.

        It is for an authorization; `transfer_offer` is for a transfer.
        """
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

    def transfer_offer(
        self, token: Token, *, payee: str, amount: int, expires_at: int, timeout_seconds: int, extra: Mapping[str, Any]
    ) -> Offer:
        """Return an offer that is paid by a plain transfer.

        Args:
            extra: what is bought (`transfers.order_terms`), where that is known.
        """
        offer = self.offer(
            token,
            payee=payee,
            amount=amount,
            flow=Flow.UPFRONT,
            expires_at=expires_at,
            timeout_seconds=timeout_seconds,
        )
        return offer.model_copy(update={"mechanism": transfer_proofs.MECHANISM, "extra": extra})

    # --- what a server asks

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the key of the authorization, or of the transaction; see `RailSpec.identify`."""
        if payment.offer is not None:
            token = self._required(payment.offer)
        elif len(self.tokens) == 1:
            token = self.tokens[0]
        else:
            raise MalformedInput("payment", "does not say in which token it is")
        if _is_transfer(payment):
            return frozenset({hash_key(token, transfer_proofs.parse_proof(payment.payload).transaction)})
        authorization, _ = parse_authorization(payment.payload)
        return frozenset({authorization_key(token, authorization)})

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        """Check payee, amount and signature, the cheap before the expensive; see `RailSpec.authenticate`.

        The amount of an authorization must be exact: x402 knows no change. A payment in another token or on another
        chain shows here as a signature that does not verify, because the token's EIP-712 domain is part of what is
        signed. What a transfer's hash stands for only the chain can say; and whether a signature that no key of the
        payer's address has made is that of a contract there (ERC-1271). `Verified.state` has a `proof_digest` then.
        """
        token = self._required(offer)
        if _is_transfer(payment) != (offer.mechanism == transfer_proofs.MECHANISM):
            raise PaymentRejected(f"it is no payment by {offer.mechanism}", code="payload_invalid")
        if offer.mechanism == transfer_proofs.MECHANISM:
            proof = transfer_proofs.parse_proof(payment.payload)
            signer = transfer_proofs.signer_of(offer, proof)
            keys = frozenset({hash_key(token, proof.transaction)})
            return Verified(payer=signer, keys=keys, is_payer=signer is not None)
        authorization, signature = parse_authorization(payment.payload)
        if not same_address(authorization.to, offer.payee):
            raise PaymentRejected(f"it goes to {authorization.to}, not to {offer.payee}", code="payee_mismatch")
        if authorization.value != offer.amount:
            detail = f"it is for {authorization.value} atomic units, and {offer.amount} were asked for, exactly"
            raise PaymentRejected(detail, code="amount_mismatch")
        if payment.dialect == _MPP and authorization.nonce not in challenge_nonces(payment.envelope):
            detail = "challenge hash mismatch: its nonce must be keccak256(id + realm) of the challenge"
            raise PaymentRejected(detail, code="resource_mismatch")
        require_deployed(signature)
        state = {
            "from": authorization.from_,
            "nonce": "0x" + authorization.nonce.hex(),
            # A text, because no JSON number holds the largest of them.
            "valid_before": str(authorization.valid_before),
        }
        if not is_signed_by_payer(token.domain, authorization, signature):
            if token.network.kind == "sandbox":
                detail = f"the signature is not that of {authorization.from_}, and the sandbox has no contracts"
                raise PaymentRejected(detail, code="signature_invalid")
            state[PROOF_DIGEST] = proof_digest(signature)
        keys = frozenset({authorization_key(token, authorization)})
        return Verified(payer=authorization.from_, keys=keys, state=state)

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
        if token is None or offer.mechanism not in (_MECHANISM, transfer_proofs.MECHANISM):
            raise OfferRefused(f"{offer.asset} on {offer.network} is no token that is known here")
        if (offer.currency, offer.exponent) != (token.symbol, token.decimals):
            raise OfferRefused(f"it counts {offer.currency} in 10^-{offer.exponent}, and the token does not")
        if not 0 < offer.amount <= MAX_UINT256:
            raise OfferRefused("no token has that many units")
        if same_address(offer.payee, ZERO_ADDRESS):
            raise OfferRefused("it would send the money to the zero address")
        if offer.flow not in _FLOWS[offer.mechanism]:
            raise OfferRefused(f"nothing can be paid by {offer.mechanism} in the flow {offer.flow}")
        if offer.expires_at <= now:
            raise OfferRefused("it has expired")


def _is_transfer(payment: Payment) -> bool:
    return "transaction" in payment.payload


def _mechanism(name: str, token: Token) -> Mechanism:
    return Mechanism(
        name=name,
        network=token.network.caip2,
        asset=token.address,
        currency=token.symbol,
        exponent=token.decimals,
        flows=_FLOWS[name],
    )
