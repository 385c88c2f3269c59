"""A store in memory knows that it is not shared. What shared ones promise to processes is in the kit for stores."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKED = """
import asyncio, os
from rail402.errors import ConfigurationError
from rail402.stores import MemoryStore
from rail402.testing.stores import make_charge

async def main():
    store = MemoryStore()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    try:
        print((await store.claim(make_charge("tx:1"))).won, flush=True)
    except ConfigurationError:
        print("refused", flush=True)
    if not child:
        os._exit(0)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_store_in_memory_serves_only_the_process_that_made_it() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["refused", "True"]
