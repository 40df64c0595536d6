"""A process may die between any two stores: every state that it could leave is tried.

Each operation runs on the uncompiled table behind views that keep the whole buffer as it is after
each store. Each such buffer must be refused, or hold every user exactly as before or as after the
operation, or (evicted, or not yet loaded: both are clean) not at all. An event is then folded
again, because the position is not past it, and must lead to what it would have led to.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from readstates.cache import layout
from readstates.cache.image import Image
from tests.support.deaths import (
    EVENTS,
    ROWS,
    SLOTS,
    STATES_MAX,
    dirty_user,
    recorded,
    recorded_rebuild,
    reopened,
    same,
    written,
)
from tests.support.table_builds import PLAIN, Build, new_buffer, residents


def write_out(table: Any) -> None:
    """User 1, of which one read state is deleted and one comes alive meanwhile."""
    user = table.find(1)
    table.delete(user, 0, 2, 0, 30)
    table.delete(user, 0, 3, 0, 31)
    _, delete_version, rows = table.take(user)
    table.ack(user, 0, 3, 400, -1, -1, 32)
    table.written(user, delete_version, rows)


OPERATIONS: dict[str, tuple[Callable[[Any], object], int]] = {
    # what it does, and how many users it may leave out
    "touch": (lambda table: table.touch(table.find(2)), 0),
    "insert": (lambda table: table.insert(4, 9, True, ROWS), 1),
    "evict": (lambda table: table.evict(table.free + 1, 9), 1),
    "take": (lambda table: table.take(table.find(1)), 0),
    "written": (written, 0),
    "write_failed": (lambda table: table.write_failed(table.find(3), 5, 0), 0),
    "recover": (lambda table: table.recover(1), 0),
    "position": (lambda table: setattr(table, "position", 77), 0),
}

# of the operations on many slots, how many of the states in between must not be dropped
USED_MIN = {
    "insert": 10,
    "evict": 20,
    "delete_user": 30,
    "delete_user for good": 30,
    "rebuild": 100,
}
# A death may leave the deletion without its mark: the event, folded again, makes it.
IN_TWO_STEPS = {"delete_user for good", "delete_user for good, again"}


@pytest.mark.parametrize("name", [*OPERATIONS, *EVENTS, "rebuild"])
def test_between_any_two_stores(build: Build, name: str) -> None:
    again = EVENTS.get(name)
    operation, missing_max = OPERATIONS.get(name, (again, 0))
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    dirty_user(table)
    table.close()
    kept = recorded(buffer, operation) if operation else recorded_rebuild(buffer)
    before, after = reopened(build, kept[0]), reopened(build, kept[-1])
    assert before is not None
    assert after is not None
    assert (before != after) == bool(again or name in ("insert", "evict", "written"))
    dropped = 0
    for data, times in Counter(kept).items():  # a store may change nothing
        found = reopened(build, data)
        if found is None:
            dropped += times
            continue
        assert len(before.keys() | after.keys()) - len(found) <= missing_max
        for user_id, user in found.items():
            if name not in IN_TWO_STEPS:
                assert user in same(before.get(user_id), after.get(user_id))
        if again:
            assert reopened(build, data, again) == after
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
                data[at + 32 : at + 61] = draw.randbytes(29)  # its counts among them
            elif data[at + 61] & layout.STATE:
                data[at + 52 : at + 60] = draw.randbytes(8)
            elif data[at + 61] & layout.EXTENSION:
                data[at + 56 : at + 60] = draw.randbytes(4)
        assert reopened(build, bytes(data)) == expected


@pytest.mark.parametrize(
    "field", ["position", "half a slot freed", "state twice", "an extension's link", "no extension"]
)
def test_what_cannot_be_right_is_refused(build: Build, field: str) -> None:
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    user = dirty_user(table)
    table.close()
    at = layout.HEADER_BYTES + user * layout.SLOT_BYTES
    match field:
        case "position":
            buffer[layout.AT_POSITION] ^= 1
        case "half a slot freed":
            buffer[at + layout.SLOT_BYTES + 61] = 0
        case "an extension's link":
            extension = next(iter(Image(bytes(buffer)).extension))
            buffer[layout.HEADER_BYTES + extension * layout.SLOT_BYTES + 52] ^= 1
        case "no extension":
            extension = next(iter(Image(bytes(buffer)).extension))
            start = layout.HEADER_BYTES + extension * layout.SLOT_BYTES
            buffer[start : start + layout.SLOT_BYTES] = bytes(layout.SLOT_BYTES)
        case "state twice":
            state = buffer[at + layout.SLOT_BYTES : at + 2 * layout.SLOT_BYTES]
            end = layout.HEADER_BYTES + SLOTS * layout.SLOT_BYTES
            buffer[end - layout.SLOT_BYTES : end] = state
    assert reopened(build, bytes(buffer)) is None
