"""What a request costs by its path: matched as it is forwarded, and refused where it can be read in two ways."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import ConfigurationError
from rail402.proxy.paths import RouteTable, plain_path
from rail402.proxy.problems import Problem


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def table(*priced: str, free: tuple[str, ...] = (), unmatched: bool = True) -> RouteTable:
    return RouteTable(priced, free, app, unmatched=unmatched)


def ask(routes: RouteTable, method: str, raw: str, *fields: str) -> str | int:
    """Return what becomes of a request: the path of the route that sells it, "free", or the status of a refusal."""
    try:
        route = routes.choose(method, plain_path(raw.encode()), set(fields))
    except Problem as problem:
        return problem.status
    return "free" if route is None else route.path


# --- paths that are refused wherever they lead


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("/%70aid", "/paid"),
        ("/caf%C3%A9", "/café"),
        ("/caf%c3%a9", "/café"),
        ("/a%20b", "/a b"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a%3Bb", "/a;b"),
        ("/100%25", "/100%"),
        ("/a|b[c]^d", "/a|b[c]^d"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a%3Fb", "/a?b"),
        ("/a%23b", "/a#b"),
    ],
)
def test_a_plain_path_is_decoded_once(raw: str, path: str) -> None:
    assert plain_path(raw.encode()) == path


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"*",
        b"paid",
        b"http://shop.example/paid",
        b"//paid",
        b"/a//b",
        b"/paid//",
        b"/./paid",
        b"/a/../paid",
        b"/a/..",
        b"/%2e/paid",
        b"/a/%2e%2E/paid",
        b"/a/..;/paid",
        b"/a/%2e;x=1/paid",
        b"/a\\paid",
        b"/a%5cpaid",
        b"/a%5Cpaid",
        b"/a%2fb",
        b"/a%2Fb",
        b"/%2570aid",
        b"/a%25%32%66b",
        b"/paid#x",
        b"/paid?x",
        b"/paid%00",
        b"/paid%0d%0a",
        b"/paid%7f",
        b"/paid%c2%85",
        b"/paid%",
        b"/paid%4",
        b"/paid%gg",
        b"/paid%c0%af",
        b"/paid%ff",
        b"/paid x",
        b"/pa\xc3\xafd",
        b"/a%ef%bc%8fb",
        b"/a%ef%bc%bcb",
        b"/%ef%bc%8e%ef%bc%8e/b",
        b"/a%e2%84%80b",
    ],
)
def test_what_servers_do_not_agree_on_is_refused(raw: bytes) -> None:
    with pytest.raises(Problem) as refused:
        plain_path(raw)
    assert (refused.value.status, refused.value.code) == (400, "ambiguous_path")


@given(st.binary(max_size=40).map(lambda raw: b"/" + raw))
def test_any_bytes_are_a_path_or_are_refused(raw: bytes) -> None:
    with contextlib.suppress(Problem):
        path = plain_path(raw)
        assert path.startswith("/")
        assert not any(segment in ("", ".", "..") for segment in path.split("/")[1:-1])


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "sold", "not_sold"),
    [
        ("GET /paid", ["/paid", "/%70aid"], ["/paid.json", "/paidx", "/", "/a/paid", "/pai"]),
        ("GET /article/{slug}", ["/article/a", "/article/a.b", "/article/a%20b"], ["/article/a/b", "/article"]),
        ("GET /files/{path:path}", ["/files/a", "/files/a/b"], ["/files", "/filesx"]),
        ("GET /docs/*", ["/docs/", "/docs/a", "/docs/a/b"], ["/docs", "/docsx"]),
        ("GET /*.pdf", ["/a.pdf", "/a/b.pdf"], ["/a.txt", "/apdf"]),
        ("GET /v{n}/x", ["/v1/x", "/v1.2/x"], ["/v/x", "/v1/2/x"]),
        ("GET /café", ["/caf%C3%A9"], ["/cafe"]),
        ("GET /*", ["/", "/a", "/a/b"], []),
    ],
)
def test_patterns(pattern: str, sold: list[str], not_sold: list[str]) -> None:
    routes = table(pattern)
    path = pattern.partition(" ")[2]
    assert [ask(routes, "GET", raw) for raw in sold] == [path] * len(sold)
    assert [ask(routes, "GET", raw) for raw in not_sold] == ["free"] * len(not_sold)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "GET /a?b=1",
            "GET /a#b",
            "GET /a%20b",
            "GET /a;b",
            "GET /a b",
            "GET //a",
            "GET /a/../b",
            "GET /a/.",
            "GET /a.",
        ),
        *("GET /{id:int}", "GET /{", "GET /a\\b", "GET a", "get /a", "TRACE /a", "/a", "GET /a./b", ""),
    ],
)
@pytest.mark.parametrize("free", [False, True])
def test_a_pattern_that_could_never_match_is_refused(pattern: str, free: bool) -> None:
    with pytest.raises(ConfigurationError, match="write"):
        table(*([] if free else [pattern]), free=(pattern,) if free else ())


def test_options_have_no_price_and_may_be_free() -> None:
    with pytest.raises(ConfigurationError, match="write"):
        table("OPTIONS /a")
    routes = table("* /a", "GET /b", free=("OPTIONS /a",))
    assert [ask(routes, "OPTIONS", path) for path in ("/a", "/b", "/c")] == ["free", "/b", "free"]
    assert ask(routes, "GET", "/a") == "/a"


def test_options_are_no_more_free_than_what_is_sold_there() -> None:
    routes = table("POST /form", free=("GET /form", "GET /read", "* /static/*"))
    assert [ask(routes, method, "/form") for method in ("GET", "POST", "OPTIONS")] == ["free", "/form", "/form"]
    assert [ask(routes, "OPTIONS", path) for path in ("/read", "/static/x")] == ["free", "free"]


def test_the_first_pattern_counts_and_what_is_free_comes_before() -> None:
    routes = table("GET /docs/{id}", "GET /docs/*", free=("GET /docs/about",))
    assert ask(routes, "GET", "/docs/1") == "/docs/{id}"
    assert ask(routes, "GET", "/docs/1/pdf") == "/docs/*"
    assert ask(routes, "GET", "/docs/about") == "free"
    assert ask(routes, "GET", "/docs/about/x") == "/docs/*"


@pytest.mark.parametrize("free", ["GET /*", "* /docs/{id}", "GET /docs/*", "GET /docs/{other}"])
def test_a_free_pattern_that_leaves_nothing_to_sell_is_refused(free: str) -> None:
    with pytest.raises(ConfigurationError, match="is sold: a free pattern covers it"):
        table("GET /docs/{id}", free=(free,))
    table("* /docs/{id}", free=("GET /docs/*",))
    table("POST /docs/{id}", free=("GET /docs/*",))


# --- methods


def test_who_asks_for_less_is_asked_for_the_same() -> None:
    routes = table("GET /read", "POST /write", "* /all")
    assert [ask(routes, method, "/read") for method in ("GET", "HEAD", "OPTIONS")] == ["/read"] * 3
    assert [ask(routes, method, "/write") for method in ("POST", "OPTIONS")] == ["/write"] * 2
    assert [ask(routes, method, "/all") for method in ("GET", "PUT", "PROPFIND", "M-SEARCH")] == ["/all"] * 4


def test_a_path_that_is_sold_is_not_had_by_another_method() -> None:
    routes = table("GET /paid", free=("DELETE /paid",))
    assert ask(routes, "DELETE", "/paid") == "free"
    for method in ("POST", "PUT", "PATCH", "PROPFIND", "COPY", "BREW"):
        with pytest.raises(Problem) as refused:
            routes.choose(method, "/paid", ())
        assert (refused.value.status, refused.value.fields) == (405, {"Allow": "DELETE, GET, HEAD, OPTIONS"})


@pytest.mark.parametrize("method", ["get", "Get", "TRACE", "CONNECT", "G T", "GET\x00", "", "GÉT"])
def test_methods_that_are_never_forwarded(method: str) -> None:
    assert ask(table("GET /paid"), method, "/free") == 501


@pytest.mark.parametrize("name", ["x-http-method", "x-http-method-override", "x-method-override"])
def test_a_method_is_not_overridden_where_it_decides_the_price(name: str) -> None:
    routes = table("GET /paid", free=("POST /paid",))
    assert ask(routes, "GET", "/paid", name) == 400
    assert ask(routes, "POST", "/paid", name) == 400
    assert ask(routes, "POST", "/free", name) == "free"


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_nor_where_the_path_may_be_read_as_one_that_is_sold(method: str) -> None:
    routes = table("GET /paid", free=(f"{method} /*",))
    assert [ask(routes, method, path, "x-http-method-override") for path in ("/PAID", "/paid/", "/paid;x")] == [400] * 3
    assert ask(routes, method, "/other", "x-http-method-override") == "free"


# --- readings


@pytest.mark.parametrize(
    "raw",
    [
        *("/PAID", "/Paid", "/paid/", "/paid;x", "/paid;x=1", "/paid%3bx", "/paid.", "/paid%20", "/paid..", "/paid;/"),
        *("/%EF%BD%90aid", "/pa%C4%B1d/../x", "/PAID/", "/%50AID;jsessionid=1", "/paid%C2%A0"),
        *("/paid%3f", "/paid%3Fx/y", "/paid%23x", "/paid::$DATA", "/pa%E2%80%8Bid", "/paid%E2%80%8D"),
    ],
)
def test_a_path_that_may_be_read_as_one_that_is_sold_is_refused(raw: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        assert ask(table("GET /paid"), method, raw) == 400


def test_the_same_for_one_that_is_dearer_or_only_free_by_its_looks() -> None:
    routes = table("GET /docs/secret", "GET /docs/*", free=("GET /open/*",))
    assert ask(routes, "GET", "/docs/Secret") == 400
    assert ask(routes, "GET", "/docs/secret/") == 400
    assert ask(routes, "GET", "/docs/secret;x") == 400
    assert ask(routes, "GET", "/docs/other/") == "/docs/*"
    assert ask(routes, "GET", "/docs/OTHER") == "/docs/*"
    assert ask(routes, "GET", "/open/x") == "free"


def test_a_last_slash_in_a_pattern_is_no_way_around_it() -> None:
    routes = table("GET /report/", "GET /docs/*")
    assert ask(routes, "GET", "/report/") == "/report/"
    assert ask(routes, "GET", "/report") == 400
    assert ask(routes, "GET", "/docs") == "free"
    assert ask(routes, "GET", "/docs/") == "/docs/*"


def test_what_looks_like_nothing_that_is_sold_passes_as_it_is() -> None:
    routes = table("GET /paid")
    for raw in ("/", "/Free;x=1", "/free/", "/FREE", "/free.", "/paid/more", "/unpaid"):
        assert ask(routes, "GET", raw) == "free"


def test_what_is_not_named_is_refused_unless_it_may_pass() -> None:
    routes = table("GET /paid", free=("GET /free",), unmatched=False)
    assert ask(routes, "GET", "/free") == "free"
    assert ask(routes, "POST", "/free") == 404
    assert ask(routes, "GET", "/other") == 404
    assert ask(routes, "POST", "/paid") == 405
    assert ask(routes, "GET", "/PAID") == 400


def test_patterns_in_other_letters_are_still_found() -> None:
    routes = table("GET /Reports/{Id}")
    assert ask(routes, "GET", "/Reports/1") == "/Reports/{Id}"
    assert ask(routes, "GET", "/reports/1") == 400
