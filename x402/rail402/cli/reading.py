"""Every offer of a 402, read by every dialect and every installed rail on all networks, and what is wrong with each.

A payer wants offers that it can use, so dialects pass over what they do not know and what is broken. Here that is what
is asked for. A challenge is therefore taken apart into challenges of one entry each, as far as that goes, and each goes
through its dialect as a client's would: once with a witness that knows nothing and sees what rails are asked, and then
once per rail for each of these questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from rail402.cli.hiding import hidden
from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS, auth_params
from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects.x402_v1 import MAX_BODY
from rail402.errors import ConfigurationError, MalformedInput, OfferRefused
from rail402.plugins import RailPlugin, installed_rails, load_plugin
from rail402.protocol.base import Json, parse_json
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import RailSpec, Registry

__all__ = [
    "DIALECTS",
    "PAYMENT_WORDS",
    "SAFE_BYTES",
    "Entry",
    "Reading",
    "Verdict",
    "challenge_bytes",
    "installed",
    "read_entries",
]

DIALECTS: Final[tuple[Dialect, ...]] = (*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS)
"""Every dialect that there is, whether or not it is on by default."""

_SCHEMES: Final = {"mpp": ("payment",), "l402": ("l402", "lsat")}
PAYMENT_WORDS: Final = frozenset(word for words in _SCHEMES.values() for word in words)
"""The authentication schemes that are payments and no logins."""

SAFE_BYTES: Final = 7168
"""Bytes of challenge fields above which common proxies may cut or refuse an answer."""

_MAX_ENTRIES: Final = 64
_MAX_WIRES: Final = 16  # of a challenge that is not taken apart

Verdict = Literal["payable", "refused", "known", "unreadable", "unknown", "ignored"]
"""What becomes of an entry:

* `payable`: some rail here would pay it; `known` where it was not asked whether it would.
* `refused`: a rail here knows it, and it is not what it claims to be.
* `unreadable`: it is broken, and a client passes it over.
* `unknown`: no rail here knows its scheme, network or asset.
* `ignored`: its dialect passes it over.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """An offer as one rail on one network reads it; `refusal` says why it would not be paid, None where it would."""

    plugin: RailPlugin
    offer: Offer
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One offer of a 402.

    Attributes:
        dialect: the dialect that it is in.
        verdict: see `Verdict`.
        wire: what it says, as it is on the wire.
        readings: how rails read it; several where it does not say which of their networks it is about.
        problems: why it cannot be read.
    """

    dialect: str
    verdict: Verdict
    wire: Json = field(default_factory=dict)
    readings: Sequence[Reading] = ()
    problems: Sequence[str] = ()

    def facts(self, now: int) -> dict[str, Any]:
        """Return all about it, as JSON values; see `Explained.facts`."""
        if not self.readings:
            facts = {"dialect": self.dialect, "verdict": self.verdict, "reasons": list(self.problems)}
            return facts | {"wire": hidden(self.wire)}
        chosen = [each for each in self.readings if each.refusal is None] or list(self.readings)
        offer, plugin = chosen[0].offer, chosen[0].plugin
        networks = [each.offer.network for each in chosen]
        several = len(self.readings) > 1
        return {
            "dialect": self.dialect,
            "verdict": self.verdict,
            "reasons": _reasons(chosen, several=several),
            "rail": offer.rail,
            "mechanism": offer.mechanism,
            "price": str(offer.price),
            "amount_atomic": str(offer.amount),
            "assets": list(dict.fromkeys(each.offer.asset for each in chosen)),
            "networks": networks,
            "network_names": [plugin.network_name(network) or network for network in networks],
            "payee": offer.payee,
            "flow": offer.flow.value,
            "expires_at": offer.expires_at,
            "expires_in_seconds": offer.expires_at - now,
            "would_be_paid": dict(plugin.describe(offer) or {}),
        }


def installed() -> tuple[dict[str, RailPlugin], list[str]]:
    """Return the rails that are installed, and why others cannot be used."""
    plugins, problems = {}, []
    for name in installed_rails():
        try:
            plugins[name] = load_plugin(name)
        except ConfigurationError as error:
            problems.append(error.detail)
    return plugins, problems


def read_entries(
    plugins: Mapping[str, RailPlugin], fields: Fields, body: bytes, *, now: int, order: Order | None = None
) -> list[Entry]:
    """Return every offer of a 402.

    Args:
        plugins: the rails that read.
        now: Unix seconds.
        order: what was asked for; without it nothing is said about whether an offer would be paid.
    """
    rails = [(plugin, spec) for plugin in plugins.values() for spec in plugin.specs()]
    entries: list[Entry] = []
    for dialect in DIALECTS:
        for piece in _pieces(dialect, fields, body):
            for entry in _entries(dialect, piece, rails, now=now, order=order):
                if not any(_same(entry, other) for other in entries):
                    entries.append(entry)
    return entries[:_MAX_ENTRIES]


def challenge_bytes(fields: Fields) -> int:
    """Return how many bytes the fields of an answer take that hold a challenge."""
    names = {name.lower() for dialect in DIALECTS for name in dialect.response_fields}
    lines = [(name, value) for name, value in fields if name in names and (name != "link" or "payment" in value)]
    return sum(len(name) + len(value) + 4 for name, value in lines)


# --- one entry at a time


@dataclass(frozen=True, slots=True)
class _Piece:
    """A challenge of one entry; `wire` is what that entry says, None where the challenge was not taken apart."""

    fields: Fields
    body: bytes
    wire: Json | None = None


def _pieces(dialect: Dialect, fields: Fields, body: bytes) -> list[_Piece]:
    try:
        pieces = list(_taken_apart(dialect, fields, body))
    except MalformedInput:
        pieces = []  # then the dialect says what is wrong with the whole
    return pieces[:_MAX_ENTRIES] or [_Piece(fields, body)]


def _taken_apart(dialect: Dialect, fields: Fields, body: bytes) -> Iterator[_Piece]:
    if dialect.name == "x402-v2":
        value = fields.one("payment-required")
        message = {} if value is None else from_base64(value.strip(), field="payment-required")
        for entry, only in _accepts(message):
            yield _Piece(Fields([("payment-required", to_base64(compact_json(only)))]), b"", entry)
    elif dialect.name == "x402-v1":
        message = parse_json(body, field="body", max_bytes=MAX_BODY)
        if message.get("x402Version") == 1:
            for entry, only in _accepts(message):
                yield _Piece(Fields(), compact_json(only), entry)
    elif dialect.name in _SCHEMES:
        for line in fields.all("www-authenticate"):
            schemes = auth_params.parse(line)
            for scheme in schemes:
                if scheme.name in _SCHEMES[dialect.name]:
                    alone = line if len(schemes) == 1 else _line(scheme)
                    yield _Piece(Fields([("www-authenticate", alone)]), b"", dict(scheme.params))


def _accepts(message: Json) -> Iterator[tuple[Json, Json]]:
    accepts = message.get("accepts")
    for entry in accepts[:_MAX_ENTRIES] if isinstance(accepts, list) else ():
        yield entry if isinstance(entry, dict) else {}, {**message, "accepts": [entry]}


def _line(scheme: auth_params.Scheme) -> str:
    try:
        params = [f"{name}={auth_params.quote(value or '')}" for name, value in scheme.params]
    except ConfigurationError as error:
        raise MalformedInput("www-authenticate", "holds a control character") from error
    return f"{scheme.name} {', '.join(params)}"


def _entries(
    dialect: Dialect,
    piece: _Piece,
    rails: Sequence[tuple[RailPlugin, RailSpec]],
    *,
    now: int,
    order: Order | None,
) -> list[Entry]:
    witness, broken = _Witness(), ""
    try:
        dialect.offers(piece.fields, piece.body, Context(specs=Registry([cast(RailSpec, witness)]), now=now))
    except MalformedInput as error:
        broken = str(error)
    entries = []
    for wire in witness.seen[:_MAX_WIRES]:
        readers = [(plugin, _Reader(spec, dialect.name, wire)) for plugin, spec in rails]
        found = [each for plugin, reader in readers for each in _readings(dialect, piece, plugin, reader, now, order)]
        problems = list(dict.fromkeys(reader.problem for _, reader in readers if reader.problem))
        if found:
            entries += [Entry(dialect.name, _verdict(same, order), wire, same) for same in _by_terms(found)]
        else:
            entries.append(Entry(dialect.name, "unreadable" if problems else "unknown", wire, problems=problems))
    if broken:
        entries.append(Entry(dialect.name, "unreadable", piece.wire or {}, problems=[broken]))
    if not entries and piece.wire is not None:
        entries.append(Entry(dialect.name, "ignored", piece.wire))
    return entries


def _readings(
    dialect: Dialect, piece: _Piece, plugin: RailPlugin, reader: _Reader, now: int, order: Order | None
) -> list[Reading]:
    context = Context(specs=Registry([cast(RailSpec, reader)]), now=now)
    try:
        offers = dialect.offers(piece.fields, piece.body, context) if reader.bindings else []
    except MalformedInput:
        offers = []  # the witness has seen it too
    own = {mechanism.network for mechanism in reader.mechanisms}
    return [Reading(plugin, each, _refusal(reader.spec, each, order, now)) for each in offers if each.network in own]


def _verdict(readings: Sequence[Reading], order: Order | None) -> Verdict:
    if order is None:
        return "known"
    return "payable" if any(reading.refusal is None for reading in readings) else "refused"


def _by_terms(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Return the readings of each offer: those that differ in nothing but the network and its asset."""
    groups: dict[str, list[Reading]] = {}
    for reading in readings:
        groups.setdefault(_terms(reading.offer), []).append(reading)
    return list(groups.values())


def _terms(offer: Offer) -> str:
    who = (offer.rail, offer.mechanism, offer.payee, offer.flow)
    return repr((*who, offer.amount, offer.currency, offer.exponent, offer.expires_at))


def _refusal(spec: RailSpec, offer: Offer, order: Order | None, now: int) -> str | None:
    if order is None:
        return None
    try:
        spec.check_offer(offer, order, now=now)
    except (OfferRefused, MalformedInput) as error:
        return error.detail or str(error)
    return None


def _reasons(readings: Sequence[Reading], *, several: bool) -> list[str]:
    """Return why an offer is refused, with the network where it might be about several."""
    return [
        f"{reading.offer.network}: {reading.refusal}" if several else reading.refusal
        for reading in readings
        if reading.refusal is not None
    ]


def _same(one: Entry, other: Entry) -> bool:
    """Say whether two entries are one: under both words of L402, or a body that is broken for every dialect."""
    if one.verdict == other.verdict == "unreadable" and not one.wire and not other.wire:
        return list(one.problems) == list(other.problems)
    return one.dialect == other.dialect == "l402" and (one.wire, one.verdict) == (other.wire, other.verdict)


class _Witness:
    """A rail that speaks every dialect, knows no offer for its own, and remembers what it was asked."""

    name = "witness"
    bare_replay = False
    mechanisms = ()

    def __init__(self) -> None:
        self.seen: list[Json] = []
        self.bindings = {dialect.name: self for dialect in DIALECTS}

    def decode_offer(self, wire: Json, *, expires_at: int) -> None:
        if wire not in self.seen:
            self.seen.append(wire)


class _Reader:
    """A rail that reads one wire and no other, and remembers what was wrong with it."""

    def __init__(self, spec: RailSpec, dialect: str, wire: Json) -> None:
        self.spec, self._wire, self.problem = spec, wire, ""
        self.name, self.bare_replay, self.mechanisms = spec.name, spec.bare_replay, spec.mechanisms
        self._binding = spec.bindings.get(dialect)
        self.bindings = {} if self._binding is None else {dialect: self}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        if self._binding is None or wire != self._wire:
            return None
        try:
            return self._binding.decode_offer(wire, expires_at=expires_at)
        except MalformedInput as error:
            self.problem = str(error)
            return None
