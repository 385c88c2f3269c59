"""What asking any node over HTTP has in common: its address and certificate, and what may be shown of its words."""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
from pathlib import Path
from typing import Final

import httpx

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.upstream import is_private_host, printable

__all__ = [
    "MAX_ANSWER",
    "CertificateRefused",
    "certificate_error",
    "checked_url",
    "pinned_tls",
    "shown",
    "warn_of_plain_http",
]

logger = logging.getLogger("rail402.lightning")

MAX_ANSWER: Final = 1 << 20
"""Bytes of an answer, or of one message of a stream, above which it is not read on."""

_MAX_DETAIL: Final = 200
_SECRETS: Final = re.compile(r"[0-9A-Za-z+/_=-]{32,}")  # preimages and credentials, in whatever way they are written


class CertificateRefused(RailUnavailable):
    """The certificate that the node shows is not to be trusted; nothing was sent."""


def checked_url(url: str, *, of: str, example: str, credential: str) -> str:
    """Return an address without a slash at its end.

    Args:
        of: what has that address.
        example: one that could be used.
        credential: what is sent there, so that `http://` is for private networks only.

    Raises:
        ConfigurationError: it cannot be used.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"url={url!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment or parts.userinfo:
        raise ConfigurationError(f"url must be the address of {of} and no more, such as {example}")
    if parts.scheme == "http" and not is_private_host(parts.host):
        raise ConfigurationError(f"url={url!r} would send the {credential} in the clear; use https")
    return url.rstrip("/")


def warn_of_plain_http(url: str, credential: str) -> None:
    """Log that what is sent to another machine over `http://` can be read on the way."""
    if url.startswith("http:") and not _is_loopback(httpx.URL(url).host):
        logger.warning("%s is asked without TLS, so its network sees the %s; use https", url, credential)


def certificate_error(error: httpx.HTTPError) -> ssl.SSLCertVerificationError | None:
    """Return what is wrong with a certificate, which is deep in the chain of causes; None if that is not the reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def pinned_tls(tls_cert: str | Path | None, *, of: str) -> ssl.SSLContext | None:
    """Return what accepts one certificate, or what that one has signed, and no other; None for None.

    Args:
        tls_cert: its path, or its text (PEM).
        of: whose it is and what it is called there, such as `lnd's tls.cert`.

    Raises:
        ConfigurationError: it cannot be used.
    """
    if tls_cert is None:
        return None
    try:
        pem = tls_cert
        if isinstance(pem, Path) or not pem.lstrip().startswith("-----BEGIN"):
            pem = Path(pem).expanduser().read_text()
        return ssl.create_default_context(cadata=pem)
    except (OSError, RuntimeError, ValueError) as error:  # ssl.SSLError is an OSError; RuntimeError: ~ of nobody
        raise ConfigurationError(f"tls_cert must be a copy of {of}: its path, or its text (PEM)") from error


def shown(said: object) -> str:
    """Return words of a node, shortened, without anything that could be a secret or does not print."""
    return printable(_SECRETS.sub("…", str(said))[:_MAX_DETAIL]).strip()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".onion"))  # Tor encrypts by itself
