"""The service's own store code in the bench's process: a real partition, table and Cassandra.

There is no Kafka: updates are handed to the partition as its log's next batch. The benches of the
write-out and of misses use it; their peers are calls of the bare driver in the same process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from readstates.cache.tablefile import TableIdentity, open_table
from readstates.schemas.replies import Answer
from readstates.streams.cassandra.store import Store
from readstates.streams.cassandra.write_behind import WriteBehind
from readstates.streams.config import Settings
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.decode_buffer import DecodeBuffer
from readstates.streams.partition.partition import Partition
from readstates.streams.partition.query import Query

from ..proof.traffic import Record
from . import asking
from .suite import Suite

EPOCH = 8


class LogRecord(NamedTuple):
    """The fields of a Kafka record that the fold reads."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0
    headers: tuple[()] = ()


class World:
    """The effects of a partition: keeps the `loads` asked for, and ignores the rest."""

    def __init__(self) -> None:
        self.loads: list[tuple[Partition, int, int]] = []

    def load(self, partition: Partition, user_id: int, ticket: int, asked: bool) -> None:
        self.loads.append((partition, user_id, ticket))

    def dead_letter(self, partition: Partition, record: Any, reason: str, text: str) -> None:
        partition.dead_letter_kept(partition.incarnation, record.offset)

    def answer(self, query: Query, answer: Answer, hit: bool) -> None: ...


class Local:
    """A partition, the only one of its log, with an empty table and a position of 0."""

    def __init__(self, folder: Path, states: int, effects: Any = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        identity = TableIdentity(bytes(16), EPOCH, 0, "bench")
        self.file = open_table(folder / "bench.table", identity, states, states // 2)
        self.world = effects or World()
        self.partition = Partition(
            0,
            table=self.file.table,
            position=0,
            committed=0,
            catch_up_to=0,
            epoch=EPOCH,
            partitions=1,
            incarnation=1,
            parked_max=10**7,
            parked_bytes_max=1 << 40,
            inbox_max=10**7,
            inbox_bytes_max=1 << 40,
            reader=DecodeBuffer(),
            effects=self.world,
        )
        self.partition.note_live_commit()

    def feed(self, records: Iterable[Record], now_ms: int = 0) -> None:
        """Fold these as the log's next updates; users who are not resident are new."""
        partition = self.partition
        start = partition.inbox.next_arrival
        batch = [
            LogRecord(offset, record.key, record.value)
            for offset, record in enumerate(records, start)
        ]
        partition.take(Batch(start, batch, start + len(batch)))
        while partition.can_run:
            partition.run(1000, now_ms)
            self.nothing_stored()

    def nothing_stored(self) -> None:
        """Answer all loads with no rows."""
        loads, self.world.loads = self.world.loads, []
        for partition, user_id, ticket in loads:
            partition.loaded(partition.incarnation, user_id, ticket, [])

    def close(self) -> None:
        self.file.close(clean=False)
        self.file.path.unlink()


async def write_all(store: Store, settings: Settings, partition: Partition) -> None:
    """Write out everything dirty, to the last acknowledgement, as at a handover."""
    write_behind = WriteBehind(store, settings, lambda: None)
    partition.write_out.everything = True
    while True:
        await write_behind.step([partition], now_ms=0)
        if write_behind.idle and partition.all_durable:
            return
        await asyncio.sleep(0.001)


@contextmanager
def cassandra(suite: Suite, keyspace: str) -> Iterator[tuple[Settings, Store]]:
    """Start servers for one bench; the store is prepared for an empty keyspace."""
    env = asking.servers(suite)
    settings = Settings.load({**env, "READ_STATES_CASSANDRA_KEYSPACE": keyspace})
    store = Store(settings)
    try:
        store.create_schema()
        store.prepare()
        yield settings, store
    finally:
        store.close()
