"""BOLT 11 invoices: reading, checking and writing them. Pure: no clock, no network.

`decode` is strict, because an invoice comes from whoever wants money, and because two programs that read one invoice
differently can be played off against each other. Where the specification says that a reader fails the payment, it
raises; where it says a reader SHOULD, too; and a field that a writer may give once is refused when it comes twice
(the specification does not say which of two would count). Skipped, as it demands: unknown fields, unknown odd
feature bits, and fallback addresses, since nothing here pays on chain.

Not checked, because it needs more than the text: expiry (ask `expires_at`), and what the description hash stands for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, cast, get_args

from coincurve import PrivateKey, PublicKey

from rail402.errors import MalformedInput
from rail402_lightning import bech32

__all__ = [
    "DEFAULT_EXPIRY",
    "DEFAULT_MIN_FINAL_CLTV_EXPIRY",
    "MAX_AMOUNT_MSAT",
    "MAX_LENGTH",
    "Invoice",
    "Prefix",
    "RouteHop",
    "UnsignedInvoice",
    "decode",
    "encode",
]

Prefix = Literal["bc", "tb", "tbs", "bcrt"]

DEFAULT_EXPIRY: Final = 3600
DEFAULT_MIN_FINAL_CLTV_EXPIRY: Final = 18
MAX_LENGTH: Final = 7089  # what the largest QR code holds; no invoice in use comes near
MAX_AMOUNT_MSAT: Final = 21_000_000 * 10**11  # all the bitcoin there will be

_URI_SCHEME = "lightning:"
_TIMESTAMP_LETTERS = 7
_SIGNATURE_LETTERS = 104
_MAX_FIELD_LETTERS = 1023
_MAX_NUMBER_LETTERS = 12  # 60 bits: an expiry fits a signed 64-bit column with the timestamp added
_HOP_BYTES = 51

_PREFIX = re.compile(r"ln(bcrt|bc|tbs|tb)(.*)")
_AMOUNT = re.compile(r"([1-9][0-9]{0,19})([munp]?)")
_MSAT_PER_UNIT = {"": 10**11, "m": 10**8, "u": 10**5, "n": 10**2}  # and p: a tenth of a millisatoshi

# Fields that come at most once, and those of a fixed length, counted in letters.
_SINGLE_FIELDS = {
    "p": "payment_hash",
    "s": "payment_secret",
    "d": "description",
    "h": "description_hash",
    "m": "metadata",
    "n": "payee",
    "x": "expiry",
    "c": "min_final_cltv_expiry",
    "9": "features",
}
_FIXED_LENGTHS = {"p": 52, "s": 52, "h": 52, "n": 53}

# The even (compulsory) bits of BOLT 9 that mean something in an invoice: those assumed of every node
# (data_loss_protect, var_onion_optin, static_remotekey, payment_secret, channel_type), then basic_mpp,
# route_blinding, attribution_data and payment_metadata.
_KNOWN_COMPULSORY_FEATURES = frozenset({0, 8, 12, 14, 44, 16, 24, 36, 48})


class RouteHop(NamedTuple):
    """One entry of a route hint: a channel that starts at `node_id` and leads towards the payee."""

    node_id: bytes
    short_channel_id: int
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsignedInvoice:
    """What an invoice says, before a node signs it.

    Attributes:
        prefix: the BIP-173 currency prefix: `bc` mainnet, `tb` testnet, `tbs` signet, `bcrt` regtest.
        amount_msat: millisatoshis to pay; None where the payer is to choose, which nothing here ever pays.
        created_at: unix seconds.
        payment_hash: SHA-256 of the preimage that paying reveals, 32 bytes.
        payment_secret: 32 bytes that keep nodes on the route from probing the payee.
        description: what is paid for, in plain text; or else
        description_hash: its SHA-256. An invoice has exactly one of the two.
        expiry: seconds for which it may be paid, counted from `created_at`.
        min_final_cltv_expiry: blocks the payee wants left on the last hop.
        features: numbers of the feature bits that are set (BOLT 9).
        route_hints: ways to a payee without public channels, each from a public node on.
        metadata: bytes that the payment carries back to the payee.
    """

    prefix: Prefix
    amount_msat: int | None
    created_at: int
    payment_hash: bytes
    payment_secret: bytes = field(repr=False)
    description: str | None = None
    description_hash: bytes | None = None
    expiry: int = DEFAULT_EXPIRY
    min_final_cltv_expiry: int = DEFAULT_MIN_FINAL_CLTV_EXPIRY
    features: frozenset[int] = frozenset()
    route_hints: tuple[tuple[RouteHop, ...], ...] = ()
    metadata: bytes | None = field(default=None, repr=False)

    @property
    def expires_at(self) -> int:
        """Unix seconds from which on it should no longer be paid."""
        return self.created_at + self.expiry


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice(UnsignedInvoice):
    """A decoded invoice, its signature verified.

    Attributes:
        payee: the public key of the node that signed it, compressed, 33 bytes. Without an `n` field it is recovered
            from the signature, so that an altered invoice verifies too, for another payee: compare it.
        text: the invoice in lower case, without a URI scheme. It holds the payment secret, hence is not in the repr.
    """

    payee: bytes
    text: str = field(repr=False)


def decode(text: str) -> Invoice:
    """Read an invoice, in lower or upper case, with or without `lightning:` in front, and verify its signature.

    Raises `MalformedInput` for everything else; `field` is `invoice` or `invoice.<attribute>` (BOLT 11).
    """
    if len(text) > MAX_LENGTH:
        raise MalformedInput("invoice", f"is longer than {MAX_LENGTH} characters")
    bare = text[len(_URI_SCHEME) :] if text[: len(_URI_SCHEME)].lower() == _URI_SCHEME else text
    readable, letters = bech32.decode(bare)
    prefix, amount_msat = _parse_readable_part(readable)
    if len(letters) < _TIMESTAMP_LETTERS + _SIGNATURE_LETTERS:
        raise MalformedInput("invoice", "is too short to hold a timestamp and a signature")
    signed, signature = letters[:-_SIGNATURE_LETTERS], letters[-_SIGNATURE_LETTERS:]
    fields, hints = _split_fields(signed[_TIMESTAMP_LETTERS:])
    payee = _verify(_message(readable, signed), bech32.to_bytes(signature, "invoice.signature"), fields.get("n"))

    for letter in "ps":
        if letter not in fields:
            raise _malformed(letter, "is missing")
    if ("d" in fields) == ("h" in fields):
        raise _malformed("d", "exactly one of a description and a description hash is expected")
    return Invoice(
        prefix=prefix,
        amount_msat=amount_msat,
        created_at=bech32.to_int(signed[:_TIMESTAMP_LETTERS]),
        payment_hash=_bytes(fields, "p"),
        payment_secret=_bytes(fields, "s"),
        description=_text(fields, "d") if "d" in fields else None,
        description_hash=_bytes(fields, "h") if "h" in fields else None,
        expiry=_number(fields, "x", DEFAULT_EXPIRY),
        min_final_cltv_expiry=_number(fields, "c", DEFAULT_MIN_FINAL_CLTV_EXPIRY),
        features=_features(fields.get("9", "")),
        route_hints=tuple(_route_hint(hint) for hint in hints),
        metadata=_bytes(fields, "m") if "m" in fields else None,
        payee=payee,
        text=bare.lower(),
    )


def encode(invoice: UnsignedInvoice, private_key: bytes, *, name_payee: bool = False) -> str:
    """Write `invoice`, signed with a node's 32-byte private key; `name_payee` adds the public key as an `n` field.

    Raises `ValueError` for what no invoice can say: an amount below 1 msat, a hash of the wrong length, a
    description above 639 bytes, both or neither of description and description hash (BOLT 11).
    """
    _check_encodable(invoice)
    key = PrivateKey(private_key)
    readable = f"ln{invoice.prefix}{_format_amount(invoice.amount_msat)}"
    signed = bech32.letters_from_int(invoice.created_at, width=_TIMESTAMP_LETTERS)
    signed += _field("p", bech32.letters_from_bytes(invoice.payment_hash))
    signed += _field("s", bech32.letters_from_bytes(invoice.payment_secret))
    if invoice.description is not None:
        signed += _field("d", bech32.letters_from_bytes(invoice.description.encode()))
    if invoice.description_hash is not None:
        signed += _field("h", bech32.letters_from_bytes(invoice.description_hash))
    if name_payee:
        signed += _field("n", bech32.letters_from_bytes(key.public_key.format()))
    signed += _field("x", bech32.letters_from_int(invoice.expiry))
    signed += _field("c", bech32.letters_from_int(invoice.min_final_cltv_expiry))
    for hint in invoice.route_hints:
        signed += _field("r", bech32.letters_from_bytes(b"".join(map(_hop_bytes, hint))))
    if invoice.metadata is not None:
        signed += _field("m", bech32.letters_from_bytes(invoice.metadata))
    if invoice.features:
        signed += _field("9", bech32.letters_from_int(sum(1 << bit for bit in invoice.features)))
    return bech32.encode(readable, signed + _sign(_message(readable, signed), key))


# The human-readable part.


def _parse_readable_part(readable: str) -> tuple[Prefix, int | None]:
    match = _PREFIX.fullmatch(readable)
    if not match:
        raise MalformedInput("invoice", "does not begin with lnbc, lntb, lntbs or lnbcrt")
    prefix = cast(Prefix, match[1])
    if not match[2]:
        return prefix, None
    amount = _AMOUNT.fullmatch(match[2])
    if not amount:
        raise MalformedInput("invoice.amount", "is not a positive number with an optional multiplier m, u, n or p")
    number, unit = int(amount[1]), amount[2]
    if unit == "p" and number % 10:
        raise MalformedInput("invoice.amount", "is not a whole number of millisatoshis")
    amount_msat = number // 10 if unit == "p" else number * _MSAT_PER_UNIT[unit]
    if amount_msat > MAX_AMOUNT_MSAT:
        raise MalformedInput("invoice.amount", "is more bitcoin than there can be")
    return prefix, amount_msat


def _format_amount(amount_msat: int | None) -> str:
    if amount_msat is None:
        return ""
    for unit, msat in _MSAT_PER_UNIT.items():  # from the largest on, for the shortest form
        if amount_msat % msat == 0:
            return f"{amount_msat // msat}{unit}"
    return f"{amount_msat * 10}p"


# The signature.


def _message(readable: str, signed: str) -> bytes:
    """The bytes whose SHA-256 is signed: the readable part as text, the data part padded with zero bits."""
    padding = -5 * len(signed) % 8
    return readable.encode() + (bech32.to_int(signed) << padding).to_bytes((5 * len(signed) + padding) // 8, "big")


def _sign(message: bytes, key: PrivateKey) -> str:
    return bech32.letters_from_bytes(key.sign_recoverable(message))


def _verify(message: bytes, signature: bytes, named_payee: str | None) -> bytes:
    """The payee's public key: the named one if the signature is good for it, else the one that is recovered."""
    try:
        if named_payee is None:
            return PublicKey.from_signature_and_message(signature, message).format()
        payee = bech32.to_bytes(named_payee, "invoice.payee")
        # libsecp256k1 takes the low one of the two possible S only, as the specification wants it with a named payee.
        verified = signature[64] <= 3 and PublicKey(payee).verify(_der(signature), message)
    except ValueError as error:  # coincurve: no such point, or numbers out of range
        raise MalformedInput("invoice.signature", "is not a signature by any node") from error
    if not verified:
        raise MalformedInput("invoice.signature", "is not by the payee that the invoice names")
    return payee


def _der(signature: bytes) -> bytes:
    """A compact signature in the DER form that coincurve verifies."""

    def integer(number: bytes) -> bytes:
        digits = number.lstrip(b"\0") or b"\0"
        digits = b"\0" + digits if digits[0] & 0x80 else digits
        return b"\x02" + bytes([len(digits)]) + digits

    body = integer(signature[:32]) + integer(signature[32:64])
    return b"\x30" + bytes([len(body)]) + body


# The tagged fields.


def _malformed(letter: str, detail: str) -> MalformedInput:
    return MalformedInput(f"invoice.{_SINGLE_FIELDS[letter]}", detail)


def _split_fields(letters: str) -> tuple[dict[str, str], list[str]]:
    """The fields that come at most once, by their letter, and the route hints; everything else is skipped."""
    fields: dict[str, str] = {}
    hints: list[str] = []
    position = 0
    while position < len(letters):
        start = position + 3
        letter, end = letters[position], start + bech32.to_int(letters[position + 1 : start])
        value = letters[start:end]
        if end > len(letters):
            raise MalformedInput("invoice", "ends within a field")
        if letter == "r":
            hints.append(value)
        elif letter in _SINGLE_FIELDS:
            if len(value) != _FIXED_LENGTHS.get(letter, len(value)):
                raise _malformed(letter, "has the wrong length")
            if letter in fields:
                raise _malformed(letter, "comes more than once")
            fields[letter] = value
        position = end
    return fields, hints


def _bytes(fields: dict[str, str], letter: str) -> bytes:
    return bech32.to_bytes(fields[letter], f"invoice.{_SINGLE_FIELDS[letter]}")


def _text(fields: dict[str, str], letter: str) -> str:
    try:
        return _bytes(fields, letter).decode()
    except UnicodeDecodeError as error:
        raise _malformed(letter, "is not UTF-8") from error


def _number(fields: dict[str, str], letter: str, default: int) -> int:
    letters = fields.get(letter)
    if letters is None:
        return default
    if letters.startswith("q"):
        raise _malformed(letter, "begins with a zero")
    if len(letters) > _MAX_NUMBER_LETTERS:
        raise _malformed(letter, f"does not fit into {5 * _MAX_NUMBER_LETTERS} bits")
    return bech32.to_int(letters)


def _features(letters: str) -> frozenset[int]:
    if letters.startswith("q"):
        raise _malformed("9", "begins with a zero")
    bits = bin(bech32.to_int(letters))[2:]
    features = frozenset(number for number, bit in enumerate(reversed(bits)) if bit == "1")
    for number in sorted(features - _KNOWN_COMPULSORY_FEATURES):
        if number % 2 == 0:
            raise _malformed("9", f"demands feature {number}, which is unknown here")
    return features


def _route_hint(letters: str) -> tuple[RouteHop, ...]:
    data = bech32.to_bytes(letters, "invoice.route_hints")
    if not data or len(data) % _HOP_BYTES:
        raise MalformedInput("invoice.route_hints", f"is not made of entries of {_HOP_BYTES} bytes")
    return tuple(_parse_hop(data[start : start + _HOP_BYTES]) for start in range(0, len(data), _HOP_BYTES))


def _parse_hop(data: bytes) -> RouteHop:
    numbers = (data[33:41], data[41:45], data[45:49], data[49:51])
    return RouteHop(data[:33], *(int.from_bytes(number, "big") for number in numbers))


# Writing.


def _field(letter: str, value: str) -> str:
    if len(value) > _MAX_FIELD_LETTERS:
        raise ValueError(f"field {letter!r} is longer than the 639 bytes an invoice can hold")
    return letter + bech32.letters_from_int(len(value), width=2) + value


def _hop_bytes(hop: RouteHop) -> bytes:
    if len(hop.node_id) != 33:
        raise ValueError("a route hint's node_id has 33 bytes")
    try:
        return hop.node_id + b"".join(
            number.to_bytes(size, "big") for number, size in zip(hop[1:], (8, 4, 4, 2), strict=True)
        )
    except OverflowError as error:
        raise ValueError("a number of a route hint is negative or too large") from error


def _check_encodable(invoice: UnsignedInvoice) -> None:
    hashes = (invoice.payment_hash, invoice.payment_secret, invoice.description_hash)
    numbers = (invoice.expiry, invoice.min_final_cltv_expiry)
    if invoice.prefix not in get_args(Prefix):
        raise ValueError("prefix is one of bc, tb, tbs and bcrt")
    if invoice.amount_msat is not None and not 0 < invoice.amount_msat <= MAX_AMOUNT_MSAT:
        raise ValueError("amount_msat is at least 1 and at most all the bitcoin there is")
    if not 0 <= invoice.created_at < 1 << 5 * _TIMESTAMP_LETTERS:
        raise ValueError("created_at is a unix time of at most 35 bits")
    if any(digest is not None and len(digest) != 32 for digest in hashes):
        raise ValueError("payment_hash, payment_secret and description_hash have 32 bytes each")
    if (invoice.description is None) == (invoice.description_hash is None):
        raise ValueError("an invoice has exactly one of description and description_hash")
    if any(not 0 < number < 1 << 5 * _MAX_NUMBER_LETTERS for number in numbers):
        raise ValueError("expiry and min_final_cltv_expiry are positive numbers of at most 60 bits")
