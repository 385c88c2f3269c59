"""What the tests of the rail and of the wallet share: keys, a sandbox, and payments by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import PaymentRejected
from rail402.protocol.charge import Charge
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Terms
from rail402.testing.fakes import FakeClock
from rail402_base.chain import SandboxBackend
from rail402_base.eip3009 import Authorization, address_of, cancel_digest, digest, sign
from rail402_base.rail import BaseRail
from rail402_base.sandbox import SandboxChain
from rail402_base.sandbox_transfers import PlainTransfer, sign_transfer
from rail402_base.tokens import SANDBOX_USDC, Token
from rail402_base.wire import payload_of

NOW = 1_740_672_100
PAYER_KEY, PAYEE_KEY, THIRD_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
PAYER, PAYEE, THIRD = (address_of(key) for key in (PAYER_KEY, PAYEE_KEY, THIRD_KEY))
ORDER = Order(method="GET", url="https://api.example.com/a", route="GET /a")
PRICE = 3000
TIMEOUT = 180
"""The handler's minute, the settlement's minute, and a minute's margin."""

_VECTORS = Path(__file__).parents[2] / "vectors" / "x402_exact_evm.json"


def vectors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_VECTORS.read_text(encoding="utf-8"))
    return found


class Counter:
    """Random bytes that are all different and the same in every run."""

    count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


class Till:
    """A publisher in a sandbox: the chain, its clock, the rail, and offers and charges of it."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock(NOW)
        self.chain = SandboxChain(path / "base.db", clock=self.clock, random_bytes=Counter())
        self.backend = SandboxBackend(self.chain, clock=self.clock)
        self.rail = BaseRail(self.backend, pay_to=PAYEE)
        self._nonces = Counter()

    async def offer(self, flow: Flow = Flow.AUTHORIZATION, timeout_seconds: int = TIMEOUT) -> Offer:
        terms = Terms(amount=PRICE, flow=flow, now=NOW, expires_at=self.clock() + 600, timeout_seconds=timeout_seconds)
        offer = await self.rail.offer(ORDER, self.rail.spec.mechanisms[0], terms)
        assert offer is not None
        return offer

    def authorization(self, **members: Any) -> Authorization:
        """What an honest payer signs, with members changed."""
        honest: dict[str, Any] = {
            "from_": PAYER,
            "to": PAYEE,
            "value": PRICE,
            "valid_after": 0,
            "valid_before": self.clock() + TIMEOUT,
            "nonce": self._nonces(32),
        }
        return Authorization(**(honest | members))

    async def verify(self, offer: Offer, payment: Payment) -> Charge:
        """Do what the gate does with a new payment, up to its claim."""
        verified = self.rail.spec.authenticate(offer, payment)
        verified = await self.rail.verify(offer, payment, verified, now=self.clock())
        return Charge(
            id="ch_1",
            order=ORDER,
            offer=offer,
            price=offer.price,
            dialect="x402-v2",
            keys=tuple(verified.keys),
            created_at=self.clock(),
            lease_until=self.clock() + 120,
            payer=verified.payer,
            rail_state=json.loads(json.dumps(dict(verified.state))),
            window=600,
        )

    async def refusal(self, offer: Offer, payment: Payment) -> str:
        """The reason for which a payment is not accepted; the chain is left as it was."""
        before = await self.chain.books()
        with pytest.raises(PaymentRejected) as caught:
            await self.verify(offer, payment)
        assert await self.chain.books() == before
        return caught.value.code

    async def hand_in(self, authorization: Authorization, key: bytes = PAYER_KEY) -> None:
        """Submit an authorization as anybody may."""
        signature = sign(digest(SANDBOX_USDC.domain, authorization), key)
        await self.chain.transfer_with_authorization(SANDBOX_USDC, authorization, signature)

    async def pay(self, value: int = PRICE, *, payee: str = PAYEE, key: bytes = PAYER_KEY) -> str:
        """Make a plain transfer; returns its transaction's hash."""
        transfer = PlainTransfer(payer=address_of(key), payee=payee, value=value, nonce=self._nonces(32))
        signature = sign_transfer(transfer, SANDBOX_USDC, key)
        return (await self.chain.transfer(SANDBOX_USDC, transfer, signature)).transaction

    async def cancel(self, authorization: Authorization) -> None:
        """Cancel an authorization as its payer may."""
        signature = sign(cancel_digest(SANDBOX_USDC.domain, PAYER, authorization.nonce), PAYER_KEY)
        await self.chain.cancel_authorization(SANDBOX_USDC, PAYER, authorization.nonce, signature)

    async def empty(self, address: str = PAYER, key: bytes = PAYER_KEY) -> None:
        """Move all that an address holds to a third one."""
        value = await self.chain.balance_of(address)
        await self.hand_in(self.authorization(from_=address, to=THIRD, value=value), key)


def signed(authorization: Authorization, key: bytes = PAYER_KEY, token: Token = SANDBOX_USDC) -> dict[str, Any]:
    """The payload of a payment."""
    return dict(payload_of(authorization, sign(digest(token.domain, authorization), key)))


def present(payload: Mapping[str, Any], offer: Offer | None = None) -> Payment:
    return Payment(dialect="x402-v2", rail="base", payload=payload, offer=offer)
