"""Limits for one host, payee, rail or tool, and the lists of who may be paid at all. Pure.

Hosts are compared as they are asked for: lower case, without a port or a final dot, other alphabets in their ASCII
form. Payees are compared letter for letter, but for addresses (`0x…`), which are the same in either case. A tool is
what a caller says that it buys for: a model's tool, an agent, a job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from rail402.client.limits import Caps, Limits
from rail402.errors import ConfigurationError, PaymentRefused

__all__ = [
    "EACH",
    "Lists",
    "Names",
    "Rule",
    "Subject",
    "fits",
    "host_of",
    "host_pattern",
    "matching_rules",
    "payee_key",
    "rule_of",
    "tool_name",
]

EACH: Final = "*"
"""In place of a name: each host, payee, rail or tool by itself."""

Names = str | Sequence[str]
"""One name, or several."""

_ANY_BELOW: Final = "*."
_TOOL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}", re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9._:-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a purchase is made from, and for whom: the host that is asked, the payee of its offer, the rail that it is
    paid on, and the tool that it is made for, where the caller has named one."""

    host: str
    payee: str
    rail: str
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Limits for one host, one payee, one rail or one tool, beside those of all purchases.

    Args:
        host, payee, rail, tool: whom it is for: one of the four. `"*"` is each of them by itself, but for those that a
            rule with their name is for.
        per_request, per_hour, per_day, total: as in `Budget`; what is left out is not limited.

    Raises:
        ConfigurationError: it is for nobody or for several, sets no limit, or a limit cannot be read.
    """

    host: str | None = None
    payee: str | None = None
    rail: str | None = None
    tool: str | None = None
    per_request: Limits | None = None
    per_hour: Limits | None = None
    per_day: Limits | None = None
    total: Limits | None = None
    kind: str = field(init=False, repr=False, compare=False)
    name: str = field(init=False, repr=False, compare=False)
    caps: Caps = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = {"host": self.host, "payee": self.payee, "rail": self.rail, "tool": self.tool}
        named = [(kind, value) for kind, value in keys.items() if value is not None]
        if len(named) != 1 or not named[0][1]:
            raise ConfigurationError("rules: a rule is for one host, payee, rail or tool; name one of the four")
        kind, name = named[0]
        caps = Caps.read({"request": self.per_request, "hour": self.per_hour, "day": self.per_day, "total": self.total})
        if not caps.currencies:
            raise ConfigurationError(f"rules: the rule for the {kind} {name} sets no limit; give one such as per_day")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "name", name if name == EACH else _key(kind, name))
        object.__setattr__(self, "caps", caps)

    def __str__(self) -> str:
        return f"each {self.kind}" if self.name == EACH else f"{self.kind} {self.name}"


def matching_rules(rules: Sequence[Rule], subject: Subject) -> Iterable[tuple[Rule, str]]:
    """Return the rules that hold for a purchase, each with the scope that it counts in (see `Entry`)."""
    named = {"host": subject.host, "payee": subject.payee, "rail": subject.rail, "tool": subject.tool}
    for kind, value in named.items():
        if value is None:
            continue
        scope = f"{kind} {_key(kind, value)}"
        if (rule := rule_of(rules, scope)) is not None:
            yield rule, scope


def rule_of(rules: Sequence[Rule], scope: str) -> Rule | None:
    """Return the rule whose limits hold for a scope, None where there is none."""
    kind, _, name = scope.partition(" ")
    by_name = {rule.name: rule for rule in rules if rule.kind == kind}
    return by_name.get(name) or by_name.get(EACH)


@dataclass(frozen=True, slots=True)
class Lists:
    """Who may be paid. A name on a list of denied ones is not, whatever else holds; where there is a list of allowed
    ones, nobody else is.

    Args:
        allow_hosts, deny_hosts: `api.example.com`, or `*.example.com` for every host below it, itself not included.
        allow_payees, deny_payees: payees as offers name them.

    Raises:
        ConfigurationError: a name is none.
    """

    allow_hosts: Sequence[str] | None = None
    deny_hosts: Sequence[str] = ()
    allow_payees: Sequence[str] | None = None
    deny_payees: Sequence[str] = ()

    @classmethod
    def read(
        cls, allow_hosts: Names | None, deny_hosts: Names, allow_payees: Names | None, deny_payees: Names
    ) -> Lists:
        """Read the lists; a single name is a list of one."""
        return cls(
            allow_hosts=None if allow_hosts is None else [host_pattern(name) for name in _names(allow_hosts)],
            deny_hosts=[host_pattern(name) for name in _names(deny_hosts)],
            allow_payees=None if allow_payees is None else [payee_key(name) for name in _names(allow_payees)],
            deny_payees=[payee_key(name) for name in _names(deny_payees)],
        )

    def check_host(self, host: str) -> None:
        """Check that a host may be paid.

        Raises:
            PaymentRefused: it may not.
        """
        key = host_of(host)
        if any(fits(pattern, key) for pattern in self.deny_hosts):
            raise PaymentRefused(f"{key} is denied: take it off deny_hosts to pay there", code="not_allowed")
        if self.allow_hosts is not None and not any(fits(pattern, key) for pattern in self.allow_hosts):
            raise PaymentRefused(f"{key} is not allowed: add it to allow_hosts to pay there", code="not_allowed")

    def check_payee(self, payee: str) -> None:
        """Check that a payee may be paid.

        Raises:
            PaymentRefused: it may not.
        """
        key = payee_key(payee)
        if key in self.deny_payees:
            raise PaymentRefused(f"the payee {key} is denied: take it off deny_payees to pay it", code="not_allowed")
        if self.allow_payees is not None and key not in self.allow_payees:
            raise PaymentRefused(
                f"the payee {key} is not allowed: add it to allow_payees to pay it", code="not_allowed"
            )


def host_of(authority: str) -> str:
    """Return the host of a name, an authority or an origin, in the form that is compared.

    Raises:
        ConfigurationError: there is none in it.
    """
    try:
        url = httpx.URL(authority if "://" in authority else f"https://{authority}")
        host = url.raw_host.decode("ascii").lower().rstrip(".")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ConfigurationError(f"{authority[:200]!r} is not the name of a host") from error
    if not _HOST.fullmatch(host) or url.userinfo:
        raise ConfigurationError(f"{authority[:200]!r} is not the name of a host")
    return host


def payee_key(payee: str) -> str:
    """Return a payee in the form that is compared."""
    return payee.lower() if payee[:2] in ("0x", "0X") else payee


def host_pattern(name: str) -> str:
    """Return a host, or `*.` and a host, in the form that is compared.

    Raises:
        ConfigurationError: it is neither.
    """
    return _ANY_BELOW + host_of(name.removeprefix(_ANY_BELOW)) if name.startswith(_ANY_BELOW) else host_of(name)


def fits(pattern: str, host: str) -> bool:
    """Whether a host, in the form that is compared, is meant by a pattern."""
    return host.endswith(pattern[1:]) if pattern.startswith(_ANY_BELOW) else host == pattern


def tool_name(name: str) -> str:
    """Return the name of a tool.

    Raises:
        ConfigurationError: it is none: 1 to 64 letters, digits and `._:/@-`, a letter or digit first.
    """
    if not _TOOL.fullmatch(name):
        raise ConfigurationError(f"{name[:80]!r} cannot name a tool: write up to 64 letters, digits and ._:/@-")
    return name


def _key(kind: str, value: str) -> str:
    checks: dict[str, Callable[[str], str]] = {"host": host_of, "payee": payee_key, "tool": tool_name}
    return checks[kind](value) if kind in checks else value


def _names(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else names
