"""The limits of a configuration file that were confirmed last, and in what others are looser. Pure.

Tighter limits are taken as they come. Looser ones wait for somebody to confirm them, so that who edits a file by
mistake, or has a model do it, is asked before money follows. It is a question and no wall: whoever may write the file
may name another journal in it.

Where it cannot be said simply that limits are not looser, they count as such: a limit in another currency than before,
say, or other limits per request where these say what currencies are worth (see `Budget`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rail402.client.budget import Budget
from rail402.client.limits import LEVELS, SPENDING_EXPONENT, Caps, Level, either, phrase
from rail402.client.rules import EACH, Rule
from rail402.errors import ConfigurationError
from rail402.money import Money

__all__ = ["loosened", "written"]

_KINDS: Final = ("host", "payee", "rail", "tool")


def written(budget: Budget) -> str:
    """Return the limits of a budget as canonical JSON: the same text for the same limits."""
    lists = budget.lists
    limits: dict[str, Any] = {
        **{name: _texts(budget.limits(level)) for level, name in LEVELS.items()},
        "rules": sorted((_rule(rule) for rule in budget.rules), key=json.dumps),
        "allow_hosts": _sorted(lists.allow_hosts),
        "deny_hosts": _sorted(lists.deny_hosts),
        "allow_payees": _sorted(lists.allow_payees),
        "deny_payees": _sorted(lists.deny_payees),
        "pin_payees": budget.pin_payees,
        "price_tolerance": budget.price_tolerance,
        "ask_above": _texts(budget.asks_above),
    }
    return json.dumps(limits, sort_keys=True, separators=(",", ":"))


def loosened(before: str, after: Budget) -> tuple[str, ...]:
    """Say in what a budget is looser than limits that were `written`; nothing where it is not.

    Raises:
        ConfigurationError: `before` cannot be read.
    """
    try:
        said = json.loads(before)
        known = Budget(**{**said, "rules": [Rule(**rule) for rule in said["rules"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError("the limits that were confirmed last cannot be read") from error
    found = [_caps("", _level_caps(known), _level_caps(after)), _worth(known, after), _rules(known, after)]
    return tuple(why for each in (*found, _others(known, after)) for why in each)


def _level_caps(budget: Budget) -> Mapping[Level, Sequence[Money]]:
    return {level: budget.limits(level) for level in LEVELS}


def _caps(whose: str, before: Mapping[Level, Sequence[Money]], after: Mapping[Level, Sequence[Money]]) -> Iterator[str]:
    for level in LEVELS:
        if _is_looser(before.get(level, ()), after.get(level, ())):
            was, now = either(before[level]), either(after.get(level, ())) or "not limited"
            yield f"{whose}{phrase(level)} it was {was}, and is {now}"


def _is_looser(before: Sequence[Money], after: Sequence[Money]) -> bool:
    """Whether limits of one level, the one or the other, allow more than before; none allow anything."""
    if not before or not after:
        return bool(before)
    was, now = ({limit.currency: limit for limit in limits} for limits in (before, after))
    return was.keys() != now.keys() or any(not now[currency] <= was[currency] for currency in was)


def _worth(before: Budget, after: Budget) -> Iterator[str]:
    """Currencies are worth what the limits per request say, where a window or `ask_above` has none in one of them."""
    was, now = ({limit.currency: limit for limit in budget.limits("request")} for budget in (before, after))
    if was.keys() != now.keys():  # said already
        return
    pairs = [(one, two) for one in was for two in was]
    if all(_units(was, one) * _units(now, two) == _units(was, two) * _units(now, one) for one, two in pairs):
        return
    everything = [after.limits(level) for level in LEVELS if level != "request"]
    everything += [rule.caps.limits(level) for rule in after.rules for level in rule.caps.levels]
    everything += [after.asks_above]
    if any(limits and {limit.currency for limit in limits} != was.keys() for limits in everything):
        yield f"per request it was {either(was.values())}, and is {either(now.values())}, which other limits count by"


def _units(limits: Mapping[str, Money], currency: str) -> int:
    return limits[currency].to_atomic(SPENDING_EXPONENT)


def _rules(before: Budget, after: Budget) -> Iterator[str]:
    """A rule that is gone leaves whom it was for to the rule for each of them, and the other way round."""
    for kind in _KINDS:
        was, now = ({rule.name: rule.caps for rule in budget.rules if rule.kind == kind} for budget in (before, after))
        for name in sorted(was.keys() | now.keys()):
            held, holds = was.get(name, was.get(EACH)), now.get(name, now.get(EACH))
            if held is not None:
                whose = f"for each {kind} " if name == EACH else f"for the {kind} {name} "
                yield from _caps(whose, _by_level(held), {} if holds is None else _by_level(holds))


def _by_level(caps: Caps) -> Mapping[Level, Sequence[Money]]:
    return {level: caps.limits(level) for level in LEVELS}


def _others(before: Budget, after: Budget) -> Iterator[str]:
    old, new = before.lists, after.lists
    for name, was, now in (
        ("allow_hosts", old.allow_hosts, new.allow_hosts),
        ("allow_payees", old.allow_payees, new.allow_payees),
    ):
        if was is not None and (now is None or not set(now) <= set(was)):
            yield f"{name} is gone" if now is None else f"{name} has {', '.join(sorted(set(now) - set(was)))} as well"
    for name, was, now in (
        ("deny_hosts", old.deny_hosts, new.deny_hosts),
        ("deny_payees", old.deny_payees, new.deny_payees),
    ):
        if gone := sorted(set(was) - set(now)):
            yield f"{name} has {', '.join(gone)} no more"
    if before.pin_payees and not after.pin_payees:
        yield "pin_payees is off"
    tolerance = after.price_tolerance
    if before.price_tolerance is not None and (tolerance is None or tolerance > before.price_tolerance):
        yield f"price_tolerance was {before.price_tolerance}, and is {'any' if tolerance is None else tolerance}"
    if _is_looser(before.asks_above, after.asks_above):
        yield f"ask_above was {either(before.asks_above)}, and is {either(after.asks_above) or 'gone'}"


def _rule(rule: Rule) -> dict[str, Any]:
    return {rule.kind: rule.name} | {LEVELS[level]: _texts(rule.caps.limits(level)) for level in rule.caps.levels}


def _texts(limits: Sequence[Money]) -> list[str] | None:
    return sorted(str(limit) for limit in limits) or None


def _sorted(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else sorted(set(names))
