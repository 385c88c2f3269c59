"""`rail402 sandbox`: where the play money is, and how much of it was earned."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, runtime_checkable

import typer

from rail402.cli.show import AsJson, in_sat, print_json
from rail402.cli.telemetry import without_telemetry
from rail402.errors import ConfigurationError
from rail402.money import Money
from rail402.plugins import installed_rails, load_plugin
from rail402.sandbox import find_sandbox

__all__ = ["sandbox"]

_HELP: Final = """Show where the play money of this machine is, and what the publisher's side of it was paid, by rail.

Publishers and agents in the sandbox share the folder. To begin anew, stop what uses it and delete it."""


@runtime_checkable
class _Counts(Protocol):
    async def received(self) -> Money: ...


def sandbox(
    as_json: AsJson = False,
) -> None:
    folder = find_sandbox()
    there = folder.is_dir()
    received = asyncio.run(_received()) if there else {}
    if as_json:
        amounts: dict[str, Any] = {name: None if money is None else str(money) for name, money in received.items()}
        print_json({"directory": str(folder.resolve()), "exists": there, "received": amounts})
        return
    typer.echo(f"{folder.resolve()}{'' if there else ': nothing yet; `rail402 demo` makes a sandbox of its own'}")
    for name, money in received.items():
        typer.echo(f"{name:<12} {'cannot be used here' if money is None else f'{in_sat(money)} received'}")


async def _received() -> dict[str, Money | None]:
    """Return what was paid in each rail's sandbox; None where the rail, or an extra that it needs, is not there."""
    found: dict[str, Money | None] = {}
    for name in installed_rails():
        try:
            plugin = load_plugin(name)
            rail = plugin.rail(plugin.rail_config.model_validate({"backend": "sandbox"}))
            without_telemetry()
        except (ConfigurationError, ValueError):  # it has no sandbox, or an extra is missing
            found[name] = None
            continue
        await rail.start()
        try:
            found[name] = await rail.received() if isinstance(rail, _Counts) else None
        finally:
            await rail.close()
    return found


sandbox.__doc__ = _HELP
