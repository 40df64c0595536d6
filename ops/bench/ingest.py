"""Ingest: a backlog of updates, every user cold, to the last commit, write-out to Cassandra on;
against a stock Faust agent that folds the same records into a dict.

    make bench

Both read the same topic on the same broker, in turn, in one run. Ours is timed from the first
record it applies to the moment when the committed offsets are the log's ends, which means that
every change is in Cassandra. The stock agent is timed from its first event to its last, commits
not waited for, and writes nothing anywhere.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import click
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from readstates.ops.bench.suite import Goal, Suite
from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.streams import topics
from readstates.streams.cassandra import Store
from readstates.streams.config import Settings

PARTITIONS = 8
CHANNELS_A_USER = 4
MENTION_SHARE = 0.2
TIMEOUT_S = 600.0
USERS = 50_000
FLUSH_DELAY_S = "10"


def fill(settings: Settings, updates: int, users: int) -> None:
    """The backlog: acks and mentions, users drawn evenly."""
    source = random.Random(1)
    ids = source.sample(range(10**17, 10**18), users)
    producer = Producer(
        settings.librdkafka(
            **{
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
    )
    for number in range(updates):
        user_id = source.choice(ids)
        event = {
            "type": "mention" if source.random() < MENTION_SHARE else "ack",
            "user_id": user_id,
            "channel_id": user_id % 1000 + source.randint(1, CHANNELS_A_USER),
            "message_id": 10**18 + number,
        }
        while True:
            try:
                producer.produce(settings.updates_topic, orjson.dumps(event), b"%d" % user_id)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(60)


def positions(settings: Settings, group: str) -> tuple[int, int]:
    """(committed, end) offsets of the updates topic, summed over partitions."""
    consumer = Consumer(settings.librdkafka(**{"group.id": group}))
    places = [TopicPartition(settings.updates_topic, number) for number in range(PARTITIONS)]
    try:
        committed = sum(max(0, p.offset) for p in consumer.committed(places, timeout=10))
        return committed, sum(consumer.get_watermark_offsets(p, timeout=10)[1] for p in places)
    finally:
        consumer.close()


def ours(settings: Settings, env: dict[str, str], folder: Path, round_: int) -> tuple[float, float]:
    """Seconds to the last commit, and rows written, by a worker with empty tables."""
    group = f"bench-{round_}"
    keyspace = f"bench_{round_}"
    env = {**env, "READ_STATES_KAFKA_GROUP": group, "READ_STATES_CASSANDRA_KEYSPACE": keyspace}
    store = Store(Settings.load(env))
    store.create_schema()
    store.close()
    worker = WorkerProcess(env, folder / f"worker-{round_}.log").start()
    try:
        while not worker.metrics().get("read_states_resident_states"):
            time.sleep(0.02)
        start = time.monotonic()
        consumer = Consumer(settings.librdkafka(**{"group.id": group}))
        places = [TopicPartition(settings.updates_topic, number) for number in range(PARTITIONS)]
        end = positions(settings, group)[1]
        while sum(max(0, p.offset) for p in consumer.committed(places, timeout=10)) < end:
            if time.monotonic() - start > TIMEOUT_S:
                raise click.ClickException(f"not committed after {TIMEOUT_S} s: {worker.log}")
            time.sleep(0.1)
        took_s = time.monotonic() - start
        consumer.close()
        rows = worker.metrics()["read_states_cassandra_rows_written_total"]
    finally:
        worker.stop()
    return took_s, rows


def stock(settings: Settings, count: int, round_: int) -> float:
    """Seconds a stock Faust agent takes for `count` of the same records."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "readstates.ops.bench.stock_faust",
            settings.kafka_bootstrap,
            settings.updates_topic,
            f"stock-{round_}",
            str(count),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"the stock agent failed: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def run(suite: Suite) -> None:
    """Both in turn, several rounds."""
    updates, stock_updates = (300_000, 100_000) if suite.quick else (2_000_000, 300_000)
    stack = Stack(suite.scratch / "stack")
    try:
        stack.up(progress=suite.say)
        env = {
            **stack.env(),
            "READ_STATES_CACHE_DIR": str(suite.scratch / "tables"),
            "READ_STATES_FLUSH_DELAY_S": FLUSH_DELAY_S,
        }
        settings = Settings.load(env)
        topics.create(settings, PARTITIONS, 1)
        suite.say(f"filling {updates:,} updates of {USERS:,} users")
        fill(settings, updates, USERS)
        rates = suite.in_turn(
            {
                "stock Faust, updates/s": lambda n: (
                    stock_updates / stock(settings, stock_updates, n)
                ),
                "ours, updates/s": lambda n: updates / ours(settings, env, suite.scratch, n)[0],
            }
        )
    finally:
        stack.down(remove=True)
    peer, own = rates.values()
    suite.line("cold users, to the last commit", own, "stock Faust", peer, "updates/s", Goal(20))
