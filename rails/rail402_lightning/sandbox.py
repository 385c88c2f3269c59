"""A Lightning node in which only the money is fake.

Its invoices are real BOLT 11 invoices for regtest, signed by the node's own key; paying one reveals the real preimage
of its payment hash. The money is in a ledger file that all processes on one machine share, a publisher and its agents
for instance: the node receives, and any number of named wallets pay it. Nothing leaves the machine.

Payments can be told to go wrong in the ways that payments do (`SandboxLightning.script`), which is what tests of
either side need. The reason of a failed payment is the script's, or else one of

- `no_route`: another node's invoice, or one for another network;
- `incorrect_payment_details`: the node does not take it: the invoice is unknown to it or canceled, or another wallet
  has paid it or is about to;
- `invoice_expired`, `fee_limit`, `insufficient_balance`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable
from typing import Final, Literal, get_args

from coincurve import PublicKey

from rail402.errors import ConfigurationError, OutcomeUnknown
from rail402_lightning import bolt11
from rail402_lightning.sandbox_ledger import (
    ENDOWMENT_MSAT,
    Behaviour,
    Books,
    InvoiceState,
    InvoiceStatus,
    LedgerTransaction,
    PaymentState,
    PaymentStatus,
    SandboxLedger,
)

__all__ = [
    "ENDOWMENT_MSAT",
    "NETWORK",
    "Behaviour",
    "Books",
    "InvoiceState",
    "InvoiceStatus",
    "PaymentState",
    "PaymentStatus",
    "SandboxLightning",
]

NETWORK: Final = "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328"  # regtest: the first half of its genesis block's hash

_PREFIX: Final = "bcrt"
_FEATURES = frozenset({8, 14})  # var_onion_optin and payment_secret, compulsory
_POLL_SECONDS = 0.02
_MAX_POLL_SECONDS = 0.32
_LATE_SECONDS = 1


class SandboxLightning:
    """One sandbox node and the wallets that pay it.

    Args:
        path: the ledger file, made with mode 600 if there is none. It holds the node's key and the preimages.
        clock: unix seconds.
        random_bytes: makes the node's key, preimages and payment secrets.
        network: must be `NETWORK`: a configuration that names a real network is refused here.
        fee_ppm: what routes cost, in millionths of the amount, rounded up to a millisatoshi.

    Every verb raises `RailUnavailable` when the ledger cannot be used (nothing has happened then), and
    `ConfigurationError` when the file is not a ledger or others may read it. Make it after forking, not before.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], int],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        network: str = NETWORK,
        fee_ppm: int = 1000,
    ) -> None:
        if network != NETWORK:
            raise ConfigurationError(f"the Lightning sandbox moves no real money: its network is {NETWORK}")
        self._clock = clock
        self._random_bytes = random_bytes
        self._fee_ppm = fee_ppm
        self._ledger = SandboxLedger(path, clock, lambda: random_bytes(32))
        self._private_key: bytes | None = None

    async def close(self) -> None:
        """Close the ledger file; a further call opens it again."""
        await self._ledger.close()

    async def node_id(self) -> bytes:
        """The node's public key, compressed, 33 bytes: the payee of its invoices, the same as long as the ledger."""
        return PublicKey.from_secret(await self._key()).format()

    async def books(self) -> Books:
        """Where all the money of the ledger is."""
        return await self._ledger.transact(LedgerTransaction.books)

    # Receiving.

    async def create_invoice(
        self,
        amount_msat: int,
        *,
        expiry_seconds: int,
        description: str | None = None,
        description_hash: bytes | None = None,
    ) -> str:
        """The text of a new BOLT 11 invoice, with a description or the SHA-256 of one; with neither, an empty one.

        Raises `ValueError` for what no invoice can say (see `bolt11.encode`).
        """
        preimage = self._random_bytes(32)
        invoice = bolt11.UnsignedInvoice(
            prefix=_PREFIX,
            amount_msat=amount_msat,
            created_at=self._clock(),
            payment_hash=hashlib.sha256(preimage).digest(),
            payment_secret=self._random_bytes(32),
            description="" if description is None and description_hash is None else description,
            description_hash=description_hash,
            expiry=expiry_seconds,
            features=_FEATURES,
        )
        text = bolt11.encode(invoice, await self._key())
        await self._ledger.transact(
            lambda ledger: ledger.add_invoice(invoice.payment_hash, preimage, amount_msat, invoice.expires_at)
        )
        return text

    async def lookup_invoice(self, payment_hash: bytes) -> InvoiceStatus | None:
        """What became of an invoice of this node; None if it never made it."""
        return await self._ledger.transact(lambda ledger: ledger.invoice(payment_hash))

    async def wait_settled(self, payment_hash: bytes, timeout: float) -> InvoiceStatus | None:
        """Wait until an invoice is settled or canceled, for at most `timeout` seconds of real time; its status then."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + timeout, _POLL_SECONDS
        while True:
            status = await self.lookup_invoice(payment_hash)
            left = deadline - loop.time()
            if status is None or status.state in ("settled", "canceled") or left <= 0:
                return status
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _MAX_POLL_SECONDS)

    async def cancel_invoice(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Take an unpaid invoice back; a payment under way fails. A settled one stays as it is. Its status then."""

        def cancel(ledger: LedgerTransaction) -> InvoiceStatus | None:
            ledger.fail(payment_hash, "incorrect_payment_details")
            ledger.cancel_invoice(payment_hash)
            return ledger.invoice(payment_hash)

        return await self._ledger.transact(cancel)

    # Paying.

    async def pay_invoice(self, text: str, *, wallet: str, max_fee_msat: int) -> PaymentStatus:
        """Pay an invoice from a wallet, for a routing fee of at most `max_fee_msat`.

        A wallet is endowed with `ENDOWMENT_MSAT` when it is first named. A payment that is pending or has succeeded
        is not made again: its status is the answer. After a failed one, a new attempt is made. Raises `MalformedInput`
        for a text that is not an invoice, and `OutcomeUnknown` where a script says that the answer gets lost.
        """
        invoice = bolt11.decode(text)
        ours = invoice.prefix == _PREFIX and invoice.payee == await self.node_id()
        payment_hash, amount_msat = invoice.payment_hash, invoice.amount_msat or 0
        fee_msat = -(-amount_msat * self._fee_ppm // 1_000_000)

        def pay(ledger: LedgerTransaction) -> tuple[PaymentStatus, Behaviour | None]:
            status = ledger.payment(payment_hash, wallet)
            if status is not None and status.state != "failed":
                return status, None
            balance_msat = ledger.balance(wallet)  # before anything else: it enters a wallet that is new here
            behaviour: Behaviour | None = None
            reason = _refusal(ledger, payment_hash) if ours else "no_route"
            if reason is None and fee_msat > max_fee_msat:
                reason = "fee_limit"
            if reason is None and amount_msat + fee_msat > balance_msat:
                reason = "insufficient_balance"
            if reason is None:
                behaviour, scripted_reason = ledger.take_script(payment_hash)
                reason = scripted_reason if behaviour == "fail" else None
            status = PaymentStatus(
                payment_hash=payment_hash,
                state="pending" if reason is None else "failed",
                amount_msat=amount_msat,
                fee_msat=fee_msat,
                reason=reason,
            )
            settles_at = invoice.expires_at + _LATE_SECONDS if behaviour == "settle-late" else None
            ledger.add_payment(status, wallet, behaviour=behaviour, settles_at=settles_at)
            if reason is None and behaviour in (None, "lost-answer"):
                ledger.settle(payment_hash, ledger.now)
            return ledger.payment(payment_hash, wallet) or status, behaviour

        status, behaviour = await self._ledger.transact(pay)
        if behaviour == "lost-answer":
            raise OutcomeUnknown("the sandbox lost its answer to the payment, as scripted: look the payment up")
        return status

    async def lookup_payment(self, payment_hash: bytes, wallet: str) -> PaymentStatus | None:
        """What became of a wallet's latest attempt to pay an invoice; None if there was none."""
        return await self._ledger.transact(lambda ledger: ledger.payment(payment_hash, wallet))

    async def balance(self, wallet: str) -> int:
        """What a wallet can spend, in msat. Money in flight is not in it."""
        return await self._ledger.transact(lambda ledger: ledger.balance(wallet))

    # Telling payments how to behave.

    async def script(self, target: bytes | Literal["next"], behaviour: Behaviour, *, reason: str = "no_route") -> None:
        """Tell one attempt how to behave: the next at the invoice with the payment hash `target`, or at any.

        Scripts queue up, and those for an invoice come first. An attempt that is refused anyway leaves them alone.

        - `pending-forever`: the money stays in flight.
        - `pending-then-settle`: it stays in flight until `release`.
        - `settle-late`: it stays in flight, and arrives just after the invoice has expired.
        - `fail`: the attempt fails, for `reason`.
        - `lost-answer`: the money arrives, but `pay_invoice` raises `OutcomeUnknown`.

        Raises `ConfigurationError` for another word.
        """
        if behaviour not in get_args(Behaviour):
            raise ConfigurationError(f"behaviour is one of {', '.join(get_args(Behaviour))}")
        payment_hash = None if target == "next" else target
        await self._ledger.transact(lambda ledger: ledger.add_script(payment_hash, behaviour, reason))

    async def release(self, payment_hash: bytes, *, failure: str | None = None) -> bool:
        """Let a `pending-then-settle` payment arrive now, or fail for the reason `failure`; whether there was one."""

        def release(ledger: LedgerTransaction) -> bool:
            if ledger.pending_behaviour(payment_hash) != "pending-then-settle":
                return False
            if failure is None:
                ledger.settle(payment_hash, ledger.now)
            else:
                ledger.fail(payment_hash, failure)
            return True

        return await self._ledger.transact(release)

    async def _key(self) -> bytes:
        if self._private_key is None:
            self._private_key = await self._ledger.transact(LedgerTransaction.node_key)
        return self._private_key


def _refusal(ledger: LedgerTransaction, payment_hash: bytes) -> str | None:
    """Why the node does not take a payment of this invoice, or None if it does."""
    invoice = ledger.invoice(payment_hash)
    if invoice is None or invoice.state == "canceled" or ledger.is_taken(payment_hash):
        return "incorrect_payment_details"
    return "invoice_expired" if invoice.state == "expired" else None
