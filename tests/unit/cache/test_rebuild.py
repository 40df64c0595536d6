"""A process may die between any two stores: every state that it could leave is tried.

Each operation runs on the uncompiled table behind views that keep the whole buffer as it is after
each store. Each such buffer must be refused, or hold every user exactly as before or as after the
operation, or (evicted, or not yet loaded: both are clean) not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from readstates.cache import fsck, layout
from tests.support.table_builds import PLAIN, new_buffer

SLOTS = 60
STATES_MAX = 20
ROWS = [(0, channel, 100, 90, 2, 5, 6, 7, channel) for channel in range(1, 6)]
User = tuple[int, tuple[Any, ...], frozenset[tuple[bool, Any]]]  # floor, states, what is dirty


class Recorder:
    """A view of the buffer that keeps what is in it after each store."""

    def __init__(self, view: memoryview, whole: bytearray, kept: list[bytes]) -> None:
        self._view, self._whole, self._kept = view, whole, kept

    def __getitem__(self, index: int) -> Any:
        return self._view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._view[index] = value
        self._kept.append(bytes(self._whole))


def prefixes(buffer: bytearray, operation: Callable[[Any], object]) -> list[bytes]:
    """The buffer before, and after each store of the operation."""
    table = PLAIN.Table(buffer, STATES_MAX)
    kept = [bytes(buffer)]
    views = {name: getattr(table, name) for name in ("_q", "_u", "_d", "_h", "_b", "_x")}
    for name, view in views.items():
        setattr(table, name, Recorder(view, buffer, kept))
    operation(table)
    for name, view in views.items():
        setattr(table, name, view)
    table.close()
    return kept


def users(table: Any) -> dict[int, User]:
    """All residents with what a reader and the database get of them. Takes what is dirty."""
    found: dict[int, User] = {}
    while user := table.dirty_head():
        _, delete_version, rows = table.take(user)
        dirty = frozenset([*rows, (True, delete_version)])
        found[table.user_id(user)] = (table.floor(user), tuple(table.states(user)), dirty)
    for user in table.users():
        known = (table.floor(user), tuple(table.states(user)), frozenset([(True, 0)]))
        found.setdefault(table.user_id(user), known)
    return found


def reopened(build: ModuleType, data: bytes) -> dict[int, User] | None:
    """What a new process makes of the buffer; None if it drops it."""
    buffer = bytearray(data)
    table = build.Table(buffer, STATES_MAX)
    try:
        table.rebuild()
        table.verify()
    except build.TableDamaged:
        return None
    finally:
        table.save()
    assert fsck.check_bytes(bytes(buffer), saved=True) == []
    dirty = table.recover(1)
    assert dirty == table.dirty_users
    assert fsck.check_bytes(bytes(buffer), saved=False) == []
    table.verify()
    found = users(table)
    table.close()
    return found


def dirty_user(table: Any) -> int:
    """User 1 with five read states, two of them changed; user 2, clean; user 3, under way."""
    table.insert(2, 8, False, ROWS)
    table.insert(3, 8, False, ROWS)
    user: int = table.insert(1, 8, False, ROWS)
    table.ack(user, 0, 1, 200, -1, -1, 21)
    table.mention(user, 0, 7, 200, 22)
    table.ack(table.find(3), 0, 1, 300, -1, -1, 23)
    table.take(table.find(3))
    return user


def write_out(table: Any) -> None:
    """User 1, of which one read state is deleted and one comes alive meanwhile."""
    user = table.find(1)
    table.delete(user, 0, 2, 30)
    table.delete(user, 0, 3, 31)
    _, delete_version, rows = table.take(user)
    table.ack(user, 0, 3, 400, -1, -1, 32)
    table.written(user, delete_version, rows)


OPERATIONS: dict[str, tuple[Callable[[Any], object], int]] = {
    # what it does, and how many users it may leave out
    "touch": (lambda table: table.touch(table.find(2)), 0),
    "ack": (lambda table: table.ack(table.find(2), 0, 1, 500, 3, 4, 40), 0),
    "ack of a new channel": (lambda table: table.ack(table.find(2), 0, 9, 500, 3, 4, 40), 0),
    "mark_unread": (lambda table: table.mark_unread(table.find(1), 0, 1, 5, 6, 7, 8, 40), 0),
    "mention": (lambda table: table.mention(table.find(2), 0, 1, 500, 40), 0),
    "retract": (lambda table: table.retract(table.find(2), 0, 1, 500, 40), 0),
    "pins_ack": (lambda table: table.pins_ack(table.find(2), 0, 1, 500, 40), 0),
    "delete": (lambda table: table.delete(table.find(2), 0, 1, 40), 0),
    "delete_user": (lambda table: table.delete_user(table.find(1), 40), 0),
    "delete_user of one under way": (lambda table: table.delete_user(table.find(3), 40), 0),
    "insert": (lambda table: table.insert(4, 9, True, ROWS), 1),
    "evict": (lambda table: table.evict(table.free + 1, 9), 1),
    "take": (lambda table: table.take(table.find(1)), 0),
    "written": (lambda table: table.written(table.find(3), 0, [(False, ROWS[0])]), 0),
    "write_failed": (lambda table: table.write_failed(table.find(3), 5, 0), 0),
    "recover": (lambda table: table.recover(1), 0),
    "rebuild": (lambda table: table.rebuild(), 0),
    "position": (lambda table: setattr(table, "position", 77), 0),
}

# of the operations on many slots, how many of the states in between must not be dropped
USED_MIN = {"insert": 10, "evict": 20, "delete_user": 30, "rebuild": 100}


@pytest.mark.parametrize("name", OPERATIONS)
def test_between_any_two_stores(build: ModuleType, name: str) -> None:
    operation, missing_max = OPERATIONS[name]
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    dirty_user(table)
    table.close()
    kept = prefixes(buffer, operation)
    before, after = reopened(build, kept[0]), reopened(build, kept[-1])
    assert before is not None
    assert after is not None
    dropped = 0
    for data in kept:
        found = reopened(build, data)
        if found is None:
            dropped += 1
            continue
        assert len(before.keys() | after.keys()) - len(found) <= missing_max
        for user_id, user in found.items():
            assert user in same(before.get(user_id), after.get(user_id))
    assert len(kept) - dropped >= USED_MIN.get(name, 1)
    if name in {"touch", "rebuild", "position"}:
        assert dropped == 0


def same(before: User | None, after: User | None) -> list[User]:
    """What a user may look like: before, after; or with the floor raised, which is always safe."""
    known = [user for user in (before, after) if user is not None]
    if before is not None and after is not None:
        known.append((after[0], *before[1:]))
    return known


def test_several_entries_and_rows_are_each_before_or_after(build: ModuleType) -> None:
    """A bulk ack and a write-out change one read state after the other."""
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    dirty_user(table)
    table.close()

    def bulk(table: Any) -> None:
        for channel in (1, 2, 8, 9):
            table.ack(table.find(1), 0, channel, 600, -1, -1, 50)

    for operation in (bulk, write_out):
        used = 0
        kept = prefixes(bytearray(buffer), operation)
        before, after = reopened(build, kept[0]), reopened(build, kept[-1])
        assert before is not None
        assert after is not None
        allowed = {*before[1][1], *after[1][1]}
        for data in kept:
            found = reopened(build, data)
            if found is None:
                continue
            used += 1
            assert found[2] == before[2]
            assert operation is write_out or set(found[1][1]) <= allowed
        assert used > 4


def test_a_died_table_keeps_the_order_of_the_lru(build: ModuleType) -> None:
    buffer = new_buffer(SLOTS)
    table = build.Table(buffer, STATES_MAX)
    for user_id in (1, 2, 3, 4):
        table.insert(user_id, 0, False)
    table.touch(table.find(2))
    data = bytes(buffer)
    table.close()
    table = build.Table(bytearray(data), STATES_MAX)
    table.rebuild()
    table.verify()
    assert [table.user_id(user) for user in table.users()] == [2, 4, 3, 1]
    table.close()


def test_nothing_but_slots_and_position_is_believed(build: ModuleType) -> None:
    """Index, links, counts and list ends overwritten at random: the same table comes back."""
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    dirty_user(table)
    table.position = 55
    table.close()
    expected = reopened(build, bytes(buffer))
    assert expected is not None
    for seed in range(200):
        draw = random.Random(seed)
        data = bytearray(buffer)
        for at in range(layout.AT_USERS, layout.AT_CRC):
            data[at] = draw.randrange(256)
        for at in range(layout.HEADER_BYTES + SLOTS * layout.SLOT_BYTES, len(data)):
            data[at] = draw.randrange(256)
        for slot in range(1, SLOTS):
            at = layout.HEADER_BYTES + slot * layout.SLOT_BYTES
            if data[at + 61] & layout.USER:
                data[at + 32 : at + 52] = draw.randbytes(20)  # all but the count
            elif data[at + 61] & layout.STATE:
                data[at + 52 : at + 60] = draw.randbytes(8)
        assert reopened(build, bytes(data)) == expected


@pytest.mark.parametrize("field", ["user's count", "position", "half a slot freed", "state twice"])
def test_what_cannot_be_right_is_refused(build: ModuleType, field: str) -> None:
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    user = dirty_user(table)
    table.close()
    at = layout.HEADER_BYTES + user * layout.SLOT_BYTES
    match field:
        case "user's count":
            buffer[at + 52] += 1
        case "position":
            buffer[layout.AT_POSITION] ^= 1
        case "half a slot freed":
            buffer[at + layout.SLOT_BYTES + 61] = 0
        case "state twice":
            state = buffer[at + layout.SLOT_BYTES : at + 2 * layout.SLOT_BYTES]
            end = layout.HEADER_BYTES + SLOTS * layout.SLOT_BYTES
            buffer[end - layout.SLOT_BYTES : end] = state
    assert reopened(build, bytes(buffer)) is None
