"""An agent, as its wallets.toml describes it: the file, the journal, the limits, and every wallet."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from rail402.cli.doctor.findings import (
    TIMEOUT,
    Finding,
    clock_finding,
    ok,
    secret_files,
    time_finding,
    warning,
    wrong,
)
from rail402.cli.doctor.limits import limit_findings
from rail402.cli.pay import open_payer
from rail402.client.payer import Payer
from rail402.client.toml import problems_in_toml
from rail402.clock import system_clock
from rail402.config import TomlFile
from rail402.errors import ConfigurationError, Rail402Error, StoreError
from rail402.protocol.rail import Wallet

__all__ = ["agent_findings"]

_URLS: Final = ("url", "urls", "signer")
"""Keys of wallets that hold the addresses of their services."""

_ASKED: Final = 3
_PATIENCE: Final = TIMEOUT + 5
"""Seconds for which a wallet is waited for: what it says of its own time-outs, of 15 seconds at most, says more."""


async def agent_findings(wallets: str) -> AsyncIterator[Finding]:
    """Yield what is found about the agent that `--wallets` names. Nothing is paid."""
    try:
        payer = open_payer(wallets)
        yield ok("configuration", f"{wallets} can be read")
    except ConfigurationError as error:
        payer = None
        for problem in problems_in_toml(wallets) or (error,):  # such as two wallets of one name
            yield wrong("configuration", problem.detail, "put that line right, or make a file with `rail402 init`")
    data = _data(wallets)
    for finding in _files(Path(wallets), data) if data is not None else ():
        yield finding
    if payer is None:
        return
    try:
        await payer.journal.start()
    except (StoreError, ConfigurationError) as error:
        yield wrong("journal", error.detail, "put `journal` right, or the mode of its folder")
        return
    try:
        yield ok("journal", f"{payer.journal.address} can be written")
        async for finding in limit_findings(payer, data or {}):
            yield finding
        yield await _purchases(payer)
        async for finding in _wallets(payer, data or {}):
            yield finding
    finally:
        await payer.close()


def _data(wallets: str) -> Mapping[str, Any] | None:
    """Return what is in the file; None where there is none that can be read."""
    try:
        return TomlFile(wallets).data
    except ConfigurationError:
        return None


def _files(path: Path, data: Mapping[str, Any]) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        yield wrong("file", f"{path} has the mode {mode:o}: others can raise its limits", f"chmod 600 {path}")
    else:
        yield ok("file", f"{path} can be written by its owner alone")
    yield from secret_files(data)


async def _purchases(payer: Payer) -> Finding:
    if unresolved := await payer.journal.unresolved():
        return warning("purchases", f"{len(unresolved)} are not resolved, and count", "rail402 receipts recover")
    return ok("purchases", "all are resolved")


async def _wallets(payer: Payer, data: Mapping[str, Any]) -> AsyncIterator[Finding]:
    looks = [_examined(f"wallet {name}", wallet) for name, wallet in payer.all_wallets.items()]
    clocks = []
    for findings, time in await asyncio.gather(*looks):
        for finding in findings:
            yield finding
        if time is not None:
            clocks.append(time)
    clock = clocks[0] if clocks else await _clock(data)
    if clock is not None:
        yield clock


async def _examined(about: str, wallet: Wallet) -> tuple[Sequence[Finding], Finding | None]:
    """Return what is found about a wallet, and about the clock where its service says the time."""
    clock = None
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await wallet.examine()
    except TimeoutError:
        fix = "check its address, and that this machine may reach it; where it asks a person, have one answer"
        return [wrong(about, f"no answer in {_PATIENCE} s", fix)], None
    except ConfigurationError as error:
        return [wrong(about, error.detail, "put that right: until then no wallet of this file pays")], None
    except Rail402Error as error:
        fix = "check its address and its key; it is left out until it can be reached"
        return [wrong(about, error.detail or str(error), fix)], None
    finally:
        await wallet.close()
    for each in found:
        if each.time is not None:
            clock = time_finding(each.time, system_clock(), whose=about)
    findings = [warning(about, each.says, each.fix) if each.fix else ok(about, each.says) for each in found]
    networks = ", ".join(sorted(wallet.networks))
    return findings or [ok(about, f"can be used, on {networks}")], clock


async def _clock(data: Mapping[str, Any]) -> Finding | None:
    """Compare the clock with those of the wallets' services, as far as the file has their addresses."""
    async with httpx.AsyncClient(timeout=TIMEOUT / _ASKED) as client:
        for url in list(_urls(data))[:_ASKED]:
            try:
                response = await client.head(url)
            except (httpx.HTTPError, httpx.InvalidURL):  # said of the wallet
                continue
            clock = clock_finding(response, system_clock())
            if clock is not None:
                return clock
    return None


def _urls(data: Mapping[str, Any]) -> Iterator[str]:
    for table in data.get("wallets", ()):
        for value in (table.get(key) for key in _URLS):
            yield from (url for url in ([value] if isinstance(value, str) else value or ()) if url.startswith("http"))
