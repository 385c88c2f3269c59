"""Links under which a person pays or approves: which of those that are said may be shown. Pure.

A link is text from a stranger. It decides nothing and nothing opens it; and it is passed on only where it leads to the
origin that was asked, or to one of those on which the wallet's rail lets people act.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from rail402.errors import MalformedInput
from rail402.protocol.base import parse_json

__all__ = ["link_in", "shown_link"]

_MAX_BODY: Final = 131_072
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

# Nothing that a terminal, a chat window or a browser reads as anything but one address.
_is_plain = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,255}(?:[/?#][!#-;=?-\[\]_a-z~]{0,8000})?", re.ASCII).fullmatch


def shown_link(url: object, origin: str, others: Collection[str]) -> str | None:
    """Return `url` where it may be shown, else None.

    Args:
        origin: the one that was asked; others: further origins, such as `https://checkout.example`.
    """
    if not isinstance(url, str) or not _is_plain(url):
        return None
    with suppress(ValueError):  # no host, or a port that is none
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])}"
        if where == origin or where in others:
            return url
    return None


def link_in(body: bytes | None, rail: str, origin: str, others: Collection[str]) -> str | None:
    """Return the link in a 402's body under which a person can pay on `rail`; None where there is none to show.

    Args:
        body: JSON whose `offers` have a `rail` and a `pay_url`; None where it was too large to be read.
        origin, others: see `shown_link`.
    """
    with suppress(MalformedInput):
        offers = parse_json(body or b"", field="body", max_bytes=_MAX_BODY).get("offers")
        for offer in offers if isinstance(offers, list) else []:
            if isinstance(offer, dict) and offer.get("rail") == rail:
                link = shown_link(offer.get("pay_url"), origin, others)
                if link is not None:
                    return link
    return None
