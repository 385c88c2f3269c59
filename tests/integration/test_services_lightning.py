"""The Lightning services by themselves: if this fails, no other test that uses them tells anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from tests.services.lightning import CAPACITY_SAT, RegtestNetwork
from tests.services.lnbits import LnbitsPair
from tests.services.processes import active, wait_for

LISTENING = "0A"
LOOPBACK = "0100007F"


def pay(pair: LnbitsPair, bolt11: str) -> httpx.Response:
    with pair.payer.client(pair.payer.admin_key) as client:
        return client.post("/api/v1/payments", json={"out": True, "bolt11": bolt11})


def test_both_nodes_can_pay_over_the_channel(regtest: RegtestNetwork) -> None:
    channel = regtest.alice.channels_to(regtest.bob)[-1]

    assert int(channel["capacity"]) == CAPACITY_SAT
    assert regtest.alice.channel_balance() > 1_000_000_000
    assert regtest.bob.channel_balance() > 1_000_000_000


def test_a_mined_block_reaches_both_nodes(regtest: RegtestNetwork) -> None:
    before = regtest.chain.height()

    regtest.mine(2)

    assert regtest.chain.height() == before + 2
    assert all(node.is_synced(before + 2) for node in (regtest.alice, regtest.bob))


def test_a_payment_between_lnbits_wallets_moves_the_channel(regtest: RegtestNetwork, lnbits_pair: LnbitsPair) -> None:
    publisher, payer = lnbits_pair.publisher, lnbits_pair.payer
    amount = 1_234_000
    wallets = publisher.balance(), payer.balance()
    nodes = regtest.alice.channel_balance(), regtest.bob.channel_balance()

    invoice = publisher.create_invoice(amount // 1000, "smoke test")
    assert invoice["bolt11"].startswith("lnbcrt")
    answer = pay(lnbits_pair, invoice["bolt11"])

    assert (answer.status_code, answer.json()["status"]) == (201, "success")
    assert hashlib.sha256(bytes.fromhex(answer.json()["preimage"])).hexdigest() == invoice["payment_hash"]
    moved = (nodes[0] + amount, nodes[1] - amount)
    wait_for("the channel", lambda: (regtest.alice.channel_balance(), regtest.bob.channel_balance()) == moved, 10)
    booked = (wallets[0] + amount, wallets[1] - amount)
    wait_for("the wallets", lambda: (publisher.balance(), payer.balance()) == booked, 10)


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
