"""The payer's side of a refund: showing a seller the payment once more, and where its money is to go.

A seller can only grant a refund on Lightning; see `refunds.py`. What is sent holds the proof of the payment, so it goes
to the origin that was paid and nowhere else. Who asks again with the same invoice is paid once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import httpx

from rail402.client.journal import Journal
from rail402.client.records import PurchaseRecord
from rail402.client.refunds import LookedAt, find_refunds
from rail402.clock import Clock, system_clock
from rail402.dialects import dialect_by_name
from rail402.errors import REASONS, ConfigurationError, MalformedInput, PaymentRejected, RailUnavailable
from rail402.protocol.base import parse_json
from rail402.protocol.dialect import Context
from rail402.protocol.endpoint import DISCOVERY
from rail402.protocol.rail import Registry
from rail402.upstream import read_at_most
from rail402_lightning import bolt11
from rail402_lightning.refunds import REFUND_PATH
from rail402_lightning.wire import LightningSpec

__all__ = ["RefundFetcher"]

_MAX_ANSWER: Final = 65_536
_SECONDS: Final = 60  # it is paid meanwhile
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RefundFetcher:
    """Fetches what sellers have granted.

    Args:
        journal: what was bought, with the proofs.
        spec: a wallet's `spec`, of the network that was paid on.
        clock: Unix seconds.
        transport: what requests are sent through; one of its own if left out.
    """

    journal: Journal
    spec: LightningSpec
    clock: Clock = system_clock
    transport: httpx.AsyncBaseTransport | None = None

    async def fetch(self, record_id: str, invoice: str) -> LookedAt:
        """Have a refund paid to `invoice`, and return the purchase as the journal has it then.

        Args:
            invoice: over exactly what was paid, good for a minute at least, of any node of the payer's.

        Raises:
            ConfigurationError: there is no such purchase, it was not paid on this network, or the invoice is not over
                its amount.
            PaymentRejected: the seller has granted no refund of it, or does not take the invoice.
            RailUnavailable: it was not paid, or nobody knows yet: ask again, with the same invoice.
        """
        record = await self.journal.get(record_id)
        if record is None or record.offer.network != self.spec.network.id or not (record.proof or {}).get("preimage"):
            raise ConfigurationError(f"there is no purchase {record_id[:80]} that was paid on {self.spec.network.name}")
        try:
            found = bolt11.decode(invoice)
        except MalformedInput as error:
            raise ConfigurationError(f"the invoice cannot be read: {error.detail}") from error
        if (found.amount_msat, found.prefix) != (record.offer.amount, self.spec.network.prefix):
            raise ConfigurationError(f"make an invoice over exactly {record.offer.price}, on {self.spec.network.name}")
        await self._ask(record, invoice)
        is_known = record.refunded is not None
        looked_at = LookedAt(record, None if is_known else "it is paid, and there is no receipt to write it down by")
        async for each in find_refunds(self.journal, [record], now=self.clock(), transport=self.transport):
            looked_at = each
        return looked_at

    async def _ask(self, record: PurchaseRecord, invoice: str) -> None:
        proof = dict(record.proof or {})
        dialect = dialect_by_name(record.offer.dialect or "")
        context = Context(specs=Registry([self.spec]), now=self.clock())
        fields = dict(dialect.credential(record.offer, proof, context))
        asked = {"preimage": proof["preimage"], "invoice": invoice}
        origin = record.order.origin
        try:
            async with (
                asyncio.timeout(_SECONDS),
                httpx.AsyncClient(transport=self.transport, timeout=_SECONDS) as client,
                client.stream("POST", f"{origin}{DISCOVERY}{REFUND_PATH}", json=asked, headers=fields) as response,
            ):
                body = await read_at_most(response, _MAX_ANSWER)
        except (httpx.HTTPError, TimeoutError) as error:
            raise RailUnavailable(f"{origin} gave no answer ({type(error).__name__})") from error
        if response.status_code == 200:
            return
        code, detail = _said(body)
        if response.status_code in _AGAIN:
            raise RailUnavailable(f"{origin}: {detail or response.status_code}", retry_after=5)
        raise PaymentRejected(f"{origin}: {detail or response.status_code}", code=code)


def _said(body: bytes | None) -> tuple[str, str]:
    """Return the reason code of a refusal, and its words, which are a stranger's."""
    try:
        document: Any = parse_json(body or b"", field="body", max_bytes=_MAX_ANSWER)
    except MalformedInput:
        return "refund_not_due", ""
    code, error = document.get("code"), document.get("error")
    words = "".join(char for char in error[:300] if char.isprintable()) if isinstance(error, str) else ""
    return (code if isinstance(code, str) and code in REASONS else "refund_not_due"), words
