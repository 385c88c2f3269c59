from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from rail402.client.rules import Lists, Rule, Subject, host_of, matching_rules, payee_key
from rail402.errors import ConfigurationError, PaymentRefused

SUBJECT = Subject("api.example.com", "0xABcd", "base")


def scopes(*rules: Rule, subject: Subject = SUBJECT) -> list[tuple[str, str]]:
    return [(str(rule), scope) for rule, scope in matching_rules(rules, subject)]


# --- rules


def test_a_rule_is_for_whom_it_names() -> None:
    every = [
        Rule(host="API.Example.com.", per_day="1 USD"),
        Rule(payee="0xabCD", per_day="1 USD"),
        Rule(rail="base", per_day="1 USD"),
    ]
    assert scopes(*every) == [
        ("host api.example.com", "host api.example.com"),
        ("payee 0xabcd", "payee 0xabcd"),
        ("rail base", "rail base"),
    ]
    assert scopes(*every, subject=Subject("example.com", "0xab", "lightning")) == []


def test_a_star_is_each_by_itself_but_for_those_with_a_rule_of_their_own() -> None:
    rules = [Rule(host="*", per_day="2 USD"), Rule(host="api.example.com", per_day="10 USD")]
    assert scopes(*rules) == [("host api.example.com", "host api.example.com")]
    assert scopes(*rules, subject=Subject("b.test", "x", "base")) == [("each host", "host b.test")]


def test_a_rule_for_tools_holds_where_a_tool_is_named() -> None:
    rules = [Rule(tool="*", per_day="2 USD"), Rule(tool="search", per_day="1 USD")]
    for tool, found in {"search": "tool search", "mcp/Search": "each tool", None: None}.items():
        subject = Subject("a.test", "payee", "base", tool)
        assert scopes(*rules, subject=subject) == ([(found, f"tool {tool}")] if found else [])


@pytest.mark.parametrize(
    ("options", "because"),
    [
        ({"per_day": "1 USD"}, "one host, payee, rail or tool"),
        ({"host": "", "per_day": "1 USD"}, "one host, payee, rail or tool"),
        ({"host": "a.test", "rail": "base", "per_day": "1 USD"}, "one host, payee, rail or tool"),
        ({"rail": "base", "tool": "search", "per_day": "1 USD"}, "one host, payee, rail or tool"),
        ({"tool": "a b", "per_day": "1 USD"}, "cannot name a tool"),
        ({"tool": "x" * 65, "per_day": "1 USD"}, "cannot name a tool"),
        ({"host": "a.test"}, "sets no limit"),
        ({"host": "a.test", "per_day": []}, "sets no limit"),
        ({"host": "*.a.test", "per_day": "1 USD"}, "is not the name of a host"),
        ({"host": "a.test", "per_day": "one"}, "one"),
    ],
)
def test_a_rule_that_cannot_be_meant(options: dict[str, Any], because: str) -> None:
    with pytest.raises(ConfigurationError, match=because):
        Rule(**options)


# --- names


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("https://API.example.com:8443", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("http://[::1]:80", "::1"),
        ("127.0.0.1:80", "127.0.0.1"),
    ],
)
def test_a_host_is_compared_in_one_form(given: str, host: str) -> None:
    assert host_of(given) == host


@pytest.mark.parametrize("given", ["", "https://", "a b", "*", "a.*.test", "me@a.test", "https://a.test:x"])
def test_what_is_no_host(given: str) -> None:
    with pytest.raises(ConfigurationError, match="not the name of a host"):
        host_of(given)


def test_only_addresses_are_the_same_in_either_case() -> None:
    assert payee_key("0xAB") == payee_key("0Xab") == "0xab"
    assert payee_key("profile_Ab") == "profile_Ab"


# --- lists


def lists(**options: Any) -> Lists:
    return Lists.read(**({"allow_hosts": None, "deny_hosts": (), "allow_payees": None, "deny_payees": ()} | options))


def allowed(rules: Lists, *hosts: str) -> list[str]:
    found = []
    for host in hosts:
        with suppress(PaymentRefused):
            rules.check_host(host)
            found.append(host)
    return found


def test_without_lists_everybody_is_paid() -> None:
    lists().check_host("a.test")
    lists().check_payee("anybody")


def test_a_list_of_allowed_hosts_is_all_there_is() -> None:
    rules = lists(allow_hosts=["a.test", "*.example.com"])
    hosts = ["a.test", "A.TEST.", "b.a.test", "api.example.com", "x.y.example.com", "example.com", "badexample.com"]
    assert allowed(rules, *hosts) == ["a.test", "A.TEST.", "api.example.com", "x.y.example.com"]
    assert allowed(lists(allow_hosts=[]), "a.test") == []
    assert allowed(lists(allow_hosts="a.test"), "a.test", "t") == ["a.test"], "one name is a list of one"


def test_denying_wins() -> None:
    rules = lists(allow_hosts="*.example.com", deny_hosts=["evil.example.com", "*.ads.example.com"])
    assert allowed(rules, "evil.example.com", "EVIL.example.com.", "x.ads.example.com", "ads.example.com") == [
        "ads.example.com"
    ]
    with pytest.raises(PaymentRefused, match="take it off deny_hosts") as caught:
        rules.check_host("evil.example.com:444")
    assert caught.value.code == "not_allowed"
    with pytest.raises(PaymentRefused, match="add it to allow_hosts"):
        rules.check_host("other.test")


def test_payees() -> None:
    rules = lists(allow_payees=["0xAA", "0xbb"], deny_payees="0xBB")
    rules.check_payee("0xaa")
    for payee, fix in [("0xbb", "take it off deny_payees"), ("0xcc", "add it to allow_payees")]:
        with pytest.raises(PaymentRefused, match=fix) as caught:
            rules.check_payee(payee)
        assert caught.value.code == "not_allowed"
