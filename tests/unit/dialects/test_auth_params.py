"""Lists of schemes and parameters: what is told apart, what is quoted, and how long hostile ones take."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects.auth_params import Scheme, parse, quote
from rail402.errors import ConfigurationError


def test_tells_schemes_words_and_parameters_apart() -> None:
    assert parse('Bearer abc==, Payment ey-_.~+/9 , L402 AgEE==:beef, Digest a="x, y=z", b=1 , Negotiate') == [
        Scheme("bearer", "abc=="),
        Scheme("payment", "ey-_.~+/9"),
        Scheme("l402", "", [("agee", "=:beef")]),
        Scheme("digest", "", [("a", "x, y=z"), ("b", "1")]),
        Scheme("negotiate"),
    ]


@pytest.mark.parametrize("line", ["", "   ", ",,, ,", '"', "=", '="x"', 'a="x"', "(x)"])
def test_no_scheme(line: str) -> None:
    assert parse(line) == []


def test_only_a_comma_starts_another_scheme() -> None:
    assert [scheme.name for scheme in parse("Custom Payment abc, Other x Payment")] == ["custom", "other"]


def test_tokens_and_values_stay_out_of_the_repr() -> None:
    assert repr(parse("Payment secret, Digest a=hidden")) == "[Scheme(name='payment'), Scheme(name='digest')]"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_what_is_quoted_is_read_back_and_is_ascii(text: str) -> None:
    quoted = quote(text)
    assert quoted.isascii()
    assert parse(f"Payment a={quoted}, b=c") == [Scheme("payment", "", [("a", text), ("b", "c")])]


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert parse(r'P a="x\ud834y", b="\udd1e\ud834", c="\ud834\udd1e"')[0].params == [
        ("a", "x\ufffdy"),
        ("b", "\ufffd\ufffd"),
        ("c", "𝄞"),
    ]


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nSet-Cookie: x", "\0", "\x1b", "\x7f"])
def test_control_characters_are_never_quoted(text: str) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        quote(text)


@given(st.text(st.sampled_from('aP =,"\\\tu01d8.-'), max_size=60))
def test_reads_every_text(text: str) -> None:
    assert all(scheme.name for scheme in parse(text))


HOSTILE = {
    "backslashes": ['Payment a="' + "\\" * 400_000],
    "open texts": ['Payment a="' + 'x, b="' * 60_000, "Payment " + 'a="\\' * 60_000],
    "spaces": [
        "Payment " + " " * 400_000 + "x",
        "Payment a" + " " * 400_000 + "b",
        "P" + " \t" * 200_000 + "=" + "\t" * 9,
    ],
    "words": ["a " * 200_000, "a," * 200_000, "a=" * 200_000, "Payment " + "A" * 400_000 + "!", "=" * 400_000],
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE)
def test_hostile_lines_take_linear_time(lines: list[str]) -> None:
    # 400 kB in well under a second each; anything quadratic would take hours
    started = time.perf_counter()
    for line in lines:
        parse(line)
    assert time.perf_counter() - started < 10
