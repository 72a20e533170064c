from mooring.core.replicas import Probe
from mooring.reconcile.plan import Health
from mooring.reconcile.probing import Prober, Watch, external_pace, replica_pace
from mooring.testing.clock import ManualClock


class Engine:
    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    async def ask(self):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_starting_engine_is_asked_often_and_a_ready_one_every_two_seconds():
    clock, woken = ManualClock(), []
    prober, engine = Prober(lambda: woken.append(1), clock), Engine(Probe("starting"))
    prober.watch_only({"r1": Watch("a", engine.ask, replica_pace)})
    await clock.settle()
    assert clock.waits_s == [0.05]
    engine.answer = Probe("ready")
    await clock.advance(0.05)
    assert clock.waits_s == [2.0]
    assert prober.health["r1"] == Health(Probe("ready"))
    assert woken
    await prober.close()


async def test_misses_are_counted_from_the_first_one_and_forgotten_at_an_answer():
    clock = ManualClock()
    prober, engine = Prober(lambda: None, clock), Engine(ConnectionRefusedError("refused"))
    prober.watch_only({"r1": Watch("a", engine.ask, replica_pace)})
    await clock.settle()
    since = clock.now().timestamp()
    await clock.advance(0.05)
    await clock.advance(0.05)
    assert prober.health["r1"] == Health(Probe("unreachable", "refused"), 3, since)
    engine.answer = Probe("ready")
    await clock.advance(1)
    assert prober.health["r1"].misses == 0
    await prober.close()


async def test_the_loop_is_woken_only_when_a_verdict_changes():
    clock, woken = ManualClock(), []
    prober, engine = Prober(lambda: woken.append(1), clock), Engine(Probe("ready"))
    prober.watch_only({"r1": Watch("a", engine.ask, replica_pace)})
    await clock.settle()
    for _ in range(5):
        await clock.advance(2)
    assert engine.asked == 6
    assert len(woken) == 1
    await prober.close()


async def test_another_address_under_the_same_name_starts_with_a_clean_slate():
    clock = ManualClock()
    prober, engine = Prober(lambda: None, clock), Engine(Probe("ready"))
    prober.watch_only({"r1": Watch("a", engine.ask, replica_pace)})
    await clock.settle()
    prober.watch_only({"r1": Watch("b", engine.ask, replica_pace)})
    assert prober.health == {}
    await prober.close()


async def test_what_is_no_longer_watched_is_no_longer_asked():
    clock = ManualClock()
    prober, engine = Prober(lambda: None, clock), Engine(Probe("ready"))
    prober.watch_only({"r1": Watch("a", engine.ask, replica_pace)})
    await clock.settle()
    prober.watch_only({})
    await clock.advance(100)
    assert (engine.asked, prober.health) == (1, {})


def test_a_service_elsewhere_is_asked_twice_a_minute_and_sooner_after_a_miss():
    assert external_pace(Health(Probe("ready")), 0) == 30
    assert external_pace(Health(Probe("unreachable"), 1, 0.0), 0) == 5
    assert external_pace(Health(Probe("unreachable"), 9, 0.0), 0) == 30
