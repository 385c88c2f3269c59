"""A purchase from the first request to the response, in both drivers."""

from __future__ import annotations

from tests.unit.client.shop import PRICE, Market


async def test_a_free_route_costs_nothing_and_opens_no_journal(market: Market) -> None:
    response = await market.request(market.payer(), url="https://shop.test/free")
    assert response.text == "free"
    assert "rail402" not in response.extensions
    assert not (market.folder / "wallet.db").exists()


async def test_a_402_is_paid_once(market: Market) -> None:
    payer = market.payer()
    response = await market.request(payer)
    assert (response.status_code, response.text) == (200, "article 1")
    purchase = response.extensions["rail402"]
    assert (purchase.outcome, str(purchase.price), purchase.rail, purchase.dialect) == (
        "paid",
        "0.003 USD",
        "fake",
        "x402-v2",
    )
    assert market.ledger.charged_total == PRICE
    (record,) = await payer.journal.newest()
    assert (record.state, record.cost, record.id) == ("committed", purchase.price, purchase.record_id)
