"""What `rail402 get` shows a person while it works: who pays how much, and below it one line that changes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rail402.cli.show import clean, in_sat
from rail402.client.progress import Asking, Paying, Presenting, Receiving, Step, Waiting

__all__ = ["Progress"]

_BAR: Final = 24
_REFRESHED: Final = 8  # times a second
_LONG: Final = 3


class Progress:
    """The steps of a call, at a terminal, while it is entered.

    Args:
        console: the terminal's; its clock counts the seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._spinner = console, Spinner("dots")
        self._live = Live(self, console=console, transient=True, refresh_per_second=_REFRESHED, redirect_stdout=False)
        self._step: Step | None = None
        self._began = console.get_time()

    def __enter__(self) -> Self:
        with suppress(OSError):  # here and below: a terminal that is gone must not end a purchase
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._live.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the terminal to a question."""
        with suppress(OSError):
            self._live.stop()
        try:
            yield
        finally:
            with suppress(OSError):
                self._live.start()

    def tell(self, step: Step) -> None:
        """Show a step; see `Payer.on_progress`."""
        is_next_piece = isinstance(step, Receiving) and isinstance(self._step, Receiving)
        if not is_next_piece:
            self._began = self._console.get_time()
        self._step = step
        if is_next_piece:
            return  # pieces come faster than anybody reads
        with suppress(OSError):
            if isinstance(step, Paying):
                self._console.print(Text(_choice(step)), soft_wrap=True)
            self._live.refresh()

    def __rich__(self) -> RenderableType:
        row: list[RenderableType] = [self._spinner, Text(self._says(), no_wrap=True, overflow="ellipsis")]
        if isinstance(self._step, Receiving) and self._step.expected:
            row.append(ProgressBar(total=self._step.expected, completed=self._step.received, width=_BAR))
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*row)
        return grid

    def _says(self) -> str:
        step = self._step
        seconds = int(self._console.get_time() - self._began)
        lasting = f" · {seconds} s" if seconds >= _LONG else ""
        match step:
            case Asking():
                return f"asking {step.method} {clean(step.url)}{lasting}"
            case Paying():
                return f"waiting for the wallet {clean(step.wallet)}{lasting}"
            case Presenting():
                return f"waiting for what is bought{lasting}"
            case Waiting():
                return f"{clean(step.why)}; again in {max(step.seconds - seconds, 0)} s"
            case Receiving():
                size = "" if step.expected is None else f" of {decimal(step.expected)}"
                return f"receiving {decimal(step.received)}{size}"
        return f"opening the wallets{lasting}"


def _choice(step: Paying) -> str:
    """Return what is paid and by whom."""
    most = "" if step.total == step.price else f", {step.total} at most with fees,"
    what = f"{in_sat(f'{step.price}{most}')} on {clean(step.rail)} from the wallet {clean(step.wallet)}"
    return f"going on with an earlier payment: {what}" if step.is_resumed else what
