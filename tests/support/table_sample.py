"""A small table with one of everything: clean, dirty, deleted, under way, freed, never used.

Among the read states are one with entries in two extensions, one that only remembers a retraction,
and one that remembers up to where it was deleted; among the users one who is deleted for good.
"""

from __future__ import annotations

from tests.support.table_builds import Build, entries, new_buffer

SLOTS = 36
FOR_GOOD = 1 << 33 | 1


def sample(build: Build) -> bytearray:
    """Its buffer, saved.

    Slots 1, 3, 6, 9 and 17 are users. Of user slot 1 are 2 and 7 (deleted), of 3 are 4 and 5, of 6
    is 8, of 17 is 18, the mark of its final deletion. Of 9 are 10, whose extensions are 12 and 11;
    13, a retraction, with its extension 14; and 15, deleted up to a message, with its extension 16.
    19 and 20 are free again, those above were never used.
    """
    buffer = new_buffer(SLOTS)
    table = build.Table(buffer, 8)
    table.now_ms = 1_234_567
    marks = entries((0, 101, 0), (0, 102, 5), (0, 103, 0), (0, 104, 0), (2, 7, 0))
    rows: list[list[tuple[object, ...]]] = [
        [(0, 21, 500, 600, 1, 1_700_000_000_000, 6, 19_000, 7, b"")],
        [(0, 21, 1, 0, 0, 0, 0, 0, 9, b""), (0, 22, 1, 0, 0, 0, 0, 0, 11, b"")],
        [],
    ]
    users = [table.insert(1001 + n, 1001 + n, False, rows[n]) for n in range(3)]
    table.ack(users[0], 1, 22, 501, 5, 19_001, 8)
    table.mention(users[2], 0, 21, 77, 10)
    table.take(users[2])
    table.delete(users[0], 1, 22, 0, 12)
    users.append(table.insert(1005, 13, False, [(0, 31, 100, 104, 3, 0, 0, 0, 13, marks)]))
    table.mark(users[3], 0, 32, 110, FOR_GOOD, 14)
    table.delete(users[3], 0, 33, 700, 15)
    table.delete_user(table.insert(1006, 15, False), 16, True)
    table.insert(1004, 0, True, [(0, 1, 1, 2, 1, 1, 1, 1, 1, b"")])
    assert table.evict(table.free + 1, 1)
    table.position = 99
    table.close()
    return buffer
