"""`rail402 doctor --wallets` against real services: what is wrong with a wallet is named, and nothing is paid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rail402.cli.doctor.agent import agent_findings
from rail402.cli.doctor.findings import Finding
from rail402_lightning.backends.lnd_macaroon import PAY
from tests.integration.test_lightning_lnd import bake
from tests.services.anvil import ETHER, USDC, EvmChain
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair
from tests.services.processes import free_ports


async def examined(tmp_path: Path, table: str, head: str = "") -> list[Finding]:
    path = tmp_path / "wallets.toml"
    path.write_text(f"{head}\n[[wallets]]\n{table}\n")
    return [finding async for finding in agent_findings(str(path))]


def wallet(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(each.state, each.says, each.fix) for each in findings if each.about.startswith("wallet ")]


@pytest.fixture
def base(evm: EvmChain, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a table for the test network; `key` is the private key, where there is one."""

    def table(*lines: str, key: str = "", network: str = "base-sepolia", with_urls: bool = True) -> str:
        monkeypatch.setenv("WALLET_KEY", key or "11" * 32)
        urls = [f'urls = ["{evm.url}"]'] if with_urls else []
        own = ['private_key = "env:WALLET_KEY"'] if key else []
        return "\n".join(['name = "base"', 'backend = "rpc"', f'network = "{network}"', *urls, *own, *lines])

    return table


Base = Callable[..., str]


async def test_a_key_and_what_it_has(tmp_path: Path, evm: EvmChain, base: Base) -> None:
    account = evm.account(usdc=USDC)
    before = evm.height()
    found = await examined(tmp_path, base(key=account.private_key))
    assert wallet(found) == [("ok", "it can sign, and has 1 USDC on Base Sepolia", "")]
    assert [each.state for each in found if each.about == "clock"] == ["ok"], "anvil says the time"
    assert evm.height() == before

    poor = evm.account()
    fix = f"send USDC to {poor.address} on Base Sepolia"
    found = await examined(tmp_path, base(key=poor.private_key))
    assert wallet(found) == [("warning", "it can sign, and has 0 USDC on Base Sepolia", fix)]
    ((state, says, fix),) = wallet(await examined(tmp_path, base(key=account.private_key, with_urls=False)))
    assert (state, "balance is not known" in says, "urls" in fix) == ("warning", True, True)
    ((state, says, _),) = wallet(await examined(tmp_path, base(key=account.private_key, network="base")))
    assert (state, "is on the chain 84532 and the token is on 8453" in says) == ("wrong", True)


async def test_a_remote_signer_is_asked_to_sign(tmp_path: Path, evm: EvmChain, base: Base) -> None:
    account = evm.call("eth_accounts")[2]
    evm.set_usdc(account, USDC)
    lines = f'signer = "{evm.url}"', f'signer_address = "{account}"'
    assert wallet(await examined(tmp_path, base(*lines)))[0][0] == "ok"
    ((state, says, _),) = wallet(
        await examined(tmp_path, base(lines[0], f'signer_address = "{evm.account().address}"'))
    )
    assert (state, "the signer does not sign" in says) == ("wrong", True)
    (port,) = free_ports(1)
    ((state, says, _),) = wallet(await examined(tmp_path, base(f'signer = "http://127.0.0.1:{port}"', lines[1])))
    assert (state, "cannot be reached" in says) == ("wrong", True), says


async def test_a_contract_is_there_and_takes_its_owner_s_signature(tmp_path: Path, evm: EvmChain, base: Base) -> None:
    contract, nobody = evm.smart_wallet(usdc=USDC), evm.account()
    at = f'contract = "{contract.address}"'
    assert wallet(await examined(tmp_path, base(at, key=contract.private_key)))[0][0] == "ok"
    ((state, says, fix),) = wallet(await examined(tmp_path, base(at, key=nobody.private_key)))
    assert (state, "it does not accept the signature" in says) == ("wrong", True), says
    assert "no wallet of this file pays" in fix
    away = base(f'contract = "{nobody.address}"', key=contract.private_key)
    ((state, says, _),) = wallet(await examined(tmp_path, away))
    assert (state, f"no contract is there; deploy {nobody.address} on Base Sepolia" in says) == ("wrong", True), says


async def test_a_wallet_that_transfers_needs_ether(tmp_path: Path, evm: EvmChain, base: Base) -> None:
    account = evm.account(usdc=USDC)
    lines = 'pays_by = "transfer"', f'transfers_db = "sqlite:///{tmp_path}/t.db"', 'max_gas_gwei = "1000000000"'
    before = evm.height()
    found = wallet(await examined(tmp_path, base(*lines, key=account.private_key)))
    assert [state for state, *_ in found] == ["ok", "warning"], found
    assert "wei for gas" in found[1][1]
    assert "ether" in found[1][2]
    evm.set_ether(account.address, ETHER)
    assert wallet(await examined(tmp_path, base(*lines, key=account.private_key))) == [
        ("ok", "it can sign, and has 1 USDC on Base Sepolia", "")
    ]
    assert (evm.height(), evm.usdc_of(account.address)) == (before, USDC)


async def test_an_lnd(tmp_path: Path, regtest: RegtestNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = regtest.bob
    monkeypatch.setenv("MACAROON", bake(bob, *PAY.methods))
    before = bob.channel_balance()

    def table(network: str = "regtest", tls_cert: Path = bob.tls_cert_path) -> str:
        return (
            f'name = "lightning"\nbackend = "lnd"\nurl = "{bob.rest_url}"\nmacaroon = "env:MACAROON"\n'
            f'network = "{network}"\ntls_cert = "{tls_cert}"'
        )

    ((state, says, _),) = wallet(await examined(tmp_path, table()))
    assert (state, says.endswith(" sat on regtest")) == ("ok", True), says
    ((state, says, _),) = wallet(await examined(tmp_path, table("mainnet")))
    assert (state, "is on regtest, and network='mainnet'" in says) == ("wrong", True)
    ((state, says, _),) = wallet(await examined(tmp_path, table(tls_cert=regtest.alice.tls_cert_path)))
    assert (state, "copy the node's tls.cert again" in says) == ("wrong", True)
    monkeypatch.setenv("MACAROON", bake(bob, "info:read"))
    ((state, says, _),) = wallet(await examined(tmp_path, table()))
    assert (state, "lacks offchain:read, offchain:write" in says) == ("wrong", True)
    assert bob.channel_balance() == before


async def test_an_lnbits(tmp_path: Path, lnbits_pair: LnbitsPair, monkeypatch: pytest.MonkeyPatch) -> None:
    payer = lnbits_pair.payer
    monkeypatch.setenv("ADMIN_KEY", payer.admin_key)
    table = f'name = "lightning"\nbackend = "lnbits"\nurl = "{payer.url}"\nnetwork = "regtest"\n'
    table += 'admin_key = "env:ADMIN_KEY"\n'
    found = await examined(tmp_path, table)
    ((state, says, _),) = wallet(found)
    assert (state, says.endswith(" sat on regtest")) == ("ok", True), says
    assert [each.state for each in found if each.about == "clock"] == ["ok"], "LNbits says the time"
    few, *more = wallet(await examined(tmp_path, table + "max_fee_sat = 1\nmax_fee_ppm = 0"))
    assert (few[0], [state for state, *_ in more]) == ("ok", ["warning"])
    assert "small amounts are not paid" in more[0][1]
    tried = wallet(await examined(tmp_path, table + f"{more[0][2]}\nmax_fee_ppm = 0"))
    assert [state for state, *_ in tried] == ["ok"], "its advice helps"
    monkeypatch.setenv("ADMIN_KEY", payer.invoice_key)
    ((state, says, _),) = wallet(await examined(tmp_path, table))
    assert (state, "invoice key, which cannot pay" in says) == ("wrong", True)
    assert payer.invoice_key not in str(found)


async def test_a_journal_in_a_postgresql(tmp_path: Path, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", schema)
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))
    head, table = '[client]\njournal = "env:DATABASE_URL"\n', 'name = "base"\nbackend = "sandbox"'
    found = {each.about: each.state for each in await examined(tmp_path, table, head)}
    assert set(found.values()) == {"ok"}
    (port,) = free_ports(1)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:hidden@127.0.0.1:{port}/wallets?connect_timeout=2")
    (wrong,) = [each for each in await examined(tmp_path, table, head) if each.state == "wrong"]
    assert (wrong.about, "hidden" in str(wrong)) == ("journal", False)
