"""Signing, signing again for more, and what nodes say to it."""

from __future__ import annotations

import pytest
from eth_account import Account

from rail402_base.rpc.endpoint import RpcError
from rail402_base.rpc.fees import Fees
from rail402_base.rpc.transactions import (
    Refusal,
    SignedTransaction,
    fees_of,
    refusal_of,
    sign_again,
    sign_transaction,
)
from tests.unit.rail402_base.rpc.chain import RELAYER, RELAYER_KEY, TOKEN, Chain, Transaction

FEES = Fees(max_fee=2_000_000, max_priority_fee=500)


def signed(nonce: int = 5, fees: Fees = FEES) -> SignedTransaction:
    return sign_transaction(
        RELAYER_KEY, chain_id=84532, nonce=nonce, to=TOKEN.address, data="0xabcd", gas=90_000, fees=fees
    )


def decoded(transaction: SignedTransaction) -> Transaction:
    """What a node makes of it."""
    chain = Chain()
    chain.counts[RELAYER.lower()] = transaction.nonce
    chain.mines_at_once = False
    return chain.pool[chain.broadcast(transaction.raw)]


def test_what_is_signed() -> None:
    transaction = signed()
    found = decoded(transaction)
    assert found.hash == transaction.hash
    assert Account.recover_transaction(transaction.raw) == RELAYER
    fields = dict(found.fields)
    assert {name: fields[name] for name in ("type", "chainId", "nonce", "value", "gas")} == {
        "type": 2,
        "chainId": 84532,
        "nonce": 5,
        "value": 0,
        "gas": 90_000,
    }
    assert (fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]) == (2_000_000, 500)
    assert fields["to"].hex().removeprefix("0x") == TOKEN.address[2:].lower()
    assert bytes(fields["data"]) == b"\xab\xcd"


def test_the_same_for_more() -> None:
    first = signed()
    better = Fees(max_fee=3_000_000, max_priority_fee=600)
    second = sign_again(RELAYER_KEY, first.raw, better)
    assert second.nonce == first.nonce
    assert second.hash != first.hash
    assert (fees_of(first.raw), fees_of(second.raw)) == (FEES, better)
    one, other = (dict(decoded(each).fields) for each in (first, second))
    for name in ("maxFeePerGas", "maxPriorityFeePerGas", "v", "r", "s"):
        del one[name], other[name]
    assert one == other
    assert sign_again(RELAYER_KEY, first.raw, FEES) == first


def test_the_bytes_show_nowhere() -> None:
    assert signed().raw.hex() not in repr(signed())
    assert "raw" not in repr(signed())


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("already known", Refusal.KNOWN),
        ("AlreadyKnown", Refusal.KNOWN),
        ("transaction already imported", Refusal.KNOWN),
        ("known transaction: 0xabc", Refusal.KNOWN),
        ("nonce too low: next nonce 5, tx nonce 4", Refusal.NONCE_USED),
        ("OldNonce", Refusal.NONCE_USED),
        ("replacement transaction underpriced", Refusal.NONCE_TAKEN),
        ("could not replace existing tx", Refusal.NONCE_TAKEN),
        ("insufficient funds for gas * price + value: balance 0", Refusal.NO_GAS_MONEY),
        ("Upfront cost exceeds account balance", Refusal.NO_GAS_MONEY),
        ("Insufficient funds for gas * price + value", Refusal.NO_GAS_MONEY),
        ("intrinsic gas too low", Refusal.UNFIT),
        ("transaction underpriced: gas tip cap 0", Refusal.UNFIT),
        ("max fee per gas less than block base fee", Refusal.UNFIT),
        ("invalid chain id for signer", Refusal.UNFIT),
        ("txpool is full", Refusal.UNCLEAR),
        ("internal error", Refusal.UNCLEAR),
        ("", Refusal.UNCLEAR),
    ],
)
def test_what_nodes_say(message: str, meaning: Refusal) -> None:
    assert refusal_of(RpcError(-32000, message)) is meaning
