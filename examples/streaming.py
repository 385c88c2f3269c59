"""An endpoint that streams its answer word by word, as a language model does. It is paid before the first word leaves.

uvicorn --app-dir examples streaming:app
python examples/agent.py http://127.0.0.1:8000/chat?question=why
"""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from rail402 import Gate
from rail402_lightning import LightningRail

gate = Gate(
    rails=[LightningRail.sandbox()],
    public_url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000"),
    store=os.environ.get("STORE", "sqlite:///charges.db"),
)
app = FastAPI()
gate.install(app)


async def think(question: str) -> AsyncIterator[str]:
    for word in f"You ask {question!r}. Because someone paid for the answer.".split():
        yield f"data: {word}\n\n"
        await asyncio.sleep(0.01)
    yield "event: done\ndata: \n\n"


@app.get("/chat")
@gate.paid("5 sat", description="One answer, streamed")
async def chat(question: str) -> StreamingResponse:
    return StreamingResponse(think(question), media_type="text/event-stream")
