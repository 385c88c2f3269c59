"""Rails by name, for configuration files: the entry-point group `rail402.rails`.

Nothing is enabled by being installed: a file lists the rails it wants, and only those are imported. In code, make the
rail's own classes instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from rail402.errors import ConfigurationError
from rail402.protocol.base import Record
from rail402.protocol.rail import PaymentRail, Wallet

__all__ = ["RailPlugin", "installed_rails", "load_plugin"]

GROUP = "rail402.rails"


@dataclass(frozen=True, slots=True)
class RailPlugin:
    """What a rail's distribution registers.

    Args:
        rail_config, wallet_config: pydantic models of its tables: a rail's in `rail402.toml`, a wallet's in an agent's.
        rail, wallet: make the server and the client side from a validated table.
    """

    rail_config: type[Record]
    wallet_config: type[Record]
    rail: Callable[..., PaymentRail]
    wallet: Callable[..., Wallet]


def installed_rails() -> list[str]:
    """Return the names of the rails that are installed, without importing them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_plugin(name: str) -> RailPlugin:
    """Import the rail called `name`.

    Raises:
        ConfigurationError: it is not installed, an extra is missing, or what is registered is no plugin.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            plugin = point.load()
        except ImportError as error:
            hint = f"pip install 'rail402[{name}]'"
            raise ConfigurationError(f"rail {name!r} cannot be imported ({error.name}); try: {hint}") from error
        if not isinstance(plugin, RailPlugin):
            raise ConfigurationError(f"rail {name!r}: {point.value} is no RailPlugin")
        return plugin
    raise ConfigurationError(f"there is no rail {name!r}; installed are: {', '.join(installed_rails()) or 'none'}")
