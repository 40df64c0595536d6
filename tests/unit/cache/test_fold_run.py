"""Many simple updates in one call: the same as one after another."""

from __future__ import annotations

import random
from array import array
from typing import Any

from readstates.cache import layout
from readstates.cache.table import ABSENT, NO_ROOM, REPLAYED
from tests.support.table_builds import Build, image, new_buffer, residents, verify

BITS = 8 << 48


def fold_one(table: Any, event: list[int]) -> int:
    """What `fold_run` is short for."""
    user_id, kind, channel, message, flags, viewed, version, mention = event
    user = table.find(user_id)
    if not user:
        return ABSENT
    if mention:
        return int(table.mention(user, kind, channel, message, version))
    table.touch(user)
    return int(table.ack(user, kind, channel, message, flags, viewed, version))


def test_the_same_as_one_by_one(build: Build) -> None:
    source = random.Random(5)
    buffers = [new_buffer(24), new_buffer(24)]
    together, alone = (build.Table(buffer, 6) for buffer in buffers)
    seen: set[int] = set()
    for table in (together, alone):
        for user_id in (1, 2, 3, 4):
            table.insert(user_id, 0, False)
    offset = 0
    for _ in range(200):
        events = []
        for _ in range(source.choice((1, 12, 31, 32, 33, 80))):
            offset += 1
            back = offset - source.choice((0, 0, 0, 9))  # some are replayed
            numbers = [source.randint(1, 5), 0, source.randint(1, 7), source.randint(1, 40)]
            events.append([*numbers, -1, -1, BITS | max(1, back), source.randint(0, 1)])
        codes = bytearray(80)
        flat = memoryview(array("q", [number for event in events for number in event]))
        taken = together.fold_run(flat, len(events), codes)
        expected = [fold_one(alone, event) for event in events[: taken + 1]]
        assert list(codes[:taken]) == expected[:taken]
        assert taken == len(events) or expected[taken] == NO_ROOM
        seen.update(expected)
        if taken < len(events):
            coming = events[taken][0] % 4 + 1
            for table in (together, alone):
                victim = residents(table)[-1]
                if image(table).user[victim].status & layout.QUEUED:
                    _, deleted, rows = table.take(victim)
                    table.written(victim, deleted, rows)
                table.evict(table.slots - 1, 1)
                if not table.find(coming):
                    table.insert(coming, 0, False)
        verify(together)
        together.save()
        alone.save()
        assert buffers[0] == buffers[1]
    assert {1, 3, 4, 8, 16, NO_ROOM, ABSENT} <= seen


def test_a_user_who_is_deleted_for_good_is_as_absent(build: Build) -> None:
    table = build.Table(new_buffer(24), 6)
    table.insert(1, 0, False)
    table.delete_user(table.insert(2, 0, False), BITS | 1, True)
    events = [[user, 0, 3, 5, -1, -1, BITS | 2, mention] for user in (1, 2) for mention in (0, 1)]
    flat = memoryview(array("q", [number for event in events for number in event]))
    codes = bytearray(4)
    assert table.fold_run(flat, 4, codes) == 4
    assert list(codes) == [3, REPLAYED, ABSENT, ABSENT]
    assert table.states(table.find(2)) == []
    verify(table)
