"""The commands. Each has `--help`, and `--json` but for `mcp`, which speaks JSON anyway, and `receipts export`, which
has a `--format`. What their exit codes mean is in `exit_codes.py`."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from rail402.cli.budget import budget
from rail402.cli.charges import charges
from rail402.cli.decode import decode
from rail402.cli.doctor import doctor
from rail402.cli.exit_codes import ExitCode
from rail402.cli.facilitator import facilitator
from rail402.cli.init import init
from rail402.cli.inspect import inspect
from rail402.cli.manual import fill_in
from rail402.cli.mcp import mcp
from rail402.cli.pay import get, post
from rail402.cli.proxy import proxy
from rail402.cli.receipts import receipts
from rail402.cli.sandbox import sandbox
from rail402.cli.show import AsJson, print_json
from rail402.clock import system_random
from rail402.errors import Rail402Error
from rail402.protocol.receipt import ReceiptKeys

__all__ = ["app"]

app = typer.Typer(
    name="rail402",
    help="Pay for URLs that are answered with 402 Payment Required, and sell such: over Base, Lightning and Stripe.",
    no_args_is_help=True,
    rich_markup_mode=None,  # help is plain text, as in a manual
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(charges)
app.add_typer(receipts)
app.add_typer(budget)
app.command()(doctor)
app.command()(init)
app.command()(mcp)
app.command()(get)
app.command()(post)
app.command()(sandbox)
app.command()(inspect)
app.command()(proxy)
app.command()(facilitator)
app.command(context_settings={"ignore_unknown_options": True})(decode)  # a text may begin with a minus sign

Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the two files go; made with mode 700.")]


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"rail402 {version('rail402')}")
        raise typer.Exit


@app.callback()
def program(
    is_version_asked: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """What is said of the program itself is where it is made."""


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Sell and buy over three rails, with play money, on this machine only.

    Starts a publisher on a loopback port, then an agent that buys one route on each rail, repeats a request, is
    refused by its budget, and verifies its receipts offline.
    """
    from rail402.cli.demo import run_demo  # needs every rail, which the other commands do not

    raise typer.Exit(ExitCode.DONE if run_demo(as_json=as_json) else ExitCode.FAILED)


@app.command()
def keygen(
    directory: Directory = Path("keys"),
    as_json: AsJson = False,
) -> None:
    """Make the secrets that a gate needs in production: the offer secret and the receipt key.

    Both are written with mode 600 and never overwritten. Name them in rail402.toml as file:PATH.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = {"secret": directory / "offer.secret", "receipt_key": directory / "receipt.pem"}
    contents = {"secret": system_random(32).hex(), "receipt_key": ReceiptKeys.generate()[1]}
    for name, path in made.items():
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            typer.echo(f"{path}: {error.strerror}; nothing is written over, so name another folder", err=True)
            raise typer.Exit(ExitCode.FAILED) from error
        with os.fdopen(descriptor, "w") as file:
            file.write(contents[name])
    references = {name: f"file:{path}" for name, path in made.items()}
    if as_json:
        print_json(references)
        return
    typer.echo("[server]")
    for name, reference in references.items():
        typer.echo(f'{name} = "{reference}"')


fill_in(app)


def run() -> None:
    """Run the commands; an error of ours is one line on standard error and exit code 1, and so is a missing extra."""
    try:
        app()
    except ImportError as error:  # each command imports what only it needs
        if (error.name or "rail402").startswith("rail402"):
            raise
        typer.echo(f"rail402: this needs {error.name}; try: pip install 'rail402[all]'", err=True)
        raise SystemExit(ExitCode.FAILED) from error
    except Rail402Error as error:
        typer.echo(f"rail402: {error}", err=True)
        raise SystemExit(ExitCode.FAILED) from error
