"""A site whose articles cost something, each on the rail that fits its price.

uvicorn --app-dir examples article_site:app
python examples/agent.py http://127.0.0.1:8000/article/status-codes
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

from rail402 import Charge, Gate
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail

gate = Gate(
    rails=[BaseRail.sandbox(), LightningRail.sandbox(), StripeRail.sandbox()],
    public_url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000"),
    store=os.environ.get("STORE", "sqlite:///charges.db"),
)
app = FastAPI()
gate.install(app)

ARTICLES = {"status-codes": "402 was reserved in 1997.", "invoices": "A preimage is a receipt that nobody can forge."}


@app.get("/")
async def index() -> list[str]:
    return sorted(ARTICLES)


@app.get("/article/{slug}")
@gate.paid("0.003 USD", rails=["base"], description="One article")
async def article(slug: str, charge: Annotated[Charge, Depends(gate.charge)]) -> dict[str, str | None]:
    if slug not in ARTICLES:
        raise HTTPException(404, "no such article")  # an error costs the reader nothing
    return {"text": ARTICLES[slug], "paid_by": charge.payer}


@app.get("/summary/{slug}")
@gate.paid("21 sat", rails=["lightning"], description="A summary")
def summary(slug: str) -> dict[str, str]:
    return {"summary": ARTICLES.get(slug, "nothing to summarise")[:24]}


@app.get("/archive")
@gate.paid("0.50 USD", rails=["stripe"], description="Everything we have written")
async def archive() -> dict[str, str]:
    return ARTICLES
