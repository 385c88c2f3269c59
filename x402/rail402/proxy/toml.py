"""`[proxy]` of a `rail402.toml`: where requests go, and which of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from rail402.config import TomlFile
from rail402.errors import ConfigurationError
from rail402.protocol.base import Record
from rail402.proxy.app import ProxyApp
from rail402.proxy.forwarder import Upstream
from rail402.server.settings import GateSettings
from rail402.server.toml import gate_from_toml

__all__ = ["proxy_from_toml"]

_HANDLER_SECONDS: Final = GateSettings(public_url="http://localhost").handler_seconds


class _Proxy(Record):
    to: str | None = None
    unmatched: Literal["refuse", "pass"] = "refuse"
    free: list[str] = Field(default_factory=list)
    host: Literal["public", "upstream"] = "public"
    connect_seconds: int = Field(5, ge=1, strict=True)
    answer_seconds: int = Field(30, ge=1, strict=True)
    connections: int = Field(100, ge=1, strict=True)


def proxy_from_toml(path: str | Path, *, to: str | None = None) -> ProxyApp:
    """Make the proxy that a `rail402.toml` describes: its gate, its routes and its `[proxy]`.

    Args:
        to: the upstream's origin, in the place of the file's.

    Raises:
        ConfigurationError: with the file, the line, the key and what is allowed there.
    """
    gate = gate_from_toml(path)
    file = TomlFile(path)
    table = file.table(_Proxy, "proxy") if "proxy" in file.data else _Proxy()
    upstream = to or table.to
    if upstream is None:
        raise file.error(("proxy", "to"), 'is missing: the origin of the service, such as "http://127.0.0.1:3000"')
    deadline = file.data["server"].get("handler_seconds", _HANDLER_SECONDS)
    if table.connect_seconds + table.answer_seconds >= deadline:
        detail = f"with connect_seconds it must be less than handler_seconds, which is {deadline}"
        raise file.error(("proxy", "answer_seconds"), detail)
    options = table.model_dump(include={"host", "connect_seconds", "answer_seconds", "connections"})
    priced = [route["match"] for route in file.tables("routes")]
    try:
        return ProxyApp(
            gate, Upstream(to=upstream, **options), priced=priced, free=table.free, unmatched=table.unmatched
        )
    except ConfigurationError as error:
        raise file.error(("proxy",), error.detail) from error
