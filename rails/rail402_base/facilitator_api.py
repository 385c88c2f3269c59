"""Calls to one x402 facilitator (`/supported`, `/verify`, `/settle`): the one place that knows its HTTP.

What matters about a call that failed is whether the facilitator may have acted on it. `RailUnavailable` says that it
surely did not; `OutcomeUnknown` is everything else.

The address of a facilitator may hold a key. It shows nowhere; a facilitator is called by its host. For that reason the
transports of httpx are used without its client, which logs every address.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.upstream import NEVER_SENT, is_private_host, read_at_most
from rail402_base.eip3009 import same_address
from rail402_base.facilitator_breaker import CircuitBreaker
from rail402_base.facilitator_wire import (
    Settlement,
    SignedTransfer,
    Verdict,
    parse_settlement,
    parse_verdict,
    request_body,
    spoken_version,
    taken_networks,
)
from rail402_base.tokens import Network

__all__ = ["Facilitator", "FacilitatorApi", "Headers", "TurnedAway"]

MAX_ANSWER: Final = 1 << 20
"""Bytes of an answer above which it is not read on."""

_CONNECT_SECONDS: Final = 5
_NEVER_SENT: Final = (*NEVER_SENT, httpx.LocalProtocolError)
# Turned away before anybody looked at the payment, for who we are or how often; unless by what stands before it and has
# passed the payment on.
_TURNED_AWAY: Final = frozenset({401, 403, 429})
# Not there, says the facilitator, or a proxy that has lost it: perhaps after it carried out a payment.
_NOT_THERE: Final = frozenset({404, 405})

_NOT_THE_PAYERS: Final = frozenset(
    {
        "asset_not_deployed_contract",
        "balance_check_failed",
        "invalid_network",
        "invalid_payment_requirements",
        "invalid_scheme",
        "invalid_x402_version",
        "missing_eip712_domain",
        "network_mismatch",
        "unexpected_settle_error",
        "unsupported_scheme",
        "invalid_exact_evm_failed_to_get_asset_info",
        "invalid_exact_evm_failed_to_get_network_config",
    }
)
"""Reasons of x402 for which any other payment would be refused as well."""

_STUMBLES: Final = frozenset({"unexpected_verify_error", "invalid_exact_evm_failed_to_verify_signature"})
"""Reasons of x402 by which a facilitator says that it failed, and that may be due to what the payer sent."""

_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch

Headers = Mapping[str, str] | Callable[[str, str], Awaitable[Mapping[str, str]]]
"""What is sent along to say who we are. A function gets the method and the address of each request, because some
facilitators want a token for just that; it raises `RailUnavailable` where it has none to give."""


class TurnedAway(RailUnavailable):
    """The facilitator, or what stands before it, did not take a request: for who we are, or how often we ask."""


@dataclass(frozen=True, slots=True)
class Facilitator:
    """Where a facilitator answers.

    Attributes:
        url: what `/verify` is put after; `http://` only in a private network, and without credentials in front.
        headers: see `Headers`. Secret.
        timeout: seconds for an answer.
        settle_timeout: seconds for the answer to a settlement, which waits for a block; less than the gate's
            `settle_seconds`.

    Raises:
        ConfigurationError: the address or a header cannot be used.
    """

    url: str = field(repr=False)
    headers: Headers = field(default_factory=dict, repr=False)
    timeout: int = 10
    settle_timeout: int = 30

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url))
        if self.timeout < 1 or self.settle_timeout < 1:
            raise ConfigurationError("timeout and settle_timeout must be 1 second or more")
        if isinstance(self.headers, Mapping) and not _can_be_sent(self.headers):
            raise ConfigurationError(f"a header for {self.name} has a character that no header can hold")

    @property
    def name(self) -> str:
        """Its host, which it is called by."""
        parts = httpx.URL(self.url)
        return parts.host if parts.port is None else f"{parts.host}:{parts.port}"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Json


class FacilitatorApi:
    """One facilitator behind its circuit breaker.

    Args:
        facilitator: where it answers.
        network: the chain that it must settle on.
        breaker: counts how calls end; whether a settlement did is for the caller to say.
        transport: gives what requests are sent through.
    """

    def __init__(
        self,
        facilitator: Facilitator,
        *,
        network: Network,
        breaker: CircuitBreaker,
        transport: Callable[[], httpx.AsyncBaseTransport],
    ) -> None:
        self.name, self.breaker = facilitator.name, breaker
        self._facilitator, self._network, self._transport = facilitator, network, transport
        self._version: int | None = None

    def __repr__(self) -> str:
        return f"FacilitatorApi({self.name!r})"

    async def check(self) -> None:
        """Check that it takes the scheme `exact` on our network, and choose the version of x402 to speak with it.

        Raises:
            ConfigurationError: it does not, or refuses our headers, or is at another address; with the fix.
            RailUnavailable: it cannot be asked.
        """
        with self.breaker.call():
            answer = await self._ask("GET", "/supported")
            if answer.status in (401, 403):
                raise ConfigurationError(f"{self.name} refuses access ({answer.status}); check the headers for it")
            if answer.status != 200 or not isinstance(answer.body.get("kinds"), list):
                raise RailUnavailable(
                    f"{self.name} answered {answer.status} to /supported, and no list of kinds; check the address"
                )
            version = spoken_version(answer.body, self._network)
            if version is None:
                taken = ", ".join(each[:60] for each in taken_networks(answer.body)[:20]) or "no network"
                raise ConfigurationError(
                    f"{self.name} does not settle the scheme exact on {self._network.caip2}; it does on: {taken}; "
                    "use another facilitator or another network"
                )
        self._version = version
        self.breaker.worked()

    async def verify(self, payment: SignedTransfer, *, now: int) -> Verdict:
        """Ask whether a payment is good.

        A facilitator that stumbles over one payment is not said to have failed: a payer could make it stumble over
        many, and have it left alone while others want to pay.

        Raises:
            RailUnavailable: there is no verdict that could be meant for this payment.
        """
        version = await self._ready()
        with self.breaker.call():
            answer = await self._ask("POST", "/verify", request_body(version, payment, now=now))
            verdict = parse_verdict(answer.body)
            no_verdict = RailUnavailable(f"{self.name} answered {answer.status} to /verify, and no verdict")
            if verdict is not None:
                self._require_sane(verdict, answer.status, payment)
            elif answer.status == 200 or answer.status in _TURNED_AWAY | _NOT_THERE:
                raise no_verdict
        if verdict is None:
            raise no_verdict
        if not verdict.is_valid and verdict.reason in _STUMBLES:
            raise RailUnavailable(f"{self.name} could not verify a payment: {verdict.reason}")
        self.breaker.worked()
        return verdict

    def _require_sane(self, verdict: Verdict, status: int, payment: SignedTransfer) -> None:
        if verdict.is_valid and status != 200:
            raise RailUnavailable(f"{self.name} answered {status} to /verify, and no verdict")
        if verdict.payer is not None and not same_address(verdict.payer, payment.authorization.from_):
            raise RailUnavailable(f"{self.name} gave its verdict on the payment of somebody else")
        if not verdict.is_valid and verdict.reason in _NOT_THE_PAYERS:
            raise RailUnavailable(f"{self.name} would not settle any payment: {verdict.reason}")

    async def settle(self, payment: SignedTransfer, *, now: int) -> Settlement:
        """Have a payment settled.

        Raises:
            TurnedAway: it says that it did not look at the payment.
            RailUnavailable: it never got it.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        version = await self._ready()
        with self.breaker.call(settling=True):
            answer = await self._send("POST", "/settle", request_body(version, payment, now=now), settling=True)
            if answer.status in _TURNED_AWAY:
                raise TurnedAway(f"{self.name} turned us away from /settle ({answer.status})")
            settlement = parse_settlement(answer.body)
            if settlement is None or (settlement.success and answer.status != 200):
                raise OutcomeUnknown(f"{self.name} answered {answer.status} to /settle, and no settlement")
        return settlement

    async def _ready(self) -> int:
        """Return the version of x402 to speak, asked for where it is not known, or may have changed while it failed.

        Raises:
            RailUnavailable: it cannot be asked, or does not settle here; no payment was sent.
        """
        if self._version is None or self.breaker.is_tripped:
            try:
                await self.check()
            except ConfigurationError as error:
                raise RailUnavailable(error.detail) from error
        assert self._version is not None
        return self._version

    async def _ask(self, method: str, path: str, body: Json | None = None) -> _Answer:
        """Make a call that moves nothing, so that it does not matter what became of it."""
        try:
            return await self._send(method, path, body)
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def _send(self, method: str, path: str, body: Json | None = None, *, settling: bool = False) -> _Answer:
        """Return the status and the JSON object of an answer, where it is not a broken server's."""
        request = await self._request(method, path, body)
        what = f"{self.name}, asked for {path},"
        timeout = self._facilitator.settle_timeout if settling else self._facilitator.timeout
        connecting = min(timeout, _CONNECT_SECONDS)
        request.extensions["timeout"] = httpx.Timeout(timeout, connect=connecting, pool=connecting).as_dict()
        try:
            async with asyncio.timeout(timeout):
                response = await self._transport().handle_async_request(request)
                try:
                    content = await _read(response, what)
                finally:
                    await response.aclose()
        except _NEVER_SENT as error:
            raise RailUnavailable(f"{self.name} cannot be reached ({type(error).__name__})") from None
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(f"{what} gave no answer ({type(error).__name__})") from None
        status = response.status_code
        if status in _TURNED_AWAY or (status in _NOT_THERE and not settling):  # in whatever words
            return _Answer(status, {})
        if 300 <= status < 400:
            detail = f"{what} redirects ({status}); write the address that it leads to"
            raise ConfigurationError(detail) if path == "/supported" else OutcomeUnknown(detail)
        # Many answer 500 to a question that they stumble over, as others do 400.
        readable = 200 <= status < 300 or 400 <= status < 500 or (status == 500 and not settling)
        if not readable or status in _NOT_THERE:
            raise OutcomeUnknown(f"{what} answered {status}")
        try:
            return _Answer(status, parse_json(content, field="answer", max_bytes=MAX_ANSWER))
        except MalformedInput:
            if status >= 400 and not settling:
                return _Answer(status, {})
            raise OutcomeUnknown(f"{what} answered {status}, and not in JSON") from None

    async def _request(self, method: str, path: str, body: Json | None) -> httpx.Request:
        url = self._facilitator.url + path
        secret = self._facilitator.headers
        if not isinstance(secret, Mapping):
            secret = await secret(method, url)
            if not _can_be_sent(secret):
                raise RailUnavailable(f"the headers made for {self.name} have a character that no header can hold")
        headers = {"User-Agent": "rail402", **secret, "Accept": "application/json", "Accept-Encoding": "identity"}
        if body is None:
            return httpx.Request(method, url, headers=headers)
        headers["Content-Type"] = "application/json"
        return httpx.Request(method, url, headers=headers, content=json.dumps(body, separators=(",", ":")).encode())


async def _read(response: httpx.Response, what: str) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OutcomeUnknown(f"{what} compressed its answer, which was not wanted")
    content = await read_at_most(response, MAX_ANSWER)
    if content is None:
        raise OutcomeUnknown(f"{what} sent more than {MAX_ANSWER} bytes")
    return content


def _can_be_sent(headers: Mapping[str, str]) -> bool:
    return all(
        _is_header_name(name) and value.isascii() and value.isprintable() and value == value.strip()
        for name, value in headers.items()
    )


def _checked_url(url: str) -> str:
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ConfigurationError("the facilitator's url is not an address") from None
    if parts.userinfo or parts.query or parts.fragment:
        raise ConfigurationError("the facilitator's url must hold no credentials and no query; put keys into headers")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigurationError("the facilitator's url must look like https://facilitator.example.com")
    if parts.scheme == "http" and not is_private_host(parts.host):
        raise ConfigurationError(f"{parts.host} by http could be listened to and lied to; use https")
    return url.rstrip("/")
