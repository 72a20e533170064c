"""Callers in line for a place in an engine: order, leaving, the end of the service."""

from __future__ import annotations

import asyncio

from mooring.testing.gateway import service_row
from mooring.testing.raw_client import CHAT, RawClient, request, until
from mooring.testing.upstream import chat_answer, json_response


def with_slots(upstream, slots):
    from mooring.core.snapshot import ReplicaEntry

    return service_row([], replicas=(ReplicaEntry("r", upstream.address, None, True, slots),))


async def test_more_requests_than_places_wait_in_order_and_all_are_answered(gateway, upstream):
    gateway.rows(with_slots(upstream, 1))
    at_once, most, order = 0, 0, []

    async def script(received, line):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        order.append(received.json["n"])
        await asyncio.sleep(0.002)
        at_once -= 1
        await line.send(json_response(chat_answer()))

    upstream.script = script
    clients = [await RawClient.open(gateway.port) for _ in range(40)]
    for number, raw in enumerate(clients):
        await raw.send(request({**CHAT, "n": number}))
        await until(lambda number=number: len(gateway.parts.connections) > number)
    assert [(await raw.read_answer()).status for raw in clients] == [200] * 40
    assert most == 2
    assert sorted(order[:2]) == [0, 1]  # these two dialled side by side
    assert order[2:] == sorted(order[2:])
    assert not gateway.parts.waiting.occupied("svc-1")
    for raw in clients:
        raw.close()


async def test_who_leaves_the_line_frees_the_place_and_nobody_is_forgotten(gateway, upstream):
    gateway.rows(with_slots(upstream, 1))
    go_on = asyncio.Event()

    async def script(received, line):
        await go_on.wait()
        await line.send(json_response(chat_answer()))

    upstream.script = script
    clients = [await RawClient.open(gateway.port) for _ in range(12)]
    for raw in clients:
        await raw.send(request(CHAT))
    await until(lambda: gateway.parts.waiting.occupied("svc-1") and len(upstream.received) == 2)
    for raw in clients[0:10:2]:
        raw.reset()
    await until(lambda: len(gateway.parts.connections) == 7)
    go_on.set()
    for raw in clients[1:10:2] + clients[10:]:
        assert (await asyncio.wait_for(raw.read_answer(), 3)).status == 200
        raw.close()
    ended = [record.ended for record in gateway.records()]
    assert (ended.count("aborted"), ended.count("complete")) == (5, 7)
    assert all(replica.in_flight == 0 for replica in gateway.parts.table.services["svc-1"].replicas)


async def test_the_line_ends_with_the_service(gateway, upstream):
    gateway.rows(with_slots(upstream, 1))

    async def script(received, line):
        await line.closed.wait()

    upstream.script = script
    clients = [await RawClient.open(gateway.port) for _ in range(5)]
    for raw in clients:
        await raw.send(request(CHAT))
    await until(lambda: gateway.parts.waiting.occupied("svc-1") and len(upstream.received) == 2)
    gateway.rows(service_row([], state="stopped"))
    for raw in clients[2:]:
        assert (await asyncio.wait_for(raw.read_answer(), 3)).status == 503
    for raw in clients:
        raw.reset()
