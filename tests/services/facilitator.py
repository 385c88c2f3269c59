"""The facilitator of x402's own library, in front of the EVM chain."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from tests.services import install_root, installed
from tests.services.anvil import ETHER, Account, EvmChain
from tests.services.processes import Process, free_ports, running, wait_for

__all__ = ["OfficialFacilitator", "facilitator", "missing"]


class OfficialFacilitator:
    """A facilitator that can be killed and started again at the same address.

    Attributes:
        url: where it answers.
        relayer: the account that pays the gas; of this facilitator only.
    """

    def __init__(self, directory: Path, chain: EvmChain, version: int) -> None:
        (self._port,) = free_ports(1)
        self._directory, self._chain, self._version = directory, chain, version
        self._running = ExitStack()
        self.process: Process | None = None
        self.url = f"http://127.0.0.1:{self._port}"
        self.relayer: Account = chain.account(ether=10 * ETHER)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = install_root() / "x402"
        program = [str(environment / "bin" / "python"), str(environment / "facilitator.py")]
        command = [*program, str(self._port), self._chain.url, str(self._version)]
        settings = {"RELAYER_KEY": self.relayer.private_key}
        self.process = self._running.enter_context(running("x402-facilitator", command, self._directory, env=settings))
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            self.process.wait_until("HTTP", lambda: client.get("/supported").is_success)

    def kill(self) -> None:
        """End it, whatever it is doing; afterwards its connections are closed."""
        members = [] if self.process is None else self.process.members()
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        self.process = None
        self._running.close()
        # A process counts as ended before its last thread has, and until then its sockets are open.
        threads = [Path(f"/proc/{member}/task") for member in members]
        wait_for("the end of its threads", lambda: all(len(list(each.glob("*"))) < 2 for each in threads), 30)


def missing() -> str | None:
    """Why there is no facilitator and what to do about it; None if there is one."""
    return None if installed("x402") else "x402 is not installed: run .ci/run install"


@contextmanager
def facilitator(directory: Path, chain: EvmChain, *, version: int = 2) -> Iterator[OfficialFacilitator]:
    """A facilitator of our own on a free loopback port, its files in `directory`; it speaks that version of x402."""
    service = OfficialFacilitator(directory, chain, version)
    try:
        service.start()
        yield service
    finally:
        service.kill()
