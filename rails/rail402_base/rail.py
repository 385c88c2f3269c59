"""The server side of Base USDC: what is offered, whether a payment is good, and taking it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.money import Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Failed, NotPaid, PaymentRail, Pending, Refunded, Settled, Terms, Unknown, Verified
from rail402_base.chain import FINAL, Chain, Submitted, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization, parse_address, parse_authorization
from rail402_base.preemption import preempted
from rail402_base.refunds import GivesBack
from rail402_base.sandbox_keys import open_sandbox, sandbox_signer
from rail402_base.tokens import BASE_USDC, Token, usdc_on
from rail402_base.transfers import MECHANISM, Transfers, accepted, order_terms, parse_proof
from rail402_base.validity import check_validity
from rail402_base.wire import ZERO_ADDRESS, BaseSpec, nonce_key, transfer_key

if TYPE_CHECKING:
    from rail402_base.facilitator_api import Facilitator
    from rail402_base.rpc.backend import RelaySettings

__all__ = ["BaseRail"]

logger = logging.getLogger("rail402.base")


class BaseRail(GivesBack, PaymentRail):
    """Takes EIP-3009 authorizations, by default of USDC; and plain transfers, where that is asked for.

    It gives nothing back unless it has the payee's key; see `with_refunds`.

    Args:
        chain: the way to the chain.
        pay_to: the address that is paid. Give an address to one store of charges only: an authorization that somebody
            else handed in counts as paid, so two gates that do not share a store could serve one payment each.
        token: what is taken; USDC of the chain's network unless given.
        transfers: which plain transfers are taken for payments as well, proven by a transaction's hash; none unless
            given. They are offered in the dialects `x-price`, `payment-uri` and `x-receipt`.

    `is_sandbox` is only said of the embedded sandbox, whose money is a line in a local file. A testnet is a real chain
    with real waiting and real failures, and a gate does not mix it with the sandbox: what is paid there is worth
    nothing, which its receipts say by their network.

    Raises:
        ConfigurationError: the address is not one, or the token lives on another chain.
    """

    has_fixed_terms = True

    def __init__(
        self, chain: Chain, *, pay_to: str, token: Token | None = None, transfers: Transfers | None = None
    ) -> None:
        self.token = token or usdc_on(chain.network)
        if self.token.network != chain.network:
            raise ConfigurationError(
                f"the token lives on {self.token.network.caip2} and the backend reaches {chain.network.caip2}"
            )
        self.spec = self._spec = BaseSpec(self.token, transfers=transfers is not None)
        self._transfers = transfers or Transfers()
        self.pay_to = self.payee = _address(pay_to)
        self.chain = chain
        self._is_open, self._opening = False, asyncio.Lock()
        # On an instance this is the flag of `PaymentRail`; on the class it is the constructor below.
        self.is_sandbox = chain.network.kind == "sandbox"
        self.is_test = chain.network.kind == "testnet"
        self.signers = tuple(getattr(chain, "signers", ()))

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        pay_to: str | None = None,
        transfers: Transfers | None = None,
        clock: Clock = system_clock,
    ) -> BaseRail:
        """Make a rail on play money, in the ledger that every sandbox of this directory shares.

        Args:
            directory: see `sandbox_directory`.
            pay_to: the address that is paid; one whose key is made and kept in the directory unless given, which also
                signs refunds.
            transfers: which plain transfers are taken.
            clock: Unix seconds.

        Raises:
            ConfigurationError: the directory or a file in it cannot be used.
        """
        home = open_sandbox(directory, clock=clock)
        if pay_to is not None:
            return cls(home.backend, pay_to=pay_to, transfers=transfers)
        ours = sandbox_signer(home.path, "publisher")
        return cls(home.backend, pay_to=ours.address, transfers=transfers).with_refunds(ours)

    @classmethod
    def rpc(
        cls,
        urls: str | Iterable[str],
        relayer_key: str,
        *,
        pay_to: str,
        token: Token = BASE_USDC,
        transfers: Transfers | None = None,
        relayer_db: str = "sqlite:///relayer.db",
        settings: RelaySettings | None = None,
        clock: Clock = system_clock,
    ) -> BaseRail:
        """Make a rail that hands authorizations in itself: no third party, and gas to be paid.

        Args:
            urls: JSON-RPC addresses of the chain, the preferred one first. Where there are several, a payment counts
                when all that can be reached agree. They may hold keys, and show nowhere.
            relayer_key: 64 hex digits: the key of the account that pays the gas. Secret. It never holds what is paid.
            pay_to: the address that is paid.
            token: what is taken; its network is the chain.
            transfers: which plain transfers are taken.
            relayer_db: where transactions are kept before they are sent: `sqlite:///` and a file, one for all workers
                of the machine; or the `postgresql://…` of several machines. A URL with a password is secret.
            settings: the ceiling of fees, and times.
            clock: Unix seconds.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        from rail402_base.rpc.backend import RpcBackend
        from rail402_base.rpc.reader import ChainReader

        reader = ChainReader(urls, token, clock=clock)
        backend = RpcBackend(reader, relayer_key, store=relayer_db, settings=settings, clock=clock)
        return cls(backend, pay_to=pay_to, token=token, transfers=transfers)

    @classmethod
    def facilitator(
        cls,
        facilitators: Facilitator | str | Iterable[Facilitator | str],
        urls: str | Iterable[str],
        *,
        pay_to: str,
        token: Token = BASE_USDC,
        transfers: Transfers | None = None,
        clock: Clock = system_clock,
    ) -> BaseRail:
        """Make a rail that has an x402 facilitator hand authorizations in, which pays the gas.

        Args:
            facilitators: their addresses, tried in this order.
            urls: JSON-RPC addresses of the chain, for reading: a facilitator's word is checked there, and what became
                of a payment that it did not answer for.
            pay_to: the address that is paid.
            token: what is taken; its network is the chain.
            transfers: which plain transfers are taken.
            clock: Unix seconds.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        from rail402_base.facilitator import FacilitatorBackend
        from rail402_base.rpc.reader import ChainReader

        reader = ChainReader(urls, token, clock=clock)
        backend = FacilitatorBackend(facilitators, reader=reader, clock=clock)
        return cls(backend, pay_to=pay_to, token=token, transfers=transfers)

    async def start(self) -> None:
        """Open the chain, and see that the token is on it.

        Settings that are wrong stop the app. A chain that cannot be reached, or a token that is paused, does not: the
        rail tries again with the next request that needs it.

        Raises:
            ConfigurationError: see the backend.
            RailUnavailable: the chain cannot be used now, or is being opened already.
        """
        if self._opening.locked():  # a node that hangs must not make requests wait in line
            raise RailUnavailable(f"{self.token.network.title} cannot be used yet")
        async with self._opening:
            await self.chain.start()
            await self.chain.balance_of(self.token, self.pay_to)
            self._is_open = True

    async def _ready(self) -> None:
        if not self._is_open:  # it could not be used at the start
            try:
                await self.start()
            except ConfigurationError as error:
                logger.error("%s", error)
                raise RailUnavailable(error.detail) from error

    async def close(self) -> None:
        """Close the chain."""
        self._is_open = False
        await self.chain.close()

    async def health(self) -> None:
        """Raise `RailUnavailable` where the chain cannot be used now."""
        try:
            await self.chain.health()
        except ConfigurationError as error:  # it was the right chain when we started
            raise RailUnavailable(error.detail) from error

    async def received(self) -> Money:
        """Return what the address that is paid holds; in the sandbox that is all it was ever paid.

        Raises:
            RailUnavailable: the chain cannot be asked.
        """
        held = await self.chain.balance_of(self.token, self.pay_to)
        return Money.from_atomic(held, self.token.decimals, self.token.symbol)

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        """Make an offer; any amount can be paid in a token."""
        await self._ready()
        if mechanism.name == MECHANISM:
            return self._spec.transfer_offer(
                self.token,
                payee=self.pay_to,
                amount=terms.amount,
                expires_at=terms.expires_at,
                timeout_seconds=terms.timeout_seconds,
                extra=order_terms(order),
            )
        return self._spec.offer(
            self.token,
            payee=self.pay_to,
            amount=terms.amount,
            flow=terms.flow,
            expires_at=terms.expires_at,
            timeout_seconds=terms.timeout_seconds,
        )

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Check when the payment is valid, then its nonce and the payer's balance; see `PaymentRail.verify`."""
        if offer.mechanism == MECHANISM:
            return await self._verify_transfer(offer, payment, verified, now=now)
        authorization, signature = parse_authorization(payment.payload)
        check_validity(offer, authorization, now=now)
        await self._ready()
        try:
            await self.chain.check(self.token, authorization, signature)
        except PaymentRejected as error:
            if error.code == "proof_already_used":
                transfer = await preempted(self.chain, self.token, offer, authorization, now=now)
                if transfer is not None:
                    return replace(verified, keys=verified.keys | {self._key(transfer)}, came_before=True)
            raise
        return verified

    async def _verify_transfer(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Look for the transfer on the chain, and take down all that there is to know of it: it has happened."""
        transaction = parse_proof(payment.payload).transaction
        await self._ready()
        found = await self.chain.deposits_in(
            self.token, transaction, offer.payee, confirmations=self._transfers.confirmations
        )
        deposit = accepted(self._transfers, offer, found, signer=verified.payer, now=now)
        used = {nonce_key(self.token, deposit.payer, nonce) for nonce in deposit.nonces}
        return replace(
            verified,
            payer=deposit.payer,
            keys=verified.keys | used | {transfer_key(self.token, transaction, deposit.log_index)},
            state={
                "transaction": transaction,
                "log_index": deposit.log_index,
                "from": deposit.payer,
                # A text, because no JSON number holds the largest of them; perhaps more than the price.
                "received": str(deposit.value),
            },
        )

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed | Unknown:
        """Hand the authorization in, or note that the transfer has been seen; see `PaymentRail.settle`."""
        if charge.offer.mechanism == MECHANISM:
            return _seen(charge)
        assert payment is not None, "nothing is ever held on this rail"
        authorization, signature = parse_authorization(payment.payload)
        await self._ready()
        try:
            outcome = await self.chain.settle(self.token, authorization, signature)
        except PaymentRejected as error:
            if error.code in FINAL:
                return await self._used_by_another(charge, authorization)
            return Failed(code=error.code, detail=error.detail)
        except OutcomeUnknown as error:
            return Unknown(detail=error.detail)
        if isinstance(outcome, Submitted):
            return Unknown(detail=f"{outcome.transaction} is not mined yet", state={"transaction": outcome.transaction})
        return self._settled(charge, outcome)

    async def _used_by_another(self, charge: Charge, authorization: Authorization) -> Settled | Failed | Unknown:
        """Find out who used the nonce before our transaction; of one that has expired too, which may have been used.

        Anybody who sees an authorization can hand it in first (preemption). The money is ours then all the same, if it
        was this authorization and not another one with the same nonce.
        """
        try:
            found = await self.chain.trace(
                self.token, authorization.from_, authorization.nonce, valid_before=authorization.valid_before
            )
        except (RailUnavailable, OutcomeUnknown) as error:
            return Unknown(detail=error.detail)
        if isinstance(found, Transfer):
            return self._settled_if_ours(charge, found)
        if isinstance(found, Void):
            return _VOID
        if found == Unused(expired=True):
            return Failed(code="authorization_expired", detail="it was not taken while it was valid")
        return Unknown(detail="the token takes it no more, and the chain does not say what became of it")

    async def lookup(
        self, charge: Charge, operation: Operation
    ) -> Settled | Refunded | NotPaid | Failed | Pending | Unknown:
        """Find out whether the authorization was taken, or that of a refund; see `PaymentRail.lookup`."""
        if operation is Operation.REFUND:
            return await self.look_up_refund(charge)
        assert operation is Operation.SETTLE, "this rail does nothing else"
        if charge.offer.mechanism == MECHANISM:
            return _seen(charge)
        if (charge.offer.network, charge.offer.asset) != (self.token.network.caip2, self.token.address):
            return Unknown(
                detail=f"it was paid in {charge.offer.asset} on {charge.offer.network}; this rail is elsewhere"
            )
        state = charge.rail_state
        nonce, valid_before = bytes.fromhex(state["nonce"][2:]), int(state["valid_before"])
        await self._ready()
        try:
            found = await self.chain.trace(self.token, state["from"], nonce, valid_before=valid_before)
        except OutcomeUnknown as error:
            return Unknown(detail=error.detail)
        match found:
            case Transfer():
                return self._settled_if_ours(charge, found)
            case Void():
                return _VOID
            case Unused(expired=expired) if expired or self.chain.sees_submissions:
                return NotPaid()
            case _:
                return Pending()

    def _settled_if_ours(self, charge: Charge, transfer: Transfer) -> Settled | Failed:
        if (transfer.to, transfer.value) != (charge.offer.payee, charge.offer.amount):
            return Failed(code="proof_already_used", detail="the payer used the nonce for another transfer")
        return self._settled(charge, transfer)

    def _settled(self, charge: Charge, transfer: Transfer) -> Settled:
        return Settled(
            transaction=transfer.transaction,
            at=transfer.at,
            keys=frozenset({self._key(transfer)}),
        )

    def _key(self, transfer: Transfer) -> ConsumptionKey:
        return transfer_key(self.token, transfer.transaction, transfer.log_index)


def _seen(charge: Charge) -> Settled:
    """Return what was found on the chain before the charge was claimed; a deep transfer is believed for good."""
    return Settled(transaction=charge.rail_state["transaction"], payer=charge.rail_state["from"])


_VOID: Final = Failed(code="proof_already_used", detail="the payer cancelled the authorization")


def _address(pay_to: str) -> str:
    try:
        address = parse_address(pay_to, "pay_to", eip55=True)
    except MalformedInput as error:
        raise ConfigurationError(error.detail) from error
    if address == ZERO_ADDRESS:
        raise ConfigurationError("pay_to: is the zero address, which nobody has the key of")
    return address
