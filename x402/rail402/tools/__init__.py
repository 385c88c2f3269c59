"""A payer as tools for a model: what every framework's adapter is a thin layer over."""

from __future__ import annotations

from rail402.tools.agent import AgentTools

__all__ = ["AgentTools"]
