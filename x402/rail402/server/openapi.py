"""What a gate tells about its paid routes before anybody calls them: `/openapi.json` and `/llms.txt`.

In the OpenAPI document every paid operation has `x-payment-info`, the offers with method, intent and price, and the
document `x-service-info`, as MPP's discovery draft (draft-payment-discovery-00) has them. A FastAPI app's own document
is completed, whatever its address; an app that answers 404 there gets a minimal one of its paid routes. The same goes
for `/llms.txt`, which says it in prose. All of this is for looking around: what counts is the 402.

A route that is left out of the app's own schema (`include_in_schema=False`) is left out here too, and
`GateSettings.documents` turns all of it off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from rail402.money import as_money
from rail402.protocol.base import Json
from rail402.protocol.offer import Mechanism
from rail402.rates import convert
from rail402.server.prices import Able
from rail402.server.request import Message, Receive, Scope, Send
from rail402.server.routes import Found, rule_for
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["Documents", "Listing", "Operation", "publish"]

OPENAPI: Final = "/openapi.json"
LLMS: Final = "/llms.txt"

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_SCHEMAS: Final[Mapping[str, tuple[Mapping[str, str], str | int]]] = {
    "int": ({"type": "integer"}, 1),
    "float": ({"type": "number"}, 1),
    "uuid": ({"type": "string", "format": "uuid"}, "00000000-0000-0000-0000-000000000000"),
}
_WITH_BODY: Final = ("POST", "PUT", "PATCH")
_SILENT: Final = ("HEAD", "OPTIONS")  # never worth a line of their own
_PREFERRED: Final = "mpp"  # the dialect that discovery belongs to


@runtime_checkable
class Listing(Protocol):
    """A rail's binding to MPP that can say what it charges without making an offer."""

    def listing(self, mechanism: Mechanism, amount: int | None) -> Json | None:
        """Return `method`, `intent`, `currency` and `amount`, in the units of the method; None where it is not offered.

        Args:
            amount: atomic units of the mechanism, None where the price depends on the request or on a rate.
        """
        ...


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one paid path.

    Attributes:
        path: as OpenAPI writes it, `/article/{slug}`.
        price: for people.
        rails: the names of the rails that it takes and that can charge its price.
        offers: members of `x-payment-info`; none where the route does not speak MPP.
        parameters: of the path.
    """

    method: str
    path: str
    price: str
    description: str
    rails: Sequence[str]
    offers: Sequence[Json]
    parameters: Sequence[Json]

    @property
    def minimal(self) -> dict[str, Any]:
        """The operation for an app that does not describe its own."""
        said: dict[str, Any] = {"summary": self.description or f"{self.method} {self.path}", "responses": {}}
        if self.parameters:
            said["parameters"] = list(self.parameters)
        if self.method in _WITH_BODY:
            said["requestBody"] = {"required": False, "content": {"*/*": {"schema": {}}}}
        said["responses"]["200"] = {"description": "What was paid for"}
        return said

    def complete(self, operation: dict[str, Any]) -> None:
        """Add price and 402 to an operation, in place; what it says itself stays."""
        if self.offers:
            operation.setdefault("x-payment-info", {"offers": list(self.offers)})
        said = f"Payment required: {self.price}. The header fields say how to pay."
        operation.setdefault("responses", {}).setdefault("402", {"description": said})


@dataclass(frozen=True, slots=True)
class Documents:
    """The two documents of an app.

    Attributes:
        title: the app's name; version: its version; url: the origin that payers see.
    """

    title: str
    version: str
    url: str
    operations: Sequence[Operation]
    own: Callable[[], Any] | None = field(repr=False)

    def __contains__(self, path: str) -> bool:
        return path in (OPENAPI, LLMS)

    async def serve(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for one of the documents, where `app` answers it with 404."""
        if scope["method"] not in ("GET", "HEAD"):
            await app(scope, receive, send)
            return
        missing = False

        async def listen(message: Message) -> None:
            nonlocal missing
            missing = missing or (message["type"] == "http.response.start" and message["status"] == 404)
            if not missing:
                await send(message)

        await app(scope, receive, listen)
        if missing:
            is_openapi = scope["path"] == OPENAPI
            body = json.dumps(self.openapi()) if is_openapi else self.llms()
            media_type = "application/json" if is_openapi else "text/plain; charset=utf-8"
            await _send(body.encode(), media_type, send, head=scope["method"] == "HEAD")

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.own is not None:
            return self.completed(self.own())
        info = {"title": self.title, "version": self.version}
        return self.completed({"openapi": "3.1.0", "info": info, "servers": [{"url": self.url}], "paths": {}})

    def completed(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAPI document with what costs something; changed in place, and the same when done twice."""
        document.setdefault("x-service-info", {"docs": {"llms": LLMS}})
        paths = document.setdefault("paths", {})
        for operation in self.operations:
            at = paths.setdefault(operation.path, {})
            operation.complete(at.setdefault(operation.method.lower(), operation.minimal))
        return document

    def llms(self) -> str:
        """Return the same in prose, in the form of llms.txt."""
        lines = [
            f"# {_line(self.title)}",
            "",
            "> An HTTP API that is paid per request. A request without payment is answered with status 402 and ways to",
            "> pay for it; pay one of them and send the same request again with the proof.",
            "",
            "## Paid operations",
            "",
        ]
        for operation in self.operations:
            about = f" {_line(operation.description).rstrip('.')}." if operation.description else ""
            costs = f"costs {operation.price}, to be paid by {' or '.join(operation.rails)}."
            lines.append(f"- `{operation.method} {operation.path}` {costs}{about}")
        lines += ["", "## More", "", f"- [OpenAPI document]({self.url}{OPENAPI}): the same for programs", ""]
        return "\n".join(lines)


async def publish(
    app: Any, routes: Sequence[tuple[Found, Mapping[str, Rule]]], able: Mapping[int, Able], services: Services
) -> Documents:
    """Return the documents of an app, and have FastAPI say the same in its own schema.

    Args:
        routes: the paid ones, with what they ask by method.
        able: what can charge that, by the rule's `id`.
    """
    operations = [
        await _operation(found, method, rule, able[id(rule)], services)
        for found, rules in routes
        if getattr(found.route, "include_in_schema", True)
        for method, rule in _asked(found, rules)
    ]
    describes_itself = bool(getattr(app, "openapi_url", None)) and callable(getattr(app, "openapi", None))
    documents = Documents(
        title=getattr(app, "title", "") or services.settings.realm,
        version=str(getattr(app, "version", "") or "1"),
        url=services.settings.public_url,
        operations=sorted(operations, key=lambda operation: (operation.path, operation.method)),
        own=app.openapi if describes_itself else None,
    )
    if describes_itself:
        app.openapi = documents.openapi
    return documents


def _asked(found: Found, rules: Mapping[str, Rule]) -> Iterator[tuple[str, Rule]]:
    """Yield the methods of a route that cost something. An app that does not say its methods answers GET, probably."""
    methods = found.methods or {method for method in rules if method.isalpha()} or {"GET"}
    for method in sorted(methods - set(_SILENT) or methods):
        rule = rule_for(rules, method)
        if rule is not None:
            yield method, rule


async def _operation(found: Found, method: str, rule: Rule, able: Able, services: Services) -> Operation:
    path = found.path.removesuffix("*") + "{path}" if found.path.endswith("/*") else found.path
    offers = await _offers(rule, able, services)
    if rule.description:
        offers = [{**offer, "description": rule.description} for offer in offers]
    return Operation(
        method=method,
        path=_PARAMETER.sub(r"{\1}", path),
        price="what the request says" if callable(rule.price) else str(as_money(rule.price)),
        description=rule.description,
        rails=list(able),
        offers=offers,
        parameters=[_parameter(*match) for match in _PARAMETER.findall(path)],
    )


async def _offers(rule: Rule, able: Able, services: Services) -> list[Json]:
    if not any(dialect.name == _PREFERRED for dialect in services.dialects_of(rule)):
        return []
    listed: list[Json | None] = []
    for name, mechanisms in able.items():
        binding = services.registry.binding(name, _PREFERRED)
        if isinstance(binding, Listing):
            listed += [binding.listing(each, await _amount(rule, each)) for each in mechanisms]
    return [listing for listing in listed if listing is not None]


async def _amount(rule: Rule, mechanism: Mechanism) -> int | None:
    """Return a fixed price in atomic units; None where it takes a rate, which moves."""
    if callable(rule.price):
        return None
    amount = await convert(as_money(rule.price), mechanism.currency, None)
    return None if amount is None else amount.to_atomic(mechanism.exponent, step=mechanism.step)


def _parameter(name: str, convertor: str) -> dict[str, Any]:
    schema, example = _SCHEMAS.get(convertor, ({"type": "string"}, "example"))
    return {"name": name, "in": "path", "required": True, "schema": dict(schema), "example": example}


def _line(text: str) -> str:
    return " ".join(text.split())


async def _send(body: bytes, media_type: str, send: Send, *, head: bool) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"public, max-age=300"),
        (b"access-control-allow-origin", b"*"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
