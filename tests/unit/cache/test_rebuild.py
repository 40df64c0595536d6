"""A process may die between any two stores: every state that it could leave is tried.

Each operation runs on the uncompiled table behind views that keep the whole buffer as it is after
each store. Each such buffer must be refused, or hold every user exactly as before or as after the
operation, or (evicted, or not yet loaded: both are clean) not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from readstates.cache import layout
from tests.support.deaths import (
    ROWS,
    SLOTS,
    STATES_MAX,
    dirty_user,
    recorded,
    recorded_rebuild,
    reopened,
    same,
)
from tests.support.table_builds import PLAIN, Build, new_buffer, residents


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
    "position": (lambda table: setattr(table, "position", 77), 0),
}

# of the operations on many slots, how many of the states in between must not be dropped
USED_MIN = {"insert": 10, "evict": 20, "delete_user": 30, "rebuild": 100}


@pytest.mark.parametrize("name", [*OPERATIONS, "rebuild"])
def test_between_any_two_stores(build: Build, name: str) -> None:
    operation, missing_max = OPERATIONS.get(name, (None, 0))
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    dirty_user(table)
    table.close()
    kept = recorded(buffer, operation) if operation else recorded_rebuild(buffer)
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
        assert dropped == (name == "position")  # between the position and its inverse


def test_several_entries_and_rows_are_each_before_or_after(build: Build) -> None:
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
        kept = recorded(bytearray(buffer), operation)
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


def test_a_died_table_keeps_the_order_of_the_lru(build: Build) -> None:
    buffer = new_buffer(SLOTS)
    table = build.Table(buffer, STATES_MAX)
    for user_id in (1, 2, 3, 4):
        table.insert(user_id, 0, False)
    table.touch(table.find(2))
    data = bytearray(buffer)
    table.close()
    build.rebuild(data)
    build.verify(data)
    table = build.Table(data, STATES_MAX)
    assert [table.user_id(user) for user in residents(table)] == [2, 4, 3, 1]
    table.close()


def test_nothing_but_slots_and_position_is_believed(build: Build) -> None:
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
def test_what_cannot_be_right_is_refused(build: Build, field: str) -> None:
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
