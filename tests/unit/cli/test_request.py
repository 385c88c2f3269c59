"""The one request of a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from rail402.cli.request import build_request

URL = "https://shop.test/a"


@pytest.mark.parametrize("data", ['{"a":1}', "[1, 2]", ' {"a": "ü"}\n', "{}"])
def test_json_is_said_to_be_json(data: str, tmp_path: Path) -> None:
    assert build_request(URL, None, [], data).headers["content-type"] == "application/json"
    (tmp_path / "body").write_text(data)
    request = build_request(URL, "PUT", [], f"@{tmp_path}/body")
    assert (request.headers["content-type"], request.content) == ("application/json", data.encode())


@pytest.mark.parametrize("data", ["a=1", "some words", "1", '"text"', "null", '{"a":1', "", "[" * 5000 + "]" * 5000])
def test_what_is_no_json_object_or_array_is_not(data: str) -> None:
    assert "content-type" not in build_request(URL, None, [], data).headers


def test_bytes_that_are_no_text_are_not_json(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b'{"a":"\xff"}')
    assert "content-type" not in build_request(URL, None, [], f"@{tmp_path}/body").headers


def test_a_content_type_that_is_given_stays() -> None:
    request = build_request(URL, "POST", ["content-TYPE: text/plain"], '{"a":1}')
    assert request.headers.get_list("content-type") == ["text/plain"]


def test_a_request_without_a_body_has_no_content_type() -> None:
    assert "content-type" not in build_request(URL, None, [], None).headers
