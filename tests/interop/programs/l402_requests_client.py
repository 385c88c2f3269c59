"""l402-requests pays once: `python … '{"url", "own_wallet", "node": {"url", "macaroon", "cert"}}'`."""

import json
import ssl
import sys

import httpx
import l402_requests

given = json.loads(sys.argv[1])
lnd = given["node"]


class Lnd(l402_requests.WalletBase):
    """A wallet that hands lnd's preimage on as it is."""

    async def pay_invoice(self, bolt11):
        body = {"payment_request": bolt11, "timeout_seconds": 30, "fee_limit_msat": "0", "no_inflight_updates": True}
        trusted = ssl.create_default_context(cafile=lnd["cert"])
        headers = {"Grpc-Metadata-macaroon": lnd["macaroon"]}
        async with httpx.AsyncClient(base_url=lnd["url"], headers=headers, verify=trusted, timeout=30) as client:
            answer = await client.post("/v2/router/send", json=body)
        return json.loads(answer.text.splitlines()[-1])["result"]["payment_preimage"]


wallet = l402_requests.LndWallet(lnd["url"], lnd["macaroon"], lnd["cert"]) if given["own_wallet"] else Lnd()
response = l402_requests.L402Client(wallet=wallet).get(given["url"])
print(json.dumps({"status": response.status_code, "body": response.json()}))
