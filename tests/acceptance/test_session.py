"""The recorded session is what is printed today."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.session import PAGE, play


def _words(page: str) -> list[str]:
    """Return the lines without what the width of a changing word moves."""
    page = re.sub(r"\b(now|\d+ s ago|in \d+ (s|min))\b", "soon", page)
    return [re.sub(r"[─ ]+", " ", line) for line in page.splitlines()]


async def test_a_session_prints_what_its_page_says(tmp_path: Path) -> None:
    assert _words(await play(tmp_path)) == _words(PAGE.read_text()), "python -m tests.acceptance.session writes it anew"
