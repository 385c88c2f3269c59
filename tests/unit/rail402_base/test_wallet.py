"""The client side: what is signed, for how long, and what became of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, PaymentFailed, RailUnavailable
from rail402.money import Money
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import NotPaid, Paid, Settled, Unknown
from rail402.sandbox import PLAY_MONEY
from rail402_base.chain import SandboxBackend, Submitted, Trace, Unused
from rail402_base.eip3009 import Authorization, Domain, parse_authorization
from rail402_base.keys import LocalSigner, RemoteSigner
from rail402_base.sandbox import ENDOWMENT
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC, Token
from rail402_base.wallet import MAX_TIMEOUT, BaseWallet
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import (
    NOW,
    PAYEE,
    PAYER,
    PAYER_KEY,
    PRICE,
    THIRD,
    TIMEOUT,
    Counter,
    Till,
    present,
)

# Keystore and mnemonic are test material that everybody knows: the words of the tools' documentation.
MNEMONIC = "test test test test test test test test test test test junk"
MNEMONIC_ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    till = Till(tmp_path)
    await till.chain.mint(PAYER, 10_000)
    return till


def wallet_of(till: Till | None = None, **options: Any) -> BaseWallet:
    chain = None if till is None else till.backend
    return BaseWallet(
        LocalSigner(PAYER_KEY), chain=chain, **{"tokens": [SANDBOX_USDC], "random_bytes": Counter(), **options}
    )


def offer_of(token: Token, **changes: Any) -> Offer:
    offer = BaseSpec(token).offer(
        token, payee=PAYEE, amount=PRICE, flow=Flow.AUTHORIZATION, expires_at=NOW + 600, timeout_seconds=TIMEOUT
    )
    return offer.model_copy(update=changes)


async def pay(wallet: BaseWallet, offer: Offer) -> Authorization:
    return parse_authorization((await wallet.pay(offer, record_id="rec_1", now=NOW)).payload)[0]


# Whether it can pay


async def test_an_offer_costs_its_price_and_nothing_else(till: Till) -> None:
    cost = await wallet_of(till).can_pay(await till.offer())
    assert cost is not None
    assert (str(cost.price), cost.fee_ceiling) == ("0.003 USDC", None)


@pytest.mark.parametrize("token", [BASE_USDC, BASE_SEPOLIA_USDC, replace(SANDBOX_USDC, address=THIRD)])
async def test_another_token_cannot_be_paid(till: Till, token: Token) -> None:
    wallet = wallet_of(till)
    assert await wallet.can_pay(offer_of(token)) is None
    with pytest.raises(PaymentFailed, match="the wallet has no") as caught:
        await wallet.pay(offer_of(token), record_id="rec_1", now=NOW)
    assert (caught.value.record_id, caught.value.outcome) == ("rec_1", "not_paid")


async def test_the_balance_decides_where_it_is_known(till: Till) -> None:
    offer = await till.offer()
    assert await wallet_of(till).can_pay(offer.model_copy(update={"amount": 10_000})) is not None
    too_much = offer.model_copy(update={"amount": 10_001})
    assert await wallet_of(till).can_pay(too_much) is None
    assert await wallet_of().can_pay(too_much) is not None


async def test_a_chain_that_cannot_be_asked_is_no_reason_not_to_pay(till: Till) -> None:
    class Unreachable(SandboxBackend):
        async def balance_of(self, token: Token, address: str) -> int:
            raise RailUnavailable("down")

    wallet = wallet_of(till)
    wallet.chain = Unreachable(till.chain, clock=till.clock)
    assert await wallet.can_pay(await till.offer()) is not None


async def test_an_offer_on_another_network_is_read_so_that_it_can_be_named() -> None:
    wallet = wallet_of()
    wire = wallet.spec.bindings["x402-v2"].encode_offer(offer_of(BASE_USDC))
    assert wallet.spec.bindings["x402-v2"].decode_offer(wire, expires_at=NOW) is not None


def test_its_networks_are_those_of_its_tokens(till: Till) -> None:
    assert wallet_of(till).networks == {SANDBOX_USDC.network.caip2}
    both = BaseWallet(LocalSigner(PAYER_KEY), tokens=[BASE_USDC, BASE_SEPOLIA_USDC])
    assert both.networks == {BASE_USDC.network.caip2, BASE_SEPOLIA_USDC.network.caip2}


def test_only_a_wallet_of_play_money_has_advice_about_where_that_is(till: Till) -> None:
    assert wallet_of(till).advice == {"insufficient_funds": PLAY_MONEY}
    assert wallet_of(tokens=[BASE_USDC]).advice == {}


async def test_testnets_are_paid_on_only_where_they_are_named() -> None:
    wallet = BaseWallet(LocalSigner(PAYER_KEY))
    assert await wallet.can_pay(offer_of(BASE_USDC)) is not None
    for token in (BASE_SEPOLIA_USDC, SANDBOX_USDC):
        assert await wallet.can_pay(offer_of(token)) is None
        assert await BaseWallet(LocalSigner(PAYER_KEY), tokens=[token]).can_pay(offer_of(token)) is not None


# Paying


async def test_what_is_signed_is_the_offer(till: Till) -> None:
    authorization = await pay(wallet_of(till), await till.offer())
    assert (authorization.from_, authorization.to, authorization.value) == (PAYER, PAYEE, PRICE)
    assert (authorization.valid_after, authorization.valid_before) == (0, NOW + TIMEOUT)
    assert authorization.nonce == bytes(31) + b"\x01"


async def test_a_payment_is_accepted_and_settled(till: Till) -> None:
    offer, wallet = await till.offer(), wallet_of(till)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert paid.fee == Money.parse("0 USDC")
    binding = wallet.spec.bindings["x402-v2"]
    payload = binding.decode_proof(json.loads(json.dumps(binding.encode_proof(paid.payload))))
    assert payload is not None
    charge = await till.verify(offer, present(payload, offer))
    assert isinstance(await till.rail.settle(charge, present(payload)), Settled)
    assert await till.chain.balance_of(PAYEE) == PRICE


async def test_every_payment_has_a_nonce_of_its_own(till: Till) -> None:
    offer = await till.offer()
    wallet = BaseWallet(LocalSigner(PAYER_KEY), tokens=[SANDBOX_USDC])
    nonces = {(await pay(wallet, offer)).nonce for _ in range(10)}
    assert len(nonces) == 10
    assert {len(nonce) for nonce in nonces} == {32}


@pytest.mark.parametrize(
    ("limit", "asked", "valid"), [(MAX_TIMEOUT, 2**31 - 1, MAX_TIMEOUT), (30, 60, 30), (60, 30, 30)]
)
async def test_a_payment_is_valid_no_longer_than_the_owner_allows(limit: int, asked: int, valid: int) -> None:
    wallet = wallet_of(max_timeout=limit)
    authorization = await pay(wallet, offer_of(SANDBOX_USDC, timeout_seconds=asked))
    assert authorization.valid_before == NOW + valid


@pytest.mark.parametrize("error", [RailUnavailable("no hardware"), OutcomeUnknown("no answer")])
async def test_a_signer_that_does_not_sign_has_paid_nothing(error: Exception) -> None:
    async def refuse(message: dict[str, object]) -> bytes:
        raise error

    wallet = BaseWallet(RemoteSigner(PAYER, refuse), tokens=[SANDBOX_USDC])
    with pytest.raises(PaymentFailed, match=r"no hardware|no answer") as caught:
        await wallet.pay(offer_of(SANDBOX_USDC), record_id="rec_1", now=NOW)
    assert caught.value.outcome == "not_paid"
    assert caught.value.record_id == "rec_1"


async def test_a_signer_with_another_key_has_paid_nothing(till: Till) -> None:
    async def sign_otherwise(message: dict[str, object]) -> bytes:
        return await LocalSigner(b"\x09" * 32).sign(
            Domain(name="x", version="1", chain_id=1, verifying_contract=THIRD),
            till.authorization(from_=LocalSigner(b"\x09" * 32).address),
        )

    wallet = BaseWallet(RemoteSigner(PAYER, sign_otherwise), tokens=[SANDBOX_USDC])
    with pytest.raises(PaymentFailed, match="did not sign"):
        await wallet.pay(offer_of(SANDBOX_USDC), record_id="rec_1", now=NOW)


# What became of it


async def resume(wallet: BaseWallet, offer: Offer, paid: Paid | None, now: int) -> Paid | NotPaid | Unknown:
    return await wallet.resume(offer, None if paid is None else paid.payload, record_id="rec_1", now=now)


async def test_without_a_proof_nothing_was_paid(till: Till) -> None:
    for wallet in (wallet_of(), wallet_of(till)):
        assert await resume(wallet, await till.offer(), None, NOW) == NotPaid()


@pytest.mark.parametrize("with_chain", [True, False])
async def test_what_is_still_valid_is_shown_again(till: Till, with_chain: bool) -> None:
    offer, wallet = await till.offer(), wallet_of(till if with_chain else None)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert await resume(wallet, offer, paid, NOW + TIMEOUT - 1) == Paid(payload=paid.payload)


async def test_what_expired_unused_was_not_paid(till: Till) -> None:
    offer, wallet = await till.offer(), wallet_of(till)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    till.clock.advance(TIMEOUT)
    assert await resume(wallet, offer, paid, till.clock()) == NotPaid()


async def test_what_was_handed_in_was_paid(till: Till) -> None:
    offer, wallet = await till.offer(), wallet_of(till)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    await till.hand_in(parse_authorization(paid.payload)[0])
    till.clock.advance(10**6)
    assert await resume(wallet, offer, paid, till.clock()) == Paid(payload=paid.payload, moved=True)


async def test_what_was_cancelled_or_went_elsewhere_was_not_paid(till: Till) -> None:
    offer, wallet = await till.offer(), wallet_of(till)
    cancelled, diverted = [await wallet.pay(offer, record_id="rec_1", now=NOW) for _ in range(2)]
    await till.cancel(parse_authorization(cancelled.payload)[0])
    await till.hand_in(replace(parse_authorization(diverted.payload)[0], to=THIRD))
    till.clock.advance(TIMEOUT)
    for paid in (cancelled, diverted):
        assert await resume(wallet, offer, paid, till.clock()) == NotPaid()


@pytest.mark.parametrize(
    "answer", [Submitted(transaction="0x1"), Unused(expired=False), RailUnavailable("down"), OutcomeUnknown("?")]
)
async def test_what_the_chain_has_not_decided_is_unknown(till: Till, answer: Trace | Exception) -> None:
    class Undecided(SandboxBackend):
        async def trace(self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int) -> Trace:
            if isinstance(answer, Exception):
                raise answer
            return answer

    offer, wallet = await till.offer(), wallet_of(till)
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    wallet.chain = Undecided(till.chain, clock=till.clock)
    assert isinstance(await resume(wallet, offer, paid, NOW + TIMEOUT), Unknown)


async def test_without_a_chain_an_expired_payment_is_unknown(till: Till) -> None:
    offer, wallet = await till.offer(), wallet_of()
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    found = await resume(wallet, offer, paid, NOW + TIMEOUT)
    assert isinstance(found, Unknown)
    assert "eip155:402402" in found.detail


async def test_another_networks_chain_is_not_asked(till: Till) -> None:
    wallet = BaseWallet(LocalSigner(PAYER_KEY), tokens=[SANDBOX_USDC, BASE_USDC], chain=till.backend)
    offer = offer_of(BASE_USDC)
    assert await wallet.can_pay(offer.model_copy(update={"amount": 10**12})) is not None
    paid = await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert isinstance(await resume(wallet, offer, paid, NOW + TIMEOUT), Unknown)


async def test_a_damaged_proof_is_not_guessed_at(till: Till) -> None:
    with pytest.raises(MalformedInput):
        await wallet_of(till).resume(await till.offer(), {"signature": "0x"}, record_id="rec_1", now=NOW)


# Where the key comes from


async def test_a_sandbox_wallet_is_endowed_once(tmp_path: Path) -> None:
    wallet = BaseWallet.sandbox(tmp_path)
    for _ in range(2):
        await wallet.start()
        await wallet.close()
    assert isinstance(wallet.chain, SandboxBackend)
    books = await wallet.chain.chain.books()
    assert books.balances == {wallet.signer.address: ENDOWMENT}
    assert BaseWallet.sandbox(tmp_path).signer.address == wallet.signer.address
    assert wallet.tokens == (SANDBOX_USDC,)


async def test_a_sandbox_wallet_takes_a_key(tmp_path: Path) -> None:
    wallet = BaseWallet.sandbox(tmp_path, private_key=PAYER_KEY.hex())
    assert wallet.signer.address == PAYER
    assert wallet.name == f"base:{PAYER}"
    assert not (tmp_path / "base-agent.key").exists()
    with pytest.raises(ConfigurationError, match="64 hex digits"):
        BaseWallet.sandbox(tmp_path, private_key="secret words")


async def test_a_wallet_of_a_private_key_pays_on_base() -> None:
    wallet = BaseWallet.from_private_key("0x" + PAYER_KEY.hex(), max_timeout=60)
    assert wallet.tokens == (BASE_USDC,)
    authorization = await pay(wallet, offer_of(BASE_USDC))
    assert (authorization.from_, authorization.valid_before) == (PAYER, NOW + 60)
    await wallet.start()
    await wallet.close()


def test_a_wallet_of_a_mnemonic() -> None:
    wallet = BaseWallet.from_mnemonic(MNEMONIC, tokens=[BASE_SEPOLIA_USDC])
    assert wallet.signer.address == MNEMONIC_ADDRESS
    other = BaseWallet.from_mnemonic(MNEMONIC, passphrase="x", derivation_path="m/44'/60'/0'/0/1")
    assert other.signer.address != MNEMONIC_ADDRESS


def test_a_wallet_of_a_keystore(tmp_path: Path) -> None:
    from eth_account import Account

    path = tmp_path / "key.json"
    path.write_text(json.dumps(Account.encrypt(PAYER_KEY, "password", kdf="pbkdf2", iterations=1)))
    assert BaseWallet.from_keystore(path, "password").signer.address == PAYER
    with pytest.raises(ConfigurationError, match="password"):
        BaseWallet.from_keystore(path, "wrong")


def test_a_wallet_never_shows_its_key(tmp_path: Path) -> None:
    for wallet in (
        BaseWallet.from_private_key(PAYER_KEY.hex()),
        BaseWallet.sandbox(tmp_path, private_key=PAYER_KEY.hex()),
    ):
        assert PAYER in repr(wallet)
        assert PAYER_KEY.hex() not in repr(wallet) + repr(vars(wallet))


def test_a_wallet_without_tokens_or_on_the_wrong_chain_is_refused(tmp_path: Path) -> None:
    signer, backend = LocalSigner(PAYER_KEY), Till(tmp_path).backend
    with pytest.raises(ConfigurationError, match="tokens"):
        BaseWallet(signer, tokens=[])
    with pytest.raises(ConfigurationError, match="max_timeout"):
        BaseWallet(signer, max_timeout=0)
    with pytest.raises(ConfigurationError, match="eip155:402402"):
        BaseWallet(signer, tokens=[BASE_USDC], chain=backend)


# X-Payment


async def test_the_nonce_of_x_payment_is_the_challenges() -> None:
    nonce = "0x" + 64 * "b"
    authorization = await pay(wallet_of(), offer_of(SANDBOX_USDC, dialect="x-payment", extra={"nonce": nonce}))
    assert authorization.nonce.hex() == nonce[2:]


async def test_a_transfer_is_none_of_this_wallets_payments() -> None:
    offer = offer_of(SANDBOX_USDC, mechanism="transfer", flow=Flow.UPFRONT)
    assert await wallet_of().can_pay(offer) is None
    with pytest.raises(PaymentFailed):
        await wallet_of().pay(offer, record_id="rec_1", now=NOW)
