"""Verifying an EIP-3009 payment, against the one elliptic-curve recovery that it cannot do without."""

from __future__ import annotations

import itertools
import statistics
import time

from coincurve import PublicKey

from rail402_base.eip3009 import Authorization, address_of, digest, keccak256, parse_authorization, recover, sign
from rail402_base.tokens import BASE_USDC

KEY, ROUNDS, TIMES = b"\x11" * 32, 25, 40


def measure() -> dict[str, float]:
    """Return the ratios, and the microseconds of one verification."""
    payer, payee = address_of(KEY), "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    fresh = itertools.count()
    payloads, bare = [], []
    for _ in range(TIMES):
        nonce = next(fresh).to_bytes(32, "big")
        authorization = Authorization(
            from_=payer, to=payee, value=10_000, valid_after=0, valid_before=2_000_000_000, nonce=nonce
        )
        hashed = digest(BASE_USDC.domain, authorization)
        signature = sign(hashed, KEY)
        fields = {"from": payer, "to": payee, "value": "10000", "validAfter": "0", "validBefore": "2000000000"}
        payloads.append({"signature": "0x" + signature.hex(), "authorization": fields | {"nonce": "0x" + nonce.hex()}})
        bare.append((signature[:64] + bytes([signature[64] - 27]), hashed))

    def verify() -> None:
        for payload in payloads:
            authorization, signature = parse_authorization(payload)
            if recover(digest(BASE_USDC.domain, authorization), signature) != payer:
                raise AssertionError("the signature does not verify")

    def recover_only() -> None:
        for signature, hashed in bare:
            PublicKey.from_signature_and_message(signature, hashed, hasher=None)

    def recover_and_hash() -> None:
        for signature, hashed in bare:
            keccak256(PublicKey.from_signature_and_message(signature, hashed, hasher=None).format(False)[1:])

    times: dict[str, list[float]] = {"verify": [], "recovery": [], "recovery and hash": []}
    for _ in range(ROUNDS):
        for name, work in (("verify", verify), ("recovery", recover_only), ("recovery and hash", recover_and_hash)):
            begun = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(found) for name, found in times.items()}
    return {
        "verification / bare recovery": round(median["verify"] / median["recovery"], 2),
        "verification / recovery and one hash": round(median["verify"] / median["recovery and hash"], 2),
        "verification, microseconds": round(median["verify"] / TIMES * 1e6),
    }


if __name__ == "__main__":
    print(measure())
