from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from rail402.client.journal import Journal
from rail402.client.journal_sqlite import APPLICATION_ID
from rail402.client.pins import Known
from rail402.money import Money
from rail402.stores.sql import migrations
from rail402.stores.sqlite_file import open_writer
from tests.unit.client.purchases import NOW, pin


def test_what_is_compared() -> None:
    found = pin(payee="0xAB")
    assert (found.host, found.path, found.payee, str(found.price)) == ("shop.test", "/a/b", "0xab", "1 USD")
    assert pin(url="https://shop.test").path == "/"


@pytest.mark.parametrize(("cost", "changed"), [("0.10 USD", False), ("1.25 USD", False), ("1.250001 USD", True)])
def test_a_price_may_rise_by_the_tolerance_and_no_more(cost: str, changed: bool) -> None:
    known = Known(["shop"], Money.parse("1 USD"))
    assert [change.kind for change in pin(cost).changes(known)] == ["price"] * changed
    assert pin(cost, tolerance=None).changes(known) == ()


def test_a_changed_payee_names_both() -> None:
    known = Known(["shop", "other"], None)
    (change,) = pin(payee="thief").changes(known)
    assert "was paid at shop or other on fake:fake, and now wants to be paid at thief" in change.detail
    assert pin(payee="other").changes(known) == pin(payee="thief", checks_payee=False).changes(known) == ()


async def test_what_was_pinned_for_origins_is_pinned_for_their_hosts(tmp_path: Path) -> None:
    origins = [
        "https://shop.test:8443",
        "http://shop.test",
        "https://[::1]:8000",
        "http://127.0.0.1:80",
        "https://b.test.",
    ]
    with closing(
        open_writer(
            tmp_path / "old.db", busy_timeout=1, schema=migrations("journal")[:4], application_id=APPLICATION_ID
        )
    ) as connection:
        for number, origin in enumerate(origins):
            connection.execute("INSERT INTO pinned_payees VALUES (?, 'fake', 'fake:fake', 'shop', ?)", [origin, number])
            price = [origin, (number + 1) * 10**11, NOW - number]
            connection.execute("INSERT INTO pinned_prices VALUES (?, 'GET', '/', 'USD', ?, ?)", price)
    journal = Journal(f"sqlite:///{tmp_path}/old.db")
    await journal.start()
    payees, prices = await journal.pins()
    hosts = ["127.0.0.1", "::1", "b.test", "shop.test"]
    assert [(found.host, found.pinned_at) for found in payees] == list(zip(hosts, (3, 2, 4, 0), strict=True))
    assert [found.host for found in prices] == hosts
    assert [(str(found.price), found.pinned_at) for found in prices if found.host == "shop.test"] == [
        ("2 USD", NOW - 1)
    ], "the first price of all is the one that counts"
    await journal.close()
