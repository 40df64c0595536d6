"""Mention storm: one message mentions a million users who are offline.

The worker is real. Some thousands of users are online: they are resident, have a steady trickle of
updates, and are asked for all the time, in an open loop. Then a mention for each of a million
others, none of them resident, is put into the log as fast as the broker takes it. Each of these has
to be loaded from Cassandra (which has no rows for them), counted, and written out.

A bare echo beside the storm gets as many queries, with a topic of its own on the same broker.

Goals: queries of the users online take at most 1.5 times as long at p99 as those of the echo beside
the same storm, and every one of them is still a hit; the worker's memory, without its tables, stays
under the bound that ARCHITECTURE states; and the storm ends: its last mention is committed, so it
is in Cassandra.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import orjson
from confluent_kafka import Consumer, TopicPartition

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.worker import WorkerProcess
from ..proof.traffic import Record
from . import asking, echo, picture
from .open_loop import Queries, Updates, create_reply_topic, send_all
from .suite import Goal, Suite

PARTITIONS = 8
ONLINE = 10_000
UPDATES_A_SECOND = 500
QUERIES_A_SECOND = 250  # to each of both
REPLY_BYTES = 2_000  # the echo's: about the size of the replies
ECHO, ECHO_REPLIES = "storm.echo", "storm.replies.echo"
MEMORY_MB_MAX = 400
TIMEOUT_S = 900.0


def acks(user_ids: Sequence[int]) -> Iterator[Record]:
    """Endless acks of users online, first one for each of them."""
    rand, number = random.Random(6), 0
    while True:
        user_id = user_ids[number] if number < len(user_ids) else rand.choice(user_ids)
        number += 1
        channel_id = 10**17 + rand.randrange(8)
        event = {"type": "ack", "user_id": user_id, "channel_id": channel_id}
        yield Record(b"%d" % user_id, orjson.dumps({**event, "message_id": 10**18 + number}))


def mentions(user_ids: Sequence[int]) -> Iterator[Record]:
    """The mentions of one message, one for each user."""
    for user_id in user_ids:
        event = {"type": "mention", "user_id": user_id, "channel_id": 1, "message_id": 2 * 10**18}
        yield Record(b"%d" % user_id, orjson.dumps(event))


def storm(env: Mapping[str, str], user_ids: Sequence[int]) -> int:
    """Sends the storm as fast as the broker takes it."""
    return send_all(Settings.load(env), mentions(user_ids))


class Memory(threading.Thread):
    """Samples the worker's memory beside its tables, and its processing lag, twice per second."""

    def __init__(self, worker: WorkerProcess) -> None:
        super().__init__(daemon=True)
        self._worker = worker
        self._ended = threading.Event()
        self.at_s: list[float] = []
        self.mb: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self.at_s.append(time.monotonic())
            self.mb.append(private_mb(self._worker.pid))

    def finish(self) -> None:
        self._ended.set()
        self.join()


def private_mb(pid: int) -> float:
    """Memory of a process without its mapped tables."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise click.ClickException("the kernel does not say RssAnon")


def run(suite: Suite) -> None:
    """Run before, during and after the storm, and report its effect."""
    offline, calm_s = (20_000, 6.0) if suite.quick else (1_000_000, 30.0)
    if suite.quick:
        suite.leave_out(f"1,000,000 users: {offline:,}")
    source = random.Random(5)
    ids = source.sample(range(10**17, 10**18), ONLINE + offline)
    online, others = ids[:ONLINE], ids[ONLINE:]
    settings, env = _prepare(suite)
    worker = WorkerProcess(env, suite.scratch / "worker.log").start()
    # the storm comes from a separate process, because in this one it would hold up the clients
    sender = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    try:
        with echo.beside(settings, ECHO, REPLY_BYTES):
            sender.submit(os.getpid).result()
            worker.wait_ready()
            warm_up = acks(online)
            send_all(settings, (next(warm_up) for _ in range(5 * ONLINE)))
            updates = Updates(settings, acks(online), UPDATES_A_SECOND)
            queries = Queries(settings, PARTITIONS, online, QUERIES_A_SECOND)
            echoes = Queries(
                settings, PARTITIONS, online, QUERIES_A_SECOND, topic=ECHO, reply_topic=ECHO_REPLIES
            )
            memory = Memory(worker)
            running = (updates, queries, echoes, memory)
            for thread in running:
                thread.start()
            time.sleep(5 + calm_s)
            before = worker.metrics()
            storm_s = time.monotonic()
            sender.submit(storm, env, others).result()
            drained_s = until_applied(settings, worker, storm_s)
            after = worker.metrics()
            durable_s = until_durable(settings, storm_s)
            for thread in running:
                thread.finish()
    finally:
        worker.stop()
        sender.shutdown()
    calm, hit, echoed = (
        sorted(took for _, took, _ in asked.between(begin_s, end_s))
        for asked, begin_s, end_s in (
            (queries, storm_s - calm_s, storm_s),
            (queries, storm_s, storm_s + drained_s),
            (echoes, storm_s, storm_s + drained_s),
        )
    )
    if not hit or min(calm[0], hit[0], echoed[0]) < 0:
        raise click.ClickException("a query was never answered")
    name = "read_states_queries_total{outcome=miss}"
    misses = after.get(name, 0.0) - before.get(name, 0.0)
    suite.measured["figures"] = {
        "drained_s": drained_s,
        "durable_s": durable_s,
        "p50_ms": [1000 * one[len(one) // 2] for one in (calm, hit, echoed)],
        "memory_mb": memory.mb,
    }
    suite.say(f"  drained in {drained_s:.1f} s, durable in {durable_s:.1f} s")
    p99 = [1000 * one[int(0.99 * len(one))] for one in (calm, hit, echoed)]
    suite.line("queries of residents, p99", [p99[1]], "before it", [p99[0]], "ms")
    peer, goal = "bare echo beside the storm", Goal(at_most=1.5)
    suite.line("queries of residents, p99", [p99[1]], peer, [p99[2]], "ms", goal)
    suite.bound("misses of residents", [misses], "", Goal(at_most=0))
    suite.bound("memory beside the tables", [max(memory.mb)], "MB", Goal(at_most=MEMORY_MB_MAX))
    suite.bound("offline users drained", [offline / drained_s], "users/s", Goal())
    if not suite.quick:
        draw(suite, queries, memory, storm_s, drained_s)


def _prepare(suite: Suite) -> tuple[Settings, dict[str, str]]:
    """Make topics and a keyspace; returns the worker's settings and its environment."""
    env = {
        **asking.servers(suite),
        "READ_STATES_CACHE_DIR": str(suite.scratch / "tables"),
        "READ_STATES_FLUSH_DELAY_S": "3" if suite.quick else "30",
    }
    settings = Settings.load(env)
    topics.create(settings, PARTITIONS, 1)
    create_reply_topic(settings)
    create_reply_topic(settings, ECHO_REPLIES)
    asking.make_topic(settings, ECHO, PARTITIONS)
    store = Store(settings)
    store.create_schema()
    store.close()
    return settings, env


def _lag(settings: Settings, partition: int) -> str:
    return (
        f"read_states_processing_lag_records{{partition={partition},"
        f"topic={settings.updates_topic}}}"
    )


def until_applied(settings: Settings, worker: WorkerProcess, begin_s: float) -> float:
    """Seconds until no update waits to be read or is parked."""
    while True:
        time.sleep(0.25)
        metrics = worker.metrics()
        waiting = sum(metrics.get(_lag(settings, n), 1e9) for n in range(PARTITIONS))
        waiting += metrics.get("read_states_parked_updates", 0.0)
        took_s = time.monotonic() - begin_s
        if took_s > 2 and waiting < UPDATES_A_SECOND:  # the trickle's own
            return took_s
        if took_s > TIMEOUT_S:
            raise click.ClickException(f"{waiting:,.0f} updates wait after {TIMEOUT_S:.0f} s")


def until_durable(settings: Settings, begin_s: float) -> float:
    """Seconds until everything in the log at the call is committed."""
    consumer = Consumer(settings.librdkafka(**{"group.id": settings.kafka_group}))
    places = [TopicPartition(settings.updates_topic, n) for n in range(PARTITIONS)]
    ends = [consumer.get_watermark_offsets(place, timeout=10)[1] for place in places]
    try:
        while True:
            committed = [p.offset for p in consumer.committed(places, timeout=10)]
            took_s = time.monotonic() - begin_s
            if all(offset >= end for offset, end in zip(committed, ends, strict=True)):
                return took_s
            if took_s > TIMEOUT_S:
                raise click.ClickException(f"not committed after {TIMEOUT_S:.0f} s")
            time.sleep(0.5)
    finally:
        consumer.close()


def draw(suite: Suite, queries: Queries, memory: Memory, storm_s: float, drained_s: float) -> None:
    """Draw each query's time, and the memory, before, during and after the storm."""
    figure, (left, right) = picture.figure("one message mentions a million users", 2)
    left.plot(
        [at - storm_s for at in queries.sent_s],
        [1000 * max(took, 1e-4) for took in queries.took_s],
        ".",
        markersize=1,
        color=picture.BLUE,
        rasterized=True,
    )
    left.set_yscale("log")
    left.set_ylabel("queries of residents, ms")
    right.plot([at - storm_s for at in memory.at_s], memory.mb, color=picture.GREEN)
    right.set_ylim(bottom=0)
    right.set_ylabel("memory beside the tables, MB")
    for axis in (left, right):
        axis.axvspan(0, drained_s, color=picture.ORANGE, alpha=0.15)
        axis.set_xlabel("seconds; shaded: the storm")
    picture.save(suite, figure, "storm")
