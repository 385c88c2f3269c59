"""36: a rail of play money, or of a test network, where real money is meant: it would sell for nothing."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rail402 import Gate
from rail402.errors import ConfigurationError
from rail402.protocol.rail import PaymentRail
from rail402.protocol.receipt import ReceiptKeys, verify_receipt
from rail402.server.toml import gate_from_toml
from rail402.testing.fakes import FakeLedger, FakeRail
from rail402_base import BASE_SEPOLIA_USDC, BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeApi, StripeRail
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import PUBLISHER, URL, World

KEY = "11" * 32
LIVE: dict[str, Callable[[Path], PaymentRail]] = {
    "base": lambda path: BaseRail.rpc("http://127.0.0.1:9", KEY, pay_to=PUBLISHER),
    "lightning": lambda path: LightningRail.lnbits("https://lnbits.example.com", "a" * 32, "mainnet"),
    "stripe": lambda path: StripeRail("sk_live_of_nobody", profile_id="profile_1"),
}
TEST: dict[str, Callable[[Path], PaymentRail]] = {
    "base-sepolia": lambda path: BaseRail.rpc("http://127.0.0.1:9", KEY, pay_to=PUBLISHER, token=BASE_SEPOLIA_USDC),
    "regtest": lambda path: LightningRail.lnbits("https://lnbits.example.com", "a" * 32, "regtest"),
    "stripe test mode": lambda path: StripeRail("sk_test_of_nobody", profile_id="profile_1"),
}
SANDBOX: dict[str, Callable[[Path], PaymentRail]] = {
    "base": lambda path: BaseRail.sandbox(path, pay_to=PUBLISHER),
    "lightning": lambda path: LightningRail.sandbox(path),
    "stripe": lambda path: StripeRail.sandbox(path),
    "fake": lambda path: FakeRail(FakeLedger()),
}


def gate(*rails: PaymentRail, **options: Any) -> Gate:
    secrets = {"secret": "s" * 32, "receipt_key": ReceiptKeys.generate()[1]}
    return Gate(rails=rails, public_url="https://api.example.com", store="memory://", **secrets, **options)


@pytest.mark.parametrize(
    ("one", "other"),
    [*itertools.product(LIVE, SANDBOX), *itertools.product(LIVE, TEST), *itertools.product(TEST, SANDBOX)],
)
async def test_kinds_of_money_do_not_mix(tmp_path: Path, one: str, other: str, observed: Observe) -> None:
    kinds = {**LIVE, **TEST} if one in LIVE else TEST
    first = kinds[one](tmp_path)
    second = (TEST if other in TEST else SANDBOX)[other](tmp_path)
    for rails in ((first, second), (second, first)):
        with pytest.raises(ConfigurationError, match=r"would sell for nothing|two rails are called"):
            gate(*rails)
    observed("a gate with a live rail and one of play money, or of a test network, is refused, for every pair of rails")


@pytest.mark.parametrize("rail", LIVE)
async def test_a_live_rail_needs_secrets_of_its_own(tmp_path: Path, rail: str, observed: Observe) -> None:
    for missing in ({"secret": "s" * 32}, {"receipt_key": ReceiptKeys.generate()[1]}, {}):
        with pytest.raises(ConfigurationError, match="required outside the sandbox"):
            Gate(rails=[LIVE[rail](tmp_path)], public_url="https://api.example.com", store="memory://", **missing)
    for weak in ("", "short", "s" * 31):
        with pytest.raises(ConfigurationError):
            Gate(
                rails=[LIVE[rail](tmp_path)],
                public_url="https://api.example.com",
                store="memory://",
                secret=weak,
                receipt_key=ReceiptKeys.generate()[1],
            )
    observed("a live rail without secrets, or with short ones, is refused")


FILES = {
    "a sandbox with a live network": 'name = "lightning"\nbackend = "sandbox"\nnetwork = "mainnet"',
    "a sandbox with a live key": 'name = "stripe"\nbackend = "sandbox"\nsecret_key = "env:STRIPE_SECRET_KEY"',
    "no backend": 'name = "stripe"',
    "a backend that there is not": 'name = "base"\nbackend = "free"',
    "a rail that there is not": 'name = "free"',
}


@pytest.mark.parametrize("rail", FILES.values(), ids=FILES)
async def test_a_file_that_is_half_a_sandbox(
    tmp_path: Path, rail: str, monkeypatch: pytest.MonkeyPatch, observed: Observe
) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_live_of_nobody")
    file = tmp_path / "rail402.toml"
    file.write_text(f'[server]\npublic_url = "https://api.example.com"\n[[rails]]\n{rail}\n')
    with pytest.raises(ConfigurationError):
        gate_from_toml(file)
    observed("a configuration that is half a sandbox is refused")


def test_a_live_key_never_reaches_the_sandbox(observed: Observe) -> None:
    assert StripeApi("sk_live_of_nobody").network == "stripe:live"
    with pytest.raises(ConfigurationError):
        LightningRail.sandbox(network="mainnet")
    observed("a sandbox takes no live network")


async def test_play_money_says_that_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture, observed: Observe) -> None:
    """Only rails of play money: that is what the publisher wrote, by name. Nobody is left in doubt about it."""
    with caplog.at_level(logging.WARNING, "rail402"):
        async with gate(SANDBOX["lightning"](tmp_path)):
            pass
        assert "https://api.example.com takes play money: its rails are sandboxes" in caplog.text
        caplog.clear()
        async with World(tmp_path).open() as world:
            assert "play money" not in caplog.text  # on this machine, that goes without saying
            answer = await world.http.get("/article", headers=await world.payment("/article"))
            jwks = (await world.http.get("/.well-known/rail402/jwks.json")).json()
    assert verify_receipt(answer.headers["receipt-record"], jwks, issuer=URL).sandbox
    observed(
        "sandboxes alone start, as they were named; on a public host with a warning, and every receipt says `sandbox`"
    )
