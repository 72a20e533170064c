import asyncio
import logging

from mooring.reconcile.loop import Loop
from mooring.testing.clock import ManualClock


class Recorder:
    def __init__(self, fails=0, due_s=None):
        self.rounds = 0
        self.fails = fails
        self.due_s = due_s

    async def step(self):
        self.rounds += 1
        if self.rounds <= self.fails:
            raise RuntimeError("no")
        return self.due_s


async def started(recorder, **options):
    clock = ManualClock()
    loop = Loop("test", recorder.step, beat_s=10, clock=clock, **options)
    task = asyncio.create_task(loop.run())
    await clock.settle()
    return loop, clock, task


async def ended(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_a_loop_works_at_once_and_then_at_each_beat():
    recorder = Recorder()
    _, clock, task = await started(recorder)
    assert recorder.rounds == 1
    await clock.advance(9)
    assert recorder.rounds == 1
    await clock.advance(1)
    assert recorder.rounds == 2
    await ended(task)


async def test_a_wake_up_brings_the_next_round_now_and_many_bring_one():
    recorder = Recorder()
    loop, clock, task = await started(recorder)
    for _ in range(5):
        loop.wake()
    await clock.settle()
    assert recorder.rounds == 2
    await ended(task)


async def test_a_step_may_ask_to_be_called_sooner_than_the_beat():
    recorder = Recorder(due_s=2)
    _, clock, task = await started(recorder)
    await clock.advance(2)
    assert recorder.rounds == 2
    await ended(task)


async def test_failures_are_logged_and_make_the_loop_wait_longer_and_longer(caplog):
    recorder = Recorder(fails=4)
    _, clock, task = await started(recorder)
    waits = []
    for _ in range(4):
        waits.append(round(clock.waits_s[0], 3))
        await clock.advance(clock.waits_s[0])
    assert waits == [0.2, 0.4, 0.8, 1.6]
    assert clock.waits_s == [10]
    assert sum("loop test failed" in record.message for record in caplog.records) == 4
    await ended(task)


async def test_wake_ups_do_not_shorten_a_back_off():
    recorder = Recorder(fails=10)
    loop, clock, task = await started(recorder)
    loop.wake()
    await clock.settle()
    assert recorder.rounds == 1
    await ended(task)


async def test_without_its_lease_a_loop_does_nothing_and_asks_again_at_the_next_beat():
    recorder, answers = Recorder(), [False, True]

    async def may():
        return answers.pop(0)

    _, clock, task = await started(recorder, may=may)
    assert recorder.rounds == 0
    await clock.advance(10)
    assert recorder.rounds == 1
    await ended(task)


async def test_a_slow_round_is_named_with_its_seconds(caplog):
    clock = ManualClock()

    async def slow():
        await clock.advance(3)

    loop = Loop("slow", slow, beat_s=10, clock=clock)
    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(loop.run())
        await clock.settle(200)
    assert "loop slow: one round took 3.0 s" in caplog.text
    await ended(task)


async def test_a_stopped_loop_ends_its_round_first_also_out_of_a_back_off():
    for fails in (0, 100):
        recorder = Recorder(fails=fails)
        loop, clock, task = await started(recorder)
        loop.stop()
        await clock.settle()
        assert task.done()
        assert task.exception() is None
        assert recorder.rounds == 1
