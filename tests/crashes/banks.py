"""The money of each rail: where the shop is paid, what the agents pay with, and the rail's own books."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import httpx

from rail402.clock import Clock
from rail402.protocol.rail import PaymentRail, Wallet
from rail402_base import ChainReader
from rail402_base.eip3009 import address_of
from rail402_base.rail import BaseRail
from rail402_base.rpc.backend import RelaySettings
from rail402_base.sandbox import ENDOWMENT, SandboxChain
from rail402_base.tokens import BASE_SEPOLIA_USDC
from rail402_base.transfers import Transfers
from rail402_base.wallet import BaseWallet
from rail402_lightning import LightningRail, LightningWallet, LndSender
from rail402_lightning.refunds import Refunding
from rail402_lightning.sandbox import SandboxLightning
from rail402_stripe import StripeRail, StripeWallet
from rail402_stripe.api import SANDBOX_LEDGER
from tests.services.anvil import ETHER, USDC, Account, EvmChain
from tests.services.lnd import LndNode

__all__ = ["Anvil", "Bank", "Books", "Lnd"]

PUBLISHER = bytes(31) + b"\1"
"""The key of the address that is paid in the sandbox."""


@dataclass(frozen=True, slots=True)
class Books:
    """What has moved so far, in atomic units.

    Attributes:
        paid: what the payers have less, routing fees left out; got: what the shop has more.
        held: what is reserved or under way.
        fees: what the payers paid to others.
    """

    paid: int = 0
    got: int = 0
    held: int = 0
    fees: int = 0

    def since(self, before: Books) -> Books:
        """What has moved since then."""
        return Books(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(Books)))


class Bank(Protocol):
    """One rail with its money."""

    def now(self) -> int:
        """The time at which a run begins, Unix seconds."""
        ...

    def passed(self, now: int) -> None:
        """It is `now`."""
        ...

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        """What the shop takes; and gives back, with `refunds`."""
        ...

    def wallet(self, number: int, clock: Clock) -> Wallet:
        """What the agent of that number pays with."""
        ...

    def books(self) -> Books:
        """What the rail itself says."""
        ...


class _Sandbox:
    """A rail on play money, whose ledger is a file that outlives every process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def now(self) -> int:
        return int(time.time())

    def passed(self, now: int) -> None:
        pass


class BaseSandbox(_Sandbox):
    """USDC of the sandbox."""

    _address = address_of(PUBLISHER)
    transfers: Transfers | None = None

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        rail = BaseRail.sandbox(self.path, pay_to=self._address, transfers=self.transfers, clock=clock)
        return rail.with_refunds(PUBLISHER.hex()) if refunds else rail

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return BaseWallet.sandbox(self.path, private_key=f"{number + 2:064x}", clock=clock)

    def books(self) -> Books:
        books = asyncio.run(SandboxChain(self.path / "base.db", clock=self.now).books())
        agents = {address: amount for address, amount in books.balances.items() if address != self._address}
        paid = sum(ENDOWMENT - amount for amount in agents.values())
        return Books(paid=paid, got=books.balances.get(self._address, 0))


class LightningSandbox(_Sandbox):
    """The sandbox node."""

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        return LightningRail.sandbox(self.path, clock=clock)

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return LightningWallet.sandbox(self.path, clock=clock, name=f"agent-{number}")

    def books(self) -> Books:
        async def read() -> Books:
            node = SandboxLightning(self.path / "lightning.db", clock=self.now)
            books = await node.books()
            await node.close()
            spent = books.endowments_msat - books.balances_msat - books.in_flight_msat - books.fees_msat
            return Books(paid=spent, got=books.received_msat, held=books.in_flight_msat, fees=books.fees_msat)

        return asyncio.run(read())


class StripeSandbox(_Sandbox):
    """The sandbox of Stripe. What payers paid is on the charges to their cards, what the shop got in its balance."""

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        return StripeRail.sandbox(self.path, clock=clock)

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return StripeWallet.sandbox(self.path, clock=clock)

    def books(self) -> Books:
        if not (self.path / SANDBOX_LEDGER).exists():
            return Books()
        with closing(sqlite3.connect(self.path / SANDBOX_LEDGER)) as ledger:
            rows = ledger.execute("SELECT document FROM objects WHERE kind = 'charge'").fetchall()
            (got,) = ledger.execute("SELECT coalesce(sum(amount), 0) FROM entries").fetchone()
            intents = ledger.execute("SELECT document FROM objects WHERE kind = 'payment_intent'").fetchall()
        charges = [json.loads(row) for (row,) in rows]
        held = [intent for (row,) in intents if (intent := json.loads(row))["status"] == "requires_capture"]
        taken = sum(charge["amount_captured"] - charge["_refunded_after_capture"] for charge in charges)
        return Books(paid=taken, got=got, held=sum(intent["amount"] for intent in held))


class Anvil:
    """USDC on a real EVM, handed in by a relayer of our own. Every bank has accounts of its own there.

    Args:
        relayer_db: where the relayer keeps what it has signed, unless that is a file in `path`.
    """

    transfers: Transfers | None = None
    payers_ether = 0

    def __init__(self, path: Path, where: Mapping[str, Any], relayer_db: str | None = None) -> None:
        self.evm = EvmChain(where["url"], where["slots"], httpx.Client(trust_env=False, timeout=30))
        self._relayer_db = relayer_db or f"sqlite:///{path / 'relayer.db'}"
        self.payee, self._relayer = self.evm.account(), self.evm.account(ether=ETHER)
        self._payers: list[Account] = []

    def now(self) -> int:
        return max(self.evm.now(), int(time.time()))

    def passed(self, now: int) -> None:
        if now > self.evm.now():
            self.evm.call("evm_setNextBlockTimestamp", now)
            self.evm.mine(4)  # what is mined now is final

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        rail = BaseRail.rpc(
            self.evm.url,
            self._relayer.private_key,
            pay_to=self.payee.address,
            token=BASE_SEPOLIA_USDC,
            transfers=self.transfers,
            relayer_db=self._relayer_db,
            settings=RelaySettings(poll_ms=20, tend_seconds=1, max_fee_per_gas=20 * 10**9),
            clock=clock,
        )
        return rail.with_refunds(self.payee.private_key) if refunds else rail

    def wallet(self, number: int, clock: Clock) -> Wallet:
        chain = ChainReader(self.evm.url, BASE_SEPOLIA_USDC, clock=clock)
        key = self.payer(number).private_key
        return BaseWallet.from_private_key(key, tokens=[BASE_SEPOLIA_USDC], chain=chain)

    def payer(self, number: int) -> Account:
        """The account of the agent of that number."""
        while len(self._payers) <= number:
            self._payers.append(self.evm.account(usdc=10 * USDC, ether=self.payers_ether))
        return self._payers[number]

    def books(self) -> Books:
        paid = sum(10 * USDC - self.evm.usdc_of(payer.address) for payer in self._payers)
        return Books(paid=paid, got=self.evm.usdc_of(self.payee.address))


class Lnd:
    """Two real nodes with a channel: Alice's is the shop's, Bob's the agents'. Nothing else may pay meanwhile."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._alice, self._bob = (_node(where[name]) for name in ("alice", "bob"))

    def now(self) -> int:
        return int(time.time())

    def passed(self, now: int) -> None:
        pass

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        node = self._alice
        rail = LightningRail.lnd(node.rest_url, node.macaroon_hex, "regtest", tls_cert=node.tls_cert_path)
        sender = LndSender(node.rest_url, node.macaroon_hex, tls_cert=node.tls_cert_path)
        return rail.with_refunds(Refunding(sender, clock=clock)) if refunds else rail

    def invoice(self, msat: int) -> str:
        """An invoice of the agents' node."""
        return self._bob.create_invoice(msat)

    def wallet(self, number: int, clock: Clock) -> Wallet:
        node = self._bob
        return LightningWallet.lnd(node.rest_url, node.macaroon_hex, "regtest", tls_cert=node.tls_cert_path)

    def books(self) -> Books:
        deadline = time.monotonic() + 20
        while self._under_way() and time.monotonic() < deadline:
            time.sleep(0.05)
        return Books(paid=-self._bob.channel_balance(), got=self._alice.channel_balance(), held=self._under_way())

    def _under_way(self) -> int:
        channels = [each for node in (self._alice, self._bob) for each in node.get("/v1/channels")["channels"]]
        return sum(int(htlc["amount"]) for channel in channels for htlc in channel["pending_htlcs"])


def _node(where: Mapping[str, str]) -> LndNode:
    return LndNode(where["url"], Path(where["cert"]), Path(), where["macaroon"], "")
