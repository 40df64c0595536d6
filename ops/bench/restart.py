"""Restart: how soon a worker with millions of resident read states serves again.

The worker is filled through Kafka (one bulk_ack per user, ten channels each), written out, and
ended by SIGTERM. Then two starts take turns: one that finds its tables, and one that finds none and
has to get its users from Cassandra. Both are timed from the start of the process:
- to ready: /readyz says yes;
- to warm: 99 % of 1,000 queries, of users drawn evenly, are hits. A worker with its tables gets
  these at once. A worker without them is first asked for each user once, as fast as answers come,
  which loads them sooner than any traffic would; it is warm once 99 % of the users have an answer.
A query asks for no channel, so that the size of replies does not matter; it needs its user resident
like any other.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.owner import Owner
from ..local.worker import WorkerProcess
from ..proof.traffic import Record
from .open_loop import PRODUCER, REPLY_TOPIC, create_reply_topic, send_all
from .suite import NO_GOAL, Goal, Suite

PARTITIONS = 8
STATES_A_USER = 10
ROOM = 1.3  # for users' own slots, and partitions that are not quite equal
IN_FLIGHT_MAX = 2_000
PROBES = 1_000
GOAL_STATES = 8_000_000  # a start without tables costs more with more of them
WARM_SHARE = 0.99
FILL_TIMEOUT_S = 1200.0
TIMEOUT_S = 60.0  # without any answer


def filling(user_ids: Sequence[int]) -> Iterator[Record]:
    """One event per user, which makes its read states."""
    for number, user_id in enumerate(user_ids):
        acks = [
            {"channel_id": 10**17 + (number + place) % 100_000, "message_id": 10**18 + place}
            for place in range(STATES_A_USER)
        ]
        event = {"type": "bulk_ack", "user_id": user_id, "acks": acks}
        yield Record(b"%d" % user_id, orjson.dumps(event))


class Asker:
    """Asks users as fast as answers come, at most IN_FLIGHT_MAX at once."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.queries_topic
        self._producer = Producer(settings.librdkafka(**PRODUCER, **{"linger.ms": 2}))
        self._producer.list_topics(self._topic, timeout=30)  # or its first record waits up to 1 s
        self._consumer = Consumer(
            settings.librdkafka(**{"group.id": "bench-client", "enable.auto.commit": False})
        )
        end = self._consumer.get_watermark_offsets(TopicPartition(REPLY_TOPIC, 0), timeout=30)[1]
        self._consumer.assign([TopicPartition(REPLY_TOPIC, 0, end)])
        self.errors = 0
        self._call = 0  # late answers to an earlier call do not count for this one

    def close(self) -> None:
        self._consumer.close()

    def ask(self, user_ids: Sequence[int], until: int) -> None:
        """Ask each user once; returns when `until` of them have answered."""
        self._call += 1
        call = b"%d" % self._call
        asked = answered = 0
        heard_s = time.monotonic()
        users = iter(user_ids)
        while answered < until:
            for user_id in itertools.islice(users, IN_FLIGHT_MAX - (asked - answered)):
                self._send(user_id, call)
                asked += 1
            self._producer.poll(0)
            for message in self._consumer.consume(1000, 0.005):
                headers = dict(message.headers() or [])
                self.errors += "read-states-error" in headers
                answered += headers["kafka_correlationId"] == call
                heard_s = time.monotonic()
            if time.monotonic() - heard_s > TIMEOUT_S:
                raise click.ClickException(f"{answered} of {asked} queries answered, then no more")

    def _send(self, user_id: int, call: bytes) -> None:
        self._producer.produce(
            self._topic,
            b'{"type": "get", "user_id": %d, "channel_ids": []}' % user_id,
            b"%d" % user_id,
            headers={"kafka_replyTopic": REPLY_TOPIC, "kafka_correlationId": call},
        )


@dataclass
class Starts:
    """The measurements of one kind of start, one entry per round."""

    ready_s: list[float] = field(default_factory=list)
    warm_s: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)  # users loaded from Cassandra
    hits: list[float] = field(default_factory=list)  # share, of the probes


class Scene:
    """A stack and a worker with `states` read states."""

    def __init__(self, suite: Suite, owner: Owner, states: int) -> None:
        self.suite, self.owner, self.folder = suite, owner, owner.folder
        users = states // STATES_A_USER
        self.user_ids = random.Random(4).sample(range(10**17, 10**18), users)
        self.states = states
        self.tables = self.folder / "tables"

    def start(self) -> None:
        """Make servers, topics, and the read states, resident and in Cassandra."""
        stack = self.owner.stack(progress=self.suite.say)
        room = int(ROOM * (self.states + len(self.user_ids)) / PARTITIONS)
        self.env = {
            **stack.env(),
            "READ_STATES_FLUSH_DELAY_S": "1",
            "READ_STATES_CACHE_STATES": str(max(room, 1000)),
        }
        self.settings = Settings.load(self.env)
        topics.create(self.settings, PARTITIONS, 1)
        create_reply_topic(self.settings)
        store = Store(self.settings)
        store.create_schema()
        store.close()
        begin = time.monotonic()
        count = send_all(self.settings, filling(self.user_ids))
        worker = self.worker(self.tables)
        try:
            worker.wait_ready(FILL_TIMEOUT_S)
            self._until_durable(count)
        finally:
            worker.stop()
        took_s = time.monotonic() - begin
        self.suite.say(f"  filled {self.states:,} read states in {took_s:.0f} s")

    def _until_durable(self, count: int) -> None:
        group = {"group.id": self.settings.kafka_group}
        consumer = Consumer(self.settings.librdkafka(**group))
        places = [TopicPartition(self.settings.updates_topic, n) for n in range(PARTITIONS)]
        end_s = time.monotonic() + FILL_TIMEOUT_S
        while sum(max(0, p.offset) for p in consumer.committed(places, timeout=10)) < count:
            if time.monotonic() > end_s:
                raise click.ClickException(f"not filled after {FILL_TIMEOUT_S:.0f} s")
            time.sleep(0.2)
        consumer.close()

    def worker(self, tables: Path) -> WorkerProcess:
        env = {**self.env, "READ_STATES_CACHE_DIR": str(tables)}
        return WorkerProcess(env, self.folder / "worker.log").start()

    def measure(self, starts: Starts, tables: Path, *, sweep: bool) -> None:
        """Run one start and note its times; `sweep`: ask for every user first."""
        random.Random(len(starts.ready_s)).shuffle(self.user_ids)
        asker = Asker(self.settings)  # clients are there before the worker
        begin = time.monotonic()
        worker = self.worker(tables)
        try:
            worker.wait_ready(TIMEOUT_S)
            starts.ready_s.append(time.monotonic() - begin)
            if sweep:
                asker.ask(self.user_ids, int(len(self.user_ids) * WARM_SHARE))
            before = worker.metrics()
            probes = min(PROBES, len(self.user_ids))
            asker.ask(self.user_ids[:probes], probes)
            starts.warm_s.append(time.monotonic() - begin)
            after = worker.metrics()
            if asker.errors:
                raise click.ClickException(f"{asker.errors} queries got errors")
        finally:
            worker.stop()
            asker.close()
        hits = _outcome(after, "hit") - _outcome(before, "hit")
        misses = _outcome(after, "miss") - _outcome(before, "miss")
        starts.hits.append(hits / (hits + misses))
        starts.loads.append(after.get("read_states_cassandra_loads_total{outcome=loaded}", 0.0))


def _outcome(metrics: dict[str, float], outcome: str) -> float:
    return metrics.get(f"read_states_queries_total{{outcome={outcome}}}", 0.0)


def measure(suite: Suite, states: int, rounds: int, *, cold: bool) -> tuple[Starts, Starts]:
    """Measure starts (with tables, without) of `states`; `cold`: until the second are warm, too."""
    warm, empty = Starts(), Starts()
    with Owner("read-states-restart-") as owner:  # its servers and tables go with each size
        scene = Scene(suite, owner, states)
        scene.start()
        for number in range(rounds):
            scene.measure(warm, scene.tables, sweep=False)
            tables = scene.folder / f"empty-{number}"
            scene.measure(empty, tables, sweep=cold)
            shutil.rmtree(tables)
            suite.say(
                f"  round {number + 1}: ready in {warm.ready_s[-1]:.2f} s, without tables "
                f"{empty.ready_s[-1]:.2f} s; warm in {warm.warm_s[-1]:.2f} s, without "
                f"{empty.warm_s[-1]:.2f} s (hits {warm.hits[-1]:.1%}, {empty.hits[-1]:.1%})"
            )
    return warm, empty


def judge(suite: Suite, states: int, warm: Starts, empty: Starts, *, cold: bool) -> None:
    """The lines of one size."""
    name = f"{states:,} read states"
    suite.measured[name] = {"with its tables": vars(warm), "without": vars(empty)}
    suite.line(f"{name}, to ready", warm.ready_s, "an empty start", empty.ready_s, "s")
    suite.bound(f"{name}, users loaded from Cassandra", warm.loads, "", Goal(at_most=0))
    suite.bound(f"{name}, hits at once", warm.hits, "", Goal(at_least=WARM_SHARE))
    if cold:
        goal = Goal(at_most=1 / 20) if states >= GOAL_STATES else NO_GOAL
        suite.line(f"{name}, to 99 % hits", warm.warm_s, "from Cassandra", empty.warm_s, "s", goal)


def run(suite: Suite) -> None:
    """Run with 2,000,000 read states, then 8,000,000; the quick form with 100,000."""
    sizes = {100_000: 1} if suite.quick else {2_000_000: 2, 8_000_000: 1}
    if suite.quick:
        suite.leave_out("its sizes, 2,000,000 and 8,000,000: filling takes minutes")
    for states, rounds in sizes.items():
        suite.say(f" {states:,} read states")
        warm, empty = measure(suite, states, rounds, cold=True)
        judge(suite, states, warm, empty, cold=True)
