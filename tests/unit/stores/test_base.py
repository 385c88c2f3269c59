"""The arithmetic of token buckets, and which of them there are."""

from __future__ import annotations

import math

import pytest

from rail402.errors import ConfigurationError
from rail402.stores import TokenBucket

NOW = 1_800_000_000
NOW_NS = NOW * 10**9


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), (1e-300, 1), (1, 0), (1, -1), (1, 10**9 + 1), (1e308, 10**300)],
)
def test_bucket_that_could_not_be_counted_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ConfigurationError, match="rate above 0"):
        TokenBucket(rate=rate, burst=burst)


@pytest.mark.parametrize(
    ("rate", "token_ns"), [(1, 10**9), (1000, 10**6), (3, 333_333_334), (0.5, 2 * 10**9), (10**9, 1), (10**12, 1)]
)
def test_token_never_comes_too_early(rate: float, token_ns: int) -> None:
    assert TokenBucket(rate=rate, burst=1).token_ns == token_ns


def test_each_token_moves_the_time_at_which_the_bucket_is_full() -> None:
    limit = TokenBucket(rate=2, burst=10)
    assert limit.take(0, 3, now=NOW) == (3, NOW_NS + 3 * 500_000_000)
    assert limit.take(NOW_NS + 3 * 500_000_000, 99, now=NOW) == (7, NOW_NS + 5 * 10**9)
    assert limit.take(NOW_NS + 5 * 10**9, 1, now=NOW + 0.25) == (0, NOW_NS + 5 * 10**9)
    assert limit.take(NOW_NS + 5 * 10**9, 1, now=NOW + 0.5) == (1, NOW_NS + 5_500_000_000)


def test_part_of_a_token_is_none() -> None:
    limit = TokenBucket(rate=1, burst=2)
    assert limit.take(NOW_NS + 10**9 + 1, 1, now=NOW) == (0, NOW_NS + 10**9 + 1)
    assert limit.take(NOW_NS + 10**9, 1, now=NOW) == (1, NOW_NS + 2 * 10**9)


def test_largest_bucket_still_fits_into_a_database() -> None:
    _, full_at = TokenBucket(rate=1, burst=10**9).take(0, 10**9, now=4_000_000_000)
    assert full_at < 2**63
