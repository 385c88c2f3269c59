"""A model behind the API that OpenAI's clients speak, paid per call and without an account: `small` has one price,
`large` is priced by the most that it may say (`max_tokens`). The model itself is a stand-in that echoes the question.

uvicorn --app-dir examples chat_api:app
python examples/openai_client.py http://127.0.0.1:8000/v1
"""

import json
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from rail402 import FixedRates, Gate
from rail402_base import BaseRail
from rail402_lightning import LightningRail

gate = Gate(
    rails=[BaseRail.sandbox(), LightningRail.sandbox()],
    public_url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000"),
    store=os.environ.get("STORE", "sqlite:///charges.db"),
    rates=FixedRates({"BTC/USD": "60000"}),
)
app = FastAPI()
gate.install(app)

PER_TOKEN = {"large": Decimal("0.00003")}  # USD
PER_CALL = {"small": Decimal("0.002")}


class Message(BaseModel):
    role: str
    content: str


class Ask(BaseModel):
    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(256, gt=0, le=4096)
    stream: bool = False


async def price(request: Request) -> str:
    """Price what is asked for; what could not be answered is refused before anybody pays."""
    ask = Ask.model_validate(await request.json())
    if ask.model in PER_CALL:
        return f"{PER_CALL[ask.model]} USD"
    if ask.model not in PER_TOKEN:
        raise HTTPException(404, f"there is no model {ask.model!r}")
    return f"{PER_TOKEN[ask.model] * ask.max_tokens} USD"


def think(ask: Ask) -> list[str]:
    """Return the answer's tokens, of which a stand-in makes no more than it may."""
    return f"You said: {ask.messages[-1].content}".split(" ")[: ask.max_tokens]


def said(ask: Ask, kind: str, **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 0,
        "model": ask.model,
        "choices": [{"index": 0, "finish_reason": None, **choice}],
    }


async def stream(ask: Ask) -> AsyncIterator[str]:
    for word in think(ask):
        yield f"data: {json.dumps(said(ask, 'chat.completion.chunk', delta={'content': f'{word} '}))}\n\n"
    yield f"data: {json.dumps(said(ask, 'chat.completion.chunk', delta={}, finish_reason='stop'))}\n\n"
    yield "data: [DONE]\n\n"


@app.post("/v1/chat/completions", response_model=None)
async def chat(ask: Ask) -> dict[str, Any] | StreamingResponse:
    if ask.stream:
        return StreamingResponse(stream(ask), media_type="text/event-stream")
    words = think(ask)
    message = {"role": "assistant", "content": " ".join(words)}
    usage = {"prompt_tokens": 0, "completion_tokens": len(words), "total_tokens": len(words)}
    return said(ask, "chat.completion", message=message, finish_reason="stop") | {"usage": usage}


gate.protect("POST /v1/chat/completions", price=price, description="One answer of a model")
