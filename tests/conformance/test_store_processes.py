"""One store, many processes: a payment still counts once. A store in memory knows that it cannot promise this."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest

from rail402.stores import MemoryStore, open_store
from rail402.stores.base import Claim
from rail402.testing.store_support import make_charge, settled, together

PROCESSES, CLAIMS, USES, TOKENS = 8, 25, 30, 40

# A worker says that it is ready, waits for a line, and does everything at once.
WORKER = f"""
import asyncio, json, sys
from rail402.protocol.charge import Charge
from rail402.stores import TokenBucket, open_store

url, me, template = sys.argv[1], sys.argv[2], Charge.model_validate_json(sys.argv[3])

def make_charge(number):
    return template.model_copy(update={{"id": f"ch_{{me}}_{{number}}", "keys": ("tx:1", f"offer:{{me}}/{{number}}")}})

async def main():
    store = open_store(url)
    await store.start()
    print("ready", flush=True)
    sys.stdin.readline()
    claims = await asyncio.gather(*(store.claim(make_charge(number)) for number in range({CLAIMS})))
    salt = await store.remember("salt", me)
    taken = await asyncio.gather(*(
        store.take_use("ch_pass", f"{{me}} {{number}}", now=0, lease_until=1) for number in range({CLAIMS})
    ))
    leads = [await store.lead("reconciler", me, now=0, seconds=30) for _ in range(3)]
    bucket = TokenBucket(rate=1, burst={TOKENS})
    tokens = await asyncio.gather(*(store.spend("ip", 1, bucket, now=1) for _ in range({CLAIMS})))
    waited = None
    if not any(claim.won for claim in claims):
        unsaved = claims[0].charge.model_copy(update={{"version": 0}})
        waited = (await store.wait(unsaved, timeout=60)).payer
    else:
        won = next(claim.charge for claim in claims if claim.won)
        await store.save(won.model_copy(update={{"payer": "0xpayer"}}))
    await store.close()
    won = [claim.charge.id for claim in claims if claim.won]
    print(json.dumps({{
        "won": won,
        "seen": sorted({{claim.charge.id for claim in claims}}),
        "salt": salt,
        "uses": [charge.uses_taken for charge in taken if charge is not None],
        "leads": leads,
        "tokens": sum(tokens),
        "waited": waited,
    }}))

asyncio.run(main())
"""

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


def run_workers(url: str) -> list[dict[str, Any]]:
    template = make_charge().model_dump_json()
    with ExitStack() as running:
        workers = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, url, str(number), template],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(PROCESSES)
        ]
        for worker in workers:
            running.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]


async def test_of_all_claims_in_all_processes_one_is_won(url: str) -> None:
    store = open_store(url)
    await store.start()
    await store.claim(settled("tx:pass", id="ch_pass", uses=USES))
    await store.close()

    answers = run_workers(url)

    winners = [won for answer in answers for won in answer["won"]]
    assert len(winners) == 1
    assert all(answer["seen"] == winners for answer in answers)
    assert len({answer["salt"] for answer in answers}) == 1
    assert sorted(use for answer in answers for use in answer["uses"]) == list(range(1, USES + 1))
    assert sorted(answer["leads"] for answer in answers) == [[False] * 3] * (PROCESSES - 1) + [[True] * 3]
    assert sum(answer["tokens"] for answer in answers) == TOKENS
    assert [answer["waited"] for answer in answers].count("0xpayer") == PROCESSES - 1
    await store.start()
    assert {charge.id for charge in await store.recent(limit=1000)} == {"ch_pass", *winners}
    await store.close()


async def test_of_all_claims_in_all_tasks_of_one_process_one_is_won() -> None:
    store = MemoryStore()
    claims = await together(PROCESSES * CLAIMS, lambda n: store.claim(make_charge("tx:1", f"offer:{n}")))
    won = [claim.charge.id for claim in claims if isinstance(claim, Claim) and claim.won]
    assert len(won) == 1
    assert [charge.id for charge in await store.recent(limit=1000)] == won


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_store_in_memory_serves_only_the_process_that_made_it() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["refused", "True"]
