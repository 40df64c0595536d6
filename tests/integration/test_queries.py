"""Queries: what they select, what they wait for, and how they fail."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.pages import limit_of, pages_of
from tests.support.read_states import ack, places, user_of_three_types
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import (
    PARTITIONS,
    Reply,
    TopicReader,
    Wire,
    deadline,
    encode,
    new_user,
    partition_of,
)

CHANNELS = [str(2**60 + number) for number in range(30)]  # some 700 bytes a query
BEYOND = 10_000_000  # an offset that no test reaches


@pytest.fixture(scope="module")
def known_user(wire: Wire) -> int:
    return user_of_three_types(wire)


def refused(wire: Wire, user: int, body: Any, **more: Any) -> Reply:
    """An error reply, checked for its form."""
    reply = wire.query(user, body, **more)
    assert reply is not None
    assert reply.error is not None
    assert set(reply.value) == {"user_id", "error"}
    assert set(reply.value["error"]) - {"limit"} == {"code", "message"}
    return reply


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


# -- mentions, totals, pages ----------------------------------------------------------------------


def mention(wire: Wire, user: int, channel: int, message: int, kind: int = 0) -> int:
    event = {"type": "mention", "channel_id": str(channel), "message_id": str(message)}
    return wire.produce_update(user, {**event, "read_state_type": kind})


@pytest.fixture(scope="module")
def mentioned_user(wire: Wire) -> int:
    """Of channels 1 to 6 every third has mentions; one of them of another type as well."""
    user = new_user()
    for channel in range(1, 7):
        ack(wire, user, channel, 100)
        for message in range(101, 101 + channel * (channel % 3 == 0)):
            mention(wire, user, channel, message)
    ack(wire, user, 2, 100, kind=1)
    offset = mention(wire, user, 6, 200, kind=1)
    wire.get(user, after_offset=offset)
    return user


def test_mentions(wire: Wire, mentioned_user: int) -> None:
    found = wire.get(mentioned_user, mentions=True).states
    assert [state["mentions"] for state in found] == [
        *([], [], ["101", "102", "103"], [], [], [str(n) for n in range(101, 107)]),
        *([], ["200"]),
    ]
    assert "mentions" not in wire.get(mentioned_user).states[0]
    (one,) = wire.get(mentioned_user, mentions=True, channel_ids=[3]).states
    assert one["mentions"] == ["101", "102", "103"]


def test_mentioned(wire: Wire, mentioned_user: int) -> None:
    def asked(**body: Any) -> list[tuple[int, int]]:
        return places(wire.get(mentioned_user, mentioned=True, **body))

    assert asked() == [(0, 3), (0, 6), (1, 6)]
    assert asked(read_state_type=1) == [(1, 6)]
    assert asked(channel_ids=[1, 2, 3]) == [(0, 3)]
    assert asked(limit=1) == [(0, 3)]
    assert asked(limit=1, after={"read_state_type": 0, "channel_id": "3"}) == [(0, 6)]


def test_a_delta_of_the_mentioned_ones_is_complete(wire: Wire) -> None:
    """What has no mention any more is not in the list; a client must see that it is gone."""
    user = new_user()
    mention(wire, user, 1, 5)
    offset = mention(wire, user, 2, 5)
    version = wire.get(user, mentioned=True, after_offset=offset).value["version"]
    offset = ack(wire, user, 1, 5)
    reply = wire.get(user, mentioned=True, since_version=version, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (True, [(0, 2)])


def test_totals(wire: Wire, mentioned_user: int) -> None:
    everything = {"read_states": 8, "mentioned": 3, "mentions": 10}
    for body in ({}, {"limit": 1}, {"channel_ids": [1]}, {"mentioned": True}):
        assert wire.get(mentioned_user, totals=True, **body).value["totals"] == everything
    alone = wire.get(mentioned_user, totals=True, channel_ids=[])
    assert (alone.states, alone.value["totals"]) == ([], everything)
    one = wire.get(mentioned_user, totals=True, channel_ids=[], read_state_type=1)
    assert one.value["totals"] == {"read_states": 2, "mentioned": 1, "mentions": 1}
    assert "totals" not in wire.get(mentioned_user).value
    nobody = wire.get(new_user(), totals=True).value["totals"]
    assert nobody == {"read_states": 0, "mentioned": 0, "mentions": 0}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9])
def test_pages(wire: Wire, mentioned_user: int, limit: int) -> None:
    whole = wire.get(mentioned_user).states
    pages = pages_of(wire, mentioned_user, limit)
    assert [state for page in pages for state in page.states] == whole
    assert [len(page.states) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert pages[-1].states, "the page before it said that more follow"


def test_pages_of_a_delta(wire: Wire) -> None:
    user = new_user()
    for channel in range(1, 10):
        offset = ack(wire, user, channel, 5)
    version = wire.get(user, after_offset=offset).value["version"]
    for channel in (9, 2, 5, 3):
        offset = ack(wire, user, channel, 6)
    pages = pages_of(wire, user, 2, since_version=version, after_offset=offset)
    assert [places(page) for page in pages] == [[(0, 2), (0, 3)], [(0, 5), (0, 9)]]
    assert not any(page.value["full"] for page in pages)
    ids = [1, 2, 9]
    pages = pages_of(wire, user, 1, since_version=version, channel_ids=ids)
    assert [places(page) for page in pages] == [[(0, 2)], [(0, 9)]]


# -- since_version --------------------------------------------------------------------------------


def test_deltas(wire: Wire) -> None:
    user = new_user()
    for channel in (1, 2, 3):
        offset = ack(wire, user, channel, 5)
    first = wire.get(user, after_offset=offset)
    version = first.value["version"]

    none = wire.get(user, since_version=version)
    assert (none.value["full"], none.states) == (False, [])

    ack(wire, user, 2, 5)  # changes nothing
    offset = ack(wire, user, 3, 6)
    delta = wire.get(user, since_version=version, after_offset=offset)
    assert (delta.value["full"], places(delta)) == (False, [(0, 3)])
    assert int(delta.states[0]["version"]) > int(version)

    offset = ack(wire, user, 4, 1, kind=1)
    body: dict[str, Any] = {"since_version": int(version), "after_offset": offset}
    assert places(wire.get(user, **body)) == [(0, 3), (1, 4)]
    assert places(wire.get(user, **body, channel_ids=[1, 3])) == [(0, 3)]
    assert places(wire.get(user, **body, read_state_type=1)) == [(1, 4)]
    assert places(wire.get(user, **{**body, "since_version": delta.value["version"]})) == [(1, 4)]


def test_a_delta_over_a_deletion_is_complete(wire: Wire) -> None:
    user = new_user()
    for channel in (1, 2, 3):
        offset = ack(wire, user, channel, 5)
    old = wire.get(user, after_offset=offset).value["version"]
    offset = wire.produce_update(user, {"type": "delete", "channel_id": "2"})
    reply = wire.get(user, since_version=old, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (True, [(0, 1), (0, 3)])

    between = reply.value["version"]
    offset = ack(wire, user, 1, 6)
    reply = wire.get(user, since_version=between, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (False, [(0, 1)])

    offset = wire.produce_update(user, {"type": "delete_user"})
    reply = wire.get(user, since_version=between, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (True, [])


def test_a_version_that_cannot_be_trusted_gets_all(wire: Wire, known_user: int) -> None:
    now = int(wire.get(known_user).value["version"])
    for since in (0, 1, "0", now + 1_000_000, str(2**63 - 1)):
        reply = wire.get(known_user, since_version=since)
        assert (reply.value["full"], len(reply.states)) == (True, 6)


def test_a_user_brought_back_gets_all(service: Service, wire: Wire) -> None:
    """A delta from before the user was evicted, with a change that memory did not see."""
    user = new_user(partition=2)
    offset = ack(wire, user, 1, 5)
    version = wire.get(user, after_offset=offset).value["version"]
    offset = ack(wire, user, 2, 5)
    before = service.metric("read_states_evictions_total")
    acks = [{"channel_id": channel, "message_id": 5} for channel in range(1, 51)]
    for _ in range(40):
        other = new_user(partition=2)
        offset = wire.produce_update(other, {"type": "bulk_ack", "acks": acks})
    wire.get(other, after_offset=offset)
    until(lambda: service.metric("read_states_evictions_total") > before, "evictions")
    reply = wire.get(user, since_version=version)
    assert (0, 2) in places(reply)
    if reply.value["full"]:
        assert places(reply) == [(0, 1), (0, 2)]


# -- after_offset and deadlines -------------------------------------------------------------------


def test_read_your_writes(wire: Wire) -> None:
    user = new_user()
    for message in range(1, 50):
        offset = ack(wire, user, 1, message)
        (state,) = wire.get(user, after_offset=str(offset)).states
        assert state["last_message_id"] == str(message)


def test_not_caught_up_before_the_deadline(wire: Wire, known_user: int) -> None:
    reply = refused(wire, known_user, {"after_offset": BEYOND}, deadline_s=1)
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


# -- errors ---------------------------------------------------------------------------------------

NOT_CHANNELS: list[Any] = [
    *(None, "5", {}, 5, [1, 1], ["1", 1], [0], [None]),
    *([1.0], [True], ["01"], [2**63], [[1]]),
]
NOT_PLACES: list[Any] = [None, [], "5", {}, {"read_state_type": 1}]
NOT_BOOLEANS: list[Any] = [None, 1, "true"]
WRONG: list[dict[str, Any]] = [
    {"type": "put"},
    {"type": None},
    {"type": 5},
    *({"channel_ids": value} for value in NOT_CHANNELS),
    {"channel_ids": list(range(1, 1002))},
    *({"read_state_type": value} for value in (None, -1, 256, "0", 1.0, True)),
    *({"since_version": value} for value in (None, -1, "x", "00", 1.5, 2**63, False)),
    *({"after_offset": value} for value in (None, -1, "-1", "", 1.5, 2**63)),
    *({name: bad} for name in ("mentions", "mentioned", "totals") for bad in NOT_BOOLEANS),
    *({"limit": value} for value in (None, 0, 10_001, "5", True, 1.0)),
    *({"after": value} for value in NOT_PLACES),
    *({"after": {"channel_id": value}} for value in (None, 0, "x", 2**63)),
    {"after": {"channel_id": 5, "read_state_type": 256}},
]


def test_invalid_queries(wire: Wire, known_user: int) -> None:
    asked = [(wire.ask(known_user, body), body) for body in WRONG]
    for correlation_id, body in asked:
        reply = wire.wait(correlation_id)
        assert reply is not None
        assert reply.error == "invalid_query", body
        assert reply.value["user_id"] == str(known_user), body
        assert reply.key == str(known_user).encode()


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b"x" * 300_000])
def test_queries_that_are_not(wire: Wire, known_user: int, value: bytes) -> None:
    reply = refused(wire, known_user, value)
    assert (reply.error, reply.value["user_id"]) == ("invalid_query", None)


def test_a_query_without_value(wire: Wire, known_user: int) -> None:
    asked = uuid.uuid4().bytes
    headers = [("kafka_replyTopic", wire.reply_topic.encode()), ("kafka_correlationId", asked)]
    wire.send(wire.queries, str(known_user).encode(), None, headers)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error == "invalid_query"


@pytest.mark.parametrize("key", [None, b"", b"x", b"1", b"\xff\0"])
def test_the_key_must_be_the_user(wire: Wire, known_user: int, key: bytes | None) -> None:
    asked = uuid.uuid4().bytes
    headers = [("kafka_replyTopic", wire.reply_topic.encode()), ("kafka_correlationId", asked)]
    value = encode(known_user, {"type": "get"})
    wire.send(wire.queries, key, value, headers, partition_of(known_user))
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error == "invalid_query"
    assert reply.key == key


def test_another_users_partition_never_answers(wire: Wire, known_user: int) -> None:
    right = partition_of(known_user)
    for partition in set(range(PARTITIONS)) - {right}:
        reply = refused(wire, known_user, None, partition=partition)
        assert (reply.error, reply.value["user_id"]) == ("invalid_query", str(known_user))
        message = reply.value["error"]["message"]
        assert f"is in partition {partition} and belongs in partition {right}" in message
        assert "partitioner=murmur2_random" in message


def thirty_channels(wire: Wire, user: int) -> int:
    acks = [{"channel_id": channel, "message_id": 2**62} for channel in range(1, 31)]
    return wire.produce_update(user, {"type": "bulk_ack", "acks": acks})


def test_reply_too_large(limited: Service) -> None:
    """The advice leads to everything, and a delta is no exception."""
    wire, user = limited.wire, new_user()
    before = wire.get(user)
    offset = thirty_channels(wire, user)
    for body in ({}, {"since_version": before.value["version"]}, {"channel_ids": [*range(1, 99)]}):
        reply = refused(wire, user, {**body, "after_offset": offset}, deadline_s=20)
        assert (reply.error, reply.value["user_id"]) == ("reply_too_large", str(user))
        pages = pages_of(wire, user, limit_of(reply), **body)
        assert [place for page in pages for place in places(page)] == [(0, n) for n in range(1, 31)]
        assert {page.value["full"] for page in pages} == {"since_version" not in body}
    assert len(wire.get(user, channel_ids=[1, 2]).states) == 2


def test_a_page_is_cut_to_what_a_reply_may_have(limited: Service) -> None:
    """A limit allows fewer, so a page is never too large."""
    wire, user = limited.wire, new_user()
    offset = thirty_channels(wire, user)
    pages = pages_of(wire, user, 10_000, after_offset=offset, totals=True)
    assert [place for page in pages for place in places(page)] == [(0, n) for n in range(1, 31)]
    assert len(pages) > 5
    assert {page.value["totals"]["read_states"] for page in pages} == {30}


def test_not_even_one_read_state_fits(limited: Service) -> None:
    wire, user = limited.wire, new_user()
    for message in range(64):
        event = {"type": "mention", "channel_id": "1", "message_id": str(2**62 + message)}
        offset = wire.produce_update(user, event)
    for body in ({}, {"limit": 1}):
        asked = {**body, "mentions": True, "after_offset": offset}
        reply = refused(wire, user, asked, deadline_s=20)
        assert reply.error == "reply_too_large"
        assert "limit" not in reply.value["error"]
        assert "REPLY_BYTES_MAX (1024)" in reply.value["error"]["message"]
    assert len(wire.get(user).states) == 1


def test_overloaded(limited: Service) -> None:
    wire, user = limited.wire, new_user()
    offset = ack(wire, user, 1, 1)
    wire.get(user, after_offset=offset)
    # the queries of a partition are taken in order: one waits, the others find no room
    first = wire.ask(user, {"after_offset": BEYOND}, deadline_s=4)
    others = [wire.ask(user, {"after_offset": BEYOND}, deadline_s=20) for _ in range(3)]
    for asked in others:
        reply = wire.wait(asked)
        assert reply is not None
        assert reply.error == "overloaded"
    reply = wire.wait(first)
    assert reply is not None
    assert reply.error == "not_caught_up"
    assert len(wire.get(user).states) == 1


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
