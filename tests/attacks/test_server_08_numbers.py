"""8: amounts that are no amount, wherever one can stand."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World, header, opened
from tests.conformance.test_lightning_end_to_end import Town, required, signature

TEXTS = ["0", "-3000", "+3000", "03000", "3e3", "3000.0", " 3000", "3000 ", "0xbb8", "3_000", "", "٣٠٠٠", "３０００"]
NUMBERS: list[Any] = [*TEXTS, str(2**256), str(2**256 + 3000), "9" * 5000, "NaN", "Infinity", "3000\x00", "²"]
NUMBERS += [3000, -3000, 3000.0, 10**30, True, None, [], {}, ["3000"]]
MEMBERS = [
    "accepted.amount",
    "accepted.maxTimeoutSeconds",
    "payload.authorization.value",
    "payload.authorization.validAfter",
    "payload.authorization.validBefore",
    "payload.authorization.nonce",
]


def with_member(fields: dict[str, str], member: str, value: Any) -> dict[str, str]:
    """A payment with one member changed."""
    accepted, payload = opened(fields)
    message = {"accepted": accepted, "payload": payload}
    *path, last = member.split(".")
    parent: Any = message
    for name in path:
        parent = parent[name]
    parent[last] = value
    return header(message["accepted"], message["payload"])


@pytest.mark.parametrize("member", MEMBERS)
async def test_in_a_payment(world: World, member: str, observed: Observe) -> None:
    fields = await world.payment("/article")
    for value in NUMBERS:
        if (member, value) == ("payload.authorization.validAfter", "0"):
            continue  # which is what an honest payer says
        answer = await world.http.get("/article", headers=with_member(fields, member, value))
        assert answer.status_code in (400, 402), (value, answer.text)
        assert answer.json()["code"] != "payment_required", "it was read as a payment"
    assert world.runs == []
    await world.assert_books(paid=0)
    observed("400 or 402 for 29 such numbers in six members of a payment; nothing run, nothing moved")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "3000e0", "0.1e1", "-0", "1" * 5000])
async def test_numbers_that_only_some_json_has(world: World, text: str, observed: Observe) -> None:
    accepted, payload = opened(await world.payment("/article"))
    message = {"x402Version": 2, "accepted": accepted | {"maxTimeoutSeconds": "@"}, "payload": payload}
    raw = json.dumps(message).replace('"@"', text).encode()
    answer = await world.http.get("/article", headers={"PAYMENT-SIGNATURE": base64.b64encode(raw).decode()})
    assert answer.status_code in (400, 402), answer.text
    assert world.runs == []
    observed("the same for JSON numbers such as NaN and 1e999")


async def test_in_a_version(world: World, observed: Observe) -> None:
    message = json.loads(base64.b64decode((await world.payment("/article"))["PAYMENT-SIGNATURE"]))
    for version in (0, -2, 3, 2.5, "2", True, None, [], 10**40):
        raw = json.dumps(message | {"x402Version": version}).encode()
        answer = await world.http.get("/article", headers={"PAYMENT-SIGNATURE": base64.b64encode(raw).decode()})
        assert answer.status_code in (400, 402), (version, answer.text)
    assert world.runs == []
    observed("the same for versions")


async def test_beside_an_invoice(town: Town, observed: Observe) -> None:
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])
    for value in NUMBERS:
        answer = await town.http.get(
            "/article/one", headers=signature(accepted | {"amount": value}, {"preimage": preimage})
        )
        assert answer.status_code in (400, 402), (value, answer.text)
    assert town.runs == []
    observed("the same beside an invoice that was paid")
