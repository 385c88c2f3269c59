"""For the tests of those who use rail402 or extend it: fakes in which only the money is unreal, and conformance kits.

- `rail402.testing.fakes`: a clock, and a whole rail with its server side, its wallet and its money.
- `rail402.testing.stores`: `StoreConformance`, what every store must do.

The kits need pytest and pytest-asyncio; importing this package alone needs neither.
"""
