"""The worker's end of the feed: the table is never half, never lost, never older than it must be; no record is lost."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from mooring.core.ids import key_digest
from mooring.core.snapshot import (
    Beat,
    Begin,
    Commit,
    FrameReader,
    JournalAck,
    ReplicaEntry,
    Row,
    Rows,
    decode_from_control,
    decode_service,
    pack_frame,
)
from mooring.gateway import feed as feed_module
from mooring.gateway.feed import Feed, load_snapshot
from mooring.reconcile.feed import Feed as FeedServer
from mooring.store import changes, tables
from mooring.store.database import Database, migrate
from mooring.testing.feed_server import FakeFeed, until
from mooring.testing.gateway import PEPPER, RunningGateway, endpoint_row, key_row, service_row
from mooring.testing.raw_client import CHAT, RawClient
from mooring.testing.upstream import ScriptedUpstream, json_response


@pytest.fixture
async def control(folder):
    server = FakeFeed(folder / "run" / "feed.sock")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def dial():
    """Opens connections to the gateway and closes them after the test."""
    opened: list[RawClient] = []

    async def one(port: int, limit: int = 1 << 24) -> RawClient:
        opened.append(RawClient(*await asyncio.open_connection("127.0.0.1", port, limit=limit)))
        return opened[-1]

    yield one
    for client in opened:
        client.reset()


class Worker:
    """A gateway with its feed, without a table of its own making."""

    def __init__(self, folder: Path, **settings) -> None:
        self.gateway = RunningGateway(folder, **settings)
        self.saved = folder / "snapshot.bin"

    async def start(self) -> None:
        await self.gateway.start()
        loaded = load_snapshot(self.saved, asyncio.get_running_loop())
        if loaded is not None:
            self.parts.table = loaded
        feed = Feed(self.parts, str(self.gateway.settings.run_dir / "feed.sock"), self.saved)
        self._tasks = [asyncio.create_task(one) for one in (feed.run(), feed.push_journal(), feed.save_snapshots())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
        await self.gateway.stop()

    @property
    def parts(self):
        return self.gateway.parts

    async def ask(self, key: str = "mk-test", body=CHAT, path: str = "/v1/chat/completions"):
        client = await RawClient.open(self.gateway.port)
        try:
            if path != "/v1/chat/completions":
                return await asyncio.wait_for(client.ask(None, path, method="GET", key=key), 3)
            return await asyncio.wait_for(client.ask(body, key=key), 3)
        finally:
            client.close()


@pytest.fixture
async def make_worker(folder, monkeypatch):
    monkeypatch.setattr(feed_module, "_SAVE_S", 0.02)
    monkeypatch.setattr(feed_module, "_PUSH_S", 0.02)
    made: list[Worker] = []

    async def make(**settings) -> Worker:
        worker = Worker(folder, **settings)
        await worker.start()
        made.append(worker)
        return worker

    yield make
    for worker in made:
        await worker.stop()


@pytest.fixture
async def worker(make_worker, control):
    return await make_worker()


@pytest.fixture
async def served(worker, control, upstream):
    """A worker that has its first table, at version 1."""
    await control.dialled()
    control.full(1, [key_row(), service_row(upstream.address), endpoint_row()])
    await control.acknowledged(1)
    return worker


# --- the table


async def test_before_the_first_table_calls_are_refused_with_a_time_to_repeat(worker, control):
    hello = await control.dialled()
    assert (hello.version, hello.worker) == (-1, worker.parts.journal.writer)
    answer = await worker.ask()
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


async def test_a_full_table_in_many_messages_takes_effect_at_its_commit(worker, control, upstream):
    await control.dialled()
    control.send(Begin("epoch", -1, 7, True, PEPPER))
    rows = [key_row(f"mk-{number}") for number in range(1200)]
    for start in range(0, 1200, 100):
        control.send(Rows(tuple(rows[start : start + 100])))
    control.send(Rows((service_row(upstream.address),)), Rows((endpoint_row(),)))
    assert (await worker.ask("mk-7")).status == 503
    control.send(Commit(7))
    await control.acknowledged(7)
    assert [(await worker.ask(f"mk-{number}")).status for number in (0, 7, 1199)] == [200, 200, 200]
    assert (await worker.ask("mk-1200")).status == 401


async def test_a_delta_adds_a_key_and_another_takes_it_away_also_on_a_kept_connection(dial, served, control):
    client = await dial(served.gateway.port)
    control.delta(1, 2, key_row("mk-new"))
    await control.acknowledged(2)
    assert [(await client.ask(CHAT, key="mk-new")).status for _ in range(2)] == [200, 200]
    control.delta(2, 3, Row("key", "key-mk-new", None))
    await control.acknowledged(3)
    refused = await client.ask(CHAT, key="mk-new")
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    assert (await client.ask(CHAT)).status == 200


async def test_a_disabled_key_and_a_changed_one_take_effect_at_once(served, control):
    assert (await served.ask()).status == 200
    control.delta(1, 2, key_row(enabled=False))
    await control.acknowledged(2)
    assert (await served.ask()).status == 401
    control.delta(2, 3, key_row(endpoints=("ep-other",)))
    await control.acknowledged(3)
    assert (await served.ask()).status == 404


async def test_a_delta_takes_effect_as_a_whole_at_its_commit(served, control):
    control.send(Begin("epoch", 1, 2, False, PEPPER), Rows((Row("endpoint", "ep-1", None),)))
    control.send(Rows((key_row("mk-new"),)))
    await asyncio.sleep(0)
    assert (await served.ask()).status == 200
    assert (await served.ask("mk-new")).status == 401
    control.send(Commit(2))
    await control.acknowledged(2)
    assert (await served.ask()).status == 404
    assert (await served.ask("mk-new")).status == 404


async def test_a_delta_on_another_base_makes_the_worker_dial_again_and_say_where_it_stands(served, control):
    control.delta(5, 6, key_row("mk-new"))
    hello = await control.dialled(2)
    assert (hello.epoch, hello.version) == ("epoch", 1)
    control.full(6, [key_row("mk-new")])
    await control.acknowledged(6)
    assert [(await served.ask(key)).status for key in ("mk-new", "mk-test")] == [404, 401]


@pytest.mark.parametrize(
    "frames",
    [
        pack_frame(Commit(9)),
        pack_frame(Begin("epoch", 1, 2, False, PEPPER)) + pack_frame(Commit(3)),
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        pack_frame(Begin("epoch", 1, 2, False, PEPPER))
        + pack_frame(Rows((Row("service", "svc-1", b"\xc1"),)))
        + pack_frame(Commit(2)),
    ],
    ids=["commit without begin", "another commit", "endless frame", "not msgpack", "row that is nothing"],
)
async def test_nonsense_from_control_makes_the_worker_dial_again_and_serve_on(served, control, frames):
    control._writer.write(frames)
    hello = await control.dialled(2)
    assert hello.version == 1
    assert (await served.ask()).status == 200


async def test_frames_cut_anywhere_are_read(worker, control, upstream):
    await control.dialled()
    frames = [Begin("epoch", -1, 1, True, PEPPER), Rows((key_row(), service_row(upstream.address), endpoint_row()))]
    for byte in b"".join(pack_frame(frame) for frame in (*frames, Commit(1))):
        control._writer.write(bytes([byte]))
        await asyncio.sleep(0)
    await control.acknowledged(1)
    assert (await worker.ask()).status == 200


async def test_a_full_set_that_breaks_off_leaves_the_table_as_it_was(served, control, upstream):
    control.send(Begin("epoch", -1, 9, True, PEPPER), Rows((key_row("mk-new"),)))
    control.hang_up()
    hello = await control.dialled(2)
    assert hello.version == 1
    assert [(await served.ask(key)).status for key in ("mk-test", "mk-new")] == [200, 401]


async def test_a_new_epoch_replaces_everything_and_running_connections_go_on(dial, served, control, upstream):
    client = await dial(served.gateway.port)
    assert (await client.ask(CHAT)).status == 200
    pepper = b"q" * 32
    row = Row("key", "key-mk-test", key_row().data, (key_digest("mk-test", pepper),))
    control.full(1, [row, service_row(upstream.address), endpoint_row()], epoch="restored", pepper=pepper)
    await until(lambda: served.parts.table.epoch == "restored")
    assert (await client.ask(CHAT)).status == 200
    assert upstream.connections == 1  # an unchanged replica keeps its connections
    control.hang_up()
    assert (await control.dialled(2)).epoch == "restored"


async def test_a_service_that_moves_is_called_where_it_is_now(served, control, upstream):
    other = ScriptedUpstream()
    await other.start()
    assert (await served.ask()).status == 200
    control.delta(1, 2, service_row(other.address))
    await control.acknowledged(2)
    assert (await served.ask()).status == 200
    assert (len(upstream.received), len(other.received)) == (1, 1)
    await until(lambda: upstream.open == 0)  # what was idle is closed
    await other.stop()


# --- control goes silent, goes away, comes back


async def test_after_a_second_of_silence_the_worker_dials_again(served, control):
    control.beating = False
    loop = asyncio.get_running_loop()
    start = loop.time()
    await control.dialled(2)
    assert 0.8 < loop.time() - start < 3
    assert (await served.ask()).status == 200


async def test_beats_keep_the_connection(served, control):
    loop = asyncio.get_running_loop()
    start = loop.time()
    await until(lambda: loop.time() - start > 1.3)
    assert len(control.hellos) == 1


async def test_without_control_the_table_serves_on_and_control_is_found_again(served, control):
    await control.stop()
    assert (await served.ask()).status == 200
    assert (await served.ask(path="/v1/models")).status == 200
    await control.start()
    hello = await control.dialled(2)
    assert (hello.epoch, hello.version) == ("epoch", 1)
    control.delta(1, 2, key_row("mk-new"))
    await control.acknowledged(2)
    assert (await served.ask("mk-new")).status == 200


async def test_a_table_older_than_allowed_is_not_used_until_control_is_back(make_worker, control, upstream):
    worker = await make_worker(max_stale_s=0.6)
    await control.dialled()
    control.full(1, [key_row(), service_row(upstream.address), endpoint_row()])
    await control.acknowledged(1)
    assert (await worker.ask()).status == 200
    await control.stop()
    now = asyncio.get_running_loop().time
    start = now()
    while (answer := await worker.ask()).status == 200:
        assert now() - start < 5
        await asyncio.sleep(0.02)
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]
    assert now() - start > 0.3
    assert (await worker.ask(path="/v1/models")).status == 503
    await control.start()
    await control.dialled(2)
    control.send(Beat(1))
    await until(lambda: worker.parts.timers.now - worker.parts.table.updated_at < 0.3)
    assert (await worker.ask()).status == 200


async def test_beats_keep_an_unchanged_table_fresh(make_worker, control, upstream):
    worker = await make_worker(max_stale_s=0.6)
    await control.dialled()
    control.full(1, [key_row(), service_row(upstream.address), endpoint_row()])
    await control.acknowledged(1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    while loop.time() - start < 1.2:
        assert (await worker.ask()).status == 200
        await asyncio.sleep(0.05)


# --- the journal


async def test_records_are_pushed_and_acknowledged(served, control):
    answers = [await served.ask() for _ in range(5)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    await until(lambda: set(control.store.records) == ids)
    await until(lambda: not served.parts.journal.unacknowledged)


async def test_records_that_were_not_acknowledged_are_pushed_again_after_a_new_dial(dial, served, control):
    control.ingesting = False
    ids = {(await served.ask()).headers["x-request-id"] for _ in range(5)}
    await until(
        lambda: len(control.pushes) >= 1 and control.pushes[-1].offset == served.parts.journal._current.position
    )
    assert served.parts.journal.unacknowledged
    control.ingesting = True
    control.hang_up()
    await control.dialled(2)
    await until(lambda: set(control.store.records) == ids)
    await until(lambda: not served.parts.journal.unacknowledged)
    assert control.store.conflicts == []


async def test_records_made_while_control_is_away_come_when_it_is_back(served, control):
    await control.stop()
    ids = {(await served.ask()).headers["x-request-id"] for _ in range(30)}
    await control.start()
    await until(lambda: set(control.store.records) == ids)


async def test_a_store_that_went_back_gets_the_records_again(served, control):
    ids = {(await served.ask()).headers["x-request-id"] for _ in range(3)}
    await until(lambda: set(control.store.records) == ids)
    await until(lambda: not served.parts.journal.unacknowledged)
    last = control.pushes[-1]
    control.store = type(control.store)()  # restored from a backup that knows nothing of them
    control.send(JournalAck(last.writer, last.segment, 0))
    await until(lambda: set(control.store.records) == ids)
    await until(lambda: not served.parts.journal.unacknowledged)


async def test_an_acknowledgement_of_somebody_elses_journal_changes_nothing(served, control):
    control.ingesting = False
    await served.ask()
    await until(lambda: bool(control.pushes))
    push = control.pushes[-1]
    control.send(JournalAck("another", push.segment, push.offset), JournalAck(push.writer, 99, push.offset))
    control.send(Beat(1))
    await asyncio.sleep(0.05)
    assert served.parts.journal.unacknowledged


# --- the saved table


def saved_rows(path: Path) -> dict[tuple[str, str], Row]:
    messages = [decode_from_control(body) for body in FrameReader().feed(path.read_bytes())]
    assert isinstance(messages[0], Begin)
    assert isinstance(messages[-1], Commit)
    return {(row.table, row.id): row for message in messages if isinstance(message, Rows) for row in message.rows}


def secret_service(address: str, **fields) -> Row:
    replicas = (ReplicaEntry("rep-s", address, "sk-upstream-secret", True),)
    return service_row(address, id="svc-2", name="paid", replicas=replicas, **fields)


async def test_the_table_is_saved_for_its_owner_alone_and_without_upstream_credentials(served, control, upstream):
    control.delta(1, 2, secret_service(upstream.address))
    await control.acknowledged(2)
    await until(lambda: served.saved.exists() and ("service", "svc-2") in saved_rows(served.saved))
    assert stat.S_IMODE(served.saved.stat().st_mode) == 0o600
    assert b"sk-upstream-secret" not in served.saved.read_bytes()
    entry = decode_service(saved_rows(served.saved)["service", "svc-2"].data)
    assert (entry.replicas[0].key, entry.replicas[0].ready) == (None, False)
    assert (await served.ask(body={**CHAT, "model": "paid"})).status == 200  # the table itself has the credential
    assert upstream.received[-1].headers["authorization"] == "Bearer sk-upstream-secret"


async def test_a_row_that_is_gone_is_gone_from_the_saved_table_too(served, control):
    await until(lambda: served.saved.exists() and ("key", "key-mk-test") in saved_rows(served.saved))
    control.delta(1, 2, Row("key", "key-mk-test", None))
    await control.acknowledged(2)
    await until(lambda: ("key", "key-mk-test") not in saved_rows(served.saved))


async def test_a_worker_without_control_serves_the_saved_table(make_worker, control, upstream, folder):
    first = await make_worker()
    await control.dialled()
    rows = [key_row(), service_row(upstream.address), endpoint_row(), secret_service(upstream.address)]
    control.full(4, rows)
    await control.acknowledged(4)
    await until(first.saved.exists)
    await control.stop()
    second = await make_worker()
    assert (await second.ask()).status == 200
    assert (await second.ask("mk-other")).status == 401
    refused = await second.ask(body={**CHAT, "model": "paid"})
    assert (refused.status, refused.error["code"]) == (503, "service_not_ready")
    await control.start()
    hello = await control.dialled(2)
    while hello.worker != second.parts.journal.writer:
        hello = await control.dialled(len(control.hellos) + 1)
    assert hello.epoch == ""  # asks for everything: the saved table lacks the credentials
    control.full(4, rows)
    await until(lambda: second.parts.table.epoch == "epoch")
    assert (await second.ask(body={**CHAT, "model": "paid"})).status == 200


async def test_a_full_set_that_breaks_off_does_not_harm_the_saved_table(served, control):
    control.delta(1, 2, key_row("mk-two"))
    await control.acknowledged(2)
    control.send(Begin("epoch", -1, 9, True, PEPPER), Rows((key_row("mk-new"),)))
    control.hang_up()
    await control.dialled(2)
    control.delta(2, 3, key_row("mk-three"))
    await control.acknowledged(3)
    await until(lambda: ("key", "key-mk-three") in saved_rows(served.saved))
    kept = {name for _, name in saved_rows(served.saved)}
    assert kept == {"key-mk-test", "key-mk-two", "key-mk-three", "svc-1", "ep-1"}


async def test_a_save_during_a_full_set_saves_the_table_in_use(served, control, monkeypatch):
    await until(lambda: served.saved.exists() and len(saved_rows(served.saved)) == 3)
    control.delta(1, 2, key_row("mk-two"))
    control.send(Begin("epoch", -1, 9, True, PEPPER), Rows((key_row("mk-new"),)))
    await control.acknowledged(2)
    await until(lambda: len(saved_rows(served.saved)) != 3)
    assert {name for _, name in saved_rows(served.saved)} == {"key-mk-test", "key-mk-two", "svc-1", "ep-1"}


GOOD = [Begin("epoch", -1, 4, True, PEPPER), Rows((key_row(),)), Commit(4)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"nonsense" * 10,
        b"".join(map(pack_frame, GOOD))[:-1],
        b"".join(map(pack_frame, GOOD[:2])),
        b"".join(map(pack_frame, GOOD[1:])),
        b"".join(map(pack_frame, (GOOD[0], Rows((Row("service", "svc-1", b"\xc1"),)), GOOD[2]))),
        b"".join(map(pack_frame, (GOOD[0], Rows((Row("service", "svc-1", b"\x91\xa1a"),)), GOOD[2]))),
    ],
    ids=["empty", "short", "nonsense", "cut", "no commit", "no begin", "broken row", "row of another release"],
)
async def test_a_saved_table_that_can_not_be_read_is_no_table(folder, data):
    path = folder / "snapshot.bin"
    path.write_bytes(data)
    assert load_snapshot(path, asyncio.get_running_loop()) is None


async def test_without_a_saved_table_there_is_none(folder):
    assert load_snapshot(folder / "snapshot.bin", asyncio.get_running_loop()) is None


# --- against the real control


async def test_the_real_feed_brings_keys_takes_them_away_and_takes_the_journal(make_worker, folder, upstream):
    url = f"sqlite:///{folder}/m.db"
    await asyncio.to_thread(migrate, url)
    db = Database(url)
    (folder / "run").mkdir()
    server = FeedServer(folder / "run" / "feed.sock", url, pepper=PEPPER, unseal=lambda sealed: sealed)
    now = datetime(2026, 11, 21, tzinfo=UTC)
    async with db.transaction() as tx:
        person = {"id": "usr-1", "name": "a", "role": "administrator", "enabled": True, "created_at": now}
        await tx.execute(sa.insert(tables.users).values(person))
        key = {"id": "key-1", "project": "default", "label": "k", "owner": "usr-1", "created_at": now}
        digests = {"digest": key_digest("mk-real", PEPPER), "access_digest": key_digest("ak-real", PEPPER)}
        await tx.execute(sa.insert(tables.api_keys).values({**key, **digests}))
        await changes.record(tx, "key", ["key-1"])
    server.start()
    db.on_commit.append(server.wake)
    worker = await make_worker()
    try:
        await until(lambda: worker.parts.table.loaded)
        assert (await worker.ask("mk-real", path="/v1/models")).status == 200
        async with db.transaction() as tx:
            await tx.execute(sa.delete(tables.api_keys))
            version = await changes.record(tx, "key", ["key-1"])
        assert await server.wait_acknowledged(version, 3.0) == []
        assert (await worker.ask("mk-real", path="/v1/models")).status == 401
        await asyncio.to_thread(server.stop)
        assert (await worker.ask("mk-real", path="/v1/models")).status == 401
    finally:
        await asyncio.to_thread(server.stop)
        await db.close()


async def test_a_revoked_key_ends_no_answer_that_is_under_way(served, control, upstream):
    go_on = asyncio.Event()

    async def script(received, line):
        await go_on.wait()
        await line.send(json_response({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}))

    upstream.script = script
    asking = asyncio.ensure_future(served.ask())
    await until(lambda: bool(upstream.received))
    control.delta(1, 2, Row("key", "key-mk-test", None), Row("service", "svc-1", None))
    await control.acknowledged(2)
    go_on.set()
    assert (await asking).status == 200
    await until(lambda: [one.key_id for one in control.store.records.values()] == ["key-mk-test"])
