"""Offer tokens: whatever is altered is refused, and nothing that a peer writes is more than refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import ConfigurationError, PaymentRejected
from rail402.protocol.binding import OfferKeys, TokenParts, nonce_in, parse_token, read_token
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order

FUZZ = settings(derandomize=True, database=None, deadline=None, max_examples=200)

OLD, NEW = b"o" * 32, b"n" * 40
NONCE = bytes(range(16))


@pytest.fixture
def keys() -> OfferKeys:
    return OfferKeys({"k1": OLD})


@pytest.fixture
def issued(keys: OfferKeys, offer: Offer, order: Order) -> Offer:
    return keys.issue(offer, order, NONCE)


def rejected(keys: OfferKeys, offer: Offer, order: Order, code: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        keys.verify(offer, order)
    assert caught.value.code == code


def with_part(offer: Offer, index: int, text: str) -> Offer:
    parts = str(offer.token).split(".")
    parts[index] = text
    return offer.model_copy(update={"token": ".".join(parts)})


class TestIssue:
    def test_the_token_is_what_the_module_says(self, issued: Offer, offer: Offer, order: Order) -> None:
        text = base64.urlsafe_b64encode(NONCE).rstrip(b"=").decode()
        signed = f"rail402/offer/1\n{order.digest}\n{offer.expires_at}\n{text}\n".encode() + offer.canonical
        mac = base64.urlsafe_b64encode(hmac.digest(OLD, signed, hashlib.sha256)).rstrip(b"=").decode()
        assert issued.token == f"k1.{offer.expires_at}.{text}.{mac}"

    def test_an_offer_of_ours_is_recognised(self, keys: OfferKeys, issued: Offer, offer: Offer, order: Order) -> None:
        parts = keys.verify(issued, order)
        assert (parts.kid, parts.expires_at, parts.nonce) == ("k1", offer.expires_at, "AAECAwQFBgcICQoLDA0ODw")
        digest = hashlib.sha256(b"rail402/offer/key\nAAECAwQFBgcICQoLDA0ODw").hexdigest()
        assert parts.key == f"offer:{offer.expires_at:08x}:{digest[:32]}"

    def test_another_nonce_is_another_offer(self, keys: OfferKeys, issued: Offer, offer: Offer, order: Order) -> None:
        other = keys.issue(offer, order, bytes(16))
        assert keys.verify(other, order).key != keys.verify(issued, order).key

    def test_an_expired_offer_is_still_ours(
        self, keys: OfferKeys, make_offer: Callable[..., Offer], order: Order
    ) -> None:
        assert keys.verify(keys.issue(make_offer(expires_at=1), order, NONCE), order).expires_at == 1


class TestAltered:
    @pytest.mark.parametrize(
        "change",
        [
            {"rail": "lightning"},
            {"mechanism": "permit2"},
            {"network": "eip155:84532"},
            {"asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e"},
            {"asset": "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"},
            {"amount": 1},
            {"amount": 2999},
            {"amount": 3001},
            {"payee": "0x0000000000000000000000000000000000000001"},
            {"timeout_seconds": 10**9},
            {"flow": Flow.ESCROW},
            {"extra": {}},
            {"extra": {"name": "USD Coin", "version": "1"}},
            {"extra": {"name": "USD Coin", "version": 2}},
            {"extra": {"name": "USD Coin", "version": "2", "feePayer": "us"}},
        ],
        ids=str,
    )
    def test_a_single_term(self, keys: OfferKeys, issued: Offer, order: Order, change: dict[str, Any]) -> None:
        rejected(keys, issued.model_copy(update=change), order, "resource_mismatch")

    @pytest.mark.parametrize(
        "change",
        [
            {"method": "POST"},
            {"url": "https://api.example.com/article/403?lang=en"},
            {"url": "https://api.example.com/article/402?lang=de"},
            {"url": "https://evil.example/article/402?lang=en"},
            {"route": "GET /{path}"},
            {"body_digest": "0" * 64},
        ],
        ids=str,
    )
    def test_another_order(self, keys: OfferKeys, issued: Offer, order: Order, change: dict[str, str]) -> None:
        rejected(keys, issued, order.model_copy(update=change), "resource_mismatch")

    def test_a_later_expiry(self, keys: OfferKeys, issued: Offer, offer: Offer, order: Order) -> None:
        rejected(keys, with_part(issued, 1, str(offer.expires_at + 1)), order, "resource_mismatch")

    def test_the_expiry_that_counts_is_the_tokens(
        self, keys: OfferKeys, issued: Offer, offer: Offer, order: Order
    ) -> None:
        claimed = issued.model_copy(update={"expires_at": offer.expires_at + 10**6})
        assert keys.verify(claimed, order).expires_at == offer.expires_at

    def test_the_nonce(self, keys: OfferKeys, issued: Offer, order: Order) -> None:
        rejected(keys, with_part(issued, 2, "A" * 22), order, "resource_mismatch")

    def test_the_mac(self, keys: OfferKeys, issued: Offer, order: Order) -> None:
        rejected(keys, with_part(issued, 3, "A" * 43), order, "resource_mismatch")

    def test_the_token_of_another_offer(self, keys: OfferKeys, issued: Offer, offer: Offer, order: Order) -> None:
        cheap = keys.issue(offer.model_copy(update={"amount": 1}), order, bytes(16))
        rejected(keys, issued.model_copy(update={"token": cheap.token}), order, "resource_mismatch")

    def test_parts_of_two_tokens(self, keys: OfferKeys, offer: Offer, order: Order) -> None:
        first, second = (str(keys.issue(offer, order, bytes([n]) * 16).token).split(".") for n in (1, 2))
        for picks in itertools.product((0, 1), repeat=4):
            if picks[2] == picks[3]:
                continue  # the same kid and expiry: it is one of the two
            mixed = ".".join((first, second)[pick][index] for index, pick in enumerate(picks))
            rejected(keys, offer.model_copy(update={"token": mixed}), order, "resource_mismatch")

    def test_every_character_of_the_token(self, keys: OfferKeys, issued: Offer, order: Order) -> None:
        token = str(issued.token)
        for index, char in enumerate(token):
            for other in {"A", "0", "9", "_", ".", " ", ""} - {char}:
                altered = issued.model_copy(update={"token": token[:index] + other + token[index + 1 :]})
                try:
                    parts = keys.verify(altered, order)
                except PaymentRejected as error:
                    assert error.code in ("resource_mismatch", "offer_unknown")  # noqa: PT017
                else:  # the last character of a MAC carries two bits that nobody reads
                    assert index == len(token) - 1
                    assert parts == keys.verify(issued, order)


class TestMalformed:
    @pytest.mark.parametrize(
        "token",
        [
            None,
            "",
            "k1",
            "....",
            f"k1.1.{'A' * 22}",
            f"k1.1.{'A' * 21}.{'A' * 43}",
            f"k1.1.{'A' * 23}.{'A' * 43}",
            f"k1.1.{'A' * 22}.{'A' * 42}",
            f"k1.1.{'A' * 22}.{'A' * 44}",
            f".1.{'A' * 22}.{'A' * 43}",
            f"{'k' * 33}.1.{'A' * 22}.{'A' * 43}",
            f"k1..{'A' * 22}.{'A' * 43}",
            f"k1.-1.{'A' * 22}.{'A' * 43}",
            f"k1.1e3.{'A' * 22}.{'A' * 43}",
            f"k1.{'9' * 13}.{'A' * 22}.{'A' * 43}",
            f"k1.١.{'A' * 22}.{'A' * 43}",
            f"k1.1.{'A' * 21}+.{'A' * 43}",
            f"k1.1.{'A' * 22}.{'A' * 42}=",
            f"k1.1.{'A' * 22}.{'A' * 43}\n",
            f" k1.1.{'A' * 22}.{'A' * 43}",
            f"ké.1.{'A' * 22}.{'A' * 43}",
            f"k1.1.{'A' * 22}.{'A' * 43}.x",
        ],
    )
    def test_what_is_no_token(self, keys: OfferKeys, offer: Offer, order: Order, token: str | None) -> None:
        rejected(keys, offer.model_copy(update={"token": token}), order, "offer_unknown")
        assert read_token(token or "") is None

    def test_one_that_is_missing_is_said_to_be(self, keys: OfferKeys, offer: Offer, order: Order) -> None:
        with pytest.raises(PaymentRejected, match="send the offer back as it came"):
            keys.verify(offer, order)

    @pytest.mark.parametrize(
        "token",
        ["k1.1.{}.mac", "k1.1.{}.m", "k9..{}.", "..{}", "k1.1.{}", "k1.1.{}.mac.and.more"],
    )
    def test_the_nonce_of_what_is_left_of_one(self, token: str) -> None:
        assert nonce_in(token.format("n" * 22)) == "n" * 22
        for nonce in ("n" * 21, "n" * 23, "", "n" * 21 + "+"):
            with pytest.raises(PaymentRejected) as caught:
                nonce_in(token.format(nonce))
            assert caught.value.code == "offer_unknown"

    @pytest.mark.parametrize("value", [10**30, "\ud800"], ids=repr)
    def test_an_echo_that_canonical_json_cannot_say(
        self, keys: OfferKeys, issued: Offer, order: Order, value: object
    ) -> None:
        rejected(keys, issued.model_copy(update={"extra": {"name": value}}), order, "offer_unknown")

    @FUZZ
    @given(st.text(max_size=120) | st.from_regex(r"\A[A-Za-z0-9_.-]{0,120}\Z"))
    def test_any_text_is_refused_politely(self, token: str) -> None:
        with pytest.raises(PaymentRejected) as caught:
            parse_token(token)
        assert caught.value.code == "offer_unknown"
        assert read_token(token) is None

    @FUZZ
    @given(
        st.from_regex(r"[A-Za-z0-9_-]{1,32}\.[0-9]{1,12}\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", fullmatch=True).filter(
            str.isascii
        )
    )
    def test_a_well_formed_token_is_not_yet_ours(self, token: str) -> None:
        parts = parse_token(token)
        assert (read_token(token), nonce_in(token)) == (parts, parts.nonce)
        assert token.startswith(f"{parts.kid}.")
        # It is stored and shown: the nonce itself is a secret.
        assert re.fullmatch(r"offer:[0-9a-f]{8,}:[0-9a-f]{32}", parts.key)
        assert len(parts.mac) == 32
        offer = Offer(
            rail="r",
            mechanism="m",
            network="n",
            asset="a",
            amount=1,
            currency="USD",
            exponent=2,
            payee="p",
            expires_at=parts.expires_at,
            timeout_seconds=1,
            flow=Flow.UPFRONT,
            token=token,
        )
        keys = OfferKeys({parts.kid: OLD})
        rejected(keys, offer, Order(method="GET", url="https://a.example/", route="GET /"), "resource_mismatch")


class TestRotation:
    def test_offers_of_both_keys_are_honoured(self, offer: Offer, order: Order) -> None:
        before, during = OfferKeys({"k1": OLD}), OfferKeys({"k1": OLD, "k2": NEW}, current="k2")
        assert during.verify(before.issue(offer, order, NONCE), order).kid == "k1"
        assert during.verify(during.issue(offer, order, NONCE), order).kid == "k2"

    def test_a_dropped_key_is_unknown(self, issued: Offer, order: Order) -> None:
        rejected(OfferKeys({"k2": NEW}), issued, order, "offer_unknown")

    def test_a_key_under_another_name_does_not_help(self, issued: Offer, order: Order) -> None:
        keys = OfferKeys({"k1": OLD, "k2": NEW})
        rejected(keys, with_part(issued, 0, "k2"), order, "resource_mismatch")
        rejected(OfferKeys({"k1": NEW}), issued, order, "resource_mismatch")

    def test_the_only_key_is_current(self) -> None:
        assert OfferKeys({"k1": OLD}).current == "k1"
        assert OfferKeys({"k1": OLD, "k2": NEW}, current="k2").current == "k2"


class TestConfiguration:
    @pytest.mark.parametrize(
        ("secrets", "current", "message"),
        [
            ({}, None, "not among the secrets"),
            ({"k1": OLD}, "k2", "'k2' is not among"),
            ({"k1": b"x" * 31}, None, "at least 32 bytes"),
            ({"": OLD}, None, "1 to 32 characters"),
            ({"k.1": OLD}, None, "1 to 32 characters"),
            ({"k" * 33: OLD}, None, "1 to 32 characters"),
            ({"k1\n": OLD}, None, "1 to 32 characters"),
        ],
    )
    def test_what_cannot_be_used(self, secrets: dict[str, bytes], current: str | None, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message) as caught:
            OfferKeys(secrets, current=current)
        assert "xxx" not in str(caught.value)

    def test_secrets_are_not_in_the_repr(self) -> None:
        text = repr(OfferKeys({"k2": NEW, "k1": OLD}, current="k2"))
        assert text == "OfferKeys(current='k2', ids=['k1', 'k2'])"

    def test_later_changes_of_the_mapping_do_not_count(self, offer: Offer, order: Order) -> None:
        secrets = {"k1": OLD}
        keys = OfferKeys(secrets)
        secrets["k1"] = NEW
        assert OfferKeys({"k1": OLD}).verify(keys.issue(offer, order, NONCE), order)


class TestDerived:
    def test_every_purpose_and_key_has_its_own(self) -> None:
        keys = OfferKeys({"k1": OLD, "k2": NEW}, current="k2")
        derived = {*keys.derive_all("mpp"), *keys.derive_all("l402")}
        assert len(derived) == 4
        assert all(len(secret) == 32 for secret in derived)
        assert not derived & {OLD, NEW}

    def test_the_current_one_comes_first(self) -> None:
        keys = OfferKeys({"k1": OLD, "k2": NEW}, current="k2")
        assert keys.derive_all("mpp") == (OfferKeys({"k2": NEW}).derive("mpp"), OfferKeys({"k1": OLD}).derive("mpp"))
        assert keys.derive("mpp") == hmac.digest(NEW, b"rail402:mpp", hashlib.sha256)


def test_parts_are_compared_as_values() -> None:
    assert TokenParts("k", 1, "n", b"m") == TokenParts("k", 1, "n", b"m")
