"""What a gate says where it does not serve: the 402 in every dialect of the route at once, and all other refusals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from rail402.dialects._base64_json import compact_json, to_base64url
from rail402.errors import Rail402Error
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Context, Dialect
from rail402.protocol.endpoint import DISCOVERY
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail
from rail402.server.fields import gate_fields
from rail402.server.request import GatedRequest, Send
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["MAX_CHALLENGE_BYTES", "refuse", "send_challenge"]

logger = logging.getLogger("rail402.server")

MAX_CHALLENGE_BYTES: Final = 7168
"""Bytes of header fields that a challenge may have: common proxies buffer 4 to 8 KiB of them."""


async def send_challenge(
    services: Services,
    rule: Rule,
    request: GatedRequest,
    challenge: Challenge,
    send: Send,
    outcome: Sequence[tuple[str, str]] = (),
) -> None:
    """Send the 402 in every dialect of the route; `outcome` says what became of the payment that came."""
    links = {offer.token or "": _pay_url(services, rule, challenge, offer) for offer in challenge.offers}
    if pages := {token: link for token, link in links.items() if link is not None}:
        challenge = challenge.model_copy(update={"pages": pages})
    said = _say(services, rule, challenge)
    lines = [*said.lines, *outcome]
    if _wants_problem(request):
        body = _problem(challenge.code, challenge.detail, status=402)
    else:
        body = {"error": challenge.detail or "Payment required", "code": challenge.code}
    body |= {
        "resource": {"url": challenge.order.url, "description": challenge.description},
        "price": str(challenge.price),
        "offers": [_for_people(challenge, offer) for offer in challenge.offers],
    }
    if not _wants_problem(request):
        body |= said.body
    await _respond(services, rule, 402, body, lines, _wants_problem(request), send)


@dataclass(frozen=True, slots=True)
class _Said:
    """A challenge in all dialects of a route: its field lines, and the members of its body."""

    lines: Sequence[tuple[str, str]]
    body: dict[str, Any]


def _say(services: Services, rule: Rule, challenge: Challenge) -> _Said:
    """Say a challenge in all dialects, in no more than `MAX_CHALLENGE_BYTES` of header fields.

    Where it is more, this is left out until it fits: the description in the header fields; then line by line from the
    last one of the last dialect. One line always stays, and so does the body.
    """
    dialects, context = services.dialects_of(rule), services.context()
    said = _in_all(services, dialects, challenge, context)
    if _size(said.lines) > MAX_CHALLENGE_BYTES and challenge.description:
        plain = challenge.model_copy(update={"description": ""})
        said = _Said(_in_all(services, dialects, plain, context).lines, said.body)
    kept = list(said.lines)
    while _size(kept) > MAX_CHALLENGE_BYTES and len(kept) > 1:
        kept.pop()
    if len(kept) < len(said.lines):
        left_out = len(said.lines) - len(kept)
        logger.warning("a 402 of %s left out %d of its lines: too large", challenge.order.route, left_out)
    first = [line for line in kept if _comes_first(line)]
    return _Said([*first, *(line for line in kept if line not in first)], said.body)


def _in_all(services: Services, dialects: Sequence[Dialect], challenge: Challenge, context: Context) -> _Said:
    known = tuple(offer for offer in challenge.offers if _recognised(services.rails[offer.rail], offer))
    # Where the client does not send the offer back, only one that is remembered, or can be made anew, is recognised.
    bare = challenge if len(known) == len(challenge.offers) else challenge.model_copy(update={"offers": known})
    envelopes = [dialect.challenge(challenge if dialect.echo == "full" else bare, context) for dialect in dialects]
    body: dict[str, Any] = {}
    for envelope in envelopes:
        body |= envelope.body
    return _Said([line for envelope in envelopes for line in envelope.fields], body)


def _size(lines: Sequence[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in lines)


def _comes_first(line: tuple[str, str]) -> bool:
    """Older clients of L402 read the first `WWW-Authenticate` line only."""
    return line[1].startswith("L402 ")


def _recognised(rail: PaymentRail, offer: Offer) -> bool:
    return rail.has_fixed_terms or rail.issued_key(offer) is not None


async def refuse(
    services: Services,
    rule: Rule,
    request: GatedRequest | None,
    error: Rail402Error,
    send: Send,
    outcome: Sequence[tuple[str, str]] = (),
) -> None:
    """Answer an error without a challenge: a payer that automatically pays 402s must not pay again for these."""
    problem = request is not None and _wants_problem(request)
    body: dict[str, Any] = _problem(error.code, error.detail, status=error.status)
    body |= {"error": str(error)}
    lines = [*outcome, ("Retry-After", str(error.retry_after or 2))] if error.retryable else outcome
    await _respond(services, rule, error.status, body, lines, problem, send)


def _problem(code: str, detail: str, *, status: int) -> dict[str, Any]:
    return Rail402Error(code=code).reason.problem(detail, status=status) | {"code": code}


def _for_people(challenge: Challenge, offer: Offer) -> dict[str, Any]:
    said = {
        "rail": offer.rail,
        "price": str(offer.price),
        "network": offer.network,
        "payee": offer.payee,
        "expires_at": offer.expires_at,
    }
    link = challenge.pages.get(offer.token or "")
    return said if link is None else said | {"pay_url": link}


def _pay_url(services: Services, rule: Rule, challenge: Challenge, offer: Offer) -> str | None:
    """Return where a person can pay the offer, if its rail has such a page. The offer itself is in the link.

    There is none where a browser could not fetch what was bought, which it does by GET.
    """
    rail = services.with_addresses.get(offer.rail)
    path = rail.pay_path(offer) if rail is not None and challenge.order.method == "GET" else None
    if path is None:
        return None
    for dialect in services.dialects_of(rule):
        envelope = dialect.envelope(offer, challenge, services.context())
        if envelope is not None:
            order = {"url": challenge.order.url, "route": challenge.order.route}
            query = urlencode({"dialect": dialect.name, "offer": to_base64url(compact_json(envelope)), **order})
            return f"{services.settings.public_url}{DISCOVERY}{path}?{query}"
    return None


def _wants_problem(request: GatedRequest) -> bool:
    return any("application/problem+json" in line.lower() for line in request.fields.all("accept"))


async def _respond(
    services: Services,
    rule: Rule,
    status: int,
    body: dict[str, Any],
    lines: Sequence[tuple[str, str]],
    problem: bool,
    send: Send,
) -> None:
    content = compact_json(body)
    media_type = b"application/problem+json" if problem else b"application/json"
    headers = [
        (b"content-type", media_type),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
        *gate_fields(services, rule),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in lines),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
