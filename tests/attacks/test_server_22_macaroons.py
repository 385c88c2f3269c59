"""22: macaroons that were widened, stripped, mixed, or made by somebody else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from rail402.dialects import macaroon
from rail402.dialects.macaroon import Macaroon
from tests.attacks.cases import Observe
from tests.conformance.test_l402_end_to_end import Paid, buy, show
from tests.conformance.test_lightning_end_to_end import Town


def restrict(*caveats: bytes) -> Callable[[Macaroon], Macaroon]:
    """Add caveats as anybody can."""

    def change(made: Macaroon) -> Macaroon:
        for caveat in caveats:
            made = made.restrict(caveat)
        return made

    return change


def token_of(made: Macaroon) -> bytes:
    return made.caveats[0].partition(b"=")[2]


CHANGES: dict[str, Callable[[Macaroon], Macaroon]] = {
    "another offer added": restrict(b"rail402_offer=k1.1.a.b"),
    "its offer twice": lambda made: made.restrict(made.caveats[0]),
    "a later end": restrict(b"rail402_valid_until=9999999999999"),
    "an end that is none": restrict(b"rail402_valid_until=never"),
    "an end in other digits": restrict("rail402_valid_until=９９９９９９９９９９".encode()),
    "an end below zero": restrict(b"rail402_valid_until=-1"),
    "a service": restrict(b"services=everything:0"),
    "NUL in a name": restrict(b"rail402_valid_until\0=9999999999"),
    "NUL in a value": restrict(b"rail402_valid_until=9999999999\0"),
    "a name in other letters": restrict("r\u0430il402_valid_until=9999999999".encode()),
    "capital letters": restrict(b"RAIL402_VALID_UNTIL=9999999999"),
    "spaces": restrict(b" rail402_valid_until = 9999999999 "),
    "no UTF-8": restrict(b"\xff\xfe=1"),
    "a preimage twice": restrict(b"preimage=" + b"00" * 32, b"preimage=" + b"11" * 32),
    "70 caveats": restrict(*[b"rail402_valid_until=9999999999"] * 70),
    "no caveats": lambda made: replace(made, caveats=()),
    "its caveat altered": lambda made: replace(made, caveats=(made.caveats[0] + b"0",)),
    "its caveat replaced": lambda made: replace(made, caveats=(b"rail402_valid_until=9999999999",)),
    "a caveat without its signature": lambda made: replace(made, caveats=(*made.caveats, b"rail402_valid_until=1")),
    "no signature": lambda made: replace(made, signature=b""),
    "a signature of zeros": lambda made: replace(made, signature=bytes(32)),
    "half a signature": lambda made: replace(made, signature=made.signature[:16]),
    "another identifier": lambda made: replace(
        made, identifier=made.identifier[:-1] + bytes([made.identifier[-1] ^ 1])
    ),
    "another payment hash": lambda made: replace(
        made, identifier=made.identifier[:2] + hashlib.sha256(bytes(32)).digest() + made.identifier[34:]
    ),
    "another version": lambda made: replace(made, identifier=b"\0\1" + made.identifier[2:]),
    "of one's own making": lambda made: macaroon.mint(b"guess", made.identifier, made.location, made.caveats),
    "an empty root key": lambda made: macaroon.mint(b"", made.identifier, made.location, made.caveats),
    "an empty identifier": lambda made: macaroon.mint(b"", b"", made.location, made.caveats),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_that_is_done_to_it_opens_more(town: Town, change: str, observed: Observe) -> None:
    paid = await buy(town)
    made = macaroon.parse(base64.b64decode(paid.macaroon))
    assert re.fullmatch(rb"[A-Za-z0-9_.-]+", token_of(made))
    forged = base64.b64encode(CHANGES[change](made).serialize()).decode()
    for path in ("/article/one", "/article/two", "/book"):
        answer = await show(town, paid.shown(macaroon=forged), path)
        assert answer.status_code in (400, 402), (path, answer.text)
    assert town.runs == []
    assert (await show(town, paid.shown())).status_code == 200
    observed("400 or 402 for 28 changes, at its own route and at others; the one that was bought still works")


async def test_parameters_beside_it_change_nothing(town: Town, observed: Observe) -> None:
    """Some servers let parameters of the header overwrite what the macaroon says, its payment hash above all."""
    paid = await buy(town)
    zero = hashlib.sha256(bytes(32)).hexdigest()
    for credential in (
        f"L402 {paid.macaroon}:{'00' * 32}, paymentHash={zero}",
        f'L402 paymentHash="{zero}", macaroon="{paid.macaroon}", preimage="{"00" * 32}"',
        f"L402 {paid.macaroon}:{'00' * 32}?paymentHash={zero}",
        f"L402 {paid.macaroon},{paid.macaroon}:{paid.preimage}",
        f"L402 {paid.macaroon}:{'00' * 32}:{paid.preimage}",
        f"L402 {paid.macaroon}",
        f"L402 :{paid.preimage}",
        "L402 ",
        f"L402 {'A' * 70_000}:{paid.preimage}",
    ):
        answer = await show(town, {"Authorization": credential})
        assert answer.status_code in (400, 402, 431), (credential[:80], answer.text)
    assert town.runs == []
    observed("parameters beside it do not overwrite its payment hash")


async def test_two_of_them_are_two_payments(town: Town, observed: Observe) -> None:
    one, other = await buy(town), await buy(town)
    lines = [("Authorization", each.shown()["Authorization"]) for each in (one, other)]
    answer = await town.http.get("/article/one", headers=lines)
    assert (answer.status_code, answer.json()["code"], town.runs) == (400, "several_payments", [])
    mixed = Paid(one.macaroon, other.preimage)
    assert (await show(town, mixed.shown())).json()["code"] == "preimage_invalid"
    observed("two at once are 400 `several_payments`; one with the preimage of another 402 `preimage_invalid`")
