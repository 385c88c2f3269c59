"""Real services, started once per test session, for the tests that ask for them by fixture."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.services import lightning, lnbits, processes, require, stripe_mock
from tests.services.databases import lossy_url, own_postgres, postgres, redis_url, relay, schema
from tests.services.nodes import evm, regtest
from tests.services.processes import serve

__all__ = ["evm", "lossy_url", "own_postgres", "postgres", "redis_url", "regtest", "relay", "schema"]

_SERVICES = {
    "regtest": "lightning",
    "lnbits_pair": "lightning",
    "evm": "evm",
    "mock": "stripe-mock",
    "postgres": "postgres",
    "own_postgres": "postgres",
    "redis_url": "redis",
}
"""The service of each fixture."""


@pytest.fixture(scope="session")
def lnbits_pair(
    regtest: lightning.RegtestNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[lnbits.LnbitsPair]:
    """A publisher's LNbits on Alice's node and a payer's, with money in it, on Bob's."""
    if reason := lnbits.missing():
        require("lnbits", reason)
    yield from serve(lnbits.lnbits_pair(regtest, tmp_path_factory.mktemp("lnbits")))


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stripe_mock.StripeMock]:
    """A stripe-mock, which refuses requests that Stripe's description of its API does not allow."""
    if reason := stripe_mock.missing():
        require("stripe-mock", reason)
    yield from serve(stripe_mock.stripe_mock(tmp_path_factory.mktemp("stripe-mock")))


# First, for pytest-xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a service; with `pytest -n 2 --dist loadgroup` one worker runs all of it, so it starts once."""
    for item in items:
        for service in _services(item):
            item.add_marker(pytest.mark.service(service))
            item.add_marker(pytest.mark.xdist_group(service))


def _services(item: pytest.Item) -> list[str]:
    return sorted({_SERVICES[name] for name in getattr(item, "fixturenames", ()) if name in _SERVICES})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the services logged last under a test of theirs that failed."""
    report = yield
    if report.when == "call" and report.failed and _services(item):
        report.sections += [(f"end of {process.log_path}", process.log_tail(5, 200)) for process in processes.active()]
    return report
