"""One call of the client, from the first request to the response: a generator that a driver runs.

The rules, in the order in which they bind:

1. One payment per call at most. Only a 402 with terms is ever paid, only with what the budget allows, and only after
   the journal has it.
2. A purchase of the same order that is not resolved comes first: its payment is shown again, and nothing new is signed
   while it may still be taken.
3. Once a proof may have left, only that proof is sent: again and again on a transport error, 402, 409 or 503, as
   `Retry-After` and the back-off say, until the deadline. Then the wallet is asked what became of it. Only "not paid"
   frees the amount and lets another wallet try; everything else is `PaymentOutcomeUnknown`.
4. A payment is added to the caller's own request and to nothing else: whatever follows a redirect is another request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx

from rail402.client.choice import Candidate, best_offer, read_terms
from rail402.client.commands import Reply, Request, Steps, call, read, send
from rail402.client.presenting import Presented, present
from rail402.client.receipts import check_receipt
from rail402.client.records import PurchaseRecord, PurchaseState, new_record_id
from rail402.client.services import PAY_SECONDS, RESERVE_LEASE, Services
