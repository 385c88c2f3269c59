"""Changes to bytes, as a hostile peer or a broken one would make them. The random source is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

__all__ = ["mutated"]

# What parsers trip over: ends of ranges, other scripts' digits, separators, escapes, openings without an end.
_TOKENS: Final = (
    *(b"0", b"-1", b"1e309", b"9" * 40, b"2147483648", b"9007199254740993", b"0x", b"NaN", b"null", b"true"),
    *(b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"[", b"[" * 200, b'{"a":' * 100, b"}", b",", b":", b"=", b"==", b";"),
    *(b"\x00", b"\r\n", b"\xff", b"\xc3\x28", "１２".encode(), "٣".encode(), b" " * 300, b"\t", b"%00", b"/../", b"*"),
    *(b"Payment ", b"L402 ", b"eip155:", b"lnbc1", b"did:web:", b"ethereum:", b"lightning:", b"?a=1&a=2", b"@", b"#"),
)


def mutated(random: Random, seeds: Sequence[bytes], *, most: int = 8) -> bytes:
    """Return one of the seeds with up to `most` changes."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, most)):
        _change(random, data, seeds)
    return bytes(data[:300_000])


def _change(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = random.randint(0, len(data))
    end = min(len(data), at + random.choice((1, 1, 2, 4, 16, 64)))
    match random.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        case 1 if data:
            data[at % len(data)] = random.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * random.choice((1, 2, 50))
        case 4:
            data[at:end] = random.choice(_TOKENS)
        case 5:
            data[at:at] = random.choice(_TOKENS)
        case 6:
            other = random.choice(seeds)
            begin = random.randint(0, len(other))
            data[at:end] = other[begin : begin + random.choice((4, 32, 256))]
        case _:
            del data[at:]
