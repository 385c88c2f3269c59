"""Our facilitator as a process: `rail402 facilitator` in front of the EVM chain, or of the sandbox."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.services.anvil import ETHER, Account, EvmChain
from tests.services.processes import Process, free_ports, running

__all__ = ["OurFacilitator", "our_facilitator"]

_ROOT = Path(__file__).parents[2]
_MAIN = "from rail402.cli import main; main()"


class OurFacilitator:
    """A facilitator that can be killed and started again at the same address, on the same files.

    Args:
        directory: where its files are.
        chain: the chain; None for the sandbox in `directory`.
        pay_to: for whom it settles; for everybody where that is empty.
        token: what its callers must send, None for nothing.
        settings: more of `[facilitator]`, as TOML values.

    Attributes:
        url: where it answers.
        relayer: the account that pays the gas; of this facilitator only, and nobody's in the sandbox.
    """

    def __init__(
        self,
        directory: Path,
        chain: EvmChain | None,
        *,
        pay_to: Sequence[str] = (),
        token: str | None = None,
        **settings: Any,
    ) -> None:
        (self._port,) = free_ports(1)
        self._directory, self._running = directory, ExitStack()
        self.process: Process | None = None
        self.url = f"http://127.0.0.1:{self._port}"
        self.relayer: Account | None = None if chain is None else chain.account(ether=10 * ETHER)
        self._secrets = {} if token is None else {"FACILITATOR_TOKEN": token}
        directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / "facilitator.toml"
        lines = ["[facilitator]", f'store = "sqlite:///{directory}/facilitator.db"']
        lines += [f"{name} = {value}" for name, value in settings.items()]
        lines += [f"pay_to = {list(pay_to)}" if pay_to else "any_payee = true"]
        lines += ['token = "env:FACILITATOR_TOKEN"'] if token is not None else []
        if chain is None:
            lines += ["[[rails]]", 'name = "base"', 'backend = "sandbox"', f'directory = "{directory}"']
        else:
            assert self.relayer is not None
            self._secrets["RELAYER_KEY"] = self.relayer.private_key
            payee = pay_to[0] if pay_to else self.relayer.address
            lines += [
                "[[rails]]",
                'name = "base"',
                'backend = "rpc"',
                'network = "base-sepolia"',
                'max_fee_gwei = "50"',
            ]
            lines += [f'urls = ["{chain.url}"]', 'relayer_key = "env:RELAYER_KEY"', f'pay_to = "{payee}"']
            lines += [f'relayer_db = "sqlite:///{directory}/relayer.db"']
        self.config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-c", _MAIN, "facilitator", f"--config={self.config}", f"--port={self._port}"]
        sources = os.pathsep.join(str(_ROOT / each) for each in ("x402", "rails"))  # this tree's, whatever is installed
        settings = {**self._secrets, "PYTHONPATH": sources}
        self.process = self._running.enter_context(running("our-facilitator", command, self._directory, env=settings))
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            self.process.wait_until("HTTP", lambda: client.get("/health").is_success)

    def kill(self) -> None:
        """End it, whatever it is doing, without a word."""
        for member in [] if self.process is None else self.process.members():
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        self.process = None
        self._running.close()


@contextmanager
def our_facilitator(directory: Path, chain: EvmChain | None, **options: Any) -> Iterator[OurFacilitator]:
    """A facilitator on a free loopback port, its files in `directory`; see `OurFacilitator`."""
    service = OurFacilitator(directory, chain, **options)
    try:
        service.start()
        yield service
    finally:
        service.kill()
