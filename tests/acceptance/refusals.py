"""What docs/production*.md says is refused, done: each wrong setting and each broken backend, by the page's own words.

A case is a function of a folder. It raises what the page shows, or logs it as a warning.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import stripe

from rail402 import Gate
from rail402.config import TomlFile
from rail402.plugins import load_plugin
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import EndpointRequest
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Terms, Verified
from rail402_base import BASE_SEPOLIA_USDC, BASE_USDC, BaseRail, BaseSpec, BaseWallet, ChainReader, Facilitator
from rail402_base import FacilitatorBackend as Facilitated
from rail402_base.tokens import SANDBOX_USDC, Token
from rail402_base.wire import payload_of
from rail402_lightning import (
    LightningRail,
    LightningWallet,
    LnbitsReceiver,
    LnbitsSender,
    LndReceiver,
    LndSender,
)
from rail402_stripe import OnDemand, StripeApi, StripeRail, StripeWallet
from tests.acceptance.base_node import AUTHORIZATION, PAYEE, SIGNATURE, URL, Node, word
from tests.unit.rail402_lightning.backends import fake_lnbits, fake_lnd
from tests.unit.rail402_lightning.backends.fake_lnbits import FakeLnbits
from tests.unit.rail402_lightning.backends.fake_lnd import FakeLnd
from tests.unit.rail402_lightning.invoices import KEY, invoice

__all__ = ["CASES", "TLS_CERT", "TROUBLES"]

Case = Callable[[Path], Awaitable[None]]

CASES: dict[str, dict[str, Case]] = {}
"""By page and by the first cell of a row there."""

SECRETS: dict[str, Any] = {"secret": "s" * 32, "receipt_key": None, "public_url": "https://api.example.com"}


def case(page: str, what: str) -> Callable[[Case], Case]:
    def put(done: Case) -> Case:
        assert what not in CASES.setdefault(page, {})
        CASES[page][what] = done
        return done

    return put


def table(home: Path, rail: str, text: str) -> object:
    """Make the rail of a `[[rails]]` table."""
    file = home / "rail402.toml"
    file.write_text(f"[rail]\n{text}")
    plugin = load_plugin(rail)
    return plugin.rail(TomlFile(file).table(plugin.rail_config, "rail"))


# --- every rail

ALL = "production.md"


@case(ALL, "a sandbox rail beside a real one")
async def _(home: Path) -> None:
    Gate(rails=[BaseRail.sandbox(home), StripeRail("rk_test_1", profile_id="profile_1")], **SECRETS)


@case(ALL, "a test rail beside a live one")
async def _(home: Path) -> None:
    test = LightningRail.lnbits("http://127.0.0.1:5000", "k" * 32, network="regtest")
    Gate(rails=[test, StripeRail("rk_live_1", profile_id="profile_1")], **SECRETS)


@case(ALL, "a real rail without `secret` or `receipt_key`")
async def _(home: Path) -> None:
    Gate(rails=[StripeRail("rk_test_1", profile_id="profile_1")], public_url="https://api.example.com")


@case(ALL, "a secret in the file itself")
async def _(home: Path) -> None:
    table(home, "stripe", 'backend = "stripe"\nprofile_id = "profile_1"\nsecret_key = "sk_live_1"')


@case(ALL, "a secret whose variable is not set")
async def _(home: Path) -> None:
    table(home, "stripe", 'backend = "stripe"\nprofile_id = "profile_1"\nsecret_key = "env:NOT_SET"')


@case(ALL, "a key that the backend has no use for")
async def _(home: Path) -> None:
    table(home, "stripe", 'backend = "sandbox"\nprofile_id = "profile_1"')


# --- Base

BASE = "production-base.md"
RPC = f'backend = "rpc"\npay_to = "{PAYEE}"\nrelayer_key = "file:relayer.key"\n'


async def start_base(home: Path, node: Node, **options: Any) -> None:
    rail = BaseRail(node.backend(f"sqlite:///{home}/relayer.db", **options), pay_to=PAYEE, token=node.token)
    try:
        await rail.start()
    finally:
        await rail.close()


@case(BASE, "`pay_to` is mistyped")
async def _(home: Path) -> None:
    BaseRail(Node().reader, pay_to=PAYEE.replace("0x2096", "0x2095"))  # type: ignore[arg-type]


@case(BASE, "the relayer's key is not one")
async def _(home: Path) -> None:
    BaseRail.rpc(URL, "0x1234", pay_to=PAYEE)


@case(BASE, "a node over plain HTTP")
async def _(home: Path) -> None:
    ChainReader("http://base.example.com", BASE_USDC)


@case(BASE, "a facilitator without `urls`")
async def _(home: Path) -> None:
    table(home, "base", f'backend = "facilitator"\npay_to = "{PAYEE}"\nfacilitators = ["https://f.example.com"]')


@case(BASE, "a relayer's key for the sandbox")
async def _(home: Path) -> None:
    (home / "relayer.key").write_text("11" * 32)
    table(home, "base", f'backend = "sandbox"\nrelayer_key = "file:{home}/relayer.key"')


@case(BASE, "the sandbox's network with a real backend")
async def _(home: Path) -> None:
    (home / "relayer.key").write_text("11" * 32)
    key = f'relayer_key = "file:{home}/relayer.key"'
    table(home, "base", f'backend = "rpc"\nnetwork = "rail402-sandbox"\npay_to = "{PAYEE}"\nurls = ["{URL}"]\n{key}')


@case(BASE, "the sandbox's token with a real node")
async def _(home: Path) -> None:
    ChainReader(URL, SANDBOX_USDC)


@case(BASE, "the agent's chain is another one than its token's")
async def _(home: Path) -> None:
    BaseWallet.from_private_key("11" * 32, tokens=[BASE_USDC], chain=ChainReader(URL, BASE_SEPOLIA_USDC))


@case(BASE, "**wrong network**: the node is on another chain")
async def _(home: Path) -> None:
    await start_base(home, Node(answers={"eth_chainId": hex(84532)}))


TROUBLES: dict[str, dict[str, Any]] = {
    "**wrong key**: the node refuses the one in its address": {"status": 401},
    "**node syncing**": {"answers": {"eth_syncing": {"currentBlock": "0x1"}}},
    "**node down**": {"error": httpx.ConnectError("refused")},
    "**paused token contract**": {"answers": {"paused()": word(1)}},
}
"""Nodes that cannot be used at the start, and may be later; by the first cell of a row of Base's page."""


def start_in(trouble: dict[str, Any]) -> Case:
    return lambda home: start_base(home, Node(**trouble))


for what, trouble in TROUBLES.items():
    case(BASE, what)(start_in(trouble))


@case(BASE, "the token's address has no contract")
async def _(home: Path) -> None:
    await start_base(home, Node(answers={"eth_getCode": "0x"}))


@case(BASE, "the token's `name` or `version` is not the contract's")
async def _(home: Path) -> None:
    terms = {name: getattr(BASE_USDC, name) for name in ("network", "symbol", "address", "decimals", "version")}
    await start_base(home, Node(token=Token(name="USDC", **terms)))


@case(BASE, "the token has other `decimals`")
async def _(home: Path) -> None:
    await start_base(home, Node(answers={"decimals()": word(18)}))


@case(BASE, "the relayer has no ether")
async def _(home: Path) -> None:
    await start_base(home, Node(answers={"eth_getBalance": "0x0"}))


@case(BASE, "gas costs more than `max_fee_gwei`")
async def _(home: Path) -> None:
    await start_base(home, Node(), max_fee_per_gas=10**6)


async def start_facilitated(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    facilitator = Facilitator("https://facilitator.example.com")
    rail = BaseRail(Facilitated(facilitator, reader=Node().reader, transport=httpx.MockTransport(answer)), pay_to=PAYEE)
    try:
        await rail.start()
    finally:
        await rail.close()


@case(BASE, "the facilitator does not settle on the network")
async def _(home: Path) -> None:
    kinds = [{"x402Version": 2, "scheme": "exact", "network": "eip155:84532"}]
    await start_facilitated(lambda _: httpx.Response(200, json={"kinds": kinds}))


@case(BASE, "**wrong key**: the facilitator refuses access")
async def _(home: Path) -> None:
    await start_facilitated(lambda _: httpx.Response(401, json={}))


@case(BASE, "**facilitator down**")
async def _(home: Path) -> None:
    await start_facilitated(lambda _: httpx.Response(502))


async def check_payment(home: Path, node: Node, signature: bytes = SIGNATURE) -> None:
    backend = node.backend(f"sqlite:///{home}/relayer.db")
    await backend.start()
    try:
        await backend.check(BASE_USDC, AUTHORIZATION, signature)
    finally:
        await backend.close()


@case(BASE, "**blacklisted payer**")
async def _(home: Path) -> None:
    answers = {"isBlacklisted(address)": word(0), "blacklisted": AUTHORIZATION.from_, "eth_getCode": "0x6080"}
    await check_payment(home, Node(answers=answers))


@case(BASE, "`pay_to` is blacklisted")
async def _(home: Path) -> None:
    await check_payment(home, Node(answers={"isBlacklisted(address)": word(0), "blacklisted": PAYEE}))


@case(BASE, "the payer holds too little")
async def _(home: Path) -> None:
    await check_payment(home, Node(answers={"balanceOf(address)": word(1)}))


@case(BASE, "the payer is a contract that does not accept the signature")
async def _(home: Path) -> None:
    await check_payment(home, Node(), bytes(80))


@case(BASE, "the payer is a contract that is not deployed yet")
async def _(home: Path) -> None:
    spec = BaseSpec(BASE_USDC)
    amount, expires_at = AUTHORIZATION.value, AUTHORIZATION.valid_before
    offer = spec.offer(
        BASE_USDC, payee=PAYEE, amount=amount, flow=Flow.AUTHORIZATION, expires_at=expires_at, timeout_seconds=60
    )
    payload = payload_of(AUTHORIZATION, bytes(96) + bytes.fromhex(16 * "6492"))
    spec.authenticate(offer, Payment(dialect="x402-v2", rail=spec.name, payload=payload, offer=offer))


# --- Lightning

LIGHTNING = "production-lightning.md"
CERTIFICATE = "-----BEGIN CERTIFICATE-----"


async def start_lnd(
    fake: FakeLnd, macaroon: str | bytes | Path = fake_lnd.RECEIVING, network: str = "regtest", **options: Any
) -> None:
    receiver = LndReceiver(fake_lnd.URL, macaroon, network=network, transport=fake.transport, **options)
    try:
        await receiver.start()
    finally:
        await receiver.close()


def untrusted(code: int) -> Exception:
    cause = ssl.SSLCertVerificationError("certificate verify failed")
    cause.verify_code = code
    error = httpx.ConnectError("failed")
    error.__cause__ = cause
    return error


@case(LIGHTNING, "the macaroon's file cannot be read")
async def _(home: Path) -> None:
    LightningRail.lnd(fake_lnd.URL, Path("receive.macaroon"))


@case(LIGHTNING, "the macaroon is not one")
async def _(home: Path) -> None:
    LightningRail.lnd(fake_lnd.URL, "0123")


@case(LIGHTNING, "`tls_cert` is not a certificate")
async def _(home: Path) -> None:
    LightningRail.lnd(fake_lnd.URL, fake_lnd.RECEIVING, tls_cert="/no/such/file")


@case(LIGHTNING, "lnd over plain HTTP")
async def _(home: Path) -> None:
    LightningRail.lnd("http://lnd.example.com:8080", fake_lnd.RECEIVING)


@case(LIGHTNING, "LNbits over plain HTTP")
async def _(home: Path) -> None:
    LightningRail.lnbits("http://lnbits.example.com", "1" * 32)


@case(LIGHTNING, "a key of another backend")
async def _(home: Path) -> None:
    table(home, "lightning", 'backend = "sandbox"\nurl = "https://lnbits.example.com"')


@case(LIGHTNING, "the sandbox on a real network")
async def _(home: Path) -> None:
    table(home, "lightning", 'backend = "sandbox"\nnetwork = "mainnet"')


@case(LIGHTNING, "**wrong key**: the macaroon may do too little")
async def _(home: Path) -> None:
    await start_lnd(FakeLnd(), fake_lnd.macaroon("info:read", "invoices:read"))


@case(LIGHTNING, "**wrong key**: lnd does not know the macaroon")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(fake_lnd.error("verification failed: signature mismatch after caveat verification"))
    await start_lnd(fake)


@case(LIGHTNING, "the macaroon can spend")
async def _(home: Path) -> None:
    everything = ("info:read", "invoices:read", "invoices:write", "offchain:write")
    await start_lnd(FakeLnd(), fake_lnd.macaroon(*everything))


@case(LIGHTNING, "**wrong network**: lnd is on another one")
async def _(home: Path) -> None:
    await start_lnd(FakeLnd(), network="mainnet")


@case(LIGHTNING, "**locked wallet** of lnd")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(fake_lnd.error(fake_lnd.LOCKED))
    await start_lnd(fake)


@case(LIGHTNING, "**node syncing**: lnd lags behind the chain")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(fake_lnd.info(synced_to_chain=False))
    await start_lnd(fake)


@case(LIGHTNING, "**expired certificate** of lnd")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(untrusted(10))
    await start_lnd(fake)


@case(LIGHTNING, "lnd has another certificate than `tls_cert`")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(untrusted(18))
    certificate = home / "tls.cert"
    certificate.write_text(TLS_CERT)
    await start_lnd(fake, tls_cert=certificate)


@case(LIGHTNING, "lnd signed its certificate itself, and `tls_cert` is not set")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(untrusted(18))
    await start_lnd(fake)


@case(LIGHTNING, "**no channel** of lnd is open")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(fake_lnd.info(num_active_channels=0))
    await start_lnd(fake)


@case(LIGHTNING, "**no channel capacity** to receive")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.channels.append(fake_lnd.channels(fake_lnd.channel(remote_balance="0")))
    await start_lnd(fake, fake_lnd.macaroon("info:read", "invoices:read", "invoices:write", "offchain:read"))


@case(LIGHTNING, "**no channel capacity** to pay")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.channels.append(fake_lnd.channels())
    sender = LndSender(fake_lnd.URL, fake_lnd.PAYING, network="regtest", transport=fake.transport)
    try:
        await sender.start()
    finally:
        await sender.close()


@case(LIGHTNING, "**node down**: lnd")
async def _(home: Path) -> None:
    fake = FakeLnd()
    fake.info.append(httpx.ConnectError("refused"))
    await start_lnd(fake)


async def start_lnbits(fake: FakeLnbits, key: str = fake_lnbits.INVOICE_KEY, **options: Any) -> None:
    receiver = LnbitsReceiver(fake_lnbits.URL, key, transport=fake.transport)
    rail = LightningRail(receiver, **({"network": "regtest"} | options))
    try:
        await rail.start()
    finally:
        await rail.close()


@case(LIGHTNING, "**wrong key**: LNbits does not know it")
async def _(home: Path) -> None:
    await start_lnbits(FakeLnbits(), "0" * 32)


@case(LIGHTNING, "the rail has LNbits' admin key")
async def _(home: Path) -> None:
    await start_lnbits(FakeLnbits(), fake_lnbits.ADMIN_KEY)


@case(LIGHTNING, "the agent has LNbits' invoice key")
async def _(home: Path) -> None:
    sender = LnbitsSender(fake_lnbits.URL, fake_lnbits.INVOICE_KEY, transport=FakeLnbits().transport)
    try:
        await LightningWallet(sender, network="regtest").start()
    finally:
        await sender.close()


@case(LIGHTNING, "there is no LNbits at `url`")
async def _(home: Path) -> None:
    fake = FakeLnbits()
    fake.wallet.append(fake_lnbits.error(404, "Not Found"))
    await start_lnbits(fake)


@case(LIGHTNING, "**wrong network**: LNbits' node is on another one")
async def _(home: Path) -> None:
    await start_lnbits(FakeLnbits(), network="mainnet")


@case(LIGHTNING, "another node than `node_id`")
async def _(home: Path) -> None:
    await start_lnbits(FakeLnbits(), node_id="02" + "ab" * 32)


@case(LIGHTNING, "LNbits has play money (FakeWallet)")
async def _(home: Path) -> None:
    fake = FakeLnbits()
    description = {"expiry": 60, "amount_msat": 1000, "features": frozenset({14})}

    def plain() -> httpx.Response:
        import hashlib
        import json

        asked = json.loads(fake.requests[-1].content)
        described = {"description_hash": hashlib.sha256(bytes.fromhex(asked["unhashed_description"])).digest()}
        text = invoice(KEY, **(description | described | {"features": frozenset({8})}))
        return httpx.Response(201, json=fake_lnbits.row("pending", bolt11=text))

    fake.create.append(plain)
    await start_lnbits(fake)


@case(LIGHTNING, "LNbits lost its node (VoidWallet)")
async def _(home: Path) -> None:
    fake = FakeLnbits()
    fake.create.append(fake_lnbits.error(520, "VoidWallet cannot create invoices."))
    await start_lnbits(fake)


@case(LIGHTNING, "**locked wallet**, **node syncing**: behind LNbits")
async def _(home: Path) -> None:
    fake = FakeLnbits()
    fake.create.append(fake_lnbits.error(520, "wallet locked"))
    await start_lnbits(fake)


@case(LIGHTNING, "**expired certificate** of LNbits")
async def _(home: Path) -> None:
    fake = FakeLnbits()
    error = untrusted(10)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    error.__cause__.verify_message = "certificate has expired"
    fake.wallet.append(error)
    await start_lnbits(fake)


@case(LIGHTNING, "**node down**: LNbits")
async def _(home: Path) -> None:
    fake = FakeLnbits()
    fake.wallet.append(httpx.ConnectError("refused"))
    await start_lnbits(fake)


# --- Stripe

STRIPE = "production-stripe.md"


def says(status: int, **error: Any) -> httpx.MockTransport:
    return httpx.MockTransport(lambda _: httpx.Response(status, json={"error": error}))


async def start_stripe(transport: httpx.AsyncBaseTransport) -> None:
    rail = StripeRail(StripeApi("rk_test_1", transport=transport), profile_id="profile_1")
    try:
        await rail.start()
    finally:
        await rail.close()


@case(STRIPE, "`secret_key` is not one")
async def _(home: Path) -> None:
    StripeRail("pk_live_1", profile_id="profile_1")


@case(STRIPE, "**wrong key**: Stripe does not know it")
async def _(home: Path) -> None:
    await start_stripe(says(401, type="invalid_request_error", message="Invalid API Key provided"))


@case(STRIPE, "Stripe cannot be reached")
async def _(home: Path) -> None:
    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    await start_stripe(httpx.MockTransport(down))


@case(STRIPE, "a test profile with a live key")
async def _(home: Path) -> None:
    StripeRail("rk_live_1", profile_id="profile_test_61Seller")


@case(STRIPE, "the sandbox's profile with a real key")
async def _(home: Path) -> None:
    StripeRail("rk_test_1", profile_id="profile_sandbox")


@case(STRIPE, "a live publishable key with a test key")
async def _(home: Path) -> None:
    StripeRail("rk_test_1", profile_id="profile_1", on_demand=OnDemand(publishable_key="pk_live_1"))


@case(STRIPE, "the secret key where the publishable one belongs")
async def _(home: Path) -> None:
    StripeRail("rk_test_1", profile_id="profile_1", on_demand=OnDemand(publishable_key="sk_test_1"))


@case(STRIPE, "the test helper with a live key")
async def _(home: Path) -> None:
    StripeWallet.test_helper("sk_live_1")


@case(STRIPE, "an account's id, and nothing else to pay with")
async def _(home: Path) -> None:
    StripeRail("rk_test_1", profile_id="acct_1")


@case(STRIPE, "a webhook's secret that is none")
async def _(home: Path) -> None:
    StripeRail("rk_test_1", profile_id="profile_1", webhook_secrets=["we_1"])


@case(STRIPE, "a key for the sandbox")
async def _(home: Path) -> None:
    table(home, "stripe", 'backend = "sandbox"\nprofile_id = "profile_1"')


async def pay_stripe(answer: httpx.MockTransport) -> None:
    now = int(time.time())
    rail = StripeRail(StripeApi("rk_live_1", transport=answer), profile_id="profile_1")
    order = Order(method="GET", url="https://api.example.com/report", route="GET /report")
    (mechanism,) = rail.spec.mechanisms
    flow = mechanism.flows[0]
    terms = Terms(amount=60, flow=flow, now=now, expires_at=now + 600, timeout_seconds=60)
    offer = await rail.offer(order, mechanism, terms)
    assert isinstance(offer, Offer)
    payment = Payment(dialect="mpp", rail="stripe", payload={"spt": "spt_1"})
    try:
        await rail.verify(offer, payment, Verified(keys=frozenset()), now=now)
    finally:
        await rail.close()


@case(STRIPE, "a token of test mode, shown to a live key")
async def _(home: Path) -> None:
    await pay_stripe(httpx.MockTransport(lambda _: httpx.Response(200, json={"id": "spt_1", "livemode": False})))


@case(STRIPE, "the key may not read shared payment tokens")
async def _(home: Path) -> None:
    await pay_stripe(says(403, type="invalid_request_error", message="The provided key does not have access"))


@case(STRIPE, "a webhook of test mode, sent to a live key")
async def _(home: Path) -> None:
    now, secret = int(time.time()), "whsec_1"
    rail = StripeRail("rk_live_1", profile_id="profile_1", webhook_secrets=[secret])
    body = b'{"type":"payment_intent.succeeded","livemode":false,"data":{"object":{}}}'
    signed = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, timestamp=now)
    request = EndpointRequest(method="POST", query={}, fields=Fields([("stripe-signature", signed)]), body=body)
    await rail.endpoints()["POST", "stripe/webhook"](request, None)  # type: ignore[arg-type]


TLS_CERT = """-----BEGIN CERTIFICATE-----
MIIBtDCCAVugAwIBAgIUN3Bai+cTYHasVFarGP0UOTg+45QwCgYIKoZIzj0EAwIw
LzEfMB0GA1UECgwWbG5kIGF1dG9nZW5lcmF0ZWQgY2VydDEMMAoGA1UEAwwDbG5k
MCAXDTI2MTEyMTA3MjUyNVoYDzIxMjYxMDI4MDcyNTI1WjAvMR8wHQYDVQQKDBZs
bmQgYXV0b2dlbmVyYXRlZCBjZXJ0MQwwCgYDVQQDDANsbmQwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAASGPCOY0h5wVFVoyKdaeBBdLzrxfnrZ8a2NBKhzbxd26AcL
ayquShuaNOIwwwlba9nHaJTSg/as/Sk1rUzlu+3/o1MwUTAdBgNVHQ4EFgQUgY9f
2pKyp2aJUYt0phwDnhpEAAkwHwYDVR0jBBgwFoAUgY9f2pKyp2aJUYt0phwDnhpE
AAkwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBK4Wij4G+O9rHV
+q4NwTgv3FfJvrsECfE3ysV3rqk3LAIgP9OQzsyqD5u1K2D48PHJkZk7art4gT20
BRFpNYS6IvA=
-----END CERTIFICATE-----
"""
"""A certificate that an lnd may have made for itself."""
