"""The bytes of a segment: whatever is torn, a reader sees whole records and only those that were written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mooring.core.usage import encode_record
from mooring.gateway.usage.segments import FRAME_BYTES, Parsed, pack_record, parse_records
from mooring.testing.journals import usage_record

PAYLOADS = [encode_record(usage_record(f"req-{number}", project="p" * number)) for number in range(5)]
WHOLE = b"".join(map(pack_record, PAYLOADS))
ENDS = [sum(len(pack_record(payload)) for payload in PAYLOADS[:count]) for count in range(6)]


def test_records_stand_on_eight_byte_boundaries() -> None:
    assert all(end % 8 == 0 for end in ENDS)
    assert parse_records(WHOLE, len(WHOLE)) == Parsed(PAYLOADS, len(WHOLE), 0, True)


def test_a_segment_cut_at_any_byte_gives_the_records_before_the_cut() -> None:
    for cut in range(len(WHOLE) + 1):
        parsed = parse_records(WHOLE[:cut], cut)
        # a record is whole when its payload is; the padding behind it may be missing
        assert parsed.payloads == PAYLOADS[: len(parsed.payloads)]
        assert parsed.ended
        assert len(parsed.payloads) >= max(count for count in range(6) if ENDS[count] <= cut)


def test_zeros_from_any_byte_on_never_give_a_wrong_record() -> None:
    for cut in range(len(WHOLE)):
        parsed = parse_records(WHOLE[:cut] + bytes(len(WHOLE) - cut + 64), len(WHOLE) + 64)
        assert parsed.payloads == PAYLOADS[: len(parsed.payloads)]
        assert parsed.damaged <= 1
        assert parsed.ended


@given(at=st.integers(0, len(WHOLE) - 1), flip=st.integers(1, 255))
def test_one_damaged_byte_costs_at_most_the_records_it_hides(at: int, flip: int) -> None:
    parsed = parse_records(WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :], len(WHOLE))
    assert set(parsed.payloads) <= set(PAYLOADS)
    hit = max(count for count in range(5) if ENDS[count] <= at)
    assert parsed.payloads[:hit] == PAYLOADS[:hit]
    if at - ENDS[hit] >= FRAME_BYTES:  # in a payload: the others are all there
        assert [payload for payload in PAYLOADS if payload not in parsed.payloads] in ([], [PAYLOADS[hit]])


@given(noise=st.binary(max_size=200), keep=st.integers(0, 5))
def test_noise_behind_the_records_is_never_read(noise: bytes, keep: int) -> None:
    data = WHOLE[: ENDS[keep]] + noise
    parsed = parse_records(data, len(data))
    assert parsed.payloads == PAYLOADS[:keep]
    assert parsed.ended


@given(st.lists(st.integers(1, 400), max_size=12))
def test_chunks_of_any_size_give_the_same_records_as_the_whole(sizes: list[int]) -> None:
    found: list[bytes] = []
    at = 0
    for size in [*sizes, len(WHOLE)]:
        parsed = parse_records(WHOLE[at : at + size], len(WHOLE) - at)
        found += parsed.payloads
        at += parsed.consumed
    assert found == PAYLOADS
    assert at == len(WHOLE)
