"""A short soak: everything that the long one checks, but for what takes minutes to show."""

from __future__ import annotations

from pathlib import Path

from tests.soak.run import soak


async def test_nothing_is_lost_or_left_over(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/charges.db"
    report = await soak(tmp_path, store, seconds=12, workers=4, clients=(4, 3), seed=1, kill_every=5)
    assert report.ok, report
    assert len(report.tally.seconds) > 10
    assert len(report.tally.kills) == 2
    kinds = {who for who, _ in report.tally.answers}
    assert {"agent", "unlucky", "free", "unpaid", "stolen", "nonsense", "hung up"} <= kinds
