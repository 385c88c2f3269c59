"""Bech32 (BIP-173) without its length limit, which is how BOLT 11 writes an invoice.

The data part stays text: a string of the 32 letters of the alphabet, five bits each. A slice of it is what the
specification prints in its examples, and one `int(…, 32)` turns it into a number, which is why parsing is fast.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import reduce
from operator import xor
from typing import Final

from rail402.errors import MalformedInput

__all__ = ["ALPHABET", "decode", "encode", "letters_from_bytes", "letters_from_int", "to_bytes", "to_int"]

ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DIGITS = "0123456789abcdefghijklmnopqrstuv"  # the same 32 values as Python and RFC 4648 base32hex write them
_CHECKSUM_LENGTH = 6
_NOT_A_LETTER = 0xFF

_TO_DIGITS = str.maketrans(ALPHABET, _DIGITS)
_TO_LETTERS = str.maketrans(_DIGITS, ALPHABET)
_TO_VALUES = bytes(ALPHABET.find(chr(code)) & 0xFF for code in range(256))  # find() says -1, hence _NOT_A_LETTER

_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_FEEDBACK = tuple(reduce(xor, (g for bit, g in enumerate(_GENERATORS) if top >> bit & 1), 0) for top in range(32))


def decode(text: str) -> tuple[str, str]:
    """Check the checksum and split `text`, all lower or all upper case, into its human-readable part and data letters.

    Both come back in lower case, the data without the checksum. Raises `MalformedInput` (BIP-173, "Bech32").
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise MalformedInput("invoice", "has characters that bech32 does not use")
    if text not in (text.lower(), text.upper()):
        raise MalformedInput("invoice", "mixes upper and lower case; use one of them")
    prefix, _, data = text.lower().rpartition("1")
    if not prefix or len(data) < _CHECKSUM_LENGTH:
        raise MalformedInput("invoice", "is not bech32: a prefix, the digit 1 and data with a checksum are expected")
    values = data.encode().translate(_TO_VALUES)
    if _NOT_A_LETTER in values:
        raise MalformedInput("invoice", "has characters that bech32 does not use")
    if _polymod(values, _polymod(_expanded(prefix))) != 1:
        raise MalformedInput("invoice", "has a wrong checksum: a character was lost or changed on the way")
    return prefix, data[:-_CHECKSUM_LENGTH]


def encode(prefix: str, letters: str) -> str:
    """Join a lower-case human-readable part and data letters, and append the checksum."""
    values = letters.encode().translate(_TO_VALUES)
    checksum = _polymod(bytes(_CHECKSUM_LENGTH), _polymod(values, _polymod(_expanded(prefix)))) ^ 1
    return f"{prefix}1{letters}{letters_from_int(checksum, width=_CHECKSUM_LENGTH)}"


def to_int(letters: str) -> int:
    """The big-endian number that data letters write; no letters write 0."""
    return int(letters.translate(_TO_DIGITS), 32) if letters else 0


def to_bytes(letters: str, field: str) -> bytes:
    """The bytes that data letters write. Raises `MalformedInput(field)` unless the padding is minimal and zero."""
    padding = 5 * len(letters) % 8
    value = to_int(letters)
    if padding > 4 or value & ((1 << padding) - 1):
        raise MalformedInput(field, "is not a whole number of bytes padded with zero bits")
    return (value >> padding).to_bytes(5 * len(letters) // 8, "big")


def letters_from_bytes(data: bytes) -> str:
    """Data letters for bytes, padded with zero bits to a whole letter."""
    return base64.b32hexencode(data).decode().rstrip("=").lower().translate(_TO_LETTERS)


def letters_from_int(value: int, *, width: int = 0) -> str:
    """Data letters for a number, big-endian: exactly `width` of them, or with no width as few as possible."""
    letters = ""
    while value or len(letters) < width:
        value, low = divmod(value, 32)
        letters = ALPHABET[low] + letters
    return letters


def _expanded(prefix: str) -> bytes:
    """How the human-readable part enters the checksum (BIP-173)."""
    codes = prefix.encode()
    return bytes(code >> 5 for code in codes) + b"\0" + bytes(code & 31 for code in codes)


def _polymod(values: Iterable[int], state: int = 1) -> int:
    feedback = _FEEDBACK  # a local: this loop is half of the time that decoding takes
    for value in values:
        state = (state & 0x1FFFFFF) << 5 ^ value ^ feedback[state >> 25]
    return state
