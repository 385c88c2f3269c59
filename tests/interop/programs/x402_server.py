"""PyPI x402 sells /report, and /named to payments with a name, which it prints.

`python x402_server.py '{"port", "framework", "facilitator", "payTo"}'`
"""

import json
import logging
import sys

import uvicorn
from fastapi import FastAPI
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server
from x402.extensions.payment_identifier import (
    PAYMENT_IDENTIFIER,
    declare_payment_identifier_extension,
    extract_payment_identifier,
)
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, HTTPFacilitatorClientSync
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.middleware.flask import PaymentMiddleware
from x402.mechanisms.evm.exact import ExactEvmServerScheme

from x402 import x402ResourceServer, x402ResourceServerSync

logging.basicConfig(level=logging.INFO)
given = json.loads(sys.argv[1])
network = "eip155:84532"
accepts = {"scheme": "exact", "network": network, "payTo": given["payTo"], "price": "$0.50"}
routes = {
    "GET /report": {"accepts": accepts, "description": "The report", "mimeType": "application/json"},
    "GET /named": {
        "accepts": accepts,
        "extensions": {PAYMENT_IDENTIFIER: declare_payment_identifier_extension(required=True)},
    },
}
where = FacilitatorConfig(url=given["facilitator"])
served = 0


def report():
    global served
    served += 1
    return {"n": served}


def say_name(context):
    print("named:", extract_payment_identifier(context.payment_payload), flush=True)


def with_fastapi():
    app = FastAPI()
    server = x402ResourceServer(HTTPFacilitatorClient(where))
    server.register(network, ExactEvmServerScheme())
    server.on_after_verify(say_name)
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)
    for path in ("/report", "/named"):
        app.get(path)(report)
    uvicorn.run(app, host="127.0.0.1", port=given["port"])


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"


def with_flask():
    app = Flask(__name__)
    server = x402ResourceServerSync(HTTPFacilitatorClientSync(where))
    server.register(network, ExactEvmServerScheme())
    PaymentMiddleware(app, routes, server)
    app.get("/report")(report)
    make_server("127.0.0.1", given["port"], app, threaded=True, request_handler=Handler).serve_forever()


if given["framework"] == "fastapi":
    with_fastapi()
else:
    with_flask()
