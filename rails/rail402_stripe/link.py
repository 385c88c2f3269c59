"""Spend requests at Link, Stripe's wallet for people: what is asked, and the one seam to what goes wrong with it.

An agent asks to spend an amount at one seller, its owner approves that in the Link app or on Link's site, and Link
hands out a shared payment token for it (docs.stripe.com/agentic-commerce/link-agent-wallet, and the source of
`@stripe/link-sdk`). `RailUnavailable` says that nothing was done, `OutcomeUnknown` that perhaps a request was made.
Link's own words go no further than this module: they may name a token.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from rail402.errors import MalformedInput, OutcomeUnknown, PaymentFailed, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.upstream import NEVER_SENT, read_at_most

__all__ = ["LINK_API", "RECORD", "AccessToken", "LinkApi", "SpendRequest"]

LINK_API: Final = "https://api.link.com"

RECORD: Final = "rail402_record"
"""The metadata under which a spend request names the purchase that it is for."""

AccessToken = str | Callable[[bool], Awaitable[str]]
"""An OAuth access token with the scope `payment_methods.agentic`; or an async function that returns one, and a fresh
one where its argument is true."""

_ALL: Final = {"include_history": "true"}
_SECONDS: Final = 20
_MAX_ANSWER: Final = 1 << 20

_is_id = re.compile(r"[A-Za-z0-9_]{1,128}", re.ASCII).fullmatch
_is_code = re.compile(r"[a-z0-9_]{1,80}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRequest:
    """A spend request, as Link tells it.

    Attributes:
        id: `lsrq_…`; status: Link's word.
        record_id: the purchase that it is for.
        approval_url: where its owner approves it.
        action_url: where its owner does something else first; action: what; resumes: whether it goes on by itself then.
        token: the shared payment token, where it was asked for and is there.
        terms: its amount, currency, seller and kind of credential, as far as Link says them.
    """

    id: str
    status: str
    record_id: str | None
    approval_url: str | None
    action_url: str | None
    action: str | None
    resumes: bool
    token: str | None = field(repr=False)
    terms: Mapping[str, Any]


class LinkApi:
    """Link, seen through its owner's access token.

    Args:
        access_token: see `AccessToken`.
        url: where Link's API is.
        transport: carries the requests instead of the network.
    """

    def __init__(
        self, access_token: AccessToken, *, url: str = LINK_API, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._access_token, self._url, self._transport = access_token, url, transport
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"LinkApi({self._url!r})"

    async def close(self) -> None:
        """Close the connections; the next call opens them again."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def check_login(self) -> None:
        """Check that the access token is good. Nothing is asked of its owner.

        Raises:
            PaymentFailed, RailUnavailable: it is not, or Link does not say.
        """
        self._definitive(*await self._call("GET", "/spend_requests", params=_ALL))

    async def create(self, params: Json, *, record_id: str) -> SpendRequest:
        """Make a spend request and have its owner asked; for the same purchase that is the same one again.

        Raises:
            PaymentFailed: Link refuses it.
            RailUnavailable: Link cannot be reached, or takes no more requests for now.
            OutcomeUnknown: perhaps it was made; `find` says.
        """
        body = {**params, "request_approval": True, "metadata": {RECORD: record_id}, "idempotency_key": record_id}
        status, answer = await self._call("POST", "/spend_requests", json=body)
        if status == 429:
            error = answer.get("error")
            # What is too much like an earlier request names that one, which may be this very purchase's.
            earlier = _read(error.get("duplicate_spend_request")) if isinstance(error, dict) else None
            if earlier is not None and earlier.record_id == record_id:
                return earlier
            raise RailUnavailable("Link takes no more spend requests for now (HTTP 429)")
        if status in (408, 409):  # it came in late, or a request with the same key is under way
            raise self._lost("POST", f"answered {status}")
        return _required(self._definitive(status, answer))

    async def retrieve(self, request_id: str) -> SpendRequest | None:
        """Return a spend request, with its token where there is one; None where Link does not know it.

        Raises:
            PaymentFailed, RailUnavailable, OutcomeUnknown: Link does not say.
        """
        path = f"/spend_requests/{request_id}"
        status, answer = await self._call("GET", path, params={"include": "shared_payment_token"})
        return None if status == 404 else _required(self._definitive(status, answer))

    async def find(self, record_id: str) -> SpendRequest | None:
        """Return the spend request of a purchase, with its token where there is one; None where none was made.

        Raises:
            PaymentFailed, RailUnavailable, OutcomeUnknown: Link does not say.
        """
        status, answer = await self._call("GET", "/spend_requests", params=_ALL)
        listed = self._definitive(status, answer).get("data")
        if not isinstance(listed, list):
            raise OutcomeUnknown("Link's list of spend requests cannot be read")
        found = [each for each in map(_read, listed) if each is not None and each.record_id == record_id]
        return await self.retrieve(found[0].id) if found else None

    async def cancel(self, request_id: str) -> None:
        """Cancel a spend request, and its token with it; nothing happens where it is too late for that.

        Raises:
            RailUnavailable, OutcomeUnknown: perhaps it was not canceled.
        """
        await self._call("POST", f"/spend_requests/{request_id}/cancel")

    async def _call(self, method: str, path: str, **content: Any) -> tuple[int, Json]:
        """Send a request; with a fresh access token once more, where Link refuses the first one (and did nothing)."""
        status, answer = await self._send(method, path, await self._token(fresh=False), content)
        if status == 401 and callable(self._access_token):
            status, answer = await self._send(method, path, await self._token(fresh=True), content)
        if status in (401, 403):
            raise RailUnavailable(
                f"Link refuses the access token (HTTP {status}): log in again, with the scope payment_methods.agentic"
            )
        if status >= 500:
            raise self._lost(method, f"answered {status}")
        return status, answer

    async def _token(self, *, fresh: bool) -> str:
        return await self._access_token(fresh) if callable(self._access_token) else self._access_token

    async def _send(self, method: str, path: str, token: str, content: Mapping[str, Any]) -> tuple[int, Json]:
        client = self._client = self._client or httpx.AsyncClient(
            base_url=self._url, transport=self._transport, timeout=_SECONDS
        )
        request = client.build_request(method, path, headers={"Authorization": f"Bearer {token}"}, **content)
        try:
            response = await client.send(request, stream=True, follow_redirects=False)
            try:
                body = await read_at_most(response, _MAX_ANSWER)
            finally:
                await response.aclose()
        except NEVER_SENT as error:
            raise RailUnavailable(f"Link cannot be reached ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise self._lost(method, f"gave no answer ({type(error).__name__})") from error
        try:
            return response.status_code, parse_json(body or b"", field="answer", max_bytes=_MAX_ANSWER)
        except MalformedInput as error:
            if response.status_code >= 400:  # a proxy's page, say: what counts is the status
                return response.status_code, {}
            raise self._lost(method, "sent no JSON object") from error

    @staticmethod
    def _lost(method: str, what: str) -> RailUnavailable | OutcomeUnknown:
        """Return the error for an answer that never came: to ask changes nothing, to order perhaps does."""
        return RailUnavailable(f"Link {what}") if method == "GET" else OutcomeUnknown(f"Link {what}")

    @staticmethod
    def _definitive(status: int, answer: Json) -> Json:
        if 200 <= status < 300:
            return answer
        error = answer.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        said = code if isinstance(code, str) and _is_code(code) else "no code"
        raise PaymentFailed(f"Link refused it (HTTP {status}, {said})")


def _required(answer: Json) -> SpendRequest:
    found = _read(answer)
    if found is None:
        raise OutcomeUnknown("Link's spend request cannot be read")
    return found


def _read(value: object) -> SpendRequest | None:
    """Return a spend request; None where it is none."""
    if not isinstance(value, Mapping):
        return None
    request_id, status = value.get("id"), value.get("status")
    if not isinstance(request_id, str) or not _is_id(request_id) or not isinstance(status, str):
        return None
    action = _members(_members(_members(value, "status_details"), "requires_action"), "next_action")
    token = value.get("shared_payment_token")  # an object; of older versions of the API a text
    said = ("amount", "currency", "network_id", "credential_type")
    return SpendRequest(
        id=request_id,
        status=status,
        record_id=_text(_members(value, "metadata").get(RECORD)),
        approval_url=_text(value.get("approval_url")),
        action_url=_text(action.get("action_url")),
        action=_code(action.get("type")),
        resumes=action.get("resolution") == "auto_resume",
        token=_text(token.get("id") if isinstance(token, Mapping) else token),
        terms={name: value[name] for name in said if value.get(name) is not None},
    )


def _members(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _code(value: object) -> str | None:
    return value if isinstance(value, str) and _is_code(value) else None
