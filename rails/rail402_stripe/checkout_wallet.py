"""A wallet that is a person: it has a link to Stripe's hosted Checkout made, and somebody pays there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import httpx

from rail402.errors import PaymentActionRequired, PaymentFailed
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown, Wallet
from rail402_stripe.preparing import Seller
from rail402_stripe.proofs import ProofKind, checkout_url_of, payload_of
from rail402_stripe.wire import MECHANISM, Network, StripeSpec

__all__ = ["CheckoutWallet"]

LINK_SECONDS: Final = 3600
"""Seconds after an offer's end at which no link that was made for it is open any more, if its seller keeps to this."""

_ORIGINS: Final = ("https://checkout.stripe.com",)
_LINK: Final = "url"

_is_session = re.compile(r"cs_(test|live)_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch


class CheckoutWallet(Wallet):
    """Lets a person pay, at a link: every payment raises `PaymentActionRequired`, and goes on when it is paid.

    It holds no money and no key, and asks the budget all the same. What is charged the person sees at Stripe. Put it
    last: it pays where the others cannot, a card that wants 3-D Secure among them.

    Args:
        network: which Stripe the links are of.
        origins: further origins at which links may be, such as a seller's own domain for Checkout. Links at the
            seller's own origin are always shown.
        transport: carries the requests to the seller instead of the network.
    """

    def __init__(
        self,
        *,
        network: Network = "stripe:live",
        origins: Iterable[str] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.spec = StripeSpec(network)
        self.name = f"{network} checkout"
        self.origins_for_people = frozenset({*_ORIGINS, *origins})
        self._network, self._seller = network, Seller(transport)

    def __repr__(self) -> str:
        return f"CheckoutWallet(network={self._network!r})"

    @classmethod
    def sandbox(cls, *, transport: httpx.AsyncBaseTransport | None = None) -> CheckoutWallet:
        """Make a wallet for links of the sandbox, which the seller itself serves."""
        wallet = cls(network="stripe:sandbox", transport=transport)
        wallet.origins_for_people = frozenset()
        return wallet

    async def close(self) -> None:
        """Close the connections."""
        await self._seller.close()

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price; None where the network is another one, or the seller has no links."""
        if (offer.mechanism, offer.network) != (MECHANISM, self._network) or checkout_url_of(offer) is None:
            return None
        return Cost(price=offer.price)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Have a link made; see `Wallet.pay`.

        Raises:
            PaymentActionRequired: always, where there is a link.
            PaymentFailed: there is none.
            RailUnavailable: the seller cannot be reached.
        """
        place = checkout_url_of(offer)
        if await self.can_pay(offer) is None or offer.expires_at <= now or place is None:
            raise PaymentFailed(f"the wallet does not pay {offer.price} on {offer.network}", record_id=record_id)
        answer = await self._seller.prepare(place, offer, "checkout")
        session, url = answer.get("checkout_session"), answer.get("url")
        mode = _is_session(session) if isinstance(session, str) else None
        if mode is None or (mode[1] == "live") is not (self._network == "stripe:live") or not isinstance(url, str):
            raise PaymentFailed("what the seller has prepared is no Checkout Session", record_id=record_id)
        proof = payload_of(mode[0], offer.extra.get("external_id"), ProofKind.CHECKOUT_SESSION)
        raise PaymentActionRequired(url=url, proof={**proof, _LINK: url}, record_id=record_id)

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Say that it waits for a person, while its link may be open; see `Wallet.resume`.

        Whether it was paid only the seller and the person know: the proof is shown again to find out.
        """
        if payload is None:
            return NotPaid()  # a link that nobody has seen
        if now <= offer.expires_at + LINK_SECONDS:
            url = payload.get(_LINK)
            raise PaymentActionRequired(url=url if isinstance(url, str) else None)
        return Unknown(detail="whether the person has paid is for the seller to say")

    async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
        """Believe the seller that it was not paid, once its link cannot be paid any more; see `Wallet.withdraw`."""
        return now > offer.expires_at + LINK_SECONDS
