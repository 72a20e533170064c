from datetime import UTC, datetime
from pathlib import Path

import pytest

from mooring.cli.documents import name_places, read_placed
from mooring.cli.kinds import KINDS, find_kind
from mooring.cli.output import age
from mooring.cli.problems import CommandError, UsageError
from mooring.cli.usage import parse_since


def read_documents(sources: list[str]) -> list[dict]:
    return [placed.document for placed in read_placed(sources)]


NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", "2026-01-31T11:30:00+00:00"),
        ("24h", "2026-01-30T12:00:00+00:00"),
        ("7d", "2026-01-24T12:00:00+00:00"),
        ("2026-01-01T08:00", "2026-01-01T08:00:00+00:00"),
        ("2026-01-01T08:00:00+08:00", "2026-01-01T08:00:00+08:00"),
    ],
)
def test_since_takes_a_span_or_a_moment(text: str, expected: str) -> None:
    assert parse_since(text, NOW).isoformat() == expected


@pytest.mark.parametrize("text", ["", "h", "yesterday", "-3d"])
def test_since_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        parse_since(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (4 * 86400, "4 d")]
)
def test_an_age_is_told_in_its_largest_unit(seconds: int, expected: str) -> None:
    assert age(NOW.isoformat(), NOW.timestamp() + seconds) == expected


def test_of_several_files_the_faulty_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\n")
    (tmp_path / "b.yaml").write_text("kind: B\n---\nkind: C\n")
    placed = read_placed([str(tmp_path)])
    error = CommandError("Document 3, spec: wrong. Also wrong: document 1 kind. Nothing was applied.")
    error.faults = [{"index": 2, "field": "spec", "message": "wrong"}, {"index": 0, "field": "kind", "message": "no"}]
    named = name_places(error, placed)
    assert named.message.startswith(f"{tmp_path}/b.yaml, document 2, spec: wrong. Also wrong: {tmp_path}/a.yaml kind.")
    assert [fault["place"] for fault in named.faults] == [f"{tmp_path}/b.yaml, document 2", f"{tmp_path}/a.yaml"]


def test_every_kind_is_known_by_its_name_its_collection_and_its_short_words() -> None:
    for kind in KINDS:
        assert all(find_kind(word) is kind for word in (kind.name, kind.collection, *kind.words))
    with pytest.raises(UsageError):
        find_kind("unicorn")


def test_documents_come_from_files_and_folders_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("kind: B\n---\nkind: C\n---\n")
    (tmp_path / "a.json").write_text('{"items": [{"kind": "A"}]}')
    (tmp_path / "notes.txt").write_text("not a document")
    assert [document["kind"] for document in read_documents([str(tmp_path)])] == ["A", "B", "C"]


def test_a_date_in_a_document_stays_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\nspec: {expiresAt: 2026-01-31T08:00:00Z}\n")
    assert read_documents([str(tmp_path / "a.yaml")])[0]["spec"]["expiresAt"] == "2026-01-31T08:00:00Z"


@pytest.mark.parametrize("text", ["kind: [", "- 1\n- 2\n", "metadata: {}\n"])
def test_what_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(CommandError):
        read_documents([str(tmp_path / "a.yaml")])
