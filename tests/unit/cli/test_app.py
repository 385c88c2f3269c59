"""How commands end that cannot even begin."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from rail402.cli import app, main


@pytest.mark.parametrize(
    ("missing", "is_an_extra"), [("coincurve", True), ("rail402.protocol.rail", False), (None, False)]
)
def test_only_what_is_not_ours_is_told_to_be_installed(
    missing: str | None, is_an_extra: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ImportError("cannot import name", name=missing)

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit if is_an_extra else ImportError):
        main()
    assert (
        capsys.readouterr().err == f"rail402: this needs {missing}; try: pip install 'rail402[all]'\n"
    ) is is_an_extra


def test_the_version_is_told() -> None:
    told = CliRunner().invoke(app.app, ["--version"])
    assert (told.exit_code, told.output) == (0, f"rail402 {version('rail402')}\n")
