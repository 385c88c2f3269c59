"""Where the body of an answer goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from rail402.cli.body import check_output


def test_to_see_whether_a_file_can_be_written_takes_nothing_away(tmp_path: Path) -> None:
    kept, new, link = tmp_path / "kept", tmp_path / "new", tmp_path / "link"
    kept.write_text("kept")
    link.symlink_to(tmp_path / "target")
    for path in (None, kept, new, link):
        check_output(path)
    assert (kept.read_text(), new.exists(), link.is_symlink()) == ("kept", False, True)


def test_what_cannot_be_written_is_said_before_anything_is_paid(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "file"):
        with pytest.raises(typer.BadParameter, match="cannot be written"):
            check_output(path)
