"""The id by which a payer names its payment: declared, read, refused and given."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rail402.dialects._payment_identifier import declaration, identifier_in, with_identifier
from rail402.errors import MalformedInput, PaymentRejected

ID = "pay_7d5d747be160e280504c099d984bcfe0"


def message(info: Any) -> dict[str, Any]:
    return {"extensions": {"payment-identifier": {**declaration(required=False)["payment-identifier"], "info": info}}}


@pytest.mark.parametrize("identifier", [ID, "a" * 16, "Z-_9" * 32])
def test_an_id_is_read(identifier: str) -> None:
    assert identifier_in(message({"required": False, "id": identifier}), required=False) == identifier


@pytest.mark.parametrize("payment", [{}, {"extensions": None}, {"extensions": {"other": {}}}, {"extensions": []}])
def test_where_it_is_not_required_it_may_be_missing(payment: dict[str, Any]) -> None:
    assert identifier_in(payment, required=False) is None
    with pytest.raises(MalformedInput, match="is required here") as caught:
        identifier_in(payment, required=True)
    assert caught.value.status == 400


def test_an_echo_without_an_id_names_nothing() -> None:
    assert identifier_in(message({"required": False}), required=False) is None


@pytest.mark.parametrize("identifier", ["a" * 15, "a" * 129, "a" * 15 + " ", "ä" * 16, ID + "\n", 10**16, [ID]])
def test_what_is_no_id_is_malformed(identifier: Any) -> None:
    with pytest.raises(MalformedInput, match="16 to 128") as caught:
        identifier_in(message({"required": False, "id": identifier}), required=False)
    assert caught.value.status == 400


@pytest.mark.parametrize("info", [None, [], {}, {"required": True, "id": ID}, {"required": 0, "id": ID}, {"id": ID}])
def test_what_was_declared_must_come_back_as_it_is(info: Any) -> None:
    with pytest.raises(PaymentRejected, match="came back altered") as caught:
        identifier_in(message(info), required=False)
    assert (caught.value.code, caught.value.reason.x402) == ("extension_mismatch", "extension_echo_mismatch")


def test_an_extension_that_is_no_object_is_altered() -> None:
    with pytest.raises(PaymentRejected):
        identifier_in({"extensions": {"payment-identifier": "x"}}, required=False)


@pytest.mark.parametrize("required", [False, True])
def test_the_id_that_is_given_fits_what_is_declared(required: bool) -> None:
    extensions = declaration(required=required)
    answered = with_identifier(extensions, {"signature": "0x1"})
    identifier = identifier_in({"extensions": answered}, required=required)
    assert identifier is not None
    schema = extensions["payment-identifier"]["schema"]["properties"]["id"]
    assert re.search(schema["pattern"], identifier)
    assert schema["minLength"] <= len(identifier) <= schema["maxLength"]
    assert answered == with_identifier(extensions, {"signature": "0x1"})
    assert answered != with_identifier(extensions, {"signature": "0x2"})
