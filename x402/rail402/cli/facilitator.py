"""`rail402 facilitator`: settle payments for sellers."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rail402.cli.serving import listening, serve, set_logging, url_of
from rail402.cli.show import print_json
from rail402.config import resolve_secret
from rail402.errors import ConfigurationError

if TYPE_CHECKING:
    from rail402.facilitator.toml import Configured

__all__ = ["facilitator"]

_HELP = """Check and hand in x402 payments for sellers: /verify, /settle, /supported and /health.

It pays the gas, so it settles only for the payees that are named, unless it is --open. Asked to stop (Ctrl-C, SIGTERM)
it finishes what is under way, and ends with 0."""

_Config = Annotated[Path | None, typer.Option(help="A facilitator.toml: what is taken, for whom, and the store.")]
_Sandbox = Annotated[bool, typer.Option("--sandbox", help="Play money on this machine, and no configuration.")]
_Host = Annotated[str, typer.Option(help="Where to listen; put TLS in front of anything but this machine.")]
_Port = Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")]
_PayTo = Annotated[list[str] | None, typer.Option(help="A payee to settle for, beside those of the file.")]
_Open = Annotated[bool, typer.Option("--open", help="Settle for everybody: anybody can have you pay their gas.")]
_Token = Annotated[str | None, typer.Option(help="env:NAME or file:PATH of the bearer token that callers need.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON when it listens, and log lines of JSON.")]


def facilitator(
    config: _Config = None,
    sandbox: _Sandbox = False,
    host: _Host = "127.0.0.1",
    port: _Port = 4022,
    pay_to: _PayTo = None,
    any_payee: _Open = False,
    token: _Token = None,
    as_json: _Json = False,
) -> None:
    """See `_HELP`, which is this command's help."""
    if (config is None) is not sandbox:
        raise typer.BadParameter("give either --config FILE or --sandbox")
    try:
        secret = None if token is None else resolve_secret(token)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--token") from error
    set_logging(as_json=as_json)
    made = _configured(config, pay_to or [], any_payee)
    with listening(host, port) as found:
        asyncio.run(_serve(made, secret or made.token, found, as_json=as_json))


facilitator.__doc__ = _HELP


def _configured(config: Path | None, pay_to: list[str], any_payee: bool) -> Configured:
    try:
        import uvicorn  # noqa: F401 - here it is missed before anything is opened

        from rail402.facilitator.policy import FacilitatorSettings
        from rail402.facilitator.service import Facilitator
        from rail402.facilitator.toml import Configured, facilitator_from_toml
    except ImportError as error:
        hint = "pip install 'rail402[base,server,cli]'"
        raise ConfigurationError(f"the facilitator needs {error.name}; try: {hint}") from error
    from rail402.plugins import load_plugin
    from rail402.sandbox import sandbox_directory

    if config is not None:
        return facilitator_from_toml(config, pay_to=pay_to, any_payee=any_payee)
    plugin = load_plugin("base")
    rail = plugin.rail(plugin.rail_config.model_validate({"backend": "sandbox"}))
    settings = FacilitatorSettings(pay_to=tuple(pay_to), any_payee=any_payee)
    store = f"sqlite:///{sandbox_directory().absolute()}/facilitator.db"
    return Configured(Facilitator([rail], store=store, settings=settings))


async def _serve(made: Configured, token: str | None, found: socket.socket, *, as_json: bool) -> None:
    from rail402.facilitator.app import facilitator_app

    app = facilitator_app(made.facilitator, token=token)
    announce = partial(_announce, made, token, url_of(found), as_json=as_json)
    await serve(app, found, opened=made.facilitator, announce=announce)


def _announce(made: Configured, token: str | None, url: str, *, as_json: bool) -> None:
    """Say what is served, once it is."""
    service = made.facilitator
    payees = None if service.policy.any_payee else sorted(set(service.settings.pay_to))
    if as_json:
        facts = {"url": url, **service.supported(), "needs_token": token is not None, "any_payee": payees is None}
        print_json(facts | ({} if payees is None else {"pay_to": payees}))
        return
    for kind in service.kinds:
        typer.echo(f"settles {kind.scheme} on {kind.network} (x402 version {kind.version})")
    typer.echo(f"for {'everybody' if payees is None else ', '.join(payees)}")
    typer.echo("callers need the token" if token is not None else "callers need no token")
    typer.echo(f"Facilitator listening on {url}")
