"""pymacaroons makes the same bytes as we do, and what it restricts we verify."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rail402.dialects import L402
from rail402.dialects.macaroon import mint, parse
from rail402.errors import PaymentRejected
from rail402.protocol.dialect import Fields
from rail402.protocol.order import EMPTY_BODY_DIGEST
from tests.interop.peers import Case, cases, program, run
from tests.unit.dialects import test_l402
from tests.unit.dialects.dialect_fakes import NOW

LOCATION = "api.example.com"
CAVEATS = ["rail402_offer=k1.1800000000.16.abc", "rail402_valid_until=1800000000", "services=foo:0,ünï"]


async def ask(case: Case, directory: Path, **given: Any) -> Any:
    command = program(case.package.service, "macaroons.py", directory)
    return await run(command, json.dumps(given), directory=directory)


@pytest.mark.parametrize("case", cases(None, "library", "makes the bytes of our macaroons"), ids=str)
async def test_the_same_bytes(case: Case, tmp_path: Path) -> None:
    key, identifier = bytes(range(32)), bytes(2) + b"\x11" * 32 + b"\xfe" * 32
    for count in (0, 1, 3):
        given = {"key": key.hex(), "identifier": identifier.hex(), "location": LOCATION, "caveats": CAVEATS[:count]}
        theirs = await ask(case, tmp_path, **given)
        ours = mint(key, identifier, LOCATION.encode(), [caveat.encode() for caveat in CAVEATS[:count]])
        assert theirs["raw"] == ours.serialize().hex()
        assert theirs["accepted"] is True
        assert parse(bytes.fromhex(theirs["raw"])).verifies(key)
        assert not parse(bytes.fromhex(theirs["raw"])).verifies(bytes(32))


@pytest.mark.parametrize("case", cases(None, "library", "its macaroons verify, with added caveats"), ids=str)
async def test_what_it_restricts_is_paid_with(case: Case, tmp_path: Path) -> None:
    text = test_l402.minted()
    caveats = [f"rail402_valid_until={NOW + 100}", f"rail402_valid_until={NOW + 1}"]
    theirs = await ask(case, tmp_path, macaroon=text, caveats=caveats)
    assert theirs["caveats"][1:] == caveats
    for restricted in (theirs["text"], base64.b64encode(bytes.fromhex(theirs["raw"])).decode()):
        (payment,) = payments(restricted)
        assert payment.payload == {"preimage": test_l402.PREIMAGE}
    ended = await ask(case, tmp_path, macaroon=text, caveats=[*caveats, f"rail402_valid_until={NOW}"])
    with pytest.raises(PaymentRejected) as caught:
        payments(ended["text"])
    assert caught.value.code == "receipt_expired"


def payments(macaroon: str) -> Any:
    line = f"L402 {macaroon}:{test_l402.PREIMAGE}"
    return L402().payments(Fields([("authorization", line)]), EMPTY_BODY_DIGEST, test_l402.SERVER)
