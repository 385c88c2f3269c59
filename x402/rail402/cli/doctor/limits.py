"""The limits of an agent: whether they hold, whether they fit its wallets, and whether what they name is there."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from rail402.cli.doctor.findings import Finding, ok, warning, wrong
from rail402.client.limits import LEVELS, WINDOWS, either, phrase
from rail402.client.payer import Payer
from rail402.client.rules import EACH, host_pattern
from rail402.errors import BudgetExceeded
from rail402.money import Money
from rail402.rates import FixedRates, convert

__all__ = ["limit_findings"]

_HOSTS: Final = 50
"""How many names are looked up at most."""

_UNKNOWN: Final = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


async def limit_findings(payer: Payer, data: Mapping[str, Any]) -> AsyncIterator[Finding]:
    """Yield what is found about the limits of a payer, whose journal is open.

    Args:
        data: what its file says; empty where it has none.
    """
    if await payer.journal.paused_since() is not None:
        yield warning("budget", "purchases are paused: nothing is bought", "rail402 budget resume")
    looser = () if payer.file_limits is None else await payer.journal.looser(payer.file_limits)
    for why in looser:
        yield wrong("budget", f"nothing is bought, because the limits are looser: {why}", "rail402 budget confirm")
    for finding in _levels(payer, has_own="budget" in data):
        yield finding
    async for finding in _currencies(payer, data):
        yield finding
    for finding in _rails(payer):
        yield finding
    async for finding in _hosts(payer):
        yield finding


def _levels(payer: Payer, *, has_own: bool) -> Iterator[Finding]:
    said = [f"{either(payer.budget.limits(level))} {phrase(level)}" for level in LEVELS if payer.budget.limits(level)]
    whose = "" if has_own else ", which are the defaults"
    yield ok("budget", f"the limits are {', '.join(said)}{whose}")
    for level, seconds in WINDOWS.items():
        if seconds is not None and not payer.budget.limits(level):
            fix = f'write {LEVELS[level]} = "5 USD", or what you can bear to lose, in [budget]'
            yield warning("budget", f"there is no limit {phrase(level)}", fix)


async def _currencies(payer: Payer, data: Mapping[str, Any]) -> AsyncIterator[Finding]:
    """Yield the wallets that can buy nothing, because no limit can be compared with what they pay in."""
    rates = FixedRates(data.get("client", {}).get("rates", {}))
    for name, wallet in payer.all_wallets.items():
        for currency, exponent in {mech.currency: mech.exponent for mech in wallet.spec.mechanisms}.items():
            least = Money.from_atomic(1, exponent, currency)
            converted = {each: await convert(least, each, rates) for each in payer.budget.currencies}
            try:
                payer.budget.entries(least, {each: money for each, money in converted.items() if money is not None})
            except BudgetExceeded as error:
                fix = f"write each limit in {currency} as well, or a rate under [client.rates]"
                yield warning("budget", f"nothing can be bought by {name} in {currency}: {error.detail}", fix)


def _rails(payer: Payer) -> Iterator[Finding]:
    rails = {wallet.spec.name for wallet in payer.all_wallets.values()}
    for rule in payer.budget.rules:
        if rule.kind == "rail" and rule.name not in (EACH, *rails):
            said = f"there is a rule for the rail {rule.name}, and no wallet on it"
            yield warning("budget", said, f"the rails here are {', '.join(sorted(rails))}")


async def _hosts(payer: Payer) -> AsyncIterator[Finding]:
    """Yield the hosts that are named somewhere and do not exist: a rule for a misspelt name holds for nobody."""
    lists = payer.budget.lists
    named = [("prefer", host_pattern(each.host)) for each in payer.preferences if each.host is not None]
    named += [("rules", rule.name) for rule in payer.budget.rules if rule.kind == "host" and rule.name != EACH]
    named += [("allow_hosts", host) for host in lists.allow_hosts or ()]
    named += [("deny_hosts", host) for host in lists.deny_hosts]
    names = list(dict.fromkeys((where, host) for where, host in named if not _is_pattern_or_address(host)))[:_HOSTS]
    unknown = await asyncio.gather(*(_is_unknown(host) for _, host in names))
    for (where, host), is_unknown in zip(names, unknown, strict=True):
        if is_unknown:
            yield warning(where, f"there is no host {host}", "see whether it is spelt right")


def _is_pattern_or_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.startswith("*")
    return True


async def _is_unknown(host: str) -> bool:
    """Whether there is surely no such host; False where nobody can be asked."""
    try:
        await asyncio.get_running_loop().getaddrinfo(host, 443)
    except socket.gaierror as error:
        return error.errno in _UNKNOWN
    except (OSError, UnicodeError):
        return False
    return False
