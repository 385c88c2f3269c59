"""What LangChain's tools do is what `AgentTools` does; that LangChain takes them, `tests/interop` tries."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rail402.tools.langchain import langchain_tools

Tool = Callable[..., Awaitable[Any]]


class Recorded:
    """Stands in for `AgentTools`: says what it was called with."""

    in_background = False

    def run(self, function: Callable[[], Awaitable[Any]]) -> Any:
        return asyncio.run(function())  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Tool:
        async def call(*arguments: Any) -> dict[str, Any]:
            return {name: arguments}

        return call


@pytest.fixture
def recorded() -> Any:
    return Recorded()


@pytest.fixture
def tools(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tool]:
    core: Any = ModuleType("langchain_core.tools")
    core.StructuredTool = SimpleNamespace(from_function=lambda *, func, coroutine: coroutine or func)
    monkeypatch.setitem(sys.modules, "langchain_core", ModuleType("langchain_core"))
    monkeypatch.setitem(sys.modules, "langchain_core.tools", core)
    return named(recorded)


def named(recorded: Any) -> dict[str, Tool]:
    found: Any = langchain_tools(recorded)
    return {tool.__name__: tool for tool in found}


async def test_each_tool_hands_on_what_it_is_given(tools: dict[str, Tool]) -> None:
    asked = ("https://a.test/", "POST", "body", {"X-Mark": "1"}, "0.10 USD")
    assert await tools["fetch"](*asked) == {"fetch": asked}
    assert await tools["quote"](*asked) == {"quote": asked}
    assert await tools["receipts"](3) == {"receipts": (3,)}
    assert await tools["budget"]() == {"budget": ()}
    assert await tools["wallets"]() == {"wallets": ()}


def test_tools_that_run_in_the_background_are_called_and_not_awaited(tools: dict[str, Tool], recorded: Any) -> None:
    recorded.in_background = True
    asked = ("https://a.test/", "POST", "body", {"X-Mark": "1"}, "0.10 USD")
    blocking: Any = named(recorded)
    assert blocking["fetch"](*asked) == {"fetch": asked}
    assert blocking["receipts"](limit=3) == {"receipts": (3,)}
    assert list(blocking) == list(tools)
    assert inspect.signature(blocking["fetch"]) == inspect.signature(tools["fetch"])
    assert blocking["fetch"].__doc__ == tools["fetch"].__doc__


def test_it_is_imported_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    with pytest.raises(ModuleNotFoundError, match="langchain_core"):
        langchain_tools(None)  # type: ignore[arg-type]
