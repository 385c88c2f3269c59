"""A process that listens, and that is there again where it died."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.crashes.processes import Child

__all__ = ["HarnessFailed", "Server"]

_START_SECONDS: Final = 30


class HarnessFailed(Exception):
    """The harness itself went wrong, or a process ended by an error of its own."""


class Server:
    """One of them.

    Args:
        port: where it listens, each time that it lives.
        work: what it does, until the step whose number it is given.
        ends: at which step each of its lives ends.
        died: called when it has.
    """

    def __init__(
        self, port: int, work: Callable[[int], None], ends: Iterator[int], log: Path, died: Callable[[], None]
    ) -> None:
        self._port, self._work, self._ends, self._log, self._died = port, work, ends, log, died
        self._child: Child | None = None

    @property
    def is_dead(self) -> bool:
        """Whether it died and is not there again."""
        return self._child is not None and self._child.ended

    def kill(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.kill()

    def start(self) -> None:
        """Start it, again where it dies meanwhile."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            end = next(self._ends, 0)
            self._child = Child(lambda end=end: self._work(end), self._log)  # type: ignore[misc]
            while not self._listens():
                if self._child.has_failed or time.monotonic() > deadline:
                    raise HarnessFailed(f"it does not start: {self._tail()}")
                if self._child.ended:
                    break
                time.sleep(0.004)
            else:
                return
            self._died()

    def revive(self) -> None:
        """Have it back where it died."""
        assert self._child is not None
        if self._child.has_failed:
            raise HarnessFailed(f"it failed: {self._tail()}")
        if self._child.ended:
            self._died()
            self.start()

    def ask(
        self, method: str, path: str, fields: Mapping[str, str] | None = None, content: str | None = None
    ) -> tuple[int, str, bool]:
        """Ask it, which may die of it; it is asked again then. Returns status, body, and whether it is a replay."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self.revive()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            with closing(connection):
                try:
                    connection.request(method, path, content, dict(fields or {}))
                    answer = connection.getresponse()
                    body = answer.read().decode()
                except (OSError, http.client.HTTPException):
                    time.sleep(0.02)
                    continue
            return answer.status, body, answer.getheader("idempotent-replayed") == "true"
        raise HarnessFailed(f"it does not answer: {self._tail()}")

    def _listens(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        with closing(connection):
            try:
                connection.connect()
            except OSError:
                return False
        return True

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else "(it wrote nothing)"
