"""Subprocesses that serve tests: a log, a readiness probe with a deadline, and an end that leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from tests.services import _lifeline

__all__ = ["Process", "ServiceFailed", "active", "free_ports", "run_together", "running", "serve", "wait_for"]

T = TypeVar("T")

# Below the range from which the kernel takes client ports (32768 and up on Linux): a port found free stays free.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
# The workers of one test run begin far apart.
_CANDIDATES = (_FIRST_PORT + number % (_LAST_PORT - _FIRST_PORT) for number in itertools.count(os.getpid() * 97))

_active: list[Process] = []


class ServiceFailed(Exception):
    """A service ended, was not ready in time, or could not be stopped; the text ends with the tail of its log."""


class Process:
    """One running service and all its children."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._popen = popen

    def log_tail(self, lines: int = 30, width: int | None = None) -> str:
        """The last `lines` lines of what the service wrote, and of each the first `width` characters."""
        return "\n".join(line[:width] for line in self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, what: str, probe: Callable[[], T | None], timeout: float = 60) -> T:
        """What `probe` returns once that is true; ServiceFailed if the service ends, or after `timeout` seconds."""
        try:
            return wait_for(f"{self.name}: {what}", probe, timeout, check=self._check_alive)
        except ServiceFailed as error:
            raise ServiceFailed(f"{error}\n--- end of {self.log_path}\n{self.log_tail()}") from error

    def _check_alive(self) -> None:
        code = self._popen.poll()
        if code is not None:
            raise ServiceFailed(f"{self.name} ended with status {code}")

    def stop(self, grace: float = 10) -> None:
        """End the service and its children: SIGTERM, after `grace` seconds SIGKILL; ServiceFailed if one is left."""
        self._signal(signal.SIGTERM)
        try:
            self._wait_for_the_end(grace)
        except ServiceFailed:
            self._signal(signal.SIGKILL)
            self._wait_for_the_end(grace)
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def _wait_for_the_end(self, timeout: float) -> None:
        wait_for(f"the end of {self.name}", lambda: self._popen.poll() is not None and not self.members(), timeout)

    def members(self) -> list[int]:
        """The ids of the service's processes, our own wrapper around it included."""
        return _group_members(self._popen.pid)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)


def _group_members(group: int) -> list[int]:
    """The processes of a group, without those that ended and wait for an init that never collects them."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):  # macOS answers EPERM when only ended ones are left
            return []
        return [group]
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # The command name before the last parenthesis may hold blanks and parentheses.
            state, _parent, process_group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                members.append(int(path.parent.name))
    return members


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Process]:
    """Run `command` until the block ends.

    Its output goes to `<directory>/<name>.log` and its home is `directory`. Of our environment only PATH reaches it, so
    no proxy, credential or setting of the machine changes what is tested.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log_path = directory / f"{name}.log"
    base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LANG": "C.UTF-8"}
    with log_path.open("wb") as log:
        popen = subprocess.Popen(
            [sys.executable, "-I", str(_lifeline.__file__), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**base, **(env or {})},
            cwd=cwd or directory,
            start_new_session=True,
        )
    process = Process(name, popen, log_path)
    _active.append(process)
    try:
        yield process
    finally:
        _active.remove(process)
        process.stop()


def run_together(commands: Sequence[Sequence[str]], *, timeout: float = 60) -> list[str]:
    """Run programs that print "ready" and then wait for a line, and let all go on when all are ready.

    Returns:
        What each of them printed then. All must end with status 0.
    """
    with ExitStack() as left:
        children = []
        for command in commands:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            children.append(left.enter_context(child))
            left.callback(child.kill)
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        answers = [child.communicate(timeout=timeout)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return answers


def active() -> tuple[Process, ...]:
    """What `running` runs now, in the order of starting."""
    return tuple(_active)


def wait_for(what: str, probe: Callable[[], T | None], timeout: float, *, check: Callable[[], None] | None = None) -> T:
    """Call `probe` until it returns something true, and return that.

    A refused or broken connection counts as "not yet". `check` may raise to end the waiting early; after `timeout`
    seconds ServiceFailed says `what` was waited for, and the last connection error.
    """
    deadline = time.monotonic() + timeout
    last: httpx.TransportError | None = None
    while True:
        if check is not None:
            check()
        try:
            if result := probe():
                return result
        except httpx.TransportError as error:
            last = error
        if time.monotonic() > deadline:
            raise ServiceFailed(f"waited {timeout:g} s for {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """`count` ports that nothing listens on at 127.0.0.1 and that no earlier call in this process returned."""
    found: list[int] = []
    for candidate in islice(_CANDIDATES, _LAST_PORT - _FIRST_PORT):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            found.append(candidate)
        if len(found) == count:
            return found
    raise ServiceFailed(f"no {count} free ports between {_FIRST_PORT} and {_LAST_PORT}")


def serve(service: AbstractContextManager[T]) -> Iterator[T]:
    """For a fixture: what `service` gives, until the fixture ends; when it does not start, its log says more than our
    stack."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(service)
        except ServiceFailed as error:
            pytest.fail(str(error), pytrace=False)
        yield started
