"""The worker's table: who may call what under which name, and replicas that keep their connections over changes."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import AmbiguousModel, ModelNotFound, NameNotAccepted, Unauthenticated
from mooring.core.ids import key_digest
from mooring.core.snapshot import Limits, ProjectEntry, ReplicaEntry, Row, TargetEntry, encode_entry
from mooring.gateway import snapshot
from mooring.gateway.dialects.route import Address
from mooring.gateway.snapshot import Table
from mooring.testing.gateway import PEPPER, endpoint_row, key_row, service_row

A, B = "http://a/v1", "http://b/v1"


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def table(loop):
    made = Table(loop, "epoch", 1, PEPPER)
    made.apply([key_row(), service_row(A), endpoint_row()])
    return made


def key_of(table: Table, key: str = "mk-test"):
    return table.authenticate(key.encode())


def name_of(table: Table, model: str, key: str = "mk-test") -> str:
    return table.resolve(key_of(table, key), model).choose_service().entry.id


# --- keys


def test_a_key_is_known_by_its_text_and_unknown_ones_are_refused(table):
    assert key_of(table).id == "key-mk-test"
    assert key_of(table) is key_of(table)  # decoded once
    for wrong in (b"mk-tesT", b"", b"mk-test ", b"\xff"):
        with pytest.raises(Unauthenticated):
            table.authenticate(wrong)


def test_a_key_may_have_several_digests_and_all_go_with_it(table):
    row = key_row()
    both = Row("key", row.id, row.data, (*row.digests, key_digest("ak-other", PEPPER)))
    table.apply([both])
    assert key_of(table, "ak-other").id == "key-mk-test"
    table.apply([row])  # the second one was withdrawn
    with pytest.raises(Unauthenticated):
        key_of(table, "ak-other")
    table.apply([both, Row("key", row.id, None)])
    for key in ("mk-test", "ak-other"):
        with pytest.raises(Unauthenticated):
            key_of(table, key)


def test_a_disabled_and_an_expired_key_are_refused_with_their_reason(table):
    table.apply([key_row("mk-off", enabled=False), key_row("mk-old", expires_at=time.time() - 1)])
    table.apply([key_row("mk-soon", expires_at=time.time() + 60)])
    with pytest.raises(Unauthenticated, match="disabled"):
        key_of(table, "mk-off")
    with pytest.raises(Unauthenticated, match="expired"):
        key_of(table, "mk-old")
    assert key_of(table, "mk-soon").id == "key-mk-soon"


def test_a_decoded_key_expires_too(table, monkeypatch):
    table.apply([key_row("mk-soon", expires_at=1000.0)])
    monkeypatch.setattr(snapshot.time, "time", lambda: 999.0)
    key_of(table, "mk-soon")
    monkeypatch.setattr(snapshot.time, "time", lambda: 1000.0)
    with pytest.raises(Unauthenticated):
        key_of(table, "mk-soon")


def test_key_rows_stay_packed_until_they_are_shown(table):
    table.apply([Row("key", "key-broken", b"\xc1", (key_digest("mk-broken", PEPPER),))])
    assert key_of(table).id == "key-mk-test"


# --- names


def test_an_endpoint_id_goes_before_a_service_name_before_a_served_model(table):
    table.apply(
        [
            service_row(B, id="svc-2", name="ep-1", served_model="up"),
            service_row(B, id="svc-3", name="up", served_model="other"),
        ]
    )
    assert name_of(table, "ep-1") == "svc-1"  # the endpoint, not the service of that name
    assert name_of(table, "up") == "svc-3"  # the service's name, not what others serve
    assert name_of(table, "svc-2") == "svc-2"
    assert name_of(table, "other") == "svc-3"


def test_a_model_that_several_services_serve_is_ambiguous_and_named_with_their_ids(table):
    table.apply([service_row(B, id="svc-2", name="second")])
    with pytest.raises(AmbiguousModel, match=r"elsewhere \(svc-1\), second \(svc-2\)"):
        name_of(table, "up")


def test_what_belongs_to_another_project_does_not_exist(table):
    table.apply(
        [
            service_row(B, id="svc-2", name="theirs", project="other", served_model="m2"),
            endpoint_row(id="ep-2", project="other", targets=(TargetEntry("svc-2", 1),)),
        ]
    )
    for model in ("ep-2", "theirs", "svc-2", "m2", "nothing", ""):
        with pytest.raises(ModelNotFound):
            name_of(table, model)


def test_an_administrators_key_may_call_every_projects_endpoints(table):
    table.apply([endpoint_row(id="ep-2", project="other"), key_row("mk-admin", admin=True)])
    assert name_of(table, "ep-2", "mk-admin") == "svc-1"


def test_a_service_without_direct_access_is_reached_through_its_endpoint_only(table):
    table.apply([service_row(A, direct_access=False)])
    assert name_of(table, "ep-1") == "svc-1"
    for model in ("elsewhere", "svc-1", "up"):
        with pytest.raises(ModelNotFound):
            name_of(table, model)


def test_a_confined_key_reaches_its_endpoints_and_nothing_else(table):
    table.apply([endpoint_row(id="ep-2"), key_row("mk-one", endpoints=("ep-2", "ep-gone"))])
    assert name_of(table, "ep-2", "mk-one") == "svc-1"
    for model in ("ep-1", "elsewhere", "up", "ep-gone"):
        with pytest.raises(ModelNotFound):
            name_of(table, model, "mk-one")
    key = key_of(table, "mk-one")
    assert [one.id for one in table.callable_by(key)[0]] == ["ep-2"]
    assert table.callable_by(key)[1] == []


def test_the_list_of_models_and_the_calls_agree(table):
    table.apply(
        [
            service_row(B, id="svc-2", name="hidden", direct_access=False, served_model="m2"),
            service_row(B, id="svc-3", name="theirs", project="other", served_model="m3"),
            endpoint_row(id="ep-2", project="other", created=5),
            key_row("mk-admin", admin=True),
            key_row("mk-one", endpoints=("ep-1",)),
        ]
    )
    for key in ("mk-test", "mk-admin", "mk-one"):
        endpoints, services = table.callable_by(key_of(table, key))
        listed = {one.id for one in endpoints} | {one.name for one in services}
        assert listed
        for model in ("ep-1", "ep-2", "elsewhere", "hidden", "theirs"):
            if model in listed:
                assert name_of(table, model, key)
            else:
                with pytest.raises(ModelNotFound):
                    name_of(table, model, key)


def test_a_changed_row_changes_what_a_name_stands_for_at_once(table):
    assert name_of(table, "ep-1") == "svc-1"
    table.apply([service_row(B, id="svc-2", name="second", served_model="m2")])
    table.apply([endpoint_row(targets=(TargetEntry("svc-2", 1),))])
    assert name_of(table, "ep-1") == "svc-2"
    table.apply([Row("endpoint", "ep-1", None)])
    with pytest.raises(ModelNotFound):
        name_of(table, "ep-1")


def test_an_endpoint_whose_service_is_gone_stands_for_nothing_until_it_is_back(table):
    from mooring.core.errors import NotReady

    table.apply([Row("service", "svc-1", None)])
    with pytest.raises(NotReady):
        name_of(table, "ep-1")
    table.apply([service_row(A)])
    assert name_of(table, "ep-1") == "svc-1"


def test_the_order_of_rows_in_a_set_does_not_matter(loop):
    table = Table(loop, "epoch", 1, PEPPER)
    table.apply([endpoint_row(), key_row()])
    table.apply([service_row(A)])
    assert name_of(table, "ep-1") == "svc-1"


def test_a_long_unknown_name_is_not_repeated_whole(table):
    with pytest.raises(ModelNotFound) as refused:
        name_of(table, "x" * 100_000)
    assert len(str(refused.value)) < 300


def test_what_was_looked_up_is_remembered_within_a_bound(table, monkeypatch):
    monkeypatch.setattr(snapshot, "_MAX_RESOLVED", 50)
    table.apply([key_row(f"mk-{number}") for number in range(200)])
    for number in range(200):
        assert name_of(table, "ep-1", f"mk-{number}") == "svc-1"
        assert len(table._resolved) <= 50
    assert snapshot._MAX_RESOLVED == 50


def test_unknown_names_are_not_remembered(table):
    for number in range(100):
        with pytest.raises(ModelNotFound):
            name_of(table, f"m-{number}")
    assert len(table._resolved) == 0


def test_projects_come_and_go(table):
    table.apply([Row("project", "prj-1", encode_entry(ProjectEntry("prj-1", "default", Limits(rpm=5))))])
    assert table.projects["prj-1"].limits.rpm == 5
    table.apply([Row("project", "prj-1", None), Row("project", "prj-2", None), Row("endpoint", "ep-9", None)])
    assert table.projects == {}


# --- paths that name a service, endpoints by their id only


def found_at(table: Table, address: Address, key: str = "mk-test", adapter: str = "") -> list[str]:
    target = table.resolve_address(key_of(table, key), address, adapter)
    assert table.resolve_address(key_of(table, key), address, adapter) is target  # the second time by one look
    return sorted(service.entry.id for service in target.services)


PLACES = [
    Address("default", "elsewhere"),
    Address("default", "svc-1"),
    Address(service="svc-1"),
    Address(model="up", chip="cpu"),
]


@pytest.mark.parametrize("address", PLACES)
def test_a_path_names_a_service_for_those_who_may_call_it(table, address):
    table.apply([key_row("mk-one", endpoints=("ep-1",)), key_row("mk-other", project="other")])
    assert found_at(table, address) == ["svc-1"]
    for key in ("mk-one", "mk-other"):
        with pytest.raises(ModelNotFound):
            found_at(table, address, key)
    table.apply([service_row(A, direct_access=False)])
    with pytest.raises(ModelNotFound):
        found_at(table, address)


@pytest.mark.parametrize("address", PLACES)
def test_an_adapter_asked_for_on_such_a_path_is_taken_where_there_is_one(table, address):
    table.apply([service_row(A, adapters=("legal",))])
    assert table.resolve_address(key_of(table), address, "legal").adapter == "legal"
    assert table.resolve_address(key_of(table), address, "other").adapter == ""
    assert found_at(table, address, adapter="legal") == ["svc-1"]


@pytest.mark.parametrize("address", [Address(service="elsewhere"), Address(service=""), Address(service="ep-1")])
def test_a_service_found_by_its_id_is_not_found_by_its_name(table, address):
    with pytest.raises(ModelNotFound, match="or this key may not use it"):
        found_at(table, address)


def test_an_administrators_key_reaches_a_service_of_another_project_by_its_id(table):
    table.apply([service_row(B, id="svc-2", name="theirs", project="other"), key_row("mk-admin", admin=True)])
    for address in (Address(service="svc-2"), Address("other", "theirs")):
        assert found_at(table, address, "mk-admin") == ["svc-2"]


def test_a_pair_of_model_and_chip_stands_for_all_its_services(table):
    table.apply(
        [
            service_row(A, served_model="o/m", chip="A 100"),
            service_row(B, id="svc-2", name="b", served_model="o/m", chip="A 100"),
            service_row(B, id="svc-3", name="c", served_model="o/m"),
            service_row(B, id="svc-4", name="d", served_model="p/n"),
            service_row(B, id="svc-5", name="e", served_model="q/n"),
            service_row(B, id="svc-6", name="f", served_model="s/t", chip="npu", project="other"),
            service_row(B, id="svc-7", name="g", served_model="s/u", direct_access=False),
        ]
    )
    for model in ("o/m", "m"):
        assert found_at(table, Address(model=model, chip="A 100")) == ["svc-1", "svc-2"]
        assert found_at(table, Address(model=model, chip="cpu")) == ["svc-3"]
    assert found_at(table, Address(model="p/n", chip="cpu")) == ["svc-4"]
    table.apply([service_row(B, id="svc-8", name="h", served_model="n")])
    assert found_at(table, Address(model="n", chip="cpu")) == ["svc-8"]  # the whole name goes before a part
    table.apply([Row("service", "svc-8", None)])
    for model, chip in (("n", "cpu"), ("o/m", "npu"), ("t", "npu"), ("u", "cpu"), ("", "cpu")):
        with pytest.raises(ModelNotFound) as refused:
            table.resolve_address(key_of(table), Address(model=model or "x", chip=chip))
        assert refused.value.next_step == "What this key may call here: o%2Fm/A 100, o%2Fm/cpu, p%2Fn/cpu, q%2Fn/cpu."


def test_an_endpoint_is_found_by_its_id_alone(table):
    table.apply([service_row(A, adapters=("legal",))])
    target = table.resolve_endpoint(key_of(table), "ep-1")
    assert table.resolve_endpoint(key_of(table), "ep-1") is target
    assert target.endpoint_id == "ep-1"
    assert table.resolve_endpoint(key_of(table), "ep-1:legal").adapter == "legal"
    with pytest.raises(ModelNotFound, match="the adapters of this model are: legal"):
        table.resolve_endpoint(key_of(table), "ep-1:other")


def test_a_name_that_would_do_elsewhere_is_told_the_endpoints_that_lead_there(table):
    rows = [endpoint_row(id=f"ep-{number}", created=number) for number in range(1, 8)]
    table.apply([*rows, service_row(B, id="svc-2", name="second"), key_row("mk-one", endpoints=("ep-1",))])
    for model in ("elsewhere", "svc-1", "up", "elsewhere:legal"):
        with pytest.raises(NameNotAccepted) as refused:
            table.resolve_endpoint(key_of(table), model)
        assert refused.value.next_step == "Put an endpoint id into 'model': ep-1, ep-2, ep-3, ep-4, ep-5."
        with pytest.raises(ModelNotFound) as unknown:
            table.resolve_endpoint(key_of(table, "mk-one"), model)
        assert type(unknown.value) is ModelNotFound
    with pytest.raises(NameNotAccepted, match="second"):
        table.resolve_endpoint(key_of(table), "second")


def test_an_unknown_id_and_one_of_others_get_the_same_answer(table):
    table.apply([endpoint_row(id="ep-2", project="other")])
    said = set()
    for model in ("ep-2", "ep-9", "", ":", "ep-9:a"):
        with pytest.raises(ModelNotFound) as refused:
            table.resolve_endpoint(key_of(table), model)
        said.add((type(refused.value), refused.value.message.replace(f"'{model}'", "''"), refused.value.next_step))
    assert len(said) == 1


# --- replicas


def replicas_of(table: Table):
    return table.services["svc-1"].replicas


def test_a_replica_keeps_its_connections_and_its_load_over_a_change_of_its_service(table):
    [before] = replicas_of(table)
    before.in_flight = 3
    before.failed(100.0)
    table.apply([service_row(A, state="degraded", served_model="new")])
    [after] = replicas_of(table)
    assert after is before
    assert (after.in_flight, after.pool.closed) == (3, False)
    assert table.services["svc-1"].served_model_json == b'"new"'


def test_a_replica_that_is_no_longer_ready_stays_the_same_replica(table):
    [before] = replicas_of(table)
    table.apply([service_row(A, replicas=(ReplicaEntry("rep-0", A, None, False, 4),))])
    [after] = replicas_of(table)
    assert after is before
    assert (after.entry.ready, after.entry.slots) == (False, 4)


@pytest.mark.parametrize(
    "entry",
    [
        ReplicaEntry("rep-0", B, None, True),
        ReplicaEntry("rep-0", A, "sk-new", True),
        ReplicaEntry("rep-9", A, None, True),
    ],
    ids=["another address", "another credential", "another replica"],
)
def test_what_is_another_replica_gets_connections_of_its_own_and_the_old_ones_are_closed(table, entry):
    [before] = replicas_of(table)
    table.apply([service_row(A, replicas=(entry,))])
    [after] = replicas_of(table)
    assert after is not before
    assert before.pool.closed
    assert not after.pool.closed
    assert after.pool.entry is entry or after.pool.entry == entry


def test_a_deleted_service_closes_its_connections(table):
    [before] = replicas_of(table)
    table.apply([Row("service", "svc-1", None)])
    assert before.pool.closed
    table.apply([Row("service", "svc-1", None)])


def test_a_full_table_takes_over_the_replicas_that_stayed_and_retires_the_others(loop, table):
    table.apply([service_row([A, B])])
    stays, goes = replicas_of(table)
    new = Table(loop, "epoch", 2, PEPPER)
    new.apply([service_row([A])], table)
    assert not stays.pool.closed
    assert not goes.pool.closed  # the old table is in use until the commit
    new.retire(table)
    assert replicas_of(new) == [stays]
    assert (stays.pool.closed, goes.pool.closed) == (False, True)


def test_a_full_table_that_is_given_up_leaves_the_old_one_as_it_was(loop, table):
    [before] = replicas_of(table)
    new = Table(loop, "epoch", 2, PEPPER)
    new.apply([service_row(A, replicas=(ReplicaEntry("rep-0", A, None, False),))], table)
    [after] = replicas_of(table)
    assert after is before
    assert after.entry.ready
    assert not after.pool.closed


def test_the_connections_of_a_closed_table_are_closed(table):
    table.close()
    assert all(replica.pool.closed for replica in replicas_of(table))


ROWS = st.lists(
    st.one_of(
        st.builds(lambda n, on: key_row(f"mk-{n}", enabled=on), st.integers(0, 3), st.booleans()),
        st.builds(lambda n: Row("key", f"key-mk-{n}", None), st.integers(0, 3)),
        st.builds(
            lambda n, addresses: service_row(addresses, id=f"svc-{n}", name=f"s{n}"),
            st.integers(0, 2),
            st.lists(st.sampled_from([A, B]), max_size=2),
        ),
        st.builds(lambda n: Row("service", f"svc-{n}", None), st.integers(0, 2)),
        st.builds(
            lambda n, s: endpoint_row(id=f"ep-{n}", targets=(TargetEntry(f"svc-{s}", 1),)),
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.builds(lambda n: Row("endpoint", f"ep-{n}", None), st.integers(0, 2)),
    ),
    max_size=30,
)


def contents(table: Table):
    keys: dict[int, str] = {}
    for number in range(4):
        try:
            keys[number] = table.authenticate(b"mk-%d" % number).id
        except Unauthenticated as error:
            keys[number] = str(error)
    services = {name: one.entry for name, one in table.services.items()}
    return keys, services, dict(table.endpoints)


@given(ROWS, st.integers(0, 30))
def test_deltas_lead_where_a_full_table_leads_and_no_pool_is_left_open(rows, cut):
    loop = asyncio.new_event_loop()
    loop.close()
    by_deltas = Table(loop, "epoch", 1, PEPPER)
    pools = set()
    for part in (rows[:cut], rows[cut:]):
        for row in part:
            by_deltas.apply([row])
            pools |= {one.pool for service in by_deltas.services.values() for one in service.replicas}
    latest = {(row.table, row.id): row for row in rows}
    at_once = Table(loop, "epoch", 1, PEPPER)
    at_once.apply([row for row in latest.values() if row.data is not None], by_deltas)
    assert contents(by_deltas) == contents(at_once)
    at_once.retire(by_deltas)
    live = {one.pool for service in at_once.services.values() for one in service.replicas}
    assert {pool for pool in pools if not pool.closed} <= live
    assert not any(pool.closed for pool in live)
