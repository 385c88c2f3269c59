"""The payer: wallets, a budget and a journal, as a transport for httpx."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx

from rail402.client.background import BackgroundLoop
from rail402.client.budget import Budget, Level, Spent
from rail402.client.httpx import AsyncPayingTransport, PayingTransport, quote
from rail402.client.journal import Journal, JournalConflict
from rail402.client.limits import Room
from rail402.client.preference import Preference
from rail402.client.presenting import Attempt
from rail402.client.progress import OnProgress
from rail402.client.records import Approve, PurchaseRecord, PurchaseState, Quote
from rail402.client.redaction import redact_logs
from rail402.client.room import least_room
from rail402.client.services import RESERVE_LEASE, Ask, Services
from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.dialects import DEFAULT_DIALECTS
from rail402.errors import ConfigurationError, Outcome, RailUnavailable
from rail402.protocol.dialect import Dialect
from rail402.protocol.rail import NotPaid, Paid, Registry, Wallet
from rail402.rates import RateSource

__all__ = ["Payer", "Recovered"]

T = TypeVar("T")

logger = logging.getLogger("rail402.client")

_DEADLINE: Final = 30
_NOT_PAID: Final = "the wallet found that it was not paid"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of a purchase.

    Attributes:
        outcome: `not_paid`: it is released. `paid`: it is spent, and the same request fetches what was bought.
            `unknown`: not known yet, or a proof in hand was perhaps not taken; the same request goes on with it.
    """

    record: PurchaseRecord
    outcome: Outcome


class Payer:
    """Pays for what is answered with 402, within a budget, each purchase once.

    ::

        payer = Payer([LightningWallet(...), BaseWallet(...)], budget=Budget(per_request="0.10 USD"))
        async with payer, httpx.AsyncClient(transport=payer.transport()) as client:
            response = await client.get("https://api.example.com/article/402")
            response.extensions["rail402"].receipt

    Args:
        wallets: in order of preference: the first one that can pay any offer within the budget pays.
        budget: the limits; the defaults of `Budget` if left out.
        journal: the record of purchases, `sqlite:///wallet.db` or `sqlite:////absolute.db`; for several machines
            `postgresql://user:password@host/database`; or a `Journal`. Payers that share it share the budget.
        dialects: the wire formats to understand, the preferred ones first.
        rates: rates for limits that are in another currency than an offer.
        clock: returns Unix seconds; random_bytes: returns that many unpredictable bytes.
        deadline: seconds for which a payment is shown again before `PaymentOutcomeUnknown`.

    Attributes:
        sleep: awaited with the seconds of each pause; a test may replace it.
        on_action: set it to have a person asked in the middle of a call: an async function of a URL, which may be shown
            to people, and the offer. It returns when the person has acted, or has not; what became of the payment is
            asked of the wallet until the call's `deadline`, which counts the person's time. Without it, or without
            success, the call raises `PaymentActionRequired`, and the same request goes on with it later.
        approve: set it to have the owner asked before something unusual is bought: an async function of a `Quote` that
            returns whether to buy that. It is asked about what costs more than the budget's `ask_above`, and about
            changes of what is pinned. Without it, and without a yes in time, nothing is paid.
        on_progress: set it to be told of every step of a call, such as what is paid and how long it waits; see
            `rail402.client.progress`. It is called in the caller's thread, and must neither wait nor raise.
        preferences: set it to have wallets asked in another order for some hosts and paths; see `Preference`.
        file_limits: set it to the budget that a configuration file says, before the payer starts. The journal remembers
            it; where it is looser than what was confirmed last, nothing is bought until `rail402 budget confirm`.

    Raises:
        ConfigurationError: there is no wallet, or two have the same name.
    """

    def __init__(
        self,
        wallets: Sequence[Wallet],
        budget: Budget | None = None,
        journal: str | Journal = "sqlite:///wallet.db",
        dialects: Sequence[Dialect] = DEFAULT_DIALECTS,
        rates: RateSource | None = None,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
        deadline: int = _DEADLINE,
    ) -> None:
        redact_logs()
        self._wallets = _by_name(wallets)
        self.budget = budget or Budget()
        self.journal = Journal(journal) if isinstance(journal, str) else journal
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._starting = asyncio.Lock()
        self._told_limits = False
        self._loop = BackgroundLoop()
        specs = {wallet.spec.name: wallet.spec for wallet in reversed(wallets)}
        self._services = Services(
            wallets={},
            registry=Registry(specs.values()),
            dialects=tuple(dialects),
            budget=self.budget,
            journal=self.journal,
            rates=rates,
            clock=clock,
            random_bytes=random_bytes,
            sleep=lambda seconds: self.sleep(seconds),
            deadline=deadline,
            start=self.start,
        )

    @property
    def on_action(self) -> Ask | None:
        """See the class."""
        return self._services.on_action

    @on_action.setter
    def on_action(self, ask: Ask | None) -> None:
        self._services.on_action = ask

    @property
    def approve(self) -> Approve | None:
        """See the class."""
        return self._services.approve

    @approve.setter
    def approve(self, approve: Approve | None) -> None:
        self._services.approve = approve

    @property
    def on_progress(self) -> OnProgress | None:
        """See the class."""
        return self._services.on_progress

    @on_progress.setter
    def on_progress(self, tell: OnProgress | None) -> None:
        self._services.on_progress = tell

    @property
    def preferences(self) -> Sequence[Preference]:
        """See the class."""
        return self._services.preferences

    @preferences.setter
    def preferences(self, preferences: Sequence[Preference]) -> None:
        known = {*self._wallets, *(wallet.spec.name for wallet in self._wallets.values())}
        for name in (name for preference in preferences for name in preference.names if name not in known):
            raise ConfigurationError(f"prefer: there is no wallet {name!r}; there are: {', '.join(sorted(known))}")
        self._services.preferences = tuple(preferences)

    @property
    def file_limits(self) -> Budget | None:
        """See the class."""
        return self._services.file_limits

    @file_limits.setter
    def file_limits(self, limits: Budget | None) -> None:
        self._services.file_limits = limits

    def __repr__(self) -> str:
        return f"Payer(wallets={list(self._wallets)}, journal={self.journal!r})"

    @property
    def wallets(self) -> Mapping[str, Wallet]:
        """The wallets that have started, by name, in order of preference."""
        return self._services.wallets

    @property
    def all_wallets(self) -> Mapping[str, Wallet]:
        """All wallets, by name, in order of preference, whether they have started or not."""
        return self._wallets

    async def spent(self) -> Mapping[Level, Mapping[str, Spent]]:
        """Return what of the budget is used: by window (`hour`, `day`, `total`) and currency.

        Raises:
            StoreError: the journal cannot be used.
        """
        await self.journal.start()
        return await self.journal.spent(now=self._services.now())

    async def spent_by_scope(self) -> Mapping[str, Mapping[Level, Mapping[str, Spent]]]:
        """Return the same for all purchases (`""`) and for each host, payee, rail and tool that a rule is for.

        Raises:
            StoreError: the journal cannot be used.
        """
        await self.journal.start()
        return await self.journal.spent_by_scope(now=self._services.now())

    async def room_after(self, record_id: str, *, tool: str | None = None) -> Room | None:
        """Return the limit that leaves the fewest more purchases like this one, and what is left of it; None where no
        window is limited, or there is no such purchase. `tool` is what it was bought for, where rules limit that.

        Raises:
            StoreError: the journal cannot be used.
        """
        await self.journal.start()
        record = await self.journal.get(record_id)
        return None if record is None else await least_room(self._services, record, tool=tool)

    # --- transports

    def transport(self, inner: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncBaseTransport:
        """Return a transport for `httpx.AsyncClient` that pays.

        Args:
            inner: what requests are sent through; `httpx.AsyncHTTPTransport()` if left out.
        """
        return AsyncPayingTransport(self._services, inner or httpx.AsyncHTTPTransport())

    def sync_transport(self, inner: httpx.BaseTransport | None = None) -> httpx.BaseTransport:
        """Return a transport for `httpx.Client` that pays; the wallets run on one background thread of this payer.

        Wallets keep connections that belong to one event loop, so use a payer through one kind of transport only.
        """
        return PayingTransport(self._services, inner or httpx.HTTPTransport(), self._loop)

    async def quote(self, request: httpx.Request, inner: httpx.AsyncBaseTransport | None = None) -> Quote | None:
        """Send a request without paying, and return what would be paid for it; None where it is not answered with 402.

        Nothing is reserved: another purchase may take what is left of the budget in the meantime.

        Args:
            request: such as `client.build_request("GET", url)`.
            inner: what it is sent through; a transport of its own if left out.

        Raises:
            PaymentRefused: it would not be paid; the message says why, offer by offer.
            RailUnavailable, StoreError: no wallet, or the journal, can be reached.
        """
        if inner is not None:
            return await quote(self._services, inner, request)
        async with httpx.AsyncHTTPTransport() as own:
            return await quote(self._services, own, request)

    # --- opening and closing

    async def start(self) -> None:
        """Open the journal and the wallets; the first purchase does it by itself. A wallet that cannot be reached is
        left out until the next purchase.

        Raises:
            StoreError: the journal cannot be opened.
            RailUnavailable: no wallet can be reached.
            ConfigurationError: a wallet or the journal is configured wrongly.
        """
        services = self._services
        if len(services.wallets) == len(self._wallets):
            return
        async with self._starting:
            await self.journal.start()
            if services.file_limits is not None and not self._told_limits:  # once: a process that runs on with
                await self.journal.accept(services.file_limits, now=services.now())
                self._told_limits = True  # tighter limits must not take back what was confirmed since
            started: dict[str, Wallet] = {}
            failure = None
            try:
                for name, wallet in self._wallets.items():
                    try:
                        if name not in services.wallets:
                            await wallet.start()
                        started[name] = wallet
                    except RailUnavailable as error:
                        logger.warning("the wallet %s cannot be used now: %s", name, error)
                        failure = error
            finally:
                services.wallets = started  # those that have started are closed with the payer
        if failure is not None and not started:
            raise failure

    async def close(self) -> None:
        """Close the wallets and the journal. The transports' own connections belong to their clients."""
        wallets, self._services.wallets = self._services.wallets, {}
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.journal.close)
            for wallet in wallets.values():
                stack.push_async_callback(wallet.close)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await what `function` returns on the payer's background loop: `payer.run(payer.recover)` for callers that
        are not asynchronous."""
        return self._loop.run(function)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        self.run(self.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self.close)
        finally:
            self._loop.close()

    # --- purchases that are not resolved

    async def recover(self) -> list[Recovered]:
        """Ask the wallets about every purchase that nobody works on and that is not resolved.

        What was not paid is released. What was paid stays open until the same request is made again and served.

        Raises:
            StoreError: the journal cannot be used.
        """
        await self.start()
        return [await self._recover(record) for record in await self.journal.unresolved()]

    async def _recover(self, record: PurchaseRecord) -> Recovered:
        wallet = self._services.wallets.get(record.wallet)
        adopted = await self._adopt(record) if wallet is not None else None
        if wallet is None or adopted is None:
            return Recovered(record, "unknown")
        attempt = Attempt(self._services, wallet, adopted)
        found = await attempt.ask_wallet()
        if attempt.action is not None and attempt.action.outcome == "not_paid":
            found = NotPaid()
        if isinstance(found, NotPaid):
            ended = adopted.changed(state=PurchaseState.RELEASED, detail=_NOT_PAID, lease_until=0)
        else:
            ended = attempt.informed(found, state=PurchaseState.UNKNOWN, lease_until=0)
        try:
            written = await self.journal.save(ended, now=self._services.now())
        except JournalConflict:  # another process went on with it in the meantime
            return Recovered(await self.journal.get(record.id) or adopted, "unknown")
        outcomes: dict[type, Outcome] = {NotPaid: "not_paid", Paid: "paid" if written.moved else "unknown"}
        return Recovered(written, outcomes.get(type(found), "unknown"))

    async def write_off(self, record_id: str) -> PurchaseRecord:
        """Close an open purchase as spent and never asked for again: the same request buys anew. No wallet is opened.

        Raises:
            ConfigurationError: there is no such purchase, it is not open, or it is being worked on.
        """
        if record_id in self._services.live:
            raise ConfigurationError(f"the purchase {record_id} is being worked on")
        await self.journal.start()
        return await self.journal.write_off(record_id, now=self._services.now())

    async def _adopt(self, record: PurchaseRecord) -> PurchaseRecord | None:
        services = self._services
        if record.id in services.live:
            return None
        now = services.now()
        return await self.journal.adopt(record, now=now, lease_until=now + RESERVE_LEASE)


def _by_name(wallets: Sequence[Wallet]) -> dict[str, Wallet]:
    found: dict[str, Wallet] = {}
    for wallet in wallets:
        name = wallet.name or wallet.spec.name
        if name in found:
            raise ConfigurationError(f"two wallets are called {name!r}; give one of them another name")
        found[name] = wallet
    if not found:
        raise ConfigurationError("a payer needs at least one wallet")
    return found
