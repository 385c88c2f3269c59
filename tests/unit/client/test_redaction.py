from __future__ import annotations

import logging

import pytest

from rail402.client.redaction import redact_logs

SHOWN = "receive_response_headers.complete return_value=(b'HTTP/1.1', 402, b'', [(b'Date', b'today'), %s])"


@pytest.mark.parametrize(
    "field",
    [
        "(b'PAYMENT-REQUIRED', b's3cret')",
        "(b'www-authenticate', b'Payment opaque=\"s3cret\"')",
        '(b"X-Payment-Proof", b"it\'s s3cret")',
        "('Receipt-Record', 's3cret')",
        r"(b'Authorization', b'a \' quote, s3cret')",
    ],
)
def test_values_of_payment_fields_are_left_out(field: str, caplog: pytest.LogCaptureFixture) -> None:
    redact_logs()
    redact_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore.http11").debug(SHOWN, field)
    assert "s3cret" not in caplog.text
    assert "(b'Date', b'today')" in caplog.text
    assert "…" in caplog.text


def test_the_rest_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    redact_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore.http11").debug(SHOWN, "(b'X-Other', b'authorization')")
    logging.getLogger("httpcore.http11").debug("send_request_headers.started request=%r", object)
    assert "(b'X-Other', b'authorization')" in caplog.text
    assert "started request=<class 'object'>" in caplog.text


def test_what_writes_requests_in_other_encodings_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    redact_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("hpack.hpack").debug("Adding %s=%s to the header table", b"payment-signature", b"s3cret")
    logging.getLogger("hpack.table").debug("Evicting %s: %s", b"payment-signature", b"s3cret")
    logging.getLogger("hpack.hpack").warning("something else")
    assert caplog.messages == ["something else"]
