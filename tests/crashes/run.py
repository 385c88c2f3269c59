"""One run: two processes, of which some die at their step, are started again, and have to leave the books right."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rail402.client.journal import Journal
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.protocol.charge import Charge, PaymentState
from rail402.stores import open_store
from tests.crashes.agent import Phase, live
from tests.crashes.banks import Books
from tests.crashes.facilitated import Facilitated, facilitate
from tests.crashes.processes import RECONCILE, Child
from tests.crashes.scenarios import Plan, Scenario
from tests.crashes.servers import HarnessFailed, Server
from tests.crashes.shop import serve
from tests.crashes.tools import said_by_tool
from tests.crashes.world import TOOLS, World, lines

__all__ = ["Facts", "HarnessFailed", "Shown", "gather", "perform"]

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_WEEK: Final = 8 * _DAY
# How long an agent that was not served waits before it asks again: leases, authorizations, invoices and holds end.
_PATIENCE: Final = (0, 5, 130, 130, 700, 2 * _HOUR, _WEEK) + 2 * (0, 130, 2 * _HOUR, _WEEK)


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
        failed_runs: how often the handler failed.
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
    failed_runs: int
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
        self._client_ends = iter(plan.client)
        self._servers: dict[str, Server] = {}
        if isinstance(world.bank, Facilitated):
            self._servers["facilitator"] = self._server("facilitator", world.bank.port, facilitate)
        self._shop = self._servers["server"] = self._server("server", world.port, serve)
        self._agents: list[Child] = []
        self._kills = self._in_window = self._away = 0
        self._steps: dict[str, Sequence[str]] = {}
        self._shown: list[Shown] = []

    def close(self) -> None:
        for agent in self._agents:
            agent.kill()
        for server in self._servers.values():
            server.kill()
        self._world.close()

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
            self._keep_all_steps()  # what comes after the first time is the same again
        self._keep_all_steps()
        self._show_again(late=False)
        for seconds in (0, 130, 700, _DAY if world.scenario.uses > 1 else 0):
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
            failed_runs=sum(ending in ("fails", "raises") for ending in world.scenario.handler),
            kills=self._kills,
            steps=self._steps,
        )

    # --- the servers

    def _start(self) -> None:
        for server in self._servers.values():
            server.start()

    def _server(self, who: str, port: int, live: Callable[[World, int], None]) -> Server:
        work, ends = partial(live, self._world), iter(getattr(self._plan, who))
        return Server(port, work, ends, self._world.log(who), partial(self._count_death, who))

    def _count_death(self, who: str) -> None:
        self._kills += 1
        self._keep_steps(who)

    def _keep_steps(self, who: str) -> None:
        path = self._world.path / f"{who}.steps"
        if path.exists():
            self._steps.setdefault(who, path.read_text().splitlines())

    def _keep_all_steps(self) -> None:
        for who in self._servers:
            self._keep_steps(who)

    def _revive(self) -> None:
        for server in self._servers.values():
            server.revive()

    def _wait(self, seconds: int) -> None:
        """Let time pass, then have the reconcilers run."""
        self._world.pass_time(seconds)
        for server in 2 * [*self._servers.values()]:
            server.ask("POST", RECONCILE)

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
            if any(server.is_dead for server in self._servers.values()):
                server_died = True
                if plan.after == 0:
                    self._revive()
            if any(agent.has_failed for agent in self._agents):
                break
            time.sleep(0.004)
        if any(agent.has_failed for agent in self._agents):
            log = self._world.log("client-0")
            raise HarnessFailed(f"an agent failed: {log.read_text(errors='replace')[-2000:]}")
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
        if self._world.scenario.uses == 1:  # a use is repeated with its key
            self._in_window = max(self._in_window, len(closed) - len(lines(self._world.received(0))))

    def _is_done(self) -> bool:
        scenario, clients = self._world.scenario, range(self._plan.clients)
        if scenario.is_fetched and self._is_owed_back():
            return False
        if scenario.never_serves or scenario.is_stuck(self._away):
            return not self._open_purchases()
        return all(len(lines(self._world.received(number))) >= scenario.uses for number in clients)

    def _is_owed_back(self) -> bool:
        charges, _ = gather(self._world, 0)
        return any(charge.payment is not PaymentState.REFUNDED for charge in charges if charge.settled_at is not None)

    def _open_purchases(self) -> list[PurchaseRecord]:
        found = (_purchases(self._world, number) for number in range(self._plan.clients))
        return [purchase for each in found for purchase in each if purchase.is_open]

    def _show_again(self, *, late: bool) -> None:
        """Show every payment that ever left once more, as whoever overheard it might."""
        ask = self._ask_route if self._world.scenario.via == "http" else self._call_tool
        for shown in self._presented():
            self._shown.append(Shown(*ask(shown), late))

    def _ask_route(self, fields: Mapping[str, Any]) -> tuple[int, str, bool]:
        return self._shop.ask("GET", "/goods", fields)

    def _call_tool(self, call: Mapping[str, Any]) -> tuple[int, str, bool]:
        _, answer, _ = self._shop.ask("POST", TOOLS, call["fields"], call["content"])
        return said_by_tool(answer)

    def _presented(self) -> Iterator[Mapping[str, Any]]:
        known: set[str] = set()
        for number in range(self._plan.clients):
            shown = lines(self._world.presented(number))
            if self._world.scenario.uses > 1:  # as somebody who does not know the keys
                shown += [{name: fields[name] for name in fields if name != "idempotency-key"} for fields in shown]
            for fields in shown:
                if (text := json.dumps(fields, sort_keys=True)) not in known:
                    known.add(text)
                    yield fields


def gather(world: World, clients: int) -> tuple[Sequence[Charge], Sequence[PurchaseRecord]]:
    """What the shop's store and the agents' journals hold."""

    async def read() -> Sequence[Charge]:
        store = open_store(world.store)
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
