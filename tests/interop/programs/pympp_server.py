"""pympp sells on /stripe, /evm and /evm/x402: `python … '{"port", "bank", "profile", "recipient", "token"}'`."""

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
from mpp.methods.evm import server as evm
from mpp.methods.stripe import server as stripe
from mpp.server import Mpp, Request, Response

given = json.loads(sys.argv[1])
loop = asyncio.new_event_loop()


class ToTheBank(httpx.AsyncHTTPTransport):
    """Sends what is meant for Stripe to the bank."""

    async def handle_async_request(self, request):
        bank = httpx.URL(given["bank"])
        request.url = request.url.copy_with(scheme=bank.scheme, host=bank.host, port=bank.port)
        request.headers["host"] = bank.netloc.decode()
        return await super().handle_async_request(request)


async def settle(authorization):
    async with httpx.AsyncClient() as client:
        response = await client.post(f"{given['bank']}/chain", json=authorization.payload)
        return response.raise_for_status().json()["transaction"]


def usdc(**options):
    token = given["token"]
    return evm.charge(
        currency=token["address"],
        chain_id=token["chainId"],
        decimals=token["decimals"],
        authorization={"name": token["name"], "version": token["version"]},
        recipient=given["recipient"],
        settle=settle,
        **options,
    )


def charging(method):
    mpp = Mpp(methods=[method], realm="127.0.0.1", secret_key="a secret of the interop tests, 32 bytes or more")
    mpp.on_payment_failed(lambda failure: print("refused:", failure["error"], file=sys.stderr, flush=True))
    return mpp


card = stripe.charge(
    secret_key="sk_test_peer",
    network_id=given["profile"],
    currency="usd",
    http_client=httpx.AsyncClient(transport=ToTheBank()),
)
routes = {
    "/stripe": charging(card)["stripe/charge"](amount="0.50"),
    "/evm": charging(usdc())["evm/charge"](amount="0.003"),
    "/evm/x402": charging(usdc(route_binding="resource"))["evm/charge"](amount="0.003"),
}
served = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        response = asyncio.run_coroutine_threadsafe(self.answer(), loop).result()
        self.send_response(response.status)
        for name, value in response.headers.multi_items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body or b"")))
        self.end_headers()
        self.wfile.write(response.body or b"")

    async def answer(self):
        global served
        url = f"http://127.0.0.1:{given['port']}{self.path}"
        result = await routes[self.path](Request("GET", url, list(self.headers.items()), None))
        if result.status != 200:
            return result.challenge
        served += 1
        return result.with_receipt(Response.json({"n": served}))


threading.Thread(target=loop.run_forever, daemon=True).start()
HTTPServer(("127.0.0.1", given["port"]), Handler).serve_forever()
