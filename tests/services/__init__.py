"""Real services for the tests, each started from here or pointed to by the environment.

`.ci/run` installs the services below `RAIL402_SERVICES` (default: `~/.cache/rail402-services`). A test that needs one
which is not there is skipped with the reason; with `RAIL402_REQUIRE=all`, or with the service in that comma-separated
list, it fails.

Lightning may run elsewhere, for example from `docker-compose.lightning.yml` or `make regtest-native`, which both write
these variables to `.rail402/regtest/env`. When the URL of a chain is set, no node is started: the variables below are
read, and the nodes get what they lack (blocks, coins, the channels).

======================================================  ==============================================================
`RAIL402_TEST_BITCOIND_URL`                             bitcoind's RPC, `http://127.0.0.1:18443`
`RAIL402_TEST_BITCOIND_{USER,PASSWORD}`                 its RPC credentials
`RAIL402_TEST_BTCD_URL`                                 or btcd's, `https://127.0.0.1:18334`; it must mine to
                                                        `btcd.MINING_ADDRESS`
`RAIL402_TEST_BTCD_TLS_CERT`                            path of its `rpc.cert`
`RAIL402_TEST_BTCD_{USER,PASSWORD}`                     its RPC credentials
`RAIL402_TEST_LND_{ALICE,BOB,CAROL}_URL`                REST address, `https://127.0.0.1:8081`
`RAIL402_TEST_LND_{ALICE,BOB,CAROL}_TLS_CERT`           path of its `tls.cert`
`RAIL402_TEST_LND_{ALICE,BOB,CAROL}_MACAROON`           path of its `admin.macaroon`
`RAIL402_TEST_LNBITS_PUBLISHER_URL`                     an LNbits funded by Alice, `http://127.0.0.1:5001`
`RAIL402_TEST_LNBITS_PAYER_URL`                         an LNbits funded by Bob
`RAIL402_TEST_LNBITS_{PUBLISHER,PAYER}_KEY`             optional: admin key of a wallet there; else an account is made
`RAIL402_TEST_LNBITS_{PUBLISHER,PAYER}_INVOICE_KEY`     its invoice key, when `_KEY` is set
======================================================  ==============================================================

Bob and Carol must announce addresses that the others can reach (lnd's `--externalip`), and Bob must forward payments
for the fee in `lnd.BASE_FEE_MSAT` and `lnd.FEE_PPM` (lnd's `--bitcoin.basefee` and `--bitcoin.feerate`).

`RAIL402_TEST_POSTGRES_URL` is a PostgreSQL that runs elsewhere, with a user who may create schemas, and
`RAIL402_TEST_REDIS_URL` a Redis whose database the tests may write to.

`RAIL402_TEST_EVM_URL` is the JSON-RPC of an anvil with `--chain-id 84532` that runs elsewhere; the tests put their
token there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["install_root", "installed", "require"]


def install_root() -> Path:
    """Where `.ci/run` installs services, each in a folder of its own."""
    return Path(os.environ.get("RAIL402_SERVICES") or Path.home() / ".cache" / "rail402-services")


def installed(service: str) -> Path | None:
    """The folder of `service` if `.ci/run` has finished installing it; a broken-off installation has no marker."""
    folder = install_root() / service
    return folder if (folder / ".installed").is_file() else None


def require(service: str, reason: str) -> NoReturn:
    """End the test for want of `service`: skipped with `reason`, or failed if `RAIL402_REQUIRE` names it."""
    required = os.environ.get("RAIL402_REQUIRE", "").split(",")
    if service in required or "all" in required:
        pytest.fail(f"{service} is required here, and {reason}", pytrace=False)
    pytest.skip(reason)
