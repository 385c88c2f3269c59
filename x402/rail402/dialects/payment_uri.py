"""Payment URIs: `Link: <uri>; rel="payment"` (RFC 8288) and `payment_uri` in the body, for any wallet to open.

On a chain the URI is that of EIP-681, on Lightning `lightning:` and the invoice; where a rail has a page for people, it
is the page's address, and the page does the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from rail402.dialects._payment_proof import ProofDialect, checked_token, expiry_of, json_body, token_for
from rail402.dialects._rails import as_it_is, read_offer, read_offers, written
from rail402.errors import MalformedInput
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Envelope, Fields
from rail402.protocol.offer import Offer

__all__ = ["PaymentUri"]

MAX_URIS: Final = 16
"""Links of one 402 that are read."""

_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}:[\x21\x23-\x3b\x3d\x3f-\x7e]{1,8192}", re.ASCII)
_TARGET: Final = re.compile(r"[\s,]*+<([^<>]*+)>", re.ASCII)
_PARAM: Final = re.compile(
    r"""\s*+;\s*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s",;]*+)))?""", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Link:
    """A URI to pay at, and what is said beside it."""

    uri: str
    token: object = None
    expires_at: object = None


class PaymentUri(ProofDialect):
    """Payment URIs."""

    name: ClassVar[str] = "payment-uri"
    response_fields: ClassVar[tuple[str, ...]] = ("Link",)

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return a `Link` for each offer that has a URI, then those to pages; and the body's members for the first."""
        links = [
            (offer, wire["uri"], token_for(offer, context))
            for offer in challenge.offers
            if (wire := written(self.name, offer, context, as_it_is)) is not None
        ]
        links += [(offer, page, None) for offer in challenge.offers if (page := challenge.pages.get(offer.token or ""))]
        if not links:
            return Envelope()
        offer, uri, token = links[0]
        body: dict[str, Any] = {"payment_uri": uri, "payment_amount": str(offer.price), "expires_at": offer.expires_at}
        if token is not None:
            body["offer_token"] = token
        return Envelope(fields=[("Link", _written(uri, token)) for _, uri, token in links], body=body)

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers of the links with `rel="payment"` and of the body's `payment_uri`.

        A URI that no rail here knows is passed over. So is one that cannot be read, unless nothing else is left.

        Raises:
            MalformedInput: nothing can be used, and something cannot be read.
        """
        links = {link.uri: link for line in fields.all("link") for link in _links(line)}
        members = json_body(body, required=not links)
        uri = members.get("payment_uri")
        if uri is not None:
            link = _Link(uri if isinstance(uri, str) else "", members.get("offer_token"), members.get("expires_at"))
            known = links.get(link.uri)
            links[link.uri] = link if known is None or known.token is None else replace(link, token=known.token)
        return read_offers(list(links.values())[:MAX_URIS], lambda link: self._offer(link, context))

    def _offer(self, link: _Link, context: Context) -> Offer | None:
        if not _URI.fullmatch(link.uri):
            raise MalformedInput("payment_uri", "must be an absolute URI")
        token = checked_token(link.token, "offer_token")
        return read_offer(
            self.name,
            {"uri": link.uri},
            expires_at=expiry_of(link.expires_at, "expires_at", context),
            envelope={"uri": link.uri} if token is None else {"uri": link.uri, "token": token},
            context=context,
        )


def _written(uri: str, token: str | None) -> str:
    return f'<{uri}>; rel="payment"' + ("" if token is None else f'; token="{token}"')


def _links(line: str) -> list[_Link]:
    """Return the links of a `Link` line that are for payment. What comes behind something unreadable is passed over."""
    found: list[_Link] = []
    at = 0 if len(line) <= MAX_HEADER_BYTES else len(line)
    while (target := _TARGET.match(line, at)) is not None:
        at = target.end()
        params: dict[str, str | None] = {}
        while (param := _PARAM.match(line, at)) is not None:
            at = param.end()
            value = param[3] if param[2] is None else re.sub(r"\\(.)", r"\1", param[2])
            params.setdefault(param[1].lower(), value)
        if "payment" in (params.get("rel") or "").lower().split():
            found.append(_Link(target[1].strip(), params.get("token")))
    return found
