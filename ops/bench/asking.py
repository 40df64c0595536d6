"""What the benches of queries share: their servers, residents, and queries in an open loop.

Open loop: each query is due at its own time, whether earlier ones were answered or not, and its
latency counts from that time (no coordinated omission). Queries come from the demo's traffic, or
from a recording: `make bench BENCHES=round_trip RECORDING=FILE`, made by `readstates record`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.schemas.events import BulkAck
from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_DEADLINE, HEADER_REPLY_TOPIC
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.wire import encode_update, key_bytes
from readstates.streams.cassandra.store import Store
from readstates.streams.client import BlockingClient
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.worker import WorkerProcess
from ..proof.traffic import Record, Traffic
from .suite import Suite

PARTITIONS = 8
USERS = 2_000
SEED = 5
DEADLINE_S = 60  # as far away as possible: a late reply counts as late, not as none
ANSWER_TIMEOUT_S = 30.0
SESSION_TIMEOUT_S = "120"  # a worker is stopped while a backlog is made, and stays in its group
DRAIN_MESSAGES = 500
TIMEOUT_S = 60.0
GAUGES_S = 1.1  # between two looks at gauges that change once per second
PRODUCER = {  # like the service's own: what a competent user sets for little delay
    "partitioner": "murmur2_random",
    "linger.ms": 0,
    "acks": "all",
    "enable.idempotence": True,
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 1 << 20,
    "log_level": 0,
}


def servers(suite: Suite) -> dict[str, str]:
    """The environment for a Kafka and a Cassandra, which are started if they do not run.

    The full form has its own pair, which is gone at its end; the quick form has one pair for all.
    """
    return suite.servers.stack("stack-of-queries", progress=suite.say).env()


def prepare(suite: Suite, prefix: str, **more: str) -> tuple[Settings, dict[str, str]]:
    """Make topics and a keyspace for one worker; returns its settings and its environment.

    `more`: other settings, as variables of the environment.
    """
    env = {
        **servers(suite),
        "READ_STATES_CACHE_DIR": str(suite.scratch / f"tables-{prefix}"),
        "READ_STATES_CASSANDRA_KEYSPACE": prefix.replace("-", "_"),
        "READ_STATES_KAFKA_GROUP": prefix,
        "READ_STATES_REPLY_TOPICS": r".*\.replies\..*",
        "READ_STATES_SESSION_TIMEOUT_S": SESSION_TIMEOUT_S,
        "READ_STATES_TOPIC_PREFIX": prefix,
        **more,
    }
    settings = Settings.load(env)
    topics.create(settings, PARTITIONS, 1)
    store = Store(settings)
    store.create_schema()
    store.close()
    return settings, env


def flush_delay(suite: Suite) -> dict[str, str]:
    """The default, or less in the quick form, which waits until the residents are written out."""
    return {"READ_STATES_FLUSH_DELAY_S": "3"} if suite.quick else {}


def make_topic(settings: Settings, name: str, partitions: int = 1) -> str:
    """Make a topic whose timestamps are the broker's; it may exist already."""
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"}
    admin = AdminClient(settings.librdkafka())
    (future,) = admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values()
    future.result(timeout=TIMEOUT_S)
    while name not in admin.list_topics(timeout=TIMEOUT_S).topics:
        time.sleep(0.05)
    return name


def send_all(settings: Settings, topic: str, records: Sequence[Record]) -> None:
    """Produce records as fast as possible, and wait until the broker has them."""
    producer = Producer(settings.librdkafka(**PRODUCER | {"linger.ms": 20}))
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    for record in records:
        while True:
            try:
                producer.produce(
                    topic,
                    record.value,
                    record.key,
                    headers=record.headers,
                    on_delivery=delivered,
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(TIMEOUT_S) == 0
    if failures:
        raise click.ClickException(f"{topic}: {len(failures):,} records not kept: {failures[0]}")


def ends(settings: Settings, topic: str) -> list[int]:
    """End offsets by partition."""
    consumer = Consumer(settings.librdkafka(**{"group.id": "bench-ends"}))
    try:
        found = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
        places = [TopicPartition(topic, number) for number in sorted(found)]
        return [consumer.get_watermark_offsets(p, timeout=TIMEOUT_S)[1] for p in places]
    finally:
        consumer.close()


def make_residents(settings: Settings, traffic: Traffic, worker: WorkerProcess) -> int:
    """Give each user of the traffic all its channels, and ask for each once.

    Returns the mean size of a user's reply on the wire, in bytes. Waits until everything is written
    out, because that would disturb the measurement.
    """
    events = [
        BulkAck(user, tuple((0, channel, 10**18) for channel in traffic.channels_of(user)))
        for user in traffic.user_ids
    ]
    send_all(
        settings,
        settings.updates_topic,
        [Record(key_bytes(e.user_id), encode_update(e)) for e in events],
    )
    topic = f"{settings.topic_prefix}.replies.filled"
    make_topic(settings, topic)
    loop = OpenLoop(settings, settings.queries_topic, topic)
    queries = [Record(key_bytes(u), encode_query(Get(u))) for u in traffic.user_ids]
    done = loop.run(queries, per_second=2_000, seconds=len(queries) / 2_000)
    loop.close()
    assert done.unanswered == 0, f"{done.unanswered} queries were not answered"
    wait_written_out(worker)
    return sum(map(len, done.bodies)) // len(done.bodies)


def wait_written_out(worker: WorkerProcess) -> None:
    """Wait until nothing waits for Cassandra, by the gauges, which change once per second."""
    time.sleep(GAUGES_S)
    while worker.metrics().get("read_states_dirty_states", 0):
        if worker.returncode is not None:
            raise click.ClickException(f"the worker ended: {worker.output()[-2000:]}")
        time.sleep(GAUGES_S)


def shell(settings: Settings) -> BlockingClient:
    """A client of the service, for single questions."""
    return BlockingClient(
        settings.kafka_bootstrap,
        f"{settings.topic_prefix}.replies.shell",
        topic_prefix=settings.topic_prefix,
        create_reply_topic=True,
    )


@dataclass
class Asked:
    """The results of one run of the open loop, in the order in which the queries were due."""

    due: list[float] = field(default_factory=list)  # time.monotonic()
    seconds: list[float] = field(default_factory=list)  # of the answered ones
    answered: list[int] = field(default_factory=list)  # their numbers
    bodies: list[bytes] = field(default_factory=list)  # their replies
    unanswered: int = 0
    late_s: float = 0.0  # the longest time by which a query was sent late

    def after(self, warm_up_s: float) -> list[float]:
        """Latencies of the queries due after the warm-up; an unanswered one's is infinite."""
        begin = self.due[0] + warm_up_s
        found = [
            s for n, s in zip(self.answered, self.seconds, strict=True) if self.due[n] >= begin
        ]
        return found + [ANSWER_TIMEOUT_S] * self.unanswered


class OpenLoop:
    """Asks through one topic and reads replies from another; has its own threads and clients."""

    def __init__(
        self,
        settings: Settings,
        queries_topic: str,
        reply_topic: str,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._topic, self._reply_topic = queries_topic, reply_topic
        self._deadline_s = deadline_s
        self._producer = Producer(settings.librdkafka(**PRODUCER))
        self._consumer = Consumer(
            settings.librdkafka(
                **{"group.id": "bench-replies", "enable.auto.commit": False, "log_level": 0}
            )
        )
        place = TopicPartition(reply_topic, 0)
        end = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
        self._consumer.assign([TopicPartition(reply_topic, 0, end)])
        self._stopping = threading.Event()
        self._seen: dict[int, tuple[float, bytes]] = {}
        self._number = 0
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._read, self._poll)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            while message is not None:
                now = time.monotonic()
                for one in [message, *self._consumer.consume(DRAIN_MESSAGES, 0)]:
                    number = int(dict(one.headers())[HEADER_CORRELATION_ID])
                    self._seen.setdefault(number, (now, one.value()))
                message = None

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(0.05)

    def run(self, queries: Sequence[Record], per_second: float, seconds: float) -> Asked:
        """Send `queries` evenly over the time, from the first again when they are used up."""
        count = int(per_second * seconds)
        asked, first = Asked(), self._number
        self._number += count
        self._seen.clear()
        reply_to = self._reply_topic.encode()
        produce, start = self._producer.produce, time.monotonic() + 0.05
        for number in range(count):
            record = queries[number % len(queries)]
            due = start + number / per_second
            wait_s = due - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            produce(
                self._topic,
                record.value,
                record.key,
                headers=[
                    (HEADER_REPLY_TOPIC, reply_to),
                    (HEADER_CORRELATION_ID, b"%d" % (first + number)),
                    (HEADER_DEADLINE, b"%d" % int((time.time() + self._deadline_s) * 1000)),
                ],
            )
            asked.due.append(due)
            asked.late_s = max(asked.late_s, time.monotonic() - due)
        end = time.monotonic() + ANSWER_TIMEOUT_S
        while len(self._seen) < count and time.monotonic() < end:
            time.sleep(0.02)
        for number in range(count):
            seen = self._seen.get(first + number)
            if seen is None:
                asked.unanswered += 1
                continue
            asked.answered.append(number)
            asked.seconds.append(seen[0] - asked.due[number])
            asked.bodies.append(seen[1])
        return asked

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._producer.flush(5)
        self._consumer.close()


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values is; they need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def queries_of(traffic: Traffic, count: int) -> list[Record]:
    """Queries of the demo's traffic, or of the recording that RECORDING names."""
    recording = os.environ.get("RECORDING")
    if not recording:
        return list(traffic.queries(count))
    from readstates.streams.commands.recording import QUERIES, read

    found = [Record(one.key, one.value) for one in read(Path(recording)) if one.topic == QUERIES]
    assert found, f"{recording} has no queries"
    return found
