"""`docs/regtest.md`: its two programs, as they stand there but for the port, sell and buy on the regtest network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.services.lightning import RegtestNetwork, routing_fee
from tests.services.lnbits import LnbitsPair
from tests.services.processes import free_ports, running, wait_for
from tests.services.regtest import bake, variables

PAGE = Path(__file__).parents[2] / "docs" / "regtest.md"
PRICE = 21_000


def blocks() -> list[tuple[str, str]]:
    """Return mark and text of the page's fenced blocks."""
    return re.findall(r"(?:^<!-- ([^\n]*) -->\n)?^```\w*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def block(mark: str) -> str:
    (text,) = [text for own, text in blocks() if own == mark]
    return text


def block_with(words: str) -> str:
    (text,) = [text for _, text in blocks() if words in text]
    return text


def replace_assignment(program: str, name: str, by: str) -> str:
    """Return the program with another value of a name, which both texts assign in lines up to a lone parenthesis."""
    pattern = re.compile(rf"^{name} = .*?^\)$", re.MULTILINE | re.DOTALL)
    (assignment,) = pattern.findall(by)
    changed, times = pattern.subn(lambda _: assignment, program)
    assert times == 1
    return changed


class Guide:
    """The guide's programs in a folder of their own, with the variables that they need."""

    def __init__(self, home: Path, settings: dict[str, str]) -> None:
        self.home = home
        self.settings = settings
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}/article/402"
        self._run("rail402", "keygen", "keys")

    def save(self, name: str, text: str) -> None:
        assert text.count("127.0.0.1:8000") == 1
        (self.home / name).write_text(text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}"))

    @contextmanager
    def serving(self) -> Iterator[None]:
        command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(self.port), "--log-level", "warning"]
        with running("shop", command, self.home, env=self.settings | {"PYTHONPATH": "."}) as process:
            answer = process.wait_until("HTTP", lambda: httpx.get(self.url, trust_env=False))
            assert answer.status_code == 402, answer.text + process.log_tail()
            yield

    def buy(self) -> str:
        return self._run(sys.executable, "-W", "error", "agent.py")

    def money(self) -> list[int]:
        """Return what the guide's commands print: Alice's and Carol's balances in msat."""
        printed = self._run("bash", "-ec", block_with("/v1/balance/channels"))
        return [int(line.removesuffix(" msat")) for line in printed.splitlines()]

    def _run(self, *command: str) -> str:
        bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": bin_first, "HOME": str(self.home), "LANG": "C.UTF-8"} | self.settings
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def guide(regtest: RegtestNetwork, lnbits_pair: LnbitsPair, tmp_path: Path) -> Guide:
    return Guide(tmp_path, variables(regtest, lnbits_pair) | bake(regtest, tmp_path))


def prints(fee: str = "1002 msat") -> str:
    pattern = re.escape(block("prints").replace("fee 1002 msat", f"fee {fee}"))
    return pattern.replace("…", ".*")


def test_the_guide_s_agent_pays_over_bob(guide: Guide, regtest: RegtestNetwork) -> None:
    guide.save("server.py", block("file: server.py"))
    guide.save("agent.py", block("file: agent.py"))
    regtest.wait_until_idle()
    before, bob = guide.money(), regtest.bob.channel_balance()
    fee = routing_fee(PRICE)

    with guide.serving():
        assert re.fullmatch(prints(), guide.buy())

    assert fee == 1002
    wanted = [before[0] + PRICE, before[1] - PRICE - fee]
    wait_for(f"{wanted} in the channels", lambda: guide.money() == wanted, 30)
    wait_for("Bob's fee", lambda: regtest.bob.channel_balance() == bob + fee, 30)
    assert "Alice has 21,000 msat\nmore and Carol 22,002 msat less" in PAGE.read_text()


def test_the_guide_s_programs_run_by_lnbits_too(guide: Guide, lnbits_pair: LnbitsPair) -> None:
    lnbits = block_with("LightningRail.lnbits(")
    guide.save("server.py", replace_assignment(block("file: server.py"), "rail", lnbits))
    guide.save("agent.py", replace_assignment(block("file: agent.py"), "wallet", lnbits))
    before = lnbits_pair.publisher.balance(), lnbits_pair.payer.balance()

    with guide.serving():
        printed = guide.buy()

    assert re.fullmatch(prints("0 sat"), printed), printed
    wanted = before[0] + PRICE, before[1] - PRICE
    wait_for(
        f"{wanted} in the wallets", lambda: (lnbits_pair.publisher.balance(), lnbits_pair.payer.balance()) == wanted, 30
    )
