"""The server's end: a gate in front of the routes that cost something."""

from rail402.server.gate import Gate
from rail402.server.settings import Receipts

__all__ = ["Gate", "Receipts"]
