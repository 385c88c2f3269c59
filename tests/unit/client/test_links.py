"""Links for people: which may be shown, and which say anything but where they lead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rail402.client.links import link_in, shown_link

SHOP = "https://shop.test"
OTHERS = frozenset({"https://hooks.stripe.com", "http://127.0.0.1:8402"})


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.test/pay?offer=a.b_c-d%7E&url=https://x/~y#top",
        "https://shop.test",
        "https://shop.test?x=1",
        "https://SHOP.test/pay",
        "https://shop.test:443/pay",
        "https://hooks.stripe.com/redirect/authenticate/src_1?client_secret=x",
        "http://127.0.0.1:8402/pay",
        "https://shop.test/" + "a" * 7000,
    ],
)
def test_a_link_of_a_trusted_origin_is_shown_as_it_is(url: str) -> None:
    assert shown_link(url, SHOP, OTHERS) == url


@pytest.mark.parametrize(
    "url",
    [
        # other origins
        "https://evil.test/pay",
        "http://shop.test/pay",
        "https://shop.test:8443/pay",
        "https://shop.test:80/pay",
        "https://sub.shop.test/pay",
        "https://shop.test.evil.test/pay",
        "https://evil.test/https://shop.test/",
        "https://evil.test?https://shop.test",
        "https://evil.test#@shop.test",
        "//shop.test/pay",
        "/pay",
        "https://hooks.stripe.com.evil.test/",
        "https://hooks.stripe.com:444/",
        # user information
        "https://shop.test@evil.test/pay",
        "https://shop.test:443@evil.test/",
        "https://user@shop.test/pay",
        "https://user:pass@shop.test/pay",
        "https://shop.test%40evil.test/",
        # other schemes
        "javascript:alert(1)",
        "javascript://shop.test/%0aalert(1)",
        "data:text/html,<script>",
        "file:///etc/passwd",
        "ftp://shop.test/",
        "HTTPS://shop.test/pay",
        "blob:https://shop.test/1",
        # what is read as something else than it is
        "https://shop.test\\@evil.test/",
        "https:\\\\evil.test",
        "https:/shop.test/",
        "https:shop.test/",
        " https://shop.test/",
        "https://shop.test/ ",
        "https://shop.test/\nhttps://evil.test/",
        "https://shop.test/\r\n",
        "https://shop.test/\x1b]8;;https://evil.test\x07",
        "https://shop.test/\x00",
        "https://shop.test/\t",
        'https://shop.test/"onclick="',
        "https://shop.test/<b>",
        "https://shop.test/[evil](https://evil.test)`",
        "https://shop.test/\\..\\",
        "https://shop.test/{x}",
        # letters that look like others, and text that runs backwards
        "https://shор.test/",
        "https://shop。test/",
        "https://shop.test/\u202egnp.exe",
        "https://shop.test／evil.test/",
        "https://xn--shp-test.test/",
        "https://shop.test/é",
        # no address, or none that ends
        "https://",
        "https:///pay",
        "https://shop.test:port/",
        "https://shop.test:/pay",
        "https://shop.test:99999999/",
        "https://[::1",
        "https://shop.test/" + "a" * 9000,
        "",
        None,
        7,
        b"https://shop.test/",
        ["https://shop.test/"],
    ],
)
def test_any_other_link_is_not_shown(url: Any) -> None:
    assert shown_link(url, SHOP, OTHERS) is None


def test_an_origin_with_a_port_of_its_own() -> None:
    assert shown_link("http://localhost:8000/pay", "http://localhost:8000", ()) is not None
    assert shown_link("http://localhost/pay", "http://localhost:8000", ()) is None
    assert shown_link("http://localhost:80/pay", "http://localhost", ()) is not None


def body(*offers: Any) -> bytes:
    return json.dumps({"offers": list(offers)}).encode()


def test_the_first_link_of_the_rail_that_may_be_shown() -> None:
    offers = body(
        {"rail": "base", "pay_url": f"{SHOP}/base"},
        {"rail": "stripe"},
        "stripe",
        {"rail": "stripe", "pay_url": "https://evil.test/"},
        {"rail": "stripe", "pay_url": 7},
        {"rail": "stripe", "pay_url": f"{SHOP}/first"},
        {"rail": "stripe", "pay_url": f"{SHOP}/second"},
    )
    assert link_in(offers, "stripe", SHOP, OTHERS) == f"{SHOP}/first"
    assert link_in(offers, "lightning", SHOP, OTHERS) is None


@pytest.mark.parametrize(
    "text", [None, b"", b"[]", b"{", b'{"offers": {}}', b'{"offers": null}', b"[" * 5000, b"\xff", body(None, 7, [])]
)
def test_a_body_without_links_has_none(text: bytes | None) -> None:
    assert link_in(text, "stripe", SHOP, OTHERS) is None
