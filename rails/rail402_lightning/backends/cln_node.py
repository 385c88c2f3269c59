"""What receiving at a Core Lightning and paying from it have in common: opening the node, and reading its lists."""

from __future__ import annotations

from typing import Final

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning.backends.cln_api import ClnApi, ClnError, RuneRefused, UnknownMethod
from rail402_lightning.backends.connections import CertificateRefused, shown
from rail402_lightning.backends.http_calls import whole_number

__all__ = ["check_channels", "is_allowed", "listed", "number", "open_node", "synced"]

_NETWORKS: Final = {"bitcoin": "mainnet", "testnet4": "testnet"}


async def open_node(api: ClnApi, network: str | None) -> Json:
    """Check that a node can be used, and return what it says of itself.

    Raises:
        ConfigurationError: certificate, rune or network are wrong.
        RailUnavailable: it cannot be asked, or does not follow the chain.
    """
    try:
        info = await api.ask("getinfo")
    except (RuneRefused, CertificateRefused) as error:
        raise ConfigurationError(f"{error.detail}; make a new rune with lightning-cli createrune") from error
    except UnknownMethod as error:
        raise ConfigurationError(f"there is no clnrest at {api.url}; url is its address alone") from error
    said = info.get("network")
    if not isinstance(said, str):
        raise ConfigurationError(f"what answers at {api.url} is no Core Lightning that is known here")
    found = _NETWORKS.get(said, said)
    if network not in (None, found):
        raise ConfigurationError(f"Core Lightning is on {shown(found)}, and network={network!r} is set")
    return synced(info)


def synced(info: Json) -> Json:
    """Return what the node says of itself; raise `RailUnavailable` where it does not follow the chain."""
    if info.get("warning_bitcoind_sync") or info.get("warning_lightningd_sync"):
        raise RailUnavailable("Core Lightning has not caught up with the chain")
    return info


def check_channels(info: Json) -> None:
    """Raise `RailUnavailable` where nobody can pay the node."""
    if number(info, "num_active_channels") == 0:
        raise RailUnavailable(
            "Core Lightning has no active channel, so nobody can pay it: open one, and have money on its other side"
        )


async def is_allowed(api: ClnApi, method: str, params: Json) -> bool:
    """Whether the rune is for a method, which does nothing, and fails for another reason, without what it needs.

    Raises:
        RailUnavailable: the node cannot be asked.
    """
    try:
        await api.ask(method, params)
    except (RuneRefused, UnknownMethod):
        return False
    except ClnError:
        return True
    return True


async def listed(api: ClnApi, method: str, name: str, params: Json) -> list[Json]:
    """Return the objects of a list.

    Raises:
        RailUnavailable: there is no answer that can be believed.
    """
    found = (await api.ask(method, params)).get(name)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise RailUnavailable(f"Core Lightning did not tell its {name}")
    return found


def number(members: Json, name: str) -> int:
    """Return a whole number that is not negative, else raise `RailUnavailable`."""
    return whole_number(members, name, who="Core Lightning")
