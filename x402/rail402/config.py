"""Configuration files: read, every key checked, secrets only by reference.

An error names the file, the line, the key and what is allowed there. A secret is written as `env:NAME` or `file:PATH`
and never stands in the file itself.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, SecretStr, ValidationError, ValidationInfo

from rail402.errors import ConfigurationError
from rail402.protocol.base import Record

__all__ = ["Secret", "StoreBesideUrl", "StoreUrl", "TomlFile", "resolve_secret", "resolve_store_url", "revealed"]

R = TypeVar("R", bound=Record)

MAX_FILE = 1 << 20


def resolve_secret(value: object) -> str:
    """Return the secret that `env:NAME` or `file:PATH` refers to.

    Raises:
        ValueError: it is no reference, or there is nothing at its end; the text says which, without the value.
    """
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    kind, _, target = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == "env" and target:
        found = os.environ.get(target)
        if not found:
            raise ValueError(f"the environment variable {target} is not set")
        return found
    if kind == "file" and target:
        try:
            found = Path(target).expanduser().read_text().strip()
        except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: ~ of nobody
            raise ValueError(f"the file {target} cannot be read") from error
        if not found:
            raise ValueError(f"the file {target} is empty")
        return found
    raise ValueError("write a secret as env:NAME or file:PATH, never as itself")


def revealed(secret: SecretStr | None) -> str | None:
    """Return a secret as text, None where there is none."""
    return None if secret is None else secret.get_secret_value()


Secret = Annotated[SecretStr, BeforeValidator(resolve_secret)]
"""A secret in a configuration model: given by reference, hidden in every repr."""


def resolve_store_url(value: object) -> object:
    """Return the URL of a store: the value itself, or what it refers to as `env:DATABASE_URL` or `file:PATH`.

    Raises:
        ValueError: it has a password in it, or there is nothing at the reference's end; the text repeats neither.
    """
    if not isinstance(value, str):
        return value
    if value.startswith(("env:", "file:")):
        return resolve_secret(value)
    if re.match(r"[a-z]+://[^/@]*:[^/]*@", value) or "password=" in value:
        raise ValueError("a URL with a password is a secret: write it as env:NAME or file:PATH, never as itself")
    return value


StoreUrl = Annotated[str, BeforeValidator(resolve_store_url)]
"""The URL of a store in a configuration model: as itself or by reference. The field is to say `repr=False`."""


def _resolve_beside(value: object, info: ValidationInfo) -> object:
    url, folder = resolve_store_url(value), (info.context or {}).get("folder")
    if not isinstance(url, str) or folder is None or not url.startswith("sqlite:///"):
        return url
    return f"sqlite:///{folder / url.removeprefix('sqlite:///')}"  # where the name is absolute, it stays what it is


StoreBesideUrl = Annotated[str, BeforeValidator(_resolve_beside)]
"""The same, where a relative file is beside the configuration file: it is one and the same wherever a command is run.
The field is to say `validate_default=True` as well."""


class TomlFile:
    """One TOML file.

    Args:
        path: where it is.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML; with the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if self.path.stat().st_size > MAX_FILE:
                raise ConfigurationError(f"{path}: is larger than {MAX_FILE} bytes")
            self.text = self.path.read_text(encoding="utf-8")
            self.data = tomllib.loads(self.text)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: is not valid TOML: {error}") from error

    def table(self, model: type[R], *where: str | int, ignore: Sequence[str] = ()) -> R:
        """Validate one table against a model.

        Args:
            where: the path of the table, such as `"rails", 0`; empty for the whole file.
            ignore: keys that somebody else reads.

        Raises:
            ConfigurationError: with file, line, key and what is allowed.
        """
        table: Any = self.data
        for part in where:
            table = table[part] if isinstance(part, int) else table.get(part, {})
        if not isinstance(table, Mapping):
            raise self.error(where, "must be a table")
        try:
            given = {key: value for key, value in table.items() if key not in ignore}
            return model.model_validate(given, context={"folder": self.path.absolute().parent})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise self.error((*where, *first["loc"]), _explain(model, first, where)) from error
        except ConfigurationError as error:
            raise self.error(where, error.detail) from error

    def tables(self, name: str) -> list[dict[str, Any]]:
        """Return the array of tables `[[name]]`, as they stand."""
        tables = self.data.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self.error((name,), f"must be tables: write [[{name}]]")
        return tables

    def error(self, where: Sequence[str | int], detail: str) -> ConfigurationError:
        """Return an error about a key of this file, with its line."""
        name = ".".join(str(part) for part in where)
        return ConfigurationError(f"{self.path}:{self._line(where)}: {name}: {detail}")

    def _line(self, where: Sequence[str | int]) -> int:
        """Return the line of the key, or of what is nearest to where it should be."""
        lines, path, start, line = self.text.splitlines(), "", 0, 1
        for position, part in enumerate(where):
            if isinstance(part, int):
                continue
            path = f"{path}.{part}" if path else part
            index = next((after for after in where[position + 1 : position + 2] if isinstance(after, int)), 0)
            header = re.compile(rf"\s*\[\[?\s*{re.escape(path)}\s*\]")
            headers = [number for number, text in enumerate(lines) if header.match(text)]
            if index < len(headers):
                start = headers[index]
                line = start + 1
            else:
                line = _key_line(lines, start, part) or line
        return line


def _key_line(lines: Sequence[str], start: int, key: str) -> int | None:
    """Return the line of a key in the table whose header is at `start`."""
    assignment = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]")
    for number in range(start, len(lines)):
        if number > start and lines[number].lstrip().startswith("["):
            break
        if assignment.match(lines[number]):
            return number + 1
    return None


def _explain(model: type[Record], error: Any, where: Sequence[str | int]) -> str:
    if error["type"] == "extra_forbidden":
        return f"is not known here; known are: {', '.join(sorted(model.model_fields))}"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "list_type":
        names = [part for part in (*where, *error["loc"]) if isinstance(part, str)]
        is_table = isinstance(error["input"], Mapping)  # all that is looked at: it may be a secret
        form = f"[[{'.'.join(names)}]]" if is_table else f"{names[-1]} = […]"
        return f"{error['msg']}: write {form}"
    return str(error["msg"]).removeprefix("Value error, ")
