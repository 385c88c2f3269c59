"""The error tree, and the one table of reason codes."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from typing import Any, get_args

import pytest

from rail402 import errors
from rail402.errors import (
    REASONS,
    ClientError,
    ConfigurationError,
    MalformedInput,
    PaymentActionRequired,
    PaymentOutcomeUnknown,
    PaymentRejected,
    Rail402Error,
    RailUnavailable,
)

CLASSES: dict[str, type[Rail402Error]] = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Rail402Error) and value.__module__ == errors.__name__
}


def drawn_tree() -> dict[str, str]:
    """Return each class that is drawn in the module's docstring, with its parent."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in str(errors.__doc__).splitlines():
        found = re.match(r" {4}((?:│   |    )*)(?:(?:├── |└── )(\w+)|(\w+)$)", line)
        if found:
            name = found[2] or found[3]
            depth = len(found[1]) // 4 + 1 if found[2] else 0
            path = [*path[:depth], name]
            parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def make(cls: type[Rail402Error], **options: Any) -> Rail402Error:
    return cls("f", "d", **options) if issubclass(cls, MalformedInput) else cls("d", **options)


class TestTree:
    def test_the_picture_is_the_truth(self) -> None:
        assert drawn_tree() == {name: cls.__bases__[0].__name__ for name, cls in CLASSES.items()}

    def test_every_class_has_one_parent_and_is_public(self) -> None:
        assert all(len(cls.__bases__) == 1 for cls in CLASSES.values())
        assert set(CLASSES) <= set(errors.__all__)

    @pytest.mark.parametrize("name", sorted(CLASSES))
    def test_every_class_can_be_raised_and_has_a_row(self, name: str) -> None:
        error = make(CLASSES[name])
        assert error.code == CLASSES[name].default_code
        assert error.reason is REASONS[error.code]
        assert (error.status, error.retryable) == (error.reason.status, error.reason.retryable)
        assert str(error) == error.args[0] == f"{error.reason.title}: {error.detail}"
        assert CLASSES[name].__doc__

    @pytest.mark.parametrize("name", sorted(name for name, cls in CLASSES.items() if issubclass(cls, ClientError)))
    def test_every_client_error_says_what_became_of_the_money(self, name: str) -> None:
        error = make(CLASSES[name])
        assert isinstance(error, ClientError)
        unknown = issubclass(CLASSES[name], PaymentOutcomeUnknown | PaymentActionRequired)
        assert (error.outcome, error.record_id) == ("unknown" if unknown else "not_paid", None)
        told = make(CLASSES[name], outcome="paid", record_id="r1", retry_after=3, code="receipt_expired")
        assert isinstance(told, ClientError)
        assert (told.outcome, told.record_id, told.retry_after, told.code) == ("paid", "r1", 3, "receipt_expired")


class TestTable:
    def test_rows_are_unique(self) -> None:
        source = inspect.getsource(errors)
        codes = re.findall(r'^ {4}Reason\("(\w+)"', source, re.MULTILINE)
        assert [code for code, count in Counter(codes).items() if count > 1] == []
        assert codes == list(REASONS)
        assert all(code == row.code for code, row in REASONS.items())

    @pytest.mark.parametrize("code", list(REASONS))
    def test_a_row_is_whole(self, code: str) -> None:
        row = REASONS[code]
        assert re.fullmatch(r"[a-z][a-z0-9_]+", code)
        assert row.status in {400, 402, 409, 413, 429, 500, 503}
        assert row.fault in get_args(errors.Fault)
        assert row.title[0].isupper()
        assert not row.title.endswith(".")
        assert re.fullmatch(r"[a-z0-9_]*", row.x402)
        assert re.fullmatch(r"[a-z0-9-]*", row.mpp)
        assert bool(row.x402) == bool(row.mpp)  # a code travels in both or is the client's own

    @pytest.mark.parametrize("status", [409, 503])
    def test_what_may_pass_by_itself_says_so(self, status: int) -> None:
        stubborn = {code for code, row in REASONS.items() if row.status == status and not row.retryable}
        never = {"replay_not_proven", "identifier_conflict", "refund_not_due"}
        assert stubborn == (never if status == 409 else set())

    def test_the_peers_bytes_are_never_our_fault(self) -> None:
        assert all(row.status in (400, 402, 413, 429) for row in REASONS.values() if row.fault == "peer")

    def test_the_words_that_mean_an_open_outcome_are_not_used_for_anything_else(self) -> None:
        assert [code for code, row in REASONS.items() if row.x402 == "settlement_pending"] == ["outcome_unknown"]


class TestErrors:
    def test_the_message_is_the_title_and_the_detail(self) -> None:
        assert str(PaymentRejected(code="refunded")) == "The payment was refunded"
        assert str(PaymentRejected("in May", code="refunded")) == "The payment was refunded: in May"

    def test_a_code_of_ones_own(self) -> None:
        error = PaymentRejected(code="payment_in_progress", retry_after=2)
        assert (error.status, error.retryable, error.retry_after) == (409, True, 2)
        assert PaymentRejected().code == "payload_invalid"

    @pytest.mark.parametrize("kind", [RailUnavailable, PaymentRejected, ConfigurationError])
    def test_a_code_that_is_not_in_the_table_is_a_bug(self, kind: type[Rail402Error]) -> None:
        with pytest.raises(ConfigurationError, match=r"'no_such_code' is no reason code: docs/errors\.md"):
            kind("x", code="no_such_code")

    def test_malformed_input_names_the_field(self) -> None:
        error = MalformedInput("accepted.amount", "must be digits")
        assert (error.field, error.code, error.status) == ("accepted.amount", "malformed_payment", 400)
        assert str(error) == "The payment cannot be read: accepted.amount: must be digits"
        assert MalformedInput("body", "x", code="body_too_large").status == 413

    def test_a_server_error_is_not_a_client_error(self) -> None:
        assert not issubclass(ConfigurationError, ClientError)
        assert not issubclass(PaymentRejected, ClientError)
