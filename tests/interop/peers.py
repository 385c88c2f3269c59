"""The released programs that we are tried against, and what each of them does: the rows of `docs/interop.md`.

A case is one peer in one role on one route. Every case has a test that takes it as the parameter `case`; what became of
it is written below `RESULTS`, from where `report.py` makes the table. To add peers, add a package and its cases.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.services import install_root, installed, require

__all__ = ["CASES", "RESULTS", "ROOT", "Case", "Package", "cases", "node", "program", "python", "run"]

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "build" / "interop"
"""One JSON file per case, as the last run left it."""

PROGRAMS: Final = Path(__file__).parent / "programs"
SECONDS: Final = 60
"""How long a peer may take for one purchase; what has hung by then never ends."""

Role = Literal["client", "server", "validator", "library", "kit"]


@dataclass(frozen=True, slots=True)
class Package:
    """A released package.

    Attributes:
        registry: `npm` or `PyPI`; name: its name there.
        service: the environment in which `.ci/run` installs it: `.ci/services/<service>.sh`.
    """

    registry: Literal["npm", "PyPI"]
    name: str
    service: str

    @property
    def version(self) -> str:
        """The version that is tested, from the locks below `.ci`."""
        locks = ROOT / ".ci" / self.service.replace("_", "-")
        if self.registry == "npm":
            lock = json.loads((locks / "package-lock.json").read_text())
            return str(lock["packages"][f"node_modules/{self.name}"]["version"])
        pinned = re.search(rf"^{re.escape(self.name)}==(.+)$", (locks / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned is not None, f"{locks}/constraints.txt does not pin {self.name}"
        return pinned[1]


@dataclass(frozen=True, slots=True)
class Case:
    """What one peer does.

    Attributes:
        role: what the peer is: a client of our server, a server for our client, a kit whose agents we pay for, …
        route: on what, such as `stripe`.
        reason: why it does not work, where it cannot; its test sees that it fails in just that way.
    """

    package: Package
    role: Role
    route: str
    reason: str = ""

    def __str__(self) -> str:
        words = (self.package.name, self.role, self.route)
        return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-") for word in words)


MPPX: Final = Package("npm", "mppx", "peers_mpp")
PYMPP: Final = Package("PyPI", "pympp", "peers_mpp")
L402_NPM: Final = Package("npm", "l402", "peers_l402")
L402_REQUESTS: Final = Package("PyPI", "l402-requests", "peers_l402")
ALBY: Final = Package("npm", "@getalby/lightning-tools", "peers_l402")
PYMACAROONS: Final = Package("PyPI", "pymacaroons", "peers_l402")
X402: Final = Package("PyPI", "x402", "x402")
X402_FETCH: Final = Package("npm", "@x402/fetch", "peers_x402")
X402_AXIOS: Final = Package("npm", "@x402/axios", "peers_x402")
X402_EXPRESS: Final = Package("npm", "@x402/express", "peers_x402")
X402_FETCH_V1: Final = Package("npm", "x402-fetch", "peers_x402")
X402_EXPRESS_V1: Final = Package("npm", "x402-express", "peers_x402")
OPENAI: Final = Package("PyPI", "openai", "peers_agents")
LANGCHAIN: Final = Package("PyPI", "langchain", "peers_agents")
CREWAI: Final = Package("PyPI", "crewai-tools", "peers_crewai")

X402_MCP: Final = Package("PyPI", "x402", "peers_mcp")
MPPX_MCP: Final = Package("npm", "mppx", "peers_mcp")
PYMPP_MCP: Final = Package("PyPI", "pympp", "peers_mcp")

_FORGETS: Final = "it keeps no answers, and refuses the payment that is shown again; nothing is paid twice"

CASES: Final = [
    Case(MPPX, "client", "stripe"),
    Case(MPPX, "client", "evm"),
    Case(MPPX, "client", "custom method"),
    Case(MPPX, "client", "stripe, POST with a body"),
    Case(MPPX, "client", "stripe, from its command line"),
    Case(PYMPP, "client", "stripe"),
    Case(PYMPP, "client", "evm"),
    Case(PYMPP, "client", "custom method"),
    Case(PYMPP, "client", "stripe, POST with a body"),
    Case(MPPX, "server", "stripe"),
    Case(MPPX, "server", "evm by MPP"),
    Case(MPPX, "server", "evm by x402"),
    Case(PYMPP, "server", "stripe"),
    Case(PYMPP, "server", "evm by MPP"),
    Case(PYMPP, "server", "evm by x402"),
    Case(PYMPP, "server", "evm by x402, as it is by default", "it takes only payments with its own extension"),
    Case(MPPX, "validator", "FastAPI"),
    Case(MPPX, "validator", "Starlette"),
    Case(MPPX, "validator", "FastAPI, paying by card"),
    Case(MPPX, "validator", "a route with L402", "it reads the first scheme of `WWW-Authenticate` only, which is L402"),
    Case(L402_NPM, "client", "L402 on lnd"),
    Case(L402_REQUESTS, "client", "L402 on lnd"),
    Case(L402_REQUESTS, "client", "L402 on lnd, its own lnd wallet"),
    Case(ALBY, "client", "L402 on lnd"),
    Case(ALBY, "client", "MPP lightning on lnd"),
    Case(ALBY, "client", "x402 lightning on lnd"),
    Case(PYMACAROONS, "library", "makes the bytes of our macaroons"),
    Case(PYMACAROONS, "library", "its macaroons verify, with added caveats"),
    Case(X402, "client", "httpx, settled by our relayer"),
    Case(X402, "client", "httpx, settled by its own facilitator"),
    Case(X402, "client", "httpx, settled by our facilitator"),
    Case(X402, "client", "requests, settled by its own facilitator"),
    Case(X402, "client", "requests, settled by our facilitator"),
    Case(X402, "client", "httpx, POST with a body"),
    Case(X402, "client", "httpx, paying upfront"),
    Case(X402, "client", "httpx, naming its payment"),
    Case(X402, "client", "httpx, version 1"),
    Case(X402_FETCH, "client", "settled by our relayer"),
    Case(X402_FETCH, "client", "settled by the facilitator of PyPI `x402`"),
    Case(X402_FETCH, "client", "settled by our facilitator"),
    Case(X402_FETCH, "client", "POST with a body"),
    Case(X402_FETCH, "client", "paying upfront"),
    Case(X402_FETCH, "client", "naming its payment"),
    Case(X402_AXIOS, "client", "settled by the facilitator of PyPI `x402`"),
    Case(X402_AXIOS, "client", "settled by our facilitator"),
    Case(X402_AXIOS, "client", "POST with a body"),
    Case(X402_AXIOS, "client", "paying upfront"),
    Case(X402_FETCH_V1, "client", "version 1, settled by our relayer"),
    Case(X402_FETCH_V1, "client", "version 1, settled by the facilitator of PyPI `x402`"),
    Case(X402_FETCH_V1, "client", "version 1, settled by our facilitator"),
    Case(X402_FETCH_V1, "client", "version 1, POST with a body"),
    Case(X402, "server", "FastAPI, settled by its own facilitator"),
    Case(X402, "server", "FastAPI, settled by our facilitator"),
    Case(X402, "server", "FastAPI, wanting payments to be named"),
    Case(X402, "server", "FastAPI, its answer lost", _FORGETS),
    Case(X402, "server", "Flask, settled by its own facilitator"),
    Case(X402, "server", "Flask, settled by our facilitator"),
    Case(X402_EXPRESS, "server", "settled by the facilitator of PyPI `x402`"),
    Case(X402_EXPRESS, "server", "settled by our facilitator"),
    Case(X402_EXPRESS, "server", "wanting payments to be named"),
    Case(X402_EXPRESS, "server", "its answer lost", _FORGETS),
    Case(X402_EXPRESS_V1, "server", "version 1, settled by the facilitator of PyPI `x402`"),
    Case(X402_EXPRESS_V1, "server", "version 1, settled by our facilitator"),
    Case(X402_EXPRESS_V1, "server", "version 1, its answer lost", _FORGETS),
    Case(OPENAI, "kit", "chat completions and streams, async and sync, on base"),
    Case(OPENAI, "kit", "chat completions and streams, async and sync, on lightning"),
    Case(LANGCHAIN, "kit", "an agent with our tools"),
    Case(CREWAI, "kit", "`rail402 mcp` by its MCP adapter"),
    Case(X402_MCP, "client", "a tool over MCP"),
    Case(MPPX_MCP, "client", "a tool over MCP, stripe"),
    Case(MPPX_MCP, "client", "a tool over MCP, evm"),
    Case(MPPX_MCP, "client", "a tool over MCP, custom method"),
    Case(PYMPP_MCP, "client", "a tool over MCP that asks as MPP does, stripe"),
    Case(PYMPP_MCP, "client", "a tool over MCP that asks as MPP does, evm"),
    Case(PYMPP_MCP, "client", "a tool over MCP that asks as MPP does, custom method"),
    Case(PYMPP_MCP, "client", "a tool over MCP", "it reads the error of MPP only, and cannot announce itself"),
    Case(X402_MCP, "server", "a tool over MCP, settled by its own facilitator"),
    Case(MPPX_MCP, "server", "a tool over MCP, stripe"),
]


def cases(package: Package | None = None, role: Role | None = None, *routes: str) -> list[Case]:
    """Return the cases of a package, in a role, on routes; None and none for any."""
    return [
        case
        for case in CASES
        if package in (None, case.package) and role in (None, case.role) and (not routes or case.route in routes)
    ]


def _environment(service: str) -> Path:
    return installed(service) or require(service, f"{service} is not installed below {install_root()}: run .ci/run")


def program(service: str, name: str, directory: Path) -> list[str]:
    """Return the command that runs a program of `programs/` among the packages of `service`.

    Args:
        directory: where Node finds a copy of it beside its packages.
    """
    source, environment = PROGRAMS / name, _environment(service)
    if source.suffix == ".py":
        return [*python(service), str(source)]
    copy = directory / service / source.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(source.read_bytes())
    modules = copy.parent / "node_modules"
    if not modules.is_symlink():
        modules.symlink_to(environment / "node_modules")
    return ["node", str(copy)]


def python(service: str) -> list[str]:
    """Return the command of the Python of `service`, without our own packages."""
    environment = _environment(service)
    inner = environment / "python"
    return [str((inner if inner.is_dir() else environment) / "bin" / "python"), "-I", "-X", "utf8"]


def node(service: str, package: str, script: str) -> list[str]:
    """Return the command that runs a script which a package brings along."""
    return ["node", str(_environment(service) / "node_modules" / package / script)]


async def run(command: list[str], *args: str, directory: Path, env: dict[str, str] | None = None) -> Any:
    """Run a peer to its end and return the JSON that it prints last; of our environment only PATH reaches it."""
    base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LANG": "C.UTF-8", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        *command,
        *args,
        env={**base, **(env or {})},
        cwd=directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = out.decode().strip()
    start = text.find("{\n") if "\n" in text else 0
    try:
        return json.loads(text[max(start, 0) :])
    except ValueError as error:
        said = f"{' '.join(command)} ended with {process.returncode}\n{text}\n{errors.decode()}"
        raise AssertionError(said[-4000:]) from error
