"""Configuration files: where a mistake is, and where secrets come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from rail402 import config
from rail402.config import Secret, TomlFile, resolve_secret, resolve_store_url
from rail402.errors import ConfigurationError
from rail402.protocol.base import Record


class Table(Record):
    """A table with one of each."""

    name: str = ""
    count: int = Field(0, ge=0)
    rates: dict[str, str] = Field(default_factory=dict)
    key: Secret | None = None


def toml(tmp_path: Path, text: str | bytes) -> TomlFile:
    path = tmp_path / "a.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TomlFile(path)


# --- secrets


def test_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_TEST", "s3cr3t")
    assert resolve_secret("env:RAIL402_TEST") == "s3cr3t"
    assert resolve_secret(SecretStr("s3cr3t")) == "s3cr3t"
    monkeypatch.setenv("RAIL402_TEST", "")
    with pytest.raises(ValueError, match="RAIL402_TEST is not set"):
        resolve_secret("env:RAIL402_TEST")


def test_a_secret_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("  s3cr3t\n")
    assert resolve_secret(f"file:{tmp_path}/key") == "s3cr3t"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_secret("file:~/key") == "s3cr3t"
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        resolve_secret(f"file:{tmp_path}/empty")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for target in (f"{tmp_path}/none", str(tmp_path), f"{tmp_path}/binary", "~nobody-of-that-name/key"):
        with pytest.raises(ValueError, match="cannot be read"):
            resolve_secret(f"file:{target}")


@pytest.mark.parametrize("value", ["s3cr3t", "", "env:", "file:", "ENV:X", "env", 7, ["env:X"], b"env:X"])
def test_a_secret_is_never_written_as_itself(value: object) -> None:
    with pytest.raises(ValueError, match="env:NAME or file:PATH") as raised:
        resolve_secret(value)
    assert "s3cr3t" not in str(raised.value)
    with pytest.raises(ValidationError) as invalid:
        Table(key=value)  # type: ignore[arg-type]
    assert "s3cr3t" not in str(invalid.value)


@pytest.mark.parametrize(
    "url", ["memory://", "sqlite:///charges.db", "postgresql://user@db:5432/charges?sslmode=require"]
)
def test_a_store_without_a_password_is_written_as_itself(url: str) -> None:
    assert resolve_store_url(url) == url


@pytest.mark.parametrize("url", ["postgresql://u:s3cr3t@db/charges", "postgresql://db/charges?user=u&password=s3cr3t"])
def test_a_store_with_a_password_is_written_by_reference(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="env:NAME or file:PATH") as raised:
        resolve_store_url(url)
    assert "s3cr3t" not in str(raised.value)
    monkeypatch.setenv("RAIL402_TEST", url)
    assert resolve_store_url("env:RAIL402_TEST") == url
    with pytest.raises(ValueError, match="RAIL402_NONE is not set"):
        resolve_store_url("env:RAIL402_NONE")
    assert resolve_store_url(7) == 7


# --- files


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigurationError, match=r"cannot be read: \w+"):
            TomlFile(path)
    monkeypatch.setattr(config, "MAX_FILE", 10)
    with pytest.raises(ConfigurationError, match="larger than 10 bytes"):
        toml(tmp_path, "#" * 11)


@pytest.mark.parametrize("text", ["a", "a = ", "[a", "a = 1\na = 2", b"\xff = 1", '[a]\nb = "s3cr3t', "a = 1979-13-01"])
def test_what_is_not_toml(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match="not valid TOML") as raised:
        toml(tmp_path, text)
    assert "s3cr3t" not in str(raised.value)


# --- tables


def test_a_table_is_validated(tmp_path: Path) -> None:
    file = toml(tmp_path, 'name = "top"\n[one]\nname = "x"\nother = 1\n[[many]]\ncount = 1\n[[many]]\ncount = 2\n')
    assert file.table(Table, "one", ignore=["other"]) == Table(name="x")
    assert file.table(Table, "many", 1).count == 2
    assert file.table(Table, "none") == Table()
    assert [table["count"] for table in file.tables("many")] == [1, 2]
    assert file.tables("none") == []
    with pytest.raises(ConfigurationError, match=r"a\.toml:1: name: must be a table"):
        file.table(Table, "name")
    for name in ("name", "one"):
        with pytest.raises(ConfigurationError, match=rf"{name}: must be tables: write \[\[{name}\]\]"):
            file.tables(name)


def test_a_table_that_checks_itself_names_its_place(tmp_path: Path) -> None:
    class Checked(Record):
        def model_post_init(self, _: object) -> None:
            raise ConfigurationError("does not fit together")

    with pytest.raises(ConfigurationError, match=r"a\.toml:2: one: does not fit together"):
        toml(tmp_path, "# first\n[one]\n").table(Checked, "one")


@pytest.mark.parametrize(
    ("text", "where", "line"),
    [
        ("name = 1", ("name",), 1),
        ("# a\n\nname = 1", ("name",), 3),
        ("[one]\nname = 1", ("one", "name"), 2),
        ("[one]\ncount = 0\n\n  name = 1", ("one", "name"), 4),
        ('[one]\n"name" = 1', ("one", "name"), 2),
        ("[one]\n'name'=1", ("one", "name"), 2),
        ("[ one ]\nname = 1", ("one", "name"), 2),
        ("[two]\nname = 'x'\n[one]\nname = 1", ("one", "name"), 4),
        ("[one]\n[two]\nname = 'x'", ("one", "name"), 1),
        ("[[many]]\nname = 'x'\n[[many]]\nname = 1", ("many", 1, "name"), 4),
        ("[[many]]\nname = 'x'\n[[many]]\ncount = 1", ("many", 1, "name"), 3),
        ("[one.two]\nname = 1", ("one", "two", "name"), 2),
        ("[one]\n[one.two]\nname = 1", ("one", "two", "name"), 3),
        ('[one]\nrates = { "a/b" = 1 }', ("one", "rates", "a/b"), 2),
        ('[one]\n[one.rates]\n"a/b" = 1', ("one", "rates", "a/b"), 3),
        ("one.name = 1", ("one", "name"), 1),
        ("x = 1\none = { name = 1 }", ("one", "name"), 2),
        ("many = [1, 2]", ("many", 1), 1),
        ("[one]\nnames = 'x'\nname.x = 1", ("one", "name"), 3),
        ("", ("one", "name"), 1),
        ("x = 1", (), 1),
    ],
)
def test_the_line_of_a_mistake(tmp_path: Path, text: str, where: tuple[str | int, ...], line: int) -> None:
    error = toml(tmp_path, text).error(where, "is wrong")
    assert error.detail == f"{tmp_path}/a.toml:{line}: {'.'.join(map(str, where))}: is wrong"


def test_what_is_wrong_is_said_with_what_is_allowed(tmp_path: Path) -> None:
    class Needs(Record):
        wanted: int

    cases: list[tuple[type[Record], str, str]] = [
        (Table, "[one]\nnam = 1", r":2: one\.nam: is not known here; known are: count, key, name, rates"),
        (Needs, "[one]", r":1: one\.wanted: is missing"),
        (Table, "[one]\ncount = -1", r":2: one\.count: .*greater than or equal to 0"),
        (Table, "[one]\nkey = 's3cr3t'", r":2: one\.key: write a secret as env:NAME"),
    ]
    for model, text, says in cases:
        with pytest.raises(ConfigurationError, match=says) as raised:
            toml(tmp_path, text).table(model, "one")
        assert "s3cr3t" not in str(raised.value)
