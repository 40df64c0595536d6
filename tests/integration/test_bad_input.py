"""Whatever is wrong ends in the dead letters, in an error reply or in silence, and is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.rows import rows_of
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import (
    PARTITIONS,
    DeadLetter,
    Headers,
    TopicReader,
    Wire,
    encode,
    new_user,
    partition_of,
)

ACK = {"type": "ack", "channel_id": "5", "message_id": "6"}
NO_ADDRESS = "read_states_queries_total{outcome=no_reply_address}"
EXPIRED = "read_states_queries_total{outcome=expired}"


def with_(**fields: Any) -> dict[str, Any]:
    return {**ACK, **fields}


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ACK.items() if name != field}


NOT_IDS: list[Any] = [
    *(0, -1, 2**63, 2**64, 10**30, 1.0, 1e3, True, None, [], {}),
    *("", "0", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "0x1", "x", str(2**63), "٣"),
]
NOT_ACKS: list[Any] = [[], {}, None, "x", [[]], [5]]
WRONG_FIELDS: list[dict[str, Any]] = [
    without("channel_id"),
    without("message_id"),
    without("type"),
    with_(type=None),
    with_(type=1),
    *(with_(**{name: value}) for name in ("channel_id", "message_id") for value in NOT_IDS),
    *(with_(read_state_type=value) for value in (-1, 256, "1", 1.0, None, True)),
    *(with_(flags=value) for value in (-1, 2**32, "1", 1.5, None, False)),
    *(with_(last_viewed=value) for value in (-1, 65536, "1", None)),
    *(with_(ts=value) for value in ("1", None, 1.5)),
    *(with_(manual=value) for value in (1, "true", None)),
    *(with_(manual=True, mention_count=value) for value in (-1, 2**32, "1", None, 0.0)),
    *(
        {"type": "pins_ack", "channel_id": "5", "timestamp": value}
        for value in (-1, 2**48, "5", None, 1.0)
    ),
    {"type": "pins_ack", "channel_id": "5"},
    {"type": "mention", "channel_id": "5"},
    {"type": "retract_mention", "message_id": "5"},
    {"type": "delete"},
    {"type": "delete", "channel_id": "5", "read_state_type": "0"},
    *({"type": "bulk_ack", "acks": value} for value in NOT_ACKS),
    {"type": "bulk_ack"},
    {"type": "bulk_ack", "acks": [{"channel_id": "5", "message_id": "6"}] * 1001},
    with_(user_id=None),
    with_(user_id=0),
    with_(user_id=1.0),
    with_(user_id=True),
    with_(user_id="x"),
]
WRONG_TYPES = ["acks", "ACK", "", "read", "delete user"]
NOT_JSON = [
    b"",
    b"{",
    b"\xff\xfe",
    b'{"type":"ack"',
    b"{'type':'ack'}",
    b'{"type":"ack",}',
    b'{"type":"ack","channel_id":NaN}',
    b'{"type":"ack","user_id":"1"}{}',
    b"[" * 100_000,
]
NOT_OBJECTS = [b"null", b"1", b'"ack"', b"[]", b"true"]


@pytest.fixture(scope="module")
def victim(wire: Wire) -> int:
    """A user with a read state, at which the bad records are aimed."""
    user = new_user()
    offset = wire.produce_update(user, {"type": "ack", "channel_id": "4", "message_id": "5"})
    assert len(wire.get(user, after_offset=offset).states) == 1
    return user


def refused(wire: Wire, user: int, bad: list[tuple[bytes | None, str]]) -> None:
    """Each value is a dead letter of its reason, as it came; the user's states stay."""
    before = wire.get(user).states
    places = [wire.produce(user, value) for value, _ in bad]
    for place, (value, reason) in zip(places, bad, strict=True):
        found = wire.dead_letter(place)
        assert found.reason == reason, value and value[:200]
        assert found.value == value
        assert found.key == str(user).encode()
    assert wire.get(user, after_offset=places[-1].offset).states == before


def test_wrong_fields(wire: Wire, victim: int) -> None:
    refused(wire, victim, [(encode(victim, event), "invalid_field") for event in WRONG_FIELDS])
    refused(wire, victim, [(json.dumps(ACK).encode(), "invalid_field")])
    template = b'{"type":"ack","user_id":%d,"channel_id":%%s,"message_id":"6"}' % victim
    raw = [template % number for number in (b"1e3", b"5E0", b"5.0", b"-0")]
    refused(wire, victim, [(value, "invalid_field") for value in raw])


def test_unknown_types(wire: Wire, victim: int) -> None:
    bad = [encode(victim, with_(type=name)) for name in WRONG_TYPES]
    refused(wire, victim, [(value, "unknown_type") for value in bad])


def test_not_json(wire: Wire, victim: int) -> None:
    refused(wire, victim, [(value, "invalid_json") for value in NOT_JSON])
    refused(wire, victim, [(value, "invalid_field") for value in NOT_OBJECTS])


def test_null_value(wire: Wire, victim: int) -> None:
    refused(wire, victim, [(None, "null_value")])


def test_size(wire: Wire) -> None:
    user, limit = new_user(), 256 * 1024
    largest = encode(user, ACK)
    largest += b" " * (limit - len(largest))
    offset = wire.produce_update(user, largest)
    assert len(wire.get(user, after_offset=offset).states) == 1
    for size in (limit + 1, 1_000_000):
        cut_letter(wire, new_user(), b"x" * size)


def cut_letter(wire: Wire, user: int, value: bytes) -> None:
    """A value that is too large is a dead letter, cut."""
    wire.produce(user, value)

    def of_user() -> list[DeadLetter]:
        return [letter for letter in wire.dead_letters() if letter.key == str(user).encode()]

    (letter,) = until(of_user, "the dead letter")
    assert (letter.reason, letter.value) == ("too_large", value[: 64 << 10])
    assert letter.headers["cut"] == str(len(value)).encode()


def test_a_record_too_large_for_the_dead_letters(wire: Wire) -> None:
    """Compressed it fits into updates; nobody takes it as it is. Its beginning is kept."""
    user, size = new_user(), 2_000_000
    producer = Producer(
        {
            "bootstrap.servers": wire.bootstrap,
            "partitioner": "murmur2_random",
            "compression.type": "gzip",
            "message.max.bytes": 3_000_000,
        }
    )
    producer.produce(wire.updates, b"x" * size, str(user))
    assert producer.flush(30) == 0

    def cut() -> list[DeadLetter]:
        return [letter for letter in wire.dead_letters() if letter.key == str(user).encode()]

    (letter,) = until(cut, "the dead letter")
    assert letter.reason == "too_large"
    assert letter.headers["cut"] == str(size).encode()
    assert letter.value == b"x" * 65536


@pytest.mark.parametrize("number", [1, 2**53, 2**53 + 1, 2**63 - 1])
def test_ids_keep_every_digit(wire: Wire, number: int) -> None:
    user = new_user()
    for sent in (number, str(number)):
        event = {"type": "ack", "channel_id": sent, "message_id": sent}
        value = json.dumps({**event, "user_id": user}).encode()
        offset = wire.produce_update(user, value)
        (state,) = wire.get(user, after_offset=offset).states
        assert (state["channel_id"], state["last_message_id"]) == (str(number), str(number))
        assert len(wire.get(user, channel_ids=[sent]).states) == 1


@pytest.mark.parametrize("user", [1, 2**63 - 1])
def test_first_and_last_user(wire: Wire, user: int) -> None:
    offset = wire.produce_update(user, {**ACK, "user_id": user})
    reply = wire.get(user, after_offset=offset)
    wire.rows.wait(user, rows_of(reply))


def test_key_mismatch(wire: Wire, victim: int) -> None:
    other = new_user(partition_of(victim))
    before = wire.get(victim).states
    value, number = encode(victim, ACK), partition_of(victim)
    keys = [str(other).encode(), b"0%d" % victim, b" %d" % victim, b"x", b"\xff\x00"]
    places = [wire.produce(victim, value, key=key, partition=number) for key in keys]
    for place, key in zip(places, keys, strict=True):
        found = wire.dead_letter(place)
        assert (found.reason, found.key, found.value) == ("key_mismatch", key, value)
    for none in (None, b""):
        place = wire.send(wire.updates, none, value, partition=number)
        found = wire.dead_letter(place)
        assert (found.reason, found.key, found.value) == ("key_mismatch", none, value)
    assert wire.get(victim, after_offset=place.offset).states == before
    assert wire.get(other).states == []


def test_misrouted(wire: Wire) -> None:
    user = new_user()
    value = encode(user, ACK)
    for partition in set(range(PARTITIONS)) - {partition_of(user)}:
        place = wire.produce(user, value, partition=partition)
        found = wire.dead_letter(place)
        assert (found.reason, found.value) == ("misrouted", value)
    assert wire.get(user).states == []
    assert wire.rows.of(user) == []


def test_every_dead_letter_is_counted(service: Service, wire: Wire) -> None:
    user = new_user()
    before = service.metric("read_states_dead_letters_total{reason=unknown_type}")
    wire.dead_letter(wire.produce(user, {"type": "x"}))
    after = service.metric("read_states_dead_letters_total{reason=unknown_type}")
    assert after == before + 1


def test_bad_records_do_not_stop_the_good(wire: Wire) -> None:
    user = new_user()
    for number in range(1, 30):
        wire.produce(user, b"{" if number % 2 else None)
        offset = wire.produce_update(user, {**ACK, "channel_id": number})
    assert len(wire.get(user, after_offset=offset).states) == 29


# -- queries --------------------------------------------------------------------------------------


def silent(service: Service, user: int, headers: Headers, outcome: str = NO_ADDRESS) -> None:
    """A query that is dropped and counted; one after it in the partition is answered."""
    wire = service.wire
    before, seen = service.metric(outcome), len(wire.arrived())
    wire.ask(user, None, headers)
    until(lambda: service.metric(outcome) == before + 1, f"{outcome} over {before}")
    assert wire.get(user)
    assert len(wire.arrived()) == seen + 1


def correlated(*headers: tuple[str, bytes]) -> Headers:
    return [*headers, ("kafka_correlationId", b"silent")]


def test_no_reply_address(service: Service, victim: int) -> None:
    reply_topic = service.wire.reply_topic.encode()
    silent(service, victim, [])
    silent(service, victim, correlated())
    silent(service, victim, correlated(("kafka_replyTopic", b"")))
    silent(service, victim, correlated(("kafka_replyTopic", b"\xff\xfe")))
    silent(service, victim, correlated(("Kafka_ReplyTopic", reply_topic)))
    silent(
        service,
        victim,
        correlated(("kafka_replyTopic", reply_topic), ("kafka_replyTopic", b"foreign")),
    )


NO_TEXT = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Key(str):
    def encode(self, *_: str) -> bytes:
        return b"\\xff\\xfe"

async def send(bootstrap: str, topic: str, key: str, partition: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        body = b'{"type": "get", "user_id": "%s"}' % key.encode()
        more = {"partition": int(partition), "headers": [(Key("x"), b"1")]}
        await producer.send_and_wait(topic, body, key.encode(), **more)

asyncio.run(send(*sys.argv[1:]))
"""


def test_a_header_key_that_is_no_text(service: Service, victim: int) -> None:
    """confluent-kafka returns it with an error that comes up later, once the call is specialised.

    No client of ours writes such a key: aiokafka in plain Python does, for what says it is a str.
    """
    wire = service.wire
    for _ in range(50):
        wire.get(victim)
    before = service.metric(NO_ADDRESS)
    place = [wire.bootstrap, wire.queries, str(victim), str(partition_of(victim))]
    env = {**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"}
    subprocess.run([sys.executable, "-c", NO_TEXT, *place], env=env, check=True)
    until(lambda: service.metric(NO_ADDRESS) == before + 1, "the query counts as one without")
    assert wire.get(victim)


@pytest.mark.parametrize("raw", [b"", b"\0\0\0", b"\0\0\0\0\0", b"1", b"\0\0\0\x03", b"\xff" * 4])
def test_unusable_reply_partition(service: Service, victim: int, raw: bytes) -> None:
    topic = ("kafka_replyTopic", service.wire.reply_topic.encode())
    silent(service, victim, correlated(topic, ("kafka_replyPartition", raw)))


def test_foreign_and_own_topics_are_never_written(service: Service, victim: int) -> None:
    wire = service.wire
    foreign = [f"a-{wire.reply_topic}", "orders", f"{wire.prefix}xreplies.a", "xf-reply-a"]
    for topic in foreign:
        wire.create_topic(topic)
    own = [wire.updates, wire.queries, wire.dead_letters_topic]
    ends = {name: wire.ends(name) for name in (wire.updates, wire.dead_letters_topic)}
    for topic in [*foreign, *own, "__consumer_offsets"]:
        silent(service, victim, correlated(("kafka_replyTopic", topic.encode())))
        silent(service, victim, correlated(("Faust-Ag-ReplyTo", topic.encode())))
    for topic in foreign:
        assert wire.ends(topic, 1) == [0]
    assert {name: wire.ends(name) for name in ends} == ends


def test_no_reply_topic_is_ever_created(service: Service, victim: int) -> None:
    wire = service.wire
    for name in (f"{wire.prefix}.replies.nobody", "f-reply-nobody"):
        silent(service, victim, correlated(("kafka_replyTopic", name.encode())))
        assert name not in wire.topics()
        # once it is there, it is found
        wire.create_topic(name)
        wire.ask(victim, None, [("kafka_replyTopic", name.encode())])
        reader = TopicReader(wire.bootstrap, name, 1)
        try:
            assert until(partial(reader.poll, 0.2), f"a reply in {name}")
        finally:
            reader.close()


def test_expired(service: Service, victim: int) -> None:
    topic = ("kafka_replyTopic", service.wire.reply_topic.encode())
    for raw in (b"0", b"1600000000000"):
        silent(service, victim, correlated(topic, ("read-states-deadline", raw)), EXPIRED)
