"""42: tokens that are not what they are called, decimals that lie, domains that are signed and should not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.errors import BudgetExceeded, NoUsableOffer
from rail402_base.eip3009 import Authorization, Domain
from rail402_base.keys import LocalSigner
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC
from rail402_base.wallet import BaseWallet
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge
from tests.attacks.test_client_40_changed_terms import usdc_terms

GOOD = {"name": SANDBOX_USDC.name, "version": SANDBOX_USDC.version}
FAKE_USDC = "0x" + "99" * 20


class Watched:
    """A signer that keeps what it was asked to sign."""

    def __init__(self) -> None:
        self._signer, self.asked = LocalSigner(bytes([1]) * 32), list[tuple[Domain, Authorization]]()

    @property
    def address(self) -> str:
        return self._signer.address

    async def sign(self, domain: Domain, authorization: Authorization) -> bytes:
        self.asked.append((domain, authorization))
        return await self._signer.sign(domain, authorization)


@pytest.fixture
def signer() -> Watched:
    return Watched()


@pytest.fixture
def kind() -> str:
    return "async"


@pytest.fixture
def payer(open_agent: OpenAgent, signer: Watched) -> Agent:
    return open_agent(wallets=[BaseWallet(signer, tokens=[SANDBOX_USDC])])


def selling(*terms: Mapping[str, Any]) -> Any:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(*terms) if request.proof is None else answer(200, body=b"bought")

    return handle


LIES: dict[str, dict[str, Any]] = {
    "an unknown token": {"asset": FAKE_USDC},
    "an unknown token called USDC": {"asset": FAKE_USDC, "extra": {**GOOD, "symbol": "USDC"}},
    "18 decimals": {"extra": {**GOOD, "decimals": 18}},
    "decimals as a text": {"extra": {**GOOD, "decimals": "6"}},
    "another name": {"extra": {**GOOD, "name": "DAI"}},
    "another version": {"extra": {**GOOD, "version": "1"}},
    "a name that looks the same": {"extra": {**GOOD, "name": SANDBOX_USDC.name.replace("S", "\u0405", 1)}},
    "another transfer method": {"extra": {**GOOD, "assetTransferMethod": "permit2"}},
    "another scheme": {"scheme": "upto"},
    "an unknown chain": {"network": "eip155:1"},
    "a chain in other digits": {"network": "eip155:" + "".join(chr(0x660 + int(d)) for d in "402402")},
    "a token of another chain": {"network": BASE_USDC.network.caip2},
    "real money in the sandbox": {"asset": BASE_USDC.address},
    "another chain's dollars": {"network": BASE_SEPOLIA_USDC.network.caip2, "asset": BASE_SEPOLIA_USDC.address},
    "the zero address": {"payTo": "0x" + "00" * 20},
    "no address": {"payTo": "vitalik.eth"},
    "escrow": {"extra": {**GOOD, "paymentFlow": "escrow"}},
    "more than there is": {"amount": str(2**256)},
    "no extra at all": {"extra": "name=USDC"},
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES)
async def test_such_an_offer_is_not_signed(
    payer: Agent, signer: Watched, change: dict[str, Any], observed: Observe
) -> None:
    async with RawServer(selling(usdc_terms(**change))) as server:
        with pytest.raises(NoUsableOffer):
            await payer.get(server.url)
        assert server.proofs == []
    assert signer.asked == []
    assert not (await payer.payer.journal.newest() if payer.payer.journal.exists() else [])
    observed("unknown tokens, other decimals, names or contracts: nothing is signed")


async def test_what_is_signed_names_the_token_of_the_local_table(
    payer: Agent, signer: Watched, observed: Observe
) -> None:
    """Members of `extra` that could be taken for the domain's have no part in it."""
    lies = {"chainId": 8453, "verifyingContract": FAKE_USDC, "domain": {"name": "x"}, "salt": "0x00", "symbol": "DAI"}
    async with RawServer(selling(usdc_terms(extra={**GOOD, **lies}))) as server:
        assert (await payer.get(server.url)).text == "bought"
    ((domain, authorization),) = signer.asked
    assert domain == SANDBOX_USDC.domain
    assert (domain.chain_id, domain.verifying_contract) == (402_402, SANDBOX_USDC.address)
    assert authorization.value == 3000
    observed("what is signed names the token of the local table")


@pytest.mark.parametrize("amount", ["1000001", "1000000000000", "3000000000000000"])
async def test_the_budget_counts_in_the_local_decimals(payer: Agent, signer: Watched, amount: str) -> None:
    """With 18 decimals the last of these would be 0.003 dollars."""
    async with RawServer(selling(usdc_terms(amount=amount))) as server:
        with pytest.raises(BudgetExceeded, match=r"USDC .*the limit is 1 USD"):
            await payer.get(server.url)
    assert signer.asked == []


async def test_a_lie_beside_the_truth_does_not_hide_it(payer: Agent, signer: Watched) -> None:
    offers = [*(usdc_terms(**change) for change in list(LIES.values())[:10]), usdc_terms()]
    async with RawServer(selling(*offers)) as server:
        assert (await payer.get(server.url)).text == "bought"
    assert len(signer.asked) == 1


async def test_a_cheaper_lie_is_not_the_cheapest(open_agent: OpenAgent, signer: Watched) -> None:
    agent = open_agent(wallets=[BaseWallet(signer, tokens=[SANDBOX_USDC])], budget=Budget(per_request="0.003 USD"))
    cheaper = usdc_terms(amount="1", extra={**GOOD, "decimals": 0})
    async with RawServer(selling(cheaper, usdc_terms())) as server:
        await agent.get(server.url)
    assert [authorization.value for _, authorization in signer.asked] == [3000]
