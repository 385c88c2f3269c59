from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402.client.journal import Journal
from rail402.client.pins import Known, Pin
from rail402.errors import ConfigurationError, OfferRefused
from rail402.money import Money
from tests.unit.client.test_journal import NOW, OFFER, record

URL = "https://shop.test:8443/a/b?n=1"


def pin(cost: str = "1 USD", *, payee: str = "shop", url: str = URL, **options: Any) -> Pin:
    offer = OFFER.model_copy(update={"amount": Money.parse(cost).to_atomic(6), "payee": payee})
    return Pin.of(offer, url=url, **({"method": "GET", "checks_payee": True, "tolerance": 25} | options))


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(f"sqlite:///{tmp_path}/wallet.db")
    await journal.start()
    yield journal
    await journal.close()


async def bought(journal: Journal, *pins: Pin) -> None:
    number = len(await journal.newest())
    for offset, each in enumerate(pins):
        await journal.reserve(record(number + offset), (), now=NOW, pin=each)


def test_what_is_compared() -> None:
    found = pin(payee="0xAB")
    assert (found.origin, found.path, found.payee, str(found.price)) == (
        "https://shop.test:8443",
        "/a/b",
        "0xab",
        "1 USD",
    )
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


async def test_the_first_purchase_pins(journal: Journal) -> None:
    await bought(journal, pin(), pin("1.25 USD"))
    for changed in (pin("1.26 USD"), pin(payee="thief")):
        with pytest.raises(OfferRefused, match=r"unpin shop\.test") as caught:
            await bought(journal, changed)
        assert caught.value.code == "terms_changed"
    payees, prices = await journal.pins()
    assert [(found.origin, found.payee) for found in payees] == [("https://shop.test:8443", "shop")]
    assert [(found.method, found.path, str(found.price)) for found in prices] == [("GET", "/a/b", "1 USD")]
    assert len(await journal.newest()) == 2, "what was refused left nothing"


async def test_other_places_are_other_pins(journal: Journal) -> None:
    others = [
        pin("9 USD", url="https://shop.test:8443/c"),
        pin("9 USD", method="POST"),
        pin("9 USD", payee="thief", url="https://other.test/a/b"),
        replace(pin(payee="node"), network="fake:other"),
    ]
    await bought(journal, pin(), *others)


async def test_what_was_approved_is_known_from_then_on(journal: Journal) -> None:
    await bought(journal, pin())
    dear = pin("2 USD", payee="new")
    for approved in ((), ("price",), ("payee",), ("amount",)):
        with pytest.raises(OfferRefused):
            await bought(journal, replace(dear, approved=frozenset(approved)))
    await bought(journal, replace(dear, approved=frozenset({"price", "payee"})))
    await bought(journal, dear, pin("2.5 USD"))
    with pytest.raises(OfferRefused, match=r"did cost 2 USD, and now 2\.6 USD, over 25 % more"):
        await bought(journal, pin("2.6 USD"))


async def test_what_is_forgotten_is_believed_anew(journal: Journal) -> None:
    await bought(journal, pin(), pin(url="https://other.test/"))
    assert await journal.unpin("SHOP.test") == 2
    assert await journal.unpin("shop.test") == 0
    await bought(journal, pin("9 USD", payee="new"))
    assert {found.payee for found in (await journal.pins())[0]} == {"new", "shop"}
    with pytest.raises(ConfigurationError):
        await journal.unpin("*")
