"""What a rail implements: a pure part that both ends share, a server side and a client side.

Dialects own envelopes, rails own payloads: a rail says how its offers and proofs look inside each dialect it speaks
(`RailSpec.bindings`), and never sees a header. A third-party rail is one package with these three classes;
`rail402.testing.fakes` is a small and complete one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rail402.errors import ConfigurationError
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.outcome import (
    Cost,
    Failed,
    Held,
    NotPaid,
    Observation,
    Paid,
    Pending,
    Refunded,
    Released,
    Settled,
    Unknown,
    Verified,
)
from rail402.protocol.payment import ConsumptionKey, Payment

__all__ = [
    "Binding",
    "Cost",
    "Failed",
    "Held",
    "Holds",
    "NotPaid",
    "Observation",
    "OwnWords",
    "Paid",
    "PaymentRail",
    "Pending",
    "PublicHalves",
    "RailSpec",
    "Refunded",
    "Refunds",
    "RefundsOnDemand",
    "Registry",
    "Released",
    "Settled",
    "Terms",
    "Unknown",
    "Verified",
    "Wallet",
]


# --- the shared part -----------------------------------------------------------------------------------------------


class Binding(Protocol):
    """How a rail's offers and proofs look inside one dialect. All four are pure.

    `encode_offer` returns None where this dialect cannot say the offer, because of its mechanism, say. `decode_*`
    return None where the JSON is some other rail's, and raise `MalformedInput` naming the member where it is theirs
    and wrong. `expires_at` is Unix seconds: from the token on the server, from the challenge on the client.
    What the JSON is: in `x402-v2` a PaymentRequirements object without the token, and `payload`; in `mpp`
    `{"method", "intent", "request"}`, and the credential's `payload`; in `x-receipt` the `payment` object, and
    `{"receipt": text}`; in `x-payment` the object of the field, in `x-price` `{"price", "currency", "paymentAddress"}`
    and what else is needed, in `payment-uri` `{"uri": text}`, and in these three `{"proof": object}`.

    Where `fixed_terms` is there and true, `encode_offer` is asked once for all offers of the same terms: it looks at
    neither token nor expiry, which the dialects say. It is for rails whose offers have the same terms again and again.
    """

    def encode_offer(self, offer: Offer) -> Json | None: ...

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None: ...

    def encode_proof(self, payload: Json) -> Json: ...

    def decode_proof(self, wire: Json) -> Json | None: ...


@runtime_checkable
class OwnWords(Protocol):
    """A binding that has words of its own for some reason codes: x402 has them for each scheme and network."""

    @property
    def reasons(self) -> Mapping[str, str]: ...


class RailSpec(Protocol):
    """The part of a rail that server and client share; pure.

    Attributes:
        name: the rail's name, such as `base`.
        mechanisms: the ways it moves money.
        bindings: by dialect name.
        bare_replay: whether a proof alone, without the token it came with, replays a stored response: true for a
            preimage, which only its payer learns, false for what is public on a chain. See also `Verified.is_payer`.
    """

    @property
    def name(self) -> str: ...

    @property
    def bare_replay(self) -> bool: ...

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]: ...

    @property
    def bindings(self) -> Mapping[str, Binding]: ...

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the consumption keys that can be read off the payment itself.

        Raises:
            MalformedInput: a member is missing or has the wrong form.
        """

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        """Check all that needs no money state: signature, preimage against hash, amount, payee, network.

        It is run on every presentation, replays included.

        Raises:
            PaymentRejected: with the reason code.
        """

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        """Check what a client must verify before paying: invoice amount and payee, domain, expiry, binding.

        Raises:
            OfferRefused: the offer is not what it claims to be.
        """


@runtime_checkable
class PublicHalves(Protocol):
    """A spec whose proofs have a public half that may be sent by mistake: a payment hash for its preimage."""

    def mistaken_keys(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the keys that would fit then, for a clear 400 instead of a challenge, which asks to pay once more."""


# --- the server side -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the publisher asks of one offer.

    Args:
        amount: atomic units of the mechanism's asset, already converted and rounded up.
        flow: when money moves; one of the mechanism's flows.
        now: Unix seconds.
        expires_at: Unix seconds until which the offer is honoured.
        timeout_seconds: how long the payment must stay valid: the handler's deadline, the settle budget and a margin.
        description: what is sold, for people.
        dialects: names of the dialects that the route speaks; None where that is not known.
    """

    amount: int
    flow: Flow
    now: int
    expires_at: int
    timeout_seconds: int
    description: str = ""
    dialects: Collection[str] | None = None


class PaymentRail(ABC):
    """The server side of a rail. Its methods raise `RailUnavailable` while nothing can have happened.

    Attributes:
        spec: the part that its wallets share.
        payee: who is paid, as its offers name it; None: not known yet. The gate takes no payment for another's offer.
        is_sandbox: only play money moves on it; receipts say so.
        is_test: its service is real and its money worth nothing: a test network, a test mode.
        takes_less: a held amount may be captured in part: `settle` takes `charge.amount`.
        max_offer_seconds: for how long an offer may be good at most; None for as long as the gate says.
        has_fixed_terms: offers for one order at one price differ in nothing but their expiry, so that a payment which
            comes without its offer can be checked against one that is made anew.
        mints_offers: its backend makes each offer and keeps it, as an invoice; the gate limits how many are made.
        signers: the accounts that hand payments in, and pay for it; for `/supported` of a facilitator.

    Where a settlement's outcome is unknown, `Unknown.state` has the `transaction` that was sent, if the rail knows it.
    """

    spec: RailSpec
    payee: str | None = None
    is_sandbox: bool = False
    is_test: bool = False
    takes_less: bool = False
    has_fixed_terms: bool = False
    mints_offers: bool = False
    signers: Sequence[str] = ()
    max_offer_seconds: int | None = None

    async def start(self) -> None:
        """Open connections and check the configuration against the backend."""

    async def close(self) -> None:
        """Close what `start` opened."""

    async def health(self) -> None:
        """Raise `RailUnavailable` where the backend cannot be used now."""

    @abstractmethod
    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        """Make an offer without its token; None where this price cannot be served (below a minimum, say)."""

    def issued_key(self, offer: Offer) -> ConsumptionKey | None:
        """Return the key by which an unpaid offer is recognised in a dialect without an echo (an invoice's hash).

        The gate then keeps an issued row. None, the default: such a payment needs no row, or cannot be served.
        """
        return None

    @abstractmethod
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Check the money state of a payment that is not known yet: balance, nonce, validity, limits; cheap first.

        Returns:
            `verified`, completed where the rail learnt more.

        Raises:
            PaymentRejected: with the reason code; nothing is used up.
        """

    @abstractmethod
    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed | Unknown:
        """Take the money, or capture what is held. `Failed` is definitive.

        `payment` is None when the reconciler captures a held charge.
        """

    def refund_obstacle(self, charge: Charge) -> str | None:
        """Say why this charge's money cannot be given back here (no key for it, paid to another account); None, the
        default, where it can. It is asked of rails that are `Refunds`, before anything is written."""
        return None

    def least_taken(self, offer: Offer, amount: int) -> int:
        """Return what is taken of a held `offer` where only `amount` is asked: that, or the least above it that can be.

        Args:
            amount: atomic units, at most the offer's; at the start the fixed prices, to find those too small to charge.
        """
        return amount

    @abstractmethod
    async def lookup(
        self, charge: Charge, operation: Operation
    ) -> Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown:
        """Find out what became of an operation whose answer was lost. It never moves money."""


@runtime_checkable
class Holds(Protocol):
    """A rail that can reserve an amount first (the escrow flow)."""

    async def hold(self, charge: Charge, payment: Payment) -> Held | NotPaid | Failed | Unknown: ...

    async def release(self, charge: Charge) -> Released | Settled | Unknown: ...


@runtime_checkable
class Refunds(Protocol):
    """A rail that can give the money back: `charge.amount` to `charge.payer`, and to nobody else.

    Whatever `lookup` calls undone must stay so: `charge.asked_at` says since when the call may be under way. One that
    only can it to where its payer asks for it is `RefundsOnDemand`.
    """

    async def refund(self, charge: Charge) -> Refunded | NotPaid | Failed | Unknown: ...


@runtime_checkable
class RefundsOnDemand(Protocol):
    """A rail that gives the money back to where its payer says, who proves to be the payer.

    `Gate.refund` then only grants the refund; the payer fetches it at an address of the rail's own (`Endpoints`), which
    calls `Desk.pay_back`.
    """

    async def pay_back(self, charge: Charge) -> Refunded | NotPaid | Failed | Unknown:
        """Give the money back to where `charge.rail_state` says by now."""


# --- the client side -----------------------------------------------------------------------------------------------


class Wallet(ABC):
    """The client side of a rail: something that holds money and can pay an offer."""

    spec: RailSpec
    name: str = ""
    advice: Mapping[str, str] = {}  # what to say where a server refuses its payment, by reason code
    origins_for_people: frozenset[str] = frozenset()  # where, beside the seller's own, this rail lets people act

    @property
    def networks(self) -> frozenset[str]:
        """The networks that it pays on. Its `spec` may read offers on more."""
        return frozenset(mechanism.network for mechanism in self.spec.mechanisms)

    async def start(self) -> None:
        """Open connections."""

    async def close(self) -> None:
        """Close what `start` or `examine` opened."""

    async def examine(self) -> Sequence[Observation]:
        """Open it as `start` does, and look whether it could pay, for `rail402 doctor`. Nothing is paid meanwhile, and
        nothing that was begun before is gone on with. Raises what `start` does."""
        await self.start()
        return ()

    @abstractmethod
    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return what the offer would cost; None where this wallet cannot pay it (another network, no balance)."""

    @abstractmethod
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Pay, and return the proof. The journal's record `record_id` is already written.

        Raises:
            PaymentFailed: definitively nothing was paid.
            PaymentOutcomeUnknown: perhaps paid; `resume` finds out. PaymentActionRequired: a person must act first.
        """

    @abstractmethod
    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Find out what became of a payment after a crash or a time-out; raise `PaymentActionRequired` while it waits.

        Args:
            payload: the proof, where it was already in the journal.
        """

    def for_order(self, offer: Offer, order: Order) -> Offer:
        """Return the offer with what a payment of it must name of the order; the offer itself where that is nothing."""
        return offer

    async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
        """Take back a proof that its server has refused for good; return whether no new payment can be made with it."""
        return False


# --- the registry --------------------------------------------------------------------------------------------------


class Registry:
    """The rails that one gate or one payer has, by name. Nothing is enabled by being installed."""

    def __init__(self, specs: Iterable[RailSpec]) -> None:
        self._specs: dict[str, RailSpec] = {}
        for spec in specs:
            if self._specs.setdefault(spec.name, spec) is not spec:
                raise ConfigurationError(f"two rails are called {spec.name!r}; give one of them another name")

    def __iter__(self) -> Iterator[RailSpec]:
        return iter(self._specs.values())

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def __getitem__(self, name: str) -> RailSpec:
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(sorted(self._specs)) or "none"
            raise ConfigurationError(f"there is no rail {name!r}; the rails here are: {known}") from None

    def binding(self, rail: str, dialect: str) -> Binding | None:
        """Return how `rail` speaks `dialect`, or None where it does not."""
        spec = self._specs.get(rail) or self[rail]  # which says what is there instead
        return spec.bindings.get(dialect)

    def word(self, rail: str, dialect: str, code: str) -> str | None:
        """Return what `rail` calls a reason code in `dialect`, or None where it has no word of its own for it."""
        if rail not in self:
            return None
        binding = self.binding(rail, dialect)
        return binding.reasons.get(code) if isinstance(binding, OwnWords) else None

    def speaking(self, dialect: str) -> Iterator[tuple[RailSpec, Binding]]:
        """Yield every rail that speaks `dialect`, with how."""
        for spec in self:
            binding = spec.bindings.get(dialect)
            if binding is not None:
                yield spec, binding
