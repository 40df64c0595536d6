"""The real partition and table in a small world of ours: late loads, failed writes, crashes.

One seed drives the log, the database and the faults. After the faults stop, everything must drain,
and the database must equal an independent fold of the log. The same holds on the real servers
(tests/integration/test_workers.py); here the faults are where the seed puts them.
"""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from readstates.cache.tablefile import TableFile, TableIdentity, open_table
from readstates.ops.demo.oracle import EPOCH, Oracle
from readstates.ops.demo.traffic import Traffic
from readstates.schemas.headers import ReplyAddress
from readstates.schemas.queries import Get
from readstates.schemas.replies import ReadState
from readstates.streams.partition import Partition, Write
from readstates.streams.queries import Query
from readstates.streams.transport import Batch
from readstates.streams.write_behind import changes_of

RECORDS = 1500
USERS = 60
STATES = 150
ADDRESS = ReplyAddress("read-states.replies.x", None, b"1", "plain")


class Database:
    """Rows with write timestamps, as Cassandra decides between them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int, int], tuple[int, ReadState | None]] = {}
        self.deleted: dict[int, int] = {}

    def apply(self, write: Write) -> None:
        for user_id, version, row in changes_of(write):
            if row is None:
                self.deleted[user_id] = max(self.deleted.get(user_id, 0), version)
                continue
            key = (user_id, row[0], row[1])
            if abs(version) > self.rows.get(key, (0, None))[0]:
                self.rows[key] = (abs(version), row if version > 0 else None)

    def load(self, user_id: int) -> list[ReadState]:
        floor = self.deleted.get(user_id, 0)
        return sorted(
            row
            for (user, _, _), (version, row) in self.rows.items()
            if user == user_id and row is not None and version > floor
        )


class World:
    """Effects of a partition, the log it reads, and the faults."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.database = Database()
        self.oracle = Oracle()
        self.committed = 0
        self.incarnation = 0
        self.log: list[Any] = []
        offset = 0
        for record in Traffic(seed, USERS).updates(RECORDS):
            offset += self.random.choice((1, 1, 1, 2))  # control records leave gaps
            self.log.append(
                SimpleNamespace(
                    offset=offset,
                    key=record.key,
                    value=record.value,
                    timestamp=0,
                    topic="updates",
                    partition=0,
                )
            )
            self.oracle.apply(record.key, record.value, offset)
        self.end = offset + 1
        self.file: TableFile | None = None
        self.open()

    def open(self) -> None:
        """A new owner, from the committed offset, with an empty table."""
        if self.file is not None:
            self.file.close(clean=False)
        identity = TableIdentity(bytes(16), EPOCH, 0, "ks")
        self.file = open_table(self.folder / "0.table", identity, STATES, STATES // 2)
        self.incarnation += 1
        self.loads: list[tuple[int, int, list[ReadState] | None]] = []
        self.letters: list[int] = []
        self.writes: list[Write] = []
        self.versions: list[int] = []
        self.partition = Partition(
            0,
            table=self.file.table,
            position=self.committed,
            committed=self.committed,
            catch_up_to=self.committed,
            epoch=EPOCH,
            partitions=1,
            incarnation=self.incarnation,
            parked_max=80,
            inbox_max=100,
            effects=self,
        )
        self.partition.announce()

    # -- effects ------------------------------------------------------------------------------

    def load(self, _partition: Partition, user_id: int, ticket: int) -> None:
        self.loads.append((user_id, ticket, None))

    def dead_letter(self, _partition: Partition, record: Any, reason: str, text: str) -> None:
        self.letters.append(record.offset)

    def answer(
        self, query: Query, version: int, full: bool, rows: list[ReadState], hit: bool
    ) -> None:
        query.done = True
        assert not self.versions or version >= self.versions[-1]
        self.versions.append(version)

    def refuse(self, query: Query, code: str, text: str) -> None:
        query.done = True

    # -- steps --------------------------------------------------------------------------------

    def fetch(self) -> None:
        start = self.partition.next_arrival
        records = [r for r in self.log if r.offset >= start][: self.random.randint(1, 40)]
        if records and self.partition.wants_records:
            self.partition.take(Batch(start, records, records[-1].offset + 1))

    def ask(self) -> None:
        user_id = int(self.random.choice(self.log).key or 1)
        query = Query(
            Get(user_id),
            ADDRESS,
            key=b"",
            partition=0,
            incarnation=self.incarnation,
            offset=0,
            timestamp_ms=0,
            deadline_ms=0,
            taken_ns=0,
        )
        self.partition.ask(query)

    def finish_load(self) -> None:
        if self.loads:
            user_id, ticket, rows = self.loads.pop(self.random.randrange(len(self.loads)))
            if rows is None and self.random.random() < 0.3:  # read now, answered later
                self.loads.append((user_id, ticket, self.database.load(user_id)))
                return
            rows = self.database.load(user_id) if rows is None else rows
            self.partition.loaded(self.incarnation, user_id, ticket, rows)

    def start_writes(self, now_ms: int, delay_ms: int) -> None:
        self.writes += self.partition.take_writes(now_ms, delay_ms, 8, STATES // 2)

    def finish_write(self, faults: bool) -> None:
        if not self.writes:
            return
        write = self.writes.pop(self.random.randrange(len(self.writes)))
        write.failed = faults and self.random.random() < 0.2
        if not write.failed or self.random.random() < 0.5:  # a time-out may have been applied
            self.database.apply(write)
        self.partition.written(write)

    def keep_letter(self) -> None:
        if self.letters:
            self.partition.dead_letter_kept(self.incarnation, self.letters.pop())

    def commit(self) -> None:
        position = self.partition.watermark_position()
        assert position >= self.committed
        held = [*self.letters, *(w.first_version - (EPOCH << 48) - 1 for w in self.writes)]
        assert all(position <= offset for offset in held)
        self.committed = position

    def step(self, now_ms: int, faults: bool) -> None:
        dice = self.random.random()
        if dice < 0.2:
            self.fetch()
        elif dice < 0.4:
            self.partition.run(self.random.randint(1, 30), now_ms)
        elif dice < 0.55:
            self.finish_load()
        elif dice < 0.65:
            self.start_writes(now_ms, 200)
        elif dice < 0.8:
            self.finish_write(faults)
        elif dice < 0.9:
            self.keep_letter()
        elif dice < 0.95:
            self.ask()
        elif faults and dice > 0.998:
            self.open()
        else:
            self.commit()

    @property
    def drained(self) -> bool:
        return (
            self.partition.position == self.end
            and self.partition.settled
            and not (self.partition.parked)
        )


@pytest.mark.parametrize("seed", range(40))
def test_database_equals_the_fold_of_the_log(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path)
    for now_ms in range(3000):
        world.step(now_ms, faults=True)
    for now_ms in range(3000, 60_000):
        if world.drained:
            break
        world.fetch()
        world.step(now_ms, faults=False)
        world.start_writes(now_ms, 0)
    assert world.drained, "stuck"
    world.commit()
    assert world.committed == world.end
    for user_id, states in world.oracle.users.items():
        assert world.database.load(user_id) == world.oracle.rows(user_id), (user_id, states)
    assert world.file is not None
    world.file.close(clean=False)


def test_a_gap_between_batches_is_noticed(tmp_path: Path) -> None:
    world = World(0, tmp_path)
    with pytest.raises(Exception, match="expected 0"):
        world.partition.take(Batch(5, [], 6))
    assert world.file is not None
    world.file.close(clean=False)
