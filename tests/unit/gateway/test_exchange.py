"""However a request ends, what it took is given back once, its record stands before its last bytes, and it ends."""

from __future__ import annotations

import gc

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mooring.gateway.answers.answering import (
    CALLING,
    CONNECTING,
    DONE,
    REFUSED,
    ROUTING,
    SENT,
    STREAMING,
    TRANSITIONS,
    WAITING,
    WHOLE,
)
from mooring.gateway.dialects.operations import METERED
from mooring.gateway.exchange import Exchange
from mooring.testing.exchanges import Stage, transport_of
from mooring.testing.upstream import STREAM_HEAD, chunk, delta, json_response

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
SAID = {
    "stream head": STREAM_HEAD,
    "stream head without length": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    "json head": JSON_HEAD,
    "error head": JSON_HEAD.replace(b"200", b"500"),
    "event": chunk(delta("a")),
    "usage": chunk(USAGE),
    "half an event": chunk(b"data: {"),
    "end": chunk(b""),
    "whole answer": json_response({"usage": {"prompt_tokens": 1, "completion_tokens": 1}, "tokens": [1], "prompt": ""}),
    "whole answer, then close": json_response({}, extra="Connection: close\r\n"),
    "two answers": json_response({}) * 2,
    "an answer and more": json_response({}) + b"HTTP",
    "not json": json_response(b"<html>"),
    "refusal": json_response({"error": {"message": "m", "type": "t"}}, 400),
    "refusal in another shape": json_response({"detail": "no"}, 422),
    "overload": json_response(b"", 503, "Retry-After: 3\r\n"),
    "refused credential": json_response({}, 401),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "nonsense": b"SSH-2.0\r\n\r\n",
}
WORKING = (CONNECTING, SENT, STREAMING, WHOLE, CALLING)


class Requests(RuleBasedStateMachine):
    """Several requests on two replicas, one of which has a single slot; the loop turns only now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(1, 0)

    # --- callers

    @precondition(lambda self: len(self.stage.exchanges) < 12)
    @rule(stream=st.booleans(), operation=st.sampled_from(["chat", "embedding", "tokenize"]), slow=st.booleans())
    def ask(self, stream: bool, operation: str, slow: bool) -> None:
        exchange = self.stage.prepare(operation, stream=stream and operation == "chat")
        self.stage.clients[-1].slow = slow
        exchange.begin()

    @precondition(lambda self: len(self.stage.exchanges) < 12)
    @rule()
    def ask_in_steps(self) -> None:
        self.stage.start("tokenize", stream=False, stepwise=True)
        self.stage.turn(1)

    def _live(self) -> list[Exchange]:
        return [exchange for exchange in self.stage.exchanges if exchange.state != DONE]

    @precondition(lambda self: bool(self._live()))
    @rule(data=st.data())
    def caller_leaves(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._live())).client_gone()

    @precondition(lambda self: bool(self._live()))
    @rule(data=st.data())
    def deadline_passes(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._live())).on_deadline()

    @precondition(lambda self: bool(self.stage.exchanges))
    @rule(data=st.data(), writable=st.booleans())
    def caller_is_slow_or_quick(self, data: st.DataObject, writable: bool) -> None:
        data.draw(st.sampled_from(self.stage.exchanges)).client_writable(writable)

    @precondition(lambda self: bool(self.stage.exchanges))
    @rule(data=st.data())
    def a_late_event_comes(self, data: st.DataObject) -> None:
        exchange = data.draw(st.sampled_from(self.stage.exchanges))
        if exchange.state == DONE:
            exchange.upstream_ready()
            exchange.upstream_lost(False)
            exchange.upstream_lost(True)
            exchange.upstream_writable(True)
            exchange.released()
            exchange.client_gone()

    # --- the replicas

    @precondition(lambda self: any(pool.open_dials for pool in self.stage.pools))
    @rule(data=st.data(), outcome=st.sampled_from(["connected", "refused", "no time", "no such name"]))
    def a_dial_ends(self, data: st.DataObject, outcome: str) -> None:
        pool = data.draw(st.sampled_from([pool for pool in self.stage.pools if pool.open_dials]))
        if outcome == "connected":
            pool.connected()
        else:
            pool.refused({"refused": ConnectionRefusedError(), "no time": TimeoutError()}.get(outcome, OSError()))

    def _open(self):
        all_of_them = [one for pool in self.stage.pools for one in pool.connections]
        return [one for one in all_of_them if not one.lost and not transport_of(one).closing]

    @precondition(lambda self: any(not transport_of(one).paused for one in self._open()))
    @rule(data=st.data(), what=st.lists(st.sampled_from(sorted(SAID)), min_size=1, max_size=3))
    def a_replica_speaks(self, data: st.DataObject, what: list[str]) -> None:
        connection = data.draw(st.sampled_from([one for one in self._open() if not transport_of(one).paused]))
        self._deliver(connection, b"".join(SAID[name] for name in what))

    @precondition(lambda self: any(one.sink is not None and not one.received for one in self._open()))
    @rule(data=st.data(), what=st.sampled_from(["stream", "whole answer", "refusal", "overload"]))
    def a_replica_answers_well(self, data: st.DataObject, what: str) -> None:
        waiting = [one for one in self._open() if one.sink is not None and not one.received]
        said = STREAM_HEAD + SAID["event"] + SAID["usage"] + SAID["end"] if what == "stream" else SAID[what]
        self._deliver(data.draw(st.sampled_from(waiting)), said)

    def _deliver(self, connection, data: bytes) -> None:
        try:
            connection.data_received(data)
        except Exception as error:  # noqa: BLE001 - a loop closes the connection whose protocol raised
            transport_of(connection).break_off(error)

    @precondition(lambda self: bool(self._open()))
    @rule(data=st.data(), error=st.sampled_from([None, ConnectionResetError()]))
    def a_connection_breaks(self, data: st.DataObject, error: Exception | None) -> None:
        transport_of(data.draw(st.sampled_from(self._open()))).break_off(error)

    @rule(ready=st.one_of(st.just(()), st.tuples(st.booleans(), st.booleans())))
    def the_table_changes(self, ready: tuple[bool, ...]) -> None:
        self.stage.change(*ready)

    @rule()
    def the_loop_turns(self) -> None:
        self.stage.turn(3)

    # --- what always holds

    @invariant()
    def no_task_and_no_callback_failed(self) -> None:
        assert not self.stage.problems, self.stage.problems

    @invariant()
    def each_place_taken_belongs_to_a_request_that_works(self) -> None:
        working = sum(exchange.state in WORKING for exchange in self.stage.exchanges)
        assert sum(replica.in_flight for replica in self.stage.replicas) == working
        assert all(replica.in_flight >= 0 for replica in self.stage.replicas)

    @invariant()
    def each_slot_belongs_to_a_metered_request_that_lives(self) -> None:
        live = {exchange.request_id for exchange in self._live() if exchange._ticket.operation in METERED}
        assert set(self.stage.journal.open.values()) == live
        assert len(self.stage.journal.open) == len(live)

    @invariant()
    def each_metered_request_that_ended_has_one_record(self) -> None:
        ended = [one for one in self.stage.exchanges if one.state == DONE and one._ticket.operation in METERED]
        recorded = [record.request_id for record in self.stage.journal.records]
        assert sorted(recorded) == sorted(exchange.request_id for exchange in ended)

    @invariant()
    def each_connection_is_in_one_pair_of_hands(self) -> None:
        for pool in self.stage.pools:
            idle = pool.idle
            assert len(set(map(id, idle))) == len(idle)
            for connection in pool.connections:
                holders = [exchange for exchange in self.stage.exchanges if exchange._upstream is connection]
                assert len(holders) + (connection in idle) <= 1
                if connection in idle:
                    assert connection.sink is None
                    assert not transport_of(connection).paused

    @invariant()
    def the_story_of_each_request_is_in_order(self) -> None:
        for exchange, client in zip(self.stage.exchanges, self.stage.clients, strict=True):
            story = self.stage.story(exchange)
            assert client.done == story.count("done") <= 1
            assert story.count("last") <= 1
            assert story.count("head") <= 1
            if exchange._ticket.operation in METERED and "last" in story:
                assert story.index("record") < story.index("last")
            if "last" in story:
                assert story[story.index("last") + 1 :] in ([], ["done"])
                assert exchange.state == DONE
            if "record" in story:
                assert set(story[story.index("record") + 1 :]) <= {"head", "last", "done"}

    @invariant()
    def who_waits_is_in_the_line(self) -> None:
        waiting = any(exchange.state == WAITING for exchange in self.stage.exchanges)
        assert self.stage.parts.waiting.occupied("svc-1") == waiting

    def teardown(self) -> None:
        try:
            for exchange in self._live():
                exchange.client_gone()
            self.stage.turn(20)
            for held in self._open():
                assert held.sink is None
                assert held in held._pool.idle, "a connection that nobody holds was left open"
            assert all(replica.in_flight == 0 for replica in self.stage.replicas)
            assert not self.stage.journal.open
            assert not self.stage.problems, self.stage.problems
        finally:
            self.stage.close()


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# --- states × events


def in_state(stage: Stage, state: int) -> Exchange:
    """Bring a request into a state by what leads there."""
    if state == ROUTING:
        return stage.prepare()
    if state == WAITING:
        stage.start()
        stage.start()
        return stage.start()  # one slot takes two requests
    if state == CALLING:
        exchange = stage.start("tokenize", stream=False, stepwise=True)
        stage.turn()
        return exchange
    exchange = stage.start()
    stage.turn()
    if state == CONNECTING:
        return exchange
    connection = stage.pools[0].connected()
    stage.turn()
    if state == STREAMING:
        connection.data_received(STREAM_HEAD + chunk(delta("a")))
    elif state == WHOLE:
        connection.data_received(JSON_HEAD + chunk(b'{"a":'))
    elif state == DONE:
        exchange.client_gone()
    return exchange


EVENTS = {
    "the answer goes on": lambda exchange: exchange.upstream_ready(),
    "the connection is lost, nothing received": lambda exchange: exchange.upstream_lost(False),
    "the connection is lost in the answer": lambda exchange: exchange.upstream_lost(True),
    "the replica reads slowly": lambda exchange: exchange.upstream_writable(False),
    "the replica reads again": lambda exchange: exchange.upstream_writable(True),
    "the caller reads slowly": lambda exchange: exchange.client_writable(False),
    "the caller reads again": lambda exchange: exchange.client_writable(True),
    "the caller leaves": lambda exchange: exchange.client_gone(),
    "the deadline passes": lambda exchange: exchange.on_deadline(),
    "a place is free": lambda exchange: exchange.released(),
}
STATES = {
    "waiting": WAITING,
    "connecting": CONNECTING,
    "sent": SENT,
    "streaming": STREAMING,
    "whole": WHOLE,
    "calling": CALLING,
    "done": DONE,
}


@pytest.fixture
def make_stage():
    made: list[Stage] = []

    def make(*slots: int, engine: str = "external") -> Stage:
        made.append(Stage(*slots, engine=engine))
        return made[-1]

    yield make
    for stage in made:
        for exchange in stage.exchanges:
            exchange.client_gone()
        stage.close()


@pytest.fixture
def one_slot(make_stage):
    return make_stage(1)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_each_event_in_each_state_is_a_listed_transition_or_nothing(one_slot, state, event):
    stage = one_slot
    exchange = in_state(stage, STATES[state])
    assert exchange.state == STATES[state]
    EVENTS[event](exchange)
    assert exchange.state == STATES[state] or exchange.state in reachable(STATES[state])
    stage.turn()
    for one in stage.exchanges:
        one.client_gone()
    stage.turn()
    assert [one.state for one in stage.exchanges] == [DONE] * len(stage.exchanges)
    assert stage.replicas[0].in_flight == 0
    assert not stage.journal.open
    assert not stage.problems


def reachable(state: int) -> set[int]:
    found: set[int] = set()
    todo = [state]
    while todo:
        for other in TRANSITIONS[todo.pop()]:
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def test_every_state_can_end_and_the_end_is_the_end():
    assert TRANSITIONS[DONE] == ()
    for state in set(TRANSITIONS) - {DONE}:
        assert DONE in TRANSITIONS[state]
        assert reachable(state) <= set(TRANSITIONS)
    assert TRANSITIONS[REFUSED] == (DONE,)


# --- single stories


@pytest.fixture
def stage(make_stage):
    made = make_stage(0, 0)
    yield made
    made.turn()
    assert not made.problems


def answer_one(stage: Stage) -> None:
    """Let one request of the first replica be answered whole."""
    pool = stage.pools[0]
    if pool.open_dials:
        pool.connected()
        stage.turn()
    next(one for one in pool.connections if one.sink is not None).data_received(SAID["whole answer"])
    stage.turn()


def test_who_waits_gets_the_next_free_place_in_the_order_of_coming(one_slot):
    requests = [one_slot.start(stream=False) for _ in range(5)]
    one_slot.turn()
    assert [one.state for one in requests] == [CONNECTING, CONNECTING, WAITING, WAITING, WAITING]
    for waiting in (2, 1):
        answer_one(one_slot)
        requests.append(one_slot.start(stream=False))  # a newcomer does not go before those who came earlier
        assert [one.state == WAITING for one in requests[2:]].index(True) == 3 - waiting
        assert requests[-1].state == WAITING
    for _ in range(5):
        answer_one(one_slot)
    assert [client.status for client in one_slot.clients] == [200] * 7
    assert not one_slot.parts.waiting.occupied("svc-1")


def test_who_leaves_the_line_gives_no_place_away_and_takes_none(one_slot):
    requests = [one_slot.start() for _ in range(4)]
    requests[2].client_gone()
    one_slot.turn()
    assert one_slot.replicas[0].in_flight == 2
    requests[0].client_gone()
    one_slot.turn()
    assert requests[3].state == CONNECTING
    assert one_slot.replicas[0].in_flight == 2


def test_who_waits_is_refused_when_the_service_goes(one_slot):
    for _ in range(4):
        one_slot.start()
    one_slot.change()
    one_slot.turn()
    assert [client.status for client in one_slot.clients] == [0, 0, 503, 503]


@pytest.mark.parametrize(("adapters", "statuses"), [(("sql",), [0, 0, 0]), (("new", "sql"), [0, 0, 503])])
def test_who_waits_with_an_adapter_is_refused_when_its_number_may_be_anothers(one_slot, adapters, statuses):
    one_slot.entry = one_slot.service.entry = msgspec.structs.replace(one_slot.entry, adapters=("sql",))
    for _ in range(3):
        exchange = one_slot.prepare()
        exchange._ticket.target.adapter = "sql"
        exchange.begin()
    one_slot.entry = msgspec.structs.replace(one_slot.entry, adapters=adapters)
    one_slot.change(True)
    one_slot.turn()
    assert [client.status for client in one_slot.clients] == statuses


def test_a_full_replica_is_passed_over_while_another_has_room(make_stage):
    stage = make_stage(1, 8)
    requests = [stage.start() for _ in range(18)]
    stage.turn()
    assert [replica.in_flight for replica in stage.replicas] == [2, 16]
    assert [one.state for one in requests].count(WAITING) == 0


def test_a_connection_that_comes_late_goes_to_the_pool_and_not_to_the_request(stage):
    exchange = stage.start()
    stage.turn()
    connection = stage.pools[0].connected()
    exchange.on_deadline()  # in the same turn of the loop
    stage.turn()
    assert exchange.state == DONE
    assert stage.story(exchange) == ["record", "last", "done"]
    assert connection in stage.pools[0].idle or transport_of(connection).closing


def test_a_replica_that_can_not_be_reached_is_left_for_the_other(stage):
    exchange = stage.start()
    stage.turn()
    stage.pools[0].refused(ConnectionRefusedError())
    stage.turn()
    assert (stage.replicas[0].in_flight, stage.replicas[1].in_flight) == (0, 1)
    assert stage.replicas[0].blocked_until > 0
    stage.pools[1].connected().data_received(SAID["whole answer"])
    stage.turn()
    stage.pools[1].connections[0].data_received(SAID["whole answer"])
    assert stage.clients[0].status == 200 or exchange.state == DONE


def test_a_name_that_can_not_be_looked_up_ends_the_request(stage):
    exchange = stage.start()
    stage.turn()
    stage.pools[0].refused(UnicodeError("encoding with 'idna' codec failed"))  # what asyncio raises for http://a..b
    stage.turn()
    if stage.pools[1].open_dials:
        stage.pools[1].refused(UnicodeError("label empty or too long"))
        stage.turn()
    assert exchange.state == DONE
    assert stage.clients[0].status == 502
    stage.problems.clear()


def test_a_stale_pooled_connection_is_replaced_without_blaming_the_replica(stage):
    first = stage.start(stream=False)
    stage.turn()
    connection = stage.pools[0].connected()
    stage.turn()
    connection.data_received(SAID["whole answer"])
    assert first.state == DONE
    second = stage.start(stream=False)
    assert second.state == SENT
    transport_of(connection).break_off(None)
    stage.turn()
    assert second.state == CONNECTING
    assert stage.replicas[0].blocked_until == 0


def test_a_new_connection_lost_without_an_answer_is_tried_on_each_other_replica_once(stage):
    exchange = stage.start()
    for pool in stage.pools:
        stage.until(lambda pool=pool: bool(pool.open_dials))
        connection = pool.connected()
        stage.turn()
        transport_of(connection).break_off(None)
        stage.turn()
    assert exchange.state == DONE
    assert stage.clients[0].status == 502
    assert [record.status for record in stage.journal.records] == [502]


def test_a_connection_lost_between_dial_and_use_does_not_hang_the_request(stage):
    exchange = stage.start()
    stage.turn()
    connection = stage.pools[0].connected()
    connection.connection_lost(ConnectionResetError())
    stage.turn()
    assert exchange.state == CONNECTING  # on the other replica, or anew
    assert sum(len(pool.open_dials) for pool in stage.pools) == 1


def test_an_upstream_that_switches_protocols_is_a_502(stage):
    exchange = stage.start()
    stage.turn()
    connection = stage.pools[0].connected()
    stage.turn()
    connection.data_received(SAID["switch"])
    stage.turn()
    assert exchange.state == DONE
    assert stage.clients[0].status == 502


def test_bytes_without_a_whole_event_count_as_a_sign_of_life(stage):
    exchange = in_state(stage, STREAMING)
    stage.parts.timers.now += 100
    stage.pools[0].connections[0].data_received(chunk(b'data: {"long'))
    now = stage.parts.timers.now
    assert stage.clients[0].deadline == now + stage.parts.settings.between_bytes_timeout_s
    assert exchange.state == STREAMING


def test_a_whole_answer_that_comes_slowly_is_not_timed_out_while_bytes_come(stage):
    exchange = in_state(stage, WHOLE)
    stage.parts.timers.now += 100
    stage.pools[0].connections[0].data_received(chunk(b'"b'))
    now = stage.parts.timers.now
    assert stage.clients[0].deadline == now + stage.parts.settings.between_bytes_timeout_s
    assert exchange.state == WHOLE


def test_a_stream_that_ends_well_forgives_the_replica_its_failures(stage):
    stage.replicas[0].failed(0.0)
    stage.replicas[0].failed(0.0)
    exchange = in_state(stage, STREAMING)
    stage.pools[0].connections[0].data_received(chunk(b"data: [DONE]\n\n") + chunk(b""))
    assert exchange.state == DONE
    stage.replicas[0].failed(100.0)
    assert stage.replicas[0].blocked_until == pytest.approx(100.2)  # the shortest time again


def test_a_caller_of_steps_may_leave_before_the_first(stage):
    exchange = stage.start("tokenize", stream=False, stepwise=True)
    exchange.client_gone()
    stage.turn()
    gc.collect()  # a coroutine that was made and never run would warn
    assert exchange.state == DONE


def test_an_answer_in_steps_that_can_not_be_read_ends_the_request(make_stage):
    stage = make_stage(0, engine="llamacpp")
    exchange = stage.start("tokenize", stream=False, stepwise=True)
    stage.turn()
    connection = stage.pools[0].connected()
    stage.turn()
    connection.data_received(json_response(b'{"tokens":[{"id":1,"piece":"\xff"}]}'))
    stage.turn()
    assert exchange.state == DONE
    assert stage.clients[0].status == 502
