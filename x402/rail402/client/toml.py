"""`wallets.toml`: a payer's wallets, its budget and its journal, without a line of Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.payer import Payer
from rail402.client.preference import Preference
from rail402.client.rules import Rule
from rail402.config import StoreBesideUrl, TomlFile
from rail402.dialects import DEFAULT_DIALECTS, dialect_by_name
from rail402.errors import ConfigurationError
from rail402.money import Money
from rail402.plugins import installed_rails, load_plugin
from rail402.protocol.base import Record
from rail402.protocol.rail import Wallet
from rail402.rates import FixedRates
from rail402.sandbox import sandbox_directory

__all__ = [
    "JOURNAL",
    "journal_from_toml",
    "payer_from_toml",
    "problems_in_toml",
    "sandbox_journal",
    "sandbox_payer",
    "wallets_file",
]

JOURNAL: Final = "wallet.db"
"""The journal's name, beside the file that says whose it is."""


def _check_texts(value: object, example: str) -> object:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise ValueError(f"write it as text, or several as a list of texts: {example}")
    return value


def _such_as(example: str) -> BeforeValidator:
    return BeforeValidator(lambda value: _check_texts(value, example))


_Texts = str | list[str]
_Hosts = Annotated[_Texts, _such_as('"api.example.com" or ["api.example.com", "*.example.com"]')]
_Payees = Annotated[_Texts, _such_as('"0x2096…" or ["0x2096…", "profile_61…"]')]
_Wallets = Annotated[_Texts, _such_as('"lightning" or ["lightning", "base"]')]
_Amounts = Annotated[_Texts, _such_as('"0.50 USD" or ["0.50 USD", "800 sat"]')]


class _Client(Record):
    journal: StoreBesideUrl = Field(f"sqlite:///{JOURNAL}", repr=False, validate_default=True)
    deadline: int = Field(30, gt=0, strict=True)
    dialects: list[str] | None = Field(None, min_length=1)
    rates: dict[str, str] = Field(default_factory=dict)


class _Limits(Record):
    per_request: _Amounts | None = None
    per_hour: _Amounts | None = None
    per_day: _Amounts | None = None
    total: _Amounts | None = None


class _Rule(_Limits):
    host: str | None = None
    payee: str | None = None
    rail: str | None = None
    tool: str | None = None


class _Budget(_Limits):
    rules: list[_Rule] | None = None
    allow_hosts: _Hosts | None = None
    deny_hosts: _Hosts | None = None
    allow_payees: _Payees | None = None
    deny_payees: _Payees | None = None
    pin_payees: bool | None = Field(None, strict=True)
    price_tolerance: int | None = Field(None, ge=0, strict=True)
    ask_above: _Amounts | None = None

    @field_validator("*")
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Any:
        """Check each by itself, so that the error names the key."""
        try:
            if value is not None:
                Budget(**{str(info.field_name): _setting(value)})
        except ConfigurationError as error:
            raise ValueError(error.detail) from error
        return value


class _Preference(Record):
    host: str | None = None
    path: str | None = None
    wallets: _Wallets = Field(default_factory=list)
    only: bool = Field(False, strict=True)
    cheapest: bool = Field(False, strict=True)


class _File(Record):
    client: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] = Field(default_factory=dict)
    prefer: list[dict[str, Any]] = Field(default_factory=list)
    wallets: list[dict[str, Any]] = Field(min_length=1)


def wallets_file() -> Path:
    """Return where a person's `wallets.toml` is: `$RAIL402_WALLETS`, else in `~/.config/rail402` (or below
    `$XDG_CONFIG_HOME`)."""
    named = os.environ.get("RAIL402_WALLETS")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "rail402" / "wallets.toml"


def payer_from_toml(path: str | Path, *, rails: Collection[str] = (), at_most: Money | None = None) -> Payer:
    """Make the payer that a `wallets.toml` describes.

    Args:
        path: the file. A relative journal in it is beside it, wherever the process was started.
        rails: pay on these only; on all if empty.
        at_most: the most that one purchase may cost, where that is less than the file's own limit.

    Raises:
        ConfigurationError: with the file, the line, the key and what is allowed there.
    """
    file = TomlFile(path)
    file.table(_File)
    client, budget, wallets = file.table(_Client, "client"), _budget(file), []
    for index in range(len(file.tables("wallets"))):
        if not rails or _name(file, index) in rails:
            wallets.append(_wallet(file, index))
    if not wallets:
        raise ConfigurationError(f"{path} has no wallet on {', '.join(sorted(rails))}")
    try:
        payer = Payer(
            wallets,
            budget=budget if at_most is None else budget.tightened(at_most),
            journal=client.journal,
            dialects=[dialect_by_name(name) for name in client.dialects] if client.dialects else DEFAULT_DIALECTS,
            rates=FixedRates(client.rates) if client.rates else None,
            deadline=client.deadline,
        )
    except ConfigurationError as error:
        raise file.error(("client",), error.detail) from error
    _prefer(file, payer, is_whole=not rails)
    payer.file_limits = budget  # as the file has them, whatever `at_most` says
    return payer


def problems_in_toml(path: str | Path) -> Sequence[ConfigurationError]:
    """Return what is wrong with each table of a `wallets.toml`, of which `payer_from_toml` raises the first."""
    try:
        file = TomlFile(path)
        count = len(file.tables("wallets"))
    except ConfigurationError as error:
        return [error]
    checks: list[Callable[[], object]] = [
        partial(file.table, _File),
        partial(file.table, _Client, "client"),
        partial(_budget, file),
        *(partial(_wallet, file, index) for index in range(count)),
    ]
    return [problem for check in checks if (problem := _problem(check)) is not None]


def _problem(check: Callable[[], object]) -> ConfigurationError | None:
    try:
        check()
    except ConfigurationError as error:
        return error
    return None


def journal_from_toml(path: str | Path) -> tuple[Journal, Budget]:
    """Return the journal and the budget that a `wallets.toml` names. No wallet's secret is looked at.

    Raises:
        ConfigurationError: with the file, the line, the key and what is allowed there.
    """
    file = TomlFile(path)
    file.table(_File)
    client = file.table(_Client, "client")
    try:
        return Journal(client.journal), _budget(file)
    except ConfigurationError as error:
        raise file.error(("client", "journal"), error.detail) from error


def sandbox_journal() -> tuple[Journal, Budget]:
    """Return the journal and the budget of `sandbox_payer`.

    Raises:
        ConfigurationError: the sandbox's directory cannot be made.
    """
    return Journal(f"sqlite:///{sandbox_directory().absolute() / JOURNAL}"), Budget()


def sandbox_payer(*, rails: Collection[str] = (), at_most: Money | None = None) -> Payer:
    """Make a payer with play money: a wallet on every installed rail that has a sandbox, and the default budget.

    Raises:
        ConfigurationError: no such rail is installed.
    """
    wallets = []
    for name in installed_rails():
        if not rails or name in rails:
            plugin = load_plugin(name)
            wallets.append(plugin.wallet(plugin.wallet_config.model_validate({"backend": "sandbox"})))
    if not wallets:
        raise ConfigurationError(f"no rail is installed that is called {' or '.join(sorted(rails)) or 'anything'}")
    journal, budget = sandbox_journal()
    return Payer(wallets, budget=budget if at_most is None else budget.tightened(at_most), journal=journal)


def _budget(file: TomlFile) -> Budget:
    limits = file.table(_Budget, "budget")
    try:
        return Budget(**{name: _setting(value) for name, value in limits if value is not None})
    except ConfigurationError as error:
        raise file.error(("budget",), error.detail) from error


def _setting(value: Any) -> Any:
    """Return a value of the table as `Budget` takes it."""
    if isinstance(value, list) and value and isinstance(value[0], _Rule):
        return [Rule(**dict(rule)) for rule in value]
    return value


def _prefer(file: TomlFile, payer: Payer, *, is_whole: bool) -> None:
    """Give the payer the file's preferences; where some wallets are left out, so is what is said of them."""
    found = []
    for index in range(len(file.tables("prefer"))):
        table = file.table(_Preference, "prefer", index)
        try:
            preference = Preference(**dict(table))
            if is_whole:
                payer.preferences = [preference]
        except ConfigurationError as error:
            raise file.error(("prefer", index), error.detail) from error
        found.append(preference)
    if is_whole:
        payer.preferences = found


def _name(file: TomlFile, index: int) -> str:
    name = file.tables("wallets")[index].get("name")
    if not isinstance(name, str):
        raise file.error(("wallets", index), 'needs name = "…", the name of an installed rail')
    return name


def _wallet(file: TomlFile, index: int) -> Wallet:
    name = _name(file, index)
    try:
        plugin = load_plugin(name)
    except ConfigurationError as error:
        raise file.error(("wallets", index, "name"), error.detail) from error
    config = file.table(plugin.wallet_config, "wallets", index, ignore=["name"])
    try:
        return plugin.wallet(config)
    except ConfigurationError as error:
        raise file.error(("wallets", index), error.detail) from error
