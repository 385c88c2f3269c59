"""Macaroons as lnd writes them, and what is missing or too much in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402_lightning.backends.lnd_macaroon import PAY, RECEIVE, permissions, read_macaroon
from tests.unit.rail402_lightning.backends.fake_lnd import PAYING, RECEIVING, macaroon

# Baked by lnd 0.20.1 with `lncli bakemacaroon info:read invoices:read invoices:write`, on a node that is gone.
BAKED = bytes.fromhex(
    "0201036c6e64023d030a10be428763dd1d6209bba4cb7ab2562a9b1201301a0c0a04696e666f1204726561641a170a08696e766f69636573"
    "120472656164120577726974650000062075ce388278fb72ef504ec3746b861a27da194c0a20f4dba7d924106f1948e368"
)


def test_what_lnd_baked_is_read() -> None:
    assert permissions(BAKED) == {"info:read", "invoices:read", "invoices:write"}
    assert permissions(RECEIVING) == permissions(BAKED)


def test_many_permissions_make_a_long_identifier() -> None:
    many = [f"uri:/lnrpc.Lightning/Method{number}" for number in range(30)]

    assert permissions(macaroon(*many)) == set(many)


def test_caveats_do_not_hide_the_permissions() -> None:
    caveat = b"\x02\x20time-before 2030-01-01T00:00:00Z\x00"

    assert permissions(BAKED[:-35] + caveat + BAKED[-35:]) == permissions(BAKED)


def test_a_macaroon_cut_off_anywhere_is_not_understood_or_a_macaroon_still() -> None:
    end_of_identifier = 6 + 2 + 0x3D

    for length in range(len(BAKED)):
        assert permissions(BAKED[:length]) == (None if length < end_of_identifier else permissions(BAKED))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        b"\x01" + BAKED[1:],  # another version
        BAKED.replace(b"\x02\x3d\x03", b"\x02\x3d\x02"),  # another form of identifier
        BAKED.replace(b"\x02\x3d\x03", b"\x04\x3d\x03"),  # no identifier where it belongs
        b"\x02\x02\x03\x03\x08\x01\x00",  # a number where only texts are
        b"\x02\x02\xff\xff\xff\xff\xff\xff\x01",
        b"\x02\x02\xff\xff\xff\xff\x07\x03",
    ],
)
def test_what_lnd_did_not_bake_is_not_guessed_at(data: bytes) -> None:
    assert permissions(data) is None


def test_bytes_that_are_no_text_in_a_permission_do_no_harm() -> None:
    assert permissions(BAKED.replace(b"info", b"in\xff\xfe")) is not None


def test_what_is_missing_is_named() -> None:
    assert RECEIVE.missing(frozenset({"info:read"})) == ["invoices:read", "invoices:write"]
    assert PAY.missing(permissions(PAYING) or frozenset()) == []
    assert PAY.missing(permissions(RECEIVING) or frozenset()) == ["offchain:read", "offchain:write"]


def test_single_methods_are_enough() -> None:
    for rights in (PAY, RECEIVE):
        methods = {f"uri:{method}" for each in rights.methods.values() for method in each}
        assert rights.missing(frozenset(methods)) == []
        assert rights.excess(frozenset(methods)) == []
        assert all(rights.missing(frozenset(methods - {method})) for method in methods)


def test_what_can_only_look_is_not_too_much_and_what_can_act_is() -> None:
    held = frozenset(RECEIVE.methods)

    assert RECEIVE.excess(held | {"offchain:read", "onchain:read", "peers:read"}) == []
    assert RECEIVE.excess(held | {"offchain:write", "macaroon:generate", "uri:/lnrpc.Lightning/SendCoins"}) == [
        "macaroon:generate",
        "offchain:write",
        "uri:/lnrpc.Lightning/SendCoins",
    ]
    assert PAY.excess(frozenset(PAY.methods) | {"onchain:write"}) == ["onchain:write"]


def test_the_command_makes_what_is_needed() -> None:
    assert RECEIVE.bake.startswith("lncli bakemacaroon --save_to rail402-receive.macaroon ")
    assert RECEIVE.missing(frozenset(RECEIVE.bake.split())) == []


def test_a_macaroon_is_given_in_any_of_its_forms(tmp_path: Path) -> None:
    raw, text = tmp_path / "invoice.macaroon", tmp_path / "invoice.hex"
    raw.write_bytes(BAKED)
    text.write_text(BAKED.hex().upper() + "\n")

    for given in (BAKED, BAKED.hex(), BAKED.hex().encode(), raw, text):
        assert read_macaroon(given) == BAKED


@pytest.mark.parametrize("given", ["", "invoice.macaroon", "5ec2e7", b"", b"\xff\xfe", BAKED.hex()[:-1]])
def test_what_is_no_macaroon_is_refused_and_not_repeated(given: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"must be one of its \.macaroon files") as caught:
        read_macaroon(given)

    assert "5ec2e7" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"invoice\.macaroon cannot be read"):
        read_macaroon(tmp_path / "invoice.macaroon")
