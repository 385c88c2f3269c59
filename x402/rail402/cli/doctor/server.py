"""A server, as its rail402.toml describes it: the file, the store, every rail, and its public address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx

from rail402.cli.doctor.findings import TIMEOUT, Finding, clock_finding, ok, secret_files, warning, wrong
from rail402.cli.telemetry import without_telemetry
from rail402.clock import system_clock
from rail402.config import TomlFile
from rail402.errors import ConfigurationError, Rail402Error, StoreError
from rail402.protocol.endpoint import DISCOVERY
from rail402.protocol.rail import PaymentRail
from rail402.proxy.toml import proxy_from_toml
from rail402.server.gate import Gate
from rail402.server.services import Services
from rail402.server.toml import gate_from_toml
from rail402.upstream import is_private_host

__all__ = ["server_findings"]

_MANY: Final = 1000


async def server_findings(path: Path) -> AsyncIterator[Finding]:
    """Yield what is found about the server that a file describes. It serves nothing meanwhile."""
    try:
        file = TomlFile(path)
        table = file.data.get("proxy")  # whose `to` may be on the command line instead
        proxy = proxy_from_toml(path) if isinstance(table, dict) and "to" in table else None
        gate = gate_from_toml(path) if proxy is None else proxy.gate
    except ConfigurationError as error:
        yield wrong("configuration", error.detail, "put that line right")
        return
    without_telemetry()
    yield ok("configuration", f"{path} can be read")
    for finding in secret_files(file.data):
        yield finding
    if not file.tables("routes"):
        yield ok("routes", "none in the file: they are marked in the program")
    if proxy is not None:
        yield await _upstream(proxy.upstream.to)
    async for finding in _opened(gate):
        yield finding


async def _upstream(to: str) -> Finding:
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
            await client.head(to)
    except httpx.HTTPError as error:
        return wrong("proxy", f"{to} does not answer: {type(error).__name__}", "start the service, or put `to` right")
    return ok("proxy", f"{to} answers")


async def _opened(gate: Gate) -> AsyncIterator[Finding]:
    try:
        await gate.start(reconciling=False)
    except StoreError as error:
        yield wrong("store", error.detail, "start it, or put `store` right")
        return
    except Rail402Error as error:
        yield wrong("start", error.detail, "put the configuration right")
        return
    try:
        services = gate.services()
        yield ok("store", "opened, and its schema is up to date")
        yield await _open_charges(services)
        for rail in services.rails.values():
            yield await _rail(rail)
        async for finding in _public_url(services):
            yield finding
    finally:
        await gate.close()


async def _open_charges(services: Services) -> Finding:
    now = services.clock()
    lapsed = await services.store.unresolved(now=now, limit=_MANY)
    old = [charge for charge in lapsed if charge.lease_until < now - services.settings.lease_seconds]
    if not old:
        return ok("charges", "none is left open")
    count = f"{len(old)}{'+' if len(lapsed) == _MANY else ''}"
    return warning("charges", f"{count} are open and nobody looks at them", "rail402 charges reconcile --config …")


async def _rail(rail: PaymentRail) -> Finding:
    about = f"rail {rail.spec.name}"
    try:
        async with asyncio.timeout(TIMEOUT):
            await rail.health()
    except TimeoutError:
        return wrong(about, f"no answer in {TIMEOUT} s", "check its address, and that this machine may reach it")
    except Rail402Error as error:
        return wrong(about, error.detail or str(error), "check its address and its key")
    networks = ", ".join(sorted({mechanism.network for mechanism in rail.spec.mechanisms}))
    if rail.is_sandbox or rail.is_test:
        kind = "play money" if rail.is_sandbox else "test money"
        return warning(about, f"reachable, and takes {kind} ({networks})", "name a real backend before you sell")
    return ok(about, f"reachable, on {networks}")


async def _public_url(services: Services) -> AsyncIterator[Finding]:
    url = services.settings.public_url
    host = services.settings.realm
    if url.startswith("http://") and not is_private_host(host):
        yield wrong("public_url", f"{url} is not encrypted: proofs of payment can be read on the way", "serve https")
    else:
        yield ok("public_url", url)
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            response = await client.get(f"{url}{DISCOVERY}jwks.json")
    except httpx.HTTPError as error:
        yield warning(
            "discovery",
            f"{url} cannot be reached from here ({type(error).__name__})",
            "fine before it is deployed, or where this machine may not reach its own public address",
        )
        return
    yield _keys(response, services)
    clock = clock_finding(response, system_clock())
    if clock is not None:
        yield clock


def _keys(response: httpx.Response, services: Services) -> Finding:
    """Compare the keys that are published with those of the file: receipts are verified by the published ones."""
    try:
        published = {key["x"] for key in response.json()["keys"]}
    except (ValueError, LookupError, TypeError):
        return wrong(
            "discovery",
            f"{response.url} answers {response.status_code} and no key set: receipts cannot be verified",
            f"let {DISCOVERY} through to the gate",
        )
    ours = {key["x"] for key in services.receipt_keys.jwks["keys"]}
    if not ours & published:
        return wrong("discovery", f"{response.url} publishes other keys than this file's", "deploy this receipt_key")
    return ok("discovery", f"{response.url} publishes this file's keys")
