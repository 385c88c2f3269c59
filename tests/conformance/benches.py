"""The benches of the rails here: each on its sandbox, with both books as the sandbox itself keeps them."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from rail402.errors import RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Wallet
from rail402.testing.fakes import Ending, FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet
from rail402.testing.rails import RailBench
from rail402_base import BaseRail, BaseTransferWallet, BaseWallet, Transfers
from rail402_base.eip3009 import address_of
from rail402_base.keys import RemoteSigner
from rail402_base.rpc.signer import RpcSigner
from rail402_base.sandbox import SandboxChain
from rail402_base.transfers import MECHANISM as TRANSFER
from rail402_lightning import LightningRail, LightningWallet
from rail402_lightning.backends.sandbox import open_sandbox
from rail402_lightning.wire import invoice_of
from rail402_stripe import LinkApi, LinkWallet, StripeApi, StripeRail, StripeWallet
from rail402_stripe.api import SANDBOX_LEDGER
from rail402_stripe.sandbox import Fault, Sandbox
from rail402_stripe.wire import SANDBOX_PROFILE
from tests.unit.rail402_base.rpc.test_signer import FakeSigner
from tests.unit.rail402_stripe.fake_link import TOKEN, FakeLink

__all__ = ["BaseBench", "FakeBench", "LightningBench", "LinkBench", "RemoteSignerBench", "StripeBench", "Switch"]

PLENTY = 1_000_000
FAKE_KEY = b"the bench's own key"


class Switch:
    """Stands before a backend; while it is off, nothing comes through."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.is_on = inner, True

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*arguments: Any, **named: Any) -> Any:
            if not self.is_on:
                raise RailUnavailable("it is switched off")
            return await value(*arguments, **named)

        return call

    @contextmanager
    def off(self) -> Iterator[None]:
        """Return a context in which it is off."""
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = True


class FakeBench(RailBench):
    """The fake rail, whose money is a Python object."""

    too_little = 9
    clock_type: type[FakeClock] = FakeClock

    def __init__(self, style: str = "signed") -> None:
        self.clock = self.clock_type()
        self.ledger = FakeLedger({"alice": PLENTY, "bob": 0})
        self.spec = FakeSpec(style="signed" if style == "signed" else "invoice", secret=FAKE_KEY)
        self.rail = FakeRail(self.ledger, self.spec, clock=self.clock, minimum=10)
        self.wallet = FakeWallet(self.ledger, self.spec)

    async def payer_has(self) -> int:
        return self.ledger.balances["alice"]

    async def payee_has(self) -> int:
        return self.ledger.charged_total

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        async def nothing(name: str, key: str) -> None:
            raise RailUnavailable("it is switched off")

        self.ledger.before = nothing
        yield
        self.ledger.before = None

    async def lose_answer(self, charge: Charge, operation: Operation, *, done: bool) -> bool:
        if self.spec.style == "invoice":  # whose settlement asks, and takes nothing
            return False
        self.ledger.script(operation.value, Ending.UNKNOWN_DONE if done else Ending.UNKNOWN_NOT_DONE)
        return True

    async def unpaid(self, offer: Offer) -> Json | None:
        if self.spec.style == "invoice":
            return self.ledger.proofs[self.spec.key(offer.extra["hash"])]
        return (await (await self.poor_wallet()).pay(offer, record_id="unpaid", now=self.clock())).payload

    def lies(self, offer: Offer) -> Iterable[tuple[str, Offer]]:
        if self.spec.style == "invoice":
            yield "another amount than its invoice", offer.model_copy(update={"amount": offer.amount + 1})

    def next_wallet(self) -> Wallet:
        return FakeWallet(self.ledger, self.spec)

    async def poor_wallet(self) -> Wallet:
        return FakeWallet(self.ledger, self.spec, payer="bob")

    async def lose_payment(self, *, done: bool) -> bool:
        self.ledger.script("pay", Ending.UNKNOWN_DONE if done else Ending.UNKNOWN_NOT_DONE)
        return True

    def secrets(self, payload: Json) -> Iterable[str]:
        return [*super().secrets(payload), FAKE_KEY.decode()]


class BaseBench(RailBench):
    """Base USDC on the sandbox chain, paid by authorizations, or by plain transfers."""

    _PAYER, _POOR, _PAYEE = (bytes([number]) * 32 for number in (1, 2, 3))

    def __init__(self, directory: Path, *, transfers: bool = False) -> None:
        self.clock, self._directory, self._transfers = FakeClock(), directory, transfers
        self.chain = SandboxChain(directory / "base.db", clock=self.clock)
        taken = Transfers() if transfers else None
        self.rail = rail = BaseRail.sandbox(
            directory, pay_to=address_of(self._PAYEE), transfers=taken, clock=self.clock
        )
        rail.with_refunds(self._PAYEE.hex())
        self._switch = Switch(rail.chain)
        rail.chain = self._switch
        self.wallet = self.next_wallet()

    async def payer_has(self) -> int:
        return await self.chain.balance_of(address_of(self._PAYER))

    async def payee_has(self) -> int:
        return await self.chain.balance_of(address_of(self._PAYEE))

    def unreachable(self) -> AbstractContextManager[None]:
        return self._switch.off()

    async def lose_answer(self, charge: Charge, operation: Operation, *, done: bool) -> bool:
        if self._transfers:  # they have happened before they are shown
            return False
        await self.chain.inject("lost_answer" if done else "dropped")
        return True

    async def unpaid(self, offer: Offer) -> Json | None:
        if offer.mechanism == TRANSFER:
            return {"transaction": "0x" + "ab" * 32}
        return (await (await self.poor_wallet()).pay(offer, record_id="unpaid", now=self.clock())).payload

    def next_wallet(self) -> Wallet:
        return self._wallet(self._PAYER)

    async def poor_wallet(self) -> Wallet:
        return self._wallet(self._POOR)  # its play money comes when it is started

    def _wallet(self, key: bytes) -> Wallet:
        kind = BaseTransferWallet if self._transfers else BaseWallet
        return kind.sandbox(self._directory, private_key=key.hex(), clock=self.clock)

    async def lose_payment(self, *, done: bool) -> bool:
        if not self._transfers:  # to sign asks nobody
            return False
        await self.chain.inject("lost_answer" if done else "dropped")
        return True

    def lies(self, offer: Offer) -> Iterable[tuple[str, Offer]]:
        yield "another unit", offer.model_copy(update={"exponent": 2})
        yield "another currency", offer.model_copy(update={"currency": "BTC"})
        yield "the zero address", offer.model_copy(update={"payee": "0x" + 40 * "0"})
        yield "a flow that it cannot have", offer.model_copy(update={"flow": Flow.ESCROW})

    def secrets(self, payload: Json) -> Iterable[str]:
        signed = [] if payload.get("signature") is None else [str(payload["signature"])[2:]]
        return [self._PAYER.hex(), self._PAYEE.hex(), *signed]


class RemoteSignerBench(BaseBench):
    """The same, where the payer's key is at a Web3Signer."""

    def _wallet(self, key: bytes) -> Wallet:
        web3signer = FakeSigner("eth_signTypedData", key=key)
        sign = RpcSigner("https://signer.example", address_of(key), method=web3signer.method, transport=web3signer)
        return BaseWallet.sandbox(self._directory, signer=RemoteSigner(address_of(key), sign), clock=self.clock)


class LightningBench(RailBench):
    """Lightning on the sandbox node."""

    amount = 21_000

    def __init__(self, directory: Path) -> None:
        self.clock, self._directory = FakeClock(), directory
        self.node = open_sandbox(directory, clock=self.clock)
        self.rail = rail = LightningRail.sandbox(directory, clock=self.clock, wait_seconds=0)
        self._switch = Switch(rail.receiver)
        rail.receiver = self._switch
        self.wallet = LightningWallet.sandbox(directory, clock=self.clock, name="agent")
        self._others: list[Wallet] = []

    async def close(self) -> None:
        await self.node.close()
        for wallet in self._others:
            await wallet.close()

    async def payer_has(self) -> int:
        return await self.node.balance("agent")

    async def payee_has(self) -> int:
        return (await self.node.books()).received_msat

    def unreachable(self) -> AbstractContextManager[None]:
        return self._switch.off()

    async def unpaid(self, offer: Offer) -> Json | None:
        with closing(sqlite3.connect(self._directory / "lightning.db")) as ledger:
            query = "SELECT preimage FROM invoices WHERE payment_hash = ?"
            (preimage,) = ledger.execute(query, (invoice_of(offer).payment_hash,)).fetchone()
        return {"preimage": preimage.hex()}

    def next_wallet(self) -> Wallet:
        return self._wallet("agent")

    def lies(self, offer: Offer) -> Iterable[tuple[str, Offer]]:
        yield "another amount than its invoice", offer.model_copy(update={"amount": 2 * offer.amount})
        yield "another payee than its invoice", offer.model_copy(update={"payee": "02" + "ab" * 32})
        yield "no invoice", offer.model_copy(update={"extra": {"invoice": "lnbcrt1"}})

    async def poor_wallet(self) -> Wallet:
        with closing(sqlite3.connect(self._directory / "lightning.db")) as ledger, ledger:  # no money to begin with
            ledger.execute("INSERT INTO wallets (name, endowment_msat, balance_msat) VALUES ('poor', 0, 0)")
        return self._wallet("poor")

    def _wallet(self, name: str) -> Wallet:
        self._others.append(LightningWallet.sandbox(self._directory, clock=self.clock, name=name))
        return self._others[-1]

    async def lose_payment(self, *, done: bool) -> bool:
        if done:
            await self.node.script("next", "lost-answer")
        return done


class StripeBench(RailBench):
    """Stripe's sandbox, paid with shared payment tokens."""

    amount = 100
    too_little = 49

    _PATHS = {  # noqa: RUF012
        Operation.HOLD: "/v1/payment_intents",
        Operation.RELEASE: "/v1/payment_intents/*/cancel",
        Operation.REFUND: "/v1/refunds",
    }

    def __init__(self, directory: Path) -> None:
        self.clock, self._directory = FakeClock(), directory
        self.api = StripeApi.sandbox(directory, clock=self.clock)
        self.sandbox_app = Sandbox(directory / SANDBOX_LEDGER, clock=self.clock, profile_id=SANDBOX_PROFILE)
        self.rail = StripeRail.sandbox(directory, clock=self.clock)
        self.wallet = StripeWallet.sandbox(directory, clock=self.clock)
        self._others: list[Wallet] = []

    async def close(self) -> None:
        self.sandbox_app.close()
        await self.api.close()
        for wallet in self._others:
            await wallet.close()

    async def payer_has(self) -> int:
        """What the cards were charged for, less what they got back."""
        spent = 0
        async for intent in self.api.intents_between(0, self.clock() + 1):
            charge = intent.get("latest_charge")
            if isinstance(charge, dict) and charge["captured"]:
                spent += charge["amount"] - charge["amount_refunded"]
        return -spent

    async def payee_has(self) -> int:
        return (await self.api.balance()).get("usd", 0)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        for method in ("GET", "POST"):
            self.sandbox_app.inject_fault(Fault(method, "*", "rate_limited", False, 10_000))
        yield
        with closing(sqlite3.connect(self._directory / SANDBOX_LEDGER)) as ledger, ledger:
            ledger.execute("DELETE FROM faults")

    async def lose_answer(self, charge: Charge, operation: Operation, *, done: bool) -> bool:
        captures = charge.offer.flow is Flow.ESCROW
        settle = "/v1/payment_intents/*/capture" if captures else "/v1/payment_intents"
        path = settle if operation is Operation.SETTLE else self._PATHS[operation]
        self.sandbox_app.inject_fault(Fault("POST", path, "timeout", done))
        return True

    async def unpaid(self, offer: Offer) -> Json | None:
        return {"spt": "spt_neverIssued000"}

    def next_wallet(self) -> Wallet:
        return self._wallet()

    def lies(self, offer: Offer) -> Iterable[tuple[str, Offer]]:
        yield "a profile of another mode", offer.model_copy(update={"payee": "profile_live"})
        yield "another unit", offer.model_copy(update={"exponent": 0})
        yield "a flow that it cannot have", offer.model_copy(update={"flow": Flow.AUTHORIZATION})

    async def poor_wallet(self) -> Wallet:
        return self._wallet(payment_method="pm_card_visa_chargeDeclinedInsufficientFunds")

    def _wallet(self, **options: Any) -> Wallet:
        self._others.append(StripeWallet.sandbox(self._directory, clock=self.clock, **options))
        return self._others[-1]

    def secrets(self, payload: Json) -> Iterable[str]:
        return [str(payload["spt"]), StripeApi.sandbox_key]


class LinkBench(StripeBench):
    """The same, paid with the tokens of a person's Link, who approves whatever is asked."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.link = FakeLink(self.api, self.clock, approves=True)
        self.wallet = self.next_wallet()

    def _wallet(self, **options: Any) -> Wallet:
        link = self.link
        if options:
            link = FakeLink(self.api, self.clock, approves=True)
            link.payment_method = options["payment_method"]
        self._others.append(LinkWallet(LinkApi(TOKEN, transport=link), network="stripe:sandbox"))
        return self._others[-1]

    async def lose_payment(self, *, done: bool) -> bool:
        def fails(method: str, path: str) -> httpx.Response:
            self.link.before = self.link.after = None
            raise httpx.ReadTimeout("no answer")

        setattr(self.link, "after" if done else "before", fails)
        return True

    def secrets(self, payload: Json) -> Iterable[str]:
        return [*super().secrets(payload), TOKEN]
