"""LangChain's agent with our tools and a scripted model; its argument is the JSON of `sources`, `play`, `calls`, `way`.

It prints what each call of `calls` came to, and which tools the model was offered.
"""

import asyncio
import json
import sys

given = json.loads(sys.argv[1])
sys.path[:0] = given["sources"]

import httpx  # noqa: E402
from langchain.agents import create_agent  # noqa: E402
from langchain_core.language_models import FakeMessagesListChatModel  # noqa: E402
from langchain_core.messages import AIMessage, ToolMessage  # noqa: E402

from rail402 import Payer  # noqa: E402
from rail402.tools import AgentTools  # noqa: E402
from rail402.tools.langchain import langchain_tools  # noqa: E402
from rail402_base import BaseWallet  # noqa: E402

offered = []


class Script(FakeMessagesListChatModel):
    def bind_tools(self, tools, **options):
        offered.extend(tool.name for tool in tools if tool.name not in offered)
        return self


said = [
    AIMessage(content="", tool_calls=[{"name": name, "args": arguments, "id": str(number)}])
    for number, (name, arguments) in enumerate(given["calls"])
]
asked = {"messages": [{"role": "user", "content": "buy the report"}]}
opened = AgentTools(Payer([BaseWallet.sandbox(given["play"])]), transport=httpx.AsyncHTTPTransport())


def agent(tools):
    return create_agent(Script(responses=[*said, AIMessage(content="done")]), langchain_tools(tools))


async def main():
    if given["way"] == "awaited in the background":
        with opened as tools:
            return await agent(tools).ainvoke(asked)
    async with opened as tools:
        return await agent(tools).ainvoke(asked)


if given["way"] == "called":
    with opened as tools:
        ended = agent(tools).invoke(asked)
else:
    ended = asyncio.run(main())
results = [json.loads(each.content) for each in ended["messages"] if isinstance(each, ToolMessage)]
print(json.dumps({"offered": offered, "results": results, "last": ended["messages"][-1].content}))
