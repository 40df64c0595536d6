"""A small table with one of everything: clean, dirty, deleted, under way, freed, never used."""

from __future__ import annotations

from types import ModuleType

from table_builds import new_buffer

SLOTS = 24


def sample(build: ModuleType) -> bytearray:
    """Its buffer, saved.

    Slots 1-3 are users; 4 and 5 belong to user slot 1 (5 is deleted), 6 and 8 to 2, 7 to 3; 9 and
    10 are free again, those above were never used.
    """
    buffer = new_buffer(SLOTS)
    table = build.Table(buffer, 8)
    table.now_ms = 1_234_567
    users = [table.insert(user_id, user_id, False) for user_id in (1001, 1002, 1003)]
    table.load(users[0], 0, 21, 500, 400, 3, 1_700_000_000_000, 6, 19_000, 7)
    table.ack(users[0], 1, 22, 501, 5, 19_001, 8)
    table.load(users[1], 0, 21, 1, 0, 0, 0, 0, 0, 9)
    table.mention(users[2], 0, 21, 77, 10)
    table.load(users[1], 0, 22, 1, 0, 0, 0, 0, 0, 11)
    table.take(users[2])
    table.delete(users[0], 1, 22, 12)
    extra = table.insert(1004, 0, True)
    table.load(extra, 0, 1, 1, 1, 1, 1, 1, 1, 1)
    assert table.evict(table.free + 1, 1)
    table.position = 99
    table.close()
    return buffer
