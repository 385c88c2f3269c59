"""A stranger's text on a terminal: nothing in it is obeyed, and little of it is shown."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from rail402.cli.show import clean, in_sat, new_console, print_json, relative, show_facts, show_rows, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ünï 学", "plain – ünï 学"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07rest", "rest"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("\x1bcreset", "reset"),
        ("a\r\nb\tc", "a  b c"),
        ("pay \u202egnp.exe", "pay gnp.exe"),
        ("zero\u200bwidth\u0000\x7f\x08", "zerowidth"),
        ("\ud800", ""),
        ("[bold]not bold[/]", "[bold]not bold[/]"),
    ],
)
def test_nothing_is_left_that_a_terminal_obeys(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ünï 学\u3000", "plain – ünï 学\u3000"),
        ("one\r\ntwo\n\tthree", "one\ntwo\n\tthree"),
        ("over\rwritten", "over\\rwritten"),
        ("\x1b[31mred\x9b0m\x00\x7f", "\\x1b[31mred\\x9b0m\\x00\\x7f"),
        ("pay \u202egnp.exe\u200b", "pay \\u202egnp.exe\\u200b"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_a_whole_text_keeps_everything_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(), max_size=300))
def test_a_whole_text_commands_no_terminal(text: str) -> None:
    shown = visible(text)
    assert not any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in shown)
    assert len(shown.splitlines()) <= text.count("\n") + 1


@given(st.text(st.characters(), max_size=300))
def test_whatever_comes_is_printable_and_short(text: str) -> None:
    shown = clean(text, 50)
    assert shown.isprintable()
    assert len(shown) <= 51


def test_what_is_long_is_cut_in_the_middle() -> None:
    assert clean("a" * 60 + "end") == "a" * 60 + "end"
    shown = clean("a" * 1000 + "b" * 8)
    assert (len(shown), shown[-9:]) == (597, "…bbbbbbbb")
    assert clean("\x00" * 10_000 + "x") == "…"


def test_what_is_long_takes_no_long_time() -> None:
    assert len(clean("\x1b[" * 5_000_000)) <= 600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (299, "in 4 min 59 s"),
        (3600, "in 1 h"),
        (90_061, "in 1 d 1 h"),
        (-61, "1 min 1 s ago"),
        (10**13, "never"),
        (-(10**13), "never was"),
    ],
)
def test_a_distance_in_time(seconds: int, text: str) -> None:
    assert relative(seconds) == text


def shown(facts: dict[str, object], title: str = "title", now: int = 100) -> str:
    file = io.StringIO()
    show_facts(Console(file=file, width=140), title, facts, now=now)  # with markup on, as consoles are by default
    return file.getvalue()


def test_facts_are_flat_and_without_what_says_nothing() -> None:
    text = shown(
        {
            "none": None,
            "empty": [],
            "no_text": "",
            "expires_at": 160,
            "expires_in_seconds": 60,
            "deep": {"er": {"fact_one": 1}},
            "offers": [{"a": 1}, {"a": 2}],
            "names": ["x", "y"],
            "is_true": True,
        }
    )
    for part in ("in 1 min (160)", "deep · er · fact one", "offer 1 · a", "offer 2 · a", "x, y", "true"):
        assert part in text
    for part in ("none", "empty", "no text", "in seconds"):
        assert part not in text


def test_markup_escapes_and_emoji_codes_of_strangers_are_text() -> None:
    text = shown({"[red]name[/]\x1b[1m": "[link=https://evil.example]here[/] :skull:"}, title="[bold]\x1b[5mtitle")
    assert "[link=https://evil.example]here[/] :skull:" in text
    assert "[red]name[/]" in text
    assert "[bold]title" in text
    assert "\x1b" not in text


def test_many_facts_are_not_all_shown() -> None:
    text = shown({f"fact_{number}": number for number in range(500)})
    assert "there is more" in text
    assert "fact 250" not in text


def test_a_console_is_wide_where_it_is_no_terminal() -> None:
    assert new_console().width >= 140


@given(st.text(st.characters(), max_size=50))
def test_json_is_one_line_of_ascii(text: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_json({"text": text, text: [text]})
    line = out.getvalue().removesuffix("\n")
    assert (line.isprintable(), line.isascii()) == (True, True)
    assert json.loads(line)["text"] in (text, [text])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("4994995 msat of 5000 sat per hour", "4994.995 sat of 5000 sat per hour"),
        ("1 msat", "0.001 sat"),
        ("21 sat and 21010 msat", "21 sat and 21.01 sat"),
        ("2000 msat, 0 msat", "2 sat, 0 sat"),
        ("0.5 msat and x1 msat and 1 msats", "0.5 msat and x1 msat and 1 msats"),
        (f"{'9' * 5000} msat", f"{'9' * 5000} msat"),
    ],
)
def test_people_are_told_sat(text: str, shown: str) -> None:
    assert in_sat(text) == shown


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_ids_of_a_list_are_whole_and_it_obeys_no_markup(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    ids = ["ch_" + "a" * 26, "ch_" + "b" * 26]
    states = ["y", "x" * 110]  # which leaves the ids no room at any of the widths
    rows = [
        [Text(each), Text(state), Text("[red]no[/]"), Text("u" * 120)] for each, state in zip(ids, states, strict=True)
    ]
    show_rows(console, ("charge", "state", "rail", "for"), rows, below=2)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(each in shown for each in ids)
    assert (f"{ids[0]}  y\n  rail: [red]no[/] · {'u' * 120}\n" in shown) is (width < 140)
