"""MPP over MCP, and over JSON-RPC in general.

A call that wants to be paid fails with the error -32042, whose data holds the challenges; the credential travels in
`_meta` of the second call, the receipt in `_meta` of its result. The requests in challenges are JSON here; their ids
are those of HTTP, made over the canonical form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rail402.dialects import auth_params
from rail402.dialects._base64_json import from_base64, to_base64url
from rail402.dialects._rails import proof_on_the_wire, read_offers
from rail402.dialects.mpp import Mpp, check_challenge
from rail402.errors import REASONS, MalformedInput
from rail402.protocol.base import Json, canonical_json
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.payment import Payment

__all__ = ["CREDENTIAL", "PAYMENT_REQUIRED", "PAYMENT_REQUIRED_META", "RECEIPT", "VERIFICATION_FAILED", "MppMcp"]

PAYMENT_REQUIRED: Final = -32042
"""The JSON-RPC error of a call that has to be paid."""

VERIFICATION_FAILED: Final = -32043
"""The JSON-RPC error of a call whose payment was not accepted."""

CREDENTIAL: Final = "org.paymentauth/credential"
"""The member of a request's `_meta` that holds the credential."""

RECEIPT: Final = "org.paymentauth/receipt"
"""The member of a result's `_meta` that holds the receipt."""

PAYMENT_REQUIRED_META: Final = "org.paymentauth/payment-required"
"""The member of a result's `_meta` in which a call may ask for payment too; mppx reads it."""


class MppMcp:
    """MPP in tool calls.

    Args:
        dialect: what it says and reads, envelopes aside.
    """

    def __init__(self, dialect: Mpp | None = None) -> None:
        self._dialect = dialect or Mpp()

    # --- server

    def error(self, challenge: Challenge, context: Context) -> dict[str, Any] | None:
        """Return the JSON-RPC error that asks for payment, or says why one was not accepted; None without offers.

        Its challenges have no `digest`, which is for the body of an HTTP request: the offer's token binds to the call.
        """
        order = challenge.order.model_copy(update={"body_digest": EMPTY_BODY_DIGEST})
        challenge = challenge.model_copy(update={"order": order})
        challenges = [_as_json(params) for params in self._dialect.challenges(challenge, context)]
        if not challenges:
            return None
        reason = REASONS[challenge.code]
        data = {"httpStatus": 402, "challenges": challenges, "problem": reason.problem(challenge.detail, status=402)}
        code = PAYMENT_REQUIRED if challenge.code == "payment_required" else VERIFICATION_FAILED
        return {"code": code, "message": reason.title, "data": data}

    def payment(self, request: Json, context: Context) -> Payment | None:
        """Return the payment of a JSON-RPC request, whose `_meta` is in `params` or beside it; None without one.

        Raises:
            MalformedInput, PaymentRejected: see `Mpp.payments`.
        """
        in_params = _meta(request.get("params"), CREDENTIAL)
        message = _meta(request, CREDENTIAL) if in_params is None else in_params
        if message is None:
            return None
        if not isinstance(message, dict):
            raise MalformedInput(CREDENTIAL, "must be the credential's object")
        challenge = message.get("challenge")
        if isinstance(challenge, dict):
            message = {**message, "challenge": _as_params(challenge)}
        return self._dialect.payment(message, CREDENTIAL, context)

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> dict[str, Any]:
        """Return what a result's `_meta` says of a settled charge; nothing of any other."""
        receipt = self._dialect.receipt_of(charge, payment, context)
        return {} if receipt is None else {RECEIPT: receipt}

    # --- client

    def offers(self, response: Json, context: Context) -> list[Offer]:
        """Return the offers of a JSON-RPC response: of its error, or of its result's `_meta`, where mppx puts them.

        Raises:
            MalformedInput: none of the challenges can be used, and one cannot be read.
        """
        return read_offers(_challenges(response), lambda challenge: self._offer(challenge, context))

    def _offer(self, challenge: object, context: Context) -> Offer | None:
        challenge = _object(challenge)
        offer = self._dialect.offer(check_challenge(_as_params(challenge)), context)
        return offer and offer.model_copy(update={"envelope": {**(offer.envelope or {}), "as_it_came": challenge}})

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> dict[str, Any]:
        """Return what `_meta` of the second call holds, with the challenge exactly as it came."""
        assert offer.envelope is not None
        proof = proof_on_the_wire(self._dialect.name, offer, payload, context)
        return {CREDENTIAL: {"challenge": offer.envelope["as_it_came"], "payload": proof}}

    # --- a client that buys over HTTP

    def fields_of(self, response: Json) -> list[tuple[str, str]]:
        """Return the header fields that say in HTTP what a JSON-RPC response asks; none where it asks for nothing.

        Raises:
            MalformedInput: a challenge cannot be read.
        """
        asked = [check_challenge(_as_params(_object(challenge))) for challenge in _challenges(response)]
        return [("WWW-Authenticate", _line(params)) for params in asked]

    def meta_of(self, fields: Fields, response: Json) -> dict[str, Any]:
        """Return what `_meta` holds for the header fields that present a payment, with its challenge as it came in
        `response`, where it did."""
        values = [*fields.all("authorization"), *fields.all("payment-authorization")]
        shown = [value.partition(" ")[2] for value in values if value.startswith("Payment ")]
        if not shown:
            return {}
        message = from_base64(shown[0], field="authorization")
        echoed = message["challenge"]
        came = {each["id"]: each for each in _challenges(response)}
        return {CREDENTIAL: {**message, "challenge": came.get(echoed["id"]) or _as_json(echoed)}}


def _challenges(response: Json) -> list[Any]:
    error = response.get("error")
    asked = isinstance(error, dict) and error.get("code") in (PAYMENT_REQUIRED, VERIFICATION_FAILED)
    data = (
        error.get("data") if isinstance(error, dict) and asked else _meta(response.get("result"), PAYMENT_REQUIRED_META)
    )
    challenges = data.get("challenges") if isinstance(data, dict) else None
    if challenges is None:
        return []
    if not isinstance(challenges, list):
        raise MalformedInput("challenges", "must be a list")
    return challenges


def _meta(holder: object, name: str) -> Any:
    meta = holder.get("_meta") if isinstance(holder, dict) else None
    return meta.get(name) if isinstance(meta, dict) else None


def _object(challenge: object) -> dict[str, Any]:
    if not isinstance(challenge, dict):
        raise MalformedInput("challenges", "each must be an object")
    return challenge


def _line(params: Mapping[str, str]) -> str:
    return "Payment " + ", ".join(f"{name}={auth_params.quote(text)}" for name, text in params.items())


def _as_json(params: Json) -> dict[str, Any]:
    """Return a challenge of HTTP with its request as JSON."""
    return {**params, "request": from_base64(params["request"], field="request")}


def _as_params(challenge: Json) -> dict[str, Any]:
    """Return a challenge with request and opaque as HTTP has them; some peers send opaque as JSON too."""
    params = {name: value for name, value in challenge.items() if value is not None and name != "meta"}
    for name in ("request", "opaque"):
        if isinstance(params.get(name), dict):
            try:
                params[name] = to_base64url(canonical_json(params[name]))
            except ValueError as error:
                raise MalformedInput(f"challenge.{name}", "has a number that JSON cannot say exactly") from error
    return params
