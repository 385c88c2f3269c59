"""Every parser takes its seeds, and some hundred hostile inputs, the same in every run; `make fuzz` has more."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.running import Broken, check, run_once
from tests.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_bytes_give_a_typed_error_or_nothing(name: str) -> None:
    random = Random(name)
    for seed in TARGETS[name].seeds:
        check(TARGETS[name], seed)
    for _ in range(300):
        run_once(TARGETS[name], random)


def test_what_breaks_is_found() -> None:
    def run(data: bytes) -> None:
        if b"9" * 40 in data:
            raise KeyError("a parser that forgot something")

    def all_of_them() -> None:
        for number in range(10_000):
            run_once(Target(run, (b'{"amount": 1}',)), Random(number))

    with pytest.raises(Broken, match="KeyError") as caught:
        all_of_them()
    assert b"9" * 40 in caught.value.data
