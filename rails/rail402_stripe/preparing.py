"""Asking a seller to prepare a payment for one of its offers; see `on_demand` for the other end."""

from __future__ import annotations

from typing import Final

import httpx

from rail402.client.bodies import read_async
from rail402.errors import MalformedInput, PaymentFailed, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.protocol.offer import Offer

__all__ = ["Seller"]

_MAX_BODY: Final = 65_536
_SECONDS: Final = 20


class Seller:
    """The way to sellers, over connections of its own.

    Args:
        transport: carries the requests instead of the network.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections; the next request opens them again."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def prepare(self, url: str, offer: Offer, what: str) -> Json:
        """Return what the seller has prepared; for the same offer that is the same again.

        Nothing is paid by it, whatever becomes of the request, which no redirect leads elsewhere.

        Args:
            url: as the offer has it, at the seller's own origin; what: `payment_intent` or `checkout`.

        Raises:
            PaymentFailed: the seller does not prepare it.
            RailUnavailable: the seller cannot be reached, or its answer cannot be read.
        """
        client = self._client = self._client or httpx.AsyncClient(transport=self._transport, timeout=_SECONDS)
        envelope = None if offer.envelope is None else dict(offer.envelope)
        request = client.build_request("POST", url, json={"dialect": offer.dialect, "offer": envelope, "prepare": what})
        try:
            response = await client.send(request, stream=True, follow_redirects=False)
            body = await read_async(response, _MAX_BODY)
        except httpx.HTTPError as error:
            raise RailUnavailable(f"the seller cannot be asked to prepare it ({type(error).__name__})") from error
        if response.status_code in (400, 402, 404, 405):
            raise PaymentFailed(f"the seller does not prepare it (HTTP {response.status_code})")
        try:
            found = parse_json(body or b"", field="body", max_bytes=_MAX_BODY)
        except MalformedInput as error:
            raise RailUnavailable("the seller's answer cannot be read") from error
        if response.status_code != 200:
            raise RailUnavailable(f"the seller prepares nothing now (HTTP {response.status_code})")
        return found
