"""Any sequence of operations, on both builds, against the oracle; fsck and verify after each."""

from __future__ import annotations

from typing import Any

import orjson
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
from readstates.ops.proof.oracle_state import State
from readstates.schemas import wire
from readstates.streams.partition.fold import fold
from tests.support.table_builds import (
    BUILDS,
    Build,
    everything,
    get,
    image,
    is_final,
    new_buffer,
    residents,
    verify,
)
from tests.support.table_oracle import Oracle, Row, coarse

SLOTS = 22  # room for 21 users, read states and extensions
STATES_MAX = 4
USERS = st.integers(1, 4)
KEYS = st.tuples(st.sampled_from([0, 255]), st.sampled_from([1, 2, 2**63 - 1]))
MESSAGES = st.sampled_from([1, 2, 3, 4, 5, 2**63 - 1])
FLAGS = st.sampled_from([0, 1, 2**32 - 1])
VIEWED = st.sampled_from([0, 1, 65535])
COUNTS = st.sampled_from([0, 1, 2, 2**32 - 1])
PINS = st.sampled_from([0, 1, 2, 2**48 - 1])
EDITS = st.sampled_from([0, 1, 2**32 - 1])
SOME = st.lists(MESSAGES, max_size=4, unique=True)
AGE = st.sampled_from([0, 0, 0, 0, 1, 2, 5])  # how far back in the log an event stands: replays


def events(kind: str, *, optional: dict[str, Any] | None = None, **fields: Any) -> Any:
    """Events of one type, as the interface has them."""
    return st.fixed_dictionaries({"type": st.just(kind), **fields}, optional=optional or {})


OPTIONS = {"flags": FLAGS, "last_viewed": VIEWED}
EDIT = {"edit": EDITS}
MERGE = {**OPTIONS, "last_message_id": MESSAGES, "mention_ids": SOME, "mention_count": COUNTS}
EVENTS = st.one_of(
    events("ack", message_id=MESSAGES, optional=OPTIONS),
    events("ack", message_id=MESSAGES, age=st.integers(0, 20)),  # if_version
    events("mention", message_id=MESSAGES),
    events("mention", message_id=MESSAGES, optional=EDIT),
    events("retract_mention", message_id=MESSAGES, optional=EDIT),
    events("ack", message_id=MESSAGES, manual=st.just(True), optional=OPTIONS),
    events("ack", message_id=MESSAGES, manual=st.just(True), mention_count=COUNTS),
    events("ack", message_id=MESSAGES, manual=st.just(True), mention_ids=SOME),
    events("pins_ack", timestamp=PINS),
    events("set", flags=FLAGS),
    events("set", last_viewed=VIEWED),
    events("merge", last_pin_timestamp=PINS, optional=MERGE),
    events("delete", optional={"up_to": MESSAGES}),
)


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

    def fold(self, user_id: int, event: dict[str, Any], age: int) -> None:
        user = self.table.find(user_id)
        if not user:
            return
        version = self.version(age)
        value = orjson.dumps({**event, "user_id": user_id})
        expected = self.oracle.fold(user_id, event, version)
        assert coarse(fold(self.table, user, wire.decode_update(value), version)) == expected

    # -- residents

    @rule(user_id=USERS, cold=st.booleans(), rows=st.dictionaries(KEYS, SOME, max_size=4))
    def bring_in(self, user_id: int, cold: bool, rows: dict[Any, list[int]]) -> None:
        if user_id in self.oracle.users or self.oracle.free < 1 + 3 * len(rows):
            return
        self.oracle.insert(user_id, self.log_end, cold)
        floor = self.log_end
        for key, messages in rows.items():
            last, *ids = sorted(messages) or [0]
            state = State(last, 2**48 - 1, 2**32 - 1, 9, dict.fromkeys(ids, (1, False)))
            state.version = self.version(0)
            self.oracle.users[user_id].rows[key] = Row(state)
        self.table.insert(user_id, floor, cold, self.oracle.users[user_id].everything())

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

    @rule(user_id=USERS, key=KEYS, event=EVENTS, age=AGE)
    def event(self, user_id: int, key: Any, event: dict[str, Any], age: int) -> None:
        event = {**event, "read_state_type": key[0], "channel_id": key[1]}
        if "age" in event:
            event["if_version"] = self.log_end - event.pop("age")
        above = event.get("message_id", 0) if event.get("manual") else 0
        if "mention_ids" in event:
            event["mention_ids"] = [each for each in event["mention_ids"] if each > above]
        self.fold(user_id, event, age)

    @rule(user_id=USERS, final=st.booleans(), age=AGE)
    def delete_user(self, user_id: int, final: bool, age: int) -> None:
        self.fold(user_id, {"type": "delete_user", "final": final}, age)

    @rule(user_id=USERS, age=AGE)
    def restore_user(self, user_id: int, age: int) -> None:
        self.fold(user_id, {"type": "restore_user"}, age)

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
            assert everything(table, user) == known.everything()
            assert table.count(user) == len(known.shown())
            assert is_final(table, user) == known.final
            assert table.floor(user) == known.floor
            assert table.first_version(user) == known.first_version
            status = slots[user].status
            assert bool(status & layout.IN_FLIGHT) == known.in_flight
            assert bool(status & layout.QUEUED) == (user_id in oracle.queue)
            if known.first_version:
                assert table.dirty_since_ms(user) == known.dirty_since
            for key, row in known.rows.items():
                assert table.has(user, *key)
                state = row.read_state(key) if row.shown else None
                assert get(table, user, *key) == state
            assert slots[user].side == known.side()
        head = table.dirty_head()
        assert (table.user_id(head) if head else None) == (
            oracle.queue[0] if oracle.queue else None
        )
        rows = [row for user in oracle.users.values() for row in user.rows.values()]
        assert table.free == oracle.free
        assert table.resident_users == len(oracle.users)
        assert table.resident_states == sum(row.shown for row in rows)
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
