"""The regtest network outside of tests: `python -m tests.services.regtest up`, or `env`.

`up` runs btcd, three lnd and two LNbits until it is interrupted. `env` takes the network that the environment describes
(one in containers, say), gives it what it lacks and makes an account in each LNbits. Both write what reaches the
network to `.rail402/regtest/env`, as `export` lines for a shell: what the tests take, and two macaroons of least
privilege, with which `docs/regtest.md` sells and buys.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rail402_lightning.backends.lnd_macaroon import PAY, RECEIVE
from tests.services import lightning, lnbits, processes
from tests.services.bitcoind import Bitcoind
from tests.services.btcd import Btcd
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair

__all__ = ["DIRECTORY", "bake", "main", "variables"]

DIRECTORY = Path(".rail402/regtest")

# lnd calls a chain unsynced whose last block is two hours old.
_SECONDS_BETWEEN_BLOCKS = 600


def variables(network: RegtestNetwork, pair: LnbitsPair) -> dict[str, str]:
    """What to set so that `regtest_network` and `lnbits_pair` find that network and these wallets."""
    chain = network.chain
    found: dict[str, str] = {}
    if isinstance(chain, Bitcoind):
        found |= {"BITCOIND_URL": chain.url, "BITCOIND_USER": chain.user, "BITCOIND_PASSWORD": chain.password}
    elif isinstance(chain, Btcd):
        found |= {"BTCD_URL": chain.url, "BTCD_TLS_CERT": str(chain.tls_cert_path.resolve())}
        found |= {"BTCD_USER": chain.user, "BTCD_PASSWORD": chain.password}
    for name, node in zip(("ALICE", "BOB", "CAROL"), network.nodes, strict=True):
        found[f"LND_{name}_URL"] = node.rest_url
        found[f"LND_{name}_TLS_CERT"] = str(node.tls_cert_path.resolve())
        found[f"LND_{name}_MACAROON"] = str(node.macaroon_path.resolve())
    for role, instance in (("PUBLISHER", pair.publisher), ("PAYER", pair.payer)):
        found[f"LNBITS_{role}_URL"] = instance.url
        found[f"LNBITS_{role}_KEY"] = instance.admin_key
        found[f"LNBITS_{role}_INVOICE_KEY"] = instance.invoice_key
    return {f"RAIL402_TEST_{name}": value for name, value in found.items()}


def bake(network: RegtestNetwork, directory: Path) -> dict[str, str]:
    """Make a macaroon with which Alice's node is paid, and one with which Carol's pays; returns their variables."""
    wanted = {"ALICE_RECEIVE": (network.alice, RECEIVE), "CAROL_PAY": (network.carol, PAY)}
    found = {}
    for name, (node, rights) in wanted.items():
        path = directory / f"{name.lower().replace('_', '-')}.macaroon"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(node.bake(*rights.methods))
        found[f"RAIL402_TEST_LND_{name}_MACAROON"] = str(path)
    return found


def _write(path: Path, settings: Mapping[str, str]) -> None:
    """Write `export` lines that only we can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()))


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise processes.ServiceFailed(f"a network is running already: {_shown(path)} is locked") from None
        yield


def _up(directory: Path) -> None:
    """Run a network with its files in `directory`, new each time, until a signal or the end of one of its services."""
    settings, files = directory / "env", directory / "native"
    signal.signal(signal.SIGTERM, _interrupt)
    with _only_one(directory / "lock"):
        for name in [name for name in os.environ if name.startswith("RAIL402_TEST_")]:
            del os.environ[name]  # else it would be the network of an earlier `env`
        shutil.rmtree(files, ignore_errors=True)
        started = time.monotonic()
        print(f"starting btcd, three lnd and two LNbits in {_shown(files)} ...", flush=True)
        with lightning.regtest_network(files) as network, lnbits.lnbits_pair(network, files) as pair:
            _write(settings, variables(network, pair) | bake(network, files))
            try:
                print(f"up after {time.monotonic() - started:.0f} s. In another terminal:", flush=True)
                print(f"  . {_shown(settings)}\nCtrl-C ends it.", flush=True)
                _keep(network)
            finally:
                settings.unlink(missing_ok=True)


def _keep(network: RegtestNetwork) -> None:
    """Keep the chain fresh; raises ServiceFailed when a service ends."""
    next_block = time.monotonic() + _SECONDS_BETWEEN_BLOCKS
    while True:
        for process in processes.active():
            if not process.members():
                raise processes.ServiceFailed(f"{process.name} ended:\n{process.log_tail()}")
        if time.monotonic() > next_block:
            network.mine(1)
            next_block += _SECONDS_BETWEEN_BLOCKS
        time.sleep(0.5)


def _env(directory: Path) -> None:
    """Describe the network of the environment."""
    if not lightning.runs_elsewhere():
        raise processes.ServiceFailed("no RAIL402_TEST_* variable says where the network is: see tests/services")
    with (
        _only_one(directory / "lock"),
        lightning.regtest_network(directory) as network,
        lnbits.lnbits_pair(network, directory) as pair,
    ):
        _write(directory / "env", variables(network, pair) | bake(network, directory))
    print(f"up. What reaches it:\n  . {_shown(directory / 'env')}")


def _shown(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.regtest", description=__doc__)
    parser.add_argument("command", choices=["up", "env"])
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help=f"default: {DIRECTORY}")
    chosen = parser.parse_args(arguments)
    directory = chosen.directory.resolve()  # services have working directories of their own
    directory.mkdir(parents=True, exist_ok=True)
    try:
        if reason := chosen.command == "up" and (lightning.missing() or lnbits.missing()):
            raise processes.ServiceFailed(reason)
        (_up if chosen.command == "up" else _env)(directory)
    except KeyboardInterrupt:
        print("ended", flush=True)
    except processes.ServiceFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
