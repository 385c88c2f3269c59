"""Offer tokens: an offer that is issued without a write and verified without a read.

A token is `kid.expires.nonce.mac`: the id of the secret, the offer's expiry (Unix seconds), 128 random bits, and
HMAC-SHA256 over the order's digest and the canonical offer. It travels in whatever the dialect echoes. Its nonce is a
consumption key, so that an offer is paid once whatever form the payment takes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rail402.errors import ConfigurationError, PaymentRejected
from rail402.protocol.base import hmac_sha256, hmac_sha256_again
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order

__all__ = ["OfferKeys", "TokenParts", "nonce_in", "parse_token", "read_token"]

_TOKEN = re.compile(r"([A-Za-z0-9_-]{1,32})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})", re.ASCII)
_NONCE_IN = re.compile(r"[^.]*\.[^.]*\.([A-Za-z0-9_-]{22})(?:\..*)?", re.ASCII)
_KID = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_MIN_SECRET = 32


@dataclass(frozen=True, slots=True)
class TokenParts:
    """A token taken apart; nothing about it is verified yet."""

    kid: str
    expires_at: int
    nonce: str
    mac: bytes

    @property
    def key(self) -> str:
        """The consumption key of the token: a digest, since the nonce is the secret that a replay must show again.

        It begins with the time, so that the keys of a store's newest charges lie side by side in its index, however
        many there are.
        """
        digest = hashlib.sha256(f"rail402/offer/key\n{self.nonce}".encode()).hexdigest()
        return f"offer:{self.expires_at:08x}:{digest[:32]}"

    @property
    def secret_digest(self) -> str:
        """What a charge keeps of the token's secret, to know it again."""
        return hashlib.sha256(self.nonce.encode()).hexdigest()


def read_token(token: str) -> TokenParts | None:
    """Take a token apart; None where it does not have the form of one."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    return TokenParts(match[1], int(match[2]), match[3], base64.urlsafe_b64decode(match[4] + "="))


def parse_token(token: str) -> TokenParts:
    """Take a token apart.

    Raises:
        PaymentRejected: `offer_unknown`: it does not have the form of a token.
    """
    parts = read_token(token)
    if parts is None:
        raise _not_ours(token)
    return parts


def nonce_in(token: str) -> str:
    """Return the nonce of a token, whatever the rest of it has become on its way.

    Raises:
        PaymentRejected: `offer_unknown`: there is none.
    """
    match = _NONCE_IN.fullmatch(token)
    if match is None:
        raise _not_ours(token)
    return match[1]


def _not_ours(token: str) -> PaymentRejected:
    problem = "is not one of ours" if token else "is missing: send the offer back as it came"
    return PaymentRejected(f"the offer token {problem}", code="offer_unknown")


class OfferKeys:
    """The secrets that offers are issued with.

    Args:
        secrets: by key id, each at least 32 bytes. To rotate, add a new one, make it current, and drop the old one
            once its offers have expired.
        current: the key id that new offers are issued with; the only one where there is one.

    Raises:
        ConfigurationError: a secret is too short, a key id has other characters than `A-Za-z0-9_-`, or `current` is
            not among them.
    """

    def __init__(self, secrets: Mapping[str, bytes], *, current: str | None = None) -> None:
        for kid, secret in secrets.items():
            if not _KID.fullmatch(kid):
                raise ConfigurationError(f"secret id {kid!r} must be 1 to 32 characters of A-Z a-z 0-9 _ -")
            if len(secret) < _MIN_SECRET:
                raise ConfigurationError(f"secret {kid!r} must be at least {_MIN_SECRET} bytes; use `rail402 keygen`")
        chosen = current or next(iter(secrets), "")
        if chosen not in secrets:
            raise ConfigurationError(f"the current secret id {chosen!r} is not among the secrets")
        self._secrets, self.current = dict(secrets), chosen
        self._derived: dict[str, tuple[bytes, ...]] = {}

    def __repr__(self) -> str:
        return f"OfferKeys(current={self.current!r}, ids={sorted(self._secrets)})"

    def issue(self, offer: Offer, order: Order, nonce: bytes) -> Offer:
        """Return the offer with its token. `nonce` is 16 random bytes."""
        text = _b64(nonce)
        mac = self._mac(self._secrets[self.current], offer, offer.expires_at, order.digest, text)
        return offer.model_copy(update={"token": f"{self.current}.{offer.expires_at}.{text}.{_b64(mac)}"})

    def verify(self, offer: Offer, order: Order) -> TokenParts:
        """Check that this server made `offer` for `order`; whether it has expired is left to the caller.

        Raises:
            PaymentRejected: `offer_unknown` without a token or with an unknown key; `resource_mismatch` where the
                MAC does not fit, that is, the offer was altered or made for another request.
        """
        return self.verify_digest(offer, order.digest)

    def verify_digest(self, offer: Offer, order_digest: str) -> TokenParts:
        """Check that this server made `offer` for the order of that digest; see `verify`."""
        parts = parse_token(offer.token or "")
        secret = self._secrets.get(parts.kid)
        if secret is None:
            raise PaymentRejected("the offer token's key is not known (any more)", code="offer_unknown")
        try:
            mac = self._mac(secret, offer, parts.expires_at, order_digest, parts.nonce)
        except ValueError as error:  # a number in the echoed offer that canonical JSON cannot say is not one of ours
            raise PaymentRejected("the offer was altered", code="offer_unknown") from error
        if not hmac.compare_digest(parts.mac, mac):
            raise PaymentRejected("the offer was made for another request, or altered", code="resource_mismatch")
        return parts

    def derive(self, purpose: str) -> bytes:
        """Return a 32-byte secret for another purpose, derived from the current one (MPP challenge ids, say)."""
        return self.derive_all(purpose)[0]

    def derive_all(self, purpose: str) -> tuple[bytes, ...]:
        """Return the derived secret of every key, the current one first: what to verify with during a rotation."""
        derived = self._derived.get(purpose)
        if derived is None:
            rest = [secret for kid, secret in self._secrets.items() if kid != self.current]
            secrets = [self._secrets[self.current], *rest]
            label = b"rail402:" + purpose.encode()
            derived = self._derived[purpose] = tuple(hmac_sha256(secret, label) for secret in secrets)
        return derived

    @staticmethod
    def _mac(secret: bytes, offer: Offer, expires_at: int, order_digest: str, nonce: str) -> bytes:
        head = f"rail402/offer/1\n{order_digest}\n{expires_at}\n{nonce}\n".encode()
        return hmac_sha256_again(secret, head + offer.canonical)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
