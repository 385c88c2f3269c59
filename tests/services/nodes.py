"""The fixtures of the nodes, for the `conftest.py` of any folder whose tests use one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services import anvil, lightning, require
from tests.services.processes import serve

__all__ = ["evm", "regtest"]


@pytest.fixture(scope="session")
def regtest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lightning.RegtestNetwork]:
    """Three lnd nodes in a row, with channels."""
    if reason := lightning.missing():
        require("lightning", reason)
    yield from serve(lightning.regtest_network(tmp_path_factory.mktemp("regtest")))


@pytest.fixture(scope="session")
def evm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[anvil.EvmChain]:
    """An EVM chain with the token on it. Every test makes accounts of its own."""
    if reason := anvil.missing():
        require("anvil", reason)
    yield from serve(anvil.evm_chain(tmp_path_factory.mktemp("evm")))
