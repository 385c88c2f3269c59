"""`rail402 proxy`: put a gate in front of any HTTP service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rail402.cli.serving import listening, serve, set_logging, url_of
from rail402.cli.show import print_json
from rail402.cli.telemetry import without_telemetry
from rail402.errors import ConfigurationError

if TYPE_CHECKING:
    from rail402.proxy.app import ProxyApp

__all__ = ["proxy"]

_HELP = """Forward HTTP requests to a service, and ask for payment where rail402.toml says so.

The service may be in any language. It is told who has paid (Rail402-Charge, Rail402-Payer), and sees no payment. What
the file does not name is refused, unless it says unmatched = "pass". Asked to stop (Ctrl-C, SIGTERM) the proxy finishes
what is under way, and ends with 0."""

_Config = Annotated[Path, typer.Option("--config", "-c", help="The rail402.toml: rails, routes, and [proxy].")]
_To = Annotated[str | None, typer.Option(help="The service's origin, in the place of the file's.")]
_Host = Annotated[str, typer.Option(help="Where to listen; put TLS in front of anything but this machine.")]
_Port = Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON when it listens, and log lines of JSON.")]


def proxy(
    config: _Config = Path("rail402.toml"),
    to: _To = None,
    host: _Host = "127.0.0.1",
    port: _Port = 4021,
    as_json: _Json = False,
) -> None:
    """See `_HELP`, which is this command's help."""
    set_logging(as_json=as_json)
    made = _configured(config, to)

    with listening(host, port) as found:

        def announce() -> None:
            url, to = url_of(found), made.upstream.to
            if as_json:
                print_json({"url": url, "to": to})
            else:
                typer.echo(f"Proxy for {to} listening on {url}")

        # `Date` and `Server` are the upstream's to say; who asks is decided by `trusted_proxies`, in one place.
        bare = {"date_header": False, "server_header": False, "proxy_headers": False, "ws": "none"}
        asyncio.run(serve(made, found, opened=made, announce=announce, **bare))


proxy.__doc__ = _HELP


def _configured(config: Path, to: str | None) -> ProxyApp:
    try:
        import uvicorn  # noqa: F401 - here it is missed before anything is opened

        from rail402.proxy.toml import proxy_from_toml
    except ImportError as error:
        raise ConfigurationError(f"the proxy needs {error.name}; try: pip install 'rail402[server,cli]'") from error
    made = proxy_from_toml(config, to=to)
    without_telemetry()
    return made
