"""What released peers do otherwise than their specification or than each other, as the interop tests met it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.interop.peers import (
    ALBY,
    L402_REQUESTS,
    MPPX,
    PYMACAROONS,
    PYMPP,
    X402,
    X402_EXPRESS,
    X402_EXPRESS_V1,
    X402_FETCH_V1,
    Package,
)

__all__ = ["DEVIATIONS", "Deviation"]


@dataclass(frozen=True, slots=True)
class Deviation:
    """One of them, for people: what a peer does, and what ours does about it."""

    package: Package
    does: str
    ours: str


DEVIATIONS: Final = [
    Deviation(
        PYMPP,
        "derives the nonce of `evm/charge` from the challenge's id and realm as a JSON list; the draft and mppx put the"
        " two texts one after the other",
        "the server takes both; the client makes pympp's for a challenge that pympp has marked, else the draft's",
    ),
    Deviation(
        PYMPP,
        "offers x402 beside `evm/charge`, but takes only payments with an extension of its own, unless the route says"
        ' route_binding="resource"',
        "the client pays where the route says so; elsewhere it is refused, and no money moves",
    ),
    Deviation(
        MPPX,
        "`mppx validate` reads the first scheme of `WWW-Authenticate` only, and takes a route that offers L402 first"
        " for none of MPP",
        "L402 stays first, for clients of L402 that read no further; routes without Lightning pass every check",
    ),
    Deviation(
        ALBY,
        "its fetchWithMpp reads the first scheme of `WWW-Authenticate` only",
        'a route with `dialects=["mpp"]` is for it; on others it finds L402 or x402 with fetch402',
    ),
    Deviation(
        ALBY,
        "sends back the members of an MPP challenge that the Lightning draft's example shows, and neither `opaque` nor"
        " `digest`, although both are part of the challenge's id",
        "for Lightning the offer's token stands in `request`, and the digest is taken from the request's body",
    ),
    Deviation(
        ALBY,
        'pays x402 offers that have `"paymentMethod": "lightning"`, an older draft, and shows the invoice for a proof',
        "the offer has that member, and for such a proof the server asks its node whether the invoice was paid",
    ),
    Deviation(
        L402_REQUESTS,
        "its LndWallet reads the 64 hexadecimal digits of lnd's preimage as base64, and shows the 96 digits of what"
        " comes out",
        "in L402 the server turns them back, so that what was paid for is served; in MPP they are refused",
    ),
    Deviation(
        PYMACAROONS,
        "writes macaroons in base64url without padding, where the reference server reads standard base64 only",
        "both alphabets are read, padded or not; ours are written in standard base64",
    ),
    *(
        Deviation(
            package,
            f"keeps no answers{even}: a payment whose answer was lost is refused when it is shown again",
            "the client shows that payment until its deadline, then says that the outcome is not known and keeps the"
            " amount reserved; it signs no other",
        )
        for package, even in (
            (X402, ", not even where it wants payments to be named"),
            (X402_EXPRESS, ", not even where it wants payments to be named"),
            (X402_EXPRESS_V1, ""),
        )
    ),
    Deviation(
        X402,
        "its Flask middleware sends `Content-Type` twice in a 402",
        "the client reads the offer in `PAYMENT-REQUIRED`, and bodies by their bytes",
    ),
    Deviation(
        X402_EXPRESS_V1,
        "names a `resource` without the request's query",
        "the client takes the address that it asked, not the one that it is told",
    ),
    Deviation(
        X402_FETCH_V1,
        "sends back neither the offer nor anything that only its payer knows",
        "the server checks the payment against an offer made anew; shown again it is answered 409, for by then all"
        " can read it on the chain",
    ),
]
