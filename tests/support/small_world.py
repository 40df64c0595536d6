"""A world for one real Partition and Table: a log, a database, and answers that come when told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson

from readstates.cache.rebuild import rebuild
from readstates.cache.table import Table
from readstates.cache.verify import verify
from readstates.schemas.headers import ReplyAddress
from readstates.schemas.queries import Get
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer
from readstates.streams.cassandra.write_behind import changes_of
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.decode_buffer import DecodeBuffer
from readstates.streams.partition.partition import Partition
from readstates.streams.partition.query import Query
from tests.support.table_builds import new_buffer

EPOCH = 8
READER = DecodeBuffer()


def version(offset: int) -> int:
    """The version that the record at `offset` gives."""
    return (EPOCH << 48) | (offset + 1)


def record(offset: int, key: bytes | None, value: bytes | None) -> Any:
    """As the consumer gives it."""
    return SimpleNamespace(
        topic="read-states.updates",
        partition=0,
        offset=offset,
        key=key,
        value=value,
        timestamp=offset,
    )


def event(offset: int, user_id: int, kind: str = "ack", **fields: Any) -> Any:
    """A record with a valid event."""
    value = {"type": kind, "user_id": user_id, **fields}
    return record(offset, b"%d" % user_id, orjson.dumps(value))


def query(user_id: int, **fields: Any) -> Query:
    """A query for a user, with all the time in the world."""
    return Query(
        Get(user_id, **fields),
        ReplyAddress("replies", None, None, "plain"),
        key=b"%d" % user_id,
        partition=0,
        incarnation=1,
        offset=0,
        timestamp_ms=0,
        deadline_ms=10**15,
        taken_ns=0,
    )


class Database:
    """Keeps of two writes the one with the larger timestamp, as Cassandra does.

    A user's deletion is written with the timestamp before its version, so what has that version
    stays: the mark of a final deletion.
    """

    def __init__(self) -> None:
        self.rows: dict[int, dict[tuple[int, int], tuple[int, Row | None]]] = {}
        self.deleted: dict[int, int] = {}

    def write(self, changes: list[Any]) -> None:
        """One batch, as Store.write takes it."""
        for user_id, stamp, row in changes:
            if row is None:
                self.deleted[user_id] = max(stamp, self.deleted.get(user_id, 0))
                continue
            rows = self.rows.setdefault(user_id, {})
            if abs(stamp) > rows.get(row[:2], (0, None))[0]:
                rows[row[:2]] = (abs(stamp), row if stamp > 0 else None)

    def read(self, user_id: int) -> list[Row]:
        """What a SELECT of the user gives."""
        low = self.deleted.get(user_id, 0)
        found = self.rows.get(user_id, {}).values()
        return sorted(row for stamp, row in found if row is not None and stamp >= low)

    def version(self, user_id: int, key: tuple[int, int]) -> int:
        """The newest write that the read state has seen, deletions too."""
        row_version = self.rows.get(user_id, {}).get(key, (0, None))[0]
        return max(row_version, self.deleted.get(user_id, 0))


class World:
    """The Effects of one partition, written down instead of done."""

    def __init__(self, slots: int = 40, states_max: int = 15, **more: Any) -> None:
        self.loads: list[tuple[Partition, int, int, int]] = []
        self.dead: list[tuple[Partition, int, Any, str]] = []
        self.texts: list[str] = []  # of the dead letters
        self.answers: list[tuple[Query, Answer]] = []
        self.db = Database()
        self.now_ms = 1000
        self.open(slots, states_max, **more)

    def open(self, slots: int, states_max: int, died: bytearray | None = None, **more: Any) -> None:
        """A partition at the beginning, or where `more` says, with an empty table or a died one."""
        given: dict[str, Any] = {"position": 0, "committed": 0, "catch_up_to": 0, "incarnation": 1}
        given |= {"parked_max": 100, "inbox_max": 1000}
        given |= {"parked_bytes_max": 1 << 20, "inbox_bytes_max": 1 << 20} | more
        self.buffer = new_buffer(slots) if died is None else died
        if died is not None:
            rebuild(self.buffer)
            verify(self.buffer)
        table = Table(self.buffer, states_max)
        table.position = given["position"]  # as the owner does
        self.partition = Partition(
            0, table=table, epoch=EPOCH, partitions=1, reader=READER, effects=self, **given
        )
        self.partition.note_live_commit()
        self.partition.check()

    # -- Effects

    def load(self, partition: Partition, user_id: int, ticket: int, asked: bool) -> None:
        self.loads.append((partition, partition.incarnation, user_id, ticket))

    def dead_letter(self, partition: Partition, record: Any, reason: str, text: str) -> None:
        self.dead.append((partition, partition.incarnation, record, reason))
        self.texts.append(text)

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        query.done = True
        self.answers.append((query, answer))

    # -- by hand

    def feed(self, *records: Any, end: int | None = None, last: bool = False) -> int:
        """One batch, the log's last one if `last`; returns how many were applied."""
        after = records[-1].offset + 1 if records else 0
        start = self.partition.inbox.next_arrival
        self.partition.take(Batch(start, list(records), after if end is None else end, last=last))
        self.partition.check()
        return self.run(10_000)

    def run(self, limit: int) -> int:
        """One slice; returns how many updates were taken."""
        taken = self.partition.run(limit, self.now_ms)
        self.partition.check()
        return taken

    def ask(self, asked: Query) -> Query:
        """A query arrives."""
        self.partition.queries.ask(asked)
        self.partition.check()
        return asked

    def load_next(self, rows: list[Row] | None = None) -> None:
        """Answer the oldest load, with `rows` or what the database has."""
        partition, incarnation, user_id, ticket = self.loads.pop(0)
        found = self.db.read(user_id) if rows is None else rows
        partition.loaded(incarnation, user_id, ticket, found)
        self.partition.check()

    def write_all(self, delay_ms: int = 0) -> int:
        """Write out what is due; returns how many users."""
        writes = self.partition.take_writes(self.now_ms, delay_ms, 100, 10**9)
        for write in writes:
            self.db.write(changes_of(write))
            self.partition.written(write)
            self.partition.check()
        return len(writes)
