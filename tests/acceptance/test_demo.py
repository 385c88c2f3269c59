"""`rail402 demo` and `rail402 keygen`, as processes."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

LAST = "demo ok: 3 rails paid, 3 receipts verified, 1 replay served, 1 budget refusal, 0 charged twice"
RAIL402 = str(Path(sys.executable).with_name("rail402"))


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAIL402, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_demo_sells_and_buys_on_three_rails(tmp_path: Path) -> None:
    done = run("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == LAST
    assert done.stderr == ""
    for shown in ("PAYMENT-REQUIRED", "PAYMENT-SIGNATURE", "WWW-Authenticate", "Receipt-Record", "verified"):
        assert shown in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_demo_tells_programs_the_same_facts(tmp_path: Path) -> None:
    done = run("demo", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["ok"] is True
    assert {purchase["rail"] for purchase in facts["purchases"]} == {"base", "lightning", "stripe"}
    assert facts["received"] == {"base": "0.003 USDC", "lightning": "21 sat", "stripe": "0.5 USD"}
    assert (facts["replays_served"], facts["budget_refusals"], facts["charged_twice"]) == (1, 1, 0)
    assert all(purchase["receipt"]["sandbox"] for purchase in facts["purchases"])


def test_keygen_writes_private_files_and_never_over_them(tmp_path: Path) -> None:
    done = run("keygen", "keys", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'receipt_key = "file:keys/receipt.pem"' in done.stdout
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run("keygen", "keys", cwd=tmp_path)
    assert again.returncode == 1
    assert "File exists" in again.stderr
    assert "BEGIN" not in done.stdout
