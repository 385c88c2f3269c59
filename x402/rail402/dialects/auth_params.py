"""Lists of authentication schemes with their parameters (RFC 9110, section 11), read leniently and in linear time.

One line may hold several challenges or credentials, and the same comma separates challenges and parameters. An element
opens a new scheme where its first word is not followed by `=`. Quotes count only at the start of a value, so a word in
a quoted text is never taken for a scheme, and a stray quote cuts its own value short and nothing else. Every quantifier
below is possessive: nothing backtracks, whatever a peer sends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rail402.errors import ConfigurationError, MalformedInput
from rail402.protocol.dialect import MAX_HEADER_BYTES, Fields

__all__ = ["Scheme", "challenges", "parse", "quote"]

_WORD = r"([!#$%&'*+.^_`|~0-9A-Za-z-]++)"
_SCHEME = re.compile(_WORD + r"(?=[ \t,]|$)(?![ \t]*+=)[ \t]*+")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]++=*+(?=[ \t]*+(?:,|$))")
_PARAM = re.compile(_WORD + r"[ \t]*+=[ \t]*+(?:(\")|([^\s,]*+))")
_QUOTED = re.compile(r'((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_BETWEEN = re.compile(r"[ \t,]*+")
_TO_NEXT = re.compile(r"[^,]*+[ \t,]*+")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"[ !#-\[\]-~]*+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SPECIAL = re.compile(r'["\\]')
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@dataclass(slots=True)
class Scheme:
    """One challenge or credential.

    Attributes:
        name: the scheme, lower case.
        token: what follows it as one word (token68), empty where parameters or nothing follow. Perhaps secret.
        params: the parameters in order, names in lower case; the value is None where a quoted text never ends.
    """

    name: str
    token: str = field(default="", repr=False)
    params: list[tuple[str, str | None]] = field(default_factory=list, repr=False)


def parse(value: str) -> list[Scheme]:
    """Take the value of `WWW-Authenticate` or `Authorization` apart. What fits nowhere is passed over."""
    schemes = [Scheme("")]  # takes parameters that stand before the first scheme
    at = _end(_BETWEEN, value, 0)
    while at < len(value):
        scheme = _SCHEME.match(value, at)
        if scheme is not None:
            schemes.append(Scheme(scheme[1].lower()))
            at = scheme.end()
            token = _TOKEN68.match(value, at)
            if token is not None:
                schemes[-1].token, at = token[0], token.end()
        param = _PARAM.match(value, at)
        if param is not None:
            text, at = _value(value, param)
            schemes[-1].params.append((param[1].lower(), text))
        at = _end(_TO_NEXT, value, at)
    return schemes[1:]


def challenges(fields: Fields) -> list[Scheme]:
    """Return the schemes of every `WWW-Authenticate` line.

    Raises:
        MalformedInput: a line is too long.
    """
    return [scheme for schemes in fields.each("www-authenticate", _challenges_of) for scheme in schemes]


def _challenges_of(line: str) -> list[Scheme]:
    if len(line) > MAX_HEADER_BYTES:
        raise MalformedInput("www-authenticate", f"is longer than {MAX_HEADER_BYTES} bytes")
    return parse(line)


def _end(pattern: re.Pattern[str], value: str, at: int) -> int:
    match = pattern.match(value, at)
    assert match is not None  # both patterns match the empty text
    return match.end()


def _value(value: str, param: re.Match[str]) -> tuple[str | None, int]:
    if not param[2]:
        return param[3], param.end()
    quoted = _QUOTED.match(value, param.end())
    if quoted is None:
        return None, len(value)
    return _unescape(quoted[1]), quoted.end()


def _unescape(text: str) -> str:
    r"""Undo quoted pairs; MPP writes what lies beyond Latin-1 as `\uXXXX` (UTF-16 code units)."""
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
    if _SURROGATE.search(text):  # joins pairs; a half of one becomes U+FFFD
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def quote(text: str) -> str:
    r"""Return `text` as a quoted string in ASCII; everything else is written as `\uXXXX`.

    Raises:
        ConfigurationError: it holds a control character, such as a line break.
    """
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    if _CONTROL.search(text):
        raise ConfigurationError(f"{text!r} cannot stand in a header: it holds a control character")
    escaped = _SPECIAL.sub(r"\\\g<0>", text)
    return f'"{_NOT_ASCII.sub(_code_units, escaped)}"'


def _code_units(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\u{units[at : at + 4]}" for at in range(0, len(units), 4))
