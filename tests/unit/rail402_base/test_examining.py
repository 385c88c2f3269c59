"""Whether a wallet could pay: who signs, what the token says to that, and what is there. Nothing moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, OfferRefused, PaymentRejected, RailUnavailable
from rail402_base import BaseTransferWallet, BaseWallet
from rail402_base.eip3009 import Authorization, address_of, recover, sign
from rail402_base.eip3009 import digest as digest_of
from rail402_base.examining import examine_sender, examine_signer
from rail402_base.keys import ContractSigner, LocalSigner, RemoteSigner
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, Token

KEY, OTHER = b"\x11" * 32, b"\x22" * 32
SIGNER = LocalSigner(KEY)


class View:
    """A chain that has a balance, and a word about every authorization."""

    def __init__(self, held: int, code: str = "authorization_expired", token: Token = BASE_USDC) -> None:
        self.network, self.held, self.code = token.network, held, code
        self.asked: list[tuple[Token, Authorization, bytes]] = []

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        self.asked.append((token, authorization, signature))
        if self.code:
            raise PaymentRejected(f"it says {self.code}", code=self.code)

    async def balance_of(self, token: Token, address: str) -> int:
        return self.held


async def test_a_message_is_signed_that_moves_nothing() -> None:
    view: Any = View(2_500_000)
    assert [(each.says, each.fix) for each in await examine_signer(SIGNER, (BASE_USDC,), view)] == [
        ("it can sign, and has 2.5 USDC on Base", "")
    ]
    ((token, probe, signature),) = view.asked
    assert (probe.from_, probe.to, probe.value, probe.valid_before) == (SIGNER.address, SIGNER.address, 0, 1)
    assert recover(digest_of(token.domain, probe), signature) == SIGNER.address


async def test_what_keeps_it_from_paying() -> None:
    empty: Any = View(0, code="")
    (said,) = await examine_signer(SIGNER, (BASE_USDC,), empty)
    assert (said.says, said.fix) == (
        "it can sign, and has 0 USDC on Base",
        f"send USDC to {SIGNER.address} on Base",
    )
    (said,) = await examine_signer(SIGNER, (BASE_USDC,), None)
    assert "to pay on Base; its balance is not known" in said.says
    assert "give it urls" in said.fix
    listed: Any = View(5, code="payment_declined")
    with pytest.raises(PaymentRejected, match="payment_declined"):
        await examine_signer(SIGNER, (BASE_USDC,), listed)
    sepolia: Any = View(5, token=BASE_SEPOLIA_USDC)
    await examine_signer(SIGNER, (BASE_USDC, BASE_SEPOLIA_USDC), sepolia)
    assert sepolia.asked[0][0] == BASE_SEPOLIA_USDC, "the token that is on its chain"


async def test_a_signer_that_is_not_who_it_should_be() -> None:
    async def signs(message: dict[str, Any]) -> bytes:
        probe = Authorization(
            from_=SIGNER.address, to=SIGNER.address, value=0, valid_after=0, valid_before=1, nonce=bytes(32)
        )
        return sign(digest_of(BASE_USDC.domain, probe), OTHER)

    with pytest.raises(ConfigurationError, match="did not sign this message with the key of"):
        await examine_signer(RemoteSigner(SIGNER.address, signs), (BASE_USDC,), None)

    async def is_away(message: dict[str, Any]) -> bytes:
        raise RailUnavailable("it cannot be reached")

    with pytest.raises(RailUnavailable, match="cannot be reached"):
        await examine_signer(RemoteSigner(SIGNER.address, is_away), (BASE_USDC,), None)
    contract, refuses = address_of(OTHER), View(5, code="signature_invalid")
    with pytest.raises(
        ConfigurationError, match=f"signature_invalid; deploy {contract} on Base, or sign with an owner"
    ):
        await examine_signer(ContractSigner(contract, SIGNER.sign_typed_data), (BASE_USDC,), refuses)  # type: ignore[arg-type]


class Account:
    """A sender that says what it is told to, and never sends."""

    token, address = BASE_USDC, SIGNER.address

    def __init__(self, held: int, obstacle: str = "") -> None:
        self.held, self.obstacle, self.looked, self.checked = held, obstacle, 0, 0

    async def look(self) -> None:
        self.looked += 1

    async def balance(self) -> int:
        return self.held

    async def check(self, payee: str, value: int) -> None:
        self.checked += 1
        if self.obstacle:
            raise OfferRefused(self.obstacle)


@pytest.mark.parametrize(
    ("account", "fixes"),
    [
        (Account(5), [""]),
        (Account(0, "nothing to send"), [f"send USDC to {SIGNER.address} on Base"]),
        (Account(5, "no ether"), ["", "send it ether, or see max_gas_gwei"]),
    ],
)
async def test_an_account_that_transfers(account: Any, fixes: list[str]) -> None:
    found = await examine_sender(account)
    assert [each.fix for each in found] == fixes
    assert (account.looked, account.checked) == (1, 1 if account.held else 0)


async def test_the_wallets_of_the_sandbox(tmp_path: Path) -> None:
    for wallet in (BaseWallet.sandbox(tmp_path), BaseTransferWallet.sandbox(tmp_path)):
        (said,) = await wallet.examine()
        assert (said.fix, "has 100 USDC on Sandbox" in said.says) == ("", True)
        await wallet.close()
