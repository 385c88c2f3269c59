"""A PostgreSQL that keeps its promises: it syncs every commit to the disk, asks for a password, and can be killed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.services import install_root, installed
from tests.services.processes import Process, ServiceFailed, free_ports, running, wait_for

__all__ = ["PASSWORD", "OwnServer", "PostgresServer", "missing", "own_server", "postgres_server"]

PASSWORD: Final = "hunter2-secret"
"""The password of the server that is started here."""

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 300,
    "log_line_prefix": "%m [%p] ",
}

# PostgreSQL refuses to run as root.
_AS_USER: Final = """
import os, sys
user, group = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([])
os.setgid(group)
os.setuid(user)
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server.

    Attributes:
        url: of a database that tests may put databases and schemas beside and into. It has a password in it.
    """

    url: str = field(repr=False)

    def connect(self, url: str | None = None) -> psycopg.Connection[Any]:
        """A connection of the test's own, each statement a transaction; as a block, closed after it."""
        return psycopg.connect(url or self.url, autocommit=True, connect_timeout=10)

    def schema(self) -> str:
        """The URL of a new, empty schema, which stays until the session ends."""
        name = f"test_{secrets.token_hex(8)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        joint = "&" if "?" in self.url else "?"
        return f"{self.url}{joint}options={quote(f'-csearch_path={name}')}"


@dataclass(frozen=True, slots=True)
class OwnServer(PostgresServer):
    """A server that is the test's own to stop and to kill."""

    directory: Path = Path()
    port: int = 0
    data: Path = Path()
    services: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    def start(self) -> None:
        """Start it, after `stop` or `kill` on the same port with the same data."""
        options = {**_SETTINGS, "port": self.port}
        command = [*_as_user(), _program("postgres"), "-D", str(self.data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        process = self.services.enter_context(running("postgres", command, self.directory, cwd=self.data))
        # Before `running` ends it by SIGTERM, upon which it would wait for its clients to go.
        self.services.callback(self._signal, signal.SIGINT, process)
        process.wait_until("connections", self._is_up)

    def stop(self) -> None:
        """Stop it in an orderly way; its clients lose their connections."""
        self.services.close()

    def kill(self) -> None:
        """Kill the server and all of its processes, as a power failure does."""
        pid = self._pid()
        for process in (pid, *_children(pid)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.services.close()

    def _signal(self, number: signal.Signals, process: Process) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = self._pid()
            os.kill(pid, number)
            # It writes all that it has in memory to the disk before it ends.
            wait_for("the end of PostgreSQL", lambda: pid not in process.members(), 60)

    def _pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def _is_up(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def missing(*, own: bool = False) -> str | None:
    """Why there is none, or none of our `own`, and what to do about it; None if there is one."""
    if os.environ.get("RAIL402_TEST_POSTGRES_URL") and not own:
        return None
    if installed("postgres") and Path(_program("postgres")).exists():
        return None
    return "PostgreSQL is not installed: run .ci/run install"


@contextmanager
def postgres_server(directory: Path) -> Iterator[PostgresServer]:
    """The server at `RAIL402_TEST_POSTGRES_URL`, or one of our own with its log in `directory`."""
    url = os.environ.get("RAIL402_TEST_POSTGRES_URL")
    if url:
        yield PostgresServer(url)
        return
    with own_server(directory) as server:
        yield server


@contextmanager
def own_server(directory: Path) -> Iterator[OwnServer]:
    """A server of our own, its log in `directory` and its data in a temporary folder that its user can reach."""
    directory.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory(prefix="rail402-postgres-", ignore_cleanup_errors=True) as home,
        ExitStack() as left,
    ):
        if os.geteuid() == 0:
            shutil.chown(home, *_unprivileged())
        server = OwnServer(
            f"postgresql://rail402:{PASSWORD}@127.0.0.1:{port}/postgres",
            directory=directory,
            port=port,
            data=Path(home) / "data",
        )
        _make_cluster(server.data)
        left.callback(server.stop)
        server.start()
        yield server


def _make_cluster(data: Path) -> None:
    options = ["--username=rail402", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
    password = data.parent / "password"
    password.write_text(PASSWORD)
    command = [*_as_user(), _program("initdb"), *options, f"--pwfile={password}", "-D", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=data.parent, timeout=60)
    if done.returncode:
        raise ServiceFailed(f"initdb failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _program(name: str) -> str:
    # Resolved: its user may not enter our home folder.
    return str((install_root() / "postgres" / "bin" / name).resolve())


def _unprivileged() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return user.pw_uid, user.pw_gid
    raise ServiceFailed("PostgreSQL refuses to run as root, and there is no user postgres and none called nobody")


def _as_user() -> Sequence[str]:
    """What to put before a command so that it does not run as root."""
    if os.geteuid() != 0:
        return ()
    return [sys.executable, "-I", "-c", _AS_USER, *map(str, _unprivileged())]
