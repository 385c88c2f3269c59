"""What a proxy answers by itself where nothing about a payment is wrong (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from rail402.dialects._base64_json import compact_json
from rail402.server.request import Send

__all__ = ["Problem"]

_NO_FIELDS: Final[Mapping[str, str]] = {}


class Problem(Exception):
    """A request that is answered with a status of 400 or above.

    Args:
        status: the HTTP status.
        code: a word for programs.
        detail: a sentence for people.
        fields: further header fields.
    """

    def __init__(self, status: int, code: str, detail: str, fields: Mapping[str, str] = _NO_FIELDS) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, self.code, self.detail, self.fields = status, code, detail, fields

    async def send(self, send: Send) -> None:
        """Answer with it."""
        said = {"title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.detail}
        body = compact_json({"type": "about:blank", **said, "code": self.code})
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode()) for name, value in self.fields.items()),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
