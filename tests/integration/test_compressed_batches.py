"""Small batches that unpack to much: everybody else in their partition is served as before.

One writer of `updates` or `queries` can make them with the brokers' defaults. They are made in
`tests/support/raw_batches.py`, so that they cost the tests only what they cost a broker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from tests.support import raw_batches as raw
from tests.support.rows import rows_of
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import Wire, encode, new_user, partition_of

MIB = 1 << 20
BOMBS = {  # codec: bytes of one, how many; each one is at most a MiB in the log
    raw.ZSTD: (300 * MIB, 8),
    raw.GZIP: (300 * MIB, 2),
    raw.LZ4: (200 * MIB, 2),
    raw.SNAPPY: (20 * MIB, 2),
}
ROOM_MIB = 120  # what a worker may grow by: the space to unpack in, copies, a dead letter's bytes
TOO_LARGE = "read_states_dead_letters_total{reason=too_large}"
SKIPPED = "read_states_query_batches_skipped_total"
REBALANCES = "read_states_rebalances_total"


@pytest.fixture(scope="module")
def packed(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service of our own, with one worker."""
    made = Service(stack.env(), folder, "packed")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


class Memory:
    """What the worker has, and the most it had since this was made, in MiB."""

    def __init__(self, service: Service) -> None:
        self._status = Path(f"/proc/{service.workers[-1].pid}/status")
        Path(f"/proc/{service.workers[-1].pid}/clear_refs").write_text("5")  # forgets the most
        self.before = self._read("VmRSS")

    def _read(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", self._status.read_text())
        assert found is not None
        return int(found[1]) >> 10

    @property
    def grown(self) -> int:
        return self._read("VmHWM") - self.before


def mention(wire: Wire, user: int, message: int) -> int:
    event = {"type": "mention", "channel_id": "5", "message_id": str(message)}
    return wire.produce_update(user, event)


def counted(wire: Wire, user: int, offset: int) -> int:
    (state,) = wire.get(user, after_offset=offset).states
    return int(state["mention_count"])


def queries_lag(service: Service, partition: int) -> float:
    name = "read_states_processing_lag_records"
    topic = service.wire.queries
    return service.metric(f"{name}{{partition={partition},topic={topic}}}")


def batch_letters(wire: Wire, offsets: list[int], partition: int) -> list[Any]:
    """The dead letters of batches that begin at these offsets of updates."""

    def look() -> list[Any]:
        return [
            letter
            for letter in wire.dead_letters()
            if letter.headers["partition"] == b"%d" % partition
            and int(letter.headers["offset"]) in offsets
            and "last_offset" in letter.headers
        ]

    return until(lambda: found if len(found := look()) >= len(offsets) else None, "dead letters")


@pytest.mark.parametrize("codec", BOMBS, ids=raw.NAMES.get)
def test_updates(packed: Service, codec: int) -> None:
    wire, user = packed.wire, new_user()
    partition, other = partition_of(user), new_user(partition_of(user))
    assert counted(wire, user, mention(wire, user, 1)) == 1
    counts = {name: packed.metric(name) for name in (TOO_LARGE, REBALANCES)}
    size, count = BOMBS[codec]
    bomb = raw.bomb(codec, size, b"%d" % user, count=3)
    assert len(bomb) < MIB
    memory = Memory(packed)
    placed = [raw.produce(wire.bootstrap, wire.updates, partition, bomb) for _ in range(count)]
    assert min(placed) >= 0
    last = [mention(wire, user, 2), mention(wire, other, 1)]
    assert [counted(wire, user, last[0]), counted(wire, other, last[1])] == [2, 1]
    assert memory.grown < ROOM_MIB
    found = batch_letters(wire, placed, partition)
    assert len(found) == count
    for letter in found:
        assert set(letter.headers) == {"reason", "topic", "partition", "offset", "last_offset"}
        assert letter.reason == "too_large"
        assert int(letter.headers["last_offset"]) == int(letter.headers["offset"]) + 2
        assert letter.key is None
        assert letter.value is not None
        assert letter.value[61:] == bomb[61:]  # the broker writes offset and time before it
    packed.wait_durable(wire.ends(wire.updates))
    wire.rows.wait(user, rows_of(wire.get(user)))
    assert packed.metric(TOO_LARGE) == counts[TOO_LARGE] + count
    assert packed.metric(REBALANCES) == counts[REBALANCES]
    assert packed.workers[-1].returncode is None
    said = f"batch_not_read topic={wire.updates} partition={partition} offset={placed[0]} "
    assert said in packed.workers[-1].output()


@pytest.mark.parametrize("codec", [raw.GZIP, raw.LZ4], ids=raw.NAMES.get)
def test_updates_that_no_client_can_unpack(packed: Service, codec: int) -> None:
    """The broker reads one stream and looks no further."""
    wire, user = packed.wire, new_user()
    partition, value = partition_of(user), b'{"type":"ack"}'
    payload = raw.compressed(codec, raw.pieces([raw.Record(b"1", value)])) + b"garbage!" * 4
    batch = raw.batch_of(codec, [raw.Record(b"1", value)], payload)
    placed = raw.produce(wire.bootstrap, wire.updates, partition, batch)
    assert placed >= 0
    assert counted(wire, user, mention(wire, user, 1)) == 1
    (letter,) = batch_letters(wire, [placed], partition)
    assert (letter.reason, letter.headers["last_offset"]) == ("invalid_json", b"%d" % placed)
    packed.wait_durable(wire.ends(wire.updates))


def test_many_updates_of_much(packed: Service) -> None:
    """What may be unpacked adds up to far more than the worker may hold of it at once."""
    wire, user = packed.wire, new_user()
    partition = partition_of(user)
    padded = encode(user, {"type": "mention", "channel_id": "5", "message_id": "1"})
    padded += b" " * ((256 << 10) - len(padded))
    batch = raw.batch_of(raw.ZSTD, [raw.Record(b"%d" % user, padded)] * 48)  # 12 MiB
    bad = raw.bomb(raw.ZSTD, 15 * MIB, b"%d" % user)  # one value of 15 MiB: its letter is cut
    memory = Memory(packed)
    for _ in range(20):
        assert raw.produce(wire.bootstrap, wire.updates, partition, batch) >= 0
        assert raw.produce(wire.bootstrap, wire.updates, partition, bad) >= 0
    assert counted(wire, user, mention(wire, user, 2)) == 2
    assert memory.grown < ROOM_MIB
    packed.wait_durable(wire.ends(wire.updates))


def test_the_commands_show_a_batch_and_send_none(packed: Service) -> None:
    wire = packed.wire
    bomb = raw.bomb(raw.ZSTD, 20 * MIB, count=2)
    first = raw.produce(wire.bootstrap, wire.updates, 0, bomb)
    batch_letters(wire, [first], 0)
    place = f"{wire.updates}/0/{first} … {first + 1} a batch of {len(bomb)} bytes"
    done = packed.cli("dead-letters", "list", "--reason", "too_large")
    assert place in done.stdout, done.stdout
    chosen = ("--partition", "0", "--offset", str(first))
    done = packed.cli("dead-letters", "resend", "--force", "--yes", *chosen)
    assert done.returncode == 0, done.stderr
    assert "0 to send" in done.stderr
    assert "1 left where they are: a whole batch 1" in done.stderr


def unreadable(codec: int, user: int) -> bytes:
    """A batch of queries that librdkafka cannot read: too much for it, or more than its stream."""
    if codec == raw.ZSTD:
        return raw.bomb(codec, 150 * MIB, b"%d" % user, count=5)
    five = [raw.Record(b"%d" % user, b"{}")] * 5
    payload = raw.compressed(codec, raw.pieces(five)) + b"garbage!" * 4
    return raw.batch_of(codec, five, payload)


@pytest.mark.parametrize("codec", [raw.ZSTD, raw.LZ4], ids=["_BAD_COMPRESSION", "_BAD_MSG"])
def test_queries_that_cannot_be_read(packed: Service, codec: int) -> None:
    wire, user = packed.wire, new_user()
    partition = partition_of(user)
    offset = mention(wire, user, 1)
    assert counted(wire, user, offset) == 1
    before = packed.metric(SKIPPED)
    memory = Memory(packed)
    bad = unreadable(codec, user)
    placed = [raw.produce(wire.bootstrap, wire.queries, partition, bad) for _ in range(3)]
    assert min(placed) >= 0
    assert counted(wire, user, offset) == 1
    assert counted(wire, user, offset) == 1
    assert memory.grown < ROOM_MIB
    assert packed.metric(SKIPPED) == before + 3
    said = f"query_batch_skipped topic={wire.queries} partition={partition} offset={placed[0]} "
    assert said in packed.workers[-1].output()
    until(lambda: queries_lag(packed, partition) == 0, "no lag of queries")
    wait_queries_committed(packed, partition)


@pytest.mark.parametrize("codec", [raw.GZIP, raw.LZ4, raw.SNAPPY], ids=raw.NAMES.get)
def test_queries_that_librdkafka_unpacks_without_bound(packed: Service, codec: int) -> None:
    """The memory is not bounded (SECURITY.md); what they do to others is."""
    wire, user = packed.wire, new_user()
    partition = partition_of(user)
    offset = mention(wire, user, 1)
    bomb = raw.bomb(codec, 20 * MIB, b"%d" % user, count=2)
    assert raw.produce(wire.bootstrap, wire.queries, partition, bomb) >= 0
    assert counted(wire, user, offset) == 1
    wait_queries_committed(packed, partition)


def wait_queries_committed(service: Service, partition: int) -> None:
    """Until the group has committed past everything that is in a partition of queries."""
    from confluent_kafka import Consumer, TopicPartition

    wire = service.wire
    consumer = Consumer({"bootstrap.servers": wire.bootstrap, "group.id": service.group})
    end = wire.ends(wire.queries)[partition]
    place = TopicPartition(wire.queries, partition)
    try:
        until(lambda: consumer.committed([place], timeout=30)[0].offset >= end, f"commit {end}")
    finally:
        consumer.close()
