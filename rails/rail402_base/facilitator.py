"""Base USDC through x402 facilitators: services that hand authorizations in and pay the gas.

A facilitator is trusted with nothing but the work. What became of a payment is read from the chain: its "success"
counts once the chain shows the transfer, and its "failure" once the chain shows why. There is no call to ask one about
an earlier payment, so a way to look at the chain is not optional.

A second facilitator is tried only where the first never looked at a payment. Were both to hand it in, the contract
would take it once; but their answers would contradict each other. A payment that may have been handed in stays unknown
until the chain shows it, or shows that it has expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import httpx

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402_base.chain import FINAL, ChainView, Deposits, Submitted, Trace, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization, same_address
from rail402_base.facilitator_api import Facilitator, FacilitatorApi, TurnedAway
from rail402_base.facilitator_breaker import CircuitBreaker
from rail402_base.facilitator_wire import Settlement, SignedTransfer
from rail402_base.tokens import Network, Token

__all__ = ["Facilitator", "FacilitatorBackend", "Reader"]

logger = logging.getLogger("rail402.base")

T = TypeVar("T")

_SECONDS_BETWEEN_LOOKS: Final = (1, 1, 2, 2, 4, 4)
"""How long a transaction that a facilitator names is waited for: our node may be some blocks behind its."""

_KEPT_ALIVE_SECONDS: Final = 2
"""How long an idle connection is kept: less than servers do. A settlement that is sent into one that is being closed
would have an unknown outcome."""

_CODES: Final[Mapping[str, str]] = {
    "invalid_payload": "payload_invalid",
    "invalid_exact_evm_payload_signature": "signature_invalid",
    "invalid_exact_evm_payload_undeployed_smart_wallet": "wallet_undeployed",
    "invalid_exact_evm_payload_recipient_mismatch": "payee_mismatch",
    "invalid_exact_evm_payload_authorization_value": "amount_mismatch",
    "invalid_exact_evm_payload_authorization_value_mismatch": "amount_mismatch",
    "invalid_exact_evm_payload_authorization_valid_before": "authorization_expired",
    "invalid_exact_evm_payload_authorization_valid_after": "not_yet_valid",
    "insufficient_funds": "insufficient_funds",
    "invalid_exact_evm_insufficient_balance": "insufficient_funds",
    "invalid_exact_evm_nonce_already_used": "proof_already_used",
}
"""Our reason codes for those of x402's that are about the payment itself."""


class Reader(ChainView, Protocol):
    """A view of the chain that can be told where to look."""

    async def trace(
        self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int, transactions: Iterable[str] = ()
    ) -> Trace:
        """See `ChainView.trace`; `transactions` are hashes of those that may have used the authorization."""
        ...

    async def transfer_in(
        self, token: Token, authorization: Authorization, transaction: str
    ) -> Transfer | Submitted | None:
        """Return what a transaction did with an authorization: the transfer, `Submitted` where no block holds it yet,
        None where it is in a block and did not make the transfer."""
        ...


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a facilitator said of a settlement, as far as it goes.

    Attributes:
        detail: what it said.
        transaction: the hash that it named.
        is_refusal: whether it says that nothing was paid.
        by: who said it; None where it said nothing, or something else than it was asked.
    """

    detail: str
    transaction: str | None = None
    is_refusal: bool = False
    by: FacilitatorApi | None = None


_Finding = Trace | PaymentRejected | OutcomeUnknown | None
"""What the chain shows of a payment after a facilitator had it; in place of `Unused` why it was not taken, or that
nobody knows why. `Unused` is left where it may still come; None says that the chain cannot be looked at."""


class FacilitatorBackend:
    """Takes payments through x402 facilitators; implements `Chain`.

    Args:
        facilitators: one or several, tried in this order.
        reader: looks at the chain; its token is the one that is taken.
        verify: whether a facilitator is asked about a payment before it is accepted. Ours is the check that counts;
            theirs shows early that a facilitator will not settle it.
        max_failures: after how many failures in a row a facilitator is left alone.
        rest_seconds: for how long it is; then one call tries it again.
        clock: Unix seconds.
        sleep: waits that many seconds between two looks at the chain.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: there is no facilitator, or a number is not positive; see also `Facilitator`.
    """

    sees_submissions = False
    hands_in_refunds = False  # a facilitator settles what is paid to its sellers

    def __init__(
        self,
        facilitators: Facilitator | str | Iterable[Facilitator | str],
        *,
        reader: Reader,
        verify: bool = True,
        max_failures: int = 3,
        rest_seconds: int = 30,
        clock: Clock = system_clock,
        sleep: Callable[[int], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        given = (facilitators,) if isinstance(facilitators, Facilitator | str) else tuple(facilitators)
        if not given:
            raise ConfigurationError("facilitators: give at least one")
        if max_failures < 1 or rest_seconds < 1:
            raise ConfigurationError("max_failures and rest_seconds must be 1 or more")
        self.reader = reader
        self._verify, self._clock, self._sleep = verify, clock, sleep
        self._given, self._transport = transport, transport
        self._facilitators = []
        for each in given:
            facilitator = each if isinstance(each, Facilitator) else Facilitator(each)
            breaker = CircuitBreaker(
                facilitator.name, max_failures=max_failures, rest_seconds=rest_seconds, clock=clock
            )
            api = FacilitatorApi(facilitator, network=reader.network, breaker=breaker, transport=self._open_transport)
            self._facilitators.append(api)

    def __repr__(self) -> str:
        return f"FacilitatorBackend({[each.name for each in self._facilitators]!r}, reader={self.reader!r})"

    @property
    def network(self) -> Network:
        """The reader's chain."""
        return self.reader.network

    async def start(self) -> None:
        """Open the reader, and check that every facilitator that can be reached settles on this chain.

        One that cannot be reached is checked before its first payment.

        Raises:
            ConfigurationError: a facilitator does not, with the fix; or see the reader.
            RailUnavailable: no facilitator can be reached, or the chain cannot.
        """
        await self.reader.start()
        problems = []
        for each in self._facilitators:
            try:
                await each.check()
            except RailUnavailable as error:
                logger.warning("a facilitator is not used until it answers: %s", error.detail)
                problems.append(error.detail)
        if len(problems) == len(self._facilitators):
            raise RailUnavailable("; ".join(problems))

    async def close(self) -> None:
        """Close the connections, the reader's too."""
        transport, self._transport = self._transport, self._given
        if transport is not None:
            await transport.aclose()
        await self.reader.close()

    async def health(self) -> None:
        """Raise `RailUnavailable` where the chain cannot be looked at, or no facilitator can be used."""
        await self.reader.health()
        await self._first_that_can(self._check)

    async def balance_of(self, token: Token, address: str) -> int:
        """Return what an address holds; see `ChainView.balance_of`."""
        return await self.reader.balance_of(token, address)

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        """Check nonce and balance on the chain, then ask a facilitator; see `ChainView.check`.

        Raises:
            PaymentRejected: the token or the facilitator would not take it, with the reason code.
            RailUnavailable: the chain cannot be looked at, or no facilitator gives a verdict that can be believed.
        """
        await self.reader.check(token, authorization, signature)
        if not self._verify:
            return
        payment = SignedTransfer(token, authorization, signature)
        verdict = await self._first_that_can(lambda each: each.verify(payment, now=self._clock()))
        if not verdict.is_valid:
            code = _CODES.get(verdict.reason, "payment_declined")
            raise PaymentRejected(f"the facilitator would not settle it: {verdict.reason}", code=code)

    async def settle(self, token: Token, authorization: Authorization, signature: bytes) -> Transfer | Submitted:
        """Have a facilitator hand an authorization in, and see on the chain what came of it; see `Chain.settle`.

        Raises:
            PaymentRejected: the chain shows that it was not taken, and that it cannot be any more.
            OutcomeUnknown: the chain shows neither that nor the transfer.
            RailUnavailable: no facilitator has looked at it.
        """
        payment = SignedTransfer(token, authorization, signature)
        claim = await self._first_that_can(lambda each: self._hand_in(each, payment))
        # From here on money may have moved: nothing below says `RailUnavailable`.
        found = await self._look(payment, claim)
        for seconds in _SECONDS_BETWEEN_LOOKS if claim.transaction is not None else ():
            if not isinstance(found, Unused | None):
                break
            await self._sleep(seconds)
            found = await self._look(payment, claim)
        if claim.by is not None and found is not None:
            if isinstance(found, Unused | OutcomeUnknown):
                claim.by.breaker.failed(settling=True)
            else:
                claim.by.breaker.worked(settling=True)
        return _outcome(found, payment.authorization, claim)

    async def trace(self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int) -> Trace:
        """Find out what became of an authorization; see `ChainView.trace`."""
        return await self.reader.trace(token, authorizer, nonce, valid_before=valid_before)

    async def deposits_in(
        self, token: Token, transaction: str, payee: str, *, confirmations: int = 1
    ) -> Deposits | None:
        """Find out what a transaction brought to an address; see `ChainView.deposits_in`."""
        return await self.reader.deposits_in(token, transaction, payee, confirmations=confirmations)

    # --- the facilitators

    async def _first_that_can(self, call: Callable[[FacilitatorApi], Awaitable[T]]) -> T:
        """Call the facilitators in turn until one does not say `RailUnavailable`.

        Raises:
            RailUnavailable: all of them did.
        """
        problems, rest = [], []
        for each in self._facilitators:
            try:
                return await call(each)
            except RailUnavailable as error:
                logger.warning("the next facilitator is asked, if there is one: %s", error.detail)
                problems.append(error.detail)
                rest.append(error.retry_after)
        known = [seconds for seconds in rest if seconds is not None]
        raise RailUnavailable("; ".join(problems), retry_after=min(known) if known else None)

    async def _check(self, facilitator: FacilitatorApi) -> None:
        try:
            await facilitator.check()
        except ConfigurationError as error:  # it did, when we started
            raise RailUnavailable(error.detail) from error

    async def _hand_in(self, facilitator: FacilitatorApi, payment: SignedTransfer) -> _Claim:
        try:
            settlement = await facilitator.settle(payment, now=self._clock())
        except OutcomeUnknown as error:
            return _Claim(error.detail)
        except TurnedAway as error:
            claim = _Claim(error.detail)
            if isinstance(await self._look(payment, claim), Unused):
                raise
            return claim
        claim = _claim(facilitator, settlement, payment)
        if claim.by is None:
            facilitator.breaker.failed(settling=True)
        return claim

    def _open_transport(self) -> httpx.AsyncBaseTransport:
        if self._transport is None:
            # As many connections as there are payments: one that waits for its turn would count as unreachable.
            limits = httpx.Limits(
                max_connections=None, max_keepalive_connections=20, keepalive_expiry=_KEPT_ALIVE_SECONDS
            )
            self._transport = httpx.AsyncHTTPTransport(limits=limits)
        return self._transport

    # --- what the chain shows

    async def _look(self, payment: SignedTransfer, claim: _Claim) -> _Finding:
        authorization, named = payment.authorization, claim.transaction
        try:
            found = await self.reader.trace(
                payment.token,
                authorization.from_,
                authorization.nonce,
                valid_before=authorization.valid_before,
                transactions=() if named is None else (named,),
            )
            if not isinstance(found, Unused):
                return found
            if named is not None:
                made = await self.reader.transfer_in(payment.token, authorization, named)
                if made is not None:
                    return made if isinstance(made, Transfer) else found
            elif not claim.is_refusal:
                return found
            # What was handed in is over and done with, if they say so or the chain does. Then the chain shows why.
            await self.reader.check(payment.token, authorization, payment.signature)
        except PaymentRejected as error:
            return error
        except (RailUnavailable, OutcomeUnknown) as error:
            logger.warning("a settlement cannot be looked up now: %s", error.detail)
            return None
        return OutcomeUnknown(f"{claim.detail}; and the chain would take it")


def _claim(facilitator: FacilitatorApi, settlement: Settlement, payment: SignedTransfer) -> _Claim:
    """Compare what a facilitator says with what was asked for; nothing that contradicts it is believed."""
    name, hash_, network = facilitator.name, settlement.transaction, payment.token.network
    fits = {
        "payer": settlement.payer is None or same_address(settlement.payer, payment.authorization.from_),
        "network": settlement.network in (network.caip2, network.v1_name, None),
        "amount": settlement.amount in (str(payment.authorization.value), None),
    }
    if settlement.success:
        fits["network"] &= settlement.network is not None
        fits["transaction"] = hash_ is not None
    wrong = [what for what, is_right in fits.items() if not is_right]
    if wrong:
        return _Claim(f"{name} answered about another settlement: {', '.join(wrong)}", hash_)
    if settlement.success or (settlement.reason == "settlement_pending" and hash_ is not None):
        return _Claim(f"{name} has sent {hash_}", hash_, by=facilitator)
    return _Claim(f"{name} did not settle it: {settlement.reason}", hash_, is_refusal=True, by=facilitator)


def _outcome(found: _Finding, authorization: Authorization, claim: _Claim) -> Transfer | Submitted:
    """Return what settling came to, by what the chain shows; see `FacilitatorBackend.settle` for what is raised."""
    match found:
        case PaymentRejected(code=code) if code not in FINAL:
            # The facilitator has it, and can hand it in until it expires: the payer may have the money again by then.
            raise OutcomeUnknown(f"{claim.detail}; now the chain would not take it: {found.detail}")
        case PaymentRejected() | OutcomeUnknown():
            raise found
        case Transfer(to=to, value=value) if (to, value) == (authorization.to, authorization.value):
            return found
        case Transfer() | Void():
            raise PaymentRejected("the nonce was used for something else", code="proof_already_used")
        case Submitted():
            return found
    raise OutcomeUnknown(f"{claim.detail}; and the chain shows nothing of it")
