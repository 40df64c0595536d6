"""A worker asks itself through Kafka, and says which of its partitions does not answer.

In the workers that are harmed here, every other check is switched off (`tests/support/only_probe`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewPartitions

from readstates.ops.local.stack import Stack
from readstates.schemas.probes import HEADER_PROBE, encode_probe, probe_users
from tests.support.probed import (
    FAILURES,
    FIND_S,
    by_partition,
    found,
    new_service,
    start,
    wait_answered,
    wait_mended,
)
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, Headers, new_user

NO_ADDRESS = "read_states_queries_total{outcome=no_reply_address}"


@pytest.fixture(scope="module")
def sound(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service that nobody harms."""
    made = start(stack, folder)
    try:
        made.workers[0].wait_ready()
        yield made
    finally:
        made.close()


@pytest.fixture
def harmed(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service for one test."""
    made = start(stack, folder)
    try:
        made.workers[0].wait_ready()
        wait_answered(made.workers[0])
        yield made
    finally:
        made.close()


@pytest.fixture
def without_topic(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service whose `init` was an earlier version's: there is no topic for the probes."""
    made = new_service(stack, folder)
    topic = f"it-{made.name}.probes"
    made.wire.admin.delete_topics([topic])[topic].result(30)
    try:
        yield made
    finally:
        made.close()


def test_each_partition_answers(sound: Service) -> None:
    (worker,) = sound.workers
    wait_answered(worker)
    metrics = worker.metrics()
    assert by_partition(worker, FAILURES) == [0.0] * PARTITIONS
    assert worker.get("/readyz")[0] == 200
    for outcome in ("hit", "miss", "error", "expired"):  # only clients' queries count
        assert metrics[f"read_states_queries_total{{outcome={outcome}}}"] == 0
    assert metrics["read_states_query_age_seconds_count"] == 0
    assert metrics["read_states_resident_users"] == 0


def test_no_client_has_a_probes_user_or_topic(sound: Service) -> None:
    wire = sound.wire
    (user, *_), *_ = probe_users(PARTITIONS)
    to_client: Headers = [("kafka_replyTopic", wire.reply_topic.encode())]
    to_probes: Headers = [("kafka_replyTopic", f"{wire.prefix}.probes".encode())]
    ignored = sound.metric(NO_ADDRESS)
    for headers in (to_probes, [*to_client, (HEADER_PROBE, b"")]):
        wire.ask(user, encode_probe(user, None), headers)
    until(lambda: sound.metric(NO_ADDRESS) == ignored + 2, "both are ignored")
    refused = wire.refused(user, encode_probe(user, None))
    assert refused.error == "invalid_query"
    assert "user_id" in refused.value["error"]["message"]


def test_it_finds_an_open_transaction(harmed: Service) -> None:
    wire, (worker,) = harmed.wire, harmed.workers
    producer = Producer({"bootstrap.servers": wire.bootstrap, "transactional.id": harmed.name})
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(wire.updates, b"{}", partition=1)
    producer.flush(WAIT_S)
    assert "partitions 1; 1: not_caught_up" in found(worker)
    assert [bool(count) for count in by_partition(worker, FAILURES)] == [
        number == 1 for number in range(PARTITIONS)
    ]
    producer.abort_transaction(WAIT_S)
    wait_mended(worker)


def test_it_finds_partitions_of_queries_alone(harmed: Service) -> None:
    wire, (worker,) = harmed.wire, harmed.workers
    raised = wire.admin.create_partitions([NewPartitions(wire.queries, 2 * PARTITIONS)])
    raised[wire.queries].result(WAIT_S)
    found(worker)


def test_it_finds_a_wrong_clock(stack: Stack, folder: Path) -> None:
    service = start(stack, folder, CLOCK_AHEAD_S=8)
    try:
        assert "no answer" in found(service.workers[0])
        assert service.wire.query(new_user(), timeout_s=1) is None, "so is it with clients"
    finally:
        service.close()


def test_without_the_topic_users_are_served(without_topic: Service) -> None:
    worker = without_topic.start()
    worker.wait_ready()
    assert without_topic.wire.get(new_user()).states == []
    missing = "read_states_deviation{name=probes_missing}"
    until(lambda: worker.metrics().get(missing), "the watch says what is missing", FIND_S)
    assert sum(by_partition(worker, FAILURES)) == 0
    worker.wait_ready()
