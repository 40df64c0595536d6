"""A small table with one of everything: clean, dirty, deleted, under way, freed, never used."""

from __future__ import annotations

from tests.support.table_builds import Build, new_buffer

SLOTS = 24


def sample(build: Build) -> bytearray:
    """Its buffer, saved.

    Slots 1, 3 and 6 are users; 2 and 7 belong to user slot 1 (7 is deleted), 4 and 5 to 3, 8 to 6;
    9 and 10 are free again, those above were never used.
    """
    buffer = new_buffer(SLOTS)
    table = build.Table(buffer, 8)
    table.now_ms = 1_234_567
    rows: list[list[tuple[int, ...]]] = [
        [(0, 21, 500, 400, 3, 1_700_000_000_000, 6, 19_000, 7)],
        [(0, 21, 1, 0, 0, 0, 0, 0, 9), (0, 22, 1, 0, 0, 0, 0, 0, 11)],
        [],
    ]
    users = [table.insert(1001 + n, 1001 + n, False, rows[n]) for n in range(3)]
    table.ack(users[0], 1, 22, 501, 5, 19_001, 8)
    table.mention(users[2], 0, 21, 77, 10)
    table.take(users[2])
    table.delete(users[0], 1, 22, 12)
    table.insert(1004, 0, True, [(0, 1, 1, 1, 1, 1, 1, 1, 1)])
    assert table.evict(table.free + 1, 1)
    table.position = 99
    table.close()
    return buffer
