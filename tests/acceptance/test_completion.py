"""Shell completion: the scripts come out, bash loads the installed one, and what is completed is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.test_demo import RAIL402


def told(command: list[str], home: Path, **env: str) -> str:
    environment = {"PATH": f"{Path(RAIL402).parent}:{os.environ['PATH']}", "HOME": str(home), **env}
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "registers"),
    [
        ("bash", "complete -o default -F _rail402_completion rail402"),
        ("zsh", "#compdef rail402"),
        ("fish", "complete --command rail402"),
    ],
)
def test_a_script_for_each_shell(tmp_path: Path, shell: str, registers: str) -> None:
    assert registers in told([RAIL402], tmp_path, _RAIL402_COMPLETE=f"source_{shell}")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("rail402 re", "receipts"), ("rail402 budget p", "pause\npins"), ("rail402 get --dr", "--dry-run")],
)
def test_what_bash_offers(tmp_path: Path, typed: str, offered: str) -> None:
    asking = {"_RAIL402_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    assert told([RAIL402], tmp_path, **asking).strip() == offered


def test_zsh_and_fish_say_what_it_does(tmp_path: Path) -> None:
    zsh = told([RAIL402], tmp_path, _RAIL402_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="rail402 re")
    assert '"receipts":"List, verify and export what was bought."' in zsh
    asking = {"_TYPER_COMPLETE_ARGS": "rail402 re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    fish = told([RAIL402], tmp_path, _RAIL402_COMPLETE="complete_fish", **asking)
    assert fish.strip() == "receipts\tList, verify and export what was bought."


def test_bash_completes_once_it_is_installed(tmp_path: Path) -> None:
    assert "bash completion installed" in told(["bash", "-c", "rail402 --install-completion; true"], tmp_path)
    typed = "COMP_WORDS=(rail402 re); COMP_CWORD=1; _rail402_completion rail402; echo ${COMPREPLY[@]}"
    assert told(["bash", "-c", f"source ~/.bashrc; {typed}"], tmp_path) == "receipts\n"
