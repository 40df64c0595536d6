"""Whatever a writer of updates sends, its dead letters stay small, and hold nothing up for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.topic_settings import set_topic, setting
from tests.support.waiting import WAIT_S, until
from tests.support.wire import DeadLetter, new_user, partition_of

EVENT_BYTES_MAX = 256 << 10
ACK = {"type": "ack", "channel_id": "5", "message_id": "6"}


@pytest.fixture(scope="module")
def bad(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service of our own: other tests' dead letters would be in the way."""
    made = Service(stack.env(), folder, "bounded")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def send_packed(service: Service, user: int, records: list[tuple[bytes, bytes]]) -> None:
    """Updates of one partition, compressed together."""
    producer = Producer(
        {
            "bootstrap.servers": service.wire.bootstrap,
            "compression.type": "zstd",
            "linger.ms": 50,
            "batch.size": 8 << 20,
            "message.max.bytes": 8 << 20,
        }
    )
    for key, value in records:
        producer.produce(service.wire.updates, value, key, partition=partition_of(user))
    assert producer.flush(WAIT_S) == 0


def log_bytes(stack: Stack, topic: str) -> int:
    """What the brokers keep of a topic."""
    return sum(path.stat().st_size for path in stack.data_dir.rglob(f"{topic}-*/*.log"))


def test_they_take_no_more_room_than_their_updates(bad: Service, stack: Stack) -> None:
    """270 values of 256 KiB that compress to nothing."""
    wire, user = bad.wire, new_user()
    before = log_bytes(stack, wire.updates), log_bytes(stack, wire.dead_letters_topic)
    value = b'{"type":"' + b"x" * (EVENT_BYTES_MAX - 9)
    send_packed(bad, user, [(b"%d" % user, value)] * 270)
    counted = "read_states_dead_letters_total{reason=invalid_json}"
    until(lambda: bad.metric(counted) >= 270, "270 dead letters", WAIT_S)
    bad.wait_durable(wire.ends(wire.updates))
    updates = log_bytes(stack, wire.updates) - before[0]
    letters = log_bytes(stack, wire.dead_letters_topic) - before[1]
    print(f"{updates} bytes of updates, {letters} bytes of dead letters")
    assert letters < 16 * updates
    (letter, *_) = letters_of(bad, user)
    assert letter.value == value


def letters_of(service: Service, user: int) -> list[DeadLetter]:
    found = service.wire.dead_letters()
    return [letter for letter in found if (letter.key or b"").startswith(b"%d" % user)]


def test_a_key_of_any_size_holds_no_commit(bad: Service) -> None:
    wire, user = bad.wire, new_user()
    for size in (2_000_000, 7_000_000):
        send_packed(bad, user, [(b"%d" % user + bytes(size), b"{}")])
    offset = wire.produce_update(user, ACK)
    assert wire.get(user, after_offset=offset).states
    bad.wait_durable(wire.ends(wire.updates))
    until(lambda: len(letters_of(bad, user)) == 2, "the letters")
    letters = letters_of(bad, user)
    sizes = [int(letter.headers["key_cut"]) for letter in letters]
    assert sizes == [size + len(b"%d" % user) for size in (2_000_000, 7_000_000)]
    assert all(letter.key is not None and len(letter.key) == 1024 for letter in letters)


def test_a_value_too_large_for_an_update_is_cut(bad: Service) -> None:
    wire, user = bad.wire, new_user()
    wire.produce(user, b"x" * (EVENT_BYTES_MAX + 1))
    (letter,) = until(lambda: letters_of(bad, user), "the dead letter")
    assert letter.reason == "too_large"
    assert letter.headers["cut"] == b"%d" % (EVENT_BYTES_MAX + 1)
    assert letter.value == b"x" * (64 << 10)


def test_the_topic_is_bounded_in_bytes(bad: Service) -> None:
    topic = bad.wire.dead_letters_topic
    assert int(setting(bad.wire, topic, "retention.bytes")) > 0
    set_topic(bad.wire, topic, retention_bytes="-1")
    refused = bad.cli("worker", "--http-port", "0")
    assert refused.returncode == 1
    assert f"{topic}: retention.bytes is '-1'" in refused.stderr
    assert "Set it with: readstates init" in refused.stderr
    assert "retention.bytes" in bad.cli("init").stdout
    assert int(setting(bad.wire, topic, "retention.bytes")) > 0
