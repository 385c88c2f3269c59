"""One `Payment` challenge of the server's, as its parameters and as its line.

Of two challenges of one route little differs but the offer's token, the expiry and the id, which is an HMAC over all of
it. The rest is put together once and looked up from then on, by all that it is made of: a changed price or description
is another key (see `_rails.written`), and nothing of an offer's own is kept.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rail402.dialects import auth_params
from rail402.dialects._base64_json import to_base64url
from rail402.protocol.base import Json, canonical_json, hmac_sha256_again

__all__ = ["ECHO_THE_REQUEST_ONLY", "OFFER", "Made", "Said", "body_digest_field", "challenge_id", "make", "said"]

OFFER: Final = "_rail402_offer"
"""The member of `request` that holds the offer's token where it does not travel in `opaque`."""

ECHO_THE_REQUEST_ONLY: Final = ("lightning",)
"""Methods whose clients send back no more of a challenge than their draft shows: neither `opaque` nor `digest`."""

_ROUTES: Final = 256


def challenge_id(secret: bytes, challenge: Mapping[str, str]) -> str:
    """Return the id of a challenge: HMAC-SHA256 over its members, in base64url (draft, section 5.1.1).

    Args:
        secret: the server's secret, at least 32 bytes.
        challenge: its members as they stand in the header: `realm`, `method`, `intent`, `request`, and `expires`,
            `digest`, `header` and `opaque` where they are there. `description` is not covered, and a `header` that
            names the default, `Authorization`, counts as absent.
    """
    slots = [challenge[name] for name in ("realm", "method", "intent", "request")]
    slots += [challenge.get("expires", ""), challenge.get("digest", "")]
    header = challenge.get("header", "")
    if header and header.lower() != "authorization":
        slots.append(header)
    slots.append(challenge.get("opaque", ""))
    return _mac(secret, "|".join(slots))


def _mac(secret: bytes, slots: str) -> str:
    return to_base64url(hmac_sha256_again(secret, slots.encode()))


def body_digest_field(body_digest: str) -> str:
    """Return the `digest` parameter for a body of that SHA-256 (hexadecimal): the bare form, which the SDKs want."""
    return "sha-256=" + base64.b64encode(bytes.fromhex(body_digest)).decode()


@dataclass(slots=True)
class _Fixed:
    """What all challenges of a method have in common on a route: members, the first slots of the id, parts of the line.

    The request is not in it, which may be each offer's own.
    """

    members: Mapping[str, str]
    description: Mapping[str, str]
    slots: str
    line: str
    line_description: str


@dataclass(slots=True)
class Said:
    """What a challenge says of an offer as its rail writes it: the same for all offers of the same terms.

    `text` is the request as it travels, empty where the offer's token goes into it.
    """

    method: str
    intent: str
    request: Json
    text: str


def said(wire: Json) -> Said:
    """Return what is said of an offer; `wire` is `method`, `intent` and `request`."""
    method, request = wire["method"], wire["request"]
    text = "" if method in ECHO_THE_REQUEST_ONLY else to_base64url(canonical_json(request))
    return Said(method, wire["intent"], request, text)


@dataclass(slots=True)
class Made:
    """A challenge. `digest` and `opaque` are empty where it has none; all five texts need no quoting."""

    fixed: _Fixed
    id: str
    request: str
    digest: str
    expires: str
    opaque: str

    def method_and_intent(self) -> tuple[str, str]:
        """Return what a client's preference is about."""
        return self.fixed.members["method"], self.fixed.members["intent"]

    def params(self) -> dict[str, str]:
        """Return its parameters, in the order in which they are sent."""
        fixed = self.fixed
        params = {"id": self.id, **fixed.members, "request": self.request, **fixed.description}
        if self.digest:
            params["digest"] = self.digest
        params["expires"] = self.expires
        if self.opaque:
            params["opaque"] = self.opaque
        return params

    def line(self) -> str:
        """Return it as a field value says it."""
        fixed = self.fixed
        digest = f', digest="{self.digest}"' if self.digest else ""
        opaque = f', opaque="{self.opaque}"' if self.opaque else ""
        head = f'Payment id="{self.id}", {fixed.line}, request="{self.request}"{fixed.line_description}'
        return f'{head}{digest}, expires="{self.expires}"{opaque}'


def make(said: Said, *, token: str, realm: str, description: str, digest: str, expires: str, secret: bytes) -> Made:
    """Make the challenge for an offer.

    Args:
        token: the offer's.
        description: what is sold, for people; perhaps empty.
        digest: that of the request's body (see `body_digest_field`), empty where there is no body.
        expires: RFC 3339.
        secret: see `challenge_id`.
    """
    fixed = _fixed(realm, said.method, said.intent, description)
    if said.text:
        text, opaque = said.text, to_base64url(f'{{"token":"{token}"}}'.encode())  # nothing in a token needs escaping
    else:
        text, opaque = to_base64url(canonical_json({**said.request, OFFER: token})), ""
    return Made(fixed, _mac(secret, f"{fixed.slots}|{text}|{expires}|{digest}|{opaque}"), text, digest, expires, opaque)


@lru_cache(maxsize=_ROUTES)
def _fixed(realm: str, method: str, intent: str, description: str) -> _Fixed:
    members = {"realm": realm, "method": method, "intent": intent}
    description = " ".join("".join(char if char.isprintable() else " " for char in description).split())
    said = {"description": description} if description else {}
    return _Fixed(
        members=members,
        description=said,
        slots="|".join(members.values()),
        line=", ".join(f"{name}={auth_params.quote(text)}" for name, text in members.items()),
        line_description="".join(f", {name}={auth_params.quote(text)}" for name, text in said.items()),
    )
