"""`rail402 doctor`: what is wrong with a server, a paid URL or an agent's wallets, and how it is put right."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from rail402.cli.doctor.findings import Finding
from rail402.cli.exit_codes import ExitCode
from rail402.cli.show import AsJson, clean, new_console, print_json
from rail402.client.toml import wallets_file

__all__ = ["doctor"]

_HELP: Final = """Check a paid URL from outside, a server by its rail402.toml, or an agent by its wallets.toml.

With none of them named it takes your own wallets.toml. It says what is as it should be, what is worth a thought, and
what is wrong, each with what to do. Nothing is paid, and nothing is changed, but that a store or a journal is made
where it is missing."""

_STYLES: Final = {"ok": "green", "warning": "yellow", "wrong": "red"}


def doctor(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="A paid URL, asked for without paying.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A server's rail402.toml.")] = None,
    wallets: Annotated[str | None, typer.Option(help="An agent's wallets.toml, or the word sandbox.")] = None,
    as_json: AsJson = False,
) -> None:
    if url is None and config is None and wallets is None:
        wallets = str(wallets_file())
        if not wallets_file().exists():
            raise typer.BadParameter(
                f"there is no {wallets}: name a URL, --config rail402.toml or --wallets wallets.toml, or make wallets "
                "with `rail402 init`"
            )
    findings = asyncio.run(_examine(url, config, wallets, shown=not as_json))
    counts = Counter(finding.state for finding in findings)
    if as_json:
        said: dict[str, Any] = {"findings": [finding.facts() for finding in findings], "counts": dict(counts)}
        print_json(said)
    else:
        typer.echo(f"{counts['ok']} as it should be, {counts['warning']} worth a thought, {counts['wrong']} wrong")
    raise typer.Exit(ExitCode.FAILED if counts["wrong"] else ExitCode.DONE)


doctor.__doc__ = _HELP


async def _examine(url: str | None, config: Path | None, wallets: str | None, *, shown: bool) -> list[Finding]:
    console, findings = new_console(), []
    async for finding in _all(url, config, wallets):
        findings.append(finding)
        if shown:  # as it is found: some of it takes seconds
            console.print(Text(f"{finding.state:<8}", _STYLES[finding.state]), Text(clean(finding.about, 80)), end="  ")
            console.print(Text(clean(finding.says, 1000)), soft_wrap=True)
            if finding.fix:
                console.print(Text(f"{'':<8} → {clean(finding.fix, 1000)}", "dim"), soft_wrap=True)
    return findings


async def _all(url: str | None, config: Path | None, wallets: str | None) -> AsyncIterator[Finding]:
    if config is not None:
        from rail402.cli.doctor.server import server_findings  # needs the server's extra, which an agent may lack

        async for finding in server_findings(config):
            yield finding
    if wallets is not None:
        from rail402.cli.doctor.agent import agent_findings

        async for finding in agent_findings(wallets):
            yield finding
    if url is not None:
        from rail402.cli.doctor.url import url_findings

        async for finding in url_findings(url):
            yield finding
