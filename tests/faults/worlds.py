"""The rails, each on wires that can be spoilt, before a service that is faithful: the sandboxes, and a chain in memory.

`SHOPS` are those in which the publisher's wires are spoilt.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx

from rail402.facilitator.app import facilitator_app
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import Facilitator as FacilitatorService
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail
from rail402.rates import HttpRates, RateSource
from rail402.testing.faults import Faults, FaultyWebsockets, json_rpc_methods
from rail402_base import BASE_SEPOLIA_USDC, BaseRail, BaseWallet, Facilitator, FacilitatorBackend
from rail402_base.rpc.backend import RpcBackend
from rail402_base.rpc.reader import ChainReader
from rail402_lightning import LightningRail, LightningWallet
from rail402_lightning.backends.lnbits import LnbitsReceiver
from rail402_lightning.backends.lnd import LndReceiver
from rail402_lightning.backends.sandbox import SandboxReceiver, SandboxSender
from rail402_lightning.sandbox import SandboxLightning
from rail402_stripe import StripeApi, StripeRail, StripeWallet
from rail402_stripe.api import SANDBOX_LEDGER
from rail402_stripe.sandbox import SANDBOX_URL, Sandbox, SandboxTransport
from tests.faults.lightning_services import INVOICE_KEY, WALLET, LnbitsService, LndService
from tests.faults.world import Books, World
from tests.unit.rail402_base.rpc import chain as memory
from tests.unit.rail402_lightning.backends.fake_lnd import RECEIVING

__all__ = ["SHOPS", "Base", "BaseRpc", "Lightning", "Numbers", "Stripe"]

_HOOK_SECRET: Final = "whsec_of_these_cells"
_EVENTS: Final = (
    "payment_intent.canceled",
    "payment_intent.succeeded",
    "payment_intent.amount_capturable_updated",
    "payment_intent.payment_failed",
)


class Numbers:
    """Random bytes that are all different, and the same in every run."""

    def __init__(self) -> None:
        self._count = 1 << 60

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(max(size, 8), "big")[-size:]


# --- Base


class Base(World):
    """A chain in memory, and the publisher's node of it."""

    now = memory.NOW

    def __init__(self, directory: Path, faults: Faults) -> None:
        self.chain = memory.Chain()
        self.network = memory.Network(self.chain)
        self.relayer_db = f"sqlite:///{directory}/relayer.db"
        super().__init__(directory, faults)
        self.secrets += ["0123456789abcdef-secret", memory.RELAYER_KEY.hex()]

    def reader(self) -> ChainReader:
        wire = self.wire(self.network, named=json_rpc_methods)
        return ChainReader(self.network.urls, memory.TOKEN, transport=wire, clock=self.clock)

    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        wallet = BaseWallet.from_private_key(memory.PAYER_KEY.hex(), tokens=[BASE_SEPOLIA_USDC])
        return (await wallet.pay(offer, record_id=self.record_id(), now=self.right())).payload

    async def tick(self) -> None:
        self.chain.mine(time=max(self.chain.head.time + 1, self.right()))

    async def books(self) -> Books:
        paid = 100 * memory.USDC - self.chain.usdc_of(memory.PAYER)
        return Books(paid, self.chain.usdc_of(memory.PAYEE))


class BaseRpc(Base):
    """Payments are handed in by JSON-RPC."""

    row = "Base, JSON-RPC"

    def make_rail(self) -> PaymentRail:
        backend = RpcBackend(self.reader(), memory.RELAYER_KEY.hex(), store=self.relayer_db, clock=self.clock)
        return BaseRail(backend, pay_to=memory.PAYEE)


class BaseRpcUpfront(BaseRpc):
    row = "Base, JSON-RPC, upfront"
    flow, is_variant = "upfront", True


class BaseFacilitator(Base):
    """Payments are handed in by a facilitator, ours; the publisher's own node shows what came of them."""

    row = "Base, facilitator"
    known = ("POST eth_chainId*", "POST eth_call", "POST eth_call,eth_call*")

    def make_rail(self) -> PaymentRail:
        theirs = ChainReader(self.network.urls, memory.TOKEN, transport=self.network, clock=self.right)
        relayer = RpcBackend(theirs, memory.RELAYER_KEY.hex(), store=self.relayer_db, clock=self.right)
        self._service = FacilitatorService(
            [BaseRail(relayer, pay_to=memory.PAYEE)],
            store="memory://",
            settings=FacilitatorSettings(pay_to=(memory.PAYEE,), reconcile_seconds=0),
            clock=self.right,
        )
        token = "a-token-that-only-the-facilitator-knows"
        self.secrets.append(token)
        app = facilitator_app(self._service, token=token)
        backend = FacilitatorBackend(
            Facilitator("https://facilitator.example", headers={"Authorization": f"Bearer {token}"}),
            reader=self.reader(),
            clock=self.clock,
            transport=self.wire(httpx.ASGITransport(app=app, raise_app_exceptions=False)),
        )
        return BaseRail(backend, pay_to=memory.PAYEE)

    async def tick(self) -> None:
        await super().tick()
        await self._service.reconcile()

    async def close(self) -> None:
        await self._service.close()


class BaseFacilitatorUpfront(BaseFacilitator):
    row = "Base, facilitator, upfront"
    has_lookups = False
    flow, is_variant = "upfront", True


# --- Lightning


class Lightning(World):
    price = "21 sat"
    paid_before = True

    def open_node(self) -> None:
        self.node = SandboxLightning(self.directory / "lightning.db", clock=self.right, random_bytes=Numbers())

    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        wallet = LightningWallet(SandboxSender(self.node, WALLET), network="regtest")
        paid = await wallet.pay(offer, record_id=self.record_id(), now=self.right())
        return paid.payload

    async def books(self) -> Books:
        books = await self.node.books()
        assert books.balanced
        assert books.in_flight_msat == 0
        paid = books.endowments_msat - books.balances_msat - books.fees_msat
        return Books(paid, books.received_msat)

    async def close(self) -> None:
        await self.node.close()


class Lnd(Lightning):
    """Payments arrive at an lnd."""

    row = "Lightning, lnd"

    def make_rail(self) -> PaymentRail:
        self.open_node()
        self.secrets.append(RECEIVING.hex())
        receiver = LndReceiver("https://lnd.example:8080", RECEIVING, transport=self.wire(LndService(self.node)))
        return LightningRail(receiver, network="regtest")


class Lnbits(Lightning):
    """Payments arrive at an LNbits."""

    row = "Lightning, LNbits"

    def make_rail(self) -> PaymentRail:
        self.open_node()
        self.secrets.append(INVOICE_KEY)
        service = LnbitsService(self.node)
        sockets = FaultyWebsockets(service.connect, self.faults)
        sockets.calls = self.calls
        wire = self.wire(service)
        return LightningRail(
            LnbitsReceiver("https://lnbits.example", INVOICE_KEY, transport=wire, connect=sockets), network="regtest"
        )


class Rates(Lightning):
    """A price in dollars for an invoice in sats, by a feed of rates."""

    row = "rate source"
    price = "0.21 USD"

    def make_rail(self) -> PaymentRail:
        self.open_node()
        return LightningRail(SandboxReceiver(self.node), network="regtest")

    def rates(self) -> RateSource:
        feed = httpx.MockTransport(lambda request: httpx.Response(200, json={"price": {"usd": "100000.00"}}))
        self._client = httpx.AsyncClient(transport=self.wire(feed), headers={"X-Key": "the-feed's-key"})
        self.secrets.append("the-feed's-key")
        pick: Any = lambda found: found["price"]["usd"]  # noqa: E731
        return HttpRates({"BTC/USD": "https://feed.example/btc"}, pick, client=self._client, clock=self.clock)

    async def close(self) -> None:
        await super().close()
        await self._client.aclose()


# --- Stripe


class Stripe(World):
    """Shared payment tokens, through Stripe's own library, at the sandbox; the amount is reserved first."""

    row = "Stripe"
    key: ClassVar[str] = "sk_test_publisher"

    def open_sandbox(self) -> None:
        self.secrets += [self.key, _HOOK_SECRET]
        self.sandbox = Sandbox(self.directory / SANDBOX_LEDGER, clock=self.right, random_bytes=Numbers())
        self._clean = StripeApi(self.key, transport=SandboxTransport(self.sandbox), api_base=SANDBOX_URL)

    def spoilt_api(self) -> StripeApi:
        """Stripe, by wires that go wrong."""
        return StripeApi(self.key, transport=self.wire(SandboxTransport(self.sandbox)), api_base=SANDBOX_URL)

    def make_rail(self) -> PaymentRail:
        self.open_sandbox()
        return StripeRail(
            self.spoilt_api(),
            profile_id="internal",
            payment_method_types=["card"],
            webhook_secrets=[_HOOK_SECRET],
            clock=self.clock,
        )

    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        wallet = StripeWallet.test_helper(self._clean)
        return (await wallet.pay(offer, record_id=self.record_id(), now=self.right())).payload

    async def books(self) -> Books:
        received = (await self._clean.balance()).get("usd", 0)
        paid = 0
        async for intent in self._clean.intents_between(0, self.right() + 10):
            refunds = await self._clean.refunds(intent["id"])
            paid += intent["amount_received"] - sum(each["amount"] for each in refunds)
            paid += intent["amount_capturable"]
            assert self.paid_before or not intent["amount_capturable"], "money is held for nothing"
        return Books(paid, received)

    async def close(self) -> None:
        await self._clean.close()
        self.sandbox.close()


class StripeWebhooks(Stripe):
    """Every event there is about the payment comes at once, twice, and the other way round than it should."""

    row, is_variant = "Stripe, webhooks", True
    known = ("*",)

    async def nudge(self) -> None:
        intents = [intent["id"] async for intent in self._clean.intents_between(0, self.right() + 10)]
        for name, intent in itertools.product([*_EVENTS, *_EVENTS[::-1]], intents):
            event = self.sandbox.webhook(name, intent, webhook_secret=_HOOK_SECRET)
            hook = "/.well-known/rail402/stripe/webhook"
            response = await self.http.post(hook, content=event.payload, headers={"stripe-signature": event.signature})
            assert response.status_code in (200, 400 if self.is_wrong else 200, 503), response.text


class StripeUpfront(Stripe):
    row = "Stripe, upfront"
    flow, is_variant = "upfront", True


SHOPS: Final[tuple[type[World], ...]] = (
    BaseRpc,
    BaseRpcUpfront,
    BaseFacilitator,
    BaseFacilitatorUpfront,
    Lnd,
    Lnbits,
    Rates,
    Stripe,
    StripeUpfront,
    StripeWebhooks,
)
