"""Agents and publishers to attack, real services, and a record of what every attack found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import RESULTS, Observe, case_of, observations
from tests.conformance.test_base_end_to_end import World
from tests.conformance.test_lightning_end_to_end import Town
from tests.services.databases import postgres
from tests.services.nodes import evm, regtest

__all__ = ["evm", "postgres", "regtest"]

_GROUPS = {"regtest": "attacks-lightning", "evm": "attacks-evm"}
_OBSERVED = pytest.StashKey[list[str]]()


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Observe:
    """Say what was observed, as `docs/security.md` is to say it."""
    return request.node.stash.setdefault(_OBSERVED, []).append


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two transports an agent uses."""
    return str(request.param)


@pytest.fixture
async def open_agent(tmp_path: Path, kind: Any) -> AsyncIterator[OpenAgent]:
    """Open agents on one journal; they are closed afterwards."""
    agents: list[Agent] = []

    def make(**options: Any) -> Agent:
        agents.append(Agent(tmp_path, options.pop("kind", kind), **options))
        return agents[-1]

    yield make
    for agent in agents:
        await agent.close()


@pytest.fixture
def agent(open_agent: OpenAgent) -> Agent:
    """An agent with the default budget and a wallet that can pay any fake offer."""
    return open_agent()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A publisher on Base's sandbox: real signatures, and a ledger for the money."""
    async with World(tmp_path).open() as world:
        yield world


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """A publisher on Lightning's sandbox: real invoices and preimages, and a ledger for the money."""
    town = Town(tmp_path)
    async with town.gate, town.http:
        yield town
        assert (await town.books()).in_flight_msat == 0


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Stripe's library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


# First, for pytest-xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a service; with `--dist loadgroup` one worker runs all that needs it, so that it starts once."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for group in {_GROUPS[name] for name in getattr(item, "fixturenames", ()) if name in _GROUPS}:
                item.add_marker(pytest.mark.service(group.removeprefix("attacks-")))
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down what a test observed, or that it failed; one that did not run leaves nothing."""
    report = yield
    function = getattr(item, "originalname", item.name)
    if item.path.parent == Path(__file__).parent and case_of(item.path) is not None:
        path = RESULTS / f"{hashlib.sha256(item.nodeid.encode()).hexdigest()[:32]}.json"
        if report.when == "setup":
            path.unlink(missing_ok=True)
        speaks = any((each.file, each.function) == (item.path.name, function) for each in observations())
        if speaks and not report.skipped and (report.when == "call" or report.failed):
            RESULTS.mkdir(parents=True, exist_ok=True)
            texts = item.stash.get(_OBSERVED, [])
            row = {"file": item.path.name, "function": function, "passed": report.passed, "observed": texts}
            path.write_text(json.dumps(row, indent=1) + "\n")
    return report
