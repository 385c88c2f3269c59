"""Giving back what was paid: a transfer of the same token from the payee to the payer of record, signed by the payee.

It is an EIP-3009 authorization like a payment's, the other way round, and whoever hands payments in hands it in. Its
nonce is made of the charge's id alone, so the token itself takes one refund of a charge and no second one: whichever
process tries again, and whatever it remembers.
"""

from __future__ import annotations

from typing import Final, Self

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, PaymentRejected
from rail402.protocol.charge import Charge
from rail402.protocol.rail import Failed, NotPaid, Pending, Refunded, Unknown
from rail402_base.chain import FINAL, Chain, Submitted, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization, keccak256, parse_address
from rail402_base.keys import LocalSigner, Signer
from rail402_base.tokens import Token

__all__ = ["REFUND_SECONDS", "GivesBack", "refund_nonce"]

REFUND_SECONDS: Final = 600
"""For how long a refund can be handed in, from when it was asked for. What is not mined by then never will be."""


def refund_nonce(charge: Charge) -> bytes:
    """Return the nonce of a charge's refund, of whichever try."""
    return keccak256(f"rail402 refund of {charge.id}".encode())


class GivesBack:
    """The part of `BaseRail` that gives money back; see `Refunds`."""

    chain: Chain
    token: Token
    pay_to: str
    _refund_signer: Signer | None = None

    def with_refunds(self, key: str | Signer) -> Self:
        """Have the rail give money back, and return it.

        Args:
            key: the private key of the address that is paid, 64 hex digits, or a `Signer` for it. Secret: unlike the
                relayer's it moves what was paid. The relayer hands refunds in, and pays their gas.

        Raises:
            ConfigurationError: the key is not one, or is that of another address; or there is no relayer.
        """
        signer = LocalSigner.from_private_key(key) if isinstance(key, str) else key
        if signer.address != self.pay_to:
            raise ConfigurationError(f"refund_key is the key of {signer.address}; refunds need that of {self.pay_to}")
        if not getattr(self.chain, "hands_in_refunds", True):
            raise ConfigurationError("refund_key: a facilitator hands in payments and no refunds; use backend rpc")
        self._refund_signer = signer
        return self

    def refund_obstacle(self, charge: Charge) -> str | None:
        """Say why this charge's money cannot be given back; see `PaymentRail.refund_obstacle`."""
        offer, signer = charge.offer, self._refund_signer
        if (offer.network, offer.asset) != (self.token.network.caip2, self.token.address):
            return f"it was paid in {offer.asset} on {offer.network}; this rail is elsewhere"
        if signer is None:
            return f"give the rail refund_key, the private key of {offer.payee}"
        if signer.address != offer.payee:
            return f"it was paid to {offer.payee}, and refund_key is the key of {signer.address}"
        return None if charge.payer is not None else "its payer is not known"

    async def refund(self, charge: Charge) -> Refunded | NotPaid | Failed | Unknown:
        """Give all that was taken back to who paid it; see `Refunds`."""
        hindered, signer = self.refund_obstacle(charge), self._refund_signer
        if hindered is not None or signer is None:
            return Failed(code="payment_declined", detail=hindered or "")
        await self._ready()
        authorization = _authorization(charge)
        signature = await signer.sign(self.token.domain, authorization)
        try:
            outcome = await self.chain.settle(self.token, authorization, signature)
        except PaymentRejected as error:
            if error.code in FINAL:  # an earlier try was mined after all
                found = await self.look_up_refund(charge)
                return Unknown(detail="an earlier try is being mined") if isinstance(found, Pending) else found
            return Failed(code=error.code, detail=error.detail)
        except OutcomeUnknown as error:
            return Unknown(detail=error.detail)
        if isinstance(outcome, Submitted):
            return Unknown(detail=f"{outcome.transaction} is not mined yet")
        return Refunded(transaction=outcome.transaction)

    async def look_up_refund(self, charge: Charge) -> Refunded | NotPaid | Failed | Pending | Unknown:
        """Find out whether a refund was taken; see `PaymentRail.lookup`."""
        await self._ready()
        expected, nonce = _authorization(charge), refund_nonce(charge)
        try:
            found = await self.chain.trace(self.token, charge.offer.payee, nonce, valid_before=expected.valid_before)
        except OutcomeUnknown as error:
            return Unknown(detail=error.detail)
        match found:
            case Transfer() if (found.to, found.value) == (expected.to, expected.value):
                return Refunded(transaction=found.transaction)
            case Transfer():
                return Unknown(detail=f"{found.transaction} used the refund's nonce, and moved something else by it")
            case Void():
                return Failed(code="payment_declined", detail="the payee's key has cancelled this refund for good")
            case Unused(expired=expired) if expired or self.chain.sees_submissions:
                return NotPaid()
            case _:
                return Pending()

    async def _ready(self) -> None:
        """Open the chain, where that could not be done yet."""


def _authorization(charge: Charge) -> Authorization:
    """Return what is signed to refund a charge: what was taken, from who took it, to who paid it."""
    try:
        payer = parse_address(charge.payer, "payer")
    except MalformedInput as error:
        raise OutcomeUnknown(f"the payer of charge {charge.id} is no address") from error
    return Authorization(
        from_=charge.offer.payee,
        to=payer,
        value=charge.amount,
        valid_after=0,
        valid_before=(charge.asked_at or 0) + REFUND_SECONDS,
        nonce=refund_nonce(charge),
    )
