"""`rail402.toml`: a gate, its rails and its routes, without a line of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from rail402.config import Secret, StoreUrl, TomlFile, revealed
from rail402.dialects import dialect_by_name
from rail402.errors import ConfigurationError
from rail402.plugins import load_plugin
from rail402.protocol.base import Record
from rail402.protocol.offer import Flow
from rail402.protocol.rail import PaymentRail
from rail402.rates import FixedRates
from rail402.server.gate import Gate
from rail402.server.limits import Limits
from rail402.server.routes import Protected
from rail402.server.settings import Receipts, Rule, parse_duration

__all__ = ["gate_from_toml", "rail_from_toml"]


class _Limits(Record):
    challenges: str | None = None
    payments: str | None = None
    invoices: str | None = None
    route_challenges: str | None = None
    route_payments: str | None = None
    route_invoices: str | None = None
    addresses: str | None = None
    route_addresses: str | None = None
    trusted_proxies: list[str] | None = None

    @field_validator("*")
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Any:
        """Check each by itself, so that the error names the key."""
        try:
            if value is not None:
                Limits(**{str(info.field_name): value})
        except ConfigurationError as error:
            raise ValueError(error.detail) from error
        return value


class _Server(Record):
    public_url: str
    store: StoreUrl = Field("sqlite:///charges.db", repr=False)
    secret: Secret | None = None
    receipt_key: Secret | None = None
    rates: dict[str, str] = Field(default_factory=dict)
    dialects: list[str] | None = Field(None, min_length=1)
    offer_seconds: int | None = Field(None, gt=0, strict=True)
    handler_seconds: int | None = Field(None, gt=0, strict=True)
    settle_seconds: int | None = Field(None, gt=0, strict=True)
    wait_seconds: int | None = Field(None, ge=0, strict=True)
    max_body: int | None = Field(None, ge=0, strict=True)
    max_stored: int | None = Field(None, ge=0, strict=True)
    issued_capacity: int | None = Field(None, ge=0, strict=True)
    retention_seconds: int | None = Field(None, ge=86_400, strict=True)
    reconcile_seconds: int | None = Field(None, ge=0, strict=True)
    documents: bool | None = Field(None, strict=True)
    redis: Secret | None = None
    limits: Any = None

    @field_validator("limits")
    @classmethod
    def _check(cls, value: Any) -> Any:
        """Leave a table to `_Limits`."""
        if value is not False and not isinstance(value, dict):
            raise ValueError("write a table [server.limits], or limits = false for none")
        return value


class _Route(Record):
    match: str
    price: str
    rails: list[str] | None = None
    dialects: list[str] | None = None
    flow: Flow | None = None
    valid: Any = "10m"
    uses: int = Field(1, ge=1, strict=True)
    description: str = ""

    @field_validator("match", "price", "valid")
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Any:
        """Check what can be checked without the gate here, where the error names the key."""
        try:
            match info.field_name:
                case "match":
                    Protected(value, Rule(price="1 USD"))
                case "price":
                    Rule(price=value)
                case _:
                    parse_duration(value)
        except ConfigurationError as error:
            raise ValueError(error.detail) from error
        return value


class _File(Record):
    server: dict[str, Any]
    rails: list[dict[str, Any]] = Field(min_length=1)
    routes: list[dict[str, Any]] = Field(default_factory=list)
    proxy: dict[str, Any] = Field(default_factory=dict)


def gate_from_toml(path: str | Path) -> Gate:
    """Make the gate that a `rail402.toml` describes; then `gate.install(app)`.

    Raises:
        ConfigurationError: with the file, the line, the key and what is allowed there.
    """
    file = TomlFile(path)
    file.table(_File)
    server = file.table(_Server, "server")
    limits = file.table(_Limits, "server", "limits") if server.limits else None
    rails = [rail_from_toml(file, index, table) for index, table in enumerate(file.tables("rails"))]
    try:
        gate = _gate(server, rails, limits)
    except ConfigurationError as error:
        raise file.error(("server",), error.detail) from error
    for index in range(len(file.tables("routes"))):
        route = file.table(_Route, "routes", index)
        try:
            gate.protect(
                route.match,
                price=route.price,
                rails=route.rails,
                dialects=route.dialects,
                flow=route.flow,
                receipt=Receipts(valid=route.valid, uses=route.uses),
                description=route.description,
            )
        except ConfigurationError as error:
            raise file.error(("routes", index), error.detail) from error
    return gate


def _gate(server: _Server, rails: list[PaymentRail], limits: _Limits | None) -> Gate:
    ours = {"limits", "redis", "public_url", "store", "secret", "receipt_key", "rates", "dialects"}
    options = server.model_dump(exclude=ours, exclude_none=True)
    options["redis"] = revealed(server.redis)
    if server.limits is False:
        options["limits"] = None
    elif limits is not None:
        options["limits"] = Limits(**limits.model_dump(exclude_none=True))
    if server.dialects is not None:
        options["dialects"] = [dialect_by_name(name) for name in server.dialects]
    return Gate(
        rails=rails,
        public_url=server.public_url,
        store=server.store,
        secret=revealed(server.secret),
        receipt_key=revealed(server.receipt_key),
        rates=FixedRates(server.rates) if server.rates else None,
        **options,
    )


def rail_from_toml(file: TomlFile, index: int, table: dict[str, Any]) -> PaymentRail:
    """Make the rail of one of the file's `[[rails]]`.

    Raises:
        ConfigurationError: with the file, the line, the key and what is allowed there.
    """
    name = table.get("name")
    if not isinstance(name, str):
        raise file.error(("rails", index), 'needs name = "…", the name of an installed rail')
    try:
        plugin = load_plugin(name)
    except ConfigurationError as error:
        raise file.error(("rails", index, "name"), error.detail) from error
    config = file.table(plugin.rail_config, "rails", index, ignore=["name"])
    try:
        return plugin.rail(config)
    except ConfigurationError as error:
        raise file.error(("rails", index), error.detail) from error
