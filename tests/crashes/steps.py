"""The numbered steps of a process: before and after each durable write, each call of a rail or of its provider, each
message that leaves. Found by watching the seams, so that a new verb is a new step by itself."""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import httpx2

from rail402.client.journal import Journal
from rail402.protocol.rail import Holds, PaymentRail, Refunds, RefundsOnDemand, Wallet
from rail402.stores.base import Store
from rail402.stores.postgres import PostgresStore
from rail402.stores.sqlite import SqliteStore
from rail402_base.rpc.relayer_store import RelayerStore, SqliteRelayerStore
from rail402_base.rpc.relayer_store_postgres import PostgresRelayerStore
from rail402_stripe.sandbox import SandboxTransport

__all__ = ["Steps", "watch_agent", "watch_shop"]

_LIFE: Final = {"start", "close", "health", "received"}
# What changes nothing: to die beside it is to die beside its neighbours.
_READS: Final = {"find", "get", "response", "wait", "unresolved", "recent", "issued", "live", "of"} | {
    *("open_for", "newest", "spent", "spent_by_scope", "paused_since", "pinned", "pins", "known", "verify", "can_pay")
}

Name = Callable[[str, tuple[Any, ...]], str]


class Steps:
    """Writes each step down as it comes, and ends the process at one of them, as a power cut would.

    Args:
        path: a line for each step.
        kill_at: the number of the last one, from 1; 0 for none.
    """

    def __init__(self, path: Path, kill_at: int = 0) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._kill_at, self._count = kill_at, 0

    def __call__(self, name: str) -> None:
        """Take a step."""
        self._count += 1
        os.write(self._file, f"{name}\n".encode())
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: type, method: str, name: Name) -> None:
        """Count what is before and after each call of a coroutine method."""
        original = getattr(owner, method)

        @functools.wraps(original)
        async def watched(*args: Any, **kwargs: Any) -> Any:
            what = name(method, args)
            self(f"before {what}")
            try:
                return await original(*args, **kwargs)
            finally:
                self(f"after {what}")

        setattr(owner, method, watched)


class _Stream(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """A response's body, each piece of which is a step."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner, self._steps = inner, steps

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._steps("a piece of the body")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def watch_shop(steps: Steps, rail: PaymentRail) -> None:
    """Watch what the server writes and whom it asks."""
    for verb in _verbs(Store):
        steps.watch(SqliteStore, verb, _of_store)
        steps.watch(PostgresStore, verb, _of_store)
    for verb in _verbs(RelayerStore):
        steps.watch(SqliteRelayerStore, verb, lambda verb, _: f"relayer.{verb}")
        steps.watch(PostgresRelayerStore, verb, lambda verb, _: f"relayer.{verb}")
    for capability in (PaymentRail, Holds, Refunds, RefundsOnDemand):
        if isinstance(rail, capability):
            for verb in _verbs(capability):
                steps.watch(type(rail), verb, lambda verb, _: f"rail.{verb}")
    _watch_http(steps)


def watch_agent(steps: Steps, wallet: Wallet) -> None:
    """Watch what the client writes, what its wallet does, and what it sends."""
    for verb in _verbs(Journal):
        steps.watch(Journal, verb, _of_journal)
    for verb in _verbs(Wallet):
        steps.watch(type(wallet), verb, lambda verb, _: f"wallet.{verb}")
    for verb in _verbs(RelayerStore):  # where a wallet keeps the transfers that it has signed
        steps.watch(SqliteRelayerStore, verb, lambda verb, _: f"sender.{verb}")
    _watch_http(steps)
    for transport in (httpx.AsyncHTTPTransport, httpx2.AsyncHTTPTransport):  # the other one is that of MCP's SDK
        _watch_bodies(steps, transport)


def _watch_bodies(steps: Steps, transport: type) -> None:
    send = getattr(transport, "handle_async_request")  # noqa: B009 - of either library

    async def sending(sender: Any, request: Any) -> Any:
        response = await send(sender, request)
        response.stream = _Stream(response.stream, steps)
        return response

    setattr(transport, "handle_async_request", sending)  # noqa: B010 - to mypy it is no assignment


def _verbs(owner: type) -> list[str]:
    """The coroutine methods of a class that may change something."""
    names = [name for name, member in vars(owner).items() if inspect.iscoroutinefunction(member)]
    return [name for name in names if not name.startswith("_") and name not in _READS | _LIFE]


def _watch_http(steps: Steps) -> None:
    for transport in (httpx.AsyncHTTPTransport, httpx2.AsyncHTTPTransport, SandboxTransport):
        steps.watch(transport, "handle_async_request", _of_request)


def _of_store(verb: str, args: tuple[Any, ...]) -> str:
    charge = args[1] if len(args) > 1 else None
    states = f" {charge.payment} {charge.delivery}" if verb in ("claim", "save") and charge is not None else ""
    return f"store.{verb}{states}"


def _of_journal(verb: str, args: tuple[Any, ...]) -> str:
    return f"journal.{verb} {args[1].state}" if verb in ("reserve", "save", "reopen") else f"journal.{verb}"


def _of_request(_: str, args: tuple[Any, ...]) -> str:
    request = args[1]
    parts = ("id" if "_" in part and any(map(str.isdigit, part)) else part for part in request.url.path.split("/"))
    return " ".join([request.method, "/".join(parts), *request.headers.get_list("mcp-method")])
