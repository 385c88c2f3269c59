"""For the tests of those who use rail402 or extend it: fakes in which only the money is unreal, and conformance kits.

- `rail402.testing.fakes`: a clock, and a whole rail with its server side, its wallet and its money.
- `rail402.testing.faults`: what goes wrong between a backend and its service, put there by a transport.
- `rail402.testing.virtual_time`: an event loop in which waiting takes no time.
- `rail402.testing.stores`: `StoreConformance`, what every store must do.
- `rail402.testing.rails`: `RailConformance`, what every rail must do, and the bench that it is put on.
- `rail402.testing.wallets`: `WalletConformance`, what every wallet must do.

The kits need pytest and pytest-asyncio; importing this package alone needs neither.
"""

from __future__ import annotations

import sys
from pkgutil import iter_modules

__all__: list[str] = []

if "pytest" in sys.modules:  # before the cases are imported: one that fails then shows the values that it has compared
    import pytest

    _cases = [each.name for each in iter_modules(__path__) if each.name.startswith(("rail_", "store_", "wallets"))]
    pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _cases))
