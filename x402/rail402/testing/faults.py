"""Faults between a backend and its service, put there by a transport for httpx.

A rail proves with it that whatever goes wrong on the way, a payment ends as settled, not paid, or unknown until its
lookup has told::

    faults = Faults()
    rail = MyRail(transport=FaultyTransport(httpx.AsyncHTTPTransport(), faults))
    faults.on(ANSWER_LOST, "POST", "/v1/payments/*/capture")  # the next such call is carried out, and its answer lost

`Faults(seed=7, rate=0.2, among=list(FAULTS.values()))` spoils calls at random, the same ones in every run.
`FaultyTransport.calls` lists what was called, so that a test can make a clean run first, and then spoil one call of it
after the other by `faults.on(fault, nth=...)`: calls that are new tomorrow are spoilt tomorrow.

The faults are in `FAULTS`, and those that need an argument are functions. A `Fault` of your own is a name and an async
function of the `Exchange` that it spoils. What a fault answers in the service's place repeats all that was sent, as
some proxies' error pages do: a secret of it must not show up in an error or a log.

Faults wait as long as they say. Under `rail402.testing.virtual_time.VirtualTimeLoop` that takes no time.
"""

from __future__ import annotations

from rail402.testing.fault_kinds import (
    ANSWER_LOST,
    FAULTS,
    clock_jump,
    delayed,
    json_rpc_methods,
    members_of,
    too_many_requests,
    with_other_type,
    without,
)
from rail402.testing.fault_transport import Call, Exchange, Fault, Faults, FaultyTransport, named_by_path
from rail402.testing.fault_websockets import FaultyWebsockets

__all__ = [
    "ANSWER_LOST",
    "FAULTS",
    "Call",
    "Exchange",
    "Fault",
    "Faults",
    "FaultyTransport",
    "FaultyWebsockets",
    "clock_jump",
    "delayed",
    "json_rpc_methods",
    "members_of",
    "named_by_path",
    "too_many_requests",
    "with_other_type",
    "without",
]
