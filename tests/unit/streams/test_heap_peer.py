"""The graph's peer does the same work: the service over a heap LRU gives what it gives over ours.

Each seed drives one log, with loads, evictions, writes and failed writes, through a partition on
each table; replies, loads, rows written and counts must be the same, in the same order.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from readstates.ops.bench.heap_table import HeapTable
from readstates.streams.cassandra.write_behind import changes_of
from readstates.streams.partition.partition import Partition
from tests.support.small_world import EPOCH, READER, World, event, query

SLOTS, STATES_MAX = 120, 40  # no user comes near the limit: the peer has no side slots to count
USERS, CHANNELS, RECORDS = 15, 8, 600


class Peer(World):
    """The same world, on the heap."""

    def open(self, slots: int, states_max: int, died: bytearray | None = None, **more: Any) -> None:
        super().open(slots, states_max, died, **more)
        table: Any = HeapTable(slots, states_max)
        self.partition = Partition(
            0,
            table=table,
            position=0,
            committed=0,
            catch_up_to=0,
            epoch=EPOCH,
            partitions=1,
            incarnation=1,
            parked_max=100,
            parked_bytes_max=1 << 20,
            inbox_max=1000,
            inbox_bytes_max=1 << 20,
            reader=READER,
            effects=self,
        )
        self.partition.note_live_commit()


def drive(world: World, seed: int) -> list[Any]:
    """A life of a partition; returns all that can be seen of it."""
    rand = random.Random(seed)
    seen: list[Any] = []
    for offset in range(RECORDS):
        fields: dict[str, Any] = {"channel_id": rand.randint(1, CHANNELS)}
        fields["message_id"] = rand.randint(1, 50)
        if rand.random() < 0.2:
            fields |= {"flags": rand.randint(0, 2), "last_viewed": rand.randint(0, 2)}
            kind = "ack"
        else:
            kind = rand.choice(["ack", "mention"])
        world.now_ms += 10
        world.feed(event(offset, rand.randint(1, USERS), kind, **fields))
        if rand.random() < 0.3:
            channels = rand.choice([None, (1, 2, 3)])
            world.ask(query(rand.randint(1, USERS), channel_ids=channels))
        seen.append(list(world.loads and world.loads[0][1:]))
        while world.loads and rand.random() < 0.8:
            world.load_next()
        if rand.random() < 0.2:
            failed = rand.random() < 0.3
            for write in world.partition.take_writes(world.now_ms, 300, 10, 10**9):
                seen.append(sorted(changes_of(write)))  # a user's rows in any order
                write.failed = failed
                if not failed:
                    world.db.write(changes_of(write))
                world.partition.written(write)
        table = world.partition.table
        seen.append((table.free, table.resident_states, table.dirty_states, table.evictions))
        seen.append((world.partition.progress.committable(), world.partition.room.stalled))
    while world.loads:
        world.load_next()
    counts = world.partition.counts
    seen += [(q.get, *rest) for q, *rest in world.answers]
    seen += [(reason, record.offset) for _, _, record, reason in world.dead]
    seen.append((counts.applied, counts.replayed, counts.stale, counts.duplicate))
    seen.append(world.db.rows)
    return seen


@pytest.mark.parametrize("seed", range(10))
def test_the_peer_is_the_same_service(seed: int) -> None:
    ours, theirs = World(SLOTS, STATES_MAX), Peer(SLOTS, STATES_MAX)
    assert drive(theirs, seed) == drive(ours, seed)
    assert theirs.partition.table.evictions > 0
    assert theirs.answers
