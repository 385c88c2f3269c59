"""An agent with three wallets that pays for whatever it fetches, within its budget.

python examples/agent.py URL [JSON BODY]
"""

import asyncio
import os
import sys

import httpx

from rail402 import Budget, Payer
from rail402_base import BaseWallet
from rail402_lightning import LightningWallet
from rail402_stripe import StripeWallet


async def main(url: str, body: str | None) -> None:
    payer = Payer(
        [BaseWallet.sandbox(), LightningWallet.sandbox(), StripeWallet.sandbox()],
        budget=Budget(per_request=["1 USD", "1000 sat"], per_day=["5 USD", "10000 sat"]),
        journal=os.environ.get("JOURNAL", "sqlite:///wallet.db"),
    )
    async with payer, httpx.AsyncClient(transport=payer.transport()) as client:
        if body is None:
            response = await client.get(url)
        else:
            response = await client.post(url, content=body, headers={"content-type": "application/json"})
        print(response.status_code, response.text)
        purchase = response.extensions.get("rail402")
        if purchase is None:
            print("free")
        else:
            print(f"paid {purchase.price} on {purchase.rail}; receipt {purchase.receipt and purchase.receipt.charge}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
