"""Which routes cost something: marked endpoints and `protect` patterns, found in an app's routes and wrapped.

A route is wrapped where the router hands a matched request over (`route.handle`), so every spelling of a path, every
mount and every included router that reaches the route passes the gate, and a free route is not touched at all.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.endpoints import HTTPEndpoint

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.server.options import answering_options, has_own_options
from rail402.server.paywall import Paywall, current_admittance
from rail402.server.request import Receive, Scope, Send
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["Found", "Protected", "mark", "read_pattern", "rule_of", "rules_of", "walk", "wrap"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__rail402_rule__"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_EVERY = "*"


def read_pattern(pattern: str, *, free: bool = False) -> tuple[str, str]:
    """Return the method (`*` for all) and the path of a pattern such as `POST /summarise`.

    Args:
        free: whether it is for what has no price: `OPTIONS` never has one.

    Raises:
        ConfigurationError: it is none.
    """
    method, _, path = pattern.partition(" ")
    known = method in (*_METHODS, _EVERY) or (free and method == "OPTIONS")
    if not known or not path.startswith("/"):
        raise ConfigurationError(
            f'{pattern!r}: write a method and a path, such as "GET /article/*" or "* /reports/{{id}}"'
        )
    return method, path


@dataclass(frozen=True, slots=True)
class Protected:
    """A pattern such as `POST /summarise` or `* /reports/*`, and what it asks."""

    pattern: str
    rule: Rule

    def __post_init__(self) -> None:
        read_pattern(self.pattern)

    @property
    def method(self) -> str:
        """The method it is for, `*` for all."""
        return self.pattern.partition(" ")[0]

    def matches(self, methods: Iterable[str] | None, path: str) -> bool:
        """Whether a route of these methods and this path template is meant; `*` stands for any run of characters."""
        pattern = self.pattern.partition(" ")[2]
        fits = self.method == _EVERY or methods is None or self.method in methods
        return fits and (path == pattern or fnmatch.fnmatchcase(path, pattern.replace("[", "[[]")))


@dataclass(frozen=True, slots=True)
class Found:
    """A route of an app, with the full path template it is reached under."""

    route: Any
    path: str
    methods: frozenset[str] | None
    endpoint: Any

    def id_under(self, rules: Mapping[str, Rule], rule: Rule) -> str:
        """Return the id, in orders and receipts, of the part of the route that asks `rule`: methods and path."""
        asked = {method for method in self.methods or rules if rule_for(rules, method) is rule}
        methods = _EVERY if _EVERY in asked else "|".join(sorted(asked - {"HEAD", "OPTIONS"} or asked))
        return f"{methods} {self.path}"


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


def rules_of(found: Found, marked: Rule | None, protected: Sequence[Protected]) -> dict[str, Rule]:
    """Return what a route asks, by method; `*` is for every method that has no rule of its own.

    The first pattern that matches counts. An app that does not say which methods it serves is gated for all of them: it
    must not be entered by another word.
    """
    if marked is not None:
        return {_EVERY: marked}
    matching = [pattern for pattern in protected if pattern.matches(found.methods, found.path)]
    rules: dict[str, Rule] = {}
    for pattern in matching:
        if _EVERY not in rules:
            rules.setdefault(pattern.method, pattern.rule)
    if matching and found.methods is None:
        rules.setdefault(_EVERY, matching[0].rule)
    return rules


def rule_for(rules: Mapping[str, Rule], method: str) -> Rule | None:
    """Return what a request of this method is asked: `HEAD` what `GET` is, `OPTIONS` what any other is."""
    own = rules.get(method) or rules.get(_EVERY)
    if own is None and method == "HEAD":
        return rules.get("GET")
    return next(iter(rules.values()), None) if own is None and method == "OPTIONS" else own


def walk(routes: Iterable[Any], prefix: str = "") -> Iterator[Found]:
    """Yield every route below `routes`: through mounts, hosts and included routers."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):  # how FastAPI keeps an included router since 0.116
            for context in route.effective_route_contexts():
                copied = getattr(
                    context, "starlette_route", None
                )  # what is asked to handle requests, where there is one
                yield from _below(copied or context.original_route, copied or context, prefix)
        else:
            yield from _below(route, route, prefix)


def _below(route: Any, seen_as: Any, prefix: str) -> Iterator[Found]:
    path = prefix + (getattr(seen_as, "path", None) or "")
    inner = getattr(seen_as, "routes", None)
    endpoint = getattr(route, "endpoint", None)
    if endpoint is not None:
        yield Found(route, path, _methods(seen_as, endpoint), endpoint)
    elif inner:
        yield from walk(inner, path)
    else:
        yield Found(route, path + "/*", None, None)


def _methods(seen_as: Any, endpoint: Any) -> frozenset[str] | None:
    """Return the methods that a route serves, None where it does not say."""
    declared = getattr(seen_as, "methods", None)
    if not declared and inspect.isclass(endpoint) and issubclass(endpoint, HTTPEndpoint):
        declared = {method for method in (*_METHODS, "OPTIONS") if hasattr(endpoint, method.lower())}
        declared |= {"HEAD"} if "GET" in declared else set()
    return frozenset(declared) if declared else None


def wrap(found: Found, rules: Mapping[str, Rule], services: Callable[[], Services]) -> None:
    """Put the paywall in front of a route; a request of a method that it does not have passes on to its 405."""
    route = found.route
    original = route.handle
    answers_itself = has_own_options(found.methods, found.endpoint) and rule_of(found.endpoint) is None
    options = original if answers_itself else answering_options(route, found.methods)
    paywalls = {id(rule): Paywall(original, rule, found.id_under(rules, rule), services) for rule in rules.values()}

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method", "GET")  # a websocket has none
        rule = rule_for(rules, method) if found.methods is None or method in found.methods else None
        if rule is None:
            await original(scope, receive, send)
        elif method == "OPTIONS":
            await options(scope, receive, send)
        else:
            await paywalls[id(rule)](scope, receive, send)

    route.handle = handle
