"""CrewAI's tools, which its MCP adapter makes of `rail402 mcp`: `python crewai_tools.py '{"command", "env", "calls"}'`.

It prints what each call of `calls` came to, and the names of all tools.
"""

import json
import sys

from crewai_tools import MCPServerAdapter
from mcp import StdioServerParameters

given = json.loads(sys.argv[1])
command, *arguments = given["command"]

with MCPServerAdapter(StdioServerParameters(command=command, args=arguments, env=given["env"])) as tools:
    results = [json.loads(tools[name].run(**arguments)) for name, arguments in given["calls"]]
    print(json.dumps({"offered": [tool.name for tool in tools], "results": results}))
