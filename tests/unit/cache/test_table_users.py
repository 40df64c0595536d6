"""Users of a table: loaded, in the order of their last use, written out, and evicted."""

from __future__ import annotations

import random
from typing import Any

import pytest

from readstates.cache.layout import IN_FLIGHT, TableDamaged
from readstates.cache.table import (
    CHANGED,
    DIRTIED,
    KEEP,
)
from tests.support.table_builds import (
    Build,
    entries,
    get,
    image,
    new_buffer,
    residents,
    verify,
)

CHANNEL = 2**63 - 1
KEEP2 = (KEEP, KEEP)
ROW = (0, CHANNEL, 1, 2, 1, 1, 1, 1, 1, b"")


def test_a_type_and_the_largest_numbers_are_kept_apart(table: Any) -> None:
    marks = entries((1, CHANNEL, 2**32 - 1), (2, CHANNEL, 0))
    row = (255, CHANNEL, CHANNEL, 0, 2**32 - 1, 2**48 - 1, 2**32 - 1, 65535, CHANNEL, marks)
    user = table.insert(2**63 - 1, 0, False, [row, ROW])
    assert table.states(user) == [ROW, row]
    assert table.find(2**63 - 1) == user
    assert table.find(1) == 0


def test_some_channels_come_in_order_without_those_that_are_not_there(table: Any) -> None:
    rows = [(kind, channel, 5, 0, 0, 0, 0, 0, 3, b"") for kind in (0, 1) for channel in (7, 8)]
    user = table.insert(9, 0, False, rows)
    table.ack(user, 0, 9, 1, *KEEP2, 4)
    table.delete(user, 0, 7, 0, 5)
    found = table.get_some(user, 0, (9, 6, 8, 7))
    assert found == [get(table, user, 0, channel) for channel in (8, 9)]
    assert table.get_some(user, 1, (8, 7, 9)) == rows[2:]
    assert table.get_some(user, 0, ()) == []


@pytest.mark.parametrize(
    "bad",
    [
        {4: 2},  # two mentions, and one place for them
        {4: 2**32},
        {4: -1},
        {4: 0},  # a last mention, and none
        {3: 5},  # a mention that was read
        {3: 0},
        {2: 0, 3: 0},
        {3: -6, 4: 0},
        {2: -1},
        {0: 256},
        {5: 2**48},
        {6: 2**32},
        {7: 2**16},
        {8: 2**63},
        {9: b"15 bytes are odd"[:15]},
        {9: entries(*((0, 6 + n, 0) for n in range(65)))},
        {9: entries((0, 7, 0), (0, 6, 0))},
        {9: entries((0, 5, 0))},
        {9: entries((1, 9, 1), (0, 10, 0))},
        {9: entries((1, 6, 1), (1, 7, 1))},
        {9: entries((3, 9, 0))},  # deleted up to a message, and not all zero
        {9: entries((4, 9, 0))},
        {2: 0, 5: 0, 6: 0, 7: 0, 9: entries((0, 20, 0), (3, 9, 0))},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_is_not_loaded(table: Any, bad: dict[int, Any]) -> None:
    row = [0, 1, 5, 6, 1, 1, 1, 1, 1, b""]
    assert table.insert(2, 0, False, [tuple(row)])
    for place, value in bad.items():
        row[place] = value
    free = table.free
    with pytest.raises((ValueError, OverflowError)):
        table.insert(1, 0, False, [(0, 2, 1, 0, 0, 1, 1, 1, 1, b""), tuple(row)])
    assert (table.find(1), table.free, table.resident_states) == (0, free, 1)  # not half of it
    verify(table)


def test_nobody_is_made_resident_twice(table: Any) -> None:
    table.insert(7, 0, False, [ROW])
    with pytest.raises(ValueError, match="user 7 is resident"):
        table.insert(7, 0, False)
    with pytest.raises(ValueError, match="not a new"):
        table.insert(8, 0, False, [ROW, ROW])


def test_the_least_recently_used_clean_user_goes_whole(table: Any) -> None:
    users = {}
    for user_id in (1, 2, 3):
        users[user_id] = table.insert(user_id, 0, False, [ROW])
    cold = table.insert(4, 0, True)
    assert [table.user_id(user) for user in residents(table)] == [3, 2, 1, 4]
    table.touch(users[1])
    table.ack(users[2], 0, CHANNEL, 5, *KEEP2, 9)
    assert table.evict(table.free + 1, 10, cold)  # 4 is kept, 2 is dirty: 3 goes
    assert (table.find(3), table.evictions, table.resident_states) == (0, 1, 2)
    assert not table.evict(40, 1, cold)
    assert table.find(1) == users[1]


def test_the_dirty_queue_is_oldest_first_and_failures_go_back_to_its_head(table: Any) -> None:
    first, second = table.insert(1, 0, False), table.insert(2, 0, False)
    table.now_ms = 1_000
    table.ack(first, 0, 1, 5, *KEEP2, 1)
    table.now_ms = 2_000
    table.ack(second, 0, 1, 5, *KEEP2, 2)
    table.ack(first, 0, 2, 5, *KEEP2, 3)
    assert (table.dirty_head(), table.dirty_since_ms(first), table.dirty_users) == (first, 1_000, 2)
    version, delete_version, rows = table.take(first)
    assert (version, delete_version, len(rows), table.dirty_head()) == (1, 0, 2, second)
    assert image(table).user[first].status & IN_FLIGHT
    assert table.ack(first, 0, 1, 6, *KEEP2, 4) == CHANGED | DIRTIED
    assert table.dirty_users == 1
    table.write_failed(first, 1, 0)
    assert (table.dirty_head(), table.first_version(first)) == (first, 1)
    version, delete_version, rows = table.take(first)
    assert table.ack(first, 0, 2, 6, *KEEP2, 5) == CHANGED | DIRTIED
    table.written(first, delete_version, rows)
    assert table.dirty_head() == second
    assert table.cold_dirty(9) == [first, second]
    assert [row[1][1] for row in table.take(first)[2]] == [2]


def test_the_search_for_cold_dirty_users_is_bounded(table: Any) -> None:
    dirty = table.insert(1, 0, True)
    table.ack(dirty, 0, 1, 5, *KEEP2, 1)
    for user_id in (2, 3, 4):
        table.insert(user_id, 0, True)
    assert table.cold_dirty(1) == [dirty]  # the fourth that it looks at
    table.insert(5, 0, True)
    assert table.cold_dirty(1) == []
    assert table.cold_dirty(2) == [dirty]


def test_ends_of_writes_that_nobody_began_are_refused(table: Any) -> None:
    user = table.insert(1, 0, False)
    with pytest.raises(TableDamaged):
        table.take(user)
    with pytest.raises(ValueError, match="is under way"):
        table.written(user, 0, [])
    with pytest.raises(ValueError, match="is under way"):
        table.write_failed(user, 1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_rows_in_any_order_are_there_once_and_read_in_order(build: Build, seed: int) -> None:
    source = random.Random(seed)
    keys = [(kind, channel) for kind in (0, 1, 255) for channel in range(1, 9)]
    rows = [
        (*key, 5, 0, 0, 0, 0, 0, 1, b"") for key in source.sample(keys, source.randrange(1, 20))
    ]
    table = build.Table(new_buffer(400), 100)
    user = table.insert(50, 0, False, rows)
    assert table.states(user) == sorted(rows)
    table.ack(user, 2, 1, 7, *KEEP2, 3)
    assert [row[:2] for row in table.states(user)] == sorted([*(r[:2] for r in rows), (2, 1)])
    again = [*rows, rows[source.randrange(len(rows))]]
    with pytest.raises(ValueError, match="not a new"):
        table.insert(51, 0, False, again)
    assert table.find(51) == 0
    verify(table)


def test_a_closed_table_holds_nothing_of_the_buffer(build: Build) -> None:
    buffer = new_buffer(4)
    table = build.Table(buffer, 6)
    with pytest.raises(BufferError):
        buffer.clear()
    table.close()
    table.close()
    buffer.clear()
