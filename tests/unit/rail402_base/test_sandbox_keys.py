"""The sandbox's directory: one key per role, kept, private, and the same for every process."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402_base.sandbox_keys import open_sandbox, sandbox_signer
from tests.unit.rail402_base.payments import NOW, Counter


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    agent = sandbox_signer(tmp_path, "agent")
    assert sandbox_signer(tmp_path, "agent").address == agent.address
    assert sandbox_signer(tmp_path, "publisher").address != agent.address
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-agent.key", "base-publisher.key"]
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_made_of_the_random_bytes(tmp_path: Path) -> None:
    assert (
        sandbox_signer(tmp_path, "agent", random_bytes=Counter()).address
        == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
    )


def test_all_who_come_at_once_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        signers = list(threads.map(lambda _: sandbox_signer(tmp_path, "agent"), range(32)))
    assert len({signer.address for signer in signers}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["base-agent.key"]


@pytest.mark.parametrize("content", [b"", b"not a key\n", 64 * b"0", b"\xff\xfe secret"])
def test_a_damaged_key_file_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "base-agent.key").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"base-agent\.key holds no private key") as caught:
        sandbox_signer(tmp_path, "agent")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "secret" not in str(caught.value)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made or read"):
        sandbox_signer(tmp_path / "nowhere", "agent")


async def test_a_sandbox_makes_its_directory_and_ledger(tmp_path: Path) -> None:
    home = open_sandbox(tmp_path / "new", clock=lambda: NOW)
    await home.backend.start()
    assert home.path == tmp_path / "new"
    assert stat.S_IMODE((home.path / "base.db").stat().st_mode) == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        open_sandbox(tmp_path / "file", clock=lambda: NOW)
