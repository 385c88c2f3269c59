"""What a store has that any earlier version made, and what this version finds in it."""

from __future__ import annotations

from typing import Any

from rail402.protocol.charge import Charge
from rail402.stores.base import Claim, Issued, Store, StoredResponse, TokenBucket
from rail402.testing.store_support import NOW, make_charge, settled

__all__ = ["CHARGE", "OPEN", "assert_all_there", "columns_of"]

CHARGE = settled("tx:1", "offer:ä", uses=3, uses_taken=1, valid_until=NOW + 60)
OPEN = make_charge("tx:2", lease_until=NOW - 60)


def columns_of(charge: Charge) -> dict[str, Any]:
    """Return the columns of a charge by name."""
    names = ["id", "version", "payment", "delivery", "lease_until", "created_at", "valid_until", "uses", "uses_taken"]
    row = charge.model_dump(mode="json")
    return {name: row[name] for name in names} | {"charge": charge.model_dump_json()}


async def assert_all_there(store: Store, version: int) -> None:
    """Assert that a store, not started, has a row of each table that `version` had, and works with it.

    The rows: `CHARGE` with its keys and the response "paid", `OPEN`; the setting "salt", "old"; the issued row
    "lnbc:1"; since version 2 a leader and a bucket with two tokens missing, since version 3 a use that is under way.
    """
    for _ in range(2):  # the second start finds nothing to do
        await store.start()
        assert await store.claim(make_charge("offer:ä")) == Claim(won=False, charge=CHARGE)
        assert await store.unresolved(now=NOW, limit=5) == [OPEN]
        assert await store.response(CHARGE.id) == StoredResponse(200, body=b"paid")
        assert await store.remember("salt", "new") == "old"
        assert await store.issued("lnbc:1") == Issued(key="lnbc:1", order_digest="ab", offer="{}", expires_at=NOW)
        assert await store.lead("reconciler", "a", now=NOW, seconds=30) is (version < 2)
        assert await store.renew_use(CHARGE.id, "old", lease_until=NOW + 60) is (version >= 3)
        await store.close()
    await store.start()
    taken = await store.take_use(CHARGE.id, "one", now=NOW, lease_until=NOW)
    assert taken == CHARGE.model_copy(update={"uses_taken": 2})
    assert await store.spend("ip:1", 9, TokenBucket(rate=1, burst=5), now=NOW) == (5 if version < 2 else 3)
    await store.prune(before=NOW + 60, now=NOW)
    assert await store.recent(limit=5) == [OPEN, taken]
    await store.prune(before=NOW + 61, now=NOW)
    assert await store.recent(limit=5) == [OPEN]
    await store.close()
