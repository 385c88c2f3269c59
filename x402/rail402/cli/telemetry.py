"""Keeping the libraries that the commands use from reporting, and from writing into the home directory."""

from __future__ import annotations

import sys

__all__ = ["without_telemetry"]


def without_telemetry() -> None:
    """Turn off the telemetry of Stripe's library, for which it keeps an identifier in `~/.config/stripe`.

    Its switch is a global of the process, which is the command line's to turn, and no library's. Call it once the rails
    are loaded: where Stripe is not among them, it is not imported.
    """
    stripe = sys.modules.get("stripe")
    if stripe is not None:
        vars(stripe)["enable_telemetry"] = False
