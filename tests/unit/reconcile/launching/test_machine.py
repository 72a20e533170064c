from mooring.core.replicas import Capacity, ObservedReplica, Replica, Reserved
from mooring.reconcile.launching.machine import Machine

GIB = 1 << 30
FOUR = Capacity(cpu=4, memory_mib=8192, gpus=1)


def running(name, service, reserved):
    return ObservedReplica(name, service, 1, True, 42, 0.0, None, "unix:/e", "k", "m", 4, reserved=reserved)


def machine(*placed, needs=None, capacity=FOUR):
    """Placed: (replica, service, recipe, state, reserved or None when it does not run yet)."""
    rows: dict[str, list[Replica]] = {}
    observed = {}
    for name, service, recipe, state, reserved in placed:
        rows.setdefault(service, []).append(Replica(name, service, 1, recipe, state))
        if reserved is not None:
            observed[name] = running(name, service, reserved)
    names = {service: service.removeprefix("svc-") for service in rows}
    return Machine(capacity, names, rows, observed, needs or {})


def test_what_asks_for_nothing_always_fits():
    full = machine(("r1", "svc-a", "a", "ready", Reserved(4, 8 * GIB, 1)))
    assert full.room("svc-b", "b", Reserved(), in_place=False)[0] > 1000


def test_the_scarcest_thing_decides_and_is_named_with_its_holders():
    busy = machine(("r1", "svc-a", "a", "ready", Reserved(3, 2 * GIB)), ("r2", "svc-c", "c", "ready", Reserved(0, GIB)))
    room, lack = busy.room("svc-b", "b", Reserved(2, GIB), in_place=False)
    assert (room, lack) == (0, "Waits for 2 cores: 3 of 4 are taken (by a, c).")
    room, lack = busy.room("svc-b", "b", Reserved(0.5, 3 * GIB), in_place=False)
    assert room == 1
    assert lack == "Waits for 3.0 GiB of memory: 3.0 GiB of 8.0 GiB are set aside (by a, c)."
    assert busy.room("svc-b", "b", Reserved(gpus=1), in_place=False)[0] == 1


def test_a_replica_that_is_just_starting_counts_with_what_its_service_needs():
    starting = machine(("r1", "svc-a", "a", "starting", None), needs={"svc-a": Reserved(3)})
    assert starting.room("svc-b", "b", Reserved(2), in_place=False)[0] == 0
    waiting = machine(("r1", "svc-a", "a", "pending", None), needs={"svc-a": Reserved(3)})
    assert waiting.room("svc-b", "b", Reserved(2), in_place=False)[0] == 2


def test_what_is_started_in_this_round_is_taken_for_those_who_come_after():
    empty = machine()
    assert empty.room("svc-a", "a", Reserved(2), in_place=False)[0] == 2
    empty.take("svc-a", "a", Reserved(2), 2)
    assert empty.room("svc-b", "b", Reserved(1), in_place=False)[0] == 0
    assert empty.taken == Reserved(4)


def test_a_new_version_that_its_own_old_one_leaves_no_room_is_told_about_recreate():
    own = machine(("r1", "svc-a", "old", "ready", Reserved(4)))
    room, lack = own.room("svc-a", "new", Reserved(4), in_place=False)
    assert room == 0
    assert "spec.update to 'recreate'" in lack
    assert own.room("svc-a", "new", Reserved(4), in_place=True)[0] == 1


def test_memory_that_other_programs_use_is_no_room_either():
    crowded = Capacity(cpu=4, memory_mib=8192, gpus=0, available_mib=1024)
    room, lack = machine(capacity=crowded).room("svc-a", "a", Reserved(0, 2 * GIB), in_place=False)
    assert (room, lack) == (0, "Waits for 2.0 GiB of memory: other programs on this machine use too much of it.")


def test_an_engine_that_nobody_remembers_still_holds_what_it_has():
    stray = Machine(FOUR, {}, {}, {"r9": running("r9", "svc-gone", Reserved(4))}, {})
    assert stray.room("svc-a", "a", Reserved(1), in_place=False)[0] == 0
