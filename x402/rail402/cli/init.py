"""`rail402 init`: a wallets.toml to begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from rail402.cli.exit_codes import ExitCode
from rail402.cli.show import print_json
from rail402.client.toml import wallets_file
from rail402.plugins import installed_rails

__all__ = ["init"]

_HELP: Final = """Write a wallets.toml to begin with, readable by you alone. It never writes over one that is there.

It pays with play money on every rail that is installed; the comments in it say what to write for real money."""

_HEAD: Final = """\
# Who pays for `rail402 get`, and how much at most. All keys: docs/client.md, "wallets.toml".
# Secrets are written as env:NAME or file:PATH, never as themselves.

[client]
journal = "sqlite:///wallet.db"             # what was bought, beside this file

[budget]                                    # the budget is a limit of this program, not of the wallet
per_request = ["1 USD", "1000 sat"]
per_hour = ["5 USD", "5000 sat"]
per_day = ["20 USD", "20000 sat"]
"""

_REAL: Final = {
    "base": """\
# backend = "rpc"                           # USDC on Base; keep no more there than the agent may lose
# private_key = "file:~/.config/rail402/base.key"
""",
    "lightning": """\
# backend = "lnbits"                        # or "lnd"
# url = "https://lnbits.example.com"
# admin_key = "env:LNBITS_ADMIN_KEY"
""",
    "stripe": """\
# backend = "issued_token"                  # a card of your own Stripe account
# secret_key = "env:STRIPE_SECRET_KEY"
# payment_method = "pm_..."
""",
}


def init(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="Where; ~/.config/rail402/wallets.toml, or $RAIL402_WALLETS, if left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    target = path or wallets_file()
    rails = installed_rails()
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        typer.echo(f"rail402: {target} is there already, and nothing is written over", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    except OSError as error:
        typer.echo(f"rail402: {target} cannot be made: {error.strerror}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(_HEAD + "".join(_wallet(rail) for rail in rails))
    if as_json:
        print_json({"wallets": str(target), "rails": rails})
        return
    typer.echo(f"wrote {target}, with play money on {', '.join(rails)}")
    typer.echo("try `rail402 demo`, or `rail402 get URL --dry-run`")


init.__doc__ = _HELP


def _wallet(rail: str) -> str:
    return f'\n[[wallets]]\nname = "{rail}"\nbackend = "sandbox"\n{_REAL.get(rail, "")}'
