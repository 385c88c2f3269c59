"""The sandbox as raw HTTP: keys, malformed and hostile bytes, and the ASGI face."""

from __future__ import annotations

import base64
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rail402.errors import ConfigurationError
from rail402_stripe.sandbox import Fault, Sandbox
from rail402_stripe.sandbox.exchange import MAX_BODY, Request

FORM = {"content-type": "application/x-www-form-urlencoded"}


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:".encode()).decode()


@pytest.mark.parametrize("header", ["Bearer sk_test_any", "bearer sk_test_", "Bearer pk_test_x", basic("sk_test_any")])
async def test_every_test_key_is_known(http: httpx.AsyncClient, header: str) -> None:
    response = await http.get("/v1/payment_intents/pi_x", headers={"authorization": header})
    assert response.status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "sk_test_x",
        "Bearer sk_live_x",
        "Bearer pk_live_x",
        "Bearer rk_live_x",
        "Bearer sk_prod_x",
        "Bearer sk_test_x y",
        "Bearer sk_test_x, Bearer sk_test_y",
        "Bearer " + "sk_test_" + "x" * 300,
        "Digest sk_test_x",
        "Basic !!!!",
        "Basic " + base64.b64encode(b"\xff\xfe:").decode(),
        basic("sk_live_x"),
    ],
)
async def test_any_other_key_is_a_401_and_is_not_repeated(http: httpx.AsyncClient, header: str) -> None:
    response = await http.get("/v1/balance", headers={"authorization": header})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "_x" not in response.text


async def test_two_authorization_headers_are_no_key(http: httpx.AsyncClient) -> None:
    headers = [("authorization", "Bearer sk_test_a"), ("authorization", "Bearer sk_test_b")]
    http.headers.pop("authorization")
    assert (await http.get("/v1/balance", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/payment_intents/"),
        ("GET", "/v1/payment_intents/pi_1/capture"),
        ("DELETE", "/v1/payment_intents/pi_1"),
        ("PUT", "/v1/payment_intents"),
        ("POST", "/v1/payment_intents/pi_1/explode"),
        ("GET", "/v1/payment_intents/" + "x" * 256),
        ("GET", "/v1/payment_intents/pi%20%00"),
        ("GET", "/v1/payment_intents/%F0%9F%92%B8"),
        ("GET", "/v1/accounts"),
        ("GET", "/c/pay/"),
        ("PUT", "/c/pay/cs_test_1"),
    ],
)
async def test_an_unknown_url_is_a_404(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, path)
    assert response.status_code == 404
    assert "Unrecognized request URL" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"amount=%zz",
        b"amount=5%",
        b"amount=%ff%fe",
        b"amount=\xff",
        "amount=\N{EURO SIGN}".encode(),
        b"metadata[a=1",
        b"metadata]a[=1",
        b"[a]=1",
        b"=1",
        b"amount=1&amount=2",
        b"metadata=1&metadata[a]=2",
        b"metadata[a]=2&metadata=1",
        b"metadata[a][b]=2",
        b"a[b][c][d][e][f]=1",
        b"payment_method_types=card",
        b"payment_method_types[x]=card",
        b"payment_method_types[-1]=card",
        b"payment_method_types[0][a]=card",
        b"amount[a]=1",
        b"expand=latest_charge",
        b"&".join(b"metadata[k%d]=v" % n for n in range(501)),
    ],
)
async def test_a_body_that_cannot_be_read_is_a_400(http: httpx.AsyncClient, body: bytes) -> None:
    body += b"" if b"amount" in body else b"&amount=500"
    response = await http.post("/v1/payment_intents", content=body + b"&currency=usd", headers=FORM)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_arrays_may_be_written_with_and_without_indexes(http: httpx.AsyncClient) -> None:
    for body in (
        "payment_method_types[1]=link&payment_method_types[0]=card",
        "payment_method_types[]=card&payment_method_types[]=link",
    ):
        response = await http.post("/v1/payment_intents", content=f"amount=500&currency=usd&{body}", headers=FORM)
        assert response.json()["payment_method_types"] == ["card", "link"]


async def test_odd_but_readable_text_comes_back_as_it_was(http: httpx.AsyncClient) -> None:
    text = "a+b & c=\N{EURO SIGN}\N{MONEY WITH WINGS}\x00\n<b>'\""
    response = await http.post(
        "/v1/payment_intents", data={"amount": "500", "currency": "USD", "metadata[note]": text, "description": text}
    )
    body = response.json()
    assert (body["metadata"], body["description"], body["currency"]) == ({"note": text}, text, "usd")


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
async def test_only_forms_are_read(http: httpx.AsyncClient, content_type: str) -> None:
    response = await http.post("/v1/payment_intents", content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 400


async def test_a_body_may_have_a_mebibyte(http: httpx.AsyncClient) -> None:
    prefix = b"amount=500&currency=usd&description="
    largest = prefix + b"x" * (MAX_BODY - len(prefix))
    fits = await http.post("/v1/payment_intents", content=largest, headers=FORM)
    assert (fits.status_code, fits.json()["error"]["param"]) == (400, "description")
    too_large = await http.post("/v1/payment_intents", content=largest + b"x", headers=FORM)
    assert (too_large.status_code, too_large.json()["error"]["type"]) == (413, "invalid_request_error")


async def test_every_answer_has_a_request_id_of_its_own(http: httpx.AsyncClient) -> None:
    headers = {"stripe-version": "2026-10-28.endive"}
    answers = [await http.get(path, headers=headers) for path in ("/v1/balance", "/v1/nothing", "/v1/balance")]
    assert len({answer.headers["request-id"] for answer in answers}) == 3
    assert all(answer.headers["stripe-version"] == "2026-10-28.endive" for answer in answers)
    strange = await http.get("/v1/balance", headers={"stripe-version": "<b>"})
    assert "stripe-version" not in strange.headers


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    path=st.one_of(
        st.sampled_from(["/v1/payment_intents", "/v1/refunds", "/v1/checkout/sessions", "/v1/balance", "/c/pay/x"]),
        st.text(max_size=40).map("/v1/payment_intents/".__add__),
        st.text(max_size=40),
    ),
    payload=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.tuples(
                st.sampled_from([b"amount", b"currency", b"metadata[a]", b"expand[]", b"line_items[0][quantity]"]),
                st.sampled_from([b"1", b"usd", b"", b"-1", b"%00", b"99999999999999999999", b"latest_charge"]),
            )
        ).map(lambda pairs: b"&".join(b"=".join(pair) for pair in pairs)),
    ),
    key=st.text(max_size=20),
)
async def test_hostile_bytes_never_get_a_500(
    sandbox: Sandbox, method: str, path: str, payload: bytes, key: str
) -> None:
    headers = {"authorization": "Bearer sk_test_x", "idempotency-key": key, "stripe-version": key}
    answer = await sandbox.handle(Request(method, path, payload, headers, payload))
    assert 200 <= answer.status < 500
    if path != "/c/pay/x":
        assert isinstance(json.loads(answer.body), dict)


class Server:
    """Calls the app as an ASGI server does, with a client that may hang up."""

    def __init__(self, app: Sandbox) -> None:
        self.app = app
        self.sent: list[MutableMapping[str, Any]] = []

    async def request(self, method: str, path: str, *messages: dict[str, Any]) -> None:
        incoming = list(messages)

        async def receive() -> MutableMapping[str, Any]:
            return incoming.pop(0)

        async def send(message: MutableMapping[str, Any]) -> None:
            self.sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"Authorization", b"Bearer sk_test_x")],
        }
        await self.app(scope, receive, send)


CHUNKS = (
    {"type": "http.request", "body": b"amount=500&curr", "more_body": True},
    {"type": "http.request", "body": b"ency=usd", "more_body": False},
)
HUNG_UP = {"type": "http.disconnect"}


async def test_the_asgi_app_puts_a_body_together_and_says_how_long_the_answer_is(sandbox: Sandbox) -> None:
    server = Server(sandbox)
    await server.request("POST", "/v1/payment_intents", *CHUNKS)
    start, body = server.sent
    assert start["status"] == 200
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert json.loads(body["body"])["amount"] == 500


async def test_a_client_that_leaves_before_its_body_is_whole_did_nothing(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    server = Server(sandbox)
    await server.request("POST", "/v1/payment_intents", CHUNKS[0], HUNG_UP)
    assert server.sent == []
    assert (await http.get("/v1/payment_intents")).json()["data"] == []


async def test_a_lost_answer_keeps_the_client_waiting_until_it_hangs_up(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    sandbox.inject_fault(Fault("POST", "/v1/payment_intents", "timeout", applied=True))
    server = Server(sandbox)
    await server.request("POST", "/v1/payment_intents", *CHUNKS, {"type": "http.request"}, HUNG_UP)
    assert server.sent == []
    assert len((await http.get("/v1/payment_intents")).json()["data"]) == 1


async def test_reading_stops_at_the_limit(sandbox: Sandbox) -> None:
    server = Server(sandbox)
    chunk = {"type": "http.request", "body": b"x" * MAX_BODY, "more_body": True}
    await server.request("POST", "/v1/payment_intents", chunk, chunk)  # a third read would fail
    assert server.sent[0]["status"] == 413


async def test_it_runs_under_an_asgi_transport_too(sandbox: Sandbox) -> None:
    transport = httpx.ASGITransport(app=sandbox)
    headers = {"authorization": "Bearer sk_test_x"}
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox", headers=headers) as client:
        made = await client.post("/v1/payment_intents", data={"amount": "500", "currency": "usd"})
        found = await client.get(f"/v1/payment_intents/{made.json()['id']}", params={"expand[]": "latest_charge"})
    assert found.json()["id"] == made.json()["id"]


async def test_the_lifespan_opens_and_closes_the_ledger(sandbox: Sandbox) -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent, opened = [], []

    async def receive() -> MutableMapping[str, Any]:
        opened.append(sandbox._ledger._connection is not None)
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    await sandbox({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert opened == [False, True]
    assert sandbox._ledger._connection is None


async def test_websockets_are_not_spoken(sandbox: Sandbox) -> None:
    async def never(*_: object) -> Any:
        raise AssertionError("nothing is read or sent")

    await sandbox({"type": "websocket"}, never, never)


async def test_a_ledger_that_cannot_be_opened_is_your_configuration(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "missing" / "stripe.sqlite3")
    with pytest.raises(ConfigurationError):
        await sandbox.handle(Request("GET", "/v1/balance", b"", {"authorization": "Bearer sk_test_x"}, b""))


def test_secrets_are_not_in_the_repr_of_what_came_in() -> None:
    request = Request("POST", "/v1/x", b"", {"authorization": "Bearer sk_test_hidden"}, b"client_secret=hidden")
    assert "hidden" not in repr(request)
