"""The manual of every command: a line for lists, and the end of its help: examples, output, exit codes, files and
environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import typer
from typer.models import CommandInfo, TyperInfo

from rail402.cli.exit_codes import MEANINGS, ExitCode

__all__ = ["MANUALS", "Manual", "fill_in"]

_WALLETS: Final = (
    "~/.config/rail402/wallets.toml  wallets and budget; see rail402 init",
    "~/.config/rail402/wallet.db     the journal: what was bought, with proofs",
)
_SERVER: Final = ("rail402.toml  the server: rails, store, routes; see docs/server.md",)
_ENV_WALLETS: Final = (
    "RAIL402_WALLETS  another wallets.toml",
    "XDG_CONFIG_HOME  where rail402/wallets.toml is, in the place of ~/.config",
)
_ENV_SECRETS: Final = ("any NAME         that a file refers to as env:NAME, such as a key",)
_ENV_SANDBOX: Final = ("RAIL402_SANDBOX  where play money is kept; .rail402 here if not set",)
_OUTPUT_OF_GET: Final = (
    "standard output  the body; with --json one line with it and the purchase",
    "standard error   what was paid; at a terminal also each step until then, and",
    "                 what of the budget is left; with --json nothing of that",
)
_OUTPUT_OF_SERVING: Final = (
    "standard output  where it listens; with --json as one line",
    "standard error   the log; with --json one line of JSON for each event",
)
_OF_ALL: Final = (ExitCode.DONE, ExitCode.FAILED, ExitCode.WRONG_USAGE)
_OF_GET: Final = (*_OF_ALL, *(code for code in ExitCode if code >= ExitCode.ADMINISTRATIVE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """What is to be known of a command beside its description and its options.

    Attributes:
        summary: for lists of commands; one line.
        examples: command lines.
        output: what goes where, where that is more than text or one line of JSON on standard output; a line each.
        codes: the exit codes that it ends with; says: what one of them means here, where that is more than in general.
        files, environment: a line each.
    """

    summary: str
    examples: Sequence[str]
    output: Sequence[str] = ()
    codes: Sequence[ExitCode] = _OF_ALL
    says: Mapping[ExitCode, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    environment: Sequence[str] = ()

    def epilog(self) -> str:
        """Return the end of the command's help."""
        rows = [f"{code.value}  {self.says.get(code, MEANINGS[code])}" for code in self.codes]
        parts = {
            "Examples": self.examples,
            "Output": self.output,
            "Exit codes": rows,
            "Files": self.files,
            "Environment": self.environment,
        }
        return "\n\n".join(
            "\n".join(["\b", f"{title}:", *(f"  {line}" for line in lines)]) for title, lines in parts.items() if lines
        )


def _buying(summary: str, *examples: str) -> Manual:
    return Manual(
        summary=summary,
        examples=examples,
        output=_OUTPUT_OF_GET,
        codes=_OF_GET,
        says={ExitCode.FAILED: "no answer, or an error of the server; the last line says if it was paid"},
        files=_WALLETS,
        environment=(*_ENV_WALLETS, *_ENV_SECRETS, *_ENV_SANDBOX),
    )


def _journal(
    summary: str, *examples: str, output: Sequence[str] = (), says: Mapping[ExitCode, str] | None = None
) -> Manual:
    return Manual(
        summary=summary,
        examples=examples,
        output=output,
        says=says or {},
        files=_WALLETS,
        environment=(*_ENV_WALLETS, *_ENV_SANDBOX),
    )


def _selling(summary: str, *examples: str, codes: Sequence[ExitCode] = _OF_ALL) -> Manual:
    return Manual(
        summary=summary, examples=examples, codes=codes, files=_SERVER, environment=(*_ENV_SECRETS, *_ENV_SANDBOX)
    )


MANUALS: Final[Mapping[str, Manual]] = {
    "": Manual(
        summary="HTTP 402 on any payment rail.",
        examples=(
            "rail402 demo                   see it work, with play money",
            "rail402 init                   make yourself wallets with play money",
            "rail402 inspect URL            what does it cost, and how is it paid?",
            "rail402 get URL --max '1 USD'  buy it",
            "rail402 get --help             more about one command",
        ),
        output=(
            "With --json a command prints one JSON object, on one line, and nothing",
            "else on standard output. Where it could not even begin there is none, and",
            "standard error says why.",
        ),
        codes=tuple(ExitCode),
        files=(*_WALLETS, "rail402.toml                    a server: its rails, its store, its routes"),
        environment=(*_ENV_WALLETS, *_ENV_SECRETS, *_ENV_SANDBOX),
    ),
    "get": _buying(
        "Get a URL, and pay for it if it has to be paid.",
        "rail402 get https://api.example.com/article/402",
        "rail402 get https://api.example.com/article/402 --dry-run",
        "rail402 get https://api.example.com/song.mp3 --max '0.10 USD' -o song.mp3",
        "rail402 get http://127.0.0.1:8000/article/402 --wallets sandbox --json",
    ),
    "post": _buying(
        "Post to a URL, and pay for it if it has to be paid.",
        "rail402 post https://api.example.com/translate --data @letter.txt",
        "echo 'good morning' | rail402 post https://api.example.com/translate -d -",
        "rail402 post https://api.example.com/ask -d '{\"q\": 1}' \\",
        "    -H 'Content-Type: application/json' --max '0.10 USD'",
    ),
    "inspect": Manual(
        summary="Show what a 402 asks for, and pay nothing.",
        examples=(
            "rail402 inspect https://api.example.com/article/402",
            "rail402 inspect https://api.example.com/article/402 --all",
            "rail402 inspect https://api.example.com/translate --data 'some words' --json",
        ),
        codes=tuple(code for code in ExitCode if code <= ExitCode.NOT_PAYABLE),
        says={ExitCode.DONE: "the rails here can read and pay at least one offer", ExitCode.FAILED: "no answer"},
    ),
    "decode": Manual(
        summary="Say what a header, an invoice or a receipt says.",
        examples=(
            "rail402 decode 'WWW-Authenticate: Payment id=...'",
            "rail402 decode lnbc210n1...",
            "rail402 decode @receipt.txt \\",
            "    --jwks https://api.example.com/.well-known/rail402/jwks.json",
        ),
        says={ExitCode.FAILED: "it cannot be read, or the receipt does not verify"},
    ),
    "demo": Manual(
        summary="Sell and buy over three rails, with play money.",
        examples=("rail402 demo",),
        says={ExitCode.FAILED: "something was not as it should be"},
    ),
    "sandbox": Manual(
        summary="Show where the play money is, and how much was earned.",
        examples=("rail402 sandbox", "rail402 sandbox --json"),
        environment=_ENV_SANDBOX,
    ),
    "init": Manual(
        summary="Write a wallets.toml to begin with.",
        examples=("rail402 init", "rail402 init ./wallets.toml"),
        says={ExitCode.FAILED: "there is one already, or it cannot be written"},
        files=_WALLETS[:1],
        environment=_ENV_WALLETS,
    ),
    "keygen": Manual(
        summary="Make the two secrets that a gate needs in production.",
        examples=("rail402 keygen", "rail402 keygen /etc/rail402/keys --json"),
        says={ExitCode.FAILED: "there are some already; nothing is written over"},
        files=("keys/offer.secret   binds offers to requests", "keys/receipt.pem    signs receipts"),
    ),
    "doctor": Manual(
        summary="Check a paid URL, a server or an agent.",
        examples=(
            "rail402 doctor",
            "rail402 doctor https://api.example.com/article/402",
            "rail402 doctor --config rail402.toml",
            "rail402 doctor --wallets ~/.config/rail402/wallets.toml",
        ),
        says={ExitCode.FAILED: "something is wrong; it says what to do"},
        files=_WALLETS[:1],
        environment=(*_ENV_WALLETS, *_ENV_SECRETS, *_ENV_SANDBOX),
    ),
    "mcp": Manual(
        summary="Give a model the means to pay, over MCP.",
        examples=(
            "claude mcp add rail402 -- rail402 mcp --max '0.25 USD'",
            "rail402 mcp --wallets sandbox --port 8402",
            "rail402 mcp --port 8402 --token file:~/.config/rail402/mcp.token",
        ),
        says={ExitCode.DONE: "the host has hung up, or it was stopped"},
        files=_WALLETS,
        environment=(*_ENV_WALLETS, *_ENV_SECRETS, *_ENV_SANDBOX),
    ),
    "facilitator": Manual(
        summary="Check and hand in x402 payments for sellers.",
        examples=(
            "rail402 facilitator --sandbox",
            "rail402 facilitator --config facilitator.toml --token env:FACILITATOR_TOKEN",
        ),
        output=_OUTPUT_OF_SERVING,
        says={ExitCode.DONE: "it was stopped, and has finished what was under way"},
        files=("facilitator.toml  what is taken, for whom, and the store",),
        environment=(*_ENV_SECRETS, *_ENV_SANDBOX),
    ),
    "proxy": Manual(
        summary="Put a gate in front of any HTTP service.",
        examples=("rail402 proxy --config rail402.toml --to http://127.0.0.1:9000",),
        output=_OUTPUT_OF_SERVING,
        says={ExitCode.DONE: "it was stopped, and has finished what was under way"},
        files=_SERVER,
        environment=(*_ENV_SECRETS, *_ENV_SANDBOX),
    ),
    "receipts": _journal(
        "List, verify and export what was bought.", "rail402 receipts list --open", "rail402 receipts verify"
    ),
    "receipts list": _journal(
        "List purchases.",
        "rail402 receipts list",
        "rail402 receipts list --open",
        "rail402 receipts list --limit 5 --json",
    ),
    "receipts show": _journal("Show all that is known of one purchase.", "rail402 receipts show rec_k3v2m5 --json"),
    "receipts verify": _journal(
        "Verify receipts offline.",
        "rail402 receipts verify",
        "rail402 receipts verify rec_k3v2m5",
        says={ExitCode.FAILED: "a receipt does not verify, or there is no such purchase"},
    ),
    "receipts export": _journal(
        "Print all purchases as CSV or JSON lines.",
        "rail402 receipts export > purchases.csv",
        "rail402 receipts export --format jsonl > purchases.jsonl",
        output=("One line for each purchase; with --format jsonl it is a JSON object.",),
    ),
    "receipts refunds": _journal(
        "Ask the sellers what they gave back.",
        "rail402 receipts refunds",
        "rail402 receipts refunds rec_k3v2m5 --json",
        says={ExitCode.FAILED: "a seller does not answer, or a refund receipt does not verify"},
    ),
    "receipts recover": Manual(
        summary="Ask the wallets what became of open purchases.",
        examples=("rail402 receipts recover", "rail402 receipts list --open"),
        codes=(*_OF_ALL, ExitCode.STILL_OPEN),
        files=_WALLETS,
        environment=(*_ENV_WALLETS, *_ENV_SECRETS, *_ENV_SANDBOX),
    ),
    "receipts write-off": _journal(
        "Give up an open purchase, as spent.",
        "rail402 receipts write-off rec_k3v2m5",
        "rail402 receipts write-off rec_k3v2m5 --yes --json",
        says={ExitCode.FAILED: "you said no, or it is not open, or somebody works on it"},
    ),
    "budget": _journal("Show the limits, and stop all purchases.", "rail402 budget show", "rail402 budget pause"),
    "budget show": _journal(
        "Show the limits, and what of them is used.", "rail402 budget show", "rail402 budget show --json"
    ),
    "budget pause": _journal("Stop all purchases, now.", "rail402 budget pause"),
    "budget resume": _journal("Let purchases be made again.", "rail402 budget resume", "rail402 budget resume --yes"),
    "budget confirm": _journal(
        "Agree to limits that have become looser.", "rail402 budget confirm", "rail402 budget confirm --yes"
    ),
    "budget pins": _journal(
        "Show whom each host was paid at, and its prices.", "rail402 budget pins", "rail402 budget pins --json"
    ),
    "budget unpin": _journal(
        "Forget what is known of a host.",
        "rail402 budget unpin api.example.com",
        says={ExitCode.FAILED: "nothing was known of it"},
    ),
    "charges": _selling("Show charges, give money back, close what is open.", "rail402 charges list --state open"),
    "charges list": _selling(
        "List charges.",
        "rail402 charges list --since 1d",
        "rail402 charges list --config /etc/rail402.toml --state open --json",
    ),
    "charges show": _selling("Show all that is known of one charge.", "rail402 charges show ch_k3v2m5 --json"),
    "charges refund": _selling(
        "Give all of a charge's money back.",
        "rail402 charges refund ch_k3v2m5",
        "rail402 charges refund ch_k3v2m5 --yes --json",
        codes=(*_OF_ALL, ExitCode.STILL_OPEN),
    ),
    "charges reconcile": _selling(
        "Look up everything that is open, now.", "rail402 charges reconcile", codes=(*_OF_ALL, ExitCode.STILL_OPEN)
    ),
}
"""By the command's words, such as `budget show`; the program itself is the empty one."""


def fill_in(app: typer.Typer, path: str = "") -> None:
    """Give a program, or a group of it, and all commands in it the ends of their help, and their order in lists."""
    order = {words: place for place, words in enumerate(MANUALS)}
    named = {f"{path} {command.name or _name(command)}".strip(): command for command in app.registered_commands}
    app.registered_commands = [named[words] for words in sorted(named, key=lambda words: order.get(words, len(order)))]
    ends: dict[str, TyperInfo | CommandInfo] = {path: app.info, **named}
    for words, info in ends.items():
        if words in MANUALS:
            info.epilog, info.short_help = MANUALS[words].epilog(), MANUALS[words].summary
    for group in app.registered_groups:
        if group.typer_instance is not None:
            fill_in(group.typer_instance, f"{path} {group.typer_instance.info.name}".strip())


def _name(command: CommandInfo) -> str:
    return getattr(command.callback, "__name__", "")
