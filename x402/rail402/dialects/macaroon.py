"""Macaroons in the binary format V2, as libmacaroons and its kin make them, with first-party caveats only.

A macaroon is an identifier, a list of caveats, and a chain of HMACs over them. Whoever has one can add a caveat and so
restrict it; only who knows the root key can check it, and nobody can take a caveat away. The key of the first HMAC is
not the root key itself but HMAC-SHA256("macaroons-key-generator", root key), and the field tags are 1 location,
2 identifier, 4 verification id, 6 signature: this is what the libraries do, whatever else has been written about it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rail402.errors import MalformedInput
from rail402.protocol.base import hmac_sha256, hmac_sha256_again

__all__ = ["MAX_BYTES", "Macaroon", "mint", "parse"]

MAX_BYTES = 8192
_VERSION = 2
_EOS, _LOCATION, _IDENTIFIER, _VERIFICATION_ID, _SIGNATURE = 0, 1, 2, 4, 6
_START, _END = bytes([_VERSION]), bytes([_EOS])
_SIGNATURE_BYTES = 32
_MAX_CAVEATS = 64


@dataclass(frozen=True, slots=True)
class Macaroon:
    """One macaroon. Nothing about it is verified until `verifies` says so.

    Attributes:
        location: a hint where it is for; not covered by the signature.
        identifier: what its maker recognises it by.
        caveats: in the order in which they were added.
    """

    location: bytes
    identifier: bytes
    caveats: tuple[bytes, ...]
    signature: bytes

    def __repr__(self) -> str:
        return f"Macaroon(identifier={self.identifier.hex()}, {len(self.caveats)} caveats)"  # whoever has it can use it

    def restrict(self, caveat: bytes) -> Macaroon:
        """Return it with one more caveat, which needs no key."""
        signature = hmac_sha256(self.signature, caveat)
        return replace(self, caveats=(*self.caveats, caveat), signature=signature)

    def verifies(self, root_key: bytes) -> bool:
        """Say whether it was made with `root_key` and has all of its caveats. What they say is not looked at."""
        made = mint(root_key, self.identifier, self.location, self.caveats)
        return hmac.compare_digest(made.signature, self.signature)

    def serialize(self) -> bytes:
        """Return its bytes."""
        head = _field(_IDENTIFIER, self.identifier)
        if self.location:
            head = _field(_LOCATION, self.location) + head
        caveats = [_field(_IDENTIFIER, caveat) for caveat in self.caveats]
        return _START + _END.join([head, *caveats, b"", _field(_SIGNATURE, self.signature)])


def mint(root_key: bytes, identifier: bytes, location: bytes = b"", caveats: Sequence[bytes] = ()) -> Macaroon:
    """Make a macaroon.

    Args:
        root_key: secret; one of its own for each macaroon.
        identifier: must not be empty, and need not be secret.
    """
    key = hmac_sha256_again(b"macaroons-key-generator", root_key)
    signature = hmac_sha256(key, identifier)
    for caveat in caveats:
        signature = hmac_sha256(signature, caveat)
    return Macaroon(location, identifier, tuple(caveats), signature)


def parse(data: bytes) -> Macaroon:
    """Read a macaroon.

    Raises:
        MalformedInput: it is not one in the format V2, is longer than 8 KiB, has a third-party caveat, or more than
            64 caveats.
    """
    if len(data) > MAX_BYTES:
        raise MalformedInput("macaroon", f"is longer than {MAX_BYTES} bytes")
    if data[:1] != _START:
        raise MalformedInput("macaroon", "is not in the binary format V2")
    sections = _sections(data)
    head, caveats = next(sections), []
    while section := next(sections):
        if _VERIFICATION_ID in section:
            raise MalformedInput("macaroon", "has a third-party caveat, which nobody here could discharge")
        caveats.append(section.get(_IDENTIFIER, b""))
        if len(caveats) > _MAX_CAVEATS:
            raise MalformedInput("macaroon", f"has more than {_MAX_CAVEATS} caveats")
    signature = next(sections).get(_SIGNATURE, b"")
    if _IDENTIFIER not in head or len(signature) != _SIGNATURE_BYTES or not all(caveats):
        raise MalformedInput("macaroon", "lacks its identifier, a caveat or its signature")
    return Macaroon(head.get(_LOCATION, b""), head[_IDENTIFIER], tuple(caveats), signature)


def _field(tag: int, value: bytes) -> bytes:
    size = len(value)
    return b"%c%c%b" % (tag, size, value) if size < 0x80 else b"%c%b%b" % (tag, _varint(size), value)


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _sections(data: bytes) -> Iterator[dict[int, bytes]]:
    """Yield the sections: fields by tag up to an end mark; one without fields ends the caveats, the signature is last.

    Raises:
        MalformedInput: a field is cut off, out of order or unknown, or bytes follow the signature.
    """
    at, last, section = 1, 0, dict[int, bytes]()
    while at < len(data):
        tag = data[at]
        if tag == _EOS:
            yield section
            at, section, last = at + 1, {}, 0
            continue
        if tag not in (_LOCATION, _IDENTIFIER, _VERIFICATION_ID, _SIGNATURE) or tag <= last:
            raise MalformedInput("macaroon", f"has an unexpected field {tag}")
        size, start = _read_varint(data, at + 1)
        if start + size > len(data):
            raise MalformedInput("macaroon", "ends in the middle of a field")
        section[tag], at, last = data[start : start + size], start + size, tag
        if tag == _SIGNATURE and at != len(data):
            raise MalformedInput("macaroon", "goes on after its signature")
    yield section
    while True:  # what is missing at the end is missed by who reads it
        yield {}


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(data[at : at + 3]):
        number |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return number, at + index + 1
    raise MalformedInput("macaroon", "has a length that cannot be read")
