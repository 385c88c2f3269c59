"""pympp pays once: `python pympp_client.py '{"url", "bank", "method", "key", "token", "body"}'`.

With a `tool`, it pays for that, over MCP, and shows the payment again.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import sys
from datetime import datetime

import httpx
from mpp import Credential
from mpp.client import ClientMethod, Method, Mpp
from mpp.methods.evm import client as evm
from mpp.methods.stripe import client as stripe
from pydantic import BaseModel, ConfigDict

given = json.loads(sys.argv[1])


async def create_token(asked):
    limits = {"currency": asked.currency, "max_amount": asked.amount, "expires_at": str(asked.expires_at)}
    form = {f"usage_limits[{name}]": value for name, value in limits.items()}
    form |= {"payment_method": asked.payment_method, "seller_details[network_id]": asked.network_id}
    async with httpx.AsyncClient(headers={"Authorization": "Bearer sk_test_peer"}) as client:
        response = await client.post(f"{given['bank']}/v1/test_helpers/shared_payment/granted_tokens", data=form)
        return response.raise_for_status().json()["id"]


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


async def sign(params):
    """Pay with a method of our own: the payer signs the terms with a secret that it shares with its bank."""
    challenge = params.challenge
    request = challenge.request
    valid_before = int(datetime.fromisoformat(challenge.expires).timestamp())
    terms = {
        "payer": "pympp",
        "payee": request["recipient"],
        "network": "fake:fake",
        "asset": request["currency"],
        "amount": request["amount"],
        "nonce": secrets.token_hex(32),
    }
    text = "\n".join([*terms.values(), str(valid_before)])
    signature = hmac.digest(given["key"].encode(), text.encode(), hashlib.sha256).hex()
    payload = {**terms, "valid_before": valid_before, "signature": signature}
    return Credential(challenge=challenge.to_echo(), payload=payload).to_authorization()


def method():
    match given["method"]:
        case "stripe":
            return stripe.charge(create_token=create_token, payment_method="pm_card_visa")
        case "evm":
            from eth_account import Account

            token = given["token"]
            return evm.charge(
                currency=token["address"],
                chain_id=token["chainId"],
                decimals=token["decimals"],
                authorization={"name": token["name"], "version": token["version"]},
                account=Account.from_key(given["key"]),
            )
        case "fake":
            definition = Method(name="fake", intent="charge", request_model=Loose, payload_model=Loose)
            return ClientMethod(method=definition, create_credential=sign)


async def call_tool():
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client
    from mpp.extensions.mcp import McpClient

    paid = []

    class Session(ClientSession):
        async def call_tool(self, name, arguments=None, *args, **more):
            if "org.paymentauth/credential" in (more.get("meta") or {}):
                paid.append(more["meta"])
            return await super().call_tool(name, arguments, *args, **more)

    async with streamablehttp_client(given["url"]) as (read, write, _), Session(read, write) as session:
        await session.initialize()
        answer = await McpClient(session, methods=[method()]).call_tool(given["tool"], {"n": 1})
        if answer.receipt is None:
            return {"content": [each.model_dump() for each in answer.content], "is_error": answer.isError}
        again = await session.call_tool(given["tool"], {"n": 1}, meta=paid[0])
    return {
        "content": [each.model_dump(exclude_none=True) for each in answer.content],
        "receipt": answer.receipt.to_dict(),
        "again": again.model_dump(by_alias=True, exclude_none=True),
        "payments": len(paid) - 1,
    }


async def fetch():
    async with Mpp(methods=[method()]) as mpp:
        transport = mpp.payment_transport
        async with httpx.AsyncClient(transport=transport) as client:
            body = given.get("body")
            response = await client.post(given["url"], json=body) if body else await client.get(given["url"])
        shown = response.headers.get("payment-receipt")
        receipt = json.loads(base64.urlsafe_b64decode(shown + "==")) if shown else None
        return {"status": response.status_code, "body": response.json(), "receipt": receipt}


print(json.dumps(asyncio.run(call_tool() if "tool" in given else fetch())))
