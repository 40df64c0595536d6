"""`readstates dead-letters`: what is shown, what is sent again, and that it then counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer

from readstates.ops.local.stack import Stack
from tests.support.service import USER_STATES_MAX, Service
from tests.support.waiting import WAIT_S
from tests.support.wire import PARTITIONS, Place, encode, new_user, partition_of

ACK = {"type": "ack", "channel_id": "5", "message_id": "6"}


@pytest.fixture(scope="module")
def letters(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service of our own: other tests' dead letters would be in the way."""
    made = Service(stack.env(), folder, "letters")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def test_list_and_resend(letters: Service) -> None:
    wire, user = letters.wire, new_user()
    done = letters.cli("dead-letters", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0 dead letters\n")

    astray = wire.produce(user, ACK, partition=(partition_of(user) + 1) % PARTITIONS)
    raw = b'{"type":"ack",\x1b[31m\xff'
    broken = wire.produce(user, raw)
    assert wire.dead_letter(astray).reason == "misrouted"
    assert wire.dead_letter(broken).value == raw

    done = letters.cli("dead-letters", "list")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.count("\n") == 2
    assert f"{wire.updates}/{astray.partition}/{astray.offset} key {user} " in done.stdout
    assert "2 dead letters: " in done.stderr
    done = letters.cli("dead-letters", "list", "--reason", "misrouted", "--json")
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["reason"], found["key"]) == ("misrouted", str(user))
    assert found["value"].encode() == encode(user, ACK)
    assert (found["topic"], found["partition"]) == (wire.updates, astray.partition)
    assert found["offset"] == str(astray.offset)
    assert len(letters.cli("dead-letters", "list", "--limit", "1").stdout.splitlines()) == 1

    before = wire.ends(wire.updates)
    done = letters.cli("dead-letters", "resend", "--dry-run")
    assert "1 to send: misrouted 1" in done.stderr
    assert "1 left where they are: invalid_json 1" in done.stderr
    assert wire.ends(wire.updates) == before
    done = letters.cli("dead-letters", "resend")  # nobody says yes
    assert done.returncode == 1
    assert wire.ends(wire.updates) == before

    done = letters.cli("dead-letters", "resend", "--yes")
    assert (done.returncode, done.stdout) == (0, "sent 1\n"), done.stderr
    after = wire.ends(wire.updates)
    before[partition_of(user)] += 1
    assert after == before
    (state,) = wire.get(user, after_offset=after[partition_of(user)] - 1).states
    assert (state["channel_id"], state["last_message_id"]) == ("5", "6")


def test_the_partitioner_is_named(letters: Service) -> None:
    """librdkafka's default chooses by CRC32."""
    wire = letters.wire
    placed: dict[int, Place] = {}

    def delivered(error: object, message: Message) -> None:
        assert error is None, error
        key, number, offset = message.key(), message.partition(), message.offset()
        assert isinstance(key, bytes)
        assert number is not None
        assert offset is not None
        placed[int(key)] = Place(number, offset)

    producer = Producer({"bootstrap.servers": wire.bootstrap})
    for user in (new_user() for _ in range(40)):
        producer.produce(wire.updates, encode(user, ACK), str(user), on_delivery=delivered)
    assert producer.flush(WAIT_S) == 0
    del producer
    wrong = {user: at for user, at in placed.items() if at.partition != partition_of(user)}
    for place in wrong.values():
        assert wire.dead_letter(place).reason == "misrouted"
    done = letters.cli("dead-letters", "partitioner")
    assert done.returncode == 0, done.stderr
    said, first, *_ = done.stdout.splitlines()
    assert f"misrouted records in {wire.updates}, {PARTITIONS} partitions" in said
    explained, name, *remedy = first.split()
    assert (name, int(explained) >= len(wrong)) == ("crc32", True)
    assert "partitioner=murmur2_random" in remedy


def test_the_place_and_force(letters: Service) -> None:
    wire, user = letters.wire, new_user()
    places = [wire.produce(user, value) for value in (b"[]", b"[1]")]
    for place in places:
        wire.dead_letter(place)
    chosen = ("--partition", str(places[1].partition), "--offset", str(places[1].offset))
    done = letters.cli("dead-letters", "resend", "--yes", *chosen)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 left where they are: invalid_field 1" in done.stderr
    end = wire.ends(wire.updates)[places[1].partition]
    done = letters.cli("dead-letters", "resend", "--yes", "--force", *chosen)
    assert (done.returncode, done.stdout) == (0, "sent 1\n"), done.stderr
    again = wire.dead_letter(places[1]._replace(offset=end))
    assert (again.reason, again.value) == ("invalid_field", b"[1]")


def test_too_many_states_find_room_again(letters: Service) -> None:
    wire, user = letters.wire, new_user()
    for channel in range(1, USER_STATES_MAX + 2):
        place = wire.produce(user, {**ACK, "channel_id": str(channel)})
    assert wire.dead_letter(place).reason == "too_many_states"
    wire.produce(user, {"type": "delete", "channel_id": "1"})
    done = letters.cli("dead-letters", "resend", "--reason", "too_many_states", "--yes")
    assert (done.returncode, done.stdout) == (0, "sent 1\n"), done.stderr
    end = wire.ends(wire.updates)[place.partition]
    channels = [state["channel_id"] for state in wire.get(user, after_offset=end - 1).states]
    assert channels == [str(channel) for channel in range(2, USER_STATES_MAX + 2)]
