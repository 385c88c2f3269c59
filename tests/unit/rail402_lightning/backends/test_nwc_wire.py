"""The wire of Nostr Wallet Connect: addresses, events, and NIP-44 by its own vectors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from rail402.errors import ConfigurationError, MalformedInput
from rail402_lightning.backends import nwc_wire
from rail402_lightning.backends.nwc_wire import Event, parse_connection, read_event, read_message, sign_event
from tests.unit.rail402_lightning.backends.fake_nwc import CLIENT, SERVICE, address, public

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[3] / "vectors" / "nip44.json").read_text())
VALID, INVALID = VECTORS["valid"], VECTORS["invalid"]

# NIP-47's own example of an info event.
PUBLISHED = {
    "id": "df467db0a9f9ec77ffe6f561811714ccaa2e26051c20f58f33c3d66d6c2b4d1c",
    "pubkey": "c04ccd5c82fc1ea3499b9c6a5c0a7ab627fbe00a0116110d4c750faeaecba1e2",
    "created_at": 1713883677,
    "kind": 13194,
    "tags": [["encryption", "nip44_v2 nip04"], ["notifications", "payment_received payment_sent"]],
    "content": "pay_invoice",
    "sig": "31f57b369459b5306a5353aa9e03be7fbde169bc881c3233625605dd12f53548"
    "179def16b9fe1137e6465d7e4d5bb27ce81fd6e75908c46b06269f4233c845d8",
}


# NIP-44.


@pytest.mark.parametrize("case", VALID["get_conversation_key"])
def test_a_conversation_has_its_key(case: dict[str, str]) -> None:
    assert nwc_wire.conversation_key(bytes.fromhex(case["sec1"]), case["pub2"]).hex() == case["conversation_key"]


@pytest.mark.parametrize("case", INVALID["get_conversation_key"])
def test_what_is_no_key_makes_none(case: dict[str, str]) -> None:
    with pytest.raises(MalformedInput):
        nwc_wire.conversation_key(bytes.fromhex(case["sec1"]), case["pub2"])


def test_each_message_has_its_keys() -> None:
    key = bytes.fromhex(VALID["get_message_keys"]["conversation_key"])
    for case in VALID["get_message_keys"]["keys"]:
        made = nwc_wire._message_keys(key, bytes.fromhex(case["nonce"]))
        assert [part.hex() for part in made] == [case["chacha_key"], case["chacha_nonce"], case["hmac_key"]]


def test_texts_are_padded() -> None:
    for size, padded in VALID["calc_padded_len"]:
        assert nwc_wire._padded(size) == padded


@pytest.mark.parametrize("case", VALID["encrypt_decrypt"])
def test_messages_are_encrypted_and_read(case: dict[str, str]) -> None:
    key = nwc_wire.conversation_key(bytes.fromhex(case["sec1"]), public(bytes.fromhex(case["sec2"])))
    back = nwc_wire.conversation_key(bytes.fromhex(case["sec2"]), public(bytes.fromhex(case["sec1"])))

    assert key.hex() == back.hex() == case["conversation_key"]
    assert nwc_wire.nip44_encrypt(case["plaintext"], key, bytes.fromhex(case["nonce"])) == case["payload"]
    assert nwc_wire.nip44_decrypt(case["payload"], key) == case["plaintext"]


def test_long_messages_too() -> None:
    for case in VALID["encrypt_decrypt_long_msg"]:
        text, key = case["pattern"] * case["repeat"], bytes.fromhex(case["conversation_key"])
        assert hashlib.sha256(text.encode()).hexdigest() == case["plaintext_sha256"]
        payload = nwc_wire.nip44_encrypt(text, key, bytes.fromhex(case["nonce"]))
        assert hashlib.sha256(payload.encode()).hexdigest() == case["payload_sha256"]
        assert nwc_wire.nip44_decrypt(payload, key) == text
    extended = VECTORS["extended"]
    key, nonce = bytes.fromhex(extended["conversation_key"]), bytes.fromhex(extended["nonce"])
    for case in extended["cases"]:
        payload = nwc_wire.nip44_encrypt("a" * case["length"], key, nonce)
        assert hashlib.sha256(payload.encode()).hexdigest() == case["payload_sha256"]
        assert nwc_wire.nip44_decrypt(payload, key) == "a" * case["length"]


@pytest.mark.parametrize("case", INVALID["decrypt"], ids=lambda case: str(case["note"]))
def test_what_is_no_message_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(MalformedInput):
        nwc_wire.nip44_decrypt(case["payload"], bytes.fromhex(case["conversation_key"]))


def test_sizes_that_no_message_has_are_refused() -> None:
    key = bytes(32)
    for payload in ("", "A" * 131, "A" * (nwc_wire.MAX_MESSAGE + 4), "é" * 200, "A" * 133):
        with pytest.raises(MalformedInput):
            nwc_wire.nip44_decrypt(payload, key)
    with pytest.raises(MalformedInput):
        nwc_wire.nip44_encrypt("", key, bytes(32))


# NIP-04.


@pytest.mark.parametrize("text", ["", "a", "x" * 16, "Käse 🧀" * 100])
def test_the_old_way_is_read_back(text: str) -> None:
    payload = nwc_wire.nip04_encrypt(text, CLIENT, public(SERVICE), bytes(range(16)))

    assert nwc_wire.nip04_decrypt(payload, SERVICE, public(CLIENT)) == text


@pytest.mark.parametrize("payload", ["", "?iv=", "AAAA?iv=AAAA", "A" * 24 + "?iv=" + "A" * 22 + "==", "é?iv=é"])
def test_what_is_no_old_message_is_refused(payload: str) -> None:
    with pytest.raises(MalformedInput):
        nwc_wire.nip04_decrypt(payload, SERVICE, public(CLIENT))


# Events.


def made(**changes: Any) -> Event:
    event = sign_event(23195, "hällo \n", tags=(("p", "x"), ("e",)), now=7, secret=SERVICE, random=bytes(32))
    return replace(event, **changes)


def test_an_event_is_read_back_and_hides_its_content() -> None:
    event = made()

    assert read_event(json.loads(json.dumps(event.wire())), author=public(SERVICE)) == event
    assert (event.tag("p"), event.tag("e"), event.tag("d")) == ("x", None, None)
    assert "hällo" not in repr(event)


def test_a_published_event_is_told_from_one_that_was_changed() -> None:
    words = "pay_invoice pay_keysend get_balance get_info make_invoice lookup_invoice list_transactions"
    whole = words + " multi_pay_invoice multi_pay_keysend sign_message notifications"
    with pytest.raises(MalformedInput):
        read_event(PUBLISHED, author=str(PUBLISHED["pubkey"]))  # cut short here
    with pytest.raises(MalformedInput):
        read_event(PUBLISHED | {"content": whole, "sig": "00" * 64}, author=str(PUBLISHED["pubkey"]))


@pytest.mark.parametrize(
    "event",
    [
        made(content="hallo"),
        made(kind=23196),
        made(tags=()),
        made(created_at=8),
        made(id="00" * 32),
        made(sig="00" * 64),
        made(sig="zz"),
        made(pubkey=public(CLIENT)),
    ],
)
def test_an_event_that_was_changed_is_refused(event: Event) -> None:
    with pytest.raises(MalformedInput):
        read_event(event.wire(), author=public(SERVICE))


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], {}, 7, made().wire() | {"tags": [["p", 7]]}, made().wire() | {"kind": "1"}),
        sign_event(True, "x", tags=(), now=7, secret=SERVICE, random=bytes(32)).wire(),  # true is no number
        sign_event(1, "x", tags=(), now=True, secret=SERVICE, random=bytes(32)).wire(),
    ],
)
def test_what_has_not_the_form_of_an_event_is_refused(value: object) -> None:
    with pytest.raises(MalformedInput):
        read_event(value, author=public(SERVICE))


def test_a_signature_by_another_key_is_refused() -> None:
    other = sign_event(23195, "x", tags=(), now=7, secret=CLIENT, random=bytes(32))

    with pytest.raises(MalformedInput):
        read_event(other.wire() | {"pubkey": public(SERVICE)}, author=public(SERVICE))
    digest = bytes.fromhex(made().id)
    forged = PrivateKey(CLIENT).sign_schnorr(digest, bytes(32)).hex()
    with pytest.raises(MalformedInput, match="signature"):
        read_event(made(sig=forged).wire(), author=public(SERVICE))


def test_a_message_is_a_json_array() -> None:
    assert read_message('["EOSE","x"]') == ["EOSE", "x"]
    for message in ("", "{}", "7", b"\xff", "[" * 100, '["a"],"message":[]', '["EOSE"],"x":1', '["a"] 1', "[1e999]"):
        with pytest.raises(MalformedInput):
            read_message(message)


# Addresses.


def test_an_address_says_who_and_where() -> None:
    text = address("wss%3A%2F%2Frelay.example.com", "wss://b.example.com", "wss://b.example.com")

    for spelt in (text, text.replace("//", "", 1), f" {text}\n", text + "&lud16=a@b.example"):
        connection = parse_connection(spelt)
        assert connection.wallet == public(SERVICE)
        assert connection.relays == ("wss://relay.example.com", "wss://b.example.com")
        assert (connection.secret, connection.client) == (CLIENT, public(CLIENT))
        assert CLIENT.hex() not in repr(connection)
        assert str(CLIENT) not in repr(connection)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://example.com",
        address(),
        address("https://relay.example.com"),
        address("ws://relay.example.com"),
        address("wss://user:pass@relay.example.com"),
        address("wss://"),
        address("wss://[::"),
        address("wss://relay.example.com:port"),
        address(*(f"wss://r{number}.example.com" for number in range(9))),
        address("wss://r.example.com").replace(public(SERVICE), "ab"),
        address("wss://r.example.com").replace(public(SERVICE), "ff" * 32),
        address("wss://r.example.com").replace(CLIENT.hex(), "00" * 32),
        address("wss://r.example.com").replace(CLIENT.hex(), "01" * 31),
        address("wss://r.example.com") + "&secret=" + "01" * 32,
        "nostr+walletconnect://[" + "?" + "&" * 50,
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_connection(text)

    assert CLIENT.hex() not in str(caught.value)
    assert caught.value.__context__ is None or CLIENT.hex() not in str(caught.value.__context__)


def test_a_relay_in_a_private_network_needs_no_tls() -> None:
    assert parse_connection(address("ws://127.0.0.1:7777")).relays == ("ws://127.0.0.1:7777",)
