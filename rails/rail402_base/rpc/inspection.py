"""Whether a node is the right one and a token contract is what its configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_base.rpc.abi import boolean, call_data, data, eth_call, is_revert, quantity, text
from rail402_base.rpc.endpoint import Answer, Call, Endpoint, RpcError
from rail402_base.tokens import Token

__all__ = ["Features", "inspect", "require_usable"]

_CHAIN_ID: Final = Call("eth_chainId")
_SYNCING: Final = Call("eth_syncing")
_PAUSED: Final = "paused()"
_FUNCTIONS: Final = ("DOMAIN_SEPARATOR()", "eip712Domain()", "name()", "version()", "decimals()", _PAUSED)
_BLACKLISTED: Final = "isBlacklisted(address)"


@dataclass(frozen=True, slots=True)
class Features:
    """What a token contract has beside EIP-3009: whether it can be paused, and refuse addresses."""

    paused: bool
    blacklist: bool


async def inspect(endpoint: Endpoint, token: Token) -> Features:
    """Check one node and the token on it.

    Raises:
        ConfigurationError: the node is on another chain, or the contract is not that token; with the fix.
        RailUnavailable: the node is still syncing, or the token is paused.
        OutcomeUnknown: the node gives no answer.
    """
    asked = [eth_call(token.address, call_data(function)) for function in _FUNCTIONS]
    asked.append(eth_call(token.address, call_data(_BLACKLISTED, bytes(32))))
    chain_id, syncing, code, *read = await endpoint.ask(
        [_CHAIN_ID, _SYNCING, Call("eth_getCode", (token.address, "latest")), *asked]
    )
    _require_chain(endpoint, token, quantity(chain_id))
    if not isinstance(syncing, RpcError) and syncing is not False:
        raise RailUnavailable(f"{endpoint.host} is still syncing; wait for it, or use another one")
    if not data(code):
        raise ConfigurationError(f"there is no contract at {token.address} on {token.network.caip2}; check the address")
    separator, eip712, name, version, decimals, paused, blacklisted = read
    _require_domain(token, separator, eip712, (name, version))
    if _is_told(decimals) and quantity(decimals) != token.decimals:
        raise ConfigurationError(
            f"{token.address} has {quantity(decimals)} decimals and not {token.decimals}; correct the token"
        )
    if _is_told(paused):
        _require_running(boolean(paused))
    return Features(paused=_is_told(paused), blacklist=_is_told(blacklisted))


def _require_chain(endpoint: Endpoint, token: Token, chain_id: int) -> None:
    if chain_id != token.network.chain_id:
        raise ConfigurationError(
            f"{endpoint.host} is on the chain {chain_id} and the token is on {token.network.chain_id} "
            f"({token.network.title}); use an address of that network"
        )


def _require_domain(token: Token, separator: Answer, eip712: Answer, told: Sequence[Answer]) -> None:
    """Check that what payers sign is what the contract verifies: its EIP-712 domain."""
    if _is_told(separator):
        fits = f"0x{token.domain.separator.hex()}" == str(separator).lower()
    elif _is_told(eip712):
        # (bytes1 fields, string name, string version, ...) of EIP-5267
        words = data(eip712)
        name, version = (_text_at(words, position) for position in (32, 64))
        chain_id, contract = words[96:128], words[128:160]
        fits = (name, version) == (token.name, token.version)
        fits = fits and int.from_bytes(chain_id, "big") == token.network.chain_id
        fits = fits and contract[12:].hex() == token.address[2:].lower()
    else:
        raise ConfigurationError(
            f"{token.address} tells no EIP-712 domain: it is no token with EIP-3009, or not on this network"
        )
    if not fits:
        says = " and ".join(
            f"{what} {text(answer)!r}"
            for what, answer in zip(("the name", "the version"), told, strict=True)
            if _is_told(answer)
        )
        raise ConfigurationError(
            f"{token.address} verifies signatures of another EIP-712 domain than name={token.name!r}, "
            f"version={token.version!r}; correct the token's name and version"
            + (f": the contract says {says}" if says else "")
        )


def _text_at(words: bytes, position: int) -> str:
    start = int.from_bytes(words[position : position + 32], "big")
    size = int.from_bytes(words[start : start + 32], "big")
    return words[start + 32 : start + 32 + size].decode(errors="replace")


def _is_told(answer: Answer) -> bool:
    """Say whether a contract has the function; what has none answers nothing, or reverts."""
    if isinstance(answer, RpcError):
        if not is_revert(answer):
            raise answer
        return False
    return isinstance(answer, str) and len(answer) >= 66


def _require_running(paused: bool) -> None:
    if paused:
        raise RailUnavailable(
            "the token contract is paused by its issuer: nobody can be paid until that ends", retry_after=60
        )


async def require_usable(endpoint: Endpoint, token: Token, features: Features) -> None:
    """Check what can change after the start.

    Raises:
        RailUnavailable, OutcomeUnknown: it cannot be used now.
        ConfigurationError: the node has become one of another chain.
    """
    calls = [_CHAIN_ID, _SYNCING, *([eth_call(token.address, call_data(_PAUSED))] if features.paused else [])]
    chain_id, syncing, *paused = await endpoint.ask(calls)
    _require_chain(endpoint, token, quantity(chain_id))
    if not isinstance(syncing, RpcError) and syncing is not False:
        raise RailUnavailable(f"{endpoint.host} is syncing")
    if paused:
        _require_running(boolean(paused[0]))
