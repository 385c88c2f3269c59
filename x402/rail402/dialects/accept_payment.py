"""The request field `Accept-Payment`: which methods and intents of MPP a client prefers.

It has the form of `Accept` (RFC 9110, section 12.5.1): `stripe/charge, lightning/*;q=0.5, */session;q=0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

__all__ = ["preferred"]

MAX_FIELD: Final = 4096
"""Characters above which the field is passed over."""

_RANGE: Final = re.compile(
    r"(\*|[a-z][a-z0-9:_-]*)/(\*|[A-Za-z0-9-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?",
    re.ASCII | re.IGNORECASE,
)

T = TypeVar("T")


def preferred(field: str, entries: Sequence[T], names: Callable[[T], tuple[str, str]]) -> list[T]:
    """Return the entries that a client takes, the preferred one first; all of them where it takes none.

    Args:
        field: `Accept-Payment` as it came; one that is empty or malformed says nothing.
        entries: in the server's order, which decides between entries that are equally preferred.
        names: the method and the intent of an entry.
    """
    ranges = _read(field)
    weighed = [(_weight(ranges, *names(entry)), entry) for entry in entries]
    wanted = sorted((pair for pair in weighed if pair[0] > 0), key=lambda pair: -pair[0])
    return [entry for _, entry in wanted] or list(entries)


def _read(field: str) -> list[tuple[str, str, int]]:
    """Return each range's method, intent and weight in thousandths; nothing where one of them is malformed."""
    if len(field) > MAX_FIELD:
        return []
    found = []
    for part in field.split(","):
        match = _RANGE.fullmatch(part.strip(" \t"))
        if match is None:
            return []
        whole, _, fraction = (match[3] or "1").partition(".")
        found.append((match[1].lower(), match[2].lower(), int(whole) * 1000 + int(fraction.ljust(3, "0"))))
    return found


def _weight(ranges: Sequence[tuple[str, str, int]], method: str, intent: str) -> int:
    """Return the weight of the most specific range that fits; nothing fits where there is none."""
    fits = [
        ((wanted_method != "*", wanted_intent != "*"), weight)
        for wanted_method, wanted_intent, weight in ranges
        if wanted_method in ("*", method.lower()) and wanted_intent in ("*", intent.lower())
    ]
    return max(fits, key=lambda fit: fit[0])[1] if fits else 0
