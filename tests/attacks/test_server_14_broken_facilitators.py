"""14: a facilitator that is down, slow, or answers something else: nothing is given away, nothing is burnt."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.cases import Observe
from tests.attacks.facilitators import market, said
from tests.attacks.raw import answer
from tests.services.anvil import EvmChain

HTML = answer(200, [("Content-Type", "text/html")], b"<html>success: true</html>")


async def never(body: dict[str, Any]) -> bytes:
    await asyncio.sleep(3600)
    return b""


BEFORE = {
    "HTML": HTML,
    "503": said({"isValid": True}, 503),
    "500": answer(500, (), b"oops"),
    "200 and nothing": answer(200),
    "a redirect": answer(307, [("Location", "http://169.254.169.254/latest/meta-data")]),
    "two megabytes": answer(200, (), b'{"isValid": true, "payer": "' + b"a" * 2**21 + b'"}'),
    "not HTTP": b"\x00\x01\x02 what?\r\n\r\n",
    "401": said({"isValid": True}, 401),
    "slow": never,
}


@pytest.mark.parametrize("way", BEFORE)
async def test_when_it_is_asked_for_a_verdict(evm: EvmChain, tmp_path: Path, way: str, observed: Observe) -> None:
    async with market(evm, tmp_path) as buyer:
        _, fields = await buyer.honest()
        buyer.liar.says["/verify"] = BEFORE[way]
        for _ in range(2):
            refused = await buyer.show(fields)
            assert (refused.status_code, refused.json()["code"]) == (503, "rail_unavailable")
            assert "retry-after" in refused.headers
        assert (buyer.runs, "/settle" in buyer.liar.calls) == (0, False)
        del buyer.liar.says["/verify"]
        assert (await buyer.show(fields)).json() == {"run": 1}
        buyer.assert_moved(1)
    observed("503 `rail_unavailable` for nine ways to fail at verifying, and the same payment is good when it is back")


@pytest.mark.parametrize("way", [way for way in BEFORE if way != "401"])
async def test_when_it_is_to_settle(evm: EvmChain, tmp_path: Path, way: str, observed: Observe) -> None:
    async with market(evm, tmp_path) as buyer:
        authorization, fields = await buyer.honest()
        buyer.liar.says["/settle"] = BEFORE[way]
        refused = await buyer.show(fields)
        assert (refused.status_code, refused.json()["code"]) == (503, "outcome_unknown")
        assert "payment-required" not in refused.headers
        again = await buyer.show(fields)
        assert again.status_code == 503
        assert buyer.runs == 1
        buyer.assert_moved(0)
        # It was handed in all the same, only late: the chain shows it, and the answer goes out.
        evm.submit(evm.account().address, authorization, evm.sign(buyer.payer_account, authorization))
        buyer.ahead = 130
        await buyer.gate.reconcile()
        served = await buyer.show(fields)
        assert (served.status_code, served.json(), buyer.runs) == (200, {"run": 1}, 1)
        buyer.assert_moved(1)
    observed(
        "503 `outcome_unknown` for eight ways to fail at settling; what was handed in late is found and served once"
    )


async def test_when_nobody_listens(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    async with market(evm, tmp_path) as buyer:
        _, fields = await buyer.honest()
        closed = buyer.backend._facilitators[0]._facilitator
        object.__setattr__(closed, "url", "http://127.0.0.1:9")
        refused = await buyer.show(fields)
        assert (refused.status_code, refused.json()["code"]) == (503, "rail_unavailable")
        assert buyer.runs == 0
        buyer.assert_moved(0)
    observed("503 `rail_unavailable` where nobody listens: never free")
