"""The client side of plain transfers: a wallet that pays on the chain by itself and shows the transaction's hash."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rail402.clock import Clock, system_clock
from rail402.errors import OfferRefused, PaymentFailed, PaymentRejected, RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, NotPaid, Observation, Paid, Unknown, Wallet
from rail402_base.eip3009 import keccak256, parse_address
from rail402_base.examining import examine_sender
from rail402_base.keys import parse_private_key
from rail402_base.sandbox_keys import open_sandbox, sandbox_key
from rail402_base.senders import Gone, Landed, SandboxSender, Sender, Wanted
from rail402_base.tokens import BASE_USDC, TOKENS, Token
from rail402_base.transfers import (
    EIP191,
    MECHANISM,
    TransferProof,
    message_digest,
    order_terms,
    parse_proof,
    proof_text,
)
from rail402_base.wire import BaseSpec

if TYPE_CHECKING:
    from rail402_base.rpc.transfers import SendSettings

__all__ = ["BaseTransferWallet"]


class BaseTransferWallet(Wallet):
    """Pays by ERC-20 transfer, by default of USDC on Base, and pays the gas for it.

    It is for servers that take no authorization, which costs its payer no gas; it pays only offers of the mechanism
    `transfer`. The gas is not part of the price and counts in no budget, which has no rate for ether: it has a limit of
    its own (`SendSettings.max_gas`, wei per payment), above which nothing is paid.

    Every transfer is written down before it is broadcast and is found again by the purchase that it was for, so that a
    payment which was interrupted goes on and is never made twice.

    Args:
        sender: sends transfers out of one account: an `RpcSender`, or the sandbox's.
    """

    def __init__(self, sender: Sender) -> None:
        # Offers in all the tokens that we know are read, so that an error can say which network was asked for.
        self.spec = self._spec = BaseSpec(dict.fromkeys((sender.token, *TOKENS)), transfers=True)
        self.sender = sender
        self.name = f"base-transfer:{sender.address}"

    def __repr__(self) -> str:
        return f"BaseTransferWallet({self.sender.address!r}, token={self.sender.token.network.caip2!r})"

    @classmethod
    def sandbox(
        cls, directory: str | Path | None = None, *, private_key: str | None = None, clock: Clock = system_clock
    ) -> BaseTransferWallet:
        """Make a wallet of play money, in the ledger that every sandbox of this directory shares; see
        `BaseWallet.sandbox`, whose key and money it has.

        Raises:
            ConfigurationError: the directory or a file in it cannot be used, or the key is not one.
        """
        home = open_sandbox(directory, clock=clock)
        key = parse_private_key(private_key) if private_key else sandbox_key(home.path, "agent")
        return cls(SandboxSender(home.backend, key))

    @classmethod
    def rpc(
        cls,
        urls: str | Iterable[str],
        private_key: str,
        *,
        token: Token = BASE_USDC,
        transfers_db: str = "sqlite:///transfers.db",
        confirmations: int = 1,
        settings: SendSettings | None = None,
        clock: Clock = system_clock,
    ) -> BaseTransferWallet:
        """Make a wallet on a real chain.

        Args:
            urls: JSON-RPC addresses of the chain, the preferred one first. They may hold keys, and show nowhere.
            private_key: 64 hex digits: the key of the account that holds the money, and ether for gas. Secret. Send
                nothing else with it while the wallet runs.
            token: what is paid with; its network is the chain.
            transfers_db: `sqlite:///` and the file, or the URL of a PostgreSQL, in which transfers are kept before they
                are sent. To lose it while a purchase is open is to risk paying for that twice.
            confirmations: how many blocks a transfer must have, its own counted, before it is shown to the server.
            settings: the limit of what sending one may cost, and times.
            clock: Unix seconds.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        from rail402_base.rpc.reader import ChainReader
        from rail402_base.rpc.transfers import RpcSender

        reader = ChainReader(urls, token, confirmations=confirmations, clock=clock)
        return cls(RpcSender(reader, private_key, store=transfers_db, settings=settings, clock=clock))

    @property
    def networks(self) -> frozenset[str]:
        """The network of its token."""
        return frozenset({self.sender.token.network.caip2})

    async def start(self) -> None:
        """Open the chain, and go on with what an earlier process left on its way."""
        await self.sender.start()

    async def examine(self) -> list[Observation]:
        """Look at balance and gas, and leave alone what is on its way; see `Wallet.examine`."""
        return await examine_sender(self.sender)

    async def close(self) -> None:
        """Close the chain."""
        await self.sender.close()

    def for_order(self, offer: Offer, order: Order) -> Offer:
        """Return the offer with the request in it, which is part of what is signed; see `transfers.proof_text`.

        It is our own request, whatever the server says that it is.
        """
        if offer.mechanism != MECHANISM:
            return offer
        return offer.model_copy(update={"extra": {**offer.extra, **order_terms(order)}})

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price, to which gas is added within its own limit; None where the token is not the wallet's or the
        balance is too small.

        Raises:
            OfferRefused: gas costs more than the limit, or there is no ether for it, or the token would not move.
            RailUnavailable: the chain cannot be asked.
        """
        if not self._is_ours(offer) or await self.sender.balance() < offer.amount:
            return None
        await self.sender.check(offer.payee, offer.amount)
        return Cost(price=offer.price)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Make the transfer and wait until it is deep enough in the chain; see `Wallet.pay`."""
        if not self._is_ours(offer):
            raise PaymentFailed(f"the wallet transfers no {offer.asset} on {offer.network}", record_id=record_id)
        if offer.expires_at <= now:
            raise PaymentFailed("the offer has expired", record_id=record_id)
        try:
            transaction = await self.sender.send(_wanted(offer, record_id))
        except (OfferRefused, PaymentRejected, RailUnavailable) as error:
            raise PaymentFailed(error.detail, record_id=record_id) from error
        return self._paid(offer, transaction)

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Find the transfer that was begun for this purchase; see `Wallet.resume`. It never makes one."""
        hint = None if payload is None else parse_proof(payload).transaction
        found = await self.sender.find(_wanted(offer, record_id), hint=hint)
        match found:
            case Landed():
                return self._paid(offer, found.transaction)
            case Gone():
                return NotPaid()
            case _:
                return Unknown(detail=found.detail)

    def _is_ours(self, offer: Offer) -> bool:
        token = self.sender.token
        return (offer.mechanism, self._spec.token(offer.network, offer.asset)) == (MECHANISM, token)

    def _paid(self, offer: Offer, transaction: str) -> Paid:
        """Return the proof; signed where the server says that it understands that, and the request is known."""
        text = proof_text(offer, transaction) if offer.extra.get("signature") == EIP191 else None
        signature = None if text is None else self.sender.sign(message_digest(text))
        return Paid(payload=TransferProof(transaction, signature).payload, moved=True)


def _wanted(offer: Offer, record_id: str) -> Wanted:
    return Wanted(
        payee=parse_address(offer.payee, "payee"),
        value=offer.amount,
        name=keccak256(b"rail402 transfer\n" + record_id.encode()),
    )
