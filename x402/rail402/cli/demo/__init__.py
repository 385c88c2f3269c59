"""`rail402 demo`: a publisher and an agent on play money, and the facts of what happened between them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import stripe

from rail402.cli.demo.agent import Facts, visit
from rail402.cli.demo.publisher import Publisher
from rail402.cli.demo.show import show
from rail402.cli.show import print_json

__all__ = ["run_demo"]


def run_demo(*, as_json: bool) -> bool:
    """Run the demo and print it; say whether all went as it should."""
    stripe.enable_telemetry = False  # the demo leaves nothing behind in the home directory
    with tempfile.TemporaryDirectory(prefix="rail402-demo-") as directory:
        facts = asyncio.run(_run(Path(directory)))
    if as_json:
        print_json(facts.as_json())
    else:
        show(facts)
    return facts.ok


async def _run(directory: Path) -> Facts:
    publisher = Publisher(directory)
    with publisher.serving():
        facts = await visit(publisher.url, directory)
    # The publisher is gone: what follows is verified with nothing but the agent's own journal.
    await facts.verify_receipts(directory)
    await facts.count_money(directory)
    return facts
