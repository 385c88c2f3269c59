"""The EVM chain by itself: if this fails, no other test that uses it tells anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rail402_base.eip3009 import cancel_digest, sign
from tests.services.anvil import MANNERS, USDC, Account, EvmChain
from tests.services.processes import ServiceFailed, wait_for

AMOUNT = 12_345


@pytest.fixture
def payer(evm: EvmChain) -> Account:
    return evm.account(usdc=USDC)


@pytest.fixture
def payee(evm: EvmChain) -> str:
    return evm.account().address


def succeeded(evm: EvmChain, transaction: str) -> bool:
    receipt = evm.receipt(transaction)
    assert receipt is not None
    return bool(int(receipt["status"], 16))


def why(evm: EvmChain, transaction: str) -> str:
    """What the token said when it refused a transaction."""
    sent = evm.call("eth_getTransactionByHash", transaction)
    call = {"from": sent["from"], "to": sent["to"], "data": sent["input"]}
    with pytest.raises(ServiceFailed) as caught:
        evm.call("eth_call", call, "latest")
    return str(caught.value)


def test_the_token_says_of_itself_what_our_table_says(evm: EvmChain) -> None:
    def text(function: str) -> str:
        answer = bytes.fromhex(evm.read(function)[2:])
        return answer[64 : 64 + int.from_bytes(answer[32:64], "big")].decode()

    assert evm.token.network.chain_id == int(evm.call("eth_chainId"), 16)
    assert evm.read("DOMAIN_SEPARATOR()") == "0x" + evm.token.domain.separator.hex()
    assert (text("name()"), text("symbol()"), text("version()")) == (evm.token.name, evm.token.symbol, "2")
    assert int(evm.read("decimals()"), 16) == evm.token.decimals


def test_an_authorization_moves_money_once(evm: EvmChain, payer: Account, payee: str) -> None:
    authorization = evm.authorize(payer, payee, AMOUNT)
    relayer = evm.account().address

    first = evm.submit(relayer, authorization, evm.sign(payer, authorization))
    second = evm.submit(relayer, authorization, evm.sign(payer, authorization))

    assert (succeeded(evm, first), succeeded(evm, second)) == (True, False)
    assert (evm.usdc_of(payer.address), evm.usdc_of(payee)) == (USDC - AMOUNT, AMOUNT)
    assert evm.is_used(payer.address, authorization.nonce)
    receipt = evm.receipt(first)
    assert receipt is not None
    assert len(receipt["logs"]) == 2, "AuthorizationUsed and Transfer"
    assert "authorization is used or canceled" in why(evm, second)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": AMOUNT + 1}, "invalid signature"),
        ({"valid_before": 1}, "authorization is expired"),
        ({"valid_after": 2**40}, "authorization is not yet valid"),
    ],
)
def test_the_token_refuses_what_was_not_signed(
    evm: EvmChain, payer: Account, payee: str, change: dict[str, int], reason: str
) -> None:
    authorization = evm.authorize(payer, payee, AMOUNT)

    transaction = evm.submit(evm.account().address, replace(authorization, **change), evm.sign(payer, authorization))  # type: ignore[arg-type]

    assert not succeeded(evm, transaction)
    assert reason in why(evm, transaction)
    assert evm.usdc_of(payer.address) == USDC


def test_a_payer_who_holds_too_little(evm: EvmChain, payer: Account, payee: str) -> None:
    authorization = evm.authorize(payer, payee, USDC + 1)

    transaction = evm.submit(evm.account().address, authorization, evm.sign(payer, authorization))

    assert "transfer amount exceeds balance" in why(evm, transaction)
    assert not evm.is_used(payer.address, authorization.nonce)


def test_a_paused_token_refuses(evm: EvmChain, payer: Account, payee: str) -> None:
    authorization = evm.authorize(payer, payee, AMOUNT)
    signature = evm.sign(payer, authorization)

    evm.pause()
    try:
        transaction = evm.submit(evm.account().address, authorization, signature)
        assert int(evm.read("paused()"), 16) == 1
        assert not succeeded(evm, transaction)
        assert "Pausable: paused" in why(evm, transaction)
    finally:
        evm.pause(False)

    assert succeeded(evm, evm.submit(evm.account().address, authorization, signature))


@pytest.mark.parametrize("side", ["payer", "payee"])
def test_a_blacklisted_account_neither_pays_nor_is_paid(evm: EvmChain, payer: Account, payee: str, side: str) -> None:
    authorization = evm.authorize(payer, payee, AMOUNT)
    address = payer.address if side == "payer" else payee

    evm.blacklist(address)
    transaction = evm.submit(evm.account().address, authorization, evm.sign(payer, authorization))

    assert int(evm.read("isBlacklisted(address)", bytes.fromhex(address[2:]).rjust(32, b"\0")), 16) == 1
    assert "account is blacklisted" in why(evm, transaction)
    evm.blacklist(address, on=False)
    assert succeeded(evm, evm.submit(evm.account().address, authorization, evm.sign(payer, authorization)))


def test_a_cancelled_authorization_is_used(evm: EvmChain, payer: Account, payee: str) -> None:
    authorization = evm.authorize(payer, payee, AMOUNT)
    signature = sign(cancel_digest(evm.token.domain, payer.address, authorization.nonce), payer.key_bytes)

    evm.cancel(evm.account().address, payer.address, authorization.nonce, signature)

    assert evm.is_used(payer.address, authorization.nonce)
    assert not succeeded(evm, evm.submit(evm.account().address, authorization, evm.sign(payer, authorization)))


def test_a_payer_can_move_the_money_away(evm: EvmChain, payer: Account, payee: str) -> None:
    assert succeeded(evm, evm.send_usdc(payer.address, payee, USDC - 1))

    assert (evm.usdc_of(payer.address), evm.usdc_of(payee)) == (1, USDC - 1)


def test_a_transaction_waits_where_nothing_is_mined(evm: EvmChain, payer: Account, payee: str) -> None:
    with evm.mining(None):
        waiting = evm.send_usdc(payer.address, payee, 1)
        dropped = evm.send_usdc(evm.account(usdc=5).address, payee, 5)
        assert set(evm.waiting()) >= {waiting, dropped}
        assert evm.receipt(waiting) is None
        evm.drop(dropped)
        assert dropped not in evm.waiting()

        evm.mine()

        assert succeeded(evm, waiting)
        assert evm.receipt(dropped) is None
    assert evm.usdc_of(payee) == 1


def test_blocks_come_by_themselves_where_asked(evm: EvmChain, payer: Account, payee: str) -> None:
    with evm.mining(1):
        waiting = evm.send_usdc(payer.address, payee, 1)
        assert evm.receipt(waiting) is None
        wait_for("a block", lambda: evm.receipt(waiting), 10)
    height = evm.height()
    assert succeeded(evm, evm.send_usdc(payer.address, payee, 1)), "mined at once again"
    assert evm.height() == height + 1


def test_a_day_later_and_back(evm: EvmChain, payer: Account, payee: str) -> None:
    authorization = evm.authorize(payer, payee, AMOUNT)
    now, height = evm.now(), evm.height()

    with evm.at(now + 86_400):
        assert evm.now() == now + 86_400
        assert not succeeded(evm, evm.submit(evm.account().address, authorization, evm.sign(payer, authorization)))

    assert (evm.now(), evm.height()) == (now, height)
    assert succeeded(evm, evm.submit(evm.account().address, authorization, evm.sign(payer, authorization)))
    assert evm.now() - now < 60, "the clock goes on from where it was"


def test_a_contract_pays_as_its_owner_signs_and_as_it_behaves(evm: EvmChain, payee: str) -> None:
    wallet, relayer = evm.smart_wallet(usdc=USDC), evm.account().address

    def paid(manner: str, signer: Account = wallet, more: bytes = b"") -> bool:
        evm.behave(wallet, manner)
        authorization = evm.authorize(wallet, payee, AMOUNT)
        return succeeded(evm, evm.submit_bytes(relayer, authorization, evm.sign(signer, authorization) + more))

    assert [paid("honest"), paid("honest", more=bytes(700)), paid("honest", signer=evm.account())] == [1, 1, 0]
    # What the token takes; we are stricter about an answer with more than a word.
    takes = {manner: paid(manner, signer=evm.account()) for manner in MANNERS if manner != "honest"}
    takes |= {"answers too much": paid("answers too much")}
    assert [manner for manner, is_taken in takes.items() if is_taken] == ["answers too much", "takes anything"]
    evm.behave(wallet, "honest")
    evm.destroy(wallet)
    assert not paid("honest")
    assert evm.usdc_of(wallet.address) == USDC - evm.usdc_of(payee)
