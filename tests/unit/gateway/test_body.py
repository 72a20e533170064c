"""Bodies are edited as bytes: whatever is not edited stays as it was."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mooring.gateway.http1.body import add_member, find_members, find_value, rename_member, replace_value, splice

NAMES = st.sampled_from(["model", "stream", "x", "mo\u0064el", "messages", "n"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("model"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=6)


def edited(body: bytes, *edits):
    return b"".join(splice(body, list(edits)))


def spelled(value, ascii_only: bool, indent: int | None) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()


@given(OBJECTS, st.booleans(), st.sampled_from([None, 0, 2]))
def test_replacing_a_member_changes_that_member_only(whole, ascii_only, indent):
    whole["model"] = "old"
    body = spelled(whole, ascii_only, indent)
    new = edited(body, *replace_value(body, "model", b'"old"', b'"new"'))
    assert json.loads(new) == {**whole, "model": "new"}
    assert new.replace(b'"new"', b'"old"', 1) == body or b'"new"' in body


@given(OBJECTS, st.sampled_from([None, 0, 2]))
def test_a_member_is_added_at_the_end(whole, indent):
    body = spelled(whole, True, indent)
    assert json.loads(edited(body, add_member(body, b'"added":{"a":1}'))) == {**whole, "added": {"a": 1}}


@given(OBJECTS)
def test_members_are_found_at_the_top_level_only(whole):
    body = spelled(whole, True, None)
    spans = find_members(body, "model")
    assert [json.loads(body[span.start : span.end]) for span in spans] == ([whole["model"]] if "model" in whole else [])


def test_a_key_written_with_escapes_is_found_and_its_nested_namesake_is_not_touched():
    body = b'{"mo\\u0064el":"a","inner":{"model":"b"}}'
    assert find_value(body, b"model", b'"a"') is None
    assert edited(body, *replace_value(body, "model", b'"a"', b'"z"')) == b'{"mo\\u0064el":"z","inner":{"model":"b"}}'


def test_every_duplicate_is_replaced_so_that_no_reader_sees_the_old_name():
    body = b'{"model":"a", "model" : "b"}'
    assert edited(body, *replace_value(body, "model", b'"b"', b'"z"')) == b'{"model":"z", "model" : "z"}'


def test_a_string_that_says_model_is_no_key():
    body = b'{"messages":[{"role":"user","content":"model"}],"model":"a"}'
    new = edited(body, *replace_value(body, "model", b'"a"', b'"z"'))
    assert new == b'{"messages":[{"role":"user","content":"model"}],"model":"z"}'


def test_renaming_keeps_the_value():
    body = b'{"repetition_penalty" : 1.10, "model":"a"}'
    assert edited(body, *rename_member(body, "repetition_penalty", "repeat_penalty")) == (
        b'{"repeat_penalty" : 1.10, "model":"a"}'
    )


def test_numbers_and_spaces_stay_as_they_were_written():
    body = b'{ "temperature": 1.0e-1 ,"model" : "a" , "seed":12345678901234567890 }'
    new = edited(body, *replace_value(body, "model", b'"a"', b'"up"'))
    assert new == b'{ "temperature": 1.0e-1 ,"model" : "up" , "seed":12345678901234567890 }'
