"""What a route with a price answers to OPTIONS: the gate does it, for many handlers do the same whatever the method.

Two things answer for themselves, since the paid handler is no part of them: code that is there for OPTIONS alone, and
to a browser's preflight Starlette's CORS middleware, where it is inside the route or the mount.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from rail402.server.paywall import App
from rail402.server.request import Receive, Scope, Send

__all__ = ["answering_options", "has_own_options"]


def has_own_options(methods: Collection[str] | None, endpoint: Any) -> bool:
    """Whether an endpoint that serves these methods has code that only a request with OPTIONS reaches."""
    by_method = inspect.isclass(endpoint) and issubclass(endpoint, HTTPEndpoint)
    return hasattr(endpoint, "options") if by_method else methods is not None and set(methods) == {"OPTIONS"}


def answering_options(route: Any, methods: Collection[str] | None) -> App:
    """Return an app that answers OPTIONS for a route of these methods, None where it does not say; no handler runs."""
    cors = _cors_inside(route)
    fields = {"cache-control": "no-store"} | ({"allow": ", ".join(sorted(methods))} if methods else {})

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        if cors is not None and "origin" in asked and "access-control-request-method" in asked:
            response = cors.preflight_response(asked)
        else:
            response = Response(status_code=204, headers=fields)
        await response(scope, receive, send)

    return answer


def _cors_inside(route: Any) -> CORSMiddleware | None:
    """Return the CORS middleware that a route hands its requests to, at once or through other middleware."""
    app = getattr(route, "app", None)
    while app is not None and not isinstance(app, CORSMiddleware):
        app = getattr(app, "app", None)
    return app
