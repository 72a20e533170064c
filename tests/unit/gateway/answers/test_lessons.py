"""What a worker learns of services elsewhere: counted per address, told until the table says it too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from mooring.core.snapshot import Lesson, Row, ServiceEntry
from mooring.gateway.answers.lessons import Lessons
from mooring.gateway.snapshot import Table
from mooring.testing.gateway import PEPPER, service_row


class Scene:
    """A table with one service, and what is learnt about it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.table = Table(loop, "epoch", 1, PEPPER)
        self.lessons = Lessons()
        self.change("http://a/v1")

    def change(self, address: str, **fields: Any) -> None:
        self.table.apply([service_row(address, **fields)])

    @property
    def entry(self) -> ServiceEntry:
        return self.table.services["svc-1"].entry

    def told(self) -> list[Lesson]:
        return list(self.lessons.untold(self.table.services))


@pytest.fixture
def scene() -> Iterator[Scene]:
    loop = asyncio.new_event_loop()
    yield Scene(loop)
    loop.close()


def test_what_is_learnt_is_told_until_the_table_says_it(scene: Scene) -> None:
    assert scene.lessons.of(scene.entry) == frozenset()
    scene.lessons.learn(scene.entry, ["no_done"])
    assert scene.lessons.fresh
    assert scene.lessons.of(scene.entry) == {"no_done"}
    assert scene.told() == scene.told() == [Lesson("svc-1", ("no_done",))]
    assert not scene.lessons.fresh
    scene.change("http://a/v1", repairs=("no_done",))
    assert scene.told() == []
    assert scene.lessons.of(scene.entry) == {"no_done"}


def test_the_same_again_is_no_news(scene: Scene) -> None:
    scene.change("http://a/v1", repairs=("no_done",))
    scene.lessons.learn(scene.entry, ["no_done"])
    assert not scene.lessons.fresh
    scene.lessons.learn(scene.entry, ["bare_json"])
    assert scene.lessons.of(scene.entry) == {"no_done", "bare_json"}
    assert scene.told() == [Lesson("svc-1", ("bare_json", "no_done"))]


def test_another_address_is_learnt_anew(scene: Scene) -> None:
    scene.lessons.learn(scene.entry, ["no_done"])
    scene.change("http://b/v1")
    assert scene.lessons.of(scene.entry) == frozenset()
    assert scene.told() == []
    scene.change("http://a/v1")
    assert scene.lessons.of(scene.entry) == frozenset()  # forgotten, not remembered for later


def test_a_service_that_is_gone_is_forgotten(scene: Scene) -> None:
    scene.lessons.learn(scene.entry, ["no_done"])
    scene.table.apply([Row("service", "svc-1", None)])
    assert scene.told() == []
