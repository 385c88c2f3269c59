"""Other processes for the store cases: how one is started, and what it does with the store."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from rail402.protocol.charge import Charge
from rail402.stores.base import Claim, Issued, Store, TokenBucket

__all__ = ["Opener", "Race", "Work", "Worker", "serve"]

Opener = Callable[[], Store]
"""What opens a store, not started: the same one each time. To be sent to another process it must be picklable."""

Work = Callable[[Store], Awaitable[Any]]
"""What another process does with its store, picklable; it returns what JSON can say."""

_SECONDS: Final = 120

# Not by multiprocessing, which would run the main program once more.
_PROGRAM: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rail402.testing.store_work import serve
serve()
"""


class Worker:
    """Another process with the store open. What it has to complain of is on its standard error, which is ours."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls, opener: Opener, work: Work) -> AsyncIterator[Worker]:
        """Start one, which opens its store; it is killed at the end of the block, unless it has closed it."""
        command = (sys.executable, "-c", _PROGRAM, json.dumps(sys.path))
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        worker = cls(process)
        try:
            await worker._tell(pickle.dumps((opener, work)))
            yield worker
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def open(self) -> None:
        """Wait until its store is open."""
        await self.answer()

    async def begin(self) -> None:
        """Tell it to do its work."""
        await self._tell(b"go\n")

    async def answer(self) -> Any:
        """Return what its work returned."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_SECONDS):
            line = await self._process.stdout.readline()
        assert line, "another process must be able to open the store and to work with it; it has printed what failed"
        return json.loads(line)

    async def close(self) -> None:
        """Let it close its store, and wait for its end."""
        await self._tell(b"close\n")
        async with asyncio.timeout(_SECONDS):
            assert await self._process.wait() == 0, "close: it ends without an error; another process has printed one"

    async def _tell(self, order: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # it has failed, which its answer says
            self._process.stdin.write(order)
            await self._process.stdin.drain()


def serve() -> None:
    """Open the store that standard input names, and work with it when told to: what the other process runs."""
    asyncio.run(_serve())


async def _serve() -> None:
    orders, answers = sys.stdin.buffer, sys.stdout
    sys.stdout = sys.stderr  # what a store prints is no answer
    opener, work = pickle.load(orders)  # noqa: S301 - by the case that started us
    store: Store = opener()
    await store.start()
    answers.write("null\n")
    answers.flush()
    if await asyncio.to_thread(orders.readline):
        answers.write(json.dumps(await work(store)) + "\n")
        answers.flush()
        await asyncio.to_thread(orders.readline)
    await store.close()


# --- the work


@dataclass(frozen=True, slots=True)
class Race:
    """All that processes can want at the same time.

    Attributes:
        me: the name of the process.
        claims: charges with a key in common.
        versioned: a charge that is there; one save of it can be the first.
        used: a pass that is there, with fewer uses than are taken.
        issues: rows, of which all processes have room for `capacity`.
        bucket: one with fewer tokens than are spent.
    """

    me: str
    claims: Sequence[Charge]
    versioned: Charge
    used: Charge
    issues: Sequence[Issued]
    capacity: int
    bucket: TokenBucket

    async def __call__(self, store: Store) -> dict[str, Any]:
        """Want all of it, as much of each as can be at once; return what was got."""
        times = range(len(self.claims))
        claims = await asyncio.gather(*(store.claim(charge) for charge in self.claims))
        saves = await asyncio.gather(*(store.save(self.versioned) for _ in times), return_exceptions=True)
        uses = await asyncio.gather(*(self._take(store, number) for number in times))
        issued = await asyncio.gather(*(store.issue(row, now=0, capacity=self.capacity) for row in self.issues))
        tokens = await asyncio.gather(*(store.spend("ip", 1, self.bucket, now=1) for _ in times))
        return {
            "won": [claim.charge.id for claim in claims if claim.won],
            "seen": sorted({claim.charge.id for claim in claims}),
            "saves": sum(isinstance(save, Charge) for save in saves),
            "uses": [charge.uses_taken for charge in uses if charge is not None],
            "issued": sum(issued),
            "tokens": sum(tokens),
            "leads": [await store.lead("reconciler", self.me, now=0, seconds=30) for _ in range(3)],
            "setting": await store.remember("salt", self.me),
            "payer": await self._payer(store, claims),
        }

    async def _take(self, store: Store, number: int) -> Charge | None:
        return await store.take_use(self.used.id, f"{self.me} {number}", now=0, lease_until=1)

    async def _payer(self, store: Store, claims: Sequence[Claim]) -> str | None:
        """Say who pays, having won; else wait for who has, and return what it says."""
        for claim in claims:
            if claim.won:
                return (await store.save(claim.charge.model_copy(update={"payer": self.me}))).payer
        written = await store.wait(claims[0].charge.model_copy(update={"version": 0}), timeout=_SECONDS // 2)
        return None if written is None else written.payer
