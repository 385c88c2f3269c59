"""Which routes cost something: marked endpoints and `protect` patterns, found in an app's routes and wrapped.

A route is wrapped where the router hands a matched request over (`route.handle`), so every spelling of a path, every
mount and every included router that reaches the route passes the gate, and a free route is not touched at all.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.server.paywall import Paywall, current_admittance
from rail402.server.request import Receive, Scope, Send
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["Found", "Protected", "mark", "rule_of", "walk", "wrap"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__rail402_rule__"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "*"}


@dataclass(frozen=True, slots=True)
class Protected:
    """A pattern such as `POST /summarise` or `* /reports/*`, and what it asks."""

    pattern: str
    rule: Rule

    def __post_init__(self) -> None:
        method, _, path = self.pattern.partition(" ")
        if method not in _METHODS or not path.startswith("/"):
            raise ConfigurationError(
                f'{self.pattern!r}: write a method and a path, such as "GET /article/*" or "* /reports/{{id}}"'
            )

    def matches(self, methods: Iterable[str] | None, path: str) -> bool:
        """Whether a route of these methods and this path template is meant; `*` stands for any run of characters."""
        method, _, pattern = self.pattern.partition(" ")
        fits = method == "*" or methods is None or method in methods
        return fits and (path == pattern or fnmatch.fnmatchcase(path, pattern.replace("[", "[[]")))


@dataclass(frozen=True, slots=True)
class Found:
    """A route of an app, with the full path template it is reached under."""

    route: Any
    path: str
    methods: frozenset[str] | None
    endpoint: Any

    @property
    def id(self) -> str:
        """The route's id in orders and receipts: its methods and path template."""
        return f"{'|'.join(sorted(self.methods - {'HEAD'})) if self.methods else '*'} {self.path}"


def mark(endpoint: F, rule: Rule) -> F:
    """Return the endpoint marked with `rule`; reached without the gate, it raises instead of serving."""
    if not inspect.isroutine(endpoint):
        raise ConfigurationError("@gate.paid goes on functions; use gate.protect for a class or an ASGI app")
    if inspect.iscoroutinefunction(endpoint):

        @functools.wraps(endpoint)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            _check(endpoint, rule)
            return await endpoint(*args, **kwargs)
    else:

        @functools.wraps(endpoint)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            _check(endpoint, rule)
            return endpoint(*args, **kwargs)

    setattr(guarded, _MARK, rule)
    return guarded  # type: ignore[return-value]


def _check(endpoint: Callable[..., Any], rule: Rule) -> None:
    admittance = current_admittance()
    if admittance is None or admittance.rule is not rule:
        name = getattr(endpoint, "__qualname__", repr(endpoint))
        raise GateNotInstalled(
            f"{name} has a price, but its request did not pass the gate; call gate.install(app) on the app that serves"
            " it, and put @gate.paid below the route decorator"
        )


def rule_of(endpoint: Any) -> Rule | None:
    """Return the rule that an endpoint was marked with."""
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func
    rule = getattr(endpoint, _MARK, None)
    return rule if isinstance(rule, Rule) else None


def walk(routes: Iterable[Any], prefix: str = "") -> Iterator[Found]:
    """Yield every route below `routes`: through mounts, hosts and included routers."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):  # how FastAPI keeps an included router since 0.116
            for context in route.effective_route_contexts():
                yield from _below(context.original_route, getattr(context, "starlette_route", None) or context, prefix)
        else:
            yield from _below(route, route, prefix)


def _below(route: Any, seen_as: Any, prefix: str) -> Iterator[Found]:
    path = prefix + (getattr(seen_as, "path", None) or "")
    inner = getattr(seen_as, "routes", None)
    endpoint = getattr(route, "endpoint", None)
    if endpoint is not None:
        methods = getattr(seen_as, "methods", None)
        yield Found(route, path, frozenset(methods) if methods else None, endpoint)
        return
    yield Found(seen_as, path + "/*", None, None)
    yield from walk(inner or (), path)


def wrap(found: Found, rule: Rule, services: Callable[[], Services]) -> None:
    """Put the paywall in front of a route; a request of a method it does not have passes on to its 405."""
    route = found.route
    if "websocket" in type(route).__name__.lower():
        raise ConfigurationError(f"{found.path} is a websocket route, which cannot be paid for per request")
    original = route.handle
    paywall = Paywall(original, rule, found.id, services)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        served = found.methods is None or scope.get("method") in found.methods or scope["type"] != "http"
        await (paywall if served else original)(scope, receive, send)

    route.handle = handle
