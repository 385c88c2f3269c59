"""Real services for the tests, each started from here or pointed to by the environment.

`.ci/run` installs the services below `RAIL402_SERVICES` (default: `~/.cache/rail402-services`). A test that needs one
which is not there is skipped with the reason; with `RAIL402_REQUIRE=all`, or with the service in that comma-separated
list, it fails.

Lightning may run elsewhere, for example from `docker-compose.lightning.yml`. When `RAIL402_TEST_BTCD_URL` is set,
no node is started: the variables below are read, and the nodes get what they lack (blocks, coins, the channel).

==========================================  ==========================================================================
`RAIL402_TEST_BTCD_URL`                     btcd's RPC, `https://127.0.0.1:18334`; must mine to `btcd.MINING_ADDRESS`
`RAIL402_TEST_BTCD_TLS_CERT`                path of its `rpc.cert`
`RAIL402_TEST_BTCD_USER`, `_PASSWORD`       its RPC credentials
`RAIL402_TEST_LND_{ALICE,BOB}_URL`          REST address, `https://127.0.0.1:8081`
`RAIL402_TEST_LND_{ALICE,BOB}_TLS_CERT`     path of its `tls.cert`
`RAIL402_TEST_LND_{ALICE,BOB}_MACAROON`     path of its `admin.macaroon`
`RAIL402_TEST_LNBITS_PUBLISHER_URL`         an LNbits funded by Alice, `http://127.0.0.1:5001`
`RAIL402_TEST_LNBITS_PAYER_URL`             an LNbits funded by Bob
`RAIL402_TEST_LNBITS_{PUBLISHER,PAYER}_KEY`          optional: admin key of a wallet there; else an account is made
`RAIL402_TEST_LNBITS_{PUBLISHER,PAYER}_INVOICE_KEY`  its invoice key, when `_KEY` is set
==========================================  ==========================================================================

Bob must announce an address that Alice can reach (lnd's `--externalip`).
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
