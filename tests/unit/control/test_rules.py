"""Pure parts of the rules: sealing, merging, times."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.control.orders import merge
from mooring.control.sealing import Sealer, SecretKeyBroken
from mooring.control.usage import read_moment
from mooring.core.errors import Invalid


def test_what_is_sealed_opens_with_the_same_key_only() -> None:
    sealer, other = Sealer(b"a" * 32), Sealer(b"b" * 32)
    sealed = sealer.seal(b"sk-upstream")
    assert b"upstream" not in sealed
    assert sealer.seal(b"sk-upstream") != sealed
    assert sealer.unseal(sealed) == b"sk-upstream"
    assert sealer.pepper != other.pepper
    assert sealer.check != other.check
    for broken in (sealed[:-1], sealed[:1] + b"\x00" * 12 + sealed[13:], b"\x02" + sealed[1:], b""):
        with pytest.raises(SecretKeyBroken):
            sealer.unseal(broken)
    with pytest.raises(SecretKeyBroken):
        other.unseal(sealed)


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ],
)
def test_a_merge_patch_follows_rfc_7396(target: Any, patch: Any, merged: Any) -> None:
    assert merge(target, patch) == merged


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("0", 0.0),
        ("1767225600", 1767225600.0),
        ("1767225600.5", 1767225600.5),
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T08:00:00+08:00", 1767225600.0),
        ("2026-01-01T08:00:00 08:00", 1767225600.0),
    ],
)
def test_a_moment_is_iso_or_unix_seconds(text: str, seconds: float) -> None:
    assert read_moment(text) == seconds


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "1x", "-5", "nan", "٣x"])
def test_another_text_is_no_moment(text: str) -> None:
    with pytest.raises(Invalid):
        read_moment(text)
