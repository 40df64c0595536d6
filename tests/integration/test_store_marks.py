"""What is remembered of single messages, in the real Cassandra: written, loaded, and of old.

`Stored` runs the fold with a table whose users are written out to Cassandra, evicted, and loaded
from there again; the oracle says what must come.
"""

from __future__ import annotations

import asyncio
import logging
import random
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.cache import fsck
from readstates.cache.marks import (
    DELETED,
    FOR_GOOD,
    MARK,
    MARKS_MAX,
    TAG_SHIFT,
    UNCOUNTED,
    UNREAD,
)
from readstates.ops.local import cql
from readstates.ops.local.stack import Stack
from readstates.ops.proof.oracle import RESTORED
from readstates.schemas.read_state import Row
from readstates.streams.cassandra.row_bytes import Change
from readstates.streams.cassandra.store import Store
from readstates.streams.cassandra.write_behind import changes_of
from readstates.streams.config import Settings
from readstates.streams.errors import StoreError
from readstates.streams.partition.write_out import Write
from tests.model.test_marks import CHANNELS, EPOCH_BITS, USER, World, anything
from tests.support.rows import Rows
from tests.support.service import Service
from tests.support.table_builds import BUILDS
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, Wire, new_user

CHANNEL, STATES_MAX = 3, 40
V = EPOCH_BITS | 1000  # a version
BIG = 2**63 - 1
VERSION_1 = """CREATE TABLE {keyspace}.read_states (
    user_id bigint, read_state_type smallint, channel_id bigint, last_message_id bigint,
    last_mention_id bigint, mention_count bigint, last_pin_timestamp bigint, flags bigint,
    last_viewed int, version bigint, PRIMARY KEY ((user_id), read_state_type, channel_id)
) WITH compaction = {{'class': 'LeveledCompactionStrategy'}}"""
INSERT_1 = (
    "INSERT INTO {keyspace}.read_states (user_id, read_state_type, channel_id, last_message_id, "
    "last_mention_id, mention_count, last_pin_timestamp, flags, last_viewed, version) "
    "VALUES ({user}, {row[0]}, {row[1]}, {row[2]}, {row[3]}, {row[4]}, {row[5]}, {row[6]}, "
    "{row[7]}, {row[8]}) USING TIMESTAMP {row[8]}"
)
Row1 = tuple[int, int, int, int, int, int, int, int, int]


class Database:
    """The store with a keyspace of its own; each call waits for Cassandra's answer."""

    def __init__(self, stack: Stack, keyspace: str) -> None:
        self.keyspace = keyspace
        env = {
            **stack.env(),
            "READ_STATES_CASSANDRA_KEYSPACE": keyspace,
            "READ_STATES_USER_STATES_MAX": str(STATES_MAX),
            "READ_STATES_CACHE_STATES": str(2 * STATES_MAX),
        }
        settings = Settings.load(env)
        self._address = settings.cassandra_hosts, settings.cassandra_port
        self.rows = Rows(*self._address, keyspace)
        self.store = Store(settings)
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()
        self.store.close()

    def cql(self, statement: str, **values: object) -> None:
        text = statement.format(keyspace=self.keyspace, **values)
        cql.query(*self._address, text, WAIT_S)

    def empty(self) -> None:
        self.cql("TRUNCATE {keyspace}.read_states")

    def write(self, *changes: Change) -> None:
        async def run() -> None:
            answer = asyncio.get_running_loop().create_future()
            self.store.write(list(changes), answer.set_result)
            assert await answer

        self._runner.run(run())

    def write_rows(self, *rows: Row) -> None:
        self.write(*((USER, row[8], row) for row in rows))

    def load(self, *users: int) -> dict[int, list[Row]]:
        async def run() -> dict[int, list[Row]]:
            answer = asyncio.get_running_loop().create_future()
            self.store.load(list(users), answer.set_result)
            found: dict[int, list[Row]] | None = await answer
            assert found is not None
            return found

        return self._runner.run(run())


@pytest.fixture(scope="module")
def made(stack: Stack) -> Iterator[Database]:
    database = Database(stack, "it_marks")
    try:
        database.store.create_schema()
        database.store.prepare()
        yield database
    finally:
        database.close()


@pytest.fixture
def database(made: Database) -> Database:
    made.empty()
    return made


@pytest.fixture
def old(stack: Stack) -> Iterator[Database]:
    """A keyspace as version 1 made it."""
    database = Database(stack, f"it_old_{uuid.uuid4().hex[:8]}")
    replication = database.store.settings.cassandra_replication
    try:
        database.cql("CREATE KEYSPACE {keyspace} WITH replication = {how}", how=replication)
        database.cql(VERSION_1)
        yield database
    finally:
        database.close()


class Stored(World):
    """A World whose database is Cassandra."""

    def __init__(self, database: Database, **limits: int) -> None:
        self.real = database
        super().__init__(BUILDS["compiled"], **limits)

    def load(self) -> None:
        (rows,) = self.real.load(USER).values()
        self.user = self.table.insert(USER, EPOCH_BITS | self.offset, False, rows)

    def write_out(self) -> None:
        if self.table.dirty_head():
            partition: Any = None
            first, delete_version, rows = self.table.take(self.user)
            write = Write(partition, 1, self.user, USER, first, delete_version, rows)
            if changes := changes_of(write):
                self.real.write(*changes)
            self.table.written(self.user, delete_version, rows)
        self.database = {row[:2]: row for row in self.real.load(USER)[USER]}


def entries(*of: tuple[int, int, int]) -> bytes:
    """Tag, value, payload of each entry."""
    return b"".join(struct.pack("=qQ", value, tag << TAG_SHIFT | more) for tag, value, more in of)


def row(channel: int, last: int, mention: int, count: int, extra: bytes, version: int = V) -> Row:
    return (0, channel, last, mention, count, 0, 0, 0, version, extra)


MANY = tuple(range(100, 100 + MARKS_MAX))
KINDS: dict[str, tuple[Row, list[int]]] = {
    "none": (row(1, 9, 0, 0, b""), []),
    "the largest numbers": ((255, BIG, BIG, 0, 0, 2**48 - 1, 2**32 - 1, 65535, V, b""), []),
    "one mention": (row(1, 9, 10, 1, b""), [10]),
    "the largest mention": (row(1, 9, BIG, 1, b""), [BIG]),
    "two": (row(1, 9, 12, 2, entries((MARK, 10, 0), (MARK, 12, 0))), [10, 12]),
    "64": (row(1, 9, MANY[-1], 64, entries(*((MARK, m, 0) for m in MANY))), [*MANY]),
    "edited, and out": (row(1, 9, 10, 1, entries((MARK, 10, 4), (MARK, 11, 3))), [10]),
    "deleted for good": (row(1, 9, 0, 0, entries((MARK, 11, FOR_GOOD))), []),
    "uncounted": (row(1, 9, 20, 4, entries((MARK, 20, 0), (UNCOUNTED, 15, 3))), [20]),
    "unread": (row(1, 9, 10, 1, entries((MARK, 10, 0), (UNREAD, V, 0))), [10]),
    "hidden: a mark alone": (row(1, 0, 0, 0, entries((MARK, 10, 3))), []),
    "hidden: deleted up to": (row(1, 0, 0, 0, entries((DELETED, 10, 0))), []),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_comes_back_as_it_was_written(kind: str, database: Database) -> None:
    written, mentions = KINDS[kind]
    database.write_rows(written)
    assert database.rows.with_marks(USER) == [written]  # with all columns, at its version
    assert database.rows.mentions(USER) == [mentions]
    assert database.load(USER) == {USER: [written]}
    assert list(database.store.read_all()) == [(USER, written)]
    table = World(BUILDS["compiled"]).table
    user = table.insert(USER + 1, EPOCH_BITS, False, [written])
    assert table.states(user) == ([] if "hidden" in kind else [written])


def test_each_write_replaces_all_of_a_row_and_a_late_one_nothing(database: Database) -> None:
    rows = [row(1, 9, 12, 2, entries((MARK, 10, 0), (MARK, 12, 0)), V + 1)]
    rows.append(row(1, 11, 12, 1, b"", V + 2))
    rows.append(row(1, 13, 0, 0, b"", V + 3))
    for number, expected in enumerate(rows):
        database.write_rows(expected)
        for late in rows[: number + 1]:
            database.write_rows(late)
        assert database.rows.with_marks(USER) == [expected]
        assert database.load(USER) == {USER: [expected]}
    database.write((USER, V + 4, None))
    database.write_rows(*rows)
    assert database.rows.with_marks(USER) == []


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_cassandra_has_what_the_interface_says(
    seed: int, database: Database
) -> None:
    draw = random.Random(f"stored {seed}")
    world = Stored(database)
    messages = draw.choice([6, 30, 120, 300])
    for step in range(120):
        event = anything(draw, messages)
        world.apply(event)
        assert world.table.states(world.user) == world.oracle.shown(USER), (seed, step, event)
        if draw.random() < 0.15:
            world.reload()
        elif draw.random() < 0.1:
            world.write_out()
    world.check()
    world.check_database()
    kept = world.oracle.rows(USER)
    found = database.rows.with_marks(USER)
    assert [r for r in found if r[1]] == kept
    mentioned = [world.oracle.users[USER][key].mentions for key in sorted(r[:2] for r in kept)]
    assert [m for m, r in zip(database.rows.mentions(USER), found, strict=True)
            if r[1]] == mentioned  # fmt: skip


def test_after_a_final_deletion_only_its_mark_is_left(database: Database) -> None:
    world = Stored(database)
    for channel in range(1, CHANNELS + 1):
        for message in (5, 6):
            world.apply({"type": "mention", "channel_id": channel, "message_id": message})
    world.write_out()
    assert len(world.database) == CHANNELS
    world.apply({"type": "delete_user", "final": True})
    world.write_out()
    mark = (0, 0, 0, 0, 0, 0, 0, 0, EPOCH_BITS | world.offset, b"")
    assert database.rows.with_marks(USER) == [mark]
    assert database.rows.mentions(USER) == [[]]
    assert list(database.store.read_all()) == [(USER, mark)]

    world.reload()
    assert world.table.restored_at(world.user) == 0
    assert world.table.states(world.user) == []
    world.apply({"type": "restore_user"})
    world.apply({"type": "ack", "channel_id": 1, "message_id": 7})
    world.reload()
    restored_at = world.table.restored_at(world.user)
    assert restored_at == EPOCH_BITS | world.offset - 1
    (state,) = world.table.states(world.user)
    assert state[:5] == (0, 1, 7, 0, 0)
    assert database.rows.with_marks(USER) == [(*mark[:8], restored_at, RESTORED), state]


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1)])
def test_a_deletion_and_its_mark_in_two_batches(order: tuple[int, ...], database: Database) -> None:
    """They may be applied in any order, and twice."""
    before = [row(1, 9, 0, 0, b"", V - 1), row(2, 9, 12, 1, b"", V - 2)]
    mark = row(0, 0, 0, 0, b"")
    database.write_rows(*before)
    batches: list[Change] = [(USER, V, None), (USER, V, mark)]
    for number in order:
        database.write(batches[number])
    database.write_rows(*before)  # late
    assert database.rows.with_marks(USER) == [mark]
    database.write((USER, -(V + 1), mark))  # the user is restored
    for number in order:
        database.write(batches[number])  # late, too
    assert database.rows.with_marks(USER) == []


ROWS_1: list[tuple[Row1, Row]] = [
    ((0, 1, 9, 0, 0, 4, 5, 6, V), (0, 1, 9, 0, 0, 4, 5, 6, V, b"")),
    ((0, 2, 9, 7, 0, 0, 0, 0, V), row(2, 9, 0, 0, b"")),  # it was mentioned, and has read it
    ((0, 3, 9, 12, 1, 0, 0, 0, V), row(3, 9, 0, 1, entries((UNCOUNTED, 12, 1)))),
    ((0, 4, 0, 12, 3, 0, 0, 0, V), row(4, 0, 0, 3, entries((UNCOUNTED, 12, 3)))),
    ((0, 5, 9, 7, 2, 0, 0, 0, V), row(5, 9, 0, 2, entries((UNCOUNTED, 9, 2)))),  # by a manual ack
    ((0, 6, 0, 0, 2, 0, 0, 0, V), row(6, 0, 0, 2, entries((UNCOUNTED, 1, 2)))),
    ((0, 7, 0, 7, 0, 0, 0, 0, V), row(7, 0, 0, 0, b"")),  # its only mention was retracted: hidden
    (
        (255, BIG, 9, BIG, 2**32 - 1, 0, 0, 0, V),
        (255, BIG, 9, 0, 2**32 - 1, 0, 0, 0, V, entries((UNCOUNTED, BIG, 2**32 - 1))),
    ),
]


def test_rows_of_version_1_are_counted_without_their_messages(old: Database) -> None:
    for of_old, _ in ROWS_1:
        old.cql(INSERT_1, user=USER, row=of_old)
    with pytest.raises(StoreError, match=r"column name marks.*Run: readstates init"):
        old.store.prepare()
    old.store.create_schema()
    old.store.create_schema()  # safe to repeat
    old.store.prepare()
    expected = [new for _, new in ROWS_1]
    assert old.load(USER) == {USER: expected}
    assert list(old.store.read_all()) == [(USER, new) for new in expected]

    world = Stored(old)
    world.offset = 2000  # the rows are of 999
    assert world.table.states(world.user) == [new for new in expected if any(new[2:8])]
    world.table.save()
    world.build.verify(world.buffer)
    assert fsck.check_bytes(bytes(world.buffer), saved=True) == []
    mention = {"type": "mention", "channel_id": 4, "message_id": 13}
    world.apply(mention)
    world.apply(mention)  # above what is only counted it is exact
    world.apply({"type": "retract_mention", "channel_id": 4, "message_id": 11})
    world.apply({"type": "ack", "channel_id": 3, "message_id": 12})
    world.reload()
    third, fourth = world.table.states(world.user)[2:4]
    assert third[2:5] == (12, 0, 0)
    assert fourth[2:5] == (0, 13, 3)
    assert fourth[9] == entries((MARK, 13, 0), (UNCOUNTED, 12, 2))
    found = {new[:2]: new for _, new in ROWS_1}
    assert old.load(USER)[USER] == [
        *sorted({**found, third[:2]: third, fourth[:2]: fourth}.values())
    ]


def test_a_worker_of_version_1_writes_a_row_that_has_marks(database: Database) -> None:
    """It leaves the marks as they were: they are not those of its row."""
    for channel, (marks, _) in enumerate(KINDS.values(), 1):
        database.write_rows((0, channel, *marks[2:]))
        of_old = (0, channel, 11, 12, 2, 0, 0, 0, V + 1)
        database.cql(INSERT_1, user=USER, row=of_old)
    uncounted = entries((UNCOUNTED, 12, 2))
    expected = [row(n, 11, 0, 2, uncounted, V + 1) for n in range(1, len(KINDS) + 1)]
    assert database.load(USER) == {USER: expected}
    database.write_rows(row(1, 11, 13, 1, b"", V + 2))
    assert database.load(USER)[USER] == [row(1, 11, 13, 1, b"", V + 2), *expected[1:]]


def test_a_load_has_hidden_read_states_beside_as_many_as_are_shown(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(n, 9, 0, 0, b"") for n in range(1, STATES_MAX + 1)]
    rows += [row(100 + n, 0, 0, 0, entries((MARK, 10, 3))) for n in range(STATES_MAX)]
    database.write_rows(*rows)
    with caplog.at_level(logging.ERROR):
        assert database.load(USER, USER + 1) == {USER: rows, USER + 1: []}
        assert "load_cut_short" not in caplog.text
        rows += [row(200 + n, 9, 0, 0, b"") for n in range(2)]
        database.write_rows(*rows[-2:])
        assert database.load(USER) == {USER: rows[:-1]}
    assert f"load_cut_short users=1 rows_max={2 * STATES_MAX + 1}: a user" in caplog.text


def test_what_a_worker_writes_can_be_read_in_cqlsh(wire: Wire) -> None:
    user = new_user()
    for kind, message in (("ack", 100), ("mention", 101), ("mention", 105), ("mention", 109)):
        wire.produce_update(user, {"type": kind, "channel_id": "1", "message_id": str(message)})
    until(lambda: wire.rows.mentions(user) == [[101, 105, 109]] or None, "three mentions")
    wire.produce_update(user, {"type": "retract_mention", "channel_id": "1", "message_id": "105"})
    wire.produce_update(user, {"type": "ack", "channel_id": "1", "message_id": "103"})
    until(lambda: wire.rows.mentions(user) == [[109]] or None, "the one that is left")
    (written,) = wire.rows.with_marks(user)
    assert written[:5] == (0, 1, 103, 109, 1)
    assert written[9] == entries((MARK, 105, FOR_GOOD), (MARK, 109, 0))


def test_a_worker_without_the_columns_says_what_to_do(stack: Stack, folder: Path) -> None:
    service = Service(stack.env(), folder, "no_marks")
    try:
        service.cql("ALTER TABLE {keyspace}.read_states DROP marks")
        worker = service.start()
        until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
        assert worker.returncode == 1
        said = worker.output()
        assert "marks" in said
        assert "Run: readstates init" in said
        done = service.cli("init", "--partitions", str(PARTITIONS))
        assert done.returncode == 0, done.stderr
        service.start().wait_ready()
    finally:
        service.close()
