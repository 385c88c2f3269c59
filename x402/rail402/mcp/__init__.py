"""Payments inside the Model Context Protocol: how x402 and MPP travel in tool calls. Pure codecs, no server.

What we say ourselves has these names: in `_meta` of a call, of its result and of a tool in `tools/list`, and in the
`data` of an error.
"""

from __future__ import annotations

from typing import Final

from rail402.mcp.mpp import MppMcp
from rail402.mcp.x402 import X402Mcp

__all__ = ["CHARGE", "CODE", "IDEMPOTENCY_KEY", "PRICE", "RECEIPT", "REPLAYED", "MppMcp", "X402Mcp"]

CHARGE: Final = "rail402/charge"
"""The charge's id, and what became of its payment."""

CODE: Final = "rail402/code"
"""Why it is not served: a code of `errors.REASONS`."""

IDEMPOTENCY_KEY: Final = "rail402/idempotency-key"
"""What a repeat of a call on a pass is known by, as by `Idempotency-Key` over HTTP."""

PRICE: Final = "rail402/price"
"""What a tool costs, in `tools/list`."""

RECEIPT: Final = "rail402/receipt"
"""The signed receipt."""

REPLAYED: Final = "rail402/replayed"
"""That the tool did not run again."""
