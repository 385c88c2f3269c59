"""The same purchase through requests: over a real socket, with its own sessions, streams and redirects."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import urllib3
import uvicorn
from fastapi import FastAPI, Request
from requests.adapters import BaseAdapter, HTTPAdapter
from starlette.responses import RedirectResponse, Response, StreamingResponse

from rail402 import Gate, Payer
from rail402.client.budget import Budget
from rail402.client.requests import PayingAdapter
from rail402.errors import BudgetExceeded, OfferRefused, StreamingBodyRefused
from rail402.protocol.receipt import ReceiptKeys
from rail402.testing.fakes import FakeLedger, FakeRail, FakeWallet
from tests.interop.bank import listening
from tests.unit.client.shop import URL, Market


class Shop:
    """A shop in a thread, and where else it sends people."""

    def __init__(self, url: str) -> None:
        self.url, self.ledger, self.elsewhere = url, FakeLedger(), ""
        gate = Gate(
            rails=[FakeRail(self.ledger)],
            public_url=url,
            store="memory://",
            secret="s" * 32,
            receipt_key=_receipt_key(),
        )
        self.app = FastAPI()
        gate.install(self.app)

        @self.app.api_route("/article", methods=["GET", "POST"])
        @gate.paid("0.003 USD")
        async def article(request: Request) -> dict[str, str]:
            return {"body": (await request.body()).decode()}

        @self.app.get("/stream")
        @gate.paid("0.003 USD")
        async def stream() -> StreamingResponse:
            return StreamingResponse(iter([b"one ", b"two"]), media_type="text/plain")

        @self.app.get("/free")
        async def free() -> None: ...

        @self.app.get("/cookie")
        async def cookie(request: Request) -> Response:
            return Response(request.headers.get("cookie"), headers={"Set-Cookie": "id=7"})

        @self.app.get("/spaced")
        async def spaced() -> Response:
            return Response(status_code=307, headers={"Location": f"{self.elsewhere or self.url}/article?q=a b"})

        @self.app.get("/moved")
        async def moved() -> RedirectResponse:
            return RedirectResponse(f"{self.elsewhere or self.url}/article")


def _receipt_key() -> str:
    return ReceiptKeys.generate()[1]


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave signals to the tests."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    with listening() as (found, url):
        opened = Shop(url)
        server = _Server(uvicorn.Config(opened.app, log_config=None, ws="none"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[found])))
        thread.start()
        yield opened
        server.should_exit = True
        thread.join()


@pytest.fixture
def session(shop: Shop, tmp_path: Path) -> Iterator[requests.Session]:
    payer = Payer([FakeWallet(shop.ledger)], Budget(), f"sqlite:///{tmp_path}/wallet.db")
    with payer, requests.Session() as opened:
        opened.trust_env = False
        opened.mount("http://", PayingAdapter(payer))
        yield opened


def test_a_request_is_paid_and_served(shop: Shop, session: requests.Session) -> None:
    response = session.get(f"{shop.url}/article", headers={"X-Mine": "1"})
    assert (response.status_code, response.json()) == (200, {"body": ""})
    bought: Any = response.rail402  # type: ignore[attr-defined]
    assert (bought.outcome, str(bought.price), bought.receipt is not None) == ("paid", "0.003 USD", True)
    assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("body", [b"bytes", "text", {"a": "form"}])
def test_a_body_is_sent_again_with_the_payment(shop: Shop, session: requests.Session, body: Any) -> None:
    response = session.post(f"{shop.url}/article", data=body)
    expected = {"bytes": "bytes", "text": "text"}.get(body if isinstance(body, str) else "")
    assert response.json()["body"] == (expected or (body.decode() if isinstance(body, bytes) else "a=form"))
    assert shop.ledger.charged_total == 3000


def test_a_body_that_can_be_read_once_is_not_paid_for(shop: Shop, session: requests.Session) -> None:
    for body in (io.BytesIO(b"a file"), iter([b"pieces"])):
        with pytest.raises(StreamingBodyRefused):
            session.post(f"{shop.url}/article", data=body)
    assert shop.ledger.charged_total == 0


def test_a_stream_is_read_whole(shop: Shop, session: requests.Session) -> None:
    response = session.get(f"{shop.url}/stream", stream=True)
    assert b"".join(response.iter_content(3)) == b"one two"
    assert list(response.iter_lines()) == [b"one two"]


def test_what_is_free_is_as_ever(shop: Shop, session: requests.Session) -> None:
    response = session.get(f"{shop.url}/free")
    assert (response.status_code, response.rail402) == (200, None)  # type: ignore[attr-defined]
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get("http://127.0.0.1:9/")


def test_a_limit_of_the_session_s_own(shop: Shop, session: requests.Session, tmp_path: Path) -> None:
    payer = Payer([FakeWallet(shop.ledger)], Budget(), f"sqlite:///{tmp_path}/other.db")
    with payer:
        session.mount("http://", PayingAdapter(payer, at_most="0.002 USD"))
        with pytest.raises(BudgetExceeded, match=r"0\.002 USD per request"):
            session.get(f"{shop.url}/article")


def test_a_redirect_at_home_is_followed_and_paid(shop: Shop, session: requests.Session) -> None:
    response = session.get(f"{shop.url}/moved")
    assert (response.status_code, [each.status_code for each in response.history]) == (200, [307])


def test_nothing_is_paid_where_a_redirect_leads_to_another_origin(shop: Shop, session: requests.Session) -> None:
    shop.elsewhere = shop.url.replace("127.0.0.1", "localhost")
    with pytest.raises(OfferRefused, match="redirected to http://localhost"):
        session.get(f"{shop.url}/moved")
    assert shop.ledger.charged_total == 0


@pytest.mark.parametrize("path", ["/moved#part", "/spaced", "/spaced#part"])
def test_however_the_redirect_is_spelled(shop: Shop, session: requests.Session, path: str) -> None:
    shop.elsewhere = shop.url.replace("127.0.0.1", "localhost")
    with pytest.raises(OfferRefused, match="redirected to http://localhost"):
        session.get(shop.url + path)
    assert shop.ledger.charged_total == 0


def test_a_redirect_to_another_adapter_of_the_payer_s(shop: Shop, session: requests.Session) -> None:
    shop.elsewhere = shop.url.replace("127.0.0.1", "localhost")
    mounted: Any = session.get_adapter(shop.url)
    session.mount("http://localhost", PayingAdapter(mounted._payer))
    with pytest.raises(OfferRefused, match="redirected to http://localhost"):
        session.get(f"{shop.url}/moved")


def test_a_redirect_that_was_not_followed_binds_no_later_call(shop: Shop, session: requests.Session) -> None:
    prepared = session.prepare_request(requests.Request("GET", f"{shop.url}/moved"))
    for _ in range(2):
        response = session.send(prepared, allow_redirects=False)
        assert session.get(response.headers["location"]).status_code == 200
    assert shop.ledger.charged_total == 6000


def test_a_session_keeps_its_cookies(shop: Shop, session: requests.Session) -> None:
    session.get(f"{shop.url}/cookie")
    assert (dict(session.cookies), session.get(f"{shop.url}/cookie").text) == ({"id": "7"}, "id=7")


def test_the_payment_stays_out_of_what_is_handed_back(shop: Shop, session: requests.Session) -> None:
    response = session.get(f"{shop.url}/article")
    assert not {name.lower() for name in response.request.headers} & {"payment-signature", "authorization"}
    assert response.rail402 is not None  # type: ignore[attr-defined]


# --- behind an adapter that answers as it likes


class Breaking(io.BytesIO):
    """A connection that is reset after its first bytes."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(4)
        if not data:
            raise ConnectionResetError("reset")
        return data


class Inner(BaseAdapter):
    """Answers out of a shop that needs no socket."""

    def __init__(self, market: Market) -> None:
        super().__init__()
        self.market, self.bodies, self.coding = market, list[Any](), ""
        self.paid_body: io.BytesIO | None = None
        self.timeouts: list[Any] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        self.bodies.append(request.body)
        self.timeouts.append(options["timeout"])
        asked = httpx.Request(
            request.method or "", request.url or "", headers=dict(request.headers), content=request.body or b""
        )
        found = asyncio.run(self.market.shop.handle(asked))
        headers = dict(found.headers.multi_items())
        body: io.BytesIO = io.BytesIO(found.content)
        if found.status_code == 200 and self.paid_body is not None:
            body, headers = self.paid_body, {"content-encoding": self.coding}
        raw = urllib3.HTTPResponse(body, headers, found.status_code, preload_content=False)
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None: ...


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    opened = Market(tmp_path, "sync")
    yield opened
    asyncio.run(opened.close())


@pytest.fixture
def inner(market: Market) -> Inner:
    return Inner(market)


@pytest.fixture
def buyer(market: Market, inner: Inner) -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.mount("https://", PayingAdapter(market.payer(), inner))
        yield opened


def test_a_body_goes_out_whatever_the_url_looks_like(inner: Inner, buyer: requests.Session) -> None:
    assert buyer.post("https://shop.test:443/article", data=b"body").status_code == 200
    assert inner.bodies == [b"body", b"body"]


def test_a_body_that_breaks_off_is_asked_for_again_and_not_paid_twice(
    market: Market, inner: Inner, buyer: requests.Session
) -> None:
    inner.paid_body = Breaking(b"half of it")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        buyer.get(URL)
    inner.paid_body = None
    assert buyer.get(URL).status_code == 200
    assert market.ledger.count("pay") == 1


def test_a_body_that_cannot_be_decoded_is_requests_own_error(inner: Inner, buyer: requests.Session) -> None:
    inner.paid_body, inner.coding = io.BytesIO(b"no gzip"), "gzip"
    with pytest.raises(requests.exceptions.ContentDecodingError):
        buyer.get(URL)


def test_what_is_fetched_beside_the_call_has_its_own_time_out(
    market: Market, inner: Inner, buyer: requests.Session
) -> None:
    market.shop.receipts = ReceiptKeys.generate()[0]
    bought: Any = buyer.post(URL, data=b"body", timeout=70)
    assert bought.rail402.receipt is not None
    assert (inner.bodies, inner.timeouts) == ([b"body", b"body", None], [70, 70, 5])
