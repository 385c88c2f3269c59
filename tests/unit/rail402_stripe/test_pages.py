"""The pages for people: what is in a link comes out as text, nothing is loaded from elsewhere, no script but ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import pytest

from rail402.protocol.endpoint import EndpointReply
from rail402_stripe.pages import fetching_page, message_page, pay_page

NASTY = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&lt;</title></code>"
URL = "https://shop.example/report?a=1&b='2'"


class Elements(HTMLParser):
    """Collects a page's elements and the text of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        self.texts[tag] = self.texts.get(tag, "") + data

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass


def read(page: EndpointReply) -> Elements:
    elements = Elements()
    elements.feed(page.body.decode())
    return elements


def policy_of(page: EndpointReply) -> dict[str, list[str]]:
    text = dict(page.fields)["content-security-policy"]
    return {name: values for name, *values in (part.split() for part in text.split(";"))}


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def pages(text: str) -> list[EndpointReply]:
    return [
        pay_page(text, text, text, action=f"/x?{text}", hidden={"dialect": text, "url": text}, note=text),
        message_page(text, text, link=f"/x?{text}", status=402),
        fetching_page(f"https://shop.example/{text}", f"Payment {text}"),
    ]


@pytest.mark.parametrize("page", pages(NASTY))
def test_what_comes_from_a_link_is_text(page: EndpointReply) -> None:
    elements = read(page)
    scripts = [attributes for tag, attributes in elements.found if tag == "script"]
    assert len(scripts) in (0, 2)
    assert not [tag for tag, _ in elements.found if tag in ("img", "iframe", "link", "object")]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("page", pages("x"))
def test_nothing_is_loaded_kept_framed_or_told_to_others(page: EndpointReply) -> None:
    elements, policy, fields = read(page), policy_of(page), dict(page.fields)
    assert not [tag for tag, attributes in elements.found if "src" in attributes]
    assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
    assert (fields["referrer-policy"], fields["x-content-type-options"]) == ("same-origin", "nosniff")
    style = elements.texts["style"]
    assert policy["style-src"] in ([hashed(style)], ["*", "'unsafe-inline'"])
    assert page.media_type == "text/html; charset=utf-8"


def test_the_pay_page_is_a_form_and_no_script() -> None:
    hidden = {"dialect": "mpp", "offer": "abc", "url": URL}
    action = "/.well-known/rail402/stripe/checkout"
    page = pay_page("0.50 USD", "shop.example", URL, action=action, hidden=hidden, note="Come back.")
    elements = read(page)
    assert [tag for tag, _ in elements.found if tag == "script"] == []
    assert "script-src" not in policy_of(page)
    assert policy_of(page)["form-action"] == ["'self'", "https:"]
    (form,) = [attributes for tag, attributes in elements.found if tag == "form"]
    assert form == {"method": "post", "action": "/.well-known/rail402/stripe/checkout"}
    inputs = {attributes["name"]: attributes["value"] for tag, attributes in elements.found if tag == "input"}
    assert inputs == hidden
    assert elements.texts["h1"] == "Pay 0.50 USD"
    assert elements.texts["b"] == "shop.example"
    assert elements.texts["code"] == URL


def test_the_returning_page_runs_one_script_that_it_names() -> None:
    page = fetching_page(URL, "Payment abc")
    scripts = re.findall(r"<script( [^>]*)?>(.*?)</script>", page.body.decode(), flags=re.DOTALL)
    (data, told), (bare, script) = scripts
    assert data == ' type="application/json" id="bought"'
    assert json.loads(told) == {"url": URL, "payment": "Payment abc"}
    assert bare == ""
    assert policy_of(page)["script-src"] == [hashed(script)]
    assert policy_of(page)["connect-src"] == ["'self'"]


def test_the_returning_page_s_data_cannot_end_its_element() -> None:
    page = fetching_page("https://shop.example/</script><script>alert(1)", "Payment </script>")
    assert page.body.decode().count("</script>") == 2


def test_without_javascript_there_is_a_command_that_fetches_it() -> None:
    page = fetching_page(URL, "Payment abc")
    command: Any = shlex.split(read(page).texts["code"])
    assert command == ["curl", "-H", "Payment-Authorization: Payment abc", URL]


def test_a_message_has_a_status_and_perhaps_a_way_on() -> None:
    page = message_page("Nothing was paid", "Close it.", status=402, link="/x?a=1&b=2")
    assert page.status == 402
    (link,) = [attributes for tag, attributes in read(page).found if tag == "a"]
    assert link["href"] == "/x?a=1&b=2"
    assert not [tag for tag, _ in read(message_page("a", "b")).found if tag == "a"]
