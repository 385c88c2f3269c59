"""What a person sees while `rail402 get` works: lines that stay, and one that changes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rail402.cli.progress import Progress
from rail402.client.progress import Asking, Paying, Presenting, Receiving, Step, Waiting
from rail402.money import Money

REQUEST: Any = {"method": "GET", "url": "https://shop.test/article"}
PAYING = Paying(
    **REQUEST,
    record_id="rec_1",
    wallet="main",
    rail="base",
    price=Money.parse("0.003 USD"),
    total=Money.parse("0.003 USD"),
)
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Terminal:
    """A terminal of 80 columns, and its clock."""

    def __init__(self, file: io.StringIO | None = None) -> None:
        self.now, self.file = 100, file or io.StringIO()
        self.console = Console(
            force_terminal=True, file=self.file, width=80, color_system=None, get_time=lambda: self.now, _environ={}
        )
        self.progress = Progress(self.console)

    def line(self) -> str:
        """Return the line that changes, without the spinner."""
        with self.console.capture() as shown:
            self.console.print(self.progress)
        return shown.get().partition(" ")[2].rstrip()


@pytest.mark.parametrize(
    ("step", "seconds", "line"),
    [
        (Asking(**REQUEST), 2, "asking GET https://shop.test/article"),
        (Asking(**REQUEST), 3, "asking GET https://shop.test/article · 3 s"),
        (PAYING, 0, "waiting for the wallet main"),
        (PAYING, 70, "waiting for the wallet main · 70 s"),
        (Presenting(**REQUEST), 61, "waiting for what is bought · 61 s"),
        (Waiting(**REQUEST, seconds=7, why="the server answered 503"), 0, "the server answered 503; again in 7 s"),
        (Waiting(**REQUEST, seconds=7, why="the server answered 503"), 5, "the server answered 503; again in 2 s"),
        (Waiting(**REQUEST, seconds=7, why="the server answered 503"), 9, "the server answered 503; again in 0 s"),
        (Receiving(**REQUEST, received=1_234_567, expected=None), 9, "receiving 1.2 MB"),
        (Receiving(**REQUEST, received=12, expected=0), 9, "receiving 12 bytes of 0 bytes"),
    ],
)
def test_a_step_is_one_line(step: Step, seconds: int, line: str) -> None:
    terminal = Terminal()
    terminal.progress.tell(step)
    terminal.now += seconds
    assert terminal.line() == line


def test_before_the_first_step_the_wallets_are_opened() -> None:
    terminal = Terminal()
    assert terminal.line() == "opening the wallets"
    terminal.now += 4
    assert terminal.line() == "opening the wallets · 4 s"


def test_a_body_whose_length_is_known_has_a_bar() -> None:
    terminal = Terminal()
    for received in (0, 1_000_000, 4_000_000):
        terminal.progress.tell(Receiving(**REQUEST, received=received, expected=4_000_000))
    text, _, bar = terminal.line().partition(" MB ━")
    assert text == "receiving 4.0 MB of 4.0"
    assert set(bar) == {"━"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "0.003 USD on base from the wallet main"),
        ({"total": Money.parse("0.004 USD")}, "0.003 USD, 0.004 USD at most with fees, on base from the wallet main"),
        ({"is_resumed": True}, "going on with an earlier payment: 0.003 USD on base from the wallet main"),
    ],
)
def test_who_pays_how_much_stays(changes: dict[str, Any], line: str) -> None:
    terminal = Terminal()
    facts = {name: getattr(PAYING, name) for name in PAYING.__slots__} | REQUEST
    with terminal.progress as progress:
        progress.tell(Paying(**facts | changes))
    assert f"{line}\n" in terminal.file.getvalue()


def test_a_long_line_stays_one_and_nothing_in_it_is_obeyed() -> None:
    terminal = Terminal()
    terminal.progress.tell(Asking(method="GET", url="https://shop.test/" + "\x1b[2J\u202e[bold]" * 40))
    line = terminal.line()
    assert line.startswith("asking GET https://shop.test/[bold]")
    assert (line[-1], len(line), "\n" in line, line.isprintable()) == ("…", 78, False, True)


def test_a_question_has_the_terminal_to_itself() -> None:
    terminal = Terminal()
    with terminal.progress as progress:
        progress.tell(Asking(**REQUEST))
        with progress.aside():
            begun = terminal.file.getvalue()
            assert begun.endswith(f"{SHOW_CURSOR}\r\x1b[1A\x1b[2K"), "the line is gone"
            progress.tell(Asking(**REQUEST))
            assert terminal.file.getvalue() == begun, "nothing is drawn over it"
        assert HIDE_CURSOR in terminal.file.getvalue()[len(begun) :], "it goes on"
    assert SHOW_CURSOR in terminal.file.getvalue()[len(begun) :]


class Gone(io.StringIO):
    """A terminal that was hung up."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_no_purchase() -> None:
    terminal = Terminal(Gone())
    terminal.progress._live.auto_refresh = False  # its thread has nobody to tell
    with terminal.progress as progress:
        for step in (Asking(**REQUEST), PAYING, Presenting(**REQUEST)):
            progress.tell(step)
        with progress.aside():
            pass
