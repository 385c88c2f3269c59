"""The rail's tables in configuration files, and how it is found by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account

import rail402_base
from rail402.config import TomlFile
from rail402.errors import ConfigurationError
from rail402.plugins import load_plugin
from rail402.server.toml import gate_from_toml
from rail402_base.config import PLUGIN, RailConfig, TransfersConfig, WalletConfig
from rail402_base.facilitator import FacilitatorBackend
from rail402_base.keys import ContractSigner, LocalSigner, RemoteSigner
from rail402_base.rail import BaseRail
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.relayer_store import SqliteRelayerStore
from rail402_base.rpc.transfers import RpcSender
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC
from rail402_base.transfer_wallet import BaseTransferWallet
from rail402_base.transfers import Transfers
from rail402_base.wallet import BaseWallet
from tests.unit.rail402_base.payments import PAYEE, PAYER, PAYER_KEY


def write(path: Path, text: str) -> TomlFile:
    file = path / "file.toml"
    file.write_text(text)
    return TomlFile(file)


def test_it_is_found_by_name() -> None:
    assert load_plugin("base") is PLUGIN is rail402_base.PLUGIN


def test_a_sandbox_rail_from_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, f'[rail]\nbackend = "sandbox"\ndirectory = "{tmp_path}"\npay_to = "{PAYEE}"')
    rail = PLUGIN.rail(file.table(PLUGIN.rail_config, "rail"))
    assert isinstance(rail, BaseRail)
    assert rail.pay_to == PAYEE
    assert rail.is_sandbox is True
    assert PLUGIN.rail(RailConfig(backend="sandbox", directory=str(tmp_path))).is_sandbox is True


def test_a_whole_gate_from_a_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        f"""
[server]
public_url = "https://api.example.com"
store = "memory://"
[[rails]]
name = "base"
backend = "sandbox"
directory = "{tmp_path}"
[[routes]]
match = "GET /a"
price = "0.003 USD"
""",
    )
    gate_from_toml(tmp_path / "file.toml")


def test_a_sandbox_wallet_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYER_KEY", PAYER_KEY.hex())
    file = write(tmp_path, f'[wallet]\nbackend = "sandbox"\ndirectory = "{tmp_path}"\nprivate_key = "env:PAYER_KEY"')
    config = file.table(PLUGIN.wallet_config, "wallet")
    assert PAYER_KEY.hex() not in repr(config)
    wallet = PLUGIN.wallet(config)
    assert isinstance(wallet, BaseWallet)
    assert wallet.signer.address == PAYER
    assert PLUGIN.wallet(WalletConfig(backend="sandbox", directory=str(tmp_path))).name != wallet.name


RPC = """[it]
backend = "rpc"
network = "base-sepolia"
urls = ["https://one.test/", "env:NODE"]
"""
RELAYED = RPC + f'pay_to = "{PAYEE}"\nrelayer_key = "env:RELAYER_KEY"\n'


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE", "https://two.test/0123456789abcdef")
    monkeypatch.setenv("RELAYER_KEY", PAYER_KEY.hex())


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[it]\nbackend = "cash"', 2, "there is no backend 'cash'; there are: sandbox, rpc, facilitator"),
        ("[it]\n", 1, "it.backend: is missing"),
        ('[it]\nbackend = "sandbox"\nnetwork = "base"', 1, 'backend = "sandbox" has no network'),
        ('[it]\nbackend = "sandbox"\nport = 5', 3, "is not known here; known are: backend,"),
        ('[it]\nbackend = "sandbox"\ndirectory = 5', 3, "directory"),
        ('[it]\nbackend = "rpc"\nurls = [5]', 3, "urls"),
        ('[it]\nbackend = "rpc"\nurls = ["0123456789abcdef"]', 3, "env:NAME or file:PATH"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = write(tmp_path, text)
    for model in (PLUGIN.rail_config, PLUGIN.wallet_config):
        with pytest.raises(ConfigurationError) as caught:
            file.table(model, "it")
        assert f"file.toml:{line}:" in str(caught.value)
        assert problem in str(caught.value)
        assert "0123456789abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[it]\nbackend = "rpc"', 'backend = "rpc" needs pay_to'),
        (RPC + f'pay_to = "{PAYEE}"', 'backend = "rpc" needs relayer_key'),
        (RELAYED + 'directory = "here"', 'backend = "rpc" has no directory'),
        (RELAYED + 'facilitators = ["https://f.test/"]', 'backend = "rpc" has no facilitators'),
        (RELAYED + "max_fee_gwei = 0.5", 'write gwei as text, such as "0.5"'),
        (RELAYED + 'max_fee_gwei = "-1"', "write gwei as text"),
        (RELAYED + 'max_fee_gwei = "nan"', "write gwei as text"),
        (RELAYED + 'max_fee_gwei = "0.0000000001"', "write gwei as text"),
        (RELAYED + "settle_seconds = 0", "settle_seconds"),
        (RELAYED + "confirmations = 0", "confirmations"),
        (RELAYED.replace('"env:RELAYER_KEY"', f'"{PAYER_KEY.hex()}"'), "env:NAME or file:PATH"),
        (f'[it]\nbackend = "facilitator"\npay_to = "{PAYEE}"', "needs urls"),
        (f'[it]\nbackend = "facilitator"\npay_to = "{PAYEE}"\nurls = ["https://one.test/"]', "needs facilitators"),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_a_rail_that_its_backend_cannot_be_made_of(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(problem)) as caught:
        write(tmp_path, text).table(PLUGIN.rail_config, "it")
    assert PAYER_KEY.hex() not in str(caught.value)


@pytest.mark.usefixtures("secrets")
def test_a_rail_with_a_relayer_from_a_file(tmp_path: Path) -> None:
    text = RELAYED + f'relayer_db = "sqlite:///{tmp_path}/r.db"\nmax_fee_gwei = "0.25"\nsettle_seconds = 9\n'
    config = write(tmp_path, text + "confirmations = 3").table(PLUGIN.rail_config, "it")
    assert PAYER_KEY.hex() not in repr(config)
    assert "0123456789abcdef" not in repr(config)

    rail = PLUGIN.rail(config)

    assert isinstance(rail, BaseRail)
    assert (rail.pay_to, rail.token, rail.is_sandbox) == (PAYEE, BASE_SEPOLIA_USDC, False)
    assert isinstance(rail.chain, RpcBackend)
    assert rail.chain.relayer.account.address == PAYER
    assert (rail.chain.settings.max_fee_per_gas, rail.chain.settings.settle_seconds) == (250_000_000, 9)
    assert rail.chain.reader.confirmations == 3
    assert "'one.test', 'two.test'" in repr(rail.chain)


@pytest.mark.usefixtures("secrets")
def test_what_is_left_out_is_as_usual(tmp_path: Path) -> None:
    rail = PLUGIN.rail(write(tmp_path, RELAYED.replace('network = "base-sepolia"\n', "")).table(RailConfig, "it"))
    assert isinstance(rail, BaseRail)
    assert isinstance(rail.chain, RpcBackend)
    assert rail.token == BASE_USDC
    assert rail.chain.settings == RelaySettings()
    assert rail.chain.reader.confirmations == 1


def test_a_rail_with_facilitators_from_a_file(tmp_path: Path) -> None:
    text = f'[it]\nbackend = "facilitator"\npay_to = "{PAYEE}"\nurls = ["https://one.test/"]\n'
    rail = PLUGIN.rail(write(tmp_path, text + 'facilitators = ["https://f.test/"]').table(RailConfig, "it"))
    assert isinstance(rail, BaseRail)
    assert isinstance(rail.chain, FacilitatorBackend)
    assert rail.token == BASE_USDC


TOKEN = """
[it.token]
symbol = "EURC"
address = "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"
decimals = 6
name = "EURC"
version = "2"
"""


@pytest.mark.usefixtures("secrets")
def test_any_other_chain_and_token(tmp_path: Path) -> None:
    text = RELAYED.replace("base-sepolia", "eip155:137") + TOKEN
    rail = PLUGIN.rail(write(tmp_path, text).table(RailConfig, "it"))
    assert isinstance(rail, BaseRail)
    assert (rail.token.network.caip2, rail.token.symbol) == ("eip155:137", "EURC")
    assert rail.token.network.kind == "production"
    text = text.replace("[it]\n", "[it]\nis_testnet = true\n")
    rail = PLUGIN.rail(write(tmp_path, text).table(RailConfig, "it"))
    assert isinstance(rail, BaseRail)
    assert rail.token.network.kind == "testnet"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (RELAYED.replace("base-sepolia", "polygon"), "the network 'polygon' is not known"),
        (RELAYED.replace("base-sepolia", "eip155:137"), "pass the token itself"),
        (RELAYED.replace("base-sepolia", "rail402-sandbox"), 'backend = "sandbox"'),
        (RELAYED.replace("https://one.test/", "http://one.test/"), "use https"),
        (RELAYED.replace(PAYEE, "merchant"), "pay_to"),
        (RELAYED + TOKEN.replace("0x60a3", "0x60"), "token: "),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_a_rail_that_cannot_be_made(tmp_path: Path, text: str, problem: str) -> None:
    config = write(tmp_path, text).table(RailConfig, "it")
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        PLUGIN.rail(config)


@pytest.mark.usefixtures("secrets")
def test_a_wallet_on_a_real_chain(tmp_path: Path) -> None:
    text = RPC + 'private_key = "env:RELAYER_KEY"\nmax_timeout = 300'
    wallet = PLUGIN.wallet(write(tmp_path, text).table(WalletConfig, "it"))
    assert isinstance(wallet, BaseWallet)
    assert (wallet.signer.address, wallet.tokens) == (PAYER, (BASE_SEPOLIA_USDC,))
    assert isinstance(wallet.chain, ChainReader)
    without = "".join(line for line in text.splitlines(keepends=True) if "urls" not in line)
    wallet = PLUGIN.wallet(write(tmp_path, without).table(WalletConfig, "it"))
    assert isinstance(wallet, BaseWallet)
    assert wallet.chain is None


SENDS = '[it]\nbackend = "rpc"\npays_by = "transfer"\nurls = ["https://n.example"]\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[it]\nbackend = "facilitator"', "a wallet needs no facilitator"),
        ('[it]\nbackend = "rpc"', "file.toml:1: it: needs one of private_key, keystore, mnemonic, signer"),
        ('[it]\nbackend = "rpc"\nkeystore = "k"\nmnemonic = "env:RELAYER_KEY"', "needs one of .*, and has 2"),
        ('[it]\nbackend = "rpc"\nkeystore = "k"', "keystore needs keystore_password"),
        ('[it]\nbackend = "rpc"\nsigner = "https://s.example"', "signer needs signer_address"),
        (
            f'[it]\nbackend = "rpc"\nsigner = "https://s.example"\nsigner_address = "{PAYEE}"\nsigner_method = "sign"',
            r"file.toml:5: it.signer_method: Input should be 'eth_signTypedData_v4', 'eth_signTypedData' or 'account_",
        ),
        (
            '[it]\nbackend = "rpc"\nprivate_key = "env:RELAYER_KEY"\nderivation_path = "m/0"',
            "derivation_path does not belong to private_key",
        ),
        ('[it]\nbackend = "rpc"\nmnemonic = "test test junk"', r"file.toml:3: it.mnemonic: .*env:NAME or file:PATH"),
        ('[it]\nbackend = "rpc"\nsigner = "signer:8550"', r"file.toml:3: it.signer: .*env:NAME or file:PATH"),
        (f'[it]\nbackend = "sandbox"\ncontract = "{PAYEE}"', 'backend = "sandbox" has no contract'),
        (f'[it]\nbackend = "rpc"\ncontract = "{PAYEE}"', "needs one of private_key, keystore, mnemonic, signer"),
        (
            f'{SENDS}keystore = "k"',
            "keystore needs keystore_password",
        ),
        (
            SENDS,
            "needs one of private_key, keystore, mnemonic$",
        ),
        (
            f'{SENDS}signer = "https://s.example"\nsigner_address = "{PAYEE}"',
            "signer signs no transactions: a transfer needs one of private_key, keystore, mnemonic$",
        ),
        (
            f'[it]\nbackend = "sandbox"\npays_by = "transfer"\nmnemonic = "env:RELAYER_KEY"\ncontract = "{PAYEE}"',
            'backend = "sandbox" has no contract',
        ),
        (
            f'{SENDS}private_key = "env:RELAYER_KEY"\ncontract = "{PAYEE}"',
            "contract signs no transactions",
        ),
        ('[it]\nbackend = "rpc"\nprivate_key = "env:RELAYER_KEY"\ndirectory = "here"', "has no directory"),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_a_wallet_that_its_backend_cannot_be_made_of(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        write(tmp_path, text).table(WalletConfig, "it")


SOURCES = {
    "key": 'private_key = "env:PAYER_KEY"',
    "keystore": 'keystore = "{home}/key.json"\nkeystore_password = "file:{home}/password"',
    "words": 'mnemonic = "env:WORDS"',
    "other words": 'mnemonic = "env:WORDS"\nderivation_path = "m/44\'/60\'/0\'/0/1"',
    "guarded words": 'mnemonic = "env:WORDS"\nmnemonic_passphrase = "env:PASSPHRASE"',
    "remote": 'signer = "https://u:hidden@s.test"\nsigner_address = "{payer}"\nsigner_method = "eth_signTypedData"',
    "secret remote": 'signer = "env:SIGNER"\nsigner_address = "{payer}"',
}
ADDRESSES = {
    "words": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "other words": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
}


@pytest.mark.parametrize("backend", ["rpc", "sandbox"])
@pytest.mark.parametrize("source", SOURCES)
def test_whose_key_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, backend: str) -> None:
    secrets = {
        "PAYER_KEY": PAYER_KEY.hex(),
        "WORDS": "test test test test test test test test test test test junk",
        "PASSPHRASE": "TREZOR",
        "SIGNER": "http://127.0.0.1:8550/hidden",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "key.json").write_text(json.dumps(Account.encrypt(PAYER_KEY, "hidden", kdf="scrypt", iterations=2)))
    (tmp_path / "password").write_text("hidden")
    text = f'[it]\nbackend = "{backend}"\n' + SOURCES[source].format(home=tmp_path, payer=PAYER)
    if backend == "sandbox":
        text += f'\ndirectory = "{tmp_path}/play"'
    config = write(tmp_path, text).table(WalletConfig, "it")
    wallet = PLUGIN.wallet(config)
    assert isinstance(wallet, BaseWallet)
    if source != "guarded words":
        assert wallet.signer.address == ADDRESSES.get(source, PAYER)
    assert type(wallet.signer) is (RemoteSigner if "remote" in source else LocalSigner)
    assert "hidden" not in repr(config) + repr(wallet)
    if backend == "rpc":
        contract = PLUGIN.wallet(write(tmp_path, f'{text}\ncontract = "{PAYEE}"').table(WalletConfig, "it"))
        assert isinstance(contract, BaseWallet)
        assert (type(contract.signer), contract.signer.address) == (ContractSigner, PAYEE)
    if "remote" not in source:
        text += '\npays_by = "transfer"' + ('\nurls = ["https://n.example"]' if backend == "rpc" else "")
        sending = PLUGIN.wallet(write(tmp_path, text).table(WalletConfig, "it"))
        assert isinstance(sending, BaseTransferWallet)
        assert sending.sender.address == wallet.signer.address


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('signer = "http://s.example"\nsigner_address = "{payer}"', "use https"),
        ('signer = "https://s.example"\nsigner_address = "payer"', "the remote signer's address"),
        ('private_key = "env:PAYER_KEY"\ncontract = "0x12"', "the contract's address"),
        ('keystore = "{home}/none.json"\nkeystore_password = "env:PAYER_KEY"', "cannot be read"),
        ('keystore = "~nobody-at-all/key"\nkeystore_password = "env:PAYER_KEY"', "home of nobody"),
        ('mnemonic = "env:PAYER_KEY"', "not a BIP-39 phrase"),
    ],
)
def test_a_signer_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str) -> None:
    monkeypatch.setenv("PAYER_KEY", PAYER_KEY.hex())
    text = '[it]\nbackend = "rpc"\n' + text.format(payer=PAYER, home=tmp_path)
    config = write(tmp_path, text).table(WalletConfig, "it")
    with pytest.raises(ConfigurationError, match=problem) as caught:
        PLUGIN.wallet(config)
    assert PAYER_KEY.hex() not in str(caught.value)


def test_a_key_in_the_file_itself_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = write(tmp_path, f'[it]\nbackend = "sandbox"\nprivate_key = "{PAYER_KEY.hex()}"')
    with pytest.raises(ConfigurationError, match="env:NAME or file:PATH") as caught:
        file.table(PLUGIN.wallet_config, "it")
    assert PAYER_KEY.hex() not in str(caught.value)


def test_a_wrong_address_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pay_to"):
        PLUGIN.rail(RailConfig(backend="sandbox", directory=str(tmp_path), pay_to="merchant"))


def test_the_public_names_are_all_there() -> None:
    assert len(set(rail402_base.__all__)) == len(rail402_base.__all__)
    for name in rail402_base.__all__:
        assert getattr(rail402_base, name) is not None
    assert dir(rail402_base) == sorted(rail402_base.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rail402_base.nothing


def test_importing_it_needs_no_extra() -> None:
    script = "import sys, rail402_base; sys.exit(any(n in sys.modules for n in ('coincurve', 'eth_account', 'Crypto')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
    script = "import sys; sys.modules['coincurve'] = None\nfrom rail402.plugins import load_plugin\nload_plugin('base')"
    failed = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert "pip install 'rail402[base]'" in failed.stderr


def test_using_it_does_not_import_eth_account() -> None:
    script = "import sys; from rail402_base import BaseRail, BaseWallet, PLUGIN; sys.exit('eth_account' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


# --- plain transfers


def test_a_rail_that_takes_transfers(tmp_path: Path) -> None:
    sandbox = f'[rail]\nbackend = "sandbox"\ndirectory = "{tmp_path}"\n'
    for extra, expected in (
        ("", None),
        ("transfers = {}", Transfers()),
        (
            "[rail.transfers]\nmax_age = 60\nconfirmations = 2\nnot_before = 5\nmust_sign = true",
            Transfers(max_age=60, confirmations=2, not_before=5, must_sign=True),
        ),
    ):
        rail = PLUGIN.rail(write(tmp_path, sandbox + extra).table(PLUGIN.rail_config, "rail"))
        assert isinstance(rail, BaseRail)
        assert ("transfer" in {each.name for each in rail.spec.mechanisms}) is (expected is not None)
        assert rail._transfers == (expected or Transfers())


@pytest.mark.parametrize("backend", ["rpc", "facilitator"])
def test_a_real_rail_that_takes_transfers(tmp_path: Path, backend: str) -> None:
    text = f"""
[rail]
backend = "{backend}"
pay_to = "{PAYEE}"
urls = ["https://node.example"]
transfers = {{ max_age = 60 }}
"""
    text += (
        f'relayer_db = "sqlite:///{tmp_path}/r.db"\n' if backend == "rpc" else 'facilitators = ["https://f.example"]'
    )
    key = tmp_path / "key"
    key.write_text(PAYER_KEY.hex())
    key.chmod(0o600)
    text += f'relayer_key = "file:{key}"\n' if backend == "rpc" else ""
    rail = PLUGIN.rail(write(tmp_path, text).table(PLUGIN.rail_config, "rail"))
    assert isinstance(rail, BaseRail)
    assert rail._transfers.max_age == 60


def test_terms_of_transfers_that_make_no_sense(tmp_path: Path) -> None:
    config = RailConfig(backend="sandbox", directory=str(tmp_path), transfers=TransfersConfig(max_age=0))
    with pytest.raises(ConfigurationError, match="max_age"):
        PLUGIN.rail(config)


def test_a_wallet_that_transfers(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(PAYER_KEY.hex())
    key.chmod(0o600)
    text = f"""
[wallet]
backend = "rpc"
pays_by = "transfer"
private_key = "file:{key}"
urls = ["https://node.example"]
network = "base-sepolia"
transfers_db = "sqlite:///{tmp_path}/t.db"
max_gas_gwei = "500"
confirmations = 2
"""
    wallet = PLUGIN.wallet(write(tmp_path, text).table(PLUGIN.wallet_config, "wallet"))
    assert isinstance(wallet, BaseTransferWallet)
    assert isinstance(wallet.sender, RpcSender)
    assert (wallet.sender.address, wallet.sender.token) == (PAYER, BASE_SEPOLIA_USDC)
    assert wallet.sender.settings.max_gas == 500 * 10**9
    sandbox = WalletConfig(backend="sandbox", directory=str(tmp_path), pays_by="transfer")
    assert isinstance(PLUGIN.wallet(sandbox), BaseTransferWallet)


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("", "transfers.db"),
        ('transfers_db = "sqlite:///sent.db"', "sent.db"),
        ('transfers_db = "sqlite:////x/t.db"', "/x/t.db"),
    ],
)
def test_transfers_are_kept_beside_the_file_wherever_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, file: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PAYER_KEY", PAYER_KEY.hex())
    text = (
        f'[it]\nbackend = "rpc"\npays_by = "transfer"\nprivate_key = "env:PAYER_KEY"\nurls = ["https://n.test"]\n{line}'
    )
    made = write(tmp_path, text)
    monkeypatch.chdir(tmp_path / "elsewhere")
    wallet = PLUGIN.wallet(made.table(WalletConfig, "it"))
    assert isinstance(wallet, BaseTransferWallet)
    assert isinstance(wallet.sender, RpcSender)
    assert isinstance(wallet.sender._store, SqliteRelayerStore)
    assert wallet.sender._store.path == tmp_path / file


TRANSFERS = 'private_key = "env:HOME"\nurls = ["https://n"]\npays_by = "transfer"'


@pytest.mark.parametrize(
    "table",
    [
        'backend = "rpc"\npays_by = "transfer"\nprivate_key = "env:HOME"',
        'backend = "rpc"\nprivate_key = "env:HOME"\nmax_gas_gwei = "5"',
        'backend = "rpc"\nprivate_key = "env:HOME"\nurls = ["https://n"]\npays_by = "transfer"\nmax_timeout = 5',
        'backend = "sandbox"\npays_by = "hand"',
        'backend = "sandbox"\npays_by = "transfer"\ntransfers_db = "sqlite:///t.db"',
        f'backend = "rpc"\n{TRANSFERS}\ntransfers_db = "postgresql://me:hunter2@db/transfers"',
    ],
)
def test_wallet_tables_that_make_no_sense(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigurationError):
        write(tmp_path, f"[wallet]\n{table}").table(PLUGIN.wallet_config, "wallet")
