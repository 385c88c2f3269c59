"""What outlives every process of a run: the files, the money, the time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.crashes.banks import Anvil, Bank, BaseSandbox, LightningSandbox, Lnd, StripeSandbox
from tests.crashes.clock import SharedClock
from tests.crashes.facilitated import Facilitated
from tests.crashes.lnbits_bank import Lnbits
from tests.crashes.payers_first import AnvilTransfer, StripePrepared, TransferSandbox
from tests.crashes.processes import bound
from tests.crashes.scenarios import Scenario
from tests.services.postgres import PostgresServer
from tests.services.processes import free_ports

__all__ = ["TOOLS", "World", "lines", "note"]

TOOLS: Final = "/mcp"
"""Where a shop's tools are called."""


@dataclass(frozen=True, slots=True)
class World:
    """One shop, its agents, their bank.

    Attributes:
        path: where all files of the run are.
        port: where the shop listens, each time that it lives.
        store: the URL of the shop's charges.
        claim: keeps the port for us while nobody listens there.
    """

    path: Path
    scenario: Scenario
    bank: Bank
    clock: SharedClock
    port: int
    store: str
    claim: socket.socket

    @classmethod
    def make(cls, path: Path, scenario: Scenario, where: Mapping[str, Any], clients: int) -> World:
        """Make one in an empty directory."""
        bank = _open_bank(scenario, path, where)
        clock = SharedClock(path / "clock", bank.now())
        for number in range(clients):
            bank.wallet(number, clock)  # what has accounts makes them now
        claim = bound(free_ports(1)[0])
        store = _database(scenario, path / "charges.db", where)
        return cls(path, scenario, bank, clock, claim.getsockname()[1], store, claim)

    @property
    def url(self) -> str:
        """What is bought."""
        return f"{self.origin}/goods"

    @property
    def origin(self) -> str:
        """The shop's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tools(self) -> str:
        """Where its tools are called."""
        return f"{self.origin}{TOOLS}"

    @property
    def runs(self) -> Path:
        """A line for each run of the handler: the charge's id."""
        return self.path / "runs"

    def close(self) -> None:
        """Let go of the ports."""
        self.claim.close()
        if isinstance(self.bank, Facilitated):
            self.bank.claim.close()

    def journal(self, number: int) -> Path:
        """An agent's purchases."""
        return self.path / f"wallet-{number}.db"

    def received(self, number: int) -> Path:
        """What an agent has in hand: a line of JSON for each body."""
        return self.path / f"received-{number}"

    def presented(self, number: int) -> Path:
        """The header fields of each request that an agent sent with a payment; of a tool's call, its `fields` and its
        `content`."""
        return self.path / f"presented-{number}"

    def log(self, who: str) -> Path:
        """What a process printed, in all its lives."""
        return self.path / f"{who}.log"

    def pass_time(self, seconds: int) -> None:
        """Let time pass, at the bank as well."""
        self.clock.advance(seconds)
        self.bank.passed(self.clock())


def note(path: Path, row: Any) -> None:
    """Write a line of JSON that is not lost with the process."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, json.dumps(row).encode() + b"\n")
    os.close(file)


def lines(path: Path) -> list[Any]:
    """The lines that were written."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _database(scenario: Scenario, file: Path, where: Mapping[str, Any]) -> str:
    """The URL of a database of the shop's: a schema of its own, or the file."""
    return PostgresServer(where["postgres"]).schema() if scenario.store == "postgres" else f"sqlite:///{file}"


def _open_bank(scenario: Scenario, path: Path, where: Mapping[str, Any]) -> Bank:
    """The scenario's bank, with what is its own in `path`; `where` says where the real services are."""
    match scenario.bank:
        case "base":
            return BaseSandbox(path)
        case "transfer":
            return TransferSandbox(path)
        case "lightning":
            return LightningSandbox(path)
        case "stripe":
            return StripeSandbox(path)
        case "prepared":
            return StripePrepared(path)
        case "anvil":
            return Anvil(path, where["anvil"], _database(scenario, path / "relayer.db", where))
        case "anvil_transfer":
            return AnvilTransfer(path, where["anvil"])
        case "facilitator":
            return Facilitated(path, where["anvil"])
        case "lnbits":
            return Lnbits(where)
        case _:
            return Lnd(where["lnd"])
