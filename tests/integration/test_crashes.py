"""The server, or the client, dies on real services: on an EVM, and with money in the channels of two lnd nodes.

A seeded sample of the steps; `make crashes` takes all of them.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.crashes.matrix import WHO, clean_steps, command, once_each
from tests.crashes.scenarios import REAL, Plan, Scenario
from tests.crashes.services import of_evm, of_regtest
from tests.crashes.worker import Worker
from tests.services.anvil import EvmChain
from tests.services.lightning import RegtestNetwork

SAMPLE = 4


def sampled(scenario: Scenario, who: str, steps: list[str]) -> list[Plan]:
    """Some of the steps."""
    plans = list(once_each(who, steps))
    return random.Random(f"{scenario} {who}").sample(plans, min(SAMPLE, len(plans)))


def try_out(scenario: Scenario, where: dict[str, Any]) -> None:
    wrong = []
    with Worker.open(where) as worker:
        steps = clean_steps(worker, scenario)
        for who in WHO:
            for plan in sampled(scenario, who, steps[who]):
                found = worker.perform(scenario, plan)
                if found.violations:
                    wrong.append(f"{found.violations}\n    {command(scenario, plan)}\n    {found.path}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("scenario", [each for each in REAL if each.bank == "anvil"], ids=str)
def test_the_balances_on_an_evm_are_right(evm: EvmChain, scenario: Scenario) -> None:
    now = evm.now()
    before = evm.call("evm_snapshot")
    try:
        try_out(scenario, of_evm(evm))
    finally:
        evm.call("evm_revert", before)  # the harness lets days pass there
    assert evm.now() == now


@pytest.mark.parametrize("scenario", [each for each in REAL if each.bank == "lnd"], ids=str)
def test_the_balances_of_the_channels_are_right(regtest: RegtestNetwork, scenario: Scenario) -> None:
    regtest.wait_until_idle()
    try_out(scenario, of_regtest(regtest))
