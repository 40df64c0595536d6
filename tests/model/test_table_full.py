"""A full table: very many mixed events on a thousand read states, evicting all the way.

The world is a dict that stands for the database and an oracle that never evicts. Whatever the
table forgets must have been written, and what it loads again must be what it was.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from readstates.cache import fsck, layout, tablefile
from tests.support.table_builds import BUILDS, IDENTITY, verify
from tests.support.table_oracle import CHANGED, DIRTIED, NO_ROOM, TOO_MANY, Oracle

STATES = 1_000
USERS = 300
CHANNELS = 12
STATES_MAX = 10
EVENTS = {"compiled": 300_000, "plain": 30_000}
NAMES = ["ack"] * 10 + ["mention"] * 5 + ["retract", "pins_ack", "mark_unread", "delete"]


class World:
    """A table, the rows of the database, and what everything should be."""

    def __init__(self, table: Any, seed: int) -> None:
        self.table = table
        self.random = random.Random(seed)
        self.database: dict[int, dict[tuple[int, int], Any]] = {}
        self.truth = Oracle(10**9, STATES_MAX)
        for user_id in range(1, USERS + 1):
            self.truth.insert(user_id, 0, cold=True)
        self.version = 8 << 48
        self.seen: dict[int, int] = {}

    def write_out(self, users: list[int]) -> None:
        for user in users:
            user_id = self.table.user_id(user)
            _, delete_version, rows = self.table.take(user)
            known = self.database.setdefault(user_id, {})
            if delete_version:
                for key in [key for key, row in known.items() if row[8] <= delete_version]:
                    del known[key]
            for deleted, row in rows:
                assert row[:2] not in known or known[row[:2]][8] < row[8]
                known.pop(row[:2], None)
                if not deleted:
                    known[row[:2]] = row
            self.table.written(user, delete_version, rows)

    def room(self, needed: int, keep: int) -> None:
        while not self.table.evict(needed, 64, keep):
            users = self.table.cold_dirty(16) or [self.table.dirty_head()]
            self.write_out([user for user in users if user])

    def resident(self, user_id: int, cold: bool) -> int:
        user: int = self.table.find(user_id)
        if user:
            if not cold:
                self.table.touch(user)
            return user
        rows = list(self.database.get(user_id, {}).values())
        self.room(1 + len(rows), 0)
        self.random.shuffle(rows)
        made: int = self.table.insert(user_id, self.version, cold, rows)
        return made

    def event(self) -> None:
        draw = self.random.random
        self.version += 1
        user_id = 1 + int(USERS * draw() ** 2)
        name = NAMES[int(draw() * len(NAMES))]
        user = self.resident(user_id, cold=name == "mention")
        if draw() < 0.001:
            self.truth.delete_user(user_id, self.version)
            assert self.table.delete_user(user, self.version) & CHANGED
            return
        key = (int(draw() * 2), 1 + int(draw() * CHANNELS / 2))
        message = 1 + int(draw() * 1000)
        args = {
            "ack": (message, int(draw() * 4) - 1, int(draw() * 4) - 1),
            "mark_unread": (message, int(draw() * 3), -1, -1),
            "mention": (message,),
            "retract": (message,),
            "pins_ack": (message,),
            "delete": (),
        }[name]
        fold = getattr(self.table, name)
        code = fold(user, *key, *args, self.version)
        while code == NO_ROOM:
            self.room(1, user)
            code = fold(user, *key, *args, self.version)
        expected = self.truth.fold(user_id, name, key, args, self.version)
        assert code & ~DIRTIED == expected & ~DIRTIED
        self.seen[code] = self.seen.get(code, 0) + 1
        if draw() < 0.01:  # delivered twice
            assert not fold(user, *key, *args, self.version) & CHANGED

    def check_user(self, user_id: int) -> None:
        user = self.resident(user_id, cold=True)
        assert self.table.states(user) == self.truth.users[user_id].states()


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_full_table_forgets_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = BUILDS[name]
    build.open_tables_with(monkeypatch)
    path = tmp_path / "table"
    file = tablefile.open_table(path, IDENTITY, STATES, STATES_MAX)
    world = World(file.table, seed=11)
    events = EVENTS[name]
    for number in range(events):
        world.event()
        if number % (events // 20) == 0:
            verify(file.table)
    table = file.table
    assert table.evictions > events // 10
    assert table.resident_states + table.resident_users > 0.8 * STATES
    assert world.seen[TOO_MANY] > 100
    for user_id in range(1, USERS + 1):
        world.check_user(user_id)
    verify(table)
    file.close(clean=True)
    assert fsck.check(path) == []

    file = tablefile.open_table(path, IDENTITY, STATES, STATES_MAX)
    assert file.warm
    world.table = file.table
    for user_id in range(1, USERS + 1):
        world.check_user(user_id)
    while user := file.table.dirty_head():
        world.write_out([user])
    for user_id, user_rows in world.database.items():
        assert sorted(user_rows.values()) == world.truth.users[user_id].states()
    assert file.table.dirty_states == 0
    file.close(clean=True)


def test_a_read_state_costs_at_most_80_bytes() -> None:
    users, states = 1_000, 8_000
    slots = 1 + users + states
    assert (layout.table_size_bytes(slots) - layout.HEADER_BYTES) / states <= 80
