"""`rail402 budget`: the limits, what of them is used, and the kill switch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

import typer

from rail402.cli import asking
from rail402.cli.exit_codes import ExitCode
from rail402.cli.pay import Wallets, open_journal
from rail402.cli.show import AsJson, clean, in_sat, print_json, relative
from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.limits import LEVELS, WINDOWS, Level, Spent, either, phrase
from rail402.client.rules import Rule, host_of, rule_of
from rail402.clock import system_clock
from rail402.money import Money

__all__ = ["budget"]

T = TypeVar("T")

budget = typer.Typer(name="budget", help="The limits, what of them is used, and the kill switch.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class _State:
    """What a journal says."""

    spent: Mapping[str, Mapping[Level, Mapping[str, Spent]]]
    paused_since: int | None
    unconfirmed: Sequence[str] = ()
    refunded: Sequence[Money] = ()


@budget.command("show", help="Show the limits, and what of them is spent and held. No wallet is opened.")
def show(wallets: Wallets = None, as_json: AsJson = False) -> None:
    journal, limits = open_journal(wallets)

    async def read(opened: Journal) -> _State:
        spent = await opened.spent_by_scope(now=system_clock())
        refunded = tuple((await opened.refunded()).values())
        return _State(spent, await opened.paused_since(), await opened.looser(limits), refunded)

    state = asyncio.run(_with(journal, read)) if journal.exists() else _State({}, None)
    if as_json:
        print_json(_facts(limits, state))
        return
    if state.paused_since is not None:
        typer.echo(f"paused {relative(state.paused_since - system_clock())}: nothing is bought")
    for why in state.unconfirmed:
        typer.echo(f"not confirmed, so that nothing is bought: {clean(in_sat(why))}")
    for level in LEVELS:
        typer.echo(f"{phrase(level):<13}{_or(limits, level)}")
        for used in _used(state, "", level):
            typer.echo(f"{'':<13}{used}")
    if state.refunded:
        typer.echo(f"{'refunded':<13}{', '.join(map(in_sat, state.refunded))}, which counts as used all the same")
    for rule in limits.rules:
        typer.echo(f"{rule}: " + ", ".join(f"{in_sat(either(most))} {phrase(level)}" for level, most in _limited(rule)))
        for scope in _scopes(rule, limits, state):
            for level, _ in _limited(rule):
                for used in _used(state, scope, level):
                    typer.echo(f"{'':<13}{clean(scope)}: {used} {phrase(level)}")
    if limits.price_tolerance is not None:
        typer.echo(f"price_tolerance: {limits.price_tolerance} % above the first price")
    if limits.asks_above:
        typer.echo(f"ask_above: {in_sat(either(limits.asks_above))}")
    if not limits.pin_payees:
        typer.echo("pin_payees: no, a changed payee is paid")
    for name, names in _lists(limits).items():
        typer.echo(f"{name}: {', '.join(names) or 'nobody'}")


@budget.command("pause", help="Stop all purchases of this journal, now. What is open can still be resolved.")
def pause(wallets: Wallets = None, as_json: AsJson = False) -> None:
    async def stop(journal: Journal) -> int | None:
        await journal.pause(now=system_clock())
        return await journal.paused_since()

    since = asyncio.run(_with(open_journal(wallets)[0], stop))
    if as_json:
        print_json({"paused_since": since})
    else:
        typer.echo("paused: nothing is bought until `rail402 budget resume`")


@budget.command("resume", help="Let purchases be made again. It asks first, unless --yes is given.")
def resume(wallets: Wallets = None, yes: Yes = False, as_json: AsJson = False) -> None:
    journal, limits = open_journal(wallets)
    if not yes:
        asking.confirm(f"let purchases of up to {_or(limits, 'request')} be made again?")
    asyncio.run(_with(journal, lambda opened: opened.unpause()))
    if as_json:
        print_json({"paused_since": None})
    else:
        typer.echo("purchases are made again")


@budget.command(
    "confirm",
    help="Let limits hold that are looser than before. It asks first, unless --yes is given.",
)
def confirm(wallets: Wallets = None, yes: Yes = False, as_json: AsJson = False) -> None:
    journal, limits = open_journal(wallets)
    looser = asyncio.run(_with(journal, lambda opened: opened.accept(limits, now=system_clock())))
    for why in looser:
        typer.echo(clean(in_sat(why)), err=as_json)
    if looser and not yes:
        asking.confirm("let purchases be made within these limits?")
    if looser:
        asyncio.run(_with(journal, lambda opened: opened.accept(limits, now=system_clock(), is_confirmed=True)))
    if as_json:
        print_json({"confirmed": list(looser)})
    else:
        typer.echo("confirmed" if looser else "nothing is looser than what was confirmed last")


@budget.command("pins", help="Show whom each host was paid at, and what its resources did cost at first.")
def pins(wallets: Wallets = None, as_json: AsJson = False) -> None:
    journal = open_journal(wallets)[0]
    payees, prices = asyncio.run(_with(journal, lambda opened: opened.pins())) if journal.exists() else ((), ())
    if as_json:
        listed = [asdict(price) | {"price": str(price.price)} for price in prices]
        print_json({"payees": [asdict(payee) for payee in payees], "prices": listed})
        return
    for payee in payees:
        typer.echo(f"{payee.host}  paid at {clean(payee.payee)} on {clean(payee.network)}")
    for price in prices:
        typer.echo(f"{price.host}  {price.method} {clean(price.path)} did cost {in_sat(price.price)}")


@budget.command(
    "unpin",
    help="Forget what is known of a host: its next payee and prices are believed. It asks first, unless --yes is "
    "given.",
)
def unpin(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Such as api.example.com, on all of its ports.")],
    wallets: Wallets = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    journal = open_journal(wallets)[0]
    name = host_of(host)
    if not yes:
        asking.confirm(f"believe whatever payee and prices {name} names next?")
    forgotten = asyncio.run(_with(journal, lambda opened: opened.unpin(name)))
    if as_json:
        print_json({"host": name, "forgotten": forgotten})
    else:
        typer.echo(f"{forgotten} pins of {name} are forgotten")
    if not forgotten:
        raise typer.Exit(ExitCode.FAILED)


async def _with(journal: Journal, work: Callable[[Journal], Awaitable[T]]) -> T:
    await journal.start()
    try:
        return await work(journal)
    finally:
        await journal.close()


def _or(limits: Budget, level: Level) -> str:
    return in_sat(either(limits.limits(level))) or "no limit"


def _limited(rule: Rule) -> list[tuple[Level, Sequence[Money]]]:
    """Return the levels that a rule limits."""
    return [(level, rule.caps.limits(level)) for level in rule.caps.levels]


def _scopes(rule: Rule, limits: Budget, state: _State) -> list[str]:
    """Return the hosts, payees or rails that have spent under a rule."""
    return [scope for scope in state.spent if scope and rule_of(limits.rules, scope) is rule]


def _used(state: _State, scope: str, level: Level) -> list[str]:
    said = []
    for used in state.spent.get(scope, {}).get(level, {}).values():
        held = f", {used.unresolved} of it held by what is not resolved" if used.unresolved.amount else ""
        said.append(in_sat(f"{used.total} used{held}"))
    return said


def _lists(limits: Budget) -> dict[str, Sequence[str]]:
    """Return the lists of who may be paid, those that there are."""
    lists, found = limits.lists, dict[str, Sequence[str]]()
    if lists.allow_hosts is not None:
        found["allow_hosts"] = lists.allow_hosts
    if lists.deny_hosts:
        found["deny_hosts"] = lists.deny_hosts
    if lists.allow_payees is not None:
        found["allow_payees"] = lists.allow_payees
    if lists.deny_payees:
        found["deny_payees"] = lists.deny_payees
    return found


def _facts(limits: Budget, state: _State) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "paused_since": state.paused_since,
        "unconfirmed": list(state.unconfirmed),
        "per_request": {"limits": [str(limit) for limit in limits.limits("request")]},
    }
    for window in WINDOWS:
        facts[LEVELS[window]] = _window_facts(limits.limits(window), state, "", window)
    facts["refunded"] = [str(each) for each in state.refunded]
    facts["rules"] = [_rule_facts(rule, limits, state) for rule in limits.rules]
    facts |= {
        "pin_payees": limits.pin_payees,
        "price_tolerance": limits.price_tolerance,
        "ask_above": [str(limit) for limit in limits.asks_above],
    }
    return facts | _lists(limits)


def _rule_facts(rule: Rule, limits: Budget, state: _State) -> dict[str, Any]:
    facts: dict[str, Any] = {rule.kind: rule.name}
    facts |= {LEVELS[level]: [str(limit) for limit in most] for level, most in _limited(rule)}
    windows = [(level, most) for level, most in _limited(rule) if level != "request"]
    facts["used_by"] = {
        scope.partition(" ")[2]: {LEVELS[level]: _window_facts(most, state, scope, level) for level, most in windows}
        for scope in _scopes(rule, limits, state)
    }
    return facts


def _window_facts(most: Sequence[Money], state: _State, scope: str, window: Level) -> dict[str, Any]:
    used = state.spent.get(scope, {}).get(window, {}).values()
    return {
        "limits": [str(limit) for limit in most],
        "used": [str(each.total) for each in used],
        "unresolved": [str(each.unresolved) for each in used if each.unresolved.amount],
    }
