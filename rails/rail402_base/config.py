"""The rail's table in `rail402.toml`, and what a wallet's table holds."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from importlib.resources import files
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rail402.config import Secret, StoreBesideUrl, StoreUrl, revealed
from rail402.errors import ConfigurationError, MalformedInput
from rail402.plugins import RailPlugin
from rail402.protocol.base import Record
from rail402_base import explain
from rail402_base.keys import LocalSigner
from rail402_base.rail import BaseRail
from rail402_base.signers import SIGNER_KEYS, Address, SignerTable
from rail402_base.tokens import Token, other_network, usdc_on
from rail402_base.transfer_wallet import BaseTransferWallet
from rail402_base.transfers import Transfers
from rail402_base.wallet import MAX_TIMEOUT, BaseWallet

__all__ = [
    "BACKENDS",
    "PLUGIN",
    "RailConfig",
    "TokenConfig",
    "TransfersConfig",
    "WalletConfig",
    "make_rail",
    "make_wallet",
]

BACKENDS: Final = ("sandbox", "rpc", "facilitator")
"""The ways to reach a chain that a rail's table can name; a wallet's can name the first two."""

_GWEI: Final = 10**9
_CHAIN: Final = ("network", "is_testnet", "token")


def _known(backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    return backend


def _wallets_own(backend: str) -> str:
    if _known(backend) == "facilitator":
        raise ValueError("a wallet needs no facilitator; its backends are: sandbox, rpc")
    return backend


def _wei(value: object) -> int:
    """Read gwei; as text, because a TOML number with a point is not exact."""
    try:
        wei = Decimal(value) * _GWEI if isinstance(value, str | int) and not isinstance(value, bool) else Decimal(0)
    except InvalidOperation:
        wei = Decimal(0)
    if not wei.is_finite() or wei != wei.to_integral_value() or not 0 < wei < 2**63:
        raise ValueError('write gwei as text, such as "0.5"')
    return int(wei)


class TokenConfig(Record):
    """A token that is not in the rail's own table; see `Token`. It is checked against its contract at the start."""

    symbol: str
    address: str
    decimals: int = Field(ge=0, le=36)
    name: str
    version: str


class _ChainTable(Record):
    """What rail and wallet have in common.

    Args:
        directory: the sandbox's directory.
        network: `base`, `base-sepolia`, or the CAIP-2 name of another EVM chain, such as `eip155:137`.
        is_testnet: whether such another chain's money is worth nothing.
        token: what is paid with; USDC of the network unless given.
        urls: JSON-RPC addresses of the chain, the preferred one first.
    """

    directory: str | None = None
    network: str | None = None
    is_testnet: bool = False
    token: TokenConfig | None = None
    urls: list[Address] = Field(default_factory=list)

    def make_token(self) -> Token:
        """Return the token.

        Raises:
            ConfigurationError: network or token cannot be used.
        """
        network = other_network(self.network or "base", is_testnet=self.is_testnet)
        if network.kind == "sandbox":
            raise ConfigurationError('network: the sandbox has a backend of its own, backend = "sandbox"')
        if self.token is None:
            return usdc_on(network)
        try:
            return Token(network=network, **self.token.model_dump())
        except MalformedInput as error:
            raise ConfigurationError(f"token: {error.detail}") from error

    def reveal_urls(self) -> list[str]:
        """Return the addresses of the nodes."""
        return [url.get_secret_value() for url in self.urls]


class TransfersConfig(Record):
    """Which plain transfers are taken; see `Transfers`.

    Args:
        max_age: seconds that a transfer may be old when it is first shown.
        confirmations: how many blocks it needs, its own counted.
        not_before: Unix seconds; older transfers are not taken.
        must_sign: only take transfers whose payer signs.
    """

    max_age: int = 3600
    confirmations: int = 1
    not_before: int = 0
    must_sign: bool = False


class RailConfig(_ChainTable):
    """`[[rails]]` with `name = "base"`; see also `BaseRail`.

    Args:
        backend: `rpc` with a relayer key of one's own, `facilitator`, or `sandbox` for play money.
        pay_to: the address that is paid; the sandbox has one of its own.
        relayer_key: `env:NAME` or `file:PATH` of the key that pays the gas.
        relayer_db: `sqlite:///` and the file of the relayer's transactions, `relayer.db` unless given; or a PostgreSQL.
        max_fee_gwei: the most to pay for gas, per unit, as text; 1 gwei unless given.
        settle_seconds: how long a payment is waited for.
        confirmations: how many blocks a payment needs.
        facilitators: addresses of x402 facilitators, tried in this order.
        transfers: a table that may be empty: plain transfers are taken as well.
        refund_key: `env:NAME` or `file:PATH` of the private key of `pay_to`: money can be given back; see
            `BaseRail.with_refunds`. The sandbox has it where it has the address.
    """

    backend: Annotated[str, AfterValidator(_known)]
    pay_to: str | None = None
    relayer_key: Secret | None = None
    relayer_db: StoreUrl | None = Field(None, repr=False)
    max_fee_gwei: Annotated[int, BeforeValidator(_wei)] | None = None
    settle_seconds: int | None = Field(None, ge=1)
    confirmations: int | None = Field(None, ge=1)
    facilitators: list[Address] = Field(default_factory=list)
    transfers: TransfersConfig | None = None
    refund_key: Secret | None = None

    @model_validator(mode="after")
    def _complete(self) -> RailConfig:
        needed = {
            "rpc": ("pay_to", "urls", "relayer_key"),
            "facilitator": ("pay_to", "urls", "facilitators"),
        }
        optional = {
            "sandbox": ("directory", "pay_to", "transfers", "refund_key"),
            "rpc": (
                *_CHAIN,
                "relayer_db",
                "max_fee_gwei",
                "settle_seconds",
                "confirmations",
                "transfers",
                "refund_key",
            ),
            "facilitator": (*_CHAIN, "confirmations", "transfers"),
        }
        _check(self, self.backend, needed, optional)
        return self


class WalletConfig(_ChainTable, SignerTable):
    """`[[wallets]]` with `name = "base"`; see also `BaseWallet`. Who signs is said by the keys of `SignerTable`.

    Args:
        backend: `rpc` for real chains, or `sandbox` for play money.
        urls: optional: with them the wallet knows its balance, and what became of a payment that was not answered.
        max_timeout: seconds for which a payment is valid at most.
        pays_by: `authorization`, which costs no gas, or `transfer`; see `BaseTransferWallet`. For a transfer, `urls`
            and a key of this process are needed (`private_key`, `keystore` or `mnemonic`), and these are there:
        transfers_db: `sqlite:///` and the file of the wallet's transactions, `transfers.db` unless given, where a
            relative one is beside the configuration file; or a PostgreSQL, for the machines that share its key.
        max_gas_gwei: the most to pay for sending one transfer, as text; 20000 gwei unless given.
        confirmations: how many blocks a transfer needs before it is shown to the server.
    """

    backend: Annotated[str, AfterValidator(_wallets_own)]
    max_timeout: int = Field(MAX_TIMEOUT, ge=1)
    pays_by: Literal["authorization", "transfer"] = "authorization"
    transfers_db: StoreBesideUrl = Field("sqlite:///transfers.db", repr=False, validate_default=True)
    max_gas_gwei: Annotated[int, BeforeValidator(_wei)] | None = None
    confirmations: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> WalletConfig:
        sends, needed = self.pays_by == "transfer", dict[str, tuple[str, ...]]()
        plays = ("directory", "pays_by", *(key for key in SIGNER_KEYS if key != "contract"))  # it has no contracts
        pays = (*_CHAIN, "pays_by", "urls", "max_timeout", *SIGNER_KEYS)
        if sends:
            needed = {"rpc": ("urls",)}
            pays = (*_CHAIN, "pays_by", "transfers_db", "max_gas_gwei", "confirmations", *SIGNER_KEYS)
        _check(self, self.backend, needed, {"sandbox": plays, "rpc": pays})
        try:
            self.check_signer(is_needed=self.backend == "rpc", is_local=sends)
        except ConfigurationError as error:  # pydantic makes its own error out of this one
            raise ValueError(error.detail) from error
        return self


def _check(
    table: Record, backend: str, needed: Mapping[str, tuple[str, ...]], optional: Mapping[str, tuple[str, ...]]
) -> None:
    """Check that a table has what its backend needs, and nothing that it has no use for."""
    for key in needed.get(backend, ()):
        if not getattr(table, key):
            raise ValueError(f'backend = "{backend}" needs {key}')
    for key in sorted(table.model_fields_set):
        if key not in ("backend", *needed.get(backend, ()), *optional[backend]):
            raise ValueError(f'backend = "{backend}" has no {key}')


def make_rail(config: RailConfig) -> BaseRail:
    """Make the rail that a table describes.

    Raises:
        ConfigurationError: see `BaseRail`.
    """
    rail, key = _make_rail(config), revealed(config.refund_key)
    return rail if key is None else rail.with_refunds(key)


def _make_rail(config: RailConfig) -> BaseRail:
    transfers = None if config.transfers is None else Transfers(**config.transfers.model_dump())
    if config.backend == "sandbox":
        return BaseRail.sandbox(config.directory, pay_to=config.pay_to, transfers=transfers)
    from rail402_base.rpc.reader import ChainReader

    token = config.make_token()
    reader = ChainReader(config.reveal_urls(), token, confirmations=config.confirmations or 1)
    if config.backend == "facilitator":
        from rail402_base.facilitator import FacilitatorBackend

        facilitators = [address.get_secret_value() for address in config.facilitators]
        chain = FacilitatorBackend(facilitators, reader=reader)
        return BaseRail(chain, pay_to=config.pay_to or "", token=token, transfers=transfers)
    from rail402_base.rpc.backend import DEFAULT_STORE, RelaySettings, RpcBackend

    usual = RelaySettings()
    settings = RelaySettings(
        max_fee_per_gas=config.max_fee_gwei or usual.max_fee_per_gas,
        settle_seconds=config.settle_seconds or usual.settle_seconds,
    )
    key = revealed(config.relayer_key) or ""
    backend = RpcBackend(reader, key, store=config.relayer_db or DEFAULT_STORE, settings=settings)
    return BaseRail(backend, pay_to=config.pay_to or "", token=token, transfers=transfers)


def make_wallet(config: WalletConfig) -> BaseWallet | BaseTransferWallet:
    """Make the wallet that a table describes.

    Raises:
        ConfigurationError: see `BaseWallet` and `BaseTransferWallet`.
    """
    if config.pays_by == "transfer":
        return _make_transfer_wallet(config, config.make_local())
    signer = config.make_signer()
    if config.backend == "sandbox" or signer is None:
        return BaseWallet.sandbox(config.directory, signer=signer)
    from rail402_base.rpc.reader import ChainReader

    token = config.make_token()
    chain = ChainReader(config.reveal_urls(), token) if config.urls else None
    return BaseWallet(signer, tokens=(token,), chain=chain, max_timeout=config.max_timeout)


def _make_transfer_wallet(config: WalletConfig, signer: LocalSigner | None) -> BaseTransferWallet:
    private_key = None if signer is None else signer.reveal_key()
    if config.backend == "sandbox":
        return BaseTransferWallet.sandbox(config.directory, private_key=private_key)
    from rail402_base.rpc.transfers import DEFAULT_MAX_GAS, SendSettings

    return BaseTransferWallet.rpc(
        config.reveal_urls(),
        private_key or "",
        token=config.make_token(),
        transfers_db=config.transfers_db,
        confirmations=config.confirmations or 1,
        settings=SendSettings(max_gas=config.max_gas_gwei or DEFAULT_MAX_GAS),
    )


PLUGIN: Final = RailPlugin(
    rail_config=RailConfig,
    wallet_config=WalletConfig,
    rail=make_rail,
    wallet=make_wallet,
    specs=explain.specs,
    network_name=explain.network_name,
    describe=explain.describe,
    explain=explain.explain,
    wallet_examples=partial(files("rail402_base").joinpath("wallets.toml").read_text, "utf-8"),
)
