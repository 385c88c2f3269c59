"""Kills the server and the client at every step of every flow, restarts them, and counts the money on both sides.

`steps.py` finds the steps, `scenarios.py` says what is sold and how, `banks.py` has the rails' money and own books.
`payers_first.py`, `facilitated.py` and `lnbits_bank.py` have those that need more. `shop.py` and `agent.py` are the two
processes, `run.py` is one run of them, `verdict.py` says what must hold after it.
`python -m tests.crashes` is the random mode, `python -m tests.crashes all` every step; `report.py` writes
`docs/crashes.md` from what that found.
"""
