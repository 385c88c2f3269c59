"""The protocol is pure: no I/O, no clock, no randomness; and the core knows no rail.

Shown twice: by what the modules import and call, and by running them where none of it works.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "x402" / "rail402"
PURE = sorted(
    [
        CORE / "errors.py",
        CORE / "money.py",
        *CORE.glob("protocol/*.py"),
        *CORE.glob("dialects/*.py"),
        *CORE.glob("mcp/*.py"),
    ]
)

# What computes and does nothing else. Whatever is not here, a pure module has no use for.
COMPUTES = {
    *("__future__", "abc", "base64", "binascii", "collections", "dataclasses", "datetime", "decimal", "enum"),
    *("functools", "hashlib", "hmac", "itertools", "json", "math", "operator", "re", "string", "struct", "types"),
    *("typing", "urllib.parse", "contextlib", "joserfc", "pydantic", "pydantic_core", "rfc8785"),
}
OURS = {"rail402.errors", "rail402.money", "rail402.protocol", "rail402.dialects", "rail402.mcp"}

EFFECTS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
IMPURE_METHODS = {
    *("now", "utcnow", "today", "fromtimestamp", "utcfromtimestamp"),  # of datetime, where they read clock or time zone
    *("urandom", "token_bytes", "getrandbits", "generate_key", "uuid4"),
}

# (module, what it calls): why it may.
EXCEPTIONS = {
    ("protocol/receipt.py", "generate_key"): "a new key is asked for by name: `ReceiptKeys.generate`",
    ("dialects/mpp.py", "fromtimestamp"): "with a time zone given it converts, and reads nothing",
}


def name_of(path: Path) -> str:
    return path.relative_to(CORE).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
            yield node.func.attr
        elif isinstance(node, ast.Name) and node.id in EFFECTS:
            yield node.id


def is_below(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_there_is_something_to_look_at() -> None:
    assert {"errors.py", "money.py", "protocol/charge.py", "dialects/mpp.py"} <= {name_of(path) for path in PURE}


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_module_imports_what_computes(path: Path) -> None:
    found = set(imports(ast.parse(path.read_text())))
    assert {module for module in found if not is_below(module, COMPUTES | OURS)} == set()


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_module_calls_nothing_that_reads_the_world(path: Path) -> None:
    found = {(name_of(path), call) for call in calls(ast.parse(path.read_text()))}
    assert found - EXCEPTIONS.keys() == set()


def test_every_exception_is_still_one() -> None:
    found = {(name_of(path), call) for path in PURE for call in calls(ast.parse(path.read_text()))}
    assert EXCEPTIONS.keys() - found == set()


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import environ",
        "import json, socket",
        "def f():\n    import secrets",
        "from rail402.server.gate import Gate",
        "from rail402.clock import system_clock",
        "import rail402",
        "import rail402_base",
        "import httpx",
    ],
)
def test_the_rule_about_imports_finds(source: str) -> None:
    assert any(not is_below(module, COMPUTES | OURS) for module in imports(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["datetime.now(UTC)", "date.today()", "open('x')", "OKPKey.generate_key()", "f = print"]
)
def test_the_rule_about_calls_finds(source: str) -> None:
    assert list(calls(ast.parse(source)))


# --- the core and the rails ------------------------------------------------------------------------------------------

RAILS = {path.name for path in (ROOT / "rails").iterdir() if path.is_dir() and (path / "__init__.py").exists()}


def test_the_rails_are_there() -> None:
    assert {"rail402_base", "rail402_lightning", "rail402_stripe"} <= RAILS


@pytest.mark.parametrize("path", sorted(CORE.glob("**/*.py")), ids=name_of)
def test_the_core_never_imports_a_rail(path: Path) -> None:
    if name_of(path).startswith("cli/demo/"):
        return  # it is a publisher and an agent, and chooses its rails as any of them does
    assert not [module for module in imports(ast.parse(path.read_text())) if is_below(module, RAILS)]


@pytest.mark.parametrize("rail", sorted(RAILS))
def test_no_rail_imports_another(rail: str) -> None:
    for path in (ROOT / "rails" / rail).glob("**/*.py"):
        found = [module for module in imports(ast.parse(path.read_text())) if is_below(module, RAILS - {rail})]
        assert (path.name, found) == (path.name, [])


# --- without a world -------------------------------------------------------------------------------------------------

WORLDLESS = """
import os, random, secrets, socket, time

def gone(*args, **kwargs):
    raise AssertionError("the protocol reached for the world")

# What third parties do while they are imported is theirs; from here on nothing is left.
import joserfc.jwk, joserfc.jws, pydantic, rfc8785
from rail402.testing.fake_spec import FakeSpec

socket.socket = socket.create_connection = socket.getaddrinfo = gone
time.time = time.time_ns = time.monotonic = time.sleep = gone
os.urandom = random.random = random.getrandbits = secrets.token_bytes = gone

from rail402.dialects import DEFAULT_DIALECTS
from rail402.money import Money
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, DeliveryEvent, PaymentEvent
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Registry
from rail402.protocol.receipt import Receipt, ReceiptKeys, verify_receipt

NOW = 1_800_000_000
spec = FakeSpec()
order = Order(method="GET", url="https://api.example.com/a", route="GET /a")
price = Money.parse("0.003 USD")
way = spec.mechanism
offer = Offer(
    rail=spec.name, mechanism=way.name, network=way.network, asset=way.asset, amount=price.to_atomic(way.exponent),
    currency=way.currency, exponent=way.exponent, payee="shop", expires_at=NOW + 600, timeout_seconds=60,
    flow=Flow.AUTHORIZATION,
)
keys = OfferKeys({"k1": b"s" * 32})
issued = keys.issue(offer, order, bytes(16))
server = Context(specs=Registry([spec]), now=NOW, realm="api.example.com", keys=keys)
client = Context(specs=Registry([spec]), now=NOW, realm="api.example.com")
jwk = {"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
       "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}  # RFC 8037, appendix A.1
receipts = ReceiptKeys(jwk)

for dialect in DEFAULT_DIALECTS:
    said = dialect.challenge(Challenge(order=order, price=price, offers=(issued,), now=NOW), server)
    if dialect.echo == "none":
        continue
    (read,) = dialect.offers(Fields(said.fields), b"", client)
    proof = spec.proof(read, payer="alice", nonce="n1", valid_before=NOW + 60)
    shown = dialect.credential(read, proof, client)
    (payment,) = dialect.payments(Fields(shown), order.body_digest, server)
    keys.verify(payment.offer, order)
    verified = spec.authenticate(payment.offer, payment)
    charge = Charge(
        id="ch_1", order=order, offer=offer, price=price, dialect=dialect.name, keys=tuple(verified.keys),
        created_at=NOW, lease_until=NOW + 9, window=600,
    )
    charge = charge.deliver(DeliveryEvent.START, lease_until=NOW + 9).on(PaymentEvent.SETTLE, lease_until=NOW + 9)
    charge = charge.on(
        PaymentEvent.SETTLED, lease_until=NOW + 9, transaction="0x3", settled_at=NOW, valid_until=NOW + 600
    )
    token = receipts.sign(Receipt.of(charge, issuer="https://api.example.com"))
    assert verify_receipt(token, receipts.jwks).transaction == "0x3"
    assert dialect.receipt(charge.model_copy(update={"receipt": token}), payment, server)
    print(dialect.name)
"""


def test_the_protocol_works_without_network_clock_and_randomness() -> None:
    ran = subprocess.run([sys.executable, "-c", WORLDLESS], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stderr == ""
    assert {"x402-v2", "mpp"} <= set(ran.stdout.split())
