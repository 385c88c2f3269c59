"""Who may have what a payment bought: the same payer, for the same request, while it lasts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from rail402.errors import PaymentRejected, StaleCharge
from rail402.protocol.charge import PaymentState
from rail402.protocol.offer import Offer
from rail402.server.settings import Receipts
from rail402.testing.fakes import Ending, FakeRail, FakeSpec
from tests.unit.server.shop import Shop

FLOWS = ["authorization", "escrow", "upfront"]


def sell(shop: Shop, path: str = "/goods", price: Any = "0.003 USD", **terms: Any) -> list[str]:
    """Sell `path`; return the list of what its handler has served."""
    served: list[str] = []

    async def goods(request: Request) -> Response:
        served.append(request.url.path)
        return PlainTextResponse(f"the goods of {request.url.path}, number {len(served)}")

    shop.app.add_route(path, shop.gate.paid(price, **terms)(goods), methods=["GET", "POST", "PUT"])
    return served


async def present(shop: Shop, offer: Offer, payload: dict[str, Any]) -> dict[str, str]:
    """Return the request fields that show `payload` for `offer`."""
    speaker = next(each for each in shop.gate.services().dialects if each.name == offer.dialect)
    return dict(speaker.credential(offer, payload, shop.context()))


async def pay(shop: Shop, path: str, dialect: str = "x402-v2", **kwargs: Any) -> tuple[Offer, dict[str, Any]]:
    (offer, *_) = shop.offers(await shop.client.get(path, **kwargs), dialect)
    paid = await shop.wallet.pay(offer, record_id=f"p{len(shop.ledger.calls)}", now=shop.clock())
    return offer, dict(paid.payload)


# --- bound to the order


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/other", b""),
        ("GET", "/goods?page=2", b""),
        ("GET", "/goods?", b"x"),
        ("POST", "/goods", b""),
        ("PUT", "/goods", b""),
        ("GET", "/goods", b"x"),
        ("GET", "/%67oods", b""),
    ],
)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_payment_opens_nothing_else(flow: str, known: bool, method: str, path: str, body: bytes) -> None:
    shop = Shop()
    sell(shop, flow=flow)
    others = sell(shop, "/other", flow=flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        if known:
            assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        calls = len(shop.ledger.calls)
        wire = await shop.request(path, method, headers=proof, chunks=[body]).run()
        assert (wire.status, wire.json()["code"]) == (402, "resource_mismatch")
        assert b"the goods" not in wire.body
        assert wire.all("payment-required")  # with a challenge of its own
        assert {name for name, _ in shop.ledger.calls[calls:]} == {"offer"}
        assert others == []
        assert len(await shop.charges()) == known


async def test_a_cheap_route_opens_no_dear_one() -> None:
    shop = Shop()
    sell(shop, "/cheap", "0.001 USD")
    dear = sell(shop, "/dear", "100 USD")
    async with shop.open():
        proof = await shop.quote("/cheap")
        for path in ("/dear", "/cheap", "/dear"):
            answer = await shop.client.get(path, headers=proof)
            assert answer.status_code == (200 if path == "/cheap" else 402)
        assert dear == []


@pytest.mark.parametrize("style", ["signed", "invoice"])
async def test_an_offer_to_somebody_else_is_taken_from_nobody(style: str) -> None:
    """With the gate's secret a thief can sign such an offer, and would pay itself."""
    shop = Shop(style=style)
    runs = sell(shop)
    async with shop.open():
        shop.rail.payee = "mallory"
        forged = await shop.quote("/goods")
        shop.rail.payee = "shop"
        for _ in range(2):
            answer = await shop.client.get("/goods", headers=forged)
            assert (answer.status_code, answer.json()["code"]) == (402, "payee_mismatch")
        assert (runs, await shop.charges()) == ([], [])
        assert (await shop.buy("/goods")).status_code == 200


async def test_an_altered_offer_is_not_ours() -> None:
    shop = Shop()
    served = sell(shop)
    async with shop.open():
        offer, payload = await pay(shop, "/goods")
        assert offer.envelope is not None
        for change in ({"amount": "1"}, {"payTo": "mallory"}, {"maxTimeoutSeconds": 10**6}):
            accepted = {**offer.envelope["accepted"], **change}
            altered = offer.model_copy(update={"envelope": {"accepted": accepted}})
            answer = await shop.client.get("/goods", headers=await present(shop, altered, payload))
            assert (answer.status_code, answer.json()["code"]) == (402, "resource_mismatch")
        assert served == []
        assert shop.ledger.count("verify") == 0


@pytest.mark.parametrize("change", [{"amount": "2999"}, {"amount": "3001"}, {"payee": "bob"}, {"network": "fake:x"}])
async def test_a_payment_of_something_else_is_refused_before_the_rail_is_asked(change: dict[str, str]) -> None:
    shop = Shop()
    served = sell(shop)
    async with shop.open():
        (offer, *_) = shop.offers(await shop.client.get("/goods"))
        fields = {"payee": offer.payee, "amount": str(offer.amount), "network": offer.network, **change}
        signed = offer.model_copy(update=fields)
        payload = FakeSpec().proof(signed, payer="alice", nonce="n", valid_before=shop.clock() + 180)
        answer = await shop.client.get("/goods", headers=await present(shop, offer, payload))
        (member,) = change
        assert (answer.status_code, answer.json()["code"]) == (402, f"{member}_mismatch")
        assert (served, shop.ledger.count("verify")) == ([], 0)


# --- shown again


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_public_proof_without_the_token_it_came_with_replays_nothing(flow: str) -> None:
    shop = Shop()
    served = sell(shop, flow=flow)
    async with shop.open():
        offer, payload = await pay(shop, "/goods")
        proof = await present(shop, offer, payload)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        for dialect in ("x402-v2", "mpp"):  # somebody with an offer of his own has seen the payment on the chain
            (mine, *_) = shop.offers(await shop.client.get("/goods"), dialect)
            answer = await shop.client.get("/goods", headers=await present(shop, mine, payload))
            assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
            assert "the goods" not in answer.text
            assert "payment-required" not in answer.headers
        assert len(served) == 1


async def test_a_proof_without_any_token_replays_nothing() -> None:
    shop = Shop(style="invoice")
    served = sell(shop)
    async with shop.open():
        unpaid = await shop.client.get("/goods")
        (offer, *_) = shop.offers(unpaid)
        paid = await shop.wallet.pay(offer, record_id="r", now=shop.clock())
        assert (await shop.client.get("/goods", headers=await present(shop, offer, dict(paid.payload)))).is_success
        (bare, *_) = shop.offers(unpaid, "x-receipt")
        answer = await shop.client.get("/goods", headers=await present(shop, bare, dict(paid.payload)))
        assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
        assert len(served) == 1


async def test_a_preimage_that_was_claimed_bare_replays_to_whoever_shows_it() -> None:
    shop = Shop(style="invoice")
    served = sell(shop)
    async with shop.open():
        offer, payload = await pay(shop, "/goods", "x-receipt")
        proof = await present(shop, offer, payload)
        first = await shop.client.get("/goods", headers=proof)
        again = await shop.client.get("/goods", headers=proof)
        assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
        assert len(served) == 1


@pytest.mark.parametrize("known", [False, True])
async def test_the_hash_instead_of_the_preimage_gets_400_and_no_invitation_to_pay_again(known: bool) -> None:
    shop = Shop(style="invoice")
    sell(shop)
    async with shop.open():
        offer, payload = await pay(shop, "/goods", "x-receipt")
        if known:
            assert (await shop.client.get("/goods", headers=await present(shop, offer, payload))).is_success
        mistaken = await present(shop, offer, {"preimage": offer.extra["hash"]})
        answer = await shop.client.get("/goods", headers=mistaken)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_payment")
        assert "preimage" in answer.json()["detail"]
        assert "payment-required" not in answer.headers
        unknown = await shop.client.get("/goods", headers=await present(shop, offer, {"preimage": "0" * 64}))
        assert (unknown.status_code, unknown.json()["code"]) == (402, "offer_unknown")


async def test_an_invoice_of_another_request_opens_nothing() -> None:
    shop = Shop(style="invoice")
    sell(shop)
    others = sell(shop, "/other")
    async with shop.open():
        offer, payload = await pay(shop, "/goods", "x-receipt")
        answer = await shop.client.get("/other", headers=await present(shop, offer, payload))
        assert (answer.status_code, answer.json()["code"]) == (402, "resource_mismatch")
        assert others == []


async def test_an_unpaid_invoice_may_be_shown_again_once_it_is_paid() -> None:
    shop = Shop(style="invoice")
    sell(shop)
    async with shop.open():
        (offer, *_) = shop.offers(await shop.client.get("/goods"))
        key = f"fake:fake:{offer.extra['hash']}"
        proof = await present(shop, offer, dict(shop.ledger.proofs[key]))
        early = await shop.client.get("/goods", headers=proof)
        assert (early.status_code, early.json()["code"]) == (402, "not_settled")
        assert "retry-after" in early.headers
        assert "payment-required" not in early.headers  # what helps is the same payment, not another one
        shop.ledger.charge(shop.ledger.invoices[key])
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200


LOGINS = [
    {"authorization": "Bearer alice"},
    {"authorization": "Basic YWxpY2U6c2VjcmV0"},
    {"authorization": "alice:secret"},
    {"authorization": "Bearer alice:secret/with=odd+chars!"},
    {"authorization": "YWxpY2U6c2VjcmV0=="},
    {"authorization": 'Digest username="alice", response="1", uri="/goods"'},
    {"authorization": "token=alice"},
    {"authorization": "Custom two words"},
]


@pytest.mark.parametrize("login", LOGINS)
async def test_a_replay_needs_the_login_of_the_first_request(login: dict[str, str]) -> None:
    shop = Shop()
    served = sell(shop)
    async with shop.open():
        proof = await shop.quote("/goods", headers=login)
        first = await shop.client.get("/goods", headers=proof | login)
        assert first.status_code == 200
        (field, value) = next(iter(login.items()))
        for other in ({}, {field: value.replace("alice", "mallory").replace("YWxp", "bWFs").replace("two", "2")}):
            answer = await shop.client.get("/goods", headers=proof | other)
            assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven"), other
            assert "the goods" not in answer.text
        again = await shop.client.get("/goods", headers=proof | login)
        assert (again.status_code, again.content) == (200, first.content)
        assert len(served) == 1


async def test_cookies_may_change_where_the_token_says_who_asks() -> None:
    shop = Shop()
    served = sell(shop)
    async with shop.open():
        proof = await shop.quote("/goods")
        first = await shop.client.get("/goods", headers=proof | {"cookie": "session=1; visits=1"})
        for cookies in ({"cookie": "session=2; visits=2"}, {}):
            again = await shop.client.get("/goods", headers=proof | cookies)
            assert (again.status_code, again.content) == (200, first.content)
        assert len(served) == 1


async def test_a_replay_of_a_bare_proof_needs_the_cookies_of_the_first_request() -> None:
    shop = Shop(style="invoice")
    sell(shop)
    async with shop.open():
        asked, cookies = await shop.client.get("/goods"), {"cookie": "session=alice"}
        proof = await shop.proof(asked, "x-receipt")
        assert (await shop.client.get("/goods", headers=proof | cookies)).status_code == 200
        for other in ({}, {"cookie": "session=mallory"}):
            answer = await shop.client.get("/goods", headers=proof | other)
            assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
        assert (await shop.client.get("/goods", headers=proof | cookies | {"accept": "*/*"})).status_code == 200


async def test_more_than_the_first_login_does_not_matter() -> None:
    shop = Shop()
    sell(shop)
    async with shop.open():
        proof = await shop.quote("/goods")
        login = {"cookie": "a=1; b=2", "authorization": "Bearer x"}
        first = await shop.client.get("/goods", headers=proof | login)
        more = {"cookie": "new=3; b=2; a=1", "x-request-id": "2", "authorization": "Bearer x", "user-agent": "other"}
        again = await shop.client.get("/goods", headers=proof | more)
        assert (again.status_code, again.content) == (200, first.content)


async def test_a_login_beside_a_payment_in_one_line_counts_alone() -> None:
    shop = Shop()
    sell(shop)
    async with shop.open():
        offer, payload = await pay(shop, "/goods", "mpp")
        (name, credential), *_ = (await present(shop, offer, payload)).items()
        assert name.lower() == "authorization"
        for line in (f"Bearer a:b, {credential}", f"{credential}, Bearer a:b"):
            assert (await shop.client.get("/goods", headers={"authorization": line})).status_code == 200
        lines = [(b"authorization", b"Bearer a:b"), (b"payment-authorization", credential.encode())]
        assert (await shop.request("/goods", headers=lines).run()).status == 200
        for other in (credential, f"{credential}, Bearer a:c"):
            assert (await shop.client.get("/goods", headers={"authorization": other})).status_code == 409


@pytest.mark.parametrize("flow", FLOWS)
async def test_the_replay_window_ends(flow: str) -> None:
    shop = Shop()
    served = sell(shop, flow=flow, receipt=Receipts(valid="100s"))
    async with shop.open():
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        shop.clock.advance(100)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        shop.clock.advance(1)
        late = await shop.client.get("/goods", headers=proof)
        assert (late.status_code, late.json()["code"]) == (402, "receipt_expired")
        assert "payment-required" in late.headers
        assert len(served) == 1


@pytest.mark.parametrize("flow", FLOWS)
async def test_another_payment_for_the_same_offer_is_refused_without_being_taken(flow: str) -> None:
    shop = Shop()
    sell(shop, flow=flow)
    async with shop.open():
        (offer, *_) = shop.offers(await shop.client.get("/goods"))
        payloads = [dict((await shop.wallet.pay(offer, record_id=f"r{n}", now=shop.clock())).payload) for n in range(2)]
        assert (await shop.client.get("/goods", headers=await present(shop, offer, payloads[0]))).is_success
        second = await shop.client.get("/goods", headers=await present(shop, offer, payloads[1]))
        assert (second.status_code, second.json()["code"]) == (409, "payment_in_progress")
        assert "the goods" not in second.text
        assert shop.ledger.charged_total == 3000


async def test_another_payment_for_an_offer_whose_first_was_refused_gets_a_fresh_challenge() -> None:
    shop = Shop()
    sell(shop)
    async with shop.open():
        (offer, *_) = shop.offers(await shop.client.get("/goods"))
        payloads = [dict((await shop.wallet.pay(offer, record_id=f"r{n}", now=shop.clock())).payload) for n in range(2)]
        shop.ledger.script("settle", Ending.FAILED)
        await shop.client.get("/goods", headers=await present(shop, offer, payloads[0]))
        second = await shop.client.get("/goods", headers=await present(shop, offer, payloads[1]))
        assert (second.status_code, second.json()["code"]) == (402, "proof_already_used")
        assert "payment-required" in second.headers
        assert shop.ledger.charged_total == 0


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("first", [200, 500])
async def test_a_forged_payment_with_a_known_key_never_gets_the_body(flow: str, first: int) -> None:
    shop = Shop()
    answers = iter([first, 200])

    async def goods(request: Request) -> Response:
        return PlainTextResponse("the goods", next(answers))

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow=flow)(goods))
    async with shop.open():
        offer, payload = await pay(shop, "/goods")
        assert (await shop.client.get("/goods", headers=await present(shop, offer, payload))).status_code == first
        for change in ({"signature": "0" * 64}, {"amount": "1"}, {"payer": "mallory"}):
            forged = await shop.client.get("/goods", headers=await present(shop, offer, payload | change))
            assert (forged.status_code, forged.json()["code"]) == (402, "signature_invalid")
            assert "the goods" not in forged.text
        assert next(answers) == 200  # the handler ran once


# --- several payments in one request


async def test_two_different_payments_in_one_request_claim_nothing() -> None:
    shop = Shop()
    sell(shop)
    async with shop.open():
        x402 = await shop.quote("/goods")
        other = await shop.quote("/goods")
        mpp = await present(shop, *(await pay(shop, "/goods", "mpp")))
        pairs: list[Any] = [
            [*lines(x402), *lines(other)],
            [*lines(x402), *lines(mpp)],
            [*lines(mpp), *lines(await present(shop, *(await pay(shop, "/goods", "mpp"))))],
        ]
        for pair in pairs:
            wire = await shop.request("/goods", headers=pair).run()
            assert (wire.status, wire.json()["code"]) == (400, "several_payments")
            assert wire.all("payment-required") == []
        assert await shop.charges() == []
        assert shop.ledger.charged_total == 0


async def test_the_same_payment_twice_in_one_request_is_one() -> None:
    shop = Shop()
    sell(shop)
    async with shop.open():
        x402 = await shop.quote("/goods")
        assert (await shop.request("/goods", headers=[*lines(x402), *lines(x402)]).run()).status == 200
        (_, credential), *_ = (await present(shop, *(await pay(shop, "/goods", "mpp")))).items()
        both = [(b"authorization", credential.encode()), (b"payment-authorization", credential.encode())]
        assert (await shop.request("/goods", headers=both).run()).status == 200
        assert shop.ledger.charged_total == 6000


def lines(fields: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in fields.items()]


# --- what the route takes


async def test_a_rail_or_dialect_that_the_route_does_not_take_is_refused() -> None:
    shop = Shop()
    gold = FakeRail(shop.ledger, FakeSpec("gold"))
    shop.gate._rails["gold"], shop.gate._registry._specs["gold"] = gold, gold.spec
    sell(shop, "/goods")
    sell(shop, "/gold", rails=["gold"], dialects=["mpp"])
    async with shop.open():
        quoted = await shop.client.get("/gold")
        assert "payment-required" not in quoted.headers
        assert [offer["rail"] for offer in quoted.json()["offers"]] == ["gold"]
        mpp = await present(shop, *(await pay(shop, "/goods", "mpp")))
        wrong_rail = await shop.client.get("/gold", headers=mpp)
        assert (wrong_rail.status_code, wrong_rail.json()["code"]) == (402, "method_not_offered")
        not_spoken = await shop.client.get("/gold", headers=await shop.quote("/goods"))
        assert (not_spoken.status_code, not_spoken.json()["code"]) == (402, "payment_required")
        assert shop.ledger.count("verify") == 0


# --- what becomes of a known payment


@pytest.mark.parametrize(
    ("ending", "code"),
    [(Ending.NOT_PAID, "not_settled"), (Ending.UNAVAILABLE, "rail_unavailable"), (Ending.FAILED, "payment_declined")],
)
@pytest.mark.parametrize("flow", FLOWS)
async def test_what_did_not_go_through_says_whether_to_send_it_again(flow: str, ending: Ending, code: str) -> None:
    shop = Shop()
    sell(shop, flow=flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("hold" if flow == "escrow" else "settle", ending)
        answer = await shop.client.get("/goods", headers=proof)
        assert answer.json()["code"] == code
        again = ending is not Ending.FAILED
        assert ("retry-after" in answer.headers) == again
        assert ("payment-required" in answer.headers) == (not again)
        charge = await shop.only_charge()
        assert f"{charge.id}; payment={charge.payment}" == answer.headers["rail402-charge"]
        repeated = await shop.client.get("/goods", headers=proof)
        assert repeated.status_code == (200 if again else 402)


async def test_a_reclaimed_payment_is_verified_anew() -> None:
    shop, answers = Shop(), iter([500, 200])

    async def goods(request: Request) -> Response:
        return PlainTextResponse("", next(answers))

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    async with shop.open():
        proof = await shop.quote("/goods")
        await shop.client.get("/goods", headers=proof)
        shop.ledger.balances["alice"] = 0
        empty = await shop.client.get("/goods", headers=proof)
        assert (empty.status_code, empty.json()["code"]) == (402, "insufficient_funds")
        del shop.ledger.balances["alice"]
        shop.rail.payee = "shop's new account"
        moved = await shop.client.get("/goods", headers=proof)
        assert (moved.status_code, moved.json()["code"]) == (402, "payee_mismatch")
        assert (await shop.only_charge()).payment is PaymentState.RELEASED


async def test_who_waits_gets_what_the_other_request_got() -> None:
    shop, running, go_on = Shop(wait_seconds=5), asyncio.Event(), asyncio.Event()
    answers = iter([500, 200])

    async def goods(request: Request) -> Response:
        running.set()
        await go_on.wait()
        return PlainTextResponse("", next(answers))

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    async with shop.open():
        proof = await shop.quote("/goods")
        requests = [asyncio.create_task(shop.client.get("/goods", headers=proof)) for _ in range(3)]
        await running.wait()
        go_on.set()
        statuses = sorted([(await request).status_code for request in requests])
        assert statuses == [200, 200, 500]  # one of the two that waited tried again, the other got its response
        assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("same_payment", [True, False])
@pytest.mark.parametrize("flow", FLOWS)
async def test_of_many_that_were_verified_together_one_claims(flow: str, same_payment: bool) -> None:
    shop = Shop(wait_seconds=5)
    served = sell(shop, flow=flow)
    verified, go_on = 0, asyncio.Event()

    async def together(name: str, key: str) -> None:
        nonlocal verified
        if name == "verify":
            verified += 1
            if verified == 10:
                go_on.set()
            await go_on.wait()

    async with shop.open():
        (offer, *_) = shop.offers(await shop.client.get("/goods"))
        proofs = []
        for number in range(10):
            record_id = "r" if same_payment else f"r{number}"
            paid = await shop.wallet.pay(offer, record_id=record_id, now=shop.clock())
            proofs.append(await present(shop, offer, dict(paid.payload)))
        shop.ledger.before = together
        answers = await asyncio.gather(*(shop.client.get("/goods", headers=proof) for proof in proofs))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == ([200] * 10 if same_payment else [200] + [409] * 9)
        assert verified == 10
        assert (len(served), shop.ledger.count("settle"), shop.ledger.charged_total) == (1, 1, 3000)


async def test_a_charge_that_is_pruned_while_somebody_waits_does_not_spin() -> None:
    shop = Shop(wait_seconds=60)

    async def streamed(request: Request) -> Response:
        return StreamingResponse(iter([b"the goods"]))

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(streamed))
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        await shop.request("/goods", headers=proof).run()
        await shop.gate.reconcile()
        store = shop.gate.services().store

        async def pruned(charge: Any, **_: Any) -> Any:
            raise StaleCharge(charge.id)

        async def gone(charge: Any, *, timeout: float) -> None: ...

        store.save, store.wait = pruned, gone  # type: ignore[method-assign,assignment]
        answer = await shop.request("/goods", headers=proof).run()
        assert (answer.status, answer.json()["code"]) == (402, "proof_already_used")


async def test_a_stored_response_that_is_gone_is_not_made_up() -> None:
    shop = Shop()
    served = sell(shop)
    async with shop.open():
        proof = await shop.quote("/goods")
        await shop.client.get("/goods", headers=proof)

        async def gone(charge_id: str, slot: str = "") -> None: ...

        shop.gate.services().store.response = gone  # type: ignore[method-assign,assignment]
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (402, "proof_already_used")
        assert len(served) == 1


@pytest.mark.parametrize(
    ("flow", "failures"), [("authorization", 0), ("escrow", 0), ("upfront", 0), ("authorization", 1), ("escrow", 1)]
)
async def test_a_copy_that_is_verified_too_late_gets_the_answer_of_the_first(
    flow: str, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a look into the store and the rail's word another worker may have claimed and charged the same payment,
    new or released: then the rail calls it spent, and its payer must not be asked to pay again."""
    shop, answers = Shop(), iter([*[500] * failures, 200])
    verify, looking, spent = shop.rail.verify, asyncio.Event(), asyncio.Event()

    async def goods(request: Request) -> Response:
        return PlainTextResponse("the goods", next(answers))

    async def verifying(*asked: Any, **options: Any) -> Any:
        if not looking.is_set():
            looking.set()
            await spent.wait()
            raise PaymentRejected("it is spent", code="proof_already_used")
        return await verify(*asked, **options)

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow=flow)(goods))
    async with shop.open():
        proof = await shop.quote("/goods")
        for _ in range(failures):
            assert (await shop.client.get("/goods", headers=proof)).status_code == 500
        monkeypatch.setattr(shop.rail, "verify", verifying)
        late = asyncio.create_task(shop.client.get("/goods", headers=proof))
        await looking.wait()
        first = await shop.client.get("/goods", headers=proof)
        spent.set()
        second = await late
        assert (first.status_code, second.status_code, second.text) == (200, 200, "the goods")
        assert second.headers["idempotent-replayed"] == "true"
        assert shop.ledger.charged_total == 3000
