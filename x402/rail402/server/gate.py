"""The gate: what a publisher makes once and installs on an app."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from starlette.requests import Request

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.dialects import DEFAULT_DIALECTS
from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.money import Money, as_money
from rail402.protocol.binding import OfferKeys
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Dialect
from rail402.protocol.offer import Flow
from rail402.protocol.rail import PaymentRail, Registry
from rail402.protocol.receipt import ReceiptKeys
from rail402.rates import RateSource
from rail402.server.delivery import Delivery
from rail402.server.endpoints import Discovery
from rail402.server.lifespan import Lifespan
from rail402.server.middleware import GateMiddleware
from rail402.server.openapi import Documents, publish
from rail402.server.paywall import CHARGE_KEY, DELIVERY_KEY
from rail402.server.prices import check_prices
from rail402.server.reconciler import Progress, Reconciler
from rail402.server.refunds import give_back
from rail402.server.report import Report
from rail402.server.request import Receive, Scope, Send
from rail402.server.routes import Found, Protected, mark, rule_of, rules_of, walk, wrap
from rail402.server.services import Services
from rail402.server.settings import GateSettings, Price, Receipts, Rule, check_rails, names
from rail402.stores import open_store
from rail402.stores.base import Store

__all__ = ["Gate"]

logger = logging.getLogger("rail402.server")

F = TypeVar("F", bound=Callable[..., Any])

_SANDBOX_SECRET = "sandbox_offer_secret"  # noqa: S105 (the setting's name)
_SANDBOX_RECEIPT_KEY = "sandbox_receipt_key"


class Gate:
    """A gate in front of the routes that cost something.

    Args:
        rails: the rails that payers may choose, in order of preference.
        public_url: the origin that payers see, such as `https://api.example.com`.
        store: `sqlite:///charges.db`, `memory://` (for tests), or a `Store`.
        secret: what offers are issued with: at least 32 bytes, or several by key id, the current one first. Required
            unless every rail is a sandbox.
        receipt_key: the Ed25519 key (PEM or JWK) that receipts are signed with, required likewise;
            `retired_receipt_keys` stay in the published key set.
        dialects: the wire formats to speak, by default all that are built in.
        rates: where conversions such as USD to BTC come from.
        settings: further keywords of `GateSettings`, such as `max_body` or `handler_seconds`.

    Raises:
        ConfigurationError: a setting is missing or wrong; it names the setting and the fix.
    """

    def __init__(
        self,
        *,
        rails: Sequence[PaymentRail],
        public_url: str,
        store: str | Store = "sqlite:///charges.db",
        secret: str | bytes | Mapping[str, str | bytes] | None = None,
        receipt_key: str | bytes | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not rails:
            raise ConfigurationError("rails=[]: give the gate at least one rail")
        self._retired = options.pop("retired_receipt_keys", ())
        self._dialects: Sequence[Dialect] = options.pop("dialects", DEFAULT_DIALECTS)
        if not self._dialects:
            raise ConfigurationError("dialects=[]: give the gate at least one dialect")
        self._rates: RateSource | None = options.pop("rates", None)
        self._clock: Clock = options.pop("clock", system_clock)
        self._random: RandomBytes = options.pop("random_bytes", system_random)
        known = [setting.name for setting in fields(GateSettings)[1:]]
        if unknown := sorted(options.keys() - set(known)):
            raise ConfigurationError(f"Gate has no settings {unknown}; besides rails and keys it has {known}")
        self._settings = GateSettings(public_url=public_url.rstrip("/"), **options)
        self._registry = Registry([rail.spec for rail in rails])
        self._rails = {rail.spec.name: rail for rail in rails}
        self._store = open_store(store) if isinstance(store, str) else store
        check_rails(rails, self._settings)
        if (secret is None or receipt_key is None) and not rails[0].is_sandbox:
            raise ConfigurationError(
                "secret and receipt_key are required outside the sandbox; make them: rail402 keygen"
            )
        self._offer_keys = None if secret is None else _offer_keys(secret)
        self._receipt_keys = None if receipt_key is None else ReceiptKeys(receipt_key, self._retired)
        self._rules: list[Rule] = []
        self._protected: list[Protected] = []
        self._marked: list[tuple[Any, Rule]] = []
        self._wrapped: dict[int, Any] = {}
        self._app: Any = None
        self._life = Lifespan(self._store, self._rails.values(), logger)
        self._discovery: Discovery | None = None
        self.documents: Documents | None = None

    # --- what costs something

    def paid(
        self,
        price: Price,
        *,
        rails: Sequence[str] | None = None,
        dialects: Sequence[str] | None = None,
        flow: Flow | str | None = None,
        receipt: Receipts | None = None,
        description: str = "",
    ) -> Callable[[F], F]:
        """Put a price on an endpoint; goes below the route decorator.

        Args:
            price: `"0.003 USD"`, a `Money`, or a function of the Starlette request that returns one of them, or None
                where the request is free. An `HTTPException` that it raises is the answer.
            rails, dialects: names out of the gate's; None for all.
            flow: `authorization`, `upfront` or `escrow`, on the rails that support it.
            receipt: what one payment buys.
            description: what is sold, for people.
        """
        rule = self.rule(price, rails=rails, dialects=dialects, flow=flow, receipt=receipt, description=description)

        def decorate(endpoint: F) -> F:
            marked = mark(endpoint, rule)
            self._marked.append((marked, rule))
            return marked

        return decorate

    def protect(
        self,
        pattern: str,
        *,
        price: Price,
        rails: Sequence[str] | None = None,
        dialects: Sequence[str] | None = None,
        flow: Flow | str | None = None,
        receipt: Receipts | None = None,
        description: str = "",
    ) -> None:
        """Put a price on every route that `pattern` matches, such as `"POST /summarise"` or `"GET /reports/*"`.

        The path is that of the route (`/article/{slug}`), `*` standing for any run of characters. Where several match,
        the first counts, and a price on the endpoint itself before all. A pattern that applies nowhere raises when the
        app starts.
        """
        if self.started:
            raise ConfigurationError(f"protect({pattern!r}): protect routes before the app starts")
        rule = self.rule(price, rails=rails, dialects=dialects, flow=flow, receipt=receipt, description=description)
        self._protected.append(Protected(pattern, rule))

    def rule(
        self,
        price: Price,
        *,
        rails: Sequence[str] | None = None,
        dialects: Sequence[str] | None = None,
        flow: Flow | str | None = None,
        receipt: Receipts | None = None,
        description: str = "",
    ) -> Rule:
        """Return what something asks that is no route, such as a tool; for the arguments see `paid`."""
        known = self.dialects
        rail_names, dialect_names = names(rails, "rails"), names(dialects, "dialects")
        for rail in rail_names or ():
            self._registry[rail]
        for dialect in dialect_names or ():
            if dialect not in known:
                raise ConfigurationError(f"there is no dialect {dialect!r}; the dialects here are: {sorted(known)}")
        if flow is not None and flow not in list(Flow):
            raise ConfigurationError(f"flow={flow!r} must be authorization, upfront or escrow")
        rule = Rule(
            price=price,
            rails=rail_names,
            dialects=dialect_names,
            flow=None if flow is None else Flow(flow),
            receipts=receipt or Receipts(),
            description=description,
        )
        self._rules.append(rule)
        return rule

    def charge(self, request: Request) -> Charge | None:
        """Return the charge that paid for this request: a FastAPI dependency. None where the request was free.

        Raises:
            GateNotInstalled: the request has not passed the gate.
        """
        if CHARGE_KEY not in request.scope:
            raise GateNotInstalled("gate.charge is for paid routes, and this request did not pass the gate")
        charge: Charge | None = request.scope[CHARGE_KEY]
        return charge

    def reduce(self, request: Request, price: str | Money) -> bool:
        """Ask less than the price for this request, because the outcome was worth less; before its response begins.

        It works where the amount is held first and may be captured in part (`PaymentRail.takes_less`). Elsewhere the
        whole price is taken: price such routes by what they cost at least. Where the rail cannot take so little, the
        least is taken that it can.

        Returns:
            Whether only `price` is taken.

        Raises:
            ConfigurationError: `price` is nothing, more than the price, or in another currency.
            GateNotInstalled: the request has not passed the gate.
        """
        if self.charge(request) is None:
            return False
        delivery: Delivery | None = request.scope.get(DELIVERY_KEY)
        return delivery is not None and delivery.reduce(as_money(price))

    async def refund(self, charge_id: str) -> Charge:
        """Give all of a settled charge's money back, on a rail that can; return the charge as it stands then.

        It is `refunded`, or `unknown` until the reconciler has found out, or still `settled` where the rail refused.
        On a rail that has to be told where to (Lightning) it is `settled` with `refund_due_at`: the refund is granted,
        and waits for its payer. A charge that is refunded already, or granted it, is returned as it is.

        Raises:
            ConfigurationError: there is no such charge, its money was not taken, its answer is still under way, or its
                rail gives nothing back.
            StoreError: the store cannot be reached, or another worker is at the charge.
        """
        return await give_back(self.services(), charge_id)

    # --- the app

    async def discovery(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request below `/.well-known/rail402/`."""
        assert self._discovery is not None
        await self._discovery(scope, receive, send)

    def install(self, app: Any) -> None:
        """Put the gate into a FastAPI or Starlette app: its routes, discovery addresses, start and stop."""
        if self._app is not None:
            raise ConfigurationError("this gate is installed on an app already; make one gate per app")
        self._app = app
        app.add_middleware(GateMiddleware, gate=self)

    def _wrap_routes(self) -> list[tuple[Found, dict[str, Rule]]]:
        """Find every marked endpoint and protected pattern, put a paywall in front, and return them."""
        ours = {id(rule): rule for _, rule in self._marked}
        plan: dict[int, tuple[Found, dict[str, Rule]]] = {}
        used: set[int] = set()
        for found in walk(self._app.routes):
            marked = ours.get(id(rule_of(found.endpoint)))
            rules = rules_of(found, marked, self._protected)
            if rules and "websocket" in type(found.route).__name__.lower():
                raise ConfigurationError(f"{found.path} is a websocket route, which cannot be paid for per request")
            used |= {id(rule) for rule in rules.values()}
            _, before = plan.setdefault(id(found.route), (found, rules))
            if before != rules:
                raise ConfigurationError(f"{found.path}: its route is protected otherwise under another path; mark it")
        self._check_all_used(used)
        for found, rules in plan.values():
            if rules and id(found.route) not in self._wrapped:  # an app may start again
                self._wrapped[id(found.route)] = found.route
                wrap(found, rules, self.services)
        return [(found, rules) for found, rules in plan.values() if rules]

    def _check_all_used(self, used: set[int]) -> None:
        idle = [protected.pattern for protected in self._protected if id(protected.rule) not in used]
        if idle:
            raise ConfigurationError(
                f"no route matches {idle}, or an earlier pattern or @gate.paid covers it; the pattern is a method and a"
                " route's path"
            )
        lost = [endpoint.__qualname__ for endpoint, rule in self._marked if id(rule) not in used]
        if lost:
            raise ConfigurationError(f"{lost}: no route serves it; put @gate.paid below the route decorator")

    def services(self) -> Services:
        """Return the parts of a gate that has started.

        Raises:
            GateNotInstalled: the gate has not started.
        """
        if self._life.services is None:
            raise GateNotInstalled("the gate has not started; call gate.install(app), or `async with gate:`")
        return self._life.services

    @property
    def dialects(self) -> frozenset[str]:
        """The names of the dialects that it speaks."""
        return frozenset(dialect.name for dialect in self._dialects)

    @property
    def specs(self) -> Registry:
        """What its rails share with payers, by name and in order of preference."""
        return self._registry

    @property
    def started(self) -> bool:
        """Whether the gate is open for requests."""
        return self._life.services is not None

    async def start(self, *, reconciling: bool = True) -> None:
        """Open the store and the rails, find the paid routes, and start the reconciler (unless it is not wanted).
        Further calls do nothing."""
        await self._life.start(self._assemble, self._prepare, reconciling=reconciling)

    async def _assemble(self) -> Services:
        services = Services(
            settings=self._settings,
            rails=self._rails,
            registry=self._registry,
            dialects=self._dialects,
            store=self._store,
            offer_keys=self._offer_keys or await self._sandbox_secret(),
            receipt_keys=self._receipt_keys or await self._sandbox_receipt_keys(),
            rates=self._rates,
            clock=self._clock,
            random_bytes=self._random,
        )
        self._discovery = Discovery(services)
        return services

    async def _prepare(self, services: Services) -> None:
        paid = [] if self._app is None else self._wrap_routes()
        able = await check_prices(services, self._rules, paid)
        if self._app is not None:
            self.documents = await publish(self._app, paid, able, services) if self._settings.documents else None

    async def close(self) -> None:
        """Finish what is under way, then close the rails and the store."""
        await self._life.close()

    async def __aenter__(self) -> Gate:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def reconcile(self) -> int:
        """Run the reconciler once, and forget what is past its retention; return how many charges it closed."""
        reconciler = Reconciler(self.services())
        report = await reconciler.run_once()
        await reconciler.prune()
        return report.closed

    async def reconcile_all(self, progress: Progress | None = None) -> Report:
        """Look at everything that is open, whether its turn has come or not; say what stays open, and what to do.

        What a worker is at work on is left to it.

        Args:
            progress: told after each charge how many have been looked at, and of how many.
        """
        return await Reconciler(self.services()).run_all(progress)

    async def _sandbox_secret(self) -> OfferKeys:
        """Return a secret that all workers on the store share; only for sandboxes."""
        return _offer_keys(await self._store.remember(_SANDBOX_SECRET, self._random(32).hex()))

    async def _sandbox_receipt_keys(self) -> ReceiptKeys:
        return ReceiptKeys(await self._store.remember(_SANDBOX_RECEIPT_KEY, ReceiptKeys.generate()[1]), self._retired)


def _offer_keys(secret: str | bytes | Mapping[str, str | bytes]) -> OfferKeys:
    secrets = secret if isinstance(secret, Mapping) else {"k1": secret}
    return OfferKeys({kid: value.encode() if isinstance(value, str) else value for kid, value in secrets.items()})
