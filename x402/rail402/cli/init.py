"""`rail402 init`: a wallets.toml to begin with."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import typer

from rail402.cli.exit_codes import ExitCode
from rail402.cli.show import AsJson, print_json
from rail402.client.toml import wallets_file
from rail402.errors import ConfigurationError
from rail402.plugins import installed_rails, load_plugin
from rail402.sandbox import PLAY_MONEY

__all__ = ["init"]

_HELP: Final = """Write a wallets.toml to begin with, readable by you alone. It never writes over one that is there.

It pays with play money on every rail that is installed. For real money take the # from one of its examples: there is
one for every kind of wallet, and for each limit, rule and list."""


def init(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="Where; ~/.config/rail402/wallets.toml, or $RAIL402_WALLETS, if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    target = path or wallets_file()
    text, rails = _written(target.absolute().parent)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        typer.echo(f"rail402: {target} is there already, and nothing is written over", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    except OSError as error:
        typer.echo(f"rail402: {target} cannot be made: {error.strerror}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if as_json:
        print_json({"wallets": str(target), "rails": rails})
        return
    if not rails:
        typer.echo(f"wrote {target}; it has no wallet, because no rail is installed: pip install 'rail402[base]'")
        return
    typer.echo(f"wrote {target}, with play money on {', '.join(rails)}; examples in it are for everything else")
    typer.echo(PLAY_MONEY)
    typer.echo("try `rail402 doctor`, `rail402 demo`, or `rail402 get URL --dry-run`")


init.__doc__ = _HELP


def _written(folder: Path) -> tuple[str, list[str]]:
    """Return the text of a file in that folder, and the rails that it has play money on."""
    examples, usable = "", []
    for rail in installed_rails():
        play = f'[[wallets]]\nname = "{rail}"\nbackend = "sandbox"\n'
        try:
            examples += "\n" + (load_plugin(rail).wallet_examples() or play)
            usable.append(rail)
        except ConfigurationError as error:
            examples += f"\n# --- {error.detail}\n"
    head = files("rail402.cli").joinpath("wallets.toml").read_text("utf-8")
    quoted = json.dumps(str(folder), ensure_ascii=False)[1:-1]
    return (head + examples).replace("{rail}", usable[-1] if usable else "base").replace("{folder}", quoted), usable
