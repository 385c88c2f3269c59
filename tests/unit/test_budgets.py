"""What keeps the code small and honest, measured. An exception is a line here, with its reason."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*ROOT.glob("x402/**/*.py"), *ROOT.glob("rails/**/*.py")])

MODULE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 8  # of all kinds; `self` and `cls` are not passed by a caller

CLOCKS = {
    *("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"),
}
CLOCK_MODULE = "x402/rail402/clock.py"

# Where a number with a point is not money.
FLOATS = {
    "rails/rail402_lightning/backends/lnbits.py": "seconds between looks",
    "rails/rail402_lightning/minting.py": "seconds between invoices",
    "rails/rail402_lightning/sandbox.py": "seconds between looks",
    "rails/rail402_stripe/api.py": "seconds until a time-out",
    "rails/rail402_stripe/client.py": "seconds until a time-out",
    "x402/rail402/protocol/base.py": "a peer's JSON number, to see whether it is finite",
    "x402/rail402/stores/postgres.py": "seconds until a time-out, seconds between looks",
    "x402/rail402/stores/postgres_database.py": "seconds until a time-out",
    "x402/rail402/stores/sqlite.py": "seconds until a time-out",
    "x402/rail402/stores/sqlite_file.py": "seconds between tries",
    "x402/rail402/testing/store_charges.py": "seconds to wait",
    "x402/rail402/testing/store_workers.py": "tokens a second, and parts of a second",
}

# (module, function, exception): why it is not one of ours.
BUILTIN_RAISES = {
    ("x402/rail402/cli/__init__.py", "main", "SystemExit"): "the exit code of a command",
    ("x402/rail402/cli/app.py", "run", "SystemExit"): "the exit code of a command",
    ("x402/rail402/client/requests.py", "_Unrepeatable.__iter__", "AssertionError"): "a bug: nothing reads it",
    ("x402/rail402/client/toml.py", "_Budget._check", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/client/toml.py", "_check_texts", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/config.py", "resolve_secret", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/config.py", "resolve_store_url", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/protocol/base.py", "_no_duplicates", "ValueError"): "what a hook of json.loads raises; translated",
    ("x402/rail402/protocol/base.py", "_no_constants", "ValueError"): "what a hook of json.loads raises; translated",
    ("x402/rail402/protocol/base.py", "_finite", "ValueError"): "what a hook of json.loads raises; translated",
    ("x402/rail402/protocol/base.py", "_in_order", "ValueError"): "for `canonical_json` alone",
    ("x402/rail402/protocol/base.py", "Record.model_copy", "TypeError"): "a misspelt field: a bug in the caller",
    ("x402/rail402/server/toml.py", "_Limits._check", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/server/toml.py", "_Route._check", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/server/toml.py", "_Server._check", "ValueError"): "what pydantic turns into the field's error",
    ("x402/rail402/stores/sql/__init__.py", "parse_queries", "ValueError"): "a bug in a .sql file of ours",
    ("x402/rail402/testing/fault_websockets.py", "_Spoilt.__aenter__", "ConnectionRefusedError"): "what is played",
    ("x402/rail402/testing/fault_websockets.py", "_Spoilt.__aenter__", "TimeoutError"): "what is played",
    ("x402/rail402/testing/rail_till.py", "RailCases.open_bench", "NotImplementedError"): "a kit without a rail",
    ("x402/rail402/testing/store_support.py", "StoreCases.open_store", "NotImplementedError"): "a kit without a store",
    ("x402/rail402/testing/virtual_time.py", "_Jumping.select", "RuntimeError"): "a test that would wait for ever",
    ("rails/rail402_lightning/bolt11.py", "_field", "ValueError"): "an invoice of our own that cannot be encoded",
    ("rails/rail402_lightning/bolt11.py", "_hop_bytes", "ValueError"): "an invoice of our own that cannot be encoded",
    ("rails/rail402_lightning/bolt11.py", "_check_encodable", "ValueError"): "an invoice of our own, wrongly made",
}


def is_asked_for(module: str, function: str, exception: str) -> bool:
    """Say whether a protocol of Python or of pydantic wants just this exception, in any module."""
    if function == "__getattr__":  # of a module (PEP 562)
        return exception == "AttributeError"
    # A validator's, which pydantic turns into the error of the field.
    return module.startswith("rails/") and module.endswith("/config.py") and exception == "ValueError"


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method with its place."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(node: ast.AST, prefix: str = "") -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(prefix + child.name, child)
            yield from functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def parameters(function: Function) -> int:
    arguments = function.node.args
    named = [*arguments.posonlyargs, *arguments.args]
    if "." in function.name and named and named[0].arg in ("self", "cls"):
        named = named[1:]
    return len([*named, *arguments.kwonlyargs, *filter(None, [arguments.vararg, arguments.kwarg])])


def broad_excepts(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        caught: Sequence[ast.expr | None]
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
            caught = node.args
        else:
            continue
        if any(each is None or ast.unparse(each) in ("Exception", "BaseException") for each in caught):
            yield node.lineno


def floats(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.Call):
            called = isinstance(node, ast.Call) and ast.unparse(node.func) == "float"
            if called or (isinstance(node, ast.Constant) and isinstance(node.value, float)):
                yield node.lineno


def clocks(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in CLOCKS:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{alias.name}" for alias in node.names if f"time.{alias.name}" in CLOCKS)


def builtin_raises(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for function in functions(tree):
        inner = {id(node) for each in functions(function.node) for node in ast.walk(each.node)}
        for node in ast.walk(function.node):
            if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in inner:
                raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                found = getattr(builtins, ast.unparse(raised), None)
                if isinstance(found, type) and issubclass(found, BaseException):
                    yield function.name, found.__name__


def test_there_is_something_to_measure() -> None:
    assert len(MODULES) > 50
    assert sum(1 for path in MODULES for _ in functions(parse(path))) > 500


@pytest.mark.parametrize("path", MODULES, ids=name_of)
class TestBudgets:
    def test_a_module_is_read_in_one_sitting(self, path: Path) -> None:
        assert path.read_text().count("\n") <= MODULE_LINES

    def test_a_function_fits_a_screen(self, path: Path) -> None:
        sizes = {each.name: int(each.node.end_lineno or 0) - each.node.lineno + 1 for each in functions(parse(path))}
        assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}

    def test_a_function_takes_few_parameters(self, path: Path) -> None:
        counts = {each.name: parameters(each) for each in functions(parse(path))}
        assert {name: count for name, count in counts.items() if count > PARAMETERS} == {}

    def test_no_exception_is_caught_that_nobody_thought_of(self, path: Path) -> None:
        assert list(broad_excepts(parse(path))) == []

    def test_no_number_with_a_point_is_money(self, path: Path) -> None:
        assert name_of(path) in FLOATS or list(floats(parse(path))) == []

    def test_the_time_comes_from_the_clock(self, path: Path) -> None:
        assert name_of(path) == CLOCK_MODULE or list(clocks(parse(path))) == []

    def test_what_is_raised_is_ours(self, path: Path) -> None:
        found = {(name_of(path), *raised) for raised in builtin_raises(parse(path))}
        assert {each for each in found - BUILTIN_RAISES.keys() if not is_asked_for(*each)} == set()


def test_every_exception_is_still_one() -> None:
    with_floats = {name_of(path) for path in MODULES if list(floats(parse(path)))}
    raised = {(name_of(path), *each) for path in MODULES for each in builtin_raises(parse(path))}
    assert FLOATS.keys() - with_floats == set()
    assert BUILTIN_RAISES.keys() - raised == set()
    assert list(clocks(parse(ROOT / CLOCK_MODULE)))


class TestTheMeasures:
    def test_parameters_of_all_kinds(self) -> None:
        (method,) = functions(ast.parse("class A:\n    def f(self, a, /, b, *c, d, **e): ..."))
        assert (method.name, parameters(method)) == ("A.f", 5)
        (function,) = functions(ast.parse("def f(self, a): ..."))
        assert parameters(function) == 2

    @pytest.mark.parametrize(
        "source",
        [
            "try: f()\nexcept: pass",
            "try: f()\nexcept Exception as error: pass",
            "try: f()\nexcept (ValueError, BaseException): pass",
            "with suppress(Exception): f()",
        ],
    )
    def test_broad_excepts(self, source: str) -> None:
        assert list(broad_excepts(ast.parse(source)))

    def test_narrow_excepts(self) -> None:
        source = "try: f()\nexcept (OSError, errors.Exception): pass\nwith suppress(ValueError): f()"
        assert not list(broad_excepts(ast.parse(source)))

    def test_floats(self) -> None:
        assert list(floats(ast.parse("a = 0.1\nb = float('1')\nc = 1\nd: float"))) == [1, 2]

    def test_clocks(self) -> None:
        assert set(clocks(ast.parse("time.time()\nfrom time import time_ns\ndatetime.now(UTC)\ntime.monotonic()"))) == {
            "time.time",
            "time.time_ns",
            "datetime.now",
        }

    def test_builtin_raises(self) -> None:
        source = """
class A:
    def f(self):
        def g():
            raise KeyError
        raise ValueError("x")
    def h(self):
        raise Ours("x")
        raise
"""
        assert sorted(builtin_raises(ast.parse(source))) == [("A.f", "ValueError"), ("A.f.g", "KeyError")]
