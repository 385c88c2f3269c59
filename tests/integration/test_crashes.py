"""The server, or the client, or a facilitator between them dies on real services: on an EVM, with money in the channels
of two lnd nodes, with the charges in a PostgreSQL.

A seeded sample of the steps; `make crashes` takes all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.crashes.matrix import clean_steps, command, sampled
from tests.crashes.scenarios import REAL, Scenario
from tests.crashes.services import of_evm, of_lnbits, of_postgres, of_regtest
from tests.crashes.worker import Worker
from tests.services.anvil import EvmChain
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair
from tests.services.postgres import PostgresServer

SAMPLE = 1


def on(*services: str) -> pytest.MarkDecorator:
    """Those that need just these."""
    return pytest.mark.parametrize("scenario", [each for each in REAL if each.services == {*services}], ids=str)


def try_out(scenario: Scenario, where: dict[str, Any]) -> None:
    wrong = []
    with Worker.open(where) as worker:
        for who, steps in clean_steps(worker, scenario).items():
            for plan in sampled(scenario, who, steps, SAMPLE):
                found = worker.perform(scenario, plan)
                if found.violations:
                    wrong.append(f"{found.violations}\n    {command(scenario, plan)}\n    {found.path}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def chain(evm: EvmChain) -> Iterator[dict[str, Any]]:
    """How to reach a chain, which is left as it was."""
    now = evm.now()
    before = evm.call("evm_snapshot")
    try:
        yield of_evm(evm)
    finally:
        evm.call("evm_revert", before)  # the harness lets days pass there
    assert evm.now() == now


@on("anvil")
def test_the_balances_on_an_evm_are_right(chain: dict[str, Any], scenario: Scenario) -> None:
    try_out(scenario, chain)


@on("anvil", "postgres")
def test_a_relayer_in_a_postgresql_pays_as_often(
    chain: dict[str, Any], postgres: PostgresServer, scenario: Scenario
) -> None:
    try_out(scenario, chain | of_postgres(postgres))


@on("lnd")
def test_the_balances_of_the_channels_are_right(regtest: RegtestNetwork, scenario: Scenario) -> None:
    regtest.wait_until_idle()
    try_out(scenario, of_regtest(regtest))


@on("lnd", "lnbits")
def test_the_wallets_at_lnbits_agree_with_the_channels(
    regtest: RegtestNetwork, lnbits_pair: LnbitsPair, scenario: Scenario
) -> None:
    regtest.wait_until_idle()
    try_out(scenario, of_regtest(regtest) | of_lnbits(lnbits_pair))


@on("postgres")
def test_a_postgresql_has_the_same_books(postgres: PostgresServer, scenario: Scenario) -> None:
    try_out(scenario, of_postgres(postgres))
