from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.services.processes import Process, ServiceFailed, active, free_ports, running, wait_for

# Says its name and waits; ignores SIGTERM, as does its child.
STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print(os.getpid(), flush=True)
signal.pause()
"""
# Runs a service as a test would, says where it is, and never ends it.
ORPHANING = f"""
import sys, time
from pathlib import Path
from tests.services.processes import running
with running("orphan", [sys.executable, "-c", {STUBBORN!r}], Path(sys.argv[1])) as process:
    print(process._popen.pid, flush=True)
    time.sleep(600)
"""


def started(process: Process, count: int) -> bool:
    return len(process.log_tail().split()) == count


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    with running("stubborn", [sys.executable, "-c", STUBBORN], tmp_path) as process:
        process.wait_until("both", lambda: started(process, 2))
        assert process in active()
        assert len(process.members()) == 3
        process.stop(grace=0.5)
        assert process.members() == []
    assert process not in active()


def test_a_service_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", ORPHANING, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        wait_for("the service", lambda: len((tmp_path / "orphan.log").read_text().split()) == 2, 10)
        members = [group, *map(int, (tmp_path / "orphan.log").read_text().split())]
        parent.send_signal(signal.SIGKILL)

    wait_for("the end of the service", lambda: not any(map(is_running, members)), 10)


def test_a_service_that_ends_early_shows_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such option'); raise SystemExit(3)"]
    with (
        running("broken", command, tmp_path) as process,
        pytest.raises(ServiceFailed, match=r"(?s)broken ended with status 3.*no such option"),
    ):
        process.wait_until("readiness", lambda: False)


def test_a_service_that_is_never_ready_shows_its_log(tmp_path: Path) -> None:
    with running("slow", [sys.executable, "-c", STUBBORN], tmp_path) as process:
        process.wait_until("both", lambda: started(process, 2))
        with pytest.raises(ServiceFailed, match=r"(?s)waited 0.1 s for slow: readiness.*\d+"):
            process.wait_until("readiness", lambda: False, timeout=0.1)
        process.stop(grace=0.1)


def test_a_service_sees_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    command = [sys.executable, "-c", "import os, time; print(*os.environ, flush=True); time.sleep(600)"]
    with running("environment", command, tmp_path, env={"SETTING": "1"}) as process:
        process.wait_until("output", lambda: "PATH" in process.log_tail())

    assert set(process.log_tail().split()) - {"LC_CTYPE"} == {"HOME", "LANG", "PATH", "SETTING"}


def test_a_refused_connection_means_not_yet() -> None:
    (port,) = free_ports(1)

    with pytest.raises(ServiceFailed, match="ConnectError"):
        wait_for("an answer", lambda: httpx.get(f"http://127.0.0.1:{port}", trust_env=False).is_success, 0.1)


def test_free_ports_are_different_and_free() -> None:
    ports = [*free_ports(3), *free_ports(3)]

    assert len(set(ports)) == 6
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_taken_port_is_not_free() -> None:
    (first,) = free_ports(1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first + 1))
        listener.listen()

        assert free_ports(1) != [first + 1]
