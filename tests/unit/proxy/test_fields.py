"""What goes up and down: nothing of the connection, nothing of the payment, and nobody else's word for the proxy's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS
from rail402.proxy.fields import Downward, Upward, declared_length
from rail402.server.addresses import TrustedProxies

PUBLIC = "https://shop.example"
UPSTREAM = "http://127.0.0.1:3000"

Lines = list[tuple[str, str]]


def up(
    *lines: tuple[str, str], peer: str | None = "192.0.2.1", trusted: tuple[str, ...] = (), host: str = "up"
) -> Lines:
    fields = Upward(PUBLIC, host, DEFAULT_DIALECTS, TrustedProxies(trusted))
    scope: dict[str, Any] = {
        "http_version": "1.1",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines],
        "client": None if peer is None else (peer, 1),
    }
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields(scope, None)]


def named(lines: Lines, *names: str) -> list[str]:
    return [value for name, value in lines if name.lower().replace("_", "-") in names]


def test_what_everybody_is_told() -> None:
    assert up(("host", "evil.example"), ("accept", "*/*")) == [
        ("host", "up"),
        ("connection", "close"),
        ("accept", "*/*"),
        ("via", "1.1 rail402"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
    ]


def test_what_is_the_message_s_own_stays_as_it_is_and_in_order() -> None:
    own = [("cookie", "a=1"), ("Cookie", "b=2"), ("X-Thing", "\xe9"), ("te_x", "1"), ("idempotency-key", "k")]
    assert [line for line in up(*own) if line in own] == own


def test_what_is_about_the_connection_stays_here() -> None:
    lines = up(
        ("connection", "close, X-Secret"),
        ("Connection", "keep-alive,via"),
        ("x-secret", "1"),
        ("via", "1.0 other"),
        ("keep-alive", "5"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "h2c"),
        ("proxy-connection", "close"),
        ("proxy-authorization", "Basic x"),
        ("expect", "100-continue"),
        ("x-kept", "1"),
    )
    assert [name for name, _ in lines] == [
        "host",
        "connection",
        "x-kept",
        "via",
        *(f"x-forwarded-{x}" for x in ("for", "proto", "host")),
    ]
    assert named(up(("via", "1.0 other")), "via") == ["1.0 other", "1.1 rail402"]


@pytest.mark.parametrize(
    "name",
    [
        *("Rail402-Charge", "rail402-payer", "Rail402_Payer", "rail402-price", "RAIL402_RAIL", "rail402-anything"),
        *(
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Prefix",
            "Forwarded",
        ),
        *("X-Real-IP", "X-Original-URL", "x_original_url", "X-Original-Host", "X-Rewrite-URL", "x_rewrite_url", "Host"),
        *("Transfer_Encoding", "content_length"),
        *("Rail402.Payer", "rail402~charge", "X.Forwarded+For", "Proxy"),
    ],
)
def test_nobody_speaks_for_the_proxy(name: str) -> None:
    for lines in ([(name, "lie")], [(name, "lie"), ("connection", name)]):
        assert "lie" not in {value for _, value in up(*lines)}


@pytest.mark.parametrize(
    "name", sorted({name for dialect in (*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS) for name in dialect.request_fields})
)
def test_no_payment_goes_up_in_any_field(name: str) -> None:
    word = "Payment eyJhIjoxfQ" if name == "authorization" else "eyJhIjoxfQ"
    for spelt in (name, name.title(), name.replace("-", "_")):
        assert "eyJhIjoxfQ" not in str(up((spelt, word)))


@pytest.mark.parametrize(("payer", "told"), [("0xAb", ["0xAb"]), (None, []), ("a\r\nb", []), ("é", []), ("a\x00", [])])
def test_a_payer_is_told_where_it_is_a_plain_word(payer: str | None, told: list[str]) -> None:
    charge: Any = SimpleNamespace(id="ch_1", offer=SimpleNamespace(rail="base"), price="1 USD", payer=payer)
    scope: dict[str, Any] = {"http_version": "1.1", "headers": [], "client": None}
    lines = Upward(PUBLIC, "up", DEFAULT_DIALECTS, TrustedProxies())(scope, charge)
    assert [value.decode() for name, value in lines if name == b"rail402-payer"] == told
    assert dict(lines)[b"rail402-charge"] == b"ch_1"


def test_a_login_goes_up_without_the_payment_beside_it() -> None:
    logins = [
        ("Bearer abc", ["Bearer abc"]),
        ("Payment eyJh", []),
        ("L402 AgE=:00ff", []),
        ("LSAT AgE=:00ff, Bearer abc", ["Bearer abc"]),
        ("Basic dTpw, payment eyJh", ["Basic dTpw"]),
        ('Digest username="u", realm="r"', ['Digest username="u", realm="r"']),
    ]
    for sent, got in logins:
        assert named(up(("authorization", sent)), "authorization") == got
    assert named(up(("authorization", "Bearer a"), ("authorization", "Payment x")), "authorization") == ["Bearer a"]


def test_whom_a_trusted_proxy_tells_of_is_passed_on() -> None:
    told = ("x-forwarded-for", "203.0.113.9, 10.0.0.2")
    assert named(up(told, peer="10.0.0.1", trusted=("10.0.0.0/8",)), "x-forwarded-for") == [
        "203.0.113.9, 10.0.0.2, 10.0.0.1"
    ]
    assert named(up(told, peer="192.0.2.1", trusted=("10.0.0.0/8",)), "x-forwarded-for") == ["192.0.2.1"]
    assert named(up(told, peer=None), "x-forwarded-for") == []
    assert named(up(peer="2001:db8::1"), "x-forwarded-for") == ["2001:db8::1"]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([], []),
        ([("content-length", "5")], [("content-length", "5")]),
        ([("Transfer-Encoding", "chunked")], [("transfer-encoding", "chunked")]),
        ([("transfer-encoding", "gzip, chunked"), ("content-length", "5")], [("transfer-encoding", "chunked")]),
        ([("content-length", "+5")], []),
        ([("content_length", "5")], []),
    ],
)
def test_the_body_s_end_is_said_in_one_way(sent: Lines, said: Lines) -> None:
    framing = ("content-length", "transfer-encoding", "content_length")
    assert [line for line in up(*sent) if line[0].lower() in framing] == said


# --- down


def down(*lines: tuple[str, str], status: int = 200) -> Lines:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]
    said = Downward(PUBLIC, UPSTREAM)(raw, status)
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in said]


def test_a_response_comes_down_without_what_is_about_the_connection() -> None:
    own = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Date", "now"), ("Content-Length", "2"), ("ETag", '"x"')]
    hop = [("Connection", "close, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("Trailer", "x"), ("Upgrade", "h2c")]
    assert down(*own, *hop) == own
    both = [("Transfer-Encoding", "chunked"), ("Content-Length", "2"), ("X", "1")]
    assert down(*both) == [("X", "1")]
    assert down(("Rail402-Charge", "ch_echo"), ("rail402-payer", "me"), ("X", "1")) == [("X", "1")]


@pytest.mark.parametrize("status", [204, 304])
def test_what_never_has_a_body_says_no_length(status: int) -> None:
    """Servers that count what they send take it for one that broke off."""
    assert down(("Content-Length", "9"), ("ETag", "x"), status=status) == [("ETag", "x")]


@pytest.mark.parametrize(
    ("said", "leads"),
    [
        (f"{UPSTREAM}/x?y", f"{PUBLIC}/x?y"),
        (UPSTREAM, PUBLIC),
        (f"{UPSTREAM}0/x", f"{UPSTREAM}0/x"),
        ("/x", "/x"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
    ],
)
def test_a_redirect_to_the_upstream_leads_to_the_proxy(said: str, leads: str) -> None:
    assert down(("Location", said), ("X-Location", said)) == [("Location", leads), ("X-Location", said)]


def test_the_length_of_a_message() -> None:
    assert declared_length([(b"Content-Length", b"12")]) == 12
    assert declared_length([(b"content-length", b"0")]) == 0
    for lines in (
        [],
        [(b"content-length", b"x")],
        [(b"content-length", b"9" * 5000)],
        [(b"content-length", b"1"), (b"Transfer-Encoding", b"chunked")],
    ):
        assert declared_length(lines) is None
