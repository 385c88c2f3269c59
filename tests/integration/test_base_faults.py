"""The faults of `rail402.testing.faults` between the relayer and a real EVM: what is paid is paid once, and found.

Every call by every fault is in `tests/faults`, on a chain in memory; here are the two calls by which money moves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.testing.faults import FAULTS, Faults, FaultyTransport, json_rpc_methods
from rail402_base.chain import Submitted, Transfer, Unused
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.rpc.reader import ChainReader
from tests.integration.test_base_rpc import FAST, Shop
from tests.services.anvil import EvmChain

NAMES = (
    "connection refused",
    "timeout, never arrived",
    "answer lost",
    "closed, carried out",
    "500 JSON, carried out",
    "502 page",
    "502 page, carried out",
    "429, Retry-After absurd",
    "truncated JSON",
    "body cut off",
    "huge body",
    "delivered twice",
    "answer to another call",
)


async def at_once(seconds: float) -> None:
    """Wait as long as a test has time for."""
    await asyncio.sleep(0)


@pytest.mark.parametrize("call", ["*eth_sendRawTransaction*", "*eth_getTransactionReceipt*"])
@pytest.mark.parametrize("name", NAMES)
async def test_whatever_goes_wrong_it_is_paid_once(evm: EvmChain, tmp_path: Path, name: str, call: str) -> None:
    shop = Shop(evm, tmp_path)
    wire = FaultyTransport(httpx.AsyncHTTPTransport(), Faults(), named=json_rpc_methods, sleep=at_once)
    settings = RelaySettings(**{**FAST, "settle_seconds": 20})
    reader = ChainReader(evm.url, evm.token, timeout=5, transport=wire)
    backend = RpcBackend(reader, shop.relayer.private_key, store=shop.store, settings=settings)
    authorization = shop.authorize()
    await backend.start()
    try:
        wire.faults.on(FAULTS[name], "POST", call)
        try:
            found = await shop.settle(backend, authorization)
        except RailUnavailable:
            wire.faults.clear()
            assert await shop.trace(backend, authorization) == Unused(expired=False)
            found = await shop.settle(backend, authorization)
        except OutcomeUnknown:
            found = Submitted(transaction="")
        assert sum(each.fault is FAULTS[name] for each in wire.calls) == 1
        wire.faults.clear()
        async with asyncio.timeout(60):
            while not isinstance(found, Transfer):
                await asyncio.sleep(0.1)
                try:
                    found = await shop.trace(backend, authorization)  # type: ignore[assignment]
                except (RailUnavailable, OutcomeUnknown):  # the node rests a while after a fault
                    continue
    finally:
        await backend.close()
    shop.assert_paid([authorization])
    assert shop.nonce() == 1
