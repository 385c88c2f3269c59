"""What a publisher may set."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import ConfigurationError
from rail402.money import Money
from rail402.server.limits import Limits
from rail402.server.settings import GateSettings, Receipts, Rule, names, parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(1, 1), (90, 90), ("90s", 90), ("10m", 600), ("1h", 3600), ("7d", 604_800), ("999999999s", 999_999_999)],
)
def test_durations(value: str | int, seconds: int) -> None:
    assert parse_duration(value) == seconds
    assert Receipts(valid=value).seconds == seconds


@pytest.mark.parametrize(
    "value",
    [0, -1, True, 1.5, "", "10", "m", "0m", "01m", "-1h", "1 h", "1w", "1H", "1h30m", "٣m", "1" * 10 + "s", None],
)
def test_what_is_no_duration(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="write seconds"):
        parse_duration(value)
    with pytest.raises(ConfigurationError):
        Receipts(valid=value)


@pytest.mark.parametrize("uses", [0, -1, True, 1.0, "3", None, 1_000_000_001])
def test_uses_are_a_whole_number(uses: Any) -> None:
    with pytest.raises(ConfigurationError, match="uses="):
        Receipts(uses=uses)
    assert Receipts(uses=1_000_000_000).uses


@pytest.mark.parametrize("price", ["0 USD", "0.0 USD", Money.parse("0 sat")])
def test_a_fixed_price_is_more_than_zero(price: Any) -> None:
    with pytest.raises(ConfigurationError, match="more than zero"):
        Rule(price=price)


@pytest.mark.parametrize(
    ("url", "realm"),
    [
        ("https://api.example.com", "api.example.com"),
        ("https://API.example.com:8443", "api.example.com"),
        ("http://127.0.0.1:8000", "127.0.0.1"),
        ("http://[::1]:8000", "::1"),
    ],
)
def test_the_public_url_is_an_origin(url: str, realm: str) -> None:
    assert GateSettings(public_url=url).realm == realm


@pytest.mark.parametrize(
    "url",
    [
        *("", "api.example.com", "//api.example.com", "ftp://api.example.com", "https://", "https:///x"),
        *("https://api.example.com/v1", "https://api.example.com/", "https://api.example.com?x", "https://a#x"),
        *("https://user@api.example.com", "https://user:password@api.example.com", "https://@a", "https://a:99999"),
        *("https://[::1", "https://a:x", "https://a\n", "https://\ta", "https://a?", "https://a#", "https://:80"),
    ],
)
def test_what_is_no_origin(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be an origin"):
        GateSettings(public_url=url)


@pytest.mark.parametrize(
    "settings",
    [
        *({name: 0} for name in ("offer_seconds", "handler_seconds", "settle_seconds")),
        *({name: -1} for name in ("wait_seconds", "max_body", "max_stored", "issued_capacity", "reconcile_seconds")),
        *({name: value} for name in ("max_body", "release_seconds") for value in ("1", 1.5, True, None)),
    ],
)
def test_limits_and_times_are_whole_numbers(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigurationError, match=f"{name}="):
        GateSettings(public_url="https://a", **settings)


def test_limits_are_limits_or_none() -> None:
    assert GateSettings(public_url="https://a").limits == Limits()
    assert GateSettings(public_url="https://a", limits=None).limits is None
    for wrong in (False, "600/m", {"invoices": "1/s"}):
        with pytest.raises(ConfigurationError, match="limits="):
            GateSettings(public_url="https://a", limits=wrong)  # type: ignore[arg-type]


def test_the_url_of_redis_is_not_shown() -> None:
    assert "s3cr3t" not in repr(GateSettings(public_url="https://a", redis="redis://u:s3cr3t@localhost"))


def test_charges_are_kept_for_a_day_at_least() -> None:
    assert GateSettings(public_url="https://a", retention_seconds=86_400)
    with pytest.raises(ConfigurationError, match="a day"):
        GateSettings(public_url="https://a", retention_seconds=86_399)


def test_charges_are_kept_until_no_payment_of_their_offers_is_taken_any_more() -> None:
    assert GateSettings(public_url="https://a", retention_seconds=86_400, offer_seconds=79_200)
    with pytest.raises(ConfigurationError, match="retention_seconds=86400 must be 7200 more than offer_seconds=79201"):
        GateSettings(public_url="https://a", retention_seconds=86_400, offer_seconds=79_201)


def test_an_authorization_outlasts_the_handler_and_settling_by_a_minute() -> None:
    settings = GateSettings(public_url="https://a", handler_seconds=30, settle_seconds=20)
    assert (settings.timeout_seconds, settings.lease_seconds) == (110, 50)
    assert GateSettings(public_url="https://a", wait_seconds=0, max_body=0, reconcile_seconds=0)


def test_names_are_a_list() -> None:
    assert names(None, "rails") is None
    assert names(["a", "b"], "rails") == names(("a", "b"), "rails") == ("a", "b")
    for wrong in ("a", [], (), [1], ["a", None]):
        with pytest.raises(ConfigurationError, match="rails="):
            names(wrong, "rails")
