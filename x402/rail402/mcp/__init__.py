"""Payments inside the Model Context Protocol: how x402 and MPP travel in tool calls. Pure codecs, no server."""

from __future__ import annotations

from rail402.mcp.mpp import MppMcp
from rail402.mcp.x402 import X402Mcp

__all__ = ["MppMcp", "X402Mcp"]
