"""stripe-mock, Stripe's own stand-in for its API, and the descriptions of the API that it goes by.

It remembers nothing, and its answers are fixtures. What it is for is that it refuses a request which Stripe's OpenAPI
description does not allow. It has two descriptions: the released one, and one of the previews, which has the addresses
of shared payment tokens. Names of nested parameters it does not check, so that is done here, by the same descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.services import install_root, installed
from tests.services.processes import free_ports, running

__all__ = ["SECRET_KEY", "ApiDescription", "StripeMock", "missing", "stripe_mock"]

SECRET_KEY: Final = "sk_test_mock"

_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class ApiDescription:
    """A stripe-mock, and what it goes by.

    Attributes:
        url: where it answers.
        paths: the OpenAPI description's `paths`.
    """

    url: str
    paths: Mapping[str, Any]

    def path_of(self, path: str) -> str | None:
        """The path of the description that a request's path is one of, `/v1/refunds/{refund}` say; None if none is."""
        if path in self.paths:
            return path
        steps = path.split("/")
        for known in self.paths:
            wanted = known.split("/")
            if len(wanted) == len(steps) and all(map(_is_step, wanted, steps)):
                return known
        return None

    def unknown(self, method: str, path: str, names: Sequence[str]) -> list[str]:
        """Which of these parameters the description does not have: `a`, `a[b]`, `a[0][b]`, as they are in a form."""
        known = self.path_of(path)
        if known is None:
            return list(names)
        operation = self.paths[known].get(method.lower(), {})
        if method == "GET":
            schemas = {each["name"]: each["schema"] for each in operation.get("parameters", ())}
            schema = {"properties": schemas}
        else:
            schema = operation["requestBody"]["content"][_FORM]["schema"]
        return [name for name in names if not _takes(schema, name.replace("]", "").split("["))]


def _is_step(wanted: str, step: str) -> bool:
    return wanted == step or wanted.startswith("{")


def _takes(schema: Mapping[str, Any], keys: Sequence[str]) -> bool:
    if not keys:
        return True
    if "anyOf" in schema:
        return any(_takes(each, keys) for each in schema["anyOf"])
    key, *rest = keys
    if "items" in schema:
        return key.isdigit() and _takes(schema["items"], rest)
    properties = schema.get("properties", {})
    more = schema.get("additionalProperties")
    if key in properties:
        return _takes(properties[key], rest)
    return isinstance(more, Mapping) and _takes(more, rest)


@dataclass(frozen=True, slots=True)
class StripeMock:
    """Both: `released` is what everybody gets, `preview` what Stripe is trying out."""

    released: ApiDescription
    preview: ApiDescription


def missing() -> str | None:
    """Why there is none and what to do about it; None if there is one."""
    if installed("stripe_mock"):
        return None
    return "stripe-mock is not installed: run .ci/run install"


@contextmanager
def stripe_mock(directory: Path) -> Iterator[StripeMock]:
    """Start both, with their logs in `directory`."""
    with ExitStack() as services:
        released = services.enter_context(_serving("released", directory))
        preview = services.enter_context(_serving("preview", directory, "-beta"))
        yield StripeMock(released, preview)


@contextmanager
def _serving(name: str, directory: Path, *options: str) -> Iterator[ApiDescription]:
    folder = install_root() / "stripe_mock"
    # It serves TLS too, on all addresses unless told where.
    http, https = (f"127.0.0.1:{port}" for port in free_ports(2))
    command = [str(folder / "stripe-mock"), "-http-addr", http, "-https-addr", https, *options]
    with running(f"stripe-mock-{name}", command, directory) as process, httpx.Client(trust_env=False) as client:
        asked = {"authorization": f"Bearer {SECRET_KEY}"}
        process.wait_until("HTTP", lambda: client.get(f"http://{http}/v1/balance", headers=asked).is_success)
        described = json.loads((folder / f"{name}.json").read_text())
        yield ApiDescription(f"http://{http}", described["paths"])
