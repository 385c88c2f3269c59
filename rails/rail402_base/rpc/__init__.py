"""Base USDC by JSON-RPC: reading a chain, and handing authorizations in with a key of our own.

`reader` looks (`ChainReader`), `backend` also pays gas (`RpcBackend`). Everything that is said to a node goes through
`json_rpc`; `abi`, `transactions` and `fees` are pure; `relayer_store` is the durable record of what was signed.
"""
