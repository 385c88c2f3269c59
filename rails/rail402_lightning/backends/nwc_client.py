"""Calls to a wallet service by Nostr Wallet Connect: encrypted both ways, each answer matched to its request."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from rail402.clock import Clock, RandomBytes
from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402_lightning.backends.connections import shown
from rail402_lightning.backends.lnbits_api import Connect
from rail402_lightning.backends.nwc_relay import NwcRelays
from rail402_lightning.backends.nwc_wire import (
    MAX_MESSAGE,
    REQUEST,
    Event,
    conversation_key,
    nip04_decrypt,
    nip04_encrypt,
    nip44_decrypt,
    nip44_encrypt,
    parse_connection,
    sign_event,
)
from rail402_lightning.networks import Network

__all__ = ["NwcClient", "NwcError"]

logger = logging.getLogger("rail402.lightning")

_TIMEOUT: Final = 15
_NETWORKS: Final = {"bitcoin": "mainnet", "testnet3": "testnet", "testnet4": "testnet"}
_NOT_OURS: Final = frozenset({"UNAUTHORIZED", "RESTRICTED"})


class NwcError(RailUnavailable):
    """The wallet service answered with an error.

    Attributes:
        word: its code, as NIP-47 has it.
    """

    def __init__(self, word: str, message: str) -> None:
        self.word = word
        super().__init__(f"the wallet answered {word}: {message}")


class NwcClient:
    """One connection to a wallet service.

    Args:
        address: the connection's, `nostr+walletconnect://…`. Secret.
        clock: Unix seconds, right to a minute: requests expire.
        random_bytes: makes nonces.
        noted: is called with each notification, as an object with `notification_type` and `notification`.
        connect, sleep: see `NwcRelays`.

    Raises:
        ConfigurationError: the address cannot be used.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Clock,
        random_bytes: RandomBytes,
        connect: Connect,
        sleep: Callable[[float], Awaitable[None]],
        noted: Callable[[Json], None] | None = None,
    ) -> None:
        self._connection = parse_connection(address)
        self._clock, self._random_bytes, self._noted = clock, random_bytes, noted
        self._key = conversation_key(self._connection.secret, self._connection.wallet)
        self._relays = NwcRelays(self._connection, self._sign, heard=self._hear, connect=connect, sleep=sleep)
        self._modern: bool | None = None
        self.notifies = False

    def __repr__(self) -> str:
        return f"NwcClient({self._connection.wallet!r})"

    async def close(self) -> None:
        """Close the connections to the relays; a further call opens new ones."""
        await self._relays.close()

    async def open(self, needed: tuple[str, ...], network: Network | None) -> frozenset[str]:
        """Check that the connection may do what is needed, on our network; return all that it may do.

        Raises:
            ConfigurationError: it may not, or is unknown to the wallet, or the wallet is on another network.
            RailUnavailable: the wallet cannot be asked.
        """
        methods = await self._learn()
        if "get_info" in methods:
            try:
                info = await self.ask("get_info", {})
            except NwcError as error:
                if error.word in _NOT_OURS:
                    raise ConfigurationError(f"{error.detail}; make a new connection in the wallet") from error
                raise
            granted, said = info.get("methods"), info.get("network")
            if isinstance(granted, list):
                methods = frozenset(str(method) for method in granted)
            found = _NETWORKS.get(said, said) if isinstance(said, str) else ""
            if network is not None and found and found != network.name:
                raise ConfigurationError(f"the wallet is on {shown(found)}, and network={network.name!r} is set")
        missing = [method for method in needed if method not in methods]
        if missing:
            raise ConfigurationError(
                f"the connection may not call {', '.join(missing)}; make one in the wallet that may"
            )
        return methods

    async def _learn(self) -> frozenset[str]:
        """Read what the wallet says of itself, and take up the best encryption that it has.

        Raises:
            ConfigurationError: it has none that is known here.
        """
        info = await self._relays.info(seconds=_TIMEOUT)
        said = info.tag("encryption")
        schemes = (said or "nip04").split()
        if "nip44_v2" not in schemes and "nip04" not in schemes:
            raise ConfigurationError("the wallet has no encryption that is known here (NIP-44 version 2, or NIP-04)")
        if self._modern is None and "nip44_v2" not in schemes:
            logger.warning(
                "the wallet knows only NIP-04, an encryption that is deprecated; see whether it has an update"
            )
        self._modern = "nip44_v2" in schemes
        self.notifies = self._modern and "payment_received" in (info.tag("notifications") or "").split()
        return frozenset(info.content.split())

    async def listen(self) -> None:
        """Hear notifications from now on."""
        await self._relays.listen()

    async def ask(self, method: str, params: Json) -> Json:
        """Call a method that moves nothing.

        Raises:
            NwcError: the wallet answered with an error.
            RailUnavailable: there is no answer that can be read.
        """
        try:
            return await self.do(method, params)
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def do(self, method: str, params: Json, *, seconds: float = _TIMEOUT) -> Json:
        """Call a method, and return its result.

        Args:
            seconds: how long the answer is waited for; the wallet ignores the request after that.

        Raises:
            NwcError: the wallet answered with an error.
            RailUnavailable: the wallet was surely not told.
            OutcomeUnknown: it may have been, and there is no answer that can be read.
        """
        if self._modern is None:
            await self._learn()
        event = self._request({"method": method, "params": dict(params)}, seconds)
        reply = await self._relays.request(event, seconds=seconds)
        try:
            answer = self._open(reply)
        except MalformedInput as error:
            raise OutcomeUnknown("the wallet sent an answer that cannot be read") from error
        if answer.get("result_type") != method:
            raise OutcomeUnknown("the wallet answered another question")
        refusal, result = answer.get("error"), answer.get("result")
        if isinstance(refusal, dict):
            raise NwcError(shown(refusal.get("code")), shown(refusal.get("message")))
        if refusal is not None or not isinstance(result, dict):
            raise OutcomeUnknown("the wallet answered in a form that is not known here")
        return result

    def _request(self, body: dict[str, Any], seconds: float) -> Event:
        text, wallet = json.dumps(body), self._connection.wallet
        tags: tuple[tuple[str, ...], ...] = (("p", wallet), ("expiration", str(self._clock() + int(seconds) + 1)))
        if self._modern:
            content = nip44_encrypt(text, self._key, self._random_bytes(32))
            tags = (*tags, ("encryption", "nip44_v2"))
        else:
            content = nip04_encrypt(text, self._connection.secret, wallet, self._random_bytes(16))
        return self._sign(REQUEST, content, tags)

    def _sign(self, kind: int, content: str, tags: tuple[tuple[str, ...], ...]) -> Event:
        secret, random = self._connection.secret, self._random_bytes(32)
        return sign_event(kind, content, tags=tags, now=self._clock(), secret=secret, random=random)

    def _open(self, event: Event) -> Json:
        """Return what is in an event of the wallet's."""
        if self._modern:
            text = nip44_decrypt(event.content, self._key)
        else:
            text = nip04_decrypt(event.content, self._connection.secret, self._connection.wallet)
        return parse_json(text, field="message", max_bytes=MAX_MESSAGE)

    def _hear(self, event: Event) -> None:
        if self._noted is not None and self._modern:
            self._noted(self._open(event))
