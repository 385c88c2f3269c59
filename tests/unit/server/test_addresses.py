"""Who a client is, for limits: its own address, or what a trusted proxy says, and nothing that it says itself."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import ConfigurationError
from rail402.server.addresses import TrustedProxies

PROXY = "10.0.0.1"
BEHIND = TrustedProxies(["10.0.0.0/8", "fd00::/8"])


def scope(peer: Any, *lines: tuple[str, str]) -> dict[str, Any]:
    client = None if peer is None else (peer, 1234)
    return {"client": client, "headers": [(name.encode(), value.encode("latin-1")) for name, value in lines]}


def client(peer: Any, *lines: tuple[str, str], proxies: TrustedProxies = BEHIND) -> str:
    return proxies.client_of(scope(peer, *lines))


def forwarded_for(value: str, peer: str = PROXY) -> str:
    return client(peer, ("x-forwarded-for", value))


def forwarded(value: str, peer: str = PROXY) -> str:
    return client(peer, ("forwarded", value))


class TestPeer:
    @pytest.mark.parametrize(
        ("peer", "known_as"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:0DB8:1:2::", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("testclient", "testclient"),
            ("x" * 100, "x" * 64),
            ("", "local"),
            (None, "local"),
        ],
    )
    def test_is_known_by_its_address(self, peer: Any, known_as: str) -> None:
        assert client(peer) == client(peer, proxies=TrustedProxies()) == known_as

    def test_a_neighbour_in_the_next_64_is_another_client(self) -> None:
        assert client("2001:db8:1:2::1") == client("2001:db8:1:2:ffff::") != client("2001:db8:1:3::1")

    @pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "client-ip"])
    @pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", None])
    def test_without_a_trusted_proxy_no_header_counts(self, name: str, peer: Any) -> None:
        value = "for=203.0.113.9" if name == "forwarded" else "203.0.113.9"
        assert client(peer, (name, value)) == client(peer)
        assert client(PROXY, (name, value), proxies=TrustedProxies()) == PROXY

    def test_other_headers_of_a_trusted_proxy_do_not_count(self) -> None:
        assert client(PROXY, ("x-real-ip", "203.0.113.9")) == PROXY


class TestXForwardedFor:
    @pytest.mark.parametrize(
        ("value", "known_as"),
        [
            ("203.0.113.9", "203.0.113.9"),
            ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
            ("1.1.1.1,203.0.113.9 , 10.1.2.3,\t10.0.0.7", "203.0.113.9"),
            ("203.0.113.9:5555", "203.0.113.9"),
            ("2001:db8::7", "2001:db8::/64"),
            ("[2001:db8::7]:443", "2001:db8::/64"),
            ("[2001:db8::7]", "2001:db8::/64"),
            ("203.0.113.9, fd00::1", "203.0.113.9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
            ("garbage, <script>, 203.0.113.9", "203.0.113.9"),
        ],
    )
    def test_the_right_most_hop_that_is_not_ours_counts(self, value: str, known_as: str) -> None:
        assert forwarded_for(value) == forwarded_for(value, "fd00::5") == known_as

    def test_several_lines_are_one_list(self) -> None:
        lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "10.1.1.1")]
        assert client(PROXY, *lines) == "203.0.113.9"

    @pytest.mark.parametrize(
        "value",
        [
            *(
                "",
                " ",
                ",",
                "203.0.113.9,",
                "unknown",
                "203.0.113.9, unknown",
                "203.0.113",
                "203.0.113.9:port",
                "::1::",
            ),
            *("203.0.113.09", "203.0.113.256", "0x7f.1", "203.0.113.9 1.1.1.1", "[203.0.113.9", "[]", "١.1.1.1"),
            *("203.0.113.9\x00", "1.1.1.1, " * 600 + "203.0.113.9", "203.0.113.9/8"),
        ],
    )
    def test_what_cannot_be_read_counts_for_the_proxy(self, value: str) -> None:
        assert client(PROXY, ("x-forwarded-for", value.encode().decode("latin-1"))) == PROXY

    def test_a_client_cannot_push_its_own_hop_out_of_sight(self) -> None:
        assert forwarded_for("10.1.1.1, " * 40 + "203.0.113.9") == "203.0.113.9"
        assert forwarded_for("1.1.1.1, " * 40 + "203.0.113.9, 10.2.2.2") == "203.0.113.9"


class TestForwarded:
    @pytest.mark.parametrize(
        ("value", "known_as"),
        [
            ("for=203.0.113.9", "203.0.113.9"),
            ("For=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
            ('proto=https ; for="203.0.113.9:1234"', "203.0.113.9"),
            ('for=1.1.1.1, for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::/64"),
            ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::/64"),
            ("for=203.0.113.9, for=10.4.4.4;by=10.0.0.1", "203.0.113.9"),
            ("for=_hidden, for=unknown, for=203.0.113.9", "203.0.113.9"),
            ('for="203.0.113\\.9"', "203.0.113.9"),
            ('for=1.1.1.1;x="a,b;for=2.2.2.2", for=203.0.113.9', "203.0.113.9"),
        ],
    )
    def test_is_read_as_rfc_7239_says(self, value: str, known_as: str) -> None:
        assert forwarded(value) == known_as

    @pytest.mark.parametrize(
        "value",
        [
            *("", "for", "for=", "=1.1.1.1", "for=1.1.1.1,", "for=1.1.1.1;", "for=1.1.1.1 proto=http", "for=a b"),
            *("for=unknown", "for=_hidden", "proto=https", "for=203.0.113.9, proto=https", "for=203.0.113.9, for=_x"),
            *(
                "for=2001:db8::1",
                'for="2001:db8::1',
                "for=1.1.1.1;for=2.2.2.2",
                ",for=1.1.1.1",
                "for=1.1.1.1,,for=2.2.2.2",
            ),
            *('for=9.9.9.9;x="', 'for=9.9.9.9;x=", for=203.0.113.9', 'for=9.9.9.9;x=", for="[2001:db8::1]"'),
            'for=9.9.9.9;x="\\',
        ],
    )
    def test_what_cannot_be_read_counts_for_the_proxy(self, value: str) -> None:
        assert forwarded(value) == PROXY

    def test_both_fields_count_where_they_agree(self) -> None:
        said = ("x-forwarded-for", "203.0.113.9")
        assert client(PROXY, said, ("forwarded", "for=203.0.113.9;proto=https")) == "203.0.113.9"
        for lie in ("for=1.1.1.1", "for=unknown", "nonsense"):  # one of the two is the client's own
            assert client(PROXY, said, ("forwarded", lie)) == PROXY


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "proxy.example", "", "*", "10.0.0.0/8,10.1.0.0/16"])
def test_trusted_proxies_are_networks(network: str) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        TrustedProxies([network])
    assert TrustedProxies(["10.0.0.1"]).client_of(scope("10.0.0.1", ("x-forwarded-for", "1.1.1.1"))) == "1.1.1.1"
