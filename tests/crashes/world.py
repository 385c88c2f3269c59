"""What outlives every process of a run: the files, the money, the time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crashes.banks import Bank, open_bank
from tests.crashes.clock import SharedClock
from tests.crashes.scenarios import Scenario
from tests.services.processes import free_ports

__all__ = ["World", "bound", "lines", "note"]


@dataclass(frozen=True, slots=True)
class World:
    """One shop, its agents, their bank.

    Attributes:
        path: where all files of the run are.
        port: where the shop listens, each time that it lives.
        claim: keeps the port for us while nobody listens there.
    """

    path: Path
    scenario: Scenario
    bank: Bank
    clock: SharedClock
    port: int
    claim: socket.socket

    @classmethod
    def make(cls, path: Path, scenario: Scenario, where: Mapping[str, Any], clients: int) -> World:
        """Make one in an empty directory."""
        bank = open_bank(scenario.bank, path, where)
        clock = SharedClock(path / "clock", bank.now())
        for number in range(clients):
            bank.wallet(number, clock)  # what has accounts makes them now
        claim = bound(free_ports(1)[0])
        return cls(path, scenario, bank, clock, claim.getsockname()[1], claim)

    @property
    def url(self) -> str:
        """What is bought."""
        return f"{self.origin}/goods"

    @property
    def origin(self) -> str:
        """The shop's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        """The shop's charges."""
        return self.path / "charges.db"

    @property
    def runs(self) -> Path:
        """A line for each run of the handler: the charge's id."""
        return self.path / "runs"

    def journal(self, number: int) -> Path:
        """An agent's purchases."""
        return self.path / f"wallet-{number}.db"

    def received(self, number: int) -> Path:
        """What an agent has in hand: a line of JSON for each body."""
        return self.path / f"received-{number}"

    def presented(self, number: int) -> Path:
        """The header fields of each request that an agent sent with a payment."""
        return self.path / f"presented-{number}"

    def log(self, who: str) -> Path:
        """What a process printed, in all its lives."""
        return self.path / f"{who}.log"

    def pass_time(self, seconds: int) -> None:
        """Let time pass, at the bank as well."""
        self.clock.advance(seconds)
        self.bank.passed(self.clock())


def bound(port: int) -> socket.socket:
    """A socket at that port, which does not listen yet; the port may have several of them."""
    claim = socket.socket()
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    claim.bind(("127.0.0.1", port))
    return claim


def note(path: Path, row: Any) -> None:
    """Write a line of JSON that is not lost with the process."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, json.dumps(row).encode() + b"\n")
    os.close(file)


def lines(path: Path) -> list[Any]:
    """The lines that were written."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
