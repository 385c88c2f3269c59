"""OpenAI's own client at an API that is paid per call: no account and no key, and the payer's limits hold.

pip install openai
uvicorn --app-dir examples chat_api:app
python examples/openai_client.py http://127.0.0.1:8000/v1
"""

import asyncio
import os
import sys
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

from rail402 import Budget, BudgetExceeded, Payer
from rail402_base import BaseWallet
from rail402_lightning import LightningWallet

QUESTION: Any = [{"role": "user", "content": "what does this cost?"}]


def new_payer() -> Payer:
    return Payer(
        [BaseWallet.sandbox(), LightningWallet.sandbox()],
        budget=Budget(per_request=["0.05 USD", "80 sat"], per_hour=["1 USD", "1600 sat"]),
        journal=os.environ.get("JOURNAL", "sqlite:///wallet.db"),
    )


def without_key(request: httpx.Request) -> httpx.Request:
    """Take the key away: nobody asks for one, and some payments travel in its place."""
    request.headers.pop("Authorization", None)
    return request


async def main(base_url: str) -> None:
    async with (
        new_payer() as payer,
        httpx.AsyncClient(transport=payer.transport(), auth=without_key, timeout=60) as paying,
    ):
        chat = AsyncOpenAI(base_url=base_url, api_key="none", http_client=paying).chat.completions

        answer = await chat.with_raw_response.create(model="small", messages=QUESTION)
        print(answer.parse().choices[0].message.content)
        print(f"paid {answer.http_response.extensions['rail402'].price}")

        stream = await chat.create(model="large", messages=QUESTION, max_tokens=100, stream=True)
        async for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print(f"\npaid {stream.response.extensions['rail402'].price}")

        try:
            await chat.create(model="large", messages=QUESTION, max_tokens=4000)
        except BudgetExceeded as error:  # before its version 3, OpenAI's client wraps it in an APIConnectionError
            print(f"refused: {error.code}")


def main_sync(base_url: str) -> None:
    with new_payer() as payer, httpx.Client(transport=payer.sync_transport(), auth=without_key, timeout=60) as paying:
        chat = OpenAI(base_url=base_url, api_key="none", http_client=paying).chat.completions
        for chunk in chat.create(model="small", messages=QUESTION, stream=True):
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    main_sync(sys.argv[1])
