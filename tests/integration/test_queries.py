"""Queries: what they select, what they wait for, and what the endpoints say of them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.read_states import ack, places, user_of_three_types
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import TopicReader, Wire, deadline, new_user

CHANNELS = [str(2**60 + number) for number in range(30)]  # some 700 bytes a query
BEYOND = 10_000_000  # an offset that no test reaches


@pytest.fixture(scope="module")
def known_user(wire: Wire) -> int:
    return user_of_three_types(wire)


# -- what is selected -----------------------------------------------------------------------------


def test_all(wire: Wire, known_user: int) -> None:
    reply = wire.get(known_user)
    assert places(reply) == [(0, 3), (0, 2**53 + 1), (0, 2**60), (1, 3), (2, 5), (2, 7)]
    assert reply.value["full"] is True
    assert reply.key == str(known_user).encode()


def test_one_type(wire: Wire, known_user: int) -> None:
    assert places(wire.get(known_user, read_state_type=0)) == [(0, 3), (0, 2**53 + 1), (0, 2**60)]
    assert places(wire.get(known_user, read_state_type=2)) == [(2, 5), (2, 7)]
    assert places(wire.get(known_user, read_state_type=255)) == []


def test_channels(wire: Wire, known_user: int) -> None:
    ids: list[Any] = [str(2**60), 3, str(2**53 + 1), 5]
    reply = wire.get(known_user, channel_ids=ids)
    assert places(reply) == [(0, 3), (0, 2**53 + 1), (0, 2**60)]
    assert places(wire.get(known_user, channel_ids=[7, "3", 5], read_state_type=2)) == [
        (2, 5),
        (2, 7),
    ]
    assert places(wire.get(known_user, channel_ids=[8, 9])) == []
    assert places(wire.get(known_user, channel_ids=[])) == []
    assert len(wire.get(known_user, channel_ids=list(range(1, 1001))).states) == 1


def test_nobody(wire: Wire) -> None:
    reply = wire.get(new_user())
    assert (reply.states, reply.value["full"]) == ([], True)


def test_integers_and_unknown_fields_are_taken(wire: Wire, known_user: int) -> None:
    body = {
        "type": "get",
        "user_id": known_user,
        "channel_ids": [3],
        "since_version": 0,
        "color": 1,
    }
    reply = wire.query(known_user, json.dumps(body).encode())
    assert reply is not None
    assert places(reply) == [(0, 3)]


# -- after_offset and deadlines -------------------------------------------------------------------


def test_read_your_writes(wire: Wire) -> None:
    user = new_user()
    for message in range(1, 50):
        offset = ack(wire, user, 1, message)
        (state,) = wire.get(user, after_offset=str(offset)).states
        assert state["last_message_id"] == str(message)


def test_not_caught_up_before_the_deadline(wire: Wire, known_user: int) -> None:
    reply = wire.refused(known_user, {"after_offset": BEYOND}, deadline_s=1)
    assert reply.error == "not_caught_up"
    assert reply.value["user_id"] == str(known_user)
    assert reply.key == str(known_user).encode()


def test_an_error_goes_out_before_the_deadline(wire: Wire, known_user: int) -> None:
    """By the broker's timestamps of the query's reply, which is what a client sees."""
    name = f"{wire.prefix}.replies.stamped"
    wire.create_topic(name, config={"message.timestamp.type": "LogAppendTime"})
    wire.get(known_user)
    reader = TopicReader(wire.bootstrap, name, 1)
    try:
        limit_ms = int((time.time() + 3) * 1000)
        wire.ask(
            known_user,
            {"after_offset": BEYOND},
            [
                ("kafka_replyTopic", name.encode()),
                ("read-states-deadline", str(limit_ms).encode()),
            ],
        )
        message = until(lambda: reader.poll(0.5), "the error")
        assert message.timestamp()[1] < limit_ms
    finally:
        reader.close()


def test_waits_until_the_update_comes(wire: Wire) -> None:
    user = new_user()
    offset = ack(wire, user, 1, 1)
    asked = wire.ask(user, {"after_offset": offset + 1}, deadline_s=20)
    wire.get(user, after_offset=offset)  # overtakes it
    assert asked not in [r.headers.get("kafka_correlationId") for r in wire.arrived()]
    ack(wire, user, 1, 2)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.states[0]["last_message_id"] == "2"


def test_the_default_deadline(wire: Wire, known_user: int) -> None:
    asked = wire.ask(known_user, {"after_offset": BEYOND})  # 5 s from the broker's timestamp
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error == "not_caught_up"


# -- many at once ---------------------------------------------------------------------------------


def test_a_burst_from_a_client_with_defaults(wire: Wire, known_user: int) -> None:
    """librdkafka makes batches of up to 1,000,000 bytes, which a broker takes or refuses whole."""
    topic = f"{wire.prefix}.replies.burst"
    wire.create_topic(topic)
    count, failures = 1_500, []
    producer = Producer(
        {
            "bootstrap.servers": wire.bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 1_000,  # so that they go out together
        }
    )
    wanted = json.dumps(
        {"type": "get", "user_id": str(known_user), "channel_ids": CHANNELS}
    ).encode()
    for number in range(count):
        producer.produce(
            wire.queries,
            wanted,
            str(known_user).encode(),
            headers=[
                ("kafka_replyTopic", topic.encode()),
                ("kafka_correlationId", str(number).encode()),
                deadline(30),
            ],
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    assert producer.flush(30) == 0
    assert failures == []
    reader = TopicReader(wire.bootstrap, topic, 1)
    answered: set[int] = set()

    def all_answered() -> bool:
        message = reader.poll(1)
        while message is not None:
            headers = dict(message.headers() or [])
            assert "read-states-error" not in headers, message.value()
            answered.add(int(headers["kafka_correlationId"]))
            message = reader.poll(0)
        return len(answered) == count

    until(all_answered, "every query of the burst is answered", 30)
    reader.close()


# -- HTTP -----------------------------------------------------------------------------------------


def test_metrics_and_health(service: Service, wire: Wire, known_user: int) -> None:
    (worker,) = service.workers
    assert worker.get("/healthz")[0] == 200
    assert worker.get("/readyz")[0] == 200
    hit = "read_states_queries_total{outcome=hit}"
    wire.get(known_user)
    before = service.metric(hit)
    wire.get(known_user)
    assert service.metric(hit) == before + 1
    seen = worker.get("/metrics")[1]
    for name in METRICS.split():
        assert f"# TYPE {name} " in seen, name
    assert str(known_user) not in seen


METRICS = """
read_states_updates_applied_total read_states_updates_skipped_total read_states_queries_total
read_states_query_service_seconds read_states_query_age_seconds
read_states_processing_lag_records read_states_durability_lag_records
read_states_durability_lag_seconds read_states_resident_states read_states_resident_users
read_states_dirty_states read_states_evictions_total read_states_cassandra_loads_total
read_states_cassandra_rows_written_total read_states_cassandra_write_failures_total
read_states_cassandra_load_seconds read_states_cassandra_write_seconds
read_states_dead_letters_total read_states_gc_pause_seconds read_states_rebalances_total
read_states_rebalance_seconds
"""
