"""Charge ids."""

from __future__ import annotations

import re

from rail402.server.services import charge_id

NOW = 1_800_000_000


def test_a_charge_id_is_what_addresses_take() -> None:
    assert re.fullmatch(r"ch_[a-z2-7]{26}", charge_id(NOW, bytes(11)))


def test_charges_of_one_second_lie_together_and_differ_in_every_random_bit() -> None:
    ids = {charge_id(NOW, (1 << bit).to_bytes(11, "big")) for bit in range(88)}
    assert len(ids) == 88
    assert len({made[:11] for made in ids}) == 1
    assert charge_id(NOW + 1, bytes(11))[:11] not in {made[:11] for made in ids}
