"""An agent, as its wallets.toml describes it: the file, the journal, and every wallet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from rail402.cli.doctor.findings import TIMEOUT, Finding, ok, secret_files, warning, wrong
from rail402.cli.pay import open_payer
from rail402.client.payer import Payer
from rail402.config import TomlFile
from rail402.errors import ConfigurationError, Rail402Error, StoreError

__all__ = ["agent_findings"]


async def agent_findings(wallets: str) -> AsyncIterator[Finding]:
    """Yield what is found about the agent that `--wallets` names. Nothing is paid."""
    try:
        payer = open_payer(wallets)
        secrets = _secrets(wallets)
    except ConfigurationError as error:
        yield wrong("configuration", error.detail, "put that line right, or make a file with `rail402 init`")
        return
    yield ok("configuration", f"{wallets} can be read")
    for finding in secrets:
        yield finding
    try:
        await payer.journal.start()
    except (StoreError, ConfigurationError) as error:
        yield wrong("journal", error.detail, "put `journal` right, or the mode of its folder")
        return
    try:
        yield ok("journal", f"{payer.journal.address} can be written")
        async for finding in _journal(payer):
            yield finding
        async for finding in _wallets(payer):
            yield finding
    finally:
        await payer.close()


def _secrets(wallets: str) -> list[Finding]:
    return list(secret_files(TomlFile(wallets).data)) if Path(wallets).exists() else []


async def _journal(payer: Payer) -> AsyncIterator[Finding]:
    if await payer.journal.paused_since() is not None:
        yield warning("budget", "purchases are paused: nothing is bought", "rail402 budget resume")
    limits = " or ".join(str(limit) for limit in payer.budget.limits("request"))
    yield ok("budget", f"one purchase may cost {limits}")
    if unresolved := await payer.journal.unresolved():
        yield warning("purchases", f"{len(unresolved)} are not resolved, and count", "rail402 receipts recover")
    else:
        yield ok("purchases", "all are resolved")


async def _wallets(payer: Payer) -> AsyncIterator[Finding]:
    for name, error in (await _started(payer)).items():
        about = f"wallet {name}"
        if error is None:
            wallet = payer.wallets[name]
            networks = ", ".join(sorted({mechanism.network for mechanism in wallet.spec.mechanisms}))
            yield ok(about, f"can be used, on {networks}")
        else:
            yield wrong(about, error, "check its address and its key; it is left out until it can be reached")


async def _started(payer: Payer) -> dict[str, str | None]:
    """Start the wallets; return what hinders each one."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await payer.start()
    except TimeoutError:
        return dict.fromkeys(payer.names, f"no answer in {TIMEOUT} s")
    except Rail402Error as error:
        return {name: None if name in payer.wallets else error.detail or str(error) for name in payer.names}
    return {name: None if name in payer.wallets else "it cannot be reached now" for name in payer.names}
