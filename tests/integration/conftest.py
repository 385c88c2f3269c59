"""Real services, started once per test session, for the tests that ask for them by fixture."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import pytest

from tests.services import lightning, lnbits, processes, require

T = TypeVar("T")

_LIGHTNING_FIXTURES = {"regtest", "lnbits_pair"}


@pytest.fixture(scope="session")
def regtest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lightning.RegtestNetwork]:
    """Two lnd nodes with a channel between them."""
    if reason := lightning.missing():
        require("lightning", reason)
    yield from _serve(lightning.regtest_network(tmp_path_factory.mktemp("regtest")))


@pytest.fixture(scope="session")
def lnbits_pair(
    regtest: lightning.RegtestNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[lnbits.LnbitsPair]:
    """A publisher's LNbits on Alice's node and a payer's, with money in it, on Bob's."""
    if reason := lnbits.missing():
        require("lnbits", reason)
    yield from _serve(lnbits.lnbits_pair(regtest, tmp_path_factory.mktemp("lnbits")))


def _serve(service: AbstractContextManager[T]) -> Iterator[T]:
    """What `service` gives, until the session ends; when it does not start, its log says more than our stack."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(service)
        except processes.ServiceFailed as error:
            pytest.fail(str(error), pytrace=False)
        yield started


# First, for pytest-xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Lightning; with `pytest -n 2 --dist loadgroup` one worker runs all of it, so it starts once."""
    for item in items:
        if _LIGHTNING_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.service("lightning"))
            item.add_marker(pytest.mark.xdist_group("lightning"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the services logged last under a test of theirs that failed."""
    report = yield
    if report.when == "call" and report.failed and _LIGHTNING_FIXTURES & set(getattr(item, "fixturenames", ())):
        report.sections += [(f"end of {process.log_path}", process.log_tail(15)) for process in processes.active()]
    return report
