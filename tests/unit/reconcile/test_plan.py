from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.core.replicas import ObservedReplica, Probe, Replica
from mooring.reconcile import plan as planning
from mooring.reconcile.plan import Failure, Health, Hold, Remove, Seen, Start, Stop, Times, Wanted, plan_service

NOW = 1_000_000.0
TIMES = Times(drain_s=30, start_timeout_s=600)
READY = Health(Probe("ready", context_length=2048, slots=4))


def wanted(replicas=1, recipe="a", version=1, state="pending", **more):
    return Wanted("svc-1", version, recipe, replicas, state, **more)


def row(name="r1", state="ready", **values):
    defaults = {"recipe": "a", "spec_version": 1, "started_at": NOW - 100, "address": f"unix:/{name}"}
    if state in ("ready", "draining"):
        defaults["ready_at"] = NOW - 90
    return Replica(**({"id": name, "service_id": "svc-1", "state": state} | defaults | values))


def running(name="r1", alive=True, status=None):
    return ObservedReplica(
        name, "svc-1", 1, alive, 42 if alive else None, NOW - 100, status, f"unix:/{name}", "k", "m", 4
    )


def seen(*observed, health=None, failures=None, busy=(), now=NOW):
    return Seen(now, {one.replica_id: one for one in observed}, health or {}, failures or {}, frozenset(busy))


def made(want, rows, sight):
    names = (f"new{number}" for number in count(1))
    return plan_service(want, rows, sight, TIMES, lambda: next(names))


def test_a_new_service_starts_all_its_replicas_at_once():
    plan = made(wanted(3), [], seen())
    assert [row.state for row in plan.replicas] == ["starting"] * 3
    assert plan.actions == (Start("new1"), Start("new2"), Start("new3"))
    assert plan.state == "starting"


def test_a_running_replica_is_adopted_and_not_started_again():
    plan = made(wanted(), [row()], seen(running()))
    assert plan.actions == ()
    assert plan.replicas[0].state == "ready"
    assert plan.replicas[0].pid == 42
    assert plan.state == "healthy"


def test_a_seat_whose_engine_already_runs_is_adopted_even_if_the_row_says_pending():
    plan = made(wanted(), [row(state="pending", started_at=None)], seen(running(), health={"r1": READY}))
    assert plan.actions == ()
    assert plan.replicas[0].state == "ready"


def test_a_starting_replica_becomes_ready_by_its_probe_and_brings_what_the_engine_says():
    plan = made(wanted(), [row(state="starting")], seen(running(), health={"r1": READY}))
    (replica,) = plan.replicas
    assert (replica.state, replica.slots, replica.context_length, replica.ready_at) == ("ready", 4, 2048, NOW)
    assert (plan.state, plan.reason) == ("healthy", "")


def test_two_missed_probes_are_borne_and_the_third_makes_the_service_unhealthy():
    silent = Probe("unreachable", "no answer within 5 s")
    borne = made(wanted(state="healthy"), [row()], seen(running(), health={"r1": Health(silent, 2, NOW - 4)}))
    assert borne.state == "healthy"
    third = made(wanted(state="healthy"), [row()], seen(running(), health={"r1": Health(silent, 3, NOW - 6)}))
    assert third.state == "unhealthy"
    assert "no answer within 5 s" in third.reason
    assert third.actions == ()


def test_an_engine_that_answers_again_is_ready_again_without_a_restart():
    before = row(state="starting", ready_at=NOW - 50)
    plan = made(wanted(state="unhealthy"), [before], seen(running(), health={"r1": READY}))
    assert (plan.state, plan.actions) == ("healthy", ())


def test_an_engine_silent_for_two_minutes_is_ended():
    before = row(state="starting")
    before = replace(before, ready_at=NOW - 500)
    health = Health(Probe("unreachable"), 60, NOW - planning.HUNG_S - 1)
    assert made(wanted(), [before], seen(running(), health={"r1": health})).actions == (Stop("r1"),)


def test_a_stranger_on_the_socket_is_ended_and_the_seat_started_anew():
    stranger = Health(Probe("stranger", "another key"), 1, NOW)
    plan = made(wanted(), [row()], seen(running(), health={"r1": stranger}))
    assert plan.actions == (Stop("r1"),)
    assert plan.replicas[0].state == "starting"
    after = made(wanted(), plan.replicas, seen(running(alive=False, status=-9)))
    assert after.replicas[0].state == "pending"


def test_an_engine_that_never_gets_ready_is_ended_after_the_start_timeout():
    before = row(state="starting", started_at=NOW - 601)
    loading = Health(Probe("starting", "loading"), 500, NOW - 600)
    assert made(wanted(), [before], seen(running(), health={"r1": loading})).actions == (Stop("r1"),)


def test_a_crash_waits_one_second_then_two_then_four():
    waits = []
    before = [row(state="ready", ready_at=NOW - 5)]
    for _ in range(4):
        plan = made(wanted(state="healthy"), before, seen(running(alive=False, status=-9)))
        waits.append(plan.replicas[0].next_start_at - NOW)
        before = [replace(plan.replicas[0], state="ready", ready_at=NOW - 5)]
    assert waits == [1, 2, 4, 8]


def test_back_off_never_exceeds_a_minute():
    assert [planning.backoff_s(exits) for exits in (1, 6, 7, 50, 10_000)] == [1, 32, 60, 60, 60]


def test_the_fifth_exit_in_a_row_is_a_crash_loop_and_the_reason_holds_the_engines_words():
    failures = {"r1": Failure("out of memory")}
    dead = running(alive=False, status=-9)
    plan = made(wanted(), [row(restarts=4, ready_at=NOW - 5)], seen(dead, failures=failures))
    assert plan.state == "failed"
    assert plan.reason == "Failed 5 times in a row. The engine was killed by signal 9: out of memory."
    assert plan.actions == ()


def test_an_engine_that_was_ready_for_a_minute_starts_counting_anew():
    plan = made(wanted(), [row(restarts=4, ready_at=NOW - 61)], seen(running(alive=False, status=-9)))
    assert (plan.replicas[0].state, plan.replicas[0].restarts) == ("pending", 1)


def test_a_model_the_engine_refuses_three_times_fails():
    dead = running(alive=False, status=1)
    before = row(state="starting", restarts=1)
    twice = made(wanted(), [before], seen(dead, failures={"r1": Failure("bad magic")}))
    assert twice.replicas[0].state == "pending"
    thrice = made(wanted(), [replace(before, restarts=2)], seen(dead, failures={"r1": Failure("bad magic")}))
    assert thrice.state == "failed"
    assert "bad magic" in thrice.reason


def test_a_refusal_seen_before_its_status_is_written_down_counts_like_the_others():
    dead = running(alive=False, status=None)
    plan = made(wanted(), [row(state="starting", restarts=2)], seen(dead, failures={"r1": Failure("bad magic")}))
    assert (plan.state, plan.reason) == ("failed", "Failed 3 times in a row. The engine ended: bad magic.")


def test_a_start_that_can_never_work_fails_at_once():
    final = {"r1": Failure("args: unknown flag --x.", final=True)}
    plan = made(wanted(), [row(state="starting")], seen(failures=final))
    assert plan.state == "failed"
    assert plan.reason == "Failed. The engine could not be started: args: unknown flag --x."


def test_a_failed_service_stays_failed_until_its_spec_changes():
    failed = row(state="failed", reason="Failed.")
    assert made(wanted(state="failed"), [failed], seen()).actions == ()
    again = made(wanted(version=2, state="pending"), [failed], seen())
    assert again.actions == (Start("new1"),)
    assert [replica.id for replica in again.replicas] == ["new1"]


def test_a_change_that_does_not_touch_the_recipe_restarts_nothing():
    plan = made(wanted(version=7), [row()], seen(running()))
    assert plan.actions == ()
    assert plan.replicas[0].spec_version == 7


def test_a_new_recipe_starts_the_new_one_first_and_drains_the_old_one_when_it_is_ready():
    update = wanted(recipe="b", version=2, state="healthy")
    first = made(update, [row()], seen(running(), health={"r1": READY}))
    assert first.actions == (Start("new1"),)
    assert first.state == "updating"
    second = made(update, first.replicas, seen(running(), running("new1"), health={"r1": READY, "new1": READY}))
    states = {replica.id: replica.state for replica in second.replicas}
    assert states == {"new1": "ready", "r1": "draining"} or states == {"new1": "ready"}


def test_a_new_recipe_that_does_not_start_leaves_the_old_one_serving():
    update = wanted(recipe="b", version=2, state="updating")
    broken = row("new1", state="failed", recipe="b", spec_version=2, reason="Failed 3 times in a row. Bad magic.")
    plan = made(update, [row(), broken], seen(running(), health={"r1": READY}))
    assert plan.state == "updating"
    assert "Bad magic" in plan.reason
    assert {replica.state for replica in plan.replicas} == {"ready", "failed"}


def test_a_draining_replica_is_stopped_when_it_is_idle_and_gateways_had_time_to_hear_of_it():
    fresh = row(state="draining", next_start_at=NOW + TIMES.drain_s)
    idle = {"r1": replace(READY, in_flight=0)}
    assert made(wanted(0), [fresh], seen(running(), health=idle)).actions == ()
    older = replace(fresh, next_start_at=NOW + TIMES.drain_s - planning.NOTICE_S)
    assert made(wanted(0), [older], seen(running(), health=idle)).actions == (Stop("r1"),)


def test_a_draining_replica_with_requests_is_stopped_only_at_the_drain_limit():
    busy = {"r1": replace(READY, in_flight=2)}
    draining = row(state="draining", next_start_at=NOW + 1)
    assert made(wanted(0), [draining], seen(running(), health=busy)).actions == ()
    assert made(wanted(0), [draining], seen(running(), health=busy, now=NOW + 1)).actions == (Stop("r1"),)


def test_what_is_stopped_goes_through_stopping_to_stopped():
    stopping = made(wanted(0, state="healthy"), [row()], seen(running(), health={"r1": READY}))
    assert (stopping.state, stopping.replicas[0].state) == ("stopping", "draining")
    gone = made(wanted(0, state="stopping"), stopping.replicas, seen(running(alive=False, status=0)))
    assert (gone.state, gone.replicas, gone.actions) == ("stopped", (), (Remove("r1"),))


def test_scaling_down_gives_up_the_replica_that_does_not_run_first():
    rows = [row("r1"), row("r2", state="pending", next_start_at=NOW + 60), row("r3")]
    plan = made(wanted(2), rows, seen(running("r1"), running("r3"), health={"r1": READY, "r3": READY}))
    assert {replica.id for replica in plan.replicas} == {"r1", "r3"}
    assert plan.state == "healthy"


def test_a_replica_on_which_an_action_is_under_way_is_left_alone():
    before = row(state="starting", started_at=NOW)
    plan = made(wanted(), [before], seen(busy=["r1"]))
    assert (plan.replicas, plan.actions) == ((before,), ())


def test_what_fits_nowhere_is_pending_with_the_reason_and_starts_nothing():
    plan = made(wanted(hold=Hold("A replica needs 2 GPUs; there are 0.")), [], seen())
    assert (plan.state, plan.reason, plan.actions) == ("pending", "A replica needs 2 GPUs; there are 0.", ())


def test_one_ready_replica_of_two_is_healthy_and_says_what_is_missing():
    rows = [row("r1"), row("r2", state="pending", next_start_at=NOW + 9, restarts=2, reason="The engine exited.")]
    plan = made(wanted(2, state="healthy"), rows, seen(running("r1"), health={"r1": READY}))
    assert (plan.state, plan.reason) == ("healthy", "1 of 2 replicas are ready. The engine exited.")


def test_a_killed_engine_that_said_nothing_may_have_met_the_end_of_memory():
    plan = made(wanted(state="healthy"), [row(ready_at=NOW - 5)], seen(running(alive=False, status=-9)))
    assert plan.reason == (
        "The engine was killed by signal 9; if nobody killed it, the machine may be out of memory."
        " Starting again in 1 s."
    )
    other = made(wanted(state="healthy"), [row(ready_at=NOW - 5)], seen(running(alive=False, status=-11)))
    assert other.reason == "The engine was killed by signal 11. Starting again in 1 s."


def test_scaling_up_is_an_update_until_every_replica_is_ready():
    rows = [row("r1"), row("r2", state="starting")]
    sight = seen(running("r1"), running("r2"), health={"r1": READY})
    plan = made(wanted(2, state="updating"), rows, sight)
    assert (plan.state, plan.reason) == ("updating", "1 of 2 replicas are ready.")
    both = seen(running("r1"), running("r2"), health={"r1": READY, "r2": READY})
    done = made(wanted(2, state="updating"), rows, both)
    assert (done.state, done.reason) == ("healthy", "")


def test_an_update_that_fails_says_why_and_what_keeps_serving():
    new = row("r2", state="failed", recipe="b", spec_version=2, reason="Failed 3 times in a row. Bad magic.")
    plan = made(wanted(recipe="b", version=2, state="updating"), [row(), new], seen(running(), health={"r1": READY}))
    assert plan.state == "updating"
    assert plan.reason == (
        "The new version fails: Failed 3 times in a row. Bad magic. The old one keeps serving (1 of 1 ready)."
    )
    coming = row("r2", state="starting", recipe="b", spec_version=2)
    plan = made(wanted(recipe="b", version=2, state="updating"), [row(), coming], seen(running(), running("r2")))
    assert plan.reason == "0 of 1 replicas are ready."


def test_a_model_that_is_still_downloaded_starts_nothing_and_the_old_version_keeps_serving():
    hold = Hold("org/model is downloaded.", "downloading")
    plan = made(wanted(hold=hold), [], seen())
    assert (plan.state, plan.reason, plan.replicas) == ("downloading", "org/model is downloaded.", ())
    update = wanted(recipe="b", version=2, state="updating", hold=hold, surge=0)
    plan = made(update, [row()], seen(running(), health={"r1": READY}))
    assert (plan.state, plan.actions) == ("updating", ())
    assert plan.reason == "org/model is downloaded. The old version keeps serving."


def test_what_the_machine_has_no_room_for_waits_and_says_what_for():
    plan = made(wanted(3, room=1, lack="Waits for 2 cores."), [], seen())
    assert [action.replica_id for action in plan.actions] == ["new1"]
    assert [(one.state, one.reason) for one in plan.replicas[1:]] == [("pending", "Waits for 2 cores.")] * 2
    plan = made(wanted(room=0, lack="Waits for 2 cores."), [], seen())
    assert (plan.state, plan.reason) == ("pending", "Waits for 2 cores.")
    rows = [row(), row("r2", state="pending", reason="Waits for 2 cores.")]
    plan = made(
        wanted(2, room=0, lack="Waits for 2 cores.", state="starting"), rows, seen(running(), health={"r1": READY})
    )
    assert (plan.state, plan.reason) == ("healthy", "1 of 2 replicas are ready. Waits for 2 cores.")


def test_a_waiting_replica_starts_as_soon_as_there_is_room():
    waiting = row(state="pending", reason="Waits for 2 cores.", started_at=None)
    plan = made(wanted(room=1, lack="Waits for 2 cores."), [waiting], seen())
    assert plan.actions == (Start("r1"),)
    assert plan.replicas[0].reason == ""


def test_recreate_ends_the_old_replicas_first_but_not_before_the_new_ones_can_start():
    sight = seen(running(), health={"r1": READY})
    update = wanted(recipe="b", version=2, state="updating", surge=0)
    plan = made(update, [row()], sight)
    assert [(one.id, one.state) for one in plan.replicas] == [("r1", "draining")]
    assert plan.actions == ()
    assert made(replace(update, room=0, lack="No room."), [row()], sight).replicas[0].state == "ready"
    gone = made(update, [row(state="draining", next_start_at=NOW - 1)], seen(running(alive=False, status=0)))
    assert [(one.id, one.state) for one in gone.replicas] == [("new1", "starting")]


def test_a_version_that_gives_up_is_rolled_back_to_the_last_good_one():
    new = row("r2", state="failed", recipe="b", spec_version=2, reason="Failed 3 times in a row. Bad magic.")
    sight = seen(running(), health={"r1": READY})
    update = wanted(recipe="b", version=2, state="updating", good="a")
    assert made(update, [row(), new], sight).gave_up == "Failed 3 times in a row. Bad magic."
    assert made(replace(update, good=""), [row(), new], sight).gave_up == "", "nothing to go back to"
    assert made(replace(update, good="b"), [row(), new], sight).gave_up == "", "it was good once"
    assert made(update, [row(), replace(new, state="starting")], sight).gave_up == "", "it may still come"
    held = replace(update, hold=Hold("org/x can't be fetched: it is gated.", "failed"))
    assert made(held, [row()], sight).gave_up == "org/x can't be fetched: it is gated."


def test_a_version_is_good_once_all_its_replicas_have_been_ready_for_long():
    rows = [row(ready_at=NOW - 60), row("r2", ready_at=NOW - 5)]
    sight = seen(running(), running("r2"), health={"r1": READY, "r2": READY})
    assert not made(wanted(2), rows, sight).steady
    assert made(wanted(1), rows[:1], seen(running(), health={"r1": READY})).steady
    assert not made(wanted(0), [], seen()).steady


def test_an_engine_that_never_came_up_in_time_counts_as_having_refused():
    late = row(state="starting", started_at=NOW - 700, restarts=2)
    plan = made(wanted(), [late], seen(running(alive=False, status=-15)))
    assert plan.replicas[0].state == "failed"


class World:
    """Engines that load for a while, crash when told to, and obey."""

    def __init__(self, load_s):
        self.now = NOW
        self.rows = ()
        self.alive: dict[str, float] = {}  # id → started at
        self.dead: dict[str, int] = {}
        self.load_s = load_s
        self.state = "pending"
        self.names = (f"r{number}" for number in count(1))
        self.most = 0

    def step(self, want):
        observed = {name: running(name) for name in self.alive}
        observed |= {name: running(name, alive=False, status=status) for name, status in self.dead.items()}
        health = {}
        for name, started in self.alive.items():
            loaded = self.now - started >= self.load_s
            health[name] = READY if loaded else Health(Probe("starting"), 1, started)
            health[name] = replace(health[name], in_flight=0)
        sight = Seen(self.now, observed, health)
        plan = plan_service(replace(want, state=self.state), self.rows, sight, TIMES, lambda: next(self.names))
        self.rows, self.state = plan.replicas, plan.state
        started = [action for action in plan.actions if isinstance(action, Start)]
        for action in plan.actions:
            self.act(action)
        assert len({action.replica_id for action in plan.actions}) == len(plan.actions), "one action per replica"
        if started:
            assert len(self.alive) <= want.replicas + planning.SURGE, "more engines than wanted and the surge"
        return plan

    def settle(self, want):
        for _ in range(80):
            self.now += 8.0
            self.step(want)

    def act(self, action):
        name = action.replica_id
        if isinstance(action, Start):
            assert name not in self.alive, "started twice"
            self.dead.pop(name, None)
            self.alive[name] = self.now
        elif isinstance(action, Stop):
            if self.alive.pop(name, None) is not None:
                self.dead[name] = -15
        else:
            assert name not in self.alive, "removed while it runs"
            self.dead.pop(name, None)


steps = st.lists(
    st.tuples(
        st.floats(0.1, 40),
        st.one_of(
            st.none(),
            st.tuples(st.just("crash"), st.integers(0, 5), st.sampled_from([-9, 1])),
            st.tuples(st.just("replicas"), st.integers(0, 4)),
            st.tuples(st.just("recipe"), st.sampled_from("abc")),
        ),
    ),
    max_size=40,
)


@given(steps=steps, load_s=st.sampled_from([0.0, 0.5, 20.0]))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_there_are_never_too_many_engines_and_at_the_end_there_is_what_was_wanted(steps, load_s):
    world, want = World(load_s), wanted(1)
    for pause_s, event in steps:
        world.now += pause_s
        match event:
            case ("crash", index, status):
                names = sorted(world.alive)
                if names:
                    name = names[index % len(names)]
                    del world.alive[name]
                    world.dead[name] = status
            case ("replicas", number):
                want = replace(want, replicas=number, spec_version=want.spec_version + 1)
            case ("recipe", recipe):
                want = replace(want, recipe=recipe, spec_version=want.spec_version + 1)
        world.step(want)
    world.settle(want)
    if world.state == "failed" or any(replica.state == "failed" for replica in world.rows):
        assert any(event and event[0] == "crash" for _, event in steps)
        want = replace(want, spec_version=want.spec_version + 1)  # the operator says: again
        world.settle(want)
    assert world.state == ("healthy" if want.replicas else "stopped")
    assert sorted(world.alive) == sorted(replica.id for replica in world.rows)
    assert len(world.rows) == want.replicas
    assert all(replica.recipe == want.recipe and replica.state == "ready" for replica in world.rows)
    assert world.dead == {}
    before = world.rows
    assert world.step(want).actions == ()
    assert world.rows == before, "a settled world is left alone"


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_a_rolling_update_never_leaves_fewer_ready_replicas_than_wanted(replicas):
    world, want = World(3.0), wanted(replicas)
    for _ in range(20):
        world.now += 1
        world.step(want)
    update = replace(want, recipe="b", spec_version=2)
    for _ in range(200):
        world.now += 1
        plan = world.step(update)
        assert sum(replica.state == "ready" for replica in plan.replicas) >= replicas
    assert {replica.recipe for replica in world.rows} == {"b"}
