"""Whether a wallet could pay, for its owner: who signs, what the token says to that, and what is there to spend.

A signer is asked for a real signature, over an authorization of nothing, to its payer itself, that expired in 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rail402.errors import ConfigurationError, OfferRefused, PaymentRejected
from rail402.money import Money
from rail402.protocol.rail import Observation
from rail402_base.chain import ChainView
from rail402_base.eip3009 import Authorization, keccak256
from rail402_base.keys import Signer
from rail402_base.senders import Sender
from rail402_base.tokens import Token

__all__ = ["examine_sender", "examine_signer"]

_NONCE: Final = keccak256(b"rail402 doctor")


async def examine_signer(signer: Signer, tokens: Sequence[Token], chain: ChainView | None) -> list[Observation]:
    """Say who signs and what is there to spend.

    Args:
        chain: is open; None where the wallet has none.

    Raises:
        ConfigurationError: the signer signs for another address, or the contract that pays does not accept it.
        RailUnavailable, OutcomeUnknown: the signer or the chain cannot be asked.
        PaymentRejected: the token takes nothing from this payer.
    """
    token = next((each for each in tokens if chain is not None and each.network == chain.network), tokens[0])
    probe = Authorization(from_=signer.address, to=signer.address, value=0, valid_after=0, valid_before=1, nonce=_NONCE)
    signature = await signer.sign(token.domain, probe)
    if chain is None:
        said = f"it can sign, to pay on {token.network.title}; its balance is not known"
        return [Observation(said, "give it urls: then it knows that, and what became of a payment without an answer")]
    try:
        await chain.check(token, probe, signature)
    except PaymentRejected as error:
        if error.code == "signature_invalid":
            detail = f"{error.detail}; deploy {signer.address} on {token.network.title}, or sign with an owner's key"
            raise ConfigurationError(detail) from error
        if error.code != "authorization_expired":
            raise
    return _balance(await chain.balance_of(token, signer.address), token, signer.address)


async def examine_sender(sender: Sender) -> list[Observation]:
    """Say what is there to transfer, and whether it can be sent.

    Raises:
        ConfigurationError: the chain is another one.
        RailUnavailable: it cannot be asked.
    """
    await sender.look()
    balance = await sender.balance()
    found = _balance(balance, sender.token, sender.address)
    if balance:
        try:
            await sender.check(sender.address, 1)
        except OfferRefused as error:
            found.append(Observation(error.detail, "send it ether, or see max_gas_gwei"))
    return found


def _balance(units: int, token: Token, address: str) -> list[Observation]:
    said = f"it can sign, and has {Money.from_atomic(units, token.decimals, token.symbol)} on {token.network.title}"
    return [Observation(said, "" if units else f"send {token.symbol} to {address} on {token.network.title}")]
