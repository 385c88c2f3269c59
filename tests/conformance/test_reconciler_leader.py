"""Of several processes on one store one reconciles; where it is killed, another one takes over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.services.processes import wait_for

WORKER = """
import asyncio, sys
from rail402 import Gate
from rail402.server import reconciler
from rail402_base import BaseRail

reconciler._LEAST_LEADERSHIP = 2  # seconds, for the test not to wait for long


class Telling(reconciler.Reconciler):
    async def run_once(self):
        print(self._services.clock(), flush=True)
        return await super().run_once()


async def main():
    async with Gate(
        rails=[BaseRail.sandbox(sys.argv[1])],
        public_url="https://shop.example",
        store=f"sqlite:///{sys.argv[1]}/charges.db",
        reconcile_seconds=0,
    ) as gate:
        services = gate.services()
        services.settings  # open
        await Telling(services).run_forever(every=0.05)


asyncio.run(main())
"""


class Worker:
    """One process, and the times at which it had its turns."""

    def __init__(self, path: Path, number: int) -> None:
        self.said = path / f"turns-{number}.txt"
        with self.said.open("w") as out:
            self.process = subprocess.Popen([sys.executable, "-c", WORKER, str(path)], stdout=out)

    @property
    def turns(self) -> int:
        return len(self.said.read_text().splitlines())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def three(path: Path) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        workers = []
        for number in range(3):
            workers.append(Worker(path, number))
            stack.callback(workers[-1].kill)
        yield workers


def leading(workers: list[Worker]) -> list[Worker]:
    """Who has a turn now."""
    before = [worker.turns for worker in workers]
    wait_for("a turn", lambda: [worker.turns for worker in workers] != before, 30)
    return [worker for worker, turns in zip(workers, before, strict=True) if worker.turns > turns]


@pytest.mark.parametrize("killed", [2])
def test_one_works_and_another_takes_over(tmp_path: Path, killed: int) -> None:
    with three(tmp_path) as workers:
        alive = list(workers)
        for _ in range(killed):
            (leader,) = leading(alive)
            turns = {id(each): each.turns for each in alive if each is not leader}
            wait_for("ten turns of the leader", lambda leader=leader, begin=leader.turns: leader.turns > begin + 10, 30)
            assert turns == {id(each): each.turns for each in alive if each is not leader}, "two lead at once"
            leader.kill()
            alive.remove(leader)
        assert leading(alive) == alive
