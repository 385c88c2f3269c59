"""What receiving at an lnd and paying from it have in common: opening the node, and reading its channels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning.backends.connections import CertificateRefused
from rail402_lightning.backends.lnd_api import LndApi, MacaroonRefused, NotReady
from rail402_lightning.backends.lnd_macaroon import Rights, permissions
from rail402_lightning.networks import find_network

__all__ = ["active_channels", "integer", "node_info", "open_node", "spendable"]

logger = logging.getLogger("rail402.lightning")

_INFO: Final = "/v1/getinfo"
_CHANNELS: Final = "/v1/channels"


async def open_node(api: LndApi, rights: Rights, network: str | None) -> Json:
    """Check that a node can be used, and return what it says of itself.

    Raises:
        ConfigurationError: certificate, macaroon or network are wrong.
        RailUnavailable: it cannot be asked, or does not follow the chain.
    """
    held = permissions(api.macaroon)
    if held is not None and (missing := rights.missing(held)):
        raise ConfigurationError(f"the macaroon lacks {', '.join(missing)}; make one that has it: {rights.bake}")
    if held is not None and (excess := rights.excess(held)):
        logger.warning("the macaroon may do more than it needs to (%s); enough is: %s", ", ".join(excess), rights.bake)
    try:
        info = await _info(api)
    except MacaroonRefused as error:
        raise ConfigurationError(f"lnd refuses the macaroon: {error.message}; make a new one: {rights.bake}") from error
    except CertificateRefused as error:
        raise ConfigurationError(error.detail) from error
    found = _network(info)
    if network is not None and found != find_network(network).name:
        raise ConfigurationError(f"lnd is on {found}, and network={network!r} is set")
    return _synced(info)


async def node_info(api: LndApi) -> Json:
    """Return what lnd says of itself.

    Raises:
        RailUnavailable: it cannot be asked, or does not follow the chain.
    """
    return _synced(await _info(api))


async def _info(api: LndApi) -> Json:
    try:
        return await api.get(_INFO)
    except NotReady as error:
        raise RailUnavailable(f"lnd cannot be used yet: {error.message} (lncli unlock, or wait)") from error


def _network(info: Json) -> str:
    chains = info.get("chains")
    first = chains[0] if isinstance(chains, list) and chains else None
    name = first.get("network") if isinstance(first, Mapping) else None
    if not isinstance(name, str):
        raise RailUnavailable("lnd does not say which network it is on")
    return name


def _synced(info: Json) -> Json:
    if info.get("synced_to_chain") is not True:
        raise RailUnavailable(
            "lnd has not caught up with the chain; it can be used when lncli getinfo says that it has"
        )
    return info


async def active_channels(api: LndApi) -> list[Json]:
    """Return the channels whose peer is there.

    Raises:
        RailUnavailable: lnd cannot be asked.
    """
    channels = (await api.get(_CHANNELS, {"active_only": "true"})).get("channels")
    if not isinstance(channels, list) or not all(isinstance(channel, dict) for channel in channels):
        raise RailUnavailable("lnd did not tell its channels")
    return channels


def spendable(channel: Json, side: str) -> int:
    """Return what one side of a channel could send now, millisatoshis.

    Each side keeps its reserve, and the one that opened the channel the fee of a larger transaction.
    """
    constraints = channel.get(f"{side}_constraints")
    if not isinstance(constraints, dict):
        raise RailUnavailable("lnd did not tell the limits of a channel")
    opened = channel.get("initiator") is (side == "local")
    kept = integer(constraints, "chan_reserve_sat") + (integer(channel, "commit_fee") if opened else 0)
    return max(0, integer(channel, f"{side}_balance") - kept) * 1000


def integer(members: Json, name: str) -> int:
    """Read a whole number that is not negative; lnd writes those of 64 bits as texts.

    Raises:
        RailUnavailable: it is none.
    """
    value = members.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if type(value) is not int or value < 0:
        raise RailUnavailable(f"lnd sent no whole number as {name}")
    return value
