"""`facilitator.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402.facilitator.toml import facilitator_from_toml
from rail402_base.eip3009 import address_of

KEY = "11" * 32
ADDRESS, OTHER, THIRD = (address_of(bytes([number]) * 32) for number in (1, 2, 3))
RPC = f"""
[[rails]]
name = "base"
backend = "rpc"
network = "base-sepolia"
urls = ["http://127.0.0.1:1"]
relayer_key = "env:RELAYER"
pay_to = "{ADDRESS}"
"""


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RELAYER", KEY)
    monkeypatch.setenv("TOKEN", "0123456789abcdef-token")
    monkeypatch.chdir(tmp_path)


def write(text: str) -> Path:
    path = Path("facilitator.toml")
    path.write_text(text)
    return path


def test_a_whole_file() -> None:
    text = f"""
[facilitator]
store = "sqlite:///own.db"
token = "env:TOKEN"
pay_to = ["{OTHER}"]
minimum = "0.001 USDC"
max_per_payer = 3
validity_seconds = 9
repeat = true
settle_seconds = 40
wait_seconds = 20
max_body = 5000
retention_seconds = 100000
reconcile_seconds = 7
{RPC}"""
    made = facilitator_from_toml(write(text), pay_to=[THIRD])
    settings = made.facilitator.settings
    assert settings.pay_to == (ADDRESS, OTHER, THIRD)
    assert str(settings.minimum) == "0.001 USDC"
    numbers = ("max_per_payer", "validity_seconds", "settle_seconds", "wait_seconds", "max_body", "reconcile_seconds")
    assert [getattr(settings, name) for name in numbers] == [3, 9, 40, 20, 5000, 7]
    assert (settings.repeat, settings.any_payee, settings.retention_seconds) == (True, False, 100_000)
    assert made.token == "0123456789abcdef-token"
    assert "0123456789" not in repr(made)
    assert [(kind.version, kind.network) for kind in made.facilitator.kinds] == [
        (2, "eip155:84532"),
        (1, "base-sepolia"),
    ]
    assert made.facilitator.supported()["signers"] == {"eip155:84532": [address_of(bytes.fromhex(KEY))]}


def test_the_rails_are_enough() -> None:
    made = facilitator_from_toml(write(RPC))
    assert (made.facilitator.settings.pay_to, made.token) == ((ADDRESS,), None)
    assert not made.facilitator.policy.any_payee
    assert facilitator_from_toml(write(RPC), any_payee=True).facilitator.policy.any_payee


def test_a_sandbox_is_open() -> None:
    made = facilitator_from_toml(write('[[rails]]\nname = "base"\nbackend = "sandbox"\n'))
    assert made.facilitator.policy.any_payee
    assert made.facilitator.supported()["signers"] == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"facilitator.toml:1: rails: is missing"),
        ("[server]\n" + RPC, "server: is not known here; known are: facilitator, rails"),
        ('[facilitator]\ntokens = "env:TOKEN"\n' + RPC, r"facilitator.toml:2: facilitator.tokens: is not known here"),
        (
            '[facilitator]\ntoken = "plain text"\n' + RPC,
            r"facilitator.toml:2: facilitator.token: write a secret as env:",
        ),
        ('[facilitator]\nminimum = "cheap"\n' + RPC, r"toml:2: facilitator.minimum: 'cheap' is not an amount of money"),
        ('[facilitator]\nminimum = "1 EUR"\n' + RPC, r"toml:1: facilitator: minimum: 1 EUR must be in USDC"),
        ("[facilitator]\nwait_seconds = -1\n" + RPC, r"toml:2: facilitator.wait_seconds"),
        ("[facilitator]\nany_payee = 1\n" + RPC, r"toml:2: facilitator.any_payee"),
        ('[[rails]]\nname = "nobody"\n', "there is no rail 'nobody'"),
        ('[[rails]]\nname = "lightning"\nbackend = "sandbox"\n', "lightning needs no facilitator"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        facilitator_from_toml(write(text))
