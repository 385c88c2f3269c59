"""The bank, our shop, real Lightning nodes, a real EVM; and a record of what became of every case."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import stripe

from tests.interop.bank import Bank, Shop, listening, served
from tests.interop.peers import RESULTS, Case
from tests.services import anvil, facilitator, require
from tests.services.nodes import evm as chain
from tests.services.nodes import regtest
from tests.services.processes import serve

__all__ = ["chain", "regtest"]

_GROUPS = {"regtest": "interop-lightning", "chain": "interop-evm"}


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Stripe's library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with Bank.open(tmp_path / "bank") as bank:
        yield bank


@pytest.fixture
async def shop(bank: Bank) -> AsyncIterator[Shop]:
    """Our server on a port, with FastAPI."""
    with listening() as (found, url):
        shop = Shop(bank, url)
        shop.sell()
        async with served(shop.app, found):
            yield shop


@pytest.fixture(scope="session")
def official(
    chain: anvil.EvmChain, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[facilitator.OfficialFacilitator]:
    """The facilitator of PyPI's x402. It settles payments of both versions."""
    if reason := facilitator.missing():
        require("x402", reason)
    yield from serve(facilitator.facilitator(tmp_path_factory.mktemp("facilitator"), chain))


# First, for pytest-xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a peer; with `--dist loadgroup` one worker runs all that needs a service, so it starts once."""
    for item in items:
        case = _case_of(item)
        if case is not None:
            item.add_marker(pytest.mark.service(case.package.service))
        if Path(__file__).parent in item.path.parents:
            for group in {_GROUPS[name] for name in getattr(item, "fixturenames", ()) if name in _GROUPS}:
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down what became of a case; one that could not run leaves no result."""
    report = yield
    case = _case_of(item)
    if case is not None and report.skipped:
        (RESULTS / f"{case}.json").unlink(missing_ok=True)
    elif case is not None and (report.when == "call" or report.failed):
        _write(case, "failed" if report.failed else "reason" if case.reason else "pass")
    return report


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec is not None else None
    return case if isinstance(case, Case) else None


def _write(case: Case, outcome: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    row = {
        "registry": case.package.registry,
        "peer": case.package.name,
        "version": case.package.version,
        "role": case.role,
        "route": case.route,
        "outcome": outcome,
    }
    (RESULTS / f"{case}.json").write_text(json.dumps(row, indent=1) + "\n")
