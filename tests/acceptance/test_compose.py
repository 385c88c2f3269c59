"""`docker-compose.lightning.yml`, without Docker: what it says, and that the network without containers is the same.

docker-compose reads and resolves the file; the lnd that `.ci/run` compiles judges its command line. What init does is
run by `tests/integration/test_compose_init.py`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.services import bitcoind, install_root, installed, lightning, lnbits, lnd, require

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.lightning.yml"
NODES = {"alice": 8081, "bob": 8082, "carol": 8083}
SERVERS = {"lnbits-publisher": ("alice", 5001), "lnbits-payer": ("bob", 5002)}
SERVICES = {"bitcoind", "init", *NODES, *SERVERS}
SCRIPTS = sorted([*ROOT.glob(".ci/**/*.sh"), ROOT / ".ci/run", *ROOT.glob(".ci/lightning/compose-*")])

Table = Mapping[str, Any]


def run(*command: str | Path, **more: str) -> str:
    """Run a program in the repository; return what it prints."""
    environment = os.environ | more
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def program() -> Path:
    """docker-compose: what `.ci/run` installed, or what is on PATH."""
    if folder := installed("docker_compose"):
        return folder / "bin" / "docker-compose"
    found = shutil.which("docker-compose")
    if found is None:
        require("docker_compose", "docker-compose is not installed: run .ci/run, or apt-get install docker-compose")
    return Path(found)


@cache
def resolved(compose: Path) -> Table:
    """Return the file as docker-compose understands it, its anchors and merges resolved."""
    first = compose.read_bytes().split(b"\n", 1)[0]
    if not first.startswith(b"#!"):  # Compose 2 is no script, and knows JSON
        return dict(json.loads(run(compose, "--file", FILE, "config", "--format", "json")))
    config = run(compose, "--file", FILE, "config")
    # It prints YAML, which its own Python can read.
    convert = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    command = [*shlex.split(first[2:].decode()), "-c", convert]
    done = subprocess.run(command, input=config, capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture
def config() -> Table:
    return resolved(program())


@pytest.fixture
def services(config: Table) -> Mapping[str, Table]:
    assert config["services"].keys() == SERVICES
    return dict(config["services"])


def published(service: Table) -> list[tuple[str, str, str]]:
    """Return host address, host port and container port of each port."""
    found = []
    for port in service.get("ports", []):
        if isinstance(port, str):
            address, host, inner = port.removesuffix("/tcp").split(":")
            found.append((address, host, inner))
        else:
            found.append((port.get("host_ip", ""), str(port["published"]), str(port["target"])))
    return found


def mounts(service: Table) -> list[tuple[str, str, bool]]:
    """Return source, target and whether it is read-only of each mount."""
    found = []
    for mount in service.get("volumes", []):
        if isinstance(mount, str):
            source, target, *mode = mount.split(":")
            found.append((source, target, "ro" in mode))
        else:
            found.append((mount["source"], mount["target"], mount.get("read_only", False)))
    return found


def flags(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each flag of a command line."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, value = word.lstrip("-").partition("=")
        found.setdefault(name, []).append(value)
    return found


def lnd_flags(name: str, service: Table) -> list[str]:
    """Return lnd's arguments as the container's shell makes them."""
    shell, option, command = service["entrypoint"]
    assert (shell, option, service["hostname"]) == ("bash", "-c", name)
    exec_, lnd_, *rest = shlex.split(command.replace("$$(hostname)", name))
    assert (exec_, lnd_) == ("exec", "lnd")
    assert not any("$" in word for word in rest)
    return rest


def test_only_loopback_reaches_the_containers(services: Mapping[str, Table]) -> None:
    ports = {name: published(service) for name, service in services.items()}

    assert ports == {
        "bitcoind": [("127.0.0.1", "18443", "18443")],
        **{name: [("127.0.0.1", str(port), "8080")] for name, port in NODES.items()},
        **{name: [("127.0.0.1", str(port), "5000")] for name, (_, port) in SERVERS.items()},
        "init": [],
    }
    assert not any("network_mode" in service for service in services.values())


def test_every_image_has_a_version(services: Mapping[str, Table]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[\w-]+/[\w-]+:v?\d+\.\d+(\.\d+)?(-beta)?", service["image"]), name
        assert "build" not in service


def test_the_versions_are_those_without_containers(services: Mapping[str, Table]) -> None:
    (lnd_version,) = re.findall(
        r"github\.com/lightningnetwork/lnd (v\S+) ", (ROOT / ".ci/lightning/go.mod").read_text()
    )
    (lnbits_version,) = re.findall(r"'lnbits==([\d.]+)'", (ROOT / ".ci/services/lnbits.sh").read_text())

    for name in (*NODES, "init"):
        assert services[name]["image"] == f"lightninglabs/lnd:{lnd_version}"
    for name in SERVERS:
        assert services[name]["image"] == f"lnbits/lnbits:v{lnbits_version}"


def test_what_stays_up_has_a_health_check_and_is_waited_for(services: Mapping[str, Table]) -> None:
    for name, service in services.items():
        assert ("healthcheck" in service) == (name != "init"), name
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits == {
        "bitcoind": {},
        **{name: {"bitcoind": "service_healthy"} for name in NODES},
        # Not healthy: they are not in use before init has mined.
        "init": {"bitcoind": "service_healthy", **dict.fromkeys(NODES, "service_started")},
        **{name: {"init": "service_completed_successfully"} for name in SERVERS},
    }


def test_every_volume_is_named_and_the_nodes_files_are_read_only_to_others(
    config: Table, services: Mapping[str, Table]
) -> None:
    assert config["volumes"].keys() == SERVICES - {"init"}
    assert mounts(services["bitcoind"]) == [("bitcoind", "/home/bitcoin/.bitcoin", False)]
    for name in NODES:
        assert mounts(services[name]) == [(name, "/root/.lnd", False)]
    for name, (node, _) in SERVERS.items():
        assert mounts(services[name]) == [(node, "/lnd", True), (name, "/app/data", False)]
    script, *files = mounts(services["init"])
    assert script == (str(ROOT / ".ci/lightning/compose-init"), "/compose-init", True)
    assert files == [(name, f"/nodes/{name}", True) for name in NODES]
    assert services["init"]["entrypoint"] == ["bash", "/compose-init"]


def test_the_nodes_find_the_chain(services: Mapping[str, Table]) -> None:
    chain = flags(services["bitcoind"]["command"])
    for name in NODES:
        node = flags(lnd_flags(name, services[name]))
        assert node["bitcoin.node"] == ["bitcoind"]
        assert node["bitcoind.rpchost"] == ["bitcoind:18443"]
        assert node["bitcoind.rpcuser"] == chain["rpcuser"] == ["rail402"]
        assert node["bitcoind.rpcpass"] == chain["rpcpassword"] == ["regtest"]
        for topic in ("zmqpubrawblock", "zmqpubrawtx"):
            assert [url.replace("0.0.0.0", "bitcoind") for url in chain[topic]] == node[f"bitcoind.{topic}"]


def test_the_nodes_are_as_the_tests_expect_them(services: Mapping[str, Table]) -> None:
    for name in NODES:
        node = flags(lnd_flags(name, services[name]))
        assert node["bitcoin.basefee"] == [str(lnd.BASE_FEE_MSAT)]
        assert node["bitcoin.feerate"] == [str(lnd.FEE_PPM)]
        assert node["externalip"] == [f"{name}:9735"]
        assert node["tlsextradomain"] == [name]
        assert "bitcoin.regtest" in node
    init = (ROOT / ".ci/lightning/compose-init").read_text()
    said = dict(re.findall(r"^([A-Z_]+)=(\w+)$", init, re.MULTILINE))
    assert said == {
        "WALLET": bitcoind.WALLET,
        "CAPACITY_SAT": str(lightning.CAPACITY_SAT),
        "PUSHED_SAT": str(lightning.PUSHED_SAT),
    }


def test_lnd_knows_the_flags(services: Mapping[str, Table], tmp_path: Path) -> None:
    if reason := None if installed("lightning") else "lnd is not installed: run .ci/run":
        require("lightning", reason)
    program = install_root() / "lightning" / "lnd"

    for name in NODES:
        # It judges all flags before it prints its version.
        run(program, f"--lnddir={tmp_path}", *lnd_flags(name, services[name]), "--version")
    with pytest.raises(AssertionError, match="unknown flag"):
        run(program, f"--lnddir={tmp_path}", "--no.such.flag", "--version")


def test_lnbits_is_as_without_containers(services: Mapping[str, Table]) -> None:
    for name, (node, _) in SERVERS.items():
        assert services[name]["environment"] == lnbits.SETTINGS | {
            "LND_REST_ENDPOINT": f"https://{node}:8080",
            "LND_REST_CERT": "/lnd/tls.cert",
            "LND_REST_MACAROON": "/lnd/data/chain/bitcoin/regtest/admin.macaroon",
        }


def test_compose_env_names_what_is_published(services: Mapping[str, Table], tmp_path: Path) -> None:
    """With a stand-in for the containers, which prints what it is asked for."""
    compose = tmp_path / "compose"
    compose.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    compose.chmod(0o700)

    printed = run(ROOT / ".ci/lightning/compose-env", tmp_path / "files", COMPOSE=str(compose))

    lines = [shlex.split(line) for line in printed.splitlines()]
    assert all(word == "export" for word, _ in lines)
    found = dict(setting.removeprefix("RAIL402_TEST_").split("=", 1) for _, setting in lines)
    nodes = {}
    for name in NODES:
        folder, prefix = tmp_path / "files", f"LND_{name.upper()}"
        nodes[f"{prefix}_URL"] = f"https://127.0.0.1:{published(services[name])[0][1]}"
        nodes[f"{prefix}_TLS_CERT"], nodes[f"{prefix}_MACAROON"] = f"{folder / name}.cert", f"{folder / name}.macaroon"
        asked = f"--file {FILE.name} exec -T {name} cat /root/.lnd"
        assert (folder / f"{name}.cert").read_text() == f"{asked}/tls.cert "
        macaroon = folder / f"{name}.macaroon"
        assert macaroon.read_text() == f"{asked}/data/chain/bitcoin/regtest/admin.macaroon "
        assert macaroon.stat().st_mode & 0o077 == 0
    assert found == nodes | {
        "BITCOIND_URL": "http://127.0.0.1:18443",
        "BITCOIND_USER": "rail402",
        "BITCOIND_PASSWORD": "regtest",
        "LNBITS_PUBLISHER_URL": "http://127.0.0.1:5001",
        "LNBITS_PAYER_URL": "http://127.0.0.1:5002",
    }


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("regtest-up", ["docker compose --file docker-compose.lightning.yml up --detach"]),
        ("regtest-down", ["docker compose --file docker-compose.lightning.yml down --volumes"]),
        ("regtest-native", [".venv/bin/python -m tests.services.regtest up"]),
        ("regtest-test", ["RAIL402_REQUIRE=lightning,lnbits .venv/bin/pytest tests/integration/test_*lightning*.py"]),
    ],
)
def test_make_has_what_the_guide_says(target: str, commands: Sequence[str]) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    planned = run(
        "make", "--dry-run", "--no-print-directory", "--assume-old=.venv/.developing", target, COMPOSE="docker compose"
    )

    assert all(command in planned for command in commands)
    assert f"make {target}" in (ROOT / "docs/regtest.md").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.relative_to(ROOT).as_posix())
def test_bash_can_read_the_scripts(script: Path) -> None:
    run("bash", "-n", script)
