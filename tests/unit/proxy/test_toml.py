"""`[proxy]` of a `rail402.toml`: every mistake is named with its file, line and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402.proxy.forwarder import Upstream
from rail402.proxy.toml import proxy_from_toml
from rail402.server.toml import gate_from_toml
from tests.unit.server.shop import Wire

GOOD = """\
[server]
public_url = "http://127.0.0.1:4021"
store = "memory://"
reconcile_seconds = 0

[[rails]]
name = "base"
backend = "sandbox"

[[routes]]
match = "GET /article/{slug}"
price = "0.003 USD"

[proxy]
to = "http://127.0.0.1:3000"
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))

    def writing(old: str = "", new: str = "") -> Path:
        assert old in GOOD
        path = tmp_path / "rail402.toml"
        path.write_text(GOOD.replace(old, new) if old else GOOD + new)
        return path

    return writing


async def test_a_file_makes_a_proxy(write: Write) -> None:
    more = (
        'free = ["GET /article/about"]\nhost = "upstream"\nconnect_seconds = 1\nanswer_seconds = 9\nconnections = 7\n'
    )
    proxy = proxy_from_toml(write(new=more))
    assert proxy.upstream == Upstream(
        to="http://127.0.0.1:3000", host="upstream", connect_seconds=1, answer_seconds=9, connections=7
    )
    async with proxy:
        assert (await Wire(proxy, "/article/402").run()).status == 402
        assert (await Wire(proxy, "/other").run()).status == 404


async def test_what_it_says_when_it_says_little(write: Write) -> None:
    proxy = proxy_from_toml(write('[proxy]\nto = "http://127.0.0.1:3000"\n'), to="http://127.0.0.1:9")
    assert proxy.upstream == Upstream(to="http://127.0.0.1:9")
    async with proxy:
        assert (await Wire(proxy, "/other").run()).status == 404
    await proxy_from_toml(write(), to="http://127.0.0.1:9").__aexit__()


async def test_what_is_not_named_may_pass(write: Write) -> None:
    proxy = proxy_from_toml(write(new='unmatched = "pass"\n'), to="http://127.0.0.1:1")
    async with proxy:
        assert (await Wire(proxy, "/other").run()).status == 502


def test_a_gate_of_the_same_file_does_not_mind(write: Write) -> None:
    gate_from_toml(write())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('to = "http://127.0.0.1:3000"\n', "", r"rail402.toml:14: proxy.to: is missing"),
        (
            "http://127.0.0.1:3000",
            "http://127.0.0.1:3000/",
            r"rail402.toml:14: proxy: to='http://127.0.0.1:3000/' must",
        ),
        ("", 'unmatched = "maybe"\n', r"rail402.toml:16: proxy.unmatched: .*'refuse' or 'pass'"),
        ("", 'host = "theirs"\n', r"rail402.toml:16: proxy.host: .*'public' or 'upstream'"),
        (
            "",
            "answer_seconds = 55\n",
            r"rail402.toml:16: proxy.answer_seconds: .* less than handler_seconds, which is 60",
        ),
        ("", "connect_seconds = 0\n", r"rail402.toml:16: proxy.connect_seconds"),
        ("", "connections = 0\n", r"rail402.toml:16: proxy.connections"),
        ("", 'upstream = "x"\n', r"rail402.toml:16: proxy.upstream: is not known here; known are: answer_seconds, "),
        ("", 'free = ["/x"]\n', r"rail402.toml:14: proxy: '/x': write a method and a path"),
        ("", 'free = ["GET /*"]\n', r"rail402.toml:14: proxy: nothing of /article/\{slug\} is sold"),
        ("{slug}", "{slug:int}", r"rail402.toml:14: proxy: 'GET /article/\{slug:int\}': write the path decoded"),
        ("[proxy]\n", "[[proxy]]\n", r"rail402.toml:14: proxy: "),
        ("[server]\n", "[server]\nhandler_seconds = 35\n", r"less than handler_seconds, which is 35"),
    ],
)
def test_every_mistake_is_named(write: Write, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        proxy_from_toml(write(old, new))
