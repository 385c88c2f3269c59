from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.agents import Agent, OpenAgent


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
