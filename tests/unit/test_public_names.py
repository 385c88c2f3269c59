"""What is public says so, truthfully, and can be imported with nothing installed but the core's own needs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rail402

ROOT = Path(__file__).parents[2]
EXTRAS = ("fastapi", "starlette", "uvicorn", "coincurve", "eth_account", "stripe", "psycopg", "redis", "rich", "typer")
MOST_NAMES = 40


def modules() -> dict[str, Path]:
    """Return every module by name; an empty `__init__.py` has no names to list."""
    found = {}
    for root in (ROOT / "x402", ROOT / "rails"):
        for path in sorted(root.glob("**/*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if path.read_text().strip() and parts[-1] != "__main__":
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def only_says_something(path: Path) -> bool:
    """Say whether the module is a docstring and nothing else."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def in_order(names: list[str]) -> list[str]:
    """Sort as ruff does: constants, classes, functions."""

    def key(name: str) -> tuple[int, str]:
        return (0 if re.fullmatch(r"[A-Z][A-Z0-9_]+", name) else 1 if name[0].isupper() else 2), name

    return sorted(names, key=key)


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if not only_says_something(path)])
def test_public_names_are_listed_in_order_and_are_there(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == in_order(list(set(module.__all__)))
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


def test_the_root_is_small() -> None:
    assert 0 < len(rail402.__all__) <= MOST_NAMES
    assert set(rail402.__all__) <= set(dir(rail402))


def test_the_roots_names_are_those_of_their_homes() -> None:
    for name in rail402.__all__:
        value = getattr(rail402, name)
        assert value is getattr(importlib.import_module(value.__module__), name)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rail402.no_such_name


BARE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def bare(code: str) -> str:
    """Run code where no extra is installed."""
    ran = subprocess.run([sys.executable, "-c", BARE + code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_block_works() -> None:
    for extra in EXTRAS:
        assert bare(f"try:\n    import {extra}\nexcept ModuleNotFoundError:\n    print('blocked')") == "blocked\n"


def test_a_bare_installation_imports() -> None:
    assert bare("import rail402; print(sorted(sys.modules.keys() & set(" + repr(EXTRAS) + ")))") == "[]\n"


IMPORTED = """
import importlib
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(f"{{name}} needs {{error.name}}")
"""


def test_protocol_dialects_stores_and_client_need_no_extra() -> None:
    names = [name for name in MODULES if re.match(r"rail402\.(protocol|dialects|stores|client)\b", name)]
    names = [name for name in names if not re.search(r"\.(postgres|limits_redis)|_postgres$", name)]
    assert len(names) > 20
    assert bare(IMPORTED.format(names=names)) == ""


def test_only_the_servers_names_need_an_extra() -> None:
    code = """
import rail402
for name in rail402.__all__:
    try:
        getattr(rail402, name)
    except ModuleNotFoundError:
        print(name)
"""
    assert set(bare(code).split()) <= {"Gate", "Receipts", "gate_from_toml"}
