"""The fold, event by event: what an event changes, and what deletions and limits leave."""

from __future__ import annotations

from typing import Any

import pytest

from readstates.cache.marks import MARKS_MAX
from readstates.cache.table import (
    CHANGED,
    DIRTIED,
    DUPLICATE,
    KEEP,
    NO_ROOM,
    REPLAYED,
    STALE,
    TOO_MANY,
)
from readstates.schemas.read_state import Row, mentions_of
from tests.support.table_builds import (
    Build,
    entries,
    everything,
    get,
    image,
    new_buffer,
    verify,
)

CHANNEL = 2**63 - 1
KEEP2 = (KEEP, KEEP)
FOR_GOOD = 1 << 33 | 1  # the rank of a retraction of a deleted message


@pytest.fixture
def user(table: Any) -> int:
    """A resident with one read state: last message 100, mentions 150, 160 and 200, version 10."""
    marks = entries((0, 150, 0), (0, 160, 2), (0, 200, 0))
    user: int = table.insert(7, 5, False, [(0, CHANNEL, 100, 200, 3, 9_000, 1, 20, 10, marks)])
    return user


def state(table: Any, user: int) -> tuple[int, ...]:
    """Message, mention, count, pins, flags, viewed, version."""
    found: Row = get(table, user, 0, CHANNEL)
    assert found[3:5] == (max(mentions_of(found), default=0), len(mentions_of(found)))
    return found[2:9]


@pytest.mark.parametrize(
    ("event", "args", "code", "expected"),
    [
        ("ack", (150, KEEP, KEEP), CHANGED | DIRTIED, (150, 200, 2, 9_000, 1, 20, 11)),
        ("ack", (200, KEEP, KEEP), CHANGED | DIRTIED, (200, 0, 0, 9_000, 1, 20, 11)),
        ("ack", (100, KEEP, KEEP), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("ack", (100, 5, KEEP), CHANGED | DIRTIED, (100, 200, 3, 9_000, 5, 20, 11)),
        ("ack", (100, 0, 0), CHANGED | DIRTIED, (100, 200, 3, 9_000, 0, 0, 11)),
        ("ack", (99, 5, 6), STALE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("mark_unread", (50, 2, None, KEEP, 21), CHANGED | DIRTIED, (50, 200, 2, 9_000, 1, 21, 11)),
        ("mark_unread", (50, KEEP, (60,), 4, 21), CHANGED | DIRTIED, (50, 60, 1, 9_000, 4, 21, 11)),
        ("mark_unread", (100, 3, None, KEEP, KEEP), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("mention", (201,), CHANGED | DIRTIED, (100, 201, 4, 9_000, 1, 20, 11)),
        ("mention", (155,), CHANGED | DIRTIED, (100, 200, 4, 9_000, 1, 20, 11)),
        ("mention", (200,), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("mention", (100,), STALE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("mark", (200, FOR_GOOD), CHANGED | DIRTIED, (100, 160, 2, 9_000, 1, 20, 11)),
        ("mark", (160, 1), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("mark", (160, 3), CHANGED | DIRTIED, (100, 200, 2, 9_000, 1, 20, 11)),
        ("mark", (100, FOR_GOOD), STALE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("pins_ack", (9_001,), CHANGED | DIRTIED, (100, 200, 3, 9_001, 1, 20, 11)),
        ("pins_ack", (9_000,), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("pins_ack", (8_999,), STALE, (100, 200, 3, 9_000, 1, 20, 10)),
        ("set_options", (5, KEEP), CHANGED | DIRTIED, (100, 200, 3, 9_000, 5, 20, 11)),
        ("set_options", (1, 20), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
        (
            "merge",
            (160, (170,), KEEP, 8_999, 0, 21),
            CHANGED | DIRTIED,
            (160, 200, 2, 9_000, 1, 21, 11),
        ),
        ("merge", (90, (150, 99), 9, 9_000, 1, 20), DUPLICATE, (100, 200, 3, 9_000, 1, 20, 10)),
    ],
)
def test_an_event_changes_its_fields_and_no_others(
    table: Any, user: int, event: str, args: tuple[int, ...], code: int, expected: tuple[int, ...]
) -> None:
    assert getattr(table, event)(user, 0, CHANNEL, *args, 11) == code
    assert state(table, user) == expected
    assert getattr(table, event)(user, 0, CHANNEL, *args, expected[-1]) == REPLAYED
    assert state(table, user) == expected
    verify(table)


@pytest.mark.parametrize(
    ("event", "args", "code"),
    [
        ("ack", (1, KEEP, KEEP), CHANGED | DIRTIED),
        ("mark_unread", (1, 0, None, KEEP, KEEP), CHANGED | DIRTIED),
        ("mention", (1,), CHANGED | DIRTIED),
        ("mark", (1, 2), CHANGED | DIRTIED),
        ("pins_ack", (1,), CHANGED | DIRTIED),
        ("pins_ack", (0,), STALE),
        ("set_options", (0, 0), STALE),
        ("set_options", (0, 1), CHANGED | DIRTIED),
        ("merge", (0, (), KEEP, 0, 0, KEEP), DUPLICATE),
        ("merge", (0, (1,), KEEP, 0, 0, KEEP), CHANGED | DIRTIED),
        ("delete", (0,), STALE),
    ],
)
def test_only_what_changes_something_from_zero_makes_a_read_state(
    table: Any, user: int, event: str, args: tuple[int, ...], code: int
) -> None:
    assert getattr(table, event)(user, 3, 1, *args, 11) == code
    assert table.has(user, 3, 1) == bool(code & CHANGED)
    assert table.count(user) == 1 + bool(code & CHANGED)
    verify(table)


@pytest.mark.parametrize(("event", "args"), [("mark", (1, FOR_GOOD)), ("delete", (9,))])
def test_what_is_only_remembered_is_not_shown(
    table: Any, user: int, event: str, args: tuple[int, ...]
) -> None:
    """It is written out and loaded again all the same."""
    assert getattr(table, event)(user, 3, 1, *args, 11) == CHANGED | DIRTIED
    assert (table.has(user, 3, 1), get(table, user, 3, 1), table.count(user)) == (True, None, 1)
    assert table.totals(user, -1) == (1, 1, 3)
    _, _, rows = table.take(user)
    ((deleted, row),) = rows
    assert (deleted, row[:9]) == (False, (3, 1, 0, 0, 0, 0, 0, 0, 11))
    table.written(user, 0, rows)
    again = table.insert(8, 0, False, [row])
    assert everything(table, again) == [row]
    assert table.ack(again, 3, 1, 9, *KEEP2, 12) == (STALE if event == "delete" else 3)
    assert table.mention(again, 3, 1, 10, 13) & CHANGED
    assert get(table, again, 3, 1)[2:5] == (9, 10, 1)
    verify(table)


def test_counts_stop_at_both_ends(table: Any, user: int) -> None:
    table.mark_unread(user, 0, CHANNEL, 201, 2**32 - 2, None, *KEEP2, 11)
    assert get(table, user, 0, CHANNEL)[2:5] == (201, 0, 2**32 - 2)
    table.mark_unread(user, 0, CHANNEL, 100, 2**32 - 1, None, *KEEP2, 12)
    assert table.mention(user, 0, CHANNEL, 201, 13) == DUPLICATE  # only counted, and no more
    assert table.mention(user, 0, CHANNEL, 300, 14) == CHANGED
    assert get(table, user, 0, CHANNEL)[2:5] == (100, 300, 2**32 - 1)
    verify(table)
    table.mark_unread(user, 0, CHANNEL, 100, 0, None, *KEEP2, 15)
    assert table.mark(user, 0, CHANNEL, 150, FOR_GOOD, 16) == CHANGED  # remembered
    assert get(table, user, 0, CHANNEL)[2:5] == (100, 0, 0)
    verify(table)


def test_a_deletion_stays_until_it_is_written(table: Any, user: int) -> None:
    free = table.free
    assert table.delete(user, 0, CHANNEL, 0, 20) == CHANGED | DIRTIED
    assert (get(table, user, 0, CHANNEL), table.floor(user), table.free) == (None, 20, free + 1)
    free += 1  # its extension's
    assert table.delete(user, 0, CHANNEL, 0, 21) == STALE
    assert table.ack(user, 0, CHANNEL, 500, *KEEP2, 19) == REPLAYED
    assert not table.evict(free + 1, 10)
    write = table.take(user)
    assert write == (20, 0, [(True, (0, CHANNEL, 0, 0, 0, 0, 0, 0, 20, b""))])
    table.written(user, *write[1:])
    assert (table.free, table.dirty_states) == (free + 1, 0)
    assert table.dirty_head() == 0
    assert table.evict(free + 2, 10), "the user is clean"


def test_a_deletion_of_what_is_not_there_raises_the_floor(table: Any, user: int) -> None:
    """In a replay the database has lost it already, while a client may still have it."""
    assert table.delete(user, 0, CHANNEL - 1, 0, 20) == STALE
    assert (table.floor(user), table.dirty_head()) == (20, 0)
    verify(table)


def test_the_newest_version_is_known(table: Any, user: int) -> None:
    assert table.newest() == 10
    table.ack(user, 1, 1, 1, *KEEP2, 50)
    assert table.newest() == 50
    table.delete(user, 1, 1, 0, 60)
    table.written(user, *table.take(user)[1:])
    assert table.newest() == 60, "also when nothing else is left of it"


def test_a_tombstone_comes_alive_from_zero(table: Any, user: int) -> None:
    table.delete(user, 0, CHANNEL, 0, 20)
    write = table.take(user)
    assert table.mention(user, 0, CHANNEL, 5, 21) == CHANGED | DIRTIED
    assert state(table, user) == (0, 5, 1, 0, 0, 0, 21)
    table.written(user, *write[1:])
    assert state(table, user) == (0, 5, 1, 0, 0, 0, 21)
    assert table.first_version(user) == 21
    assert table.dirty_head() == user


def test_delete_user_spares_what_is_newer(table: Any, user: int) -> None:
    table.ack(user, 1, 1, 1, *KEEP2, 50)
    free = table.free
    assert table.delete_user(user, 30) == CHANGED
    assert [row[:2] for row in table.states(user)] == [(1, 1)]
    assert (table.free, table.floor(user)) == (free + 2, 30)
    assert table.delete_user(user, 30) == REPLAYED
    assert table.ack(user, 0, CHANNEL, 500, *KEEP2, 30) == REPLAYED
    assert table.mark(user, 0, CHANNEL, 500, FOR_GOOD, 30) == REPLAYED
    assert table.delete_user(user, 60) == CHANGED
    assert table.take(user) == (50, 60, [])
    assert table.delete_user(user, 61) == CHANGED | DIRTIED
    table.written(user, 60, [])
    assert table.take(user) == (61, 61, [])


def test_a_final_deletion_and_its_end_have_their_slots_at_any_limit(build: Build) -> None:
    table = build.Table(new_buffer(10), 1)
    user = table.insert(1, 0, False)
    table.ack(user, 0, 1, 100, *KEEP2, 1)
    assert table.delete_user(user, 2, True) == CHANGED
    assert table.restore_user(user, 3) == CHANGED
    assert (table.is_final(user), table.restored_at(user)) == (False, 3)
    assert table.ack(user, 0, 1, 100, *KEEP2, 4) == CHANGED
    verify(table)


def test_the_limit_of_a_user(table: Any, user: int) -> None:
    for channel in range(1, 6):
        assert table.ack(user, 0, channel, 1, *KEEP2, 20 + channel) & CHANGED
    assert table.ack(user, 0, 6, 1, *KEEP2, 30) == TOO_MANY
    assert table.mention(user, 0, CHANNEL, 500, 31) == CHANGED
    table.delete(user, 0, 1, 0, 32)
    assert table.ack(user, 0, 6, 1, *KEEP2, 33) == CHANGED
    assert table.ack(user, 0, 1, 1, *KEEP2, 34) == TOO_MANY  # the tombstone does not come alive
    assert table.count(user) == 6


def test_memory_of_retractions_leaves_room_for_mentions(build: Build) -> None:
    """They leave an eighth of a user's slots for hidden read states and extensions."""
    table = build.Table(new_buffer(100), 16)
    user = table.insert(1, 0, False)
    codes = [table.mark(user, 0, channel, 5, FOR_GOOD, channel) for channel in range(1, 9)]
    assert codes == [CHANGED | DIRTIED, *[CHANGED] * 6, STALE]
    for channel, code in ((20, CHANGED), (21, CHANGED), (22, TOO_MANY)):
        assert table.mention(user, 0, channel, 1, 2 * channel) == CHANGED
        assert table.mention(user, 0, channel, 2, 2 * channel + 1) == code
    assert [row[4] for row in table.states(user)] == [2, 2, 1]
    verify(table)


def test_few_read_states_have_room_for_all_their_marks(build: Build) -> None:
    table = build.Table(new_buffer(5_000), 10)
    user = table.insert(1, 0, False)
    for channel in range(1, 11):
        for message in range(1, MARKS_MAX + 1):
            code = table.mention(user, 0, channel, message, 100 * channel + message)
            assert code & CHANGED, (channel, message)
    assert [len(mentions_of(row)) for row in table.states(user)] == [MARKS_MAX] * 10
    verify(table)


def test_many_marks_leave_room_for_other_read_states(build: Build) -> None:
    """The count stays right; what is given up is only counted."""
    table = build.Table(new_buffer(100), 16)
    user = table.insert(1, 0, False)
    for message in range(1, 61):
        assert table.mention(user, 0, 1, message, message) & CHANGED
    assert image(table).user[user].side == 14
    assert (get(table, user, 0, 1)[4], len(mentions_of(get(table, user, 0, 1)))) == (60, 41)
    for channel in (2, 3):
        for message in (1, 2):
            assert table.mention(user, 0, channel, message, 100 * channel + message) == CHANGED
    assert [row[4] for row in table.states(user)] == [60, 2, 2]
    verify(table)


def test_a_retraction_that_has_no_slot_takes_its_mention_away(build: Build) -> None:
    table = build.Table(new_buffer(41), 4)
    user = table.insert(1, 0, False)
    table.ack(user, 0, 1, 100, *KEEP2, 1)
    table.mention(user, 0, 1, 105, 2)
    table.mention(user, 0, 2, 105, 3)
    for channel in (3, 4):
        table.delete(user, 0, channel, 900, channel + 1)
    assert image(table).user[user].side == 4
    assert table.mark(user, 0, 1, 119, FOR_GOOD, 10) == STALE  # of another message
    assert table.mark(user, 0, 1, 105, 3, 11) == CHANGED
    assert get(table, user, 0, 1)[2:5] == (100, 0, 0)
    for message in (105, 119):  # nothing changes any more, so there is no new version
        assert table.mark(user, 0, 1, message, FOR_GOOD, 12) == STALE
    assert get(table, user, 0, 1)[8] == 11
    assert table.mark(user, 0, 2, 105, FOR_GOOD, 12) == CHANGED
    assert (get(table, user, 0, 2), table.floor(user)) == (None, 12)
    assert table.set_options(user, 0, 5, 1, KEEP, 13) == CHANGED
    assert table.set_options(user, 0, 5, 0, KEEP, 14) == CHANGED
    assert (get(table, user, 0, 5), table.floor(user)) == (None, 14)
    _, _, rows = table.take(user)
    assert sorted(row[1] for deleted, row in rows if deleted) == [2, 5]
    table.written(user, 0, rows)
    # folded again after the database has lost it: whoever still shows it needs a whole reply
    table.delete(user, 0, 3, 0, 13)
    assert table.mark(user, 0, 2, 105, FOR_GOOD, 15) == STALE
    assert table.floor(user) == 15
    verify(table)


def test_a_full_table_takes_nothing_and_says_so(build: Build) -> None:
    table = build.Table(new_buffer(4), 6)
    user = table.insert(1, 0, False)
    assert table.ack(user, 0, 1, 1, *KEEP2, 1) == CHANGED | DIRTIED
    assert table.ack(user, 0, 2, 1, *KEEP2, 2) == CHANGED
    before = table.states(user)
    assert table.ack(user, 0, 3, 1, *KEEP2, 3) == NO_ROOM
    assert (table.states(user), table.free) == (before, 0)
    with pytest.raises(build.table.TableFull):
        table.insert(2, 0, False)
    verify(table)
    small = build.Table(new_buffer(4), 6)
    with pytest.raises(build.table.TableFull):
        small.insert(2, 0, False, [(0, channel, 1, 0, 0, 1, 1, 1, 1, b"") for channel in (1, 2, 3)])
    assert (small.find(2), small.free) == (0, 3)
    verify(small)
