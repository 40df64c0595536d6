"""A full table: very many mixed events on a thousand read states, evicting all the way.

The world is a dict that stands for the database and an oracle that never evicts. Whatever the
table forgets must have been written, and what it loads again must be what it was.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from readstates.cache import fsck, layout, tablefile
from readstates.schemas import wire
from readstates.streams.partition.fold import fold, slots_needed
from readstates.streams.partition.rows import slots_of
from tests.support.table_builds import (
    BUILDS,
    IDENTITY,
    Build,
    everything,
    new_buffer,
    verify,
)
from tests.support.table_oracle import CHANGED, DIRTIED, NO_ROOM, TOO_MANY, Endless, coarse

STATES = 1_000
USERS = 300
CHANNELS = 12
STATES_MAX = 10
EVENTS = {"compiled": 40_000, "plain": 10_000}
LIVES = [
    *((name, EVENTS[name]) for name in sorted(BUILDS)),
    pytest.param(sorted(BUILDS)[0], 100_000, marks=pytest.mark.long),
]
NAMES = [
    *["ack"] * 6, *["mention"] * 12, *["retract_mention"] * 5, "ack_unread", "pins_ack", "set",
    "merge", "merge", "delete", "delete",
]  # fmt: skip
MESSAGES = 150  # that are talked about at one time
EVENTS_PER_MESSAGE = 400


class World:
    """A table, the rows of the database, and what everything should be."""

    def __init__(self, table: Any, seed: int) -> None:
        self.table = table
        self.random = random.Random(seed)
        self.database: dict[int, dict[tuple[int, int], Any]] = {}
        self.truth = Endless(STATES_MAX)
        for user_id in range(1, USERS + 1):
            self.truth.insert(user_id, 0, cold=True)
        self.version = 8 << 48
        self.seen: dict[int, int] = {}
        self.extensions = 0  # the most that one user had

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
        self.room(slots_of(rows), 0)
        self.random.shuffle(rows)
        made: int = self.table.insert(user_id, self.version, cold, rows)
        return made

    def event(self) -> None:
        draw = self.random.random
        self.version += 1
        user_id = 1 + int(USERS * draw() ** 2)
        event = self.any_event()
        if self.truth.users[user_id].final and draw() < 0.2:
            event = {"type": "restore_user"}
        user = self.resident(user_id, cold=event["type"] == "mention")
        decoded = wire.decode_update(orjson.dumps({**event, "user_id": user_id}))
        code = fold(self.table, user, decoded, self.version)
        while code == NO_ROOM:
            self.room(slots_needed(self.table, user, decoded), user)
            code = fold(self.table, user, decoded, self.version)
        expected = self.truth.fold(user_id, event, self.version)
        assert coarse(code) & ~DIRTIED == expected & ~DIRTIED, event
        self.seen[code] = self.seen.get(code, 0) + 1
        self.extensions = max(self.extensions, self.truth.users[user_id].side())
        if draw() < 0.01:  # delivered twice
            assert not fold(self.table, user, decoded, self.version) & CHANGED

    def any_event(self) -> dict[str, Any]:
        draw = self.random.random
        if draw() < 0.001:
            return {"type": "delete_user", "final": draw() < 0.5}
        name = NAMES[int(draw() * len(NAMES))]
        message = 1 + (self.version & 0xFFFFFF) // EVENTS_PER_MESSAGE + int(draw() * MESSAGES)
        event = {
            "read_state_type": int(draw() * 2),
            "channel_id": 1 + int(draw() * CHANNELS / 2),
            "type": name.removesuffix("_unread"),
        }
        if name in ("ack", "ack_unread", "mention", "retract_mention"):
            event["message_id"] = message
        if name in ("ack", "set"):
            event["flags"] = int(draw() * 3)
        match name:
            case "ack_unread":
                event["manual"] = True
                event["mention_count"] = int(draw() * 3)
            case "mention" | "retract_mention" if draw() < 0.3:
                event["edit"] = int(draw() * 3)
            case "pins_ack":
                event["timestamp"] = message
            case "merge":
                event["mention_ids"] = [message, message + 1, message + 2]
            case "delete" if draw() < 0.5:
                event["up_to"] = message
        return event

    def check_user(self, user_id: int) -> None:
        user = self.resident(user_id, cold=True)
        assert self.table.states(user) == self.truth.users[user_id].states()
        assert everything(self.table, user) == self.truth.users[user_id].everything()


@pytest.mark.parametrize(("name", "events"), LIVES)
def test_a_full_table_forgets_nothing(
    name: str, events: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = BUILDS[name]
    build.open_tables_with(monkeypatch)
    monkeypatch.setattr(layout, "SIDE_SHARE", 1 << 20)  # so that users come to their limit
    path = tmp_path / "table"
    file = tablefile.open_table(path, IDENTITY, STATES, STATES_MAX)
    world = World(file.table, seed=11)
    for number in range(events):
        world.event()
        if number % (events // 20) == 0:
            verify(file.table)
    table = file.table
    assert table.evictions > events // 10
    assert table.slots - 1 - table.free > 0.8 * STATES
    assert world.seen[TOO_MANY] > 100
    assert world.extensions == STATES_MAX
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
        rows = [user_rows[key] for key in sorted(user_rows)]
        assert rows == world.truth.users[user_id].everything()
    assert file.table.dirty_states == 0
    file.close(clean=True)


def slots_of_marks(build: Build, mentions: int) -> int:
    """How many slots a read state takes that has so many unread mentions."""
    table = build.Table(new_buffer(100), STATES_MAX * 100)
    user = table.insert(1, 0, False)
    free = table.free
    table.ack(user, 0, 1, 1, -1, -1, 1)
    for message in range(2, 2 + mentions):
        table.mention(user, 0, 1, message, message)
    assert table.totals(user, -1)[2] == mentions
    return int(free - table.free)


# the unread mentions of a read state, and how many bytes it takes with its part of the index
BYTES = {0: 70, 1: 70, 2: 140, 10: 350, 64: 1610}


@pytest.mark.parametrize("mentions", BYTES)
@pytest.mark.parametrize("name", sorted(BUILDS))
def test_what_a_read_state_costs(name: str, mentions: int) -> None:
    """Not counted: the eighth of the slots that `slots_for` adds for users."""
    slots = slots_of_marks(BUILDS[name], mentions)
    many = 1_000_000
    more = layout.table_size_bytes(slots * many) - layout.HEADER_BYTES
    assert round(more / many) == BYTES[mentions]


@pytest.mark.parametrize("mentions", [0, 1])
def test_a_read_state_costs_at_most_80_bytes(mentions: int) -> None:
    """With none or one unread mention, where a user has eight of them."""
    users, states = 1_000, 8_000
    slots = 1 + users + states * slots_of_marks(BUILDS["plain"], mentions)
    assert (layout.table_size_bytes(slots) - layout.HEADER_BYTES) / states <= 80
