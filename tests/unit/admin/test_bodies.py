"""Reading JSON strictly."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.admin.apply import read_documents
from mooring.admin.bodies import decode
from mooring.admin.collections import read_tag
from mooring.core.errors import Invalid, InvalidDocument, InvalidJson


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a':1}", b"[1,]", b"NaN", b'"\\ud800"', b'{"a":["\\u0000"]}', b"\xff", b"[" * 10**6]
)
def test_what_is_not_clean_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        decode(body)


def test_a_backslash_before_zeros_is_no_nul() -> None:
    assert decode(b'{"a":"\\\\u0000"}') == {"a": "\\u0000"}


@pytest.mark.parametrize(
    ("body", "documents"),
    [
        ({"items": [1]}, [1]),
        ([{"kind": "a"}], [{"kind": "a"}]),
        ({"kind": "a", "items": []}, [{"kind": "a", "items": []}]),
        ([], []),
    ],
)
def test_documents_come_in_three_forms(body: Any, documents: list[Any]) -> None:
    assert read_documents(body) == documents


@pytest.mark.parametrize("body", [None, 3, "x", {}, {"items": {}}])
def test_anything_else_is_refused(body: Any) -> None:
    with pytest.raises(InvalidDocument):
        read_documents(body)


def test_a_tag_is_key_and_value() -> None:
    assert read_tag("") is None
    assert read_tag("a:b:c") == ("a", "b:c")
    assert read_tag("a:") == ("a", "")
    for bad in ("a", ":b"):
        with pytest.raises(Invalid):
            read_tag(bad)
