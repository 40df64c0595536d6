"""Several workers, and workers that come and go under load."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.load import Load, Log
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user

APPLIED = "read_states_updates_applied_total"
QUERIES = "read_states_queries_total{outcome=hit}"
LOADED = "read_states_cassandra_loads_total{outcome=loaded}"
OPENED = re.compile(r"table_open partition=\d+ warm=(True|False)")
HANDED_OVER = re.compile(r"handed_over partition=(\d+) .*committed=True")


def traffic(
    seed: int, users: int = 120, channels: int = 12
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Valid events of all forms, more mentions than acks: what is lost or doubled shows."""
    rng = random.Random(seed)
    pool = [new_user() for _ in range(users)]
    clock = 1_000_000
    while True:
        clock += 1
        yield rng.choice(pool), event_of(rng, rng.randint(1, channels), clock)


def event_of(rng: random.Random, channel: int, clock: int) -> dict[str, Any]:
    """An event about the newest message of a channel, or one of the last before it."""
    message = str(clock - rng.choice([0, 0, 0, rng.randint(1, 2000)]))
    here = {"channel_id": str(channel)}
    draw = rng.random()
    if draw < 0.55:
        return {"type": "mention", **here, "message_id": message, "edit": rng.choice([0, 0, 2])}
    if draw < 0.75:
        return {"type": "ack", **here, "message_id": message, "flags": rng.randint(0, 3)}
    if draw < 0.77:
        known = str((8 << 48) + rng.randint(0, 5000))
        return {"type": "ack", **here, "message_id": message, "if_version": known}
    if draw < 0.82:
        count, ids = {"mention_count": rng.randint(0, 5)}, {"mention_ids": [clock + 1]}
        more: dict[str, Any] = rng.choice([count, ids, {}])
        return {"type": "ack", **here, "message_id": message, "manual": True, **more}
    if draw < 0.90:
        return {"type": "retract_mention", **here, "message_id": message, "edit": rng.randint(0, 2)}
    if draw < 0.92:
        return {"type": "retract_mention", **here, "message_id": message}
    if draw < 0.94:
        return {"type": "pins_ack", **here, "timestamp": clock}
    if draw < 0.95:
        return {"type": "set", **here, "flags": rng.randint(0, 3)}
    if draw < 0.96:
        return {"type": "merge", **here, "last_message_id": message, "mention_count": 3}
    if draw < 0.98:
        acks = [{"channel_id": str(c), "message_id": message} for c in range(1, channel + 1)]
        return {"type": "bulk_ack", "acks": acks}
    if draw < 0.99:
        up_to = rng.choice([{}, {"up_to": message}])
        return {"type": "delete", **here, **up_to}
    return rng.choice(
        [
            {"type": "delete_user"},
            {"type": "delete_user", "final": True},
            {"type": "restore_user"},
            {"type": "restore_user"},
        ]
    )


class Sentinel:
    """A user whose watermark only rises: no reply may show a smaller one than an earlier reply."""

    def __init__(self, service: Service) -> None:
        self._wire, self.user = service.wire, new_user()
        self._sent = self._seen = 0

    def look(self) -> None:
        self._sent += 1
        event = {"type": "ack", "channel_id": "1", "message_id": str(self._sent)}
        offset = self._wire.produce_update(self.user, event)
        for body in ({}, {"after_offset": offset}):
            reply = self._wire.query(self.user, body, deadline_s=30, timeout_s=31)
            assert reply is not None
            assert reply.error is None, reply.value
            seen = int(reply.states[0]["last_message_id"]) if reply.states else 0
            assert seen >= self._seen, "a state went back"
            self._seen = seen
        assert self._seen == self._sent


def equal(service: Service, log: Log, load: Load) -> None:
    """With the load paused and all durable: Cassandra is the fold of the log, nothing else."""
    load.pause()
    ends = log.read()
    service.wait_durable(ends)
    found, expected = service.wire.rows.all(), log.rows()
    assert found.keys() == expected.keys()
    assert {k: (v, expected[k]) for k, v in found.items() if v != expected[k]} == {}
    assert len(found) > 300, "too little to prove anything"
    assert log.oracle.bad == 0
    assert service.wire.dead_letters() == []


def owned(worker: WorkerProcess) -> set[str]:
    """Partitions that are open in a worker, by its gauges."""
    name = "read_states_resident_states{partition="
    return {k[len(name) : -1] for k in worker.metrics() if k.startswith(name)}


def lagging(worker: WorkerProcess) -> set[str]:
    """Partitions of which a worker shows the lag."""
    name = "read_states_processing_lag_records{"
    return {k.partition("partition=")[2][0] for k in worker.metrics() if k.startswith(name)}


def shows_what_it_owns(worker: WorkerProcess) -> bool:
    return lagging(worker) == owned(worker)


@pytest.fixture
def pair(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "pair", flush_delay_s=1)
    yield made
    made.close()


def test_two_workers(pair: Service) -> None:
    """A second comes, the first goes, under load; a partition's records are with one of them.

    What does not move is neither closed nor opened.
    """
    service, log = pair, Log(pair.wire)
    load = Load(service.wire, traffic(1), 1500)
    try:
        first = service.start()
        first.wait_ready()
        load.go()
        sentinel = Sentinel(service)
        sentinel.look()
        second = service.start()
        second.wait_ready()
        both = {str(n) for n in range(PARTITIONS)}
        until(
            lambda: owned(first) and owned(second) and not owned(first) & owned(second),
            "both own some",
        )
        assert owned(first) | owned(second) == both
        assert set(HANDED_OVER.findall(first.output())) == owned(second)
        assert len(OPENED.findall(first.output())) == PARTITIONS, "what stays is not opened again"
        for worker in (first, second):
            until(partial(shows_what_it_owns, worker), "gauges of what it owns")
        sentinel.look()
        equal(service, log, load)
        together(service)

        load.go()
        sentinel.look()
        assert first.stop() == 0
        until(lambda: owned(second) == both, "the second owns all")
        sentinel.look()
        equal(service, log, load)
        assert second.stop() == 0
        assert service.wire.rows.all() == log.rows()
    finally:
        load.close()
        log.close()


def together(service: Service) -> None:
    """For each partition: the worker that applies its updates answers its queries."""
    for number in range(PARTITIONS):
        user, applied = new_user(number), f"{APPLIED}{{partition={number}}}"

        def counts(name: str) -> list[float]:
            return [w.metrics().get(name, 0.0) for w in service.workers]

        before = counts(applied), counts(QUERIES)
        for message in range(1, 4):
            event = {"type": "ack", "channel_id": "1", "message_id": str(message)}
            offset = service.wire.produce_update(user, event)
        service.wire.get(user, after_offset=offset)
        for _ in range(3):
            service.wire.get(user)

        def gained(name: str, old: list[float]) -> list[float]:
            return [new - was for new, was in zip(counts(name), old, strict=True)]

        def counted(name: str = applied, old: list[float] = before[0]) -> list[float] | None:
            found = gained(name, old)
            return found if sum(found) == 3 else None

        updates = until(counted, f"updates of partition {number} counted")
        queries = gained(QUERIES, before[1])
        assert sorted(updates) == [0, 3]
        assert sum(queries) >= 3
        assert [n > 0 for n in updates] == [n > 0 for n in queries]


@pytest.fixture
def killed(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "killed", flush_delay_s=1, instance_id="one")
    yield made
    made.close()


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.long)])
def test_kill_and_restart(killed: Service, kills: int) -> None:
    """kill -9 in the middle of the load, several times; each time all is there, and once.

    Tables of a killed worker are used again: the users in them are not loaded.
    """
    service, log = killed, Log(killed.wire)
    load = Load(service.wire, traffic(2), 1500)
    try:
        service.start().wait_ready()
        sentinel = Sentinel(service)
        warm, loaded = 0, 0.0
        for number in range(kills):
            load.go()
            sentinel.look()
            enough = load.sent + 200 * (1 + number % 5)

            def has_sent(enough: int = enough) -> bool:
                return load.sent > enough

            until(has_sent, "load")
            assert service.workers[-1].kill() == -9
            service.start().wait_ready()
            sentinel.look()
            equal(service, log, load)
            opened = OPENED.findall(service.workers[-1].output())
            assert len(opened) == PARTITIONS
            warm += opened.count("True")
            loaded += service.workers[-1].metrics().get(LOADED, 0)
        # a kill in the middle of a slot's change drops the table
        assert warm > kills * PARTITIONS * 3 // 4
        assert loaded < kills * 40, "120 users each time, where no table is used"
        assert service.workers[-1].stop() == 0
        assert service.wire.rows.all() == log.rows()
    finally:
        load.close()
        log.close()
