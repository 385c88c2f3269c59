"""PyPI x402 pays once and shows the payment again: `python x402_client.py '{"url", "library", "key", "body", "id"}'`.

With an `id` it gives that name to the payment, and in the end to another payment.
"""

import asyncio
import json
import sys

import httpx
import requests
from eth_account import Account
from x402.extensions.payment_identifier import append_payment_identifier_to_extensions
from x402.http.clients.httpx import x402HttpxClient
from x402.http.clients.requests import x402_requests
from x402.http.x402_http_client import x402HTTPClient, x402HTTPClientSync
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import register_exact_evm_client

from x402 import x402Client, x402ClientSync

given = json.loads(sys.argv[1])
request = {"method": "POST" if given.get("body") else "GET", "url": given["url"], "json": given.get("body")}
made = []


def wallet(client):
    register_exact_evm_client(client, EthAccountSigner(Account.from_key(given["key"])))
    if "id" in given:
        client.on_before_payment_creation(name)
    client.on_after_payment_creation(lambda context: made.append(context.payment_payload))
    return client


def name(context):
    append_payment_identifier_to_extensions(context.payment_required.extensions, given["id"])


def show(http, response, again, other=None):
    """Print what was bought, and what the payment that was shown again, and another one, gave."""
    settled = http.get_payment_settle_response(response.headers.get)
    first, again = ({"status": each.status_code, "body": each.json()} for each in (response, again))
    shown = settled.model_dump(by_alias=True, exclude_none=True)
    said = {**first, "again": again, "settled": shown, "other": other and other.status_code}
    print(json.dumps({**said, "payments": len(made)}))


async def with_httpx():
    http = x402HTTPClient(wallet(x402Client()))
    async with x402HttpxClient(http) as client, httpx.AsyncClient() as plain:
        response = await client.request(**request)
        again = await plain.request(**request, headers=http.encode_payment_signature_header(made[0]))
        other = await client.request(**request) if "id" in given else None
    show(http, response, again, other)


def with_requests():
    http = x402HTTPClientSync(wallet(x402ClientSync()))
    response = x402_requests(http).request(**request)
    again = requests.request(**request, headers=http.encode_payment_signature_header(made[0]), timeout=30)
    show(http, response, again)


if given["library"] == "httpx":
    asyncio.run(with_httpx())
else:
    with_requests()
