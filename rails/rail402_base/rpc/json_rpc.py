"""JSON-RPC at several nodes of one chain.

What matters about a call that failed is whether a node may have acted on it. Reading is harmless, so a call that gave
no answer is made again at the next node, and `RailUnavailable` says that none answered. `JsonRpc.send` is for the one
call that moves money.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402_base.rpc.endpoint import Answer, Call, Endpoint, RpcError

__all__ = ["Answer", "Call", "JsonRpc", "RpcError", "Sent"]

logger = logging.getLogger("rail402.base")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a call that is not to be made twice.

    Attributes:
        answer: the first node's that answered.
        is_doubtful: a node before it may have acted on the call and gave no answer.
    """

    answer: Answer
    is_doubtful: bool


class JsonRpc:
    """Several nodes of one chain: what one of them does not answer is asked of the next.

    Args:
        urls: their addresses, the preferred one first. Secret.
        timeout: seconds for a whole answer.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: there is no address, or one cannot be used.
    """

    def __init__(
        self, urls: str | Iterable[str], *, timeout: int = 10, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        addresses = [urls] if isinstance(urls, str) else list(dict.fromkeys(urls))
        if not addresses:
            raise ConfigurationError("urls: name at least one JSON-RPC address of the chain")
        self._transport = _Transport(transport)
        self.endpoints = tuple(Endpoint(url, timeout=timeout, transport=self._transport) for url in addresses)
        self._first = 0

    def __repr__(self) -> str:
        return f"JsonRpc({[endpoint.host for endpoint in self.endpoints]!r})"

    async def close(self) -> None:
        """Close the connections; a further call opens new ones."""
        await self._transport.aclose()

    async def call(self, method: str, *params: Any) -> Any:
        """Make one harmless call.

        Raises:
            RpcError: it was refused.
            RailUnavailable: no node answers.
        """
        (answer,) = await self.batch([Call(method, params)])
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def batch(self, calls: Sequence[Call]) -> list[Answer]:
        """Make harmless calls; each may have been refused.

        Raises:
            RailUnavailable: no node answers.
        """
        problems = []
        for endpoint in self._in_turn():
            try:
                answers = await endpoint.ask(calls)
            except (RailUnavailable, OutcomeUnknown) as error:
                problems.append(error.detail)
                logger.warning("a call is made at the next node, if there is one: %s", error.detail)
            else:
                self._first = self.endpoints.index(endpoint)
                return answers
        raise RailUnavailable("; ".join(problems), retry_after=5)

    async def each(self, look: Callable[[Endpoint], Awaitable[T]]) -> list[T]:
        """Do the same with every node that can be reached; return what each of them gave.

        Raises:
            RailUnavailable: there is none.
        """
        rested = [endpoint for endpoint in self.endpoints if not endpoint.is_resting] or self.endpoints
        answers, problems = await _ask_all(rested, look)
        if not answers:
            raise RailUnavailable("; ".join(problems), retry_after=5)
        return answers

    async def every(self, look: Callable[[Endpoint], Awaitable[bool]]) -> bool:
        """Say whether every node says yes, those too that gave no answer of late; one that gives none does not."""
        answers, problems = await _ask_all(self.endpoints, look)
        return not problems and all(answers)

    async def send(self, call: Call) -> Sent:
        """Make a call that moves money, at one node after the other until one answers.

        Only for a call that does the same thing however many nodes get it.

        Raises:
            RailUnavailable: no node ever got it.
            OutcomeUnknown: some may have, and none answered.
        """
        problems, is_doubtful = [], False
        for endpoint in self._in_turn():
            try:
                (answer,) = await endpoint.ask([call])
            except RailUnavailable as error:
                problems.append(error.detail)
            except OutcomeUnknown as error:
                problems.append(error.detail)
                is_doubtful = True
            else:
                return Sent(answer, is_doubtful)
        if is_doubtful:
            raise OutcomeUnknown("; ".join(problems))
        raise RailUnavailable("; ".join(problems), retry_after=5)

    def _in_turn(self) -> list[Endpoint]:
        """All nodes: the one that answered last first, those that did not answer of late at the end."""
        turn = [*self.endpoints[self._first :], *self.endpoints[: self._first]]
        return sorted(turn, key=lambda endpoint: endpoint.is_resting)


async def _ask_all(
    endpoints: Sequence[Endpoint], look: Callable[[Endpoint], Awaitable[T]]
) -> tuple[list[T], list[str]]:
    """Return what nodes gave, and why others gave no answer."""
    found = await asyncio.gather(*(look(endpoint) for endpoint in endpoints), return_exceptions=True)
    answers, problems = [], []
    for result in found:
        if isinstance(result, RailUnavailable | OutcomeUnknown):
            problems.append(result.detail)
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(result)
    if problems:
        logger.warning("%d of %d nodes gave no answer: %s", len(problems), len(endpoints), "; ".join(problems))
    return answers, problems


class _Transport(httpx.AsyncBaseTransport):
    """A pool of connections that opens with the first request, and again after it was closed."""

    def __init__(self, given: httpx.AsyncBaseTransport | None) -> None:
        self._given = given
        self._inner: httpx.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._inner is None:
            self._inner = self._given or httpx.AsyncHTTPTransport()
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.aclose()
