"""One run: two processes, of which some die at their step, are started again, and have to leave the books right."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rail402.client.journal import Journal
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.protocol.charge import Charge
from rail402.stores.sqlite import SqliteStore
from tests.crashes.agent import Phase, live
from tests.crashes.banks import Books
from tests.crashes.processes import Child
from tests.crashes.scenarios import Plan, Scenario
from tests.crashes.shop import RECONCILE, serve
from tests.crashes.world import World, lines

__all__ = ["WINDOW", "Facts", "HarnessFailed", "Shown", "gather", "perform"]

_HOUR: Final = 3600
_WEEK: Final = 8 * 24 * _HOUR
# How long an agent that was not served waits before it asks again: leases, authorizations, invoices and holds end.
_PATIENCE: Final = (0, 5, 130, 130, 700, 2 * _HOUR, _WEEK) + 2 * (0, 130, 2 * _HOUR, _WEEK)
_START_SECONDS: Final = 30

WINDOW: Final = 600
"""Seconds for which a shop keeps an answer for who paid, unless it says otherwise."""


class HarnessFailed(Exception):
    """The harness itself went wrong, or a process ended by an error of its own."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of a payment that was shown once more."""

    status: int
    body: str
    is_replay: bool
    late: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to judge when all is over.

    Attributes:
        books: what has moved since the beginning.
        runs: how often the handler ran, by charge; received: the bodies that agents have in hand.
        in_window: purchases that were closed by an agent that then died with the goods in its memory.
        away: seconds that passed between the first death and the end of all waiting.
        kills: how many processes died; steps: those of each process's first life.
    """

    scenario: Scenario
    plan: Plan
    books: Books
    charges: Sequence[Charge]
    purchases: Sequence[PurchaseRecord]
    runs: Mapping[str, int]
    received: Sequence[Mapping[str, Any]]
    shown: Sequence[Shown]
    in_window: int
    away: int
    kills: int
    steps: Mapping[str, Sequence[str]] = field(repr=False)


def perform(path: Path, scenario: Scenario, plan: Plan, where: Mapping[str, Any]) -> Facts:
    """Run a plan in an empty directory.

    Raises:
        HarnessFailed: what was to be tried could not be.
    """
    world = World.make(path, scenario, where, plan.clients)
    (path / "plan.json").write_text(json.dumps({"scenario": str(scenario), **asdict(plan)}))
    run = _Run(world, plan)
    try:
        return run.to_the_end()
    finally:
        run.close()


class _Run:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan
        self._server_ends, self._client_ends = iter(plan.server), iter(plan.client)
        self._shop: Child | None = None
        self._agents: list[Child] = []
        self._kills = self._in_window = self._away = 0
        self._steps: dict[str, Sequence[str]] = {}
        self._shown: list[Shown] = []

    def close(self) -> None:
        for child in [*self._agents, *filter(None, [self._shop])]:
            child.kill()
        self._world.claim.close()

    def to_the_end(self) -> Facts:
        world = self._world
        before = world.bank.books()
        self._start()
        self._phase("buy")
        for seconds in _PATIENCE:
            if self._is_done():
                break
            self._away += seconds
            self._wait(seconds)
            self._phase("go on")
            self._keep_steps("server")  # what comes after the first time is the same again
        self._keep_steps("server")
        self._show_again(late=False)
        for seconds in (0, 130, 700):
            self._wait(seconds)
        if self._open_purchases():
            self._phase("look")
        self._show_again(late=True)
        charges, purchases = gather(world, self._plan.clients)
        runs = lines(world.runs)
        return Facts(
            scenario=world.scenario,
            plan=self._plan,
            books=world.bank.books().since(before),
            charges=charges,
            purchases=purchases,
            runs={charge: runs.count(charge) for charge in runs},
            received=[body for number in range(self._plan.clients) for body in lines(world.received(number))],
            shown=self._shown,
            in_window=self._in_window,
            away=self._away,
            kills=self._kills,
            steps=self._steps,
        )

    # --- the server

    def _start(self) -> None:
        """Start the shop, again where it dies meanwhile."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            work = partial(serve, self._world, next(self._server_ends, 0))
            self._shop = Child(work, self._world.log("server"))
            while not self._listens():
                if self._shop.has_failed or time.monotonic() > deadline:
                    raise HarnessFailed(f"the shop does not start: {self._tail('server')}")
                if self._shop.ended:
                    break
                time.sleep(0.004)
            else:
                return
            self._count_death("server")

    def _listens(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._world.port, timeout=5)
        with closing(connection):
            try:
                connection.connect()
            except OSError:
                return False
        return True

    def _count_death(self, who: str) -> None:
        self._kills += 1
        self._keep_steps(who)

    def _keep_steps(self, who: str) -> None:
        path = self._world.path / f"{who}.steps"
        if path.exists():
            self._steps.setdefault(who, path.read_text().splitlines())

    def _revive(self) -> None:
        """Have the shop back where it died."""
        assert self._shop is not None
        if self._shop.has_failed:
            raise HarnessFailed(f"the shop failed: {self._tail('server')}")
        if self._shop.ended:
            self._count_death("server")
            self._start()

    def _wait(self, seconds: int) -> None:
        """Let time pass, then have the reconciler run."""
        self._world.pass_time(seconds)
        for _ in range(2):
            self._ask("POST", RECONCILE)

    def _ask(self, method: str, path: str, fields: Mapping[str, str] | None = None) -> tuple[int, str, bool]:
        """Ask the shop, which may die of it; it is asked again then."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._revive()
            connection = http.client.HTTPConnection("127.0.0.1", self._world.port, timeout=30)
            with closing(connection):
                try:
                    connection.request(method, path, headers=dict(fields or {}))
                    answer = connection.getresponse()
                    body = answer.read().decode()
                except (OSError, http.client.HTTPException):
                    time.sleep(0.02)
                    continue
            return answer.status, body, answer.getheader("idempotent-replayed") == "true"
        raise HarnessFailed(f"the shop does not answer: {self._tail('server')}")

    # --- the agents

    def _phase(self, phase: Phase) -> None:
        """Have all agents do the same, and whoever dies is there again at the end."""
        world, plan = self._world, self._plan
        for number in range(plan.clients):
            end = next(self._client_ends, 0) if number == 0 else 0
            work = partial(live, world, number, phase, end)
            self._agents.append(Child(work, world.log(f"client-{number}")))
        server_died = False
        while sum(agent.ended for agent in self._agents) < len(self._agents):
            assert self._shop is not None
            if self._shop.ended:
                server_died = True
                if plan.after == 0:
                    self._revive()
            if any(agent.has_failed for agent in self._agents):
                break
            time.sleep(0.004)
        if any(agent.has_failed for agent in self._agents):
            raise HarnessFailed(f"an agent failed: {self._tail('client-0')}")
        agents, self._agents = self._agents, []
        agent_died = agents[0].was_killed
        if agent_died:
            self._count_death("client-0")
            self._count_window()
        else:
            self._keep_steps("client-0")
        if server_died or agent_died:
            self._away += plan.after
            world.pass_time(plan.after)
        self._revive()

    def _count_window(self) -> None:
        """What a journal calls bought is in the hands of who asked; if that dies, so do they."""
        closed = [each for each in _purchases(self._world, 0) if each.state is PurchaseState.COMMITTED and each.receipt]
        self._in_window = max(self._in_window, len(closed) - len(lines(self._world.received(0))))

    def _is_done(self) -> bool:
        if self._world.scenario.never_serves:
            return not self._open_purchases()
        if self._world.scenario.bank == "lnd" and self._away > WINDOW:  # see `verdict`
            return not self._open_purchases()
        return all(lines(self._world.received(number)) for number in range(self._plan.clients))

    def _open_purchases(self) -> list[PurchaseRecord]:
        found = (_purchases(self._world, number) for number in range(self._plan.clients))
        return [purchase for each in found for purchase in each if purchase.is_open]

    def _show_again(self, *, late: bool) -> None:
        """Show every payment that ever left once more, as whoever overheard it might."""
        for fields in self._presented():
            status, body, is_replay = self._ask("GET", "/goods", fields)
            self._shown.append(Shown(status, body, is_replay, late))

    def _presented(self) -> Iterator[Mapping[str, str]]:
        known: set[str] = set()
        for number in range(self._plan.clients):
            for fields in lines(self._world.presented(number)):
                if (text := json.dumps(fields, sort_keys=True)) not in known:
                    known.add(text)
                    yield fields

    def _tail(self, who: str) -> str:
        path = self._world.log(who)
        return path.read_text(errors="replace")[-2000:] if path.exists() else "(it wrote nothing)"


def gather(world: World, clients: int) -> tuple[Sequence[Charge], Sequence[PurchaseRecord]]:
    """What the shop's store and the agents' journals hold."""

    async def read() -> Sequence[Charge]:
        store = SqliteStore(world.store)
        await store.start()
        try:
            return await store.recent(limit=100)
        finally:
            await store.close()

    return asyncio.run(read()), [each for number in range(clients) for each in _purchases(world, number)]


def _purchases(world: World, number: int) -> Sequence[PurchaseRecord]:
    async def read() -> Sequence[PurchaseRecord]:
        journal = Journal(f"sqlite:///{world.journal(number)}")
        await journal.start()
        try:
            return await journal.newest()
        finally:
            await journal.close()

    return asyncio.run(read()) if world.journal(number).exists() else []
