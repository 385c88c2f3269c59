"""A paid URL, from outside: is it a 402 that clients can pay, and does it arrive as the gate has sent it?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import httpx

from rail402.cli.doctor.findings import TIMEOUT, Finding, clock_finding, ok, warning, wrong
from rail402.cli.reading import SAFE_BYTES, challenge_bytes, installed, read_entries
from rail402.cli.request import MAX_BODY, ask, build_request, order_of
from rail402.client.unsold import unsold
from rail402.clock import system_clock
from rail402.errors import MalformedInput
from rail402.protocol.base import parse_json
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import DISCOVERY
from rail402.upstream import is_private_host

__all__ = ["url_findings"]

_HEADERS: Final = {"User-Agent": "rail402-doctor", "Origin": "https://rail402-doctor.example"}


async def url_findings(url: str) -> AsyncIterator[Finding]:
    """Yield what is found about a URL. It is asked for once, without a payment."""
    request = build_request(url, "GET", [], None)
    async with httpx.AsyncClient(timeout=TIMEOUT, headers=_HEADERS) as client:
        try:
            response, body = await ask(client, request)
        except httpx.HTTPError as error:
            yield wrong("answer", f"none from {request.url}: {error or type(error).__name__}", "check the address")
            return
        if request.url.scheme == "http" and not is_private_host(request.url.host):
            yield wrong("https", "it is not encrypted: proofs of payment can be read on the way", "serve https")
        if response.status_code != 402:
            yield wrong(
                "answer",
                f"{response.status_code}, not 402",
                "name a URL that costs something; `rail402 inspect` says what this answer means",
            )
            return
        yield ok("answer", "402 Payment Required")
        for finding in (_offers(response, body), _size(response), _cache(response), _scripts(response)):
            yield finding
        yield await _discovery(client, response)
    clock = clock_finding(response, system_clock())
    if clock is not None:
        yield clock


def _offers(response: httpx.Response, body: bytes | None) -> Finding:
    plugins, _ = installed()
    fields, order = Fields.from_raw(response.headers.raw), order_of(response.request)
    entries = read_entries(plugins, fields, body or b"", now=system_clock(), order=order)
    payable = sorted({f"{entry.verdict}" for entry in entries})
    good = sum(1 for entry in entries if entry.verdict == "payable")
    told = unsold(body)
    if not entries and told is not None:
        fix = "raise the price, name another rail, or give the gate rates="
        return wrong("offers", f"none, and the server says: {told[1]}", fix)
    if not entries:
        return wrong(
            "offers", "none: its terms were lost on the way, or it is no gate", "let all header fields through"
        )
    if not good:
        return wrong(
            "offers", f"{len(entries)}, none of which can be paid ({', '.join(payable)})", "rail402 inspect URL"
        )
    if good < len(entries):
        return warning(
            "offers", f"{good} of {len(entries)} can be paid", "`rail402 inspect URL` says what the others lack"
        )
    return ok("offers", f"all {good} can be paid")


def _size(response: httpx.Response) -> Finding:
    size = challenge_bytes(Fields.from_raw(response.headers.raw))
    if size > SAFE_BYTES:
        return warning(
            "header size",
            f"{size} bytes of challenge fields; many proxies buffer no more than {SAFE_BYTES}",
            "offer fewer dialects or rails on this route, or raise the proxy's buffer",
        )
    return ok("header size", f"{size} bytes of challenge fields")


def _cache(response: httpx.Response) -> Finding:
    said = response.headers.get("cache-control", "")
    if "no-store" not in said.lower():
        return wrong(
            "cache",
            f"Cache-Control is {said or 'missing'}: a cache may give one payer's 402 to another",
            "let Cache-Control of the gate through, and do not cache 402",
        )
    age = response.headers.get("age")
    if age is not None:
        return wrong("cache", f"it comes out of a cache (Age: {age})", "do not cache 402")
    return ok("cache", "no-store")


def _scripts(response: httpx.Response) -> Finding:
    exposed = response.headers.get("access-control-expose-headers", "").lower()
    allowed = response.headers.get("access-control-allow-origin")
    if "payment-required" not in exposed and "www-authenticate" not in exposed:
        return warning(
            "browsers",
            "Access-Control-Expose-Headers does not name the challenge: no script of another origin can pay",
            "let the field through; leave it where no browser is to pay",
        )
    if allowed is None:
        return warning(
            "browsers",
            "Access-Control-Allow-Origin is missing: no script of another origin can read this",
            "add your framework's CORS middleware; leave it where no browser is to pay",
        )
    return ok("browsers", f"scripts of {allowed} can read the challenge")


async def _discovery(client: httpx.AsyncClient, response: httpx.Response) -> Finding:
    url = response.request.url.copy_with(raw_path=f"{DISCOVERY}jwks.json".encode())
    try:
        _, body = await ask(client, httpx.Request("GET", url))
        keys = len(parse_json(body or b"", field="body", max_bytes=MAX_BODY)["keys"])
    except (httpx.HTTPError, MalformedInput, LookupError, TypeError):
        return warning(
            "receipts", f"{url} has no key set: our receipts cannot be verified", "let it through to the gate"
        )
    return ok("receipts", f"{url} has {keys} key{'s' if keys != 1 else ''}")
