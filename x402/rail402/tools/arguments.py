"""What the tools are called with, as a model is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["Body", "Headers", "Limit", "MaxCost", "Method", "Url"]

Url = Annotated[str, Field(description="http:// or https://; only public addresses are asked.")]
Method = Annotated[str, Field(description="GET, POST, PUT, PATCH or DELETE.")]
Body = Annotated[str | None, Field(description="The request's body, as text.")]
Headers = Annotated[dict[str, str] | None, Field(description="Further header fields, such as Content-Type.")]
MaxCost = Annotated[str | None, Field(description="The most to pay, such as '0.10 USD' or '100 sat'.")]
Limit = Annotated[int, Field(ge=1, le=100, description="How many of the newest purchases.")]
