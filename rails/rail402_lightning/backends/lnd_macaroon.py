"""What a macaroon of lnd may do, read from the macaroon itself, and what receiving and paying take. Pure.

A macaroon's identifier names its permissions, and its signature covers them; only the node can check that. Asking lnd
(`CheckMacaroonPermissions`) would take one more permission, which a macaroon of least privilege does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rail402.errors import ConfigurationError, MalformedInput

__all__ = ["PAY", "RECEIVE", "Rights", "permissions", "read_macaroon"]

_VERSION: Final = b"\x02"  # of the binary format; no earlier one was ever used by lnd
_LOCATION, _IDENTIFIER = 1, 2  # packets of that format
_BAKERY_VERSION: Final = b"\x03"
_OPS, _ENTITY, _ACTION = 3, 1, 2  # fields of the protobuf messages MacaroonId and Op
_LENGTH_DELIMITED: Final = 2
_METHOD: Final = "uri:"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a purpose takes.

    Attributes:
        purpose: `receive` or `pay`.
        methods: each permission, and the methods of lnd's API that are called with it. A macaroon may also be baked for
            these methods alone, which is the least that works.
    """

    purpose: str
    methods: Mapping[str, tuple[str, ...]]

    @property
    def bake(self) -> str:
        """The command that makes a macaroon for just this."""
        return f"lncli bakemacaroon --save_to rail402-{self.purpose}.macaroon {' '.join(self.methods)}"

    def missing(self, held: frozenset[str]) -> list[str]:
        """Return the permissions that it takes and that are not held."""
        return [
            needed
            for needed, methods in self.methods.items()
            if needed not in held and not held.issuperset(_METHOD + method for method in methods)
        ]

    def excess(self, held: frozenset[str]) -> list[str]:
        """Return what is held, lets its holder do something rather than look, and is not needed."""
        needed = {*self.methods, *(_METHOD + method for methods in self.methods.values() for method in methods)}
        return sorted(each for each in held - needed if not each.endswith(":read"))


RECEIVE: Final = Rights(
    "receive",
    {
        "info:read": ("/lnrpc.Lightning/GetInfo",),
        "invoices:read": ("/lnrpc.Lightning/LookupInvoice", "/invoicesrpc.Invoices/SubscribeSingleInvoice"),
        "invoices:write": ("/lnrpc.Lightning/AddInvoice",),
    },
)

PAY: Final = Rights(
    "pay",
    {
        "info:read": ("/lnrpc.Lightning/GetInfo",),
        "offchain:read": ("/routerrpc.Router/TrackPaymentV2", "/lnrpc.Lightning/ListChannels"),
        "offchain:write": ("/routerrpc.Router/SendPaymentV2",),
    },
)


def read_macaroon(macaroon: str | bytes | Path) -> bytes:
    """Return a macaroon's bytes.

    Args:
        macaroon: hexadecimal digits, the bytes themselves, or the path of a file that holds either.

    Raises:
        ConfigurationError: it is none of these; the text does not repeat it.
    """
    if isinstance(macaroon, Path):
        path = macaroon
        try:
            macaroon = path.expanduser().read_bytes()
        except (OSError, RuntimeError) as error:  # RuntimeError: ~ of nobody
            raise ConfigurationError(f"the macaroon {path} cannot be read") from error
    if isinstance(macaroon, bytes):
        if macaroon.startswith(_VERSION):
            return macaroon
        macaroon = macaroon.decode("ascii", errors="replace")
    try:
        data = bytes.fromhex(macaroon)
    except ValueError:
        data = b""
    if not data.startswith(_VERSION):
        raise ConfigurationError(
            "the macaroon of lnd must be one of its .macaroon files, as a pathlib.Path, or that in hexadecimal digits"
        )
    return data


def permissions(macaroon: bytes) -> frozenset[str] | None:
    """Return what a macaroon may do at most, each as `entity:action`; None if it is not written as lnd writes it.

    What it may do less because of its caveats, such as an expiry, is not looked at.
    """
    try:
        ops = [_operation(op) for number, op in _fields(_identifier(macaroon)) if number == _OPS]
        return frozenset(f"{entity}:{action}" for entity, actions in ops for action in actions)
    except MalformedInput:
        return None


def _operation(op: bytes) -> tuple[str, list[str]]:
    """Return the entity and the actions of one operation."""
    entity, actions = "", []
    for number, value in _fields(op):
        text = value.decode("utf-8", errors="replace")
        if number == _ENTITY:
            entity = text
        elif number == _ACTION:
            actions.append(text)
    return entity, actions


def _identifier(macaroon: bytes) -> bytes:
    """Return the protobuf message in the identifier of a macaroon, which follows an optional location."""
    kind, at = _varint(macaroon, len(_VERSION))
    value, at = _sized(macaroon, at)
    if kind == _LOCATION:
        kind, at = _varint(macaroon, at)
        value, at = _sized(macaroon, at)
    if not macaroon.startswith(_VERSION) or kind != _IDENTIFIER or not value.startswith(_BAKERY_VERSION):
        raise MalformedInput("macaroon", "is not one of lnd's")
    return value.removeprefix(_BAKERY_VERSION)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and values of a protobuf message that holds only texts, bytes and messages."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 != _LENGTH_DELIMITED:
            raise MalformedInput("macaroon", "is not one of lnd's")
        value, at = _sized(message, at)
        yield tag >> 3, value


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes at a place, which follow their length, and the place after them."""
    length, at = _varint(data, at)
    if at + length > len(data):
        raise MalformedInput("macaroon", "is cut off")
    return data[at : at + length], at + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, seven bits a byte and the lowest first, and the place after it."""
    value = 0
    for position, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, at + position + 1
    raise MalformedInput("macaroon", "is cut off")
