"""Where the real services are, as a worker is told: what its banks need, and nothing that cannot be JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.services import anvil, lightning, lnbits, postgres
from tests.services.anvil import EvmChain
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair

__all__ = ["available", "of_evm", "of_lnbits", "of_postgres", "of_regtest", "running"]


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


def of_lnbits(pair: LnbitsPair) -> dict[str, Any]:
    """How to reach the two LNbits."""
    return {"lnbits": {"publisher": asdict(pair.publisher), "payer": asdict(pair.payer)}}


def of_postgres(server: postgres.PostgresServer) -> dict[str, Any]:
    """How to reach a database."""
    return {"postgres": server.url}


def available() -> set[str]:
    """The services that are installed."""
    modules = {"anvil": anvil, "lnd": lightning, "lnbits": lnbits, "postgres": postgres}
    return {name for name, module in modules.items() if module.missing() is None}


@contextmanager
def running(names: set[str]) -> Iterator[dict[str, Any]]:
    """Start these services, until the block ends."""
    with ExitStack() as stack:
        where: dict[str, Any] = {}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rail402-services-")))
        if "anvil" in names:
            where |= of_evm(stack.enter_context(anvil.evm_chain(folder / "evm")))
        if "lnd" in names:
            network = stack.enter_context(lightning.regtest_network(folder / "regtest"))
            where |= of_regtest(network)
            if "lnbits" in names:
                where |= of_lnbits(stack.enter_context(lnbits.lnbits_pair(network, folder / "lnbits")))
        if "postgres" in names:
            where |= of_postgres(stack.enter_context(postgres.postgres_server(folder / "postgres")))
        yield where
