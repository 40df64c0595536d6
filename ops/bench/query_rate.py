"""Queries per second that one worker answers, against a stock Faust agent, and one with Redis.

All read the same records from the same topic and write to the same reply topic: queries as
`agent.ask` sends them, of one channel and of 50 channels each, of users who are resident. The
queries are a backlog, so that neither waits for the client: the worker is stopped while they are
produced, and its group keeps its place. A rate is that of the replies, from the first one to the
last by the broker's timestamps.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from readstates.schemas.events import BulkAck
from readstates.schemas.headers import (
    HEADER_DEADLINE,
    HEADER_FAUST_CORRELATION_ID,
    HEADER_FAUST_REPLY_TOPIC,
)
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.wire import encode_update, key_bytes
from readstates.streams.config import Settings

from ..local.worker import WorkerProcess
from ..proof.traffic import Record
from . import asking
from .suite import Goal, Suite

USERS = 300
CHANNELS_A_USER = 60
LAST_MESSAGE = 10**18
ANSWER_TIMEOUT_S = 120.0


def channels_by_user() -> dict[int, list[int]]:
    """Make the residents, the same in both processes."""
    source = random.Random(1)
    ids = range(10**17, 10**18)
    return {user: source.sample(ids, CHANNELS_A_USER) for user in source.sample(ids, USERS)}


def run(suite: Suite) -> None:
    """Run queries of one channel, then of fifty."""
    settings, env = asking.prepare(suite, "query-rate")
    residents = channels_by_user()
    worker = WorkerProcess(env, suite.scratch / "worker.log").start()
    try:
        worker.wait_ready()
        events = [
            BulkAck(user, tuple((0, channel, LAST_MESSAGE) for channel in channels))
            for user, channels in residents.items()
        ]
        records = [Record(key_bytes(e.user_id), encode_update(e)) for e in events]
        asking.send_all(settings, settings.updates_topic, records)
        with asking.shell(settings) as client:
            for user, channels in residents.items():
                while len(client.get(user).read_states) < len(channels):
                    time.sleep(0.05)
        for number, what, sizes in (
            (1, "one channel a query", (150_000, 20_000)),
            (50, "50 channels a query", (30_000, 7_500)),
        ):
            many, few = (size // 5 for size in sizes) if suite.quick else sizes
            rates = suite.in_turn(
                {
                    f"ours, {number}": partial(_ours, suite, settings, worker, number, many),
                    f"stock, {number}": partial(_peer, suite, settings, "stock", number, few),
                    f"redis, {number}": partial(_peer, suite, settings, "redis", number, few),
                }
            )
            ours, stock, redis = rates.values()
            suite.line(what, ours, "stock Faust agent.ask", stock, "queries/s", Goal(at_least=10))
            suite.line(what, ours, "a consumer with Redis", redis, "queries/s")
    finally:
        worker.stop()


def _name(channels: int, number: int) -> str:
    return f"query-rate.replies.{channels}-{number}"


def _queries(reply_topic: str, channels: int, count: int) -> Iterator[Record]:
    source = random.Random(channels)
    residents = channels_by_user()
    users = list(residents)
    deadline = str(int((time.time() + 60) * 1000)).encode()
    for number in range(count):
        user = source.choice(users)
        asked = tuple(source.sample(residents[user], channels))
        headers = [
            (HEADER_FAUST_REPLY_TOPIC, reply_topic.encode()),
            (HEADER_FAUST_CORRELATION_ID, b"%d" % number),
            (HEADER_DEADLINE, deadline),
        ]
        yield Record(key_bytes(user), encode_query(Get(user, asked)), headers)


def _ours(
    suite: Suite,
    settings: Settings,
    worker: WorkerProcess,
    channels: int,
    count: int,
    round_: int,
) -> float:
    topic = asking.make_topic(settings, _name(channels, round_))
    asking.send_all(settings, settings.queries_topic, list(_queries(topic, channels, 1)))
    _wait(settings, topic, 1)  # a worker looks up a topic that is new to it; let few wait for that
    queries = list(_queries(topic, channels, count))
    before = asking.ends(settings, settings.queries_topic)
    suite.measured[topic] = before
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        asking.send_all(settings, settings.queries_topic, queries)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    return _rate(settings, topic, 1, count, channels)


def _peer(
    suite: Suite, settings: Settings, peer: str, channels: int, count: int, round_: int
) -> float:
    """Let a peer begin where our backlog of the same round began."""
    topic = _name(channels, round_)
    (begin,) = asking.ends(settings, topic)
    group = f"{peer}-{topic}"
    consumer = Consumer(settings.librdkafka(**{"group.id": group}))
    consumer.commit(
        offsets=[
            TopicPartition(settings.queries_topic, number, offset)
            for number, offset in enumerate(suite.measured[topic])
        ],
        asynchronous=False,
    )
    consumer.close()
    log = suite.scratch / f"{group}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"readstates.ops.bench.{peer}_agent",
                settings.kafka_bootstrap,
                settings.queries_topic,
                group,
                str(suite.scratch / group),
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return _rate(settings, topic, begin, count, channels)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # Redis too
        process.wait()


def _rate(settings: Settings, topic: str, begin: int, count: int, channels: int) -> float:
    """Replies per second of `count` replies from offset `begin` on; checks the last one."""
    _wait(settings, topic, begin + count)
    first, last = (_read(settings, topic, begin + place) for place in (0, count - 1))
    body = orjson.loads(last.value())
    assert len(body["value"]["read_states"]) == channels, body
    took_ms: int = last.timestamp()[1] - first.timestamp()[1]
    return 1000 * count / max(1, took_ms)


def _wait(settings: Settings, topic: str, end: int) -> None:
    """Wait until the topic has this many records."""
    limit = time.monotonic() + ANSWER_TIMEOUT_S
    while asking.ends(settings, topic)[0] < end:
        assert time.monotonic() < limit, f"{topic}: {asking.ends(settings, topic)} of {end}"
        time.sleep(0.3)


def _read(settings: Settings, topic: str, offset: int) -> Message:
    consumer = Consumer(
        settings.librdkafka(**{"group.id": "bench-ends", "enable.auto.commit": False})
    )
    try:
        consumer.assign([TopicPartition(topic, 0, offset)])
        message = consumer.poll(asking.TIMEOUT_S)
        assert message is not None, f"{topic} has no record at {offset}"
        assert message.error() is None, message.error()
        return message
    finally:
        consumer.close()
