"""33, both ends: keys, preimages, signatures, offer tokens, shared payment tokens and Stripe keys are in no log (every
logger at DEBUG, those of the libraries included), in no repr, in no error or its causes, and in no answer to a request.

Each rail sells and pays here with its real cryptography and its sandbox's money. Everything that was secret on the way
is collected, and then looked for in everything that was told.
"""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from fastapi import FastAPI

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.journal_sqlite import SqliteJournal
from rail402.client.payer import Payer
from rail402.errors import OutcomeUnknown, PaymentOutcomeUnknown, Rail402Error, RailUnavailable, StoreError
from rail402.protocol.binding import OfferKeys
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.gate import Gate
from rail402.stores import open_store
from rail402.testing.fakes import FakeClock
from rail402_base import BaseRail, BaseWallet
from rail402_base.eip3009 import address_of
from rail402_base.keys import LocalSigner
from rail402_lightning import LightningRail, LightningWallet
from rail402_lightning.backends.lnbits_api import LnbitsApi
from rail402_stripe import StripeRail, StripeWallet
from rail402_stripe.api import StripeApi
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge
from tests.attacks.test_client_40_changed_terms import usdc_terms

URL = "http://testserver"
PRIVATE_KEY = "5ec2e7" + "01" * 29
GATE_SECRET = "the-gate-secret-" + "s3cr3t" * 6
STRIPE_KEY = "sk_test_" + "s3cr3tStripeKey99"
WORDS = "test test test test test test test test test test test junk"


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Stripe's library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


def told_by(error: BaseException | None) -> str:
    """Everything that an error tells: its text, its causes and contexts, and, as tools that report errors do, the local
    variables of every frame of ours. A rail's frames are left out: a function that reads a key has it in its hands."""
    text = ""
    while error is not None:
        ours = [frame for frame in traceback.walk_tb(error.__traceback__) if "/x402/" in frame[0].f_code.co_filename]
        text += f"{error} {error!r} {error.args!r} {vars(error)!r}"
        text += "".join(f"{name}={value!r}\n" for frame, _ in ours for name, value in list(frame.f_locals.items()))
        if error.__cause__ is not None and error.__context__ not in (None, error.__cause__):
            text += told_by(error.__context__)
        error = error.__cause__ or error.__context__
    return text


class Told:
    """What was told, and what was secret."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog, self.texts, self.secrets = caplog, list[str](), {PRIVATE_KEY, GATE_SECRET, STRIPE_KEY}

    def answer(self, response: httpx.Response) -> None:
        """Keep an answer that is no success, whole."""
        assert response.status_code >= 400
        self.texts.append(f"{response.status_code} {dict(response.headers)} {response.text}")

    def error(self, error: BaseException) -> None:
        self.texts.append(told_by(error))

    def things(self, *things: object) -> None:
        self.texts += [f"{thing!r} {thing!s}" for thing in things]

    def payment(self, request: httpx.Request) -> None:
        """Collect the secrets of a payment: its field, and whatever in it is long enough to be one."""
        for name in ("payment-signature", "authorization", "x-receipt"):
            value = request.headers.get(name, "").removeprefix("Payment ")
            if value:
                self.secrets |= {value, *_secrets_in(value)}

    def check(self) -> None:
        """Look for every secret in everything that was told."""
        formatter = logging.Formatter()
        logs = [formatter.format(record) for record in self._caplog.records]
        assert len(self.secrets) > 3, "payments were seen"
        for text in [*logs, *self.texts]:
            for secret in self.secrets:
                assert secret not in text, text


PUBLIC = {"from", "to", "value", "network", "asset", "payTo", "url", "realm", "method", "intent", "scheme", "name"}
PUBLIC |= {"expires", "networkId", "invoice", "amount", "currency", "paymentFlow", "request", "id", "paymentHash"}
PUBLIC |= {"nonce", "resource", "validBefore", "mimeType", "description", "requestHash", "requestBindingProfile"}


def _secrets_in(value: str) -> Iterator[str]:
    try:
        document = json.loads(base64.b64decode(value + "==", altchars=b"-_" if "-" in value or "_" in value else b"+/"))
    except ValueError:
        return
    todo = [("", document)]
    while todo:
        name, item = todo.pop()
        if isinstance(item, dict):
            todo += item.items()
        elif isinstance(item, list):
            todo += [(name, each) for each in item]
        elif isinstance(item, str) and name not in PUBLIC and len(item) > 12:
            yield item
            yield from _secrets_in(item)


class World:
    """A publisher and an agent on one rail."""

    def __init__(self, rail: Any, wallet: Any, folder: Path, clock: FakeClock, told: Told, price: str) -> None:
        keys, pem = ReceiptKeys.generate()
        told.secrets |= {line for line in pem.splitlines() if "PRIVATE" not in line and line}
        self.rail, self.wallet, self.clock, self.told, self.price = rail, wallet, clock, told, price
        self.gate = Gate(
            rails=[rail],
            public_url=URL,
            store=f"sqlite:///{folder}/charges.db",
            secret=GATE_SECRET,
            receipt_key=pem,
            clock=clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.payer = Payer([wallet], Budget(), f"sqlite:///{folder}/wallet.db", clock=clock)
        self.payer.sleep = self._sleep
        self.seen: list[httpx.Request] = []
        self.lose: Callable[[httpx.Request], bool] = lambda request: False
        self.fail = False
        self.keys = keys
        app = FastAPI()
        self.gate.install(app)
        self.asgi = httpx.ASGITransport(app, raise_app_exceptions=False)

        @app.get("/page")
        @self.gate.paid(price)
        async def page() -> str:
            if self.fail:
                raise RuntimeError("the handler failed")
            return "bought"

        @app.get("/other")
        @self.gate.paid(price)
        async def other() -> str:
            return "bought"

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(int(seconds))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        self.told.payment(request)
        response = await self.asgi.handle_async_request(request)
        if self.lose(request):
            raise httpx.ReadTimeout("no answer", request=request)
        return response

    async def buy(self, path: str = "/page") -> httpx.Response:
        inner = httpx.AsyncBaseTransport()
        inner.handle_async_request = self.handle_async_request  # type: ignore[method-assign]
        async with httpx.AsyncClient(transport=self.payer.transport(inner), base_url=URL) as client:
            response = await client.get(path)
        self.told.things(response, response.request, response.extensions, response.headers)
        return response

    async def by_hand(self, fields: dict[str, str], path: str = "/page") -> httpx.Response:
        async with httpx.AsyncClient(transport=self.asgi, base_url=URL) as client:
            return await client.get(path, headers=fields)

    @property
    def proof(self) -> tuple[str, str]:
        """The last payment's field."""
        names = ("payment-signature", "authorization", "x-receipt")
        for request in reversed(self.seen):
            for name in names:
                if name in request.headers:
                    return name, request.headers[name]
        raise AssertionError("nothing was paid")

    async def everything(self) -> None:
        """Have every object of the two ends shown."""
        journal, charges = self.payer.journal, await self.gate.services().store.recent(limit=50)
        records = await journal.newest()
        self.told.things(self.payer, self.wallet, self.rail, self.gate, journal, self.keys, self.wallet.spec)
        self.told.things(*records, *(record.offer for record in records), *charges, *vars(self.gate).items())
        self.told.things(*vars(self.payer).items(), self.payer._services, self.gate.services())
        self.told.check()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level(logging.DEBUG)
    for name in ("stripe", "httpx", "httpcore", "rail402", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    return Told(caplog)


@pytest.fixture(params=["base", "lightning", "stripe"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, told: Told) -> AsyncIterator[World]:
    clock, sandbox = FakeClock(), tmp_path / "sandbox"
    rail: Any
    wallet: Any
    if request.param == "base":
        rail = BaseRail.sandbox(sandbox, pay_to=address_of(bytes([2]) * 32), clock=clock)
        wallet = BaseWallet.sandbox(sandbox, private_key=PRIVATE_KEY, clock=clock)
    elif request.param == "lightning":
        rail, wallet = LightningRail.sandbox(sandbox, clock=clock), LightningWallet.sandbox(sandbox, clock=clock)
    else:
        rail, wallet = StripeRail.sandbox(sandbox, clock=clock), StripeWallet.sandbox(sandbox, clock=clock)
    price = {"base": "0.003 USD", "lightning": "21 sat", "stripe": "0.50 USD"}[request.param]
    made = World(rail, wallet, tmp_path, clock, told, price)
    async with made.gate:
        yield made
        await made.payer.close()


# --- both ends


async def test_a_sale_a_replay_and_payments_that_do_not_fit(world: World, observed: Observe) -> None:
    response = await world.buy()
    assert response.text == '"bought"'
    assert response.extensions["rail402"].outcome == "paid"
    name, value = world.proof
    assert (await world.by_hand({name: value})).status_code == 200
    world.told.answer(await world.by_hand({name: value}, "/other"))
    half, junk = value[: len(value) // 2], value[:-40] + "A" * 40
    for wrong in (half, junk, value + "A", f"Payment {value}", "Payment " + "A" * 99):
        for field in ("payment-signature", "authorization", "x-receipt"):
            answered = await world.by_hand({field: wrong})
            if answered.status_code >= 400:
                world.told.answer(answered)
    world.told.answer(await world.by_hand({name: value, "x-receipt": "f" * 64}))
    await world.everything()
    observed("no secret in any log (DEBUG, libraries included), repr, error or answer of a sale, a replay and refusals")


@pytest.mark.parametrize(
    "error", [OutcomeUnknown("no answer"), RailUnavailable("down"), RuntimeError("a bug")], ids=repr
)
async def test_a_rail_that_fails(
    world: World, error: Exception, monkeypatch: pytest.MonkeyPatch, observed: Observe
) -> None:
    async def fail(*arguments: object, **more: object) -> Any:
        raise error

    with monkeypatch.context() as patch:
        for method in ("settle", "hold", "lookup"):
            if hasattr(world.rail, method):
                patch.setattr(world.rail, method, fail)
        if isinstance(error, Rail402Error):
            with pytest.raises(PaymentOutcomeUnknown) as caught:
                await world.buy()
            world.told.error(caught.value)
        else:
            world.told.answer(await world.buy())
        name, value = world.proof
        world.told.answer(await world.by_hand({name: value}))
        await world.gate.reconcile()
    await world.everything()
    observed("none where a rail fails, by a lost answer, by being down, by a bug")


async def test_a_handler_that_fails(world: World) -> None:
    world.fail = True
    response = await world.buy()
    assert response.status_code >= 500
    world.told.answer(response)
    await world.everything()


async def test_answers_that_are_lost(world: World) -> None:
    world.lose = lambda request: True
    with pytest.raises(httpx.ReadTimeout) as early:
        await world.buy()
    world.told.error(early.value)
    world.lose = lambda request: any(name in request.headers for name in ("payment-signature", "authorization"))
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await world.buy()
    world.told.error(caught.value)
    assert await world.payer.recover()
    await world.everything()


async def test_a_wallet_that_fails(world: World, monkeypatch: pytest.MonkeyPatch, observed: Observe) -> None:
    pay = type(world.wallet).pay

    async def lose(self: Any, *arguments: Any, **more: Any) -> Any:
        await pay(self, *arguments, **more)
        raise OutcomeUnknown("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(world.wallet), "pay", lose)
        with pytest.raises(PaymentOutcomeUnknown) as caught:
            await world.buy()
    world.told.error(caught.value)
    assert (await world.buy()).status_code == 200
    await world.everything()
    observed("none where a wallet fails")


async def test_a_journal_that_fails_with_the_proof_in_hand(
    world: World, monkeypatch: pytest.MonkeyPatch, observed: Observe
) -> None:
    async def fail(*args: Any, **options: Any) -> Any:
        raise StoreError("the disk is full")

    save = Journal.save

    async def fail_late(journal: Journal, record: Any, *, now: int) -> Any:
        if record.proof is not None:
            monkeypatch.setattr(SqliteJournal, "_run", fail)
        return await save(journal, record, now=now)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "save", fail_late)
        with pytest.raises(PaymentOutcomeUnknown) as caught:
            await world.buy()
        world.told.error(caught.value)
    monkeypatch.undo()
    world.clock.advance(130)
    assert (await world.buy()).status_code == 200
    await world.everything()
    observed("none where a journal fails with the proof in hand; all of it on each of the three rails")


# --- over a real connection


async def test_what_the_http_libraries_log(tmp_path: Path, told: Told, observed: Observe) -> None:
    token, receipt = "k1.1800000300." + "n" * 22 + "." + "m" * 43, "eyJhbGciOiJFZERTQSJ9.e30." + "S" * 86
    told.secrets |= {token, receipt, base64.b64encode(token.encode()).decode()[4:-4]}
    terms = usdc_terms()
    terms["extra"] |= {"token": token}

    async def sell(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            challenge_ = challenge(terms, extra=[("WWW-Authenticate", f'Payment opaque="{token}"')])
            told.secrets.add(challenge_.split(b"PAYMENT-REQUIRED: ")[1].split(b"\r\n")[0].decode())
            return challenge_
        return answer(200, [("Receipt-Record", receipt), ("PAYMENT-RESPONSE", receipt)], b"bought")

    wallet = BaseWallet.sandbox(tmp_path / "sandbox", private_key=PRIVATE_KEY)
    async with (
        RawServer(sell) as server,
        Payer([wallet], journal=f"sqlite:///{tmp_path}/wallet.db") as payer,
        httpx.AsyncClient(transport=payer.transport()) as client,
    ):
        assert (await client.get(server.url)).text == "bought"
        told.secrets |= {server.proofs[0], *_secrets_in(server.proofs[0])}
    names = {record.name for record in told._caplog.records}
    assert {"httpx", "httpcore.http11"} <= names
    told.check()
    observed("none in what the HTTP libraries log")


# --- keys that are configured wrongly


def keystore(folder: Path) -> Path:
    path = folder / "keystore.json"
    crypto = {"cipher": "aes-128-ctr", "ciphertext": PRIVATE_KEY, "kdf": "pbkdf2", "mac": "00" * 32}
    crypto |= {
        "cipherparams": {"iv": "00" * 16},
        "kdfparams": {"c": 1, "dklen": 32, "prf": "hmac-sha256", "salt": "00"},
    }
    path.write_text(json.dumps({"version": 3, "crypto": crypto}))
    return path


MISTAKES: dict[str, Callable[[Path], object]] = {
    "a private key with a space": lambda folder: BaseWallet.from_private_key(PRIVATE_KEY + " "),
    "a private key that is too large": lambda folder: LocalSigner.from_private_key("f" * 64),
    "a word that is none": lambda folder: LocalSigner.from_mnemonic(WORDS.replace("junk", "hunter2s3cr3t")),
    "words in the wrong order": lambda folder: LocalSigner.from_mnemonic(WORDS.replace("junk", "abandon")),
    "a wrong password": lambda folder: LocalSigner.from_keystore(keystore(folder), "hunter2s3cr3t"),
    "a Stripe key with a space": lambda folder: StripeApi(STRIPE_KEY + " "),
    "a Stripe key for the address": lambda folder: StripeApi(STRIPE_KEY, api_base="http://evil.test"),
    "a publishable key": lambda folder: StripeApi("pk_test_hunter2s3cr3t"),
    "an LNbits key with a line break": lambda folder: LnbitsApi("https://lnbits.test", "hunter2s3cr3t\n"),
    "a gate's secret that is too short": lambda folder: OfferKeys({"k1": b"hunter2s3cr3t"}),
    "a gate's secret for its name": lambda folder: OfferKeys({"k1": b"x" * 32}, current="k2"),
    "a receipt key that is none": lambda folder: ReceiptKeys("-----BEGIN PRIVATE KEY-----\nhunter2s3cr3t\n"),
    "a receipt key of another kind": lambda folder: ReceiptKeys({"kty": "oct", "k": "aHVudGVyMnMzY3IzdA"}),
    "a store in a URL with a password": lambda folder: open_store("mysql://me:hunter2s3cr3t@host/db"),
    "a journal in a URL with a password": lambda folder: Journal("mysql://me:hunter2s3cr3t@host/db"),
    "a journal in a URL that is broken": lambda folder: Journal("postgres://me:hunter2s3cr3t@[::1/db"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_key_that_is_refused_is_not_quoted(mistake: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(Rail402Error) as caught:
        mistake(tmp_path)
    chain, error = "", caught.value
    cause: BaseException | None = error
    while cause is not None:
        chain += f"{cause} {cause!r} {cause.args!r}"
        cause = cause.__cause__ or cause.__context__
    for secret in (PRIVATE_KEY, STRIPE_KEY, "hunter2s3cr3t", "aHVudGVyMnMzY3IzdA", "f" * 64):
        assert secret not in chain
