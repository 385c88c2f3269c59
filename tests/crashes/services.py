"""Where the real services are, as a worker is told: what its banks need, and nothing that cannot be JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.services import anvil, lightning
from tests.services.anvil import EvmChain
from tests.services.lightning import RegtestNetwork

__all__ = ["available", "of_evm", "of_regtest", "running"]


def of_evm(evm: EvmChain) -> dict[str, Any]:
    """How to reach a chain."""
    return {"anvil": {"url": evm.url, "slots": evm.slots}}


def of_regtest(network: RegtestNetwork) -> dict[str, Any]:
    """How to reach Alice's and Bob's nodes."""
    nodes = {"alice": network.alice, "bob": network.bob}
    return {
        "lnd": {
            name: {"url": node.rest_url, "cert": str(node.tls_cert_path), "macaroon": node.macaroon_hex}
            for name, node in nodes.items()
        }
    }


def available() -> set[str]:
    """The banks whose services are installed."""
    missing = {"anvil": anvil.missing(), "lnd": lightning.missing()}
    return {name for name, reason in missing.items() if reason is None}


@contextmanager
def running(banks: set[str]) -> Iterator[dict[str, Any]]:
    """Start what these banks need, until the block ends."""
    with ExitStack() as stack:
        where: dict[str, Any] = {}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rail402-services-")))
        if "anvil" in banks:
            where |= of_evm(stack.enter_context(anvil.evm_chain(folder / "evm")))
        if "lnd" in banks:
            where |= of_regtest(stack.enter_context(lightning.regtest_network(folder / "regtest")))
        yield where
