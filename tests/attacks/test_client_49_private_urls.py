"""49: what is private in a URL stays in the request, in the journal (mode 600) and in httpx's own log."""

from __future__ import annotations

import base64
import logging

import pytest

from rail402.client.budget import Budget
from rail402.errors import ClientError
from tests.attacks.agents import OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

PRIVATE = ("alice%40example.com", "api_key=s3cr3t", "passw0rd")


@pytest.mark.parametrize("what", ["refused", "administrative", "lost"])
async def test_no_error_and_no_log_of_ours_has_it(
    open_agent: OpenAgent, caplog: pytest.LogCaptureFixture, what: str, observed: Observe
) -> None:
    caplog.set_level(logging.DEBUG)
    agent = open_agent(budget=Budget(per_request="0.001 USD") if what == "refused" else Budget())

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if what == "administrative":
            return answer(402)
        return challenge(fake_terms()) if request.proof is None else None

    async with RawServer(handle) as server:
        url = server.url.replace("http://", "http://alice:passw0rd@")
        with pytest.raises(ClientError) as caught:
            await agent.get(f"{url}/users/alice%40example.com?api_key=s3cr3t")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("rail402")]
    told = "".join([*ours, str(caught.value), repr(caught.value)])
    for text in PRIVATE:
        assert text not in told
    observed("in no error and no log of ours")


async def test_nothing_is_added_to_what_the_server_knows(open_agent: OpenAgent, observed: Observe) -> None:
    """The payment says what the server said, and nothing about the request or its caller."""
    agent = open_agent()

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms()) if request.proof is None else answer(200, body=b"bought")

    async with RawServer(handle) as server:
        await agent.get(f"{server.url}/users/alice%40example.com?api_key=s3cr3t")
        (proof,) = server.proofs
    said = base64.b64decode(proof).decode()
    for text in (*PRIVATE, agent.payer.journal.address, "rec_"):
        assert text not in said
    observed("nothing is added to what the server knows")
