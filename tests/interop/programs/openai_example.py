"""`examples/openai_client.py` with OpenAI's client: `python openai_example.py '{"url", "sources", "rail"}'`."""

import asyncio
import contextlib
import io
import json
import sys

given = json.loads(sys.argv[1])
sys.path[:0] = given["sources"]

import openai_client as example  # noqa: E402

if given["rail"] == "lightning":
    wallet, limits = example.LightningWallet.sandbox(), example.Budget(per_request="80 sat")
    example.new_payer = lambda: example.Payer([wallet], limits)

with contextlib.redirect_stdout(io.StringIO()) as printed:
    asyncio.run(example.main(given["url"]))
    example.main_sync(given["url"])
print(json.dumps({"printed": printed.getvalue()}))
