"""The HTTP of a facilitator: an ASGI app for uvicorn and its like.

Business is answered with 200, whatever it came to; 400 is for bodies that cannot be read, 401 and 429 for who is
turned away, 5xx for trouble of our own. Every error has `error` and, so that x402's clients can read it, the members
of the answer that they wait for.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rail402.errors import ConfigurationError, MalformedInput
from rail402.facilitator.service import Answer, Facilitator
from rail402.facilitator.wire import Call, Question, failed_settlement, read_question, refused_verdict
from rail402.server.request import ClientDisconnected, read_body

__all__ = ["facilitator_app"]

_MAX_KEY: Final = 256

_is_token = re.compile(r"[!-~]{16,}").fullmatch


def facilitator_app(facilitator: Facilitator, *, token: str | None = None) -> Starlette:
    """Return the app of a facilitator, which starts and stops with it.

    Args:
        token: what callers must send as `Authorization: Bearer`; None lets everybody in who can reach it. Secret.

    Raises:
        ConfigurationError: the token is shorter than 16 characters, or cannot be sent.
    """
    if token is not None and not _is_token(token):
        raise ConfigurationError("token: must be 16 characters or more, printable ASCII without blanks")
    endpoints = _Endpoints(facilitator, token)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with facilitator:
            yield

    routes = [
        Route("/verify", endpoints.verify, methods=["POST"]),
        Route("/settle", endpoints.settle, methods=["POST"]),
        Route("/supported", endpoints.supported, methods=["GET"]),
        Route("/health", endpoints.health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class _Endpoints:
    def __init__(self, facilitator: Facilitator, token: str | None) -> None:
        self._facilitator = facilitator
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def verify(self, request: Request) -> Response:
        """Answer `/verify`."""
        question = await self._question(request, "verify")
        if isinstance(question, Response):
            return question
        return _response(await self._facilitator.verify(question))

    async def settle(self, request: Request) -> Response:
        """Answer `/settle`."""
        question = await self._question(request, "settle")
        if isinstance(question, Response):
            return question

        async def is_here() -> bool:
            return not await request.is_disconnected()

        secret = request.headers.get("idempotency-key")
        if secret is not None and not 0 < len(secret) <= _MAX_KEY:
            error = MalformedInput("idempotency-key", f"has 1 to {_MAX_KEY} characters", code="malformed_request")
            return _unreadable(error, "settle")
        answer = await self._facilitator.settle(question, secret=secret, is_here=is_here)
        response = _response(answer)
        if answer.told is not None:
            response.background = BackgroundTask(self._facilitator.told, answer.told)
        return response

    async def supported(self, request: Request) -> Response:
        """Answer `/supported`."""
        return JSONResponse(self._facilitator.supported()) if self._may(request) else _turned_away("verify")

    async def health(self, request: Request) -> Response:
        """Answer `/health`, which needs no token."""
        problem = await self._facilitator.health()
        if problem is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "failing", "problem": problem}, 503)

    async def _question(self, request: Request, call: Call) -> Question | Response:
        """Return the question of a request, or the answer to one that is none."""
        if not self._may(request):
            return _turned_away(call)
        try:
            limit = self._facilitator.settings.max_body
            body = await read_body(request.scope, request.receive, limit)
            return read_question(body, max_bytes=limit)
        except ClientDisconnected:
            return Response()
        except MalformedInput as error:
            return _unreadable(error, call)

    def _may(self, request: Request) -> bool:
        if self._expected is None:
            return True
        given = request.headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, self._expected)


def _response(answer: Answer) -> Response:
    headers = {"Cache-Control": "no-store"}
    if answer.retry_after is not None:
        headers["Retry-After"] = str(answer.retry_after)
    return JSONResponse(answer.body, answer.status, headers=headers)


def _refused(call: Call, error: MalformedInput) -> dict[str, Any]:
    return refused_verdict(error) if call == "verify" else failed_settlement(None, error)


def _unreadable(error: MalformedInput, call: Call) -> Response:
    body = _refused(call, error) | {"error": error.code, "field": error.field, "detail": error.detail}
    return _response(Answer(error.status, body))


def _turned_away(call: Call) -> Response:
    error = MalformedInput("authorization", "the bearer token is missing or wrong", code="malformed_request")
    response = _response(Answer(401, _refused(call, error) | {"error": "unauthorized"}))
    response.headers["WWW-Authenticate"] = 'Bearer realm="x402 facilitator"'
    return response
