"""What a purchase asks its driver to do: it is one generator, and these are the commands that it yields.

A driver performs a command and sends the answer back in; errors of the transport and of this package are thrown in.
The asynchronous and the synchronous driver (`client/httpx.py`) differ in nothing but how they wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import httpx

from rail402.client.records import Approve
from rail402.money import Money
from rail402.protocol.dialect import Fields

__all__ = ["Call", "Command", "Read", "Reply", "Request", "Send", "Steps", "call", "read", "send"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """The caller's request, as a purchase sees it.

    Attributes:
        method: upper case.
        origin: scheme and authority; url: the whole, the path and query exactly as they are sent.
        fields: its header fields.
        body: its bytes; None where it is a stream, which cannot be sent twice.
        objection: why nothing may be bought for it, whatever it costs.
        at_most: the most that may be paid for it, where that is less than the budget allows; all of them hold.
        approve: who is asked about it in place of the payer's own `approve`.
        tool: for whom it is made, which rules of the budget may limit.
    """

    method: str
    origin: str
    url: str
    fields: Fields
    body: bytes | None = field(repr=False)
    objection: str | None = None
    at_most: tuple[Money, ...] = ()
    approve: Approve | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A response whose body is not read yet."""

    status: int
    fields: Fields
    response: httpx.Response


@dataclass(frozen=True, slots=True)
class Send:
    """Send the caller's request with these fields set, or fetch another `url` of the same origin. Answer: `Reply`."""

    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read a reply's body, decoded, and close it. Answer: the bytes, or None where there are more than `limit`."""

    reply: Reply
    limit: int


@dataclass(frozen=True, slots=True)
class Call:
    """Await what `function` returns. Answer: its result."""

    function: Callable[[], Awaitable[Any]]


Command = Send | Read | Call
Steps = Generator[Command, Any, T]
"""A piece of a purchase that yields commands and returns a T."""


def send(command: Send) -> Steps[Reply]:
    """Yield a `Send` and return its answer."""
    return cast(Reply, (yield command))


def read(reply: Reply, limit: int) -> Steps[bytes | None]:
    """Yield a `Read` and return its answer."""
    return cast("bytes | None", (yield Read(reply, limit)))


def call(function: Callable[[], Awaitable[T]]) -> Steps[T]:
    """Yield a `Call` and return its answer."""
    return cast(T, (yield Call(function)))
