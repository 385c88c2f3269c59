"""The tools for LangChain. Needs the extra `langchain`, and imports it only where it is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from rail402.tools.agent import AgentTools
from rail402.tools.arguments import Body, Headers, Limit, MaxCost, Method, Url

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool  # type: ignore[import-not-found, unused-ignore]

__all__ = ["langchain_tools"]


def langchain_tools(tools: AgentTools) -> list[BaseTool]:
    """Return the tools `fetch`, `quote`, `budget`, `receipts` and `wallets`.

    ::

        async with AgentTools(payer, cap="0.10 USD") as tools:
            agent = create_agent(model, langchain_tools(tools))
            await agent.ainvoke({"messages": [{"role": "user", "content": "…"}]})

    Args:
        tools: opened by the caller, and closed by it: `async with` for `agent.ainvoke`, `with` for `agent.invoke`.

    Raises:
        ModuleNotFoundError: langchain-core is not installed.
    """
    from langchain_core.tools import StructuredTool

    async def fetch(
        url: Url, method: Method = "GET", body: Body = None, headers: Headers = None, max_cost: MaxCost = None
    ) -> dict[str, Any]:
        """Make an HTTP request, and pay for it within the user's limits if it is answered with 402.

        Where the outcome is "unknown", call it again with the same arguments: nothing is paid twice.
        """
        return await tools.fetch(url, method, body, headers, max_cost)

    async def quote(
        url: Url, method: Method = "GET", body: Body = None, headers: Headers = None, max_cost: MaxCost = None
    ) -> dict[str, Any]:
        """Say what an HTTP request would cost, without paying."""
        return await tools.quote(url, method, body, headers, max_cost)

    async def budget() -> dict[str, Any]:
        """Show the limits, and what of them is spent or held."""
        return await tools.budget()

    async def receipts(limit: Limit = 20) -> dict[str, Any]:
        """List the newest purchases."""
        return await tools.receipts(limit)

    async def wallets() -> dict[str, Any]:
        """Show which wallets there are and on which networks they pay."""
        return await tools.wallets()

    return [
        # Of tools that run in the background LangChain awaits the blocking call on a thread.
        StructuredTool.from_function(func=_blocking(tools, each), coroutine=None if tools.in_background else each)
        for each in (fetch, quote, budget, receipts, wallets)
    ]


def _blocking(tools: AgentTools, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return tools.run(lambda: function(*args, **kwargs))

    return call
