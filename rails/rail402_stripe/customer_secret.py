"""The wallet of a publisher's own customer who has saved a payment method there: it shows a secret, and no more."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentFailed
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown, Wallet
from rail402_stripe.proofs import ProofKind, payload_of, proof_kinds_of, proof_of
from rail402_stripe.wire import MECHANISM, Network, StripeSpec

__all__ = ["CustomerSecretWallet"]


class _Spec(StripeSpec):
    """Stripe at one origin, and nowhere else."""

    def __init__(self, network: Network, origin: str) -> None:
        super().__init__(network)
        self._origin = origin

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        """Refuse what another origin asks for; see `RailSpec`."""
        super().check_offer(offer, order, now=now)
        if order.origin != self._origin:
            raise OfferRefused(f"the customer's secret is for {self._origin} alone")


class CustomerSecretWallet(Wallet):
    """Has one publisher charge what its customer saved there, without the customer being there.

    The publisher could do that unasked; whom it charges is agreed with the customer, not with this program. So it is
    believed when it says that it did not, and the amount of such a payment stays counted in the hour and the day.

    Args:
        secret: what the publisher knows the customer by.
        origin: the publisher's origin, `https://api.example.com`: the only one that is shown the secret.
        network: which Stripe the publisher uses.

    Raises:
        ConfigurationError: the secret has not the form of one, or the origin is none.
    """

    def __init__(self, secret: str, origin: str, *, network: Network = "stripe:live") -> None:
        try:
            proof_of(payload_of(secret, None, ProofKind.CUSTOMER))
        except MalformedInput as error:
            raise ConfigurationError("the secret must be of 16 to 512 printable ASCII characters") from error
        scheme, _, host = origin.partition("://")
        if scheme not in ("https", "http") or not host or "/" in host or host != host.lower():
            raise ConfigurationError("origin must look like https://api.example.com, in lower case and without a path")
        self.spec = _Spec(network, origin)
        self.name = f"{network} customer of {host}"
        self._secret, self._origin, self._network = secret, origin, network

    def __repr__(self) -> str:
        return f"CustomerSecretWallet(origin={self._origin!r}, network={self._network!r})"

    @classmethod
    def sandbox(cls, secret: str, origin: str) -> CustomerSecretWallet:
        """Make a wallet for a publisher in the sandbox."""
        return cls(secret, origin, network="stripe:sandbox")

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price; None where the network is another one, or the seller takes no customers."""
        if (offer.mechanism, offer.network) != (MECHANISM, self._network):
            return None
        return Cost(price=offer.price) if ProofKind.CUSTOMER in proof_kinds_of(offer) else None

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Return the secret as the proof. Nothing is asked of anybody; see `Wallet.pay`.

        Raises:
            PaymentFailed: the offer is none of the wallet's.
        """
        if await self.can_pay(offer) is None or offer.expires_at <= now:
            raise PaymentFailed(f"the wallet does not pay {offer.price} on {offer.network}", record_id=record_id)
        return Paid(payload=self._proof(offer), fee=Money(Decimal(0), offer.currency))

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Say that only the publisher knows: the proof is shown again to find out; see `Wallet.resume`."""
        return NotPaid() if payload is None else Unknown(detail="only the publisher knows whether it has charged")

    async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
        """Believe the publisher that it did not charge, and will not for this offer; see `Wallet.withdraw`."""
        return True

    def _proof(self, offer: Offer) -> dict[str, Any]:
        return payload_of(self._secret, offer.extra.get("external_id"), ProofKind.CUSTOMER)
