"""The sandbox's pages for people, at the gate's own origin: the sandbox has no port that a browser could reach.

GET, POST  stripe/sandbox?page=/c/pay/cs_…            Checkout
GET, POST  stripe/sandbox?page=/c/authenticate/pi_…   the cardholder's bank
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

from rail402.errors import MalformedInput
from rail402.protocol.endpoint import DISCOVERY, Desk, EndpointReply, EndpointRequest
from rail402_stripe.sandbox import SANDBOX_URL, Sandbox
from rail402_stripe.sandbox.exchange import Request

__all__ = ["SANDBOX_PATH", "SandboxPages", "reachable"]

SANDBOX_PATH: Final = "stripe/sandbox"
"""The path below `/.well-known/rail402/`."""

_is_page = re.compile(r"/c/[a-z]{1,20}/[A-Za-z0-9_]{1,255}", re.ASCII).fullmatch


def reachable(url: str, desk: Desk) -> str:
    """Return where a browser finds a page: a sandbox's at our own origin, any other where it is."""
    page = url.removeprefix(SANDBOX_URL)
    if page == url or not _is_page(page):
        return url
    return f"{desk.public_url}{DISCOVERY}{SANDBOX_PATH}?{urlencode({'page': page})}"


class SandboxPages:
    """Shows the pages of a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def __call__(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Return a page, or where its button leads.

        Raises:
            MalformedInput: it is no page of a sandbox.
        """
        page = request.query.get("page", "")
        if not _is_page(page):
            raise MalformedInput("page", "is none of the sandbox's", code="malformed_request")
        headers = {"content-type": request.fields.one("content-type") or ""} if request.method == "POST" else {}
        answer = await self._sandbox.handle(Request(request.method, page, b"", headers, request.body))
        said = dict(answer.headers)
        fields = [("location", reachable(said["location"], desk))] if "location" in said else []
        return EndpointReply(
            status=answer.status, body=answer.body, media_type=said.get("content-type", "text/html"), fields=fields
        )
