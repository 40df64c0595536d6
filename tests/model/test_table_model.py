"""Any sequence of operations, on both builds, against the oracle; fsck and verify after each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from readstates.cache import fsck, layout
from tests.support.table_builds import BUILDS, Build, get, image, new_buffer, residents, verify
from tests.support.table_oracle import CHANGED, Oracle, Row

SLOTS = 14  # room for 13 users and read states
STATES_MAX = 4
USERS = st.integers(1, 4)
KEYS = st.tuples(st.sampled_from([0, 255]), st.sampled_from([1, 2, 2**63 - 1]))
MESSAGES = st.sampled_from([1, 2, 3, 4, 5, 2**63 - 1])
FLAGS = st.sampled_from([-1, -1, 0, 1, 2**32 - 1])
VIEWED = st.sampled_from([-1, -1, 0, 1, 65535])
COUNTS = st.sampled_from([0, 1, 2, 2**32 - 1])
PINS = st.sampled_from([0, 1, 2, 2**48 - 1])
AGE = st.sampled_from([0, 0, 0, 0, 1, 2, 5])  # how far back in the log an event stands: replays


class TableMachine(RuleBasedStateMachine):
    """The table and its oracle side by side."""

    build: Build

    def __init__(self) -> None:
        super().__init__()
        self.buffer = new_buffer(SLOTS)
        self.table: Any = self.build.Table(self.buffer, STATES_MAX)
        self.oracle = Oracle(SLOTS, STATES_MAX)
        self.log_end = 8 << 48
        self.writes: dict[int, tuple[int, int, list[Any], int]] = {}

    def version(self, age: int) -> int:
        self.log_end += age == 0
        return self.log_end - age

    def fold(self, user_id: int, name: str, key: Any, args: tuple[int, ...], age: int) -> None:
        user = self.table.find(user_id)
        if not user:
            return
        version = self.version(age)
        expected = self.oracle.fold(user_id, name, key, args, version)
        assert getattr(self.table, name)(user, *key, *args, version) == expected

    # -- residents

    @rule(user_id=USERS, cold=st.booleans(), rows=st.dictionaries(KEYS, MESSAGES, max_size=4))
    def bring_in(self, user_id: int, cold: bool, rows: dict[Any, int]) -> None:
        if user_id in self.oracle.users or self.oracle.free < 1 + len(rows):
            return
        self.oracle.insert(user_id, self.log_end, cold)
        floor = self.log_end
        for key, message in rows.items():
            row = self.oracle.users[user_id].rows.setdefault(key, Row())
            row.message = row.mention = message
            row.count, row.pins, row.flags, row.viewed = 7, 2**48 - 1, 2**32 - 1, 9
            row.version = self.version(0)
        self.table.insert(user_id, floor, cold, self.oracle.users[user_id].states())

    @rule(user_id=USERS)
    def touch(self, user_id: int) -> None:
        if user_id in self.oracle.users:
            self.oracle.touch(user_id)
            self.table.touch(self.table.find(user_id))

    @rule(needed=st.integers(1, SLOTS - 1), scan_max=st.integers(1, 4), keep=USERS)
    def evict(self, needed: int, scan_max: int, keep: int) -> None:
        expected = self.oracle.evict(needed, scan_max, keep)
        assert self.table.evict(needed, scan_max, self.table.find(keep)) == expected

    # -- events

    @rule(user_id=USERS, key=KEYS, message=MESSAGES, flags=FLAGS, viewed=VIEWED, age=AGE)
    def ack(self, user_id: int, key: Any, message: int, flags: int, viewed: int, age: int) -> None:
        self.fold(user_id, "ack", key, (message, flags, viewed), age)

    @rule(user_id=USERS, key=KEYS, message=MESSAGES, count=COUNTS, viewed=VIEWED, age=AGE)
    def mark(self, user_id: int, key: Any, message: int, count: int, viewed: int, age: int) -> None:
        self.fold(user_id, "mark_unread", key, (message, count, -1, viewed), age)

    @rule(user_id=USERS, key=KEYS, message=MESSAGES, age=AGE)
    def mention(self, user_id: int, key: Any, message: int, age: int) -> None:
        self.fold(user_id, "mention", key, (message,), age)

    @rule(user_id=USERS, key=KEYS, message=MESSAGES, age=AGE)
    def retract(self, user_id: int, key: Any, message: int, age: int) -> None:
        self.fold(user_id, "retract", key, (message,), age)

    @rule(user_id=USERS, key=KEYS, timestamp=PINS, age=AGE)
    def pins_ack(self, user_id: int, key: Any, timestamp: int, age: int) -> None:
        self.fold(user_id, "pins_ack", key, (timestamp,), age)

    @rule(user_id=USERS, key=KEYS, age=AGE)
    def delete(self, user_id: int, key: Any, age: int) -> None:
        self.fold(user_id, "delete", key, (), age)

    @rule(user_id=USERS, age=AGE)
    def delete_user(self, user_id: int, age: int) -> None:
        user = self.table.find(user_id)
        if user:
            version = self.version(age)
            expected = self.oracle.delete_user(user_id, version)
            assert self.table.delete_user(user, version) == expected
            assert expected & CHANGED or age

    # -- writing out

    @rule(now=st.integers(0, 2**32 - 1))
    def clock(self, now: int) -> None:
        self.oracle.now = self.table.now_ms = now

    @precondition(lambda self: self.oracle.queue)
    @rule(limit=st.integers(1, 3), cold=st.booleans())
    def take(self, limit: int, cold: bool) -> None:
        if cold:
            users = self.table.cold_dirty(limit)
            assert [self.table.user_id(user) for user in users] == self.oracle.cold_dirty(limit)
        else:
            users = [self.table.dirty_head()]
        for user in users:
            user_id = self.table.user_id(user)
            since = self.table.dirty_since_ms(user)
            first, delete_version, rows = self.table.take(user)
            assert (first, delete_version, set(rows)) == self.oracle.take(user_id)
            self.writes[user_id] = (first, delete_version, rows, since)

    @precondition(lambda self: self.writes)
    @rule(index=st.integers(0, 3), failed=st.booleans())
    def end_write(self, index: int, failed: bool) -> None:
        user_id = sorted(self.writes)[index % len(self.writes)]
        first, delete_version, rows, since = self.writes.pop(user_id)
        user = self.table.find(user_id)
        if failed:
            self.table.write_failed(user, first, since)
            self.oracle.write_failed(user_id, first, since)
        else:
            self.table.written(user, delete_version, rows)
            self.oracle.written(user_id, delete_version, set(rows))

    @rule(position=st.integers(0, 2**62))
    def reopen(self, position: int) -> None:
        self.table.position = position
        now, evictions = self.table.now_ms, self.oracle.evictions
        assert self.table.evictions == evictions
        self.table.close()
        self.table = self.build.Table(self.buffer, STATES_MAX)
        verify(self.table)
        self.table.now_ms = now
        assert self.table.recover(self.log_end) == self.oracle.recover(self.log_end)
        self.oracle.evictions = 0
        self.writes.clear()
        assert self.table.position == position

    @rule(position=st.integers(0, 2**62))
    def die(self, position: int) -> None:
        """A process that never saved anything; another one finds the file."""
        self.table.position = position
        now, data = self.table.now_ms, bytearray(self.buffer)
        data[layout.AT_USERS : layout.AT_CRC] = bytes(layout.AT_CRC - layout.AT_USERS)
        self.table.close()
        self.buffer = data
        self.build.rebuild(data)
        self.table = self.build.Table(data, STATES_MAX)
        verify(self.table)
        self.table.now_ms = now
        assert self.table.recover(self.log_end) == self.oracle.recover(self.log_end)
        self.oracle.queue = [self.table.user_id(user) for user in self.queued()]
        self.oracle.evictions = 0
        self.writes.clear()
        assert self.table.position == position

    def queued(self) -> list[int]:
        """The order of the dirty queue is not that of before: whoever is in it waits since now."""
        users: list[int] = self.table.cold_dirty(SLOTS)
        assert sorted(map(self.table.user_id, users)) == sorted(self.oracle.queue)
        return users

    # -- always

    @invariant()
    def same(self) -> None:
        table, oracle = self.table, self.oracle
        verify(table)
        assert fsck.check_bytes(bytes(self.buffer), saved=True) == []
        assert [table.user_id(user) for user in residents(table)] == oracle.lru
        slots = image(table).user
        for user_id, known in oracle.users.items():
            user = table.find(user_id)
            assert table.states(user) == known.states()
            assert table.count(user) == known.count()
            assert table.floor(user) == known.floor
            assert table.first_version(user) == known.first_version
            status = slots[user].status
            assert bool(status & layout.IN_FLIGHT) == known.in_flight
            assert bool(status & layout.QUEUED) == (user_id in oracle.queue)
            if known.first_version:
                assert table.dirty_since_ms(user) == known.dirty_since
            for key, row in known.rows.items():
                assert table.has(user, *key) != row.tombstone
                state = None if row.tombstone else row.read_state(key)
                assert get(table, user, *key) == state
        head = table.dirty_head()
        assert (table.user_id(head) if head else None) == (
            oracle.queue[0] if oracle.queue else None
        )
        rows = [row for user in oracle.users.values() for row in user.rows.values()]
        assert table.free == oracle.free
        assert table.resident_users == len(oracle.users)
        assert table.resident_states == sum(not row.tombstone for row in rows)
        assert table.dirty_states == sum(row.dirty for row in rows)
        assert table.dirty_users == len(oracle.queue)
        assert table.evictions == oracle.evictions

    def teardown(self) -> None:
        self.table.close()


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_the_table_does_what_the_oracle_does(name: str) -> None:
    machine = type("Machine", (TableMachine,), {"build": BUILDS[name]})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
