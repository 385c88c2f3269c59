"""The facilitator of x402's own library as a server: `python facilitator.py PORT RPC_URL VERSION`.

It runs in the library's own environment, and says that it speaks that VERSION of x402. The library is complete but for
this: it ships no program. The key of the account that pays the gas comes by the variable RELAYER_KEY.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.schemas import parse_payment_payload, parse_payment_requirements

from x402 import x402FacilitatorSync

NETWORK = "eip155:84532"


def make_app(rpc_url: str, version: int, relayer_key: str) -> FastAPI:
    app = FastAPI()
    facilitator = x402FacilitatorSync()
    register_exact_evm_facilitator(facilitator, FacilitatorWeb3Signer(relayer_key, rpc_url), networks=NETWORK)

    # Not `async def`: the library blocks, and so runs in threads.
    @app.get("/supported")
    def supported() -> dict[str, Any]:
        said = facilitator.get_supported().model_dump(by_alias=True, exclude_none=True)
        said["kinds"] = [kind for kind in said["kinds"] if kind["x402Version"] == version]
        return said

    @app.post("/verify")
    def verify(body: dict[str, Any]) -> dict[str, Any]:
        return facilitator.verify(*read(body)).model_dump(by_alias=True, exclude_none=True)

    @app.post("/settle")
    def settle(body: dict[str, Any]) -> dict[str, Any]:
        return facilitator.settle(*read(body)).model_dump(by_alias=True, exclude_none=True)

    return app


def read(body: dict[str, Any]) -> tuple[Any, Any]:
    requirements = parse_payment_requirements(body["x402Version"], body["paymentRequirements"])
    return parse_payment_payload(body["paymentPayload"]), requirements


if __name__ == "__main__":
    port, rpc_url, version = sys.argv[1:]
    app = make_app(rpc_url, int(version), os.environ["RELAYER_KEY"])
    uvicorn.run(app, host="127.0.0.1", port=int(port))
