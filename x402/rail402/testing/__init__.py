"""For the tests of those who use rail402 or extend it: fakes in which only the money is unreal, and conformance kits.

- `rail402.testing.fakes`: a clock, and a whole rail with its server side, its wallet and its money.
- `rail402.testing.faults`: what goes wrong between a backend and its service, put there by a transport.
- `rail402.testing.virtual_time`: an event loop in which waiting takes no time.
- `rail402.testing.stores`: `StoreConformance`, what every store must do.
- `rail402.testing.rails`: `RailConformance`, what every rail must do, and the bench that it is put on.
- `rail402.testing.wallets`: `WalletConformance`, what every wallet must do.

The kits need pytest and pytest-asyncio; importing this package alone needs neither.
"""
