"""A signer on another machine or in another process, asked over JSON-RPC: Clef, Web3Signer, a node with accounts.

What such a signer answers is checked by who asked: see `RemoteSigner`. To sign moves no money, so a call that gave no
answer has paid nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import httpx

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_base.rpc.json_rpc import JsonRpc, RpcError

__all__ = ["SIGN_SECONDS", "RpcSigner", "SignMethod"]

SignMethod = Literal["eth_signTypedData_v4", "eth_signTypedData", "account_signTypedData"]
"""What signers call it: nodes and most wallets, Web3Signer (which reads the message as a text), and Clef."""

SIGN_SECONDS: Final = 60
"""Seconds to wait for a signature: some signers ask a person."""


class RpcSigner:
    """Has typed data (EIP-712) signed by `address`; given to `RemoteSigner` or `ContractSigner`.

    Args:
        url: the signer's address, by https unless it is on a private network. Secret: it may hold a password.
        address: the key to sign with, as the signer knows it.
        method: what the signer calls it.
        timeout: seconds to wait for the answer.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        address: str,
        *,
        method: SignMethod = "eth_signTypedData_v4",
        timeout: int = SIGN_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._address, self._method = url, address, method
        self._timeout, self._transport = timeout, transport
        self._open()

    def __repr__(self) -> str:
        return f"RpcSigner({self._address!r})"

    async def __call__(self, message: dict[str, object]) -> str:
        """Return the signature of a message.

        Raises:
            RailUnavailable: the signer cannot be reached, or refuses.
            ConfigurationError: what it returns is no signature.
        """
        asked: Any = json.dumps(message) if self._method == "eth_signTypedData" else message
        rpc = self._open()
        try:
            answer = await rpc.call(self._method, self._address, asked)
        except RpcError as error:
            raise RailUnavailable(f"the signer does not sign ({error.number}: {error.message})") from error
        except RailUnavailable as error:
            raise RailUnavailable(f"signer: {error.detail}", retry_after=error.retry_after) from error
        finally:
            await rpc.close()
        if not isinstance(answer, str):
            raise ConfigurationError(f"the signer's answer to {self._method} is no signature; check signer_method")
        return answer

    def _open(self) -> JsonRpc:
        """Return connections for one call: signing is rare, and nobody has to close them then."""
        try:
            return JsonRpc(self._url, timeout=self._timeout, transport=self._transport)
        except ConfigurationError as error:
            raise ConfigurationError(f"signer: {error.detail.removeprefix('urls: ')}") from error
