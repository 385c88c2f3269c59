"""x402's own library, in its own environment: a server, a client, and a caller of facilitators.

`python x402_official.py '{"do": "serve" | "pay" | "ask", …}'`; what comes of it is one line of JSON.
"""

import asyncio
import json
import sys

import uvicorn
from eth_account import Account
from fastapi import FastAPI
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.clients.httpx import x402HttpxClient
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.x402_http_client import x402HTTPClient
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import ExactEvmServerScheme, register_exact_evm_client
from x402.schemas import parse_payment_payload, parse_payment_requirements

from x402 import x402Client, x402ResourceServer

NETWORK = "eip155:84532"
given = json.loads(sys.argv[1])


def facilitator():
    return HTTPFacilitatorClient(FacilitatorConfig(url=given["facilitator"]))


def serve():
    app = FastAPI()
    server = x402ResourceServer(facilitator())
    server.register(NETWORK, ExactEvmServerScheme())
    accepts = {"scheme": "exact", "network": NETWORK, "payTo": given["payTo"], "price": "$0.003"}
    upfront = {**accepts, "extra": {"paymentFlow": "upfront"}}
    routes = {"GET /article": {"accepts": accepts}, "GET /upfront": {"accepts": upfront}}
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)
    runs = 0

    @app.get("/upfront")
    @app.get("/article")
    async def article():
        nonlocal runs
        runs += 1
        await asyncio.sleep(given.get("seconds", 0))
        return {"run": runs}

    @app.get("/runs")
    async def how_many():
        return {"runs": runs}

    uvicorn.run(app, host="127.0.0.1", port=given["port"])


class ContractSigner(EthAccountSigner):
    """Signs for a contract with its owner's key, and sends along what the contract does not read."""

    address = given.get("contract")

    def sign_typed_data(self, *message):
        return super().sign_typed_data(*message) + b"which owner"


def signer():
    account = Account.from_key(given["key"])
    return ContractSigner(account) if "contract" in given else EthAccountSigner(account)


async def pay():
    client, made = x402Client(), []
    register_exact_evm_client(client, signer())
    client.on_after_payment_creation(lambda context: made.append(context.payment_payload))
    http = x402HTTPClient(client)
    async with x402HttpxClient(http) as session:
        response = await session.get(given["url"])
    settled = http.get_payment_settle_response(response.headers.get)
    said = {"status": response.status_code, "body": response.json(), "payments": len(made)}
    said["settled"] = settled.model_dump(by_alias=True, exclude_none=True)
    said["payment"] = http.encode_payment_signature_header(made[0])
    print(json.dumps(said))


async def ask():
    body, client = given["body"], facilitator()
    requirements = parse_payment_requirements(body["x402Version"], body["paymentRequirements"])
    payload = parse_payment_payload(body["paymentPayload"])
    answers = []
    for call in given["calls"]:
        answer = await getattr(client, call)(payload, requirements)
        answers.append(answer.model_dump(by_alias=True, exclude_none=True))
    kinds = client.get_supported().model_dump(by_alias=True, exclude_none=True)
    print(json.dumps({"answers": answers, "supported": kinds}))


if given["do"] == "serve":
    serve()
else:
    asyncio.run(pay() if given["do"] == "pay" else ask())
