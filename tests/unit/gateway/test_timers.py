"""The coarse timer: nothing is early, nothing is late by more than its coarseness, nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.gateway.http1.timers import TimerWheel

HORIZON_S = 4.0
BUCKET_S = 1.0  # deadlines are sorted by whole seconds


class Item:
    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.closed = False
        self.fired: list[float] = []
        self.early = False

    def on_deadline(self, now: float) -> None:
        self.fired.append(now)
        self.early = self.early or now < self.deadline
        self.deadline = math.inf


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def wheel(loop):
    return TimerWheel(loop)


def turn_until(wheel: TimerWheel, end: float, tick_s: float = 0.5) -> None:
    while wheel.now < end:
        wheel.turn(wheel.now + tick_s)


@pytest.mark.parametrize("wait", [0.0, 0.3, 1.0, 3.9, 4.0, 4.1, 60.0, 590.0])
def test_a_deadline_is_noticed_within_a_bucket_and_a_tick_and_never_early(wheel, wait):
    start = wheel.now
    item = Item(start + wait)
    wheel.watch(item)
    turn_until(wheel, start + wait + 10)
    assert len(item.fired) == 1
    assert start + wait <= item.fired[0] <= start + wait + BUCKET_S + 0.5


def test_a_deadline_that_moves_away_does_not_fire(wheel):
    start = wheel.now
    item = Item(start + 2)
    wheel.watch(item)
    for _ in range(100):
        wheel.turn(wheel.now + 0.5)
        item.deadline = wheel.now + 2
    assert item.fired == []
    turn_until(wheel, wheel.now + 5)
    assert len(item.fired) == 1


def test_a_deadline_that_moves_nearer_is_noticed_within_the_horizon(wheel):
    item = Item()
    wheel.watch(item)
    turn_until(wheel, wheel.now + 100)
    item.deadline = moved = wheel.now + 0.1
    turn_until(wheel, wheel.now + 10)
    assert moved <= item.fired[0] <= moved + HORIZON_S + BUCKET_S + 0.5


def test_a_closed_item_is_forgotten(wheel):
    item = Item(wheel.now + 1)
    wheel.watch(item)
    item.closed = True
    turn_until(wheel, wheel.now + 20)
    assert item.fired == []
    assert not wheel._buckets


def test_an_item_closed_by_its_own_deadline_is_forgotten(wheel):
    class Once(Item):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            self.closed = True

    item = Once(wheel.now + 1)
    wheel.watch(item)
    turn_until(wheel, wheel.now + 20)
    assert len(item.fired) == 1
    assert not wheel._buckets


def test_an_item_that_does_not_move_its_deadline_is_called_again_and_nothing_spins(wheel):
    class Stubborn(Item):
        def on_deadline(self, now: float) -> None:
            self.fired.append(now)

    item = Stubborn(wheel.now)
    wheel.watch(item)
    turn_until(wheel, wheel.now + 10)
    assert 5 <= len(item.fired) <= 11


def test_items_watched_while_the_wheel_turns_are_not_lost(wheel):
    late = Item()

    class Starter(Item):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            late.deadline = now
            wheel.watch(late)

    wheel.watch(Starter(wheel.now + 1))
    turn_until(wheel, wheel.now + 5)
    assert len(late.fired) == 1


def test_after_a_long_standstill_everything_due_fires_in_one_turn(wheel):
    items = [Item(wheel.now + number) for number in range(0, 600, 7)]
    for item in items:
        wheel.watch(item)
    wheel.turn(wheel.now + 100_000)
    turn_until(wheel, wheel.now + 2)
    assert all(len(item.fired) == 1 for item in items)


@given(
    waits=st.lists(st.floats(0, 30), min_size=1, max_size=20),
    ticks=st.lists(st.floats(0.01, 7), min_size=1, max_size=40),
    moves=st.lists(st.tuples(st.integers(0, 19), st.floats(0, 30)), max_size=10),
)
def test_whatever_moves_however_the_clock_jumps_each_item_fires_once_and_not_early(waits, ticks, moves):
    loop = asyncio.new_event_loop()
    wheel = TimerWheel(loop)
    loop.close()
    items = [Item(wheel.now + wait) for wait in waits]
    for item in items:
        wheel.watch(item)
    pending = list(moves)
    for tick in ticks:
        wheel.turn(wheel.now + tick)
        if pending:
            index, wait = pending.pop()
            moved = items[index % len(items)]
            if not moved.fired:
                moved.deadline = wheel.now + wait
    turn_until(wheel, wheel.now + 40)
    assert [len(item.fired) for item in items] == [1] * len(items)
    assert not any(item.early for item in items)


def test_a_bug_behind_one_deadline_stops_neither_the_others_nor_the_wheel(loop, caplog):
    class Broken(Item):
        def on_deadline(self, now: float) -> None:
            self.closed = True
            raise AssertionError("a bug")

    wheel = TimerWheel(loop, tick_s=0.001)
    loop.set_exception_handler(lambda *_: None)
    first, second, later = Broken(wheel.now), Item(wheel.now), Item(wheel.now + 1.2)
    for item in (first, second, later):
        wheel.watch(item)
    wheel.start()

    async def both() -> None:
        async with asyncio.timeout(4):
            while not (second.fired and later.fired):
                await asyncio.sleep(0.01)

    try:
        with caplog.at_level(logging.CRITICAL):
            loop.run_until_complete(both())
    finally:
        wheel.stop()


def test_the_wheels_clock_is_at_most_a_tick_old(loop):
    wheel = TimerWheel(loop, tick_s=0.01)
    wheel.start()
    old = wheel.now

    async def moved() -> None:
        async with asyncio.timeout(2):
            while wheel.now == old:
                await asyncio.sleep(0.001)

    loop.run_until_complete(moved())
    wheel.stop()
    assert loop.time() - wheel.now < 1
