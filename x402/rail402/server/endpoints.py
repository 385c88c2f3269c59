"""What is answered below `/.well-known/rail402/`: the key set for receipts, the receipts, and the rails' own addresses.
And the DID document, where a dialect signs what it says."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected, Rail402Error, StaleCharge
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import (
    DISCOVERY,
    MAX_BODY,
    MAX_SIGNED_BODY,
    Endpoint,
    EndpointReply,
    EndpointRequest,
    Signed,
)
from rail402.protocol.offer import Offer
from rail402.protocol.offer_receipt import DID_DOCUMENT, did_document
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey
from rail402.server import refunds
from rail402.server.reconciler import Reconciler
from rail402.server.request import ClientDisconnected, Receive, Scope, Send, read_body
from rail402.server.services import Services

__all__ = ["Discovery", "GateDesk"]

_JWKS: Final = "jwks.json"
_RECEIPTS: Final = "receipts/"

_is_charge_id = re.compile(r"ch_[a-z2-7]{26}", re.ASCII).fullmatch


class GateDesk:
    """What a gate does for a rail's addresses; see `Desk`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def public_url(self) -> str:
        """The origin that payers see."""
        return self._services.settings.public_url

    def offer(
        self, dialect: str, envelope: Mapping[str, Any], *, order: Order | None = None, may_be_expired: bool = False
    ) -> Offer:
        """Return an offer that came back; see `Desk.offer`."""
        context = self._services.context()
        for known in self._services.dialects:
            if known.name == dialect:
                offer = known.offer_of(envelope, context)
                break
        else:
            raise MalformedInput("dialect", "is none that this server speaks")
        if order is not None:
            self._services.offer_keys.verify(offer, order)
        if offer.expires_at < context.now and not may_be_expired:
            raise PaymentRejected("ask for a new offer", code="offer_expired")
        return offer

    async def look_up(self, operation: Operation, *, keys: Iterable[ConsumptionKey] = (), charge: str = "") -> bool:
        """Look an operation up now; see `Desk.look_up`."""
        store = self._services.store
        found = await store.get(charge) if charge else await store.find(list(keys))
        if found is None:
            return False
        with contextlib.suppress(StaleCharge):  # whoever was faster looked, or will
            await self._services.shielded(Reconciler(self._services).look_at(found, operation))
        return True

    async def refund_due(self, keys: Iterable[ConsumptionKey], fields: Fields) -> Charge:
        """Return the charge whose granted refund is asked for; see `Desk.refund_due`."""
        return await refunds.due(self._services, keys, fields)

    async def pay_back(
        self, charge: Charge, state: Mapping[str, Any], *, keys: Iterable[ConsumptionKey] = ()
    ) -> Charge:
        """Pay a refund that is due; see `Desk.pay_back`."""
        return await refunds.pay_back(self._services, charge, state, keys)


class Discovery:
    """Answers the requests below `DISCOVERY`.

    Raises:
        ConfigurationError: two rails want the same address.
    """

    def __init__(self, services: Services) -> None:
        self._services, self._desk = services, GateDesk(services)
        self._endpoints: dict[tuple[str, str], Endpoint] = {("GET", _JWKS): self._jwks}
        if services.did is not None:
            self._endpoints["GET", DID_DOCUMENT] = self._did
        self._published = frozenset(self._endpoints)  # what is cheap, the same for all, and may be cached
        for rail in services.with_addresses.values():
            for address, endpoint in rail.endpoints().items():
                if self._endpoints.setdefault(address, endpoint) is not endpoint:
                    raise ConfigurationError(f"two rails answer {' '.join(address)}: run them in two gates")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"].removeprefix(DISCOVERY)
        address = ("GET" if method == "HEAD" else method, path)
        endpoint = self._endpoints.get(address)
        if path.startswith(_RECEIPTS) and method in ("GET", "HEAD"):
            endpoint, address = partial(self._receipts, path.removeprefix(_RECEIPTS)), ("GET", _RECEIPTS)
        if endpoint is None:
            known = {each for each, its_path in self._endpoints if its_path == path}
            reply = EndpointReply.of({"error": "not found"}, status=405 if known else 404)
            await _send(reply, send, head=method == "HEAD")
            return
        try:
            is_signed = isinstance(endpoint, Signed)
            if not is_signed and address not in self._published:
                await self._services.limiter.address(scope, " ".join(address))
            body = await read_body(scope, receive, MAX_SIGNED_BODY if is_signed else MAX_BODY)
            request = EndpointRequest(
                method=method,
                query=dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))),
                fields=Fields.from_raw(scope["headers"]),
                body=body,
            )
            reply = await endpoint(request, self._desk)
        except ClientDisconnected:
            return
        except Rail402Error as error:
            reply = _refusal(error)
        await _send(reply, send, head=method == "HEAD")

    async def _jwks(self, request: EndpointRequest, desk: object) -> EndpointReply:
        return _published(self._services.receipt_keys.jwks, "application/jwk-set+json")

    async def _receipts(self, charge_id: str, request: EndpointRequest, desk: object) -> EndpointReply:
        """Answer with what was signed about a charge; its id, which nobody can guess, is known to who paid."""
        charge = await self._services.store.get(charge_id) if _is_charge_id(charge_id) else None
        if charge is None:
            return EndpointReply.of({"error": "there is no such charge"}, status=404)
        found = {"receipt": charge.receipt, "refund_receipt": charge.refund_receipt}
        signed = {name: token for name, token in found.items() if token is not None}
        return EndpointReply.of({"charge": charge.id, "payment": charge.payment.value, **signed})

    async def _did(self, request: EndpointRequest, desk: object) -> EndpointReply:
        assert self._services.did is not None
        return _published(did_document(self._services.did, self._services.receipt_keys.jwks), "application/did+json")


def _published(document: Mapping[str, Any], media_type: str) -> EndpointReply:
    return EndpointReply(
        body=json.dumps(document).encode(),
        media_type=media_type,
        fields=[("cache-control", "public, max-age=300"), ("access-control-allow-origin", "*")],
    )


def _refusal(error: Rail402Error) -> EndpointReply:
    body = {"error": str(error), "code": error.code}
    retry = [("retry-after", str(error.retry_after or 2))] if error.retryable else []
    return EndpointReply(status=error.status, body=json.dumps(body).encode(), fields=retry)


async def _send(reply: EndpointReply, send: Send, *, head: bool) -> None:
    lines = {"content-type": reply.media_type, "cache-control": "no-store"} | dict(reply.fields)
    lines["content-length"] = str(len(reply.body))
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})
