"""A Link that follows its documentation: spend requests, a person who approves, tokens of Stripe's sandbox.

Modelled are the statuses, the ten minutes for approving, the twelve hours of a token, one request for one idempotency
key, the refusal of duplicates (429 with the earlier request), the fields that do not go together, and that a token is
told only where it is asked for. What a person does is done by the methods that are named after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from rail402_stripe import StripeApi

APPROVAL_SECONDS = 600
TOKEN_SECONDS = 12 * 3600
TOKEN = "link_access_1"


class FakeLink(httpx.AsyncBaseTransport):
    """Link at the end of a transport.

    Attributes:
        approves: what its person does at once: approve (True), deny (False), or nothing (None).
        access_token: the one that is good now.
        keys: the idempotency keys that it was given, with their requests.
        token_delay: how many looks at an approved request come before its token does.
        before, after: raise or answer in place of Link before it has acted, or after.
        forgets: idempotency keys mean nothing to it, as before September 2026.
    """

    def __init__(self, stripe: StripeApi, clock: Callable[[], int], *, approves: bool | None = None) -> None:
        self.stripe, self.clock, self.approves = stripe, clock, approves
        self.access_token, self.token_delay, self.forgets = TOKEN, 0, False
        self.payment_method = "pm_card_visa"
        self.requests: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.before: Callable[[str, str], httpx.Response | None] | None = None
        self.after: Callable[[str, str], httpx.Response | None] | None = None
        self.keys: dict[str, str] = {}

    # --- the person

    def approve(self, request_id: str = "lsrq_1") -> None:
        self.requests[request_id] |= {"status": "approved", "_token": None}

    def deny(self, request_id: str = "lsrq_1") -> None:
        self.requests[request_id]["status"] = "denied"

    def asks_for(self, kind: str, resolution: str, request_id: str = "lsrq_1") -> None:
        action = {"type": kind, "resolution": resolution, "action_url": f"https://app.link.com/do/{kind}"}
        details = {"requires_action": {"next_action": action}}
        self.requests[request_id] |= {"status": "requires_action", "status_details": details}

    # --- Link

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        self.calls.append((request.method, request.url.path, body))
        if self.before is not None and (said := self.before(request.method, request.url.path)) is not None:
            return said
        answer = await self._answer(request, body)
        return (self.after and self.after(request.method, request.url.path)) or answer

    async def _answer(self, request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        if request.headers.get("Authorization") != f"Bearer {self.access_token}":
            return httpx.Response(401, json={"error": {"message": f"bad token {self.access_token}"}})
        for each in self.requests.values():
            await self._age(each)
        match (request.method, request.url.path.strip("/").split("/")):
            case "POST", ["spend_requests"]:
                return await self._create(body)
            case "GET", ["spend_requests"]:
                assert request.url.params["include_history"] == "true"
                return httpx.Response(200, json={"data": [self._shown(each) for each in self.requests.values()]})
            case "GET", ["spend_requests", name] if name in self.requests:
                wants_token = request.url.params.get("include") == "shared_payment_token"
                return httpx.Response(200, json=await self._with_token(name) if wants_token else self._of(name))
            case "POST", ["spend_requests", name, "cancel"] if name in self.requests:
                return await self._cancel(self.requests[name])
        return httpx.Response(404, json={"error": {"message": "no such thing", "code": "not_found"}})

    async def _create(self, body: dict[str, Any]) -> httpx.Response:
        key = body.pop("idempotency_key", None)
        if key in self.keys and not self.forgets:
            return httpx.Response(200, json=self._of(self.keys[key]))
        problem = _problem(body)
        if problem is not None:
            return httpx.Response(422, json={"error": {"message": problem, "code": "invalid_request"}})
        if body["amount"] > 50_000:
            return httpx.Response(400, json={"error": {"message": "over the limit", "code": "amount_too_large"}})
        alike = [each for each in self.requests.values() if each["_asked"] == body and _is_open(each)]
        if alike:
            error = {"code": "spend_request_rate_limited", "duplicate_spend_request": self._shown(alike[0])}
            return httpx.Response(429, json={"error": error})
        name = f"lsrq_{len(self.requests) + 1}"
        self.keys[key or name] = name
        self.requests[name] = {
            **body,
            "id": name,
            "status": "pending_approval",
            "approval_url": f"https://app.link.com/activity/approve/{name}",
            "created_at": self.clock(),
            "_asked": body,
            "_token": None,
        }
        if self.approves is not None:
            (self.approve if self.approves else self.deny)(name)
        return httpx.Response(200, json=self._of(name))

    async def _with_token(self, name: str) -> dict[str, Any]:
        each = self.requests[name]
        if each["status"] == "approved" and each["_token"] is None:
            if self.token_delay:
                self.token_delay -= 1
                return self._of(name)
            limits = {"currency": each["currency"], "max_amount": each["amount"]}
            limits["expires_at"] = each["created_at"] + TOKEN_SECONDS
            seller = {"network_business_profile": each["network_id"]}
            token = await self.stripe.issue_token(
                f"link:{name}", payment_method=self.payment_method, usage_limits=limits, seller_details=seller
            )
            each["_token"] = token["id"]
        return self._of(name) | ({"shared_payment_token": {"id": each["_token"]}} if each["_token"] else {})

    async def _cancel(self, each: dict[str, Any]) -> httpx.Response:
        if each["status"] not in ("created", "pending_approval", "approved"):
            return httpx.Response(409, json={"error": {"message": f"it is {each['status']}", "code": "conflict"}})
        if each["_token"] is not None:
            await self.stripe.revoke_token(each["_token"], f"link:{each['id']}:revoke", issued=True)
        each["status"] = "canceled"
        return httpx.Response(200, json=self._of(each["id"]))

    async def _age(self, each: dict[str, Any]) -> None:
        """Let time and the seller act on a request."""
        if each["status"] == "pending_approval" and self.clock() >= each["created_at"] + APPROVAL_SECONDS:
            each["status"] = "expired"
        if each["status"] == "approved" and each["_token"] is not None:
            token = await self.stripe.issued_token(each["_token"])
            if token["usage_details"]["amount_captured"]["value"]:
                each["status"] = "succeeded"
            elif self.clock() >= each["created_at"] + TOKEN_SECONDS:
                each["status"] = "expired"

    def _of(self, name: str) -> dict[str, Any]:
        return self._shown(self.requests[name])

    @staticmethod
    def _shown(each: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in each.items() if not name.startswith("_")}


def _problem(body: dict[str, Any]) -> str | None:
    if body.get("credential_type") != "shared_payment_token" or not body.get("network_id"):
        return "a shared payment token is for one network_id"
    if "merchant_name" in body or "merchant_url" in body:
        return "merchant_name and merchant_url are forbidden with a shared payment token"
    if len(body.get("context", "")) < 100:
        return "context must be at least 100 characters"
    return None


def _is_open(each: dict[str, Any]) -> bool:
    return each["status"] in ("created", "pending_approval", "approved")
