from __future__ import annotations

from tests.unit.client.purchases import record


def test_secrets_are_not_shown() -> None:
    shown = repr(record(proof={"signature": "s3cret"}, receipt="eyJ.s3cret.x"))
    assert "s3cret" not in shown
    assert "the-token" not in shown
    assert "rec_" in shown
