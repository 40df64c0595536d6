"""Workers that refuse to start or to go on, and say why."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewPartitions

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user


def refusal(worker: WorkerProcess) -> str:
    """What a worker says that must not start; it must have ended by itself, with an error."""
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode not in {0, None}
    said = worker.output()
    assert "Traceback" not in said, said
    return said


def grow(service: Service, topic: str, partitions: int) -> None:
    """Gives a topic more partitions."""
    admin = service.wire.admin
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(WAIT_S)
    until(
        lambda: len(admin.list_topics().topics[topic].partitions) == partitions,
        f"{partitions} partitions",
    )


@pytest.fixture
def refusing(stack: Stack, folder: Path) -> Iterator[Any]:
    made: list[Service] = []

    def build(name: str, **settings: Any) -> Service:
        made.append(Service(stack.env(), folder, name, **settings))
        return made[-1]

    yield build
    for service in made:
        service.close()


def test_missing_topics(refusing: Any) -> None:
    said = refusal(refusing("missing", init=False).start())
    assert "it-missing.updates" in said
    assert "readstates init" in said


def test_missing_queries_topic(refusing: Any) -> None:
    service = refusing("halved")
    service.wire.admin.delete_topics(["it-halved.queries"])["it-halved.queries"].result(WAIT_S)
    until(lambda: "it-halved.queries" not in service.wire.topics(), "topic gone")
    said = refusal(service.start())
    assert "it-halved.queries" in said
    assert "readstates init" in said


def test_other_partition_counts(refusing: Any) -> None:
    service = refusing("uneven")
    name = service.wire.queries
    grow(service, name, PARTITIONS + 2)
    said = refusal(service.start())
    assert "it-uneven.updates" in said
    assert "it-uneven.queries" in said
    assert "same number" in said


def test_replaced_topic(refusing: Any) -> None:
    service = refusing("replaced")
    wire, name = service.wire, service.wire.updates
    user = new_user()
    wire.produce_update(user, {"type": "ack", "channel_id": "1", "message_id": "1"})
    wire.admin.delete_topics([name])[name].result(WAIT_S)
    until(lambda: name not in wire.topics(), "topic gone")
    wire.create_topic(name, PARTITIONS, {"message.timestamp.type": "LogAppendTime"})
    again = service.cli("init", "--partitions", str(PARTITIONS))
    assert again.returncode != 0
    assert "--new-epoch" in again.stderr
    said = refusal(service.start())
    assert name in said
    assert "readstates init --new-epoch" in said

    assert service.cli("init", "--new-epoch").returncode == 0
    service.start().wait_ready()
    offset = wire.produce_update(user, {"type": "ack", "channel_id": "2", "message_id": "1"})
    reply = wire.get(user, after_offset=offset)
    assert [s["channel_id"] for s in reply.states] == ["2"]


def test_the_advice_after_the_updates_topic_was_deleted(refusing: Any) -> None:
    """It leads from the worker's refusal to a worker that serves, with as many partitions."""
    service = refusing("deleted_before")
    wire, user = service.wire, new_user()
    for name in (wire.updates, wire.queries):
        wire.admin.delete_topics([name])[name].result(WAIT_S)
        until(lambda name=name: name not in wire.topics(), "topic gone")  # type: ignore[misc]
    assert "ops/runbooks/ReadStatesDeviation.md" in refusal(service.start())
    plain = service.cli("init")
    assert plain.returncode == 1
    assert "somebody deleted it" in plain.stderr
    assert wire.updates not in wire.topics(), "an empty topic would look like the log"
    advised = re.search(r": readstates (init --new-epoch .*)$", plain.stderr, re.MULTILINE)
    assert advised is not None, plain.stderr
    done = service.cli(*advised[1].split())
    assert done.returncode == 0, done.stderr
    assert f"{PARTITIONS} partitions" in done.stdout
    assert "epoch 9, which begins now" in done.stdout
    service.start().wait_ready()
    offset = wire.produce_update(user, {"type": "ack", "channel_id": "2", "message_id": "1"})
    assert wire.get(user, after_offset=offset).states


def test_a_queries_topic_that_was_deleted_comes_back_as_it_was(refusing: Any) -> None:
    """Whatever the default: with another number of partitions, no worker would start."""
    service = refusing("deleted_queries")
    wire = service.wire
    wire.admin.delete_topics([wire.queries])[wire.queries].result(WAIT_S)
    until(lambda: wire.queries not in wire.topics(), "topic gone")
    said = refusal(service.start())
    assert f"topic {wire.queries} does not exist. Run: readstates init" in said
    done = service.cli("init")
    assert done.returncode == 0, done.stderr
    assert f"created {wire.queries}; {PARTITIONS} partitions" in done.stdout
    service.start().wait_ready()


def test_more_partitions_of_updates(refusing: Any) -> None:
    """Adding partitions to both topics would send users elsewhere: that is another log."""
    service = refusing("grown")
    for name in (service.wire.updates, service.wire.queries):
        grow(service, name, 6)
    said = refusal(service.start())
    assert "partitions" in said
    assert "--new-epoch" in said
    user, ack = new_user(), {"type": "ack", "channel_id": "1", "message_id": "1"}
    service.wire.produce(user, ack, partition=0)
    done = service.cli("init", "--new-epoch")
    assert "no worker can apply them any more" in done.stderr, "not: let the workers run"
    advised = re.search(r": readstates (init --new-epoch .*)$", done.stderr, re.MULTILINE)
    assert advised is not None, done.stderr
    keyspace = service.env["READ_STATES_CASSANDRA_KEYSPACE"]
    elsewhere = refusing("grown_later", init=False, cassandra_keyspace=keyspace)
    done = elsewhere.cli(*advised[1].split())
    assert done.returncode == 0, done.stderr
    elsewhere.start().wait_ready()


def test_log_start_moved_past_a_running_worker(refusing: Any) -> None:
    """Retention or a deletion takes what was not read yet: never skipped in silence."""
    service = refusing("overtaken", session_timeout_s=30)
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    offset = wire.produce_update(user, {"type": "ack", "channel_id": "1", "message_id": "1"})
    wire.get(user, after_offset=offset)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        for message in range(2, 50):
            event = {"type": "ack", "channel_id": "1", "message_id": str(message)}
            place = wire.produce(user, event)
        before = TopicPartition(wire.updates, place.partition, place.offset)
        wire.admin.delete_records([before])[before].result(WAIT_S)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == 1
    assert f"{wire.updates} partition {place.partition}: the next update" in worker.output()
    again = service.start()
    until(lambda: again.returncode is not None, "so does the next", 2 * WAIT_S)
    assert "are gone and were not written to Cassandra" in again.output()


def test_committed_beyond_the_log(refusing: Any) -> None:
    """Kafka lost records, or the topic was replaced: never reset silently."""
    service = refusing("lost")
    consumer = Consumer(
        {"bootstrap.servers": service.wire.bootstrap, "group.id": service.group},
    )
    try:
        place = TopicPartition(service.wire.updates, 2, 5)
        assert consumer.commit(offsets=[place], asynchronous=False)
    finally:
        consumer.close()
    worker = service.start()
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode not in {0, None}
    assert "committed offset 5" in worker.output()


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("user_states_max", 501, "CACHE_STATES"),
        ("flush_delay_s", "soon", "FLUSH_DELAY_S"),
        ("reply_topics", "(", "REPLY_TOPICS"),
        ("http_port", 70000, "HTTP_PORT"),
    ],
)
def test_wrong_settings(refusing: Any, setting: str, value: object, text: str) -> None:
    service = refusing(f"wrong_{setting}", init=False, **{setting: value})
    assert text in refusal(service.start())
