"""Where a wallet gets its shared payment tokens from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentFailed, PaymentRejected, RailUnavailable
from rail402.protocol.base import Json, sha256_hex
from rail402.protocol.rail import Observation
from rail402_stripe.api import Refused, StripeApi

__all__ = [
    "CallableIssuer",
    "CreateToken",
    "IssuedTokens",
    "TestTokens",
    "TokenFacts",
    "TokenIssuer",
    "TokenTerms",
    "client_code",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTerms:
    """What a token is to be good for, and no more.

    Attributes:
        amount: minor units; currency: as Stripe writes it, in lower case.
        profile_id: the seller.
        expires_at: Unix seconds.
        payment_method_types: the kinds of payment method that the seller takes.
        reference: the purchase's id; the same one must give the same token, or at most one that is shown.
    """

    amount: int
    currency: str
    profile_id: str
    expires_at: int
    payment_method_types: tuple[str, ...]
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What Stripe says about a token.

    Attributes:
        captured: minor units that a seller has taken with it; `consumed`: nothing more can be taken.
        ended_at: since when no seller can begin to charge it, Unix seconds; None while one can.
        expires_at: when that ends by itself.
    """

    captured: int
    consumed: bool
    ended_at: int | None
    expires_at: int | None


CreateToken = Callable[[TokenTerms], Awaitable[str]]
"""Returns a token `spt_…`. Raises `PaymentFailed` where there is none to be had."""


class TokenIssuer(ABC):
    """A source of tokens that can be asked about them later."""

    @abstractmethod
    async def create(self, terms: TokenTerms) -> str:
        """Return a token for those terms.

        Raises:
            PaymentFailed: there is none; a token that nobody has seen is none.
            RailUnavailable: the source cannot be reached.
        """

    @abstractmethod
    async def look(self, spt: str) -> TokenFacts | None:
        """Return what is known about a token; None where the source cannot tell.

        Raises:
            RailUnavailable: the source cannot be reached.
        """

    async def revoke(self, spt: str) -> None:
        """Take a token back where the source can, so that no seller can begin to charge it; `look` says whether.

        Raises:
            RailUnavailable, OutcomeUnknown: perhaps it was not taken back.
        """

    async def examine(self) -> Sequence[Observation]:
        """Look whether it could issue tokens; see `Wallet.examine`."""
        return ()

    async def close(self) -> None:
        """Close its connections."""


class CallableIssuer(TokenIssuer):
    """A function of yours: Link, another agent platform, or whatever issues tokens for you. It tells nothing later."""

    def __init__(self, create_token: CreateToken) -> None:
        self._create_token = create_token

    async def create(self, terms: TokenTerms) -> str:
        """Call the function."""
        return await self._create_token(terms)

    async def look(self, spt: str) -> TokenFacts | None:
        """Return None."""
        return None


class _ApiIssuer(TokenIssuer):
    """What the two sources with a Stripe account share."""

    def __init__(self, api: StripeApi, payment_method: str) -> None:
        if not payment_method.startswith("pm_"):
            raise ConfigurationError("payment_method must be the id of a Stripe payment method: pm_…")
        self._api, self._payment_method = api, payment_method

    async def examine(self) -> list[Observation]:
        """Ask Stripe whether it knows the key."""
        await self._api.check_key()
        said, time = "Stripe accepts its key" + ("" if self._api.network == "stripe:live" else ", for test money"), None
        if self._api.sandbox_app is None:  # whose clock is this machine's
            with suppress(RailUnavailable):
                time = self._api.time
        return [Observation(said, time=time)]

    async def create(self, terms: TokenTerms) -> str:
        """Have Stripe issue a token; the same reference gives the same one for a day."""
        try:
            token = await self._make(terms, f"rail402:{terms.reference}:token")
        except PaymentRejected as error:  # refused or declined
            raise PaymentFailed(f"no shared payment token: {error.detail}", code=client_code(error)) from error
        except OutcomeUnknown as error:
            raise PaymentFailed("no shared payment token: no answer. If one was issued, nobody has it") from error
        if token.get("status") == "requires_action":
            raise PaymentFailed("a person has to approve the token first", code="action_required")
        found = token.get("id")
        if not isinstance(found, str):
            raise PaymentFailed("Stripe's answer is no shared payment token")
        return found

    async def look(self, spt: str) -> TokenFacts | None:
        """Ask Stripe."""
        try:
            token = await self._retrieve(spt)
        except Refused:
            return None  # of another account, that is, of an earlier configuration
        return _facts(token)

    async def revoke(self, spt: str) -> None:
        """Have Stripe revoke it."""
        with suppress(Refused):  # it has ended already
            await self._revoke(spt, f"rail402:{sha256_hex(spt.encode())}:revoke")

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    def _params(self, terms: TokenTerms) -> dict[str, Any]:
        limits = {"currency": terms.currency, "max_amount": terms.amount, "expires_at": terms.expires_at}
        return {"payment_method": self._payment_method, "usage_limits": limits}

    @abstractmethod
    async def _make(self, terms: TokenTerms, key: str) -> Json: ...

    @abstractmethod
    async def _retrieve(self, spt: str) -> Json: ...

    @abstractmethod
    async def _revoke(self, spt: str, key: str) -> None: ...


class IssuedTokens(_ApiIssuer):
    """Issues tokens from an account of one's own, on one of its payment methods (docs.stripe.com/agentic-commerce)."""

    async def _make(self, terms: TokenTerms, key: str) -> Json:
        seller = {"network_business_profile": terms.profile_id}
        return await self._api.issue_token(key, **self._params(terms), seller_details=seller)

    async def _retrieve(self, spt: str) -> Json:
        return await self._api.issued_token(spt)

    async def _revoke(self, spt: str, key: str) -> None:
        await self._api.revoke_token(spt, key, issued=True)


class TestTokens(_ApiIssuer):
    """Makes tokens with the test helper of the **seller's** account, as if a payer had issued them."""

    __test__: Final = False  # the name is Stripe's; pytest should not collect it

    async def _make(self, terms: TokenTerms, key: str) -> Json:
        seller = {"network_id": terms.profile_id}
        try:
            return await self._api.grant_token(key, **self._params(terms), seller_details=seller)
        except Refused as error:
            # Older versions of the API take the seller here, newer ones know it from the key.
            if error.stripe_code != "parameter_unknown":
                raise
            return await self._api.grant_token(f"{key}:own", **self._params(terms))

    async def _retrieve(self, spt: str) -> Json:
        return await self._api.granted_token(spt)

    async def _revoke(self, spt: str, key: str) -> None:
        await self._api.revoke_token(spt, key, issued=False)


def client_code(error: PaymentRejected) -> str:
    """Return what a payer's own error about a refusal or a decline is called."""
    return error.code if error.code in ("action_required", "insufficient_funds") else "payment_failed"


def _facts(token: Json) -> TokenFacts:
    limits, usage = _members(token, "usage_limits"), _members(token, "usage_details")
    captured = _members(usage, "amount_captured").get("value")
    return TokenFacts(
        captured=captured if type(captured) is int else 0,
        consumed=token.get("deactivated_reason") == "consumed",
        ended_at=_seconds(token.get("deactivated_at")),
        expires_at=_seconds(limits.get("expires_at")),
    )


def _members(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _seconds(value: object) -> int | None:
    return value if type(value) is int else None
