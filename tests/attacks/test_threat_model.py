"""What `docs/threat-model.md` says of stolen things, tried: what each of them opens, and what it does not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rail402.protocol.base import sha256_hex
from rail402.protocol.binding import OfferKeys
from rail402.protocol.order import Order
from rail402.protocol.receipt import Receipt, ReceiptKeys, verify_receipt
from rail402_base.eip3009 import parse_authorization
from rail402_base.facilitator_wire import SignedTransfer, request_body
from rail402_base.wire import BaseSpec
from tests.attacks.chain import Stand
from tests.conformance.test_base_end_to_end import THIRD, URL, World, header, opened, signed
from tests.services.anvil import ETHER, EvmChain

SECRET = "the secret of this gate, which is stolen in a test"
OTHER = "the secret that this gate was given in its place"


def forged(world: World, accepted: dict[str, Any], number: int, **changes: Any) -> dict[str, str]:
    """A payment for an offer of the thief's own making, for `/book`."""
    terms = accepted | changes
    spec = world.rail.spec
    assert isinstance(spec, BaseSpec)
    offer = spec.bindings["x402-v2"].decode_offer(terms, expires_at=world.clock() + 600)
    assert offer is not None
    order = Order(method="GET", url=f"{URL}/book", route="GET /book", body_digest=sha256_hex(b""))
    made = OfferKeys({"k1": SECRET.encode()}).issue(offer, order, number.to_bytes(16, "big"))
    terms |= {"extra": terms["extra"] | {"token": made.token}}
    return header(terms, signed(world.authorization(terms)))


async def test_the_offer_secret_sells_cheaply_and_signs_and_takes_nothing(tmp_path: Path) -> None:
    _, pem = ReceiptKeys.generate()
    async with World(tmp_path, secret=SECRET, receipt_key=pem).open() as world:
        others = await world.payment("/article")
        assert (await world.http.get("/article", headers=others)).status_code == 200
        accepted = await world.accepted("/book")
        # Nobody pays itself: an offer to another payee is taken from nobody.
        assert await world.refused("/book", forged(world, accepted, 9, amount="1", payTo=THIRD)) == "payee_mismatch"
        await world.assert_books(paid=3000)
        bought = await world.http.get("/book", headers=forged(world, accepted, 1, amount="1"))
        assert (bought.status_code, bought.json()) == (200, {"run": 2})
        await world.assert_books(paid=3001)
        # The receipt says what was paid: it can be found afterwards.
        jwks = (await world.http.get("/.well-known/rail402/jwks.json")).json()
        receipt = verify_receipt(bought.headers["receipt-record"], jwks, issuer=URL)
        assert (receipt.amount, receipt.payee) == ("1", accepted["payTo"])
        # What others paid is not the thief's: the nonce of their token is secret.
        stolen = forged(world, await world.accepted("/book"), 2)
        moved = header(opened(stolen)[0], opened(others)[1])
        assert (await world.http.get("/book", headers=moved)).status_code in (402, 409)
        kept = forged(world, accepted, 3, amount="1")
    async with World(tmp_path, secret={"k2": OTHER}, receipt_key=pem).open() as after:
        assert await after.refused("/book", kept) == "offer_unknown"


async def test_the_receipt_key_signs_anything_and_opens_nothing(world: World) -> None:
    answer = await world.http.get("/article", headers=await world.payment("/article"))
    keys = world.gate.services().receipt_keys
    real = verify_receipt(answer.headers["receipt-record"], keys.jwks)
    lie = keys.sign(Receipt.model_validate(real.model_dump() | {"resource": f"{URL}/book", "amount": "500000"}))
    assert verify_receipt(lie, keys.jwks, issuer=URL).amount == "500000"
    for name in ("Receipt-Record", "X-Receipt", "Authorization", "PAYMENT-SIGNATURE"):
        assert (await world.http.get("/book", headers={name: lie})).status_code in (400, 402)
    assert world.runs == ["article"]


def store_files(folder: Path) -> list[Path]:
    """The database and what SQLite keeps beside it."""
    return list(folder.glob("charges.db*"))


async def test_the_store_has_no_secret_in_it(tmp_path: Path) -> None:
    _, pem = ReceiptKeys.generate()
    store = f"sqlite:///{tmp_path}/charges.db"
    async with World(tmp_path, store=store, secret=SECRET, receipt_key=pem).open() as world:
        fields = await world.payment("/article")
        login = {"Authorization": "Bearer the-login-of-somebody", "Cookie": "session=the-cookie-of-somebody"}
        assert (await world.http.get("/article", headers=fields | login)).status_code == 200
        accepted, payload = opened(fields)
    held = b"".join(path.read_bytes() for path in store_files(tmp_path))
    nonce = accepted["extra"]["token"].split(".")[2]
    for secret in (
        SECRET,
        nonce,
        accepted["extra"]["token"],
        payload["signature"][2:],
        "the-login-of",
        "the-cookie-of",
    ):
        assert secret.encode() not in held
        assert base64.b64encode(secret.encode()).rstrip(b"=")[:-1] not in held
    for line in pem.splitlines():
        assert "PRIVATE" in line or line.encode() not in held
    assert b'{"run":1}' in held, "what was sold is in it, as the page says"
    assert {path.stat().st_mode & 0o077 for path in store_files(tmp_path)} == {0}


@pytest.mark.parametrize("thief", ["takes the ether", "uses up nonces"])
async def test_the_relayers_key_takes_no_payment(evm: EvmChain, tmp_path: Path, thief: str) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        _, fields = await stand.honest()
        relayer = stand.shop.relayer.address
        if thief == "takes the ether":
            evm.set_ether(relayer, 0)
            refused = await stand.show(fields)
            assert (refused.status_code, stand.runs) == (503, 1)
            assert evm.usdc_of(stand.shop.payee.address) == 0
            evm.set_ether(relayer, ETHER)
        else:
            for _ in range(3):
                evm.send(relayer, evm.account().address, b"")
        for _ in range(20):
            served = await stand.show(fields)
            if served.status_code == 200:
                break
            await stand.gate.reconcile()
        assert served.status_code == 200
        stand.assert_paid(1)


async def test_what_a_facilitator_is_told_does_not_say_what_is_bought(world: World) -> None:
    accepted, payload = opened(await world.payment("/article"))
    authorization, signature = parse_authorization(payload)
    for version in (1, 2):
        said = json.dumps(request_body(version, SignedTransfer(world.rail.token, authorization, signature), now=1))
        assert "article" not in said
        assert accepted["extra"]["token"] not in said
