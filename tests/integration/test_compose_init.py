"""`.ci/lightning/compose-init`, the init of `docker-compose.lightning.yml`, run without containers: on three nodes that
have nothing, on the same nodes again, and on a chain that refuses it.

The nodes are lnd. The chain is btcd, which has no wallet: a stand-in answers bitcoind's calls, those that init makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.services import install_root, installed, require
from tests.services.bitcoind import WALLET
from tests.services.btcd import MINING_ADDRESS, Btcd, btcd
from tests.services.lightning import CAPACITY_SAT, PUSHED_SAT
from tests.services.lnd import LndNode, lnd

SCRIPT = Path(__file__).parents[2] / ".ci" / "lightning" / "compose-init"
NAMES = "alice", "bob", "carol"
LOGIN = "rail402:regtest"

pytestmark = [
    pytest.mark.service("lightning"),
    pytest.mark.xdist_group("lightning"),
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="init runs jq and curl"),
]


class StandIn:
    """What init calls of bitcoind's RPC, with the coins of a btcd."""

    def __init__(self, chain: Btcd) -> None:
        self.chain = chain
        self.url = ""
        self.wallets: list[str] = []
        self.calls: list[str] = []

    def call(self, method: str, params: dict[str, Any]) -> Any:
        self.calls.append(method)
        match method:
            case "listwallets":
                return self.wallets
            case "listwalletdir":
                return {"wallets": []}
            case "createwallet":
                self.wallets.append(params["wallet_name"])
                return {"name": params["wallet_name"]}
            case "getblockcount":
                return self.chain.height()
            case "getnewaddress":
                return MINING_ADDRESS
            case "generatetoaddress":
                assert params["address"] == MINING_ADDRESS
                return self.chain.call("generate", params["nblocks"])
            case "sendmany":
                assert set(params["amounts"].values()) == {1}
                return self.chain.fund(*params["amounts"])
        raise AssertionError(method)


@contextmanager
def serving(stand_in: StandIn) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = 500, {"result": None, "error": {"message": "the stand-in refuses"}}
            login = f"Basic {b64encode(LOGIN.encode()).decode()}"
            if (self.path, self.headers["Authorization"]) == (f"/wallet/{WALLET}", login):
                status, answer = 200, {"result": stand_in.call(body["method"], body["params"]), "error": None}
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        stand_in.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class Containers:
    """The nodes that init finds, with nothing in them."""

    def __init__(self, chain: StandIn, nodes: list[LndNode], folder: Path) -> None:
        self.chain, self.nodes, self.folder = chain, nodes, folder

    def init(self, **more: str) -> subprocess.CompletedProcess[str]:
        programs = f"{install_root() / 'lightning'}{os.pathsep}{os.environ['PATH']}"
        variables = {"PATH": programs, "HOME": str(self.folder), "NODES": str(self.folder)}
        variables |= {"BITCOIND_URL": self.chain.url, "BITCOIND_LOGIN": LOGIN}
        for name, node in zip(NAMES, self.nodes, strict=True):
            variables[f"{name.upper()}_RPC"] = str(node.rpc_address)
            variables[f"{name.upper()}_PEER"] = node.get("/v1/getinfo")["uris"][0].partition("@")[2]
        return subprocess.run(
            ["bash", SCRIPT], env=variables | more, capture_output=True, text=True, timeout=120, check=False
        )

    def channels(self) -> list[list[tuple[int, bool]]]:
        """Return capacity and whether it is in use of each channel of each node."""
        found = [node.get("/v1/channels")["channels"] for node in self.nodes]
        return [[(int(each["capacity"]), each["active"]) for each in channels] for channels in found]


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    if not installed("lightning"):
        require("lightning", "lnd and btcd are not installed: run .ci/run")
    folder = tmp_path_factory.mktemp("init")
    with ExitStack() as services:
        chain = services.enter_context(btcd(folder / "btcd"))
        starting = [services.enter_context(lnd(name, folder / name, chain)) for name in NAMES]
        stand_in = StandIn(chain)
        services.enter_context(serving(stand_in))
        yield Containers(stand_in, [ready() for ready in starting], folder)


def test_a_chain_that_refuses_ends_init(containers: Containers) -> None:
    done = containers.init(BITCOIND_LOGIN="rail402:wrong")

    assert done.returncode != 0
    assert "the stand-in refuses" in done.stderr
    assert containers.chain.calls == []


def test_init_opens_the_channels_and_once_only(containers: Containers) -> None:
    first = containers.init()
    assert first.returncode == 0, first.stdout + first.stderr

    one = CAPACITY_SAT, True
    assert containers.channels() == [[one], [one, one], [one]]
    alice, bob, carol = (node.channel_balance() for node in containers.nodes)
    assert carol == PUSHED_SAT * 1000
    assert alice > (CAPACITY_SAT - PUSHED_SAT) * 1000 * 0.99  # less the fees of the commitment
    assert bob == alice + carol
    assert containers.chain.wallets == [WALLET]
    invoice = containers.nodes[2].create_invoice(21_000)
    assert containers.nodes[0].pay(invoice, fee_limit=2_000)  # init has waited until Alice knows the way

    height = containers.chain.chain.height()
    again = containers.init()

    assert again.returncode == 0, again.stdout + again.stderr
    assert containers.channels() == [[one], [one, one], [one]]
    assert containers.chain.chain.height() == height + 1
    assert containers.chain.calls.count("sendmany") == 2
