"""What the tests of the facilitator backend share: a chain that shows what it is told, facilitators that say it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import httpx

from rail402.errors import PaymentRejected, RailUnavailable
from rail402.testing.fakes import FakeClock
from rail402_base.chain import Deposits, Submitted, Trace, Transfer, Unused
from rail402_base.eip3009 import Authorization, digest, sign
from rail402_base.facilitator import Facilitator, FacilitatorBackend
from rail402_base.facilitator_wire import SignedTransfer
from rail402_base.tokens import BASE_SEPOLIA, BASE_SEPOLIA_USDC, Token
from tests.unit.rail402_base.payments import NOW, PAYEE, PAYER, PAYER_KEY, PRICE

HASH = "0x" + 32 * "ab"
OTHER_HASH = "0x" + 32 * "cd"
TOKEN = BASE_SEPOLIA_USDC
AUTHORIZATION = Authorization(
    from_=PAYER, to=PAYEE, value=PRICE, valid_after=0, valid_before=NOW + 180, nonce=bytes(31) + b"\7"
)
SIGNATURE = sign(digest(TOKEN.domain, AUTHORIZATION), PAYER_KEY)
PAYMENT = SignedTransfer(TOKEN, AUTHORIZATION, SIGNATURE)
PAID = Transfer(transaction=HASH, log_index=1, to=PAYEE, value=PRICE)
UNUSED = Unused(expired=False)
MINED, FAILED = "mined", "failed"

KINDS = [{"x402Version": 2, "scheme": "exact", "network": "eip155:84532"}]
VALID = {"isValid": True, "payer": PAYER}
SETTLED = {"success": True, "payer": PAYER, "transaction": HASH, "network": "eip155:84532"}


class Chain:
    """A reader that shows what it is told to.

    Attributes:
        traces: what each look shows, an error included; the last of them again and again.
        transactions: what is known of each hash: MINED, FAILED, or nothing.
        refusal: why the token would not take the authorization.
        looks: with which hashes each look was.
    """

    network = BASE_SEPOLIA

    def __init__(self) -> None:
        self.traces: list[Trace | Exception] = [UNUSED]
        self.transactions: dict[str, str] = {}
        self.refusal: PaymentRejected | RailUnavailable | None = None
        self.looks: list[tuple[str, ...]] = []
        self.is_open = False

    async def start(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def health(self) -> None:
        if isinstance(self.refusal, RailUnavailable):
            raise self.refusal

    async def balance_of(self, token: Token, address: str) -> int:
        assert (token, address) == (TOKEN, PAYER)
        return 10 * PRICE

    async def check(self, token: Token, authorization: Authorization, signature: bytes) -> None:
        assert (token, authorization, signature) == (TOKEN, AUTHORIZATION, SIGNATURE)
        if self.refusal is not None:
            raise self.refusal

    async def trace(
        self, token: Token, authorizer: str, nonce: bytes, *, valid_before: int, transactions: Iterable[str] = ()
    ) -> Trace:
        assert (token, authorizer, nonce, valid_before) == (TOKEN, PAYER, AUTHORIZATION.nonce, NOW + 180)
        self.looks.append(tuple(transactions))
        found = self.traces.pop(0) if len(self.traces) > 1 else self.traces[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def deposits_in(
        self, token: Token, transaction: str, payee: str, *, confirmations: int = 1
    ) -> Deposits | None:
        """What was asked, as a block's time that says how deep it was to be."""
        return Deposits(at=confirmations, succeeded=True, all=()) if transaction in self.transactions else None

    async def transfer_in(
        self, token: Token, authorization: Authorization, transaction: str
    ) -> Transfer | Submitted | None:
        match self.transactions.get(transaction):
            case "mined":
                return PAID
            case "failed":
                return None
        return Submitted(transaction=transaction)


class Reply:
    """An HTTP answer: its content is bytes, text, or JSON."""

    def __init__(self, status: int, content: Any = b"", **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        self.content = text.encode() if isinstance(text, str) else text

    def __repr__(self) -> str:
        return f"{self.status} {self.content[:30]!r}"


Answer = dict[str, Any] | Reply | httpx.Response | Exception


class Facilitators(httpx.AsyncBaseTransport):
    """All facilitators there are, by host: each answers what it is told to.

    Attributes:
        answers: by host and path, one per call, the last again and again.
        calls: host and path of each request, which are in `requests`.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[Answer]] = {}
        self.calls: list[str] = []
        self.requests: list[httpx.Request] = []

    def tell(self, path: str, *answers: Answer, host: str = "one") -> None:
        self.answers[host, path] = list(answers)

    def paths(self, host: str = "one") -> list[str]:
        return [call.removeprefix(host) for call in self.calls if call.startswith(host)]

    def sent(self, path: str) -> dict[str, Any]:
        """The body of the last request there."""
        request = next(each for each in reversed(self.requests) if each.url.path == path)
        body: dict[str, Any] = json.loads(request.content)
        return body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, path = request.url.host.removesuffix(".example.com"), request.url.path
        self.calls.append(host + path)
        self.requests.append(request)
        await asyncio.sleep(0)  # others run while one waits for a network
        usual: dict[str, Answer] = {"/supported": {"kinds": KINDS}, "/verify": VALID, "/settle": SETTLED}
        answers = self.answers.get((host, path)) or [usual["/" + path.rpartition("/")[2]]]
        told = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(told, Exception):
            raise told
        if isinstance(told, httpx.Response):
            return told
        if isinstance(told, dict):
            told = Reply(200, told)
        return httpx.Response(told.status, headers=told.headers, stream=Stream(told.content))


class Stream(httpx.AsyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, *pieces: bytes, after: Callable[[], Awaitable[object]] | None = None) -> None:
        self._pieces, self._after = pieces, after
        self.given, self.is_closed = 0, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.given += len(piece)
            yield piece
        if self._after is not None:
            await self._after()

    async def aclose(self) -> None:
        self.is_closed = True


class World:
    """A backend before facilitators at `one.example.com` and so on."""

    def __init__(self, *hosts: str | Facilitator, **options: Any) -> None:
        self.clock, self.chain, self.net = FakeClock(NOW), Chain(), Facilitators()
        self.slept: list[int] = []
        self.backend = FacilitatorBackend(
            [each if isinstance(each, Facilitator) else f"https://{each}.example.com" for each in hosts or ("one",)],
            reader=self.chain,
            clock=self.clock,
            sleep=self._sleep,
            transport=self.net,
            **options,
        )

    async def _sleep(self, seconds: int) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    async def check(self) -> None:
        await self.backend.check(TOKEN, AUTHORIZATION, SIGNATURE)

    async def settle(self) -> Transfer | Submitted:
        return await self.backend.settle(TOKEN, AUTHORIZATION, SIGNATURE)
