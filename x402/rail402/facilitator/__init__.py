"""An x402 facilitator: a service that checks and hands in payments for sellers, and pays the gas.

It serves `/verify`, `/settle`, `/supported` and `/health` over any rail that takes what a payer has signed. `wire` and
`policy` are pure, `service` keeps one charge per payment in a store of its own, `app` is the HTTP around it.
"""
