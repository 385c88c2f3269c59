"""One node: JSON-RPC 2.0 over HTTP, and the one place that turns what goes wrong there into our errors.

The address of a node holds the key of an account. It shows nowhere; a node is called by its host. For that reason the
transports of httpx are used without its client, which logs every address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import nests_too_deep
from rail402.upstream import NEVER_SENT, is_private_host, printable, read_at_most

__all__ = ["MAX_ANSWER", "Answer", "Call", "Endpoint", "RpcError"]

logger = logging.getLogger("rail402.base")

T = TypeVar("T")

MAX_ANSWER: Final = 8 << 20
"""Bytes of an answer above which it is not read on."""

_MAX_BATCH: Final = 50
_PARALLEL: Final = 8
_MAX_DETAIL: Final = 200
_LONGEST_REST: Final = 60
# "Limit exceeded", by EIP-1474 and by what some providers use instead.
_OVER_LIMIT: Final = (-32005, -32029, -32097, 429)
# What only a node in trouble refuses so; of a contract's calls and of transactions it may be their own fault.
_INTERNAL_ERROR: Final = -32603
_ALWAYS_ANSWERED: Final = (
    "eth_blockNumber",
    "eth_chainId",
    "eth_getBalance",
    "eth_getBlockByNumber",
    "eth_getCode",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
)
_LONGEST_SHOWN: Final = 7


@dataclass(frozen=True, slots=True)
class Call:
    """A method with its parameters."""

    method: str
    params: tuple[Any, ...] = ()


class RpcError(RailUnavailable):
    """A node understood a call and refused it.

    Attributes:
        number: the JSON-RPC error code.
        message: what the node said, shortened, without its address.
        data: what it added, such as what a contract reverted with.
    """

    def __init__(self, number: int, message: str, data: object = None) -> None:
        self.number, self.message, self.data = number, message, data
        super().__init__(f"the node answered {number}: {message}")


Answer = Any
"""What a call returned, or the `RpcError` that it was refused with."""


class Endpoint:
    """One node.

    Args:
        url: its address. Secret.
        timeout: seconds for a whole answer.
        transport: what requests are sent through.

    Raises:
        ConfigurationError: the address cannot be used.
    """

    def __init__(self, url: str, *, timeout: int, transport: httpx.AsyncBaseTransport) -> None:
        self._url = _checked_url(url)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "rail402"}
        if self._url.userinfo:
            user, _, password = self._url.userinfo.decode().partition(":")
            self._headers["Authorization"] = next(
                httpx.BasicAuth(user, password).auth_flow(httpx.Request("POST", self._url))
            ).headers["Authorization"]
        self.host = self._url.host if self._url.port is None else f"{self._url.host}:{self._url.port}"
        parts = (self._url.userinfo.decode(), self._url.query.decode(), self._url.path)
        words = [word for part in parts for word in _between_words(part)]
        self._secrets = [word for word in words if len(word) > _LONGEST_SHOWN]
        self._url = self._url.copy_with(userinfo=b"")
        self._timeout, self._transport = timeout, transport
        self._batch = _MAX_BATCH
        self._rests_until, self._failures = 0, 0

    def __repr__(self) -> str:
        return f"Endpoint({self.host!r})"

    @property
    def is_resting(self) -> bool:
        """Whether it gave no answer a short while ago."""
        return _seconds() < self._rests_until

    async def ask(self, calls: Sequence[Call]) -> list[Answer]:
        """Make calls, in one request where the node takes that; return what each of them gave, in order.

        Raises:
            RailUnavailable: the node never got them.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        try:
            answers = await self._ask(calls)
        except (RailUnavailable, OutcomeUnknown):
            self._failures += 1
            self._rests_until = _seconds() + min(2 ** min(self._failures, 6), _LONGEST_REST)
            raise
        self._failures = self._rests_until = 0
        return answers

    async def _ask(self, calls: Sequence[Call]) -> list[Answer]:
        parts = [calls[start : start + self._batch] for start in range(0, len(calls), self._batch)]
        limit = asyncio.Semaphore(_PARALLEL)

        async def ask(part: Sequence[Call]) -> list[Answer]:
            async with limit:
                return await self._ask_at_once(part)

        return [answer for answers in await _all(map(ask, parts)) for answer in answers]

    async def _ask_at_once(self, calls: Sequence[Call]) -> list[Answer]:
        if len(calls) == 1:
            status, answer = await self._post(_request(0, calls[0]))
            if not isinstance(answer, Mapping):
                raise OutcomeUnknown(f"{self.host} answered {status}, and not in JSON-RPC")
            return self._in_order([answer], calls)
        status, answers = await self._post([_request(number, call) for number, call in enumerate(calls)])
        if not self._is_too_large(status, answers):
            if not isinstance(answers, list):
                raise OutcomeUnknown(f"{self.host} answered {status}, and not in JSON-RPC")
            return self._in_order(answers, calls)
        self._batch = min(self._batch, len(calls) // 2)
        logger.info("%s takes no batches of %d calls; there will be %d in one", self.host, len(calls), self._batch)
        return await self._ask(calls)

    def _is_too_large(self, status: int, answers: object) -> bool:
        """Say whether a batch was refused for being one: by one error for all of it, or by a status."""
        if isinstance(answers, list) and len(answers) == 1:
            answers = answers[0]
        if isinstance(answers, Mapping) and answers.get("error") is not None:
            error = self._error(answers["error"])
            if error.number in _OVER_LIMIT:
                raise OutcomeUnknown(f"{self.host} is over its limit: {error.message}")
            return True
        return status in (400, 413) and answers is None

    def _in_order(self, answers: Sequence[object], calls: Sequence[Call]) -> list[Answer]:
        found: dict[int, Answer] = {}
        for each in answers:
            if not isinstance(each, Mapping):
                raise OutcomeUnknown(f"{self.host} sent an answer that is no object")
            number, error = each.get("id"), each.get("error")
            if error is not None and number is None and len(calls) == 1:
                number = 0  # a request that was refused before it was read
            if type(number) is not int or number in found or ("result" not in each and error is None):
                raise OutcomeUnknown(f"{self.host} sent an answer that is not JSON-RPC 2.0")
            found[number] = self._error(error) if error is not None else each["result"]
        if found.keys() != set(range(len(calls))):
            raise OutcomeUnknown(f"{self.host} did not answer all calls of a batch")
        for number, call in enumerate(calls):
            answer = found[number]
            # Of events, the limit is one on how many are asked for.
            if not isinstance(answer, RpcError) or call.method == "eth_getLogs":
                continue
            if answer.number in _OVER_LIMIT:
                raise OutcomeUnknown(f"{self.host} is over its limit: {answer.message}")
            if answer.number == _INTERNAL_ERROR and call.method in _ALWAYS_ANSWERED:
                raise OutcomeUnknown(f"{self.host} is in trouble: {answer.message}")
        return [found[number] for number in range(len(calls))]

    def _error(self, error: object) -> RpcError:
        if not isinstance(error, Mapping) or type(error.get("code")) is not int:
            raise OutcomeUnknown(f"{self.host} sent an error that is not JSON-RPC 2.0")
        return RpcError(error["code"], self._shown(str(error.get("message", ""))), error.get("data"))

    def _shown(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return printable(text[:_MAX_DETAIL])

    async def _post(self, body: object) -> tuple[int, object]:
        """Return the status, and the body where it is JSON; None where it is not."""
        request = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            content=json.dumps(body, separators=(",", ":")).encode(),
            extensions={"timeout": httpx.Timeout(self._timeout).as_dict()},
        )
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(request)
                try:
                    content = await self._read(response)
                finally:
                    await response.aclose()
        except NEVER_SENT as error:
            raise RailUnavailable(f"{self.host} cannot be reached ({type(error).__name__})") from None
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(f"{self.host} gave no answer ({type(error).__name__})") from None
        if response.is_redirect:
            raise OutcomeUnknown(f"{self.host} redirects; write the address that it leads to")
        if response.status_code in (401, 403):
            raise OutcomeUnknown(
                f"{self.host} refuses the key in its address ({response.status_code}); put the right one there"
            )
        if response.status_code == 429:
            raise OutcomeUnknown(f"{self.host} is over its limit (429)")
        return response.status_code, _parsed(content)

    async def _read(self, response: httpx.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise OutcomeUnknown(f"{self.host} compressed its answer, which was not asked for")
        content = await read_at_most(response, MAX_ANSWER)
        if content is None:
            raise OutcomeUnknown(f"the answer of {self.host} is larger than {MAX_ANSWER} bytes")
        return content


def _between_words(part: str) -> list[str]:
    """Split a part of an address at what stands between its words."""
    return re.split("[/:&=]", part)


def _request(number: int, call: Call) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": call.method, "params": list(call.params)}


def _parsed(content: bytes) -> object:
    try:
        text = content.decode()
        return None if nests_too_deep(text) else json.loads(text)
    except (ValueError, RecursionError):
        return None


async def _all(waiting: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all, also where one fails: nothing goes on behind the caller's back."""
    done = await asyncio.gather(*waiting, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if not isinstance(result, BaseException)]


def _seconds() -> int:
    return int(asyncio.get_running_loop().time())


def _checked_url(url: str) -> httpx.URL:
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ConfigurationError("urls: one of them is not an address (it is not shown: it may hold a key)") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigurationError("urls: each must look like https://base.example.com/key")
    if parts.scheme == "http" and not is_private_host(parts.host):
        raise ConfigurationError(f"urls: {parts.host} by http could be listened to and lied to; use https")
    return parts
