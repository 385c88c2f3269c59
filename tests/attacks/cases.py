"""The attacks that this project is tested against, by number: the rows of `docs/security.md`.

A test belongs to the case whose number is in its file's name, `test_server_03_other_paths.py`. What it found it says by
the fixture `observed`, in a text that stands in the code as it is, so that the page and the tests can be compared
without running them. `report.py` makes the page of what the run wrote down.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

__all__ = ["CASES", "FOLDER", "RESULTS", "ROOT", "Case", "Observation", "Observe", "case_of", "observations"]

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]
RESULTS: Final = ROOT / "build" / "attacks"
"""One JSON file per test that has something to say, as the last run left it."""

Observe = Callable[[str], None]
"""What the fixture `observed` is: called at the end of a test, with a literal text."""


@dataclass(frozen=True, slots=True)
class Case:
    """One attack.

    Attributes:
        number: its number, which the names of its files have; side: whose part of it this row is.
        expected: the outcome that is safe.
        open: what of it is not built or not tried, and why; nothing where all of it is.
    """

    number: int
    side: Literal["server", "client"]
    attack: str
    expected: str
    open: str = ""

    def __str__(self) -> str:
        return f"{self.number:02} {self.side}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A text that a test records where it passes."""

    case: Case
    file: str
    function: str
    text: str


def _server(number: int, attack: str, expected: str, open_: str = "") -> Case:
    return Case(number, "server", attack, expected, open_)


def _client(number: int, attack: str, expected: str, open_: str = "") -> Case:
    return Case(number, "client", attack, expected, open_)


CASES: Final = [
    _server(1, "the same proof twice", "the stored answer again for the same request, else a refusal; one run"),
    _server(
        2,
        "the same proof 50 times at once, at four worker processes on one store",
        "one run, one settlement; the others get the stored answer, or are told to come back",
    ),
    _server(3, "the same proof at another path", "402 `resource_mismatch`, nothing settled"),
    _server(4, "the same path with another method, query or body", "402 `resource_mismatch`, nothing settled"),
    _server(5, "the proof of a cheap route, or a pass, at a dear one", "402, whatever of it is swapped"),
    _server(6, "a unit too little, a unit too much", "402, unless the rail takes more, and records it"),
    _server(7, "another token, chain or payee", "402 with a code of its own, nothing settled"),
    _server(8, "amounts that are no amount", "400 or 402, never 500"),
    _server(9, "authorizations that are over, not begun, or too short", "402 that says which"),
    _server(10, "signatures of others, altered, or vouched for by a contract that lies", "402, and no gas spent"),
    _server(
        11,
        "the payer empties the account, or cancels, between verifying and settling",
        "the handler's answer is withheld, nothing is claimed to be paid",
    ),
    _server(
        12,
        "settling times out after the transaction was sent",
        "503 with `Retry-After`, never a fresh 402; the nonce stays reserved; the reconciler closes it",
    ),
    _server(13, "a facilitator says success with another transaction, payer or network", "not believed: the chain is"),
    _server(14, "a facilitator that is down, slow, or answers HTML", "503, nothing served, nothing burnt"),
    _server(15, "somebody else hands the authorization in first", "found on the chain, served once"),
    _server(
        16,
        "a transaction's hash as a proof: old, reverted, of a fake token, not to us, too shallow, undone, of others",
        "402; the first claim counts; one hash in any case of letters",
    ),
    _server(17, "the handler fails", "not settled, or refunded, or owed one more run; never lost, never free"),
    _server(18, "redirects, 304 and 206 from a paid handler", "settled like any success, before they leave"),
    _server(
        19,
        "the client goes in the middle of a stream",
        "the handler learns it; at most the price was taken",
        "charging for what was delivered: a stream has one price",
    ),
    _server(
        20,
        "many requests on one allowance",
        "no more is taken than was held; no more is served than was paid",
        "the scheme `upto` of x402 is not spoken",
    ),
    _server(21, "preimages of other, unpaid or held invoices, or of 31 and 33 bytes", "400 or 402, nothing served"),
    _server(22, "a macaroon widened, stripped, with caveats twice or with NUL", "402, nothing served"),
    _server(23, "a pass used more often, longer or elsewhere than it is good for", "402, no further run"),
    _server(
        24,
        "tokens shown again, intents of others, forged and replayed webhooks",
        "402 or 400; an event is a hint that makes the gate look, and proves nothing",
    ),
    _server(
        25,
        "CR, LF and NUL in fields, a megabyte of them, deep JSON, junk, several payments",
        "400, 402 or 431, with nothing claimed; never 500",
    ),
    _server(26, "other spellings of a paid path, other methods, mounts, websockets", "never free"),
    _server(27, "a forged `Host`, `X-Forwarded-Proto` or client address", "offers and limits are not moved by them"),
    _server(28, "a shared cache in front", "402 is `no-store`, what was paid is `private`; both vary on the payment"),
    _server(29, "a `User-Agent` that pretends", "it decides nothing"),
    _server(30, "a flood of requests for a 402", "429; invoices are bounded, and so is the store"),
    _server(31, "a flood of bad signatures", "cheap checks first, 429; the backend is not asked"),
    _server(
        32,
        "addresses in client data that lead into the private network",
        "nothing in a request makes the gate fetch or call anything",
    ),
    _server(33, "keys, preimages, proofs, tokens in logs, reprs, errors and answers (both ends)", "nowhere"),
    _server(34, "refunds twice, above the charge, to others, and then used again", "refused; the books are even"),
    _server(35, "forged receipts", "none of them verifies"),
    _server(36, "a rail of play money in production", "the app does not start"),
    _client(
        32,
        "addresses from a server that lead into the private network",
        "blocked",
        "the guard is for asynchronous clients, and has to be asked for; the tools of a model have it by default",
    ),
    _client(
        35,
        "forged receipts, swapped keys",
        "no receipt, and the response all the same",
        "a receipt of the same order that is less than five minutes old passes for a new one's",
    ),
    _client(37, "prices above a cap, many calls and processes near it, other currencies", "never above; no signature"),
    _client(38, "a second 402, endless refusals, chains of redirects", "one payment, shown again until a deadline"),
    _client(
        39,
        "redirects to other origins and down to http",
        "no payment, and no field of one",
        "an origin that is plain http from the start is paid like any other",
    ),
    _client(40, "terms that change between asking and paying", "what was checked is what is paid"),
    _client(41, "invoices that lie", "refused"),
    _client(42, "tokens, decimals and domains that lie", "refused; the table is local"),
    _client(43, "time-outs of years", "an hour at most"),
    _client(
        44,
        "prices that creep up, a new payee on a known host",
        "refused, unless the owner approves just that",
    ),
    _client(
        45,
        "words that want to be obeyed",
        "they decide nothing, and no error repeats them",
        "marking a 402's text as untrusted for a model: nothing shows it to one yet",
    ),
    _client(46, "no terms; answers that are huge, deep, endless, slow or no HTTP", "nothing paid, nothing held up"),
    _client(
        47,
        "network, process, journal or wallet fail after the proof was made",
        "the same proof again, an honest outcome",
    ),
    _client(48, "request bodies that cannot be sent twice", "refused first, or sent again byte for byte"),
    _client(
        49,
        "private things in URLs",
        "in no error and no log of ours",
        "redacting them in the journal and in receipts; and httpx logs URLs itself",
    ),
    _client(
        50,
        "paid, and the goods are empty",
        "recorded as paid",
        "a validator for responses, asking for a refund, a list of hosts to avoid",
    ),
]

_NAME: Final = re.compile(r"test_(?:(server|client)_)?([0-9]{2})_[a-z0-9_]+\.py")


def case_of(path: Path) -> Case | None:
    """Return the case of a file; a file without a side is the server's, which its row says is both ends'."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    side, number = match[1] or "server", int(match[2])
    (found,) = [case for case in CASES if (case.number, case.side) == (number, side)]
    return found


@cache
def observations() -> tuple[Observation, ...]:
    """Return everything that a test can say, in the order of the cases, the files and their lines."""
    files = [(case, path) for path in sorted(FOLDER.glob("test_*.py")) if (case := case_of(path)) is not None]
    found = [each for case, path in files for each in _in(case, path)]
    return tuple(sorted(found, key=lambda each: CASES.index(each.case)))


def _in(case: Case, path: Path) -> Iterator[Observation]:
    for function in ast.parse(path.read_text()).body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "observed":
                    yield Observation(case, path.name, function.name, ast.literal_eval(call.args[0]))
