from __future__ import annotations

from tests.services.databases import postgres, redis_url

__all__ = ["postgres", "redis_url"]
