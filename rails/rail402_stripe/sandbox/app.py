"""The Stripe sandbox: an API in which only the money is fake.

One class with three faces: `handle` takes a request and returns an answer, `__call__` is the same as an ASGI app for
any server, and `SandboxTransport` the same again as an httpx transport without a socket. What it knows is in the
ledger file; any number of sandboxes, in any number of processes of one machine, may share it.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, StoreError
from rail402_stripe.sandbox import asgi, faults, idempotency
from rail402_stripe.sandbox.admission import Admitted, admit, read_params
from rail402_stripe.sandbox.authentication import bank_page
from rail402_stripe.sandbox.call import Call, public
from rail402_stripe.sandbox.checkout import hosted_page
from rail402_stripe.sandbox.errors import ApiError
from rail402_stripe.sandbox.exchange import AnswerLost, Request, Response, json_response
from rail402_stripe.sandbox.faults import Fault
from rail402_stripe.sandbox.forms import Params
from rail402_stripe.sandbox.idempotency import Saved
from rail402_stripe.sandbox.ledger import Books, Ledger
from rail402_stripe.sandbox.webhooks import SignedEvent, signed_event

__all__ = ["SANDBOX_URL", "Sandbox"]

SANDBOX_URL = "http://stripe.sandbox.invalid"
"""The base address of a sandbox that no port serves. It resolves nowhere, so nothing can leave by mistake."""

_PAGES = {"pay": hosted_page, "authenticate": bank_page}
_PAGE = re.compile(r"/c/(pay|authenticate)/([\x21-\x7e]{1,255})", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9.;=_-]{1,80}", re.ASCII)
_HTML = ("content-type", "text/html; charset=utf-8")
_PROXY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_EVENT_KINDS = ("payment_intent", "charge", "refund", "checkout.session")


class Sandbox:
    """A Stripe account whose money is fake, in a ledger file.

    Args:
        path: the ledger; made with mode 600 if it does not exist.
        clock: the time in Unix seconds.
        random_bytes: makes ids and client secrets; must not repeat itself, in this process or another.
        profile_id: the account's own profile; a shared payment token that names another seller cannot be charged.
        public_url: scheme, host and port at which people reach the checkout page and the bank's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
        profile_id: str = "internal",
        public_url: str = SANDBOX_URL,
    ) -> None:
        self._ledger = Ledger(path)
        self.clock = clock
        self._random_bytes = random_bytes
        self._profile_id = profile_id
        self._public_url = public_url.rstrip("/")

    def open(self) -> None:
        """Open or make the ledger now instead of at the first request.

        Raises:
            ConfigurationError: the file cannot be made or is not a ledger.
        """
        with self._ledger.transaction():
            pass

    def close(self) -> None:
        """Close the ledger file; the next request opens it again."""
        self._ledger.close()

    def inject_fault(self, fault: Fault) -> None:
        """Spoil the next matching requests, whichever process they reach. Faults wait in the order they were given."""
        with self._ledger.transaction() as books:
            faults.order(books, fault)

    def webhook(self, event_type: str, object_id: str, *, webhook_secret: str) -> SignedEvent:
        """Return a signed delivery about an object as it is now: `webhook("payment_intent.succeeded", "pi_…", ...)`.

        Raises:
            ConfigurationError: the ledger has no such object.
        """
        with self._ledger.transaction() as books:
            found = [document for kind in _EVENT_KINDS if (document := books.find(kind, object_id)) is not None]
        if not found:
            raise ConfigurationError(f"the sandbox has no PaymentIntent, charge, refund or session {object_id!r}")
        event_id = f"evt_{self._random_bytes(12).hex()}"
        return signed_event(
            event_type, public(found[0]), webhook_secret=webhook_secret, event_id=event_id, created=self.clock()
        )

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve as an ASGI app."""
        if scope["type"] == "http":
            await asgi.serve_http(self.handle, scope, receive, send)
        elif scope["type"] == "lifespan":
            await asgi.serve_lifespan(receive, send, startup=self.open, shutdown=self.close)

    async def handle(self, request: Request) -> Response:
        """Answer one request. Whatever its bytes are, the answer is Stripe-shaped JSON, or a page.

        Raises:
            AnswerLost: an ordered fault; the client hears nothing.
            ConfigurationError: the ledger file cannot be opened.
        """
        request_id = f"req_{self._random_bytes(7).hex()}"
        page = _PAGE.fullmatch(request.path)
        try:
            if page is not None and request.method in ("GET", "POST"):
                response = self._page(request, page[1], page[2])
            else:
                response = await self._endpoint(request, request_id)
        except ApiError as error:
            response = json_response(error.status, error.body)
        except StoreError:
            response = _server_error()
        version = request.headers.get("stripe-version", "")
        echo = (("stripe-version", version),) if _VERSION.fullmatch(version) else ()
        return Response(response.status, (*response.headers, ("request-id", request_id), *echo), response.body)

    def _begin(self, request: Request, admitted: Admitted, request_id: str) -> tuple[Fault | None, Saved | None]:
        """Take the fault that awaits this request, and its idempotency key or what the key answered before."""
        with self._ledger.transaction() as books:
            fault = faults.take(books, request.method, request.path)
            if admitted.key is None:
                return fault, None
            carried_out = fault is None or fault.applied
            if not carried_out and fault is not None and fault.answer != "server_error":
                return fault, None
            saved = idempotency.claim(
                books, admitted.key, request.path, admitted.params, now=self.clock(), request_id=request_id
            )
            if saved is None and not carried_out:
                error = _server_error()
                idempotency.save(books, admitted.key, error.status, error.body.decode())
            return fault, saved

    async def _endpoint(self, request: Request, request_id: str) -> Response:
        admitted = admit(request)
        fault, saved = self._begin(request, admitted, request_id)
        if fault is not None and not fault.applied:
            return _spoilt(fault, None)
        if saved is not None:
            replay = json_response(saved.status, saved.body)
            marks = (("idempotent-replayed", "true"), ("original-request", saved.request_id))
            response = Response(replay.status, (*replay.headers, *marks), replay.body)
        else:
            response = await self._execute(admitted)
        return response if fault is None else _spoilt(fault, response)

    async def _execute(self, admitted: Admitted) -> Response:
        answered = False
        try:
            if admitted.key is not None:
                # The key is in flight from here on: a request that runs in between finds it so, as it would at Stripe.
                await asyncio.sleep(0)
            with self._ledger.transaction() as books:
                response = self._run(books, admitted)
            answered = True
        finally:
            if not answered and admitted.key is not None:
                with self._ledger.transaction() as books:
                    idempotency.release(books, admitted.key)
        return response

    def _run(self, books: Books, admitted: Admitted) -> Response:
        call = self._call(books, admitted.params, admitted.object_id, publishable=admitted.publishable)
        books.mark()
        try:
            response = json_response(200, admitted.route.endpoint(call))
        except ApiError as error:
            if error.effect == "not_begun":
                raise  # undoes the whole transaction
            if error.effect == "refused":
                books.undo_to_mark()
            response = json_response(error.status, error.body)
        if admitted.key is not None:
            idempotency.save(books, admitted.key, response.status, response.body.decode())
        return response

    def _page(self, request: Request, name: str, object_id: str) -> Response:
        params = read_params(request)
        with self._ledger.transaction() as books:
            page = _PAGES[name](self._call(books, params, object_id), acting=request.method == "POST")
        location = () if page.location is None else (("location", page.location),)
        return Response(page.status, (_HTML, *location), page.html.encode())

    def _call(self, books: Books, params: Params, object_id: str, *, publishable: bool = False) -> Call:
        return Call(
            books,
            params,
            object_id,
            self.clock(),
            self._random_bytes,
            publishable,
            self._profile_id,
            self._public_url,
        )


def _spoilt(fault: Fault, response: Response | None) -> Response:
    """Return what the client gets instead of `response`, which is None if the request was not carried out."""
    if fault.answer == "timeout":
        raise AnswerLost
    if fault.answer == "server_error":
        return _server_error()
    if fault.answer == "html":
        return Response(502, (_HTML,), _PROXY_PAGE)
    if fault.answer == "truncated":
        assert response is not None, "only requests that were carried out are truncated"
        return Response(response.status, response.headers, response.body[: len(response.body) // 2])
    if fault.answer == "rate_limited":
        raise ApiError(429, "Too many requests in a short time. Please slow down.", code="rate_limit")
    raise ApiError(409, "This object is in use by another request. Please try again later.", code="lock_timeout")


def _server_error() -> Response:
    message = "An error occurred inside the sandbox. Please try again."
    return json_response(500, json.dumps({"error": {"message": message, "type": "api_error"}}))
