"""What the doctor finds, and what all of its checks share."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Literal

import httpx

__all__ = ["TIMEOUT", "Finding", "clock_finding", "ok", "secret_files", "time_finding", "warning", "wrong"]

State = Literal["ok", "warning", "wrong"]

TIMEOUT: Final = 15
"""Seconds for which each service is waited for."""

_SKEW: Final = 30

_PATHS: Final = {"keystore"}
"""Keys whose value is the path of a secret file as it is, without `file:`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what it is about, how it is, and what to do about it."""

    state: State
    about: str
    says: str
    fix: str = ""

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def ok(about: str, says: str) -> Finding:
    """Return that something is as it should be."""
    return Finding("ok", about, says)


def warning(about: str, says: str, fix: str) -> Finding:
    """Return that something is worth a thought."""
    return Finding("warning", about, says, fix)


def wrong(about: str, says: str, fix: str) -> Finding:
    """Return that something is wrong."""
    return Finding("wrong", about, says, fix)


def clock_finding(response: httpx.Response, now: int) -> Finding | None:
    """Compare this machine's clock with a server's; None where the server does not say its time."""
    try:
        theirs = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    return time_finding(int(theirs), now, whose=response.url.host)


def time_finding(theirs: int, now: int, *, whose: str) -> Finding:
    """Compare this machine's clock with another one; both Unix seconds."""
    apart = abs(now - theirs)
    if apart <= _SKEW:
        return ok("clock", f"within {_SKEW} s of {whose}'s")
    return warning(
        "clock",
        f"{apart} s away from {whose}'s: authorizations and invoices expire by the clock",
        "keep the time by NTP, on the machine that is wrong",
    )


def secret_files(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at the files that a configuration's secrets are in: nobody else may read them."""
    places = {path: name for name, path in reversed(list(_references(data, "")))}  # each file once
    for path, name in reversed(places.items()):
        file = Path(path).expanduser()
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError:
            continue  # said by whoever reads it
        if mode & 0o077:
            yield warning(
                name, f"{path} has the mode {mode:o}: others on this machine can read it", f"chmod 600 {path}"
            )
        else:
            yield ok(name, f"{path} is readable by its owner alone")


def _references(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _references(member, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _references(member, f"{name}.{index}")
    elif isinstance(value, str) and value.startswith("file:"):
        yield name, value.removeprefix("file:")
    elif isinstance(value, str) and name.rpartition(".")[2] in _PATHS:
        yield name, value
