"""A relayer in a process of its own, which tests kill: `python relayer_process.py`, with its work as JSON on stdin.

It hands all authorizations in at once, and writes a line for each that is mined.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rail402_base.chain import Transfer
from rail402_base.eip3009 import parse_authorization
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.rpc.reader import ChainReader
from rail402_base.tokens import BASE_SEPOLIA_USDC


async def main(work: dict[str, Any]) -> None:
    settings = RelaySettings(**work["settings"])
    reader = ChainReader(work["url"], BASE_SEPOLIA_USDC)
    backend = RpcBackend(reader, work["key"], store=work["store"], settings=settings)
    await backend.start()

    async def hand_in(payload: dict[str, object]) -> None:
        authorization, signature = parse_authorization(payload)
        found = await backend.settle(BASE_SEPOLIA_USDC, authorization, signature)
        if isinstance(found, Transfer):
            sys.stdout.write(f"{found.transaction}\n")
            sys.stdout.flush()

    await asyncio.gather(*map(hand_in, work["payloads"]))
    await backend.close()


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
