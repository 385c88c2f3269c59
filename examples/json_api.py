"""A JSON API whose price depends on what is asked: one tenth of a cent for each word to translate.

uvicorn --app-dir examples json_api:app
python examples/agent.py http://127.0.0.1:8000/translate '{"text": "good morning"}'
"""

import os
from decimal import Decimal

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from rail402 import Gate, Receipts
from rail402_base import BaseRail

gate = Gate(
    rails=[BaseRail.sandbox()],
    public_url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000"),
    store=os.environ.get("STORE", "sqlite:///charges.db"),
)
app = FastAPI()
gate.install(app)

WORDS = {"good": "guten", "morning": "Morgen", "night": "Nacht"}


class Order(BaseModel):
    text: str


async def price(request: Request) -> str | None:
    """Count the words; a request that is not worth a price is answered before anybody pays."""
    body = await request.json()
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        raise HTTPException(422, 'send {"text": "…"}')
    words = len(body["text"].split())
    return f"{Decimal(words) / 1000} USD" if words else None


@app.post("/translate")
async def translate(order: Order) -> dict[str, str]:
    return {"text": " ".join(WORDS.get(word, word) for word in order.text.split())}


gate.protect("POST /translate", price=price, receipt=Receipts(valid="1h"), description="A translation, by the word")
