"""The conformance kit for rails: one class with a case for every promise of `rail402.protocol.rail`.

A rail proves itself in its own test suite, which needs pytest, pytest-asyncio and the extra `server`::

    from rail402.testing.rails import RailBench, RailConformance

    class MyBench(RailBench):
        def __init__(self, directory):
            self.clock = FakeClock()
            self.sandbox_of_mine = MySandbox(directory, clock=self.clock)
            self.rail = MyRail(self.sandbox_of_mine)
            self.wallet = MyWallet(self.sandbox_of_mine)

        async def payer_has(self):
            return self.sandbox_of_mine.balance("payer")

        async def payee_has(self):
            return self.sandbox_of_mine.balance("shop")

    class TestMyRail(RailConformance):
        ways = [("card", "escrow"), ("card", "upfront")]  # each mechanism, with each of its flows

        async def open_bench(self, directory):
            return MyBench(directory)

`open_bench` returns a new bench, its rail and wallet not started; the kit starts and closes them, once per case. The
bench can bring about more than that (see `RailBench`): a backend that is down, an answer that is lost, a proof with
which nothing was paid; and it names the keys that must show up nowhere. Cases that need what it cannot do are skipped,
so look at what was: a rail that moves real money should skip nothing but what it does not do. A rail whose mechanisms
need different wallets has one class for each; `elsewhere` names the ways that another class proves.

Every case counts the money on both books.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from rail402.testing.rail_bench import Books, RailBench, Way
from rail402.testing.rail_gate import GateCases
from rail402.testing.rail_holds import HoldCases, RefundCases
from rail402.testing.rail_money import LookupCases, OutageCases, SettleCases
from rail402.testing.rail_proofs import IdentityCases, ProofCases, SecretCases
from rail402.testing.rail_wire import OfferCases, SpecCases, WireCases

__all__ = ["Books", "RailBench", "RailConformance", "Way"]


class RailConformance(
    SpecCases,
    OfferCases,
    WireCases,
    IdentityCases,
    ProofCases,
    SecretCases,
    SettleCases,
    LookupCases,
    OutageCases,
    HoldCases,
    RefundCases,
    GateCases,
):
    """Every case. Derive from it, name the `ways`, and define `open_bench`."""

    pytestmark: ClassVar = [pytest.mark.asyncio]
