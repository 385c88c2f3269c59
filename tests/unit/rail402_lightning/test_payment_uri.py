"""Payment URIs of Lightning: `lightning:` and an invoice, and the preimage as the proof."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput
from tests.unit.rail402_lightning.invoices import EXPIRY, NOW, PREIMAGE, SPEC, invoice, offer

URI = SPEC.bindings["payment-uri"]
UNTIL = NOW + EXPIRY


def test_the_uri_is_the_invoice() -> None:
    text = invoice()
    assert URI.encode_offer(offer(text)) == {"uri": f"lightning:{text}"}
    assert URI.decode_offer({"uri": f"lightning:{text}"}, expires_at=1) == offer(text, expires_at=UNTIL)


@pytest.mark.parametrize(
    "form", ["LIGHTNING:{upper}", "lightning://{text}", "lightning:{text}?label=a", "Lightning:{text}"]
)
def test_other_spellings_are_read(form: str) -> None:
    text = invoice()
    assert URI.decode_offer({"uri": form.format(text=text, upper=text.upper())}, expires_at=1) == offer(text)


@pytest.mark.parametrize("uri", ["ethereum:0xabc@8453/transfer", "https://shop.example/pay", "", "lightning"])
def test_uris_of_others(uri: str) -> None:
    assert URI.decode_offer({"uri": uri}, expires_at=1) is None


@pytest.mark.parametrize(
    "uri", ["lightning:", "lightning:lnbcrt1", "lightning:user@shop.example", "lightning:LNURL1DP68"]
)
def test_what_holds_no_invoice(uri: str) -> None:
    with pytest.raises(MalformedInput):
        URI.decode_offer({"uri": uri}, expires_at=1)


def test_an_open_invoice_is_no_offer() -> None:
    with pytest.raises(MalformedInput, match="never paid"):
        URI.decode_offer({"uri": f"lightning:{invoice(amount_msat=None)}"}, expires_at=1)


def test_the_preimage_is_the_proof() -> None:
    assert URI.encode_proof({"preimage": PREIMAGE}) == {"proof": {"preimage": PREIMAGE}}
    assert URI.decode_proof({"proof": {"preimage": PREIMAGE.upper()}}) == {"preimage": PREIMAGE}
    assert URI.decode_proof({"proof": {"transaction": "0x00"}}) is None
    for wrong in (1, "00", None, "z" * 64):
        with pytest.raises(MalformedInput):
            URI.decode_proof({"proof": {"preimage": wrong}})


@given(st.text() | st.text().map(lambda rest: f"lightning:{rest}"))
def test_hostile_uris(uri: str) -> None:
    with contextlib.suppress(MalformedInput):
        URI.decode_offer({"uri": uri}, expires_at=1)
