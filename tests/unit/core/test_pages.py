"""Cursors: opaque, and never trusted."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import Invalid
from mooring.core.pages import decode_cursor, encode_cursor

PRINTABLE = st.text(st.characters(categories=["L", "N"], include_characters="-._")).filter(
    lambda text: "\\" not in text
)


@given(PRINTABLE, PRINTABLE)
def test_a_cursor_gives_back_what_it_holds(name: str, object_id: str) -> None:
    assert decode_cursor(encode_cursor(name, object_id), str, str) == (name, object_id)


@given(st.text(max_size=60))
def test_any_other_text_is_refused_and_never_fails(text: str) -> None:
    try:
        decode_cursor(text, float, str, str)
    except Invalid as refusal:
        assert refusal.param == "cursor"


@pytest.mark.parametrize(
    "text", ['["a"]', '["a", 1]', '"ab"', "{}", "[" * 5000, '["a\\u0000", "b"]', '["\\ud800", "b"]']
)
def test_a_cursor_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        decode_cursor(base64.urlsafe_b64encode(text.encode()).decode(), str, str)
