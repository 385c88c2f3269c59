"""The Lightning services by themselves: if this fails, no other test that uses them tells anything."""

from __future__ import annotations

import hashlib
import shlex
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.services.lightning import CAPACITY_SAT, RegtestNetwork, regtest_network, routing_fee
from tests.services.lnbits import LnbitsPair
from tests.services.lnd import LndNode
from tests.services.processes import ServiceFailed, active, wait_for
from tests.services.regtest import main, variables

LISTENING = "0A"
LOOPBACK = "0100007F"


def pay(pair: LnbitsPair, bolt11: str) -> httpx.Response:
    with pair.payer.client(pair.payer.admin_key) as client:
        return client.post("/api/v1/payments", json={"out": True, "bolt11": bolt11})


def balances(*nodes: LndNode) -> list[int]:
    return [node.channel_balance() for node in nodes]


def holds(amounts: list[int], *nodes: LndNode) -> bool:
    return balances(*nodes) == amounts


def test_both_nodes_can_pay_over_the_channel(regtest: RegtestNetwork) -> None:
    channel = regtest.alice.channels_to(regtest.bob)[-1]

    assert int(channel["capacity"]) == CAPACITY_SAT
    assert regtest.alice.channel_balance() > 1_000_000_000
    assert regtest.bob.channel_balance() > 1_000_000_000


def test_bob_is_paid_for_forwarding_between_alice_and_carol(regtest: RegtestNetwork) -> None:
    amount = 1_234_567
    fee = routing_fee(amount)
    assert fee == 1123

    for payer, payee in ((regtest.alice, regtest.carol), (regtest.carol, regtest.alice)):
        regtest.wait_until_idle()
        before = balances(payer, regtest.bob, payee)
        invoice = payee.create_invoice(amount)

        with pytest.raises(ServiceFailed, match="NO_ROUTE"):
            payer.pay(invoice, fee_limit=fee - 1)
        payer.pay(invoice, fee_limit=fee)

        moved = [before[0] - amount - fee, before[1] + fee, before[2] + amount]
        wait_for(f"{moved} in the channels", partial(holds, moved, payer, regtest.bob, payee), 30)


def test_a_mined_block_reaches_all_nodes(regtest: RegtestNetwork) -> None:
    before = regtest.chain.height()

    regtest.mine(2)

    assert regtest.chain.height() == before + 2
    assert all(node.is_synced(before + 2) for node in regtest.nodes)


def test_a_payment_between_lnbits_wallets_moves_the_channel(regtest: RegtestNetwork, lnbits_pair: LnbitsPair) -> None:
    publisher, payer = lnbits_pair.publisher, lnbits_pair.payer
    amount = 1_234_000
    regtest.wait_until_idle()
    wallets = publisher.balance(), payer.balance()
    nodes = regtest.alice.channel_balance(), regtest.bob.channel_balance()

    invoice = publisher.create_invoice(amount // 1000, "smoke test")
    assert invoice["bolt11"].startswith("lnbcrt")
    answer = pay(lnbits_pair, invoice["bolt11"])

    assert (answer.status_code, answer.json()["status"]) == (201, "success")
    assert hashlib.sha256(bytes.fromhex(answer.json()["preimage"])).hexdigest() == invoice["payment_hash"]
    moved = (nodes[0] + amount, nodes[1] - amount)
    wait_for("the channel", lambda: (regtest.alice.channel_balance(), regtest.bob.channel_balance()) == moved, 30)
    booked = (wallets[0] + amount, wallets[1] - amount)
    wait_for("the wallets", lambda: (publisher.balance(), payer.balance()) == booked, 30)


def test_an_invoice_is_paid_once(lnbits_pair: LnbitsPair) -> None:
    invoice = lnbits_pair.publisher.create_invoice(21, "paid twice")
    assert pay(lnbits_pair, invoice["bolt11"]).status_code == 201
    balance = lnbits_pair.payer.balance()

    assert pay(lnbits_pair, invoice["bolt11"]).status_code == 520
    assert lnbits_pair.payer.balance() == balance


def test_the_invoice_key_cannot_pay(lnbits_pair: LnbitsPair) -> None:
    invoice = lnbits_pair.publisher.create_invoice(21, "not paid")

    with lnbits_pair.payer.client(lnbits_pair.payer.invoice_key) as client:
        answer = client.post("/api/v1/payments", json={"out": True, "bolt11": invoice["bolt11"]})

    assert answer.status_code == 403


def test_the_written_variables_lead_to_the_same_network(
    regtest: RegtestNetwork, lnbits_pair: LnbitsPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = variables(regtest, lnbits_pair)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    channels = [len(node.get("/v1/channels")["channels"]) for node in regtest.nodes]

    assert main(["env", "--directory", str(tmp_path)]) == 0

    written = tmp_path / "env"
    words = [shlex.split(line) for line in written.read_text().splitlines()]
    found = dict(setting.split("=", 1) for export, setting in words if export == "export")
    assert found.items() >= known.items()
    assert written.stat().st_mode & 0o077 == 0
    for name in found.keys() - known.keys():  # the macaroons for the guide
        assert Path(found[name]).stat().st_mode & 0o077 == 0
    with regtest_network(tmp_path) as again:
        assert [node.pubkey for node in again.nodes] == [node.pubkey for node in regtest.nodes]
        assert [len(node.get("/v1/channels")["channels"]) for node in again.nodes] == channels


def test_there_is_nothing_to_describe_where_no_variable_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for chain in ("BTCD", "BITCOIND"):
        monkeypatch.delenv(f"RAIL402_TEST_{chain}_URL", raising=False)

    assert main(["env", "--directory", str(tmp_path)]) == 1
    assert "no RAIL402_TEST_* variable says where the network is" in capsys.readouterr().err
    assert not (tmp_path / "env").exists()


@pytest.mark.usefixtures("lnbits_pair")
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the sockets of processes from /proc")
def test_the_services_listen_on_loopback_only() -> None:
    if not active():
        pytest.skip("the services run elsewhere")
    for process in active():
        addresses = {address for member in process.members() for address in listening_addresses(member)}
        assert addresses == {LOOPBACK}, process.name


def listening_addresses(process_id: int) -> set[str]:
    """The local addresses, as the kernel prints them in hex, of a process's listening TCP sockets."""
    sockets = {link.readlink().name for link in Path(f"/proc/{process_id}/fd").iterdir()}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if (path := Path(f"/proc/{process_id}/net/{table}")).exists()
        for line in path.read_text().splitlines()[1:]
    ]
    # Columns: 1 local address and port, 3 state, 9 inode.
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in sockets}
