"""What the fakes of nodes have in common: real invoices and play money behind them, and calls that fail when told."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from rail402.testing.fakes import FakeClock
from rail402_lightning.backends.sandbox import open_sandbox
from rail402_lightning.sandbox import ENDOWMENT_MSAT, SandboxLightning

WALLET = "agent"

Answer = httpx.Response | Exception


@dataclass
class PlayNode:
    """The ledger of the sandbox: a node that receives, and a wallet that pays it.

    Attributes:
        faults: for each path or method, what is answered next instead of the truth, and whether the call is carried
            out all the same.
        calls: the path or the method of each call, in turn.
    """

    directory: Path
    clock: FakeClock = field(default_factory=FakeClock)
    wallet: str = WALLET
    faults: defaultdict[str, deque[tuple[bool, Answer]]] = field(default_factory=lambda: defaultdict(deque))
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger: SandboxLightning = open_sandbox(self.directory, clock=self.clock)

    def fail(self, call: str, answer: Answer, *, done: bool = False, times: int = 1) -> None:
        """Have the next calls answered by this."""
        self.faults[call].extend([(done, answer)] * times)

    async def serve(self, call: str, act: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Carry out a call, or fail as told."""
        self.calls.append(call)
        if not self.faults[call]:
            return await act()
        done, answer = self.faults[call].popleft()
        if done:
            await act()
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def invoice(self, sats: int = 1000, *, seconds: int = 600) -> str:
        """Return an invoice of the node's, for the wallet to pay."""
        return await self.ledger.create_invoice(sats * 1000, expiry_seconds=seconds)

    async def spent(self) -> int:
        """Return what the wallet has paid out, fees included, millisatoshis."""
        return ENDOWMENT_MSAT - await self.ledger.balance(self.wallet)
