"""`facilitator.toml`: a facilitator without a line of Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from rail402.config import Secret, StoreUrl, TomlFile, revealed
from rail402.errors import ConfigurationError
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import DEFAULT_STORE, Facilitator
from rail402.money import Money
from rail402.protocol.base import Record
from rail402.server.toml import rail_from_toml

__all__ = ["Configured", "facilitator_from_toml"]


@dataclass(frozen=True, slots=True)
class Configured:
    """What a file describes.

    Attributes:
        facilitator: not started.
        token: what callers must send; None where anybody may call. Secret.
    """

    facilitator: Facilitator
    token: str | None = field(default=None, repr=False)


class _Facilitator(Record):
    """`[facilitator]`; see `FacilitatorSettings`."""

    store: StoreUrl = Field(DEFAULT_STORE, repr=False)
    token: Secret | None = None
    pay_to: list[str] = Field(default_factory=list)
    any_payee: bool = Field(False, strict=True)
    minimum: str | None = None
    max_per_payer: int | None = Field(None, ge=1, strict=True)
    validity_seconds: int | None = Field(None, ge=1, strict=True)
    repeat: bool = Field(False, strict=True)
    settle_seconds: int | None = Field(None, ge=1, strict=True)
    wait_seconds: int | None = Field(None, ge=0, strict=True)
    max_body: int | None = Field(None, ge=1, strict=True)
    retention_seconds: int | None = Field(None, ge=86_400, strict=True)
    reconcile_seconds: int | None = Field(None, ge=0, strict=True)


class _File(Record):
    facilitator: dict[str, Any] = Field(default_factory=dict)
    rails: list[dict[str, Any]] = Field(min_length=1)


def facilitator_from_toml(path: str | Path, *, pay_to: Sequence[str] = (), any_payee: bool = False) -> Configured:
    """Make the facilitator that a `facilitator.toml` describes.

    The `pay_to` of each `[[rails]]` is a payee like those of `[facilitator]`.

    Args:
        pay_to, any_payee: more of them, from the command line.

    Raises:
        ConfigurationError: with the file, the line, the key and what is allowed there.
    """
    file = TomlFile(path)
    file.table(_File)
    table = file.table(_Facilitator, "facilitator")
    rails = [rail_from_toml(file, index, each) for index, each in enumerate(file.tables("rails"))]
    own = [each["pay_to"] for each in file.tables("rails") if isinstance(each.get("pay_to"), str)]
    options = table.model_dump(exclude={"store", "token", "minimum", "pay_to", "any_payee"}, exclude_none=True)
    minimum = None if table.minimum is None else _money(file, table.minimum)
    try:
        settings = FacilitatorSettings(
            pay_to=(*own, *table.pay_to, *pay_to),
            any_payee=table.any_payee or any_payee,
            minimum=minimum,
            **options,
        )
        facilitator = Facilitator(rails, store=table.store, settings=settings)
    except ConfigurationError as error:
        raise file.error(("facilitator",), error.detail) from error
    return Configured(facilitator, revealed(table.token))


def _money(file: TomlFile, text: str) -> Money:
    try:
        return Money.parse(text)
    except ConfigurationError as error:
        raise file.error(("facilitator", "minimum"), error.detail) from error
