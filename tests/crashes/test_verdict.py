"""The harness sees what is wrong: each time one thing of the product is broken, somewhere a kill shows it."""

from __future__ import annotations

import shutil

import pytest

from tests.crashes.matrix import clean_steps
from tests.crashes.scenarios import Plan, Scenario
from tests.crashes.worker import Worker

# What breaks it; the scenario; who dies, at which step; what is said of it then.
BROKEN = {
    "a proof is sent before it is written": (
        """
from rail402.client.journal import Journal
save = Journal.save
async def broken(self, record, *, now):
    return record if record.state == "presented" else await save(self, record, now=now)
Journal.save = broken
""",
        Scenario("base", "upfront"),
        ("client", "before journal.save committed"),
        "charges are settled and",
    ),
    "nobody reconciles": (
        """
from rail402.server.reconciler import Reconciler
from rail402.server.report import Report
async def broken(self):
    return Report(looked_at=0, closed=0)
Reconciler.run_once = broken
""",
        Scenario("stripe", "escrow", ("fails",)),
        ("server", "before rail.release"),
        "are held or under way in the end",
    ),
    "a refund is forgotten": (
        """
from rail402.protocol.charge import Charge
Charge.is_owed_back = False
""",
        Scenario("stripe", "upfront", ("fails",)),
        ("server", "before rail.refund"),
        "nothing was sold, and 80 were paid",
    ),
    "what was never given expires": (
        """
from rail402.protocol.charge import Charge
Charge.is_owed = False
""",
        Scenario("lightning", "upfront"),
        ("server", "the handler has begun"),
        "and nobody has what it bought",
    ),
    "a use that died with its server is lost": (
        """
from rail402.stores.sqlite import SqliteStore
take = SqliteStore.take_use
async def broken(self, charge_id, use, *, now, lease_until, slot=""):
    return await take(self, charge_id, use, now=0, lease_until=lease_until, slot=slot)
SqliteStore.take_use = broken
""",
        Scenario("base", "authorization", ("whole", "fails", "whole"), uses=3),
        ("server", "after store.take_use"),
        "1 passes for 3 requests gave",
    ),
    "a lost claim is served again": (
        """
from rail402.stores.sqlite import SqliteStore
from rail402.stores.base import Claim
claim = SqliteStore.claim
async def broken(self, charge):
    return Claim(won=True, charge=(await claim(self, charge)).charge)
async def find(self, keys):
    return None
SqliteStore.claim, SqliteStore.find = broken, find
""",
        Scenario("base", "authorization"),
        ("client", "after journal.save presented"),
        "the handler ran",
    ),
    "a call that was paid for is forgotten": (
        """
from rail402.client.journal import Journal
async def broken(self, order_digest):
    return []
Journal.open_for = broken
""",
        Scenario("lightning", "upfront", via="mcp"),
        ("server", "the handler has begun"),
        "charges are settled and",
    ),
    "a tool that fails is paid for": (
        """
from rail402.server import mcp
answered = mcp._answered
async def broken(running, name):
    return (await answered(running, name)).model_copy(update={"is_error": False})
mcp._answered = broken
""",
        Scenario("stripe", "escrow", ("fails",), via="mcp"),
        ("server", "the handler has ended"),
        "nothing was sold, and 80 were paid",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_is_seen(mistake: str) -> None:
    first, scenario, (who, step), said = BROKEN[mistake]
    with Worker.open({}) as sound:
        steps = clean_steps(sound, scenario)[who]
    with Worker.open({}, first) as broken:
        found = broken.perform(scenario, Plan.of(who, steps.index(step) + 1, 700))
    shutil.rmtree(found.path, ignore_errors=True)
    assert any(said in violation for violation in found.violations), found
