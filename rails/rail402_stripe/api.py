"""The calls that the rail and the wallets make, through the real `stripe` library.

Every call ends in one of four ways: an answer; `Refused` or `Declined`, which are definitive; `RailUnavailable`, where
nothing can have happened; `OutcomeUnknown`, where it may or may not have. See `refusals.py`.

The library itself does not try again (`max_network_retries` is 0): who is to say that a lost request may be repeated is
the charge's state machine.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, get_args

import httpx
import stripe

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402.sandbox import sandbox_directory
from rail402_stripe.client import STRIPE_API_BASE, RailStripeClient, stripe_client, time_of
from rail402_stripe.intents import intent_id
from rail402_stripe.refusals import Declined, Refused, no_answer, translated
from rail402_stripe.sandbox import SANDBOX_URL, Sandbox, SandboxTransport
from rail402_stripe.wire import SANDBOX_PROFILE, Network

__all__ = [
    "API_VERSION",
    "SANDBOX_LEDGER",
    "SANDBOX_PUBLISHABLE_KEY",
    "Declined",
    "Refused",
    "SptParameter",
    "StripeApi",
]

API_VERSION: Final = "2026-07-29.preview"
"""The version of the API that is asked for. Shared payment tokens are there in previews only."""

SANDBOX_LEDGER: Final = "stripe.sqlite3"
"""The sandbox's file in its directory."""

SANDBOX_PUBLISHABLE_KEY: Final = "pk_test_sandbox"
"""The publishable key of every publisher in the sandbox."""

SptParameter = Literal["payment_method_data", "top_level"]
"""Where a PaymentIntent takes the token: since 2026-04-22.preview in `payment_method_data`, before that at the top."""

_PAGE: Final = 100
_MAX_PAGES: Final = 1000
_SESSIONS_CHARGE: Final = "payment_intent.latest_charge"


class StripeApi:
    """One Stripe account, seen through a secret key.

    Args:
        secret_key: `sk_…`, or a restricted key that may write PaymentIntents, refunds and, for people, Checkout
            Sessions, and read shared payment tokens.
        api_version: the version of the API to speak.
        spt_parameter: where that version takes the token.
        transport: carries the requests instead of the network.
        api_base, timeout_seconds: see `stripe_client`.

    Attributes:
        network: which Stripe it is: live, test, or a sandbox.
        sandbox_app: what is called in Stripe's place; None at Stripe itself. sandbox_key: with which key that is.

    Raises:
        ConfigurationError: the key, the version, the spelling or the address is not one.
    """

    sandbox_key: ClassVar[str] = "sk_test_sandbox"

    def __init__(
        self,
        secret_key: str,
        *,
        api_version: str = API_VERSION,
        spt_parameter: SptParameter = "payment_method_data",
        transport: httpx.AsyncBaseTransport | None = None,
        api_base: str = STRIPE_API_BASE,
        timeout_seconds: float = 30.0,
    ) -> None:
        if spt_parameter not in get_args(SptParameter):
            raise ConfigurationError(f"spt_parameter={spt_parameter!r} must be one of {get_args(SptParameter)}")
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z]+)?", api_version):
            raise ConfigurationError(f"api_version={api_version!r} must look like {API_VERSION}")
        self._secret_key, self._transport = secret_key, transport
        self._api_base, self._timeout_seconds = api_base, timeout_seconds
        self._api_version, self._spt_parameter = api_version, spt_parameter
        self._client: RailStripeClient | None = self._connect()  # checks the key and the address; nothing is sent
        self.sandbox_app: Sandbox | None = None
        self._time: int | None = None
        self.network: Network = "stripe:live" if "_live_" in secret_key[:8] else "stripe:test"

    def __repr__(self) -> str:
        return f"StripeApi({self.network!r}, api_version={self._api_version!r})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
    ) -> Self:
        """Return the account of the sandbox in `directory`, which every process that names it shares.

        Args:
            directory: see `sandbox_directory`.
            clock: Unix seconds; random_bytes: makes ids.

        Raises:
            ConfigurationError: the directory cannot be made.
        """
        path = sandbox_directory(directory) / SANDBOX_LEDGER
        sandbox = Sandbox(path, clock=clock, random_bytes=random_bytes, profile_id=SANDBOX_PROFILE)
        api = cls(cls.sandbox_key, transport=SandboxTransport(sandbox), api_base=SANDBOX_URL)
        api.network, api.sandbox_app = "stripe:sandbox", sandbox
        return api

    async def close(self) -> None:
        """Close the connections; the next call opens them again."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # --- the account

    async def check_key(self) -> None:
        """Ask for the balance, to see that the key is good.

        Raises:
            ConfigurationError: Stripe does not know the key.
            RailUnavailable: Stripe cannot be reached.
        """
        try:
            await self.balance()
        except RailUnavailable as error:
            match error.__cause__:
                case stripe.AuthenticationError():
                    raise ConfigurationError("Stripe does not accept the secret key; is it complete?") from error
                case stripe.PermissionError():
                    return  # a restricted key need not see the balance
                case _:
                    raise

    @property
    def time(self) -> int:
        """Stripe's own time at its latest answer, Unix seconds: it dates by that clock. Raises: RailUnavailable."""
        if self._time is None:
            raise RailUnavailable("Stripe does not say what time it is")
        return self._time

    async def ask_time(self) -> int:
        """Return Stripe's own time now. Raises: Refused, RailUnavailable."""
        await self._get("/v1/payment_intents", limit=1)
        return self.time

    async def balance(self) -> Mapping[str, int]:
        """Return the account's balance, pending and available together: minor units by currency.

        Raises: Refused, RailUnavailable.
        """
        found = await self._get("/v1/balance")
        totals: dict[str, int] = {}
        try:
            for part in (*found["available"], *found["pending"]):
                totals[part["currency"]] = totals.get(part["currency"], 0) + part["amount"]
        except (LookupError, TypeError) as error:
            raise RailUnavailable("Stripe gave a balance that cannot be read") from error
        return totals

    # --- PaymentIntents. Each is returned with its `latest_charge` expanded.

    async def create_intent(self, spt: str | None, key: str, **params: Any) -> Json:
        """Create a PaymentIntent; with `confirm` it charges (or reserves) at once.

        Args:
            spt: the shared payment token to charge; None where `params` say what is charged.
            key: the idempotency key. Where it was used before, Stripe repeats its answer of then; the PaymentIntent is
                retrieved, so that what is returned is as it is now.

        Raises: Refused, Declined, RailUnavailable, OutcomeUnknown.
        """
        if spt is not None:
            token = {"shared_payment_granted_token": spt}
            params |= token if self._spt_parameter == "top_level" else {"payment_method_data": token}
        return (await self.intent_of_key(key, **params))[0]

    async def intent_of_key(self, key: str, **params: Any) -> tuple[Json, bool]:
        """Do the same without a token; return also whether the key had been used before. Raises: see above."""
        found, replayed = await self._post("/v1/payment_intents", key, **params, expand=["latest_charge"])
        if not replayed:
            return found, False
        try:
            return await self.intent(intent_id(found)), True
        except (RailUnavailable, Refused) as error:
            raise OutcomeUnknown("the PaymentIntent was created before and cannot be looked at now") from error

    async def intent(self, pi: str) -> Json:
        """Return the PaymentIntent of that id, and none that an answer mixes it up with. Raises: Refused,
        RailUnavailable."""
        found = await self._get(f"/v1/payment_intents/{pi}", expand=["latest_charge"])
        if found.get("id") != pi:
            raise RailUnavailable("Stripe's answer is about something else than was asked for")
        return found

    async def capture(self, pi: str, key: str, amount: int) -> Json:
        """Take `amount` (minor units) of what is reserved and give the rest free. Raises: Refused, Declined,
        RailUnavailable, OutcomeUnknown."""
        path = f"/v1/payment_intents/{pi}/capture"
        found, _ = await self._post(path, key, amount_to_capture=amount, expand=["latest_charge"])
        return found

    async def cancel(self, pi: str, key: str) -> Json:
        """Give free what is reserved. Raises: Refused, RailUnavailable, OutcomeUnknown."""
        path = f"/v1/payment_intents/{pi}/cancel"
        found, _ = await self._post(path, key, cancellation_reason="abandoned", expand=["latest_charge"])
        return found

    async def intents_between(self, since: int, until: int) -> AsyncIterator[Json]:
        """Yield the PaymentIntents created in a span of Unix seconds, newest first. The list is strongly consistent,
        which Stripe's search is not. Raises: Refused, RailUnavailable."""
        params: dict[str, Any] = {"created": {"gte": since, "lte": until}, "limit": _PAGE}
        for _ in range(_MAX_PAGES):
            page = await self._get("/v1/payment_intents", **params, expand=["data.latest_charge"])
            intents = page.get("data")
            if not isinstance(intents, list) or not all(isinstance(intent, dict) for intent in intents):
                raise RailUnavailable("Stripe gave a list of PaymentIntents that cannot be read")
            for intent in intents:
                yield intent
            if not intents or page.get("has_more") is not True:
                return
            params["starting_after"] = intents[-1].get("id")
        raise RailUnavailable(f"more than {_MAX_PAGES * _PAGE} PaymentIntents were created in {until - since} s")

    # --- Checkout Sessions. Each is returned with its PaymentIntent and that one's `latest_charge` expanded.

    async def create_session(self, key: str, **params: Any) -> Json:
        """Create a Checkout Session; with a key that was used before, return that session as it is now.

        Raises: Refused, RailUnavailable, OutcomeUnknown.
        """
        found, replayed = await self._post("/v1/checkout/sessions", key, **params, expand=[_SESSIONS_CHARGE])
        if not replayed:
            return found
        try:
            return await self.session(str(found.get("id")))
        except (RailUnavailable, Refused) as error:
            raise OutcomeUnknown("the session was created before and cannot be looked at now") from error

    async def session(self, session_id: str) -> Json:
        """Return the Checkout Session of that id. Raises: Refused, RailUnavailable."""
        return await self._get(f"/v1/checkout/sessions/{session_id}", expand=[_SESSIONS_CHARGE])

    # --- refunds

    async def refund(self, pi: str, key: str, metadata: Mapping[str, str]) -> Json:
        """Refund all of a PaymentIntent. Raises: Refused, RailUnavailable, OutcomeUnknown."""
        found, _ = await self._post("/v1/refunds", key, payment_intent=pi, metadata=dict(metadata))
        return found

    async def refunds(self, pi: str) -> list[Json]:
        """Return the refunds of a PaymentIntent, newest first, at most 100. Raises: Refused, RailUnavailable."""
        page = await self._get("/v1/refunds", payment_intent=pi, limit=_PAGE)
        found = page.get("data")
        if not isinstance(found, list) or not all(isinstance(refund, dict) for refund in found):
            raise RailUnavailable("Stripe gave a list of refunds that cannot be read")
        return found

    # --- shared payment tokens

    async def granted_token(self, spt: str) -> Json:
        """Return a token as its seller sees it. Raises: Refused, RailUnavailable."""
        return await self._get(f"/v1/shared_payment/granted_tokens/{spt}")

    async def issued_token(self, spt: str) -> Json:
        """Return a token as its issuer sees it. Raises: Refused, RailUnavailable."""
        return await self._get(f"/v1/shared_payment/issued_tokens/{spt}")

    async def grant_token(self, key: str, **params: Any) -> Json:
        """Make a test token as if a payer had issued it. Raises: Refused, Declined, RailUnavailable, OutcomeUnknown."""
        found, _ = await self._post("/v1/test_helpers/shared_payment/granted_tokens", key, **params)
        return found

    async def issue_token(self, key: str, **params: Any) -> Json:
        """Issue a token to a seller. Raises: Refused, Declined, RailUnavailable, OutcomeUnknown."""
        found, _ = await self._post("/v1/shared_payment/issued_tokens", key, **params)
        return found

    async def revoke_token(self, spt: str, key: str, *, issued: bool) -> None:
        """Take a token back, so that nobody can begin to charge it: one that was `issued` here, or else a test token.

        Raises: Refused, RailUnavailable, OutcomeUnknown.
        """
        place = "shared_payment/issued_tokens" if issued else "test_helpers/shared_payment/granted_tokens"
        await self._post(f"/v1/{place}/{spt}/revoke", key)

    # --- the seam

    def _connect(self) -> RailStripeClient:
        return stripe_client(
            self._secret_key,
            transport=self._transport,
            timeout_seconds=self._timeout_seconds,
            api_base=self._api_base,
        )

    async def _get(self, path: str, **params: Any) -> Json:
        found, _ = await self._call("get", path, params)
        return found

    async def _post(self, path: str, key: str, **params: Any) -> tuple[Json, bool]:
        return await self._call("post", path, {**params, "idempotency_key": key})

    async def _call(self, method: Literal["get", "post"], path: str, params: Mapping[str, Any]) -> tuple[Json, bool]:
        """Make one call; return the answer, and whether Stripe says that it repeats an earlier one."""
        client = self._client = self._client or self._connect()
        try:
            answer = await client.raw_request_async(method, path, stripe_version=self._api_version, **params)
        except stripe.StripeError as error:
            raise translated(error, asks_only=method == "get") from error
        self._time = time_of(answer.headers)
        if not isinstance(answer.data, dict):
            raise no_answer("is no object", asks_only=method == "get")
        return answer.data, answer.headers.get("idempotent-replayed") == "true"
